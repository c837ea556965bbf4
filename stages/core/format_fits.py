"""Catalogues as FITS binary tables."""

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.headers import card_text
from cyclades.stages.core.schema import TABLES
from cyclades.stages.core.tables import StoredColumn

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, Header
    from astropy.table import QTable
    from numpy.typing import NDArray


class Card(NamedTuple):
    """The FITS keyword of an entry of the metadata."""

    keyword: str
    comment: str


CARDS: dict[str, Card] = {
    "schema_version": Card("SCHEMA", "version of the columns of the catalogue"),
    "software": Card("CREATOR", "software that wrote the catalogue"),
    "version": Card("VERSION", "version of the software"),
    "image": Card("IMAGE", "image that was catalogued"),
    "unit": Card("IMUNIT", "unit of the image"),
    "frequency": Card("FREQ", "[Hz] frequency of the image"),
    "beam_major": Card("BMAJ", "[deg] beam major axis, FWHM"),
    "beam_minor": Card("BMIN", "[deg] beam minor axis, FWHM"),
    "beam_pa": Card("BPA", "[deg] beam position angle"),
}
_OTHERS = "CYCMETA"
_FORMS = {"f4": "E", "f8": "D", "i2": "I", "i4": "J", "i8": "K", "b1": "L"}
_CARD_WIDTH = 64
"""Characters of a value and its comment that fit on a card."""
_BLOCK = 2880
"""Bytes of which a FITS file has a whole number in every part."""
_BLOCK_WIDTH = 70
"""Characters of a line of astropy's block that fit on a COMMENT card."""


def metadata_cards(meta: dict[str, Any]) -> "Header":
    """Return metadata as FITS cards: those with a keyword of their own, the others as JSON."""
    from astropy.io.fits import Header

    header = Header()
    for key, card in CARDS.items():
        if key in meta:
            value = _card_value(meta[key])
            # a comment that does not fit beside a long value would be cut, with a warning
            fits = len(str(value)) + len(card.comment) <= _CARD_WIDTH
            header[card.keyword] = (value, card.comment if fits else "")
    others = {
        key: value for key, value in meta.items() if key not in CARDS or value != _card_value(value)
    }
    if others:
        header[_OTHERS] = json.dumps(others)
    return header


def _card_value(value: Any) -> Any:
    return card_text(value) if isinstance(value, str) else value


def _metadata(header: "Header") -> dict[str, Any]:
    meta: dict[str, Any] = {
        key: header[card.keyword] for key, card in CARDS.items() if card.keyword in header
    }
    meta.update(json.loads(header.get(_OTHERS, "{}")))
    return meta


def _bare(table: "QTable", name: str) -> "NDArray[Any]":
    """Values of a column as FITS holds them: text as UTF-8, the rest big-endian."""
    values = np.asarray(table[name])
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8") if len(values) else values.astype("S")
        return values.astype(f"S{max(1, values.dtype.itemsize)}")
    if values.dtype.kind == "b":
        return np.where(values, np.uint8(ord("T")), np.uint8(ord("F")))
    return values.astype(values.dtype.newbyteorder(">"))


def _form(table: "QTable", name: str, bare: "NDArray[Any]") -> str:
    """The format that FITS has for the type of a column."""
    if bare.dtype.kind == "S":
        return f"{bare.dtype.itemsize}A"
    return _FORMS[np.asarray(table[name]).dtype.str[1:]]


def _astropy_block(table: "QTable") -> list[str]:
    """Comments from which astropy restores descriptions and UCDs, which FITS does not have."""
    key = _described(table)
    if key not in _blocks:
        if len(_blocks) >= _MOST_BLOCKS:
            _blocks.clear()
        _blocks[key] = _make_block(table)
    return _blocks[key]


_blocks: dict[tuple[Any, ...], list[str]] = {}
"""By what the columns are: making one takes a tenth of a second, and a batch has many."""
_MOST_BLOCKS = 32


def _described(table: "QTable") -> tuple[Any, ...]:
    """What the columns of a table are; text of any width is the same."""
    made = []
    for name in table.colnames:
        dtype = np.asarray(table[name]).dtype
        size = 0 if dtype.kind == "U" else dtype.itemsize
        made.append((name, dtype.kind, size, *_about(table, name)))
    return tuple(made)


def _about(table: "QTable", name: str) -> tuple[str, str, str]:
    """Unit, description and UCD of a column."""
    held, info = table[name], table[name].info
    unit = "" if held.unit is None else f"{type(held).__name__} {held.unit.to_string()}"
    return unit, str(info.description), str(info.meta)


