"""From any detector's output to complete detections: pixels, summits, and who owns which pixel."""

import itertools

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.geometry import inverse
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import Background, Detections, Floats, Integers, Segments
from cyclades.stages.core.summits import (
    PERSISTENCE,
    Sharpening,
    find_summits,
    refine_summits,
)

BOX_FLOOD = 2.5
SUMMIT_HEIGHT = 5.0
EIGHT_NEIGHBOURS = np.ones((3, 3), int)
_MANY_SUMMITS = 32
_ROWS = 32
_CHUNK = 64


def significance_map(image: SkyImage, background: Background) -> NDArray[np.float32]:
    """(data - level) / rms as float32; NaN where blank or where the rms is not positive."""
    significance = np.empty_like(image.data)
    # By some rows at a time, which stay in the cache.
    for first in range(0, len(significance), _ROWS):
        rows = slice(first, first + _ROWS)
        band = np.subtract(image.data[rows], background.level[rows], out=significance[rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            band /= background.rms[rows]
        finite = np.isfinite(band)
        if not finite.all():
            band[~finite] = np.nan
    return significance


def label_segments(values: NDArray[np.floating], threshold: float, sign: int = 1) -> Segments:
    """Connected groups (8 neighbours) of the pixels whose `sign` times value is above a threshold.

    In the order of their first pixels, which are in row-major order themselves; NaN is below
    every threshold.
    """
    plane = np.ascontiguousarray(values, np.float32)
    indices, offsets = _connected(plane, float(threshold), float(sign))
    return Segments(indices, offsets)


@njit("int64(int64[::1], int64)", cache=True, nogil=True)
def _root(root: Integers, i: int) -> int:
    """First member of a pixel's group; the way to it is shortened."""
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i


@njit(cache=True, nogil=True)
def _count_above(values: NDArray[np.float32], factor: np.float32, limit: np.float32) -> int:
    """Number of values whose product with a factor is above a limit, several at once."""
    number = 0
    for k in range(values.size):
        number += factor * values[k] > limit
    return number


@njit(cache=True, nogil=True)
def _above(plane: NDArray[np.float32], threshold: float, sign: float) -> Integers:
    """Flat indices of the pixels whose `sign` times value is above a threshold, ascending.

    Chunks of a row without any, as most are, are passed over together.
    """
    ny, nx = plane.shape
    # The same comparisons in single precision, of twice as many pixels at once.
    limit, factor = np.float32(threshold), np.float32(sign)
    # numpy, by which this runs where nothing is compiled, would round the threshold to single too
    if float(limit) > threshold:
        limit = np.nextafter(limit, np.float32(-np.inf))
    found = np.empty(max(nx, 1024), np.int64)
    number = 0
    for y in range(ny):
        row = plane[y]
        for start in range(0, nx, _CHUNK):
            stop = min(start + _CHUNK, nx)
            above = _count_above(row[start:stop], factor, limit)
            if above == 0:
                continue
            if number + above > found.size:
                larger = np.empty(2 * found.size, np.int64)
                larger[:number] = found[:number]
                found = larger
            for x in range(start, stop):
                if factor * row[x] > limit:
                    found[number] = y * nx + x
                    number += 1
    return found[:number].copy()


@njit("Tuple((int64[::1], int64[::1]))(float32[:, ::1], float64, float64)", cache=True, nogil=True)
def _connected(
    plane: NDArray[np.float32], threshold: float, sign: float
) -> tuple[Integers, Integers]:
    """See `label_segments`: a union-find over the pixels above, which are few."""
    pixels = _above(plane, threshold, sign)
    number, nx = pixels.size, plane.shape[1]
    root = np.arange(number)
    # `row` is the first entry of the present row, `candidate` one of the row before.
    row, candidate, present = 0, 0, -1
    for n in range(number):
        x, y = pixels[n] % nx, pixels[n] // nx
        if y != present:
            candidate, row = row, n
            present = y
        joined = -1
        if n > row and pixels[n - 1] == pixels[n] - 1:
            joined = _root(root, n - 1)
        low, high = (y - 1) * nx + max(x - 1, 0), (y - 1) * nx + min(x + 1, nx - 1)
        while candidate < row and pixels[candidate] < low:
            candidate += 1
        k = candidate
        while k < row and pixels[k] <= high:
            other = _root(root, k)
            if joined < 0:
                joined = other
            elif other < joined:
                root[joined] = other
                joined = other
            else:
                root[other] = joined
            k += 1
        if joined >= 0:
            root[n] = joined
    groups = 0
    group = np.empty(number, np.int64)
    for i in range(number):
        first = _root(root, i)
        if first == i:
            group[i] = groups
            groups += 1
        else:
            group[i] = group[first]
    offsets = np.zeros(groups + 1, np.int64)
    for i in range(number):
        offsets[group[i] + 1] += 1
    for j in range(groups):
        offsets[j + 1] += offsets[j]
    filled = offsets[:-1].copy()
    indices = np.empty(number, np.int64)
    for i in range(number):
        indices[filled[group[i]]] = pixels[i]
        filled[group[i]] += 1
    return indices, offsets


def segment_maximum(values: NDArray[np.floating], segments: Segments, sign: int = 1) -> Floats:
    """Largest `sign` times value of a map in each segment; -inf for an empty one, NaN ignored."""
    result = np.full(len(segments), -np.inf)
    filled = segments.lengths > 0
    if filled.any():
        flat = sign * values.ravel()[segments.indices].astype(float)
        flat = np.nan_to_num(flat, nan=-np.inf)
        result[filled] = np.maximum.reduceat(flat, segments.offsets[:-1][filled])
    return result


def segment_boxes(segments: Segments, nx: int) -> Floats:
    """Bounding boxes ``x0, y0, x1, y1`` of the segments; NaN for an empty one."""
    boxes = np.full((len(segments), 4), np.nan)
    filled = segments.lengths > 0
    if filled.any():
        y, x = np.divmod(segments.indices, nx)
        starts = segments.offsets[:-1][filled]
        for column, (values, reduce) in enumerate(
            [(x, np.minimum), (y, np.minimum), (x, np.maximum), (y, np.maximum)]
        ):
            boxes[filled, column] = reduce.reduceat(values, starts)
    return boxes


def nearest_summit(pixels: Integers, summits: Floats, nx: int, psf: PointSpread | None) -> Integers:
    """Number of the summit nearest to each pixel, in the metric of the beam.

    Islands of many summits are searched by a tree: all distances of an island of thousands would
    take minutes and gigabytes.
    """
    y, x = np.divmod(pixels, nx)
    precision = np.eye(2) if psf is None else inverse(psf.covariance)
    if len(summits) > _MANY_SUMMITS:
        from scipy.spatial import KDTree

        factor = np.linalg.cholesky(precision)
        tree = KDTree(summits @ factor)
        return np.asarray(tree.query(np.stack([x, y], -1) @ factor)[1], np.int64)
    dx = x[:, None] - summits[None, :, 0]
    dy = y[:, None] - summits[None, :, 1]
    distance = precision[0, 0] * dx**2 + 2 * precision[0, 1] * dx * dy + precision[1, 1] * dy**2
    return np.asarray(np.argmin(distance, axis=1))


def nearest_pixels(
    pixels: Integers, summits: Floats, nx: int, psf: PointSpread | None
) -> list[Integers]:
    """Pixels that are nearest to each summit, in the order given."""
    nearest = nearest_summit(pixels, summits, nx, psf)
    order = np.argsort(nearest, kind="stable")
    return np.split(pixels[order], np.searchsorted(nearest[order], np.arange(1, len(summits))))


def split_islands(
    islands: Segments,
    summit_pixels: Integers,
    starts: Integers,
    significance: NDArray[np.float32],
    psf: PointSpread | None,
) -> tuple[Segments, Integers, Floats]:
    """Rows of islands and their components: every island, then the children of the blends.

    Returns
    -------
    segments : Segments
        Of the islands, followed by those of the children, which partition their island's.
    parent : ndarray of int64
        -1 for islands, else the island's row.
    summit : ndarray, shape (n, 2)
        (x, y) of each leaf; NaN for islands with children.
    """
    nx = significance.shape[1]
    x, y = refine_summits(significance, summit_pixels)
    positions = np.stack([x, y], -1)
    number = np.diff(starts)
    summit = np.full((len(islands), 2), np.nan)
    single = number == 1
    summit[single] = positions[starts[:-1][single]]
    pieces: list[Integers] = []
    parents: list[int] = []
    summits: list[Floats] = []
    for row in np.flatnonzero(number > 1):
        mine = positions[starts[row] : starts[row + 1]]
        pixels = islands[row]
        pieces += nearest_pixels(pixels, mine, nx, psf)
        parents += [int(row)] * len(mine)
        summits += list(mine)
    children = Segments.from_lists(pieces)
    segments = Segments.concatenate([islands, children])
    parent = np.concatenate([np.full(len(islands), -1), np.array(parents, int)]).astype(np.int64)
    return segments, parent, np.concatenate([summit, np.array(summits).reshape(-1, 2)])


def compact_objects(detections: Detections) -> NDArray[np.bool_]:
    """Whether each object is most likely of the class ``compact``; all are without classes."""
    kinds = detections.class_probabilities
    if kinds is None or not len(kinds):
        return np.ones(len(detections), bool)
    return np.asarray(np.array(detections.classes)[np.argmax(kinds, 1)] == "compact")


def complete_detections(
    image: SkyImage,
    background: Background,
    detections: Detections,
    *,
    context: Context,
    persistence: float = PERSISTENCE,
    flood: float = BOX_FLOOD,
) -> Detections:
    """Give detections the pixels and summits that their detector left out.

    Boxes, or masks, are flooded down to `flood` times the local rms (see
    `cyclades.stages.core.objects.flood_objects`), pixels that several objects claim go to the
    nearest, of two objects with the same brightest pixel the one with the lower score goes where
    it has little beyond the other (see `cyclades.stages.core.objects.drop_repeated`), and objects
    whose pixels touch become one island, which keeps them as sources of their own. Each object is
    searched for peaks by persistence (see `cyclades.stages.core.summits`); an island with several
    of them has one child a peak.
    Detections that are complete are returned as they are; objects without any usable pixel are
    dropped.

    Parameters
    ----------
    image, background : SkyImage, Background
    detections : Detections
        One row an object, without parents.
    context : Context
    persistence : float
        Least valley between two summits, in units of the sharpened map's noise.
    flood : float
        In units of the local rms.

    Returns
    -------
    Detections
        With `segments` and `summit` known, parents before children.
    """
    from cyclades.stages.core import objects

    if detections.complete:
        return detections
    signs = detections.signs
    positive = significance_map(image, background)
    segments = detections.segments
    compact = compact_objects(detections)
    noise = noise_autocorrelation(image, background, context=context)
    sharpening = Sharpening.for_image(image.psf, noise)
    parts: list[Detections] = []
    for sign in np.unique(signs) if len(signs) else (1,):
        significance = positive if sign > 0 else -positive
        rows = np.flatnonzero(signs == sign)
        mine = detections.take(rows)
        masks = None if segments is None else segments.take(rows)
        claimed = objects.flood_objects(significance, mine.box, flood, compact[rows], masks)
        once = objects.drop_repeated(claimed, significance, mine.score, flood)
        mine, claimed = mine.take(once), claimed.take(once)
        own = objects.share_pixels(claimed, significance)
        usable = np.flatnonzero(own.lengths > 0)
        mine, own = mine.take(usable), own.take(usable)
        pixels, starts = find_summits(
            significance,
            own,
            sharpening,
            persistence=persistence,
            minimum_height=SUMMIT_HEIGHT,
        )
        places = np.stack(refine_summits(significance, pixels), -1)
        summits = [places[a:b] for a, b in itertools.pairwise(starts.tolist())]
        pieces = [
            nearest_pixels(own[row], found, image.shape[1], image.psf)
            if len(found) > 1
            else [own[row]]
            for row, found in enumerate(summits)
        ]
        parts.append(objects.island_rows(mine, own, summits, pieces))
    return parts[0] if len(parts) == 1 else Detections.concatenate(parts)
