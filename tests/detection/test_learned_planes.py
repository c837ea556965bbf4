"""A network of several planes as a detection on an image set."""

import numpy as np
import pytest

from cyclades.pipeline.simulation.optical import simulate_optical
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.inputs import normalise
from cyclades.stages.networks.specification import (
    BackboneSpec,
    HeadSpec,
    InputSpec,
    NetworkSpec,
    PretrainedSpec,
)
from cyclades.stages.networks.tiles import Frame

torch = pytest.importorskip("torch")

INPUT = InputSpec(planes=("z", "r", "g"), stretches=("asinh", "bright"), beam_pixels=(3.0, 6.5))
SPEC = NetworkSpec(
    name="planes",
    classes=("star", "galaxy"),
    input=INPUT,
    backbone=BackboneSpec(
        name="resnet18", options={"channels": [8, 8, 8, 8]}, strides=(4, 8), channels=8
    ),
    head=HeadSpec(options={"hidden": 8, "mask_channels": 8, "proposals": 40, "score_floor": 0.0}),
)


@pytest.fixture(scope="module")
def field():
    return simulate_optical(OpticalOptions(size=200), seed=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from cyclades.stages.networks.detector import Detector, save_detector

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "planes.safetensors"
    save_detector(Detector(SPEC), path)
    return path


def detect(weights, images, field, detection="r"):
    stage = create_stage("detection", "mask_rcnn", weights=str(weights), probability=0.01)
    with Context() as context:
        return stage.detect_planes(images, field.backgrounds, detection, context=context)


def test_planes_are_channels_and_classes_come_out(weights, field):
    found = detect(weights, field.images, field)
    assert found.classes == ("star", "galaxy")
    assert len(found.box) > 0
    np.testing.assert_allclose(found.class_probabilities.sum(1), 1.0)
    assert len(found.segments) == len(found.box)
    # the order of the set is of no matter, and planes that the network has no use for neither
    mixed = {name: field.images[name] for name in ("r", "z", "g")}
    mixed["i"] = field.images["r"].replace(data=np.zeros(field.images["r"].shape, np.float32))
    again = detect(weights, mixed, field, detection="weighted")
    np.testing.assert_array_equal(again.box, found.box)
    # what a plane shows does matter
    other = {**field.images, "g": field.images["r"]}
    assert not np.array_equal(detect(weights, other, field).score, found.score)


def test_a_frame_of_planes_has_them_in_the_order_of_the_network(field):
    planes = [field.images[name] for name in INPUT.planes]
    frame = Frame.of_planes(planes, field.images["r"], SPEC)
    assert frame.scale == 1.0
    cut = frame.cut(Box(0, 200, 0, 200))
    assert cut.shape == (3, 200, 200)
    for plane, image in zip(cut, planes, strict=True):
        np.testing.assert_array_equal(plane, normalise(image.data, INPUT.mesh))
    wide = [
        image.replace(psf=PointSpread(4.0 * image.psf.covariance, image.psf.wcs))
        for image in planes
    ]
    sizes = [image.psf.size for image in wide]
    scale = Frame.of_planes(wide, wide[1], SPEC).scale
    assert scale == pytest.approx(6.5 / np.mean(sizes))
    assert Frame.of_planes(wide, wide[1], SPEC).cut(Box(0, 32, 32, 64)).shape == (3, 32, 32)


def test_what_the_network_lacks_is_said(weights, field):
    few = {name: field.images[name] for name in "gr"}
    with pytest.raises(InputError, match=r"take the planes z, r, g, and the set has no z"):
        detect(weights, few, field)
    stage = create_stage("detection", "mask_rcnn", weights=str(weights))
    with Context() as context, pytest.raises(InputError, match="give an image of each"):
        stage.detect(field.images["r"], field.backgrounds["r"], context=context)


def test_networks_of_one_image_get_the_detection_plane(field):
    stage = create_stage("detection", "mask_rcnn")
    with Context() as context:
        planes = stage.detect_planes(field.images, field.backgrounds, "r", context=context)
        alone = stage.detect(field.images["r"], field.backgrounds["r"], context=context)
    np.testing.assert_array_equal(planes.box, alone.box)


def test_descriptions_from_before_there_were_planes(tmp_path):
    record = SPEC.model_dump(mode="json")
    del record["input"]["planes"]
    assert NetworkSpec.model_validate(record).input.channels == 2
    pretrained = PretrainedSpec(input=INPUT)
    backbone = pretrained.backbone
    assert pretrained.mismatch(backbone.name, backbone.options, INPUT) is None
    wrong = pretrained.mismatch(
        backbone.name, backbone.options, INPUT.model_copy(update={"planes": ("g", "r", "z")})
    )
    assert wrong[1] == "set network.input.planes to [z, r, g]"
