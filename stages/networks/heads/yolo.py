"""YOLO heads on the features of any backbone (ultralytics' parts and losses).

These heads import ultralytics, whose code is under the AGPL-3.0: weights of networks with one of
them are AGPL-3.0 as well, and so is what is distributed together with them.

What differs from ultralytics' ready-made models is what the sky asks for: any backbone with a
finest stride of 4, few and narrow layers (a source spans a few cells), thousands of detections a
tile, and labels that say nothing about some objects or places. Importing it asks no network and
writes to a temporary folder only.

Jocher et al. (https://github.com/ultralytics/ultralytics); Feng et al. 2021, TOOD
(arXiv:2108.07755), for the assignment of labels to cells.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.yolo_dense import YoloNetwork, YoloNetworkOptions
from cyclades.stages.networks.heads.yolo_losses import LICENCE
from cyclades.stages.networks.heads.yolo_models import UltralyticsModel, with_stride_4
from cyclades.stages.networks.specification import HeadSpec

# isort: split
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect, Segment

__all__ = ["LICENCE", "UltralyticsModel", "YoloHead", "YoloOptions", "with_stride_4"]


class YoloOptions(YoloNetworkOptions):
    """Options of the heads `yolo` and `yolo_seg`."""

    hidden: int | None = Field(None, ge=8)
    """Width of the head; features of another width are brought to it by a 1 x 1 convolution."""
    reg_max: int = Field(8, ge=1)
    """Bins of each edge's distance. A cell reaches ``reg_max - 1`` strides, and the layers that
    give the edges are ``max(16, 4 * reg_max, hidden / 4)`` wide."""
    end_to_end: bool = False
    """Add a second branch that finds each object once; its outputs are then the head's."""
    prototypes: int = Field(16, ge=1)
    prototype_channels: int = Field(32, ge=8)
    prototype_stride: int | None = None
    """Pixels a cell of the prototypes: the finest stride or (by default) half of it."""


class _Detect(Detect):  # type: ignore[misc]
    # building another model sets this on ultralytics' class, for all heads that follow
    legacy = False


class _Segment(Segment):  # type: ignore[misc]
    legacy = False


class YoloHead(YoloNetwork):
    """A box, a score for each class and (for ``yolo_seg``) a mask at each cell of each level.

    Parameters
    ----------
    spec : HeadSpec
        Its options are those of `YoloOptions`.
    strides : tuple of int
        Levels of the features, finest first.
    channels : int
        Of every level.
    classes : int
        Without background.

    Raises
    ------
    ConfigurationError
        Where an option is wrong.
    """

    takes_images = False

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = YoloOptions.of(spec)
        self.options, self.strides, self.classes = options, tuple(strides), classes
        width = options.hidden or channels
        self.narrow = (
            nn.Identity()
            if width == channels
            else nn.ModuleList(Conv(channels, width, 1) for _ in strides)
        )
        common: dict[str, Any] = {
            "nc": classes,
            "reg_max": options.reg_max,
            "end2end": options.end_to_end,
            "ch": (width,) * len(strides),
        }
        if spec.name == "yolo_seg":
            stride = options.prototype_stride or max(strides[0] // 2, 1)
            if stride not in (strides[0], strides[0] // 2):
                raise ConfigurationError(
                    f"Prototypes have the finest stride or half of it ({strides[0]} or "
                    f"{strides[0] // 2}), not {stride}; change the option prototype_stride."
                )
            self.prototype_stride = float(stride)
            self.detect = _Segment(nm=options.prototypes, npr=options.prototype_channels, **common)
            if stride == strides[0]:
                # ultralytics' prototypes without their upsampling
                middle = options.prototype_channels
                self.detect.proto = nn.Sequential(
                    Conv(width, middle, 3),
                    Conv(middle, middle, 3),
                    Conv(middle, options.prototypes),
                )
        else:
            self.prototype_stride = 0.0
            self.detect = _Detect(**common)
        self.detect.stride = torch.tensor([float(s) for s in strides])
        self.detect.bias_init()
        self.train()

    def raw(self, features: dict[int, Tensor]) -> dict[str, Any]:
        """Outputs of ultralytics' head before decoding."""
        levels = [features[s] for s in self.strides]
        if isinstance(self.narrow, nn.ModuleList):
            levels = [layer(x) for layer, x in zip(self.narrow, levels, strict=True)]
        found: dict[str, Any] = self.detect(levels)
        return found
