"""The cells that a dense head sees an image in, and what the pixels of each say of level and rms.

Cells lie on a grid anchored at pixel (0, 0) of the full frame as the network sees it, so that they
are the same for every window of an image.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.background.mesh import Axis, Map, Mesh

STATISTICS = (
    "mean of values clipped at 1",
    "mean of values clipped at 2",
    "mean of values clipped at 4",
    "mean magnitude clipped at 1",
    "mean square clipped at 2",
    "mean square clipped at 3.5",
    "mean square of negative values clipped at 3",
    "share of negative values",
    "share above 3",
    "share below -3",
    "mean square of means of quadrants",
    "square of the mean of values clipped at 2",
    "half the mean square of differences over a beam",
    "half the mean square of differences over 2.5 beams",
    "highest value",
    "lowest value",
    "masked share",
    "beam",
)
"""What is known of each cell. Values are deviations from a first level in units of a first rms;
those of masked pixels do not count, but for the highest and lowest value (of which the logarithm
of one more is taken, as of the beam's pixels)."""
LAGS = (1.0, 2.5)
"""Distances in beams over which values are compared: what is smooth drops out."""


class CellGrid(NamedTuple):
    """Cells of an image as a network sees it.

    Parameters
    ----------
    first : (row, column)
        Number of the first cell, counted from pixel (0, 0) of the full frame.
    mesh : Mesh
        Their edges in pixels of the image.
    pixels : float
        Pixels of a whole cell.
    """

    first: tuple[int, int]
    mesh: Mesh
    pixels: float

    @classmethod
    def of(
        cls, shape: tuple[int, int], origin: tuple[int, int], scale: float, side: int
    ) -> "CellGrid":
        """Lay the grid over an image.

        Parameters
        ----------
        shape : (ny, nx)
        origin : (y, x)
            Of the image in the full frame.
        scale : float
            Pixels of the network a pixel of the image.
        side : int
            Of a cell in pixels of the network.
        """
        length = side / scale
        axes, first = [], []
        for start, number in zip(origin, shape, strict=True):
            low, high = (int(np.floor((p + 0.5) / length)) for p in (start, start + number - 1))
            edges = np.ceil(np.arange(low, high + 2) * length - 0.5) - start
            edges = np.clip(edges, 0, number).astype(np.int64)
            axes.append(Axis(edges, max(1, round(length))))
            first.append(low)
        return cls((first[0], first[1]), Mesh(axes[0], axes[1]), length**2)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along y and x."""
        return self.mesh.shape


def statistics(
    significance: Map,
    known: NDArray[np.bool_],
    masked: NDArray[np.bool_],
    grid: CellGrid,
    beam: float,
) -> tuple[Map, Map]:
    """Return `STATISTICS` of each cell, and the share of a whole cell's pixels that they rest on.

    Parameters
    ----------
    significance : ndarray of float32, shape (ny, nx)
        Deviation from a first level in units of a first rms; C-contiguous.
    known : ndarray of bool, shape (ny, nx)
        Pixels that are not blank; `significance` is not read elsewhere.
    masked : ndarray of bool, shape (ny, nx)
        Pixels of sources.
    grid : CellGrid
    beam : float
        FWHM in pixels.

    Returns
    -------
    ndarray of float32, shape (len(STATISTICS), rows, columns)
        0 in cells without a pixel that counts, but for the last four.
    ndarray of float32, shape (rows, columns)
    """
    lags = [max(1, round(lag * beam)) for lag in LAGS]
    mesh = grid.mesh
    found, counted = _statistics(
        significance, known, masked, mesh.y.edges, mesh.x.edges, lags[0], lags[1], len(STATISTICS)
    )
    found[-1] = np.log1p(beam / np.sqrt(grid.pixels))
    share = np.minimum(counted / np.float32(grid.pixels), np.float32(1.0))
    return found, np.asarray(share, np.float32)


@njit(
    "Tuple((float32[:,:,::1], float32[:,::1]))(float32[:,::1], boolean[:,::1], boolean[:,::1], "
    "int64[::1], int64[::1], int64, int64, int64)",
    cache=True,
    nogil=True,
)
def _statistics(
    values: Map,
    known: NDArray[np.bool_],
    masked: NDArray[np.bool_],
    y_edges: NDArray[np.int64],
    x_edges: NDArray[np.int64],
    near: int,
    far: int,
    number: int,
) -> tuple[Map, Map]:
    """See `statistics`."""
    ny, nx = values.shape
    shape = (y_edges.size - 1, x_edges.size - 1)
    found = np.zeros((number, shape[0], shape[1]), np.float32)
    counted = np.zeros(shape, np.float32)
    sums = np.zeros(10)
    means, pixels = np.zeros((2, 2)), np.zeros((2, 2))
    pairs, squares = np.zeros(2), np.zeros(2)
    lags = (near, far)
    for j in range(shape[0]):
        y_middle = (y_edges[j] + y_edges[j + 1]) // 2
        for i in range(shape[1]):
            x_middle = (x_edges[i] + x_edges[i + 1]) // 2
            sums[:], pairs[:], squares[:] = 0.0, 0.0, 0.0
            means[:], pixels[:] = 0.0, 0.0
            there, hidden = 0, 0
            low, high = 0.0, 0.0
            for y in range(y_edges[j], y_edges[j + 1]):
                for x in range(x_edges[i], x_edges[i + 1]):
                    if not known[y, x]:
                        continue
                    v = np.float64(values[y, x])
                    there += 1
                    low, high = min(low, v), max(high, v)
                    if masked[y, x]:
                        hidden += 1
                        continue
                    two = min(max(v, -2.0), 2.0)
                    sums[0] += min(max(v, -1.0), 1.0)
                    sums[1] += two
                    sums[2] += min(max(v, -4.0), 4.0)
                    sums[3] += min(abs(v), 1.0)
                    sums[4] += two * two
                    sums[5] += min(v * v, 12.25)
                    if v < 0.0:
                        sums[6] += min(v * v, 9.0)
                        sums[7] += 1.0
                    sums[8] += v > 3.0
                    sums[9] += v < -3.0
                    a, b = int(y >= y_middle), int(x >= x_middle)
                    means[a, b] += two
                    pixels[a, b] += 1.0
                    for k in range(2):
                        u = x + lags[k]
                        if u < nx and known[y, u] and not masked[y, u]:
                            d = v - values[y, u]
                            squares[k] += min(0.5 * d * d, 9.0)
                            pairs[k] += 1.0
                        u = y + lags[k]
                        if u < ny and known[u, x] and not masked[u, x]:
                            d = v - values[u, x]
                            squares[k] += min(0.5 * d * d, 9.0)
                            pairs[k] += 1.0
            n = there - hidden
            counted[j, i] = n
            if n > 0:
                for k in range(10):
                    found[k, j, i] = sums[k] / n
                total = 0.0
                for a in range(2):
                    for b in range(2):
                        if pixels[a, b] > 0.0:
                            total += means[a, b] ** 2 / pixels[a, b]
                found[10, j, i] = total / n
                found[11, j, i] = (sums[1] / n) ** 2
            for k in range(2):
                found[12 + k, j, i] = squares[k] / pairs[k] if pairs[k] > 0.0 else 1.0
            found[14, j, i] = np.log1p(min(high, 1e4))
            found[15, j, i] = np.log1p(min(-low, 1e4))
            found[16, j, i] = hidden / there if there > 0 else 0.0
    return found, counted
