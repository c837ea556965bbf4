"""Training: the same after an interruption, true to its configuration, and it learns."""
# ruff: noqa: E402

import csv
import signal

import pytest
import yaml
from requirements import require

require("learned")

import torch
from safetensors.torch import load_file

from cyclades.pipeline.cli import main
from cyclades.pipeline.training import trainer
from cyclades.pipeline.training.evaluation import completeness_at, figures, judge
from cyclades.pipeline.training.loading import collate
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.pipeline.training.trainer import Training, held_out_data, start_detector, train
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.detector import Detector, load_detector
from tests.detectors.gates import crowded

pytestmark = [
    pytest.mark.usefixtures("one_processor"),
    # Lightning's remarks on folders that exist and on modules that are frozen
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BACKBONE = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}, "channels": 16}
TINY = {
    "name": "tiny",
    "network": {
        "backbone": BACKBONE,
        "head": {"name": "faster_rcnn", "options": {"hidden": 16}},
        "input": {"mesh": 32, "beam_pixels": [3.5, 8.0]},
    },
    "data": {"kind": "simulated", "preset": "natural", "seed": 3},
    "validation": {"samples": 2, "final_samples": 4},
    "size": 64,
    "batch": 2,
    "steps": 4,
    "steps_a_checkpoint": 2,
    "warm_up": 1,
    "precision": "float32",
    "threads": 1,
    "seed": 7,
}


def options(**changes):
    return TrainingOptions.from_mapping(TINY | changes)


def run(given, folder, **more):
    return train(given, folder, progress=False, **more)


def same(one, other):
    same_weights(one, other)
    assert load_detector(one).spec == load_detector(other).spec


