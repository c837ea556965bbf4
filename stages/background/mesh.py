"""Meshes of cells anchored at pixel (0, 0), and smooth maps through values on them."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
    """

    edges: NDArray[np.int64]
    step: int
    margin: int = 0

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
        return np.minimum(self.edges[1:] + self.margin, self.length)

    @property
    def centres(self) -> Floats:
        """Mean pixel position of each cell's box."""
        return np.asarray(0.5 * (self.starts + self.stops - 1.0))

    def runs(self) -> list[tuple[slice, slice, int]]:
        """Runs of cells of one length: (cells, pixels, length of a cell)."""
        found, cell = [], 0
        for length, members in groupby(np.diff(self.edges)):
            count = len(list(members))
            pixels = slice(int(self.edges[cell]), int(self.edges[cell + count]))
            found.append((slice(cell, cell + count), pixels, int(length)))
            cell += count
        return found

    def spline(self) -> "Spline":
        """Natural cubic spline through the centres, continued linearly beyond the outermost.

        A partial cell counts at the middle of its own pixels.
        """
        return Spline.through(self.centres, self.length)


@dataclass(frozen=True, eq=False)
class Spline:
    """A natural cubic spline from given places to the pixels of an axis.

    Its value at a pixel needs the values and the second derivatives at the two places beside it
    only, which is far less work than a matrix of all places.

    Parameters
    ----------
    places : ndarray, shape (n,)
        Ascending.
    before : ndarray of int64, shape (length,)
        Number of the place at or before each pixel; the first or the last but one beyond them.
    weights : ndarray of float32, shape (length, 4)
        Of the values at that place and at the next one, and of the second derivatives there.
    """

    places: Floats
    before: NDArray[np.int64]
    weights: Map

    @classmethod
    def through(cls, places: Floats, length: int) -> "Spline":
        """Prepare a spline for the pixels ``0 ... length - 1``."""
        weights = np.zeros((length, 4))
        if len(places) == 1:
            weights[:, 0] = 1.0
            return cls(places, np.zeros(length, np.int64), weights.astype(np.float32))
        pixels = np.arange(length, dtype=float)
        before = np.clip(np.searchsorted(places, pixels, "right") - 1, 0, len(places) - 2)
        step = np.diff(places)[before]
        after = (pixels - places[before]) / step
        for column, t in enumerate((1.0 - after, after)):
            weights[:, column] = t
            # Beyond the outermost place a natural spline is the tangent there.
            cubic = np.where(t < 0.0, -t, np.where(t > 1.0, 0.0, t**3 - t))
            weights[:, 2 + column] = cubic * step**2 / 6.0
        return cls(places, before.astype(np.int64), weights.astype(np.float32))

    def second_derivatives(self, values: Floats) -> Floats:
        """Second derivatives at the places of the splines along the first axis of values."""
        result = np.zeros_like(values, float)
        if len(values) < 3:
            return result
        step = np.diff(self.places)
        slopes = np.diff(values, axis=0) / step[:, None]
        right = 6.0 * np.diff(slopes, axis=0)
        diagonal = 2.0 * (step[:-1] + step[1:])
        # A diagonally dominant system of three diagonals: elimination needs no pivots.
        for i in range(1, len(diagonal)):
            factor = step[i] / diagonal[i - 1]
            diagonal[i] -= factor * step[i]
            right[i] -= factor * right[i - 1]
        for i in range(len(diagonal) - 1, -1, -1):
            result[i + 1] = (right[i] - step[i + 1] * result[i + 2]) / diagonal[i]
        return result

    def nodes(self, values: Floats) -> Map:
        """What the weights apply to: values and second derivatives, shape (2, n, ...)."""
        return np.stack([values, self.second_derivatives(values)]).astype(np.float32)

    def evaluate(
        self, nodes: Map, out: Map | None = None, *, shift: float = 0.0, add: bool = False
    ) -> Map:
        """Splines along the axis after the first of `nodes`, of shape (2, n, m), at the pixels.

        Parameters
        ----------
        nodes : ndarray of float32, shape (2, n, m)
        out : ndarray of float32, shape (length, m), optional
            Filled instead of a new array.
        shift : float
            Added to every value.
        add : bool
            Whether the values are added to what `out` holds.
        """
        result = np.empty((len(self.before), nodes.shape[2]), np.float32) if out is None else out
        ends = np.flatnonzero(np.diff(self.before, append=-1)) + 1
        start = 0
        for end in ends.tolist():
            at = int(self.before[start])
            pair = nodes[:, at : at + 2].reshape(-1, nodes.shape[2])
            used = self.weights[start:end, : 4 if len(pair) == 4 else 1]
            rows = result[start:end]
            if add:
                values = used @ pair[: used.shape[1]]
                values += np.float32(shift)
                rows += values
            else:
                np.matmul(used, pair[: used.shape[1]], out=rows)
                rows += np.float32(shift)
            start = end
        return result


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

    def sums(self, chosen: NDArray[np.bool_], values: Map | None = None) -> Floats:
        """Numbers of chosen pixels in each cell, without its margins, or sums of their values."""
        if values is None:
            return np.asarray(cell_counts(chosen, self.y.edges, self.x.edges))
        return np.asarray(cell_sums(values, chosen, self.y.edges, self.x.edges))

    def expand(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Plane whose pixels have the value of their cell."""
        columns = np.repeat(cells, np.diff(self.x.edges), axis=1)
        return np.repeat(columns, np.diff(self.y.edges), axis=0)

    def interpolate(self, cells: Floats, out: Map | None = None, *, add: bool = False) -> Map:
        """Smooth map through finite cell values: float32, shape of the plane.

        A constant comes back exactly, for a rounding error must not look like a source in a
        noiseless image. `out` and `add` are as for `Spline.evaluate`.
        """
        middle = float(np.median(cells))
        along_y, along_x = self.y.spline(), self.x.spline()
        rows = along_y.nodes(cells - middle)
        turned = rows.reshape(-1, len(self.x)).T.astype(float)
        columns = along_x.evaluate(along_x.nodes(turned))
        nodes = np.ascontiguousarray(columns.T).reshape(2, len(self.y), -1)
        return along_y.evaluate(nodes, out, shift=middle, add=add)


@njit("float64[:,::1](boolean[:,::1], int64[::1], int64[::1])", cache=True, nogil=True)
def cell_counts(
    chosen: NDArray[np.bool_], y_edges: NDArray[np.int64], x_edges: NDArray[np.int64]
) -> Floats:
    """Numbers of the chosen pixels in the cells between edges, in one pass."""
    counts = np.zeros((y_edges.size - 1, x_edges.size - 1))
    for j in range(counts.shape[0]):
        for y in range(y_edges[j], y_edges[j + 1]):
            for i in range(counts.shape[1]):
                number = 0
                for x in range(x_edges[i], x_edges[i + 1]):
                    number += chosen[y, x]
                counts[j, i] += number
    return counts


@njit(
    "float64[:,::1](float32[:,::1], boolean[:,::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def cell_sums(
    values: Map, chosen: NDArray[np.bool_], y_edges: NDArray[np.int64], x_edges: NDArray[np.int64]
) -> Floats:
    """Sums of the chosen pixels in the cells between edges, in one pass."""
    sums = np.zeros((y_edges.size - 1, x_edges.size - 1))
    for j in range(sums.shape[0]):
        for y in range(y_edges[j], y_edges[j + 1]):
            for i in range(sums.shape[1]):
                total = 0.0
                for x in range(x_edges[i], x_edges[i + 1]):
                    if chosen[y, x]:
                        total += values[y, x]
                sums[j, i] += total
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
