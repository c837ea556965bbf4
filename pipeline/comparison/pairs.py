"""Pairs of objects beside each other: up to which separation a detector tells them apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Detections

REACH = 1.0
"""Of a detection from the object that it is of at most, in FWHM, and never beyond the middle: the
light of its neighbour shifts it."""


class Pairs(NamedTuple):
    """Objects that have one neighbour.

    Attributes
    ----------
    rows : ndarray of int, shape (n, 2)
        Of the objects.
    separation : ndarray, shape (n,)
        Pixels.
    """

    rows: NDArray[np.int64]
    separation: Floats


def close_pairs(
    places: ArrayLike, brightness: ArrayLike, farthest: float, ratio: float, alone: float
) -> Pairs:
    """Find pairs of objects of similar brightness that no third one disturbs.

    Parameters
    ----------
    places : array_like, shape (n, 2)
        x and y in pixels.
    brightness : array_like, shape (n,)
        Of anything of which a third object is to have less.
    farthest : float
        Separation of a pair at most, pixels.
    ratio : float
        Brightness of the brighter one over that of the fainter at most.
    alone : float
        Every other object within this distance of either, in pixels, has less than the fainter
        one's brightness over `ratio`.
    """
    from scipy.spatial import KDTree

    xy, light = np.asarray(places, float).reshape(-1, 2), np.asarray(brightness, float)
    if len(xy) < 2:
        return Pairs(np.zeros((0, 2), np.int64), np.zeros(0))
    tree = KDTree(xy)
    rows = []
    for i, j in sorted(tree.query_pairs(farthest)):
        low, high = sorted(light[[i, j]])
        if low <= 0.0 or high > ratio * low:
            continue
        near = {*tree.query_ball_point(xy[i], alone), *tree.query_ball_point(xy[j], alone)}
        if all(light[k] < low / ratio for k in near - {i, j}):
            rows.append((i, j))
    kept = np.array(rows, np.int64).reshape(-1, 2)
    return Pairs(kept, np.hypot(*(xy[kept[:, 0]] - xy[kept[:, 1]]).T))


def told_apart(
    pairs: Pairs, places: ArrayLike, found: ArrayLike, width: float
) -> NDArray[np.bool_]:
    """Say of which pairs both objects have a detection of their own.

    Parameters
    ----------
    pairs : Pairs
    places : array_like, shape (n, 2)
        x and y of the objects.
    found : array_like, shape (m, 2)
        x and y of the detections.
    width : float
        FWHM of a point in pixels; see `REACH`.
    """
    xy, seen = (np.asarray(a, float).reshape(-1, 2) for a in (places, found))
    reach = np.minimum(REACH * width, 0.5 * pairs.separation)
    if not len(seen):
        return np.zeros(len(pairs.rows), bool)
    from scipy.spatial import KDTree

    # half the separation apart, two objects cannot have the same nearest detection
    nearest = KDTree(seen).query(xy[pairs.rows])[0]
    return np.asarray((nearest < reach[:, None]).all(1))


def by_separation(
    separation: Sequence[float] | Floats, good: ArrayLike, edges: ArrayLike
) -> list[tuple[int, float]]:
    """Count pairs, and the share that is told apart, between edges of the separation."""
    place = np.digitize(np.asarray(separation, float), np.asarray(edges, float)) - 1
    chosen = np.asarray(good, bool)
    made = []
    for k in range(len(np.asarray(edges)) - 1):
        own = chosen[place == k]
        made.append((len(own), float(own.mean()) if len(own) else float("nan")))
    return made


def light_centres(found: Detections, data: ArrayLike) -> Floats:
    """Return x and y of detections: of the light in their pixels, or the middles of their boxes.

    Parameters
    ----------
    found : Detections
    data : array_like, shape (ny, nx)
        The image above its level; what is negative or blank counts for nothing.
    """
    centres = 0.5 * (found.box[:, :2] + found.box[:, 2:])
    if found.segments is None:
        return np.asarray(centres, float)
    plane = np.asarray(data, float)
    for row in range(len(found.segments)):
        y, x = np.divmod(found.segments[row], plane.shape[1])
        light = np.nan_to_num(np.maximum(plane[y, x], 0.0))
        if light.sum() > 0.0:
            centres[row] = np.average(x, weights=light), np.average(y, weights=light)
    return np.asarray(centres, float)
