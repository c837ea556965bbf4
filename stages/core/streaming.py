"""Planes that are worked on strip by strip: what is known of one, masks of bits, seams."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.products import Floats, Integers
from cyclades.stages.core.segments import label_segments, segment_maximum
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.core.beam import PointSpread
    from cyclades.stages.core.source import ImageSource

T = TypeVar("T")
R = TypeVar("R")

STRIP_PIXELS = 2**23
"""Pixels that are read at a time."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane that is read by windows, and what is known of it beforehand.

    Parameters
    ----------
    source : ImageSource
    frame : SkyImage
        One pixel of it: its coordinates, beam and units are those of the full plane.
    """

    source: "ImageSource"
    frame: SkyImage

    @classmethod
    def of(cls, source: "ImageSource") -> "Plane":
        """Look at the first pixel of a source."""
        return cls(source, source.window(Box(0, 1, 0, 1)))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.source.shape

    @property
    def origin(self) -> tuple[int, int]:
        """Of the plane in the full image."""
        return 0, 0

    @property
    def psf(self) -> "PointSpread | None":
        """Beam on the full plane."""
        return self.frame.psf

    def strips(self, step: int = 1) -> list[slice]:
        """Rows of strips of about `STRIP_PIXELS` that begin at multiples of a step."""
        ny, nx = self.shape
        rows = max(step, STRIP_PIXELS // nx // step * step)
        return [slice(y0, min(y0 + rows, ny)) for y0 in range(0, ny, rows)]

    def rows(self, rows: slice) -> SkyImage:
        """Read some rows."""
        return self.source.window(Box(rows.start, rows.stop, 0, self.shape[1]))


@dataclass(frozen=True, eq=False)
class LazyPixels:
    """The pixels of a plane, read where they are asked for.

    Parameters
    ----------
    plane : Plane
    """

    plane: Plane

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.plane.shape

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.float32]:
        rows, columns = part
        return self.plane.source.window(
            Box(rows.start, rows.stop, columns.start, columns.stop)
        ).data


def in_order(run: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results of a function in the order of its arguments, by threads.

    No more arguments are taken than a few ahead, for the sake of memory.
    """
    if threads == 1:
        yield from map(run, items)
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            if len(waiting) >= threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(run, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class BitMask:
    """A plane of booleans in memory, eight pixels a byte.

    Rows may be stored by several threads, each its own.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._bits = np.zeros((shape[0], -(-shape[1] // 8)), np.uint8)

    def __getitem__(self, rows: slice) -> NDArray[np.bool_]:
        return np.unpackbits(self._bits[rows], axis=1, count=self.shape[1]).view(np.bool_)

    def __setitem__(self, rows: slice, mask: NDArray[np.bool_]) -> None:
        self._bits[rows] = np.packbits(mask, axis=1)

    def part(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Return the mask of some rows and columns."""
        first, last = columns.start >> 3, -(-columns.stop >> 3)
        bits = np.unpackbits(self._bits[rows, first:last], axis=1).view(np.bool_)
        start = columns.start - 8 * first
        return np.ascontiguousarray(bits[:, start : start + columns.stop - columns.start])

    def grown(self, rows: slice, radius: int) -> NDArray[np.bool_]:
        """Return the mask of some rows, grown by a disc of a radius."""
        around = slice(max(0, rows.start - radius), min(self.shape[0], rows.stop + radius))
        near = self[around].astype(np.float32)
        mask = source_mask(near, seed=0.5, flood=0.5, grow=radius)
        return mask[rows.start - around.start : rows.stop - around.start]

    def join(self, rows: slice, columns: slice, mask: NDArray[np.bool_]) -> None:
        """Set the pixels of a mask of some rows and columns, besides those that are set."""
        first, last = columns.start >> 3, -(-columns.stop >> 3)
        wide = np.zeros((len(mask), 8 * (last - first)), bool)
        start = columns.start - 8 * first
        wide[:, start : start + mask.shape[1]] = mask
        self._bits[rows, first:last] |= np.packbits(wide, axis=1)

    def add(self, pixels: Integers) -> None:
        """Set the pixels of flat indices."""
        y, x = np.divmod(pixels, self.shape[1])
        np.bitwise_or.at(self._bits, (y, x >> 3), (128 >> (x & 7)).astype(np.uint8))


class StripGroups(NamedTuple):
    """Groups of pixels of a strip, and where they touch the strips before and after it.

    Parameters
    ----------
    peak : ndarray, shape (n,)
        Highest value of each group.
    first, last : tuple of ndarray
        Columns of the pixels in the first and in the last row, and the groups that they belong to.
    """

    peak: Floats
    first: tuple[Integers, Integers]
    last: tuple[Integers, Integers]

    @classmethod
    def find(
        cls, values: NDArray[np.float32], threshold: float, sign: int = 1
    ) -> tuple["StripGroups", Integers, Integers]:
        """Connected pixels above a threshold (see `label_segments`): their indices and groups too.

        Returns
        -------
        groups : StripGroups
        indices, owner : ndarray of int
            Flat indices in the strip, and the group of each.
        """
        segments = label_segments(values, threshold, sign)
        owner, (ny, nx) = segments.owner(), values.shape
        ends = []
        for row in (0, ny - 1):
            inside = segments.indices // nx == row
            ends.append((segments.indices[inside] - row * nx, owner[inside]))
        peak = segment_maximum(values, segments, sign)
        return cls(peak, ends[0], ends[1]), segments.indices, owner


def flood_plane(
    plane: Plane,
    deviation: Callable[[slice], NDArray[np.float32]],
    seed: float,
    flood: float,
    threads: int,
) -> BitMask:
    """Pixels of sources and holes, over the seams of strips; those of `source_mask`, not grown.

    Parameters
    ----------
    plane : Plane
    deviation : callable
        Deviations from the level in units of the rms in some rows.
    seed, flood : float
        Absolute deviations at which a region counts, and down to which it reaches.
    threads : int
    """
    # "At least" in single precision is "above" the number before.
    least = np.float32(flood)
    least = least if float(least) >= flood else np.nextafter(least, np.float32(np.inf))
    limit = float(np.nextafter(least, np.float32(-np.inf)))
    flooded, nx = BitMask(plane.shape), plane.shape[1]

    def one(rows: slice) -> tuple[StripGroups, Integers, Integers, slice]:
        values = np.abs(deviation(rows))
        groups, indices, owner = StripGroups.find(values, limit)
        seeded = groups.peak >= seed
        mask = np.zeros(values.shape, bool)
        mask.ravel()[indices[seeded[owner]]] = True
        flooded[rows] = mask
        # Of the others, those at a seam may belong to a seeded one.
        open_ends = np.zeros(len(seeded), bool)
        open_ends[groups.first[1]] = True
        open_ends[groups.last[1]] = True
        waiting = (open_ends & ~seeded)[owner]
        number = np.cumsum(open_ends) - 1
        kept = StripGroups(
            groups.peak[open_ends],
            (groups.first[0], number[groups.first[1]]),
            (groups.last[0], number[groups.last[1]]),
        )
        return kept, indices[waiting] + rows.start * nx, number[owner[waiting]], rows

    found = list(in_order(one, plane.strips(), threads))
    rows, peak = joined_peaks([part[0] for part in found])
    for (_, pixels, owner, _), joined in zip(found, rows, strict=True):
        flooded.add(pixels[peak[joined[owner]] >= seed])
    return flooded


def joined_peaks(strips: list[StripGroups]) -> tuple[list[Integers], Floats]:
    """Join groups over the seams of strips that follow each other.

    Returns
    -------
    rows : list of ndarray
        For each strip, the joined group of each of its groups.
    peak : ndarray
        Highest value of each joined group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    shifts = np.cumsum([0, *(len(strip.peak) for strip in strips)])
    pairs = [np.zeros((0, 2), np.int64)]
    for i in range(len(strips) - 1):
        (above, upper), (below, lower) = strips[i].last, strips[i + 1].first
        order = np.argsort(below)
        for step in (-1, 0, 1):
            at = np.searchsorted(below, above + step, sorter=order)
            at = order[np.minimum(at, len(order) - 1)] if len(order) else at[:0]
            met = below[at] == above[: len(at)] + step
            rows = np.stack([upper[: len(at)][met] + shifts[i], lower[at[met]] + shifts[i + 1]], -1)
            pairs.append(rows)
    first, second = np.concatenate(pairs).T
    number = int(shifts[-1])
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), (number, number))
    _, index = connected_components(graph, directed=False)
    peak = np.full(int(index.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(peak, index, np.concatenate([np.zeros(0), *(s.peak for s in strips)]))
    return np.split(index.astype(np.int64), shifts[1:-1]), peak
