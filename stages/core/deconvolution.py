"""Sizes of Gaussians with errors, and sizes without the beam, with limits where unresolved.

Errors follow by the delta method from the covariance of the three independent elements
(s_ee, s_en, s_nn) of the profile's covariance matrix, whose eigenvalues are the squared axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, shape_from_covariance

MAX_ANGLE_ERROR = 90.0
"""Degrees; an axis is known modulo 180 degrees, so that a larger error says nothing more."""

_ROUNDING = 1e-6
"""Of the beam's variance: what float32 data and projections leave of equal shapes."""


def element_transform(jacobian: ArrayLike) -> Floats:
    """Linear map of (s_xx, s_xy, s_yy) under ``J S J^T``.

    Parameters
    ----------
    jacobian : array_like, shape (..., 2, 2)

    Returns
    -------
    ndarray, shape (..., 3, 3)
    """
    j = np.asarray(jacobian, float)
    a, b, c, d = j[..., 0, 0], j[..., 0, 1], j[..., 1, 0], j[..., 1, 1]
    rows = [
        np.stack([a * a, 2.0 * a * b, b * b], -1),
        np.stack([a * c, a * d + b * c, b * d], -1),
        np.stack([c * c, 2.0 * c * d, d * d], -1),
    ]
    return np.asarray(np.stack(rows, -2))


@dataclass(frozen=True, eq=False)
class Shape:
    """Axes of Gaussians with errors; every array has the shape of the rows.

    Attributes
    ----------
    major, minor : ndarray
        FWHM axes.
    position_angle : ndarray
        Degrees in [0, 180).
    major_err, minor_err, position_angle_err : ndarray
        One-sigma errors; the angle's is at most `MAX_ANGLE_ERROR`.
    """

    major: Floats
    minor: Floats
    position_angle: Floats
    major_err: Floats
    minor_err: Floats
    position_angle_err: Floats


@dataclass(frozen=True, eq=False)
class DeconvolvedShape(Shape):
    """Axes without the beam.

    Attributes
    ----------
    major_is_limit, minor_is_limit : ndarray of bool
        The axis is an upper limit; its error is NaN.
    """

    major_is_limit: NDArray[np.bool_]
    minor_is_limit: NDArray[np.bool_]


def _sigma(gradient: Floats, errors: Floats) -> Floats:
    """Error of a function with the given gradient, for (..., 3, 3) covariances.

    NaN where the variance is negative, as that of a fit against its limits may be.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(np.einsum("...i,...ij,...j->...", gradient, errors, gradient)))


def _eigenvalues(covariance: Floats, errors: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Larger and smaller eigenvalue of (..., 2, 2) matrices, and the errors of both."""
    mean = 0.5 * (covariance[..., 0, 0] + covariance[..., 1, 1])
    difference = 0.5 * (covariance[..., 1, 1] - covariance[..., 0, 0])
    cross = covariance[..., 0, 1]
    radius = np.hypot(difference, cross)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A round profile has no preferred direction: the mean variance is what is known.
        cos = np.where(radius > 0.0, difference / radius, 0.0)
        sin = np.where(radius > 0.0, cross / radius, 0.0)
    up = np.stack([0.5 * (1.0 - cos), sin, 0.5 * (1.0 + cos)], -1)
    down = np.stack([0.5 * (1.0 + cos), -sin, 0.5 * (1.0 - cos)], -1)
    return mean + radius, mean - radius, _sigma(up, errors), _sigma(down, errors)


