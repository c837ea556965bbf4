"""Spectral indices from forced fluxes at several frequencies."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.errors import InputError

Floats = NDArray[np.float64]
ITERATIONS = 60
LARGEST_STEP = 1.0
SETTLED = 1e-8


def spectral_index(
    flux: ArrayLike, error: ArrayLike, frequency: ArrayLike, *, significance: float = 3.0
) -> dict[str, NDArray[Any]]:
    """Power laws ``S = S0 (nu / nu0)^alpha`` through forced fluxes.

    The start is the weighted least-squares line of log flux against log frequency through the
    detections. From there the weighted least squares of the fluxes themselves are minimised: the
    errors of forced fluxes are Gaussian at any flux, those of their logarithms are not, and a
    negative flux has none. So every image counts with its flux, below the limit of detection and
    below zero too; where all are significant both fits are the same.

    An index needs two detections. With one, the limits of the other images bound it: an image at
    a higher frequency from above, one at a lower frequency from below.

    Parameters
    ----------
    flux, error : array_like, shape (n, images)
        Fluxes in one unit and their errors; NaN where not measured.
    frequency : array_like, shape (images,)
        In Hz.
    significance : float
        Sigmas of a detection and of an upper limit (positive part of the flux plus this many
        errors).

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``spectral_index`` and ``spectral_index_err``, ``spectral_index_min`` and
        ``spectral_index_max`` (NaN where there is no such limit), ``spectral_chi2`` (with
        ``spectral_planes - 2`` degrees of freedom) and ``spectral_planes``.

    Raises
    ------
    InputError
        For fewer than two different frequencies, or one that is unknown.
    """
    f, e = np.asarray(flux, float), np.asarray(error, float)
    nu = np.asarray(frequency, float)
    if not (np.isfinite(nu) & (nu > 0.0)).all():
        raise InputError(
            "the frequency of an image is unknown; a spectral index needs those of all "
            "(in the header, or read_image(path, frequency='1.4GHz'))."
        )
    if len(np.unique(nu)) < 2:
        raise InputError(
            f"all images have the frequency {nu[0]:.6g} Hz; a spectral index needs two."
        )
    used = np.isfinite(f) & np.isfinite(e) & (e > 0.0)
    with np.errstate(invalid="ignore"):
        detected = used & (f >= significance * e)
    log_nu = np.log(nu / np.exp(np.log(nu).mean()))
    enough = _two_frequencies(detected, nu)
    n = len(f)
    result: dict[str, NDArray[Any]] = {
        name: np.full(n, np.nan)
        for name in ("spectral_index", "spectral_index_err", "spectral_chi2")
    }
    rows = np.flatnonzero(enough)
    if rows.size:
        weight = np.where(used[rows], 1.0 / np.where(used, e, 1.0)[rows], 0.0)
        value = np.where(used[rows], f[rows], 0.0)
        start = _log_line(value, weight * detected[rows], log_nu)
        index, index_err, chi2 = _power_law(value, weight, log_nu, start)
        result["spectral_index"][rows], result["spectral_index_err"][rows] = index, index_err
        result["spectral_chi2"][rows] = chi2
    low, high = _bounds(f, e, used, detected, nu, significance)
    result["spectral_index_min"] = np.where(enough, np.nan, low)
    result["spectral_index_max"] = np.where(enough, np.nan, high)
    result["spectral_planes"] = np.where(enough, used.sum(axis=1), 0)
    return result


def _two_frequencies(detected: NDArray[np.bool_], nu: Floats) -> NDArray[np.bool_]:
    """Rows that are detected at two different frequencies."""
    lowest = np.where(detected, nu, np.inf).min(axis=1)
    highest = np.where(detected, nu, -np.inf).max(axis=1)
    return np.asarray(highest > lowest)


def _log_line(value: Floats, weight: Floats, log_nu: Floats) -> Floats:
    """Weighted line of ln flux against ln frequency through the rows' detections; (n, 2)."""
    # the error of ln f is e / f
    w = (weight * value) ** 2
    y = np.log(np.where(w > 0.0, value, 1.0))
    total = w.sum(axis=1)
    mean_x, mean_y = (w * log_nu).sum(axis=1) / total, (w * y).sum(axis=1) / total
    dx = log_nu - mean_x[:, None]
    slope = (w * dx * y).sum(axis=1) / (w * dx**2).sum(axis=1)
    return np.stack([mean_y - slope * mean_x, slope], -1)


def _power_law(
    value: Floats, weight: Floats, log_nu: Floats, start: Floats
) -> tuple[Floats, Floats, Floats]:
    """Gauss-Newton steps in (ln S0, alpha), damped where chi-squared does not fall."""
    p = start.copy()
    damping = np.full(len(p), 1e-4)

    def model(p: Floats) -> tuple[Floats, Floats]:
        m = np.exp(p[:, :1] + p[:, 1:] * log_nu)
        return m, (weight**2 * (value - m) ** 2).sum(axis=1)

    def normal(m: Floats) -> tuple[Floats, Floats, Floats]:
        w = (weight * m) ** 2
        return w.sum(axis=1), (w * log_nu).sum(axis=1), (w * log_nu**2).sum(axis=1)

    m, chi2 = model(p)
    for _ in range(ITERATIONS):
        a, b, c = normal(m)
        pull = weight**2 * m * (value - m)
        g, h = pull.sum(axis=1), (pull * log_nu).sum(axis=1)
        a, c = a * (1.0 + damping), c * (1.0 + damping)
        determinant = a * c - b**2
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.stack([c * g - b * h, a * h - b * g], -1) / determinant[:, None]
        step = np.clip(np.nan_to_num(step), -LARGEST_STEP, LARGEST_STEP)
        trial = p + step
        trial_m, trial_chi2 = model(trial)
        better = trial_chi2 <= chi2
        p[better], m[better], chi2[better] = trial[better], trial_m[better], trial_chi2[better]
        damping = np.where(better, damping * 0.2, damping * 10.0)
        if np.all(np.abs(step).max(axis=1) < SETTLED):
            break
    a, b, c = normal(m)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(a / (a * c - b**2))
    return p[:, 1], error, chi2


def _bounds(
    f: Floats,
    e: Floats,
    used: NDArray[np.bool_],
    detected: NDArray[np.bool_],
    nu: Floats,
    significance: float,
) -> tuple[Floats, Floats]:
    """Tightest lower and upper limit of the index from a detection and the limits around it."""
    low, high = np.full(len(f), -np.inf), np.full(len(f), np.inf)
    limit = np.maximum(np.nan_to_num(f), 0.0) + significance * e
    for i in range(len(nu)):
        for j in range(len(nu)):
            rows = detected[:, i] & used[:, j] & ~detected[:, j]
            if nu[i] == nu[j] or not rows.any():
                continue
            index = np.log(limit[rows, j] / f[rows, i]) / np.log(nu[j] / nu[i])
            if nu[j] > nu[i]:
                high[rows] = np.minimum(high[rows], index)
            else:
                low[rows] = np.maximum(low[rows], index)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)
