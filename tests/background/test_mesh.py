"""Geometry and interpolation of meshes, and the source mask."""

import numpy as np

from cyclades.stages.background.mesh import Axis, Mesh, fill_missing, median_filter, smooth
from cyclades.stages.core.masking import source_mask


def test_cells_are_anchored_and_slivers_join_their_neighbours() -> None:
    np.testing.assert_array_equal(Axis.anchored(0, 100, 30).edges, [0, 30, 60, 100])
    np.testing.assert_array_equal(Axis.anchored(0, 110, 30).edges, [0, 30, 60, 90, 110])
    np.testing.assert_array_equal(Axis.anchored(40, 80, 30).edges, [0, 20, 50, 80])
    np.testing.assert_array_equal(Axis.anchored(55, 65, 30).edges, [0, 35, 65])
    np.testing.assert_array_equal(Axis.anchored(0, 5, 30).edges, [0, 5])


def test_runs_cover_the_cells_by_length() -> None:
    runs = Axis.anchored(40, 80, 30).runs()
    assert runs == [(slice(0, 1), slice(0, 20), 20), (slice(1, 3), slice(20, 80), 30)]


def test_interpolation_is_exact_for_planes_also_beyond_the_outer_centres() -> None:
    mesh = Mesh.anchored((95, 130), (0, 17), 20, 5)
    y, x = np.meshgrid(mesh.y.centres, mesh.x.centres, indexing="ij")
    rows, columns = np.mgrid[:95, :130]
    found = mesh.interpolate(3.0 + 0.5 * y - 0.25 * x)
    np.testing.assert_allclose(found, 3.0 + 0.5 * rows - 0.25 * columns, atol=2e-4)
    assert found.dtype == np.float32
    assert (mesh.interpolate(np.full(mesh.shape, 1e5 / 3)) == np.float32(1e5 / 3)).all()


def test_one_and_two_cells() -> None:
    assert (Mesh.anchored((3, 4), (0, 0), 10).interpolate(np.array([[2.0]])) == 2.0).all()
    two = Mesh.anchored((10, 40), (0, 0), 20).interpolate(np.array([[0.0, 20.0]]))
    np.testing.assert_allclose(two[0], np.arange(40) - 9.5, atol=1e-5)


def test_missing_cells_are_filled_within_the_range_of_the_others() -> None:
    cells = np.arange(30.0).reshape(5, 6)
    cells[1:3, 2:4] = np.nan
    filled = fill_missing(cells)
    known = np.isfinite(cells)
    np.testing.assert_array_equal(filled[known], cells[known])
    assert ((filled[~known] > 5) & (filled[~known] < 20)).all()
    assert np.isnan(fill_missing(np.full((2, 2), np.nan))).all()


def test_median_filter_ignores_missing_cells() -> None:
    cells = np.ones((5, 5))
    cells[2, 2] = 100.0
    cells[0, 0] = np.nan
    assert (median_filter(cells, 3) == 1.0).all()
    assert np.isnan(median_filter(np.full((1, 1), np.nan), 3)).all()
    np.testing.assert_array_equal(median_filter(np.array([[1.0, 2.0]]), 3), [[1.5, 1.5]])


def test_smoothing_stays_in_range_and_keeps_planes() -> None:
    y, x = np.mgrid[:6, :7].astype(float)
    np.testing.assert_allclose(smooth(2 * y - x), 2 * y - x)
    spike = np.zeros((5, 5))
    spike[2, 2] = 1.0
    assert smooth(spike).min() >= 0.0
    assert smooth(spike).max() < 1.0


def test_only_regions_with_a_seed_are_masked() -> None:
    data = np.zeros((40, 40), np.float32)
    data[10:13, 10:13] = 3.5
    data[11, 11] = 8.0
    data[30:33, 30:33] = 3.5
    data[20, 5] = -9.0
    data[5, 30] = np.nan
    mask = source_mask(data, seed=5.0, flood=3.0, grow=0)
    expected = np.zeros(data.shape, bool)
    expected[10:13, 10:13] = True
    expected[20, 5] = True
    np.testing.assert_array_equal(mask, expected)
    grown = source_mask(data, seed=5.0, flood=3.0, grow=2)
    y, x = np.mgrid[:40, :40]
    disc = (y - 20) ** 2 + (x - 5) ** 2 <= 4
    assert grown[disc].all()
    assert grown.sum() == disc.sum() + 49 - 12


def test_regions_are_found_wherever_they_lie_in_a_wide_plane() -> None:
    from scipy import ndimage

    data = np.random.default_rng(2).normal(0.0, 2.0, (60, 150)).astype(np.float32)
    data[:, 63:66] += 2.0
    data[40, 149] = np.nan
    seeds, floods = np.abs(data) >= 6.0, np.abs(data) >= 3.0
    expected = ndimage.binary_propagation(seeds, np.ones((3, 3)), floods)
    assert 0 < expected.sum() < floods.sum()
    np.testing.assert_array_equal(source_mask(data, seed=6.0, flood=3.0, grow=0), expected)


def test_large_region_outgrows_the_first_stack() -> None:
    data = np.full((200, 300), 10.0, np.float32)
    mask = source_mask(data, seed=5.0, flood=3.0, grow=2)
    assert mask.all()
