"""Any catalogue, whoever wrote it, brought to the columns and units of comparisons."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.layouts import LAYOUTS, TableLayout
from cyclades.pipeline.comparison.reading import read_table
from cyclades.pipeline.comparison.tables import (
    PART,
    TEXTS,
    UNITS,
    ComparisonTable,
    Floats,
    PathType,
)
from cyclades.pipeline.document import read_values
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import suggestion

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.simulation.truth import Truth
    from cyclades.stages.core.catalogue import Catalogue


def from_catalogue(
    catalogue: "Catalogue", name: str = "", table: str = "components"
) -> ComparisonTable:
    """Bring a catalogue of our own to comparison columns.

    Parameters
    ----------
    catalogue : Catalogue
    name : str
        What to call it; the image's name by default.
    table : str
        ``components`` or ``sources``.

    Raises
    ------
    InputError
        Where the catalogue has no sky coordinates.
    """
    meta: dict[str, Any] = {"name": name or str(catalogue.meta.get("image", "catalogue"))}
    if "image" in catalogue.meta:
        meta["image"] = catalogue.meta["image"]
    axes = [catalogue.meta.get(f"beam_{axis}", np.nan) for axis in ("major", "minor")]
    if np.isfinite(axes).all():
        meta["beam"] = (3600.0 * axes[0], 3600.0 * axes[1])
    return _from_layout(catalogue.tables[table], LAYOUTS[0], meta)


def from_truth(truth: "Truth", name: str = "truth") -> ComparisonTable:
    """Bring the truth of a simulated field to comparison columns, one row an element."""
    return from_catalogue(truth.catalogue, name)


def read_any(
    path: PathType,
    columns: Mapping[str, Any] | PathType | None = None,
    *,
    name: str = "",
    table: str = "components",
) -> ComparisonTable:
    """Read a catalogue of any origin.

    Recognised by their columns are our own catalogues in every format that holds columns, those
    of Aegean, PyBDSF (``srl`` and ``gaul``), Selavy, LoTSS, RACS and VLASS (CIRADA), and the
    truth tables of simulators; the file's own units are honoured.

    Parameters
    ----------
    path : path
        FITS, VOTable, ECSV, Parquet, CSV, or text whose first line names the columns.
    columns : mapping or path, optional
        Where the columns of an unknown table are: ``{ra: RAJ2000, peak_flux: {column: Fp, unit:
        mJy}, ...}``, or a YAML file of that; names without a unit are in the file's unit, or in
        ours (`UNITS`) where it gives none. Of a table that is our own, or is recognised and
        lacks one of these columns, only ``beam`` is taken, where the table does not tell it.
    name : str
        What to call it; the file's name by default.
    table : str
        The table of our own catalogues to read, ``components`` or ``sources``.

    Returns
    -------
    ComparisonTable

    Raises
    ------
    InputError
        Where the file cannot be read or its columns are not recognised.
    """
    path = Path(path)
    stored = read_table(path, table)
    meta: dict[str, Any] = {"name": name or path.name.removesuffix(path.suffix)}
    meta.update(_beam_of_header(stored.meta))
    layout = recognise(stored.colnames)
    if columns is not None:
        given = columns if isinstance(columns, Mapping) else _read_map(Path(columns))
        named = _named(given)
        if layout is None or (named <= set(stored.colnames) and named and not _is_ours(stored)):
            return _from_map(stored, given, meta, str(path))
        if "beam" not in meta:
            meta |= _beam_of_map(given)
    if layout is None:
        near = min(LAYOUTS, key=lambda known: len(_lacking(stored.colnames, known)))
        lacking = _lacking(stored.colnames, near)
        nearest = f"; nearest is {near.name}, but for {', '.join(lacking)}"
        raise InputError(
            f"The columns of {path} ({', '.join(stored.colnames[:12])}"
            f"{', ...' if len(stored.colnames) > 12 else ''}) are those of no known catalogue"
            f"{nearest if len(lacking) < len(near.needs) else ''}; name them in a file for "
            "--columns, with lines as 'ra: RAJ2000'."
        )
    return _from_layout(stored, layout, meta)


def recognise(names: Sequence[str]) -> TableLayout | None:
    """Return the layout that a table's column names belong to, or None."""
    return next((layout for layout in LAYOUTS if not _lacking(names, layout)), None)


def _lacking(names: Sequence[str], layout: TableLayout) -> list[str]:
    """The columns of a layout that are not among some names."""
    present = {name.lower() for name in names}
    return [need for need in layout.needs if need.lower() not in present]


