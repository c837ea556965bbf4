"""Natural cubic splines along one axis of a map, at a few operations a pixel."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Map = NDArray[np.float32]


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
        both = np.stack([values, self.second_derivatives(values)])
        return np.ascontiguousarray(both, np.float32)

    def evaluate(
        self,
        nodes: Map,
        out: Map | None = None,
        *,
        shift: float = 0.0,
        add: bool = False,
        rows: slice = slice(None),
    ) -> Map:
        """Splines along the axis after the first of `nodes`, of shape (2, n, m), at the pixels.

        Parameters
        ----------
        nodes : ndarray of float32, shape (2, n, m)
            C-contiguous.
        out : ndarray of float32, shape (length, m), optional
            Filled instead of a new array; C-contiguous.
        shift : float
            Added to every value.
        add : bool
            Whether the values are added to what `out` holds.
        rows : slice
            The pixels wanted, all by default; `length` is their number.

        Returns
        -------
        ndarray of float32, shape (length, m)
        """
        before, weights = self.before[rows], self.weights[rows]
        result = np.empty((len(before), nodes.shape[2]), np.float32) if out is None else out
        spline_rows(nodes, before, weights, np.float32(shift), add, result)
        return result


@njit(
    "void(float32[:,:,::1], int64[::1], float32[:,::1], float32, boolean, float32[:,::1])",
    cache=True,
    nogil=True,
    fastmath={"contract"},
)
def spline_rows(
    nodes: Map,
    before: NDArray[np.int64],
    weights: Map,
    shift: np.float32,
    add: bool,
    out: Map,
) -> None:
    """Weighted sums of two rows of values and two of second derivatives; see `Spline`.

    Products are added without being rounded in between, as in a product of matrices.
    """
    for y in range(before.size):
        first = before[y]
        second = min(first + 1, nodes.shape[1] - 1)
        a, b, c, d = weights[y, 0], weights[y, 1], weights[y, 2], weights[y, 3]
        row = out[y]
        low, high = nodes[0, first], nodes[0, second]
        bent_low, bent_high = nodes[1, first], nodes[1, second]
        if add:
            for x in range(row.size):
                row[x] += a * low[x] + b * high[x] + c * bent_low[x] + d * bent_high[x] + shift
        else:
            for x in range(row.size):
                row[x] = a * low[x] + b * high[x] + c * bent_low[x] + d * bent_high[x] + shift
