"""Catalogues as FITS binary tables."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.headers import card_text
from cyclades.stages.core.schema import TABLES
from cyclades.stages.core.tables import StoredColumn

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, Column, Header
    from astropy.table import QTable


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


def _fits_column(table: "QTable", name: str) -> "Column":
    """One column of a table in the format that FITS has for its type."""
    from astropy.io import fits

    values, unit = np.asarray(table[name]), table[name].unit
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8")
        form = f"{max(1, values.dtype.itemsize)}A"
    else:
        form = _FORMS[values.dtype.str[1:]]
    return fits.Column(name, form, None if unit is None else unit.to_string("fits"), array=values)


def _astropy_block(table: "QTable") -> list[str]:
    """Comments from which astropy restores descriptions and UCDs, which FITS does not have."""
    described = [
        (name, np.asarray(table[name]).dtype.kind, table[name].dtype.itemsize, *_about(table, name))
        for name in table.colnames
    ]
    # text of any width is the same to them
    key = tuple((n, kind, 0 if kind == "U" else size, *rest) for n, kind, size, *rest in described)
    if key not in _blocks:
        if len(_blocks) >= _MOST_BLOCKS:
            _blocks.clear()
        _blocks[key] = _make_block(table)
    return _blocks[key]


_blocks: dict[tuple[Any, ...], list[str]] = {}
"""By what the columns are: making one takes a tenth of a second, and a batch has many."""
_MOST_BLOCKS = 32


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


def _table_hdu(table: "QTable", name: str, cards: "Header") -> "BinTableHDU":
    """One table with TUCD and TCOMM cards, and the block that astropy reads them from.

    Everything is appended behind the cards of the columns: astropy moves each of those into
    place again when it writes, which takes a second where others stand between them.
    """
    from astropy.io import fits

    hdu = fits.BinTableHDU.from_columns([_fits_column(table, column) for column in table.colnames])
    extra: list[Any] = [("EXTNAME", name, "table of the catalogue")]
    for number, column in enumerate(table.colnames, 1):
        info = table[column].info
        ucd = (info.meta or {}).get("ucd", "")
        if ucd:
            extra.append((f"TUCD{number}", ucd))
        if info.description:
            extra.append((f"TCOMM{number}", info.description))
    extra += [*cards.cards, *(("COMMENT", line) for line in _astropy_block(table))]
    # a header made at once: each card appended to an existing one costs its length
    hdu.header = fits.Header([*hdu.header.cards, *extra])
    return hdu


def write_fits(catalogue: Catalogue, path: Path) -> None:
    """Write components, sources and islands as extensions in this order.

    The metadata is in the primary header and in that of every table, so that tools that read one
    extension show it.
    """
    from astropy.io import fits

    cards = metadata_cards(catalogue.meta)
    primary = fits.PrimaryHDU()
    primary.header.extend(cards.cards)
    tables = [_table_hdu(table, name, cards) for name, table in catalogue.tables.items()]
    # the cards were checked when they were made; checking thousands again takes as long
    fits.HDUList([primary, *tables]).writeto(path, overwrite=True, output_verify="ignore")


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