def _beam_of_header(meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {str(key).lower(): value for key, value in meta.items()}
    for major, minor in (("bmaj", "bmin"), ("beam_major", "beam_minor")):
        if isinstance(known.get(major), float) and isinstance(known.get(minor), float):
            found["beam"] = (3600.0 * known[major], 3600.0 * known[minor])
    if "image" in known:
        found["image"] = str(known["image"])
    return found


def _from_layout(stored: "Table", layout: TableLayout, meta: Mapping[str, Any]) -> ComparisonTable:
    spelt = {name.lower(): name for name in stored.colnames}
    made: dict[str, Any] = {}
    for ours, (names, factor) in layout.columns.items():
        there = next((spelt[n] for n in names if n in spelt), None)
        if there is None:
            continue
        values = _values(stored, there, UNITS.get(ours, ""), factor)
        if ours.endswith("_err"):
            for mark in layout.missing:
                values[values == mark] = np.nan
        made[ours] = values
    for ours, there in layout.text.items():
        if there.lower() in spelt:
            made[ours] = _texts(stored, spelt[there.lower()])
    if layout.part is not None and layout.part[0] in spelt:
        made[PART] = _texts(stored, spelt[layout.part[0]]) == layout.part[1]
    absent = [name for name in ("ra", "dec") if name not in made]
    if absent:
        raise InputError(
            f"{meta.get('name')}: the catalogue has no sky coordinates; compare catalogues of "
            "images with a celestial coordinate system."
        )
    facts: dict[str, Any] = {"layout": layout.name}
    if not layout.comparable_fluxes:
        facts["comparable_fluxes"] = False
    return ComparisonTable.from_columns(made, {**meta, **facts})


def _values(stored: "Table", name: str, unit: str, factor: float) -> Floats:
    """Values of a column in our unit: by its own unit where it has one, else by the factor."""
    from astropy import units as u

    held = stored[name]
    try:
        numbers = np.ma.MaskedArray(held).astype(float)
    except ValueError as error:
        raise InputError(
            f"The column {name!r} holds no numbers ({error}); give positions in degrees and fluxes "
            "as numbers."
        ) from error
    values = np.ma.filled(np.ma.asarray(numbers), np.nan)
    values = np.array(values, np.float64)
    own = held.unit
    if own is None or not unit or own == u.dimensionless_unscaled:
        return values * factor
    if isinstance(own, u.UnrecognizedUnit):
        return values * ((_prefix(str(own)) if unit.startswith("Jy") else None) or factor)
    # catalogues often leave "/beam" out of, or put it into, a flux column's unit
    for target in (unit, "Jy", "Jy / beam"):
        if own.is_equivalent(target) and (target == unit or unit.startswith("Jy")):
            return np.asarray(values * own.to(target))
    if unit.startswith("Jy"):
        # an image in K, say: its fluxes compare with others in the same unit
        return values * (_prefix(str(own)) or 1.0)
    if unit in ("deg", "arcsec") and own.is_equivalent("s"):
        raise InputError(
            f"The column {name!r} is in {own}, which is a time and no angle; give positions in "
            "degrees, or name other columns in a file for --columns."
        )
    return values * factor


def _prefix(unit: str) -> float | None:
    """Factor to Jy of a unit that is spelt in a way of its own, as mJy/bm; None of others.

    All capitals may be milli or mega, and say nothing.
    """
    factors = {"Jy": 1.0, "JY": 1.0, "mJy": 1e-3, "uJy": 1e-6, "\u00b5Jy": 1e-6, "\u03bcJy": 1e-6}
    return factors.get(re.split(r"\W", unit.strip(), maxsplit=1)[0])


def _texts(stored: "Table", name: str) -> NDArray[Any]:
    values = np.ma.filled(np.ma.MaskedArray(np.asarray(stored[name]).astype(str)), "")
    return np.char.strip(np.asarray(values, str))


def _read_map(path: Path) -> Mapping[str, Any]:
    held = read_values(path, "a YAML map of columns")
    if not isinstance(held, Mapping):
        raise InputError(
            f"{path} holds no map of columns; write lines as 'ra: RAJ2000' or "
            "'peak_flux: {column: Fpeak, unit: mJy}'."
        )
    return held


def _is_ours(stored: "Table") -> bool:
    """Whether a table is one of a catalogue of our own, whose units its file tells."""
    return recognise(stored.colnames) is LAYOUTS[0] and "island_id" in stored.colnames


def _beam_of_map(given: Mapping[str, Any]) -> dict[str, Any]:
    """The beam that a map names, for metadata."""
    if "beam" not in given:
        return {}
    try:
        major, minor = np.broadcast_to(np.asarray(given["beam"], float), 2)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The map of columns gives the beam as {given['beam']!r}; write its FWHM in arcsec, as "
            "'beam: 5.4' or 'beam: [6.4, 5.4]'."
        ) from error
    return {"beam": (float(major), float(minor))}


def _named(given: Mapping[str, Any]) -> set[str]:
    """The columns that a map names."""
    entries = (value for ours, value in given.items() if ours != "beam")
    return {str(e.get("column", "") if isinstance(e, Mapping) else e) for e in entries}


def _from_map(
    stored: "Table", given: Mapping[str, Any], meta: Mapping[str, Any], path: str
) -> ComparisonTable:
    """Bring a table to our columns by a user's map."""
    from astropy import units as u

    made: dict[str, Any] = {}
    for ours, value in given.items():
        if ours == "beam":
            continue
        entry = value if isinstance(value, Mapping) else {"column": value}
        there = str(entry.get("column", ""))
        if there not in stored.colnames:
            raise InputError(
                f"{path} has no column {there!r}{suggestion(there, stored.colnames)}, which the "
                f"map of columns names for {ours!r}; it has {', '.join(stored.colnames)}."
            )
        if ours in TEXTS:
            made[ours] = _texts(stored, there)
            continue
        unit = UNITS.get(str(ours), "")
        factor = 1.0
        if "unit" in entry:
            try:
                declared = u.Unit(str(entry["unit"]))
                target = "Jy" if unit.startswith("Jy") and "beam" not in str(declared) else unit
                factor = float(declared.to(target))
            except (ValueError, u.UnitConversionError) as error:
                raise InputError(
                    f"The map of columns gives {ours!r} the unit {entry['unit']!r}, which is no "
                    f"unit of it; use one that converts to {unit or 'a plain number'}."
                ) from error
            values = _values(stored, there, "", factor)
        else:
            values = _values(stored, there, unit, factor)
        made[str(ours)] = values
    absent = [name for name in ("ra", "dec") if name not in made]
    if absent:
        raise InputError(f"The map of columns for {path} names no {absent[0]!r}; add it.")
    facts = {**meta, **_beam_of_map(given), "layout": "map of columns"}
    return ComparisonTable.from_columns(made, facts)
