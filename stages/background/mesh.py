"""Meshes of cells anchored at pixel (0, 0), and smooth maps through values on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.background.splines import Spline

Floats = NDArray[np.float64]
Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Axis:
    """The cells along one axis of a plane.

    Parameters
    ----------
    edges : ndarray of int, shape (n + 1,)
        First pixel of each cell and the end of the last, in pixels of the plane.
    step : int
        Nominal length of a cell; the first and the last may be shorter.
    margin : int
        Pixels by which the box of a cell reaches beyond it on both sides (overlapping boxes).
    beyond : int
        Pixels of the plane behind the last cell, in a part of it that was cut out.
    """

    edges: NDArray[np.int64]
    step: int
    margin: int = 0
    beyond: int = 0

    @classmethod
    def anchored(cls, start: int, length: int, step: int, margin: int = 0) -> "Axis":
        """Cut `length` pixels that begin at pixel `start` of the full image.

        The cells lie on a grid anchored at pixel 0 of the full image, so that a window that
        begins elsewhere has the same cells. A first or last cell of less than half a step is
        joined to its neighbour, for a value from a sliver would be noise.
        """
        first = (start // step + 1) * step
        inner = np.arange(first, start + length, step, dtype=np.int64) - start
        inner = inner[(inner >= step / 2) & (length - inner >= step / 2)]
        return cls(np.concatenate([[0], inner, [length]]).astype(np.int64), step, margin)

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def length(self) -> int:
        """Number of pixels."""
        return int(self.edges[-1])

    @property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of each cell's box."""
        return np.maximum(self.edges[:-1] - self.margin, 0)

    @property
    def stops(self) -> NDArray[np.int64]:
        """End of each cell's box."""
        return np.minimum(self.edges[1:] + self.margin, self.length + self.beyond)

    @property
    def centres(self) -> Floats:
        """Mean pixel position of each cell's box."""
        return np.asarray(0.5 * (self.starts + self.stops - 1.0))

    def part(self, first: int, last: int) -> tuple["Axis", slice]:
        """Return cells `first` to `last` - 1 as an axis of their own, and the pixels it counts.

        The pixels are those of the cells' boxes, margins included.
        """
        start, stop = int(self.starts[first]), int(self.stops[last - 1])
        edges = self.edges[first : last + 1] - start
        return Axis(edges, self.step, self.margin, stop - start - int(edges[-1])), slice(
            start, stop
        )

    def runs(self) -> list[tuple[slice, slice, int]]:
        """Runs of cells of one length: (cells, pixels, length of a cell)."""
        found, cell = [], 0
        for length, members in groupby(np.diff(self.edges)):
            count = len(list(members))
            pixels = slice(int(self.edges[cell]), int(self.edges[cell + count]))
            found.append((slice(cell, cell + count), pixels, int(length)))
            cell += count
        return found

    def spline(self) -> Spline:
        """Natural cubic spline through the centres, continued linearly beyond the outermost.

        A partial cell counts at the middle of its own pixels.
        """
        return Spline.through(self.centres, self.length)


