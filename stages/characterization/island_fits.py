"""Fits of whole islands, compiled: components together, then each with the beam's own shape."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.fit_bias import (
    correct_shape,
    median_flux_bias,
    region_bias,
    region_boundary,
)
from cyclades.stages.characterization.fit_errors import sandwich, second_order_bias
from cyclades.stages.characterization.least_squares import (
    AT_LIMIT,
    CONVERGED,
    FAILED,
    SMALLEST_AXIS,
    Floats,
    Integers,
    at_least_beam,
    fill_jacobian,
    gaussian,
    levenberg_marquardt,
    limit_shape,
    select_pixels,
)

LEAST_COVERAGE = 0.6
EDGE_WANDER = 0.5
NEGLIGIBLE = 6.0
"""Sigmas beyond which a component is not subtracted from its neighbours."""
CORE_RADIUS = 0.45
"""Radius in FWHM of the ellipse in which the position of a single component is fitted."""
ROUNDS = 3
SHAPE_CHANGE = 0.02


@nb.njit(cache=True, nogil=True)
def fit_group(
    params: Floats,
    first: int,
    last: int,
    everyone: tuple[int, int],
    free: int,
    radius: float,
    factor: Floats,
    origin: Floats,
    sign: int,
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    label: int,
    bounds: Floats,
    correlation: Floats,
    want_errors: bool,
    total: Floats,
) -> tuple[Integers, Floats, float, float, int]:
    """Fit some components of an island with its other ones held at their values.

    With errors, what is fitted is corrected for its bias, and a free shape's flux goes to `total`.

    Returns
    -------
    states : ndarray of int64, shape (last - first,)
        `CONVERGED`, `AT_LIMIT` or `FAILED`; one fails with all.
    covariance : ndarray, shape (p, p)
        NaN where not wanted or singular.
    chi2, freedom : float
    n_pixels : int
    """
    nx = data.shape[1]
    pixels, coverage = select_pixels(
        params, first, last, radius, factor, origin, data, labels, label
    )
    n = pixels.size
    count = free * (last - first)
    states = np.full(last - first, FAILED)
    unknown = np.full((count, count), np.nan)
    if n <= count or (free == 6 and coverage < LEAST_COVERAGE):
        return states, unknown, np.nan, np.nan, n
    if coverage < LEAST_COVERAGE:
        # Half a source pulls the centre off the image: it stays closer to the summit.
        bounds = bounds[:last].copy()
        bounds[first:last, 3] *= EDGE_WANDER
    u, v, value, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    det = factor[0, 0] * factor[1, 1] - factor[0, 1] * factor[1, 0]
    for i in range(n):
        yy, xx = pixels[i] // nx, pixels[i] % nx
        dx, dy = xx - origin[0], yy - origin[1]
        u[i] = (factor[1, 1] * dx - factor[0, 1] * dy) / det
        v[i] = (factor[0, 0] * dy - factor[1, 0] * dx) / det
        value[i] = sign * (float(data[yy, xx]) - float(level[yy, xx]))
        weight[i] = 1.0 / rms[yy, xx]
    low_u, high_u, low_v, high_v = u.min(), u.max(), v.min(), v.max()
    for k in range(everyone[0], everyone[1]):
        if k >= first and k < last:
            continue
        # In an island of hundreds of components nearly all are too far away to matter.
        p = params[k]
        reach = NEGLIGIBLE / np.sqrt(0.5 * (p[3] + p[5]) - np.hypot(0.5 * (p[3] - p[5]), p[4]))
        if p[1] < low_u - reach or p[1] > high_u + reach:
            continue
        if p[2] < low_v - reach or p[2] > high_v + reach:
            continue
        for i in range(n):
            value[i] -= gaussian(p, u[i], v[i])
    limited = np.empty(last - first, np.bool_)
    fitted, chi2 = levenberg_marquardt(
        params, first, last, free, u, v, value, weight, bounds, limited
    )
    if not fitted:
        return states, unknown, chi2, np.nan, n
    if not want_errors:
        states[:] = np.where(limited, AT_LIMIT, CONVERGED)
        return states, unknown, chi2, np.nan, n
    jacobian = np.empty((n, count))
    fill_jacobian(params, first, last, free, u, v, weight, jacobian)
    good, covariance, freedom, inverse, smooth = sandwich(jacobian, pixels, nx, correlation)
    if not good:
        return states, unknown, chi2, np.nan, n
    if free == 6:
        # A peak or a position that the data do not constrain: the shape is then held.
        for k in range(first, last):
            at = (k - first) * free
            if covariance[at, at] > params[k, 0] ** 2:
                return states, unknown, chi2, freedom, n
            if max(covariance[at + 1, at + 1], covariance[at + 2, at + 2]) > bounds[k, 3] ** 2:
                return states, unknown, chi2, freedom, n
    bias = second_order_bias(
        params, first, last, free, u, v, weight, jacobian, covariance, inverse, smooth
    )
    fluxes = np.empty((last - first, 3))
    if free == 6:
        edge, gains, residual = region_boundary(
            params, first, last, radius, factor, origin, data, rms, labels, label, pixels,
            jacobian, covariance, inverse, correlation,
        )  # fmt: skip
        bias += region_bias(edge, gains, residual, inverse)
        median_flux_bias(
            params, first, last, u, v, weight, jacobian, covariance, inverse, smooth,
            edge, gains, residual, bias, fluxes,
        )  # fmt: skip
    for k in range(first, last):
        at = (k - first) * free
        # Where the expansion does not hold (a correction beyond the error itself) it is cut.
        largest = 1.0
        for j in range(free):
            error = np.sqrt(covariance[at + j, at + j])
            if abs(bias[at + j]) > largest * error:
                largest = abs(bias[at + j]) / error
        for j in range(free):
            params[k, j] -= bias[at + j] / largest
        params[k, 0] = max(params[k, 0], 0.0)
        if free == 6:
            p = params[k]
            limit_shape(p[3:6], SMALLEST_AXIS, bounds[k, 0])
            correct_shape(p, covariance[at : at + 6, at : at + 6])
            flux, error, high = fluxes[k - first]
            # The correction falls with the flux, so that the corrected flux scatters by more than
            # its own part of the error: as the fitted one does.
            total[k, 0] = np.exp(flux - min(max(high, -error), error))
            total[k, 1] = np.exp(flux) * error
            # Peak times area is the flux.
            p[3:6] *= p[0] / (total[k, 0] * np.sqrt(p[3] * p[5] - p[4] ** 2)) if p[0] > 0.0 else 1.0
    states[:] = np.where(limited, AT_LIMIT, CONVERGED)
    return states, covariance, chi2, freedom, n


@nb.njit(cache=True, nogil=True)
def fit_island(
    c0: int,
    c1: int,
    params: Floats,
    covariance: Floats,
    beam: Floats,
    quality: Floats,
    status: Integers,
    factor: Floats,
    origin: Floats,
    sign: int,
    label: int,
    total: Floats,
    bounds: Floats,
    radius: float,
    joint_limit: int,
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    correlation: Floats,
) -> None:
    """Fit the components ``c0 ... c1 - 1`` of one island; `fit_islands` describes the arrays."""
    start = params[c0:c1].copy()
    group = c1 - c0 if c1 - c0 <= joint_limit else 1
    for turn in range(ROUNDS):
        before = params[c0:c1].copy()
        for first in range(c0, c1, group):
            fit_group(
                params, first, first + group, (c0, c1), 6, radius, factor, origin, sign,
                data, level, rms, labels, label, bounds, correlation, False, total,
            )  # fmt: skip
        change = np.abs(params[c0:c1, 3:] - before[:, 3:]).max()
        if change < SHAPE_CHANGE and turn > 0:
            break
    for first in range(c0, c1, group):
        states, block, chi2, freedom, n = fit_group(
            params, first, first + group, (c0, c1), 6, radius, factor, origin, sign,
            data, level, rms, labels, label, bounds, correlation, True, total,
        )  # fmt: skip
        for k in range(first, first + group):
            status[k] = states[k - first]
            quality[k, 0], quality[k, 1], quality[k, 2] = chi2, freedom, n
            if status[k] != FAILED:
                at = (k - first) * 6
                covariance[k] = block[at : at + 6, at : at + 6]
            else:
                total[k] = np.nan
                params[k] = start[k - c0]
                params[k, 3], params[k, 4], params[k, 5] = 1.0, 0.0, 1.0
    if c1 - c0 == 1 and status[c0] != FAILED:
        # A position is told by the core where the noise is correlated: alone, it is fitted there.
        # No profile is narrower than the beam. With the shape of one that came out so its position
        # would seem better than it is, with the beam's, which its peak does not go with, worse
        # (by 5 and 15 % at S/N 5-7): half-way between the two it is as good as it seems.
        fitted, place = params[c0].copy(), params[c0, 1:3].copy()
        at_least_beam(params[c0, 3:6])
        shape = 0.5 * (params[c0, 3:6] + fitted[3:6])
        narrow = (shape != fitted[3:6]).any()
        least = np.inf if narrow else covariance[c0, 1, 1] + covariance[c0, 2, 2]
        for reach in (CORE_RADIUS, radius):
            params[c0, :3], params[c0, 3:6] = fitted[:3], shape
            states, block, _, _, _ = fit_group(
                params, c0, c1, (c0, c1), 3, reach, factor, origin, sign,
                data, level, rms, labels, label, bounds, correlation, True, total,
            )  # fmt: skip
            if states[0] != FAILED and block[1, 1] + block[2, 2] < least:
                least = block[1, 1] + block[2, 2]
                place[:] = params[c0, 1:3]
                # By symmetry the position of a single source does not depend on peak and shape.
                covariance[c0, 1:3, :] = 0.0
                covariance[c0, :, 1:3] = 0.0
                covariance[c0, 1:3, 1:3] = block[1:3, 1:3]
            if not narrow:
                break  # the free fit was made there already
        params[c0] = fitted
        params[c0, 1:3] = place
    for turn in range(2):
        for k in range(c0, c1):
            if turn == 0 and status[k] != FAILED:
                continue
            fitted = params[k].copy()
            params[k, 3], params[k, 4], params[k, 5] = 1.0, 0.0, 1.0
            states, block, chi2, freedom, n = fit_group(
                params, k, k + 1, (c0, c1), 3, radius, factor, origin, sign,
                data, level, rms, labels, label, bounds, correlation, turn == 1, total,
            )  # fmt: skip
            if turn == 1 and states[0] != FAILED:
                beam[k, 0], beam[k, 1] = params[k, 0], np.sqrt(block[0, 0])
            if status[k] != FAILED:
                params[k] = fitted
            elif turn == 1 and states[0] != FAILED:
                # The free shape could not be fitted: the beam's own is kept for this row.
                covariance[k, :3, :3] = block
                quality[k, 0], quality[k, 1], quality[k, 2] = chi2, freedom, n


@nb.njit(
    "void(int64, int64, int64[::1], float64[:, ::1], float64[:, :, ::1], float64[:, ::1],"
    " float64[:, ::1], int64[::1], float64[:, :, ::1], float64[:, ::1], int64[::1], int64[::1],"
    " float64[:, ::1], float64[:, ::1], float64, int64, float32[:, ::1], float32[:, ::1],"
    " float32[:, ::1], int32[:, ::1], float64[:, ::1])",
    cache=True,
    nogil=True,
)
def fit_islands(
    i0: int,
    i1: int,
    starts: Integers,
    params: Floats,
    covariance: Floats,
    beam: Floats,
    quality: Floats,
    status: Integers,
    factors: Floats,
    origins: Floats,
    signs: Integers,
    island_labels: Integers,
    total: Floats,
    bounds: Floats,
    radius: float,
    joint_limit: int,
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    correlation: Floats,
) -> None:
    """Fit islands ``i0 ... i1 - 1``; arrays are filled in place, so that threads share them.

    Parameters
    ----------
    starts : ndarray, shape (islands + 1,)
        Components ``starts[i]:starts[i + 1]`` belong to island i.
    params : ndarray, shape (components, 6)
        In: start values. Out: whitened ``(A, u, v, a, b, c)``.
    covariance : ndarray, shape (components, 6, 6)
        Out: covariance of `params`; rows not fitted stay NaN.
    beam : ndarray, shape (components, 2)
        Out: flux and error of the beam-shaped fit.
    quality : ndarray, shape (components, 3)
        Out: chi-squared, its expected value, number of pixels.
    status : ndarray of int64
        Out: `CONVERGED`, `AT_LIMIT` or `FAILED`.
    total : ndarray, shape (components, 2)
        Out: total flux in beams, its median bias taken out, and its error; NaN where the shape is
        the beam's.
    factors : ndarray, shape (islands, 2, 2)
        Lower Cholesky factors of the beam's covariance (pixels).
    origins : ndarray, shape (islands, 2)
        (x, y) of the whitened origin.
    signs, island_labels : ndarray of int64
        +1 or -1, and the island's value in `labels`.
    bounds : ndarray, shape (components, 4)
        Largest axis in beams; the whitened position (u, v) that the centre must stay near, and
        how near.
    """
    for i in range(i0, i1):
        fit_island(
            starts[i], starts[i + 1], params, covariance, beam, quality, status, factors[i],
            origins[i], signs[i], island_labels[i], total, bounds, radius, joint_limit,
            data, level, rms, labels, correlation,
        )  # fmt: skip
