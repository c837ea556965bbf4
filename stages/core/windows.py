"""What a window of an image knows for certain of the islands in it, and what it does not."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections, Floats, Integers
from cyclades.stages.core.segments import segment_boxes
from cyclades.stages.core.tiling import Box

NEIGHBOURHOOD = 6.0
"""Beams around an island within which it bears on the measurement of others, at least."""
WINGS = 3.0
"""Extents of an island around it within which it does: six sigma of a Gaussian of which little
more than the top reaches the threshold."""
MARGIN = 2.0
"""Beams around an island, besides its own extent, that its own fit looks at."""
SURROUNDINGS = 22.0
"""Beams around an island in which a much brighter one bears on it: its sidelobes reach so far."""
BRIGHTER = 20.0
"""Ratio of significances from which an island counts as much brighter."""
NO_BEAM = 4.0
"""FWHM in pixels that distances are counted in where no beam is known."""


class IslandPlaces(NamedTuple):
    """Where islands lie in the full image, one row an island of the detections.

    Parameters
    ----------
    boxes : ndarray of int, shape (n, 4)
        ``y0, y1, x0, x1``, half-open as `Box`.
    y, x : ndarray of int, shape (n,)
        Brightest pixel.
    snr : ndarray, shape (n,)
        Significance of that pixel.
    """

    boxes: Integers
    y: Integers
    x: Integers
    snr: Floats

    @classmethod
    def of(cls, image: SkyImage, background: Background, detections: Detections) -> "IslandPlaces":
        """Find them; an island without pixels lies in the middle of its box."""
        assert detections.segments is not None
        islands, nx = detections.islands, image.shape[1]
        segments = detections.segments.take(islands)
        sign = detections.signs[islands][segments.owner()]
        flat = image.data.ravel()[segments.indices].astype(float)
        flat -= background.level.ravel()[segments.indices].astype(float)
        best = segments.brightest(sign * flat)
        corners = segment_boxes(segments, nx)
        given = detections.box[islands]
        corners = np.where(np.isfinite(corners), corners, np.rint(given))
        x, y = (np.rint(0.5 * (given[:, i] + given[:, i + 2])).astype(np.int64) for i in (0, 1))
        filled = best >= 0
        y[filled], x[filled] = np.divmod(segments.indices[best[filled]], nx)
        snr = np.zeros(len(islands))
        rms = background.rms.ravel()[segments.indices[best[filled]]]
        with np.errstate(invalid="ignore", divide="ignore"):
            snr[filled] = np.nan_to_num((sign * flat)[best[filled]] / rms)
        low, high = corners[:, [1, 0]].astype(np.int64), corners[:, [3, 2]].astype(np.int64) + 1
        boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1)
        y0, x0 = image.origin
        return cls(boxes + np.array([y0, y0, x0, x0]), y + y0, x + x0, snr)


def grown(boxes: Integers, beams: float, beam: float, extents: float) -> Integers:
    """Boxes with a margin of some beams and of some of their own longer sides."""
    margin = beams * beam + extents * _sides(boxes)
    return _with_margin(boxes, margin)


def bearing_boxes(boxes: Integers, beam: float) -> Integers:
    """Boxes of islands with what they bear on."""
    return _with_margin(boxes, np.maximum(NEIGHBOURHOOD * beam, WINGS * _sides(boxes)))


def _sides(boxes: Integers) -> Floats:
    return np.asarray((boxes[:, 1::2] - boxes[:, ::2]).max(1, initial=0), float)


def _with_margin(boxes: Integers, margin: Floats | float) -> Integers:
    whole = np.broadcast_to(np.ceil(margin), len(boxes)).astype(np.int64)
    return boxes + np.stack([-whole, whole, -whole, whole], -1)


def meeting(boxes: Integers, box: Integers | Box) -> NDArray[np.bool_]:
    """Which boxes have pixels in common with one."""
    met = (boxes[:, 0] < box[1]) & (boxes[:, 1] > box[0])
    return np.asarray(met & (boxes[:, 2] < box[3]) & (boxes[:, 3] > box[2]))


def certain(
    places: IslandPlaces,
    beam: float,
    window: Box,
    full: Box,
    doubtful: Integers,
    reach: float = 0.0,
) -> NDArray[np.bool_]:
    """Which islands are seen whole, with all that bears on them.

    Parameters
    ----------
    places : IslandPlaces
    beam : float
        FWHM in pixels.
    window, full : Box
        What was read, and the full image.
    doubtful : ndarray of int, shape (n, 4)
        Boxes of what may go on outside of the window.
    reach : float
        Pixels around an island of which its measurement looks at the islands there.
    """
    looked_at = grown(places.boxes, MARGIN, beam, 1.0)
    near = grown(places.boxes, NEIGHBOURHOOD, beam, 1.0)
    whole = _within(_with_margin(near, reach), window, full)
    for box in bearing_boxes(doubtful, beam):
        whole &= ~meeting(looked_at, box)
    if reach > 0.0:
        # Those of the neighbours must be known too, since their light counts.
        for box in _with_margin(doubtful, reach):
            whole &= ~meeting(near, box)
    # A large island throws its wings far: it must be seen whole itself.
    sure = whole & _within(grown(places.boxes, SURROUNDINGS, beam, 1.0), window, full)
    large = np.flatnonzero(~whole & (_sides(places.boxes) > NEIGHBOURHOOD * beam))
    for box in bearing_boxes(places.boxes[large], beam):
        sure &= ~meeting(looked_at, box)
    return sure


def _within(boxes: Integers, window: Box, full: Box) -> NDArray[np.bool_]:
    """Which boxes lie in a window, apart from what lies outside of the full image."""
    low = np.maximum(boxes[:, ::2], [full.y0, full.x0])
    high = np.minimum(boxes[:, 1::2], [full.y1, full.x1])
    inside = (low >= [window.y0, window.x0]).all(1) & (high <= [window.y1, window.x1]).all(1)
    return np.asarray(inside, bool)


def bearing(
    places: IslandPlaces,
    chosen: NDArray[np.bool_],
    beam: float,
    core: Box | None = None,
    reach: float = 0.0,
) -> NDArray[np.bool_]:
    """Islands that are chosen, those that bear on their measurement, and the neighbours of these.

    Parameters
    ----------
    places : IslandPlaces
    chosen : ndarray of bool, shape (n,)
    beam : float
        FWHM in pixels.
    core : Box, optional
        Where all islands are taken that bear on anything in it, for many chosen ones.
    reach : float
        Pixels around an island of which its measurement looks at the islands there.
    """
    kept = chosen.copy()
    if not chosen.any():
        return kept
    near, far = bearing_boxes(places.boxes, beam), grown(places.boxes, SURROUNDINGS, beam, 0.0)
    bright = places.snr >= BRIGHTER * places.snr[chosen].min()
    looked_at = grown(places.boxes, MARGIN, beam, 1.0)
    own = looked_at[chosen]
    if core is not None:
        outside = (own[:, ::2] < np.array([core.y0, core.x0])).any(1)
        outside |= (own[:, 1::2] > np.array([core.y1, core.x1])).any(1)
        own = np.concatenate([np.array([core]), own[outside]])
    for box in own:
        kept |= meeting(near, box) | (meeting(far, box) & bright)
    # Of the neighbours of those, the pixels at least must be known for theirs.
    large = _sides(places.boxes) > NEIGHBOURHOOD * beam
    beside = np.where(large[:, None], near, grown(places.boxes, MARGIN, beam, 0.0))
    for box in looked_at[kept & ~chosen]:
        kept |= meeting(beside, box)
    if reach > 0.0:
        seen = _with_margin(places.boxes, reach)
        for box in places.boxes[kept]:
            kept |= meeting(seen, box)
    return kept


def doubtful_boxes(
    image: SkyImage, background: Background, flood: float, signs: tuple[int, ...]
) -> Integers:
    """Boxes of the groups of pixels that reach a significance at the edges of a window.

    Edges of the full image cut nothing.

    Parameters
    ----------
    image, background : SkyImage, Background
        Of the window.
    flood : float
        In units of the local rms.
    signs : tuple of int
        1 for sources, -1 for holes.

    Returns
    -------
    ndarray of int, shape (n, 4)
        ``y0, y1, x0, x1`` in the full image, half-open.
    """
    box, (ny, nx) = image.box, image.full_shape
    sides = np.array([box.y0 > 0, box.y1 < ny, box.x0 > 0, box.x1 < nx])
    found = [
        _edge_groups(image.data, background.level, background.rms, float(flood), float(s), sides)
        for s in signs
    ]
    return np.asarray(np.concatenate(found) + np.array([box.y0, box.y0, box.x0, box.x0]))


@njit(
    "int64[:, ::1](float32[:, ::1], float32[:, ::1], float32[:, ::1], float64, float64,"
    " boolean[::1])",
    cache=True,
    nogil=True,
)
def _edge_groups(
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    flood: float,
    sign: float,
    sides: NDArray[np.bool_],
) -> Integers:
    """See `doubtful_boxes`: a flood from the pixels of the edges, in pixels of the window."""
    ny, nx = data.shape
    factor, limit = np.float32(sign), np.float32(flood)
    if limit > flood:
        limit = np.nextafter(limit, np.float32(-np.inf))
    seen = np.zeros((ny, nx), np.bool_)
    stack = np.empty(1024, np.int64)
    boxes = np.empty((64, 4), np.int64)
    number = 0
    for side in range(4):
        if not sides[side]:
            continue
        for k in range(nx if side < 2 else ny):
            y = (0, ny - 1, k, k)[side]
            x = (k, k, 0, nx - 1)[side]
            if seen[y, x] or not factor * ((data[y, x] - level[y, x]) / rms[y, x]) > limit:
                continue
            if number == len(boxes):
                more = np.empty((2 * number, 4), np.int64)
                more[:number] = boxes
                boxes = more
            seen[y, x] = True
            stack[0], size = y * nx + x, 1
            low_y, high_y, low_x, high_x = y, y, x, x
            while size:
                size -= 1
                v, u = stack[size] // nx, stack[size] % nx
                low_y, high_y = min(low_y, v), max(high_y, v)
                low_x, high_x = min(low_x, u), max(high_x, u)
                if size + 8 > len(stack):
                    longer = np.empty(2 * len(stack), np.int64)
                    longer[:size] = stack[:size]
                    stack = longer
                for j in range(max(v - 1, 0), min(v + 2, ny)):
                    for i in range(max(u - 1, 0), min(u + 2, nx)):
                        if seen[j, i]:
                            continue
                        if factor * ((data[j, i] - level[j, i]) / rms[j, i]) > limit:
                            seen[j, i] = True
                            stack[size] = j * nx + i
                            size += 1
            boxes[number] = low_y, high_y + 1, low_x, high_x + 1
            number += 1
    return boxes[:number].copy()
