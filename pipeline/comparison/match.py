"""Which rows of two or more catalogues are the same source.

Pairs are ranked by ``u = separation / sqrt(sigma^2 + (size / 6)^2)`` and accepted up to u = 3:
``sigma`` is the error of one coordinate from both positions, ``size`` the larger of the beam and
0.6 of the first row's major axis. Rows with small errors thus match within half a beam, rows
with large ones within three errors; errors count at most as half the size. The fluxes of a pair
must agree, peak or total, within a factor of two or five times the local rms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, covariance_from_shape, inverse

if TYPE_CHECKING:
    from astropy.table import Table

LIMIT = 3.0
BEAM_FRACTION = 1.0 / 6.0
MAJOR_SHARE = 0.6
ERROR_CAP = 0.5
FLUX_FACTOR = 2.0
FLUX_SIGMA = 5.0
ARCSEC = 3600.0


@dataclass(frozen=True, eq=False)
class Matches:
    """Rows of two tables that belong together.

    Parameters
    ----------
    first_rows, second_rows : ndarray of int, shape (pairs,)
        Row numbers, ordered by the first.
    separation_arcsec : ndarray, shape (pairs,)
    normalised : ndarray, shape (pairs,)
        What the pairs were ranked by.
    """

    first_rows: Integers
    second_rows: Integers
    separation_arcsec: Floats
    normalised: Floats

    def __len__(self) -> int:
        return len(self.first_rows)

    def take(self, rows: NDArray[np.generic]) -> "Matches":
        """Return some of the pairs."""
        return Matches(
            self.first_rows[rows],
            self.second_rows[rows],
            self.separation_arcsec[rows],
            self.normalised[rows],
        )


def match(
    first: ComparisonTable,
    second: ComparisonTable,
    *,
    beam: float | None = None,
    flux_check: bool = True,
) -> Matches:
    """Match two tables one to one, nearest pairs first.

    Parameters
    ----------
    first, second : ComparisonTable
        The first (a truth, say) gives sizes and the rms of the flux check; rows without a
        position match nothing.
    beam : float, optional
        FWHM of the beam's major axis in arcsec; by default that of the first table that tells it.
    flux_check : bool
        Whether fluxes must agree; left out anyway where the two have no flux in common.

    Returns
    -------
    Matches
        Every row at most once: pairs are taken in the order of their normalised separation over
        the whole sky, each if both rows are still free.

    Raises
    ------
    InputError
        Where no beam is known.
    """
    pairs = candidate_pairs(first, second, beam=beam, flux_check=flux_check)
    return one_to_one(pairs)


def candidate_pairs(
    first: ComparisonTable,
    second: ComparisonTable,
    *,
    beam: float | Floats | None = None,
    flux_check: bool = True,
) -> Matches:
    """Return every acceptable pair of two tables; see the module for the conditions.

    The beam may differ from row to row of the first table.
    """
    beam = common_beam([first, second]) if beam is None else beam
    size = sizes(first, beam)
    i, j, separation = neighbours(first, second, reach_of_pairs(first, beam))
    variance = 0.5 * sum(
        np.nan_to_num(table[name][rows]) ** 2
        for table, rows in ((first, i), (second, j))
        for name in ("ra_err", "dec_err")
    )
    variance = np.minimum(variance, (ERROR_CAP * size[i]) ** 2)
    normalised = separation / np.sqrt(variance + (BEAM_FRACTION * size[i]) ** 2)
    keep = normalised <= LIMIT
    if flux_check:
        keep &= fluxes_agree(first, second, i, j)
    return Matches(i[keep], j[keep], separation[keep], normalised[keep])


def reach_of_pairs(table: ComparisonTable, beam: float | Floats) -> Floats:
    """Arcsec within which each row of a first table may have a counterpart."""
    return np.asarray(LIMIT * sizes(table, beam) * np.hypot(ERROR_CAP, BEAM_FRACTION))


def common_beam(tables: Sequence[ComparisonTable]) -> float:
    """Return the major axis (arcsec) of the first table that knows its beam.

    Raises
    ------
    InputError
        Where none does.
    """
    for table in tables:
        beam = table.beam
        if beam is not None:
            return beam[0]
    names = ", ".join(table.name for table in tables)
    raise InputError(
        f"Nothing tells the beam of {names}; give the image with --image, or 'beam: 5.4' "
        "(arcsec) in the map of columns."
    )


def sizes(table: ComparisonTable, beam: float | Floats) -> Floats:
    """Size (arcsec) that each row may be displaced on: the beam, or 0.6 of a larger major axis."""
    return np.fmax(beam, MAJOR_SHARE * table["major"])


def unit_vectors(ra: Floats, dec: Floats) -> Floats:
    """Directions as unit vectors, shape (n, 3), from degrees."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def neighbours(
    first: ComparisonTable, second: ComparisonTable, reach: Floats
) -> tuple[Integers, Integers, Floats]:
    """Return all pairs closer than `reach` (arcsec, one for each row of the first).

    Returns
    -------
    i, j : ndarray of int, shape (pairs,)
        Rows of the first and of the second.
    separation : ndarray, shape (pairs,)
        Arcsec.
    """
    from scipy.spatial import cKDTree

    rows, others = (
        np.flatnonzero(np.isfinite(table["ra"]) & np.isfinite(table["dec"]))
        for table in (first, second)
    )
    if not len(rows) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    a = unit_vectors(first["ra"][rows], first["dec"][rows])
    b = unit_vectors(second["ra"][others], second["dec"][others])
    chord = 2.0 * np.sin(0.5 * np.radians(np.minimum(reach[rows], 180.0 * ARCSEC) / ARCSEC))
    found = cKDTree(b).query_ball_point(a, chord)
    counts = np.fromiter(map(len, found), np.int64, len(found))
    i = np.repeat(np.arange(len(a)), counts)
    j = np.concatenate([np.asarray(near, np.int64) for near in found[counts > 0]] or [i])
    apart = np.linalg.norm(a[i] - b[j], axis=-1)
    separation = ARCSEC * np.degrees(2.0 * np.arcsin(0.5 * apart))
    return rows[i], others[j], separation


