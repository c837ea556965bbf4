"""Frozen means frozen; adapters change little and fold away; layers get their learning rates."""
# ruff: noqa: E402

import copy

import pytest

from tests.requirements import require

require("learned")

import torch
from torch import nn

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.adaptation import Mode, merge_adapters, parameter_groups, prepare
from cyclades.stages.networks.backbones import Backbone, build_backbone
from cyclades.stages.networks.specification import BackboneSpec

RESNET = BackboneSpec(options={"channels": [16, 16, 32, 32]}, strides=(4, 8), channels=16)
VIT = BackboneSpec(
    name="vit_tiny_patch16_224",
    options={"depth": 4, "drop_path_rate": 0.2},
    strides=(4, 8),
    channels=16,
)
LITE = BackboneSpec(name="efficientnet_lite0", strides=(4, 8), channels=16)
SPECS = {"resnet": RESNET, "vit": VIT, "lite": LITE}


class Network(nn.Module):
    """A backbone with the simplest head."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.backbone = build_backbone(spec, 2)
        self.head = nn.Conv2d(spec.channels, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # residual branches of ResNets start with 0, which stops gradients
                nn.init.ones_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum(self.head(f).square().mean() for f in self.backbone(images).values())


def trained(network: Network, steps: int = 2, **options: float) -> None:
    network.train()
    optimiser = torch.optim.AdamW(parameter_groups(network, 1e-2, weight_decay=0.1, **options))
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.randn(2, 2, 64, 64)).backward()
        optimiser.step()


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    now = module.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", SPECS)
def test_frozen_means_frozen(name: str) -> None:
    network = Network(SPECS[name])
    prepare(network.backbone, "frozen")
    trunk, neck = state(network.backbone.trunk), state(network.backbone.neck)
    trained(network)
    # every parameter and every buffer, statistics and counts of batches included
    assert changed(trunk, network.backbone.trunk) == set()
    learned = {name for name, _ in network.backbone.neck.named_parameters()}
    assert changed(neck, network.backbone.neck) >= learned - {"pyramid.layer_blocks.0.0.bias"}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("mode", ["fine_tuned", "scratch"])
def test_all_of_the_trunk_is_trained(name: str, mode: Mode) -> None:
    network = Network(SPECS[name])
    prepare(network.backbone, "frozen")
    prepare(network.backbone, mode)
    trunk = state(network.backbone.trunk)
    trained(network, steps=3)
    learned = {name for name, _ in network.backbone.trunk.named_parameters()}
    assert changed(trunk, network.backbone.trunk) >= learned


@pytest.mark.parametrize("name", SPECS)
def test_only_the_last_layers_are_trained(name: str) -> None:
    network = Network(SPECS[name])
    backbone = network.backbone
    prepare(backbone, "partly_frozen", trained_layers=1)
    trunk = state(backbone.trunk)
    trained(network)
    last = len(backbone.layers()) - 1
    moved = changed(trunk, backbone.trunk)
    assert moved
    assert {backbone.layer(name) for name in moved} == {last}
    assert set(backbone.layers()[last]) <= moved


@pytest.mark.parametrize("name", SPECS)
def test_adapters_fold_into_a_plain_network(name: str) -> None:
    network = Network(SPECS[name])
    backbone = network.backbone
    images = torch.randn(1, 2, 64, 64)
    plain = state(backbone)
    with torch.no_grad():
        before = backbone.eval()(images)
        prepare(backbone, "adapters", rank=4)
        for stride, features in backbone(images).items():
            torch.testing.assert_close(features, before[stride])
    frozen = {
        name: value for name, value in state(backbone.trunk).items() if "weight.0." not in name
    }
    trained(network)
    assert changed(frozen, backbone.trunk) == set()
    backbone.eval()
    with torch.no_grad():
        adapted = backbone(images)
        merge_adapters(network)
        merged = backbone(images)
    assert state(backbone).keys() == plain.keys()
    # and the plain file gives the same again
    again = build_backbone(SPECS[name], 2).eval()
    again.load_state_dict(backbone.state_dict())
    for stride in backbone.strides:
        scale = adapted[stride].abs().max()
        assert (merged[stride] - adapted[stride]).abs().max() <= 1e-5 * scale
        with torch.no_grad():
            torch.testing.assert_close(again(images)[stride], merged[stride])
    trunk_moved = {n for n in changed(plain, backbone) if n.startswith("trunk.")}
    assert len(trunk_moved) > 3
    assert all(n.endswith(".weight") for n in trunk_moved)


def test_adapters_are_few() -> None:
    network = Network(VIT)
    whole = sum(p.numel() for p in network.backbone.trunk.parameters())
    prepare(network.backbone, "adapters", rank=4)
    added = [p for p in network.backbone.trunk.parameters() if p.requires_grad]
    assert len(added) == 4 * 4 * 2
    assert sum(p.numel() for p in added) < 0.1 * whole


@pytest.mark.parametrize("name", SPECS)
def test_layers_near_the_image_learn_more_slowly(name: str) -> None:
    network = Network(SPECS[name])
    groups = parameter_groups(network, 1.0, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(network.parameters()))
    backbone = network.backbone
    depth = len(backbone.layers())
    for layer, names in enumerate(backbone.layers()):
        for parameter in map(backbone.trunk.get_parameter, names):
            assert rate[id(parameter)] == pytest.approx(0.5 ** (depth - layer))
    assert all(rate[id(p)] == 1.0 for p in backbone.neck.parameters())
    first = next(
        name
        for name in ("conv1.weight", "conv_stem.weight", "patch_embed.proj.weight")
        if name in backbone.layers()[0]
    )
    assert rate[id(backbone.trunk.get_parameter(first))] == min(rate.values())
    for group in groups:
        flat = all(p.ndim == 1 for p in group["params"])
        assert group["weight_decay"] in ((0.0,) if flat else (0.0, 0.1))


def test_frozen_parameters_are_in_no_group() -> None:
    network = Network(RESNET)
    prepare(network.backbone, "frozen")
    given = {id(p) for group in parameter_groups(network, 1.0) for p in group["params"]}
    assert given.isdisjoint(map(id, network.backbone.trunk.parameters()))
    assert given >= set(map(id, network.head.parameters()))


def test_a_copy_of_a_frozen_backbone_is_frozen() -> None:
    network = Network(RESNET)
    prepare(network.backbone, "frozen")
    twin: Backbone = copy.deepcopy(network.backbone).train()
    assert not twin.trunk.training
    assert twin.neck.training
    assert twin.trunk is not network.backbone.trunk


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "half"}, "no mode 'half'"),
        ({"mode": "partly_frozen", "trained_layers": 9}, "from 1 to 2"),
        ({"mode": "adapters", "rank": 0}, "rank"),
    ],
)
def test_wrong_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        prepare(build_backbone(RESNET, 2), **options)  # type: ignore[arg-type]
