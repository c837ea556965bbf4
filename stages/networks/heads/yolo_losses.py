"""Losses of the YOLO heads: ultralytics' own, silent where the labels say nothing.

This module imports ultralytics, whose code is under the AGPL-3.0; weights trained with it are
AGPL-3.0 as well.

Assignment of labels to anchors and the terms for class, box and edge distances are those of
`ultralytics.utils.loss.v8DetectionLoss`. The mask term is that of its `v8SegmentationLoss` (binary
cross-entropy, mean over the labelled box, then over the assigned anchors), evaluated at the 28 x 28
cells of the box where `predict` evaluates it as well, rather than on whole images: tiles of the
sky hold a hundred objects, and as many full images of each step would not fit in memory.
"""

import atexit
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.dense import anchor_points, cell_centres, sample_prototypes
from cyclades.stages.networks.targets import Targets

LICENCE = "AGPL-3.0"
"""Of all weights that these heads are part of."""


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Import ultralytics so that it asks no network, writes nothing to keep and changes nothing.

    Variables that are set already are left as they are. Its settings go to a temporary folder.
    """
    if importlib.util.find_spec("ultralytics") is None:
        raise ConfigurationError(
            "By torch, YOLO networks need ultralytics; install it with: pip install "
            "'cyclades[yolo]', or, to run exported ones as those that ship: pip install "
            "'cyclades[onnx]'"
        )
    if "ultralytics" in sys.modules:
        yield
        return
    if not os.environ.get("YOLO_CONFIG_DIR"):
        folder = tempfile.mkdtemp(prefix="cyclades-ultralytics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["YOLO_CONFIG_DIR"] = folder
    for name, value in (("OFFLINE", "1"), ("AUTOINSTALL", "0"), ("VERBOSE", "false")):
        os.environ.setdefault(f"YOLO_{name}", value)
    environment, printing = dict(os.environ), dict[str, Any](np.get_printoptions())
    try:
        yield
    finally:
        # ultralytics sets how numpy and torch print, and variables of other libraries
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        printing.pop("override_repr", None)
        np.set_printoptions(**printing)
        torch.set_printoptions(profile="default", linewidth=80)  # type: ignore[no-untyped-call]


with _contained():
    from ultralytics.utils.loss import v8DetectionLoss


class _Holder:
    """What ultralytics' losses read of a model: the head comes last."""

    def __init__(self, head: nn.Module, gains: SimpleNamespace) -> None:
        self.model, self.args = [head], gains

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model[0].parameters()


class _Assigner:
    """An assigner of labels to anchors that remembers which anchors got one."""

    def __init__(self, assigner: Any) -> None:
        self.assigner = assigner
        self.assigned: Tensor | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self.assigner(*arguments, **options)
        self.assigned = result[3]
        return result


