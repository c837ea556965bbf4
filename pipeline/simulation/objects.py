"""What a perfect observer sees of each object: its pixels and its components."""

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import CLASSES, DISC, SkyModel
from cyclades.pipeline.simulation.render import Drawn, convolved, disc_nodes
from cyclades.pipeline.simulation.stamps import draw_objects
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import (
    Floats,
    determinant,
    gaussian_area,
    inverse,
)
from cyclades.stages.core.products import Integers, Segments

FLOOR_PEAK = 1.0
"""Objects whose peak, noise excluded, is below this many local rms are left out of the truth,"""
FLOOR_TOTAL = 3.0
"""unless their total flux is above this many rms of the noise within their own size."""
SEPARATION = 2.0
"""Components are separate where the lower peak rises this many local rms above the saddle."""
EXTENDED = 1.25
"""An object of one component is extended where its area exceeds the beam's by this factor,"""
EXTENDED_SIGMA = 3.0
"""and by this many standard errors of the area of a point of its peak."""

COMPACT_CLASS, EXTENDED_CLASS, MULTIPLE_CLASS, DIFFUSE_CLASS, SPURIOUS_CLASS = range(len(CLASSES))

_STEPS = 33
_CLIMB = 25


@dataclass(frozen=True, eq=False)
class ObservedObjects:
    """Objects of the truth and their components, as plain arrays.

    Attributes
    ----------
    number : ndarray of int, shape (n,)
        Number of the object in the sky model; -1 for an artefact.
    object_class : ndarray of int, shape (n,)
        Position in `CLASSES`, as observed: see `classify`.
    segments : Segments
        Pixels of each object; rows of different objects may overlap.
    peak : ndarray, shape (n,)
        Brightest pixel of each in its own noise-free image, Jy/beam.
    pixel : ndarray of int, shape (n,)
        Flat index of that pixel.
    snr, total_snr : ndarray, shape (n,)
        Peak over the local rms; total flux over that of noise within the object's own size,
        ``rms sqrt(area / beam area)``.
    owner : ndarray of int, shape (m,)
        Row of the object that each component belongs to.
    values : ndarray, shape (m, 6)
        ``peak, x, y, sxx, sxy, syy`` of the components, beam included.
    total : ndarray, shape (m,)
        Jy.
    """

    number: Integers
    object_class: Integers
    segments: Segments
    peak: Floats
    pixel: Integers
    snr: Floats
    total_snr: Floats
    owner: Integers
    values: Floats
    total: Floats

    def __len__(self) -> int:
        return len(self.number)


@nb.njit(inline="always")
def _sum_at(rows: Floats, x: float, y: float) -> float:
    """Value of a sum of Gaussians (peak, x, y, and the inverse of the covariance) at a place."""
    total = 0.0
    for i in range(rows.shape[0]):
        dx, dy = x - rows[i, 1], y - rows[i, 2]
        q = rows[i, 3] * dx * dx + 2.0 * rows[i, 4] * dx * dy + rows[i, 5] * dy * dy
        total += rows[i, 0] * np.exp(-0.5 * q)
    return total


