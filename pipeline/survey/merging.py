"""One catalogue of overlapping fields, in which every source stands once.

Components of different fields are the same where `cyclades.pipeline.comparison.match` would pair
them by position (fluxes play no part: the two looks have different noise, and sources vary); a
group of such holds at most one of a field. Sources whose components are joined that way are one
object seen several times, however each field grouped it. Of an object, the rows of one field are
kept: that which covers most of its components, then one in which it does not touch the edge,
then that of the lowest noise there, then that whose image is named first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.match import candidate_pairs, grouped, reach_of_pairs
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.rows import FieldRows, values
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from collections.abc import Mapping

NEEDED = (
    "ra", "dec", "ra_err", "dec_err", "peak_flux", "total_flux", "total_flux_err", "major",
    "psf_major", "local_rms", "snr", "source_id", "island_id", "component_id", "flags",
)  # fmt: skip
"""Columns of the components that decide what belongs together."""
FALLBACK_BEAM = 5.0
"""Arcsec, of rows whose beam nobody knows."""

Covered = dict[int, dict[int, float]]
"""Of rows: the other fields that cover its position, and their noise there."""


@dataclass(frozen=True, eq=False)
class Joined:
    """Components of all fields, and which are the same.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
        `NEEDED`, of fields one after another.
    owner : ndarray of int, shape (n,)
        Number of the field.
    group : ndarray of int, shape (n,)
        Equal for components that are the same.
    source : ndarray of int, shape (n,)
        Number of the source, over all fields.
    kept : ndarray of bool, shape (n,)
    n_fields : ndarray of int, shape (n,)
        Fields in which the component was found.
    n_covering : ndarray of int, shape (n,)
        Fields that cover its position.
    pairs : tuple of two ndarrays of int
        Rows of the same component in two fields; the kept one first, where one is.
    """

    columns: dict[str, NDArray[Any]]
    owner: Integers
    group: Integers
    source: Integers
    kept: NDArray[np.bool_]
    n_fields: Integers
    n_covering: Integers
    pairs: tuple[Integers, Integers]


def read_components(
    fields: Sequence[FieldRows], scales: Sequence[float]
) -> tuple[dict[str, NDArray[Any]], Integers]:
    """Return the needed columns of the components of all fields, and the field of each row.

    Parameters
    ----------
    fields : sequence of FieldRows
    scales : sequence of float
        What the fluxes of each field are multiplied with to have the unit of the first.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in NEEDED}
    counts = []
    for field, scale in zip(fields, scales, strict=True):
        table = field.table("components", NEEDED)
        counts.append(table.num_rows)
        for name in NEEDED:
            column = values(table, name)
            if scale != 1.0 and name in ("peak_flux", "total_flux", "total_flux_err", "local_rms"):
                column = column * scale
            parts[name].append(column)
    owner = np.repeat(np.arange(len(fields)), counts)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, owner


def _positions(columns: "Mapping[str, NDArray[Any]]") -> tuple[ComparisonTable, Floats]:
    """Components as they are matched, and their beams (arcsec)."""
    beam = columns["psf_major"].astype(float)
    beam = np.where(np.isfinite(beam) & (beam > 0), beam, FALLBACK_BEAM)
    table = ComparisonTable.from_columns(
        {
            "ra": columns["ra"],
            "dec": columns["dec"],
            "ra_err": 3600.0 * columns["ra_err"],
            "dec_err": 3600.0 * columns["dec_err"],
            "major": columns["major"],
        }
    )
    return table, beam


def reach(columns: "Mapping[str, NDArray[Any]]") -> Floats:
    """Arcsec within which each component may have a counterpart.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        `NEEDED`.
    """
    return reach_of_pairs(*_positions(columns))


def pairs_of(
    columns: "Mapping[str, NDArray[Any]]", owner: Integers
) -> tuple[Integers, Integers, Floats]:
    """Pairs of components of different fields that may be the same: ``i < j``, and their rank."""
    table, beam = _positions(columns)
    found = candidate_pairs(table, table, beam=beam, flux_check=False)
    i, j = found.first_rows, found.second_rows
    apart = (owner[i] != owner[j]) & (i < j)
    return i[apart], j[apart], found.normalised[apart]


def join(
    columns: "Mapping[str, NDArray[Any]]",
    owner: Integers,
    grids: Sequence[NoiseGrid],
    neighbours: Sequence[Sequence[int]],
) -> Joined:
    """Find which components of different fields are the same, and choose the rows to keep.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        `NEEDED`.
    owner : ndarray of int, shape (n,)
        Ascending.
    grids : sequence of NoiseGrid
        Of each field.
    neighbours : sequence of sequences of int
        Fields that may overlap each field.
    """
    columns = dict(columns)
    n = len(owner)
    i, j, rank = pairs_of(columns, owner)
    group = grouped(n, owner, i, j, rank)
    covered = _coverage(columns, owner, grids, neighbours)
    source = numbered_sources(owner, columns["source_id"])
    kept = _kept(columns, owner, source, group, covered)
    same = group[i] == group[j]
    i, j = i[same], j[same]
    first, second = np.where(kept[j], j, i), np.where(kept[j], i, j)
    size = np.bincount(group, minlength=n)[group] if n else group
    n_covering = np.ones(n, np.int64)
    for row, others in covered.items():
        n_covering[row] += len(others)
    return Joined(
        columns, owner, group, source, kept, size, np.maximum(n_covering, size), (first, second)
    )


