"""Catalogues as FITS binary tables."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.schema import TABLES
from cyclades.stages.core.tables import StoredColumn

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, Header
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


def metadata_cards(meta: dict[str, Any]) -> "Header":
    """Return metadata as FITS cards: those with a keyword of their own, the others as JSON."""
    from astropy.io.fits import Header

    header = Header()
    for key, card in CARDS.items():
        if key in meta:
            header[card.keyword] = (meta[key], card.comment)
    others = {key: value for key, value in meta.items() if key not in CARDS}
    if others:
        header[_OTHERS] = json.dumps(others)
    return header


def _metadata(header: "Header") -> dict[str, Any]:
    meta: dict[str, Any] = {
        key: header[card.keyword] for key, card in CARDS.items() if card.keyword in header
    }
    meta.update(json.loads(header.get(_OTHERS, "{}")))
    return meta


def _table_hdu(table: "QTable", name: str, cards: "Header") -> "BinTableHDU":
    """One table with TUCD and TCOMM cards, beside the block that astropy reads them from."""
    from astropy.io import fits

    buffer = io.BytesIO()
    bare = table.copy(copy_data=False)
    bare.meta = {}
    bare.write(buffer, format="fits")
    buffer.seek(0)
    with fits.open(buffer, memmap=False) as hdus:
        hdu = hdus[1].copy()
    header = hdu.header
    for number, column in enumerate(table.colnames, 1):
        info = table[column].info
        last = next(k for k in (f"TUNIT{number}", f"TFORM{number}") if k in header)
        ucd = (info.meta or {}).get("ucd", "")
        if info.description:
            header.insert(last, (f"TCOMM{number}", info.description), after=True)
        if ucd:
            header.insert(last, (f"TUCD{number}", ucd), after=True)
    header["EXTNAME"] = (name, "table of the catalogue")
    header.extend(cards.cards, update=True)
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
    fits.HDUList([primary, *tables]).writeto(path, overwrite=True)


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
