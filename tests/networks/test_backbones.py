"""Backbones: levels of the right size, features that stay on their pixels, adaptable trunks."""
# ruff: noqa: E402

from itertools import pairwise

import pytest

from tests.requirements import require

require("learned")

import torch
from torch import Tensor

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.backbones import Backbone, build_backbone
from cyclades.stages.networks.specification import BackboneSpec

HALF_RESNET = BackboneSpec(options={"channels": [32, 64, 128, 256]}, strides=(4, 8, 16))
SMALL_VIT = {"depth": 2}
SPECS = {
    "resnet18": BackboneSpec(),
    "half resnet18": HALF_RESNET,
    "resnet50": BackboneSpec(name="resnet50", channels=32, strides=(4, 8, 16)),
    "lite": BackboneSpec(name="tf_efficientnet_lite0", strides=(4, 8, 16, 32)),
    "vit 16": BackboneSpec(name="vit_tiny_patch16_224", options=SMALL_VIT, strides=(4, 8, 16)),
    "dinov2": BackboneSpec(name="vit_small_patch14_dinov2", options={"taps": [1, 2, 3]}),
    "dinov3": BackboneSpec(
        name="vit_small_patch16_dinov3", options={**SMALL_VIT, "token_stride": 8}
    ),
}


def built(spec: BackboneSpec, channels: int = 3) -> Backbone:
    torch.manual_seed(1)
    return build_backbone(spec, channels).eval()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_levels_have_the_size_of_their_stride(name: str, channels: int) -> None:
    spec = SPECS[name]
    backbone = built(spec, channels)
    levels = backbone(torch.randn(2, channels, 64, 96))
    assert (backbone.strides, backbone.channels) == (spec.strides, spec.channels)
    assert {s: tuple(f.shape) for s, f in levels.items()} == {
        s: (2, spec.channels, 64 // s, 96 // s) for s in spec.strides
    }


def response(backbone: Backbone, row: int, column: int) -> dict[int, Tensor]:
    """Where, at each level, a source changes the features: centre in pixels from the corner."""
    blank = torch.zeros(1, backbone.in_channels, 256, 256)
    source = blank.clone()
    source[..., row : row + 16, column : column + 16] = torch.rand(16, 16)
    with torch.no_grad():
        before, after = backbone(blank), backbone(source)
    centres = {}
    for stride in backbone.strides:
        change = (after[stride] - before[stride]).square().sum(1)[0].double().square()
        place = (torch.arange(len(change)) + 0.5) * stride
        weight = change / change.sum()
        centres[stride] = torch.stack(
            [weight.sum(1) @ place.double(), weight.sum(0) @ place.double()]
        )
    return centres


@pytest.mark.parametrize("name", SPECS)
def test_features_lie_on_the_pixels_of_the_source(name: str) -> None:
    backbone = built(SPECS[name].model_copy(update={"strides": (4, 8, 16)}))
    if not name.startswith(("vit", "dino")):
        # random kernels move the centre; even ones show the geometry alone
        for module in backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            elif isinstance(module, torch.nn.BatchNorm2d):
                # ResNets start with residual branches that give nothing
                torch.nn.init.ones_(module.weight)
    offsets: dict[int, list[Tensor]] = {stride: [] for stride in backbone.strides}
    for row, column in ((64, 160), (96, 128), (160, 80), (128, 112)):
        for stride, centre in response(backbone, row, column).items():
            offsets[stride].append(centre - torch.tensor([row + 8, column + 8]))
    for stride, found in offsets.items():
        # less than half a cell of the coarsest level, which the finer ones are made of too
        assert torch.stack(found).mean(0).abs().max() < 8, (stride, found)


@pytest.mark.parametrize("name", ["vit 16", "dinov2"])
def test_moving_the_image_by_a_token_moves_the_features(name: str) -> None:
    """Exactly, but for the positions that tokens are given: patch 14 fits the grid of 16 pixels."""
    spec = SPECS[name].model_copy(update={"strides": (4, 8, 16)})
    backbone = built(spec)
    torch.nn.init.zeros_(backbone.trunk.get_parameter("pos_embed"))
    image = torch.zeros(1, 3, 128, 128)
    image[..., 48:64, 48:64] = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        there = backbone(image)
        moved = backbone(torch.roll(image, (16, 16), (2, 3)))
    for stride in spec.strides:
        step, edge = 16 // stride, 32 // stride
        inside = (..., slice(edge, -edge), slice(edge, -edge))
        expected = torch.roll(there[stride], (step, step), (2, 3))
        difference = (moved[stride] - expected)[inside].abs().max()
        assert there[stride][inside].std() > 1e-3
        assert difference < 1e-4 * there[stride].abs().max()


def test_strides_asked_for_alone_are_computed() -> None:
    counts = [
        sum(p.numel() for p in built(HALF_RESNET.model_copy(update={"strides": s})).parameters())
        for s in ((4, 8), (4, 8, 16), (4, 8, 16, 32))
    ]
    assert all(b > 2.5 * a for a, b in pairwise(counts))
    lite = BackboneSpec(name="tf_efficientnet_lite0", strides=(4, 8))
    assert len(built(lite).trunk.get_submodule("blocks")) == 3
    tapped = BackboneSpec(name="vit_tiny_patch16_224", options={"taps": [2, 5]})
    assert len(built(tapped).trunk.get_submodule("blocks")) == 5


def test_sides_that_hold_no_whole_number_of_tokens() -> None:
    spec = BackboneSpec(name="vit_tiny_patch16_224", options=SMALL_VIT, strides=(4, 8))
    with torch.no_grad():
        levels = built(spec)(torch.randn(1, 3, 40, 56))
    assert [tuple(f.shape[-2:]) for f in levels.values()] == [(10, 14), (5, 7)]


def test_a_fixed_size_changes_nothing() -> None:
    backbone = built(SPECS["dinov2"])
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        free = backbone(image)
        backbone.fix_size(64, 96)
        fixed = backbone(image)
    for stride in backbone.strides:
        torch.testing.assert_close(fixed[stride], free[stride], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "alexnet"}, "no backbone 'alexnet'"),
        ({"name": "vit_tiny_patch99_224"}, "no backbone"),
        ({"strides": (2, 4)}, "strides"),
        ({"strides": (8, 4)}, "ascending"),
        ({"options": {"colour": 1}}, "cannot be built"),
        ({"options": {"pretrained": True}}, "set by cyclades"),
        ({"name": "vit_tiny_patch16_224", "options": {"taps": [0, 13]}}, "1 to 12"),
        ({"name": "vit_tiny_patch16_224", "options": {"token_stride": 12}}, "token_stride"),
    ],
)
def test_what_cannot_be_built(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_backbone(BackboneSpec.model_validate(spec), 3)
