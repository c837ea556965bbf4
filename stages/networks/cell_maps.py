"""What a network saw of an image, cell by cell, kept for the stages that share its look.

Cells lie on a grid anchored at pixel (0, 0) of the full frame as the network sees it, and a tile
gives those that it owns, so that they are the same however the image is cut. A stage says before a
run which features it wants (`Wanted`); the first stage that looks with that network keeps them.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.graphs import CELL
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.tiles import Frame, Tile
from cyclades.stages.networks.weights_files import read_metadata

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context

Plane = NDArray[np.float32]
Project = Callable[[Plane], Plane]
Collect = Callable[[Tile, Plane], None]
_WANTED = "cells of a network"
_SEEN = "cells that a network saw"


def cell_channels(file: Path) -> int:
    """Number of features of a cell that a detector's file of weights gives.

    Raises
    ------
    InputError
        Where it has no backbone whose features others can take.
    """
    backbone = NetworkSpec.from_metadata(read_metadata(file), file).backbone
    if backbone is None:
        raise InputError(
            f"{file}: is a whole network, whose features no other stage can take; use one with a "
            "backbone, as yolo."
        )
    return len(backbone.strides) * backbone.channels


def put_cells(
    values: Plane, first: tuple[int, int], features: Plane, tile: Tile, cell: int
) -> None:
    """Write the cells that a tile owns.

    Parameters
    ----------
    values : ndarray, shape (k, rows, columns)
        Written to.
    first : (row, column)
        Number of their first cell, counted from pixel (0, 0) of the full frame.
    features : ndarray, shape (k, rows, columns)
        Of all cells that the tile reads.
    tile : Tile
    cell : int
        Side in pixels of the network.
    """
    core, padded = tile.core, tile.padded
    sides = (
        (core.y0, core.y1, padded.y0, padded.y1, first[0], values.shape[1]),
        (core.x0, core.x1, padded.x0, padded.x1, first[1], values.shape[2]),
    )
    places = []
    for core_low, core_high, low, high, cells_low, cells in sides:
        start = max(core_low // cell, low // cell, cells_low)
        stop = min(core_high // cell, high // cell, cells_low + cells)
        if stop <= start:
            return
        own = slice(start - low // cell, stop - low // cell)
        places.append((slice(start - cells_low, stop - cells_low), own))
    (y, own_y), (x, own_x) = places
    values[:, y, x] = features[:, own_y, own_x]


@dataclass(frozen=True, eq=False)
class CellMap:
    """Features of the cells of an image.

    Attributes
    ----------
    first : (row, column)
        Number of the first cell, counted from pixel (0, 0) of the full frame.
    step : float
        Side of a cell in pixels of the image.
    origin : (y, x)
        Of the image in the full frame.
    values : ndarray, shape (k, rows, columns), float32
    """

    first: tuple[int, int]
    step: float
    origin: tuple[int, int]
    values: Plane

    @classmethod
    def of(cls, frame: Frame, nothing: Plane) -> "CellMap":
        """Cells of an image of which nothing was seen yet.

        Parameters
        ----------
        frame : Frame
        nothing : ndarray, shape (k,)
            Features of a cell that is not looked at.
        """
        step, first, shape = CELL / frame.scale, [], []
        for start, number in zip(frame.origin, frame.image.shape, strict=True):
            low, high = (int(np.floor((p + 0.5) / step)) for p in (start, start + number - 1))
            first.append(low)
            shape.append(high - low + 1)
        values = np.empty((len(nothing), *shape), np.float32)
        values[:] = nothing[:, None, None]
        return cls((first[0], first[1]), step, frame.origin, values)

    def at(self, place: Floats) -> Plane:
        """Features between the centres of cells, by bilinear interpolation.

        Parameters
        ----------
        place : ndarray, shape (..., 2)
            (x, y) in pixels of the image; beyond its outermost cells these count.

        Returns
        -------
        ndarray, shape (..., k)
        """
        low, share = [], []
        for axis, number in zip((1, 0), self.values.shape[1:], strict=True):
            cell = (place[..., axis] + self.origin[1 - axis] + 0.5) / self.step - 0.5
            cell = np.clip(cell - self.first[1 - axis], 0.0, number - 1.0)
            whole = np.minimum(cell.astype(np.int64), max(number - 2, 0))
            low.append(whole)
            share.append((cell - whole).astype(np.float32)[..., None])
        (y, x), (v, u) = low, share
        above, right = (np.minimum(i + 1, n - 1) for i, n in zip((y, x), self.values.shape[1:],
                                                                strict=True))  # fmt: skip
        held = np.moveaxis(self.values, 0, -1)
        top = (1.0 - u) * held[y, x] + u * held[y, right]
        bottom = (1.0 - u) * held[above, x] + u * held[above, right]
        return np.asarray((1.0 - v) * top + v * bottom, np.float32)


class Wanted(NamedTuple):
    """Features that a stage wants of a network.

    Parameters
    ----------
    weights : path
        Of the detector.
    channels : int
        Features that it has for a cell.
    project : callable
        From these, shape (channels, rows, columns), to what is kept.
    """

    weights: Path
    channels: int
    project: Project

    def start(self, frame: Frame) -> tuple[CellMap, Collect]:
        """Cells of an image, and what fills them tile by tile."""
        nothing = self.project(np.zeros((self.channels, 1, 1), np.float32))[:, 0, 0]
        made = CellMap.of(frame, nothing)

        def collect(tile: Tile, features: Plane) -> None:
            put_cells(made.values, made.first, self.project(features), tile, CELL)

        return made, collect


def want_cells(context: "Context", wanted: Wanted) -> None:
    """Have the first stage of a run that looks with a network keep features of its cells."""
    context.wanted[_WANTED, str(wanted.weights.resolve())] = wanted


def wanted_cells(context: "Context", weights: Path) -> Wanted | None:
    """What a later stage wants of a network, if one does."""
    found: Wanted | None = context.wanted.get((_WANTED, str(weights.resolve())))
    return found


def keep_cells(context: "Context", wanted: Wanted, image: Any, cells: CellMap) -> None:
    """Keep what was seen of an image object, in place of what was before."""
    context.take(_SEEN)
    context.cached(_SEEN, lambda: (wanted.project, weakref.ref(image), cells))


def seen_cells(context: "Context", wanted: Wanted, image: Any) -> CellMap | None:
    """Take what was kept of this very image for this very wish; None where nothing was.

    One at most is kept, and given once, so that images of a former run are not held.
    """
    kept = context.take(_SEEN)
    if kept is None or kept[0] is not wanted.project or kept[1]() is not image:
        return None
    cells: CellMap = kept[2]
    return cells
