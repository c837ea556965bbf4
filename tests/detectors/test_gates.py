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

TINY = {"width": 32, "channels": [16, 24, 32], "blocks": 1, "encoder_layers": 1,
        "decoder_layers": 2, "attention_heads": 2, "queries": 40}  # fmt: skip
"""Of the networks that predict a set."""
DETR = TINY | {"width": 64, "channels": [16, 32, 48], "attention_heads": 4, "queries": 30}
HUB = {
    "model_type": "yolos", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 256, "patch_size": 8, "image_size": [64, 64], "num_detection_tokens": 20,
    "use_mid_position_embeddings": False,
}  # fmt: skip
"""As a checkpoint of the hub would describe it."""
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
    "detr": Gate("detr", DETR, None, steps=250, learning_rate=1.5e-3),
    "conditional_detr": Gate("conditional_detr", DETR, None, steps=200, learning_rate=2e-3),
    "deformable_detr": Gate(
        "deformable_detr", TINY | {"stride": 4}, None, steps=150, learning_rate=3e-3
    ),
    "rt_detr": Gate("rt_detr", TINY, None, steps=100, learning_rate=3e-3),
    "rt_detr_v2": Gate("rt_detr_v2", TINY, None, steps=120, learning_rate=3e-3),
    "d_fine": Gate("d_fine", TINY, None, steps=150, learning_rate=4e-3),
    "rf_detr": Gate("rf_detr", TINY | {"encoder_layers": 2}, None, steps=200, learning_rate=3e-3),
    "yolos": Gate(
        "yolos", DETR | {"encoder_layers": 4, "queries": 20}, None, steps=300, learning_rate=1e-3
    ),
    "huggingface": Gate("huggingface", {"configuration": HUB}, None, steps=300, learning_rate=1e-3),
    "efficientdet": Gate(
        "efficientdet",
        {"pyramid_repeats": 1, "head_layers": 1, "largest_stride": 16},
        None,
        steps=60,
    ),
    "semantic": Gate("semantic", steps=180, learning_rate=1.2e-2),
}
"""By head, of which some come in several kinds."""
FAMILIES = ("yolov8n", "yolov9t", "yolo12n", "yolo26n", "yolov8n-seg", "yolo11n-seg", "yolo26n-seg")
for name in FAMILIES:
    model = {"model": f"{name}.yaml", "stride_4": not name.startswith("yolov9")}
    GATES[name] = Gate("ultralytics", model, None, steps=500)
DEEP = {"name": "resnet101", "options": {"channels": [16, 24, 32, 48]}} | SMALL_LEVELS
GATES["mask_rcnn_resnet101"] = replace(GATES["mask_rcnn"], backbone=DEEP)
KIN = ("conditional_detr", "deformable_detr", "rt_detr_v2", "d_fine", "huggingface")
SLOW = (*FAMILIES, "mask_rcnn_resnet101", *KIN)
"""Those that take minutes, or have almost all in common with another."""


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
