"""How an image is read: the options of a configuration's section `image`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from cyclades.stages.core.stage import parameter

FROM_STARS = "stars"
"""What stands for a beam that is to be measured from the stars of an optical image."""


def _as_beam(value: Any) -> Any:
    """Check the grammar of a beam; keep a `radio_beam.Beam` as a string."""
    from cyclades.stages.core.beam_shape import BeamShape

    if value is None:
        return None
    if hasattr(value, "major"):
        return str(BeamShape.from_beam(value))
    if str(value).strip().lower() == FROM_STARS:
        return FROM_STARS
    BeamShape.parse(str(value))
    return str(value)


def _as_frequency(value: Any) -> Any:
    if value is None:
        return None
    from cyclades.stages.core.headers import parse_frequency

    return parse_frequency(value if isinstance(value, str) else float(value))


def _as_unit(value: Any) -> Any:
    if value is None:
        return None
    from cyclades.stages.core.units import parse_unit

    if parse_unit(str(value)) is None:
        raise ValueError(f"{str(value)!r} is not a unit; write it like Jy/beam, mJy/beam or K")
    return str(value)


def _as_extension(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _as_plane(value: Any) -> Any:
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    return (value,) if isinstance(value, int) else value


def absolute_path(value: Any) -> Any:
    """Return a path as text that means the same from any directory; None stays None."""
    return None if value is None else str(Path(str(value)).expanduser().absolute())


class ImageOptions(BaseModel):
    """How an image is read: the `image` section of a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    extension: Annotated[int | str | None, BeforeValidator(_as_extension)] = parameter(
        None, "Number or name of the FITS extension; the first image where left out."
    )
    plane: Annotated[tuple[int, ...], BeforeValidator(_as_plane)] = parameter(
        (), "Plane of a cube: one 0-based index for each further axis longer than one."
    )
    beam: Annotated[str | None, BeforeValidator(_as_beam)] = parameter(
        None,
        "Beam FWHM as 5.4arcsec, 6.4x5.4arcsec@0deg (position angle as BPA) or 4pixel, or stars: "
        "measured from the stars of an optical image; the header's where left out.",
    )
    frequency: Annotated[float | None, BeforeValidator(_as_frequency)] = parameter(
        None,
        "Frequency, a number or a string such as 1.4GHz; the header's where left out.",
        unit="Hz",
    )
    unit: Annotated[str | None, BeforeValidator(_as_unit)] = parameter(
        None, "Unit that the pixels are in, whatever BUNIT says; nothing is converted."
    )
    per_pixel: bool = parameter(
        False,
        "Whether the unit is one a pixel where it does not say so, as in optical images: fluxes "
        "are then sums of pixels.",
    )
    psf: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None,
        "Beam that varies over the image: a table with ra, dec (or x, y), major, minor and pa, a "
        "FITS cube of these three axes in degrees on its own WCS, or FITS images of the "
        "point-spread function.",
    )
    mask: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None,
        "Pixels to leave out: a FITS image that is not zero there, a DS9 region file, or a MOC.",
    )
    include: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None, "The only pixels to keep; files as for mask."
    )
    weight: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None, "FITS image of relative inverse variances; pixels without weight are blank."
    )
    blank_zeros: bool | None = parameter(
        None, "Whether exact zeros are blank pixels; decided from the data where left out."
    )
    window: int | None = parameter(
        None,
        "Side of the windows in which the image is worked through, for images larger than memory; "
        "0 for the image as a whole. By default 4096 for images of more than 8192 x 8192 pixels.",
        unit="pixels",
        ge=0,
    )
