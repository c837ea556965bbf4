"""Complete detections from boxes, masks and islands."""

import numpy as np
import pytest
from scipy import ndimage

from cyclades.stages.core.context import Context
from cyclades.stages.core.products import Detections, Segments
from cyclades.stages.core.segments import (
    _above,
    complete_detections,
    label_segments,
    segment_maximum,
    significance_map,
)
from tests.skies import correlated_noise, sky_image, source_rows

SHAPE = (160, 160)


def boxes_only(boxes):
    n = len(boxes)
    return Detections(SHAPE, np.array(boxes, float), np.linspace(0.2, 0.9, n), np.full(n, -1))


def field(rows):
    return sky_image(rows, SHAPE, correlated_noise(SHAPE, np.random.default_rng(7)))


def test_a_box_gets_pixels_and_a_summit():
    image, background = field(source_rows([30.0, 50.0], [40, 110], [40, 90]))
    found = complete_detections(
        image, background, boxes_only([[30, 30, 50, 50], [100, 80, 120, 100]]), context=Context()
    )
    assert found.complete
    np.testing.assert_allclose(found.summit, [[40, 40], [110, 90]], atol=0.7)
    assert (found.segments.lengths > 10).all()
    np.testing.assert_allclose(found.score, [0.2, 0.9])


def test_a_box_over_a_double_gets_children_that_partition_it():
    image, background = field(source_rows([60.0, 50.0], [70, 79], [80, 80]))
    found = complete_detections(
        image, background, boxes_only([[58, 70, 92, 92]]), context=Context()
    )
    assert found.parent.tolist() == [-1, 0, 0]
    assert np.isnan(found.summit[0]).all()
    children = np.sort(np.concatenate([found.segments[1], found.segments[2]]))
    np.testing.assert_array_equal(children, np.sort(found.segments[0]))
    assert found.leaves.tolist() == [1, 2]
    assert found.island_of.tolist() == [0, 0, 0]


def test_shared_pixels_of_overlapping_boxes_have_one_owner():
    image, background = field(source_rows([60.0, 50.0], [70, 78], [80, 80]))
    found = complete_detections(
        image, background, boxes_only([[60, 70, 74, 90], [72, 70, 90, 90]]), context=Context()
    )
    pixels = np.concatenate([found.segments[row] for row in found.islands])
    assert len(pixels) == len(np.unique(pixels))


def test_a_box_without_usable_pixels_is_dropped():
    image, background = field(source_rows([30.0], [40], [40]))
    data = image.data.copy()
    data[100:, 100:] = np.nan
    image = image.replace(data=data)
    found = complete_detections(
        image, background, boxes_only([[30, 30, 50, 50], [120, 120, 140, 140]]), context=Context()
    )
    assert len(found.islands) == 1


def test_complete_detections_are_returned_as_they_are():
    image, background = field(source_rows([30.0], [40], [40]))
    found = complete_detections(
        image, background, boxes_only([[30, 30, 50, 50]]), context=Context()
    )
    assert complete_detections(image, background, found, context=Context()) is found


def test_negative_boxes_flood_downwards():
    image, background = field(source_rows([-30.0], [40], [40]))
    found = complete_detections(
        image,
        background,
        boxes_only([[30, 30, 50, 50]]).replace(sign=np.array([-1])),
        context=Context(),
    )
    np.testing.assert_allclose(found.summit, [[40, 40]], atol=0.7)


def test_label_segments_join_diagonal_neighbours():
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[4, 5] = True
    segments = label_segments(mask, 0.5)
    assert [segments[i].tolist() for i in range(len(segments))] == [[0, 7], [29]]
    values = np.arange(36.0).reshape(6, 6)
    np.testing.assert_array_equal(segment_maximum(values, segments), [7, 29])


def test_segments_take_and_concatenate():
    first = Segments.from_lists([np.array([1, 2]), np.array([3])])
    second = Segments.from_lists([np.zeros(0, int), np.array([9, 8, 7])])
    both = Segments.concatenate([first, second])
    assert [both[i].tolist() for i in range(4)] == [[1, 2], [3], [], [9, 8, 7]]
    assert [both.take(np.array([3, 0]))[i].tolist() for i in range(2)] == [[9, 8, 7], [1, 2]]
    assert both.label_map((2, 5)).ravel().tolist() == [0, 1, 1, 2, 0, 0, 0, 4, 4, 4]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_label_segments_agree_with_scipy(share, sign):
    """Spirals, rings and borders come with the shares near percolation."""
    values = np.random.default_rng(7).uniform(size=(83, 131)).astype(np.float32)
    values[40, :50] = np.nan
    threshold = 1.0 - share
    segments = label_segments(sign * values, threshold, sign)
    expected, number = ndimage.label(values > threshold, np.ones((3, 3), int))
    assert len(segments) == number
    np.testing.assert_array_equal(segments.label_map(values.shape), expected)
    assert all((np.diff(segments[row]) > 0).all() for row in range(number))


@pytest.mark.parametrize("width", [5, 64, 65, 200])
@pytest.mark.parametrize("sign", [1, -1])
def test_labels_are_those_of_scipy_whatever_the_width(width, sign):
    rng = np.random.default_rng(width)
    plane = ndimage.gaussian_filter(rng.normal(size=(90, width)), 1.0).astype(np.float32)
    plane[rng.random(plane.shape) < 0.05] = np.nan
    above = np.nan_to_num(sign * plane, nan=-1.0) > 0.1
    labels, number = ndimage.label(above, np.ones((3, 3)))
    found = label_segments(plane, 0.1, sign)
    assert len(found) == number
    np.testing.assert_array_equal(found.label_map(plane.shape), labels)


def test_a_threshold_between_two_floats_parts_them():
    # not representable in single precision, and rounded up there
    threshold = 0.1
    below, above = np.nextafter(np.float32(0.1), np.float32(0.0)), np.float32(0.1)
    assert float(below) < threshold < float(above)
    plane = np.array([[below, -1.0, above]], np.float32)
    assert label_segments(plane, threshold).indices.tolist() == [2]
    assert label_segments(-plane, threshold, -1).indices.tolist() == [2]
    assert label_segments(plane, float(above)).indices.size == 0
    # numpy rounds a Python number to the precision of the other one before it compares them
    uncompiled = getattr(_above, "py_func", _above)
    assert uncompiled(plane, threshold, 1.0).tolist() == [2]


def test_the_significance_is_blank_wherever_it_is_not_finite():
    image, background = field(source_rows([30.0], [40], [40]))
    image.data[3, 4] = np.nan
    background.rms[70, 9] = 0.0
    background.level[159, 159] = np.nan
    found = significance_map(image, background)
    blank = np.zeros(SHAPE, bool)
    blank[[3, 70, 159], [4, 9, 159]] = True
    np.testing.assert_array_equal(np.isnan(found), blank)
    expected = (image.data - background.level) / np.where(blank, 1.0, background.rms)
    np.testing.assert_allclose(found[~blank], expected[~blank], rtol=1e-6)
