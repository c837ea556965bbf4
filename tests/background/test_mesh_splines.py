import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from cyclades.stages.background.mesh import Axis, Mesh


@pytest.mark.parametrize(("length", "step", "margin"), [(400, 37, 18), (90, 60, 0), (50, 7, 0)])
def test_a_spline_is_scipys_natural_one_continued_by_its_tangents(length, step, margin):
    axis = Axis.anchored(13, length, step, margin)
    values = np.random.default_rng(length).normal(size=(len(axis), 5))
    spline = axis.spline()
    found = spline.evaluate(spline.nodes(values))
    curve = CubicSpline(axis.centres, values, bc_type="natural")
    pixels = np.arange(length, dtype=float)
    inside = np.clip(pixels, axis.centres[0], axis.centres[-1])
    expected = curve(inside) + curve(inside, 1) * (pixels - inside)[:, None]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_map_can_be_drawn_into_and_added_to_a_plane():
    mesh = Mesh.anchored((120, 90), (5, 8), 20)
    cells = np.random.default_rng(1).normal(size=mesh.shape)
    fresh = mesh.interpolate(cells)
    plane = np.full((120, 90), 7.0, np.float32)
    assert mesh.interpolate(cells, plane, add=True) is plane
    np.testing.assert_allclose(plane, fresh + 7.0, atol=1e-5)
    assert mesh.interpolate(cells, plane) is plane
    np.testing.assert_array_equal(plane, fresh)


def test_one_cell_and_a_constant_come_back_exactly():
    for step in (20, 3):
        mesh = Mesh.anchored((9, 9), (0, 0), step)
        drawn = mesh.interpolate(np.full(mesh.shape, 3.1))
        assert (drawn == np.float32(3.1)).all()
