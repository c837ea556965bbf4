"""Backgrounds by strips: the same maps as of the plane at once, in any window."""

import numpy as np
import pytest

import cyclades.stages.background.peeling as peeling
import cyclades.stages.core.streaming as streaming
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.streaming import BitMask, Plane
from cyclades.stages.core.tiling import Box
from tests.skies import BEAM, correlated_noise, source_rows

SHAPE = (420, 390)
BOXES = (Box(0, 420, 0, 390), Box(100, 233, 57, 311), Box(333, 420, 300, 390))


def sky(kind):
    """Noise with sources of all sizes; blanks with noise that rises towards them; weights."""
    rng = np.random.default_rng(7)
    data = correlated_noise(SHAPE, rng)
    weight = None
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    if kind == "edges":
        inside = 190.0 - np.hypot(y - 210, x - 195)
        data = data * (1.0 + 2.0 * np.exp(-np.maximum(inside, 0.0) / 6.0))
        data[inside < 0] = np.nan
    if kind == "weights":
        weight = np.where(x < 150, 1.0, 0.2).astype(np.float32)
        weight[:30] = 0.0
        data = data / np.sqrt(np.maximum(weight, 0.1))
    n = 50
    compact = source_rows(5 + rng.exponential(20, n), *rng.uniform(0, SHAPE[1], (2, n)))
    # One wider than a box, that must be peeled, and a faint one that only means show.
    wide = [[9.0, 180, 200, 28.0**2, 0.0, 22.0**2], [2.5, 300, 330, 14.0**2, 0.0, 14.0**2]]
    data += render_gaussians(SHAPE, np.concatenate([compact, wide]))
    return SkyImage(data.astype(np.float32), psf=PointSpread(BEAM), weight=weight)


@pytest.mark.parametrize(
    ("name", "parameters", "kind"),
    [
        ("grid", {}, "plain"),
        ("grid", {"box_beams": 10.0}, "edges"),
        ("grid", {"box_beams": 12.0}, "weights"),
        ("sep", {"box_size": 61}, "edges"),
        ("photutils", {"box_size": 60}, "plain"),
        ("none", {"box_beams": 10.0}, "edges"),
    ],
)
def test_maps_are_those_of_the_plane_at_once(name, parameters, kind, monkeypatch):
    monkeypatch.setattr(streaming, "STRIP_PIXELS", 70 * SHAPE[1])
    image, stage = sky(kind), create_stage("background", name, **parameters)
    with Context(workers=2) as context:
        whole = stage.estimate(image, context=context)
        maps = stage.survey(Plane.of(MemorySource(image)), context=context)
    assert maps is not None
    expected = whole.uncertain
    for box in BOXES:
        found = maps.window(image.cutout(box))
        np.testing.assert_allclose(found.level, whole.level[box.slices], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.rms, whole.rms[box.slices], rtol=1e-6)
        uncertain = [
            np.zeros(SHAPE, bool)[box.slices] if part is None else part
            for part in (found.uncertain, None if expected is None else expected[box.slices])
        ]
        np.testing.assert_array_equal(*uncertain)
    if kind == "edges" and name != "none":
        assert len(maps.rises) > 0


def test_sep_says_that_it_cannot_where_no_pixel_is_in_the_middle():
    image = sky("plain")
    stage = create_stage("background", "sep", box_size=60)
    with Context() as context:
        assert stage.survey(Plane.of(MemorySource(image)), context=context) is None


@pytest.mark.parametrize("limit", [peeling.LARGEST, 0])
def test_rounds_of_a_part_of_the_plane_find_what_rounds_of_all_of_it_do(limit, monkeypatch):
    # Two sources of many boxes each, which are peeled in several rounds, far from each other.
    shape = (620, 840)
    rng = np.random.default_rng(11)
    compact = source_rows(
        5 + rng.exponential(20, 40), rng.uniform(0, shape[1], 40), rng.uniform(0, shape[0], 40)
    )
    wide = [[400.0, 160, 180, 14.0**2, 0.0, 11.0**2], [60.0, 700, 470, 16.0**2, 20.0, 9.0**2]]
    data = correlated_noise(shape, rng) + render_gaussians(shape, np.concatenate([compact, wide]))
    data[:40, 500:] = np.nan
    image = SkyImage(data.astype(np.float32), psf=PointSpread(BEAM))
    monkeypatch.setattr(streaming, "STRIP_PIXELS", 90 * shape[1])
    monkeypatch.setattr(peeling, "LARGEST", limit)
    areas = []
    measured = peeling.Peeling.measured

    def counted(self, cells, boxes):
        areas.append(sum(np.prod(self.box(region).shape) for region in boxes))
        return measured(self, cells, boxes)

    monkeypatch.setattr(peeling.Peeling, "measured", counted)
    stage = create_stage("background", "grid", box_size=16)
    with Context(workers=2) as context:
        whole = stage.estimate(image, context=context)
        maps = stage.survey(Plane.of(MemorySource(image)), context=context)
    found = maps.window(image)
    np.testing.assert_allclose(found.level, whole.level, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.rms, whole.rms, rtol=1e-6)
    assert (len(areas) > 1) == (limit > 0)
    assert all(0 < area < 0.5 * data.size for area in areas)


def test_part_of_a_mask_of_bits_is_that_of_the_mask():
    rng = np.random.default_rng(3)
    mask, bits = rng.uniform(size=(30, 45)) < 0.3, BitMask((30, 45))
    bits[0:30] = mask
    added = rng.uniform(size=(9, 20)) < 0.5
    for rows, columns in ((slice(4, 13), slice(11, 31)), (slice(0, 9), slice(25, 45))):
        np.testing.assert_array_equal(bits.part(rows, columns), mask[rows, columns])
        bits.join(rows, columns, added)
        mask[rows, columns] |= added
        np.testing.assert_array_equal(bits[0:30], mask)
