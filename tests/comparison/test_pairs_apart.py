"""Pairs told apart, by hand."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.detection_metrics import precision_at
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.comparison.pairs import (
    by_separation,
    close_pairs,
    light_centres,
    told_apart,
)
from cyclades.stages.core.products import Detections, Segments

PLACES = np.array([[10.0, 10], [14, 10], [50, 50], [53, 54], [90, 90], [94, 90], [92, 93]])
LIGHT = np.array([10.0, 8, 10, 2, 10, 9, 8])


def test_pairs_are_of_like_brightness_and_alone():
    pairs = close_pairs(PLACES, LIGHT, farthest=6.0, ratio=3.0, alone=8.0)
    # the second two differ by a factor of five, and the last three are three
    np.testing.assert_array_equal(pairs.rows, [[0, 1]])
    np.testing.assert_allclose(pairs.separation, [4.0])
    faint = LIGHT.copy()
    faint[6] = 1.0
    pairs = close_pairs(PLACES, faint, 6.0, 3.0, 8.0)
    np.testing.assert_array_equal(pairs.rows, [[0, 1], [4, 5]])
    assert len(close_pairs(PLACES[:1], LIGHT[:1], 6.0, 3.0, 8.0).rows) == 0


def test_each_object_of_a_pair_needs_a_detection_of_its_own():
    pairs = close_pairs(PLACES, LIGHT, 6.0, 3.0, 8.0)
    both, middle = [[10.5, 10], [13.4, 10]], [[12.0, 10]]
    assert told_apart(pairs, PLACES, both, 4.0).all()
    assert not told_apart(pairs, PLACES, middle, 40.0).any()
    assert not told_apart(pairs, PLACES, both[:1], 4.0).any()
    assert not told_apart(pairs, PLACES, np.zeros((0, 2)), 4.0).any()
    rows = by_separation([1.0, 2.5, 2.6], [False, True, False], [0, 2, 3, 4])
    assert rows[:2] == [(1, 0.0), (2, 0.5)]
    assert rows[2][0] == 0
    assert np.isnan(rows[2][1])


def test_the_light_says_where_a_detection_is():
    data = np.zeros((8, 8), np.float32)
    data[2, 2:5] = 1.0, 2.0, 5.0
    segments = Segments.from_lists([np.array([18, 19, 20])])
    boxes = np.array([[2.0, 2, 4, 2]])
    found = Detections((8, 8), boxes, np.ones(1), np.array([-1]), segments=segments)
    np.testing.assert_allclose(light_centres(found, data), [[3.5, 2.0]])
    bare = Detections((8, 8), boxes, np.ones(1), np.array([-1]))
    np.testing.assert_allclose(light_centres(bare, data), [[3.0, 2.0]])


def test_precision_where_a_recall_is_reached():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10.0]])
    truth = Objects(boxes[:2], None, ("star", "star"), None, np.zeros(2, bool))
    # right, wrong, right: half of the stars with precision 1, all with 2 of 3
    found = Objects(boxes[[0, 2, 1]], np.array([0.9, 0.8, 0.7]), ("star",) * 3)
    assert precision_at([truth], [found], 0.5) == {"star": 1.0}
    assert precision_at([truth], [found], 0.8)["star"] == pytest.approx(2 / 3)
    one = found.take(np.array([0]))
    assert precision_at([truth], [one], 0.8) == {"star": 0.0}
