"""Catalogues of surveys, by ADQL queries to the TAP services that publish them."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.surveys.region import Region
from cyclades.pipeline.surveys.table import SERVICES, Survey
from cyclades.pipeline.surveys.web import Session, answering
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table

MOST_ROWS = 1_000_000


def query(survey: Survey, region: Region, table: str) -> str:
    """Return the ADQL query of one table: all columns, in the circle around the square."""
    held = survey.catalogue
    where = (
        f"1=CONTAINS(POINT('ICRS', {held.ra}, {held.dec}), "
        f"CIRCLE('ICRS', {region.ra:.7f}, {region.dec:.7f}, {region.radius:.7f}))"
    )
    if held.condition:
        where += f" AND {held.condition}"
    return f"SELECT * FROM {table} WHERE {where}"


def fetch_rows(survey: Survey, region: Region) -> "Table":
    """Ask for the rows of a survey's catalogue in a square.

    Parameters
    ----------
    survey : Survey
    region : Region

    Returns
    -------
    Table
        Columns as published, with their units; in the metadata what `cyclades compare` needs
        (the beam) and where the rows are from.

    Raises
    ------
    InputError
        Where the service does not answer, there are no rows, or too many.
    """
    import pyvo
    from astropy.table import vstack
    from pyvo.dal import DALOverflowWarning

    held = survey.catalogue
    url = SERVICES[held.service]
    found = []
    for name in held.tables:
        with (
            answering(f"{held.service} ({survey.name})", url),
            Session() as session,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", DALOverflowWarning)
            try:
                service = pyvo.dal.TAPService(url, session=session)
                answer = service.search(query(survey, region, name), maxrec=MOST_ROWS)
            except DALOverflowWarning as error:
                raise InputError(
                    f"{survey.name} has more sources in {region.size:.3g} degrees than its "
                    "service gives at once; give a smaller --size."
                ) from error
            found.append(answer.to_table())
    with answering(f"{held.service} ({survey.name})", url), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [rows for rows in found if len(rows)] or found[:1]
        table = vstack(parts, metadata_conflicts="silent")
        table = table[_inside(table, survey, region)] if len(table) else table
    if not len(table):
        raise InputError(
            f"{survey.name} has no sources within {region.size:.3g} degrees around "
            f"{region.ra:.5f} {region.dec:+.5f}; it covers {survey.coverage}."
        )
    major, minor = survey.beam_at(region.dec)
    table.meta = {
        "BMAJ": major / 3600.0,
        "BMIN": minor / 3600.0,
        "SURVEY": survey.name,
        "FREQ": survey.frequency * 1e6,
        "ORIGIN": held.source,
        "REFERENC": survey.reference,
        "RA": region.ra,
        "DEC": region.dec,
        "SIZE": region.size,
    }
    return table


def _inside(table: "Table", survey: Survey, region: Region) -> NDArray[np.bool_]:
    """Which rows lie in the square: the service was asked for the circle around it."""
    from astropy.coordinates import SkyCoord

    spelt = {name.lower(): name for name in table.colnames}
    position = [spelt[name.lower()] for name in (survey.catalogue.ra, survey.catalogue.dec)]
    places: list[NDArray[np.float64]] = [
        np.ma.filled(np.ma.asarray(table[name], float), np.nan) for name in position
    ]
    centre = SkyCoord(region.ra, region.dec, unit="deg")
    east, north = centre.spherical_offsets_to(SkyCoord(*places, unit="deg"))
    half = region.size / 2.0
    return np.asarray((np.abs(east.deg) <= half) & (np.abs(north.deg) <= half))


def write_rows(table: "Table", path: Path) -> None:
    """Write a table as FITS, completely or not at all."""
    # FITS has no objects: texts of VOTables are such
    for name in table.colnames:
        if table[name].dtype.kind == "O":
            table[name] = np.ma.filled(np.ma.asarray(table[name]), "").astype(str)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table.write(partial, format="fits", overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