def _coverage(
    columns: dict[str, NDArray[Any]],
    owner: Integers,
    grids: Sequence[NoiseGrid],
    neighbours: Sequence[Sequence[int]],
) -> Covered:
    """Other fields that cover each component, with their noise there."""
    covered: Covered = {}
    starts = np.searchsorted(owner, np.arange(len(grids) + 1))
    for number, others in enumerate(neighbours):
        rows = np.arange(starts[number], starts[number + 1])
        if not len(rows):
            continue
        for other in others:
            rms = grids[other].at(columns["ra"][rows], columns["dec"][rows])
            for row in np.flatnonzero(np.isfinite(rms)).tolist():
                covered.setdefault(int(rows[row]), {})[other] = float(rms[row])
    return covered


def numbered_sources(owner: Integers, source_id: NDArray[Any]) -> Integers:
    """Number the sources over all fields."""
    if not len(owner):
        return np.zeros(0, np.int64)
    key = owner.astype(np.int64) * (int(source_id.max()) + 1) + source_id
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def _kept(
    columns: dict[str, NDArray[Any]],
    owner: Integers,
    source: Integers,
    group: Integers,
    covered: Covered,
) -> NDArray[np.bool_]:
    """Choose a field for every object and keep its rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(owner)
    kept = np.ones(n, bool)
    if not n:
        return kept
    # an object: sources that share a group of components
    shape = (int(source.max()) + 1, int(group.max()) + 1)
    links = coo_array((np.ones(n, np.int8), (source, group)), shape=shape).tocsr()
    joint = links @ links.T
    object_of = connected_components(joint, directed=False)[1][source]
    order = np.argsort(object_of, kind="stable")
    ends = np.flatnonzero(np.diff(object_of[order])) + 1
    flags, rms = columns["flags"].astype(np.int64), columns["local_rms"].astype(float)
    for rows in np.split(order, ends):
        while len(rows) and not (owner[rows] == owner[rows[0]]).all():
            best = _best_field(rows, owner, flags, rms, covered)
            mine = owner[rows] == best
            chosen = set(group[rows[mine]].tolist())
            seen = np.array(
                [group[row] in chosen or best in covered.get(row, {}) for row in rows.tolist()]
            )
            # what is left of a long chain was neither found nor covered by the field chosen
            whole = np.isin(source[rows], source[rows[seen & ~mine]]) & ~mine
            kept[rows[whole]] = False
            rows = rows[~mine & ~whole]
    return kept


def _best_field(
    rows: Integers,
    owner: Integers,
    flags: Integers,
    rms: Floats,
    covered: Covered,
) -> int:
    """The field whose rows of an object are kept."""

    def cost(field: int) -> tuple[int, bool, float, int]:
        mine = rows[owner[rows] == field]
        others = rows[owner[rows] != field].tolist()
        outside = sum(field not in covered.get(row, {}) for row in others)
        edge = bool(np.any(flags[mine] & int(Flag.EDGE | Flag.BLANK_NEIGHBOUR)))
        known = np.isfinite(rms[mine])
        return outside, edge, float(np.min(rms[mine], initial=np.inf, where=known)), field

    return int(min(np.unique(owner[rows]).tolist(), key=cost))


def overlapping(grids: Sequence[NoiseGrid]) -> list[list[int]]:
    """Fields whose circumscribed circles overlap that of each field."""
    from scipy.spatial import cKDTree

    from cyclades.pipeline.comparison.match import unit_vectors

    if not grids:
        return []
    centres: Floats = np.zeros((len(grids), 3))
    radii = np.zeros(len(grids))
    for number, grid in enumerate(grids):
        cells = grid.cells
        if not len(cells.ra):
            centres[number] = np.nan
            continue
        points = unit_vectors(cells.ra, cells.dec)
        middle = points.mean(0)
        centres[number] = middle / np.linalg.norm(middle)
        # a block reaches beyond its middle
        margin = np.sqrt(cells.area.max()) / 57.0
        radii[number] = np.linalg.norm(points - centres[number], axis=1).max() + margin
    known = np.flatnonzero(np.isfinite(centres[:, 0]))
    made: list[list[int]] = [[] for _ in grids]
    if not len(known):
        return made
    tree = cKDTree(centres[known])
    near = tree.query_ball_point(centres[known], 2.0 * radii.max())
    for number, others in zip(known.tolist(), near, strict=True):
        for other in known[np.asarray(others, int)].tolist():
            reach = radii[number] + radii[other]
            if other != number and np.linalg.norm(centres[number] - centres[other]) < reach:
                made[number].append(other)
        made[number].sort()
    return made