def same_weights(one, other):
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def curve(folder):
    """Rows of the logs of a run by step; no step was logged as two different ones."""
    rows = {}
    for path in (folder / "log").glob("metrics*.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            assert rows.setdefault(row["step"], row) == row
    return rows


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Weights of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return run(options(), folder)


def start(weights, mode):
    """Options of a training that goes on from weights."""
    return {
        "network": TINY["network"] | {"start": str(weights)},
        "adaptation": {"mode": mode, "rank": 2},
    }


@pytest.mark.parametrize("mode", ["scratch", "adapters"])
def test_an_interrupted_training_ends_as_one_that_was_not(first, tmp_path, monkeypatch, mode):
    given, wanted = options(), first
    if mode == "adapters":
        given = options(**start(first, mode))
        wanted = run(given, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        step = Training.training_step

        def failing(self, batch, index):
            # in the second stretch, after a step that no checkpoint holds
            if self.global_step == 3:
                raise RuntimeError("the power is gone")
            return step(self, batch, index)

        patch.setattr(Training, "training_step", failing)
        with pytest.raises(RuntimeError, match="the power is gone"):
            run(given, folder)
    assert not (folder / "tiny.safetensors").exists()
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Training,
            "training_step",
            lambda self, batch, index: steps.append(self.global_step) or step(self, batch, index),
        )
        weights = run(given, folder)
    assert steps == [2, 3]
    same(weights, wanted)
    assert curve(folder) == curve(wanted.parent)
    # a training that has ended is not trained further
    same(run(given, folder), wanted)


def test_weights_do_not_depend_on_how_often_checkpoints_are_written(first, tmp_path):
    # nor, so, on the tiles of the curves; and no stretch repeats the tiles of the one before
    same_weights(run(options(steps_a_checkpoint=4), tmp_path), first)


def test_the_folder_of_a_training(first):
    folder = first.parent
    kept = TrainingOptions.from_mapping(yaml.safe_load((folder / "training.yaml").read_text()))
    assert kept == options()
    card = (folder / "tiny.md").read_text()
    assert "Licence of the weights: BSD-3-Clause." in card
    assert "Trained for 4 steps of 2 tiles of 64 x 64 pixels, seed 7" in card
    assert (folder / "curves.png").stat().st_size > 1000
    assert sorted(curve(folder)) == ["1", "3"]
    spec = load_detector(first).spec
    assert spec.training["steps"] == 4
    assert spec.training["configuration"]["seed"] == 7
    assert "completeness_at_95" in spec.training["metrics"]


def test_another_configuration_needs_another_folder_or_a_restart(first, tmp_path):
    folder = tmp_path / "run"
    other = options(learning_rate=3e-3)
    run(other, folder)
    before = (folder / "tiny.safetensors").read_bytes()
    with pytest.raises(ConfigurationError, match=r"another configuration.*--restart"):
        run(options(), folder)
    assert (folder / "tiny.safetensors").read_bytes() == before
    weights = run(options(), folder, restart=True)
    same(weights, first)
    assert weights.read_bytes() != before
    assert curve(folder) == curve(first.parent)


def test_a_frozen_trunk_stays_as_it_was(first, tmp_path):
    before = load_file(first)
    after = load_file(run(options(**start(first, "frozen")), tmp_path))
    assert before.keys() == after.keys()
    # parameters and statistics of batch normalisation
    trunk = [name for name in before if name.startswith("backbone.trunk.")]
    assert len(trunk) > 50
    for name in trunk:
        assert torch.equal(before[name], after[name]), name
    rest = [name for name in before if name.endswith("weight") and name not in trunk]
    changed = [name for name in rest if not torch.equal(before[name], after[name])]
    assert changed == rest


def test_a_training_starts_from_the_weights_that_it_names(first):
    detector = start_detector(options(**start(first, "fine_tuned")))
    assert detector.training
    for name, value in load_file(first).items():
        assert torch.equal(detector.state_dict()[name], value), name
    # ... and those of another network are refused
    network = TINY["network"] | {"start": str(first), "classes": ["source"]}
    with pytest.raises(InputError, match="do not fit"):
        start_detector(options(network=network))


def test_held_out_tiles_are_no_tiles_of_the_training():
    given = options()
    seeds = {given.data.seed, held_out_data(given, 1).seed, held_out_data(given, 2).seed}
    assert len(seeds) == 3
    own = {"kind": "simulated", "preset": "beam", "seed": 9}
    given = options(validation={"data": own, "samples": 2, "final_samples": 2})
    assert held_out_data(given, 1).preset == "beam"


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Detector, "losses", lambda self, images, targets: {"loss_a": torch.tensor(torch.nan)}
    )
    with pytest.raises(InputError, match="not finite at step 0; lower learning_rate"):
        run(options(), tmp_path)
    assert not (tmp_path / "tiny.safetensors").exists()


