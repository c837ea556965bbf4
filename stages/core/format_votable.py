"""Catalogues as VOTables.

The metadata is written as PARAMs, which astropy's own writer of tables would lose.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.schema import TABLES
from cyclades.stages.core.tables import StoredColumn

if TYPE_CHECKING:
    from astropy.io.votable.tree import TableElement, VOTableFile
    from astropy.table import QTable

_PARAMS = {
    "schema_version": ("", "meta.version", "version of the columns of the catalogue"),
    "software": ("", "meta.id", "software that wrote the catalogue"),
    "version": ("", "meta.version", "version of the software"),
    "image": ("", "meta.id;obs.image", "image that was catalogued"),
    "unit": ("", "meta.unit", "unit of the image"),
    "frequency": ("Hz", "em.freq", "frequency of the image"),
    "beam_major": ("deg", "phys.angSize.smajAxis;instr.beam", "beam major axis, FWHM"),
    "beam_minor": ("deg", "phys.angSize.sminAxis;instr.beam", "beam minor axis, FWHM"),
    "beam_pa": ("deg", "pos.posAng;instr.beam", "beam position angle"),
}
_JSON = "json"
_DATATYPES = {"f4": "float", "f8": "double", "i4": "int", "i8": "long", "b1": "boolean"}


def _table(file: "VOTableFile", table: "QTable", name: str, system: str) -> "TableElement":
    """One TABLE with its FIELDs and values."""
    from astropy.io.votable.tree import Field, TableElement

    element = TableElement(file, name=name, ID=name, nrows=len(table))
    arrays = {}
    for column in table.colnames:
        values = np.asarray(table[column])
        if values.dtype.kind == "U":
            values = np.char.encode(values, "utf-8")
            datatype, size = "char", "*"
        else:
            datatype, size = _DATATYPES[values.dtype.str[1:]], None
        info, unit = table[column].info, table[column].unit
        field = Field(
            file,
            name=column,
            ID=f"{name}_{column}",
            datatype=datatype,
            arraysize=size,
            unit=None if unit is None else unit.to_string("vounit"),
            ucd=(info.meta or {}).get("ucd"),
            ref=system if column in ("ra", "dec") else None,
        )
        field.description = info.description or None
        element.fields.append(field)
        arrays[column] = values
    element.create_arrays(len(table))
    for column, values in arrays.items():
        element.array[column] = values.astype(object) if values.dtype.kind == "S" else values
    return element


def write_votable(catalogue: Catalogue, path: Path) -> None:
    """Write components, sources and islands as three TABLEs of one RESOURCE."""
    from astropy.io.votable.tree import CooSys, Param, Resource, VOTableFile

    file = VOTableFile(version="1.4")
    resource = Resource(name="catalogue")
    file.resources.append(resource)
    system = "icrs"
    resource.coordinate_systems.append(CooSys(ID=system, system="ICRS"))
    for key, value in catalogue.meta.items():
        unit, ucd, description = _PARAMS.get(key, ("", "", ""))
        text = isinstance(value, str)
        number = isinstance(value, float) and np.isfinite(value)
        if not text and not number:
            value = json.dumps(value)
        param = Param(
            file,
            name=key,
            ID=f"meta_{key}",
            datatype="double" if number else "char",
            arraysize=None if number else "*",
            value=value,
            unit=unit or None,
            ucd=ucd or None,
            utype=None if text or number else _JSON,
        )
        param.description = description or None
        resource.params.append(param)
    for name, table in catalogue.tables.items():
        resource.tables.append(_table(file, table, name, system))
        for field in resource.tables[-1].fields:
            # astropy reads columns by their IDs, which it takes from the names where there are none
            field.ID = None
    file.to_xml(str(path))


def read_votable(path: Path) -> tuple[dict[str, dict[str, StoredColumn]], dict[str, Any]]:
    """Return the columns of every table, and the metadata."""
    from astropy.io.votable import parse

    file = parse(str(path), verify="ignore")
    meta: dict[str, Any] = {}
    tables: dict[str, dict[str, StoredColumn]] = {}
    for resource in file.resources:
        for param in resource.params:
            value = param.value.item() if hasattr(param.value, "item") else param.value
            meta[param.name] = json.loads(value) if param.utype == _JSON else value
        for element in resource.tables:
            if element.name in TABLES:
                tables[element.name] = _columns(element)
    if not tables:
        raise InputError(f"{path} has no table of components; it is no catalogue of cyclades.")
    return tables, meta


def _columns(element: "TableElement") -> dict[str, StoredColumn]:
    columns = {}
    for field in element.fields:
        values = element.array[field.name]
        kind = values.dtype.kind
        if kind == "O":
            data = np.asarray(values.data, str) if len(values) else np.zeros(0, "U1")
        else:
            data = values.filled(np.nan) if kind == "f" else np.asarray(values.data)
        columns[field.name] = StoredColumn(data, field.unit, field.ucd or "", _text(field))
    return columns


def _text(field: Any) -> str:
    return " ".join((field.description or "").split())
