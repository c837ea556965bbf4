"""Clipped statistics of boxes, beside the same rule written plainly."""

import numpy as np
import pytest

from cyclades.stages.background.base import clipping_correction
from cyclades.stages.background.grid import box_statistics

CLIP = 3.0


def of_box(plane, usable, stride=1):
    """Median and scale of one box that is the whole plane."""
    ends = np.array([0]), np.array([plane.shape[0]]), np.array([0]), np.array([plane.shape[1]])
    location, scale = box_statistics(
        plane, usable, *ends, stride, CLIP, clipping_correction(CLIP), 1.0
    )
    return location[0, 0], scale[0, 0]


def plainly(values):
    """What is clipped is told from the median of what is left, until nothing more is."""
    values = np.sort(values.astype(float))
    kept, spread, number = values, values.std(), len(values)
    while True:
        # the lower of the two in the middle
        centre = kept[(len(kept) - 1) // 2]
        kept = values[np.abs(values - centre) <= CLIP * spread]
        spread = kept.std() * clipping_correction(CLIP)
        if len(kept) == number:
            return centre, spread
        number = len(kept)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("size", [12, 40, 150])
def test_boxes_are_clipped_as_the_rule_says(size, share):
    rng = np.random.default_rng(size)
    for _ in range(5):
        plane = rng.normal(2.0, 0.5, (size, size)).astype(np.float32)
        bright = rng.random(plane.shape) < share
        plane[bright] += rng.exponential(50.0, int(bright.sum())).astype(np.float32)
        usable = rng.random(plane.shape) < 0.9
        np.testing.assert_allclose(of_box(plane, usable), plainly(plane[usable]), rtol=1e-9)


def test_a_source_of_a_million_sigmas_costs_no_digits():
    rng = np.random.default_rng(1)
    plane = rng.normal(0.0, 1.0, (140, 140)).astype(np.float32)
    usable = np.ones(plane.shape, bool)
    usable[60:70, 60:70] = False
    expected = of_box(plane, usable)
    plane[60:70, 60:70] = 1e6
    np.testing.assert_allclose(of_box(plane, np.ones_like(usable)), expected, rtol=0.02)
    np.testing.assert_allclose(
        of_box(plane, np.ones_like(usable)), plainly(plane.ravel()), rtol=1e-9
    )


def test_values_of_two_kinds_and_of_one():
    plane = np.full((64, 64), 7.0, np.float32)
    assert of_box(plane, np.ones(plane.shape, bool)) == (7.0, 0.0)
    plane[:, 40:] = 9.0
    np.testing.assert_allclose(
        of_box(plane, np.ones(plane.shape, bool)), plainly(plane.ravel()), rtol=1e-9
    )
