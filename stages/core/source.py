"""Lazy images: a file from which windows are read, and aligned sets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.combination import COMBINATIONS, check_units, widest
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import determinant, sky_jacobian, sky_positions
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.tiling import Box, grid

if TYPE_CHECKING:
    from cyclades.stages.core.image_options import ImageOptions

_SAMPLE = 1_000_000
_ALIGNED = 0.1


class ImageSource(Protocol):
    """A plane that may be larger than memory and yields windows of itself."""

    @property
    def name(self) -> str:
        """What to call the image."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the full plane."""

    @property
    def psf(self) -> PointSpread | None:
        """Beam or PSF on the full plane, known without reading pixels; None without one."""

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box, with the WCS, beam and origin of that window."""

    def read(self) -> SkyImage:
        """Return the whole plane."""


@dataclass(frozen=True)
class MemorySource:
    """An `ImageSource` over a plane that is already in memory."""

    image: SkyImage

    @property
    def name(self) -> str:
        """What to call the image."""
        return self.image.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape

    @property
    def psf(self) -> PointSpread | None:
        """Beam or PSF of the plane."""
        return self.image.psf

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box."""
        return self.image.cutout(box)

    def read(self) -> SkyImage:
        """Return the plane itself; see `SkyImage.check_range`."""
        return self.image.check_range()


def cutout(source: ImageSource, x: float, y: float, size: int) -> SkyImage:
    """Return a square window of `size` pixels around a 0-based position, cut at the edges."""
    half = size // 2
    y0, x0 = round(y) - half, round(x) - half
    return source.window(Box(y0, y0 + size, x0, x0 + size))


@dataclass(frozen=True, eq=False)
class CombinedSource:
    """A detection plane made of several: an `ImageSource` whose windows are combined when read.

    Parameters
    ----------
    planes : dict of str to ImageSource
        Planes on the same pixels.
    method : str
        ``weighted``: the mean weighted by inverse variances, in the planes' common unit, over the
        planes that are not blank at a pixel. ``chi_squared``: the root of the summed squares of
        ``(pixel - level) / rms`` of every plane, blank where any plane is; it finds sources that
        are faint in all planes, of any spectrum and of either sign, and its own background is not
        zero (Szalay, Connolly & Szokoly 1999, AJ 117, 68).

    Notes
    -----
    It serves where only pixels are to be had. A chain has the background maps of every plane, and
    detects on what `cyclades.stages.core.combination` makes of these.

    Level and rms of a plane are the median and the scaled median absolute deviation of a million
    of its pixels, clipped thrice at three sigma: one number for the whole plane, times
    ``1 / sqrt(weight)`` where it has a weight map. The beam is that of the plane with the largest
    one; the frequency of a weighted mean is the weighted mean of the frequencies.
    """

    planes: dict[str, ImageSource]
    method: str

    @property
    def name(self) -> str:
        """Names of the planes, and the combination."""
        return f"{'+'.join(self.planes)}_{self.method}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return next(iter(self.planes.values())).shape

    @property
    def psf(self) -> PointSpread | None:
        """The largest beam of the planes."""
        beams = [plane.psf for plane in self.planes.values() if plane.psf is not None]
        return max(beams, key=lambda psf: psf.area, default=None)

    @cached_property
    def noise(self) -> dict[str, tuple[float, float]]:
        """Level and rms of every plane, of ``image * sqrt(weight)`` where there is a weight."""
        return {name: _level_and_rms(plane) for name, plane in self.planes.items()}

    def window(self, box: Box) -> SkyImage:
        """Return the combination of the planes inside a box."""
        return self._combine({name: plane.window(box) for name, plane in self.planes.items()})

    def read(self) -> SkyImage:
        """Return the combination of the whole planes."""
        return self._combine({name: plane.read() for name, plane in self.planes.items()})

    def _combine(self, images: dict[str, SkyImage]) -> SkyImage:
        check_aligned(images)
        first = next(iter(images.values()))
        scales = {
            name: 1.0 if image.weight is None else np.sqrt(image.weight)
            for name, image in images.items()
        }
        weights, data, unit, frequency = None, np.zeros(first.shape), first.unit, np.nan
        if self.method == "chi_squared":
            import astropy.units as u

            for name, image in images.items():
                level, rms = self.noise[name]
                data += ((image.data * scales[name] - level) / rms) ** 2
            data, unit = np.sqrt(data), u.dimensionless_unscaled
        else:
            check_units(images)
            weights = np.zeros(first.shape)
            for name, image in images.items():
                weight = np.where(
                    np.isfinite(image.data), (scales[name] / self.noise[name][1]) ** 2, 0.0
                )
                data += weight * np.nan_to_num(image.data)
                weights += weight
            with np.errstate(invalid="ignore"):
                data /= weights
            # Relative to a pixel that every plane covers, so that all windows agree.
            shares = np.array([self.noise[name][1] ** -2 for name in images])
            weights /= shares.sum()
            frequency = float(np.average([i.frequency for i in images.values()], weights=shares))
        return first.replace(
            data=data.astype(np.float32),
            unit=unit,
            psf=widest(list(images.values())),
            frequency=frequency,
            mask=None,
            weight=None if weights is None else weights.astype(np.float32),
            name=self.name,
        )


