"""Least-squares fits of Gaussians to correlated noise, compiled.

Everything is done in *whitened* coordinates: pixel offsets are multiplied by the inverse Cholesky
factor of the beam, so that the beam is the round Gaussian ``exp(-r^2 / 2)``, all beams are alike,
and limits on sizes are plain numbers of beams. A component is ``(A, u, v, a, b, c)``: the model is
``A exp(-(a du^2 + 2 b du dv + c dv^2) / 2)``, and ``a = c = 1, b = 0`` is the beam.

The fit is weighted by 1 / rms^2 only. Its covariance is the sandwich
``H^-1 (J^T W N W J) H^-1`` with ``H = J^T W J`` and N the noise covariance, which is exact for
linearised least squares whatever N is (White 1980, Econometrica 48, 817); the inverse Fisher
matrix of Hancock et al. (2018, PASA 35, e011) holds only where W is the inverse of N.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAXIMUM_ITERATIONS = 60
SMALLEST_AXIS = 0.5
LEAST_COVERAGE = 0.6
ROUNDS = 3
SHAPE_CHANGE = 0.02
FWHM = 2.3548200450309493

CONVERGED, AT_LIMIT, FAILED = 0, 1, 2


@nb.njit(cache=True, nogil=True)
def cholesky_solve(matrix: Floats, right: Floats) -> bool:
    """Solve ``matrix x = right`` in place (both are overwritten); False if not positive."""
    n = matrix.shape[0]
    for j in range(n):
        for k in range(j):
            matrix[j, j] -= matrix[j, k] ** 2
        if not matrix[j, j] > 0.0:
            return False
        matrix[j, j] = np.sqrt(matrix[j, j])
        for i in range(j + 1, n):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= matrix[j, j]
    for column in range(right.shape[1]):
        for i in range(n):
            for k in range(i):
                right[i, column] -= matrix[i, k] * right[k, column]
            right[i, column] /= matrix[i, i]
        for i in range(n - 1, -1, -1):
            for k in range(i + 1, n):
                right[i, column] -= matrix[k, i] * right[k, column]
            right[i, column] /= matrix[i, i]
    return True


@nb.njit(cache=True, nogil=True)
def limit_shape(shape: Floats, smallest: float, largest: float) -> bool:
    """Clip the axes of the precision (a, b, c) in place; True if something was clipped."""
    a, b, c = shape[0], shape[1], shape[2]
    mean, difference = 0.5 * (a + c), 0.5 * (a - c)
    radius = np.hypot(difference, b)
    low, high = mean - radius, mean + radius
    floor, ceiling = 1.0 / largest**2, 1.0 / smallest**2
    new_low = min(max(low, floor), ceiling)
    new_high = min(max(high, floor), ceiling)
    if new_low == low and new_high == high:
        return False
    new_mean, new_radius = 0.5 * (new_low + new_high), 0.5 * (new_high - new_low)
    scale = new_radius / radius if radius > 0.0 else 0.0
    shape[0] = new_mean + scale * difference
    shape[1] = scale * b
    shape[2] = new_mean - scale * difference
    return True


@nb.njit(cache=True, nogil=True)
def gaussian(p: Floats, u: float, v: float) -> float:
    """Value of one component at whitened coordinates."""
    du, dv = u - p[1], v - p[2]
    q = p[3] * du * du + 2.0 * p[4] * du * dv + p[5] * dv * dv
    return float(p[0] * np.exp(-0.5 * q)) if q < 80.0 else 0.0


@nb.njit(cache=True, nogil=True)
def select_pixels(
    params: Floats,
    first: int,
    last: int,
    radius: float,
    factor: Floats,
    origin: Floats,
    data: NDArray[np.float32],
    labels: NDArray[np.int32],
    label: int,
) -> tuple[Integers, float]:
    """Flat indices of the pixels to fit, row by row: the union of ellipses of the components.

    An ellipse has `radius` FWHM along each axis of its component, or of the beam where that is
    larger. Which pixels are used depends on the shapes alone, never on their values, since a cut
    on brightness would bias the fit. Blank pixels and pixels of other islands are left out.

    Returns
    -------
    pixels : ndarray of int64
    coverage : float
        Share of the ellipses that lies on usable image.
    """
    ny, nx = data.shape
    count = last - first
    shapes = np.empty((count, 3))
    box = np.array([2**31, -(2**31), 2**31, -(2**31)])
    reach = radius * FWHM
    limit = reach * reach
    for k in range(count):
        p = params[first + k]
        shapes[k, 0], shapes[k, 1], shapes[k, 2] = p[3], p[4], p[5]
        limit_shape(shapes[k], 1e-6, 1e6)
        a, b, c = shapes[k, 0], shapes[k, 1], shapes[k, 2]
        mean, size = 0.5 * (a + c), np.hypot(0.5 * (a - c), b)
        if mean + size > 1.0:
            low = min(mean - size, 1.0)
            scale = 0.5 * (1.0 - low) / size if size > 0.0 else 0.0
            new_mean = 0.5 * (1.0 + low)
            shapes[k, 0] = new_mean + scale * 0.5 * (a - c)
            shapes[k, 1] = scale * b
            shapes[k, 2] = new_mean - scale * 0.5 * (a - c)
        det = shapes[k, 0] * shapes[k, 2] - shapes[k, 1] ** 2
        suu, suv, svv = shapes[k, 2] / det, -shapes[k, 1] / det, shapes[k, 0] / det
        f = factor
        sxx = f[0, 0] ** 2 * suu + 2 * f[0, 0] * f[0, 1] * suv + f[0, 1] ** 2 * svv
        syy = f[1, 0] ** 2 * suu + 2 * f[1, 0] * f[1, 1] * suv + f[1, 1] ** 2 * svv
        x = origin[0] + f[0, 0] * p[1] + f[0, 1] * p[2]
        y = origin[1] + f[1, 0] * p[1] + f[1, 1] * p[2]
        hx, hy = reach * np.sqrt(sxx), reach * np.sqrt(syy)
        box[0] = min(box[0], int(np.floor(x - hx)))
        box[1] = max(box[1], int(np.ceil(x + hx)))
        box[2] = min(box[2], int(np.floor(y - hy)))
        box[3] = max(box[3], int(np.ceil(y + hy)))
    det = factor[0, 0] * factor[1, 1] - factor[0, 1] * factor[1, 0]
    found = np.empty((box[1] - box[0] + 1) * (box[3] - box[2] + 1), np.int64)
    n, blank = 0, 0
    for yy in range(box[2], box[3] + 1):
        for xx in range(box[0], box[1] + 1):
            dx, dy = xx - origin[0], yy - origin[1]
            u = (factor[1, 1] * dx - factor[0, 1] * dy) / det
            v = (factor[0, 0] * dy - factor[1, 0] * dx) / det
            inside = False
            for k in range(count):
                du, dv = u - params[first + k, 1], v - params[first + k, 2]
                q = shapes[k, 0] * du**2 + 2 * shapes[k, 1] * du * dv + shapes[k, 2] * dv**2
                if q < limit:
                    inside = True
                    break
            if not inside:
                continue
            if yy < 0 or yy >= ny or xx < 0 or xx >= nx or not np.isfinite(data[yy, xx]):
                blank += 1
            elif labels[yy, xx] == 0 or labels[yy, xx] == label:
                found[n] = yy * nx + xx
                n += 1
    return found[:n], 1.0 - blank / max(n + blank, 1)


@nb.njit(cache=True, nogil=True)
def fill_jacobian(
    params: Floats,
    first: int,
    last: int,
    free: int,
    u: Floats,
    v: Floats,
    weight: Floats,
    out: Floats,
) -> None:
    """Derivatives of the weighted model, shape (n, free * components), row a pixel."""
    for i in range(u.size):
        for k in range(first, last):
            p = params[k]
            du, dv = u[i] - p[1], v[i] - p[2]
            q = p[3] * du * du + 2.0 * p[4] * du * dv + p[5] * dv * dv
            shape = np.exp(-0.5 * q) * weight[i] if q < 80.0 else 0.0
            column = (k - first) * free
            out[i, column] = shape
            shape *= p[0]
            out[i, column + 1] = shape * (p[3] * du + p[4] * dv)
            out[i, column + 2] = shape * (p[4] * du + p[5] * dv)
            if free == 6:
                out[i, column + 3] = -0.5 * shape * du * du
                out[i, column + 4] = -shape * du * dv
                out[i, column + 5] = -0.5 * shape * dv * dv


@nb.njit(cache=True, nogil=True)
def residuals(
    params: Floats,
    first: int,
    last: int,
    u: Floats,
    v: Floats,
    value: Floats,
    weight: Floats,
    out: Floats,
) -> float:
    """Weighted residuals of the components `first` to `last`; returns chi-squared."""
    chi2 = 0.0
    for i in range(u.size):
        model = 0.0
        for k in range(first, last):
            model += gaussian(params[k], u[i], v[i])
        out[i] = (value[i] - model) * weight[i]
        chi2 += out[i] ** 2
    return chi2


@nb.njit(cache=True, nogil=True)
def levenberg_marquardt(
    params: Floats,
    first: int,
    last: int,
    free: int,
    u: Floats,
    v: Floats,
    value: Floats,
    weight: Floats,
    bounds: Floats,
) -> tuple[int, float]:
    """Fit components `first` to `last` in place; returns (status, chi-squared).

    `free` is 6, or 3 to hold the shapes. Amplitudes stay positive, axes and positions within
    `bounds` (see `fit_islands`).
    """
    count = (last - first) * free
    n = u.size
    jacobian = np.empty((n, count))
    residual = np.empty(n)
    trial_residual = np.empty(n)
    start = params[first:last].copy()
    trial = params.copy()
    chi2 = residuals(params, first, last, u, v, value, weight, residual)
    damping = 1e-3
    at_limit = False
    for _ in range(MAXIMUM_ITERATIONS):
        fill_jacobian(params, first, last, free, u, v, weight, jacobian)
        hessian = np.zeros((count, count))
        gradient = np.zeros(count)
        for i in range(n):
            for j in range(count):
                jj = jacobian[i, j]
                gradient[j] += jj * residual[i]
                for k in range(j + 1):
                    hessian[j, k] += jj * jacobian[i, k]
        improved = False
        finished = False
        while damping < 1e9:
            matrix = hessian.copy()
            for j in range(count):
                matrix[j, j] = hessian[j, j] * (1.0 + damping) + 1e-300
            step = gradient.copy().reshape(-1, 1)
            if not cholesky_solve(matrix, step):
                damping *= 10.0
                continue
            clipped = False
            for k in range(first, last):
                column = (k - first) * free
                for j in range(free):
                    trial[k, j] = params[k, j] + step[column + j, 0]
                trial[k, 0] = max(trial[k, 0], 1e-3 * start[k - first, 0])
                for j in range(1, 3):
                    low, high = bounds[k, j] - bounds[k, 3], bounds[k, j] + bounds[k, 3]
                    if trial[k, j] < low or trial[k, j] > high:
                        trial[k, j] = min(max(trial[k, j], low), high)
                        clipped = True
                if free == 6 and limit_shape(trial[k, 3:6], SMALLEST_AXIS, bounds[k, 0]):
                    clipped = True
            new = residuals(trial, first, last, u, v, value, weight, trial_residual)
            if new < chi2:
                finished = chi2 - new < 1e-7 * (chi2 + 1.0)
                chi2 = new
                params[first:last] = trial[first:last]
                residual[:] = trial_residual
                damping = max(damping * 0.2, 1e-9)
                improved = True
                at_limit = clipped
                break
            if new - chi2 < 1e-9 * (chi2 + 1e-12):
                finished = True
                break
            damping *= 5.0
        if finished or not improved:
            break
    for k in range(first, last):
        if not np.isfinite(params[k]).all():
            params[first:last] = start
            return FAILED, chi2
    return (AT_LIMIT if at_limit else CONVERGED), chi2


@nb.njit(cache=True, nogil=True)
def sandwich(
    jacobian: Floats, pixels: Integers, nx: int, correlation: Floats
) -> tuple[bool, Floats, float, Floats, Floats]:
    """Covariance of a least-squares fit under correlated noise.

    Parameters
    ----------
    jacobian : ndarray, shape (n, p)
        Derivatives of the model divided by the rms.
    pixels : ndarray of int64, shape (n,)
        Flat indices, ascending.
    correlation : ndarray, shape (2 r + 1, 2 r + 1)
        Noise autocorrelation.

    Returns
    -------
    good : bool
        False where the normal matrix is singular.
    covariance : ndarray, shape (p, p)
    freedom : float
        Expected chi-squared of the residual, ``n - tr(H^-1 J^T N J)``.
    inverse : ndarray, shape (p, p)
        ``H^-1``.
    smooth : ndarray, shape (n, p)
        ``N J``.
    """
    n, count = jacobian.shape
    reach = correlation.shape[0] // 2
    smooth = np.zeros((n, count))
    for i in range(n):
        yi, xi = pixels[i] // nx, pixels[i] % nx
        for j in range(i, n):
            dy, dx = pixels[j] // nx - yi, pixels[j] % nx - xi
            if dy > reach:
                break
            if abs(dx) > reach:
                continue
            rho = correlation[reach + dy, reach + dx]
            for k in range(count):
                smooth[i, k] += rho * jacobian[j, k]
            if j > i:
                for k in range(count):
                    smooth[j, k] += rho * jacobian[i, k]
    normal = np.zeros((count, count))
    meat = np.zeros((count, count))
    for i in range(n):
        for j in range(count):
            for k in range(count):
                normal[j, k] += jacobian[i, j] * jacobian[i, k]
                meat[j, k] += jacobian[i, j] * smooth[i, k]
    scale = np.empty(count)
    for j in range(count):
        scale[j] = 1.0 / np.sqrt(normal[j, j]) if normal[j, j] > 0.0 else 1.0
    for j in range(count):
        for k in range(count):
            normal[j, k] *= scale[j] * scale[k]
    inverse = np.eye(count)
    if not cholesky_solve(normal, inverse):
        failed = np.full((count, count), np.nan)
        return False, failed, np.nan, failed, smooth
    for j in range(count):
        for k in range(count):
            inverse[j, k] *= scale[j] * scale[k]
    half = inverse @ meat
    covariance = half @ inverse
    covariance = 0.5 * (covariance + covariance.T)
    for j in range(count):
        if not covariance[j, j] > 0.0:
            return False, covariance, np.nan, inverse, smooth
    return True, covariance, n - np.trace(half), inverse, smooth


@nb.njit(cache=True, nogil=True)
def second_derivatives(
    p: Floats, free: int, u: float, v: float, weight: float, out: Floats
) -> None:
    """Second derivatives of one weighted component by its `free` parameters."""
    du, dv = u - p[1], v - p[2]
    a, b, c = p[3], p[4], p[5]
    q = a * du * du + 2.0 * b * du * dv + c * dv * dv
    g = np.exp(-0.5 * q) * weight if q < 80.0 else 0.0
    # First derivatives of ln g by (u, v, a, b, c), and their derivatives.
    first = (a * du + b * dv, b * du + c * dv, -0.5 * du * du, -du * dv, -0.5 * dv * dv)
    out[0, 0] = 0.0
    for j in range(1, free):
        out[0, j] = out[j, 0] = g * first[j - 1]
        for k in range(1, j + 1):
            out[j, k] = out[k, j] = p[0] * g * first[j - 1] * first[k - 1]
    out[1, 1] -= p[0] * g * a
    out[2, 2] -= p[0] * g * c
    mixed = ((2, 1, -b), (3, 1, du), (4, 1, dv), (4, 2, du), (5, 2, dv))
    for j, k, value in mixed:
        if j < free:
            out[j, k] += p[0] * g * value
            out[k, j] += p[0] * g * value


@nb.njit(cache=True, nogil=True)
def second_order_bias(
    params: Floats,
    first: int,
    last: int,
    free: int,
    u: Floats,
    v: Floats,
    weight: Floats,
    jacobian: Floats,
    covariance: Floats,
    inverse: Floats,
    smooth: Floats,
) -> Floats:
    """Bias of a non-linear least-squares fit under correlated noise, to second order.

    With J and F the first and second derivatives at a pixel, all weighted,
    ``H^-1 sum [F (H^-1 (N J) - V J) - J tr(F V) / 2]``: the expansion of Box (1971, J. R. Stat.
    Soc. B 33, 171), without his assumption that the noise is white. A fitted peak is too bright
    by about ``k / (2 S/N)`` of its error, k being the parameters that may follow the noise.

    Returns
    -------
    ndarray, shape (p,)
        To be subtracted from the parameters.
    """
    n, count = jacobian.shape
    total = np.zeros(count)
    block = np.empty((free, free))
    lean = smooth @ inverse - jacobian @ covariance
    for i in range(n):
        trace = 0.0
        for k in range(first, last):
            at = (k - first) * free
            second_derivatives(params[k], free, u[i], v[i], weight[i], block)
            for j in range(free):
                for m in range(free):
                    total[at + j] += block[j, m] * lean[i, at + m]
                    trace += block[j, m] * covariance[at + m, at + j]
        for j in range(count):
            total[j] -= 0.5 * jacobian[i, j] * trace
    return inverse @ total


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
) -> tuple[int, Floats, float, float, int]:
    """Fit some components of an island with its other ones held at their values.

    Returns
    -------
    status : int
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
    failed = np.full((count, count), np.nan)
    if n <= count or (free == 6 and coverage < LEAST_COVERAGE):
        return FAILED, failed, np.nan, np.nan, n
    u, v, value, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    det = factor[0, 0] * factor[1, 1] - factor[0, 1] * factor[1, 0]
    for i in range(n):
        yy, xx = pixels[i] // nx, pixels[i] % nx
        dx, dy = xx - origin[0], yy - origin[1]
        u[i] = (factor[1, 1] * dx - factor[0, 1] * dy) / det
        v[i] = (factor[0, 0] * dy - factor[1, 0] * dx) / det
        value[i] = sign * (float(data[yy, xx]) - float(level[yy, xx]))
        weight[i] = 1.0 / rms[yy, xx]
        for k in range(everyone[0], everyone[1]):
            if k < first or k >= last:
                value[i] -= gaussian(params[k], u[i], v[i])
    status, chi2 = levenberg_marquardt(params, first, last, free, u, v, value, weight, bounds)
    if not want_errors or status == FAILED:
        return status, failed, chi2, np.nan, n
    jacobian = np.empty((n, count))
    fill_jacobian(params, first, last, free, u, v, weight, jacobian)
    good, covariance, freedom, inverse, smooth = sandwich(jacobian, pixels, nx, correlation)
    if not good:
        return FAILED, failed, chi2, np.nan, n
    if free == 6:
        # A peak or a position that the data do not constrain: the shape is then held.
        for k in range(first, last):
            at = (k - first) * free
            if covariance[at, at] > params[k, 0] ** 2:
                return FAILED, failed, chi2, freedom, n
            if max(covariance[at + 1, at + 1], covariance[at + 2, at + 2]) > bounds[k, 3] ** 2:
                return FAILED, failed, chi2, freedom, n
    bias = second_order_bias(
        params, first, last, free, u, v, weight, jacobian, covariance, inverse, smooth
    )
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
            limit_shape(params[k, 3:6], SMALLEST_AXIS, bounds[k, 0])
    return status, covariance, chi2, freedom, n


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
                data, level, rms, labels, label, bounds, correlation, False,
            )  # fmt: skip
        change = np.abs(params[c0:c1, 3:] - before[:, 3:]).max()
        if change < SHAPE_CHANGE and turn > 0:
            break
    for first in range(c0, c1, group):
        state, block, chi2, freedom, n = fit_group(
            params, first, first + group, (c0, c1), 6, radius, factor, origin, sign,
            data, level, rms, labels, label, bounds, correlation, True,
        )  # fmt: skip
        for k in range(first, first + group):
            status[k] = state
            quality[k, 0], quality[k, 1], quality[k, 2] = chi2, freedom, n
            if state != FAILED:
                at = (k - first) * 6
                covariance[k] = block[at : at + 6, at : at + 6]
            else:
                params[k] = start[k - c0]
                params[k, 3], params[k, 4], params[k, 5] = 1.0, 0.0, 1.0
    for turn in range(2):
        for k in range(c0, c1):
            if turn == 0 and status[k] != FAILED:
                continue
            fitted = params[k].copy()
            params[k, 3], params[k, 4], params[k, 5] = 1.0, 0.0, 1.0
            state, block, chi2, freedom, n = fit_group(
                params, k, k + 1, (c0, c1), 3, radius, factor, origin, sign,
                data, level, rms, labels, label, bounds, correlation, turn == 1,
            )  # fmt: skip
            if turn == 1 and state != FAILED:
                beam[k, 0], beam[k, 1] = params[k, 0], np.sqrt(block[0, 0])
            if status[k] != FAILED:
                params[k] = fitted
            elif turn == 1 and state != FAILED:
                # The free shape could not be fitted: the beam's own is kept for this row.
                covariance[k, :3, :3] = block
                quality[k, 0], quality[k, 1], quality[k, 2] = chi2, freedom, n


@nb.njit(
    "void(int64, int64, int64[::1], float64[:, ::1], float64[:, :, ::1], float64[:, ::1],"
    " float64[:, ::1], int64[::1], float64[:, :, ::1], float64[:, ::1], int64[::1], int64[::1],"
    " float64[:, ::1], float64, int64, float32[:, ::1], float32[:, ::1], float32[:, ::1],"
    " int32[:, ::1], float64[:, ::1])",
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
            origins[i], signs[i], island_labels[i], bounds, radius, joint_limit,
            data, level, rms, labels, correlation,
        )  # fmt: skip
