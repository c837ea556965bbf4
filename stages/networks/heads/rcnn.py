"""Faster and Mask R-CNN heads, compact and for sources of some pixels (torchvision's parts).

The parts and losses are torchvision's; what differs from its ready-made models is what the sky
asks for: no resizing and no ImageNet normalisation, anchors from 8 pixels on, regions pooled from
the finest features alone (a source of 64 pixels spans 16 of their cells), hundreds of detections
a tile, and labels that say nothing about some objects or places.

Ren et al. 2015 (arXiv:1506.01497); He et al. 2017 (arXiv:1703.06870).
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.selection import select_proposals, select_regions
from cyclades.stages.networks.specification import HeadOptions, HeadSpec
from cyclades.stages.networks.targets import Prediction, Targets

LARGEST_LOG_RATIO = 4.135
"""Of decoded to anchor size (log(1000 / 16), torchvision's limit)."""


class RcnnOptions(HeadOptions):
    """Options of the heads `mask_rcnn` and `faster_rcnn`."""

    hidden: int = Field(256, ge=8)
    """Width of the two layers that classify a region."""
    pooled: int = Field(7, ge=3)
    mask_channels: int = Field(64, ge=8)
    mask_layers: int = Field(2, ge=1)
    anchor_scale: float = Field(2.0, gt=0)
    """Side of a square anchor in units of its level's stride."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    proposals: int = Field(600, ge=1)
    """Regions a tile that are classified at most."""
    level_proposals: int = Field(1000, ge=1)
    """Regions of each level that compete for these."""
    proposal_overlap: float = Field(0.7, gt=0, le=1)
    overlap: float = Field(0.5, gt=0, le=1)
    """Intersection over union above which the lower of two detections is dropped."""
    score_floor: float = Field(0.02, ge=0, lt=1)
    anchors_a_step: int = Field(256, ge=2)
    regions_a_step: int = Field(128, ge=2)


class RcnnHead(nn.Module):
    """Region proposals, then class, box and (for ``mask_rcnn``) mask of each region.

    Parameters
    ----------
    spec : HeadSpec
        Its options are those of `RcnnOptions`.
    strides : tuple of int
        Levels of the features, finest first.
    channels : int
        Of every level.
    classes : int
        Without background.

    Raises
    ------
    ConfigurationError
        Where an option is wrong, or labels have no masks for ``mask_rcnn``.
    """

    takes_images = False

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = RcnnOptions.of(spec)
        self.options, self.strides, self.classes = options, tuple(strides), classes
        self.has_masks = find_head(spec.name).masks
        anchors = AnchorGenerator(
            tuple((round(options.anchor_scale * s),) for s in strides),
            (options.aspect_ratios,) * len(strides),
        )
        limits = {"training": options.level_proposals, "testing": options.level_proposals}
        kept = {"training": options.proposals, "testing": options.proposals}
        self.rpn = _Proposals(
            anchors,
            RPNHead(channels, len(options.aspect_ratios)),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.3,
            batch_size_per_image=options.anchors_a_step,
            positive_fraction=0.5,
            pre_nms_top_n=limits,
            post_nms_top_n=kept,
            nms_thresh=options.proposal_overlap,
        )
        finest = [str(strides[0])]
        masks: dict[str, Any] = {}
        if self.has_masks:
            width = options.mask_channels
            masks = {
                "mask_roi_pool": MultiScaleRoIAlign(finest, 14, sampling_ratio=2),
                "mask_head": MaskRCNNHeads(channels, [width] * options.mask_layers, 1),
                "mask_predictor": MaskRCNNPredictor(width, width, classes + 1),
            }
        self.roi_heads = _Regions(
            MultiScaleRoIAlign(finest, options.pooled, sampling_ratio=2),
            TwoMLPHead(channels * options.pooled**2, options.hidden),
            FastRCNNPredictor(options.hidden, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=options.regions_a_step,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=options.score_floor,
            nms_thresh=options.overlap,
            detections_per_img=options.proposals,
            **masks,
        )
        self._anchors: dict[tuple[int, int], list[Tensor]] = {}

    @property
    def score_floor(self) -> float:
        """Lowest score of a real or artefact class that `predict` returns."""
        return self.options.score_floor

    def losses(
        self, features: dict[int, Tensor], targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed; the head must be in training mode.

        Parameters
        ----------
        features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)
        targets : list of Targets
            With masks where the head is ``mask_rcnn``.
        size : (h, w)
            Of the images.
        """
        named = {str(s): features[s] for s in self.strides}
        shapes = [size] * len(targets)
        # torchvision asks an image list for its tensors' size, device and number only
        images = ImageList(features[self.strides[0]].new_empty((len(targets), 1, *size)), shapes)
        labels = [_labels(target, masks=self.has_masks) for target in targets]
        proposals, losses = self.rpn(images, named, labels)
        _, more = self.roi_heads(named, proposals, shapes, labels)
        return {**losses, **more}

    def predict(self, features: dict[int, Tensor], size: tuple[int, int]) -> list[Prediction]:
        """Detections of each image, overlapping ones removed; see `Prediction`."""
        boxes, objectness = self.propose(features, size)
        finest = features[self.strides[0]]
        found = self.finish(
            boxes.float().cpu().numpy(),
            objectness.float().cpu().numpy(),
            lambda rois: [
                part.float().cpu().numpy()
                for part in self.classify(finest, torch.from_numpy(rois).to(finest))
            ],
            (lambda rois, kinds: self._masks(finest, rois, kinds)) if self.has_masks else None,
            size,
        )
        return [
            Prediction(
                torch.from_numpy(boxes),
                torch.from_numpy(scores),
                None if masks is None else torch.from_numpy(masks),
            )
            for boxes, scores, masks, _ in found
        ]

    def _masks(self, finest: Tensor, rois: Any, kinds: Any) -> Any:
        masks = self.segment(finest, torch.from_numpy(rois).to(finest)).float().cpu().numpy()
        return masks[range(len(kinds)), kinds]

    def propose(self, features: dict[int, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Most likely regions of every level, before overlapping ones are removed.

        Returns
        -------
        boxes : Tensor, shape (b, n, 4)
            Clipped to the image, levels one after the other.
        objectness : Tensor, shape (b, n)
            0 ... 1, falling within each level.
        """
        levels = [features[s] for s in self.strides]
        objectness, deltas = self.rpn.head(levels)
        boxes, scores = [], []
        for level, (score, delta, anchor) in enumerate(
            zip(objectness, deltas, self._level_anchors(levels, size), strict=True)
        ):
            batch = score.shape[0]
            flat = score.permute(0, 2, 3, 1).reshape(batch, -1)
            a = len(self.options.aspect_ratios)
            delta = delta.reshape(batch, a, 4, *delta.shape[-2:]).permute(0, 3, 4, 1, 2)
            delta = delta.reshape(batch, -1, 4)
            number = self.level_numbers(size)[level]
            top, index = flat.topk(number, dim=1)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(decode(anchor.to(delta)[index], chosen, (1.0, 1.0, 1.0, 1.0), size))
            scores.append(top.sigmoid())
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def classify(self, finest: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and boxes of regions.

        Parameters
        ----------
        finest : Tensor, shape (b, channels, h, w)
            Features of the finest stride.
        rois : Tensor, shape (n, 5)
            Number of the image, and the box.

        Returns
        -------
        scores : Tensor, shape (n, classes + 1)
            Softmax, background first.
        boxes : Tensor, shape (n, classes + 1, 4)
            Not clipped.
        """
        pooled = self._pool(finest, rois, self.options.pooled)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        coder: BoxCoder = self.roi_heads.box_coder
        deltas = deltas.reshape(-1, self.classes + 1, 4)
        boxes = decode(rois[:, None, 1:], deltas, coder.weights, None)
        return logits.softmax(-1), boxes

    def segment(self, finest: Tensor, rois: Tensor) -> Tensor:
        """Mask probabilities of regions, shape (n, classes + 1, 28, 28)."""
        heads = self.roi_heads
        logits = heads.mask_predictor(heads.mask_head(self._pool(finest, rois, 14)))
        return torch.as_tensor(logits.sigmoid())

    def finish(
        self, boxes: Any, objectness: Any, classify: Any, segment: Any, size: tuple[int, int]
    ) -> Any:
        """Pick the detections; see `cyclades.stages.networks.selection.select_regions`."""
        rois = select_proposals(
            boxes,
            objectness,
            self.level_numbers(size),
            self.options.proposal_overlap,
            self.options.proposals,
        )
        return select_regions(
            rois, len(boxes), classify, segment, size, self.options.score_floor,
            self.options.overlap,
        )  # fmt: skip

    def level_numbers(self, size: tuple[int, int]) -> list[int]:
        """How many regions `propose` returns for each level."""
        a = len(self.options.aspect_ratios)
        return [
            min(self.options.level_proposals, (size[0] // s) * (size[1] // s) * a)
            for s in self.strides
        ]

    def _pool(self, finest: Tensor, rois: Tensor, cells: int) -> Tensor:
        from torchvision.ops import roi_align

        scale = 1.0 / self.strides[0]
        return torch.as_tensor(
            roi_align(finest, rois, (cells, cells), spatial_scale=scale, sampling_ratio=2)
        )

    def _level_anchors(self, levels: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Anchors of every level of an image of a size; made once."""
        if size not in self._anchors:
            grids = [list(level.shape[-2:]) for level in levels]
            steps = [[torch.tensor(size[0] // g[0]), torch.tensor(size[1] // g[1])] for g in grids]
            maker = self.rpn.anchor_generator
            maker.set_cell_anchors(torch.float32, torch.device("cpu"))
            self._anchors[size] = maker.grid_anchors(grids, steps)
        return [a.to(levels[0].device) for a in self._anchors[size]]


def decode(
    anchors: Tensor,
    deltas: Tensor,
    weights: tuple[float, float, float, float],
    size: tuple[int, int] | None,
) -> Tensor:
    """Boxes from offsets to anchors (eq. 2 of arXiv:1506.01497), clipped to an image's size."""
    wh = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + 0.5 * wh
    scale = deltas.new_tensor(weights)
    moved = centre + wh * deltas[..., :2] / scale[:2]
    half = 0.5 * wh * torch.exp((deltas[..., 2:] / scale[2:]).clamp(max=LARGEST_LOG_RATIO))
    low, high = moved - half, moved + half
    if size is not None:
        limit = deltas.new_tensor([size[1], size[0]])
        low, high = low.clamp(min=0.0).minimum(limit), high.clamp(min=0.0).minimum(limit)
    return torch.cat([low, high], -1)


def _labels(target: Targets, *, masks: bool) -> dict[str, Tensor | None]:
    """Labels as torchvision takes them, and beside them what they say nothing about."""
    told = ~target.ignore
    labels: dict[str, Tensor | None] = {
        "boxes": target.boxes[told],
        "labels": target.classes[told] + 1,
        "ignored": target.boxes[target.ignore],
        "unlabelled": target.unlabelled,
    }
    if masks:
        if target.masks is None:
            raise ConfigurationError(
                "mask_rcnn learns from masks; give labels with masks, or train faster_rcnn."
            )
        labels["masks"] = target.masks[told]
    return labels


def untold(boxes: Tensor, labels: dict[str, Any]) -> Tensor:
    """Whether boxes lie where the labels say nothing, shape (n,).

    At least half inside an ignored object, or their centre at an unlabelled pixel.
    """
    quiet = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ignored, unlabelled = labels["ignored"], labels["unlabelled"]
    if len(ignored) and len(boxes):
        low = torch.maximum(boxes[:, None, :2], ignored[None, :, :2])
        high = torch.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
        common = (high - low).clamp(min=0).prod(-1)
        area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).prod(-1)
        quiet |= (common / area[:, None]).amax(1) >= 0.5
    if unlabelled is not None and len(boxes):
        centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
        ny, nx = unlabelled.shape
        x = centre[:, 0].long().clamp(0, nx - 1)
        y = centre[:, 1].long().clamp(0, ny - 1)
        quiet |= unlabelled[y, x]
    return quiet


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Region proposals that learn nothing from anchors that the labels say nothing about."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & untold(anchor, target)] = -1.0
        return labels, matched


class _Regions(RoIHeads):  # type: ignore[misc]
    """Region heads that learn nothing from regions that the labels say nothing about."""

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        self._targets = targets
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(self, proposals: Any, gt_boxes: Any, gt_labels: Any) -> Any:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, target in zip(labels, proposals, self._targets, strict=True):
            label[(label == 0) & untold(boxes, target)] = -1
        return matched, labels
