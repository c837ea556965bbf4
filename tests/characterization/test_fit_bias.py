"""The bias of fits whose pixels follow them: derivatives, limits, and fluxes of faint points."""

import numpy as np
import pytest

from cyclades.stages.characterization.fit_bias import (
    correct_shape,
    ellipse_changes,
    flux_curvature,
)
from cyclades.stages.characterization.least_squares import at_least_beam

RADIUS = 1.9
STEP = 1e-6
SHAPES = {
    "wide": (0.5, 0.1, 0.7),
    "one axis narrower than the beam": (0.6, 0.3, 1.2),
    "narrow": (1.5, -0.2, 1.3),
}


def distance(p, point):
    """``d^T P d`` of a point, in the ellipse that is fitted."""
    shape = np.array(p[3:])
    at_least_beam(shape)
    du, dv = point - p[1:3]
    return shape[0] * du * du + 2.0 * shape[1] * du * dv + shape[2] * dv * dv


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_ellipse_moves_as_its_component_does(shape):
    p = np.array([5.0, 0.3, -0.2, *shape])
    ellipse = np.array(shape)
    at_least_beam(ellipse)
    ring = 0.5 / np.sqrt(ellipse[0] * ellipse[2] - ellipse[1] ** 2)
    for angle in (0.3, 1.9, 4.0):
        changes = np.empty(6)
        point = p[1:3] + ellipse_changes(p, RADIUS, angle, changes)
        assert distance(p, point) == pytest.approx(RADIUS**2)
        for j in range(6):
            step = STEP * np.eye(6)[j]
            slope = (distance(p + step, point) - distance(p - step, point)) / (2.0 * STEP)
            assert changes[j] == pytest.approx(ring * slope, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_growing_ellipse_gains_its_own_area(shape):
    """Around the ellipse the changes add up to what the area gains, for every parameter."""

    def area(p):
        ellipse = np.array(p[3:])
        at_least_beam(ellipse)
        return np.pi * RADIUS**2 / np.sqrt(ellipse[0] * ellipse[2] - ellipse[1] ** 2)

    p = np.array([5.0, 0.3, -0.2, *shape])
    total, changes = np.zeros(6), np.empty(6)
    angles = 2.0 * np.pi * (np.arange(64) + 0.5) / 64
    for angle in angles:
        ellipse_changes(p, RADIUS, angle, changes)
        total -= changes * 2.0 * np.pi / angles.size
    for j in range(6):
        step = STEP * np.eye(6)[j]
        slope = (area(p + step) - area(p - step)) / (2.0 * STEP)
        assert total[j] == pytest.approx(slope, abs=1e-5)


def test_the_curvature_of_the_flux_is_its_second_derivative():
    p = np.array([5.0, 0.3, -0.2, 0.5, 0.1, 0.7])
    gradient, curvature = np.empty(6), np.empty((6, 6))
    flux_curvature(p, gradient, curvature)

    def flux(q):
        return np.log(q[0] / np.sqrt(q[3] * q[5] - q[4] ** 2))

    other, unused = np.empty(6), np.empty((6, 6))
    for j in range(6):
        step = STEP * np.eye(6)[j]
        assert gradient[j] == pytest.approx(
            (flux(p + step) - flux(p - step)) / (2 * STEP), abs=1e-7
        )
        flux_curvature(p + step, other, unused)
        np.testing.assert_allclose(curvature[j], (other - gradient) / STEP, atol=1e-4)


def test_corrected_sizes_lie_between_the_mean_and_the_fit():
    """To second order the mean of P^-1 is high by twice what is taken out."""
    rng = np.random.default_rng(1)
    p = np.array([5.0, 0.0, 0.0, 0.5, 0.1, 0.7])
    scatter = 0.03 * np.array([[1.0, 0.3, 0.2], [0.3, 0.8, 0.1], [0.2, 0.1, 1.2]])
    covariance = np.zeros((6, 6))
    covariance[3:, 3:] = scatter @ scatter.T
    draws = rng.multivariate_normal(p[3:], covariance[3:, 3:], 200_000)
    matrices = draws[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    mean = np.linalg.inv(matrices).mean(axis=0)
    fitted = np.linalg.inv(p[[3, 4, 4, 5]].reshape(2, 2))
    corrected = p.copy()
    correct_shape(corrected, covariance)
    taken = fitted - np.linalg.inv(corrected[[3, 4, 4, 5]].reshape(2, 2))
    np.testing.assert_allclose(2.0 * taken, mean - fitted, atol=1.5e-3)
