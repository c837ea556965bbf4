"""A double source on any grid of the sky, seen by any beam, with noise below every clip."""

import numpy as np
import radio_beam
from astropy import units as u

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, sky_positions
from cyclades.stages.core.image import SkyImage

DOUBLE = ((0.0, 0.0, 1.0), (-16.0, 12.0, 3.0), (14.0, -9.0, 2.0), (20.0, -20.0, 1.5))
"""Offsets east and north in arcsec, and flux: bent, and like itself in no other orientation."""


def sky_grid(pixel, rotation=0.0, mirrored=False, size=None, ctype="SIN"):
    """A WCS about (150, 20) deg, its pixels in arcsec, turned by degrees."""
    from astropy.wcs import WCS

    size = size or int(600 / pixel) + 1
    angle = np.radians(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{ctype}", f"DEC--{ctype}"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 20.0], [(size + 1) / 2, (size + 1) / 2]
    wcs.wcs.cd = turn @ np.diag([pixel if mirrored else -pixel, pixel]) / 3600
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs, size


def galaxy(pixel=1.8, beam=5.4, *, parts=DOUBLE, flux=1.0, noise=1e-3, sharp=1e-6, **grid):
    """Render the parts of a source on a grid; the noise is white, and made of few values."""
    wcs, size = sky_grid(pixel, **grid)
    y, x = np.mgrid[:size, :size]
    here = sky_positions(wcs, x.ravel(), y.ravel())
    centre = type(here)(150.0, 20.0, unit="deg", frame="icrs")
    east, north = (one.arcsec.reshape(size, size) for one in centre.spherical_offsets_to(here))
    major, minor = (beam, beam) if np.isscalar(beam) else beam
    data = np.zeros((size, size))
    for e, n, f in parts:
        a, b = major / SIGMA_TO_FWHM, minor / SIGMA_TO_FWHM
        data += f * np.exp(-0.5 * (((north - n) / a) ** 2 + ((east - e) / b) ** 2))
    data = flux * (data + noise * np.random.default_rng(1).normal(size=data.shape))
    psf = PointSpread.from_beam(radio_beam.Beam(major * u.arcsec, minor * u.arcsec, 0 * u.deg), wcs)
    return SkyImage(data.astype(np.float32), u.Jy / u.beam, wcs, psf, name="galaxy")


def middle(image):
    """Pixel of the source's centre."""
    x, y = image.wcs.wcs_world2pix([[150.0, 20.0]], 0)[0]
    return float(x), float(y)
