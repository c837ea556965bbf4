"""A sky whose islands lie over the seams of windows, and what makes two catalogues the same."""

from functools import cache

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.rendering import render_gaussians
from tests.skies import BEAM, correlated_noise, source_rows

SHAPE = (400, 368)


@cache
def seamed_sky():
    """Noise, sources of all sizes over the seams of windows of 128 and 192 pixels, and blanks.

    One island is larger than a window of 128 pixels; blank columns lie along a seam.
    """
    rng = np.random.default_rng(41)
    n = 60
    rows = source_rows(
        5.0 + rng.exponential(20.0, n), rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    )
    wide = np.array(
        [
            [9.0, 200.0, 190.0, 24.0**2, 0.0, 15.0**2],
            [6.0, 128.0, 128.0, 8.0**2, 20.0, 10.0**2],
            [900.0, 256.0, 330.0, 5.0, 0.0, 5.0],
            [30.0, 300.0, 256.0, 14.0**2, 0.0, 6.0**2],
        ]
    )
    data = correlated_noise(SHAPE, rng) + render_gaussians(SHAPE, np.concatenate([rows, wide]))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    # An edge towards which the noise rises, and a strip along a seam.
    data[(y - 200) ** 2 + (x - 184) ** 2 > 198**2] = np.nan
    data[:150, 191:193] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [190.0, 200.0]
    wcs.wcs.cdelt, wcs.wcs.radesys = [-2 / 3600, 2 / 3600], "ICRS"
    wcs.wcs.set()
    return SkyImage(
        data.astype(np.float32),
        unit=u.Unit("Jy/beam"),
        wcs=wcs,
        psf=PointSpread(BEAM, wcs),
        name="seams",
    )


def differences(one, other, relative=1e-5):
    """Columns of two catalogues that are not the same, with what differs."""
    found = {}
    for name, table in one.tables.items():
        against = other.tables[name]
        if len(table) != len(against):
            found[name] = f"{len(table)} rows, not {len(against)}"
            continue
        for column in table.colnames:
            a, b = (np.asarray(getattr(t[column], "value", t[column])) for t in (table, against))
            if a.dtype.kind == "f":
                same = np.isclose(a, b, rtol=relative, atol=0.0, equal_nan=True)
            else:
                same = a == b
            if not same.all():
                found[f"{name}.{column}"] = (a[~same][:3].tolist(), b[~same][:3].tolist())
    return found
