"""Which known components blend, and which pixels they are measured on."""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import SIGMA_TO_FWHM, inverse
from cyclades.stages.core.products import Floats, Integers, Segments

REACH = 1.3
"""Distance in FWHM at which a profile has fallen to 1 percent: nearer components are fitted
together, the model of those further away is subtracted."""
COINCIDENT = 1e-3
"""Components nearer than this (FWHM of the beam) have no fluxes of their own."""


def blends(x: Floats, y: Floats, shape: Floats, radius: float) -> Integers:
    """Pairs of components that must be fitted together.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
    shape : ndarray, shape (n, 2, 2)
        Profile covariances, beam included, in pixels squared.
    radius : float
        Radius of the fitted ellipses, in FWHM.

    Returns
    -------
    ndarray of int64, shape (pairs, 2)
        Pairs in which one profile reaches into the ellipse of the other by more than 1 percent.
    """
    from scipy.spatial import cKDTree

    if len(x) < 2:
        return np.zeros((0, 2), np.int64)
    position = np.stack([x, y], -1)
    mean = 0.5 * (shape[:, 0, 0] + shape[:, 1, 1])
    spread = np.hypot(0.5 * (shape[:, 0, 0] - shape[:, 1, 1]), shape[:, 0, 1])
    size = SIGMA_TO_FWHM * np.sqrt(mean + spread)
    near = cKDTree(position).query_ball_point(position, (radius + REACH) * size)
    i = np.repeat(np.arange(len(x)), [len(found) for found in near])
    j = np.concatenate([np.asarray(found, np.int64) for found in near])
    # The larger of a pair looks further and finds the other; equal ones find each other.
    keep = (size[i] > size[j]) | ((size[i] == size[j]) & (i < j))
    i, j = i[keep], j[keep]
    apart = position[i] - position[j]
    distance = np.maximum(np.hypot(*apart.T), 1e-12)
    widths = []
    for row in (i, j):
        squared = np.einsum("ni,nij,nj->n", apart, inverse(shape[row]), apart)
        widths.append(SIGMA_TO_FWHM * distance / np.sqrt(np.maximum(squared, 1e-24)))
    one, other = widths
    reach = np.maximum(radius * one + REACH * other, REACH * one + radius * other)
    joined = distance < reach
    return np.stack([i[joined], j[joined]], -1)


def group_components(
    pairs: Integers, position: Floats, largest: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """Number the groups of components linked by pairs, none larger than `largest`.

    Returns
    -------
    group : ndarray of int64, shape (n,)
        Numbered from 0.
    parted : ndarray of bool, shape (n,)
        Members of groups that were too large, and cut in two along their longer side until they
        were not.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(position)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, group = connected_components(links, directed=False)
    group = group.astype(np.int64)
    parted = np.bincount(group, minlength=count)[group] > largest
    waiting = [np.flatnonzero(group == number) for number in np.unique(group[parted])]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= largest:
            continue
        axis = int(np.argmax(np.ptp(position[rows], axis=0)))
        order = rows[np.argsort(position[rows, axis], kind="stable")]
        half = order[len(order) // 2 :]
        group[half] = count
        count += 1
        waiting += [order[: len(order) // 2], half]
    return group, parted


def coincident(x: Floats, y: Floats, shape: Floats, pairs: Integers) -> NDArray[np.bool_]:
    """Components that no fit can tell from an earlier one."""
    i, j = pairs.min(axis=1), pairs.max(axis=1)
    apart = np.stack([x[i] - x[j], y[i] - y[j]], -1)
    distance = np.einsum("ni,nij,nj->n", apart, inverse(shape[i]), apart)
    alike = np.abs(shape[i] - shape[j]).max(axis=(1, 2)) < COINCIDENT * shape[i].max(axis=(1, 2))
    result = np.zeros(len(x), bool)
    result[j[alike & (distance < (COINCIDENT * SIGMA_TO_FWHM) ** 2)]] = True
    return result


def ellipse_pixels(
    data: NDArray[np.float32],
    x: Floats,
    y: Floats,
    shape: Floats,
    radius: float,
    wanted: NDArray[np.bool_],
) -> Segments:
    """Usable pixels of the ellipse of `radius` FWHM of each wanted component; none of others."""
    ny, nx = data.shape
    reach = radius * SIGMA_TO_FWHM
    empty = np.zeros(0, np.int64)
    lists = []
    precision = inverse(shape)
    for i in range(len(x)):
        if not wanted[i]:
            lists.append(empty)
            continue
        hx, hy = reach * np.sqrt(shape[i, 0, 0]), reach * np.sqrt(shape[i, 1, 1])
        rows = np.arange(max(int(y[i] - hy), 0), min(int(y[i] + hy) + 2, ny))
        columns = np.arange(max(int(x[i] - hx), 0), min(int(x[i] + hx) + 2, nx))
        dy, dx = rows[:, None] - y[i], columns[None, :] - x[i]
        p = precision[i]
        inside = p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2 < reach**2
        inside &= np.isfinite(data[np.ix_(rows, columns)])
        lists.append((rows[:, None] * nx + columns[None, :])[inside].astype(np.int64))
    return Segments.from_lists(lists)
