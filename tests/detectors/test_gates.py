"""Every detector learns eight tiles by heart, and is the same saved, loaded and run as a stage."""
# ruff: noqa: E402

from dataclasses import replace

import numpy as np
import pytest
from requirements import require

require("learned")

import torch

from cyclades.stages.networks.detector import load_detector, save_detector
from cyclades.stages.networks.heads.table import BUILT_IN, find_head
from tests.detectors.gates import SMALL_LEVELS, Gate, ap50, mask_overlaps, overfit, run_as_stage

GATES = {
    "mask_rcnn": Gate("mask_rcnn", {"hidden": 64, "mask_channels": 16}, steps=100),
    "faster_rcnn": Gate("faster_rcnn", {"hidden": 64}, steps=100),
    "vitdet": Gate(
        "vitdet",
        {"hidden": 64, "mask_channels": 16},
        {
            "name": "vit_tiny_patch16_224",
            "options": {
                "embed_dim": 48,
                "depth": 4,
                "num_heads": 3,
                "window": 2,
                "token_stride": 8,
            },
            "strides": [4, 8],
            "channels": 32,
        },
        steps=100,
    ),
    "yolo": Gate("yolo"),
    "yolo_seg": Gate("yolo_seg"),
    "ultralytics": Gate(
        "ultralytics", {"model": "yolo11n.yaml", "stride_4": True}, None, steps=250
    ),
}
"""By head, of which some come in several kinds."""
FAMILIES = ("yolov8n", "yolov9t", "yolo12n", "yolo26n", "yolov8n-seg", "yolo11n-seg", "yolo26n-seg")
for name in FAMILIES:
    model = {"model": f"{name}.yaml", "stride_4": not name.startswith("yolov9")}
    GATES[name] = Gate("ultralytics", model, None, steps=250)
DEEP = {"name": "resnet101", "options": {"channels": [16, 24, 32, 48]}} | SMALL_LEVELS
GATES["mask_rcnn_resnet101"] = replace(GATES["mask_rcnn"], backbone=DEEP)
SLOW = (*FAMILIES, "mask_rcnn_resnet101")
"""Those that take minutes."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Trainings of tiny networks are fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_head_has_its_gate():
    assert {gate.head for gate in GATES.values()} == BUILT_IN.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in GATES]
)
def test_a_detector_passes_its_gates(name, tmp_path):
    gate = GATES[name]
    for extra in find_head(gate.head).extras:
        require(extra)
    before = ap50(gate.detector())
    detector = overfit(gate)
    after = ap50(detector)
    assert after >= 0.9
    assert after - before >= 0.3
    if getattr(detector.head, "has_masks", False):
        assert np.median(mask_overlaps(detector)) >= 0.6

    path = tmp_path / "mine.safetensors"
    save_detector(detector, path)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(detector.predict(images), load_detector(path).predict(images),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one.boxes, other.boxes)
        torch.testing.assert_close(one.scores, other.scores)

    # as a stage: however many tiles are computed at a time
    one, other = (run_as_stage(gate.head, path, batch=batch) for batch in (1, 4))
    assert len(one) == len(other)
    assert len(one) > 0
    np.testing.assert_allclose(one.box, other.box, atol=0.02)
    np.testing.assert_allclose(one.score, other.score, atol=1e-3)
