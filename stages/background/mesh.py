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

    def spline(self) -> Map:
        """Matrix from values at the cells to values at the pixels, shape (length, cells).

        A natural cubic spline through the centres, continued linearly beyond the outermost:
        a partial cell counts at the middle of its own pixels.
        """
        centres, pixels = self.centres, np.arange(self.length, dtype=float)
        count = len(centres)
        if count == 1:
            return np.ones((self.length, 1), np.float32)
        from scipy.interpolate import CubicSpline

        curve = CubicSpline(centres, np.eye(count), bc_type="natural")
        inside = np.clip(pixels, centres[0], centres[-1])
        matrix = curve(inside)
        matrix += curve(inside, 1) * (pixels - inside)[:, None]
        return np.asarray(matrix, np.float32)


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

    def interpolate(self, cells: Floats) -> Map:
        """Smooth map through finite cell values: float32, shape of the plane.

        The map is linear in the cells, so it is two products of small matrices. A constant comes
        back exactly, for a rounding error must not look like a source in a noiseless image.
        """
        middle = float(np.median(cells))
        along_x = np.asarray(cells - middle, np.float32) @ self.x.spline().T
        result = self.y.spline() @ along_x
        result += np.float32(middle)
        return np.asarray(result, np.float32)


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
