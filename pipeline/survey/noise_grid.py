"""The noise of a field in blocks of pixels: where on the sky it reaches how deep."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.comparison.counts import VisibilityArea
from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats, determinant, sky_jacobian, sky_positions

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background

BLOCKS = 64
"""Blocks along the longer side of an image."""


class Cells(NamedTuple):
    """Blocks with valid pixels."""

    ra: Floats
    dec: Floats
    """Degrees, ICRS, of the middle."""
    rms: Floats
    area: Floats
    """Square degrees of the valid pixels."""


@dataclass(frozen=True, eq=False)
class NoiseGrid:
    """Mean noise in blocks of an image's pixels.

    Parameters
    ----------
    rms : ndarray, shape (rows, columns), float32
        Of the valid pixels, in the image's unit; NaN in a block without any.
    pixels : ndarray, shape (rows, columns), float32
        Number of valid pixels.
    step : int
        Pixels along a block's side.
    header : str
        Cards of the image's celestial coordinate system.
    limit : float
        Peak S/N above which sources of this field are looked for.
    """

    rms: NDArray[np.float32]
    pixels: NDArray[np.float32]
    step: int
    header: str
    limit: float

    @classmethod
    def of(cls, image: "SkyImage", background: "Background", limit: float) -> "NoiseGrid":
        """Measure it on the noise map of an image with celestial coordinates."""
        from cyclades.stages.core.headers import product_header

        rms = background.rms
        ny, nx = rms.shape
        step = max(1, -(-max(ny, nx) // BLOCKS))
        starts = np.arange(0, ny, step), np.arange(0, nx, step)

        def blocks(values: NDArray[np.generic]) -> NDArray[np.float32]:
            rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.float64)
            return np.add.reduceat(rows, starts[1], axis=1).astype(np.float32)

        valid = np.isfinite(rms) & np.isfinite(image.data)
        pixels = blocks(valid)
        with np.errstate(invalid="ignore"):
            mean = blocks(np.where(valid, rms, np.float32(0.0))) / pixels
        # cards of the frame only, so that equal skies give equal bytes
        return cls(mean, pixels, step, product_header(image).tostring(sep="\n"), limit)

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        with written_whole(path) as temporary:
            np.savez(
                temporary,
                rms=self.rms,
                pixels=self.pixels,
                about=np.array([self.step, self.limit]),
                header=np.frombuffer(self.header.encode(), np.uint8),
            )

    @classmethod
    def read(cls, path: Path) -> "NoiseGrid":
        """Read what `write` wrote.

        Raises
        ------
        InputError
            Where the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                step, limit = held["about"]
                header = held["header"].tobytes().decode()
                return cls(held["rms"], held["pixels"], int(step), header, float(limit))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"{path} is missing or damaged; give the same command with --force to make it anew."
            ) from error

    def scaled(self, factor: float) -> "NoiseGrid":
        """Return it in another unit."""
        if factor == 1.0:
            return self
        return replace(self, rms=(self.rms * factor).astype(np.float32))

    @cached_property
    def wcs(self) -> "WCS":
        """Celestial WCS of the image's pixels."""
        from astropy.io import fits
        from astropy.wcs import WCS

        return WCS(fits.Header.fromstring(self.header, sep="\n")).celestial

    @cached_property
    def cells(self) -> Cells:
        """Blocks with valid pixels, on the sky."""
        rows, columns = np.nonzero(self.pixels > 0)
        half = 0.5 * (self.step - 1.0)
        x, y = columns * self.step + half, rows * self.step + half
        sky = sky_positions(self.wcs, x, y)
        ra, dec = np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)
        area = np.abs(determinant(sky_jacobian(self.wcs, x, y)))
        area = area * self.pixels[rows, columns]
        known = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(area)
        rms = self.rms[rows, columns].astype(float)
        return Cells(ra[known], dec[known], rms[known], area[known])

    def at(self, ra: ArrayLike, dec: ArrayLike) -> Floats:
        """Noise at positions (degrees, ICRS); NaN where the field does not cover them."""
        from astropy.coordinates import SkyCoord
        from astropy.wcs.utils import skycoord_to_pixel

        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        found = np.full(len(ra), np.nan)
        if not len(ra):
            return found
        x, y = skycoord_to_pixel(SkyCoord(ra, dec, unit="deg"), self.wcs, 0)
        with np.errstate(invalid="ignore"):
            column, row = ((np.asarray(v, float) + 0.5) // self.step for v in (x, y))
            ny, nx = self.rms.shape
            inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        found[inside] = self.rms[row[inside].astype(int), column[inside].astype(int)]
        return found

    @property
    def depth(self) -> VisibilityArea:
        """Area against the faintest peak that is looked for, of this field alone."""
        return VisibilityArea.of(self.limit * self.cells.rms, self.cells.area)
