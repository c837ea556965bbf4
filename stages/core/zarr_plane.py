"""Planes of Zarr arrays: their chunks are read where a window needs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.cube_axes import chosen_planes, image_axes
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.headers import celestial_wcs, clean_header, header_beam
from cyclades.stages.core.image import single_precision
from cyclades.stages.core.planes import FitsPlane
from cyclades.stages.core.remote import RemoteFile
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from astropy.io.fits import Header

HEADERS = ("fits_header", "header")
"""Attributes that hold a FITS header: its text, or a mapping of keywords to values."""


@dataclass(eq=False)
class ZarrPlane(FitsPlane):
    """One plane of an array of a Zarr store.

    Parameters
    ----------
    array : str
        Path of the array in the store; empty where the store is one.
    """

    array: str = ""

    def _section(self, box: Box) -> NDArray[np.float32]:
        cut = iter(box.slices)
        where = tuple(next(cut) if number is None else number for number in self.index)
        try:
            pixels = _open(self.path, self.array)[where]
        except InputError:
            raise
        except Exception as error:  # every store and codec has its own
            raise InputError(
                f"{self.path}: a chunk is damaged or missing; fetch or write the store again."
            ) from error
        return np.array(single_precision(pixels)).reshape(box.shape)


def open_zarr(path: Path | RemoteFile, name: int | str | None, plane: tuple[int, ...]) -> ZarrPlane:
    """Find one plane in a Zarr store; no pixel is read.

    The last two axes are those of the image, unless its header's WCS has others. The header is
    taken from the attributes: a FITS header in ``fits_header`` or ``header``, or keywords of their
    own.

    Parameters
    ----------
    path : Path or RemoteFile
    name : str, optional
        Of the array; by default the only one with two axes or more.
    plane : tuple of int
        As for `open_plane`.

    Raises
    ------
    InputError
        Where there is no such store, or no single array, or a plane must be chosen.
    """
    array, name = _array(path, name)
    header = clean_header(_header(array.attrs.asdict()))
    shape = tuple(int(n) for n in array.shape)
    kind = np.dtype(array.dtype)
    if kind.kind not in "fiub":
        raise InputError(f"{path}: an image has real numbers, not {kind}.")
    wcs = celestial_wcs(header)
    if wcs is not None and max(wcs.wcs.lng, wcs.wcs.lat) >= len(shape):
        wcs = None
    axes = image_axes(shape, wcs)
    planes = chosen_planes(path, shape, axes, header, plane)
    index = tuple(
        None if len(shape) - i in axes else planes[len(shape) - i] for i in range(len(shape))
    )
    return ZarrPlane(
        path=path,
        hdu=0,
        header=header,
        shape=(shape[len(shape) - axes[1]], shape[len(shape) - axes[0]]),
        wcs=wcs.celestial if wcs is not None and wcs.naxis > 2 else wcs,
        index=index,
        planes=planes,
        beam=header_beam(header),
        floating=kind.kind == "f",
        compressed=False,
        mapped=False,
        blank=float("nan"),
        array=name,
    )


def _open(path: Path | RemoteFile, name: str = "") -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: reading Zarr needs the package {error.name!r}; install cyclades[zarr]."
        ) from error
    try:
        return zarr.open(store=str(path), path=name, mode="r")
    except Exception as error:
        raise InputError(f"{path}: this is no Zarr store that can be read.") from error


def _array(path: Path | RemoteFile, name: int | str | None) -> tuple[Any, str]:
    """The array asked for, or the only one that may be an image, and its path in the store."""
    store = _open(path, "" if name is None else str(name))
    if hasattr(store, "shape"):
        found = {"" if name is None else str(name): store}
    else:
        found = dict(store.arrays())
    images = {key: array for key, array in found.items() if len(array.shape) >= 2}
    if len(images) != 1:
        listing = ", ".join(sorted(found)) or "none"
        raise InputError(
            f"{path}: the store has no single image (its arrays: {listing}); choose one with the "
            "option extension."
        )
    key, array = next(iter(images.items()))
    return array, str(array.path) if not key else (key if name is None else str(name))


def _header(attributes: dict[str, Any]) -> "Header":
    """FITS header in the attributes of an array."""
    from astropy.io.fits import Header

    given = next((attributes[key] for key in HEADERS if key in attributes), None)
    if isinstance(given, str):
        return Header.fromstring(given, sep="\n" if "\n" in given else "")
    cards = attributes if given is None else dict(given)
    header = Header()
    for key, value in cards.items():
        if key.isupper() and len(key) <= 8 and isinstance(value, str | int | float | bool):
            header[key] = value
    return header
