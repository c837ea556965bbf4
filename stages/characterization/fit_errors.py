"""Errors and bias of least squares under correlated noise, compiled.

The fit is weighted by 1 / rms^2 only. Its covariance is the sandwich
``H^-1 (J^T W N W J) H^-1`` with ``H = J^T W J`` and N the noise covariance, which is exact for
linearised least squares whatever N is (White 1980, Econometrica 48, 817); the inverse Fisher
matrix of Hancock et al. (2018, PASA 35, e011) holds only where W is the inverse of N.
"""

import numba as nb
import numpy as np

from cyclades.stages.characterization.least_squares import Floats, Integers, cholesky_solve

BLOCK = 128
"""Pixels whose correlations with the others are held at a time."""


@nb.njit(cache=True, nogil=True, fastmath={"reassoc"})
def dot(one: Floats, other: Floats) -> float:
    """Sum of products in any order, so that the compiler may take several at once."""
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@nb.njit(cache=True, nogil=True)
def correlate(jacobian: Floats, pixels: Integers, nx: int, correlation: Floats) -> Floats:
    """Rows of `jacobian`, shape (p, n), times the correlation matrix of their pixels.

    In blocks of that matrix, which as a whole would not fit into memory for the largest islands.
    """
    count, n = jacobian.shape
    side = correlation.shape[0]
    reach = side // 2
    flat = correlation.ravel()
    # Divided once a pixel, not once a pair; the offset of a pair follows by subtraction.
    rows, columns = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        rows[i], columns[i] = pixels[i] // nx, pixels[i] % nx
    place = rows * side + columns
    compact = rows[-1] - rows[0] <= reach and columns.max() - columns.min() <= reach
    smooth = np.empty((count, n))
    low, high = 0, 0
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        while rows[first] - rows[low] > reach:
            low += 1
        while high < n and rows[high] - rows[last - 1] <= reach:
            high += 1
        block = np.empty((high - low, last - first))
        for j in range(low, high):
            origin = place[j] - reach * (side + 1)
            for i in range(first, last):
                if compact or max(abs(rows[i] - rows[j]), abs(columns[i] - columns[j])) <= reach:
                    block[j - low, i - first] = flat[np.uint64(place[i] - origin)]
                else:
                    block[j - low, i - first] = 0.0
        smooth[:, first:last] = np.ascontiguousarray(jacobian[:, low:high]) @ block
    return smooth


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
    turned = np.ascontiguousarray(jacobian.T)
    correlated = correlate(turned, pixels, nx, correlation)
    smooth = np.ascontiguousarray(correlated.T)
    normal = np.empty((count, count))
    meat = np.empty((count, count))
    for j in range(count):
        for k in range(j + 1):
            normal[j, k] = normal[k, j] = dot(turned[j], turned[k])
            meat[j, k] = meat[k, j] = dot(turned[j], correlated[k])
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
