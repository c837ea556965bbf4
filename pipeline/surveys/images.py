"""Images of surveys: one way for each service that cuts them out."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from cyclades.pipeline.surveys.region import Region
from cyclades.pipeline.surveys.table import SERVICES, Survey
from cyclades.pipeline.surveys.web import Session, Told, answering, download
from cyclades.stages.core.errors import InputError

MOST_PIXELS = 10_000
"""Longest side of an image that is asked for."""


def fetch_image(survey: Survey, region: Region, target: Path, told: Told | None = None) -> Path:
    """Fetch a survey's image of a square.

    Parameters
    ----------
    survey : Survey
    region : Region
    target : Path
        The FITS file to write, in a folder that exists.
    told : callable, optional
        Called with the bytes so far and in all.

    Raises
    ------
    InputError
        Where the service does not answer, has no image there, or the square is too large.
    """
    if _side(survey, region) > MOST_PIXELS:
        most = MOST_PIXELS * survey.image.pixel / 3600.0
        raise InputError(
            f"An image of {survey.name} of {region.size:.3g} degrees has more than "
            f"{MOST_PIXELS} pixels a side; give a --size below {most:.3g}deg."
        )
    fetched = _WAYS[survey.image.service](survey, region, target, told)
    complete_header(fetched, survey, region)
    return fetched


def _side(survey: Survey, region: Region) -> int:
    return round(region.size * 3600.0 / survey.image.pixel)


def _skyview(survey: Survey, region: Region, target: Path, told: Told | None) -> Path:
    """By NASA's SkyView, resampled to a tangent plane."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astroquery.query import cache_conf
    from astroquery.skyview import SkyViewClass

    url = SERVICES["skyview"]
    with (
        answering("SkyView", url),
        Session() as session,
        cache_conf.set_temp("cache_active", False),
    ):
        service = SkyViewClass()
        service.URL, service._session = url, session
        addresses = service.get_image_list(
            SkyCoord(region.ra, region.dec, unit="deg"),
            survey=survey.image.name,
            coordinates="J2000",
            projection="Tan",
            pixels=str(_side(survey, region)),
            width=region.size * u.deg,
            height=region.size * u.deg,
            cache=False,
        )
    if not addresses:
        raise InputError(
            f"SkyView has no image of {survey.name} at {region.ra:.5f} {region.dec:+.5f}; "
            f"it covers {survey.coverage}."
        )
    return download(addresses[0], target, "SkyView", told=told)


def _hips2fits(survey: Survey, region: Region, target: Path, told: Told | None) -> Path:
    """By CDS' hips2fits, resampled from the survey's HiPS to a tangent plane."""
    from astropy import units as u
    from astropy.coordinates import Latitude, Longitude
    from astroquery.hips2fits import hips2fitsClass

    side = _side(survey, region)
    asked = hips2fitsClass().query(
        hips=survey.image.name,
        width=side,
        height=side,
        projection="TAN",
        ra=Longitude(region.ra, unit=u.deg),
        dec=Latitude(region.dec, unit=u.deg),
        fov=region.size * u.deg,
        format="fits",
        get_query_payload=True,
    )
    return download(SERVICES["hips2fits"], target, "hips2fits (CDS)", asked, told)


def _lofar(survey: Survey, region: Region, target: Path, told: Told | None) -> Path:
    """By the cut-out service of the LOFAR surveys."""
    asked = {"pos": f"{region.ra:.6f} {region.dec:+.6f}", "size": f"{60.0 * region.size:.4f}"}
    return download(SERVICES["lofar"], target, "LOFAR surveys", asked, told)


def _cadc(survey: Survey, region: Region, target: Path, told: Told | None) -> Path:
    """By CADC's archive: the newest epoch, of its images the one that covers most."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astroquery.cadc import CadcClass, conf
    from astroquery.cadc.core import get_access_url

    centre, radius = SkyCoord(region.ra, region.dec, unit="deg"), region.radius * u.deg
    url = SERVICES["cadc"]
    with (
        answering("CADC", url),
        Session() as session,
        conf.set_temp("CADC_REGISTRY_URL", url),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        get_access_url.caps.clear()  # which it keeps whatever registry it was asked
        service = CadcClass(auth_session=session)
        found = service.query_region(centre, radius=radius, collection=survey.image.name)
        rows = newest_epoch(found)
        addresses = service.get_image_list(rows, centre, radius) if len(rows) else []
    images = [address for address in addresses if "rms" not in unquote(address)]
    if not images:
        raise InputError(
            f"CADC has no image of {survey.name} at {region.ra:.5f} {region.dec:+.5f}; it covers "
            f"{survey.coverage}."
        )
    best, most = None, -1
    for number, address in enumerate(images):
        part = download(address, target.with_name(f".{number}.{target.name}"), "CADC", told=told)
        covered = _pixels(part)
        if covered > most and best is not None:
            best.unlink()
        if covered > most:
            best, most = part, covered
        else:
            part.unlink()
    assert best is not None
    return best.replace(target)


def newest_epoch(found: Any) -> Any:
    """Return the rows of CADC's table that are images of the newest epoch that is there."""
    if not len(found):
        return found
    kinds = np.asarray(found["dataProductType"]).astype(str)
    found = found[kinds == "image"]
    products = np.asarray(found["productID"]).astype(str)
    quick = np.char.find(products, "quicklook") >= 0
    found = found[quick] if quick.any() else found
    if not len(found):
        return found
    # a tile's name begins with its epoch, as VLASS2.1.T17t23
    epochs = np.array([name.split(".T")[0] for name in np.asarray(found["productID"]).astype(str)])
    return found[epochs == max(epochs)]


def _pixels(path: Path) -> int:
    """Count the pixels of an image that are not blank."""
    from astropy.io import fits

    with fits.open(path) as file:
        return int(np.count_nonzero(np.isfinite(file[0].data)))


def complete_header(path: Path, survey: Survey, region: Region) -> None:
    """Add what a cut-out's header leaves out: beam, unit and frequency of the survey."""
    from astropy.io import fits

    major, minor = survey.beam_at(region.dec)
    known = {
        "BMAJ": (major / 3600.0, "[deg] of the survey"),
        "BMIN": (minor / 3600.0, "[deg] of the survey"),
        "BPA": (0.0, "[deg] of the survey"),
        "BUNIT": ("Jy/beam", ""),
        "FREQ": (survey.frequency * 1e6, "[Hz]"),
    }
    try:
        with fits.open(path, mode="update", output_verify="silentfix") as file:
            header = file[0].header
            told = header.get("CTYPE3", "").startswith("FREQ") or "RESTFRQ" in header
            for key, card in known.items():
                if key == "FREQ" and told:
                    continue
                if key not in header or (key == "BUNIT" and not str(header[key]).strip()):
                    header[key] = card
            header["SURVEY"] = survey.name
            header["REFERENC"] = survey.reference
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"The image of {survey.name} cannot be read ({error}); try again later."
        ) from error


_WAYS: dict[str, Callable[[Survey, Region, Path, Told | None], Path]] = {
    "skyview": _skyview,
    "hips2fits": _hips2fits,
    "lofar": _lofar,
    "cadc": _cadc,
}
