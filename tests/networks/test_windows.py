"""Transformers whose blocks look within windows."""
# ruff: noqa: E402

import pytest
from requirements import require

require("learned")

import torch

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.windows import windowed_blocks

PLAIN = {"embed_dim": 24, "depth": 4, "num_heads": 3}
NO_PREFIX = {"class_token": False}


def backbone(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    spec = BackboneSpec(name=name, options=PLAIN | options, strides=(4, 8, 16), channels=8)
    return build_backbone(spec, 3).eval()


def images(height=96, width=64):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_a_window_as_large_as_the_image_changes_nothing():
    given = images(96, 96)
    for more in ({}, NO_PREFIX):
        plain, windowed = backbone(**more), backbone(window=6, global_blocks=[], **more)
        windowed.load_state_dict(plain.state_dict())
        torch.testing.assert_close(windowed.tokens(given), plain.tokens(given))


def test_nothing_is_seen_beyond_a_window():
    network = backbone(window=2, global_blocks=[], **NO_PREFIX)
    one, other = images(), images()
    other[:, :, :32, :32] += 1.0
    with torch.no_grad():
        changed = (network.tokens(one) - network.tokens(other)).abs().amax((0, 1)) > 1e-6
    assert changed[:2, :2].all()
    changed[:2, :2] = False
    assert not changed.any()


def test_global_blocks_see_everything():
    network = backbone(window=2, **NO_PREFIX)
    one, other = images(), images()
    other[:, :, :32, :32] += 1.0
    with torch.no_grad():
        assert ((network.tokens(one) - network.tokens(other)).abs().amax((0, 1)) > 0).all()


def test_sides_that_do_not_fill_windows_keep_their_places():
    network = backbone(window=4, token_stride=8)
    features = network(images(80, 48))
    assert features[4].shape == (2, 8, 20, 12)
    assert torch.isfinite(features[4]).all()


def test_weights_of_plain_transformers_fit():
    assert backbone().state_dict().keys() == backbone(window=2).state_dict().keys()


def test_the_last_block_of_each_quarter_looks_at_everything():
    assert windowed_blocks(12, None, "x") == [0, 1, 3, 4, 6, 7, 9, 10]
    assert windowed_blocks(4, [2], "x") == [0, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "2 tokens"),
        ({"window": 2, "global_blocks": [9]}, "1 to 4"),
    ],
)
def test_windows_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        backbone(**options)


def test_rotated_positions_are_refused():
    spec = BackboneSpec(name="vit_small_patch16_dinov3", options={"window": 4})
    with pytest.raises(ConfigurationError, match="rotates"):
        build_backbone(spec, 3)
