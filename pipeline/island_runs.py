"""The pixels of islands as runs along rows: a label map of an image larger than memory."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.rows_file import Values
from cyclades.stages.core.products import Integers, Segments

if TYPE_CHECKING:
    from astropy.table import QTable


def runs_of(segments: Segments, nx: int, origin: tuple[int, int]) -> Values:
    """Cut segments into runs of pixels that follow each other in a row.

    Parameters
    ----------
    segments : Segments
    nx : int
        Columns of the image that the segments are of.
    origin : (y, x)
        Of that image in the full one.

    Returns
    -------
    dict of str to ndarray of int32
        ``island`` (number of the segment), ``y`` and ``x`` (first pixel in the full image) and
        ``length``, in the order of the segments.
    """
    owner = segments.owner()
    order = np.lexsort([segments.indices, owner])
    pixels, owner = segments.indices[order], owner[order]
    y, x = np.divmod(pixels, nx)
    new = np.ones(len(pixels), bool)
    new[1:] = (np.diff(pixels) != 1) | (np.diff(y) != 0) | (np.diff(owner) != 0)
    first = np.flatnonzero(new)
    values = {
        "island": owner[first],
        "y": y[first] + origin[0],
        "x": x[first] + origin[1],
        "length": np.diff(np.append(first, len(pixels))),
    }
    return {name: value.astype(np.int32) for name, value in values.items()}


class IslandRuns(NamedTuple):
    """The pixels of the islands of a full image.

    Parameters
    ----------
    island, y, x, length : ndarray of int32, shape (n,)
        Runs (see `runs_of`) in ascending order of `y`.
    places : ndarray of int, shape (islands, 2)
        Brightest pixel (y, x) of each island.
    """

    island: NDArray[np.int32]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    length: NDArray[np.int32]
    places: Integers

    @classmethod
    def of(cls, runs: Values, island: Values) -> "IslandRuns":
        """Order runs by row.

        Parameters
        ----------
        runs : dict
            Columns as of `runs_of`; an empty one where there are no islands.
        island : dict
            Columns ``x`` and ``y`` of the islands, which the runs count.
        """
        empty = np.zeros(0, np.int32)
        columns = [runs.get(name, empty) for name in ("island", "y", "x", "length")]
        # Stable, so that of islands that overlap the later one wins, as in a label map.
        order = np.argsort(columns[1], kind="stable")
        places = np.stack([np.asarray(island.get(n, empty), np.int64) for n in ("y", "x")], -1)
        number, y, x, length = (column[order] for column in columns)
        return cls(number, y, x, length, places)

    def identifiers(self, islands: "QTable") -> NDArray[np.int32]:
        """Identifier of each island in a catalogue's table; 0 of one that it lacks."""
        if not len(islands) or not len(self.places):
            return np.zeros(len(self.places), np.int32)
        known = np.stack([_plain(islands[n]).astype(np.int64) for n in ("y", "x")], -1)
        nx = int(max(known[:, 1].max(), self.places[:, 1].max())) + 1
        known, wanted = (places[:, 0] * nx + places[:, 1] for places in (known, self.places))
        order = np.argsort(known)
        at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(order) - 1)]
        found = np.asarray(islands["island_id"], np.int32)[at]
        return np.where(known[at] == wanted, found, 0).astype(np.int32)

    def label_rows(self, rows: slice, nx: int, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Rows of the label map: the label of each pixel's island, 0 elsewhere.

        Parameters
        ----------
        rows : slice
        nx : int
            Columns of the full image.
        labels : ndarray of int32, shape (islands,)
        """
        made = np.zeros((rows.stop - rows.start) * nx, np.int32)
        chosen = slice(*np.searchsorted(self.y, [rows.start, rows.stop]))
        length = self.length[chosen].astype(np.int64)
        first = (self.y[chosen].astype(np.int64) - rows.start) * nx + self.x[chosen]
        within = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        made[np.repeat(first, length) + within] = np.repeat(labels[self.island[chosen]], length)
        return made.reshape(-1, nx)


def _plain(column: Any) -> NDArray[Any]:
    return np.asarray(getattr(column, "value", column))
