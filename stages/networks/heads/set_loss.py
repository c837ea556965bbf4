"""The loss of networks that predict a set: one query an object, matched one to one.

Queries and objects are matched at the lowest cost of class, distance of edges and overlap; each
matched query is taught its object, all others that there is none (Carion et al. 2020,
arXiv:2005.12872). The losses that come with such networks know neither ignored objects nor
unlabelled sky; here, queries without an object that lie on one of these have no class term.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, generalized_box_iou

from cyclades.stages.networks.heads.dense import SelectionOptions
from cyclades.stages.networks.targets import Targets

Classification = Literal["softmax", "focal", "varifocal"]
_UNIT = 64.0
"""Pixels. Distances are in units of it rather than of the image, which may be of any size."""
_SMALLEST = 8.0
"""Pixels; narrower ignored boxes are taken as so wide: queries may miss their centre a little."""
_SHARE, _POWER = 0.25, 2.0
"""Share of the objects and power of the focal loss (Lin et al. 2017, arXiv:1708.02002)."""
_VARIFOCAL_SHARE = 0.75
"""Of what is no object in the varifocal loss (Zhang et al. 2021, arXiv:2008.13367)."""


class SetLossOptions(SelectionOptions):
    """Options of the loss; the first three are costs of the matching, the others its factors."""

    class_cost: float = Field(2.0, ge=0)
    distance_cost: float = Field(5.0, ge=0)
    overlap_cost: float = Field(2.0, ge=0)
    class_gain: float = Field(1.0, ge=0)
    distance_gain: float = Field(5.0, ge=0)
    overlap_gain: float = Field(2.0, ge=0)
    no_object: float = Field(0.1, gt=0, le=1)
    """Weight of queries without an object in the softmax loss."""


class Layer(NamedTuple):
    """What one layer of a decoder says.

    Parameters
    ----------
    logits : Tensor, shape (b, queries, classes) or (b, queries, classes + 1)
        With one more, the last, for "no object", they are those of a softmax.
    boxes : Tensor, shape (b, queries, 4)
        Centre and sides in units of the image's.
    share : float
        Factor on its terms.
    """

    logits: Tensor
    boxes: Tensor
    share: float = 1.0


def corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``x0, y0, x1, y1`` in pixels of centres and sides in units of the image's (h, w)."""
    scale = boxes.new_tensor([size[1], size[0]])
    centre, half = boxes[..., :2] * scale, 0.5 * boxes[..., 2:] * scale
    return torch.cat([centre - half, centre + half], -1)


def set_loss(
    layers: list[Layer],
    targets: list[Targets],
    size: tuple[int, int],
    classes: int,
    options: SetLossOptions,
    classification: Classification,
) -> dict[str, Tensor]:
    """Terms of the loss, summed over the layers; each a mean over the labelled objects.

    Parameters
    ----------
    layers : list of Layer
        Each is matched for itself.
    targets : list of Targets, length b
    size : (h, w)
        Of the images as the network saw them, in pixels.
    classes : int
    options : SetLossOptions
    classification : str
        ``softmax``: over the classes and "no object", a mean over the queries. ``focal``: each
        class for itself, hard queries counting more. ``varifocal``: the same, an object's class
        being taught the overlap of its query's box.

    Returns
    -------
    dict of str to Tensor
        ``loss_class``, ``loss_distance`` and ``loss_overlap``.
    """
    wanted = [_labelled(target, size) for target in targets]
    number = max(sum(len(boxes) for boxes, _ in wanted), 1)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for logits, boxes, share in layers:
        terms = _layer_terms(
            logits.float(), corners(boxes.float(), size), targets, wanted, classes, options,
            classification,
        )  # fmt: skip
        asked, distance, overlap = (share * term for term in terms)
        parts.append((asked, distance / number, overlap / number))
    named = zip(("class", "distance", "overlap"), zip(*parts, strict=True), strict=True)
    gains = {
        "class": options.class_gain,
        "distance": options.distance_gain,
        "overlap": options.overlap_gain,
    }
    return {f"loss_{name}": gains[name] * torch.stack(terms).sum() for name, terms in named}


def _layer_terms(
    logits: Tensor,
    found: Tensor,
    targets: list[Targets],
    wanted: list[tuple[Tensor, Tensor]],
    classes: int,
    options: SetLossOptions,
    classification: Classification,
) -> tuple[Tensor, Tensor, Tensor]:
    """Term of the classes, and sums over the objects of those of distance and overlap."""
    truth = torch.full(logits.shape[:2], classes, device=logits.device)
    overlaps = torch.zeros(logits.shape[:2], device=logits.device)
    silent = torch.stack(
        [silent_queries(one.detach(), t) for one, t in zip(found, targets, strict=True)]
    )
    # a gradient of zero where no image has an object
    distance = overlap = 0.0 * found.sum()
    for image, (true, kinds) in enumerate(wanted):
        if not len(true):
            continue
        rows, columns = match(logits[image], found[image], true, kinds, options, classification)
        own, other = found[image, rows], true[columns]
        distance = distance + (own - other).abs().sum() / _UNIT
        overlap = overlap + (1.0 - torch.diagonal(generalized_box_iou(own, other))).sum()
        truth[image, rows] = kinds[columns]
        overlaps[image, rows] = torch.diagonal(box_iou(own.detach(), other))
        silent[image, rows] = False
    asked = class_term(
        logits, truth, overlaps, silent, classes=classes, no_object=options.no_object,
        classification=classification,
    )  # fmt: skip
    return asked, distance, overlap


