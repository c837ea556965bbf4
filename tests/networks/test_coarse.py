"""The shrunk image: means beside blanks, the grid of its blocks, and what of an object is seen."""

import numpy as np
import pytest

from cyclades.stages.core import streaming
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.streaming import Plane
from cyclades.stages.networks.coarse import (
    CoarseImage,
    bright_cells,
    footprint,
    mask_boxes,
    parted,
    pixels_of,
    smoothing_of,
)
from cyclades.stages.networks.inputs import Normalisation
from cyclades.stages.networks.specification import InputSpec, NetworkSpec
from cyclades.stages.networks.tiles import Frame

RNG = np.random.default_rng(4)


def disc(shape, x, y, radius, height=6.0):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.where(np.hypot(xx - x, yy - y) < radius, np.float32(height), np.float32(0.0))


def test_means_are_over_the_pixels_that_are_there():
    image = np.full((64, 80), 7.0, np.float32)
    image[:10] = np.nan
    image[30:33, 30:33] = np.nan
    coarse = CoarseImage.of(image, (0, 0), 4, 3.0)
    assert coarse.plane.shape == (16, 20)
    # rows 0 to 7 are all blank, 8 to 11 by half
    assert np.isnan(coarse.plane[:2]).all()
    np.testing.assert_allclose(coarse.plane[2:], 7.0, rtol=1e-5)


def test_sources_left_out_are_filled_from_around_and_leave_a_hole_where_nothing_is():
    image = np.full((80, 80), 2.0, np.float32)
    image[36:44, 36:44] = 500.0
    left_out = mask_boxes(np.array([[36.0, 36.0, 44.0, 44.0]]), image.shape)
    assert left_out.sum() == 12**2
    filled = CoarseImage.of(image, (0, 0), 4, 4.0, left_out).plane
    np.testing.assert_allclose(filled, 2.0, rtol=1e-5)
    wide = mask_boxes(np.array([[0.0, 0.0, 60.0, 60.0]]), image.shape)
    assert np.isnan(CoarseImage.of(image, (0, 0), 4, 2.0, wide).plane[4, 4])


