"""Backbones: image to ``{stride: features}``, from timm's ResNets, EfficientNets and ViTs.

A backbone is a *trunk*, the network that pre-trained weights exist for, and a *neck*, which turns
what the trunk gives into levels of equal width. Freezing and adapting concern the trunk alone
(`cyclades.stages.networks.adaptation`); neck and convolutional stem are always trained.

Names are timm's, without the tag of the weights: ``resnet18``, ``resnet50``, ``resnet101``,
``efficientnet_lite0``, ``tf_efficientnet_lite0``, ``vit_tiny_patch16_224``,
``vit_small_patch14_dinov2``, ``vit_base_patch16_dinov3``, ... Options of a specification go to
timm (a ResNet-18 of half the width has ``{"channels": [32, 64, 128, 256]}``), except these of
ViTs:

- ``taps``: blocks, counted from 1, whose tokens are used, as ``[6, 9, 12]``; the last one if not
  given. Blocks behind the last tap are left out.
- ``token_stride``: pixels of the image from one token to the next (8, 16 or 32; 16 if not given).
  The image is resized so that the tokens of whatever patch size lie on that grid exactly: features
  stay aligned with pixels, and moving the image by one token moves the tokens by one. 8 costs four
  times the time.
"""

import re
from collections.abc import Iterable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.necks import PyramidNeck, TokenNeck
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.windows import WindowedBlocks, windowed_blocks

STRIDES = (4, 8, 16, 32)
FAMILIES = re.compile(r"(resnet\d|(tf_)?efficientnet_lite|vit_\w+_patch\d+)")


