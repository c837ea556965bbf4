"""Which rows of a survey are kept, worked out strip by strip of declination.

The outcome is that of `cyclades.pipeline.survey.merging.join` on all rows at once. What belongs
together is decided among rows that pairs and sources connect; a strip is worked through with those
of the strips before it whose company was not complete there. So no margin has to be chosen, and
memory holds a strip, and what is connected beyond it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.survey.merging import (
    NEEDED,
    join,
    numbered_sources,
    pairs_of,
    reach,
    read_components,
)
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.quality import LOOK, Looks, looks_of
from cyclades.pipeline.survey.rows import FieldRows
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

ZONES = 64800
"""Zones of declination in which rows are counted: 10 arcsec each."""
SECONDS = 86400
"""Of right ascension, likewise: no name, truncated below a second, belongs to two."""
_BLOCK = 64
"""Fields whose looks share a file."""


@dataclass(frozen=True, eq=False)
class Extent:
    """How many rows there are, and where on the sky.

    Parameters
    ----------
    starts : ndarray of int, shape (fields + 1,)
        First row of each field, and the number of all.
    zones, seconds : ndarray of int
        Rows in each zone of declination, and second of right ascension.
    """

    starts: Integers
    zones: Integers
    seconds: Integers

    @property
    def number(self) -> int:
        """Rows of all fields."""
        return int(self.starts[-1])

    @classmethod
    def of(cls, fields: Sequence[FieldRows]) -> "Extent":
        """Count the components of fields."""
        zones, seconds = np.zeros(ZONES, np.int64), np.zeros(SECONDS, np.int64)
        counts = [0]
        for field in fields:
            table = field.table("components", ("ra", "dec"))
            counts.append(table.num_rows)
            ra, dec = (table.column(name).to_numpy() for name in ("ra", "dec"))
            zones += np.bincount(zone(dec), minlength=ZONES)
            seconds += np.bincount(second(ra), minlength=SECONDS)
        return cls(np.cumsum(counts), zones, seconds)


def zone(dec: Floats) -> Integers:
    """Zone of declinations; the first where there is none."""
    place = np.floor((np.nan_to_num(dec, nan=-90.0) + 90.0) * (ZONES / 180.0))
    return np.clip(place.astype(np.int64), 0, ZONES - 1)


def second(ra: Floats) -> Integers:
    """Second of right ascensions; the last where there is none."""
    place = np.floor(np.nan_to_num(ra, nan=360.0) * (SECONDS / 360.0))
    return np.clip(place.astype(np.int64), 0, SECONDS - 1)


def parts_of(counts: Integers, size: int) -> Integers:
    """Return the part that each bin belongs to, so that parts hold at most `size` rows.

    A bin that holds more is a part by itself.
    """
    made = np.zeros(len(counts), np.int64)
    held = 0
    # empty bins go with what is before them
    for place in np.flatnonzero(counts).tolist():
        if held and held + counts[place] > size:
            made[place] = 1
            held = 0
        held += int(counts[place])
    return np.cumsum(made)


@dataclass(frozen=True, eq=False)
class Marks:
    """What became of every component, in the order of fields and rows.

    Parameters
    ----------
    starts : ndarray of int, shape (fields + 1,)
        First row of each field.
    kept, n_fields, n_covering : ndarray, shape (n,)
        As for `cyclades.pipeline.survey.merging.Joined`; on disk.
    looks : Looks
        For the figures of overlaps.
    """

    starts: Integers
    kept: NDArray[np.bool_]
    n_fields: NDArray[np.int32]
    n_covering: NDArray[np.int32]
    looks: Looks


def mark_rows(
    fields: Sequence[FieldRows],
    scales: Sequence[float],
    grids: Sequence[NoiseGrid],
    neighbours: Sequence[Sequence[int]],
    extent: Extent,
    folder: Path,
    size: int,
) -> Marks:
    """Find which components of different fields are the same, and choose those to keep.

    Parameters
    ----------
    fields, scales, grids, neighbours
        As for `cyclades.pipeline.survey.merging`.
    extent : Extent
    folder : Path
        For files on the way, about 100 bytes a component.
    size : int
        Components of a strip.
    """
    part = parts_of(extent.zones, size)
    number = int(part[-1]) + 1
    files = [folder / f"strip{place}.bin" for place in range(number)]
    lowest, dtype = _scatter(fields, scales, extent.starts, part, files)
    n = int(extent.starts[-1])
    kept, n_fields, n_covering = (
        _mapped(folder / f"{name}.bin", kind, n)
        for name, kind in (("kept", np.bool_), ("n_fields", np.int32), ("n_covering", np.int32))
    )
    looks = _LooksFiles(folder, len(fields))
    for rows in _complete(files, dtype, lowest):
        columns = {name: rows[name] for name in NEEDED}
        joined = join(columns, rows["owner"].astype(np.int64), grids, neighbours)
        place = rows["row"]
        kept[place] = joined.kept
        n_fields[place] = joined.n_fields
        n_covering[place] = joined.n_covering
        looks.add(looks_of(joined, len(fields)))
    return Marks(extent.starts, kept, n_fields, n_covering, looks.collected())


def _mapped(path: Path, dtype: Any, number: int) -> NDArray[Any]:
    return np.memmap(path, dtype, "w+", shape=(number,)) if number else np.zeros(0, dtype)


def _scatter(
    fields: Sequence[FieldRows],
    scales: Sequence[float],
    starts: Integers,
    part: Integers,
    files: Sequence[Path],
) -> tuple[Floats, np.dtype[Any]]:
    """Write the rows of every strip into its file; the lowest declination that each reaches to."""
    lowest = np.full(len(files), np.inf)
    kinds: dict[str, list[Any]] = {name: [] for name in NEEDED}
    for field in fields:
        for one in field.schema("components"):
            if one.name in kinds:
                kinds[one.name].append(one.type.to_pandas_dtype())
    dtype = np.dtype(
        [(name, np.result_type(*kind)) for name, kind in kinds.items()]
        + [("row", np.int64), ("owner", np.int32), ("last", np.int32), ("reach", np.float64)]
    )
    for owner, (field, scale) in enumerate(zip(fields, scales, strict=True)):
        columns, _ = read_components([field], [scale])
        rows = np.zeros(len(columns["ra"]), dtype)
        for name in NEEDED:
            rows[name] = columns[name]
        rows["row"] = starts[owner] + np.arange(len(rows))
        rows["owner"] = owner
        strip = part[zone(columns["dec"])]
        _, source = np.unique(columns["source_id"], return_inverse=True)
        last = np.zeros(len(rows), np.int32)
        np.maximum.at(last, source, strip)
        rows["last"] = last[source]
        rows["reach"] = reach(columns) / 3600.0
        np.fmin.at(lowest, strip, columns["dec"] - rows["reach"])
        for place in np.unique(strip).tolist():
            with files[place].open("ab") as file:
                rows[strip == place].tofile(file)
    return lowest, dtype


def _complete(
    files: Sequence[Path], dtype: np.dtype[Any], lowest: Floats
) -> Iterator[NDArray[Any]]:
    """Rows whose company is complete, strip after strip, in the order of fields and rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # lowest declination that rows of later strips reach to: nothing below has company there
    later = np.append(np.minimum.accumulate(lowest[::-1])[::-1][1:], np.inf)
    carried = np.zeros(0, dtype)
    for number, path in enumerate(files):
        here = np.fromfile(path, dtype) if path.exists() else np.zeros(0, dtype)
        path.unlink(missing_ok=True)
        rows = np.concatenate([carried, here])
        rows = rows[np.argsort(rows["row"])]
        owner = rows["owner"].astype(np.int64)
        columns = {name: rows[name] for name in NEEDED}
        i, j, _ = pairs_of(columns, owner)
        source = numbered_sources(owner, columns["source_id"])
        n = len(rows)
        nodes = n + (int(source.max()) + 1 if n else 0)
        first = np.concatenate([i, np.arange(n)])
        second = np.concatenate([j, n + source])
        links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(nodes, nodes))
        label = connected_components(links, directed=False)[1][:n]
        # a little more than what the distance needs, for rounding
        waiting = rows["dec"] + rows["reach"] >= later[number] - 1e-9
        waiting |= rows["last"] > number
        waiting = np.isin(label, label[waiting])
        carried = rows[waiting]
        if not waiting.all():
            yield rows[~waiting]


class _LooksFiles:
    """Looks at the same components on disk, in files of some fields each."""

    def __init__(self, folder: Path, fields: int) -> None:
        self.shared = np.zeros(fields)
        self.taken = np.zeros(fields, np.int64)
        self.files = [folder / f"looks{place}.bin" for place in range(-(-max(fields, 1) // _BLOCK))]

    def add(self, found: Looks) -> None:
        """Append looks."""
        self.shared += found.shared
        self.taken += found.taken
        for looks in found.looks:
            block = looks["field"] // _BLOCK
            for place in np.unique(block).tolist():
                with self.files[place].open("ab") as file:
                    looks[block == place].tofile(file)

    def collected(self) -> Looks:
        """All of them, read when they are asked for."""
        return Looks(
            self.shared, self.taken,
            (np.fromfile(path, LOOK) for path in self.files if path.exists()),
        )  # fmt: skip