class SilentLoss(v8DetectionLoss):  # type: ignore[misc]
    """`v8DetectionLoss` without a class term at anchors that the labels say nothing about.

    Parameters
    ----------
    head : Detect
        Of ultralytics, with its strides set.
    gains : SimpleNamespace
        ``box``, ``cls`` and ``dfl``: factors of the terms.
    candidates, kept : int
        Anchors that may belong to one object, and how many of them are kept; 10 and 10 for
        one-to-many heads, 7 and 1 for one-to-one heads.
    """

    assigner: Any

    def __init__(
        self, head: nn.Module, gains: SimpleNamespace, candidates: int = 10, kept: int = 10
    ) -> None:
        super().__init__(_Holder(head, gains), tal_topk=candidates, tal_topk2=kept)
        self._remembering = _Assigner(self.assigner)
        self.assigner = self._remembering
        self.bce = self._cross_entropy
        self._silent: Tensor | None = None

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        assigned = self._remembering.assigned
        if self._silent is None or assigned is None:
            return loss
        silent = self._silent & ~assigned
        # selecting, not multiplying: the gradient there is exactly zero, whatever the logit
        return torch.where(silent[..., None], 0.0, loss)

    def terms(
        self, raw: dict[str, Any], batch: dict[str, Tensor], silent: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Terms for box, class and distance, shape (3,), and the assignment.

        Parameters
        ----------
        raw : dict
            The head's raw outputs in float32.
        batch : dict
            From `packed`.
        silent : Tensor of bool, shape (b, anchors), optional
            Anchors without a class term, save those assigned to an object.

        Returns
        -------
        Tensor, shape (3,)
            Mean over the batch.
        (assigned, objects, boxes)
            Which anchors (b, anchors) belong to an object, its number in its image, and its box
            in pixels.
        """
        self._silent = silent
        found, loss, _ = self.get_assigned_targets_and_loss(raw, batch)
        self._silent = self._remembering.assigned = None
        return loss, (found[0], found[1].long(), found[2])


class HeadLoss:
    """All terms of a head's loss.

    Parameters
    ----------
    head : Detect or a class derived from it
    strides : tuple of int
    gains : SimpleNamespace
        ``box``, ``cls``, ``dfl`` and ``mask``.
    one_to_many : float
        Weight of the branch that gives many anchors to an object, in heads that have one more
        that gives a single anchor; that one has the rest of 1.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("loss_box", "loss_class", "loss_distance")

    def __init__(
        self, head: nn.Module, strides: tuple[int, ...], gains: SimpleNamespace, one_to_many: float
    ) -> None:
        self.strides, self.mask_gain = strides, gains.mask
        self.branches = {"one2many": (SilentLoss(head, gains), 1.0)}
        if getattr(head, "one2one_cv2", None) is not None:
            self.branches = {
                "one2many": (self.branches["one2many"][0], one_to_many),
                "one2one": (SilentLoss(head, gains, 7, 1), 1.0 - one_to_many),
            }

    def __call__(
        self, raw: dict[str, Any], targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss by name; see the heads' ``losses``."""
        branches = raw if "one2many" in raw else {"one2many": raw}
        levels = branches["one2many"]["feats"]
        kept = [_labelled(target, size) for target in targets]
        batch = packed(targets, kept, size)
        silent = silent_anchors(targets, levels, self.strides)
        total: dict[str, Tensor] = {}
        for name, (loss, weight) in self.branches.items():
            part = _in_single_precision(branches[name])
            terms, assignment = loss.terms(part, batch, silent)
            named = dict(zip(self.NAMES, terms, strict=True))
            if "mask_coefficient" in part:
                mask = mask_term(part, targets, kept, assignment, size)
                named["loss_mask"] = self.mask_gain * mask
            for term, value in named.items():
                total[term] = total.get(term, value.new_zeros(())) + weight * value
        return total


def _in_single_precision(raw: dict[str, Any]) -> dict[str, Any]:
    """Raw outputs as float32; of the features the loss asks for shape and type only."""
    result: dict[str, Any] = {
        name: value.float() for name, value in raw.items() if isinstance(value, Tensor)
    }
    result["feats"] = [
        level.new_zeros((1, 1, 1, 1), dtype=torch.float32).expand(1, 1, *level.shape[-2:])
        for level in raw["feats"]
    ]
    proto = raw.get("proto")
    if isinstance(proto, tuple):  # prototypes and class maps, of which no use is made
        result["proto"] = proto[0].float() + 0.0 * proto[1].float().mean()
    return result


def _labelled(target: Targets, size: tuple[int, int]) -> Tensor:
    """Rows of the objects to learn: told, and with some of their box in the image."""
    sides = _clipped(target.boxes, size)
    return torch.nonzero(~target.ignore & ((sides[:, 2:] - sides[:, :2]) > 0).all(1))[:, 0]


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return torch.minimum(boxes.clamp(min=0.0), limit)


def packed(targets: list[Targets], kept: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Labels of a batch as ultralytics takes them.

    Returns
    -------
    dict
        ``batch_idx`` (n,), ``cls`` (n,) and ``bboxes`` (n, 4): centre and sides in units of the
        image's.
    """
    rows = list(zip(targets, kept, strict=True))
    boxes = torch.cat([_clipped(t.boxes[k].float(), size) for t, k in rows])
    scale = boxes.new_tensor([size[1], size[0]])
    centre, sides = 0.5 * (boxes[:, :2] + boxes[:, 2:]), boxes[:, 2:] - boxes[:, :2]
    return {
        "batch_idx": torch.cat([boxes.new_full((len(k),), i) for i, k in enumerate(kept)]),
        "cls": torch.cat([t.classes[k] for t, k in rows]).to(boxes),
        "bboxes": torch.cat([centre / scale, sides / scale], 1),
    }


def silent_anchors(
    targets: list[Targets], levels: list[Tensor], strides: tuple[int, ...]
) -> Tensor | None:
    """Anchors whose point lies in an ignored box or an unlabelled pixel.

    Boxes narrower than the second finest stride are taken as wide as that.

    Returns
    -------
    Tensor of bool, shape (b, anchors), or None
        In the order of the heads' outputs; None where the labels tell about all of all images.
    """
    if not any(t.unlabelled is not None or bool(t.ignore.any()) for t in targets):
        return None
    points = anchor_points(levels, strides)
    # as ultralytics does for labelled boxes, so that the same anchors could have found the object
    smallest = strides[min(1, len(strides) - 1)]
    rows = []
    for target in targets:
        boxes = target.boxes[target.ignore].to(points)
        centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
        half = (0.5 * (boxes[:, 2:] - boxes[:, :2])).clamp(min=0.5 * smallest)
        silent = ((points[:, None] - centre).abs() < half).all(-1).any(1)
        if target.unlabelled is not None:
            ny, nx = target.unlabelled.shape
            x, y = points.long().unbind(1)
            silent |= target.unlabelled[y.clamp(max=ny - 1), x.clamp(max=nx - 1)]
        rows.append(silent)
    return torch.stack(rows)


def mask_term(
    raw: dict[str, Any],
    targets: list[Targets],
    kept: list[Tensor],
    assignment: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
) -> Tensor:
    """Cross-entropy of the masks, mean over the cells of each box and over assigned anchors.

    Images whose labels have no masks do not count. 0 (with a gradient of 0) where none has.
    """
    coefficients, prototypes = raw["mask_coefficient"], raw["proto"]
    assigned, objects, _ = assignment
    loss: Tensor = 0.0 * (coefficients.mean() + prototypes.mean())
    number = 0
    for image, (target, rows) in enumerate(zip(targets, kept, strict=True)):
        anchors = torch.nonzero(assigned[image])[:, 0]
        if target.masks is None or not len(rows) or not len(anchors):
            continue
        boxes = _clipped(target.boxes[rows].float(), size)
        truth = _cells(target.masks, rows, boxes)
        planes = sample_prototypes(prototypes[image], boxes, size)
        which = objects[image, anchors]
        logits = torch.einsum("nk,nkyx->nyx", coefficients[image].T[anchors], planes[which])
        loss = loss + functional.binary_cross_entropy_with_logits(
            logits, truth[which], reduction="none"
        ).mean((1, 2)).sum()  # fmt: skip
        number += len(anchors)
    return loss / max(number, 1)


def _cells(masks: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
    """Objects' masks at the cells of their boxes: the pixel that each centre lies in."""
    x, y = cell_centres(boxes)
    x, y = x.long().clamp(max=masks.shape[2] - 1), y.long().clamp(max=masks.shape[1] - 1)
    cells: Tensor = masks[rows[:, None, None], y[:, :, None], x[:, None, :]].to(boxes)
    return cells
