"""From the numbers of a network to its detections: the same for torch and ONNX Runtime."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.networks.specification import Calibration, NetworkSpec

Floats32 = NDArray[np.float32]
Integers = NDArray[np.int64]
Classify = Callable[[Floats32], Sequence[Floats32]]
Segment = Callable[[Floats32, Integers], Floats32]


class Found(NamedTuple):
    """Detections of one image, as arrays; see `cyclades.stages.networks.targets.Prediction`."""

    boxes: Floats32
    scores: Floats32
    masks: Floats32 | None
    cells: Floats32 | None = None
    """Features of the image's cells, shape (k, rows, columns), where the network was loaded so."""


def suppress(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float) -> Integers:
    """Remove boxes that overlap a better one: greedy non-maximum suppression.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1``.
    scores : ndarray, shape (n,)
    overlap : float
        Intersection over union above which the lower box goes.

    Returns
    -------
    ndarray of int
        Rows kept, best first; of equal scores the first.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable").astype(np.int64)
    kept = _suppress(np.ascontiguousarray(boxes, np.float32), order, float(overlap))
    return order[kept]


@njit("boolean[::1](float32[:, ::1], int64[::1], float64)", cache=True, nogil=True)
def _suppress(boxes: Floats32, order: Integers, overlap: float) -> NDArray[np.bool_]:
    """Which of the boxes, in order, are kept; sorted by left edge so that few pairs are tried."""
    n = len(order)
    kept = np.ones(n, np.bool_)
    rank = np.empty(n, np.int64)
    for k in range(n):
        rank[order[k]] = k
    left = np.argsort(boxes[:, 0], kind="mergesort")
    widest = 0.0
    for i in range(n):
        widest = max(widest, boxes[i, 2] - boxes[i, 0])
    place = np.empty(n, np.int64)
    for p in range(n):
        place[left[p]] = p
    for k in range(n):
        i = order[k]
        if not kept[k]:
            continue
        x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = (x1 - x0) * (y1 - y0)
        for step in (-1, 1):
            p = place[i] + step
            while 0 <= p < n:
                j = left[p]
                if step > 0 and boxes[j, 0] >= x1:
                    break
                if step < 0 and boxes[j, 0] + widest <= x0:
                    break
                p += step
                if rank[j] <= k or not kept[rank[j]]:
                    continue
                w = min(x1, boxes[j, 2]) - max(x0, boxes[j, 0])
                h = min(y1, boxes[j, 3]) - max(y0, boxes[j, 1])
                if w <= 0 or h <= 0:
                    continue
                other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
                if w * h > overlap * (area + other - w * h):
                    kept[rank[j]] = False
    return kept


def select_proposals(
    boxes: Floats32, objectness: Floats32, numbers: Sequence[int], overlap: float, most: int
) -> Floats32:
    """Regions to classify: within each level without overlaps, the best of all levels.

    Parameters
    ----------
    boxes : ndarray, shape (b, n, 4)
    objectness : ndarray, shape (b, n)
    numbers : sequence of int
        How many of the n belong to each level, one after the other.
    overlap : float
    most : int
        Regions an image.

    Returns
    -------
    ndarray of float32, shape (m, 5)
        Number of the image, and the box.
    """
    ends = np.cumsum([0, *numbers])
    rows = []
    for image in range(len(boxes)):
        kept = []
        for a, b in itertools.pairwise(ends):
            sides = boxes[image, a:b, 2:] - boxes[image, a:b, :2]
            usable = a + np.flatnonzero((sides >= 1e-3).all(-1))
            best = suppress(boxes[image, usable], objectness[image, usable], overlap)
            kept.append(usable[best])
        chosen = np.concatenate(kept)
        order = np.argsort(-objectness[image, chosen], kind="stable")[:most]
        chosen = chosen[order]
        rows.append(np.column_stack([np.full(len(chosen), image), boxes[image, chosen]]))
    return np.concatenate(rows).astype(np.float32)


def select_regions(
    rois: Floats32,
    images: int,
    classify: Classify,
    segment: Segment | None,
    size: tuple[int, int],
    floor: float,
    overlap: float,
) -> list[Found]:
    """Classify regions and keep, for each image, what stands above the floor without overlaps.

    Each region becomes one detection, with the box of its likeliest class.

    Parameters
    ----------
    rois : ndarray, shape (m, 5)
        From `select_proposals`.
    images : int
        How many images.
    classify : callable
        Regions to (scores (m, classes + 1), boxes (m, classes + 1, 4)), background first.
    segment : callable or None
        Regions and classes (background 0) to masks (m, s, s).
    size : (h, w)
    floor, overlap : float
    """
    scores, all_boxes = classify(rois) if len(rois) else (np.zeros((0, 2), np.float32),) * 2
    if len(rois):
        kind = 1 + np.argmax(scores[:, 1:], 1)
        boxes = all_boxes[np.arange(len(rois)), kind]
        limit = np.array([size[1], size[0]] * 2, np.float32)
        boxes = np.clip(boxes, 0, limit).astype(np.float32)
    found = []
    for image in range(images):
        rows = np.flatnonzero(rois[:, 0] == image)
        if len(rows):
            sides = boxes[rows, 2:] - boxes[rows, :2]
            best = scores[rows, kind[rows]]
            rows = rows[(sides >= 1e-2).all(-1) & (best >= floor)]
        if not len(rows):
            empty = np.zeros((0, 28, 28), np.float32)
            none = np.zeros((0, scores.shape[1] - 1), np.float32)
            found.append(Found(np.zeros((0, 4), np.float32), none, empty if segment else None))
            continue
        rows = rows[suppress(boxes[rows], 1.0 - scores[rows, 0], overlap)]
        found.append(Found(boxes[rows], scores[rows, 1:].astype(np.float32), None))
    if segment is None:
        return found
    kept = [np.column_stack([np.full(len(f.boxes), i), f.boxes]) for i, f in enumerate(found)]
    regions = np.concatenate(kept).astype(np.float32)
    if not len(regions):
        return found
    kinds = 1 + np.concatenate([np.argmax(f.scores, 1) for f in found if len(f.boxes)])
    masks = np.split(segment(regions, kinds), np.cumsum([len(f.boxes) for f in found])[:-1])
    return [f._replace(masks=m.astype(np.float32)) for f, m in zip(found, masks, strict=True)]


def real_scores(scores: Floats32, spec: NetworkSpec) -> Floats32:
    """Raw score of being a source, whatever its class, shape (n,).

    The sum over the classes of sources: a network that wavers between two classes is not in doubt
    whether there is a source. Scores of YOLO heads do not exclude each other, so that their sum may
    pass one. It is not cut there, which would leave the surest detections without an order;
    `probability` takes all above one for as sure as one.
    """
    return np.asarray(scores[:, list(spec.real_classes)].sum(1), np.float32)


def probability(scores: NDArray[np.floating], calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated probability of being real of raw scores, shape (n,)."""
    raw = np.clip(np.asarray(scores, float), 1e-6, 1.0 - 1e-6)
    if not calibration.score_logit:
        return np.asarray(raw, float)
    likely = np.interp(logit(raw), calibration.score_logit, calibration.probability_logit)
    return np.asarray(1.0 / (1.0 + np.exp(-likely)))


def logit(share: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithm of the odds of shares between 0 and 1."""
    return np.asarray(np.log(share / (1.0 - share)), float)