@pytest.mark.parametrize("rows", [4, 12, 64])
def test_strips_give_what_the_whole_gives(monkeypatch, rows):
    image = np.random.default_rng(9).normal(size=(150, 90)).astype(np.float32)
    image[40:47, 20:60] = np.nan
    boxes = np.array([[30.0, 100.0, 38.0, 109.0], [0.0, 0.0, 9.0, 7.0], [60.0, 9.0, 80.0, 15.0]])
    whole = CoarseImage.of(image, (0, 0), 4, 3.0, mask_boxes(boxes, image.shape))
    monkeypatch.setattr(streaming, "STRIP_PIXELS", rows * 90)
    plane = Plane.of(MemorySource(SkyImage(image)))
    assert len(plane.strips(4)) == -(-150 // rows)
    strips = CoarseImage.of_strips(plane, 4, 3.0, boxes)
    assert (strips.origin, strips.block, strips.corner) == (whole.origin, 4, whole.corner)
    np.testing.assert_array_equal(strips.plane, whole.plane)


@pytest.mark.parametrize("corner", [(8, 4), (3, 5), (0, 1)])
def test_blocks_lie_on_the_grid_of_the_full_frame(corner):
    image = RNG.normal(size=(120, 100)).astype(np.float32)
    whole = CoarseImage.of(image, (0, 0), 4, 2.0)
    cut = CoarseImage.of(np.ascontiguousarray(image[corner[0] :, corner[1] :]), corner, 4, 2.0)
    assert cut.origin == (corner[0] // 4, corner[1] // 4)
    # away from the cut the cells are the same
    inside = whole.plane[cut.origin[0] + 5 :, cut.origin[1] + 5 :]
    np.testing.assert_allclose(cut.plane[5:, 5:], inside, atol=1e-5)
    boxes = np.array([[10.0, 20.0, 34.0, 60.0]])
    cells = cut.to_cells(boxes) + np.tile(cut.origin[::-1], 2)
    np.testing.assert_allclose(cells, (boxes + np.tile(corner[::-1], 2)) / 4)
    np.testing.assert_allclose(cut.to_pixels(cells), boxes)


def test_noise_looks_like_that_of_a_beam_in_the_middle():
    spec = NetworkSpec(input=InputSpec(beam_pixels=(3.5, 8.0)))
    noise = RNG.normal(size=(1600, 1600)).astype(np.float32)
    plane = CoarseImage.of(noise, (0, 0), 4, smoothing_of(spec)).plane[20:-20, 20:-20]
    beam = np.sqrt(3.5 * 8.0)
    for lag in (2, 4):
        measured = np.mean(plane[:, lag:] * plane[:, :-lag]) / np.mean(plane**2)
        # blocks add a twelfth of a cell squared to the variance of the kernel
        assert measured == pytest.approx(np.exp(-4.0 * np.log(2.0) * (lag / beam) ** 2), abs=0.05)


def test_a_piece_of_something_larger_is_not_parted():
    noise = 0.05 * RNG.normal(size=(400, 400)).astype(np.float32)
    image = disc((400, 400), 140, 140, 100) + disc((400, 400), 330, 330, 20)
    coarse = CoarseImage.of(image, (0, 0), 4, 3.0)
    coarse = coarse._replace(plane=coarse.plane + noise[:100, :100])
    boxes = np.array(
        [
            [100.0, 100.0, 180.0, 180.0],  # its middle
            [40.0, 90.0, 110.0, 190.0],  # its rim
            [305.0, 305.0, 355.0, 355.0],  # another one, whole
            [200.0, 300.0, 260.0, 360.0],  # nothing
        ]
    )
    assert parted(coarse, 0.05, boxes).tolist() == [False, False, True, False]


def test_the_footprint_is_what_the_flood_of_pixels_reaches():
    shape = (600, 600)
    image = disc(shape, 300, 300, 120) + disc(shape, 300, 300, 180, 2.0)
    image[:] += 100.0
    coarse = CoarseImage.of(image, (0, 0), 4, 3.0)
    rms = np.ones(coarse.plane.shape, np.float32)
    box = np.array([28.0, 28.0, 122.0, 122.0])
    cells, level = footprint(coarse, box, rms, 0.0, 10.0)
    assert level == pytest.approx(100.0, abs=0.1)
    # the inner disc (8 rms) and half a beam around it: the outer has 2 rms
    assert np.pi * 120**2 < cells.sum() * 16 < np.pi * 130**2
    assert not footprint(coarse, box, 4.0 * rms, 0.0, 10.0)[0].any()
    assert not bright_cells(coarse, np.array([0.0, 0.0, 20.0, 20.0]), rms, level).any()
    usable = np.ones(shape, bool)
    usable[300:310, 300:310] = False
    y, x = np.divmod(pixels_of(coarse, cells, usable), shape[1])
    distance = np.hypot(x - 300, y - 300)
    assert distance.max() < 120 + 4 * 4
    assert len(x) > np.pi * 120**2 - 100
    assert not ((x >= 300) & (x < 310) & (y >= 300) & (y < 310)).any()


def test_the_noise_of_pixels_is_not_that_of_an_edge():
    image = RNG.normal(size=(1024, 1024)).astype(np.float32)
    image[:, 448:] += 40.0  # in the middle of cells of the mesh
    frame = Frame(image, (0, 0), 1.0, Normalisation.measure(image, 128))
    assert frame.normalisation.noise.max() > 5.0
    coarse = CoarseImage.of(image, (0, 0), 4, 3.0)
    noise = coarse.noise(frame)
    assert noise.shape == coarse.plane.shape
    assert 0.9 < noise.min() <= noise.max() < 1.1
