"""Axes of a cube: which are the image's, and which plane along the others is meant."""

from pathlib import Path
from typing import TYPE_CHECKING

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.remote import RemoteFile

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

SPECTRAL = ("FREQ", "VRAD", "VOPT", "VELO", "FELO", "WAVE", "AWAV")
"""How the types of spectral axes begin."""


def image_axes(shape: tuple[int, ...], wcs: "WCS | None") -> tuple[int, int]:
    """FITS numbers (from 1) of the axes along columns and along rows."""
    if wcs is not None:
        first, second = sorted((wcs.wcs.lng + 1, wcs.wcs.lat + 1))
        return first, second
    long = [axis for axis in range(1, len(shape) + 1) if shape[len(shape) - axis] > 1]
    return (long[0], long[1]) if len(long) >= 2 else (1, 2)


def chosen_planes(
    path: Path | RemoteFile,
    shape: tuple[int, ...],
    axes: tuple[int, int],
    header: "Header",
    plane: tuple[int, ...],
) -> dict[int, int]:
    """Plane number along every FITS axis that is not one of the image's."""
    extra = [axis for axis in range(1, len(shape) + 1) if axis not in axes]
    real = [axis for axis in extra if shape[len(shape) - axis] > 1]
    planes = dict.fromkeys(extra, 0)

    def describe(axis: int) -> str:
        kind = str(header.get(f"CTYPE{axis}", "")).strip() or "unnamed"
        return f"axis {axis} ({kind}) has {shape[len(shape) - axis]} planes"

    if not real and any(plane):
        raise InputError(f"{path}: the image has one plane; leave image.plane out.")
    if real and len(plane) != len(real):
        number = "one index" if len(real) == 1 else f"{len(real)} indices"
        given = "0" if len(real) == 1 else f"[{','.join('0' * len(real))}]"
        raise InputError(
            f"{path}: this is a cube: {' and '.join(map(describe, real))}; choose a plane with "
            f"--set image.plane={given} ({number}, counted from 0; Python: plane={given}), or, "
            "for a command without --set, cut one out first."
        )
    for axis, chosen in zip(real, plane, strict=False):
        if not 0 <= chosen < shape[len(shape) - axis]:
            raise InputError(
                f"{path}: there is no plane {chosen}: {describe(axis)}, counted from 0."
            )
        planes[axis] = chosen
    return planes
