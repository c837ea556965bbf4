"""One suite over every registered stage: what the contracts ask of each, on awkward images."""

import pickle
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from pydantic import ValidationError

from cyclades.pipeline.config import RouteConfig
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import PARAMETERS
from cyclades.stages.core.registry import create_stage, list_stages, stage_class
from cyclades.stages.core.segments import complete_detections
from cyclades.stages.core.stage import (
    KINDS,
    BackgroundStage,
    CataloguingStage,
    CharacterizationStage,
    DetectionStage,
    RefinementStage,
)
from cyclades.stages.networks.heads.table import BUILT_IN
from tests.prompted import tiny_sam
from tests.requirements import require

SHAPE = (96, 128)
BEAM_VARIANCE = 4.0
SOURCES = ((30.3, 40.6, 60.0), (90.2, 20.1, 25.0), (95.8, 24.9, 30.0), (70.0, 75.5, 12.0))
"""x, y and peak in units of the noise; the second and third are a blend."""
NEIGHBOURS = {"background": "sep", "detection": "islands", "characterization": "gaussian"}
BASES = {
    "background": BackgroundStage,
    "detection": DetectionStage,
    "characterization": CharacterizationStage,
    "cataloguing": (CataloguingStage, RefinementStage),
}
REGISTERED = [(kind, name) for kind, names in list_stages().items() for name in names]
every_stage = pytest.mark.parametrize(("kind", "name"), REGISTERED)


def sky(shape):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-2 / 3600, 2 / 3600]
    wcs.wcs.radesys = "ICRS"
    return wcs


def make_image(data):
    wcs = sky(data.shape)
    return SkyImage(data, wcs=wcs, psf=PointSpread(np.eye(2) * BEAM_VARIANCE, wcs))


@cache
def field():
    """Noise correlated like the beam, a level of 3, and four sources."""
    frequency = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None, :])
    kernel = np.exp(-(np.pi**2) * BEAM_VARIANCE * frequency**2)
    noise = np.random.default_rng(8).normal(size=SHAPE)
    noise = np.fft.irfft2(np.fft.rfft2(noise) * kernel, s=SHAPE)
    data = noise / noise.std() + 3.0
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for x0, y0, peak in SOURCES:
        data += peak * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / BEAM_VARIANCE)
    return data.astype(np.float32)


def strip():
    data = field().copy()
    data[:, 50:58] = np.nan
    data[:7] = np.nan
    return data


IMAGES = {
    "field": field,
    "blank": lambda: np.full((48, 40), np.nan, np.float32),
    "strip of NaN": strip,
    "constant": lambda: np.full((48, 40), 2.5, np.float32),
    "zero": lambda: np.zeros((48, 40), np.float32),
    "one pixel": lambda: np.ones((1, 1), np.float32),
    "one row": lambda: np.random.default_rng(1).normal(size=(1, 80)).astype(np.float32),
}
every_image = pytest.mark.parametrize("which", IMAGES)


UNTRAINED = BUILT_IN.keys() - {"mask_rcnn", "faster_rcnn", "yolo"}
"""Heads of which no detector ships."""
NETWORKS = {
    ("background", "masked"), ("background", "dense"), ("detection", "mask_rcnn"),
    ("detection", "faster_rcnn"), ("detection", "yolo"), ("characterization", "learned"),
}  # fmt: skip
"""Stages that run a network that ships."""


@cache
def untrained(head):
    """Weights of a small detector of a kind of which none ships: its first numbers."""
    for extra in BUILT_IN[head].extras:
        require(extra)
    from cyclades.stages.networks.detector import save_detector
    from tests.detectors.gates_table import GATES

    path = Path(tempfile.mkdtemp(prefix="cyclades-untrained-")) / f"{head}.safetensors"
    save_detector(GATES[head].detector().eval(), path)
    return path


@pytest.fixture
def build(tmp_path):
    """Make a stage with its defaults; one that must be told something is told it here."""

    def make(kind, name, image):
        if (kind, name) == ("detection", "promptable"):
            require("learned")
            require("transformers")
            return create_stage(kind, name, weights=str(tiny_sam(tmp_path / "sam")))
        if (kind, name) in NETWORKS:
            require("onnx")
        if kind == "detection" and name in UNTRAINED:
            return create_stage(kind, name, weights=str(untrained(name)))
        if (kind, name) != ("background", "maps"):
            return create_stage(kind, name)
        paths = {}
        for label, value in (("level", 3.0), ("rms", 1.0)):
            paths[label] = str(tmp_path / f"{label}{image.shape}.fits")
            plane = np.where(np.isnan(image.data), np.nan, value).astype(np.float32)
            fits.PrimaryHDU(plane).writeto(paths[label], overwrite=True)
        return create_stage(kind, name, **paths)

    return make


