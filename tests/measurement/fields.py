"""Images of one sky with different pixels and beams, for tests of forced measurement."""

import astropy.units as u
import numpy as np
import radio_beam
from astropy.table import QTable
from astropy.wcs import WCS
from skies import correlated_noise

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    inverse,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.rendering import render_gaussians

UNIT = u.Jy / u.beam
RMS = 1e-3


def sky_wcs(shape, pixel=2.0, angle=0.0, *, centre=(150.0, -30.0), kind=("RA---SIN", "DEC--SIN")):
    """Celestial WCS with square pixels of `pixel` arcsec, turned by `angle` degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = list(kind)
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    s, c = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * pixel / 3600
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def positions(shape, spacing, rng, wcs):
    """Sky positions (ra, dec) of a jittered lattice."""
    y, x = np.mgrid[spacing : shape[0] - spacing : spacing, spacing : shape[1] - spacing : spacing]
    x = x.ravel() + rng.uniform(-0.5, 0.5, x.size)
    y = y.ravel() + rng.uniform(-0.5, 0.5, y.size)
    sky = sky_positions(wcs, x, y)
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def make_prior(ra, dec, *, shape=None, beam=(10.0, 8.0, 30.0), **columns):
    """A table of components as a catalogue of an image with a beam (arcsec, deg) gives them.

    `shape` is (major, minor, position angle) without the beam, one row a component.
    """
    n = len(ra)
    intrinsic = (
        np.zeros((n, 2, 2)) if shape is None else covariance_from_shape(*np.transpose(shape))
    )
    from cyclades.stages.core.geometry import shape_from_covariance

    fitted = shape_from_covariance(intrinsic + covariance_from_shape(*beam))
    table = QTable({"ra": ra * u.deg, "dec": dec * u.deg})
    units = (u.arcsec, u.arcsec, u.deg)
    for name, values, unit in zip(("major", "minor", "position_angle"), fitted, units, strict=True):
        table[name] = values * unit
    for name, value, unit in zip(("psf_major", "psf_minor", "psf_pa"), beam, units, strict=True):
        table[name] = np.full(n, value) * unit
    for name, values in columns.items():
        table[name] = values
    return table


def observe(
    ra, dec, total, rng, *, intrinsic=None, beam=(10.0, 8.0, 30.0), shape=(600, 600), wcs=None,
    rms=RMS, **attributes,
):  # fmt: skip
    """An image of sources of given total flux (Jy), and its exact background.

    `intrinsic` holds (major, minor, position angle) without the beam; points where left out.
    """
    wcs = sky_wcs(shape) if wcs is None else wcs
    psf = PointSpread.from_beam(radio_beam.Beam(*(q * w for q, w in zip(
        beam, (u.arcsec, u.arcsec, u.deg), strict=True))), wcs)  # fmt: skip
    x, y = wcs.all_world2pix(ra, dec, 0)
    local = psf.covariances(x, y)
    profile = local.copy()
    if intrinsic is not None:
        jacobian = sky_jacobian(wcs, x, y) * 3600
        sky = covariance_from_shape(*np.transpose(intrinsic))
        profile += transform_covariance(sky, inverse(jacobian))
    ratio = np.sqrt(np.linalg.det(local) / np.linalg.det(profile))
    rows = np.column_stack(
        [total * ratio, x, y, profile[:, 0, 0], profile[:, 0, 1], profile[:, 1, 1]]
    )
    noise = rms * correlated_noise(shape, rng, psf.covariance)
    data = (render_gaussians(shape, rows) + noise).astype(np.float32)
    image = SkyImage(data, UNIT, wcs, psf, **attributes)
    flat = Background(np.zeros(shape, np.float32), np.full(shape, rms, np.float32))
    return image, flat
