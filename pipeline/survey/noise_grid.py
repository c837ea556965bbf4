"""The noise of a field in blocks of pixels: where on the sky it reaches how deep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.comparison.counts import VisibilityArea
from cyclades.pipeline.comparison.match import unit_vectors
from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

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


class BlockSums(NamedTuple):
    """Number of valid pixels, and the sum of their noise, in blocks."""

    pixels: NDArray[np.float32]
    rms: NDArray[np.float32]


def block_step(shape: tuple[int, ...]) -> int:
    """Pixels along the side of the blocks of an image."""
    return max(1, -(-max(shape) // BLOCKS))


def block_sums(rms: NDArray[np.floating], valid: NDArray[np.bool_], step: int) -> BlockSums:
    """Sum the noise in blocks; rows may be a strip that begins with a block."""
    starts = [np.arange(0, n, step) for n in rms.shape]

    def blocks(values: NDArray[np.generic]) -> NDArray[np.float32]:
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.float64)
        return np.add.reduceat(rows, starts[1], axis=1).astype(np.float32)

    return BlockSums(blocks(valid), blocks(np.where(valid, rms, np.float32(0.0))))


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
    sky : ndarray, shape (3, blocks with valid pixels), optional
        What was measured of them before: ra, dec (degrees, ICRS) and area (square degrees).
    """

    rms: NDArray[np.float32]
    pixels: NDArray[np.float32]
    step: int
    header: str
    limit: float
    sky: Floats | None = None

    @classmethod
    def of(cls, image: "SkyImage", background: "Background", limit: float) -> "NoiseGrid":
        """Measure it on the noise map of an image with celestial coordinates."""
        rms = background.rms
        step = block_step(rms.shape)
        valid = np.isfinite(rms) & np.isfinite(image.data)
        return cls.from_sums([block_sums(rms, valid, step)], step, image, limit)

    @classmethod
    def from_sums(
        cls, sums: Sequence[BlockSums], step: int, image: "SkyImage", limit: float
    ) -> "NoiseGrid":
        """Make it of the sums of strips, one below the other, and an image that tells the frame."""
        from cyclades.stages.core.headers import wcs_cards

        assert image.wcs is not None
        pixels, total = (np.concatenate(parts) for parts in zip(*sums, strict=True))
        with np.errstate(invalid="ignore"):
            mean = total / pixels
        # cards of the frame only, so that equal skies give equal bytes
        made = cls(mean, pixels, step, wcs_cards(image.wcs).tostring(sep="\n"), limit)
        if not image.wcs.has_distortion:
            # as good as that of the cards, which takes as long to make as anything else here
            made.__dict__["wcs"] = image.wcs
        return made

    def write(self, path: Path) -> None:
        """Write it, whole or not at all, with where its blocks are on the sky."""
        with written_whole(path) as temporary:
            np.savez(
                temporary,
                rms=self.rms,
                pixels=self.pixels,
                sky=np.asarray(self.placed().sky),
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
                sky = held["sky"] if "sky" in held.files else None
                return cls(held["rms"], held["pixels"], int(step), header, float(limit), sky)
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

        return WCS(fits.Header.fromstring(self.header, sep="\n"))

    @cached_property
    def _turn(self) -> Floats:
        """Rotation from ICRS to the frame of the WCS, (3, 3).

        The E-terms of aberration of FK4 (0.3 arcsec) do not matter to blocks of pixels.
        """
        from astropy.coordinates import ICRS, SkyCoord
        from astropy.wcs.utils import wcs_to_celestial_frame

        frame = wcs_to_celestial_frame(self.wcs)
        if isinstance(frame, ICRS):
            return np.eye(3)
        axes = SkyCoord([0.0, 90.0, 0.0], [0.0, 0.0, 90.0], unit="deg").transform_to(frame)
        return np.asarray(axes.spherical.to_cartesian().xyz.value)

    def _ordered(self, first: Floats, second: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude as the axes of the WCS, or the other way round."""
        return (second, first) if self.wcs.wcs.lng == 1 else (first, second)

    def _directions(self, x: Floats, y: Floats) -> Floats:
        """Unit vectors (ICRS) of pixel positions; NaN outside the projection."""
        lon, lat = self._ordered(*self.wcs.all_pix2world(x, y, 0))
        return np.asarray(unit_vectors(lon, lat) @ self._turn)

    def placed(self) -> "NoiseGrid":
        """Return it with `sky`."""
        if self.sky is not None:
            return self
        rows, columns = np.nonzero(self.pixels > 0)
        half = 0.5 * (self.step - 1.0)
        x: Floats = (columns * self.step + half).astype(np.float64)
        y: Floats = (rows * self.step + half).astype(np.float64)
        # a pixel's corners on the unit sphere: half the product of its diagonals is its area
        corners = [
            self._directions(x + east, y + north)
            for east, north in ((-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5))
        ]
        middle: Floats = np.sum(corners, axis=0)
        ra = np.degrees(np.arctan2(middle[:, 1], middle[:, 0])) % 360.0
        dec = np.degrees(np.arctan2(middle[:, 2], np.hypot(middle[:, 0], middle[:, 1])))
        across = np.cross(corners[1] - corners[0], corners[3] - corners[2])
        area = 0.5 * np.linalg.norm(across, axis=1) * np.degrees(1.0) ** 2
        return replace(self, sky=np.stack([ra, dec, area * self.pixels[rows, columns]]))

    @cached_property
    def cells(self) -> Cells:
        """Blocks with valid pixels, on the sky."""
        sky = self.placed().sky
        assert sky is not None
        ra, dec, area = sky
        rms = self.rms[self.pixels > 0].astype(float)
        known = np.isfinite(sky).all(axis=0)
        if known.all():
            return Cells(ra, dec, rms, area)
        return Cells(ra[known], dec[known], rms[known], area[known])

    def at(self, ra: ArrayLike, dec: ArrayLike) -> Floats:
        """Noise at positions (degrees, ICRS); NaN where the field does not cover them."""
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        found = np.full(len(ra), np.nan)
        rows, rms = self.toward(unit_vectors(ra, dec))
        found[rows] = rms
        return found

    def toward(self, directions: Floats) -> tuple[Integers, Floats]:
        """Return which directions (unit vectors, ICRS) the image shows, and its noise there."""
        # pixels are only asked for where the field may be: a projection takes the longest, and
        # may show what lies behind the sphere, too
        near = np.flatnonzero(directions @ self._middle > self._nearest)
        if not len(near):
            return near, np.zeros(0)
        turned = directions[near] @ self._turn.T
        lon = np.degrees(np.arctan2(turned[:, 1], turned[:, 0]))
        lat = np.degrees(np.arcsin(np.clip(turned[:, 2], -1.0, 1.0)))
        x, y = self.wcs.all_world2pix(*self._ordered(lon, lat), 0, quiet=True)
        with np.errstate(invalid="ignore"):
            column, row = ((np.asarray(v, float) + 0.5) // self.step for v in (x, y))
            ny, nx = self.rms.shape
            inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        rms = self.rms[row[inside].astype(int), column[inside].astype(int)]
        return near[inside], rms.astype(np.float64)

    @cached_property
    def _middle(self) -> Floats:
        """Mean direction of the field (ICRS)."""
        cells = self.cells
        if not len(cells.ra):
            return np.zeros(3)
        return np.asarray(unit_vectors(cells.ra, cells.dec).mean(0))

    @cached_property
    def _nearest(self) -> float:
        """Lowest product of a direction with `_middle` that may lie in the field."""
        cells = self.cells
        if not len(cells.ra):
            return np.inf
        products = unit_vectors(cells.ra, cells.dec) @ self._middle
        # a block with few valid pixels is larger than their area
        side = np.radians(np.sqrt(cells.area.max()))
        length = float(np.linalg.norm(self._middle))
        angle = np.arccos(np.clip(products.min() / length, -1.0, 1.0)) + 1.5 * side
        return max(0.0, length * float(np.cos(min(angle, np.pi))))

    @property
    def depth(self) -> VisibilityArea:
        """Area against the faintest peak that is looked for, of this field alone."""
        return VisibilityArea.of(self.limit * self.cells.rms, self.cells.area)
