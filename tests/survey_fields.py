"""Overlapping fields of one sky, each with noise of its own, for tests of batches."""

from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import skycoord_to_pixel

from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.rendering import render_gaussians
from tests.skies import correlated_noise

PIXEL = 2.0
"""Arcsec."""
BEAM = 5.0
"""Pixels, FWHM."""
RMS = 1e-4
"""Jy per beam of the best field."""
CENTRE = (150.0, 30.0)


def field_wcs(ra, dec, size):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [0.5 * (size + 1)] * 2
    wcs.wcs.cdelt = [-PIXEL / 3600, PIXEL / 3600]
    wcs.wcs.radesys = "ICRS"
    return wcs


def sources(extent, number, rng, *, lowest=8.0):
    """Positions within `extent` degrees of the centre, apart from each other, and peaks in Jy."""
    kept = np.zeros((0, 2))
    for new in rng.uniform(-0.5 * extent, 0.5 * extent, (20 * number, 2)):
        if not len(kept) or np.hypot(*(kept - new).T).min() > 5 * BEAM * PIXEL / 3600:
            kept = np.vstack([kept, new])
        if len(kept) == number:
            break
    number = len(kept)
    dec = CENTRE[1] + kept[:, 1]
    ra = CENTRE[0] + kept[:, 0] / np.cos(np.radians(dec))
    peak = RMS * lowest * rng.uniform(0.001, 1.0, number) ** -0.7
    return ra, dec, peak


def write_fields(folder, rows, columns, *, size=128, step=96, a_field=5, seed=1, rms=None):
    """Write rows x columns fields, `step` pixels apart; return their paths and the sources.

    Fields differ in noise, by up to a half, unless `rms` gives it (in units of `RMS`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    step_degrees = step * PIXEL / 3600
    extent = (max(rows, columns) - 1) * step_degrees + size * PIXEL / 3600
    ra, dec, peak = sources(extent, a_field * rows * columns, rng)
    sky = SkyCoord(ra, dec, unit="deg")
    beam = covariance_from_shape(BEAM, BEAM, 0.0)
    paths = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        north = CENTRE[1] + (row - 0.5 * (rows - 1)) * step_degrees
        east = (column - 0.5 * (columns - 1)) * step_degrees / np.cos(np.radians(north))
        wcs = field_wcs(CENTRE[0] + east, north, size)
        x, y = skycoord_to_pixel(sky, wcs, 0)
        near = (abs(x - size / 2) < size) & (abs(y - size / 2) < size)
        shape = np.tile([beam[0, 0], beam[0, 1], beam[1, 1]], (int(near.sum()), 1))
        data = render_gaussians(
            (size, size), np.column_stack([peak[near], x[near], y[near], shape])
        )
        noise = rng.uniform(1.0, 1.5) if rms is None else rms[number]
        data = data + RMS * noise * correlated_noise((size, size), rng, beam)
        header = wcs.to_header()
        header.update(BUNIT="Jy/beam", BMAJ=BEAM * PIXEL / 3600, BMIN=BEAM * PIXEL / 3600, BPA=0.0,
                      RESTFRQ=1.4e9)  # fmt: skip
        path = folder / f"field_{row:02d}_{column:02d}.fits"
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(path, overwrite=True)
        paths.append(path)
    return paths, (ra, dec, peak)