def _angle_error(covariance: Floats, errors: Floats) -> Floats:
    """Error of the position angle in degrees, capped."""
    difference = 0.5 * (covariance[..., 1, 1] - covariance[..., 0, 0])
    cross = covariance[..., 0, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 0.5 / (difference**2 + cross**2)
        gradient = np.stack([0.5 * cross, difference, -0.5 * cross], -1) * scale[..., None]
        error = np.degrees(_sigma(gradient, errors))
    known = np.isfinite(errors).all(axis=(-1, -2)) & np.isfinite(covariance).all(axis=(-1, -2))
    error = np.where(np.isfinite(error), np.minimum(error, MAX_ANGLE_ERROR), MAX_ANGLE_ERROR)
    return np.where(known, error, np.nan)


def fitted_shape(covariance: ArrayLike, errors: ArrayLike) -> Shape:
    """Axes and position angle of Gaussians with errors.

    Parameters
    ----------
    covariance : array_like, shape (..., 2, 2)
        Profile covariances in (east, north).
    errors : array_like, shape (..., 3, 3)
        Covariance of their elements (s_ee, s_en, s_nn); NaN where unknown.
    """
    c, e = np.asarray(covariance, float), np.asarray(errors, float)
    major, minor, angle = shape_from_covariance(c)
    larger, smaller, larger_err, smaller_err = _eigenvalues(c, e)
    half = 0.5 * SIGMA_TO_FWHM
    with np.errstate(invalid="ignore", divide="ignore"):
        return Shape(
            major,
            minor,
            angle,
            half * larger_err / np.sqrt(larger),
            half * smaller_err / np.sqrt(smaller),
            _angle_error(c, e),
        )


def deconvolve(covariance: ArrayLike, beam: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Axes and position angle of Gaussians without the beam.

    The covariance of a convolution is the sum of covariances, so that this is the difference; it
    agrees with Wild (1970) and `radio_beam`. An axis narrower than the beam gives zero.

    Parameters
    ----------
    covariance, beam : array_like, shape (..., 2, 2)
        In the same frame and unit.

    Returns
    -------
    major, minor, position_angle : ndarray, shape (...)
    """
    return shape_from_covariance(np.asarray(covariance, float) - np.asarray(beam, float))


def deconvolved_shape(
    covariance: ArrayLike, beam: ArrayLike, errors: ArrayLike, *, significance: float = 2.0
) -> DeconvolvedShape:
    """Axes without the beam, with errors, or upper limits where an axis is not resolved.

    Parameters
    ----------
    covariance, beam : array_like, shape (..., 2, 2)
        In the same frame and unit; a NaN beam gives NaN axes and no limits.
    errors : array_like, shape (..., 3, 3)
        Covariance of (s_ee, s_en, s_nn) of the fitted profile; the beam is taken as exact. Where
        it is NaN, an axis wider than the beam is given without error, and one that is not is
        NaN: nothing is known of its size (a fit of the beam's own shape).
    significance : float
        An axis whose squared size without the beam, v, is not above zero by this many of its
        sigmas is given as the upper limit ``sqrt(max(0, v) + significance sigma_v)``.
    """
    difference = np.asarray(covariance, float) - np.asarray(beam, float)
    e = np.asarray(errors, float)
    major, minor, angle = shape_from_covariance(difference)
    angle_err = _angle_error(difference, e)
    larger, smaller, larger_err, smaller_err = _eigenvalues(difference, e)
    rounding = _ROUNDING * np.trace(np.asarray(beam, float), axis1=-2, axis2=-1)
    axes = []
    for size, value, sigma in ((major, larger, larger_err), (minor, smaller, smaller_err)):
        known = np.isfinite(sigma)
        with np.errstate(invalid="ignore", divide="ignore"):
            limit = known & (value <= significance * sigma)
            upper = SIGMA_TO_FWHM * np.sqrt(np.maximum(value, 0.0) + significance * sigma)
            error = 0.5 * SIGMA_TO_FWHM * sigma / np.sqrt(value)
            measured = np.where(~known & (value <= rounding), np.nan, size)
        axes.append((np.where(limit, upper, measured), np.where(limit, np.nan, error), limit))
    (major, major_err, major_limit), (minor, minor_err, minor_limit) = axes
    pointless = major_limit | np.isnan(major)
    return DeconvolvedShape(
        major,
        minor,
        np.where(pointless, np.nan, angle),
        major_err,
        minor_err,
        np.where(pointless, np.nan, angle_err),
        major_limit,
        minor_limit,
    )