def neighbours(kind, image, context):
    """What the simplest real stages before `kind` make of an image."""
    made = [image]
    if kind == "background":
        return made
    made.append(create_stage("background", "sep").estimate(image, context=context))
    if kind == "detection":
        return made
    found = create_stage("detection", "islands").detect(*made, context=context)
    made.append(complete_detections(*made, found, context=context))
    if kind == "characterization":
        return made
    return [*made, create_stage("characterization", "gaussian").measure(*made, context=context)]


METHODS = dict(zip(KINDS, ("estimate", "detect", "measure", "build"), strict=True))


def apply(stage, image):
    """Run a stage on an image behind real neighbours; return what it was given and what it made."""
    with Context(seed=3) as context:
        if isinstance(stage, RefinementStage):
            pytest.skip("a refinement has no image of its own")
        given = neighbours(stage.kind, image, context)
        return given, getattr(stage, METHODS[stage.kind])(*given, context=context)


def content(made):
    """Everything that a product holds, as comparable bytes."""
    if hasattr(made, "tables"):
        made = [{name: np.asarray(t[name]) for name in t.colnames} for t in made.tables.values()]
    return pickle.dumps(made)


@every_stage
def test_declaration(kind, name):
    cls = stage_class(kind, name)
    assert issubclass(cls, BASES[kind])
    assert (cls.kind, cls.name) == (kind, name)
    assert cls.summary
    assert cls.__doc__
    assert cls.model_config["frozen"]
    assert cls.model_config["extra"] == "forbid"
    for parameter, field_info in cls.model_fields.items():
        assert field_info.description, f"{parameter} has no description"
        assert "unit" in field_info.json_schema_extra, f"{parameter} is not made by parameter()"


@every_stage
def test_unknown_parameters_and_changes_are_refused(kind, name, build):
    stage = build(kind, name, make_image(field()))
    with pytest.raises(ValidationError):
        type(stage)(**stage.model_dump(), nonsense=1)
    with pytest.raises(ValidationError):
        setattr(stage, next(iter(type(stage).model_fields), "nonsense"), 1)


@every_stage
def test_parameters_round_trip_through_yaml_and_pickle(kind, name, build):
    stage = build(kind, name, make_image(field()))
    changed = [stage]
    for parameter in type(stage).model_fields:
        value = getattr(stage, parameter)
        if isinstance(value, float):
            try:
                changed.append(type(stage)(**{**stage.model_dump(), parameter: value * 1.0625}))
            except ValidationError:
                continue
    for one in changed:
        if isinstance(one, RefinementStage):
            section = ["components", one]
        else:
            section = [one] if kind == "cataloguing" else one
        others = {"characterization": "psf"} if kind == "cataloguing" else {}
        config = RouteConfig.from_mapping({**others, kind: section})
        assert RouteConfig.from_mapping(yaml.safe_load(config.to_yaml())) == config
        assert pickle.loads(pickle.dumps(one)) == one


@every_stage
@every_image
def test_contract(kind, name, which, build):
    image = make_image(IMAGES[which]())
    before = image.data.tobytes()
    stage = build(kind, name, image)
    given, made = apply(stage, image)
    ignorant = kind == "detection" and name in UNTRAINED
    (check_what_was_found if ignorant else CHECKS[kind])(given, made)
    assert image.data.tobytes() == before, "a stage changed its input"
    if kind == "characterization":
        assert set(made.extra) == set(stage.adds)


@every_stage
def test_big_endian_input_changes_nothing(kind, name, build):
    native, swapped = make_image(field()), make_image(field().astype(">f4"))
    stage = build(kind, name, native)
    assert content(apply(stage, native)[1]) == content(apply(stage, swapped)[1])


@every_stage
def test_two_runs_give_the_same_bytes(kind, name, build):
    stage = build(kind, name, make_image(strip()))
    made = [content(apply(stage, make_image(strip()))[1]) for _ in range(2)]
    assert made[0] == made[1]


