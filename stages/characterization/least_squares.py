"""Least squares of Gaussians, compiled: pixels, model, derivatives, Levenberg-Marquardt.

Everything is done in *whitened* coordinates: pixel offsets are multiplied by the inverse Cholesky
factor of the beam, so that the beam is the round Gaussian ``exp(-r^2 / 2)``, all beams are alike,
and limits on sizes are plain numbers of beams. A component is ``(A, u, v, a, b, c)``: the model is
``A exp(-(a du^2 + 2 b du dv + c dv^2) / 2)``, and ``a = c = 1, b = 0`` is the beam.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAXIMUM_ITERATIONS = 60
SMALLEST_AXIS = 0.5
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
def at_least_beam(shape: Floats) -> None:
    """Widen the axes of the precision (a, b, c) to those of the beam where they are narrower."""
    a, b, c = shape[0], shape[1], shape[2]
    mean, size = 0.5 * (a + c), np.hypot(0.5 * (a - c), b)
    if mean + size > 1.0:
        low = min(mean - size, 1.0)
        scale = 0.5 * (1.0 - low) / size if size > 0.0 else 0.0
        new_mean = 0.5 * (1.0 + low)
        shape[0] = new_mean + scale * 0.5 * (a - c)
        shape[1] = scale * b
        shape[2] = new_mean - scale * 0.5 * (a - c)


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
        at_least_beam(shapes[k])
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
    limited: NDArray[np.bool_],
) -> tuple[bool, float]:
    """Fit components `first` to `last` in place; returns (whether that went well, chi-squared).

    `free` is 6, or 3 to hold the shapes. Amplitudes stay positive, axes and positions within
    `bounds` (see `fit_islands`); `limited` says of each component whether the last step took it
    to one.
    """
    count = (last - first) * free
    n = u.size
    jacobian = np.empty((n, count))
    residual = np.empty(n)
    trial_residual = np.empty(n)
    start = params[first:last].copy()
    trial = start.copy()
    chi2 = residuals(params, first, last, u, v, value, weight, residual)
    damping = 1e-3
    limited[:] = False
    clipped = np.zeros(last - first, np.bool_)
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
            for c in range(last - first):
                k = first + c
                clipped[c] = False
                for j in range(free):
                    trial[c, j] = params[k, j] + step[c * free + j, 0]
                trial[c, 0] = max(trial[c, 0], 1e-3 * start[c, 0])
                for j in range(1, 3):
                    low, high = bounds[k, j] - bounds[k, 3], bounds[k, j] + bounds[k, 3]
                    if trial[c, j] < low or trial[c, j] > high:
                        trial[c, j] = min(max(trial[c, j], low), high)
                        clipped[c] = True
                if free == 6 and limit_shape(trial[c, 3:6], SMALLEST_AXIS, bounds[k, 0]):
                    clipped[c] = True
            new = residuals(trial, 0, last - first, u, v, value, weight, trial_residual)
            if new < chi2:
                finished = chi2 - new < 1e-7 * (chi2 + 1.0)
                chi2 = new
                params[first:last] = trial
                residual[:] = trial_residual
                damping = max(damping * 0.2, 1e-9)
                improved = True
                limited[:] = clipped
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
            return False, chi2
    return True, chi2
