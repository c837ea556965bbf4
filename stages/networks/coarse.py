"""A second look at an image, smoothed and shrunk, for objects wider than a tile shows whole.

The mesh of the canonical input takes the middle of a wide object for level, and tiles cut it, so
that a network finds pieces of it at best. Averaged over blocks and smoothed to a beam of as many
cells as the network knows from its pixels, such an object looks like one of moderate size. Sources
that the first look saw whole are left out of the means, since a group of them would look alike.

The idea is that of wavelet modules of source finders, which search an image's larger scales for
what its pixels do not show (Mohan & Rafferty 2015, ascl:1502.007).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.streaming import LazyPixels, Plane, in_order
from cyclades.stages.networks.inputs import Normalisation
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.tiles import Frame

Boxes = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMALL = 10.0
"""Cells; objects no larger are left out of the means, whatever lies around them."""
TRUNCATE = 4.0
"""Sigma at which the smoothing kernel ends."""
LEAST_KNOWN = 0.5
"""Part of a block's pixels below which it is blank."""
LEAST_LEFT = 0.05
"""Weight of what sources leave under the smoothing kernel below which nothing is known there."""
FLOOD = 2.5
"""Brightness, in rms of a pixel, down to which an object is followed: as far as the flood of its
pixels does (see `cyclades.stages.core.segments`)."""
SEED_RATIO = 1.6
"""A group of cells counts from this times `FLOOD` on: waves of the level may reach that."""
GROUP = 0.1
"""Size of a group of cells, over that of the largest of an object, from which on it counts."""
PARTED = 0.5
"""Of an object's height: what the ring around one that is parted from its surroundings varies by
at most."""
CLEAR = 5.0
"""Least height of such an object over the ring, in rms of the shrunk image."""
_RING = (2, 5)
"""Cells outside of a box between which its ring lies."""
_FEWEST = 8
_HIGH, _LOW = 90.0, 10.0


