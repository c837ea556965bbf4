"""Images in: FITS files as `SkyImage` or, lazily, as an `ImageSource`."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from cyclades.stages.core.errors import BlankImageError, ConfigurationError, InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.image_options import FROM_STARS, ImageOptions, absolute_path
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.remote import as_file
from cyclades.stages.core.tiling import Box, full_box

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.units import UnitBase
    from astropy.wcs import WCS

    from cyclades.stages.core.beam import PointSpread
    from cyclades.stages.core.masks import Mask
    from cyclades.stages.core.planes import FitsPlane

logger = logging.getLogger("cyclades.io")

_SUFFIXES = (".gz", ".bz2", ".fz", ".xz", ".zst", ".zip", ".z")
_FITS_SUFFIXES = (".fits", ".fit", ".fts", ".zarr")
_REGION_SUFFIXES = (".reg", ".ds9", ".crtf")
_SCAN_PIXELS = 4_000_000
_STARS_SIDE = 4096
"""Side of the part of an image, around its centre, that stars are looked for in."""


class FitsSource:
    """An `ImageSource` over one plane of a FITS file; only the windows asked for are read.

    It can be sent to a worker process, where the file is opened anew; a plane that had to be
    loaded whole (gzip) is not sent.

    Parameters
    ----------
    path : str or Path
        FITS file, or the address of one (http, https, s3), of which only windows are fetched.
    options : ImageOptions
        How to read it.
    mask, weight : ndarray, shape (ny, nx), optional
        Given in memory instead of by the options' paths.

    Raises
    ------
    InputError
        Where the file cannot be used, in one sentence.
    """

    def __init__(
        self,
        path: str | Path,
        options: ImageOptions | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
        weight: NDArray[np.float32] | None = None,
    ) -> None:
        from cyclades.stages.core.planes import open_plane

        self.path = as_file(path)
        self.options = options or ImageOptions()
        if self.options.beam is not None and self.options.psf is not None:
            raise InputError(
                f"{self.path.name}: a beam and a varying psf are both given; leave one of them out."
            )
        self._plane = open_plane(
            str(self.path), extension=self.options.extension, plane=self.options.plane
        )
        self._arrays = (mask, weight)
        for label, array in (("mask", mask), ("weight", weight)):
            if array is not None:
                self._check_shape(label, array.shape)

    def with_options(self, options: ImageOptions) -> "FitsSource":
        """Return the plane read as options say, or as it is where it was told how to be read."""
        told = self.options != ImageOptions() or any(array is not None for array in self._arrays)
        return self if told or options == self.options else FitsSource(str(self.path), options)

    def __reduce__(self) -> tuple[Any, ...]:
        # measured once for the whole plane, not by every worker
        decided = ["zeros_are_blank", *(["psf"] if self.options.beam == FROM_STARS else [])]
        known = {name: self.__dict__[name] for name in decided if name in self.__dict__}
        return _reopen, (str(self.path), self.options, self._arrays, known)

    @property
    def name(self) -> str:
        """File name without its suffixes."""
        name = self.path.name
        for suffixes in (_SUFFIXES, _FITS_SUFFIXES):
            stem, dot, last = name.rpartition(".")
            if stem and (dot + last).lower() in suffixes:
                name = stem
        return name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the plane."""
        return self._plane.shape

    @property
    def wcs(self) -> "WCS | None":
        """Celestial WCS of the plane."""
        return self._plane.wcs

    @cached_property
    def unit(self) -> "UnitBase":
        """Unit of the pixels: the user's, else the header's."""
        from cyclades.stages.core.headers import header_unit
        from cyclades.stages.core.units import parse_unit

        given = self.options.unit
        unit = header_unit(self._plane.header, self.name) if given is None else parse_unit(given)
        if not self.options.per_pixel or unit is None:
            return unit
        import astropy.units as u

        areas = {u.beam, u.pix, u.sr, u.arcsec, u.deg}
        return unit if areas & set(unit.bases) else unit / u.pix

    @cached_property
    def frequency(self) -> float:
        """Frequency of the plane in Hz: the user's, else the header's, else NaN."""
        from cyclades.stages.core.headers import header_frequency

        if self.options.frequency is not None:
            return self.options.frequency
        return header_frequency(self._plane.header, self._plane.planes)

    @cached_property
    def psf(self) -> "PointSpread | None":
        """Beam on the plane: the user's, else the file's, else None."""
        from cyclades.stages.core.beam_shape import BeamShape

        if self.options.psf is not None:
            from cyclades.stages.core.beam_files import read_point_spread

            return read_point_spread(self.options.psf, self.wcs, self.shape)
        given = self.options.beam
        if given == FROM_STARS:
            return self._psf_of_stars()
        beam = self._plane.beam if given is None else BeamShape.parse(given)
        if beam is None or (given is None and self.wcs is None):
            return None
        try:
            return beam.place(self.wcs, self.shape)
        except InputError as error:
            raise InputError(f"{self.path.name}: {error}") from None

    def _psf_of_stars(self) -> "PointSpread":
        """Measure the PSF from the stars around the centre of the plane."""
        from cyclades.stages.core.stars import measured_psf

        (ny, nx), side = self.shape, _STARS_SIDE
        y0, x0 = max(0, (ny - side) // 2), max(0, (nx - side) // 2)
        box = Box(y0, y0 + side, x0, x0 + side).intersect(full_box(self.shape))
        data = self._plane.read(box)
        if self._mask is not None:
            data[self._mask.window(box)] = np.nan
        psf, stars = measured_psf(data, self.path.name)
        logger.info(
            "%s: the PSF has a FWHM of %.2f pixels, from %d stars",
            self.name, psf.size, len(stars.x),
        )  # fmt: skip
        return replace(psf, wcs=self.wcs)

    @cached_property
    def header(self) -> "Header":
        """Clean 2-D header of the full plane, for products."""
        from cyclades.stages.core.headers import product_header

        nothing = np.broadcast_to(np.float32(0), (1, 1))
        return product_header(
            SkyImage(
                nothing,
                unit=self.unit,
                wcs=self.wcs,
                psf=self.psf,
                frequency=self.frequency,
                header=self._plane.header,
            )
        )

    @cached_property
    def zeros_are_blank(self) -> bool:
        """Whether exact zeros are read as blank; decided once for the whole plane."""
        from cyclades.stages.core.masks import zeros_are_blank

        if self.options.blank_zeros is not None:
            return self.options.blank_zeros
        if not self._plane.floating:
            return False
        decided = zeros_are_blank(self._blocks(), self.shape)
        if decided:
            logger.info("%s: exact zeros are read as blank pixels.", self.name)
        return decided

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        rows = max(1, _SCAN_PIXELS // self.shape[1])
        for y0 in range(0, self.shape[0], rows):
            yield self._plane.read(Box(y0, min(y0 + rows, self.shape[0]), 0, self.shape[1]))

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box of the full plane, cut at its edges.

        Raises
        ------
        InputError
            Where the box lies outside the image, or the file is damaged.
        """
        inside = box.intersect(full_box(self.shape))
        if inside.empty:
            raise InputError(f"{self.name}: the box {tuple(box)} lies outside the image.")
        return self._image(self._plane.read(inside), inside)

    def read(self) -> SkyImage:
        """Return the whole plane.

        Raises
        ------
        InputError
            Where every pixel is blank or masked, pixels are beyond the range of single precision,
            or the file is damaged.
        """
        from cyclades.stages.core.masks import zeros_are_blank

        data = self._plane.read()
        if self.options.blank_zeros is None and self._plane.floating:
            # Decided on the pixels at hand instead of by reading the file once more.
            self.__dict__.setdefault("zeros_are_blank", zeros_are_blank([data], self.shape))
        image = self._image(data, full_box(self.shape))
        if not np.isfinite(image.data).any():
            left = "" if self._mask is None else " or left out by the mask or the part to include"
            raise BlankImageError(
                f"{self.path}: the image is all blank{left}; nothing can be measured."
            )
        return image

    def _image(self, data: NDArray[np.float32], box: Box) -> SkyImage:
        if self.zeros_are_blank:
            data[data == 0] = np.nan
        weight = self._weight(box)
        if weight is not None:
            data[~(weight > 0)] = np.nan
        wcs, psf = self.wcs, self.psf
        if box != full_box(self.shape):
            wcs = None if wcs is None else wcs.slice(box.slices)
            psf = None if psf is None else psf.window(box.x0, box.y0, wcs)
        return SkyImage(
            data,
            unit=self.unit,
            wcs=wcs,
            psf=psf,
            frequency=self.frequency,
            mask=None if self._mask is None else self._mask.window(box),
            weight=weight,
            origin=(box.y0, box.x0),
            full_shape=self.shape,
            name=self.name,
            header=self.header,
        ).check_range()

    @cached_property
    def _mask(self) -> "Mask | None":
        from cyclades.stages.core.masks import ArrayMask, JoinedMask, OutsideMask

        parts: list[Mask] = []
        if self._arrays[0] is not None:
            parts.append(ArrayMask(self._arrays[0]))
        if self.options.mask is not None:
            parts.append(self._read_mask("mask", self.options.mask))
        if self.options.include is not None:
            parts.append(OutsideMask(self._read_mask("include", self.options.include)))
        if len(parts) > 1:
            return JoinedMask(tuple(parts))
        return parts[0] if parts else None

    def _read_mask(self, label: str, path: str) -> "Mask":
        """Read the pixels that a file of any of the kinds names."""
        from cyclades.stages.core.coverage import is_moc, read_moc
        from cyclades.stages.core.masks import FitsMask, read_regions
        from cyclades.stages.core.planes import open_plane

        if path.lower().endswith(_REGION_SUFFIXES):
            return read_regions(path, self.wcs, self.shape)
        if is_moc(path):
            return read_moc(path, self.wcs)
        plane = open_plane(path)
        self._check_shape(f"{label} {path}", plane.shape)
        return FitsMask(plane)

    @cached_property
    def _weight_plane(self) -> "FitsPlane | None":
        from cyclades.stages.core.planes import open_plane

        if self.options.weight is None:
            return None
        plane = open_plane(self.options.weight)
        self._check_shape(f"weight {self.options.weight}", plane.shape)
        return plane

    def _weight(self, box: Box) -> NDArray[np.float32] | None:
        if self._arrays[1] is not None:
            return self._arrays[1][box.slices]
        return None if self._weight_plane is None else self._weight_plane.read(box)

    def _check_shape(self, label: str, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise InputError(
                f"{self.path.name}: the {label} has shape {shape}, the image {self.shape}; give "
                "one on the image's own pixels."
            )


def _reopen(
    path: str, options: ImageOptions, arrays: tuple[Any, Any], known: dict[str, Any]
) -> FitsSource:
    """Open a source again in another process, keeping what was decided about the whole plane."""
    source = FitsSource(path, options, mask=arrays[0], weight=arrays[1])
    source.__dict__.update(known)
    return source


def open_image(
    path: str | Path,
    *,
    mask: str | Path | ArrayLike | None = None,
    weight: str | Path | ArrayLike | None = None,
    **options: Any,
) -> FitsSource:
    """Open a FITS image without reading its pixels.

    Parameters
    ----------
    path : str or Path
        FITS file, also compressed.
    mask : str, Path or array of bool, shape (ny, nx), optional
        Pixels to leave out: a FITS image (not zero there), a DS9 region file, a MOC, or an array.
    weight : str, Path or array, shape (ny, nx), optional
        Relative inverse variances.
    **options
        Fields of `ImageOptions`: `extension`, `plane`, `beam`, `psf`, `frequency`, `unit`,
        `include`, `blank_zeros`.

    Returns
    -------
    FitsSource
        An `ImageSource`: `window` reads a part, `read` everything.

    Raises
    ------
    InputError
        Where the file cannot be used.
    ConfigurationError
        For an unknown option or a value that makes no sense.
    """
    mask_path, mask_array = _path_or_array(mask, np.bool_)
    weight_path, weight_array = _path_or_array(weight, np.float32)
    try:
        checked = ImageOptions(mask=mask_path, weight=weight_path, **options)
    except ValidationError as error:
        raise ConfigurationError(_first_problem(error)) from None
    return FitsSource(path, checked, mask=mask_array, weight=weight_array)


def read_image(path: str | Path, **options: Any) -> SkyImage:
    """Read one plane of a FITS image; the options are those of `open_image`.

    Returns
    -------
    SkyImage
        Native float32 pixels in the header's unit, NaN where blank or masked.
    """
    return open_image(path, **options).read()


def _path_or_array(value: Any, kind: Any) -> tuple[str | None, NDArray[Any] | None]:
    if value is None or isinstance(value, str | Path):
        return absolute_path(value), None
    return None, np.asarray(value, kind)


def _first_problem(error: ValidationError) -> str:
    """One sentence for the first thing wrong with the image options."""
    first = error.errors()[0]
    option = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = list(ImageOptions.model_fields)
        return (
            f"There is no image option {option!r}{suggestion(option, known)}; "
            f"the options are {', '.join(known)}."
        )
    message = first["msg"].removeprefix("Value error, ")
    return f"The image option {option!r}: {message}."
