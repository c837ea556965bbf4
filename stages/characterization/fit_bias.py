"""Biases of fitted Gaussians under correlated noise, beyond that of a fit to given pixels.

A fit is made on the ellipse of its own result (`select_pixels`), so that its pixels follow the
noise as well: an ellipse grows where the noise lies above the profile. Peaks are then low and
total fluxes high, by up to 0.15 errors at S/N 6, most where the noise is correlated over more than
the beam. The change of the ellipse is of first order in the noise, and so are the residuals of the
pixels that it takes in; their product is of the order of the bias of Box (1971), which
`cyclades.stages.characterization.fit_errors.second_order_bias` gives for given pixels.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.fit_errors import second_derivatives
from cyclades.stages.characterization.least_squares import (
    FWHM,
    Floats,
    Integers,
    at_least_beam,
    fill_jacobian,
)

BOUNDARY_POINTS = 32


@nb.njit(cache=True, nogil=True)
def ellipse_changes(p: Floats, radius: float, angle: float, out: Floats) -> tuple[float, float]:
    """A point on the ellipse of a component, and how fast the ellipse moves across it.

    Parameters
    ----------
    p : ndarray, shape (6,)
        The component (A, u, v, a, b, c).
    radius : float
        Of the ellipse in whitened units, along its axes or those of the beam where they are larger.
    angle : float
        Eccentric angle of the point.
    out : ndarray, shape (6,)
        Filled with the derivatives of ``q = d^T P d`` by the parameters, P being the precision
        with no axis below the beam's (its derivative is that of Daleckii and Krein), times the
        whitened area of a ring ``dq`` for a unit of `angle`.

    Returns
    -------
    du, dv : float
        Offset of the point from the centre.
    """
    mean, size = 0.5 * (p[3] + p[5]), np.hypot(0.5 * (p[3] - p[5]), p[4])
    turn = 0.5 * np.arctan2(2.0 * p[4], p[3] - p[5])
    cos, sin = np.cos(turn), np.sin(turn)
    narrow, wide = min(mean + size, 1.0), min(mean - size, 1.0)
    # How the axes follow those of the profile: not at all below the beam's.
    free_narrow = 1.0 if mean + size < 1.0 else 0.0
    free_wide = 1.0 if mean - size < 1.0 else 0.0
    free_turn = (narrow - wide) / (2.0 * size) if size > 1e-9 else free_wide
    one = radius * np.cos(angle) / np.sqrt(narrow)
    two = radius * np.sin(angle) / np.sqrt(wide)
    area = 0.5 / np.sqrt(narrow * wide)
    du, dv = cos * one - sin * two, sin * one + cos * two
    out[0] = 0.0
    out[1] = -2.0 * area * (narrow * one * cos - wide * two * sin)
    out[2] = -2.0 * area * (narrow * one * sin + wide * two * cos)
    first = area * free_narrow * one * one
    cross = area * free_turn * one * two
    second = area * free_wide * two * two
    out[3] = first * cos * cos - 2.0 * cross * cos * sin + second * sin * sin
    out[4] = 2.0 * ((first - second) * cos * sin + cross * (cos * cos - sin * sin))
    out[5] = first * sin * sin + 2.0 * cross * cos * sin + second * cos * cos
    return du, dv


@nb.njit(cache=True, nogil=True)
def region_boundary(
    params: Floats,
    first: int,
    last: int,
    radius: float,
    factor: Floats,
    origin: Floats,
    data: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    label: int,
    pixels: Integers,
    jacobian: Floats,
    covariance: Floats,
    inverse: Floats,
    correlation: Floats,
) -> tuple[Floats, Floats, Floats]:
    """The boundary of the fitted pixels, at equal steps around the ellipses of `select_pixels`.

    Each step stands for the pixel under it. Where the boundary cannot move (the pixel is blank,
    another island's, or inside another component's ellipse) there is none.

    Returns
    -------
    jacobian : ndarray, shape (m, p)
        Weighted derivatives of the model at the steps.
    gains : ndarray, shape (m, p)
        Number of pixels lost there for a unit of each parameter.
    residual : ndarray, shape (m, p)
        Covariance of the weighted residual there with the errors of the parameters.
    """
    ny, nx = data.shape
    components = last - first
    count, n = 6 * components, pixels.size
    side = correlation.shape[0]
    reach = side // 2
    limit = radius * FWHM
    steps = BOUNDARY_POINTS * components
    edge, gains = np.zeros((steps, count)), np.zeros((steps, count))
    smooth = np.zeros((steps, count))
    ellipses = params[first:last, 3:6].copy()
    for k in range(components):
        at_least_beam(ellipses[k])
    det = factor[0, 0] * factor[1, 1] - factor[0, 1] * factor[1, 0]
    arc = abs(det) * 2.0 * np.pi / BOUNDARY_POINTS
    u, v, weight = np.empty(1), np.empty(1), np.empty(1)
    m = 0
    for k in range(components):
        at = 6 * k
        for step in range(BOUNDARY_POINTS):
            angle = 2.0 * np.pi * (step + 0.5) / BOUNDARY_POINTS
            du, dv = ellipse_changes(params[first + k], limit, angle, gains[m, at : at + 6])
            pu, pv = params[first + k, 1] + du, params[first + k, 2] + dv
            x = round(origin[0] + factor[0, 0] * pu + factor[0, 1] * pv)
            y = round(origin[1] + factor[1, 0] * pu + factor[1, 1] * pv)
            fixed = y < 0 or y >= ny or x < 0 or x >= nx
            fixed = fixed or not np.isfinite(data[y, x])
            fixed = fixed or (labels[y, x] != 0 and labels[y, x] != label)
            for other in range(components):
                if other != k and not fixed:
                    e = ellipses[other]
                    du, dv = pu - params[first + other, 1], pv - params[first + other, 2]
                    q = e[0] * du * du + 2.0 * e[1] * du * dv + e[2] * dv * dv
                    fixed = q < limit * limit
            if fixed:
                gains[m] = 0.0
                continue
            gains[m] *= arc
            dx, dy = x - origin[0], y - origin[1]
            u[0] = (factor[1, 1] * dx - factor[0, 1] * dy) / det
            v[0] = (factor[0, 0] * dy - factor[1, 0] * dx) / det
            weight[0] = 1.0 / rms[y, x]
            fill_jacobian(params, first, last, 6, u, v, weight, edge[m : m + 1])
            for i in range(n):
                row, column = pixels[i] // nx - y + reach, pixels[i] % nx - x + reach
                if row >= 0 and row < side and column >= 0 and column < side:
                    for j in range(count):
                        smooth[m, j] += correlation[row, column] * jacobian[i, j]
            m += 1
    edge, gains = edge[:m], gains[:m]
    return edge, gains, smooth[:m] @ inverse - edge @ covariance


@nb.njit(cache=True, nogil=True)
def region_bias(edge: Floats, gains: Floats, residual: Floats, inverse: Floats) -> Floats:
    """Bias of the parameters from pixels that follow the fit, to second order, shape (p,).

    With J the derivatives at the boundary, the pixels lost there for a change of the parameters
    g, and r the covariance of residual and parameters (`region_boundary`), ``-H^-1 sum J (g r)``:
    to be added to that of Box (1971).
    """
    total = np.zeros(edge.shape[1])
    for i in range(edge.shape[0]):
        lost = 0.0
        for j in range(edge.shape[1]):
            lost += gains[i, j] * residual[i, j]
        for j in range(edge.shape[1]):
            total[j] -= edge[i, j] * lost
    return inverse @ total


@nb.njit(cache=True, nogil=True)
def flux_curvature(p: Floats, gradient: Floats, curvature: Floats) -> None:
    """First and second derivatives of ``ln(A / sqrt(ac - b^2))``, the log of the total flux."""
    a, b, c = p[3], p[4], p[5]
    det = a * c - b * b
    gradient[:] = 0.0
    gradient[0] = 1.0 / p[0]
    gradient[3], gradient[4], gradient[5] = -0.5 * c / det, b / det, -0.5 * a / det
    curvature[:] = 0.0
    curvature[0, 0] = -1.0 / p[0] ** 2
    curvature[3, 3], curvature[5, 5] = 0.5 * (c / det) ** 2, 0.5 * (a / det) ** 2
    curvature[4, 4] = (a * c + b * b) / det**2
    curvature[3, 4] = curvature[4, 3] = -b * c / det**2
    curvature[4, 5] = curvature[5, 4] = -a * b / det**2
    curvature[3, 5] = curvature[5, 3] = 0.5 * (b / det) ** 2


@nb.njit(cache=True, nogil=True)
def median_flux_bias(
    params: Floats,
    first: int,
    last: int,
    u: Floats,
    v: Floats,
    weight: Floats,
    jacobian: Floats,
    covariance: Floats,
    inverse: Floats,
    smooth: Floats,
    edge: Floats,
    gains: Floats,
    residual: Floats,
    bias: Floats,
    fluxes: Floats,
) -> None:
    """Median bias of the logarithm of each total flux, to second order.

    To second order an error is linear in the noise plus a quadratic form of it, ``X + Q``. Its
    mean is that of Q, and its median lower by a sixth of the third cumulant over the variance
    (Kenne Pagui, Salvan & Sartori 2017, Biometrika 104, 923), which is Q of the noise that X
    expects at one sigma. Unlike the mean's, this bias is the same for the flux and for any rising
    function of it.

    Parameters
    ----------
    bias : ndarray, shape (p,)
        Mean bias of the parameters, that of the region included.
    fluxes : ndarray, shape (last - first, 3)
        Out: logarithm of the fitted flux in beams, its error, its bias.
    """
    n, count = jacobian.shape
    components = last - first
    gradients = np.zeros((count, components))
    curvature = np.empty((components, 6, 6))
    for k in range(components):
        flux_curvature(params[first + k], gradients[6 * k : 6 * k + 6, k], curvature[k])
    # The parameters that go with a flux one sigma high, and the residuals that go with it.
    along = covariance @ gradients
    half = inverse @ gradients
    expected = smooth @ half - jacobian @ along
    expected_edge = residual @ gradients
    score, edge_score = jacobian @ half, edge @ half
    block = np.empty((6, 6))
    quadratic = np.zeros(components)
    for i in range(n):
        for c in range(components):
            at = 6 * c
            second_derivatives(params[first + c], 6, u[i], v[i], weight[i], block)
            for k in range(components):
                crossed, square = 0.0, 0.0
                for j in range(6):
                    row = 0.0
                    for m in range(6):
                        row += block[j, m] * along[at + m, k]
                    crossed += half[at + j, k] * row
                    square += along[at + j, k] * row
                quadratic[k] += crossed * expected[i, k] - 0.5 * score[i, k] * square
    lost = gains @ along
    for k in range(components):
        at = 6 * k
        variance, mean = 0.0, 0.0
        for j in range(count):
            variance += gradients[j, k] * along[j, k]
            mean += gradients[j, k] * bias[j]
        for j in range(6):
            for m in range(6):
                second = 0.5 * curvature[k, j, m]
                mean += second * covariance[at + j, at + m]
                quadratic[k] += second * along[at + j, k] * along[at + m, k]
        for i in range(edge.shape[0]):
            quadratic[k] -= edge_score[i, k] * lost[i, k] * expected_edge[i, k]
        p = params[first + k]
        fluxes[k, 0] = np.log(p[0]) - 0.5 * np.log(p[3] * p[5] - p[4] ** 2)
        fluxes[k, 1] = np.sqrt(variance)
        fluxes[k, 2] = mean - quadratic[k] / variance


@nb.njit(cache=True, nogil=True)
def correct_shape(p: Floats, covariance: Floats) -> None:
    """Take out half of the convexity bias of the inverse of the precision (a, b, c), in place.

    The mean of ``P^-1`` over the errors of P lies above the inverse of the mean by
    ``P^-1 E[dP P^-1 dP] P^-1`` to second order; half of it belongs to the logarithm, so that
    sizes, whose errors are closer to log-normal, are right in the median.

    Parameters
    ----------
    p : ndarray, shape (6,)
    covariance : ndarray, shape (6, 6)
    """
    a, b, c = p[3], p[4], p[5]
    det = a * c - b * b
    # P^-1, and E[dP P^-1 dP] with dP the errors of ((a, b), (b, c)).
    x, y, z = c / det, -b / det, a / det
    v = covariance
    p[3] = a + 0.5 * (x * v[3, 3] + 2.0 * y * v[3, 4] + z * v[4, 4])
    p[4] = b + 0.5 * (x * v[3, 4] + y * (v[3, 5] + v[4, 4]) + z * v[4, 5])
    p[5] = c + 0.5 * (x * v[4, 4] + 2.0 * y * v[4, 5] + z * v[5, 5])
