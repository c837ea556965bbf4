"""What all YOLO networks share: options, losses and dense outputs.

This module imports ultralytics (AGPL-3.0); see `cyclades.stages.networks.heads.yolo_losses`.
"""

from types import SimpleNamespace
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from cyclades.stages.networks.heads.dense import DenseHead, SelectionOptions, anchor_points
from cyclades.stages.networks.heads.yolo_losses import HeadLoss
from cyclades.stages.networks.targets import Targets


class YoloNetworkOptions(SelectionOptions):
    """Options that all YOLO networks have."""

    box_gain: float = Field(7.5, ge=0)
    class_gain: float = Field(0.5, ge=0)
    distance_gain: float = Field(1.5, ge=0)
    mask_gain: float = Field(7.5, ge=0)
    one_to_many: float = Field(0.5, ge=0, le=1)
    """Weight of the loss of the one-to-many branch in end-to-end heads."""


class YoloNetwork(DenseHead):
    """Base of the YOLO networks: one box and one score a class at every cell of every level.

    A subclass sets `detect`, `options`, `strides`, `classes` and `prototype_stride`, and
    says how `detect`'s raw outputs are got from its input.
    """

    detect: Any
    """ultralytics' head."""
    options: YoloNetworkOptions
    strides: tuple[int, ...]
    classes: int

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation."""
        super().train(mode)
        # only the flag of the head itself, not of its layers: it then returns its raw outputs,
        # which losses and dense outputs are made from, instead of its own choice of detections
        self.detect.training = True
        return self

    def raw(self, features: Any) -> dict[str, Any]:
        """Outputs of ultralytics' head before decoding."""
        raise NotImplementedError

    def losses(
        self, features: Any, targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed; each is a mean over the batch.

        Anchors in ignored boxes and at unlabelled pixels have no class term, unless they belong
        to a labelled object; ignored objects are not learned.

        Parameters
        ----------
        features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)
            For complete models the images, shape (b, channels, h, w).
        targets : list of Targets, length b
            Masks are learned where there are any.
        size : (h, w)
            Of the images.

        Returns
        -------
        dict of str to Tensor
            ``loss_box``, ``loss_class``, ``loss_distance`` and, with masks, ``loss_mask``.
        """
        raw = self.raw(features)
        device = next(self.detect.parameters()).device
        loss = self._loss(device)
        with torch.autocast(device.type, enabled=False):
            return loss(raw, targets, size)

    def _loss(self, device: torch.device) -> HeadLoss:
        """The loss, made anew when the network has moved to another device."""
        kept = self.__dict__.get("_made")
        if kept is None or kept[0] != device:
            options = self.options
            gains = SimpleNamespace(
                box=options.box_gain,
                cls=options.class_gain,
                dfl=options.distance_gain,
                mask=options.mask_gain,
            )
            made = HeadLoss(self.detect, self.strides, gains, options.one_to_many)
            kept = self.__dict__["_made"] = (device, made)
        loss: HeadLoss = kept[1]
        return loss

    def dense(self, features: Any) -> tuple[Tensor, ...]:
        """Outputs at all cells of all levels, finest first; can be exported to ONNX.

        Returns
        -------
        boxes : Tensor, shape (b, n, 4)
            ``x0, y0, x1, y1`` in pixels, clipped to the image.
        scores : Tensor, shape (b, n, classes)
            0 ... 1 each; they do not exclude each other.
        coefficients : Tensor, shape (b, n, m)
            With masks only.
        prototypes : Tensor, shape (b, m, h / prototype_stride, w / prototype_stride)
            With masks only.
        """
        raw = self.raw(features)
        if "one2many" in raw:
            raw = raw["one2one"]
        levels = raw["feats"]
        # made from the features' shapes, which an export may leave open
        points = anchor_points(levels, self.strides)
        steps = torch.cat(
            [
                points.new_full((level.shape[-2] * level.shape[-1], 1), float(stride))
                for level, stride in zip(levels, self.strides, strict=True)
            ]
        )
        distances = _distances(raw["boxes"].float(), self.detect.reg_max) * steps
        corners = torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)
        size = (points + 0.5 * steps).amax(0)
        boxes = torch.minimum(corners.clamp(min=0.0), torch.cat([size, size]))
        scores = raw["scores"].float().sigmoid().transpose(1, 2)
        outputs = (boxes, scores)
        if not self.has_masks:
            return outputs
        prototypes = raw["proto"]
        if isinstance(prototypes, tuple):
            prototypes = prototypes[0]
        return (*outputs, raw["mask_coefficient"].float().transpose(1, 2), prototypes.float())


def _distances(raw: Tensor, bins: int) -> Tensor:
    """Distances from cells' centres to left, top, right and bottom edge, in units of the stride.

    Each is the mean of a distribution over ``bins`` values (Li et al. 2020, arXiv:2006.04388), or
    the output itself where there is one.
    """
    if bins == 1:
        return raw.transpose(1, 2)
    batch, _, n = raw.shape
    weights = raw.reshape(batch, 4, bins, n).softmax(2)
    values = torch.arange(bins, device=raw.device, dtype=raw.dtype)[:, None]
    return (weights * values).sum(2).transpose(1, 2)
