"""Fluxes of components whose shapes are known, compiled: positions are fixed, or free nearby.

With positions fixed the model is linear in the fluxes, which may then have either sign and are
exactly unbiased whatever their signal to noise is.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.fit_errors import sandwich, second_order_bias
from cyclades.stages.characterization.least_squares import (
    AT_LIMIT,
    CONVERGED,
    FAILED,
    FWHM,
    MAXIMUM_ITERATIONS,
    Floats,
    Integers,
    cholesky_solve,
    fill_jacobian,
    gaussian,
    residuals,
    select_pixels,
)

LEAST_COVERAGE = 0.5
"""Least share of a component's ellipse that must lie on usable pixels."""


@nb.njit(
    "void(int64, int64, float64[:, ::1], float64[:, :, ::1], float64[:, ::1], float64,"
    " float32[:, ::1], int32[:, ::1], float64[::1])",
    cache=True,
    nogil=True,
)
def cover(
    i0: int,
    i1: int,
    params: Floats,
    factors: Floats,
    origins: Floats,
    radius: float,
    data: NDArray[np.float32],
    labels: NDArray[np.int32],
    coverage: Floats,
) -> None:
    """Fill in the share of each component's own ellipse that lies on usable pixels."""
    for i in range(i0, i1):
        pixels, share = select_pixels(
            params, i, i + 1, radius, factors[i], origins[i], data, labels, 0
        )
        coverage[i] = share if pixels.size else 0.0


