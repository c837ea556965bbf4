"""Windows of one plane of a FITS file, read without loading the rest.

Uncompressed and tile-compressed images are read by sections; a file that is compressed as a
whole (gzip, bzip2, ...) can only be read from its start, so its plane is loaded once and kept.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam_shape import BeamShape
from cyclades.stages.core.cube_axes import SPECTRAL, chosen_planes, image_axes
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.headers import celestial_wcs, clean_header, header_beam, table_beam
from cyclades.stages.core.image import single_precision
from cyclades.stages.core.remote import RemoteFile, as_file
from cyclades.stages.core.tiling import Box, full_box

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header
    from astropy.wcs import WCS

_SIZES = re.compile(rb"(NAXIS[ \d]{3}|GCOUNT  |PCOUNT  )= *([-+]?\d+)")
"""Cards that say how much there is to be read."""
_MOST_AXES = 999
"""Of the FITS standard, 4.4.1.1."""
_NO_DITHER = -1
_LOOKED_AT = 2**16
"""Bytes in which the first headers lie."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\x1f\x9d", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep astropy's remarks on other people's headers from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(eq=False)
class FitsPlane:
    """One plane of one image of a FITS file.

    Parameters
    ----------
    path : pathlib.Path or RemoteFile
        The file.
    hdu : int
        Number of the extension.
    header : astropy.io.fits.Header
        The readable cards of that extension.
    shape : (int, int)
        Rows and columns of the plane.
    wcs : astropy.wcs.WCS or None
        Celestial WCS of the plane.
    index : tuple of (int or None)
        For each numpy axis of the data: the plane's number, or None along rows and columns.
    planes : dict of int to int
        The same for FITS axes (counted from 1) other than the two of the image.
    beam : BeamShape or None
        Beam that the file gives.
    floating : bool
        Whether pixels are stored as floating point numbers.
    compressed : bool
        Whether the file is compressed as a whole.
    mapped : bool
        Whether the file is mapped into memory: of use for tile-compressed images, whose table
        would otherwise be read whole; astropy cannot do it where pixels are scaled.
    blank : float
        Value that stands for blank in an integer image; NaN where there is none.
    """

    path: Path | RemoteFile
    hdu: int
    header: "Header"
    shape: tuple[int, int]
    wcs: "WCS | None"
    index: tuple[int | None, ...]
    planes: dict[int, int]
    beam: BeamShape | None
    floating: bool
    compressed: bool
    mapped: bool
    blank: float
    _loaded: NDArray[np.float32] | None = field(default=None, repr=False)

    def read(self, box: Box | None = None) -> NDArray[np.float32]:
        """Return the pixels of a box as a fresh native float32 array, NaN where blank.

        Raises
        ------
        InputError
            Where the file is truncated or damaged.
        """
        box = full_box(self.shape) if box is None else box
        if self._loaded is not None:
            return self._loaded[box.slices].copy()
        if self.compressed:
            self._loaded = self._section(full_box(self.shape))
            return self._loaded[box.slices].copy()
        return self._section(box)

    def _native(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels just read as a native float32 array of their own.

        Those of the usual image are swapped where they are: a copy would be one more plane.
        """
        fresh = pixels.flags.writeable and pixels.flags.c_contiguous and not self.mapped
        if fresh and pixels.dtype == np.dtype(">f4") and sys.byteorder == "little":
            pixels = pixels.byteswap(inplace=True).view(np.float32)
            return np.asarray(pixels)
        if pixels.dtype.kind == "f" and pixels.dtype.itemsize > 4:
            return single_precision(pixels)
        return np.array(pixels, np.float32, order="C", copy=True)

    def _columns(self, hdu: Any, box: Box) -> NDArray[np.float32] | None:
        """Pixels of some columns of a plain image in single precision; None for any other.

        astropy's sections take 0.1 ms for each row of which a part is wanted.
        """
        from astropy.io import fits

        plain = type(hdu) in (fits.PrimaryHDU, fits.ImageHDU) and hdu.header["BITPIX"] == -32
        scaled = hdu.header.get("BSCALE", 1) != 1 or hdu.header.get("BZERO", 0) != 0
        if isinstance(self.path, RemoteFile) or self.mapped or not plain or scaled:
            return None
        if box.shape[1] == self.shape[1] or self.index[-2:] != (None, None):
            return None
        plane = 0
        for number, length in zip(self.index[:-2], hdu.shape[:-2], strict=True):
            plane = plane * length + (number or 0)
        start = hdu.fileinfo()["datLoc"]
        values = np.empty(box.shape, np.float32)
        with self.path.open("rb", buffering=0) as file:
            for y, row in enumerate(values, plane * self.shape[0] + box.y0):
                file.seek(start + 4 * (y * self.shape[1] + box.x0))
                if file.readinto(row.data) != row.nbytes:
                    raise _damaged(self.path)
        return values.byteswap(inplace=True) if sys.byteorder == "little" else values

    def _section(self, box: Box) -> NDArray[np.float32]:
        cut = iter(box.slices)
        where = tuple(next(cut) if number is None else number for number in self.index)
        with (
            quiet(),
            _open(self.path, self.mapped) as file,
            np.errstate(over="ignore", invalid="ignore"),
        ):
            try:
                values = self._columns(file[self.hdu], box)
                if values is None:
                    pixels = file[self.hdu].section[where]
                    # A plane number on a later axis leaves an axis of length one behind.
                    values = self._native(pixels).reshape(box.shape)
            except Exception as error:  # zlib, mmap, numpy and astropy all have their own
                raise _damaged(self.path) from error
        if np.isfinite(self.blank):
            values[values == np.float32(self.blank)] = np.nan
        return values


@contextmanager
def _open(path: Path | RemoteFile, mapped: bool = False) -> Iterator["HDUList"]:
    from astropy.io import fits

    if isinstance(path, RemoteFile):
        with _open_remote(path) as file:
            yield file
        return
    if _impossible(path):
        raise _damaged(path)
    try:
        file = fits.open(path, mode="readonly", memmap=mapped)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except PermissionError:
        raise InputError(f"{path}: the file may not be read.") from None
    except Exception as error:
        if _first_bytes(path).startswith((b"SIMPLE", *_COMPRESSED)):
            raise _damaged(path) from error
        raise InputError(f"{path}: this is not a FITS file.") from error
    with file:
        yield file


def _impossible(path: Path) -> bool:
    """Whether a header among the first bytes has a negative size, or more axes than FITS allows.

    astropy asks for as many axes as a header says, and goes on from negative sizes for ever.
    """
    try:
        first = _first_bytes(path, _LOOKED_AT)
    except OSError:  # for astropy to find
        return False
    return any(
        int(value) < 0 or (card == b"NAXIS   " and int(value) > _MOST_AXES)
        for card, value in _SIZES.findall(first)
    )


@contextmanager
def _open_remote(path: RemoteFile) -> Iterator["HDUList"]:
    """Open a file at an address; only what is asked for is fetched."""
    from astropy.io import fits

    stream = path.open()
    try:
        file = fits.open(stream, mode="readonly", memmap=False)
    except Exception as error:
        stream.close()
        raise InputError(f"{path}: this is not a FITS file.") from error
    with stream, file:
        yield file


def open_plane(
    path: str | Path, *, extension: int | str | None = None, plane: tuple[int, ...] = ()
) -> FitsPlane:
    """Find one plane in a FITS file, or in a Zarr store; no pixel is read.

    Parameters
    ----------
    path : str or Path
        The file, or its address; a Zarr store ends with ``.zarr``.
    extension : int or str, optional
        Number or name of the extension; by default the first that holds an image.
    plane : tuple of int
        0-based indices along the axes beyond the two of the image that have more than one plane,
        in the order of the FITS axes.

    Raises
    ------
    InputError
        One sentence for a file that is missing, not FITS, truncated, or without a usable image,
        and for a cube of which no plane was chosen.
    """
    return _open_plane(as_file(path), extension, plane)


def _open_plane(
    path: Path | RemoteFile, extension: int | str | None, plane: tuple[int, ...]
) -> FitsPlane:
    """See `open_plane`."""
    if str(path).rstrip("/").endswith(".zarr"):
        from cyclades.stages.core.zarr_plane import open_zarr

        return open_zarr(path, extension, plane)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; export a CASA image with exportfits first.")
    with quiet(), _open(path) as file:
        try:
            hdu, number = _choose(file, path, extension)
            header = clean_header(hdu.header)
            shape = tuple(hdu.shape)
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path) from error
        compressed = _first_bytes(path).startswith(_COMPRESSED)
        if not compressed:
            try:
                _check_size(file, hdu, path)
            except InputError:
                raise
            except Exception as error:  # sizes that cannot be read
                raise _damaged(path) from error
        wcs = celestial_wcs(header, file)
        if wcs is not None and max(wcs.wcs.lng, wcs.wcs.lat) >= len(shape):
            wcs = None
        axes = image_axes(shape, wcs)
        planes = chosen_planes(path, shape, axes, header, plane)
        try:
            beam = _beam(file, hdu, number, header, shape, planes)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
        index = tuple(
            None if len(shape) - i in axes else planes[len(shape) - i] for i in range(len(shape))
        )
        return FitsPlane(
            path=path,
            hdu=number,
            header=header,
            shape=(shape[len(shape) - axes[1]], shape[len(shape) - axes[0]]),
            wcs=wcs.celestial if wcs is not None and wcs.naxis > 2 else wcs,
            index=index,
            planes=planes,
            beam=beam,
            floating=int(header.get("BITPIX", -32)) < 0 and not _is_quantised(hdu, path),
            compressed=compressed,
            mapped=_is_tiled(hdu) and not {"BSCALE", "BZERO", "BLANK"} & set(header),
            blank=_blank_value(header),
        )


def _first_bytes(path: Path | RemoteFile, number: int = 6) -> bytes:
    with path.open("rb") as stream:
        return stream.read(number)


def _damaged(path: Path | RemoteFile) -> InputError:
    return InputError(f"{path}: the file is truncated or damaged; fetch or write it again.")


def _is_image(hdu: Any) -> bool:
    from astropy.io import fits

    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        return False
    return len(hdu.shape) >= 2 and 0 not in hdu.shape


def _is_tiled(hdu: Any) -> bool:
    from astropy.io import fits

    return isinstance(hdu, fits.CompImageHDU)


def _is_quantised(hdu: Any, path: Path | RemoteFile) -> bool:
    """Whether floats are stored as integers without dithering: noise has exact zeros then."""
    if not _is_tiled(hdu) or hdu.quantize_method != _NO_DITHER or isinstance(path, RemoteFile):
        return False
    return "ZSCALE" in hdu.compressed_data.columns.names


def _blank_value(header: "Header") -> float:
    """Physical value of BLANK in an integer image, in the arithmetic that astropy scales with.

    astropy itself takes no notice of BLANK = 0, nor of any BLANK in unsigned integers.
    """
    bits, blank = int(header.get("BITPIX", -32)), header.get("BLANK")
    if bits < 0 or not isinstance(blank, int):
        return float("nan")
    precision = np.float32 if bits <= 16 else np.float64
    scale, zero = header.get("BSCALE", 1.0), header.get("BZERO", 0.0)
    return float(precision(blank) * precision(scale) + precision(zero))


def _choose(
    file: "HDUList", path: Path | RemoteFile, extension: int | str | None
) -> tuple[Any, int]:
    """The HDU asked for, or the first image, and its number."""
    if extension is None:
        for number, hdu in enumerate(file):
            if _is_image(hdu):
                return hdu, number
        raise InputError(
            f"{path}: the file holds no image (its extensions: {_listing(file)}); "
            "give the file of the image itself."
        )
    try:
        number = file.index_of(extension)
        hdu = file[number]
    except (KeyError, IndexError):
        raise InputError(
            f"{path}: there is no extension {extension!r}; the file has {_listing(file)}."
        ) from None
    if not _is_image(hdu):
        raise InputError(
            f"{path}: the extension {extension!r} is no image with two axes; the file has "
            f"{_listing(file)}."
        )
    return hdu, number


def _listing(file: "HDUList") -> str:
    def describe(hdu: Any) -> str:
        if not hasattr(hdu, "shape"):
            return "table"
        return "x".join(map(str, hdu.shape)) or "empty"

    return ", ".join(
        " ".join(f"{i} {hdu.name} ({describe(hdu)})".split()) for i, hdu in enumerate(file)
    )


def _check_size(file: "HDUList", hdu: Any, path: Path | RemoteFile) -> None:
    """Refuse a file that ends before its pixels do (padding after the last may be missing)."""
    info = hdu.fileinfo()
    if info is None or info.get("datLoc") is None:
        return
    if path.stat().st_size < info["datLoc"] + min(hdu.size, info["datSpan"] or hdu.size):
        raise _damaged(path)


def _beam(
    file: "HDUList",
    hdu: Any,
    number: int,
    header: "Header",
    shape: tuple[int, ...],
    planes: dict[int, int],
) -> BeamShape | None:
    """Beam of the plane: CASA's table where the header announces one, else the header's."""
    announced = bool(header.get("CASAMBM", False))
    beam = None if announced else header_beam(hdu.header)
    if beam is None and (announced or len(file) > number + 1) and "BEAMS" in file:
        many = {
            str(header.get(f"CTYPE{axis}", "")).strip().upper()[:4]: index
            for axis, index in planes.items()
            if shape[len(shape) - axis] > 1
        }
        channel = next((many[kind] for kind in SPECTRAL if kind in many), None)
        beam = table_beam(file["BEAMS"], channel, many.get("STOK"))
    return beam if beam is not None or not announced else header_beam(hdu.header)
