"""Moments of segments above an isophote, what the isophote leaves out, and their noise."""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.products import Floats, Integers, Segments

Map = NDArray[np.float32]
MAXIMUM_ISOPHOTE = 0.8
"""Share of the peak above which an isophote says nothing about the profile below it."""
LOGARITHM_FROM = 0.25
"""Share of the peak down to which the logarithms of its neighbours are taken."""


def brightest_pixels(values: Floats, segments: Segments) -> Integers:
    """Flat index of the pixel with the largest of `values` (one an index) of each segment.

    -1 for an empty segment.
    """
    found = segments.brightest(values)
    known = found >= 0
    found[known] = segments.indices[found[known]]
    return found


def interpolated_peaks(excess: Map, pixels: Integers) -> Floats:
    """Height of the curves along x and y through the peak pixels and their neighbours.

    Gaussians (parabolas of the logarithm) where both neighbours are well above zero, parabolas
    elsewhere. An axis along which a neighbour is blank (NaN), outside, or higher adds nothing.
    """
    ny, nx = excess.shape
    y, x = np.divmod(pixels, nx)
    here = excess[y, x].astype(float)
    height = here.copy()
    for dy, dx, position, length in ((0, 1, x, nx), (1, 0, y, ny)):
        inside = (position > 0) & (position < length - 1)
        before = excess[np.maximum(y - dy, 0), np.maximum(x - dx, 0)].astype(float)
        after = excess[np.minimum(y + dy, ny - 1), np.minimum(x + dx, nx - 1)].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside &= (here >= before) & (here >= after)
            parabola = (after - before) ** 2 / (8.0 * (2.0 * here - before - after))
            slope, bend = np.log(after / before), np.log(here**2 / (before * after))
            gaussian = here * np.expm1(slope**2 / (8.0 * bend))
            steep = np.minimum(before, after) < LOGARITHM_FROM * here
        rise = np.where(steep, parabola, gaussian)
        height *= 1.0 + np.where(inside & np.isfinite(rise), rise / here, 0.0)
    return height


def isophotal_moments(values: Floats, segments: Segments, nx: int) -> tuple[Floats, Floats]:
    """Sum and first and second moments of values over segments.

    Returns
    -------
    total : ndarray, shape (n,)
        Sums.
    moments : ndarray, shape (n, 5)
        x, y, sxx, sxy, syy; NaN where the sum is not positive.
    """
    y, x = np.divmod(segments.indices, nx)
    owner, n = segments.owner(), len(segments)

    def add(weights: Floats) -> Floats:
        return np.asarray(np.bincount(owner, weights, minlength=n), float)

    total = add(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.where(total > 0, total, np.nan)
        mean_x, mean_y = add(values * x) / norm, add(values * y) / norm
        dx, dy = x - mean_x[owner], y - mean_y[owner]
        second = [add(values * product) / norm for product in (dx * dx, dx * dy, dy * dy)]
    return total, np.column_stack([mean_x, mean_y, *second])


def truncation(threshold: Floats, peak: Floats, rms: Floats) -> tuple[Floats, Floats]:
    """Factors that restore what an isophote leaves out of a Gaussian profile.

    Above the fraction t of its peak a Gaussian holds the share ``1 - t`` of its flux, with second
    moments about its centre smaller by ``1 - t ln(1/t) / (1 - t)``. Noise of variance e (in
    peaks squared) moves pixels across the isophote; those that come in are bright, which adds
    ``e / t`` to the flux and ``e (1 + 2 ln(1/t)) / (2 t)`` to the moment, to second order.

    Parameters
    ----------
    threshold, peak, rms : ndarray, shape (n,)
        Isophote, peak and noise, in one unit. An isophote at or below zero leaves nothing out.

    Returns
    -------
    flux, size : ndarray, shape (n,)
        Factors for the flux and for the second moments.
    """
    t = np.clip(threshold / peak, 1e-9, MAXIMUM_ISOPHOTE)
    log = -np.log(t)
    e = np.where(threshold > 0, np.minimum((rms / peak) ** 2 / t, t), 0.0)
    flux = 1.0 - t + e
    size = (1.0 - (1.0 + log) * t + 0.5 * e * (1.0 + 2.0 * log)) / flux
    return 1.0 / flux, 1.0 / size


def boundary_weights(
    values: Floats, owner: Integers, threshold: Floats, peak: Floats, rms: Floats
) -> Floats:
    """How much the noise of each pixel counts in the sums over a segment above a threshold.

    A pixel inside counts once. One at the isophote decides besides whether it is inside: the
    noise n moves the isophote by n over the gradient, which adds the threshold times the area
    gained. The delta function of that is spread over the pixels within one rms of the threshold.
    """
    layer = np.minimum(rms, 0.5 * (peak - threshold))[owner]
    at_edge = (threshold[owner] > 0) & (values < threshold[owner] + layer)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(at_edge & (layer > 0), 1.0 + values / layer, 1.0)


def measured_covariance(
    noise: Floats, flux: Floats, threshold: Floats, peak: Floats, rms: Floats, moments: Floats
) -> Floats:
    """Covariance of (peak, x, y, sxx, sxy, syy, flux), the last four corrected by `truncation`.

    Parameters
    ----------
    noise : ndarray, shape (n, 7, 7)
        Of the sums, from `noise_of_moments`.
    flux : ndarray, shape (n,)
        Isophotal sums.
    threshold, peak, rms : ndarray, shape (n,)
        As for `truncation`, through which the peak's noise enters flux and shape.
    moments : ndarray, shape (n, 5)
        Isophotal x, y, sxx, sxy, syy, without correction.
    """
    flux_factor, size_factor = truncation(threshold, peak, rms)
    step = 1e-4 * peak
    flux_more, size_more = truncation(threshold, peak + step, rms)
    flux_slope, size_slope = (flux_more - flux_factor) / step, (size_more - size_factor) / step
    jacobian = np.zeros((len(flux), 7, 7))
    jacobian[:, 0, 6] = 1.0
    jacobian[:, 1, 1] = jacobian[:, 2, 2] = 1.0 / flux
    for row, column in ((3, 2), (4, 3), (5, 4)):
        jacobian[:, row, row] = size_factor / flux
        jacobian[:, row, 6] = size_slope * moments[:, column]
    jacobian[:, 6, 0] = flux_factor
    jacobian[:, 6, 6] = flux_slope * flux
    return np.asarray(jacobian @ noise @ np.swapaxes(jacobian, 1, 2))


def residuals(excess: Floats, segments: Segments, nx: int, values: Floats) -> tuple[Floats, Floats]:
    """Mean and rms over each segment of its pixels minus a Gaussian.

    Parameters
    ----------
    excess : ndarray
        Values at `segments.indices`.
    values : ndarray, shape (n, 6)
        peak, x, y, sxx, sxy, syy.
    """
    y, x = np.divmod(segments.indices, nx)
    owner, n = segments.owner(), len(segments)
    peak, x0, y0, sxx, sxy, syy = values[owner].T
    dx, dy, det = x - x0, y - y0, sxx * syy - sxy**2
    model = peak * np.exp(-0.5 * (syy * dx**2 - 2.0 * sxy * dx * dy + sxx * dy**2) / det)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(owner, excess - model, minlength=n) / segments.lengths
        square = np.bincount(owner, (excess - model) ** 2, minlength=n) / segments.lengths
    return mean, np.sqrt(square)
