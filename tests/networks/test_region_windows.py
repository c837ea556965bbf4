"""Windows of sources in the frame of the beam, and the Gaussians that they look like."""

import numpy as np
import pytest

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.noise import NoiseAutocorrelation, gaussian_autocorrelation
from cyclades.stages.core.products import Detections, Segments
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.networks.adaptive_moments import adaptive_moments
from cyclades.stages.networks.region_results import (
    beam_fluxes,
    exponential,
    in_pixels,
    wider_probability,
)
from cyclades.stages.networks.region_windows import (
    SAMPLES,
    SIBLING,
    STEP,
    STRANGER,
    SUMMIT_MARK,
    cut_windows,
    noise_size,
    symmetric_root,
)

BEAM = covariance_from_shape(6.0, 3.5, 25.0)
SHAPE = (120, 140)


def leaves(places, radius=3, parent=None):
    """Square footprints around places."""
    pieces = []
    for x, y in places:
        ys, xs = np.mgrid[
            round(y) - radius : round(y) + radius + 1, round(x) - radius : round(x) + radius + 1
        ]
        pieces.append((ys * SHAPE[1] + xs).ravel())
    n = len(places)
    return Detections(
        SHAPE, np.zeros((n, 4)), np.ones(n), np.full(n, -1) if parent is None else parent,
        segments=Segments.from_lists(pieces), summit=np.array(places, float),
    )  # fmt: skip


def windows_of(rows, places, noise=0.0, data=None, **options):
    plane = render_gaussians(SHAPE, np.array(rows)) if data is None else data
    found = leaves(places, **options)
    return cut_windows(plane, np.ones_like(plane), found, found.leaves, PointSpread(BEAM), noise)


@pytest.mark.parametrize("own", [(0.0, 0.0, 0.0), (4.0, 1.0, 2.0)])
def test_bright_gaussians_are_measured_exactly(own):
    shape = BEAM + np.array([[own[0], own[1]], [own[1], own[2]]])
    x, y = 70.3, 60.2
    rows = [[100.0, x, y, shape[0, 0], shape[0, 1], shape[1, 1]]]
    windows = windows_of(rows, [(70.0, 60.0)])
    made = adaptive_moments(windows.fine, STEP).reshape(2, 6)
    for peak, u, v, *logarithm in made:
        assert peak * windows.scale[0] == pytest.approx(100.0, rel=5e-3)
        place = windows.centre[0] + windows.frame[0] @ [u, v]
        assert np.allclose(place, [x, y], atol=5e-3)
        found = windows.frame[0] @ exponential(np.array([logarithm]))[0] @ windows.frame[0]
        assert np.allclose(found, shape, rtol=1e-2, atol=2e-2)


def test_the_frame_is_the_symmetric_root():
    root = symmetric_root(BEAM[None])[0]
    assert np.allclose(root, root.T)
    assert np.allclose(root @ root, BEAM)


def test_neighbours_are_marked():
    rows = [[50.0, 60.0, 60.0, BEAM[0, 0], BEAM[0, 1], BEAM[1, 1]]]
    windows = windows_of(
        rows, [(65.0, 60.0), (60.0, 60.0), (72.0, 60.0), (60.0, 74.0)],
        radius=2, parent=np.array([-1, 0, 0, -1]),
    )  # fmt: skip
    marks = windows.fine[0, 1]
    assert len(windows.scale) == 3
    middle = SAMPLES // 2
    assert (marks[middle - 1 : middle + 1, middle - 1 : middle + 1] == 0.0).all()
    assert set(np.unique(marks)) == {np.float32(v) for v in (0.0, SIBLING, STRANGER, SUMMIT_MARK)}
    assert windows.coarse[0, 1].min() == SUMMIT_MARK


