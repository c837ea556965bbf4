"""Objects wider than a network's tiles show whole: found in the shrunk image, joined with the rest.

See `cyclades.stages.networks.coarse` for the image. An object of the second look takes the place of
the pieces of it that the first found; sources that lie on it or beside it stay what they are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.products import Floats, Integers, Segments
from cyclades.stages.core.streaming import LazyPixels, Plane
from cyclades.stages.networks.coarse import (
    SMALL,
    CoarseImage,
    Usable,
    bright_cells,
    footprint,
    mask_boxes,
    parted,
    pixels_of,
    smoothing_of,
)
from cyclades.stages.networks.selection import Found, probability, real_scores, suppress
from cyclades.stages.networks.specification import SPURIOUS, NetworkSpec
from cyclades.stages.networks.tiles import Frame, Network, find_objects

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

SHARE = 0.5
"""Of a piece's bright cells, or of a second object's: from which on it belongs to an object."""
FILLED = 0.1
"""Part of the box around an object's bright cells that they fill at least; scattered sources do
less."""
HIDDEN = 0.25
"""Part of that box that larger sources left out of the means may fill; what shows between them is
mostly their flanks."""


class Objects(NamedTuple):
    """Objects of a network in an image.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` in pixels of the image, with (0, 0) the outer corner of the first.
    likely : ndarray, shape (n,)
        Probability of being real.
    scores : ndarray, shape (n, classes)
        Raw ones.
    masks : ndarray, shape (n, m, m), optional
    pixels : tuple of ndarray or None, length n
        Flat indices of those that belong to an object at most; None where its box or mask says.
    """

    boxes: Floats
    likely: Floats
    scores: NDArray[np.float32]
    masks: NDArray[np.floating] | None
    pixels: tuple[Integers | None, ...]

    def take(self, rows: NDArray[np.bool_] | Integers) -> "Objects":
        """Return some of the objects."""
        numbers = np.arange(len(self.boxes))[rows]
        return Objects(
            self.boxes[rows],
            self.likely[rows],
            self.scores[rows],
            None if self.masks is None else self.masks[rows],
            tuple(self.pixels[i] for i in numbers),
        )

    def longest(self) -> Floats:
        """Longer side of each box in pixels."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(1, initial=0.0))


def likely_rows(found: Found, spec: NetworkSpec, overlap: float) -> tuple[Integers, Floats]:
    """Rows of what was found without those that overlap a likelier one, and all probabilities.

    What is most likely an artefact has the probability 0.
    """
    likely = probability(real_scores(found.scores, spec), spec.calibration)
    best = np.argmax(found.scores, 1)
    source = np.array([name != SPURIOUS for name in spec.classes])[best]
    likely = np.where(source, likely, 0.0)
    return suppress(found.boxes, likely, overlap), likely


class Look(NamedTuple):
    """How a network is run, and what of its objects is kept."""

    network: Network
    side: int
    batch: int
    overlap: float
    least: float
    """Probability."""


def look_again(
    image: "SkyImage | Plane",
    frame: Frame,
    objects: Objects,
    look: Look,
    factor: int,
    widest: float,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Objects, int]:
    """Add the objects wider than what was seen whole before, in place of their pieces.

    Parameters
    ----------
    image : SkyImage or Plane
    frame : Frame
        The image as the network saw it first.
    objects : Objects
        What was found before.
    look : Look
    factor : int
        By which the frame is shrunk, as nearly as whole blocks of pixels allow.
    widest : float
        In pixels of the frame: objects at least so wide are added.
    report : callable
        Told the share of the tiles that are done.

    Returns
    -------
    objects : Objects
        The wide ones last, most likely first.
    block : int
        Pixels along a cell of the shrunk image; 0 where it was not made, since nothing so wide
        fits into the image.
    """
    spec = look.network.spec
    block = max(2, round(factor / frame.scale))
    least_side = widest / frame.scale
    if max(image.shape) < least_side:
        return objects, 0
    small = objects.longest() <= SMALL * block
    coarse = _shrunk(image, block, smoothing_of(spec), objects.boxes[small])
    seen = coarse.frame(spec)
    whole = np.zeros(len(small), bool)
    whole[~small] = parted(coarse, _typical(seen.normalisation.noise), objects.boxes[~small])
    if whole.any():
        coarse = _shrunk(image, block, smoothing_of(spec), objects.boxes[small | whole])
        seen = coarse.frame(spec)
    found = find_objects(seen, look.network, look.side, look.batch, report)
    if not len(found.boxes):
        return objects, block
    rows, likely = likely_rows(found, spec, look.overlap)
    rows = rows[likely[rows] >= look.least]
    pieces = np.flatnonzero(~small & ~whole)
    places = coarse.to_cells(objects.boxes[pieces])
    hidden = mask_boxes(coarse.to_cells(objects.boxes[whole]), coarse.plane.shape, 0)
    rms = coarse.noise(frame)
    absorbed = np.zeros(len(small), bool)
    taken = np.zeros(coarse.plane.shape, bool)
    accepted: list[tuple[int, Integers]] = []
    for row, box in zip(rows, found.boxes[rows].astype(float), strict=True):
        box = box - np.tile(coarse.origin[::-1], 2)
        cells, level = footprint(
            coarse, box, rms, _typical(seen.normalisation.level), smoothing_of(spec) ** 2
        )
        own, extent = np.count_nonzero(cells), _around(cells)
        height, width = cells[extent].shape
        if max(height, width) * block < least_side or own < FILLED * height * width:
            continue
        if hidden[extent].mean() > HIDDEN:
            continue
        if np.count_nonzero(cells & taken) >= SHARE * own:
            continue
        for piece, place in zip(pieces, places, strict=True):
            if not _meets(extent, place):
                continue
            bright = bright_cells(coarse, place, rms, level)
            common = np.count_nonzero(bright & cells)
            if common and common >= SHARE * np.count_nonzero(bright):
                absorbed[piece] = True
                cells |= bright
                extent = _around(cells)
        taken |= cells
        # a mask each would take as much memory as the image, of a large one with many objects
        accepted.append((int(row), np.flatnonzero(cells)))
    usable = _usable(image, objects.boxes[~absorbed])
    lists = [pixels_of(coarse, _mask(cells, coarse.plane.shape), usable) for _, cells in accepted]
    kept = [i for i, pixels in enumerate(lists) if len(pixels)]
    rows = np.array([accepted[i][0] for i in kept], np.int64)
    pixels = [lists[i] for i in kept]
    return _joined(objects.take(~absorbed), found, rows, likely, pixels, image.shape), block


def _shrunk(image: "SkyImage | Plane", block: int, smoothing: float, boxes: Floats) -> CoarseImage:
    """The shrunk image without the sources in boxes."""
    if isinstance(image, Plane):
        return CoarseImage.of_strips(image, block, smoothing, boxes)
    left_out = mask_boxes(boxes, image.shape)
    return CoarseImage.of(image.data, image.origin, block, smoothing, left_out)


def _usable(image: "SkyImage | Plane", boxes: Floats) -> NDArray[np.bool_] | Usable:
    """Pixels that are not blank and in none of some boxes."""
    if isinstance(image, Plane):
        return Usable(LazyPixels(image), boxes)
    return np.isfinite(image.data) & ~mask_boxes(boxes, image.shape, 0)


def _joined(
    objects: Objects,
    found: Found,
    rows: Integers,
    likely: Floats,
    pixels: list[Integers],
    shape: tuple[int, int],
) -> Objects:
    """Objects, and behind them wide ones with these pixels."""
    boxes = [objects.boxes]
    for inside in pixels:
        y, x = np.divmod(inside, shape[1])
        boxes.append(np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], float))
    masks = objects.masks
    if masks is not None:
        masks = np.concatenate([masks, np.ones((len(rows), *masks.shape[1:]), masks.dtype)])
    return Objects(
        np.concatenate(boxes),
        np.append(objects.likely, likely[rows]),
        np.concatenate([objects.scores, found.scores[rows]]),
        masks,
        (*objects.pixels, *pixels),
    )


def box_segments(boxes: Floats, shape: tuple[int, int]) -> Segments:
    """All pixels whose centres lie in boxes (in pixels, with (0, 0) the outer corner)."""
    ny, nx = shape
    rows = []
    for x0, y0, x1, y1 in np.rint(boxes).astype(np.int64).tolist():
        y, x = np.arange(max(y0, 0), min(y1, ny)), np.arange(max(x0, 0), min(x1, nx))
        rows.append((y[:, None] * nx + x).ravel())
    return Segments.from_lists(rows)


def _around(cells: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Slices of the box around cells; empty without any."""
    rows, columns = (np.flatnonzero(cells.any(axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _meets(extent: tuple[slice, slice], box: Floats) -> bool:
    """Whether any cell that a box ``x0, y0, x1, y1`` touches lies in slices of the plane."""
    rows, columns = extent
    x0, y0, x1, y1 = box
    inside = x0 < columns.stop and x1 > columns.start
    return bool(inside and y0 < rows.stop and y1 > rows.start)


def _mask(cells: Integers, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A plane in which some cells, as flat indices, are True."""
    mask = np.zeros(shape, bool)
    mask.ravel()[cells] = True
    return mask


def _typical(mesh: NDArray[np.float64]) -> float:
    return float(np.median(mesh))
