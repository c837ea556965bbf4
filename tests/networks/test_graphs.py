"""Graphs for ONNX Runtime: tiles of any size where the network allows it, one size elsewhere."""

import numpy as np
import pytest

from tests.requirements import require

# ruff: noqa: E402  (what follows can be imported with these extras only)
require("learned")
require("yolo")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import torch

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.detector import Detector, save_detector
from cyclades.stages.networks.export import export_detector
from cyclades.stages.networks.graphs import GraphDetector
from cyclades.stages.networks.runtime import TorchDetector
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, NetworkSpec


def network(head, **options):
    torch.manual_seed(2)
    backbone = BackboneSpec(
        name="resnet18", options={"channels": [8, 8, 8, 8]}, strides=(4, 8), channels=8
    )
    detector = Detector(
        NetworkSpec(name="small", backbone=backbone, head=HeadSpec(name=head, options=options))
    )
    # normalisation that is none would hide a wrong one
    for name, value in detector.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2)
    return detector.eval()


def test_a_yolo_with_masks_takes_tiles_of_any_size(tmp_path):
    path = tmp_path / "small.safetensors"
    save_detector(network("yolo_seg"), path)
    torch_network = TorchDetector(path)
    detector = torch_network.detector
    export_detector(detector, path)
    graph = GraphDetector(path)
    assert (graph.size, graph.stride, graph.whole) == (None, 8, False)
    assert (torch_network.stride, torch_network.whole) == (8, False)
    rng = np.random.default_rng(1)
    for shape in ((1, 3, 64, 96), (2, 3, 104, 32)):
        images = rng.normal(size=shape).astype(np.float32)
        # all that is computed, since untrained scores are too alike to order detections by
        with torch.no_grad():
            wanted = detector.head.dense(detector.features(torch.from_numpy(images)))
        found = graph._first.run(None, {"images": images})
        assert len(found) == len(wanted) == 4
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-3)
        assert len(graph.detect(images)) == len(images)


def test_tiles_of_an_rcnn_are_whole():
    detector = network("faster_rcnn")
    assert not detector.takes_any_size


def test_a_side_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"multiples of 8 pixels, not 100; change --tile"):
        export_detector(network("yolo"), tmp_path / "small.safetensors", 100)
