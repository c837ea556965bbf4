"""What a head is trained on and what it answers, as tensors.

Boxes are ``x0, y0, x1, y1`` with (0, 0) the outer corner of the first pixel, as torchvision and
ultralytics count them: pixel i spans i ... i + 1.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """The labels of one image.

    Parameters
    ----------
    boxes : Tensor, shape (n, 4), float32
    classes : Tensor, shape (n,), int64
        From 0.
    masks : Tensor, shape (n, h, w), uint8, optional
        Pixels of each object; None where the labels are boxes only.
    ignore : Tensor, shape (n,), bool
        Objects that are neither positive nor negative (too faint, cut by the edge, doubtful).
    unlabelled : Tensor, shape (h, w), bool, optional
        Where nothing is labelled: nothing found there is wrong. None where all is labelled.
    """

    boxes: Tensor
    classes: Tensor
    ignore: Tensor
    masks: Tensor | None = None
    unlabelled: Tensor | None = None

    def to(self, device: torch.device | str) -> "Targets":
        """Return a copy on a device."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("boxes", "classes", "ignore", "masks", "unlabelled")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a head found in one image, before overlapping boxes are removed across tiles.

    Parameters
    ----------
    boxes : Tensor, shape (n, 4)
    scores : Tensor, shape (n, classes)
        0 ... 1 for each class, the class of artefacts included; raw, not calibrated.
    masks : Tensor, shape (n, m, m), optional
        Probability of belonging to the object at the centres of m x m cells of the box.
    """

    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None
