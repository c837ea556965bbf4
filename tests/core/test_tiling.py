"""Grids, halos and ownership."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclades.stages.core.tiling import Box, anchored_start, full_box, grid, windows

SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 60))
BOXES = st.builds(Box, *[st.integers(-20, 40)] * 4)


@given(SHAPES, st.integers(1, 70), st.integers(1, 70))
def test_grid_covers_every_pixel_once(shape, step_y, step_x):
    count = np.zeros(shape, int)
    for box in grid(shape, (step_y, step_x)):
        assert not box.empty
        assert box.y0 % step_y == 0
        assert box.x0 % step_x == 0
        assert box.shape == count[box.slices].shape
        count[box.slices] += 1
    assert (count == 1).all()


@settings(deadline=None)
@given(SHAPES, st.integers(1, 16), st.integers(1, 4), st.integers(0, 20))
def test_windows_own_every_pixel_once_and_read_their_halo(shape, tile, tiles, halo):
    owned = np.zeros(shape, int)
    full = full_box(shape)
    for number, window in enumerate(windows(shape, tile=tile, tiles_per_window=tiles, halo=halo)):
        assert window.number == number
        owned[window.core.slices] += 1
        assert window.owns(window.core.y0, window.core.x0)
        assert not window.owns(window.core.y1, window.core.x0)
        assert window.padded == window.padded.intersect(full)
        # at least the halo on every side, up to the image's edge
        assert window.padded.intersect(window.core.grow(halo)) == window.core.grow(halo).intersect(
            full
        )
        # whole tiles of the anchored grid
        for start in (window.padded.y0, window.padded.x0):
            assert start % tile == 0
        for end, length in zip((window.padded.y1, window.padded.x1), shape, strict=True):
            assert end % tile == 0 or end == length
    assert (owned == 1).all()


@given(SHAPES, st.integers(1, 16), st.integers(1, 4), st.integers(1, 4))
def test_tiles_are_the_same_for_any_window_size(shape, tile, one, two):
    def tiles(per_window):
        found = set()
        for window in windows(shape, tile=tile, tiles_per_window=per_window, halo=0):
            for box in grid(window.core.shape, tile):
                found.add(box.shift(window.core.y0, window.core.x0))
        return found

    assert tiles(one) == tiles(two) == set(grid(shape, tile))


@given(BOXES, BOXES)
def test_intersection_holds_the_common_pixels(one, two):
    common = one.intersect(two)
    for y in range(-20, 40, 3):
        for x in range(-20, 40, 3):
            assert common.contains(y, x) == (one.contains(y, x) and two.contains(y, x))


@given(BOXES, st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 5))
def test_shift_and_grow_are_undone(box, dy, dx, halo):
    assert box.shift(dy, dx).shift(-dy, -dx) == box
    assert box.grow(halo).grow(-halo) == box
    assert box.grow(halo).shape == (box.shape[0] + 2 * halo, box.shape[1] + 2 * halo)


@given(st.integers(-1000, 1000), st.integers(1, 50))
def test_anchored_start_is_a_grid_line(position, step):
    start = anchored_start(position, step)
    assert start % step == 0
    assert start <= position < start + step


@pytest.mark.parametrize("step", [0, -1, (3, 0)])
def test_a_grid_step_is_at_least_a_pixel(step):
    with pytest.raises(ValueError, match="at least one pixel"):
        list(grid((5, 5), step))
