"""A field with its truth and two catalogues with planted mistakes, for tests of the report."""

import astropy.units as u
import numpy as np
import radio_beam
from astropy.wcs import WCS
from skies import correlated_noise

from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.rendering import render_gaussians

PIXEL, BEAM, RMS = 2.0, 10.0, 1e-4
NASTY = 'beta<img src=x onerror="window.broken=1">&amp;'
NASTY_CLASS = "</script><script>window.broken=1</script>@data@"
RATIO = 1.8


def make_wcs(shape):
    """SIN projection about (180, -30)."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [180.0, -30.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-PIXEL / 3600, PIXEL / 3600]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def make_field(n=40, size=320, seed=3):
    """Image of points of S/N 8 and more on a lattice, and its truth, brightest first."""
    rng = np.random.default_rng(seed)
    wcs = make_wcs((size, size))
    beam = radio_beam.Beam(BEAM * u.arcsec, 0.8 * BEAM * u.arcsec, 30 * u.deg)
    psf = PointSpread.from_beam(beam, wcs)
    side = int(np.ceil(np.sqrt(n)))
    step = (size - 40) / side
    cells = rng.permutation(side * side)[:n]
    x, y = 20 + step * (cells % side + 0.5), 20 + step * (cells // side + 0.5)
    x, y = (v + rng.uniform(-0.2, 0.2, n) * step for v in (x, y))
    snr = np.sort(8.0 * rng.random(n) ** -0.9)[::-1]
    shape = [psf.covariance[0, 0], psf.covariance[0, 1], psf.covariance[1, 1]]
    data = render_gaussians((size, size), np.column_stack([snr, x, y, np.tile(shape, (n, 1))]))
    data = RMS * (data + correlated_noise((size, size), rng, psf.covariance))
    image = SkyImage(data.astype(np.float32), u.Jy / u.beam, wcs, psf, name="made field")
    ra, dec = wcs.all_pix2world(x, y, 0)
    columns = {
        "ra": ra, "dec": dec, "x": x, "y": y, "peak_flux": RMS * snr, "total_flux": RMS * snr,
        "major": np.full(n, BEAM), "minor": np.full(n, 0.8 * BEAM),
        "position_angle": np.full(n, 30.0), "local_rms": np.full(n, RMS),
        "morphology": np.full(n, NASTY_CLASS),
    }  # fmt: skip
    return image, ComparisonTable.from_columns(columns, {"name": "truth"})


def make_catalogues(truth, seed=5):
    """Two catalogues of a truth.

    ``alpha`` misses row 3, has a false row of S/N 30 at pixel (6, 6) and one without a position,
    and the flux of truth row 10 is wrong. The other finds all.
    """
    rng = np.random.default_rng(seed)
    n = len(truth)

    def seen(name, keep):
        some = truth.take(keep)
        flux = some["peak_flux"] + RMS * rng.standard_normal(len(some))
        error = 0.5 * BEAM / some["snr"]
        east, north = error * rng.standard_normal((2, len(some))) / 3600
        return some.replace(
            meta={"name": name},
            ra=some["ra"] + east / np.cos(np.radians(some["dec"])), dec=some["dec"] + north,
            ra_err=error, dec_err=error, peak_flux=flux, total_flux=flux, snr=flux / RMS,
            peak_flux_err=np.full(len(some), RMS), total_flux_err=np.full(len(some), RMS),
            morphology=np.full(len(some), ""),
        )  # fmt: skip

    alpha = seen("alpha", np.flatnonzero(np.arange(n) != 3))
    total = alpha["total_flux"].copy()
    total[9] = RATIO * truth["total_flux"][10]
    alpha = alpha.replace(total_flux=total)
    ra, dec = make_wcs((320, 320)).all_pix2world([6.0], [6.0], 0)
    stray = alpha.take(np.array([0, 0])).replace(
        ra=np.array([ra[0], np.nan]), dec=np.array([dec[0], np.nan]),
        peak_flux=np.full(2, 30 * RMS), total_flux=np.full(2, 30 * RMS), snr=np.full(2, 30.0),
    )  # fmt: skip
    return {"alpha": ComparisonTable.concatenate([stray, alpha]), NASTY: seen(NASTY, np.arange(n))}


def make_comparison(*, with_truth=True, with_image=True, **field):
    """Compare them."""
    image, truth = make_field(**field)
    return compare(
        make_catalogues(truth), truth if with_truth else None, image if with_image else None
    )