@nb.njit("int64[::1](float64[:, ::1], int64[::1], float64[::1])", cache=True, nogil=True)
def link_elements(rows: Floats, starts: Integers, depth: Floats) -> Integers:
    """Group the elements of each object by the peaks that they belong to.

    The object's image is looked at along the lines between its elements only. Going down from
    its highest point, elements join where a line connects them at the level reached; of two
    peaks that meet, the lower one is a component of its own where it rises by more than `depth`
    above the place where they meet (its persistence), and belongs to the other where not.

    Parameters
    ----------
    rows : ndarray, shape (n, 6)
        Peak, x, y and the inverse covariance (pxx, pxy, pyy) of each element.
    starts : ndarray of int, shape (objects + 1,)
    depth : ndarray, shape (objects,)
        Jy/beam; infinite where an object is one component in any case.

    Returns
    -------
    ndarray of int, shape (n,)
        One of the elements of each element's group.
    """
    group = np.arange(rows.shape[0])
    for k in range(len(starts) - 1):
        first, m = starts[k], starts[k + 1] - starts[k]
        if np.isinf(depth[k]):
            group[first : first + m] = first
            continue
        mine = rows[first : first + m]
        level = np.empty(m * (m - 1) // 2)
        ends = np.empty((len(level), 2), np.int64)
        top = np.empty(m)
        for i in range(m):
            top[i] = _sum_at(mine, mine[i, 1], mine[i, 2])
        e = 0
        for i in range(m):
            for j in range(i + 1, m):
                lowest = min(top[i], top[j])
                for s in range(1, _STEPS):
                    t = s / _STEPS
                    x = mine[i, 1] + t * (mine[j, 1] - mine[i, 1])
                    y = mine[i, 2] + t * (mine[j, 2] - mine[i, 2])
                    lowest = min(lowest, _sum_at(mine, x, y))
                level[e] = lowest
                ends[e, 0], ends[e, 1] = i, j
                e += 1
        joined = np.arange(m)
        for e in np.argsort(-level):
            i, j = ends[e, 0], ends[e, 1]
            if joined[i] == joined[j]:
                continue
            if top[joined[i]] < top[joined[j]]:
                i, j = j, i
            high, low = joined[i], joined[j]
            if top[low] - level[e] <= depth[k]:
                # below this persistence, what is joined to the lower peak is one group
                for n in range(m):
                    if joined[n] == low:
                        group[first + n] = group[first + i]
            for n in range(m):
                if joined[n] == low:
                    joined[n] = high
    return group


@nb.njit("float64[::1](float64[:, ::1], int64[::1])", cache=True, nogil=True)
def summit_values(rows: Floats, starts: Integers) -> Floats:
    """Highest value of each sum of Gaussians, by climbing from every element's centre.

    The steps are those of mean shift (Comaniciu & Meer 2002), which never descend.
    """
    result = np.zeros(len(starts) - 1)
    for k in range(len(starts) - 1):
        mine = rows[starts[k] : starts[k + 1]]
        for i in range(len(mine)):
            x, y = mine[i, 1], mine[i, 2]
            for _ in range(_CLIMB if len(mine) > 1 else 0):
                axx = axy = ayy = bx = by = 0.0
                for j in range(len(mine)):
                    pxx, pxy, pyy = mine[j, 3], mine[j, 4], mine[j, 5]
                    dx, dy = x - mine[j, 1], y - mine[j, 2]
                    q = pxx * dx * dx + 2.0 * pxy * dx * dy + pyy * dy * dy
                    w = mine[j, 0] * np.exp(-0.5 * q)
                    axx += w * pxx
                    axy += w * pxy
                    ayy += w * pyy
                    bx += w * (pxx * mine[j, 1] + pxy * mine[j, 2])
                    by += w * (pxy * mine[j, 1] + pyy * mine[j, 2])
                det = axx * ayy - axy * axy
                if det <= 0.0:
                    break
                x, y = (ayy * bx - axy * by) / det, (axx * by - axy * bx) / det
            result[k] = max(result[k], _sum_at(mine, x, y))
    return result


def candidates(sky: SkyModel, psf: PointSpread, rms: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Objects that may enter the truth: a cheap bound on what `observe_objects` decides.

    Returns
    -------
    ndarray of bool, shape (objects,)
    """
    count = len(sky.object_class)
    lowest = float(np.nanmin(rms)) if np.isfinite(rms).any() else np.inf
    peak, _ = convolved(sky, psf)
    bound = np.bincount(sky.owner, np.abs(peak), minlength=count)
    total = np.bincount(sky.owner, np.abs(sky.flux), minlength=count)
    return np.asarray((bound >= FLOOR_PEAK * lowest) | (total >= FLOOR_TOTAL * lowest))


def observe_objects(
    sky: SkyModel,
    psf: PointSpread,
    shapes: Drawn,
    rms: NDArray[np.float32],
    plane: NDArray[np.float32],
    chosen: NDArray[np.bool_],
) -> ObservedObjects:
    """Draw objects on a plane and return what can be known of them.

    Parameters
    ----------
    sky, psf : SkyModel, PointSpread
    shapes : Drawn
        `drawn(sky, psf)`.
    rms : ndarray, shape (ny, nx), float32
    plane : ndarray, shape (ny, nx), float32
        The objects are added to it.
    chosen : ndarray of bool, shape (objects,)
        Objects to draw; of these, those above the floor and inside the image are returned.
    """
    number = np.flatnonzero(chosen)
    indices, offsets, peak, pixel = draw_objects(
        plane, shapes.values, shapes.starts, number, np.ascontiguousarray(rms, np.float32)
    )
    seen = pixel >= 0
    local = np.where(seen, rms.ravel()[np.maximum(pixel, 0)], np.inf).astype(float)

    # elements of the chosen objects, sorted by object
    row = np.full(len(sky.object_class), -1)
    row[number] = np.arange(len(number))
    order = np.argsort(sky.owner, kind="stable")
    elements = order[row[sky.owner[order]] >= 0]
    owner = row[sky.owner[elements]]
    depth = np.where(sky.object_class[number] == DIFFUSE_CLASS, np.inf, SEPARATION * local)
    values, total, component_owner = _components(sky, psf, elements, owner, depth)

    area, object_total = _areas(values, total, component_owner, len(number))
    x, y = pixel % rms.shape[1], pixel // rms.shape[1]
    beams = area / psf.areas(x, y)
    snr = peak / local
    total_snr = object_total / (local * np.sqrt(np.maximum(beams, 1.0)))
    bright = (snr >= FLOOR_PEAK) | (total_snr >= FLOOR_TOTAL)
    keep = np.flatnonzero(seen & bright & (offsets[1:] > offsets[:-1]))
    several = np.bincount(component_owner, minlength=len(number)) > 1
    classes = classify(sky.object_class[number], several, beams, snr)
    new = np.full(len(number), -1)
    new[keep] = np.arange(len(keep))
    mine = new[component_owner] >= 0
    return ObservedObjects(
        number=number[keep],
        object_class=classes[keep],
        segments=Segments(indices, offsets).take(keep),
        peak=peak[keep],
        pixel=pixel[keep],
        snr=snr[keep],
        total_snr=total_snr[keep],
        owner=new[component_owner[mine]],
        values=values[mine],
        total=total[mine],
    )


def classify(
    intrinsic: Integers, several: NDArray[np.bool_], beams: Floats, snr: Floats
) -> Integers:
    """Classes as observed, positions in `CLASSES`.

    A fit cannot tell a slightly resolved faint source from a point, so that nobody could learn
    to; the area of a point has the relative standard error ``sqrt(2) / snr`` (Condon 1997,
    PASP 109, 166, equations 20 and 21, both axes taken as independent).

    Parameters
    ----------
    intrinsic : ndarray of int
        Class in the sky model; diffuse and spurious objects stay what they are.
    several : ndarray of bool
        Whether more than one component is seen.
    beams : ndarray
        Area of the object's Gaussian over the beam's; see `EXTENDED`.
    snr : ndarray
        Peak over the local rms.
    """
    error = np.sqrt(2.0) / np.maximum(snr, 1e-9)
    resolved = beams > np.maximum(EXTENDED, 1.0 + EXTENDED_SIGMA * error)
    seen = np.where(resolved, EXTENDED_CLASS, COMPACT_CLASS)
    seen = np.where(several, MULTIPLE_CLASS, seen)
    return np.where(intrinsic >= DIFFUSE_CLASS, intrinsic, seen).astype(np.int64)


def _components(
    sky: SkyModel, psf: PointSpread, elements: Integers, owner: Integers, depth: Floats
) -> tuple[Floats, Floats, Integers]:
    """Components of objects: elements that the beam does not separate are one.

    Returns
    -------
    values : ndarray, shape (m, 6)
        Peak, centroid and second moments.
    total : ndarray, shape (m,)
    owner : ndarray of int, shape (m,)
    """
    part = _take(sky, elements)
    peak, covariance = convolved(part, psf)
    precision = inverse(covariance)
    rows = np.column_stack(
        [peak, part.x, part.y, precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]]
    )
    starts = np.searchsorted(owner, np.arange(len(depth) + 1)).astype(np.int64)
    group = link_elements(np.ascontiguousarray(rows), starts, np.asarray(depth, float))
    first, index = np.unique(group, return_inverse=True)
    order = np.argsort(index, kind="stable")
    limits = np.searchsorted(index[order], np.arange(len(first) + 1)).astype(np.int64)
    summit = summit_values(np.ascontiguousarray(rows[order]), limits)
    discs = np.flatnonzero((part.kind == DISC) & (determinant(part.shapes) > 0.0))
    for disc in discs:
        summit[index[disc]] = _disc_peak(part, int(disc), psf)

    def add(weights: Floats) -> Floats:
        return np.asarray(np.bincount(index, weights, minlength=len(first)), float)

    total = add(part.flux)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = add(part.flux * part.x) / total, add(part.flux * part.y) / total
        dx, dy = part.x - x[index], part.y - y[index]
        moments = [
            add(part.flux * (covariance[:, i, j] + a * b)) / total
            for i, j, a, b in ((0, 0, dx, dx), (0, 1, dx, dy), (1, 1, dy, dy))
        ]
    return np.column_stack([summit, x, y, *moments]), total, owner[first]


def _take(sky: SkyModel, rows: Integers) -> SkyModel:
    """Return some elements of a sky, with all its objects."""
    names = ("x", "y", "flux", "sxx", "sxy", "syy", "kind", "spectral_index", "owner")
    return sky.replace(**{name: getattr(sky, name)[rows] for name in names})


def _disc_peak(sky: SkyModel, row: int, psf: PointSpread) -> float:
    """Brightness of a convolved disc at its centre, in Jy/beam."""
    beam = psf.covariances(sky.x[row], sky.y[row])[0]
    offsets, weights = disc_nodes(sky.shapes[row], beam)
    p = inverse(beam)
    q = np.einsum("ni,ij,nj->n", offsets, p, offsets)
    return float(sky.flux[row] * np.sum(weights * np.exp(-0.5 * q)))


def _areas(values: Floats, total: Floats, owner: Integers, count: int) -> tuple[Floats, Floats]:
    """Area of the Gaussian with the second moments of each object, and its total flux."""
    flux = np.bincount(owner, total, minlength=count).astype(float)

    def mean(column: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.bincount(owner, total * column, minlength=count) / flux)

    dx = values[:, 1] - mean(values[:, 1])[owner]
    dy = values[:, 2] - mean(values[:, 2])[owner]
    sxx, syy = mean(values[:, 3] + dx * dx), mean(values[:, 5] + dy * dy)
    sxy = mean(values[:, 4] + dx * dy)
    covariance = np.stack([np.stack([sxx, sxy], -1), np.stack([sxy, syy], -1)], -2)
    return gaussian_area(covariance), flux
