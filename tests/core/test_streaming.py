"""Groups over the seams of strips, masks of bits, windows of islands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyclades.stages.core.streaming as streaming
from cyclades.stages.core.segments import label_segments, segment_maximum
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.streaming import BitMask, Plane, StripGroups, in_order, joined_peaks
from cyclades.stages.core.tiling import Box
from cyclades.stages.core.windows import IslandPlaces, bearing, certain, doubtful_boxes
from tests.skies import sky_image


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, -1]))
def test_groups_joined_over_seams_are_those_of_the_plane(seed, rows, sign):
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(rng.integers(1, 30), rng.integers(1, 20))).astype(np.float32)
    plane[rng.uniform(size=plane.shape) < 0.05] = np.nan
    whole = segment_maximum(plane, label_segments(plane, 0.4, sign), sign)
    strips = [plane[y : y + rows] for y in range(0, len(plane), rows)]
    found = joined_peaks([StripGroups.find(strip, 0.4, sign)[0] for strip in strips])
    np.testing.assert_array_equal(np.sort(found[1]), np.sort(whole))
    assert [len(rows) for rows in found[0]] == [
        len(label_segments(strip, 0.4, sign)) for strip in strips
    ]


def test_bits_hold_a_mask():
    rng = np.random.default_rng(1)
    mask = rng.uniform(size=(37, 43)) < 0.3
    bits = BitMask(mask.shape)
    bits[slice(0, 20)] = mask[:20]
    bits.add(np.flatnonzero(mask)[np.flatnonzero(mask) >= 20 * 43])
    np.testing.assert_array_equal(bits[slice(0, 37)], mask)
    np.testing.assert_array_equal(bits[slice(11, 30)], mask[11:30])


def test_results_come_in_order_from_threads():
    assert list(in_order(lambda x: x * x, range(50), 4)) == [x * x for x in range(50)]


def test_strips_cover_the_plane_once(monkeypatch):
    monkeypatch.setattr(streaming, "STRIP_PIXELS", 700)
    image, _ = sky_image(np.zeros((0, 6)), (103, 50))
    plane = Plane.of(MemorySource(image))
    strips = plane.strips(5)
    assert all(rows.start % 5 == 0 for rows in strips)
    assert [y for rows in strips for y in range(rows.start, rows.stop)] == list(range(103))
    assert plane.rows(strips[1]).shape == (10, 50)


def test_an_island_at_the_edge_of_a_window_is_doubtful():
    rows = np.array([[50.0, 64.0, 60.0, 9.0, 0.0, 9.0], [50.0, 30.0, 60.0, 9.0, 0.0, 9.0]])
    image, background = sky_image(rows, (120, 128))
    window = Box(20, 100, 0, 60)
    cut = image.cutout(window)
    flat = type(background)(background.level[window.slices], background.rms[window.slices])
    boxes = doubtful_boxes(cut, flat, 3.0, (1,))
    assert len(boxes) == 1  # the other one lies inside, and the image's own edge cuts nothing
    y0, y1, x0, x1 = boxes[0]
    assert x1 == 60
    assert y0 < 60 < y1
    assert x0 > 50
    assert not len(doubtful_boxes(cut, flat, 3.0, (-1,)))


def places(*rows):
    boxes = np.array([row[:4] for row in rows])
    snr = np.array([row[4] for row in rows], float)
    middle = boxes.reshape(-1, 2, 2).mean(2).astype(int)
    return IslandPlaces(boxes, middle[:, 0], middle[:, 1], snr)


def test_islands_are_certain_where_all_that_bears_on_them_is_seen():
    full, window = Box(0, 1000, 0, 1000), Box(0, 400, 0, 400)
    rows = places((5, 10, 5, 10, 9), (200, 205, 380, 385, 9), (150, 155, 200, 205, 9))
    none = np.zeros((0, 4), np.int64)
    assert certain(rows, 4.0, window, full, none).tolist() == [True, False, True]
    wide = np.array([[150, 200, 260, 300]])  # bears on what is three of its sides away
    assert certain(rows, 4.0, window, full, wide).tolist() == [True, False, False]
    assert certain(rows, 4.0, full, full, none).all()


@pytest.mark.parametrize(("snr", "kept"), [(9, False), (900, True)])
def test_only_a_bright_island_bears_on_one_far_away(snr, kept):
    rows = places((100, 105, 100, 105, 9), (100, 105, 170, 175, snr), (100, 105, 115, 120, 9))
    chosen = np.array([True, False, False])
    assert bearing(rows, chosen, 4.0).tolist() == [True, kept, True]
