"""The seed threshold that keeps a wanted share of noise peaks among the detected sources."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.noise import NoiseAutocorrelation

SEARCH_RANGE = (3.0, 8.0)
TRUSTED = 5.0
"""Threshold in units of the rms that an image's own artefacts do not raise further: they lie
around few bright sources, and a higher threshold everywhere would lose more than it cleans."""
CONFIDENCE = 0.95


def threshold_for_rate(
    peaks: NDArray[np.floating],
    noise: NoiseAutocorrelation,
    area: float,
    rate: float,
    negative_peaks: NDArray[np.floating] | None = None,
) -> float:
    """Lowest threshold at which the expected share of false peaks stays within a wanted rate.

    The expected maxima of the noise field give the false peaks of clean noise. The inverted image
    tells whether the image is that clean: where it holds significantly more peaks than allowed
    (sidelobes, stripes, an rms that is too low), the threshold rises with them, up to 5.

    Parameters
    ----------
    peaks : ndarray
        Significances of the candidate sources, down to the lowest threshold of interest.
    noise : NoiseAutocorrelation
        Gives the expected number of noise maxima above a threshold.
    area : float
        Pixels searched.
    rate : float
        Wanted ratio of false peaks to detected sources (a source, not a pixel).
    negative_peaks : ndarray, optional
        Significances of the candidates of the inverted image; without them noise alone counts.

    Returns
    -------
    float
        Threshold in units of the rms, between 3 and 8.
    """
    thresholds = np.arange(SEARCH_RANGE[0], SEARCH_RANGE[1], 0.01)
    found = number_above(peaks, thresholds)
    threshold = _lowest(thresholds, found, noise.expected_maxima(thresholds, area), rate)
    if negative_peaks is None or threshold >= TRUSTED:
        return threshold
    least = poisson_lower_limit(number_above(negative_peaks, thresholds), CONFIDENCE)
    return min(TRUSTED, max(threshold, _lowest(thresholds, found, least, rate)))


def number_above(peaks: NDArray[np.floating], thresholds: Floats) -> NDArray[np.int64]:
    """Peaks at or above each threshold."""
    return np.asarray(np.searchsorted(np.sort(-peaks), -thresholds, side="right"), np.int64)


def poisson_lower_limit(counts: ArrayLike, confidence: float) -> Floats:
    """Least mean of a Poisson variable that a count allows (Gehrels 1986, ApJ 303, 336)."""
    from scipy.special import gammaincinv

    counts = np.asarray(counts, float)
    return np.where(counts > 0, gammaincinv(np.maximum(counts, 1.0), 1.0 - confidence), 0.0)


def _lowest(thresholds: Floats, found: NDArray[np.int64], false: Floats, rate: float) -> float:
    """Threshold above which the false peaks stay within the rate, counting from the top."""
    failing = np.flatnonzero((false > rate * found) & (found > 0))
    if failing.size == 0:
        return float(thresholds[0])
    return float(thresholds[min(failing[-1] + 1, thresholds.size - 1)])