@dataclass(frozen=True, eq=False)
class Surface:
    """A smooth map that has not been drawn, so that it can be used by some rows at a time.

    Parameters
    ----------
    along_y : Spline
    nodes : ndarray of float32, shape (2, n, nx)
        What the spline along y takes, at the pixels of every column.
    middle : float
        Added to every value.
    """

    along_y: Spline
    nodes: Map
    middle: float

    def draw(self, out: Map | None = None, *, add: bool = False, rows: slice = slice(None)) -> Map:
        """Rows of the map; arguments as for `Spline.evaluate`."""
        return self.along_y.evaluate(self.nodes, out, shift=self.middle, add=add, rows=rows)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Cells of a plane: an axis along y and one along x, and the pixels worth reading.

    Every `stride`-th pixel is enough where neighbours are correlated.
    """

    y: Axis
    x: Axis
    stride: int = 1

    @classmethod
    def anchored(
        cls,
        shape: tuple[int, int],
        origin: tuple[int, int],
        step: int,
        margin: int = 0,
        stride: int = 1,
    ) -> "Mesh":
        """Cut a plane whose first pixel is `origin` (y, x) of the full image."""
        y, x = (Axis.anchored(origin[i], shape[i], step, margin) for i in (0, 1))
        return cls(y, x, stride)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along y and x."""
        return len(self.y), len(self.x)

    def counts(self, chosen: NDArray[np.bool_]) -> Floats:
        """Numbers of chosen pixels in each cell, without its margins."""
        return np.asarray(cell_counts(chosen, self.y.edges, self.x.edges))

    def sums(self, values: Map, usable: NDArray[np.bool_], left_out: NDArray[np.bool_]) -> Floats:
        """Usable pixels of each cell, those not left out, and their sums; see `cell_sums`."""
        return np.asarray(cell_sums(values, usable, left_out, self.y.edges, self.x.edges))

    def expand(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Plane whose pixels have the value of their cell."""
        if not cells.any():
            return np.zeros((self.y.length, self.x.length), bool)
        columns = np.repeat(cells, np.diff(self.x.edges), axis=1)
        return np.repeat(columns, np.diff(self.y.edges), axis=0)

    def interpolate(self, cells: Floats, out: Map | None = None, *, add: bool = False) -> Map:
        """Smooth map through finite cell values: float32, shape of the plane.

        A constant comes back exactly, for a rounding error must not look like a source in a
        noiseless image. `out` and `add` are as for `Spline.evaluate`.
        """
        return self.surface(cells).draw(out, add=add)

    def surface(self, cells: Floats, part: tuple[slice, slice] | None = None) -> Surface:
        """Smooth map through finite cell values (see `interpolate`), to be drawn.

        Parameters
        ----------
        cells : ndarray, shape of the mesh
        part : (slice, slice), optional
            Rows and columns of the plane that are to be drawn, all by default; the values there
            are the same.
        """
        return self.nodes(cells).surface(part)

    def nodes(self, cells: Floats) -> "Nodes":
        """Prepare a smooth map through finite cell values (see `interpolate`) for all its parts."""
        middle = float(np.median(cells))
        along_y, along_x = self.y.spline(), self.x.spline()
        rows = along_y.nodes(cells - middle)
        turned = rows.reshape(-1, len(self.x)).T.astype(float)
        return Nodes(along_y, along_x, along_x.nodes(turned), middle)


@dataclass(frozen=True, eq=False)
class Nodes:
    """What the parts of a smooth map are drawn from, made once for all of them.

    Parameters
    ----------
    along_y, along_x : Spline
    values : ndarray of float32, shape (2, nx, 2 ny)
        Nodes along x of the nodes along y of the cells, less `middle`.
    middle : float
        Added to every value.
    """

    along_y: Spline
    along_x: Spline
    values: Map
    middle: float

    def surface(self, part: tuple[slice, slice] | None = None) -> Surface:
        """Return the map of some rows and columns of the plane, or of all, to be drawn."""
        along_y, values, inside = self.along_y, self.values, slice(None)
        if part is not None:
            before = along_y.before[part[0]]
            needed = slice(int(before[0]), int(before[-1]) + 2)
            along_y = Spline(along_y.places, before - needed.start, along_y.weights[part[0]])
            kept = values.reshape(2, values.shape[1], 2, -1)[..., needed]
            values = np.ascontiguousarray(kept.reshape(2, values.shape[1], -1))
            inside = part[1]
        columns = self.along_x.evaluate(values, rows=inside)
        nodes = np.ascontiguousarray(columns.T).reshape(2, columns.shape[1] // 2, -1)
        return Surface(along_y, nodes, self.middle)


BANDS = 32
"""Rows that are worked on at a time, so that what is made of them stays in the cache."""


def bands(rows: int) -> Iterator[slice]:
    """Slices that together cover so many rows."""
    return (slice(first, min(first + BANDS, rows)) for first in range(0, rows, BANDS))


@njit("float64[:,::1](boolean[:,::1], int64[::1], int64[::1])", cache=True, nogil=True)
def cell_counts(
    chosen: NDArray[np.bool_], y_edges: NDArray[np.int64], x_edges: NDArray[np.int64]
) -> Floats:
    """Numbers of the chosen pixels in the cells between edges, in one pass."""
    counts = np.zeros((y_edges.size - 1, x_edges.size - 1))
    # Columns first, several at a time; cells are often too narrow for that.
    column = np.empty(chosen.shape[1], np.int32)
    for j in range(counts.shape[0]):
        column[:] = 0
        for y in range(y_edges[j], y_edges[j + 1]):
            row = chosen[y]
            for x in range(column.size):
                column[x] += row[x]
        for i in range(counts.shape[1]):
            for x in range(x_edges[i], x_edges[i + 1]):
                counts[j, i] += column[x]
    return counts


@njit(
    "float64[:,:,::1](float32[:,::1], boolean[:,::1], boolean[:,::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def cell_sums(
    values: Map,
    usable: NDArray[np.bool_],
    left_out: NDArray[np.bool_],
    y_edges: NDArray[np.int64],
    x_edges: NDArray[np.int64],
) -> Floats:
    """Usable pixels in the cells between edges, those not left out, and the sums of these.

    Returns
    -------
    ndarray, shape (3, len(y_edges) - 1, len(x_edges) - 1)
        Number of usable pixels, number of usable pixels not left out, sum of the values of the
        latter; others are not read.
    """
    sums = np.zeros((3, y_edges.size - 1, x_edges.size - 1))
    known = np.empty(values.shape[1], np.int32)
    kept = np.empty(values.shape[1], np.int32)
    total = np.empty(values.shape[1], np.float64)
    for j in range(sums.shape[1]):
        known[:], kept[:], total[:] = 0, 0, 0.0
        for y in range(y_edges[j], y_edges[j + 1]):
            row, good, out = values[y], usable[y], left_out[y]
            for x in range(known.size):
                known[x] += good[x]
                kept[x] += good[x] & ~out[x]
                total[x] += row[x] if good[x] & ~out[x] else np.float32(0.0)
        for i in range(sums.shape[2]):
            for x in range(x_edges[i], x_edges[i + 1]):
                sums[0, j, i] += known[x]
                sums[1, j, i] += kept[x]
                sums[2, j, i] += total[x]
    return sums


def fill_missing(cells: Floats) -> Floats:
    """Replace NaN cells by inverse-square-distance means of the eight nearest finite cells.

    Cells without any finite one to learn from are returned as they are.
    """
    known = np.isfinite(cells)
    if known.all() or not known.any():
        return cells
    from scipy.spatial import cKDTree

    values = cells[known]
    neighbours = min(8, values.size)
    distance, index = cKDTree(np.argwhere(known)).query(np.argwhere(~known), neighbours)
    weights = 1.0 / distance.reshape(-1, neighbours) ** 2
    filled = cells.copy()
    filled[~known] = (weights * values[index.reshape(-1, neighbours)]).sum(1) / weights.sum(1)
    return filled


def median_filter(cells: Floats, size: int) -> Floats:
    """Median of each cell's neighbourhood, smaller at the edges; NaN cells do not count.

    A cell without any finite neighbour gives NaN.
    """
    padded = np.pad(cells, size // 2, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    values = np.sort(around.reshape(*cells.shape, -1), axis=-1)
    count = np.isfinite(values).sum(-1)
    pick = [np.maximum(count + k, 0) // 2 for k in (-1, 0)]
    low, high = (np.take_along_axis(values, p[..., None], -1)[..., 0] for p in pick)
    return np.asarray(0.5 * (low + high))


def smooth(cells: Floats) -> Floats:
    """Weigh each cell 1:4:1 with its neighbours along both axes; outermost cells stay.

    A natural spline through such values is the uniform cubic B-spline curve that has the cells
    as control points: it never leaves their range and has a quarter of their variance.
    """
    result = cells.astype(float)
    for axis in (0, 1):
        result = np.moveaxis(result, axis, 0)
        if len(result) > 2:
            inner = (result[:-2] + 4.0 * result[1:-1] + result[2:]) / 6.0
            result = np.concatenate([result[:1], inner, result[-1:]])
        result = np.moveaxis(result, 0, axis)
    return result