def class_term(
    logits: Tensor,
    truth: Tensor,
    overlaps: Tensor,
    silent: Tensor,
    *,
    classes: int,
    no_object: float,
    classification: Classification,
) -> Tensor:
    """Term of the classes.

    Parameters
    ----------
    logits : Tensor, shape (b, queries, classes or classes + 1)
    truth : Tensor of int, shape (b, queries)
        `classes` where there is no object.
    overlaps : Tensor, shape (b, queries)
        Intersection over union of a query's box with its object's.
    silent : Tensor of bool, shape (b, queries)
        Queries that have no term.
    classes, no_object, classification
        See `set_loss` and `SetLossOptions`.
    """
    objects = truth < classes
    if classification == "softmax":
        share = torch.where(objects, 1.0, no_object) * ~silent
        entropy = functional.cross_entropy(logits.transpose(1, 2), truth, reduction="none")
        # selecting, not multiplying: the gradient there is exactly zero, whatever the logit
        return torch.where(silent, 0.0, entropy * share).sum() / share.sum().clamp(min=1e-6)
    told = functional.one_hot(truth, classes + 1)[..., :classes].to(logits)
    scores = logits.sigmoid()
    if classification == "focal":
        goal = told
        share = torch.where(told > 0, _SHARE, 1.0 - _SHARE) * (scores - told).abs() ** _POWER
    else:
        goal = told * overlaps[..., None]
        share = torch.where(told > 0, goal, _VARIFOCAL_SHARE * scores.detach() ** _POWER)
    entropy = functional.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    term = torch.where(silent[..., None], 0.0, entropy * share).sum()
    return term / objects.sum().clamp(min=1)


@torch.no_grad()
def match(
    logits: Tensor,
    found: Tensor,
    true: Tensor,
    kinds: Tensor,
    options: SetLossOptions,
    classification: Classification,
) -> tuple[Tensor, Tensor]:
    """Match queries to objects one to one, at the lowest cost altogether.

    Parameters
    ----------
    logits : Tensor, shape (queries, classes or classes + 1)
    found : Tensor, shape (queries, 4)
        ``x0, y0, x1, y1`` in pixels.
    true : Tensor, shape (n, 4)
    kinds : Tensor of int, shape (n,)
    options, classification
        See `set_loss`.

    Returns
    -------
    queries, objects : Tensor of int
        As many as there are fewer of.
    """
    if classification == "softmax":
        asked = -logits.softmax(-1)[:, kinds]
    else:
        scores = logits.sigmoid()[:, kinds]
        present = _SHARE * (1.0 - scores) ** _POWER * -(scores + 1e-8).log()
        absent = (1.0 - _SHARE) * scores**_POWER * -(1.0 - scores + 1e-8).log()
        asked = present - absent
    cost = (
        options.class_cost * asked
        + options.distance_cost * torch.cdist(found, true, p=1) / _UNIT
        - options.overlap_cost * generalized_box_iou(found, true)
    )
    # a network that has diverged is told so by its loss, not by the matching
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy(), nan=1e6))
    return torch.from_numpy(rows).to(true.device), torch.from_numpy(columns).to(true.device)


def silent_queries(found: Tensor, target: Targets) -> Tensor:
    """Queries that the labels say nothing about.

    Parameters
    ----------
    found : Tensor, shape (queries, 4)
        ``x0, y0, x1, y1`` in pixels.
    target : Targets

    Returns
    -------
    Tensor of bool, shape (queries,)
        Where the centre lies in an ignored box or on an unlabelled pixel.
    """
    points = 0.5 * (found[:, :2] + found[:, 2:])
    boxes = target.boxes[target.ignore].to(points)
    centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    half = (0.5 * (boxes[:, 2:] - boxes[:, :2])).clamp(min=0.5 * _SMALLEST)
    silent = ((points[:, None] - centre).abs() < half).all(-1).any(1)
    if target.unlabelled is not None:
        ny, nx = target.unlabelled.shape
        x, y = points.nan_to_num().long().unbind(1)
        silent |= target.unlabelled[y.clamp(0, ny - 1), x.clamp(0, nx - 1)]
    return silent


def _labelled(target: Targets, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes and classes of the objects to learn: told, and with some of their box in the image."""
    limit = target.boxes.new_tensor([size[1], size[0], size[1], size[0]])
    boxes = torch.minimum(target.boxes.float().clamp(min=0.0), limit)
    rows = ~target.ignore & ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return boxes[rows], target.classes[rows]
