"""From the dense outputs of a network to its detections, without torch.

The same functions serve torch and ONNX Runtime, so that both give the same detections.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.networks.selection import Floats32, Found, Integers, suppress

MASK_CELLS = 28
SMALLEST_SIDE = 1e-2
"""Pixels; a box clipped to less has no inside."""


def select_rows(
    boxes: Floats32, scores: Floats32, *, floor: float, overlap: float, candidates: int, most: int
) -> Integers:
    """Choose detections of one image.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` in pixels. Boxes that are empty or hold NaN are dropped.
    scores : ndarray, shape (n, classes)
        The best class counts. Rows whose best is NaN are dropped.
    floor : float
        Lowest score kept.
    overlap : float
        Intersection over union above which the lower of two boxes is dropped, whatever its class.
    candidates : int
        How many, best first, take part in that.
    most : int
        How many, best first, are returned.

    Returns
    -------
    ndarray of int
        Rows, best first.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    best = scores.max(1)
    # comparisons with NaN are false, so that rows with NaN fall out here
    usable = (best >= floor) & (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_SIDE).all(1)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-best[rows], kind="stable")[:candidates]]
    kept = suppress(boxes[rows], best[rows], overlap)[:most]
    return np.asarray(rows[kept], np.int64)


def sample_masks(
    coefficients: Floats32, prototypes: Floats32, boxes: Floats32, stride: float
) -> Floats32:
    """Mask probabilities at the centres of the cells of each box.

    A mask is the sum of the prototypes by the box's coefficients (Bolya et al. 2019,
    arXiv:1904.02689), interpolated bilinearly, constant beyond the outermost centres.

    Parameters
    ----------
    coefficients : ndarray, shape (n, m)
    prototypes : ndarray, shape (m, h, w)
    boxes : ndarray, shape (n, 4)
        In pixels of the image.
    stride : float
        Pixels of the image a cell of the prototypes.

    Returns
    -------
    ndarray of float32, shape (n, 28, 28)
    """
    planes = np.ascontiguousarray(np.moveaxis(prototypes, 0, -1), np.float32)
    logits = _sample(
        np.ascontiguousarray(coefficients, np.float32),
        planes,
        np.ascontiguousarray(boxes, np.float32) / np.float32(stride),
        MASK_CELLS,
    )
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)


@njit(
    "float32[:, :, ::1](float32[:, ::1], float32[:, :, ::1], float32[:, ::1], int64)",
    cache=True,
    nogil=True,
)
def _sample(coefficients: Floats32, planes: Floats32, boxes: Floats32, cells: int) -> Floats32:
    """Logits, with the prototypes' number as last axis so that each sum runs along memory."""
    h, w, m = planes.shape
    logits = np.zeros((len(boxes), cells, cells), np.float32)
    for i in range(len(boxes)):
        x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        for r in range(cells):
            y = min(max(y0 + (y1 - y0) * (r + 0.5) / cells - 0.5, 0.0), h - 1.0)
            low = int(y)
            high = min(low + 1, h - 1)
            fy = y - low
            for c in range(cells):
                x = min(max(x0 + (x1 - x0) * (c + 0.5) / cells - 0.5, 0.0), w - 1.0)
                left = int(x)
                right = min(left + 1, w - 1)
                fx = x - left
                total = 0.0
                for k in range(m):
                    top = planes[low, left, k] * (1.0 - fx) + planes[low, right, k] * fx
                    bottom = planes[high, left, k] * (1.0 - fx) + planes[high, right, k] * fx
                    total += coefficients[i, k] * (top * (1.0 - fy) + bottom * fy)
                logits[i, r, c] = total
    return logits


def select_dense(
    outputs: Sequence[NDArray[np.floating]],
    *,
    floor: float,
    overlap: float,
    candidates: int,
    most: int,
    prototype_stride: float = 0.0,
) -> list[Found]:
    """Detections of each image of a batch.

    Parameters
    ----------
    outputs : sequence of ndarray
        Boxes (b, n, 4) and scores (b, n, classes); for networks with masks also coefficients
        (b, n, m) and prototypes (b, m, h, w).
    floor, overlap, candidates, most
        See `select_rows`.
    prototype_stride : float
        See `sample_masks`; not used without masks.

    Returns
    -------
    list of Found, length b
    """
    boxes, scores, *rest = (np.asarray(a, np.float32) for a in outputs)
    found = []
    for image in range(len(boxes)):
        rows = select_rows(
            boxes[image],
            scores[image],
            floor=floor,
            overlap=overlap,
            candidates=candidates,
            most=most,
        )
        chosen = boxes[image, rows]
        masks = None
        if rest:
            masks = sample_masks(rest[0][image, rows], rest[1][image], chosen, prototype_stride)
        found.append(Found(chosen, scores[image, rows], masks))
    return found
