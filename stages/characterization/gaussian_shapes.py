"""From whitened fit parameters to pixel shapes, fluxes and their errors."""

import numpy as np

from cyclades.stages.core.geometry import Floats, determinant, inverse, transform_covariance

STEPS = np.array([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], float)
"""Derivatives of the precision matrix by (a, b, c)."""


def precision_matrices(params: Floats) -> Floats:
    """Whitened precision matrices ``[[a, b], [b, c]]`` of rows (A, u, v, a, b, c)."""
    return params[:, [3, 4, 4, 5]].reshape(-1, 2, 2)


def shape_derivatives(precision: Floats) -> tuple[Floats, Floats]:
    """Whitened covariances of precisions, and their derivatives by (a, b, c).

    Returns
    -------
    shapes : ndarray, shape (n, 2, 2)
    derivatives : ndarray, shape (n, 3, 3)
        d(suu, suv, svv) / d(a, b, c), from ``dS = -S dP S``.
    """
    shapes = inverse(precision)
    changes = [-shapes @ step @ shapes for step in STEPS]
    columns = [np.stack([d[:, 0, 0], d[:, 0, 1], d[:, 1, 1]], -1) for d in changes]
    return shapes, np.stack(columns, -1)


def pixel_parameters(
    params: Floats, covariance: Floats, factor: Floats, origin: Floats
) -> tuple[Floats, Floats]:
    """Carry whitened parameters and their covariance to pixels.

    Returns
    -------
    values : ndarray, shape (n, 6)
        peak, x, y, sxx, sxy, syy.
    errors : ndarray, shape (n, 6, 6)
        NaN where what they follow from is: where only the beam's shape was fitted, peak and
        position have errors and the shape has none.
    """
    n = len(params)
    shapes, derivatives = shape_derivatives(precision_matrices(params))
    jacobian = np.zeros((n, 6, 6))
    jacobian[:, 0, 0] = 1.0
    jacobian[:, 1:3, 1:3] = factor
    f = factor
    # s_pixel = F s F^T, as a linear map of (suu, suv, svv).
    linear = np.zeros((n, 3, 3))
    for row, (i, j) in enumerate([(0, 0), (0, 1), (1, 1)]):
        linear[:, row, 0] = f[:, i, 0] * f[:, j, 0]
        linear[:, row, 1] = f[:, i, 0] * f[:, j, 1] + f[:, i, 1] * f[:, j, 0]
        linear[:, row, 2] = f[:, i, 1] * f[:, j, 1]
    jacobian[:, 3:, 3:] = linear @ derivatives
    pixel_shape = transform_covariance(shapes, f)
    position = origin + np.einsum("nij,nj->ni", f, params[:, 1:3])
    values = np.column_stack(
        [
            params[:, 0],
            position,
            pixel_shape[:, 0, 0],
            pixel_shape[:, 0, 1],
            pixel_shape[:, 1, 1],
        ]
    )
    errors = jacobian @ np.nan_to_num(covariance) @ np.swapaxes(jacobian, 1, 2)
    used = (jacobian != 0.0).astype(float)
    errors[used @ np.isnan(covariance) @ np.swapaxes(used, 1, 2) > 0.0] = np.nan
    return values, errors


def total_flux_gradient(params: Floats) -> Floats:
    """Derivatives of the flux of `total_flux` by (A, u, v, a, b, c), shape (n, 6)."""
    shapes = inverse(precision_matrices(params))
    size = np.sqrt(determinant(shapes))
    total = params[:, 0] * size
    gradient = np.zeros((len(params), 6))
    gradient[:, 0] = size
    gradient[:, 3] = -0.5 * total * shapes[:, 0, 0]
    gradient[:, 4] = -total * shapes[:, 0, 1]
    gradient[:, 5] = -0.5 * total * shapes[:, 1, 1]
    return gradient


def total_flux(params: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Flux in beams, ``A sqrt(det S)`` with S the whitened covariance, and its error."""
    total = params[:, 0] * np.sqrt(determinant(inverse(precision_matrices(params))))
    gradient = total_flux_gradient(params)
    variance = np.einsum("ni,nij,nj->n", gradient, covariance, gradient)
    return total, np.sqrt(np.maximum(variance, 0.0))


def resolved_probability(params: Floats, covariance: Floats, tolerance: float) -> Floats:
    """Probability that a profile is wider than the beam.

    A Wald test with three degrees of freedom of the logarithm of the fitted precision matrix
    against the beam's, which is zero. In the logarithm errors are alike for narrow and for wide
    profiles; on the precision itself the test finds too many sources resolved, on its inverse too
    few. Profiles of no more than the beam's area have probability 0. `tolerance` is the relative
    uncertainty of the beam's own size, which keeps calibration errors from resolving every bright
    source.
    """
    from scipy.special import chdtr

    result = np.full(len(params), np.nan)
    good = np.isfinite(covariance).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(precision_matrices(params[good]))
    turn = np.swapaxes(vectors, 1, 2)
    logarithm = vectors @ (np.log(values)[..., None] * turn)
    root = vectors @ (values[..., None] ** -0.5 * turn)
    # d log P = P^-1/2 dP P^-1/2, to the order needed near the beam.
    changes = np.einsum("nij,kjl,nlm->nkim", root, STEPS, root)
    linear = np.stack([changes[..., 0, 0], changes[..., 0, 1], changes[..., 1, 1]], 1)
    errors = linear @ covariance[good, 3:, 3:] @ np.swapaxes(linear, 1, 2)
    errors += np.diag([4.0, 1.0, 4.0]) * tolerance**2
    difference = np.stack([logarithm[:, 0, 0], logarithm[:, 0, 1], logarithm[:, 1, 1]], -1)
    solved = np.linalg.solve(errors, difference[..., None])[..., 0]
    statistic = np.einsum("ni,ni->n", solved, difference)
    result[good] = np.where(np.log(values).sum(axis=1) < 0.0, chdtr(3, statistic), 0.0)
    return result