class Backbone(nn.Module):
    """Base of the backbones.

    Attributes
    ----------
    name : str
        timm's name of the trunk.
    in_channels : int
        Channels of the image.
    strides : tuple of int
        Strides of the levels, ascending.
    channels : int
        Features of each level.
    options : dict
        The specification's options of the architecture.
    trunk : Module
        The part that pre-trained weights exist for.
    neck : Module
        The rest.
    """

    trunk: nn.Module
    neck: nn.Module

    def __init__(self, spec: BackboneSpec, in_channels: int) -> None:
        super().__init__()
        self.name = spec.name
        self.in_channels = in_channels
        self.strides = spec.strides
        self.channels = spec.channels
        self.options = dict(spec.options)
        self._held: list[nn.Module] = []

    def hold(self, modules: Iterable[nn.Module]) -> None:
        """Keep modules in evaluation mode for good, so that training moves no statistics.

        Replaces what was held before.
        """
        self._held = list(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training or evaluation mode, except of what is held."""
        super().train(mode)
        for module in self._held:
            module.eval()
        return self

    def fix_size(self, height: int, width: int) -> None:
        """Take images of one size from now on; export needs it of some backbones.

        Parameters
        ----------
        height, width : int
            Pixels, multiples of the largest stride.
        """

    def layers(self) -> list[list[str]]:
        """Names of the trunk's parameters in layers, from the image to the deepest."""
        depth = [self.layer(name) for name, _ in self.trunk.named_parameters()]
        found: list[list[str]] = [[] for _ in range(max(depth, default=-1) + 1)]
        for (name, _), layer in zip(self.trunk.named_parameters(), depth, strict=True):
            found[layer].append(name)
        return found

    def layer(self, name: str) -> int:
        """Layer of a parameter or module of the trunk: 0 at the image."""
        matched = re.match(r"(?:layer|blocks\.)(\d+)", name)
        if matched:
            return int(matched[1]) + (0 if name.startswith("layer") else 1)
        return self._last_layer() if re.match(r"(fc_)?norm\b", name) else 0

    def _last_layer(self) -> int:
        blocks = getattr(self.trunk, "blocks", ())
        return len(blocks)


class ConvolutionalBackbone(Backbone):
    """A ResNet or EfficientNet with a feature pyramid."""

    def __init__(self, spec: BackboneSpec, in_channels: int) -> None:
        super().__init__(spec, in_channels)
        indices = tuple(s.bit_length() - 2 for s in spec.strides)
        trunk: Any = _create(spec, in_channels, features_only=True, out_indices=indices)
        info: Any = trunk.feature_info
        if tuple(info.reduction()) != spec.strides:
            raise ConfigurationError(
                f"{spec.name} gives strides {info.reduction()}, not {list(spec.strides)}; leave "
                "out the options that change them."
            )
        drop_behind_levels(trunk)
        self.trunk = trunk
        self.neck = PyramidNeck(spec.strides, info.channels(), spec.channels)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Features by stride.

        Parameters
        ----------
        images : Tensor, shape (b, in_channels, h, w)
            Sides are multiples of the largest stride.

        Returns
        -------
        dict of int to Tensor, shape (b, channels, h / stride, w / stride)
        """
        found: dict[int, Tensor] = self.neck(self.trunk(images))
        return found


def drop_behind_levels(trunk: Any) -> None:
    """Leave out the blocks of a timm EfficientNet behind the coarsest level of its features.

    Of a ResNet timm itself does so.
    """
    if hasattr(trunk, "blocks"):
        coarsest = int(trunk.feature_info.module_name()[-1].split(".")[1])
        trunk.blocks = trunk.blocks[: coarsest + 1]


class TransformerBackbone(Backbone):
    """A vision transformer with a simple pyramid and a convolutional stem."""

    def __init__(self, spec: BackboneSpec, in_channels: int) -> None:
        super().__init__(spec, in_channels)
        options = dict(spec.options)
        self.token_stride = int(options.pop("token_stride", 16))
        if self.token_stride not in (8, 16, 32):
            raise ConfigurationError(
                f"token_stride={self.token_stride} of {spec.name} must be 8, 16 or 32."
            )
        taps = options.pop("taps", None)
        window, everywhere = options.pop("window", None), options.pop("global_blocks", None)
        trunk: Any = _create(
            spec.model_copy(update={"options": options}),
            in_channels,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
        )
        self.taps = _taps(taps, len(trunk.blocks), spec.name)
        trunk.blocks = trunk.blocks[: self.taps[-1]]
        self.patch = int(trunk.patch_embed.patch_size[0])
        self.windows: WindowedBlocks | None = None
        if window is not None:
            if int(window) < 2:
                raise ConfigurationError(f"window={window} of {spec.name} is 2 tokens or more.")
            if getattr(trunk, "rope", None) is not None:
                raise ConfigurationError(
                    f"{spec.name} rotates its tokens by their place, which windows would tell it "
                    "wrongly; leave out the option window, or take a vit_small_patch16_224, say."
                )
            chosen = windowed_blocks(len(trunk.blocks), everywhere, spec.name)
            prefix = int(trunk.num_prefix_tokens)
            self.windows = WindowedBlocks(trunk.blocks, chosen, int(window), prefix)
        self.trunk = trunk
        self.neck = TokenNeck(
            spec.strides,
            in_channels,
            trunk.embed_dim * len(self.taps),
            self.token_stride,
            spec.channels,
        )

    def resized(self, images: Tensor) -> Tensor:
        """Return images of the size at which the trunk's patches are `token_stride` pixels apart.

        Parameters
        ----------
        images : Tensor, shape (b, in_channels, h, w)
            Sides are multiples of the token stride.
        """
        if self.patch == self.token_stride:
            return images
        size = [side // self.token_stride * self.patch for side in images.shape[-2:]]
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens of all taps on their grid.

        Parameters
        ----------
        images : Tensor, shape (b, in_channels, h, w)

        Returns
        -------
        Tensor, shape (b, width, h / token_stride, w / token_stride)
        """
        trunk: Any = self.trunk
        if self.windows is not None:
            height, width = images.shape[-2:]
            self.windows.grid = (height // self.token_stride, width // self.token_stride)
        taken = trunk.forward_intermediates(
            self.resized(images),
            indices=[tap - 1 for tap in self.taps],
            norm=True,
            intermediates_only=True,
        )
        return torch.cat(list(taken), dim=1)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Features by stride; see `ConvolutionalBackbone.forward`.

        Sides that are no multiples of ``token_stride`` are filled with zeros up to one.
        """
        height, width = images.shape[-2:]
        right, below = -width % self.token_stride, -height % self.token_stride
        padded = functional.pad(images, (0, right, 0, below)) if right or below else images
        found: dict[int, Tensor] = self.neck(padded, self.tokens(padded))
        if right or below:
            return {s: f[..., : height // s, : width // s] for s, f in found.items()}
        return found

    def fix_size(self, height: int, width: int) -> None:
        """Resample the position embeddings once, for images of this size alone."""
        trunk: Any = self.trunk
        grid = [-(-side // self.token_stride) * self.patch for side in (height, width)]
        trunk.set_input_size(img_size=tuple(grid))
        trunk.dynamic_img_size = False
        # the flags that make timm keep the tokens as a grid for positions of any size
        trunk.patch_embed.flatten = True
        trunk.patch_embed.output_fmt = type(trunk.patch_embed.output_fmt).NCHW


def _taps(given: Any, depth: int, name: str) -> tuple[int, ...]:
    taps = (depth,) if given is None else tuple(int(tap) for tap in given)
    if not taps or list(taps) != sorted(set(taps)) or not 1 <= taps[0] <= taps[-1] <= depth:
        raise ConfigurationError(
            f"taps={given} of {name} must be numbers of its blocks, 1 to {depth}, ascending."
        )
    return taps


def _create(spec: BackboneSpec, in_channels: int, **arguments: Any) -> nn.Module:
    """Build a timm model from random numbers."""
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in spec.options.items()
    }
    own = sorted(given.keys() & {*arguments, "pretrained", "in_chans", "checkpoint_path"})
    if own:
        raise ConfigurationError(f"The option {own[0]!r} of {spec.name} is set by cyclades itself.")
    try:
        model: nn.Module = timm.create_model(
            spec.name, pretrained=False, in_chans=in_channels, **arguments, **given
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigurationError(
            f"{spec.name} cannot be built with the options {spec.options} ({error})."
        ) from error
    return model


def build_backbone(spec: BackboneSpec, in_channels: int) -> Backbone:
    """Build a backbone from random numbers.

    Parameters
    ----------
    spec : BackboneSpec
    in_channels : int
        Channels of the image.

    Returns
    -------
    Backbone

    Raises
    ------
    ConfigurationError
        Where timm has no such model, or the options or strides do not fit it.
    """
    if not FAMILIES.match(spec.name) or not timm.is_model(spec.name):
        raise ConfigurationError(
            f"There is no backbone {spec.name!r}; give timm's name of a ResNet, an "
            "EfficientNet-Lite or a ViT, as resnet18, tf_efficientnet_lite0 or "
            "vit_small_patch14_dinov2."
        )
    strides = spec.strides
    if not strides or list(strides) != sorted(set(strides) & set(STRIDES)):
        raise ConfigurationError(
            f"strides={list(strides)} of {spec.name} must be some of {list(STRIDES)}, ascending."
        )
    vit = spec.name.startswith("vit_")
    return (TransformerBackbone if vit else ConvolutionalBackbone)(spec, in_channels)
