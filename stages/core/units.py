"""Units of brightness as FITS headers and people write them."""

import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.units import UnitBase

_FLUX = re.compile(
    r"(?P<prefix>milli|micro|nano|kilo|mega|[munkM\u00b5\u03bc])?(?:jy|jansky|janskys|janskies)"
    r"(?:(?:/|per|\.|\*)?(?P<per>beam|bm|pixel|pixels|pix|px|steradian|ster|sr|"
    r"arcsec\^?(?:\*\*)?2|deg\^?(?:\*\*)?2)(?:\^|\*\*)?(?:-1)?)?",
    re.IGNORECASE,
)
_VELOCITY = re.compile(
    r"(?P<brightness>.+?)[\s.*]+(?P<speed>k?m)(?:\s*/\s*s|[\s.]*s(?:\^|\*\*)?-1)", re.IGNORECASE
)
_PER = {
    "beam": "beam",
    "bm": "beam",
    "pixel": "pixel",
    "pixels": "pixel",
    "pix": "pixel",
    "px": "pixel",
    "steradian": "sr",
    "ster": "sr",
    "sr": "sr",
}
_PREFIX = {"milli": "m", "micro": "u", "nano": "n", "kilo": "k", "mega": "M"}
_OTHER_UNITS = {
    "kelvin": "K",
    "k(tb)": "K",
    "counts": "ct",
    "count": "ct",
    "cts": "ct",
    "dn": "DN",
    "adus": "adu",
    "electrons": "electron",
    "e-": "electron",
    "e-/s": "electron/s",
    "counts/s": "ct/s",
    "unitless": "",
    "none": "",
    "dimensionless": "",
    "arbitrary": "",
}


def parse_unit(text: str) -> "UnitBase | None":
    """Read a unit of brightness as headers write it.

    Parameters
    ----------
    text : str
        ``JY/BEAM``, ``Jy/bm``, ``mJy beam-1``, ``K``, ``counts``, ... In a string of capitals only
        (as AIPS writes) ``MJY`` is mJy, except per steradian, where it is MJy. A velocity at the
        end, as in ``Jy/beam.km/s`` of a moment map, is a factor.

    Returns
    -------
    astropy unit or None
        Dimensionless for an empty string; None where the string is not understood.
    """
    import astropy.units as u

    text = text.strip()
    if match := _VELOCITY.fullmatch(text):
        brightness = parse_unit(match["brightness"])
        return brightness and brightness * u.Unit(f"{match['speed'].lower()}/s")
    compact = re.sub(r"[\s()]", "", text)
    if match := _FLUX.fullmatch(compact):
        prefix = match["prefix"] or ""
        per = (match["per"] or "").lower().replace("**", "").replace("^", "")
        if len(prefix) > 1:
            prefix = _PREFIX[prefix.lower()]
        elif prefix != "M" or (compact.isupper() and not per.startswith(("sr", "ster"))):
            prefix = prefix.lower()
        prefix = prefix.replace("\u00b5", "u").replace("\u03bc", "u")
        unit = u.Unit(f"{prefix}Jy")
        if not per:
            return unit
        return unit / (u.Unit(per[:-1]) ** 2 if per.endswith("2") else u.Unit(_PER[per]))
    compact = _OTHER_UNITS.get(compact.lower(), compact)
    for candidate in (text, compact, compact.lower()):
        candidate = _OTHER_UNITS.get(candidate.lower(), candidate)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "multiple slashes are discouraged"
                return u.Unit(candidate)
        except (ValueError, TypeError):
            continue
    return None
