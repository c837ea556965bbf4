"""Pre-training: it learns, goes on as if nothing had been, and gives what a training can use."""
# ruff: noqa: E402

import csv
import hashlib
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from requirements import require

require("learned")

import torch
from safetensors.torch import load_file

from cyclades.pipeline.cli import main
from cyclades.pipeline.commands.train import read_configuration
from cyclades.pipeline.training.options import AdaptationOptions, TrainingOptions
from cyclades.pipeline.training.pretraining.encoding import bare_backbone, encode
from cyclades.pipeline.training.pretraining.masked import (
    MaskedAutoencoder,
    MaskedOptions,
    patches,
)
from cyclades.pipeline.training.pretraining.options import PretrainingOptions
from cyclades.pipeline.training.pretraining.probe import (
    Figures,
    Probe,
    ProbeOptions,
    effective_rank,
    neighbour_accuracy,
)
from cyclades.pipeline.training.pretraining.run import Pretraining, pretrain, start_pretext
from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.pipeline.training.trainer import start_detector
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks import weights
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.pretrained import load_pretrained, save_backbone
from cyclades.stages.networks.specification import BackboneSpec, InputSpec, PretrainedSpec
from cyclades.stages.networks.weights_listing import describe

pytestmark = [
    pytest.mark.usefixtures("one_processor"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

SMALL_VIT = {
    "name": "vit_tiny_patch16_224",
    "options": {
        "patch_size": 8, "token_stride": 8, "img_size": 64,
        "embed_dim": 24, "depth": 2, "num_heads": 2,
    },
}  # fmt: skip
SMALL_RESNET = {"name": "resnet18", "options": {"channels": [8, 8, 16, 16]}}
MAE = {"kind": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
DINO = {
    "kind": "dino", "local_views": 2, "local_size": 32, "hidden": 32, "bottleneck": 16,
    "prototypes": 32, "frozen_prototypes": 1, "temperature_warm_up": 2,
}  # fmt: skip
CONTRAST = {"kind": "contrast", "hidden": 32, "width": 16}
DINOV2 = DINO | {"patch_weight": 1.0, "koleo_weight": 0.1}
TINY = {
    "name": "tiny",
    "backbone": SMALL_VIT,
    "input": {"stretches": ["asinh", "bright"], "mesh": 32, "beam_pixels": [3.5, 8.0]},
    "pretext": MAE,
    "data": {"kind": "simulated", "preset": "natural", "seed": 3},
    "probe": {"preset": "natural", "objects": 20, "tiles": 3},
    "size": 64,
    "field": 96,
    "crops_a_field": 2,
    "batch": 4,
    "steps": 4,
    "steps_a_checkpoint": 2,
    "warm_up": 1,
    "precision": "float32",
    "half": False,
    "threads": 1,
    "seed": 7,
}
INPUT = InputSpec(**TINY["input"])


def options(**changes):
    return PretrainingOptions.from_mapping(TINY | changes)


def run(given, folder, **more):
    return pretrain(given, folder, progress=False, **more)


def same(one, other):
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
    """Weights of a pre-training that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return run(options(), tmp_path_factory.mktemp("first"))


@pytest.mark.parametrize("pretext", ["mae", "dinov2", "resnet", "contrast", "teacher"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    first, teacher, tmp_path, monkeypatch, pretext
):
    given, wanted = options(), first
    if pretext == "teacher":
        given = options(pretext=teacher)
        wanted = run(given, tmp_path / "whole")
        assert "the features of a frozen teacher" in wanted.with_suffix(".md").read_text()
    elif pretext != "mae":
        require("pretraining")
        more = {"pretext": CONTRAST if pretext == "contrast" else DINOV2}
        if pretext == "resnet":
            more = {"pretext": DINO | {"koleo_weight": 0.1}, "backbone": SMALL_RESNET}
        given = options(**more)
        wanted = run(given, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    step = Pretraining.training_step
    with monkeypatch.context() as patch:

        def failing(self, batch, index):
            # in the second stretch, after a step that no checkpoint holds
            if self.global_step == 3:
                raise RuntimeError("the power is gone")
            return step(self, batch, index)

        patch.setattr(Pretraining, "training_step", failing)
        with pytest.raises(RuntimeError, match="the power is gone"):
            run(given, folder)
    assert not (folder / "tiny.safetensors").exists()
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Pretraining,
            "training_step",
            lambda self, batch, index: steps.append(self.global_step) or step(self, batch, index),
        )
        found = run(given, folder)
    assert steps == [2, 3]
    same(found, wanted)
    assert curve(folder) == curve(wanted.parent)


def test_the_folder_of_a_run(first):
    folder = first.parent
    kept = yaml.safe_load((folder / "pretraining.yaml").read_text())
    assert PretrainingOptions.from_mapping(kept) == options()
    card = (folder / "tiny.md").read_text()
    assert "Trained for 4 steps of 4 crops of 64 x 64 pixels, seed 7; 16 crops" in card
    assert "as a masked autoencoder" in card
    assert (folder / "curves.png").stat().st_size > 1000
    rows = curve(folder)
    assert {"0", "1", "3"} <= set(rows)
    assert all(float(rows[step]["probe_rank"]) >= 1.0 for step in ("0", "1", "3"))
    with pytest.raises(ConfigurationError, match=r"pretraining\.yaml.*--restart"):
        run(options(learning_rate=5e-3), folder)


def train_options(file, **changes):
    network = {
        "backbone": SMALL_VIT | {"weights": str(file), "channels": 16},
        "head": {"name": "faster_rcnn", "options": {"hidden": 16}},
        "input": TINY["input"],
    }
    return TrainingOptions.from_mapping(
        {"network": network | changes, "adaptation": {"mode": "fine_tuned"}}
    )


def test_a_training_starts_from_the_result(first):
    detector = start_detector(train_options(first))
    state = load_file(first)
    assert state.keys() == detector.backbone.trunk.state_dict().keys()
    for name, value in detector.backbone.trunk.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stretches": ["asinh", "faint"]}, r"set network.input.stretches to \[asinh, bright\]"),
        ({"stretches": ["bright", "asinh"]}, "trained on the stretches asinh, bright"),
        ({"mesh": 64}, "set network.input.mesh to 32"),
        ({"beam_pixels": [3.5, 9.0]}, r"within \[3.5, 8\]"),
    ],
)
def test_a_training_with_another_input_is_refused(first, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        start_detector(train_options(first, input=TINY["input"] | changes))


def test_other_patches_and_other_channels_are_refused(first):
    backbone = SMALL_VIT | {"weights": str(first), "channels": 16}
    backbone["options"] = backbone["options"] | {"token_stride": 16}
    with pytest.raises(InputError, match=r"its options to .*'token_stride': 8"):
        start_detector(train_options(first, backbone=backbone))
    with pytest.raises(InputError, match="trained on 2 channels"):
        load_pretrained(build_backbone(BackboneSpec(**SMALL_VIT), 3), str(first))
    # which blocks are tapped is the detector's own affair
    tapped = SMALL_VIT | {"options": SMALL_VIT["options"] | {"taps": [1, 2]}}
    load_pretrained(build_backbone(BackboneSpec(**tapped), 2), str(first))


def test_the_result_says_what_it_is(first, tmp_path):
    text = describe(str(first))
    for part in ("vit_tiny_patch16_224", '"token_stride": 8', "asinh, bright", "3.5 to 8"):
        assert part in text
    half = run(options(half=True, steps=2), tmp_path)
    assert half.stat().st_size < 0.6 * first.stat().st_size
    start_detector(train_options(half))


def test_a_package_may_hold_the_result(first, tmp_path, monkeypatch):
    # as cyclades itself does with what it ships: its input is checked, and it stays apart
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "__init__.py").touch()
    shutil.copy(first, tmp_path / "holder" / "tiny.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path / "kept"))
    entry = weights.Weights(
        "tiny-radio", "vit_tiny_patch16_224", "Tiny", "BSD-3-Clause", "simulations", "-", 1.0,
        package="holder", file="holder/tiny.safetensors",
        sha256=hashlib.sha256(first.read_bytes()).hexdigest(),
    )  # fmt: skip
    monkeypatch.setitem(weights.WEIGHTS, "tiny-radio", entry)
    assert "stretches asinh, bright, mesh of 32 pixels" in describe("tiny-radio")
    frozen = train_options("tiny-radio").model_copy(
        update={"adaptation": AdaptationOptions(mode="frozen")}
    )
    assert start_detector(frozen).spec.trunk.weights == "tiny-radio"
    odd = frozen.network.model_copy(update={"input": InputSpec(stretches=("asinh", "faint"))})
    with pytest.raises(InputError, match=r"set network\.input\.stretches"):
        start_detector(frozen.model_copy(update={"network": odd}))


def fresh_mae(**changes):
    torch.manual_seed(0)
    given = MaskedOptions(**{name: MAE[name] for name in MAE if name != "kind"}, **changes)
    return MaskedAutoencoder(given, bare_backbone(BackboneSpec(**SMALL_VIT), 2), 64)


def test_patches_are_pixels_row_by_row():
    images = torch.arange(2 * 2 * 16 * 24, dtype=torch.float32).view(2, 2, 16, 24)
    cut = patches(images, 8)
    assert cut.shape == (2, 6, 128)
    wanted = images[1, :, 8:16, 16:24].permute(1, 2, 0).flatten()
    assert torch.equal(cut[1, 5], wanted)


def test_what_is_hidden_is_not_seen():
    pretext = fresh_mae().eval()
    images = torch.randn(2, 2, 64, 64)
    keep = torch.tensor([[0, 9, 63, 20], [5, 8, 1, 33]])
    changed = images.clone()
    for row in range(2):
        for place in set(range(64)) - set(keep[row].tolist()):
            y, x = (8 * k for k in divmod(place, 8))
            changed[row, :, y : y + 8, x : x + 8] = 100.0
    with torch.no_grad():
        assert torch.equal(pretext.reconstruct(images, keep), pretext.reconstruct(changed, keep))
        # the order of the visible tokens does not matter, their places do
        turned = pretext.reconstruct(images, keep.flip(1))
    torch.testing.assert_close(turned, pretext.reconstruct(images, keep), atol=1e-5, rtol=1e-4)


def test_all_tokens_are_what_a_detector_sees():
    backbone = bare_backbone(BackboneSpec(**SMALL_VIT), 2).eval()
    images = torch.randn(2, 2, 48, 64)
    with torch.no_grad():
        tokens = encode(backbone, images)[:, 1:]
        grid = backbone.tokens(images)
    torch.testing.assert_close(tokens.transpose(1, 2).view_as(grid), grid)


def learned(pretext, views, steps):
    """Mean loss of the first and of the last steps; what is seen is new in every one."""
    optimiser = torch.optim.AdamW([p for p in pretext.parameters() if p.requires_grad], 4e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        (loss,) = pretext((views(),), step).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return np.mean(losses[:3]), np.mean(losses[-10:])


def test_a_masked_autoencoder_learns_what_visible_patches_tell():
    # every image is of one level, which any patch tells of all others
    def views():
        return torch.randn(16, 1, 1, 1, 1).expand(-1, 1, 2, 64, 64)

    first, last = learned(fresh_mae(), views, 80)
    assert first > 0.5
    assert last < 0.1


def test_a_teacher_follows_its_student():
    require("pretraining")
    pretext = start_pretext(options(pretext=DINOV2))
    teacher = {name: value.clone() for name, value in pretext.teacher.state_dict().items()}
    for name, value in pretext.backbone.state_dict().items():
        assert torch.equal(value, teacher[name])
    with torch.no_grad():
        for parameter in pretext.backbone.parameters():
            parameter += 1.0
    pretext.after_step(0)
    for name, value in pretext.teacher.named_parameters():
        assert not value.requires_grad
        torch.testing.assert_close(value, teacher[name] + 0.01, atol=1e-6, rtol=1e-4)
    # at the end it stays
    pretext.after_step(pretext.steps)
    moved = pretext.teacher.state_dict()["trunk.norm.bias"]
    torch.testing.assert_close(moved, teacher["trunk.norm.bias"] + 0.01, atol=1e-6, rtol=1e-4)
    assert pretext.temperature(0) == 0.04
    assert pretext.temperature(10) == pytest.approx(0.05)


def test_student_and_teacher_agree_on_one_crop_more_than_on_another():
    require("pretraining")
    torch.manual_seed(1)
    pretext = start_pretext(options(pretext=DINO | {"local_views": 0}))
    views = torch.randn(6, 1, 2, 64, 64).expand(-1, 2, -1, -1, -1)
    other = torch.stack([views[:, 0], views[:, 0].roll(1, 0)], 1)
    with torch.no_grad():
        together = pretext((views,), 0)["loss_views"]
        apart = pretext((other,), 0)["loss_views"]
    assert together < apart


def test_contrast_finds_a_view_of_the_same_crop():
    require("pretraining")
    torch.manual_seed(1)
    pretext = start_pretext(options(pretext=CONTRAST))
    views = torch.randn(6, 1, 2, 64, 64).expand(-1, 2, -1, -1, -1)
    other = torch.stack([views[:, 0], views[:, 0].roll(1, 0)], 1)
    with torch.no_grad():
        together = pretext((views,), 0)["loss_contrast"]
        apart = pretext((other,), 0)["loss_contrast"]
    assert together < apart
    assert pretext.sizes == (ViewSizes(64, 2),)


def test_contrast_learns_what_views_share():
    # one channel has a level of the crop's own, the other a stronger one that is new in each view
    require("pretraining")

    def views():
        own, other = torch.randn(16, 1, 1, 1, 1), torch.randn(16, 2, 1, 1, 1)
        return torch.cat([own.expand_as(other), 3.0 * other], 2).expand(-1, -1, -1, 64, 64)

    torch.manual_seed(2)
    first, last = learned(start_pretext(options(pretext=CONTRAST)), views, 80)
    # a guess among the 31 others is ln 31 = 3.43
    assert first > 2.8
    assert last < 2.0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Another network of random numbers, with weights in a file."""
    torch.manual_seed(11)
    spec = BackboneSpec(**SMALL_VIT)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_backbone(bare_backbone(spec, 2), PretrainedSpec(backbone=spec, input=INPUT), file)
    return {"kind": "teacher", "teacher": SMALL_VIT | {"weights": str(file)}}


def test_a_student_learns_what_its_teacher_says(teacher):
    torch.manual_seed(3)
    pretext = start_pretext(options(pretext=teacher))
    assert pretext.sizes == (ViewSizes(64, 1),)
    # the teacher is neither trained nor kept with the run
    assert len(pretext.state_dict()) < 2 * len(pretext.backbone.state_dict())
    before = {name: value.clone() for name, value in pretext._teacher[0].state_dict().items()}

    def views():
        return torch.randn(8, 1, 2, 8, 8).repeat_interleave(8, -2).repeat_interleave(8, -1)

    first, last = learned(pretext, views, 120)
    # features of unit deviation of which nothing is told have a loss of one
    assert first > 0.6
    assert last < 0.5 * first
    for name, value in pretext._teacher[0].state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": None}, "give pretext.teacher.weights"),
        ({"options": SMALL_VIT["options"] | {"token_stride": 16}}, "the same token_stride"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(teacher, changes, sentence):
    given = teacher | {"teacher": teacher["teacher"] | changes}
    if "options" in changes:
        # what it was trained on is no matter of this test
        spec = BackboneSpec(**SMALL_VIT | changes)
        file = Path(teacher["teacher"]["weights"]).with_name("sparse.safetensors")
        save_backbone(bare_backbone(spec, 2), PretrainedSpec(backbone=spec, input=INPUT), file)
        given["teacher"]["weights"] = str(file)
    with pytest.raises(ConfigurationError, match=sentence):
        start_pretext(options(pretext=given))


def test_prototypes_stay_in_the_first_steps():
    require("pretraining")
    pretext = start_pretext(options(pretext=DINO))
    for step, stays in ((0, True), (1, False)):
        for parameter in pretext.head.parameters():
            parameter.grad = torch.ones_like(parameter)
        pretext.before_step(step)
        last = [p.grad is None for p in pretext.head.last_layer.parameters()]
        assert all(last) is stays
        assert all(p.grad is not None for p in pretext.head.layers.parameters())


def test_the_effective_rank():
    generator = np.random.default_rng(0)
    assert effective_rank(np.ones((50, 8))) == pytest.approx(1.0)
    assert effective_rank(np.eye(8).repeat(10, 0)) == pytest.approx(8.0)
    three = generator.normal(size=(400, 3)) @ np.linalg.qr(generator.normal(size=(20, 3)))[0].T
    assert effective_rank(three) == pytest.approx(3.0, rel=0.02)
    assert effective_rank(np.zeros((5, 3))) == 0.0


def test_neighbours_of_other_tiles_vote():
    generator = np.random.default_rng(1)
    classes = np.arange(120) % 3
    groups = np.arange(120) // 12
    told = np.eye(3)[classes] + 0.1 * generator.normal(size=(120, 3))
    assert neighbour_accuracy(told, classes, groups, 5) == (1.0, 1.0, pytest.approx(1 / 3))
    guessed = neighbour_accuracy(generator.normal(size=(120, 6)), classes, groups, 5)
    assert guessed[0] == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 120))
    # features that only tell the tile tell nothing
    tile = np.eye(10)[groups] + 0.1 * generator.normal(size=(120, 10))
    assert neighbour_accuracy(tile, classes, groups, 5)[0] < 0.6
    assert np.isnan(neighbour_accuracy(told, np.zeros(120, int), groups, 5)[0])


def test_the_probe_sees_an_object_where_it_is():
    torch.manual_seed(0)
    probe = Probe(ProbeOptions(preset="natural", objects=40, tiles=6), InputSpec(mesh=64), 64)
    assert len(probe.classes) == len(probe.boxes) == len(probe.tiles)
    assert np.bincount(probe.classes).max() <= 8
    backbone = bare_backbone(BackboneSpec(**SMALL_VIT), 3)
    backbone.trunk.blocks[0].drop_path1.train(False)
    features = probe.features(backbone)
    assert features.shape == (len(probe.classes), 24)
    # training mode is given back, module by module
    assert backbone.training
    assert not backbone.trunk.blocks[0].drop_path1.training
    np.testing.assert_array_equal(features, probe.features(backbone))


def test_a_collapse_is_called_one(caplog):
    given = options(warm_up=10, steps=100)
    module = Pretraining(given, torch.nn.Identity())
    with caplog.at_level(logging.INFO, "cyclades.training"):
        for step, rank in ((0, 90.0), (20, 30.0), (40, 50.0), (60, 26.0)):
            module.watch(Figures(rank, 0.5, 0.5, 0.3), step)
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        module.watch(Figures(20.0, 0.5, 0.5, 0.3), 80)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "step 80: the features collapse, their effective rank is 20.0 and was 50.0" in warning
    assert "\n" not in warning


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backbone": SMALL_RESNET}, "give pretext: {kind: dino}"),
        ({"backbone": SMALL_RESNET, "pretext": DINOV2}, "patch_weight: 0"),
        ({"backbone": {"name": "vit_nonsense_patch16"}}, "no backbone 'vit_nonsense_patch16'"),
        ({"data": {"kind": "fits", "images": "nowhere/*.fits"}}, "no image nowhere"),
        ({"size": 60}, "multiple of 8"),
        ({"pretext": DINO | {"local_size": 36}}, "multiple of 8"),
        ({"probe": {"preset": "natral"}}, "no preset 'natral'"),
        ({"siz": 64}, "siz: there is no such option"),
    ],
)
def test_the_command_refuses_what_cannot_be(tmp_path, capsys, changes, sentence):
    if changes.get("pretext", {}).get("kind") == "dino":
        require("pretraining")
    config = tmp_path / "odd.yaml"
    config.write_text(yaml.safe_dump(TINY | changes))
    assert cyclades("pretrain", "--config", config, "-o", tmp_path / "run") == 2
    text = capsys.readouterr().err.strip()
    assert sentence in text
    assert "\n" not in text, text
    assert not (tmp_path / "run").exists()


