"""Intervals: of shares (Wilson), and of any statistic (bootstrap)."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.comparison.tables import Floats

LEVEL = 0.6827
"""Coverage of every interval: that of one Gaussian sigma."""
RESAMPLES = 400
MAD_TO_SIGMA = 1.4826


def wilson(hits: ArrayLike, trials: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the Wilson score interval of a binomial share (Wilson 1927, JASA 22, 209).

    Parameters
    ----------
    hits, trials : array_like
        Trials of zero give NaN.
    level : float
        Coverage.

    Returns
    -------
    low, high : ndarray
        Always within 0 and 1 and around the share itself; close to the wanted coverage also for
        few trials and shares near one (Brown, Cai & DasGupta 2001, Statist. Sci. 16, 101).
    """
    k, n = np.asarray(hits, float), np.asarray(trials, float)
    z = NormalDist().inv_cdf(0.5 + 0.5 * level)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = k / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low = np.where(k == 0, np.where(n > 0, 0.0, np.nan), centre - half)
    high = np.where(k == n, np.where(n > 0, 1.0, np.nan), centre + half)
    return low, high


def robust_sigma(values: ArrayLike, axis: int = -1) -> Floats:
    """Scatter that outliers do not change: 1.4826 times the median absolute deviation."""
    v = np.asarray(values, float)
    if not v.shape[axis]:
        return np.full(np.delete(v.shape, axis), np.nan)
    centre = np.median(v, axis=axis, keepdims=True)
    return np.asarray(MAD_TO_SIGMA * np.median(np.abs(v - centre), axis=axis))


def median(values: ArrayLike, axis: int = -1) -> Floats:
    """Median, NaN of nothing."""
    v = np.asarray(values, float)
    if not v.shape[axis]:
        return np.full(np.delete(v.shape, axis), np.nan)
    return np.asarray(np.median(v, axis=axis))


def bootstrap(
    values: NDArray[np.floating],
    statistic: Callable[[Floats], Floats],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron 1979, Ann. Statist. 7, 1).

    Parameters
    ----------
    values : ndarray, shape (n,) or (n, k)
        Independent draws: sources, or one row of numbers a field to resample whole fields.
    statistic : callable
        Takes resampled values of shape (resamples, n) or (resamples, n, k) and reduces them to
        ``resamples`` numbers.
    level : float
        Coverage.
    resamples : int
    seed : int

    Returns
    -------
    low, high : float
        NaN for fewer than two draws.
    """
    v = np.asarray(values, float)
    n = len(v)
    if n < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    drawn = statistic(v[rng.integers(0, n, (resamples, n))])
    half = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(drawn, [half, 100.0 - half])
    return float(low), float(high)


def count_bootstrap(
    counts: ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    level: float = LEVEL,
    resamples: int = 10 * RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of a statistic of counts of independent outcomes.

    Resampling outcomes (hit, missed, false, ...) with replacement is a multinomial draw of their
    counts.

    Parameters
    ----------
    counts : array_like of int, shape (k,)
    statistic : callable
        Takes counts of shape (resamples, k).

    Returns
    -------
    low, high : float
        NaN where there is nothing to count.
    """
    c = np.asarray(counts, np.int64)
    total = int(c.sum())
    if not total:
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).multinomial(total, c / total, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(drawn.astype(float)))
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    half = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [half, 100.0 - half])
    return float(low), float(high)
