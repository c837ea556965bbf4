"""What a FITS header says about an image: unit, frequency, beam, celestial WCS.

Headers of radio images are written by many programs and rarely follow the standard in full. The
readers here accept the variants that are met in practice, never warn, and say nothing where the
header says nothing.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.stages.core.beam_shape import BeamShape
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.units import parse_unit

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header
    from astropy.units import UnitBase
    from astropy.wcs import WCS

    from cyclades.stages.core.image import SkyImage

logger = logging.getLogger("cyclades.io")

SPEED_OF_LIGHT = 299792458.0
_LARGEST_AXIS = 9
_CAPITALS = {"HZ": "Hz", "KHZ": "kHz", "MHZ": "MHz", "GHZ": "GHz", "M/S": "m/s", "KM/S": "km/s"}
"""Units as older programmes write them."""
_EQUATORIAL_SYSTEMS = ("ICRS", "FK5", "FK4", "FK4-NO-E")


def header_unit(header: "Header", name: str = "image") -> "UnitBase":
    """Return the unit of BUNIT; dimensionless, with a logged note, where it is not understood."""
    import astropy.units as u

    text = _text(header, "BUNIT")
    unit = parse_unit(text)
    if unit is None:
        logger.warning(
            "%s: the unit %r is not understood and fluxes carry none; give it, as --set "
            "image.unit=Jy/beam.",
            name,
            text,
        )
        return u.dimensionless_unscaled
    return unit


_LOWEST_FREQUENCY = 1e4
"""In Hz: no telescope observes below; a number without its unit (1.4, 150) lies there."""


def parse_frequency(value: str | float) -> float:
    """Read a frequency in Hz, or as a string with a unit (``1.4GHz``, ``21cm``).

    Raises
    ------
    ValueError
        Where it is not a positive frequency or wavelength.
    """
    import astropy.units as u

    if isinstance(value, str):
        try:
            quantity = u.Quantity(value)
            if quantity.unit == u.dimensionless_unscaled:
                quantity = quantity * u.Hz
            value = float(quantity.to_value(u.Hz, equivalencies=u.spectral()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{value!r} is not a frequency; write 1.4GHz or 1.4e9") from error
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"a frequency is positive, not {value}")
    if value < _LOWEST_FREQUENCY:
        raise ValueError(f"{value:g} Hz is no frequency of an image; write 1.4GHz or 1.4e9")
    return float(value)


def header_frequency(header: "Header", planes: Mapping[int, int] | None = None) -> float:
    """Return the frequency of a plane in Hz, or NaN where the header does not tell.

    In this order: a frequency axis (also one of length 1, or one left over in the header of a
    2-D image), a wavelength axis, a velocity axis with a rest frequency, RESTFRQ or RESTFREQ,
    a FREQ card.

    Parameters
    ----------
    header : astropy.io.fits.Header
    planes : mapping of int to int, optional
        0-based index of the plane along each FITS axis (counted from 1) that was cut; an axis
        that is not there counts at its reference value.
    """
    planes = planes or {}
    rest = next((f for k in ("RESTFRQ", "RESTFREQ") if (f := _number(header, k)) > 0), np.nan)
    found = [_axis_frequency(header, axis, planes.get(axis), rest) for axis in _axes()]
    found += [rest, _number(header, "FREQ"), _number(header, "OBSFREQ")]
    return float(next((f for f in found if np.isfinite(f) and f > 0), np.nan))


def _axes() -> range:
    return range(1, _LARGEST_AXIS + 1)


def _axis_frequency(header: "Header", axis: int, index: int | None, rest: float) -> float:
    """Frequency in Hz along one header axis; NaN where the axis is not spectral."""
    import astropy.units as u

    kind = _text(header, f"CTYPE{axis}").upper()
    value = _number(header, f"CRVAL{axis}")
    if index is not None:
        step = _number(header, f"CDELT{axis}")
        if np.isnan(step):
            step = _number(header, f"CD{axis}_{axis}")
        reference = _number(header, f"CRPIX{axis}")
        offset = (index + 1.0 - (0.0 if np.isnan(reference) else reference)) * step
        value += offset if np.isfinite(offset) else 0.0
    if kind.startswith("FREQ"):
        default = "Hz"
    elif kind.startswith(("WAVE", "AWAV", "LAMBDA")):
        default = "m"
    elif kind.startswith(("VRAD", "VOPT", "VELO", "FELO")):
        default = "m/s"
    else:
        return np.nan
    written = _text(header, f"CUNIT{axis}")
    try:
        unit = u.Unit(_CAPITALS.get(written, written) or default)
        value = float(u.Quantity(value, unit).to_value(default))
    except (ValueError, TypeError):
        logger.warning(
            "the unit %r of the spectral axis is not understood, and the axis left aside; give the "
            "frequency with --frequency.", written,
        )  # fmt: skip
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        if default == "Hz":
            return value
        if default == "m":
            return float(np.divide(SPEED_OF_LIGHT, value))
        if kind.startswith(("VOPT", "FELO")):
            return rest / (1.0 + value / SPEED_OF_LIGHT)
        return rest * (1.0 - value / SPEED_OF_LIGHT)


_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?)"
_AIPS = re.compile(rf"CLEAN\s+BMAJ\s*=\s*{_NUMBER}\s+BMIN\s*=\s*{_NUMBER}\s+BPA\s*=\s*{_NUMBER}")
_CASA = re.compile(
    rf"restoration:\s*{_NUMBER}\s+by\s+{_NUMBER}\s*\(arcsec\)\s*at\s+pa\s+{_NUMBER}\s*\(deg\)"
)
_MIRIAD = re.compile(
    rf"RESTOR: Beam =\s*{_NUMBER}\s+x\s+{_NUMBER}\s+arcsec, pa =\s*{_NUMBER}\s+degrees"
)
_BEAM_CARDS = (
    ("BMAJ", "BMIN", "BPA"),
    ("CLBMMAJ", "CLBMMIN", "CLBMPA"),
    ("CLEANBMJ", "CLEANBMN", "CLEANBPA"),
)


def header_beam(header: "Header") -> BeamShape | None:
    """Return the restoring beam that a header gives, or None.

    BMAJ, BMIN and BPA (or CLBMMAJ, ..., CLEANBMJ, ...), in degrees; otherwise the last line of
    HISTORY in which AIPS (``CLEAN BMAJ= ...``, degrees), CASA (``Fitted beam used in
    restoration: ...``, arcsec) or MIRIAD (``RESTOR: Beam = ...``, arcsec) recorded it. A missing
    BMIN is BMAJ, a missing BPA is 0. A beam of zero size counts as missing: several programs
    write it for "unknown".

    Raises
    ------
    InputError
        Where an axis is negative or not a number.
    """
    for major_card, minor_card, angle_card in _BEAM_CARDS:
        if major_card not in header:
            continue
        major = _number(header, major_card)
        minor = _number(header, minor_card) if minor_card in header else major
        angle = _number(header, angle_card)
        if major == 0 or minor == 0:
            continue
        if not (major > 0 and minor > 0):
            raise InputError(
                f"the header's beam ({major_card} = {_shown(header, major_card)}, {minor_card} = "
                f"{_shown(header, minor_card)}) is not a size in degrees; give the beam with "
                "--beam, for example --beam 5.4arcsec."
            )
        return BeamShape.make(major, minor, 0.0 if np.isnan(angle) else angle, "deg")
    # CASA breaks lines at 72 characters and marks the continuation with ">".
    history = "\n".join(_history(header)).replace("\n>", "")
    records = [
        (match.start(), match.groups(), unit)
        for pattern, unit in ((_AIPS, "deg"), (_CASA, "arcsec"), (_MIRIAD, "arcsec"))
        for match in pattern.finditer(history)
    ]
    for _, values, unit in sorted(records, reverse=True):
        major, minor, angle = (float(value.upper().replace("D", "E")) for value in values)
        if major > 0 and minor > 0:
            return BeamShape.make(major, minor, angle, unit)
    return None


def _shown(header: "Header", keyword: str) -> str:
    """Return the value of a card as text, also of one that cannot be parsed."""
    try:
        return repr(header.get(keyword))
    except Exception:  # whatever astropy makes of a damaged card
        return "unreadable"


def table_beam(table: Any, channel: int | None, stokes: int | None) -> BeamShape | None:
    """Return the beam of a plane from the rows of CASA's BEAMS table.

    Parameters
    ----------
    table : astropy.io.fits.BinTableHDU
        With columns BMAJ, BMIN, BPA and, where there are several planes, CHAN and POL.
    channel, stokes : int or None
        0-based plane along the frequency and Stokes axes; None where the image has one plane,
        for which the beam of median area stands.
    """
    import astropy.units as u

    rows, columns = table.data, table.columns
    names = [name.upper() for name in columns.names]
    chosen = np.ones(len(rows), bool)
    for name, index in (("CHAN", channel), ("POL", stokes)):
        if index is not None and name in names:
            chosen &= np.asarray(rows[name]) == index
    scale = {}
    for name, default in (("BMAJ", "arcsec"), ("BMIN", "arcsec"), ("BPA", "deg")):
        scale[name] = u.Unit(columns[name].unit or default).to("deg")
    major, minor, angle = (
        np.asarray(rows[name], float)[chosen] * scale[name] for name in ("BMAJ", "BMIN", "BPA")
    )
    good = np.isfinite(major) & np.isfinite(minor) & (major > 0) & (minor > 0)
    if not good.any():
        return None
    major, minor, angle = major[good], minor[good], angle[good]
    middle = np.argsort(major * minor, kind="stable")[(len(major) - 1) // 2]
    return BeamShape.make(float(major[middle]), float(minor[middle]), float(angle[middle]), "deg")


def clean_header(header: "Header") -> "Header":
    """Return the cards that can be read, without comments, history and impossible epochs."""
    from astropy.io.fits import Header

    cleaned = Header()
    for keyword, value in _cards(header):
        if keyword in ("COMMENT", "HISTORY", ""):
            continue
        # An equinox of zero stands for "not applicable"; taken literally it is FK4 at year zero.
        if keyword in ("EQUINOX", "EPOCH") and not _number(header, keyword) > 0:
            continue
        if keyword in ("RADESYS", "RADECSYS") and (
            str(value).strip().upper() not in _EQUATORIAL_SYSTEMS
        ):
            continue
        try:
            cleaned[keyword] = value
        except (ValueError, TypeError):
            continue
    return cleaned


def celestial_wcs(header: "Header", file: "HDUList | None" = None) -> "WCS | None":
    """Return the full WCS of a header where it has two usable celestial axes, else None.

    A celestial WCS that cannot be used (singular matrix, neither equatorial nor galactic) is
    logged and left out.
    """
    from astropy.wcs import WCS

    try:
        wcs = WCS(header, fobj=file)
        if not wcs.has_celestial:
            return None
        celestial = wcs.celestial
        if celestial.wcs.lngtyp not in ("RA", "GLON"):
            raise ValueError(f"{celestial.wcs.lngtyp} is neither equatorial nor galactic")
        scale = celestial.pixel_scale_matrix
        if not np.isfinite(scale).all() or np.linalg.det(scale) == 0:
            raise ValueError("the pixel scale is zero")
        # what cannot be written again, as the year of no equinox, is of no use either
        wcs_cards(celestial)
    except Exception as error:  # wcslib and the frames raise a dozen unrelated classes
        logger.warning(
            "the sky coordinates of the header cannot be used, and the catalogue has pixels only; "
            "correct the header: %s",
            error,
        )
        return None
    return wcs


_DESCRIPTIVE = (
    "OBJECT",
    "TELESCOP",
    "INSTRUME",
    "OBSERVER",
    "ORIGIN",
    "DATE-OBS",
    "MJD-OBS",
    "SURVEY",
    "BTYPE",
)


def card_text(text: str) -> str:
    """Return text as a FITS card can hold it: a question mark for all but printable ASCII."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def product_header(image: "SkyImage", unit: "UnitBase | None" = None) -> "Header":
    """Return a valid 2-D header for a map on an image's pixels.

    Parameters
    ----------
    image : SkyImage
        Gives WCS, beam, frequency and, from its `header`, what was observed.
    unit : astropy unit, optional
        Unit of the map; the image's where not given.

    Returns
    -------
    astropy.io.fits.Header
        Celestial WCS with RADESYS and EQUINOX as the frame needs, BMAJ, BMIN and BPA (in the
        image's own frame), RESTFRQ and BUNIT. NAXIS and BITPIX come with the data.
    """
    from astropy.io.fits import Header

    header = Header()
    for keyword in _DESCRIPTIVE:
        if image.header is not None and image.header.get(keyword) not in (None, ""):
            header[keyword] = image.header[keyword]
    if image.wcs is not None:
        header.update(wcs_cards(image.wcs))
    axes = None if image.psf is None else image.psf.axes
    if axes is not None:
        header["BMAJ"] = (axes[0], "[deg] beam major axis")
        header["BMIN"] = (axes[1], "[deg] beam minor axis")
        header["BPA"] = (axes[2], "[deg] beam position angle")
    if np.isfinite(image.frequency):
        header["RESTFRQ"] = (float(image.frequency), "[Hz] frequency")
    unit = image.unit if unit is None else unit
    if unit is not None:
        header["BUNIT"] = unit.to_string().replace(" / ", "/")
    return header


