"""Features of frozen backbones over pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cyclades.stages.networks.backbones import Backbone, TransformerBackbone, build_backbone
from cyclades.stages.networks.pretrained import load_pretrained, radio_input
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.weights import WEIGHTS
from cyclades.stages.networks.weights_table import IMAGENET_MEAN, IMAGENET_STD

_SEED = 20_011


class PictureNorm(NamedTuple):
    """What a network takes a picture as.

    Parameters
    ----------
    mean, std : tuple of float
        Of the three channels that it was pre-trained with.
    stretches : tuple of str
        Where it was pre-trained on radio sky, its own brightness curves of S/N.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    stretches: tuple[str, ...] = ()


def picture_norm(spec: BackboneSpec) -> PictureNorm:
    """Return how pictures become the input that weights were made from; else ImageNet's way.

    Raises
    ------
    InputError
        Where a file of weights cannot be read.
    """
    entry = WEIGHTS.get(spec.weights or "")
    radio = None if spec.weights is None else radio_input(spec.weights)
    if radio is not None:
        channels = len(radio.stretches)
        return PictureNorm((0.0,) * channels, (1.0,) * channels, tuple(radio.stretches))
    if entry is not None:
        return PictureNorm(entry.mean, entry.std)
    return PictureNorm(IMAGENET_MEAN, IMAGENET_STD)


def start_backbone(spec: BackboneSpec, seed: int) -> Backbone:
    """Build a backbone with its weights, or with random numbers of a seed where it has none."""
    torch.manual_seed(_SEED + seed)
    backbone = build_backbone(spec, 3)
    if spec.weights is not None:
        load_pretrained(backbone, spec.weights)
    return backbone


def turned(images: Tensor, number: int) -> Tensor:
    """Return one of the eight orientations of images, the first being as they are."""
    made = torch.rot90(images, number % 4, (-2, -1))
    return made.flip(-1) if number >= 4 else made


def resampled(images: Tensor, size: int) -> Tensor:
    """Bring square images to a size."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )


def layers(backbone: Backbone, images: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Return the features of each tapped layer of a ViT, or of each level of another backbone.

    Parameters
    ----------
    backbone : Backbone
    images : Tensor, shape (b, 3, size, size)

    Returns
    -------
    list of (Tensor, Tensor or None)
        Features at each place, shape (b, width, rows, columns), and the class token, shape
        (b, width), of which backbones that are no ViTs have none.
    """
    trunk: Any = backbone.trunk
    if not isinstance(backbone, TransformerBackbone):
        return [(level.float(), None) for level in trunk(images)]
    found = trunk.forward_intermediates(
        images,
        indices=[tap - 1 for tap in backbone.taps],
        norm=True,
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    return [(tokens.float(), prefix.float()[:, 0]) for tokens, prefix in found]


def pooled(backbone: Backbone, images: Tensor, pooling: Sequence[str]) -> Tensor:
    """Return statistics of the features of each tapped layer over each picture.

    Parameters
    ----------
    backbone : Backbone
    images : Tensor, shape (b, 3, size, size)
    pooling : sequence of str
        Of `cyclades.stages.networks.pictures.Pooling`. Backbones without a class
        token have none.

    Returns
    -------
    Tensor, shape (b, k)
    """
    parts = []
    for level, token in layers(backbone, images):
        flat = level.flatten(2)
        for name in pooling:
            if name == "token":
                parts += [] if token is None else [token]
            elif name == "mean":
                parts.append(flat.mean(2))
            elif name == "max":
                parts.append(flat.amax(2))
            else:
                parts.append(flat.std(2, unbiased=False))
    return torch.cat(parts, 1)
