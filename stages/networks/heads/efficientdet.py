"""EfficientDet: an EfficientNet, a weighted bidirectional pyramid and anchors (effdet's parts).

Network, pyramid (BiFPN) and prediction layers are those of the package effdet. What differs from
its ready-made models is what the sky asks for: a finest level of stride 4, anchors from 6 pixels
on, images of any size, thousands of detections a tile, and labels that say nothing about some
objects or places. Building it downloads nothing.

Tan, Pang & Le 2020 (arXiv:1911.09070); the loss of the classes is that of Lin et al. 2017
(arXiv:1708.02002).
"""

from typing import Any, Literal

import torch
from effdet.config import get_efficientdet_config
from effdet.efficientdet import EfficientDet, Interpolate2d
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from cyclades.stages.networks.backbones import Backbone, drop_behind_levels
from cyclades.stages.networks.heads.dense import DenseHead, SelectionOptions, anchor_points
from cyclades.stages.networks.heads.rcnn import decode, untold
from cyclades.stages.networks.pretrained import load_pretrained
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, InputSpec
from cyclades.stages.networks.targets import Targets

_MODELS = {
    "d0": "efficientdet_d0",
    "d1": "efficientdet_d1",
    "d2": "efficientdet_d2",
    "lite0": "tf_efficientdet_lite0",
}
_FINEST = 2
"""Level of stride 4: two to the power of a level is its stride."""
_MOMENTUM = 0.1
"""Of the statistics of batch normalisation; effdet's 0.01 is for trainings of 100,000 steps."""


class EfficientDetOptions(SelectionOptions):
    """Options of the head `efficientdet`."""

    score_floor: float = Field(0.05, ge=0, lt=1)
    """As of all heads, but higher: with a focal loss background starts at 0.01."""
    model: Literal["d0", "d1", "d2", "lite0"] = "lite0"
    """Size of the network. D0 to D2 weigh features by their means over the tile (squeeze and
    excitation); Lite0 does not."""
    weights: str | None = None
    """Where the training of the backbone starts, as ``efficientnet-lite0-imagenet`` for Lite0: a
    name of ``cyclades weights``, a file, a folder or a hub name."""
    largest_stride: Literal[16, 32, 64] = 32
    """Of the coarsest level."""
    pyramid_channels: int | None = Field(None, ge=8)
    """Width of the pyramid; by default the model's."""
    pyramid_repeats: int | None = Field(None, ge=1)
    """Passes through the pyramid; by default the model's."""
    head_layers: int | None = Field(None, ge=1)
    """Layers before classes and boxes; by default the model's."""
    anchor_scale: float = Field(1.5, gt=0)
    """Side of the smallest square anchor in units of its level's stride."""
    scales: int = Field(2, ge=1)
    """Sizes of anchors from one level to the next."""
    aspect_ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)
    """Widths over heights of the anchors."""
    positive_overlap: float = Field(0.5, gt=0, le=1)
    """Intersection over union with an object from which on an anchor belongs to it."""
    negative_overlap: float = Field(0.4, gt=0, le=1)
    """Below this an anchor is background; between both it is not judged."""
    focal_alpha: float = Field(0.25, gt=0, lt=1)
    focal_gamma: float = Field(1.5, ge=0)
    box_gain: float = Field(50.0, ge=0)
    box_delta: float = Field(0.1, gt=0)
    """Error of a box, in units of the anchor's sides, from which on the loss is linear."""