@nb.njit(cache=True, nogil=True)
def forced_group(
    params: Floats,
    anchor: Floats,
    first: int,
    last: int,
    free: Integers,
    wander: float,
    radius: float,
    factor: Floats,
    origin: Floats,
    residual_map: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    correlation: Floats,
    want_errors: bool,
) -> tuple[int, Floats, float, float, Integers]:
    """Fit the components `first` to `last` together, in place; see `fit_forced`.

    Returns
    -------
    status : int
    covariance : ndarray, shape (3 k, 3 k)
        Of (A, u, v) of each component, zero where a position is fixed; NaN where not wanted.
    chi2, freedom : float
    pixels : ndarray of int64
    """
    nx = residual_map.shape[1]
    pixels, _ = select_pixels(anchor, first, last, radius, factor, origin, residual_map, labels, 0)
    n, whole = pixels.size, 3 * (last - first)
    active = np.empty(whole, np.int64)
    count = 0
    for k in range(first, last):
        for j in range(3 if free[k] else 1):
            active[count] = 3 * (k - first) + j
            count += 1
    active = active[:count]
    unknown = np.full((whole, whole), np.nan)
    if n < count:
        return FAILED, unknown, np.nan, np.nan, pixels
    u, v, value, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    det = factor[0, 0] * factor[1, 1] - factor[0, 1] * factor[1, 0]
    for i in range(n):
        yy, xx = pixels[i] // nx, pixels[i] % nx
        dx, dy = xx - origin[0], yy - origin[1]
        u[i] = (factor[1, 1] * dx - factor[0, 1] * dy) / det
        v[i] = (factor[0, 0] * dy - factor[1, 0] * dx) / det
        weight[i] = 1.0 / rms[yy, xx]
        value[i] = residual_map[yy, xx]
        for k in range(first, last):
            value[i] += gaussian(params[k], u[i], v[i])
    full = np.empty((n, whole))
    jacobian = np.empty((n, count))
    left, trial_left = np.empty(n), np.empty(n)
    trial = params[first:last].copy()
    start = trial.copy()
    linear = count == last - first
    if linear:
        # From zero flux a single step of Newton's is the solution.
        params[first:last, 0] = 0.0
    chi2 = residuals(params, first, last, u, v, value, weight, left)
    damping = 0.0 if linear else 1e-3
    limit = wander * FWHM
    status = CONVERGED
    for _ in range(1 if linear else MAXIMUM_ITERATIONS):
        fill_jacobian(params, first, last, 3, u, v, weight, full)
        if linear:
            # Derivatives by the positions are those of zero flux; only the fluxes' are used.
            jacobian[:] = full[:, ::3]
        else:
            for j in range(count):
                jacobian[:, j] = full[:, active[j]]
        hessian = jacobian.T @ jacobian
        gradient = jacobian.T @ left
        improved = finished = False
        while damping < 1e9:
            matrix = hessian.copy()
            for j in range(count):
                matrix[j, j] = hessian[j, j] * (1.0 + damping) + 1e-300
            step = gradient.copy().reshape(-1, 1)
            if not cholesky_solve(matrix, step):
                if linear:
                    params[first:last] = start
                    return FAILED, unknown, np.nan, np.nan, pixels
                damping = max(10.0 * damping, 1e-6)
                continue
            trial[:] = params[first:last]
            for j in range(count):
                trial[active[j] // 3, active[j] % 3] += step[j, 0]
            for k in range(first, last):
                du = trial[k - first, 1] - anchor[k, 1]
                dv = trial[k - first, 2] - anchor[k, 2]
                apart = np.hypot(du, dv)
                if apart > limit:
                    trial[k - first, 1] = anchor[k, 1] + du * limit / apart
                    trial[k - first, 2] = anchor[k, 2] + dv * limit / apart
            new = residuals(trial, 0, last - first, u, v, value, weight, trial_left)
            if linear or new < chi2:
                finished = chi2 - new < 1e-7 * (chi2 + 1.0)
                chi2 = new
                params[first:last] = trial
                left[:] = trial_left
                damping *= 0.2
                improved = True
                break
            if new - chi2 < 1e-9 * (chi2 + 1e-12):
                finished = True
                break
            damping = max(5.0 * damping, 1e-6)
        if finished or not improved:
            break
    for k in range(first, last):
        moved = np.hypot(params[k, 1] - anchor[k, 1], params[k, 2] - anchor[k, 2])
        if free[k] and moved > (1.0 - 1e-6) * limit:
            status = AT_LIMIT
    if not want_errors:
        return status, unknown, chi2, np.nan, pixels
    fill_jacobian(params, first, last, 3, u, v, weight, full)
    for j in range(count):
        jacobian[:, j] = full[:, active[j]]
    good, part, freedom, part_inverse, part_smooth = sandwich(jacobian, pixels, nx, correlation)
    if not good:
        return FAILED, unknown, chi2, np.nan, pixels
    covariance, inverse = np.zeros((whole, whole)), np.zeros((whole, whole))
    for i in range(count):
        for j in range(count):
            covariance[active[i], active[j]] = part[i, j]
            inverse[active[i], active[j]] = part_inverse[i, j]
    if not linear and status == CONVERGED:
        smooth = np.zeros((n, whole))
        for j in range(count):
            smooth[:, active[j]] = part_smooth[:, j]
        bias = second_order_bias(
            params, first, last, 3, u, v, weight, full, covariance, inverse, smooth
        )
        for k in range(first, last):
            at = 3 * (k - first)
            # Where the expansion does not hold (a correction beyond the error) it is cut.
            largest = 1.0
            for j in range(3):
                error = np.sqrt(covariance[at + j, at + j])
                if abs(bias[at + j]) > largest * error:
                    largest = abs(bias[at + j]) / error if error > 0.0 else np.inf
            for j in range(3):
                params[k, j] -= bias[at + j] / largest
    return status, covariance, chi2, freedom, pixels


@nb.njit(
    "void(int64, int64, int64[::1], float64[:, ::1], float64[:, ::1], int64[::1], float64,"
    " float64, float64[:, :, ::1], float64[:, ::1], float32[:, ::1], float32[:, ::1],"
    " int32[:, ::1], float64[:, ::1], boolean, float64[:, :, ::1], float64[::1], int64[::1],"
    " float64[:, ::1], int64[::1])",
    cache=True,
    nogil=True,
)
def fit_forced(
    i0: int,
    i1: int,
    starts: Integers,
    params: Floats,
    anchor: Floats,
    free: Integers,
    wander: float,
    radius: float,
    factors: Floats,
    origins: Floats,
    residual_map: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    correlation: Floats,
    want_errors: bool,
    covariance: Floats,
    flux_covariance: Floats,
    flux_starts: Integers,
    quality: Floats,
    status: Integers,
) -> None:
    """Fit the groups ``i0 ... i1 - 1``; arrays are filled in place, so that threads share them.

    Parameters
    ----------
    starts : ndarray, shape (groups + 1,)
        Components ``starts[i]:starts[i + 1]`` belong to group i and are fitted together.
    params : ndarray, shape (components, 6)
        In: whitened ``(A, u, v, a, b, c)`` of the model that `residual_map` lacks. Out: the fit.
    anchor : ndarray, shape (components, 6)
        The given positions and shapes: they choose the pixels, and a free position stays within
        `wander` beams (FWHM) of its own.
    free : ndarray of int64
        1 where a position is free.
    radius : float
        Radius of the ellipse fitted around each component, in FWHM.
    factors, origins : ndarray, shape (groups, 2, 2), (groups, 2)
        Cholesky factors of the beam's covariance, and (x, y) of the whitened origin.
    residual_map : ndarray, shape (ny, nx)
        Image minus level minus the model of all components; NaN where not usable.
    labels : ndarray, shape (ny, nx)
        All zero: which islands pixels belong to plays no role here.
    covariance : ndarray, shape (components, 3, 3)
        Out: of (A, u, v); NaN where the fit failed.
    flux_covariance : ndarray, flux_starts : ndarray of int64
        Out: covariance of the amplitudes of group i, row by row from ``flux_starts[i]`` on.
    quality : ndarray, shape (components, 3)
        Out: chi-squared, its expected value and number of pixels, of the group.
    status : ndarray of int64
        Out: `CONVERGED`, `AT_LIMIT` or `FAILED`.
    """
    for i in range(i0, i1):
        first, last = starts[i], starts[i + 1]
        state, whole, chi2, freedom, pixels = forced_group(
            params, anchor, first, last, free, wander, radius, factors[i], origins[i],
            residual_map, rms, labels, correlation, want_errors,
        )  # fmt: skip
        size = last - first
        for k in range(size):
            at = 3 * k
            covariance[first + k] = whole[at : at + 3, at : at + 3]
            quality[first + k, 0], quality[first + k, 1] = chi2, freedom
            quality[first + k, 2] = pixels.size
            status[first + k] = state
            for m in range(size):
                flux_covariance[flux_starts[i] + k * size + m] = whole[at, 3 * m]