def fluxes_agree(
    first: ComparisonTable, second: ComparisonTable, i: Integers, j: Integers
) -> NDArray[np.bool_]:
    """Whether peak or total fluxes of pairs agree within a factor of 2 or 5 local rms.

    The rms is the first table's, or the second's where the first has none. Pairs without a
    comparable flux agree.
    """
    agree = np.zeros(len(i), bool)
    known = np.zeros(len(i), bool)
    if not all(table.meta.get("comparable_fluxes", True) for table in (first, second)):
        return ~agree
    rms = np.where(
        np.isfinite(first["local_rms"][i]), first["local_rms"][i], second["local_rms"][j]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in ("peak_flux", "total_flux"):
            one, other = first[name][i], second[name][j]
            ratio = other / one
            agree |= np.abs(other - one) < FLUX_SIGMA * rms
            agree |= (ratio > 1.0 / FLUX_FACTOR) & (ratio < FLUX_FACTOR)
            known |= np.isfinite(ratio)
    return agree | ~known


def one_to_one(pairs: Matches) -> Matches:
    """Keep pairs in the order of `normalised`, each whose two rows are both still free."""
    order = np.lexsort((pairs.second_rows, pairs.first_rows, pairs.normalised))
    used_first: set[int] = set()
    used_second: set[int] = set()
    kept = []
    rows = zip(
        order.tolist(),
        pairs.first_rows[order].tolist(),
        pairs.second_rows[order].tolist(),
        strict=True,
    )
    for pair, i, j in rows:
        if i not in used_first and j not in used_second:
            used_first.add(i)
            used_second.add(j)
            kept.append(pair)
    chosen = np.array(kept, np.int64)
    return pairs.take(chosen[np.argsort(pairs.first_rows[chosen], kind="stable")])


def elliptical_radius(
    first: ComparisonTable, second: ComparisonTable, i: Integers, j: Integers
) -> Floats:
    """Distance of second rows from first rows in the first rows' FWHM along that direction.

    1 lies one whole FWHM from the centre. Without a shape it is infinite.
    """
    north = ARCSEC * (second["dec"][j] - first["dec"][i])
    turn = (second["ra"][j] - first["ra"][i] + 180.0) % 360.0 - 180.0
    east = ARCSEC * turn * np.cos(np.radians(first["dec"][i]))
    angle = np.nan_to_num(first["position_angle"][i])
    shape = covariance_from_shape(first["major"][i], first["minor"][i], angle)
    p = inverse(shape)
    quadratic = p[:, 0, 0] * east**2 + 2 * p[:, 0, 1] * east * north + p[:, 1, 1] * north**2
    return np.asarray(np.where(np.isfinite(quadratic), np.sqrt(quadratic), np.inf) / SIGMA_TO_FWHM)


def match_many(first: ComparisonTable, second: ComparisonTable, *, within: float = 1.0) -> Matches:
    """Give every row of the second table to the row of the first that it lies on.

    Many to one: several rows of the second (pieces of a radio galaxy) may lie on one row of the
    first. A row lies on another where it is within `within` FWHM of its centre, along the
    ellipse; of several the nearest in FWHM is taken. Fluxes play no part.
    """
    reach = within * np.nan_to_num(first["major"])
    i, j, separation = neighbours(first, second, reach)
    radius = elliptical_radius(first, second, i, j)
    inside = radius <= within
    pairs = Matches(i[inside], j[inside], separation[inside], radius[inside])
    order = np.lexsort((pairs.first_rows, pairs.normalised, pairs.second_rows))
    _, nearest = np.unique(pairs.second_rows[order], return_index=True)
    chosen = order[nearest]
    return pairs.take(chosen[np.argsort(pairs.first_rows[chosen], kind="stable")])


def cross_match(
    tables: Sequence[ComparisonTable], *, beam: float | None = None, flux_check: bool = True
) -> "Table":
    """Follow every source through any number of catalogues.

    As in Hydra (Boyce et al. 2023, PASA 40, e028): rows whose ellipses touch form a *clump*; in
    a clump, rows of different catalogues that are each other's closest form a *match*, which
    holds at most one row of each catalogue. Pairs join in the order of their normalised
    separation over all catalogues, as long as the two matches have no catalogue in common.

    Parameters
    ----------
    tables : sequence of ComparisonTable
        With different names; a truth may be one of them, first.
    beam : float, optional
        FWHM in arcsec, as for `match`.
    flux_check : bool

    Returns
    -------
    astropy.table.Table
        One row a row of a catalogue: ``clump_id``, ``match_id`` (both numbered in order of right
        ascension), ``catalogue``, ``row``, and the columns that identify a source.
    """
    from astropy.table import Table
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    width = common_beam(tables) if beam is None else beam
    joined = ComparisonTable.concatenate(tables)
    starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64)
    owner = np.repeat(np.arange(len(tables)), np.diff(starts))
    edges = [
        (starts[a], starts[b], candidate_pairs(tables[a], tables[b], beam=width,
                                               flux_check=flux_check))
        for a in range(len(tables)) for b in range(a + 1, len(tables))
    ]  # fmt: skip
    i = np.concatenate([first + pairs.first_rows for first, _, pairs in edges] or [owner[:0]])
    j = np.concatenate([second + pairs.second_rows for _, second, pairs in edges] or [owner[:0]])
    u = np.concatenate([pairs.normalised for _, _, pairs in edges] or [np.zeros(0)])
    match_of = grouped(len(joined), owner, i, j, u)
    near_i, near_j = _touching(joined, width)
    linked = (np.concatenate([i, near_i]), np.concatenate([j, near_j]))
    graph = coo_array((np.ones(len(linked[0]), np.int8), linked), shape=(len(joined),) * 2)
    clump_of = connected_components(graph, directed=False)[1]
    order = np.lexsort((owner, joined["ra"]))
    names = np.array([table.name for table in tables], str)
    made = Table(
        {
            "clump_id": _numbered(clump_of, order),
            "match_id": _numbered(match_of, order),
            "catalogue": names[owner] if len(names) else np.zeros(0, "U1"),
            "row": np.arange(len(joined)) - starts[owner],
        }
    )
    columns = ("name", "ra", "dec", "peak_flux", "total_flux", "major", "minor",
               "position_angle", "local_rms", "snr", "score", "morphology")  # fmt: skip
    for name in columns:
        made[name] = joined.table[name]
    made.sort(["clump_id", "match_id"])
    return made


