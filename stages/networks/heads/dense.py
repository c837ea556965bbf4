"""What heads share that give one box and one score a class at every cell, or for every query.

Detections are chosen from these outputs by the same code for torch and for ONNX Runtime
(`cyclades.stages.networks.heads.dense_selection`), so that such heads can be exported.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.networks.heads.dense_selection import MASK_CELLS, select_dense, select_rows
from cyclades.stages.networks.specification import HeadOptions
from cyclades.stages.networks.targets import Prediction, Targets

_MASKS_AT_ONCE = 256


class SelectionOptions(HeadOptions):
    """Options of all heads whose detections are chosen from dense outputs."""

    score_floor: float = Field(0.01, ge=0, lt=1)
    """Lowest score of the best class that `predict` returns."""
    overlap: float = Field(0.6, gt=0, le=1)
    """Intersection over union above which the lower of two detections is dropped."""
    candidates: int = Field(10000, ge=1)
    """Boxes an image that are compared for that, best first."""
    detections: int = Field(2000, ge=1)
    """Most detections an image."""


class DenseHead(nn.Module):
    """Base of the heads with one box and one score a class for every cell or query.

    A subclass sets `options`, and `prototype_stride` where it has masks, and says how its losses
    and its dense outputs are made.
    """

    options: SelectionOptions
    prototype_stride: float = 0.0
    """Pixels of the image a cell of the prototypes; 0 without masks."""

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.prototype_stride > 0

    @property
    def score_floor(self) -> float:
        """Lowest score of the best class that `predict` returns."""
        return self.options.score_floor

    def losses(
        self, features: Any, targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed; each is a mean over the batch.

        Parameters
        ----------
        features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)
            For whole models the images, shape (b, channels, h, w).
        targets : list of Targets, length b
        size : (h, w)
            Of the images.
        """
        raise NotImplementedError

    def dense(self, features: Any) -> tuple[Tensor, ...]:
        """Outputs for all cells or queries; can be exported to ONNX.

        Returns
        -------
        boxes : Tensor, shape (b, n, 4)
            ``x0, y0, x1, y1`` in pixels, clipped to the image.
        scores : Tensor, shape (b, n, classes)
            0 ... 1 each.
        coefficients : Tensor, shape (b, n, m)
            With masks only.
        prototypes : Tensor, shape (b, m, h / prototype_stride, w / prototype_stride)
            With masks only.
        """
        raise NotImplementedError

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
                for boxes, scores, masks, _ in found
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


def anchor_points(levels: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Centres of the cells of all levels, x and y in pixels, shape (anchors, 2)."""
    points = []
    for level, stride in zip(levels, strides, strict=True):
        h, w = level.shape[-2:]
        y = (torch.arange(h, device=level.device, dtype=torch.float32) + 0.5) * stride
        x = (torch.arange(w, device=level.device, dtype=torch.float32) + 0.5) * stride
        # by expansion, which an export follows for features of any shape
        grid = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], -1)
        points.append(grid.reshape(-1, 2))
    return torch.cat(points)


def cell_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (n, 28) and y (n, 28) of the centres of the cells of boxes (n, 4), in pixels."""
    steps = (torch.arange(MASK_CELLS, device=boxes.device, dtype=boxes.dtype) + 0.5) / MASK_CELLS
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :1] + sides[:, :1] * steps, boxes[:, 1:2] + sides[:, 1:] * steps


def sample_prototypes(prototypes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Prototypes (m, h, w) at the cells of boxes (n, 4), shape (n, m, 28, 28)."""
    x, y = cell_centres(boxes)
    x, y = 2.0 * x / size[1] - 1.0, 2.0 * y / size[0] - 1.0
    n = len(boxes)
    shape = (n, MASK_CELLS, MASK_CELLS)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
    found = functional.grid_sample(
        prototypes[None],
        grid.reshape(1, n * MASK_CELLS, MASK_CELLS, 2).to(prototypes),
        padding_mode="border",
        align_corners=False,
    )
    return found.reshape(-1, n, MASK_CELLS, MASK_CELLS).transpose(0, 1)


def _masks(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: tuple[int, int]
) -> Tensor:
    """Mask probabilities, as `dense_selection.sample_masks`, on the tensors' device."""
    parts = [
        torch.einsum(
            "nk,nkyx->nyx",
            coefficients[start : start + _MASKS_AT_ONCE],
            sample_prototypes(prototypes, boxes[start : start + _MASKS_AT_ONCE], size),
        ).sigmoid()
        for start in range(0, len(boxes), _MASKS_AT_ONCE)
    ]
    return torch.cat(parts) if parts else prototypes.new_zeros((0, 28, 28))
