"""What the detectors that deblend with a library have in common, checked for each of them."""

import numpy as np

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.stage import DetectionStage
from cyclades.stages.core.tiling import Box

SIGMA = 1.9
BEAM = PointSpread(np.eye(2) * SIGMA**2)


def field(shape: tuple[int, int], sources: list[tuple[float, float, float]]) -> np.ndarray:
    """Beams of the given x, y and peak, without noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.zeros(shape)
    for x0, y0, peak in sources:
        data += peak * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / SIGMA**2)
    return data


def detect(name: str, data: np.ndarray | SkyImage, **parameters: object) -> Detections:
    """Run a detector on an image in units of its rms."""
    image = data if isinstance(data, SkyImage) else SkyImage(data=data, psf=BEAM)
    flat = np.where(np.isfinite(image.data), np.float32(0), np.float32(np.nan))
    stage = create_stage("detection", name, **parameters)
    assert isinstance(stage, DetectionStage)
    return stage.detect(image, Background(flat, flat + 1), context=Context())


def check_islands_summits_and_children(name: str) -> None:
    """Isolated sources are leaves; a blend is an island with a child a source."""
    data = field((80, 120), [(20.3, 30.4, 20.0), (80.0, 40.0, 50.0), (87.0, 40.0, 40.0)])
    data[5, 5] = 30.0
    found = detect(name, data)
    assert found.complete
    assert len(found.islands) == 2
    assert len(found.leaves) == 3
    np.testing.assert_array_equal(found.parent, [-1, -1, 1, 1])
    np.testing.assert_allclose(found.summit[0], [20.3, 30.4], atol=0.06)
    assert np.isnan(found.summit[1]).all()
    children = found.summit[2:][np.argsort(found.summit[2:, 0])]
    np.testing.assert_allclose(children, [[80.0, 40.0], [87.0, 40.0]], atol=0.3)
    joined = np.concatenate([found.segments[2], found.segments[3]])
    np.testing.assert_array_equal(np.sort(joined), np.sort(found.segments[1]))
    assert (data.ravel()[found.segments.indices] > 3.0).all()
    for row in range(4):
        y, x = np.divmod(found.segments[row], 120)
        np.testing.assert_array_equal(found.box[row], [x.min(), y.min(), x.max(), y.max()])


def check_parameters_act(name: str) -> None:
    """Thresholds, least size and contrast do what they say."""
    data = field((60, 120), [(20, 30, 4.5), (80, 30, 50.0), (87, 30, 6.0)])
    assert len(detect(name, data).islands) == 1
    assert len(detect(name, data, minimum_peak=4.0).islands) == 2
    assert len(detect(name, data, minimum_pixels=500).islands) == 0
    assert len(detect(name, data, deblend_contrast=1.0)) == 1
    wide = detect(name, data, threshold=1.0).segments.lengths[0]
    narrow = detect(name, data, threshold=4.0).segments.lengths[0]
    assert wide > narrow


def check_blanks_and_nothing(name: str) -> None:
    """Blank pixels belong to nothing; images without sources give no rows."""
    data = field((60, 60), [(30, 30, 50.0)])
    data[:, 31] = np.nan
    found = detect(name, data)
    assert np.isfinite(data.ravel()[found.segments.indices]).all()
    for empty in (np.zeros((30, 40)), np.full((30, 40), np.nan), np.ones((1, 1))):
        found = detect(name, empty)
        assert len(found) == 0
        assert found.complete
        assert found.box.shape == (0, 4)
        assert found.summit.shape == (0, 2)


def check_window_independence(name: str) -> None:
    """A window gives the same rows as the whole image for the islands inside it."""
    rng = np.random.default_rng(3)
    sources = [(*rng.uniform(10, 190, 2), rng.uniform(6, 60)) for _ in range(60)]
    data = field((200, 200), sources) + 0.3 * rng.standard_normal((200, 200))
    image = SkyImage(data=data, psf=BEAM)
    whole = detect(name, image)
    part = detect(name, image.cutout(Box(40, 180, 30, 170)))

    def rows(found: Detections, y0: int, x0: int, nx: int) -> set[tuple[int, ...]]:
        kept = set()
        for row in found.leaves:
            island = found.segments[int(found.island_of[row])]
            y, x = np.divmod(island, nx)
            y, x = y + y0, x + x0
            if y.min() > 40 and y.max() < 179 and x.min() > 30 and x.max() < 169:
                y, x = np.divmod(found.segments[int(row)], nx)
                kept.add(tuple(np.sort((y + y0) * 200 + x + x0)))
        return kept

    inside = rows(whole, 0, 0, 200)
    assert len(inside) > 15
    assert inside == rows(part, 40, 30, 140)


def check_determinism(name: str) -> None:
    """Twice the same."""
    rng = np.random.default_rng(4)
    data = field((150, 150), [(*rng.uniform(10, 140, 2), 30.0) for _ in range(60)])
    first, second = detect(name, data), detect(name, data)
    np.testing.assert_array_equal(first.segments.indices, second.segments.indices)
    np.testing.assert_array_equal(first.summit, second.summit)
