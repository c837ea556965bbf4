"""What all YOLO networks share: options, losses, dense outputs and the choice of detections.

This module imports ultralytics (AGPL-3.0); see `cyclades.stages.networks.heads.yolo_losses`.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from cyclades.stages.networks.heads.yolo_losses import (
    HeadLoss,
    anchor_points,
    sample_prototypes,
)
from cyclades.stages.networks.heads.yolo_selection import select_dense, select_rows
from cyclades.stages.networks.specification import HeadOptions
from cyclades.stages.networks.targets import Prediction, Targets

_MASKS_AT_ONCE = 256


class DenseOptions(HeadOptions):
    """Options that all YOLO networks have."""

    score_floor: float = Field(0.01, ge=0, lt=1)
    """Lowest score of the best class that `predict` returns."""
    overlap: float = Field(0.6, gt=0, le=1)
    """Intersection over union above which the lower of two detections is dropped."""
    candidates: int = Field(10000, ge=1)
    """Boxes an image that are compared for that, best first."""
    detections: int = Field(2000, ge=1)
    """Most detections an image."""
    box_gain: float = Field(7.5, ge=0)
    class_gain: float = Field(0.5, ge=0)
    distance_gain: float = Field(1.5, ge=0)
    mask_gain: float = Field(7.5, ge=0)
    one_to_many: float = Field(0.5, ge=0, le=1)
    """Weight of the loss of the one-to-many branch in end-to-end heads."""


class DenseHead(nn.Module):
    """Base of the YOLO networks: one box and one score a class at every cell of every level.

    A subclass sets `detect`, `options`, `strides`, `classes` and `prototype_stride`, and
    says how `detect`'s raw outputs are got from its input.
    """

    detect: Any
    """ultralytics' head."""
    options: DenseOptions
    strides: tuple[int, ...]
    classes: int
    prototype_stride: float
    """Pixels of the image a cell of the prototypes; 0 without masks."""

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.prototype_stride > 0

    @property
    def score_floor(self) -> float:
        """Lowest score of the best class that `predict` returns."""
        return self.options.score_floor

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

    def select(self, outputs: Sequence[Any]) -> list[Prediction]:
        """Choose detections from `dense`'s outputs, given as tensors or arrays.

        Candidates below the score floor are dropped, then those that overlap a better one of any
        class, then all but the best ones.

        Returns
        -------
        list of Prediction
            On the CPU; masks have 28 x 28 cells.
        """
        rules: dict[str, Any] = {
            "floor": self.options.score_floor,
            "overlap": self.options.overlap,
            "candidates": self.options.candidates,
            "most": self.options.detections,
        }
        if not isinstance(outputs[0], Tensor):
            found = select_dense(outputs, prototype_stride=self.prototype_stride, **rules)
            return [
                Prediction(
                    torch.from_numpy(boxes),
                    torch.from_numpy(scores),
                    None if masks is None else torch.from_numpy(masks),
                )
                for boxes, scores, masks in found
            ]
        return [self._select_image([a[i] for a in outputs], rules) for i in range(len(outputs[0]))]

    def _select_image(self, outputs: list[Tensor], rules: dict[str, Any]) -> Prediction:
        boxes, scores, *rest = outputs
        # only what stands above the floor leaves the device
        likely = torch.nonzero(scores.amax(1) >= rules["floor"])[:, 0]
        few, best = boxes[likely].cpu(), scores[likely].cpu()
        rows = torch.from_numpy(select_rows(few.numpy(), best.numpy(), **rules))
        masks = None
        if rest:
            coefficients, prototypes = rest
            size = [round(n * self.prototype_stride) for n in prototypes.shape[-2:]]
            chosen = likely[rows.to(likely.device)]
            masks = _masks(
                coefficients[chosen], prototypes, boxes[chosen], (size[0], size[1])
            ).cpu()
        return Prediction(few[rows], best[rows], masks)

    @torch.no_grad()
    def predict(self, features: Any, size: tuple[int, int]) -> list[Prediction]:
        """Detections of each image, overlapping ones removed; see `Prediction`.

        Parameters
        ----------
        features
            As for `losses`.
        size : (h, w)
            Of the images.
        """
        return self.select(self.dense(features))


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


def _masks(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: tuple[int, int]
) -> Tensor:
    """Mask probabilities, as `yolo_selection.sample_masks`, on the tensors' device."""
    parts = [
        torch.einsum(
            "nk,nkyx->nyx",
            coefficients[start : start + _MASKS_AT_ONCE],
            sample_prototypes(prototypes, boxes[start : start + _MASKS_AT_ONCE], size),
        ).sigmoid()
        for start in range(0, len(boxes), _MASKS_AT_ONCE)
    ]
    return torch.cat(parts) if parts else prototypes.new_zeros((0, 28, 28))