class EfficientDetHead(DenseHead):
    """A whole EfficientDet: a box and a score for each class at each anchor.

    Parameters
    ----------
    spec : HeadSpec
        Its options are those of `EfficientDetOptions`.
    strides : tuple of int
        Not used: the network has its own.
    channels : int
        Of the images.
    classes : int
        Without background.

    Raises
    ------
    ConfigurationError
        Where an option is wrong.
    """

    takes_images = True
    options: EfficientDetOptions
    sizes: Tensor

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = EfficientDetOptions.of(spec)
        self.options, self.classes, self.channels = options, classes, channels
        coarsest = options.largest_stride.bit_length() - 1
        self.strides = tuple(2**level for level in range(_FINEST, coarsest + 1))
        config: Any = get_efficientdet_config(_MODELS[options.model])
        config.update(
            {
                "num_classes": classes,
                "min_level": _FINEST,
                "max_level": coarsest,
                "num_levels": len(self.strides),
                "num_scales": options.scales,
                "aspect_ratios": list(options.aspect_ratios),
                # strides of 64 have no level of the backbone, effdet makes one
                "backbone_indices": tuple(s.bit_length() - 2 for s in self.strides if s <= 32),
                "backbone_args": {**(config.backbone_args or {}), "in_chans": channels},
                "norm_kwargs": {"eps": 1e-3, "momentum": _MOMENTUM},
                "image_size": (8 * options.largest_stride,) * 2,
            }
        )
        for key, value in (
            ("fpn_channels", options.pyramid_channels),
            ("fpn_cell_repeats", options.pyramid_repeats),
            ("box_class_repeats", options.head_layers),
        ):
            if value is not None:
                config[key] = value
        self.network: Any = EfficientDet(config, pretrained_backbone=False)
        drop_behind_levels(self.network.backbone)
        _take_any_size(self.network)
        self.register_buffer("sizes", _anchor_sizes(options), persistent=False)
        self._coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self._matcher = Matcher(
            options.positive_overlap,
            min(options.negative_overlap, options.positive_overlap),
            allow_low_quality_matches=True,
        )

    @property
    def largest_stride(self) -> int:
        """Sides of the images are multiples of this."""
        return self.options.largest_stride

    def start(self, input: InputSpec) -> None:
        """Fill the backbone with the weights that the option names; nothing without.

        Parameters
        ----------
        input : InputSpec
            Of the network, which has to be that of weights of ``cyclades pretrain``.

        Raises
        ------
        InputError
            Where they cannot be had or do not fit.
        """
        if self.options.weights is not None:
            name = str(self.network.config.backbone_name)
            trunk = _Trunk(name, self.channels, self.network.backbone)
            load_pretrained(trunk, self.options.weights, input)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs at all anchors, finest level first.

        Returns
        -------
        logits : Tensor, shape (b, n, classes)
        offsets : Tensor, shape (b, n, 4)
            Of centres (in units of the anchor's sides) and logarithms of sides.
        anchors : Tensor, shape (n, 4)
            ``x0, y0, x1, y1`` in pixels.
        limit : Tensor, shape (4,)
            The image's width and height, twice.
        """
        classes, boxes = self.network(images)
        number = self.sizes.shape[1]
        points = anchor_points(classes, self.strides)
        anchors = []
        first = 0
        for level, outputs in enumerate(classes):
            last = first + outputs.shape[-2] * outputs.shape[-1]
            centre, half = points[first:last, None], 0.5 * self.sizes[level]
            anchors.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
            first = last
        limit = points[-1] + 0.5 * self.strides[-1]
        return (
            torch.cat([_flat(level, number) for level in classes], 1),
            torch.cat([_flat(level, number) for level in boxes], 1),
            torch.cat(anchors),
            torch.cat([limit, limit]),
        )

    def dense(self, features: Tensor) -> tuple[Tensor, ...]:
        """Boxes and scores at all anchors; see `DenseHead.dense`."""
        logits, offsets, anchors, limit = self.raw(features)
        boxes = decode(anchors, offsets.float(), (1.0, 1.0, 1.0, 1.0), None)
        return torch.minimum(boxes.clamp(min=0.0), limit), logits.float().sigmoid()

    def losses(
        self, features: Tensor, targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed.

        Anchors that lie at least half in an ignored object, or whose centre is not labelled, are
        no background.

        Parameters
        ----------
        features : Tensor, shape (b, channels, h, w)
            The images.
        targets : list of Targets, length b
        size : (h, w)
            Of the images.

        Returns
        -------
        dict of str to Tensor
            ``loss_class`` and ``loss_box``, each over the number of anchors that belong to an
            object.
        """
        logits, offsets, anchors, _ = self.raw(features)
        with torch.autocast(logits.device.type, enabled=False):
            return self._losses(logits.float(), offsets.float(), anchors, targets)

    def _losses(
        self, logits: Tensor, offsets: Tensor, anchors: Tensor, targets: list[Targets]
    ) -> dict[str, Tensor]:
        options = self.options
        class_loss, box_loss = logits.new_zeros(()), logits.new_zeros(())
        number = 0
        for scores, moves, target in zip(logits, offsets, targets, strict=True):
            told = ~target.ignore
            boxes = target.boxes[told].float()
            if len(boxes):
                matched = self._matcher(box_iou(boxes, anchors))
            else:
                matched = torch.full((len(anchors),), -1, device=anchors.device)
            quiet = {"ignored": target.boxes[target.ignore], "unlabelled": target.unlabelled}
            judged = (matched >= 0) | ((matched == -1) & ~untold(anchors, quiet))
            positive = torch.nonzero(matched >= 0)[:, 0]
            objects = matched[positive]
            wanted = torch.zeros_like(scores)
            wanted[positive, target.classes[told][objects]] = 1.0
            # selected, so that what is not judged has no gradient at all
            class_loss = class_loss + sigmoid_focal_loss(
                scores[judged],
                wanted[judged],
                options.focal_alpha,
                options.focal_gamma,
                reduction="sum",
            )
            aim = self._coder.encode_single(boxes[objects], anchors[positive])
            box_loss = box_loss + functional.huber_loss(
                moves[positive], aim, reduction="sum", delta=options.box_delta
            )
            number += len(positive)
        count = max(number, 1)
        return {
            "loss_class": class_loss / count,
            "loss_box": options.box_gain * box_loss / (4.0 * count),
        }


class _Trunk(Backbone):
    """effdet's backbone in the form that weights are loaded into."""

    def __init__(self, name: str, in_channels: int, trunk: nn.Module) -> None:
        super().__init__(BackboneSpec(name=name), in_channels)
        self.trunk, self.neck = trunk, nn.Identity()


def _take_any_size(network: nn.Module) -> None:
    """Let a pyramid that was made for one size of images double its levels, whatever their size."""
    for module in network.modules():
        if isinstance(module, Interpolate2d):
            module.size, module.scale_factor = None, 2.0


def _anchor_sizes(options: EfficientDetOptions) -> Tensor:
    """Widths and heights of the anchors of each level, shape (levels, anchors a cell, 2)."""
    levels = []
    stride = 2**_FINEST
    while stride <= options.largest_stride:
        sides = [options.anchor_scale * stride * 2 ** (k / options.scales)
                 for k in range(options.scales)]  # fmt: skip
        levels.append(
            [[side * r**0.5, side / r**0.5] for side in sides for r in options.aspect_ratios]
        )
        stride *= 2
    return torch.tensor(levels, dtype=torch.float32)


def _flat(level: Tensor, number: int) -> Tensor:
    """Outputs of a level, (b, number k, h, w), by anchors: (b, h w number, k)."""
    batch, _, h, w = level.shape
    return level.permute(0, 2, 3, 1).reshape(batch, h * w * number, -1)