def _make_block(table: "QTable") -> list[str]:
    from astropy.table.meta import get_yaml_from_table
    from astropy.table.serialize import represent_mixins_as_columns

    bare = table[:0]
    bare.meta = {}
    described = represent_mixins_as_columns(bare)
    described.meta.setdefault("__serialized_columns__", {})
    lines = []
    for line in get_yaml_from_table(described):
        cut = [line[i : i + _BLOCK_WIDTH] for i in range(0, len(line), _BLOCK_WIDTH)] or [""]
        lines += [f"{part}\\" for part in cut[:-1]] + cut[-1:]
    return ["--BEGIN-ASTROPY-SERIALIZED-COLUMNS--", *lines, "--END-ASTROPY-SERIALIZED-COLUMNS--"]


class _Frame(NamedTuple):
    """The cards of a table as text: those before the metadata, and those behind it."""

    before: str
    behind: str


_frames: dict[tuple[Any, ...], _Frame] = {}
"""By what the columns are: astropy takes 30 ms to make the header of a table, and as long to write
it, whatever the number of rows."""


def _frame(table: "QTable", name: str, forms: tuple[str, ...]) -> _Frame:
    """Cards of a table without rows, with TUCD and TCOMM, and the block that astropy reads."""
    from astropy.io import fits

    key = (name, forms, _described(table))
    if key in _frames:
        return _frames[key]
    columns = []
    for column, form in zip(table.colnames, forms, strict=True):
        unit = table[column].unit
        columns.append(
            fits.Column(column, form, None if unit is None else unit.to_string("fits"), array=[])
        )
    extra: list[Any] = [("EXTNAME", name, "table of the catalogue")]
    for number, column in enumerate(table.colnames, 1):
        info = table[column].info
        ucd = (info.meta or {}).get("ucd", "")
        if ucd:
            extra.append((f"TUCD{number}", ucd))
        if info.description:
            extra.append((f"TCOMM{number}", info.description))
    # a header made at once: each card appended to an existing one costs its length
    before = fits.Header([*fits.BinTableHDU.from_columns(columns).header.cards, *extra])
    behind = fits.Header([("COMMENT", line) for line in _astropy_block(table)])
    if len(_frames) >= _MOST_BLOCKS:
        _frames.clear()
    _frames[key] = _Frame(_cards_text(before), _cards_text(behind))
    return _frames[key]


def _cards_text(header: "Header") -> str:
    return str(header.tostring(sep="", endcard=False, padding=False))


_ROWS = f"{'NAXIS2':8s}= {0:20d}"


def _write_table(file: IO[bytes], table: "QTable", name: str, cards: str) -> None:
    """Write one table behind what is there."""
    bare = [_bare(table, column) for column in table.colnames]
    forms = tuple(
        _form(table, column, values) for column, values in zip(table.colnames, bare, strict=True)
    )
    frame = _frame(table, name, forms)
    rows = f"{'NAXIS2':8s}= {len(table):20d}"
    _write_blocks(file, frame.before.replace(_ROWS, rows, 1) + cards + frame.behind)
    data = np.empty(len(table), [(f"f{i}", values.dtype) for i, values in enumerate(bare)])
    for i, values in enumerate(bare):
        data[f"f{i}"] = values
    file.write(data.tobytes())
    file.write(bytes(-data.nbytes % _BLOCK))


def _write_blocks(file: IO[bytes], cards: str) -> None:
    """Write cards as a header."""
    text = f"{cards}{'END':80s}".encode("ascii")
    file.write(text + b" " * (-len(text) % _BLOCK))


def write_fits(catalogue: Catalogue, path: Path) -> None:
    """Write components, sources and islands as extensions in this order.

    The metadata is in the primary header and in that of every table, so that tools that read one
    extension show it.
    """
    from astropy.io import fits

    cards = _cards_text(metadata_cards(catalogue.meta))
    primary = fits.PrimaryHDU().header
    # what astropy adds when it writes a file with extensions
    primary["EXTEND"] = True
    with path.open("wb") as file:
        _write_blocks(file, _cards_text(primary) + cards)
        for name, table in catalogue.tables.items():
            _write_table(file, table, name, cards)


def read_fits(path: Path) -> tuple[dict[str, dict[str, StoredColumn]], dict[str, Any]]:
    """Return the columns of every table, and the metadata."""
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        if "COMPONENTS" not in hdus:
            raise InputError(f"{path} has no table of components; it is no catalogue of cyclades.")
        tables = {name: _columns(hdus[name]) for name in TABLES if name in hdus}
        return tables, _metadata(hdus[0].header)


def _columns(hdu: "BinTableHDU") -> dict[str, StoredColumn]:
    columns = {}
    for number, column in enumerate(hdu.columns, 1):
        values = hdu.data[column.name]
        columns[column.name] = StoredColumn(
            values.astype(values.dtype.newbyteorder("=")),
            column.unit,
            hdu.header.get(f"TUCD{number}", ""),
            hdu.header.get(f"TCOMM{number}", ""),
        )
    return columns
