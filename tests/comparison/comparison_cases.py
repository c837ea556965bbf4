"""Tables made by hand and at random, for tests of comparisons."""

import numpy as np

from cyclades.pipeline.comparison.tables import ComparisonTable

BEAM = 10.0
RMS = 1e-4


def rows(ra, dec, peak=1e-3, name="t", beam=BEAM, **columns):
    """Point sources at offsets (arcsec) east and north of (180, -30)."""
    ra, dec = np.broadcast_arrays(np.atleast_1d(np.asarray(ra, float)), np.asarray(dec, float))
    n = len(ra)
    peak = np.broadcast_to(peak, n)
    made = {
        "ra": 180.0 + ra / 3600.0 / np.cos(np.radians(-30.0)),
        "dec": -30.0 + dec / 3600.0,
        "peak_flux": peak,
        "total_flux": peak,
        "major": np.full(n, BEAM),
        "minor": np.full(n, BEAM),
        "position_angle": np.zeros(n),
        "local_rms": np.full(n, RMS),
    }
    for key, value in columns.items():
        made[key] = np.broadcast_to(value, n)
    return ComparisonTable.from_columns(made, {"name": name, "beam": (beam, beam)})


def random_truth(n, rng, side=3000.0, **columns):
    """Points of S/N 3 to 300 over a square of `side` arcsec."""
    snr = 3.0 * rng.random(n) ** -0.8
    return rows(*(side * rng.random((2, n))), peak=RMS * snr, name="truth", **columns)


def observed(truth, rng, *, errors=1.0, keep=None, false=0, side=3000.0, name="found"):
    """The truth with Gaussian errors, `errors` times what the columns say, and false rows."""
    pick = np.arange(len(truth)) if keep is None else np.flatnonzero(keep)
    some = truth.take(pick)
    n = len(pick)
    position = 0.6 * BEAM / some["snr"]
    flux = np.full(n, RMS)
    noise = rng.standard_normal((4, n)) * errors
    peak = some["peak_flux"] + noise[0] * flux
    seen = some.replace(
        meta={"name": name},
        ra=some["ra"] + noise[1] * position / 3600.0 / np.cos(np.radians(some["dec"])),
        dec=some["dec"] + noise[2] * position / 3600.0,
        ra_err=position,
        dec_err=position,
        peak_flux=peak,
        peak_flux_err=flux,
        total_flux=peak,
        total_flux_err=flux,
        snr=peak / RMS,
    )
    if not false:
        return seen
    stray = rows(*(side * rng.random((2, false))), peak=5.0 * RMS, name=name)
    return ComparisonTable.concatenate([seen, stray])
