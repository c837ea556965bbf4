"""Every detector learns eight tiles by heart, and is the same saved, loaded and run as a stage."""
# ruff: noqa: E402

import numpy as np
import pytest
from requirements import require

require("learned")

import torch

from cyclades.stages.core.context import Context
from cyclades.stages.core.registry import create_stage
from cyclades.stages.networks.detector import load_detector, save_detector
from cyclades.stages.networks.heads.table import BUILT_IN, detection_of, find_head
from tests.detectors.gates import Gate, ap50, mask_overlaps, overfit
from tests.skies import correlated_noise, sky_image, source_rows

GATES = {
    "mask_rcnn": Gate("mask_rcnn", {"hidden": 64, "mask_channels": 16}, steps=100),
    "faster_rcnn": Gate("faster_rcnn", {"hidden": 64}, steps=100),
    "yolo": Gate("yolo"),
    "yolo_seg": Gate("yolo_seg"),
    "ultralytics": Gate(
        "ultralytics", {"model": "yolo11n.yaml", "stride_4": True}, None, steps=250
    ),
    "efficientdet": Gate(
        "efficientdet",
        {"pyramid_repeats": 1, "head_layers": 1, "largest_stride": 16},
        None,
        steps=60,
    ),
    "semantic": Gate("semantic", steps=180, learning_rate=1.2e-2),
}
"""By head; those that take minutes are marked slow."""
SLOW: tuple[str, ...] = ()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Trainings of tiny networks are fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_head_has_its_gate():
    assert GATES.keys() == BUILT_IN.keys()


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
    rng = np.random.default_rng(4)
    y, x = (v.ravel() for v in np.mgrid[40:460:60, 40:460:60])
    shape = (500, 500)
    image, background = sky_image(source_rows(30.0, x, y), shape, correlated_noise(shape, rng))
    made = []
    for batch in (1, 4):
        with Context() as context:
            stage = create_stage(
                "detection", detection_of(gate.head), weights=str(path), tile=192, batch=batch,
                coarse=(), probability=0.01,
            )  # fmt: skip
            made.append(stage.detect(image, background, context=context))
    one, other = made
    assert len(one) == len(other)
    assert len(one) > 0
    np.testing.assert_allclose(one.box, other.box, atol=0.02)
    np.testing.assert_allclose(one.score, other.score, atol=1e-3)
