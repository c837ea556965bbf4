"""Objects of a detector that gives boxes or masks: their pixels, their summits, their islands.

Such a detector says what belongs to one object, and knows nothing of what a fit needs: objects
whose pixels touch are measured together, as one island, and the parts of an object that lie apart
are measured as one too, since a source is what the detector took for one.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.products import Detections, Floats, Integers, Segments

SEED_RATIO = 1.6
"""A part of a box away from its main one counts from this times the flood threshold on."""
CENTRAL = 0.5
"""Of a box: the ellipse around its centre in which its object is looked for first."""


def flood_objects(
    significance: NDArray[np.float32],
    box: Floats,
    flood: float,
    compact: NDArray[np.bool_],
    masks: Segments | None = None,
) -> Segments:
    """Pixels of the objects in boxes, or in masks.

    Of the groups of pixels above the flood threshold in a box (8 neighbours), the one is taken
    that holds the brightest pixel of the box's central half, since a neighbour's flank may be
    brighter in a corner; of boxes that are not compact, also every other group that reaches
    `SEED_RATIO` times the threshold. A box without any such pixel keeps its brightest central
    one, so that every detection can be measured; one that is all blank keeps none.

    Parameters
    ----------
    significance : ndarray, shape (ny, nx), float32
        NaN where blank.
    box : ndarray, shape (n, 4)
        As in `Detections`.
    flood : float
    compact : ndarray of bool, shape (n,)
    masks : Segments, optional
        Pixels that each object may have; all of its box where left out.
    """
    none = np.zeros(0, np.int64)
    found = _flood(
        np.ascontiguousarray(significance, np.float32),
        np.ascontiguousarray(box, np.float64).reshape(-1, 4),
        np.float32(flood),
        np.float32(SEED_RATIO * flood),
        np.ascontiguousarray(compact, np.bool_),
        none if masks is None else np.ascontiguousarray(masks.indices, np.int64),
        none if masks is None else np.ascontiguousarray(masks.offsets, np.int64),
    )
    return Segments(*found)


@njit(
    "Tuple((int64[::1], int64[::1]))(float32[:, ::1], float64[:, ::1], float32, float32,"
    " boolean[::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def _flood(
    significance: NDArray[np.float32],
    box: Floats,
    flood: np.float32,
    seed: np.float32,
    compact: NDArray[np.bool_],
    indices: Integers,
    offsets: Integers,
) -> tuple[Integers, Integers]:
    """See `flood_objects`; without masks `offsets` is empty."""
    ny, nx = significance.shape
    ends = np.zeros(len(box) + 1, np.int64)
    result = np.empty(max(1024, 64 * len(box)), np.int64)
    n = 0
    for row in range(len(box)):
        ends[row + 1] = n
        x0, y0, x1, y1 = box[row]
        ya, yb = max(0, int(np.rint(y0))), min(ny, int(np.rint(y1)) + 1)
        xa, xb = max(0, int(np.rint(x0))), min(nx, int(np.rint(x1)) + 1)
        h, w = yb - ya, xb - xa
        if h <= 0 or w <= 0:
            continue
        # What may be taken: 0 nothing, 1 allowed, 2 above the threshold, 3 chosen
        state = np.zeros(h * w, np.uint8)
        if len(offsets):
            for k in range(offsets[row], offsets[row + 1]):
                y, x = indices[k] // nx - ya, indices[k] % nx - xa
                if 0 <= y < h and 0 <= x < w:
                    state[y * w + x] = 1
        else:
            state[:] = 1
        wide, high = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
        central, summit = False, -1
        highest = np.float32(0.0)
        for place in range(h * w):
            if state[place] == 0:
                continue
            y, x = place // w + ya, place % w + xa
            value = significance[y, x]
            if not np.isfinite(value):
                state[place] = 0
                continue
            if value > flood:
                state[place] = 2
            across, along = (2.0 * x - x0 - x1) / wide, (2.0 * y - y0 - y1) / high
            inside = across * across + along * along <= CENTRAL * CENTRAL
            if (inside, value) > (central, highest) or summit < 0:
                central, highest, summit = inside, value, place
        if summit < 0:
            continue
        stack = np.empty(h * w, np.int64)
        single = compact[row]
        for start in range(-1, h * w):
            if start < 0:
                first = summit
            elif single:
                break
            else:
                first = start
                y, x = first // w + ya, first % w + xa
                if state[first] != 2 or significance[y, x] < seed:
                    continue
            grows = state[first] == 2
            state[first] = 3
            if not grows:
                continue
            stack[0], size = first, 1
            while size:
                size -= 1
                y, x = stack[size] // w, stack[size] % w
                for v in range(max(0, y - 1), min(h, y + 2)):
                    for u in range(max(0, x - 1), min(w, x + 2)):
                        if state[v * w + u] == 2:
                            state[v * w + u] = 3
                            stack[size] = v * w + u
                            size += 1
        if n + h * w > len(result):
            larger = np.empty(2 * (n + h * w), np.int64)
            larger[:n] = result[:n]
            result = larger
        for place in range(h * w):
            if state[place] == 3:
                result[n] = (place // w + ya) * nx + place % w + xa
                n += 1
        ends[row + 1] = n
    return result[:n].copy(), ends


def drop_repeated(
    segments: Segments, significance: NDArray[np.float32], score: Floats, flood: float
) -> Integers:
    """Rows of the objects without those that repeat a better one.

    An object repeats a better one that has the same brightest pixel, unless most of its own pixels
    are not the other's and a peak of `SEED_RATIO` times the flood threshold is among them: a box
    over several sources is not a second box of the brightest, and would take the others with it.

    Parameters
    ----------
    segments : Segments
        Pixels of each object.
    significance : ndarray, shape (ny, nx), float32
        NaN where blank.
    score : ndarray, shape (n,)
        The better of two has the higher one.
    flood : float
    """
    filled = np.flatnonzero(segments.lengths > 0)
    if not filled.size:
        return filled
    value = np.nan_to_num(significance.ravel()[segments.indices].astype(float), nan=-np.inf)
    owner = segments.owner()
    order = np.lexsort([-value, owner])
    brightest = segments.indices[order][np.unique(owner[order], return_index=True)[1]].tolist()
    ranked = np.argsort(-score[filled], kind="stable")
    kept: dict[int, int] = {}
    for place in ranked.tolist():
        row, summit = int(filled[place]), brightest[place]
        if summit in kept:
            summit = _own_summit(row, summit, segments, significance, kept, SEED_RATIO * flood)
        if summit >= 0:
            kept[summit] = row
    return np.sort(np.array(list(kept.values()), np.int64))


def _own_summit(
    row: int,
    summit: int,
    segments: Segments,
    significance: NDArray[np.float32],
    kept: dict[int, int],
    seed: float,
) -> int:
    """Brightest peak of an object that no better one has; -1 where it repeats those."""
    pixels = every = segments[row]
    while summit in kept:
        pixels = pixels[np.isin(pixels, segments[kept[summit]], invert=True)]
        if 2 * len(pixels) < len(every):
            return -1
        peaks = pixels[_are_peaks(significance, pixels, seed)]
        if not peaks.size:
            return -1
        summit = int(peaks[np.argmax(significance.ravel()[peaks])])
    return summit


def _are_peaks(
    significance: NDArray[np.float32], pixels: Integers, least: float
) -> NDArray[np.bool_]:
    """Which pixels reach a value and are not below any of their eight neighbours."""
    ny, nx = significance.shape
    y, x = np.divmod(pixels, nx)
    value = significance[y, x]
    made = value >= least
    for v in (-1, 0, 1):
        for u in (-1, 0, 1):
            near = significance[np.clip(y + v, 0, ny - 1), np.clip(x + u, 0, nx - 1)]
            made &= ~(near > value)
    return np.asarray(made, bool)


def share_pixels(segments: Segments, significance: NDArray[np.float32]) -> Segments:
    """Give pixels that several objects claim to the one whose brightest own pixel is nearest.

    An object's brightest pixel is sought among those that it alone claims, then among all; it
    keeps that one.
    """
    nx = significance.shape[1]
    if not segments.indices.size:
        return segments
    owner = segments.owner()
    _, place, count = np.unique(segments.indices, return_inverse=True, return_counts=True)
    shared = count[place] > 1
    if not shared.any():
        return segments
    value = np.nan_to_num(significance.ravel()[segments.indices].astype(float), nan=-np.inf)
    order = np.lexsort([-value, shared, owner])
    first = np.unique(owner[order], return_index=True)[1]
    best = np.zeros(len(segments), np.int64)
    best[owner[order][first]] = segments.indices[order][first]
    y, x = np.divmod(segments.indices, nx)
    by, bx = np.divmod(best[owner], nx)
    distance = (x - bx) ** 2 + (y - by) ** 2
    # of the claims of a pixel the nearest comes first
    ranked = np.lexsort([owner, distance, place])
    keep = np.zeros(len(owner), bool)
    keep[ranked[np.unique(place[ranked], return_index=True)[1]]] = True
    lengths = np.bincount(owner[keep], minlength=len(segments))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Segments(segments.indices[keep], offsets)


def join_touching(segments: Segments, shape: tuple[int, int]) -> Integers:
    """Number of the island of each object: objects with pixels side by side (or diagonal) share.

    Islands are numbered in the order of their first objects.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    label = segments.label_map(shape)
    first, second = _touching(label)
    number = len(segments)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), (number, number))
    found = connected_components(graph, directed=False)[1]
    _, start, index = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[index].astype(np.int64)