class CoarseImage(NamedTuple):
    """An image averaged over blocks and smoothed.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), float32
        In the image's unit; NaN where blank, or where sources left out leave nothing.
    origin : (y, x)
        First cell, counted from pixel (0, 0) of the full frame.
    block : int
        Pixels along a cell.
    corner : (y, x)
        Of the image in the full frame, in pixels.
    """

    plane: NDArray[np.float32]
    origin: tuple[int, int]
    block: int
    corner: tuple[int, int]

    @classmethod
    def of(
        cls,
        image: NDArray[np.float32],
        corner: tuple[int, int],
        block: int,
        smoothing: float,
        left_out: Mask | None = None,
    ) -> "CoarseImage":
        """Average and smooth an image; means are over the pixels that are there.

        Parameters
        ----------
        image : ndarray, shape (ny, nx), float32
            NaN where blank.
        corner, block
            See the class. Blocks are anchored at pixel (0, 0) of the full frame.
        smoothing : float
            FWHM of a Gaussian, in cells.
        left_out : ndarray of bool, shape (ny, nx), optional
            Pixels of sources that do not count; the smoothing fills them from around.
        """
        skipped = np.zeros((0, 0), np.bool_) if left_out is None else left_out
        sums = _block_sums(
            np.ascontiguousarray(image, np.float32), skipped, corner[0], corner[1], block
        )
        origin = (corner[0] // block, corner[1] // block)
        return cls(_means(sums, block, smoothing), origin, block, corner)

    @classmethod
    def of_strips(
        cls, plane: Plane, block: int, smoothing: float, left_out: Boxes, threads: int = 1
    ) -> "CoarseImage":
        """Average and smooth a plane that is read by strips.

        Parameters
        ----------
        plane, block, smoothing
            As for `of`.
        left_out : ndarray, shape (n, 4)
            Boxes of sources, grown by `mask_boxes`.
        threads : int
        """

        def one(rows: slice) -> Sums:
            data = plane.rows(rows).data
            shifted = left_out - np.array([0.0, rows.start, 0.0, rows.start])
            near = (shifted[:, 3] > -block - 2.0) & (shifted[:, 1] < len(data) + block + 2.0)
            return _block_sums(data, mask_boxes(shifted[near], data.shape), 0, 0, block)

        ny, nx = (-(-n // block) for n in plane.shape)
        made = np.empty((ny, nx), np.float32)
        done = 0
        for part in _smoothed(in_order(one, plane.strips(block), threads), block, smoothing):
            made[done : done + len(part)] = part
            done += len(part)
        return cls(made, (0, 0), block, (0, 0))

    def frame(self, spec: NetworkSpec) -> Frame:
        """Return the shrunk image as the network sees it, with level and noise of its own."""
        measured = Normalisation.measure(self.plane, spec.input.mesh, self.origin)
        return Frame(self.plane, self.origin, 1.0, measured)

    def noise(self, frame: Frame) -> NDArray[np.float32]:
        """Rms of the pixels of the image in the cells of the plane, from the mesh of its frame.

        The least of a cell of the mesh and its neighbours is taken: at the edge of something large
        and bright its own is too high.
        """
        from scipy import ndimage

        mesh = frame.normalisation
        least = ndimage.minimum_filter(mesh.noise, 3, mode="nearest").astype(np.float32)
        nearest = []
        for centres, first, corner, number in zip(
            (mesh.rows, mesh.columns), self.origin, self.corner, self.plane.shape, strict=True
        ):
            places = (np.arange(number) + first + 0.5) * self.block - corner - 0.5
            edges = 0.5 * (centres[1:] + centres[:-1])
            nearest.append(np.searchsorted(edges, places))
        return np.ascontiguousarray(least[np.ix_(*nearest)])

    def to_cells(self, boxes: Boxes) -> Boxes:
        """Boxes ``x0, y0, x1, y1`` of the image in cells of the plane."""
        corner, origin = (np.tile(v[::-1], 2) for v in (self.corner, self.origin))
        return np.asarray((boxes + corner) / self.block - origin)

    def to_pixels(self, boxes: Boxes) -> Boxes:
        """Boxes of the network's frame, counted from the full frame's first cell, in pixels."""
        return np.asarray(boxes * float(self.block) - np.tile(self.corner[::-1], 2))


Sums = tuple[NDArray[np.float32], ...]
"""Of `_block_sums`."""


def _means(sums: Sums, block: int, smoothing: float) -> NDArray[np.float32]:
    """Smooth the sums of blocks, and divide them by what counts."""
    from scipy import ndimage

    from cyclades.stages.core.geometry import SIGMA_TO_FWHM

    total, used, known, whole = sums
    sigma = smoothing / SIGMA_TO_FWHM
    total, used = (
        ndimage.gaussian_filter(a, sigma, mode="constant", truncate=TRUNCATE) for a in (total, used)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        plane = np.where(
            (known >= LEAST_KNOWN * whole) & (used > LEAST_LEFT * block**2), total / used, np.nan
        )
    return np.asarray(plane, np.float32)


def _smoothed(
    strips: Iterable[Sums], block: int, smoothing: float
) -> Iterator[NDArray[np.float32]]:
    """Rows of the means of strips that follow each other; the same as of all sums at once.

    The sums of a few strips are held, and not those of the image, which are as large as a quarter
    of it with blocks of four pixels.
    """
    from cyclades.stages.core.geometry import SIGMA_TO_FWHM

    reach = int(TRUNCATE * smoothing / SIGMA_TO_FWHM + 0.5)
    held: Sums = ()
    before = 0  # rows held that are done, for those that come
    for strip in strips:
        held = tuple(map(np.concatenate, zip(held, strip, strict=True))) if held else strip
        ready = len(held[0]) - reach
        if ready <= before:
            continue
        yield _means(held, block, smoothing)[before:ready]
        kept = max(ready - reach, 0)
        held, before = tuple(part[kept:] for part in held), ready - kept
    if held and before < len(held[0]):
        yield _means(held, block, smoothing)[before:]


def smoothing_of(spec: NetworkSpec) -> float:
    """FWHM in cells of the smoothing, after which noise looks like that of a beam in the middle.

    White noise has after it an autocorrelation wider by sqrt(2); that of the images that networks
    are trained on is as wide as the beam.
    """
    low, high = spec.input.beam_pixels
    return float(np.sqrt(0.5 * low * high))


def mask_boxes(boxes: Boxes, shape: tuple[int, int], margin: int = 2) -> Mask:
    """Pixels of boxes that are grown by a margin."""
    mask = np.zeros(shape, bool)
    low = np.maximum(np.floor(boxes[:, :2]).astype(int) - margin, 0)
    high = np.maximum(np.ceil(boxes[:, 2:]).astype(int) + margin, 0)
    for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return mask


def parted(coarse: CoarseImage, noise: float, boxes: Boxes) -> Mask:
    """Which objects stand apart from what surrounds them, so that the first look saw them whole.

    The ring around a piece of something larger is in part as bright as the piece itself; around a
    piece of its middle it is as bright everywhere.

    Parameters
    ----------
    coarse : CoarseImage
        Without the small sources.
    noise : float
        Rms of its plane.
    boxes : ndarray, shape (n, 4)
        In pixels of the image.
    """
    result = np.zeros(len(boxes), bool)
    for row, box in enumerate(coarse.to_cells(boxes)):
        inside, around = _cells(coarse.plane, box)
        if len(inside) and len(around) >= _FEWEST:
            top = np.percentile(inside, _HIGH)
            low, high = np.percentile(around, [_LOW, _HIGH])
            result[row] = high - low <= PARTED * (top - low) and top - high >= CLEAR * noise
    return result


def footprint(
    coarse: CoarseImage,
    box: NDArray[np.float64],
    rms: NDArray[np.float32],
    level: float,
    least: float,
) -> tuple[Mask, float]:
    """Cells of an object that are bright enough for its pixels to be found, over those around it.

    Parameters
    ----------
    coarse : CoarseImage
    box : ndarray, shape (4,)
        In cells of the plane.
    rms : ndarray, shape (ny, nx)
        Of a pixel of the image, in the cells of the plane.
    level : float
        Taken where the box leaves too few cells around it.
    least : float
        Smallest group of neighbouring cells that counts.

    Returns
    -------
    cells : ndarray of bool, shape (ny, nx)
        Of the plane.
    level : float
        That around the object.
    """
    from scipy import ndimage

    _, around = _cells(coarse.plane, box)
    if len(around) >= _FEWEST:
        level = float(np.median(around))
    cells = np.zeros(coarse.plane.shape, bool)
    place = _inside(coarse.plane.shape, box, 0)
    height = (coarse.plane[place] - level) / rms[place]
    labels, number = ndimage.label(height > FLOOD, np.ones((3, 3), int))
    if not number:
        return cells, level
    size = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, number + 1))
    top = ndimage.maximum(height, labels, np.arange(1, number + 1))
    counts = (size >= least) & (top >= SEED_RATIO * FLOOD)
    counts &= size >= GROUP * size.max(initial=0.0, where=counts)
    cells[place] = np.append(False, counts)[labels]
    return cells, level


def bright_cells(
    coarse: CoarseImage, box: NDArray[np.float64], rms: NDArray[np.float32], level: float
) -> Mask:
    """Cells of the plane in a box (in cells) that stand above a level as `footprint` asks."""
    cells = np.zeros(coarse.plane.shape, bool)
    place = _inside(coarse.plane.shape, box, 0)
    cells[place] = coarse.plane[place] - level > FLOOD * rms[place]
    return cells


def pixels_of(coarse: CoarseImage, cells: Mask, usable: "Mask | Usable") -> NDArray[np.int64]:
    """Flat indices of the usable pixels of an image that lie in cells, or beside them.

    Parameters
    ----------
    cells : ndarray of bool, shape of the plane
    usable : ndarray of bool, shape (ny, nx)
        Or what gives parts of one.
    """
    from scipy import ndimage

    grown = ndimage.binary_dilation(cells, np.ones((3, 3), bool))
    rows, columns = (
        (np.arange(n) + c) // coarse.block - o
        for n, c, o in zip(usable.shape, coarse.corner, coarse.origin, strict=True)
    )
    y, x = (np.flatnonzero(grown.any(axis)[v]) for axis, v in ((1, rows), (0, columns)))
    if not (y.size and x.size):
        return np.zeros(0, np.int64)
    part = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
    inside = grown[rows[part[0]][:, None], columns[part[1]]]
    inside &= usable.part(*part) if isinstance(usable, Usable) else usable[part]
    found_y, found_x = np.nonzero(inside)
    return np.asarray((found_y + y[0]) * usable.shape[1] + found_x + x[0], np.int64)


class Usable(NamedTuple):
    """Pixels of a plane that are not blank and in none of some boxes, where they are asked for."""

    pixels: LazyPixels
    boxes: Boxes

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the plane."""
        return self.pixels.shape

    def part(self, rows: slice, columns: slice) -> Mask:
        """Those of some rows and columns."""
        known = np.isfinite(self.pixels[rows, columns])
        shift = np.array([columns.start, rows.start] * 2)
        return np.asarray(known & ~mask_boxes(self.boxes - shift, known.shape, 0))


def _inside(shape: tuple[int, ...], box: NDArray[np.float64], margin: int) -> tuple[slice, slice]:
    """Slices of the cells that a box touches, with a margin."""
    x0, y0 = np.maximum(np.floor(box[:2]).astype(int) - margin, 0)
    x1, y1 = np.maximum(np.ceil(box[2:]).astype(int) + margin, 0)
    return slice(y0, min(y1, shape[0])), slice(x0, min(x1, shape[1]))


def _cells(
    plane: NDArray[np.float32], box: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Known values in a box, and in the ring around it."""
    y, x = _inside(plane.shape, box, _RING[1])
    cut = plane[y, x].copy()
    inner_y, inner_x = _inside(plane.shape, box, _RING[0])
    cut[inner_y.start - y.start : inner_y.stop - y.start,
        inner_x.start - x.start : inner_x.stop - x.start] = np.nan  # fmt: skip
    inside = plane[_inside(plane.shape, box, 0)]
    return inside[np.isfinite(inside)], cut[np.isfinite(cut)]


@njit(
    "UniTuple(float32[:, ::1], 4)(float32[:, ::1], boolean[:, ::1], int64, int64, int64)",
    cache=True,
    nogil=True,
)
def _block_sums(
    image: NDArray[np.float32], left_out: Mask, y0: int, x0: int, block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Sums of the pixels of blocks, and how many count, are not blank, and are in the image."""
    ny, nx = image.shape
    first_y, first_x = y0 // block, x0 // block
    shape = ((y0 + ny - 1) // block - first_y + 1, (x0 + nx - 1) // block - first_x + 1)
    total, used = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    known, whole = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for y in range(ny):
        v = (y + y0) // block - first_y
        for x in range(nx):
            u = (x + x0) // block - first_x
            whole[v, u] += 1
            if np.isfinite(image[y, x]):
                known[v, u] += 1
                if left_out.size == 0 or not left_out[y, x]:
                    used[v, u] += 1
                    total[v, u] += image[y, x]
    return total, used, known, whole
