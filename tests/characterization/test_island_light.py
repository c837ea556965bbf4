"""Light that the components of an island leave over."""

from dataclasses import replace

import numpy as np
import pytest

from cyclades.stages.characterization.island_light import with_left_light
from cyclades.stages.characterization.moments import blank_components
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.products import Detections, Segments
from cyclades.stages.core.rendering import render_gaussians

BEAM = np.eye(2) * 4.0
SHAPE = (160, 160)


def two_parts(error):
    """Two overlapping Gaussians in an island, of whose fluxes a fifth is not measured."""
    rows = np.array([[40.0, 70.0, 80.0, 36.0, 0.0, 36.0], [30.0, 90.0, 80.0, 36.0, 0.0, 36.0]])
    data = render_gaussians(SHAPE, rows).astype(np.float32)
    above = np.flatnonzero(data.ravel() > 3.0)
    left = above % SHAPE[1] < 80
    found = Detections(
        SHAPE, np.zeros((3, 4)), np.ones(3), np.array([-1, 0, 0]),
        segments=Segments.from_lists([above, above[left], above[~left]]),
        summit=np.array([[np.nan, np.nan], [70.0, 80.0], [90.0, 80.0]]),
    )  # fmt: skip
    made = blank_components(found, found.leaves, "learned", ())
    for name, column in zip(("peak", "x", "y", "sxx", "sxy", "syy"), rows.T, strict=True):
        getattr(made, name)[:] = column
    true = rows[:, 0] * gaussian_area(rows[:, [3, 4, 4, 5]].reshape(-1, 2, 2)) / gaussian_area(BEAM)
    made.total[:] = 0.8 * true
    made.total_err[:] = error
    made = replace(made, total_share=np.full(2, error**2))
    changed = with_left_light(
        made, found, data, np.ones(SHAPE, np.float32), PointSpread(BEAM), 1.0, np.ones(2, bool)
    )
    return true, made, changed


def test_uncertain_components_get_what_the_pixels_hold():
    true, before, after = two_parts(100.0)
    assert after.total.sum() == pytest.approx(true.sum(), rel=0.03)
    assert (after.total > before.total).all()
    assert (after.total_err < before.total_err).all()
    assert (after.total_share < before.total_share).all()


def test_components_as_sure_as_gaussians_stay_as_they_are():
    _, before, after = two_parts(3.0)
    assert np.array_equal(after.total, before.total)
    assert np.array_equal(after.total_err, before.total_err)