def _level_and_rms(source: ImageSource) -> tuple[float, float]:
    """Robust level and rms of a whole plane, read in strips."""
    rows, columns = source.shape
    stride = max(1, rows * columns // _SAMPLE)
    while gcd(stride, columns) > 1:  # otherwise the same columns would be sampled in every row
        stride += 1
    step = max(1, 4 * _SAMPLE // columns)
    samples = []
    for box in grid(source.shape, (step, columns)):
        image = source.window(box)
        values = image.data if image.weight is None else image.data * np.sqrt(image.weight)
        samples.append(values.reshape(-1)[::stride])
    values = np.concatenate(samples)
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        raise InputError(f"{source.name}: the plane is all blank; leave it out of the set.")
    for _ in range(4):
        level = float(np.median(values))
        rms = 1.4826 * float(np.median(np.abs(values - level)))
        if rms == 0:
            raise InputError(f"{source.name}: the plane has no noise; leave it out of the set.")
        values = values[np.abs(values - level) <= 3.0 * rms]
    return level, rms


def check_aligned(images: dict[str, SkyImage]) -> None:
    """Check that planes lie on the same pixels of the sky.

    Raises
    ------
    InputError
        Where shapes differ, only some planes have sky coordinates, or a corner or the centre of
        a plane lies more than a tenth of a pixel from that of the first.
    """
    (first_name, first), *others = images.items()
    ny, nx = first.shape
    x = np.array([0.0, nx - 1.0, 0.0, nx - 1.0, (nx - 1.0) / 2])
    y = np.array([0.0, 0.0, ny - 1.0, ny - 1.0, (ny - 1.0) / 2])
    for name, image in others:
        if image.shape != first.shape or (image.wcs is None) != (first.wcs is None):
            problem = "different shapes or only partly sky coordinates"
        elif image.wcs is None or first.wcs is None or image.wcs is first.wcs:
            continue
        else:
            here, there = sky_positions(first.wcs, x, y), sky_positions(image.wcs, x, y)
            scale = np.sqrt(np.abs(determinant(sky_jacobian(first.wcs, x, y))))
            offset = np.asarray(here.separation(there).deg) / scale
            if not np.nanmax(offset, initial=0.0) > _ALIGNED:
                continue
            problem = f"pixels up to {np.nanmax(offset):.2g} pixels apart on the sky"
        raise InputError(
            f"the planes {first_name!r} and {name!r} have {problem}; regrid them to the same "
            "pixels first."
        )


@dataclass(frozen=True)
class ImageSet:
    """Aligned planes (bands, Stokes, frequencies, epochs) and the one to detect on.

    Parameters
    ----------
    planes : dict of str to ImageSource
        Planes on the same pixels.
    detection : str
        Name of the plane that detection runs on, or a combination of all planes: ``weighted`` or
        ``chi_squared``; see `cyclades.stages.core.combination.detection_plane`.
    """

    planes: dict[str, ImageSource]
    detection: str

    @classmethod
    def of(
        cls, planes: Mapping[str, "ImageSource | SkyImage | str | Path"], detection: str = ""
    ) -> "ImageSet":
        """Make a set of whatever stands for its planes.

        Parameters
        ----------
        planes : mapping of str to SkyImage, ImageSource or path
            By the names that their columns get, as ``{"g": "a.fits", "r": "b.fits"}``.
        detection : str
            A plane or a combination (``chi-squared`` with a hyphen too); where left out,
            ``weighted``, or the only plane there is.
        """
        from cyclades.stages.core.io import FitsSource

        made: dict[str, ImageSource] = {}
        for name, plane in planes.items():
            if isinstance(plane, SkyImage):
                made[name] = MemorySource(plane)
            else:
                made[name] = FitsSource(plane) if isinstance(plane, (str, Path)) else plane
        default = next(iter(made)) if len(made) == 1 else COMBINATIONS[0]
        name = detection or default
        return cls(made, name if name in made else name.replace("-", "_"))

    def __post_init__(self) -> None:
        if self.detection not in (*self.planes, *COMBINATIONS):
            raise InputError(
                f"the detection plane {self.detection!r} is not among the planes "
                f"{', '.join(self.planes)}, nor a combination ({' or '.join(COMBINATIONS)})."
            )
        if not self.planes:
            raise InputError("an image set needs at least one plane.")
        shapes = {name: plane.shape for name, plane in self.planes.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"the planes of a set must have one shape, not {shapes}.")

    def read_with(self, options: "ImageOptions") -> "ImageSet":
        """Return the set with files that nothing says how to read read as options say."""
        planes = {
            name: plane.with_options(options) if hasattr(plane, "with_options") else plane
            for name, plane in self.planes.items()
        }
        same = all(plane is self.planes[name] for name, plane in planes.items())
        return self if same else replace(self, planes=planes)

    @property
    def detection_plane(self) -> ImageSource:
        """The plane that detection runs on."""
        if self.detection in self.planes:
            return self.planes[self.detection]
        return CombinedSource(self.planes, self.detection)

    def window(self, box: Box) -> dict[str, SkyImage]:
        """Return the pixels of a box in every plane, checked to be aligned on the sky."""
        images = {name: plane.window(box) for name, plane in self.planes.items()}
        check_aligned(images)
        return images

    def read(self) -> dict[str, SkyImage]:
        """Return every plane whole, checked to be aligned on the sky.

        Raises
        ------
        InputError
            Where the planes do not lie on the same pixels of the sky.
        """
        images = {name: plane.read() for name, plane in self.planes.items()}
        check_aligned(images)
        return images
