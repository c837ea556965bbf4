"""The compiled network: the same detections, few shapes, no harm where it cannot be compiled."""

import logging

import numpy as np
import pytest

from tests.requirements import require

# ruff: noqa: E402  (what follows can be imported with these extras only)
require("learned")

import torch

from cyclades.stages.networks.detector import Detector, save_detector
from cyclades.stages.networks.runtime import TorchDetector, compiled_predict
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, NetworkSpec

SIDE = 64


def network(head, folder):
    """A small detector with random weights, from a file."""
    torch.manual_seed(3)
    backbone = BackboneSpec(
        name="resnet18", options={"channels": [8, 8, 8, 8]}, strides=(4, 8), channels=8
    )
    path = folder / "small.safetensors"
    # untrained scores are below any floor
    parts = HeadSpec(name=head, options={"score_floor": 0.0})
    save_detector(Detector(NetworkSpec(name="small", backbone=backbone, head=parts)), path)
    return TorchDetector(path)


def tiles(number, side=SIDE):
    return np.random.default_rng(number).normal(size=(number, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("head", ["yolo", "yolo_seg", "mask_rcnn"])
def test_a_compiled_network_finds_the_same(head, tmp_path):
    if head.startswith("yolo"):
        require("yolo")
    plain = network(head, tmp_path)
    images = torch.from_numpy(tiles(2))
    wanted = plain.detector.predict(images)
    found = compiled_predict(plain.detector, "aot_eager")(images)
    assert len(wanted[0].boxes) > 0
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=1e-3)
        assert (one.masks is None) == (other.masks is None)


def test_one_shape_is_compiled_for_few_numbers_of_tiles(tmp_path):
    compiled = network("mask_rcnn", tmp_path)
    assert compiled.worth_preparing is None  # not on a CPU
    shapes, made = set(), ((SIDE, SIDE), (SIDE + 32, SIDE + 32))

    def backend(module, inputs):
        shapes.update(tuple(i.shape) for i in inputs if i.shape[-2:] in made)
        return module.forward

    plain = network("mask_rcnn", tmp_path)
    compiled.prepare((SIDE, SIDE), backend)
    for number in (4, 3, 1):
        found, wanted = compiled.detect(tiles(number)), plain.detect(tiles(number))
        assert len(found) == len(wanted) == number
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    assert shapes == {(4, 3, SIDE, SIDE), (1, 3, SIDE, SIDE)}
    compiled.detect(tiles(2, SIDE + 32))
    assert len(shapes) == 2


def test_a_network_that_cannot_be_compiled_runs_without(tmp_path, caplog):
    def broken(module, inputs):
        raise RuntimeError("no compiler is installed")

    compiled, plain = (network("mask_rcnn", tmp_path) for _ in range(2))
    compiled.prepare((SIDE, SIDE), broken)
    with caplog.at_level(logging.WARNING, "cyclades.networks"):
        found = [compiled.detect(tiles(2)) for _ in range(2)]
    assert [record.message for record in caplog.records if "without" in record.message] == [
        caplog.records[0].message
    ]
    assert "no compiler is installed" in caplog.text
    for several in found:
        for one, other in zip(several, plain.detect(tiles(2)), strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
