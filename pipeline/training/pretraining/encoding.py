"""What pretexts ask of a backbone that detectors don't: some tokens only, and one vector a crop."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.backbones import Backbone, TransformerBackbone, build_backbone
from cyclades.stages.networks.specification import BackboneSpec


def bare_backbone(spec: BackboneSpec, in_channels: int) -> Backbone:
    """Build a backbone whose neck, which no pretext trains, is left out.

    Raises
    ------
    ConfigurationError
        Where there is no such backbone.
    """
    backbone = build_backbone(spec, in_channels)
    backbone.neck = nn.Identity()
    return backbone


def plain_transformer(backbone: Backbone, what: str) -> TransformerBackbone:
    """Return the backbone where its tokens can be taken apart.

    Parameters
    ----------
    backbone : Backbone
    what : str
        Who needs it, for the sentence.

    Raises
    ------
    ConfigurationError
        Where it is no plain vision transformer.
    """
    plain = isinstance(backbone, TransformerBackbone)
    if not plain or not isinstance(backbone.trunk, VisionTransformer):
        raise ConfigurationError(
            f"{what} hides tokens, which only plain vision transformers have, and {backbone.name} "
            "is none; take vit_tiny_patch16_224 or vit_small_patch16_224, or the pretext dino "
            "without patches."
        )
    assert isinstance(backbone, TransformerBackbone)
    return backbone


def encode(
    backbone: TransformerBackbone,
    images: Tensor,
    *,
    keep: Tensor | None = None,
    hidden: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """Tokens behind the last block of a plain vision transformer.

    Parameters
    ----------
    backbone : TransformerBackbone
    images : Tensor, shape (b, channels, h, w)
        Sides are multiples of the token stride.
    keep : Tensor of int, shape (b, k), optional
        Places of the tokens that go through the blocks, row by row; all where left out.
    hidden : Tensor of bool, shape (b, h / stride, w / stride), optional
        Where the mask token takes the place of what the image shows.
    mask_token : Tensor, shape (width,), optional

    Returns
    -------
    Tensor, shape (b, prefix + n, width)
        Behind the final norm; the prefix is the class token and registers, if there are any.
    """
    trunk: Any = backbone.trunk
    tokens = trunk.patch_embed(backbone.resized(images))  # (b, rows, columns, width)
    if hidden is not None and mask_token is not None:
        tokens = torch.where(hidden[..., None], mask_token.to(tokens.dtype), tokens)
    tokens = trunk._pos_embed(tokens)
    if keep is not None:
        before = trunk.num_prefix_tokens
        kept = keep[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :before], tokens[:, before:].gather(1, kept)], 1)
    tokens = trunk.norm_pre(tokens)
    for block in trunk.blocks:
        tokens = block(tokens)
    encoded: Tensor = trunk.norm(tokens)
    return encoded


def feature_map(backbone: Backbone, images: Tensor) -> Tensor:
    """Deepest features of the trunk on their grid, shape (b, width, rows, columns)."""
    if isinstance(backbone, TransformerBackbone):
        return backbone.tokens(images)
    trunk: Any = backbone.trunk
    deepest: Tensor = trunk(images)[-1]
    return deepest


def whole_feature(backbone: Backbone, images: Tensor) -> Tensor:
    """One vector an image, shape (b, width): the class token if there is one, else the mean."""
    if isinstance(backbone, TransformerBackbone):
        trunk: Any = backbone.trunk
        tokens = trunk.forward_features(backbone.resized(images))
        if getattr(trunk, "cls_token", None) is not None:
            first: Tensor = tokens[:, 0]
            return first
        mean: Tensor = tokens[:, trunk.num_prefix_tokens :].mean(1)
        return mean
    return feature_map(backbone, images).mean((2, 3))


def stride_of(backbone: Backbone) -> int:
    """Pixels from one of the deepest features to the next; sides of crops are multiples of it."""
    if isinstance(backbone, TransformerBackbone):
        return backbone.token_stride
    return max(backbone.strides)


def width_of(backbone: Backbone) -> int:
    """Features of the deepest level."""
    trunk: Any = backbone.trunk
    if isinstance(backbone, TransformerBackbone):
        return int(trunk.embed_dim)
    return int(trunk.feature_info.channels()[-1])
