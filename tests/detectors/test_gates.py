"""Every detector learns eight tiles by heart, and is the same saved, loaded and run as a stage."""
# ruff: noqa: E402

import numpy as np
import pytest
from requirements import require

require("learned")

import torch

from cyclades.stages.networks.detector import load_detector, save_detector
from cyclades.stages.networks.heads.table import BUILT_IN, find_head
from tests.detectors.gates import ap50, mask_overlaps, overfit, run_as_stage
from tests.detectors.gates_table import GATES, SLOW


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
