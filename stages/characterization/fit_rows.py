"""Components of islands while they are being fitted."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.least_squares import FAILED, Floats, Integers


@dataclass
class IslandFits:
    """Components of some islands while they are being fitted, in whitened coordinates.

    Rows are ordered by island; `params`, `bounds`, `covariance`, `beam`, `quality`, `status` and
    `total`
    are those of `cyclades.stages.characterization.island_fits.fit_islands`.
    """

    island: Integers
    leaf: Integers
    params: Floats
    bounds: Floats
    covariance: Floats
    beam: Floats
    quality: Floats
    status: Integers
    wavelet: NDArray[np.bool_]
    """Rows added by the residual-wavelet model."""
    share: Floats
    """Covariance of the row's total flux with that of its island; NaN where not known."""
    total: Floats
    """Total flux and error; NaN where they follow from `params` and `covariance`."""

    @classmethod
    def start(
        cls, island: Integers, leaf: Integers, params: Floats, bounds: Floats
    ) -> "IslandFits":
        """Return fits that have not been made yet."""
        n = len(island)
        return cls(
            island,
            leaf,
            params,
            bounds,
            np.full((n, 6, 6), np.nan),
            np.full((n, 2), np.nan),
            np.full((n, 3), np.nan),
            np.full(n, FAILED, np.int64),
            np.zeros(n, bool),
            np.full(n, np.nan),
            np.full((n, 2), np.nan),
        )

    def take(self, rows: NDArray[np.bool_] | Integers) -> "IslandFits":
        """Return some rows."""
        return IslandFits(*(getattr(self, field.name)[rows] for field in fields(self)))

    def join(self, other: "IslandFits") -> "IslandFits":
        """Return the rows of both, ordered by island."""
        order = np.argsort(np.concatenate([self.island, other.island]), kind="stable")
        names = [field.name for field in fields(self)]
        joined = (np.concatenate([getattr(self, n), getattr(other, n)])[order] for n in names)
        return IslandFits(*joined)


def nearest_distances(fits: IslandFits, rows: Integers) -> Floats:
    """Whitened distance from some components to the nearest other one of their island."""
    distances = []
    for row in rows:
        lo, hi = np.searchsorted(fits.island, [fits.island[row], fits.island[row] + 1])
        others = np.delete(np.arange(lo, hi), row - lo)
        apart = fits.params[others, 1:3] - fits.params[row, 1:3]
        distances.append(float(np.hypot(*apart.T).min()))
    return np.array(distances)


def nearest_leaves(fits: IslandFits, islands: Integers, position: Floats) -> Integers:
    """Leaf of the component nearest to a whitened position in each of some islands."""
    leaves = []
    for island, place in zip(islands, position, strict=True):
        lo, hi = np.searchsorted(fits.island, [island, island + 1])
        distance = np.hypot(*(fits.params[lo:hi, 1:3] - place).T)
        leaves.append(fits.leaf[lo + int(np.argmin(distance))])
    return np.array(leaves, np.int64)
