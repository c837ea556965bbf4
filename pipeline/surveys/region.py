"""Where to look: a position, by coordinates or a name, and the size of a square."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from cyclades.stages.core.errors import InputError


@dataclass(frozen=True)
class Region:
    """A square on the sky.

    Parameters
    ----------
    ra, dec : float
        Centre in degrees, ICRS.
    size : float
        Side in degrees.
    """

    ra: float
    dec: float
    size: float

    @property
    def name(self) -> str:
        """The centre as in IAU names, ``Jhhmmss.s+ddmmss``."""
        from cyclades.stages.core.naming import iau_names

        return iau_names([self.ra], [self.dec], prefix="")[0].replace(" ", "")

    @property
    def radius(self) -> float:
        """Radius in degrees of the circle that holds the square."""
        return self.size / math.sqrt(2.0)


def parse_size(text: str) -> float:
    """Return an angle such as ``10arcmin`` in degrees.

    Raises
    ------
    InputError
        Where it is no angle above zero.
    """
    from astropy import units as u

    try:
        size = float(u.Quantity(text).to_value(u.deg))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The size {text!r} is no angle; give one with its unit, as --size 10arcmin."
        ) from error
    if not 0.0 < size <= 20.0:
        raise InputError(f"The size {text!r} is not between 0 and 20deg; give another --size.")
    return size


def parse_position(text: str) -> tuple[float, float]:
    """Return right ascension and declination in degrees, ICRS.

    Parameters
    ----------
    text : str
        ``187.7059,12.3911`` (degrees), ``12:30:49.4 +12:23:28``, ``12h30m49.4s +12d23m28s``, or
        the name of an object, which Sesame (CDS) resolves.

    Raises
    ------
    InputError
        Where it is no position, or the name cannot be resolved.
    """
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    words = text.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    sexagesimal = len(numbers) == 6 or re.fullmatch(
        r"\d[\d\s.,:hdms+-]*[:hd][\d\s.,:hdms+-]*", text
    )
    if len(numbers) != 2 and not sexagesimal:
        return _resolve(text)
    try:
        if sexagesimal:
            place = SkyCoord(" ".join(words), unit=(u.hourangle, u.deg))
        else:
            place = SkyCoord(*numbers, unit="deg")
    except ValueError as error:
        raise InputError(
            f"The position {text!r} cannot be read ({str(error).splitlines()[0].rstrip('.')}); "
            "give degrees as '187.7059,12.3911', or '12:30:49.4 +12:23:28', or a name."
        ) from error
    return float(place.icrs.ra.deg), float(place.icrs.dec.deg)


def _resolve(name: str) -> tuple[float, float]:
    from astropy.coordinates import SkyCoord
    from astropy.coordinates.name_resolve import NameResolveError

    try:
        place = SkyCoord.from_name(name)
    except NameResolveError as error:
        known = "Unable to find" in str(error)
        why = "no catalogue has it" if known else "the name service Sesame cannot be reached"
        raise InputError(
            f"The name {name!r} is not resolved to a position ({why}); give coordinates, as "
            "--position '187.7059,12.3911'."
        ) from error
    return float(place.icrs.ra.deg), float(place.icrs.dec.deg)


def region_of_image(path: Path) -> Region:
    """Return the square that holds an image.

    Raises
    ------
    InputError
        Where the image has no sky coordinates.
    """
    import numpy as np

    from cyclades.stages.core.io import FitsSource

    source = FitsSource(path)
    if source.wcs is None:
        raise InputError(f"{path} has no sky coordinates; give --position and --size instead.")
    ny, nx = source.shape
    x = np.array([(nx - 1) / 2, -0.5, nx - 0.5, -0.5, nx - 0.5])
    y = np.array([(ny - 1) / 2, -0.5, -0.5, ny - 0.5, ny - 0.5])
    sky = source.wcs.pixel_to_world(x, y).icrs
    centre = sky[0]
    east, north = centre.spherical_offsets_to(sky[1:])
    reach = max(np.nanmax(np.abs(east.deg)), np.nanmax(np.abs(north.deg)))
    return Region(float(centre.ra.deg), float(centre.dec.deg), 2.0 * float(reach))