def check_background(given, background):
    image = given[0]
    blank = np.isnan(image.data)
    for plane in (background.level, background.rms):
        assert plane.dtype == np.float32
        assert plane.shape == image.shape
        assert np.isnan(plane[blank]).all()
        assert not np.isinf(plane).any()
    rms = background.rms[np.isfinite(background.rms)]
    assert (rms > 0).all()
    if image.shape == SHAPE:
        assert np.isfinite(background.rms[~blank]).all()
        assert 0.6 < np.median(rms) < 1.6


def check_detection(given, detections):
    check_what_was_found(given, detections)
    if given[0].shape != SHAPE:
        return
    assert len(detections.islands) <= 8
    centre = 0.5 * (detections.box[:, :2] + detections.box[:, 2:])
    for x, y, _ in SOURCES[:1] + SOURCES[3:]:
        assert np.hypot(*(centre - (x, y)).T).min() < 3


def check_what_was_found(given, detections):
    """What holds whether or not a network has learned anything."""
    image = given[0]
    n = len(detections)
    assert detections.shape == image.shape
    assert detections.box.shape == (n, 4)
    assert np.isfinite(detections.box).all()
    assert (detections.box[:, :2] <= detections.box[:, 2:]).all()
    assert ((detections.score >= 0) & (detections.score <= 1)).all()
    assert (detections.parent < np.arange(n)).all()
    assert set(np.unique(detections.signs)) <= {-1, 1}
    if detections.segments is not None:
        assert len(detections.segments) == n
        check_segments(image, detections)
    if detections.summit is not None:
        summit = detections.summit[detections.is_leaf]
        box = detections.box[detections.is_leaf]
        assert np.isfinite(summit).all()
        assert ((summit >= box[:, :2] - 1) & (summit <= box[:, 2:] + 1)).all()
    values = image.data[np.isfinite(image.data)]
    if not values.size or np.ptp(values) == 0:
        assert n == 0, "something was found where there is no contrast"


def check_segments(image, detections):
    flat = detections.segments.indices
    assert ((flat >= 0) & (flat < image.data.size)).all()
    assert not np.isnan(image.data.ravel()[flat]).any(), "a segment holds a blank pixel"
    for island in detections.islands:
        children = np.flatnonzero(detections.parent == island)
        if len(children):
            pixels = np.concatenate([detections.segments[int(child)] for child in children])
            assert np.array_equal(np.sort(pixels), np.sort(detections.segments[int(island)]))


def check_characterization(given, components):
    image, _, detections = given
    n = len(components)
    assert sorted(components.detection) == sorted(detections.leaves)
    assert np.array_equal(components.island, detections.island_of[components.detection])
    assert components.covariance.shape == (n, len(PARAMETERS), len(PARAMETERS))
    assert len(components.fit_type) == n
    for name in ("peak", "x", "y", "total", "flags", "chi2", "n_pixels", "beam_flux"):
        assert getattr(components, name).shape == (n,)
    assert np.isfinite(components.peak + components.x + components.y + components.total).all()
    assert ((components.x > -1) & (components.x < image.shape[1])).all()
    assert ((components.y > -1) & (components.y < image.shape[0])).all()
    for name in PARAMETERS:
        error = components.error(name)
        assert (error[np.isfinite(error)] >= 0).all()
    if image.shape == SHAPE:
        nearest = np.hypot(components.x - SOURCES[0][0], components.y - SOURCES[0][1]).argmin()
        # four times the error of the peak, which is the noise
        assert abs(components.peak[nearest] - SOURCES[0][2]) < 4.0 + 0.05 * SOURCES[0][2]


def check_catalogue(given, catalogue):
    detections, components = given[2:]
    tables = catalogue.tables
    assert list(tables) == ["components", "sources", "islands"]
    assert len(tables["components"]) == len(components)
    assert len(tables["islands"]) == len(detections.islands)
    numbers = {}
    for table, key in zip(tables, ("component_id", "source_id", "island_id"), strict=True):
        numbers[key] = set(np.asarray(tables[table][key]).tolist())
        assert len(numbers[key]) == len(tables[table]), f"{key} is not unique"
    for key in ("source_id", "island_id"):
        assert set(np.asarray(tables["components"][key]).tolist()) <= numbers[key]


CHECKS = {
    "background": check_background,
    "detection": check_detection,
    "characterization": check_characterization,
    "cataloguing": check_catalogue,
}
