"""Judging a trained detector again: the same figures, another sky, a new calibration."""
# ruff: noqa: E402

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from requirements import require

require("learned")

import torch
from safetensors.torch import load_file

from cyclades.pipeline.cli import main
from cyclades.pipeline.training.card import PUBLISHED_F1
from cyclades.pipeline.training.held_out import CLASSES, SCORES, evaluate, finish
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.detector import Detector, load_detector, save_detector
from cyclades.stages.networks.specification import Calibration, NetworkSpec
from cyclades.stages.networks.weights import find_detector, shipped_detectors

pytestmark = pytest.mark.usefixtures("one_processor")

TINY = {
    "name": "tiny",
    "network": {
        "backbone": {
            "name": "resnet18",
            "options": {"channels": [8, 16, 24, 32]},
            "channels": 16,
        },
        "head": {"name": "faster_rcnn", "options": {"hidden": 16}},
        "input": {"mesh": 32, "beam_pixels": [3.5, 8.0]},
    },
    "data": {"kind": "simulated", "preset": "natural", "seed": 3},
    "validation": {"final_samples": 4},
    "size": 128,
    "steps": 250,
}


@pytest.fixture
def finished(tmp_path):
    """A network of random numbers as a training would leave it."""
    torch.manual_seed(1)
    options = TrainingOptions.from_mapping(TINY)
    detector = Detector(options.specification())
    finish(options, detector)
    path = tmp_path / "tiny.safetensors"
    save_detector(detector, path)
    return path


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def sentence(capsys):
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert "\n" not in text, text
    return text


def test_a_detector_judged_again_has_the_figures_of_its_training(finished):
    before = finished.read_bytes()
    noted, again = load_detector(finished).spec, evaluate(finished)
    np.testing.assert_equal(again.training, noted.training)
    assert again.calibration == noted.calibration
    assert finished.read_bytes() == before
    assert [path.name for path in finished.parent.iterdir()] == [finished.name]


def test_the_command_prints_a_table_by_class(finished, capsys):
    assert cyclades("evaluate", finished, "--tiles", 6, "--preset", "complex") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: 6 held-out tiles"
    assert lines[1].split() == ["class", "objects", "AP50", "ceiling", "F1"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:] if len(line.split()) == 5}
    assert {"compact", "extended"} <= rows.keys()
    objects, precision, highest, _ = rows["compact"]
    assert int(objects) > 0
    # a network that learnt nothing, and tiles in which nearly all can be seen
    assert float(precision) < 0.3
    assert float(highest) > 0.8
    text = "\n".join(lines)
    for name in ("completeness at a probability of 0.5", "completeness at a reliability of 0.95",
                 "artefacts accepted for a thousand objects"):  # fmt: skip
        assert name in text


def test_the_command_tells_where_precision_is_lost(finished, capsys):
    cyclades("evaluate", finished, "--errors", "--tiles", 2)
    printed = capsys.readouterr().out
    for heading in ("AP50 gained without", "AP50 by S/N", "AP50 on tiles"):
        (start,) = (k for k, line in enumerate(printed.splitlines()) if line.startswith(heading))
        assert any(line.startswith("sources ") for line in printed.splitlines()[start:]), heading
    cyclades("evaluate", finished, "--errors", "--tiles", 2, "--json")
    told = json.loads(capsys.readouterr().out)
    errors = told["errors"]["by_class"]
    judged = {name: one for name, one in told["by_class"].items() if one.get("objects")}
    assert set(errors) == {"sources", *judged}
    for name, one in judged.items():
        assert errors[name]["ap50"] == pytest.approx(one["ap50"], abs=1e-12)
        assert errors[name]["wanted"] == one["objects"]
        assert errors[name]["ceiling"] == pytest.approx(one["ceiling"], abs=1e-12)
    for one in errors.values():
        assert all(-1e-12 <= gain <= 1.0 - one["ap50"] + 1e-12 for gain in one["gain"].values())
    # a network of random numbers errs
    assert sum(errors["sources"]["number"].values()) > 0


def test_another_configuration_gives_the_held_out_data(finished, tmp_path):
    other = TINY | {
        "validation": {"final_samples": 2, "data": {"kind": "simulated", "preset": "beam"}},
        "size": 96,
    }
    spec = evaluate(finished, TrainingOptions.from_mapping(other))
    assert spec.training["held_out"]["tiles"] == 2
    assert spec.training["held_out"]["data"][0]["preset"] == "beam"
    # ... and is not taken for how the detector was trained
    assert spec.training["configuration"]["size"] == 128


