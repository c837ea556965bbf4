"""The files that a catalogue is written to and read from.

Every format holds the three tables with units, descriptions and UCDs, and the metadata; CSV is
plain, regions draw one table, and a MOC covers the image. FITS, VOTable and region files are single
files; ECSV, Parquet and CSV hold one table each, and the sources and islands lie beside the
components.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import CycladesError, InputError, OutputError
from cyclades.stages.core.exports import LAYOUTS, export_table
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.schema import SCHEMA_VERSION, TABLES
from cyclades.stages.core.tables import StoredColumn, rebuild_table

if TYPE_CHECKING:
    from astropy.table import QTable, Table

PathType = str | PathLike[str]


class Format(NamedTuple):
    """One way to write a catalogue."""

    extension: str
    description: str
    table_a_file: bool = False
    readable: bool = False
    of_image: bool = False


FORMATS: dict[str, Format] = {
    "fits": Format("fits", "FITS binary tables: components, sources, islands", False, True),
    "votable": Format("vot", "VOTable with three tables", False, True),
    "ecsv": Format("ecsv", "ECSV text, one file a table", True, True),
    "parquet": Format("parquet", "Parquet, one file a table", True, True),
    "csv": Format("csv", "plain CSV with a header row, fluxes in Jy, one file a table", True),
    "reg": Format("reg", "DS9 regions: ellipses"),
    "crtf": Format("crtf", "CASA regions: ellipses"),
    "moc": Format("moc.fits", "FITS MOC: the coverage of the image", of_image=True),
    **{
        name: Format(f"{name}.fits", f"FITS table: {layout.description}")
        for name, layout in LAYOUTS.items()
    },
}

_ALIASES = {"ds9": "reg"}
_EXTENSIONS = {
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".ecsv": "ecsv",
    ".parquet": "parquet",
    ".csv": "csv",
    ".reg": "reg",
    ".crtf": "crtf",
}


def format_of(path: PathType, format: str | None, *, error: type[CycladesError]) -> str:
    """Return the format asked for, or that of the file's extension.

    Raises
    ------
    CycladesError
        Of the class `error`, where there is no such format.
    """
    if format is None:
        format = _EXTENSIONS.get(Path(path).suffix.lower())
        if format is None:
            raise error(
                f"The extension of {path} belongs to no format of a catalogue; "
                f"name one of {', '.join(FORMATS)}."
            )
    format = _ALIASES.get(format, format)
    if format not in FORMATS:
        raise error(
            f"There is no catalogue format {format!r}{suggestion(format, list(FORMATS))}; "
            f"choose one of {', '.join(FORMATS)}."
        )
    return format


def format_extension(format: str) -> str:
    """Return the extension of a format's files, without the leading dot.

    Raises
    ------
    OutputError
        Where there is no such format.
    """
    return FORMATS[format_of("", format, error=OutputError)].extension


def catalogue_files(path: PathType, format: str | None = None) -> dict[str, Path]:
    """Return the file of each table that writing to `path` makes, by table name.

    A format that holds everything in one file gives one entry, ``components``.
    """
    name = format_of(path, format, error=OutputError)
    path = Path(path)
    files = {"components": path}
    if FORMATS[name].table_a_file:
        files |= {t: path.with_name(f"{path.stem}.{t}{path.suffix}") for t in TABLES[1:]}
    return files


def write_catalogue(
    catalogue: Catalogue,
    path: PathType,
    format: str | None = None,
    *,
    table: str = "components",
    overwrite: bool = True,
) -> None:
    """Write a catalogue; see `Catalogue.write`."""
    name = format_of(path, format, error=OutputError)
    if FORMATS[name].of_image:
        raise OutputError(
            f"The format {name} draws an image and not a catalogue; ask the run for it "
            f"(--formats {name}, or result.write(..., formats=({name!r},)))."
        )
    if table not in TABLES:
        raise OutputError(f"A catalogue has no table {table!r}; choose one of {', '.join(TABLES)}.")
    files = catalogue_files(path, name)
    for file in files.values():
        if file.exists() and not overwrite:
            raise OutputError(f"{file} exists already; remove it or allow overwriting.")
    done: list[tuple[Path, Path]] = []
    try:
        for which, file in files.items():
            partial = partial_file(file)
            done.append((partial, file))
            _write_one(catalogue, name, table if len(files) == 1 else which, partial)
        for partial, file in done:
            os.replace(partial, file)
    except OSError as error:
        raise OutputError(
            f"The catalogue {path} could not be written ({error.strerror or error}); "
            "make room or choose another place."
        ) from error
    finally:
        for partial, _ in done:
            with suppress(OSError):
                partial.unlink()


def partial_file(path: Path) -> Path:
    """Make an empty file beside `path`, with the permissions that a new file would have.

    What is written to it takes the name `path` by `os.replace` when it is complete.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    give_usual_permissions(Path(name))
    return Path(name)


