"""A frozen trunk is not in the detector's file: it joins from the weights that the file names."""
# ruff: noqa: E402

from pathlib import Path

import pytest
from requirements import require

require("learned")

import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cyclades.pipeline.cli import cli, main
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks import export, weights
from cyclades.stages.networks.adaptation import prepare
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.detector import TRUNK, Detector, load_detector, save_detector
from cyclades.stages.networks.pretrained import load_trunk
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, NetworkSpec, TrunkSpec

NAME = "small-resnet"
ENTRY = weights.Weights(
    NAME, "resnet18", "Small", "MIT", "Nothing", "arXiv:0", 1.0,
    package="no-such-package", file="no_such_package/model.onnx", sha256="0" * 64,
)  # fmt: skip
SMALL = BackboneSpec(name="resnet18", options={"channels": [8, 16, 24, 32]}, channels=8)
VIT = BackboneSpec(
    name="vit_small_patch14_dinov2", options={"taps": [6, 9, 12]}, strides=(4, 8, 16), channels=16
)
HEAD = HeadSpec(name="mask_rcnn", options={"hidden": 16, "mask_channels": 8, "mask_layers": 1})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with those of `ENTRY`."""
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setitem(weights.WEIGHTS, NAME, ENTRY)
    write(tmp_path / "kept", seed=3)
    return tmp_path / "kept"


def write(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    trunk = build_backbone(SMALL, 3).trunk
    path = folder / f"{NAME}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: v.contiguous() for name, v in trunk.state_dict().items()}, path)
    return path


def detector(backbone: BackboneSpec, name: str) -> Detector:
    """A detector on a frozen trunk, after some steps of training."""
    torch.manual_seed(1)
    made = Detector(NetworkSpec(classes=("compact", "spurious"), backbone=backbone, head=HEAD))
    assert made.backbone is not None
    trunk = TrunkSpec(weights=name, sha256=load_trunk(made.backbone, name))
    made.spec = made.spec.model_copy(update={"trunk": trunk})
    prepare(made.backbone, "frozen")
    before = {key: value.clone() for key, value in made.state_dict().items()}
    learned = [p for p in made.train().parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.1)
    for _ in range(2):
        features = made.features(torch.randn(2, 3, 64, 64))
        optimiser.zero_grad()
        sum(f.square().mean() for f in features.values()).backward()
        optimiser.step()
    after = made.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert not [key for key in changed if key.startswith(TRUNK)]
    assert any(key.startswith("backbone.neck.") for key in changed)
    return made.eval()


def same_output(one: Detector, other: Detector) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    for mine, theirs in zip(one.predict(images), other.predict(images), strict=True):
        assert len(mine.boxes) > 0
        for name in ("boxes", "scores", "masks"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def test_the_trunk_is_left_out_and_joins_again(folder: Path, tmp_path: Path) -> None:
    mine, path = detector(SMALL, NAME), tmp_path / "small.safetensors"
    save_detector(mine, path)
    kept = load_file(path)
    assert kept.keys() == {key for key in mine.state_dict() if not key.startswith(TRUNK)}
    read = load_detector(path)
    assert read.spec == mine.spec
    same_output(mine, read)
    # what was trained may be rounded for shipping, but the trunk is as it was
    save_detector(mine, path, half=True)
    state = load_detector(path).state_dict()
    for key, value in mine.state_dict().items():
        assert torch.equal(state[key], value) or not key.startswith(TRUNK), key


def test_dinov2_of_its_package_joins_a_head_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path))
    entry = weights.WEIGHTS["dinov2-s-derived"]
    if not weights.available_offline(entry):
        pytest.skip(f"the package {entry.package} is not installed")
    mine, path = detector(VIT, entry.name), tmp_path / "vit.safetensors"
    save_detector(mine, path)
    assert path.stat().st_size < 3e6
    same_output(mine, load_detector(path))


def test_tokens_of_a_frozen_trunk_carry_no_gradient() -> None:
    shallow = VIT.model_copy(update={"options": {"depth": 2, "img_size": 56}})
    backbone = build_backbone(shallow, 3)
    prepare(backbone, "frozen")
    backbone.train()
    images = torch.randn(1, 3, 64, 64)
    assert not backbone.tokens(images).requires_grad
    assert all(level.requires_grad for level in backbone(images).values())


def test_other_numbers_under_the_same_name_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_detector(detector(SMALL, NAME), path)
    write(folder, seed=4)
    with pytest.raises(InputError, match=r"not the weights small-resnet .* trained on .* delete"):
        load_detector(path)


def test_a_trunk_that_was_trained_is_not_left_out(folder: Path, tmp_path: Path) -> None:
    mine = detector(SMALL, NAME)
    with torch.no_grad():
        mine.get_parameter(f"{TRUNK}layer2.0.conv1.weight")[0, 0, 0, 0] += 1e-6
    with pytest.raises(InputError, match=r"differs from the weights .*layer2.0.conv1.weight"):
        save_detector(mine, tmp_path / "small.safetensors")
    mine.spec = mine.spec.model_copy(update={"trunk": None})
    save_detector(mine, tmp_path / "small.safetensors")
    same_output(mine, load_detector(tmp_path / "small.safetensors"))


def test_the_sentence_says_which_package_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "small.safetensors"
    save_detector(detector(SMALL, NAME), path)
    monkeypatch.setattr(weights, "_shipped_folder", lambda: tmp_path)
    rows = CliRunner().invoke(cli, ["weights"]).output.splitlines()
    assert "mask_rcnn on small-resnet" in rows[1]
    assert rows[1].endswith("yes")
    (folder / f"{NAME}.safetensors").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(path), "--half", "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    sentence = capsys.readouterr().err.strip()
    assert "pip install --no-deps no-such-package" in sentence
    assert "\n" not in sentence
    assert CliRunner().invoke(cli, ["weights"]).output.splitlines()[1].endswith("no")


def test_graphs_need_the_whole_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    exported: list[Path] = []
    monkeypatch.setattr(
        export, "export_detector", lambda network, path, size, cells: exported.append(path) or []
    )
    path, out = tmp_path / "small.safetensors", tmp_path / "out"
    mine = detector(SMALL, NAME)
    save_detector(mine, path)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(path)])
    assert stop.value.code == 2
    assert "give --whole and --output" in capsys.readouterr().err
    # a rounded copy is as apart as its origin
    assert CliRunner().invoke(cli, ["export", str(path), "--half", "-o", str(out)]).exit_code == 0
    assert load_detector(out / path.name).spec.trunk == mine.spec.trunk
    assert not exported
    done = CliRunner().invoke(cli, ["export", str(path), "--whole", "-o", str(out)])
    assert done.exit_code == 0, done.exception
    assert exported == [out / path.name]
    (folder / f"{NAME}.safetensors").unlink()
    same_output(mine, load_detector(out / path.name))


def test_a_trunk_needs_a_backbone() -> None:
    with pytest.raises(ValueError, match="part of a backbone"):
        NetworkSpec(
            backbone=None,
            head=HeadSpec(name="ultralytics"),
            trunk=TrunkSpec(weights=NAME, sha256="0" * 64),
        )