@njit("Tuple((int64[::1], int64[::1]))(int32[:, ::1])", cache=True, nogil=True)
def _touching(label: NDArray[np.int32]) -> tuple[Integers, Integers]:
    """Pairs of objects that have neighbouring pixels, with repetitions."""
    ny, nx = label.shape
    size = 0
    for y in range(ny):
        for x in range(nx):
            if label[y, x] > 0:
                size += 4
    first, second = np.empty(size, np.int64), np.empty(size, np.int64)
    n = 0
    for y in range(ny):
        for x in range(nx):
            here = label[y, x]
            if here == 0:
                continue
            for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
                yy, xx = y + dy, x + dx
                if yy < ny and 0 <= xx < nx:
                    other = label[yy, xx]
                    if other > 0 and other != here:
                        first[n], second[n] = here - 1, other - 1
                        n += 1
    return first[:n], second[:n]


def island_rows(
    detections: Detections,
    segments: Segments,
    summits: list[Floats],
    pieces: list[list[Integers]],
) -> Detections:
    """Rows of islands and leaves from objects; see `complete_detections`.

    Parameters
    ----------
    detections : Detections
        One row an object, without parents.
    segments : Segments
        Pixels of each object; none are shared.
    summits : list of ndarray, shape (k, 2)
        Peaks of each object.
    pieces : list of lists of ndarray
        Pixels nearest to each peak.
    """
    from cyclades.stages.core.segments import segment_boxes

    nx = detections.shape[1]
    island = join_touching(segments, detections.shape)
    number = int(island.max()) + 1 if len(island) else 0
    members: list[list[int]] = [[] for _ in range(number)]
    for row, home in enumerate(island.tolist()):
        members[home].append(row)
    best = np.array([max(m, key=lambda r: detections.score[r]) for m in members], np.int64)
    joined = [np.concatenate([segments[r] for r in m]) for m in members]
    summit = np.full((number, 2), np.nan)
    parent, of_row, places, parts, whole = [], [], [], [], []
    for home, rows in enumerate(members):
        peaks = [(r, k) for r in rows for k in range(len(summits[r]))]
        if len(peaks) == 1:
            summit[home] = summits[rows[0]][0]
            continue
        for r, k in peaks:
            parent.append(home)
            of_row.append(r)
            places.append(summits[r][k])
            parts.append(pieces[r][k])
            whole.append(len(summits[r]) == 1)
    source_row = np.concatenate([best, np.array(of_row, np.int64)])
    every = Segments.from_lists([*joined, *parts])
    boxes = segment_boxes(every, nx)
    # A row that is one object keeps the box that its detector gave it.
    kept = np.flatnonzero(np.array([len(m) == 1 for m in members] + whole, bool))
    boxes[kept] = detections.box[source_row[kept]]
    return detections.replace(
        box=boxes,
        score=detections.score[source_row],
        parent=np.concatenate([np.full(number, -1), np.array(parent, int)]).astype(np.int64),
        segments=every,
        summit=np.concatenate([summit, np.array(places, float).reshape(-1, 2)]),
        sign=detections.signs[source_row],
        source=source_row,
        class_probabilities=None
        if detections.class_probabilities is None
        else detections.class_probabilities[source_row],
        flags=None if detections.flags is None else detections.flags[source_row],
    )