def give_usual_permissions(path: Path) -> None:
    """Give a file the permissions of any new one: what makes it may keep it to its owner."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def _write_one(catalogue: Catalogue, format: str, table: str, path: Path) -> None:
    """Write what one file of a format holds."""
    if format in LAYOUTS:
        export_table(catalogue, format).write(path, format="fits", overwrite=True)
    elif format == "fits":
        from cyclades.stages.core.format_fits import write_fits

        write_fits(catalogue, path)
    elif format == "votable":
        from cyclades.stages.core.format_votable import write_votable

        write_votable(catalogue, path)
    elif format in ("reg", "crtf"):
        from cyclades.stages.core.footprints import write_regions

        write_regions(catalogue.tables[table], path, format)
    else:
        _WRITERS[format](catalogue.tables[table], catalogue.meta, path)


def _write_ecsv(table: "QTable", meta: Mapping[str, Any], path: Path) -> None:
    table = table.copy(copy_data=False)
    table.meta = dict(meta)
    table.write(path, format="ascii.ecsv", overwrite=True)


def _write_parquet(table: "QTable", meta: Mapping[str, Any], path: Path) -> None:
    table = table.copy(copy_data=False)
    table.meta = dict(meta)
    table.write(path, format="parquet", overwrite=True)


def _write_csv(table: "QTable", meta: Mapping[str, Any], path: Path) -> None:
    from pyarrow import csv

    csv.write_csv(arrow_table(_in_janskys(table)), path)


def _in_janskys(table: "QTable") -> "QTable":
    """Return a table whose fluxes are in Jy where they convert: what reads it is told no units."""
    import astropy.units as u

    made = table.copy(copy_data=False)
    for name in made.colnames:
        unit = made[name].unit
        for target in (u.Jy, u.Jy / u.beam, u.Jy / u.pix):
            if unit is not None and unit != target and unit.is_equivalent(target):
                made[name] = made[name].to(target)
    return made


def arrow_table(table: "QTable") -> Any:
    """Return the bare values of a table as an Arrow table."""
    import pyarrow

    return pyarrow.table({name: pyarrow.array(np.asarray(table[name])) for name in table.colnames})


_WRITERS: dict[str, Callable[["QTable", Mapping[str, Any], Path], None]] = {
    "ecsv": _write_ecsv,
    "parquet": _write_parquet,
    "csv": _write_csv,
}


def read_catalogue_file(path: PathType, format: str | None = None) -> Catalogue:
    """Read a catalogue; see `cyclades.stages.core.catalogue.read_catalogue`."""
    name = format_of(path, format, error=InputError)
    if not FORMATS[name].readable:
        readable = [key for key, value in FORMATS.items() if value.readable]
        raise InputError(
            f"{path}: the format {name} does not hold a whole catalogue; "
            f"read one of {', '.join(readable)}."
        )
    try:
        stored, meta = _read(Path(path), name)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give a catalogue.") from None
    except Exception as error:
        # The readers of five formats raise whatever their file makes them stumble over.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} cannot be read as a {name} catalogue ({reason}); check the file."
        ) from error
    check_version(meta, str(path))
    missing = [table for table in TABLES if table not in stored]
    if missing:
        raise InputError(
            f"{path} holds no table {missing[0]!r}; it is not a whole catalogue of cyclades."
        )
    components, sources, islands = (rebuild_table(table, stored[table]) for table in TABLES)
    return Catalogue(components, sources, islands, meta)


def check_version(meta: Mapping[str, Any], name: str) -> None:
    """Refuse a catalogue whose schema this version does not know.

    Raises
    ------
    InputError
        Where the schema version is absent or of another major number.
    """
    version = str(meta.get("schema_version", ""))
    if not version:
        raise InputError(
            f"{name} names no schema version; only catalogues written by cyclades can be read."
        )
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise InputError(
            f"{name} has schema version {version}, this cyclades reads {SCHEMA_VERSION}; "
            "use the version of cyclades that wrote it, or write it anew."
        )


def _read(path: Path, format: str) -> tuple[dict[str, dict[str, StoredColumn]], dict[str, Any]]:
    """Return the columns of every table of a file, and its metadata."""
    if format == "fits":
        from cyclades.stages.core.format_fits import read_fits

        return read_fits(path)
    if format == "votable":
        from cyclades.stages.core.format_votable import read_votable

        return read_votable(path)
    reader = _read_ecsv if format == "ecsv" else _read_parquet
    tables: dict[str, dict[str, StoredColumn]] = {}
    meta: dict[str, Any] = {}
    for name, file in catalogue_files(path, format).items():
        tables[name], table_meta = reader(file)
        meta = meta or table_meta
    return tables, meta


def _read_ecsv(path: Path) -> tuple[dict[str, StoredColumn], dict[str, Any]]:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return {name: stored_column(table, name) for name in table.colnames}, dict(table.meta)


def _read_parquet(path: Path) -> tuple[dict[str, StoredColumn], dict[str, Any]]:
    """Read what astropy wrote; astropy's own reader needs pandas."""
    import pyarrow.parquet
    from astropy.table.meta import get_header_from_yaml

    table = pyarrow.parquet.read_table(path)
    lines = table.schema.metadata[b"table_meta_yaml"].decode().splitlines()
    header = get_header_from_yaml(lines)
    columns = {}
    for entry in header["datatype"]:
        values = table.column(entry["name"]).to_numpy()
        columns[entry["name"]] = StoredColumn(
            values,
            entry.get("unit"),
            str((entry.get("meta") or {}).get("ucd", "")),
            entry.get("description") or "",
        )
    meta = dict(header.get("meta") or {})
    meta.pop("__serialized_columns__", None)
    return columns, meta


def stored_column(table: "Table", name: str) -> StoredColumn:
    """Return a column of an astropy table as plain values; masked numbers become NaN."""
    values = table[name]
    if np.ma.isMaskedArray(values):
        values = values.filled(np.nan if values.dtype.kind == "f" else values.dtype.type())
    info = table[name].info
    return StoredColumn(
        np.asarray(values),
        table[name].unit,
        str((info.meta or {}).get("ucd", "")),
        info.description or "",
    )