def wcs_cards(wcs: "WCS") -> "Header":
    """Cards of a celestial WCS, with the reference system always spelt out."""
    from astropy.wcs.utils import wcs_to_celestial_frame

    cards = wcs.to_header(relax=True)
    for keyword in ("MJDREF", "MJDREFI", "MJDREFF", "SPECSYS", "RADESYS", "EQUINOX", "RESTFRQ"):
        cards.remove(keyword, ignore_missing=True)
    frame = wcs_to_celestial_frame(wcs)
    system = {"icrs": "ICRS", "fk5": "FK5", "fk4": "FK4", "fk4noeterms": "FK4-NO-E"}
    if frame.name in system:
        cards["RADESYS"] = system[frame.name]
        if frame.name != "icrs":
            equinox = frame.equinox
            cards["EQUINOX"] = float(equinox.jyear if frame.name == "fk5" else equinox.byear)
    return cards


def _cards(header: "Header") -> Iterator[tuple[str, Any]]:
    """Keywords and values of the cards that can be parsed at all."""
    for card in header.cards:
        try:
            yield card.keyword, card.value
        except Exception:  # unprintable characters, malformed numbers, broken CONTINUE cards
            continue


def _history(header: "Header") -> list[str]:
    return [str(value) for keyword, value in _cards(header) if keyword == "HISTORY"]


def _number(header: "Header", keyword: str) -> float:
    """Value of a card as a float; NaN where absent or not a number."""
    try:
        return float(header[keyword])
    except Exception:  # KeyError, and whatever astropy raises for a card it cannot parse
        return float("nan")


def _text(header: "Header", keyword: str) -> str:
    """Value of a card as a stripped string; empty where absent or unreadable."""
    try:
        return str(header[keyword]).strip()
    except Exception:
        return ""
