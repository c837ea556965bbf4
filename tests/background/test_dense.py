"""The background that a dense head corrects."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.background import dense
from cyclades.stages.background.cells import CellGrid
from cyclades.stages.background.dense_maps import Corrections
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.tiling import Box
from cyclades.stages.detection import learned
from cyclades.stages.networks.dense_background import BackgroundHead, BackgroundNumbers, read_head
from cyclades.stages.networks.graphs import CELL
from cyclades.stages.networks.weights import find_background, find_detector, shipped_detectors
from tests.skies import correlated_noise, sky_image, source_rows

SHAPE = (448, 512)


def estimate(image, context=None, **parameters):
    pytest.importorskip("onnxruntime")
    stage = create_stage("background", "dense", **parameters)
    return stage.estimate(image, context=context or Context())


@pytest.fixture(scope="module")
def field():
    """Points in noise of unit rms at a level of 5."""
    rng = np.random.default_rng(3)
    y, x = (v.ravel().astype(float) for v in np.mgrid[30:420:60, 30:490:60])
    rows = source_rows(10 ** rng.uniform(0.5, 1.8, x.size), x, y)
    image, _ = sky_image(rows, SHAPE, correlated_noise(SHAPE, rng) + 5.0)
    return image


@pytest.fixture(scope="module")
def maps(field):
    return estimate(field)


def changed(head, **numbers):
    """A head with some numbers replaced by a constant."""
    made = {f.name: getattr(head.numbers, f.name) for f in fields(BackgroundNumbers)}
    made |= {name: np.full_like(made[name], value) for name, value in numbers.items()}
    return BackgroundHead(head.spec, BackgroundNumbers(**made))


def test_a_head_of_zeros_gives_the_first_maps(field, monkeypatch):
    head = changed(read_head(find_background("dense")), last=0.0, last_bias=0.0, direct=0.0)
    monkeypatch.setattr(dense, "_load", lambda path: head)
    made = estimate(field)
    first = create_stage("background", head.spec.estimator).estimate(field, context=Context())
    np.testing.assert_allclose(made.level, first.level, rtol=1e-6)
    np.testing.assert_allclose(made.rms, first.rms, rtol=1e-6)


def test_corrections_are_in_units_of_the_rms_and_smooth():
    first = Background(np.full((64, 80), 3.0), np.full((64, 80), 0.5))
    grid = CellGrid.of((64, 80), (0, 0), 1.0, CELL)
    level = np.broadcast_to(np.arange(5.0), (4, 5)).astype(np.float32)
    rms = np.full((4, 5), np.log(2.0), np.float32)
    made = Corrections.of(grid, level, rms).apply(first)
    np.testing.assert_allclose(made.rms, 1.0, rtol=1e-6)
    x = np.arange(80)
    np.testing.assert_allclose(made.level[7], 3.0 + 0.5 * (x - 7.5) / CELL, atol=1e-5)


def test_level_and_rms_under_sources(maps):
    # the scatter of the means over such a field is 0.03 and 0.01
    assert maps.level.mean() == pytest.approx(5.0, abs=0.15)
    assert maps.rms.mean() == pytest.approx(1.0, abs=0.05)
    assert maps.rms.std() < 0.05


@pytest.mark.parametrize("factor", [1e-6, 3e4])
def test_flux_scales_both_maps(field, maps, factor):
    made = estimate(field.replace(data=field.data * np.float32(factor)))
    # the network's input is rounded anew
    np.testing.assert_allclose(made.rms / factor, maps.rms, rtol=2e-3)
    np.testing.assert_allclose(made.level / factor, maps.level, atol=5e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_has_mirrored_maps(axis):
    rng = np.random.default_rng(11)
    shape = (512, 512)
    image = SkyImage(correlated_noise(shape, rng, np.eye(2) * 4.0).astype(np.float32))
    plain, turned = (
        estimate(one) for one in (image, image.replace(data=np.flip(image.data, axis).copy()))
    )
    level = np.flip(turned.level, axis) - plain.level
    rms = np.flip(turned.rms, axis) / plain.rms - 1.0
    # boxes, tiles and strided convolutions have a direction
    assert np.sqrt((level**2).mean()) < 0.05
    assert np.sqrt((rms**2).mean()) < 0.02


def test_a_slope_and_a_step_are_followed():
    rng = np.random.default_rng(5)
    shape = (640, 640)
    noise = correlated_noise(shape, rng, np.eye(2) * 4.0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    rms = np.where(x < 320, 1.0, 1.6)
    level = 0.01 * (y - 320.0)
    image = SkyImage((rms * noise + level).astype(np.float32))
    made = estimate(image)
    first = create_stage("background", "grid").estimate(image, context=Context())
    inside = np.abs(x - 320) > 200
    assert np.abs(made.level - level)[inside].mean() < 0.15
    assert (made.rms / rms)[inside].mean() == pytest.approx(1.0, abs=0.04)
    # the step is sharper than boxes of 128 pixels make it
    near = np.abs(x - 320) < 100
    blurred = [np.abs(np.log(maps.rms / rms))[near].mean() for maps in (made, first)]
    assert blurred[0] < 0.95 * blurred[1]


def test_a_window_is_cut_from_the_whole():
    data = correlated_noise((1200, 640), np.random.default_rng(6), np.eye(2) * 4.0)
    image = SkyImage(data.astype(np.float32))
    whole = estimate(image, tile=512)
    # its edges lie on no grid of cells, tiles or boxes
    window = image.cutout(Box(90, 1200, 0, 640))
    part = estimate(window, tile=512)
    assert window.origin == (90, 0)
    cut = whole.level[90:], whole.rms[90:]
    inner = slice(200, None)
    assert np.abs(part.level - cut[0])[inner].max() < 0.01
    assert np.abs(part.rms / cut[1] - 1.0)[inner].max() < 0.01
    # the same pixels taken for another part of the frame have other cells
    moved = estimate(image.replace(origin=(7, 5)), tile=512)
    assert np.abs(moved.level - whole.level).max() > 0.01


def test_tiles_leave_no_seams(field, maps):
    made = estimate(field, tile=256)
    level, rms = np.abs(made.level - maps.level), np.abs(made.rms / maps.rms - 1.0)
    assert level.max() < 0.05
    assert rms.max() < 0.03


def test_blank_pixels_stay_blank(field):
    data = field.data.copy()
    data[:, 200:230] = np.nan
    data[300:] = np.nan
    made = estimate(field.replace(data=data))
    for plane in (made.level, made.rms):
        np.testing.assert_array_equal(np.isnan(plane), np.isnan(data))
    assert np.nanmean(made.rms) == pytest.approx(1.0, abs=0.1)


def test_torch_and_onnx_runtime_agree(field, maps):
    pytest.importorskip("torch")
    made = estimate(field, runtime="torch")
    np.testing.assert_allclose(made.level, maps.level, atol=1e-3)
    np.testing.assert_allclose(made.rms, maps.rms, rtol=1e-3)


@pytest.fixture
def looks(monkeypatch):
    """Sides of the frames that a network looks at in full."""
    made, find = [], learned.find_objects

    def counted(*given):
        made.append(given[0].image.shape)
        return find(*given)

    monkeypatch.setattr(learned, "find_objects", counted)
    return made


def test_a_run_looks_once_and_finds_the_same(field, maps, looks):
    pytest.importorskip("onnxruntime")
    route = Pipeline.from_route("yolo").replace(background="dense")
    with Context() as context:
        once = route.run_until("detection", field, context=context)
        assert looks == [SHAPE]
        assert context.take(learned._KEPT) is None
        assert context.notes["detection.shared"]
    np.testing.assert_array_equal(once.background.rms, maps.rms)
    alone = create_stage("detection", "yolo").detect(field, maps, context=Context())
    np.testing.assert_array_equal(once.detections.box, alone.box)
    np.testing.assert_array_equal(once.detections.score, alone.score)


def test_a_head_is_no_detector():
    assert "dense" not in shipped_detectors()
    with pytest.raises(InputError, match="do not say what network"):
        find_detector(find_background("dense"))
    with pytest.raises(InputError, match="not the weights of a background"):
        read_head(find_detector("yolo"))


def test_what_cannot_be_is_refused(field, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="tile"):
        RouteConfig.from_mapping({"background": {"name": "dense", "tile": 100}})
    with pytest.raises(InputError, match=r"nosuch: there is no such file .* shipped .*: dense\."):
        estimate(field, weights="nosuch")
    good = find_background("dense").read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(good[:-100])
    with pytest.raises(InputError, match="damaged"):
        estimate(field, weights=str(damaged))
    head = read_head(find_background("dense"))
    other = replace(head, spec=head.spec.model_copy(update={"trunk_sha256": "0" * 64}))
    monkeypatch.setattr(dense, "read_head", lambda path: other)
    with pytest.raises(InputError, match="trained on a backbone, yolo, that is not here or has"):
        estimate(field)
    other = replace(head, spec=head.spec.model_copy(update={"statistics": ("mean",)}))
    with pytest.raises(InputError, match="other statistics"):
        estimate(field)


def test_without_a_runtime_a_sentence_says_what_to_install(field, monkeypatch):
    find = learned.importlib.util.find_spec
    hidden = {"torch", "onnxruntime"}
    monkeypatch.setattr(
        learned.importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )
    stage = create_stage("background", "dense")
    with pytest.raises(ConfigurationError, match=r"needs ONNX Runtime or torch; install"):
        stage.estimate(field, context=Context())
