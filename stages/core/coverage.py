"""Coverage maps (MOCs) on the pixels of an image."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import sky_jacobian, sky_positions
from cyclades.stages.core.masks import Booleans
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from mocpy import MOC

_BLOCK = 8
"""Pixels along the side of a block that its middle may decide about."""
_CELL_OF_ORDER_0 = 58.6
"""Degrees; a HEALPix cell of order k is 2^k times narrower."""
_NARROW = 3.0
"""A cell is at least this part of its mean width wide, and then some."""
_HEAD_BYTES = 512


@dataclass(frozen=True, eq=False)
class MocMask:
    """The part of the sky that a MOC covers.

    Parameters
    ----------
    moc : mocpy.MOC
    wcs : astropy.wcs.WCS
        Celestial WCS of the full image.
    """

    moc: "MOC"
    wcs: "WCS"

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box: pixels whose centre the MOC covers.

        Blocks of pixels far from the border of the MOC are decided by their middle.
        """
        ny, nx = box.shape
        middle_y, middle_x = (np.arange(0, n, _BLOCK) + 0.5 * (_BLOCK - 1.0) for n in (ny, nx))
        y, x = (m.ravel() for m in np.meshgrid(middle_y + box.y0, middle_x + box.x0, indexing="ij"))
        with np.errstate(invalid="ignore"):
            scale = np.linalg.norm(sky_jacobian(self.wcs, x, y), axis=(-2, -1))
            near = scale * _BLOCK < self._reach
        inside = near & self._covered(self._within, x, y)
        unsure = ~near | (self._covered(self._around, x, y) & ~inside)

        def pixels(blocks: Booleans) -> Booleans:
            table = blocks.reshape(len(middle_y), len(middle_x))
            return table.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:ny, :nx]

        mask = pixels(inside).copy()
        rows, columns = np.nonzero(pixels(unsure))
        mask[rows, columns] = self._covered(self.moc, columns + box.x0, rows + box.y0)
        return mask

    def _covered(self, moc: "MOC", x: ArrayLike, y: ArrayLike) -> Booleans:
        covered = np.zeros(np.shape(x), bool)
        if covered.size:
            sky = sky_positions(self.wcs, x, y)
            known = np.isfinite(sky.ra.deg) & np.isfinite(sky.dec.deg)
            covered[known] = moc.contains_lonlat(sky.ra[known], sky.dec[known])
        return covered

    @cached_property
    def _order(self) -> int:
        """Order whose cells are wider than the blocks of pixels are long."""
        pixel = np.sqrt(self.wcs.proj_plane_pixel_area().to_value("deg2"))
        order = np.floor(np.log2(_CELL_OF_ORDER_0 / (2.0 * _NARROW * _BLOCK * pixel)))
        return int(np.clip(order, 0, self.moc.max_order))

    @property
    def _reach(self) -> float:
        """Degrees from a position that lie in its cell and the ones around it for certain."""
        return _CELL_OF_ORDER_0 / 2.0**self._order / _NARROW

    @cached_property
    def _around(self) -> "MOC":
        """All within reach of the MOC, and more."""
        return _grown(self.moc, self._order)

    @cached_property
    def _within(self) -> "MOC":
        """What has nothing within reach that the MOC does not cover."""
        return _grown(self.moc.complement(), self._order).complement()


def _grown(moc: "MOC", order: int) -> "MOC":
    """Return a MOC of at most an order, with the cells around it."""
    # mocpy adds the neighbours in place
    coarse = moc.degrade_to_order(order) if order < moc.max_order else moc.union(moc)
    return coarse.add_neighbours()


def _moc_format(path: Path) -> str | None:
    """Format of a MOC file (fits, json, ascii), told by its content; None for another file."""
    try:
        with path.open("rb") as stream:
            first = stream.read(_HEAD_BYTES)
    except OSError:
        return None
    if first.startswith((b"SIMPLE", b"\x1f\x8b")):
        from astropy.io import fits

        try:
            with fits.open(path) as file:
                tables = [hdu.header for hdu in file if isinstance(hdu, fits.BinTableHDU)]
        except OSError:
            return None
        keys = ("MOCORDER", "MOCORD_S", "MOCVERS", "MOCDIM")
        found = any(key in header for header in tables for key in keys)
        return "fits" if found else None
    text = first.decode("ascii", "replace")
    if re.match(r'\s*\{\s*("\d+"\s*:|\})', text):
        return "json"
    return "ascii" if re.match(r"\s*s?\d+/[\d\s,/-]*", text) else None


def is_moc(path: str | Path) -> bool:
    """Whether a file is a multi-order coverage map (MOC)."""
    return _moc_format(Path(path).expanduser()) is not None


def read_moc(path: str | Path, wcs: "WCS | None") -> MocMask:
    """Read a MOC (FITS, JSON or ASCII) onto an image.

    Parameters
    ----------
    path : str or Path
    wcs : astropy.wcs.WCS or None
        Celestial WCS of the image.

    Raises
    ------
    InputError
        Where the file cannot be read as a MOC of the sky, or the image has no sky coordinates.
    """
    from mocpy import MOC

    path = Path(path).expanduser()
    if wcs is None:
        raise InputError(
            f"{path}: a MOC is on the sky but the image has no sky coordinates; give a mask in "
            "pixels."
        )
    try:
        moc = MOC.load(str(path), format=_moc_format(path) or "fits")
    except BaseException as error:  # a panic of mocpy's library is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise InputError(f"{path}: this is not a MOC of the sky; write it again.") from error
    return MocMask(moc, wcs)