def test_a_new_calibration_changes_the_description_alone(finished, capsys):
    detector = load_detector(finished)
    old = Calibration(score_logit=(-9.0, 9.0), probability_logit=(8.9, 9.0))
    detector.spec = detector.spec.model_copy(update={"calibration": old})
    save_detector(detector, finished, half=True)
    before = load_file(finished)
    assert cyclades("evaluate", finished, "--calibrate") == 0
    assert "4 held-out tiles" in capsys.readouterr().out
    spec = load_detector(finished).spec
    assert spec.calibration != old
    after = load_file(finished)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert value.dtype == after[name].dtype
    names = sorted(path.name for path in finished.parent.iterdir())
    assert names == ["tiny.md", "tiny.safetensors"]
    card = finished.with_suffix(".md").read_text()
    assert "They are of the data above with another seed." in card
    rows = [line.split("|")[1:-1] for line in card.splitlines() if line.startswith("| ")]
    by_class = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 6}
    for name in set(by_class) & set(PUBLISHED_F1):
        assert by_class[name][-1] == f"{PUBLISHED_F1[name]:.3f}"
    noted = spec.training["by_class"]["compact"]
    assert by_class["compact"][:3] == [
        str(noted["objects"]), f"{noted['ap50']:.3f}", f"{noted['ceiling']:.3f}"
    ]  # fmt: skip


def test_a_decision_on_classes_leaves_the_scores(finished, monkeypatch):
    from cyclades.pipeline.training import held_out

    decision = load_detector(find_detector("yolo")).spec.decision
    monkeypatch.setattr(held_out, "fit_decision", lambda learned: decision)
    detector = load_detector(finished)
    old = Calibration(score_logit=(-9.0, 9.0), probability_logit=(8.9, 9.0))
    detector.spec = detector.spec.model_copy(update={"calibration": old})
    save_detector(detector, finished, half=True)
    assert cyclades("evaluate", finished, "--classes") == 0
    spec = load_detector(finished).spec
    assert (spec.calibration, spec.evidence, spec.decision) == (old, None, decision)


def test_the_card_says_where_tiles_of_other_data_came_from(finished):
    evaluate(finished, preset="beam", tiles=2, fit=(SCORES, CLASSES))
    card = finished.with_suffix(".md").read_text()
    assert "of other data than the training's" in card
    assert "preset: beam" in card
    assert "preset: natural" in card


def test_a_file_that_cannot_be_written_stays_as_it_was(finished, monkeypatch):
    from cyclades.pipeline.training import held_out

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    before = finished.read_bytes()
    monkeypatch.setattr(held_out, "save_file", full)
    assert cyclades("evaluate", finished, "--calibrate", "--tiles", 1) == 2
    assert finished.read_bytes() == before


def test_what_cannot_be_judged_is_refused_in_a_sentence(finished, tmp_path, capsys):
    assert cyclades("evaluate", tmp_path / "none.safetensors") == 2
    assert "there is no such file of weights" in sentence(capsys)
    assert cyclades("evaluate", finished, "--preset", "natral") == 2
    assert "no preset 'natral' (did you mean 'natural'?)" in sentence(capsys)
    config = tmp_path / "real.yaml"
    real = {"kind": "folder", "images": "*.fits", "labels": "labels.json"}
    config.write_text(yaml.safe_dump(TINY | {"data": real}))
    assert cyclades("evaluate", finished, "--preset", "natural", "--config", config) == 2
    assert "--preset changes simulated held-out data" in sentence(capsys)
    bare = load_detector(finished)
    bare.spec = NetworkSpec.model_validate(bare.spec.model_dump() | {"training": {}})
    save_detector(bare, tmp_path / "bare.safetensors")
    assert cyclades("evaluate", tmp_path / "bare.safetensors") == 2
    assert "give a configuration with --config" in sentence(capsys)


def test_a_shipped_detector_is_not_calibrated_in_its_place():
    for name in shipped_detectors():
        with pytest.raises(ConfigurationError, match="give the copy"):
            evaluate(name, fit=(CLASSES,))


def test_without_torch_a_sentence_says_what_to_install():
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from cyclades.pipeline.cli import main\nmain(['evaluate', 'yolo'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "cyclades: Evaluating needs the package 'torch'; install cyclades[learned]."
    )
