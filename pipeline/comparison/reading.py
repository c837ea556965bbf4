"""Files of other people's tables, whatever their format."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table


def read_table(path: Path, table: str) -> "Table":
    """Read a table of any format.

    Parameters
    ----------
    path : Path
    table : str
        The table to read of our own catalogues, which hold several.

    Raises
    ------
    InputError
        Where there is no file, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a catalogue.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _readers(path, table)
    except Exception as error:
        # readers of six formats raise whatever the file makes them stumble over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read as a catalogue ({reason}).") from error


def _readers(path: Path, table: str) -> "Table":
    from astropy.table import Table

    suffixes = [s.lower() for s in path.suffixes]
    suffix = suffixes[-1] if suffixes else ""
    beside = path.with_name(f"{path.stem}.{table}{path.suffix}")
    if table != "components" and suffix in (".ecsv", ".parquet", ".csv") and beside.is_file():
        path = beside
    if suffix in (".fits", ".fit") or suffixes[-2:] == [".fits", ".gz"]:
        return _read_fits(path, table)
    if suffix in (".vot", ".votable", ".xml"):
        return _read_votable(path, table)
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".ecsv":
        return Table.read(path, format="ascii.ecsv")
    if suffix == ".csv":
        return _read_csv(path)
    return _read_text(path)


def _read_fits(path: Path, table: str) -> "Table":
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path, memmap=False) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise InputError("it holds no table")
        chosen = next((hdu for hdu in tables if hdu.name.lower() == table), tables[0])
        result = Table.read(chosen)
        header = {**dict(hdus[0].header), **dict(chosen.header)}
    result.meta.update({key: header[key] for key in ("BMAJ", "BMIN", "IMAGE") if key in header})
    return result


def _read_parquet(path: Path) -> "Table":
    """Read a table with the units that astropy wrote beside it, if any."""
    import pyarrow.parquet
    from astropy.table import Table
    from astropy.table.meta import get_header_from_yaml

    held = pyarrow.parquet.read_table(path)
    result = Table({name: held.column(name).to_numpy() for name in held.column_names})
    text = (held.schema.metadata or {}).get(b"table_meta_yaml")
    if text is not None:
        header = get_header_from_yaml(text.decode().splitlines())
        for entry in header["datatype"]:
            result[entry["name"]].unit = entry.get("unit")
        result.meta.update(header.get("meta") or {})
    return result


def _read_votable(path: Path, table: str) -> "Table":
    from astropy.io.votable import parse

    tables = list(parse(path).iter_tables())
    chosen = next((t for t in tables if (t.name or t.ID or "").lower() == table), tables[0])
    return chosen.to_table(use_names_over_ids=True)


def _read_csv(path: Path) -> "Table":
    """Read comma-separated values; of lines behind #, as PyBDSF's, the last names the columns."""
    from astropy.table import Table

    head, rows = _head_and_rows(path)
    text = [head[-1].lstrip("# "), *rows] if head else rows
    return Table.read(text, format="ascii.csv")


def _head_and_rows(path: Path) -> tuple[list[str], list[str]]:
    """Lines behind #, those before the others and those among them, and the other lines."""
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    head = [line for line in lines if line.startswith("#")]
    return head, [line for line in lines if not line.startswith("#")]


def _read_text(path: Path) -> "Table":
    """Read text of which a line names the columns: one behind #, or else the first."""
    from astropy.table import Table

    head, lines = _head_and_rows(path)
    rows = [line.split() for line in lines]
    if not head and rows:
        names, rows = rows[0], rows[1:]
    else:
        tried = [line.lstrip("#").replace("format:", " ").split() for line in reversed(head)]
        names = next((n for n in tried if rows and len(n) == len(rows[0])), [])
    if not rows or any(len(row) != len(names) for row in rows):
        return Table.read(path, format="ascii")
    made = Table()
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        try:
            made[name] = np.array(values, float)
        except ValueError:
            made[name] = np.array(values, str)
    return made
