"""A head of another package is trained, calibrated and run like those of this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import require

require("learned")

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"

USE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from cyclades.stages.core.registry import list_stages
from cyclades.stages.networks.detector import load_detector, save_detector
from cyclades.stages.networks.heads.table import detection_of
from tests.detectors.gates import Gate, ap50, overfit, run_as_stage

assert "centres" in list_stages()["detection"]
assert detection_of("centres") == "centres"
gate = Gate("centres", {{"hidden": 32}}, steps=150)
assert ap50(gate.detector()) < 0.3
detector = overfit(gate)
assert ap50(detector) >= 0.9, ap50(detector)
save_detector(detector, Path("mine.safetensors"))
assert type(load_detector("mine.safetensors").head).__module__ == "centres"
assert len(run_as_stage("centres", Path("mine.safetensors"), batch=2)) > 0
"""

TRAINING = """
name: mine
network:
  backbone: {name: resnet18, options: {channels: [8, 16, 24, 32]}, strides: [4, 8], channels: 16}
  head: {name: centres, options: {hidden: 16}}
  input: {mesh: 32, beam_pixels: [3.5, 8.0]}
data: {kind: simulated, preset: natural, seed: 3}
validation: {samples: 1, final_samples: 2}
size: 64
batch: 2
steps: 2
steps_a_checkpoint: 2
warm_up: 1
threads: 1
"""


@pytest.fixture
def package(tmp_path):
    """The guide's package, as pip would install it; what runs a command that sees it."""
    code, line = (
        re.search(f"```{kind}\n(.*?)```", GUIDE.read_text("utf-8"), re.S)[1]
        for kind in ("python", "toml")
    )
    (tmp_path / "centres.py").write_text(code, "utf-8")
    about = tmp_path / "centres-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: centres\nVersion: 1.0\n")
    group, entry = re.search(r'entry-points\."(.*?)"\]\n(.*)', line).groups()
    (about / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")

    def run(*arguments):
        paths = [str(tmp_path), *sys.path]
        # as many threads as the others, and no GPU
        more = {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1"}  # fmt: skip
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=os.environ | more, text=True,
            capture_output=True, check=False, timeout=280,
        )  # fmt: skip

    return run


def test_the_guides_detector_passes_the_gates(package):
    tests = Path(__file__).resolve().parents[1]
    made = package("-c", USE.format(path=[str(tests), str(tests.parent)]))
    assert made.returncode == 0, made.stderr


def test_the_guides_detector_is_trained_and_run_by_the_commands(package, tmp_path):
    (tmp_path / "mine.yaml").write_text(TRAINING)
    made = package("-m", "cyclades", "train", "--config", "mine.yaml", "--output", "run")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "run" / "mine.safetensors").is_file()
    assert "detection=centres" in (tmp_path / "run" / "mine.md").read_text("utf-8")
    told = package("-m", "cyclades", "weights", "run/mine.safetensors")
    assert told.returncode == 0, told.stderr


def test_the_guides_detector_has_fifty_lines():
    code = re.search("```python\n(.*?)```", GUIDE.read_text("utf-8"), re.S)[1]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 50
