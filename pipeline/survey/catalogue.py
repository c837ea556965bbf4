"""Puts the tables of the fields together to the tables of the survey."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.survey.merging import Joined
from cyclades.pipeline.survey.rows import FieldRows, described, stored, values
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.naming import decimals_for, iau_names, sky_order, unique
from cyclades.stages.core.products import Integers
from cyclades.stages.core.schema import TABLES, column
from cyclades.stages.core.tables import add_column, rebuild_table, replace_values

if TYPE_CHECKING:
    import pyarrow
    from astropy.table import QTable

ID_COLUMNS = {"components": "component_id", "sources": "source_id", "islands": "island_id"}
SEEN = ("n_fields", "n_covering")
_FLUXES = ("phot.flux.density", "instr.det.noise", "instr.skyLevel", "stat.fit.residual",
           "phys.polarization")  # fmt: skip
_IMAGE_ONLY = ("image", "beam_major", "beam_minor", "beam_pa")


def flux_scale(meta: dict[str, Any], first: dict[str, Any]) -> float | None:
    """What fluxes of a field are multiplied with to be in the unit of the first; None for no way.

    Parameters
    ----------
    meta, first : dict
        Metadata of the catalogues of the field and of the first one.
    """
    import astropy.units as u

    mine, wanted = meta.get("unit"), first.get("unit")
    if mine == wanted:
        return 1.0
    try:
        return float(u.Unit(mine or "").to(u.Unit(wanted or "")))
    except (u.UnitConversionError, ValueError):
        return None


def survey_catalogue(
    fields: Sequence[FieldRows], scales: Sequence[float], joined: Joined, name: str
) -> Catalogue:
    """Return the catalogue of a survey: the kept rows of every field, numbered and named anew.

    Parameters
    ----------
    fields : sequence of FieldRows
    scales : sequence of float
        Factors of `flux_scale`.
    joined : Joined
    name : str
        What stands for the image in the metadata.

    Returns
    -------
    Catalogue
        With the further columns ``field`` (x, y and island extents are pixels of its image),
        ``n_fields`` and ``n_covering``: of components as in `Joined`, of sources and islands the
        largest of their components.
    """
    import pyarrow

    parts: dict[str, list[pyarrow.Table]] = {table: [] for table in TABLES}
    owners: dict[str, list[Integers]] = {table: [] for table in TABLES}
    extra: dict[str, list[dict[str, Integers]]] = {table: [] for table in TABLES}
    starts = np.searchsorted(joined.owner, np.arange(len(fields) + 1))
    about: dict[str, dict[str, Any]] = {}
    for number, (field, scale) in enumerate(zip(fields, scales, strict=True)):
        rows = slice(starts[number], starts[number + 1])
        marks = {one: getattr(joined, one)[rows] for one in SEEN}
        for table, facts, picked, seen in kept_rows(field, scale, joined.kept[rows], marks):
            about.setdefault(table, facts)
            about[table]["columns"] = facts["columns"] | about[table]["columns"]
            parts[table].append(picked)
            owners[table].append(np.full(picked.num_rows, number))
            extra[table].append(seen)
    tables, owner = {}, {}
    for table in TABLES:
        whole = pyarrow.concat_tables(parts[table], promote_options="default")
        tables[table] = rebuild_table(table, stored(whole, about[table]["columns"]))
        owner[table] = np.concatenate(owners[table]).astype(np.int64)
        names = np.array([field.stem for field in fields], str)[owner[table]]
        added: dict[str, Any] = {"field": names}
        for one in SEEN:
            added[one] = np.concatenate([part[one] for part in extra[table]])
        for one, held in added.items():
            add_column(tables[table], column(table, one), held, None)
    ordered = _numbered(tables, owner)
    meta = survey_meta(about["components"]["meta"], name)
    return Catalogue(ordered["components"], ordered["sources"], ordered["islands"], meta)


def survey_meta(first: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Metadata of a survey, of that of the catalogue of its first field."""
    return {k: v for k, v in first.items() if k not in _IMAGE_ONLY} | {"image": name}