def test_dino_without_lightly_is_refused_and_mae_needs_none(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightly", None)
    config = tmp_path / "dino.yaml"
    config.write_text(yaml.safe_dump(TINY | {"pretext": DINO}))
    assert cyclades("pretrain", "--config", config, "-o", tmp_path / "run") == 2
    assert "install cyclades[pretraining]" in capsys.readouterr().err
    start_pretext(options())


def test_the_command_trains_and_goes_on(tmp_path, capsys, monkeypatch):
    config, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(TINY))
    arguments = ("pretrain", "--config", config, "-o", folder, "--set", "steps=2")

    def stop(self, batch, index):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "training_step", stop)
        assert cyclades(*arguments) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    assert cyclades(*arguments) == 0
    path = folder / "tiny.safetensors"
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(path)
    assert cyclades("weights", path) == 0
    assert "pre-trained by cyclades pretrain" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vit_tiny_mae", "vit_tiny_dino"])
def test_the_shipped_configurations_can_be_used(name):
    given = read_configuration(PretrainingOptions, "pretraining", name)
    if name.endswith("dino"):
        require("pretraining")
    pretext = start_pretext(given)
    assert pretext.sizes[0].side == given.size
    assert given.name == name


@pytest.mark.parametrize("name", ["vit_small_dinov2", "resnet50_dino"])
def test_the_shipped_recipes_are_valid(name):
    assert read_configuration(PretrainingOptions, "pretraining", name).name == name
