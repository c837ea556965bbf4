"""A beam as people and headers give it, before it is placed on an image."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import covariance_from_shape, shape_from_covariance

if TYPE_CHECKING:
    import radio_beam
    from astropy.wcs import WCS

_DEGREES = {
    "deg": 1.0,
    "degree": 1.0,
    "degrees": 1.0,
    "arcmin": 1 / 60,
    "'": 1 / 60,
    "arcsec": 1 / 3600,
    "asec": 1 / 3600,
    '"': 1 / 3600,
    "''": 1 / 3600,
    "mas": 1 / 3.6e6,
}
_PIXELS = ("pixel", "pixels", "pix", "px")
_SIZE = r"(?P<{0}>(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?P<{0}_unit>[a-z'\"]*?)"
_GRAMMAR = re.compile(
    _SIZE.format("major")
    + rf"(?:\s*[x\u00d7*]\s*{_SIZE.format('minor')})?"
    + r"(?:\s*@\s*(?P<angle>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:d|deg|degrees?)?)?",
)
_EXAMPLES = "5.4arcsec, 6.4x5.4arcsec@0deg or 4pixel"
_SMALLEST_FWHM = 0.1
_SMALL_IMAGE = 64


@dataclass(frozen=True)
class BeamShape:
    """FWHM axes and position angle of a beam.

    Parameters
    ----------
    major, minor : float
        FWHM in degrees, or in pixels where `in_pixels`; ``major >= minor > 0``.
    position_angle : float
        Degrees in [0, 180): from the image frame's own +latitude counter-clockwise on the sky;
        in pixels, from +y towards -x, which is the same on an image with north up.
    in_pixels : bool
        Whether the axes are in pixels.
    """

    major: float
    minor: float
    position_angle: float
    in_pixels: bool = False

    @classmethod
    def make(cls, major: float, minor: float, angle: float, unit: str) -> "BeamShape":
        """Return a shape with its axes in order; an axis pair given the wrong way is turned."""
        scale = 1.0 if unit in _PIXELS else _DEGREES[unit]
        if minor > major:
            major, minor, angle = minor, major, angle + 90.0
        return cls(major * scale, minor * scale, angle % 180.0, unit in _PIXELS)

    @classmethod
    def parse(cls, text: str) -> "BeamShape":
        """Read ``5.4arcsec``, ``6.4x5.4arcsec@0deg``, ``4pixel``.

        Units are deg, arcmin, arcsec, mas and pixel; a missing unit of the major axis is that of
        the minor one. The angle is in degrees, 0 where it is left out.

        Raises
        ------
        ValueError
            Where the text is not a beam of positive, finite size.
        """
        match = _GRAMMAR.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(f"{text!r} is not a beam; write it like {_EXAMPLES}")
        last = match["minor_unit"] or match["major_unit"]
        first = match["major_unit"] or last
        if not last:
            raise ValueError(f"the beam {text!r} has no unit; write it like {_EXAMPLES}")
        for unit in (first, last):
            if unit not in _DEGREES and unit not in _PIXELS:
                raise ValueError(
                    f"{unit!r} is no unit of a beam; use deg, arcmin, arcsec, mas or pixel"
                )
        if (first in _PIXELS) != (last in _PIXELS):
            raise ValueError(f"the axes of the beam {text!r} must both be angles or both pixels")
        major = float(match["major"])
        minor = float(match["minor"] or major)
        if first not in _PIXELS and first != last:
            major, minor, last = major * _DEGREES[first], minor * _DEGREES[last], "deg"
        if not (0 < major < np.inf and 0 < minor < np.inf):
            raise ValueError(f"the axes of the beam {text!r} must be positive")
        return cls.make(major, minor, float(match["angle"] or 0.0), last)

    @classmethod
    def from_beam(cls, beam: "radio_beam.Beam") -> "BeamShape":
        """Return the shape of a `radio_beam.Beam`."""
        major, minor, angle = (float(q.to_value("deg")) for q in (beam.major, beam.minor, beam.pa))
        return cls.make(major, minor, angle, "deg")

    def __str__(self) -> str:
        unit = "pixel" if self.in_pixels else "deg"
        return f"{self.major!r}x{self.minor!r}{unit}@{self.position_angle!r}deg"

    def place(self, wcs: "WCS | None", shape: tuple[int, int]) -> PointSpread:
        """Return the beam on the pixels of an image.

        Parameters
        ----------
        wcs : astropy.wcs.WCS or None
            Celestial WCS of the image.
        shape : (ny, nx)
            Shape of the image, for the check that the beam is not absurd and whether the
            reference point lies in it.

        Raises
        ------
        InputError
            For an angular beam without sky coordinates, and for a beam that is larger than the
            whole image or far smaller than a pixel (usually a wrong unit).
        """
        if self.in_pixels:
            covariance = covariance_from_shape(self.major, self.minor, self.position_angle)
            flip = np.diag([-1.0, 1.0])
            psf = PointSpread(flip @ covariance @ flip, wcs)
        elif wcs is None:
            raise InputError(
                "the beam is an angle but the image has no sky coordinates; give it in pixels, "
                "for example --beam 4pixel."
            )
        else:
            psf = PointSpread.from_axes(self.major, self.minor, self.position_angle, wcs, shape)
        major, minor, _ = shape_from_covariance(psf.covariance)
        if not np.isfinite(major) or minor < _SMALLEST_FWHM:
            raise InputError(
                f"the beam {self.describe()} is {float(minor):.2g} pixels wide, which cannot be; "
                "give the right one with --beam, for example --beam 5.4arcsec."
            )
        if major > max(*shape, _SMALL_IMAGE):
            raise InputError(
                f"the beam {self.describe()} is larger than the whole image "
                f"({float(major):.0f} pixels against {max(shape)}); give the right one with "
                "--beam, for example --beam 5.4arcsec."
            )
        return psf

    def describe(self) -> str:
        """Say the beam for people."""
        if self.in_pixels:
            return f"{self.major:.4g} x {self.minor:.4g} pixel"
        scale, unit = (3600.0, "arcsec") if self.major < 1 / 6 else (60.0, "arcmin")
        scale, unit = (1.0, "deg") if self.major > 1 else (scale, unit)
        return (
            f"{self.major * scale:.4g} x {self.minor * scale:.4g} {unit} "
            f"at {self.position_angle:.4g} deg"
        )
