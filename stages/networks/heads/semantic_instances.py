"""From maps of what is source, of centres and of classes to objects, without torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from cyclades.stages.networks.heads.dense_selection import MASK_CELLS
from cyclades.stages.networks.selection import Floats32, Found, Integers

_NEIGHBOURS = np.ones((3, 3), bool)


class Rules(NamedTuple):
    """How maps are cut into objects.

    Parameters
    ----------
    threshold : float
        Least probability of a pixel that belongs to an object.
    floor : float
        Least height of a peak of the map of centres.
    distance : int
        Least distance of two peaks in pixels, along each axis.
    share : float
        Least height of a peak in units of the highest one of the same connected pixels.
    smallest : float
        Least side of a box in pixels.
    most : int
        Objects an image at most, the highest peaks.
    """

    threshold: float = 0.5
    floor: float = 0.05
    distance: int = 2
    share: float = 0.25
    smallest: float = 6.0
    most: int = 2000


def cut_objects(source: Floats32, centre: Floats32, classes: Floats32, rules: Rules) -> Found:
    """Part the pixels of sources among the peaks of the map of centres, by a watershed.

    Pixels that are connected with no peak belong to no object.

    Parameters
    ----------
    source : ndarray, shape (h, w)
        Probability of belonging to any object.
    centre : ndarray, shape (h, w)
        Probability of being the centre of one. NaN, here or in `source`, is no object.
    classes : ndarray, shape (classes, h, w)
        Probability of each class.
    rules : Rules

    Returns
    -------
    Found
        Best first. Scores are the height of the peak times the mean over the object's pixels of the
        probability of each class; masks have 28 x 28 cells.
    """
    shape = source.shape
    inside = (source > rules.threshold) & np.isfinite(centre)
    height = np.where(inside, centre, np.float32(0.0))
    peaks = _peaks(height, inside, rules)
    if not len(peaks):
        empty = np.zeros((0, MASK_CELLS, MASK_CELLS), np.float32)
        return Found(np.zeros((0, 4), np.float32), np.zeros((0, len(classes)), np.float32), empty)
    markers = np.zeros(shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    cut: Integers = watershed(  # type: ignore[no-untyped-call]
        -height, markers, connectivity=_NEIGHBOURS, mask=inside
    )
    labels = cut.astype(np.int64)
    flat = labels.ravel()
    number = np.bincount(flat, minlength=len(peaks) + 1)[1:]
    mean = np.stack(
        [np.bincount(flat, plane.ravel(), minlength=len(peaks) + 1)[1:] for plane in classes], 1
    )
    scores = height[tuple(peaks.T)][:, None] * mean / number[:, None]
    boxes = _boxes(labels, len(peaks), rules.smallest)
    return Found(
        boxes,
        scores.astype(np.float32),
        _masks(_against(source, rules.threshold), labels, boxes),
    )


def _peaks(height: Floats32, inside: NDArray[np.bool_], rules: Rules) -> Integers:
    """Rows and columns of the peaks that make an object, highest first."""
    found: Integers = peak_local_max(  # type: ignore[no-untyped-call]
        height,
        min_distance=rules.distance,
        threshold_abs=rules.floor,
        exclude_border=False,
    )
    found = found[inside[tuple(found.T)]]
    if not len(found):
        return np.zeros((0, 2), np.int64)
    heights = height[tuple(found.T)]
    groups, number = ndimage.label(inside, _NEIGHBOURS)
    group = groups[tuple(found.T)]
    highest = np.zeros(number + 1, heights.dtype)
    np.maximum.at(highest, group, heights)
    found = found[heights >= rules.share * highest[group]]
    order = np.argsort(-height[tuple(found.T)], kind="stable")
    return np.asarray(found[order[: rules.most]], np.int64)


def _boxes(labels: Integers, number: int, smallest: float) -> Floats32:
    """Boxes around the labels, grown about their centres to a least side, in the image."""
    ny, nx = labels.shape
    boxes = np.zeros((number, 4))
    for row, place in enumerate(ndimage.find_objects(labels, number)):
        boxes[row] = place[1].start, place[0].start, place[1].stop, place[0].stop
    centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    half = 0.5 * np.maximum(boxes[:, 2:] - boxes[:, :2], smallest)
    grown = np.concatenate([centre - half, centre + half], 1)
    return np.asarray(np.clip(grown, 0.0, np.array([nx, ny, nx, ny])), np.float32)


def _against(source: Floats32, threshold: float) -> Floats32:
    """Probabilities moved (in the logit) so that the threshold lies at one half."""
    inside = source * (1.0 - threshold)
    return np.asarray(inside / (inside + threshold * (1.0 - source)), np.float32)


def _masks(source: Floats32, labels: Integers, boxes: Floats32) -> Floats32:
    """Each label's probabilities at the pixels that the cells' centres lie in; 0 on others."""
    ny, nx = labels.shape
    steps = (np.arange(MASK_CELLS) + 0.5) / MASK_CELLS
    sides = boxes[:, 2:] - boxes[:, :2]
    x = np.minimum((boxes[:, :1] + sides[:, :1] * steps).astype(np.int64), nx - 1)
    y = np.minimum((boxes[:, 1:2] + sides[:, 1:] * steps).astype(np.int64), ny - 1)
    rows, columns = y[:, :, None], x[:, None, :]
    own = labels[rows, columns] == np.arange(1, len(boxes) + 1)[:, None, None]
    return np.asarray(np.where(own, source[rows, columns], 0.0), np.float32)
