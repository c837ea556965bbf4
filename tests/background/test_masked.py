"""The background that leaves out what a network takes for a source."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.background.masked import grown, object_pixels
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, CycladesError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections, Segments
from cyclades.stages.core.registry import create_stage
from cyclades.stages.detection import learned
from tests.skies import correlated_noise, sky_image, source_rows

MESHES = ("grid", "sep", "photutils")
SHAPE = (400, 440)


def estimate(name, image, context=None, sources=None, **parameters):
    stage = create_stage("background", name, **parameters)
    more = {} if sources is None else {"sources": sources}
    return stage.estimate(image, context=context or Context(), **more)


@pytest.fixture(scope="module")
def field():
    """Bright points in noise of unit rms at a level of 5."""
    rng = np.random.default_rng(3)
    y, x = (v.ravel().astype(float) for v in np.mgrid[30:380:45, 30:420:45])
    rows = source_rows(10 ** rng.uniform(1.0, 1.8, x.size), x, y)
    image, _ = sky_image(rows, SHAPE, correlated_noise(SHAPE, rng) + 5.0)
    return image, rows


@pytest.mark.parametrize("name", MESHES)
def test_a_source_as_faint_and_wide_as_the_level_is_left_out_where_it_is_known(name):
    shape = (512, 512)
    noise = correlated_noise(shape, np.random.default_rng(4))
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = gaussian_filter((np.hypot(x - 250, y - 260) < 60).astype(float), 3.0)
    image = SkyImage((noise + 1.5 * disc).astype(np.float32))
    known = disc > 0.02
    before = known.copy()
    inside = disc > 0.5
    options = {"box_size": 64}
    empty = estimate(name, SkyImage(noise.astype(np.float32)), sources=known, **options)
    blind = estimate(name, image, **options)
    told = estimate(name, image, sources=known, **options)
    assert blind.level[inside].mean() - empty.level[inside].mean() > 0.5
    np.testing.assert_allclose(told.level, empty.level, atol=0.1)
    np.testing.assert_allclose(told.rms, empty.rms, rtol=0.05)
    assert told.uncertain[inside].mean() > 0.5
    np.testing.assert_array_equal(known, before)


@pytest.mark.parametrize("name", MESHES)
def test_many_small_known_sources_leave_the_noise_as_it_is(name):
    """The rule for what is left between masked pixels must not eat the sky between them."""
    image = SkyImage(correlated_noise(SHAPE, np.random.default_rng(5)).astype(np.float32))
    known = np.zeros(SHAPE, bool)
    known[::14] = known[:, ::14] = True
    known = grown(known, 2)
    assert 0.5 < known.mean() < 0.65
    found = estimate(name, image, sources=known, box_size=100)
    assert np.abs(found.rms - 1.0).max() < 0.25
    assert found.rms.mean() == pytest.approx(1.0, abs=0.04)
    assert abs(found.level.mean()) < 0.1


@pytest.mark.parametrize("name", [*MESHES, "none", "maps"])
def test_a_mask_that_leaves_nothing_is_not_heeded(name, field):
    image, _ = field
    plain, full = estimate(name, image), estimate(name, image, sources=np.ones(SHAPE, bool))
    np.testing.assert_array_equal(plain.level, full.level)
    np.testing.assert_array_equal(plain.rms, full.rms)


def test_boxes_are_flooded_and_masks_are_taken_whole():
    shape = (40, 50)
    data = np.zeros(shape, np.float32)
    data[8:13, 8:13] = 4.0
    data[25:28, 31:33] = 4.0
    image = SkyImage(data)
    flat = Background(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    box = np.array([[5.0, 5.0, 15.0, 15.0], [28.0, 22.0, 35.0, 30.0]])
    boxes = Detections(shape, box, np.ones(2), np.full(2, -1))
    np.testing.assert_array_equal(object_pixels(boxes, image, flat, 1.5), data > 0)
    mask = np.flatnonzero(np.pad(np.ones((3, 3), bool), ((24, 13), (30, 17))))
    whole = np.flatnonzero(np.pad(np.ones((11, 11), bool), ((5, 24), (5, 34))))
    both = boxes.replace(segments=Segments.from_lists([whole, mask]))
    wanted = data > 0
    wanted[24:27, 30:33] = True
    np.testing.assert_array_equal(object_pixels(both, image, flat, 1.5), wanted)
    nothing = boxes.take(np.zeros(0, np.int64))
    assert not object_pixels(nothing, image, flat, 1.5).any()


def test_growth_is_a_disc():
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    y, x = np.mgrid[-10:11, -10:11]
    np.testing.assert_array_equal(grown(mask, 4), y**2 + x**2 <= 16)
    np.testing.assert_array_equal(grown(mask, 0), mask)


@pytest.mark.parametrize(
    ("estimator", "beam"), [("grid", True), ("grid", False), ("sep", True), ("photutils", True)]
)
def test_level_and_rms_under_sources(estimator, beam, field):
    pytest.importorskip("onnxruntime")
    image, rows = field
    image = image if beam else image.replace(psf=None)
    with Context() as context:
        found = estimate("masked", image, context, weights="yolo", estimator=estimator)
        # five sigma of the means of the twenty boxes in the field and less
        assert found.level.mean() == pytest.approx(5.0, abs=0.15)
        assert found.rms.mean() == pytest.approx(1.0, abs=0.06)
        notes = context.notes
    assert notes["background.detection.network"]["name"] == "yolo"
    assert "detection.network" not in notes
    beams = notes["background.masked_share"] * image.data.size / (np.pi * 4 * 5 / 4)
    assert len(rows) < beams < 12 * len(rows)


def test_blank_pixels_stay_blank(field):
    pytest.importorskip("onnxruntime")
    data = field[0].data.copy()
    data[:, 200:230] = np.nan
    data[300:] = np.nan
    found = estimate("masked", field[0].replace(data=data), weights="yolo")
    for plane in (found.level, found.rms):
        np.testing.assert_array_equal(np.isnan(plane), np.isnan(data))
    assert np.nanmean(found.rms) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"estimator": "maps"}, "estimator"),
        ({"options": {"box": 3}}, "background 'grid', box"),
        ({"options": {"box_beams": -1.0}}, "box_beams: Input should be greater than 0"),
        ({"coarse": [4, 2]}, "larger than the one before"),
        ({"tile": 100}, "tile"),
    ],
)
def test_what_cannot_be_is_refused_before_the_image_is_read(entry, message):
    with pytest.raises(ConfigurationError, match=message):
        RouteConfig.from_mapping({"background": {"name": "masked", **entry}})


def test_missing_weights_are_named(field):
    with pytest.raises(CycladesError, match="nosuch: there is no such file of weights"):
        estimate("masked", field[0], weights="nosuch")


@pytest.fixture
def looks(monkeypatch):
    """Sides of the frames that a network looks at in full."""
    made, find = [], learned.find_objects

    def counted(*given):
        made.append(given[0].image.shape)
        return find(*given)

    monkeypatch.setattr(learned, "find_objects", counted)
    return made


def test_a_run_looks_once_and_the_catalogue_is_the_same(field, looks):
    pytest.importorskip("onnxruntime")
    image = field[0]
    route = Pipeline.from_route("classical").replace(
        background={"name": "masked", "weights": "yolo"}, detection="yolo"
    )
    with Context() as context:
        once = route.run(image, context=context).catalogue
        assert looks == [SHAPE]
        assert context.take(learned._KEPT) is None
    stage, detection = route.config.background, route.config.detection
    with Context() as context:
        background = stage.estimate(image, context=context)
        kept = context.take(learned._KEPT)
        assert kept is not None
        found = detection.detect(image, background, context=context)
    assert looks == [SHAPE] * 3
    shared = route.run_until("detection", image).detections
    np.testing.assert_array_equal(found.box, shared.box)
    np.testing.assert_array_equal(found.score, shared.score)
    again = route.run(image.replace()).catalogue
    for name in once.components.colnames:
        np.testing.assert_array_equal(once.components[name], again.components[name])


def test_what_was_found_is_not_taken_for_another_look(field, looks):
    pytest.importorskip("onnxruntime")
    image = field[0]
    detection = create_stage("detection", "yolo", coarse=())
    others = {
        "another image": (image.replace(data=image.data + 1.0), detection),
        "an equal image": (image.replace(), detection),
        "other tiles": (image, create_stage("detection", "yolo", coarse=(), tile=256)),
        "other batches": (image, create_stage("detection", "yolo", coarse=(), batch=2)),
    }
    with Context() as context:
        for seen, stage in others.values():
            looks.clear()
            detection.detect(image, None, context=context, keep=True)
            stage.detect(seen, None, context=context)
            assert len(looks) == 2
        looks.clear()
        detection.detect(image, None, context=context, keep=True)
        create_stage("detection", "yolo", coarse=(), probability=0.9).detect(
            image, None, context=context
        )
        assert len(looks) == 1
