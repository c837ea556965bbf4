"""Heads on a frozen backbone: what is trained, what is kept, and the configurations that ship."""
# ruff: noqa: E402

from importlib.resources import files

import pytest
import yaml
from requirements import require

require("learned")

import torch
from safetensors.torch import load_file, save_file

from cyclades.pipeline.training.fitting import prepare_folder
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.trainer import train
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks import weights
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.detector import TRUNK, load_detector
from cyclades.stages.networks.specification import BackboneSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

NAME = "small-resnet"
BACKBONE = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}, "channels": 16}
FROZEN = {
    "name": "frozen",
    "network": {
        "backbone": {**BACKBONE, "weights": NAME},
        "head": {"name": "faster_rcnn", "options": {"hidden": 16}},
        "input": {"mesh": 32, "beam_pixels": [3.5, 8.0]},
    },
    "adaptation": {"mode": "frozen"},
    "data": {"kind": "simulated", "preset": "natural", "seed": 3},
    "validation": {"samples": 1, "final_samples": 1},
    "size": 64,
    "batch": 2,
    "steps": 2,
    "steps_a_checkpoint": 1,
    "warm_up": 0,
    "precision": "bfloat16",
    "threads": 1,
}


@pytest.fixture(autouse=True)
def small_backbone(tmp_path, monkeypatch):
    """Weights of a small ResNet under a name of the table."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path / "kept"))
    entry = weights.Weights(
        NAME, "resnet18", "Small", "MIT", "Nothing", "arXiv:0", 1.0, repository="no/where"
    )
    monkeypatch.setitem(weights.WEIGHTS, NAME, entry)
    torch.manual_seed(0)
    state = build_backbone(BackboneSpec(**BACKBONE), 3).trunk.state_dict()
    for name in state:
        if name.endswith("running_mean"):
            state[name] = torch.randn(state[name].shape)
    (tmp_path / "kept").mkdir()
    save_file(state, tmp_path / "kept" / f"{NAME}.safetensors")
    threads = torch.get_num_threads()
    yield state
    torch.set_num_threads(threads)


def run(folder, **changes):
    return train(TrainingOptions.from_mapping(FROZEN | changes), folder, progress=False)


def test_the_file_of_a_frozen_backbone_holds_what_was_trained(small_backbone, tmp_path):
    path = run(tmp_path / "run")
    assert not [name for name in load_file(path) if name.startswith(TRUNK)]
    read = load_detector(path)
    assert read.spec.trunk.weights == NAME
    card = path.with_suffix(".md").read_text("utf-8")
    assert f"frozen at the weights `{NAME}`, MIT, and not in the file" in card
    # every parameter and every statistic, as the weights had them
    for name, value in small_backbone.items():
        assert torch.equal(read.state_dict()[f"{TRUNK}{name}"], value), name
    # a training that starts from this file, with the backbone still frozen, leaves it out too
    network = {**FROZEN["network"], "start": str(path)}
    second = run(tmp_path / "second", network=network)
    assert load_detector(second).spec.trunk == read.spec.trunk
    # ... and one that trains the backbone does not
    tuned = run(tmp_path / "tuned", network=network, adaptation={"mode": "fine_tuned"})
    assert load_detector(tuned).spec.trunk is None
    changed = load_file(tuned)[f"{TRUNK}layer1.0.conv1.weight"]
    assert not torch.equal(changed, small_backbone["layer1.0.conv1.weight"])


def test_a_training_goes_on_with_other_workers_and_threads(tmp_path):
    path = run(tmp_path / "run", threads=1)
    assert run(tmp_path / "run", threads=2, devices=1) == path
    kept = yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())
    assert (kept["threads"], kept["devices"]) == (2, 1)
    elsewhere = TrainingOptions.from_mapping(FROZEN | {"workers": 8, "nodes": 2})
    assert prepare_folder(elsewhere, path.parent, False, "training.yaml") == path.with_name(
        "last.ckpt"
    )
    with pytest.raises(ConfigurationError, match="another configuration"):
        run(tmp_path / "run", learning_rate=0.5)
    (tmp_path / "run" / "training.yaml").write_text("{damaged")
    with pytest.raises(ConfigurationError, match="another configuration"):
        run(tmp_path / "run")


@pytest.mark.parametrize("name", ["dinov2_yolo", "dinov2_mask_rcnn"])
def test_the_shipped_configurations_freeze_weights_that_need_no_network(name):
    path = files("cyclades.data").joinpath("training", f"{name}.yaml")
    given = TrainingOptions.from_mapping(yaml.safe_load(path.read_text("utf-8")))
    assert given.name == name
    assert given.adaptation.mode == "frozen"
    backbone = given.network.backbone
    entry = weights.WEIGHTS[backbone.weights]
    assert entry.package
    assert entry.architecture == backbone.name
    assert backbone.options["taps"] == list(entry.taps)
