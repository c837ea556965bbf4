"""Cells of a dense background, and what the pixels say of them."""

import numpy as np
import pytest

from cyclades.stages.background.cells import STATISTICS, CellGrid, statistics

SHAPE = (75, 66)


def described(values, known=None, masked=None, origin=(0, 0), scale=1.0, beam=4.0):
    values = np.ascontiguousarray(values, np.float32)
    known = np.ones(values.shape, bool) if known is None else np.ascontiguousarray(known)
    masked = np.zeros(values.shape, bool) if masked is None else np.ascontiguousarray(masked)
    grid = CellGrid.of(values.shape, origin, scale, 16)
    found, share = statistics(values, known, masked, grid, beam)
    return dict(zip(STATISTICS, found, strict=True)), share, grid


@pytest.fixture(scope="module")
def plane():
    return np.random.default_rng(1).normal(0.2, 1.4, SHAPE).astype(np.float32)


def test_statistics_are_what_they_are_called(plane):
    rng = np.random.default_rng(2)
    known, masked = rng.random(SHAPE) < 0.8, rng.random(SHAPE) < 0.1
    found, share, _ = described(plane, known, masked)
    here = known[16:32, 32:48]
    used = here & ~masked[16:32, 32:48]
    all_values, v = plane[16:32, 32:48][here], plane[16:32, 32:48][used].astype(float)
    wanted = {
        "mean of values clipped at 2": np.clip(v, -2, 2).mean(),
        "mean magnitude clipped at 1": np.minimum(np.abs(v), 1).mean(),
        "mean square clipped at 3.5": np.minimum(v**2, 12.25).mean(),
        "mean square of negative values clipped at 3": (np.clip(v, -3, 0) ** 2).mean(),
        "share of negative values": (v < 0).mean(),
        "square of the mean of values clipped at 2": np.clip(v, -2, 2).mean() ** 2,
        "highest value": np.log1p(all_values.max()),
        "lowest value": np.log1p(-all_values.min()),
        "masked share": 1 - used.sum() / here.sum(),
        "beam": np.log1p(4 / 16),
    }
    for name, value in wanted.items():
        assert found[name][1, 2] == pytest.approx(value, rel=1e-5), name
    assert share[1, 2] == pytest.approx(used.sum() / 256)


def test_differences_do_not_see_the_level():
    x = np.arange(SHAPE[1])
    noise = np.random.default_rng(3).normal(size=SHAPE)
    flat, _, _ = described(noise)
    wavy, _, _ = described(noise + np.sin(x / 12.0) + 0.5)
    name = "half the mean square of differences over a beam"
    # 1.0 on average; pixels are independent, 450 pairs a cell
    assert flat[name][:4, :4].mean() == pytest.approx(1.0, abs=0.12)
    assert np.abs(wavy[name] - flat[name]).mean() < 0.12
    square = "mean square clipped at 3.5"
    assert (wavy[square] - flat[square])[:4, :4].mean() > 0.4


@pytest.mark.parametrize("scale", [1.0, 0.7, 1.3])
def test_cells_of_a_window_are_those_of_the_whole(plane, scale):
    whole, _, grid = described(plane, scale=scale)
    part, _, inner = described(plane[20:, 11:], origin=(20, 11), scale=scale)
    row, column = (b - a for a, b in zip(grid.first, inner.first, strict=True))
    assert grid.mesh.y.edges[-1] == SHAPE[0]
    # the first cells of the window are cut
    for name, values in part.items():
        same = whole[name][row + 1 :, column + 1 :]
        np.testing.assert_allclose(values[1:, 1:], same, rtol=1e-6, err_msg=name)


def test_cells_without_pixels_say_nothing():
    found, share, _ = described(np.full(SHAPE, 7.0), known=np.zeros(SHAPE, bool))
    assert not share.any()
    assert not found["mean square clipped at 2"].any()
    assert np.isfinite(np.stack(list(found.values()))).all()


def test_one_pixel_is_one_cell():
    found, share, grid = described(np.ones((1, 1)), origin=(37, 16))
    assert grid.first == (2, 1)
    assert share.shape == (1, 1)
    assert share[0, 0] == pytest.approx(1 / 256)
    assert found["mean of values clipped at 4"][0, 0] == 1.0