def test_outside_and_blank_pixels_belong_to_others():
    plane = render_gaussians(SHAPE, np.array([[9.0, 4.0, 60.0, 4.0, 0.0, 4.0]]))
    plane[58:62, 12:15] = np.nan
    windows = windows_of(None, [(4.0, 60.0)], data=plane)
    assert np.isfinite(windows.fine).all()
    assert np.isfinite(windows.coarse).all()
    assert (windows.fine[0, 1, :, 0] == STRANGER).any()


def test_the_size_of_the_noise():
    for factor, expected in ((1.0, 0.0), (2.0, np.log(2.0))):
        noise = NoiseAutocorrelation(gaussian_autocorrelation(factor * BEAM, 9), "measured")
        assert noise_size(noise, PointSpread(BEAM)) == pytest.approx(expected, abs=1e-6)


def test_errors_are_carried_to_pixels():
    """Against the scatter of draws: linear to a percent."""
    rows = [[100.0, 70.3, 60.2, BEAM[0, 0], BEAM[0, 1], BEAM[1, 1]]]
    windows = windows_of(rows, [(70.0, 60.0)])
    rng = np.random.default_rng(1)
    factor = 0.01 * (np.eye(7) + 0.3 * rng.standard_normal((7, 7)))
    mean = np.array([[1.0, 0.1, -0.2, 0.4, 0.2, 0.1, 1.5]])
    made = in_pixels(mean, (factor @ factor.T)[None], windows)
    n = 20000
    drawn = mean + rng.standard_normal((n, 7)) @ factor.T
    many = type(windows)(*(np.repeat(part, n, 0) for part in windows))
    values = in_pixels(drawn, np.zeros((n, 7, 7)), many)
    assert np.allclose(made.values[0], values.values.mean(0), rtol=1e-3, atol=2e-3)
    sigma = np.sqrt(np.diag(made.covariance[0]))
    difference = np.cov(values.values.T) - made.covariance[0]
    assert np.abs(difference / np.outer(sigma, sigma)).max() < 0.06
    assert values.total.std() == pytest.approx(made.total_err[0], rel=0.03)


def test_probability_of_being_wider():
    errors = np.diag([0.1, 0.05, 0.1])[None] ** 2
    chances = [
        float(wider_probability(np.array([[s, 0.0, s]]), errors, 0.0)[0])
        for s in (-0.3, 0.0, 0.1, 0.3)
    ]
    assert chances[0] == 0.0
    assert chances == sorted(chances)
    assert chances[-1] > 0.999


def test_flux_of_the_beams_shape():
    """Unbiased, with the errors of correlated noise."""
    rng = np.random.default_rng(2)
    from tests.skies import correlated_noise

    x, y = np.meshgrid(np.arange(40, 1000, 40.0), np.arange(40, 1000, 40.0))
    shape = (1040, 1040)
    plane = render_gaussians(
        shape,
        np.column_stack(
            [np.full(x.size, 20.0), x.ravel(), y.ravel(),
             *np.tile([[BEAM[0, 0]], [BEAM[0, 1]], [BEAM[1, 1]]], x.size)]
        ),
    )  # fmt: skip
    plane = (plane + correlated_noise(shape, rng, BEAM)).astype(np.float32)
    n = x.size
    found = Detections(
        shape, np.zeros((n, 4)), np.ones(n), np.full(n, -1),
        segments=Segments.from_lists([np.array([int(b) * 1040 + int(a)])
                                      for a, b in zip(x.ravel(), y.ravel(), strict=True)]),
        summit=np.column_stack([x.ravel(), y.ravel()]),
    )  # fmt: skip
    windows = cut_windows(plane, np.ones_like(plane), found, found.leaves, PointSpread(BEAM), 0.0)
    place = np.column_stack([x.ravel(), y.ravel()]) - windows.centre
    place = np.linalg.solve(windows.frame, place[..., None])[..., 0]
    flux, error = beam_fluxes(windows, place)
    pull = (flux * windows.scale - 20.0) / (error * windows.scale)
    assert abs(pull.mean()) < 4.0 / n**0.5
    assert pull.std() == pytest.approx(1.0, abs=4.0 / (2 * n) ** 0.5 + 0.02)