def _touching(table: ComparisonTable, beam: float) -> tuple[Integers, Integers]:
    """Pairs of rows whose FWHM ellipses touch: separation within the sum of their radii there."""
    major = np.fmax(beam, table["major"])
    minor = np.fmin(np.fmax(beam, table["minor"]), major)
    shaped = table.replace(major=major, minor=minor)
    largest = float(np.nanmax(major, initial=beam))
    i, j, separation = neighbours(shaped, shaped, np.minimum(major, largest))
    apart = i != j
    i, j, separation = i[apart], j[apart], separation[apart]
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = [
            0.5 * separation / elliptical_radius(shaped, shaped, a, b) for a, b in ((i, j), (j, i))
        ]
    touch = ~(separation > radii[0] + radii[1])
    return i[touch], j[touch]


def grouped(n: int, owner: Integers, i: Integers, j: Integers, rank: Floats) -> Integers:
    """Join rows pair by pair, by rank, into groups that hold at most one row of each owner.

    Parameters
    ----------
    n : int
        Rows.
    owner : ndarray of int, shape (n,)
        The catalogue of each row.
    i, j : ndarray of int, shape (pairs,)
    rank : ndarray, shape (pairs,)
        Pairs with a smaller one join first.

    Returns
    -------
    ndarray of int, shape (n,)
        Equal for rows of one group.
    """
    group = list(range(n))
    members: dict[int, list[int]] = {}
    owners = owner.tolist()
    held: dict[int, set[int]] = {}
    order = np.lexsort((j, i, rank))
    for a, b in zip(i[order].tolist(), j[order].tolist(), strict=True):
        one, other = group[a], group[b]
        if one == other:
            continue
        mine, theirs = (held.get(g, {owners[g]}) for g in (one, other))
        if mine & theirs:
            continue
        moving = members.pop(other, [other])
        for row in moving:
            group[row] = one
        members[one] = members.get(one, [one]) + moving
        held[one] = mine | theirs
        held.pop(other, None)
    return np.array(group, np.int64)


def _numbered(groups: NDArray[np.integer], order: Integers) -> Integers:
    """Number groups from 1 in the order in which they first appear."""
    _, first, index = np.unique(groups[order], return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first)) + 1
    result = np.empty(len(groups), np.int64)
    result[order] = number[index]
    return result
