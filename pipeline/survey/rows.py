"""The tables of a field's catalogue as bare Parquet: what the survey is put together from."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.schema import TABLES
from cyclades.stages.core.tables import StoredColumn

if TYPE_CHECKING:
    import pyarrow
    from astropy.units import UnitBase

    from cyclades.stages.core.catalogue import Catalogue

_ABOUT = b"cyclades"
MANY = 100_000
"""Rows of a table from which on it is read by threads."""


def row_file(folder: Path, stem: str, table: str) -> Path:
    """File of a table of a field."""
    return folder / f"{stem}.{table}.parquet"


@lru_cache(maxsize=256)
def unit_text(unit: "UnitBase") -> str:
    """Return a unit as text; astropy takes long, and all fields have the same."""
    return str(unit.to_string())


def write_rows(catalogue: "Catalogue", folder: Path, stem: str) -> None:
    """Write the three tables, each whole or not at all.

    Raises
    ------
    OutputError
        Where they cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    for name, table in catalogue.tables.items():
        columns, described = {}, {}
        for column in table.colnames:
            held = table[column]
            unit = getattr(held, "unit", None)
            ucd = str((held.info.meta or {}).get("ucd", ""))
            described[column] = ["" if unit is None else unit_text(unit), ucd,
                                 held.info.description or ""]  # fmt: skip
            columns[column] = pyarrow.array(np.asarray(held))
        texts = [name for name, values in columns.items() if pyarrow.types.is_string(values.type)]
        about = json.dumps({"columns": described, "meta": catalogue.meta})
        made = pyarrow.table(columns).replace_schema_metadata({_ABOUT: about})
        with written_whole(row_file(folder, stem, name)) as path:
            # numbers hardly repeat, and a dictionary of each takes a third of the time
            pyarrow.parquet.write_table(made, str(path), use_dictionary=texts)


class FieldRows:
    """The tables that a field left.

    Parameters
    ----------
    folder : path
    stem : str
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem

    def table(self, name: str, columns: Sequence[str] | None = None) -> "pyarrow.Table":
        """Return a table, or those of some columns that it has.

        Raises
        ------
        InputError
            Where its file is missing or damaged.
        """
        with self._opened(name) as file:
            chosen = None
            if columns is not None:
                chosen = [one for one in columns if one in file.schema_arrow.names]
            # threads cost more than they save in all but large fields
            return file.read(columns=chosen, use_threads=file.metadata.num_rows > MANY)

    @contextmanager
    def _opened(self, name: str) -> "Iterator[pyarrow.parquet.ParquetFile]":
        import pyarrow
        import pyarrow.parquet

        path = row_file(self.folder, self.stem, name)
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                yield file
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{path} is missing or damaged; give the same command with --force to make it anew."
            ) from error

    def schema(self, name: str) -> "pyarrow.Schema":
        """Return the columns of a table, and what describes them."""
        with self._opened(name) as file:
            return file.schema_arrow

    def about(self, name: str = TABLES[0]) -> dict[str, Any]:
        """Descriptions of the columns of a table, and the metadata of the catalogue."""
        with self._opened(name) as file:
            content: dict[str, Any] = json.loads(file.metadata.metadata[_ABOUT])
        return content


def described(table: "pyarrow.Table | pyarrow.Schema") -> dict[str, Any]:
    """Descriptions and metadata that a table, or its schema, carries."""
    schema = getattr(table, "schema", table)
    content: dict[str, Any] = json.loads(schema.metadata[_ABOUT])
    return content


def values(table: "pyarrow.Table", name: str) -> NDArray[Any]:
    """Return a column as numpy, with NaN, 0 or empty text where a field lacked it."""
    column = table.column(name)
    if column.null_count and not np.issubdtype(column.type.to_pandas_dtype(), np.floating):
        import pyarrow

        filler: str | bool | int = "" if pyarrow.types.is_string(column.type) else False
        if pyarrow.types.is_integer(column.type):
            filler = 0
        column = column.fill_null(filler)
    made = np.asarray(column.to_numpy())
    return made.astype(str) if made.dtype.kind == "O" else made


def stored(table: "pyarrow.Table", columns: dict[str, Any]) -> dict[str, StoredColumn]:
    """Return the columns as `cyclades.stages.core.tables.rebuild_table` takes them."""
    made = {}
    for name in table.column_names:
        unit, ucd, description = columns[name]
        made[name] = StoredColumn(values(table, name), unit or None, ucd, description)
    return made
