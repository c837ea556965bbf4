"""Names and numbers of catalogue rows, which depend on the sky only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers


def sky_order(*keys: ArrayLike) -> Integers:
    """Row order by the first key, ties by the next ones; NaN comes last.

    Parameters
    ----------
    *keys : array_like, shape (n,)
        ``ra, dec`` on the sky, ``y, x`` without; further keys make the order of coincident rows
        independent of their order in the input.
    """
    return np.lexsort([np.asarray(key, float) for key in reversed(keys)]).astype(np.int64)


def decimals_for(beam: float) -> int:
    """Decimals of the arcseconds of declination, so that the last digit is below a third of a beam.

    Parameters
    ----------
    beam : float
        FWHM in arcsec; a value that is not positive and finite counts as 5 arcsec.
    """
    if not np.isfinite(beam) or beam <= 0.0:
        return 0
    return max(0, int(np.ceil(np.log10(3.0 / beam))))


def _sexagesimal(value: Floats, decimals: int) -> tuple[Integers, Integers, Integers, Integers]:
    """Whole units, minutes, seconds and the decimals of seconds, truncated; value >= 0."""
    scale = 10**decimals
    ticks = np.floor(value * 3600.0 * scale).astype(np.int64)
    seconds, fraction = np.divmod(ticks, scale)
    minutes, seconds = np.divmod(seconds, 60)
    whole, minutes = np.divmod(minutes, 60)
    return whole, minutes, seconds, fraction


def iau_names(ra: ArrayLike, dec: ArrayLike, *, prefix: str, decimals: int = 0) -> list[str]:
    """IAU-style names ``PREFIX Jhhmmss.s+ddmmss``, truncated and never rounded.

    See the IAU recommendations for nomenclature: digits of a position in a name are cut, because
    a rounded one could name a place where the source is not.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees, ICRS; finite.
    prefix : str
        Acronym of the catalogue; empty for none.
    decimals : int
        Decimals of the arcseconds of declination; right ascension has one more.
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    start = f"{prefix} J" if prefix else "J"
    width = decimals + 1
    h = _sexagesimal((ra % 360.0) / 15.0, width)
    d = _sexagesimal(np.abs(dec), decimals)
    sign = np.where(np.signbit(dec), "-", "+")
    names = []
    for hh, hm, hs, hf, s, dd, dm, ds, df in zip(
        *(part.tolist() for part in (*h, sign, *d)), strict=True
    ):
        end = f".{df:0{decimals}d}" if decimals else ""
        names.append(
            f"{start}{hh:02d}{hm:02d}{hs:02d}.{hf:0{width}d}{s}{dd:02d}{dm:02d}{ds:02d}{end}"
        )
    return names


def pixel_names(x: ArrayLike, y: ArrayLike, *, prefix: str) -> list[str]:
    """Names ``PREFIX Xcolumn.cYrow.r`` for rows without a sky position, truncated to 0.1 pixel."""
    start = f"{prefix} X" if prefix else "X"
    tenths = [np.floor(np.nan_to_num(np.asarray(v, float)) * 10.0) / 10.0 for v in (x, y)]
    return [f"{start}{a:.1f}Y{b:.1f}" for a, b in zip(*(t.tolist() for t in tenths), strict=True)]


def unique(names: Sequence[str]) -> list[str]:
    """Append a, b, c, ... (aa, ab, ...) to names that occur more than once, in the order given."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    seen: dict[str, int] = {}
    result = []
    for name in names:
        if counts[name] > 1:
            number = seen.get(name, 0)
            seen[name] = number + 1
            name = name + _letters(number)
        result.append(name)
    return result


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa, ..."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text