def test_control_c_is_passed_on(tmp_path, monkeypatch):
    def stop(self, batch, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "training_step", stop)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(options(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "tiny.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": TINY["network"] | {"head": {"name": "yolo"}}}, "licence: AGPL-3.0"),
        ({"network": {"head": {"name": "ultralytics"}}}, "give backbone: null"),
        ({"network": {"backbone": None}}, "the head mask_rcnn needs a backbone"),
        ({"steps": 5}, "steps is a multiple of steps_a_checkpoint"),
        ({"adaptation": {"mode": "frozen"}}, "frozen needs a trained backbone"),
        ({"adaptation": {"mode": "adapters"}}, "adapters needs a trained backbone"),
        ({"data": {"kind": "simulated", "preset": "natral"}}, "no preset 'natral'.*natural"),
        ({"learning_rat": 1.0}, "learning_rat: there is no such option"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        options(**changes)


def test_yolo_is_for_licences_like_its_own():
    network = TINY["network"] | {"head": {"name": "yolo"}}
    assert options(network=network, licence="AGPL-3.0").specification().licence == "AGPL-3.0"


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def sentence(capsys):
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert "\n" not in text, text
    return text


def test_the_command_refuses_what_it_cannot_read(tmp_path, capsys):
    missing = tmp_path / "missing.yaml"
    assert cyclades("train", "--config", missing, "-o", tmp_path / "run") == 2
    assert "missing.yaml" in sentence(capsys)
    odd = tmp_path / "odd.yaml"
    odd.write_text(yaml.safe_dump(TINY | {"sise": 64}))
    assert cyclades("train", "--config", odd, "-o", tmp_path / "run") == 2
    assert "sise: there is no such option" in sentence(capsys)
    head = {"name": "faster_rcnn", "options": {"hiden": 16}}
    odd.write_text(yaml.safe_dump(TINY | {"network": TINY["network"] | {"head": head}}))
    assert cyclades("train", "--config", odd, "-o", tmp_path / "run") == 2
    assert "'hiden'" in sentence(capsys)


def test_the_command_trains_goes_on_and_restarts(tmp_path, capsys, monkeypatch):
    config, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(TINY))
    arguments = ("train", "--config", config, "-o", folder, "--set", "name=mine")

    def stop(self, batch, index):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", stop)
        assert cyclades(*arguments) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    assert cyclades(*arguments) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(folder / "mine.safetensors")
    assert load_detector(folder / "mine.safetensors").spec.name == "mine"
    assert cyclades(*arguments, "--set", "seed=8") == 2
    assert "--restart" in capsys.readouterr().err
    assert cyclades(*arguments, "--set", "seed=8", "--restart") == 0
    assert load_detector(folder / "mine.safetensors").spec.training["configuration"]["seed"] == 8


def bright(given, number):
    """Held-out tiles in which only objects of ten times the noise are asked for."""
    source = build_source(held_out_data(given, 2), given.size, given.network.classes)
    for sample in map(source.sample, range(number)):
        yield sample.replace(ignore=sample.ignore | (sample.snr < 10.0))


def loss_of(detector, given, names):
    """Some terms of the loss on held-out tiles."""
    torch.manual_seed(0)
    images, targets = collate(list(bright(given, 8)), given.network.input)
    with torch.no_grad():
        terms = detector.train().losses(images, targets)
    return float(sum(terms[name] for name in names))


@pytest.mark.parametrize(
    ("head", "terms"),
    [
        ("faster_rcnn", ["loss_objectness", "loss_rpn_box_reg"]),
        ("yolo", ["loss_box", "loss_class", "loss_distance"]),
    ],
)
def test_a_small_network_learns_to_find_sources(tmp_path, head, terms):
    if head == "yolo":
        require("yolo")
    given = options(
        network={
            "backbone": BACKBONE | {"strides": [4, 8]},
            "head": {"name": head},
            "input": TINY["network"]["input"],
            "classes": ["source"],
        },
        data={
            "kind": "simulated",
            "preset": "crowded",
            "fields": {"crowded": [crowded(2000.0)]},
            "seed": 3,
        },
        validation={"samples": 1, "final_samples": 1},
        augmentation={"rotate": 0.0, "rescale": 0.0},
        size=96,
        batch=4,
        steps=100,
        steps_a_checkpoint=100,
        checkpoints_a_validation=2,
        learning_rate=5e-3,
        warm_up=5,
        licence="AGPL-3.0",
    )
    torch.manual_seed(0)
    untrained = start_detector(given)
    trained = load_detector(run(given, tmp_path))
    before, after = loss_of(untrained, given, terms), loss_of(trained, given, terms)
    assert after < 0.65 * before
    merits = []
    for detector in (untrained.eval(), trained.eval()):
        made = judge(trainer.detection(detector), bright(given, 16), detector.spec)
        assert made.wanted > 50
        merits.append((figures(made, detector.spec)["ap50"], completeness_at(made, 0.5)))
    (ap50_before, found_before), (ap50, found) = merits
    assert ap50_before < 0.05
    assert found_before < 0.3
    assert ap50 > 0.4
    assert found > 0.6
