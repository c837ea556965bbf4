"""The catalogue: three linked tables and what they were made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.stages.core.schema import TABLES

if TYPE_CHECKING:
    from astropy.table import QTable, Table


@dataclass(eq=False)
class Catalogue:
    """Components, the sources that they make up, and the islands that they were found in.

    Rows refer to each other by ``source_id`` and ``island_id``. Every column has its unit, its
    description and its UCD in ``table[name].info`` (the UCD as ``info.meta["ucd"]``).

    Parameters
    ----------
    components, sources, islands : astropy.table.QTable
        See `cyclades.stages.core.schema`.
    meta : dict
        Software and schema version, image, unit, frequency (Hz), beam (degrees), configuration
        (nested, as it is in a YAML file), hashes of network weights; written to every file.
    """

    components: "QTable"
    sources: "QTable"
    islands: "QTable"
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.components)

    def __repr__(self) -> str:
        return (
            f"<Catalogue of {self.meta.get('image', 'an image')}: {len(self.components)} "
            f"components, {len(self.sources)} sources, {len(self.islands)} islands>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalogue):
            return NotImplemented
        return self.meta == other.meta and all(
            _equal_tables(mine, theirs)
            for mine, theirs in zip(self.tables.values(), other.tables.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def tables(self) -> "dict[str, QTable]":
        """The three tables by name, components first."""
        return {name: getattr(self, name) for name in TABLES}

    def replace(self, **changes: Any) -> "Catalogue":
        """Return a catalogue with some tables or the metadata replaced."""
        return replace(self, **changes)

    def write(
        self,
        path: "str | PathLike[str]",
        format: str | None = None,
        table: str = "components",
        overwrite: bool = True,
    ) -> None:
        """Write the catalogue to a file, completely or not at all.

        Parameters
        ----------
        path : path
            ``ecsv``, ``parquet`` and ``csv`` hold one table a file: the components go to `path`,
            the others beside it (``X.sources.ecsv``, ``X.islands.ecsv``).
        format : str, optional
            One of `cyclades.stages.core.formats.FORMATS`; by default from the file's extension.
        table : str
            The table that region files (``reg``, ``crtf``) draw.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        OutputError
            Where the file cannot be written, or the format is unknown.
        """
        from cyclades.stages.core.formats import write_catalogue

        write_catalogue(self, path, format, table=table, overwrite=overwrite)

    def export(self, layout: str) -> "Table":
        """Return a table with the columns and units of another source finder.

        Parameters
        ----------
        layout : str
            ``aegean``, ``pybdsf`` or ``selavy``, or one of
            `cyclades.stages.core.exports.LAYOUTS`.
        """
        from cyclades.stages.core.exports import export_table

        return export_table(self, layout)


def read_catalogue(path: "str | PathLike[str]", format: str | None = None) -> Catalogue:
    """Read a catalogue that cyclades wrote (fits, votable, ecsv or parquet).

    Parameters
    ----------
    path : path
        For ecsv and parquet, the file of the components; the other two lie beside it.
    format : str, optional
        By default from the file's extension.

    Raises
    ------
    InputError
        Where the file cannot be read, is no catalogue of cyclades, or has a newer schema.
    """
    from cyclades.stages.core.formats import read_catalogue_file

    return read_catalogue_file(path, format)


def format_extension(format: str) -> str:
    """Return the extension of a catalogue format's files, without the leading dot."""
    from cyclades.stages.core import formats

    return formats.format_extension(format)


def _equal_tables(one: "QTable", other: "QTable") -> bool:
    """Whether two tables have the same columns, units, descriptions, UCDs and values."""
    return (
        one.colnames == other.colnames
        and len(one) == len(other)
        and all(_equal_columns(one[name], other[name]) for name in one.colnames)
    )


def _equal_columns(one: Any, other: Any) -> bool:
    mine, theirs = np.asarray(one), np.asarray(other)
    return (
        one.unit == other.unit
        and one.info.description == other.info.description
        and _ucd(one.info.meta) == _ucd(other.info.meta)
        and mine.dtype.kind == theirs.dtype.kind
        and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
    )


def _ucd(meta: Mapping[str, Any] | None) -> str:
    return str((meta or {}).get("ucd", ""))
