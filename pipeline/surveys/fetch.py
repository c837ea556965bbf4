"""Fetches catalogues and images of surveys, each once: what was fetched is kept in a cache."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclades.pipeline.products import prepare_directory
from cyclades.pipeline.surveys.region import Region
from cyclades.pipeline.surveys.table import SERVICES, Survey, find_survey
from cyclades.stages.core.cache import user_cache
from cyclades.stages.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from cyclades.pipeline.surveys.web import Told

PRODUCTS = ("catalogue", "image")


def check_products(names: Sequence[str]) -> tuple[str, ...]:
    """Return the products asked for; an unknown one raises ConfigurationError."""
    for name in names:
        if name not in PRODUCTS:
            raise ConfigurationError(
                f"There is no product {name!r} of a survey; choose from {', '.join(PRODUCTS)}."
            )
    return tuple(dict.fromkeys(names)) or PRODUCTS


def file_name(survey: Survey, region: Region, product: str) -> str:
    """Return the name of a fetched file, as ``NVSS_J123049.4+122327.catalogue.fits``."""
    kind = ".catalogue" if product == "catalogue" else ""
    return f"{survey.name}_{region.name}{kind}.fits"


def check_covered(survey: Survey, region: Region) -> None:
    """Refuse a square whose declinations a survey does not reach.

    Raises
    ------
    InputError
    """
    low, high = survey.declinations
    if region.dec + region.size / 2 < low or region.dec - region.size / 2 > high:
        raise InputError(
            f"{survey.name} does not reach declination {region.dec:+.3f}; it covers "
            f"{survey.coverage}."
        )


def fetch(
    survey: Survey | str,
    region: Region,
    product: str,
    directory: str | Path,
    *,
    refresh: bool = False,
    told: "Told | None" = None,
) -> tuple[Path, bool]:
    """Fetch a catalogue or an image.

    Parameters
    ----------
    survey : Survey or str
    region : Region
    product : {"catalogue", "image"}
    directory : path
        Made where it is missing.
    refresh : bool
        Ask the service again, whatever the cache holds.
    told : callable, optional
        Called with the bytes of an image so far and in all.

    Returns
    -------
    path : Path
        The file, as `file_name` says.
    cached : bool
        Whether it came from the cache.

    Raises
    ------
    InputError
        Where the survey does not cover the square, or its service does not answer.
    ConfigurationError
        For an unknown survey, or where a package is missing.
    OutputError
        Where the directory cannot be written to.
    """
    survey = find_survey(survey) if isinstance(survey, str) else survey
    check_products([product])
    check_covered(survey, region)
    folder = prepare_directory(directory)
    kept = cached_file(survey, region, product)
    there = kept.is_file() and not refresh
    if not there:
        prepare_directory(kept.parent)
        try:
            _fetch(survey, region, product, kept, told)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"Fetching from surveys needs the package {error.name!r}; install "
                "cyclades[surveys]."
            ) from error
    target = folder / file_name(survey, region, product)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(kept, partial)
    partial.replace(target)
    return target, there


def _fetch(survey: Survey, region: Region, product: str, target: Path, told: "Told | None") -> None:
    if product == "image":
        from cyclades.pipeline.surveys.images import fetch_image

        # a name of its own until its header is complete
        part = target.with_name(f"{target.stem}.new.fits")
        try:
            fetch_image(survey, region, part, told).replace(target)
        finally:
            part.unlink(missing_ok=True)
        return
    from cyclades.pipeline.surveys.catalogues import fetch_rows, write_rows

    write_rows(fetch_rows(survey, region), target)


def cached_file(survey: Survey, region: Region, product: str) -> Path:
    """Return where the cache keeps a file; it may not be there."""
    service = survey.catalogue if product == "catalogue" else survey.image
    asked = {
        "service": [SERVICES[service.service], *map(str, service)],
        "place": [round(region.ra, 6), round(region.dec, 6), round(region.size, 6)],
        "product": product,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return user_cache() / "surveys" / f"{survey.name}_{product}_{digest}.fits"