def kept_rows(
    field: FieldRows,
    scale: float,
    kept: NDArray[np.bool_],
    marks: Mapping[str, Integers],
) -> "Iterator[tuple[str, dict[str, Any], pyarrow.Table, dict[str, Integers]]]":
    """Yield of each table of a field what the survey keeps.

    Parameters
    ----------
    field : FieldRows
    scale : float
        Factor of `flux_scale`.
    kept : ndarray of bool, shape (n,)
        Of its components.
    marks : mapping of str to ndarray of int, shape (n,)
        ``n_fields`` and ``n_covering`` of its components.

    Yields
    ------
    table : str
    facts : dict
        Descriptions of its columns, and the metadata of the catalogue.
    picked : pyarrow.Table
    seen : dict of str to ndarray of int
        The marks of its rows.
    """
    import pyarrow

    ids: dict[str, NDArray[Any]] = {}
    for table in TABLES:
        held = field.table(table)
        if not ids:  # components come first, and name their sources and islands
            ids = {name: values(held, name)[kept] for name in ID_COLUMNS.values()}
        facts = described(held)
        name = ID_COLUMNS[table]
        mine = np.isin(values(held, name), ids[name])
        picked = _scaled(held.filter(pyarrow.array(mine)), facts["columns"], scale)
        found = values(picked, name)
        seen = {one: _largest(mark[kept], ids[name], found) for one, mark in marks.items()}
        yield table, facts, picked, seen


def _largest(amounts: Integers, ids: NDArray[Any], wanted: NDArray[Any]) -> Integers:
    """Largest amount among the components with each identifier."""
    size = int(max(ids.max(initial=0), wanted.max(initial=0))) + 1
    most = np.zeros(size, np.int64)
    np.maximum.at(most, ids, amounts)
    return np.asarray(most[wanted])


def _scaled(table: "pyarrow.Table", columns: dict[str, Any], scale: float) -> "pyarrow.Table":
    """Multiply everything in the unit of the image."""
    import pyarrow

    if scale == 1.0:
        return table
    for place, name in enumerate(table.column_names):
        unit, ucd, _ = columns[name]
        if unit and any(word in ucd for word in _FLUXES):
            held = values(table, name)
            scaled = (held * scale).astype(held.dtype)
            table = table.set_column(place, name, pyarrow.array(scaled))
    return table


def _numbered(tables: "dict[str, QTable]", owner: dict[str, Integers]) -> "dict[str, QTable]":
    """Put the rows in sky order, refer the tables to each other anew, and name the rows."""
    numbers: dict[str, dict[tuple[int, int], int]] = {}
    orders = {}
    for table, rows in tables.items():
        keys = [_plain(rows[name]) for name in ("ra", "dec", "peak_flux")]
        order = sky_order(*keys, owner[table], np.asarray(rows[ID_COLUMNS[table]]))
        orders[table] = order
        ids = np.asarray(rows[ID_COLUMNS[table]])[order].tolist()
        pairs = zip(owner[table][order].tolist(), ids, strict=True)
        numbers[table] = {pair: number for number, pair in enumerate(pairs, 1)}
    made = {}
    for table, rows in tables.items():
        order = orders[table]
        ordered, fields = rows[order], owner[table][order].tolist()
        for other, name in ID_COLUMNS.items():
            if name in ordered.colnames:
                ids = zip(fields, np.asarray(ordered[name]).tolist(), strict=True)
                new = [numbers[other].get(pair, 0) for pair in ids]
                replace_values(ordered, name, np.array(new, np.int32))
        replace_values(ordered, "name", _names(ordered))
        made[table] = ordered
    return made


def _plain(held: Any) -> NDArray[Any]:
    return np.asarray(getattr(held, "value", held), float)


def _names(table: "QTable") -> NDArray[np.str_]:
    """Names from the positions, with the acronym that the fields use."""
    if not len(table):
        return np.zeros(0, "U1")
    before = [str(name) for name in table["name"]]
    return named_anew(table, acronym(before[0]), sharpest_beam(table))


def acronym(name: str) -> str:
    """What stands before the position in a name."""
    return name.rpartition(" ")[0]


def sharpest_beam(table: "QTable | Mapping[str, Any]") -> float:
    """Arcsec; NaN where no row tells."""
    try:
        size = np.sqrt(_plain(table["psf_major"]) * _plain(table["psf_minor"]))
    except KeyError:
        return np.nan
    return float(np.nanmin(size)) if np.isfinite(size).any() else np.nan


def named_anew(table: "QTable", prefix: str, beam: float) -> NDArray[np.str_]:
    """Names of rows in sky order, with the digits that a beam allows: the sharpest field's.

    Without a beam they keep the names that their fields gave them.
    """
    if not np.isfinite(beam):
        return np.array(unique([str(name) for name in table["name"]]), str)
    ra, dec = _plain(table["ra"]), _plain(table["dec"])
    return np.array(unique(iau_names(ra, dec, prefix=prefix, decimals=decimals_for(beam))), str)
