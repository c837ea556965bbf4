"""Cells of a network's look: where they lie, and regions interpolated between them."""

import numpy as np
import pytest

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.cell_maps import CellMap, Wanted, put_cells
from cyclades.stages.networks.graphs import CELL
from cyclades.stages.networks.inputs import Normalisation
from cyclades.stages.networks.region_cells import REGION, SIGMAS, SPACING, Projection, regions
from cyclades.stages.networks.tiles import Frame, Tile


def frame_of(shape, origin, scale):
    data = np.ones(shape, np.float32)
    return Frame(data, origin, scale, Normalisation.measure(data, 64, origin))


def ramp(cells):
    """Values that are linear in the place of a cell's centre: x, y of the full image."""
    _, rows, columns = cells.values.shape
    for k, (first, number) in enumerate(zip(cells.first, (rows, columns), strict=True)):
        place = (first + np.arange(number) + 0.5) * cells.step - 0.5
        cells.values[1 - k] = place[:, None] if k == 0 else place
    return cells


@pytest.mark.parametrize(("origin", "scale"), [((0, 0), 1.0), ((37, 90), 1.0), ((37, 90), 0.7)])
def test_interpolation_follows_a_slope_in_the_full_frame(origin, scale):
    cells = ramp(CellMap.of(frame_of((150, 210), origin, scale), np.zeros(2, np.float32)))
    place = np.random.default_rng(1).uniform(30.0, 120.0, (50, 2))
    np.testing.assert_allclose(cells.at(place), place + origin[::-1], atol=1e-3)
    corners = cells.at(np.array([[-900.0, -900.0], [9e3, 9e3]]))
    np.testing.assert_allclose(corners[0], cells.values[:, 0, 0])
    np.testing.assert_allclose(corners[1], cells.values[:, -1, -1])


def test_regions_lie_in_the_frame_of_the_beam():
    cells = ramp(CellMap.of(frame_of((300, 300), (16, 32), 1.0), np.zeros(2, np.float32)))
    shape = np.array([[2.0, 0.5], [0.5, 1.5]])
    made = regions(cells, np.array([[150.0, 140.0]]), shape[None])[0]
    assert made.shape == (2, REGION, REGION)
    middle = REGION // 2
    np.testing.assert_allclose(made[:, middle, middle], [182.0, 156.0], atol=1e-3)
    along = SIGMAS * SPACING
    for axis, step in ((0, made[:, middle, middle + 1]), (1, made[:, middle + 1, middle])):
        np.testing.assert_allclose(
            step - made[:, middle, middle], along * shape[:, axis], atol=1e-3
        )


def test_tiles_write_what_they_own():
    values = np.zeros((1, 6, 5), np.float32)
    tile = Tile(Box(32, 96, 48, 112), Box(0, 128, 16, 144))
    given = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    put_cells(values, (1, 2), given, tile, CELL)
    # rows 2 to 5 and columns 3 to 6 of the full frame
    expected = np.zeros_like(values)
    expected[:, 1:5, 1:5] = given[:, 2:6, 2:6]
    np.testing.assert_array_equal(values, expected)
    put_cells(values, (40, 40), given, tile, CELL)
    np.testing.assert_array_equal(values, expected)


def test_few_are_projected_before_the_interpolation_as_after_it():
    rng = np.random.default_rng(3)
    project = Projection(
        rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    )
    frame, image = frame_of((64, 64), (0, 0), 1.0), rng.normal(size=(8, 4, 4)).astype(np.float32)
    whole = Wanted(None, 8, lambda features: features).start(frame)
    few = Wanted(None, 8, project).start(frame)
    np.testing.assert_allclose(few[0].values[:, 0, 0], project.bias)
    tile = Tile(Box(0, 64, 0, 64), Box(0, 64, 0, 64))
    for _, collect in (whole, few):
        collect(tile, image)
    place = rng.uniform(-5.0, 70.0, (20, 2))
    after = project(whole[0].at(place).T).T
    np.testing.assert_allclose(few[0].at(place), after, atol=1e-5)


def test_an_image_smaller_than_a_cell_has_one():
    image = SkyImage(np.ones((3, 3), np.float32), psf=PointSpread(np.eye(2) * 4.0))
    frame = frame_of(image.shape, (0, 0), 1.0)
    cells = CellMap.of(frame, np.array([7.0], np.float32))
    assert cells.values.shape == (1, 1, 1)
    np.testing.assert_array_equal(cells.at(np.array([[1.0, 1.0]])), [[7.0]])
