"""The image of a report: pixels as one small picture, and where the catalogues lie on it."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.match import unit_vectors
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats
from cyclades.pipeline.panels import shrink
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    determinant,
    inverse,
    pixel_positions,
    shape_from_covariance,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.stages.core.image import SkyImage

LARGEST = 2500
"""Pixels along one side of the picture; larger images are averaged down to it."""
STEPS = (0.05, 0.1, 0.2, 0.4)
"""Widths of a grey level in asinh((value - level) / rms), the finest that fits is taken."""
MOST_BYTES = 4_500_000
LEVELS = 254
SKY_GRID = 17
ARCSEC = 3600.0


@dataclass(frozen=True, eq=False)
class Frame:
    """The pixel frame that a report draws in: that of an image, or one around the catalogues.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    shape : tuple of int
        Rows and columns.
    image : SkyImage, optional
    """

    wcs: "WCS"
    shape: tuple[int, int]
    image: "SkyImage | None" = None

    @classmethod
    def of_image(cls, image: "SkyImage") -> "Frame":
        """Take the frame of an image.

        Raises
        ------
        InputError
            Where the image has no sky coordinates.
        """
        if image.wcs is None:
            raise InputError(
                f"{image.name} has no sky coordinates, so catalogues cannot be drawn on it; leave "
                "the image out of the report."
            )
        return cls(image.wcs, image.shape, image)

    @classmethod
    def around(cls, tables: list[ComparisonTable], pixel: float) -> "Frame":
        """Make an empty frame that holds every row, `pixel` arcsec a pixel, equal-area."""
        from astropy.wcs import WCS

        ra, dec = (np.concatenate([table[name] for table in tables]) for name in ("ra", "dec"))
        good = np.isfinite(ra) & np.isfinite(dec)
        if not good.any():
            raise InputError("The catalogues have no positions to draw; give others.")
        x, y, z = unit_vectors(ra[good], dec[good]).mean(axis=0)
        wcs = WCS(naxis=2)
        # equal-area, so that no part of the sky is out of reach
        wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crval = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
        wcs.wcs.cdelt = [-pixel / ARCSEC, pixel / ARCSEC]
        x, y = wcs.all_world2pix(ra[good], dec[good], 0)
        margin = 20.0
        wcs.wcs.crpix = [1.0 + margin - np.nanmin(x), 1.0 + margin - np.nanmin(y)]
        wcs.wcs.set()
        return cls(wcs, (int(np.ptp(y) + 2 * margin) + 1, int(np.ptp(x) + 2 * margin) + 1))

    @property
    def pixel_scale(self) -> float:
        """Arcsec a pixel at the centre."""
        ny, nx = self.shape
        jacobian = sky_jacobian(self.wcs, (nx - 1) / 2, (ny - 1) / 2)
        return float(ARCSEC * np.sqrt(np.abs(determinant(jacobian)[0])))

    def place(self, table: ComparisonTable, beam: float) -> dict[str, Floats]:
        """Pixel positions and FWHM ellipses of rows.

        Parameters
        ----------
        table : ComparisonTable
        beam : float
            FWHM in arcsec for rows without a shape.

        Returns
        -------
        dict
            ``x``, ``y``, ``a``, ``b`` (pixels) and ``t`` (degrees from +x towards +y).
        """
        x, y = pixel_positions(self.wcs, table["ra"], table["dec"])
        known = np.isfinite(table["major"]) & np.isfinite(table["minor"])
        major, minor = (np.where(known, table[name], beam) for name in ("major", "minor"))
        covariance = covariance_from_shape(major, minor, np.nan_to_num(table["position_angle"]))
        place = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        shape = np.full((len(table), 2, 2), np.nan)
        if len(place):
            jacobian = ARCSEC * sky_jacobian(self.wcs, x[place], y[place])
            shape[place] = transform_covariance(covariance[place], inverse(jacobian))
        a, b, angle = shape_from_covariance(shape)
        return {"x": x, "y": y, "a": a, "b": b, "t": 90.0 - angle}

    def payload(self) -> dict[str, Any]:
        """What the page needs of the frame, as plain values."""
        ny, nx = self.shape
        made: dict[str, Any] = {
            "nx": nx,
            "ny": ny,
            "pixel_scale": self.pixel_scale,
            "sky": {"n": SKY_GRID, "vectors": self._directions()},
            "uri": None,
            "unit": "",
            "beam": None,
        }
        if self.image is None:
            return made
        if self.image.psf is not None:
            major, minor, angle = shape_from_covariance(self.image.psf.covariance)
            made["beam"] = [float(major), float(minor), float(90.0 - angle)]
        if self.image.unit is not None:
            made["unit"] = self.image.unit.to_string()
        return made | picture(self.image.data)

    def _directions(self) -> list[list[float] | None]:
        """Unit vectors of a coarse grid of pixels, ICRS, row by row; None outside the sky."""
        ny, nx = self.shape
        y, x = np.meshgrid(
            np.linspace(0, max(ny - 1, 1), SKY_GRID),
            np.linspace(0, max(nx - 1, 1), SKY_GRID),
            indexing="ij",
        )
        sky = sky_positions(self.wcs, x.ravel(), y.ravel())
        lon, lat = np.asarray(sky.ra.radian), np.asarray(sky.dec.radian)
        vectors = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
        return [v.round(9).tolist() if np.isfinite(v).all() else None for v in vectors]


def picture(data: NDArray[np.float32]) -> dict[str, Any]:
    """Encode an image as a lossless grey picture that any stretch can be made from.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        NaN is blank.

    Returns
    -------
    dict
        ``uri`` (a data URI, WebP, first row on top is the last of the image), ``bin`` (image
        pixels a picture pixel), ``level`` and ``rms`` (median and robust sigma of the image),
        ``first`` and ``step``: grey level g is ``asinh((value - level) / rms) = first + (g - 1)
        step``, 0 is blank; ``brightest`` in rms.
    """
    bin_size = -(-max(data.shape) // LARGEST)
    small = shrink(data, LARGEST)
    finite = small[np.isfinite(small)]
    level = float(np.median(finite)) if finite.size else 0.0
    rms = 1.4826 * float(np.median(np.abs(finite - level))) if finite.size else 1.0
    if not rms > 0:
        # mostly one value, as a model image is
        rms = float(np.std(finite)) if finite.size and np.std(finite) > 0 else 1.0
    scaled = np.arcsinh((small - level) / rms)
    low = float(np.nanmin(scaled)) if finite.size else -1.0
    high = float(np.nanmax(scaled)) if finite.size else 1.0
    first = max(low, float(np.arcsinh(-10.0)))
    encoded, step = b"", 0.0
    for wanted in STEPS:
        step = max(wanted, (high - first) / (LEVELS - 1))
        codes = np.clip(np.rint((scaled - first) / step), 0, LEVELS - 1) + 1
        encoded = _webp(np.where(np.isfinite(scaled), codes, 0).astype(np.uint8)[::-1])
        if len(encoded) <= MOST_BYTES:
            break
    return {
        "uri": "data:image/webp;base64," + base64.b64encode(encoded).decode("ascii"),
        "bin": bin_size,
        "level": level,
        "rms": rms,
        "first": first,
        "step": step,
        "brightest": float(np.sinh(high)),
    }


def _webp(codes: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(codes).save(stream, "WEBP", lossless=True, quality=20, method=2)
    return stream.getvalue()
