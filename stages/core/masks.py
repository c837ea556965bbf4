"""Which pixels do not count: blanks written as zeros, mask images, DS9 regions."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.stages.core.planes import FitsPlane

logger = logging.getLogger("cyclades.io")
Booleans = NDArray[np.bool_]

_SAMPLE = 20_000
_FEWEST_ZEROS = 10
_ZERO_SHARE = 1e-5
_FLOOR = 0.05


def zeros_are_blank(blocks: Iterable[NDArray[np.float32]], shape: tuple[int, int]) -> bool:
    """Decide whether exact zeros stand for blank pixels in a floating-point image.

    Parameters
    ----------
    blocks : iterable of ndarray
        Pixels of the image, in pieces of any shape, each seen once.
    shape : (ny, nx)
        Shape of the image.

    Returns
    -------
    bool
        True where all of this holds: exact zeros are more than 1e-5 of all pixels (and at least
        ten), for in continuous noise an exact zero practically never occurs; the other values are
        continuous (more than half of a sample of 20,000 are different), so that zero is not just
        one of few levels, as in counts or quantised data; and zero is not the floor of the
        values, as in a noise-free model, a clipped image or a weight map (some values are
        negative, or the faintest hundredth of them is far from zero).

    Notes
    -----
    Integer pixels are never taken for blank: their BLANK card is the way to say so. The caller
    asks only for floating-point data.
    """
    size = shape[0] * shape[1]
    stride = max(1, size // _SAMPLE)
    while gcd(stride, shape[1]) > 1:  # otherwise the same columns would be sampled in every row
        stride += 1
    zeros = offset = 0
    samples = []
    for block in blocks:
        flat = block.reshape(-1)
        zeros += flat.size - int(np.count_nonzero(flat))
        sample = flat[offset::stride]
        offset = (offset - flat.size) % stride
        samples.append(sample[np.isfinite(sample) & (sample != 0)])
    if zeros < max(_FEWEST_ZEROS, _ZERO_SHARE * size):
        return False
    values = np.concatenate(samples)
    if not values.size:
        return True
    if len(np.unique(values)) <= 0.5 * len(values):
        return False
    lowest = float(values.min())
    return lowest < 0 or float(np.quantile(values, 0.01)) > _FLOOR * float(np.median(values))


class Mask(Protocol):
    """Pixels to leave out, given window by window."""

    def window(self, box: Box) -> Booleans:
        """Return True where pixels of a box of the full image are left out."""


@dataclass(frozen=True)
class ArrayMask:
    """A mask in memory."""

    array: Booleans

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box."""
        return self.array[box.slices]


@dataclass(frozen=True)
class FitsMask:
    """A mask image: a pixel that is neither zero nor blank in it is left out."""

    plane: "FitsPlane"

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box."""
        values = self.plane.read(box)
        drawn: Booleans = np.isfinite(values) & (values != 0)
        return drawn


@dataclass(frozen=True)
class RegionMask:
    """Regions drawn on the pixels of an image, kept as small stamps.

    Parameters
    ----------
    stamps : tuple of (Box, ndarray of bool, bool)
        Where each region lies, its pixels, and whether it adds to the mask or (a DS9 region with
        a minus sign) takes from it, in the order of the file.
    """

    stamps: tuple[tuple[Box, Booleans, bool], ...]

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box: pixels whose centre lies in a region."""
        mask = np.zeros(box.shape, bool)
        for place, stamp, include in self.stamps:
            common = place.intersect(box)
            if common.empty:
                continue
            drawn = stamp[common.shift(-place.y0, -place.x0).slices]
            target = mask[common.shift(-box.y0, -box.x0).slices]
            target[drawn] = include
        return mask


@dataclass(frozen=True)
class OutsideMask:
    """The pixels that another mask does not hold."""

    inside: Mask

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box."""
        return ~self.inside.window(box)


@dataclass(frozen=True)
class JoinedMask:
    """Pixels that any of several masks holds."""

    parts: tuple[Mask, ...]

    def window(self, box: Box) -> Booleans:
        """Return the mask of a box."""
        mask = np.zeros(box.shape, bool)
        for part in self.parts:
            mask |= part.window(box)
        return mask


def read_regions(path: str | Path, wcs: "WCS | None", shape: tuple[int, int]) -> RegionMask:
    """Read a DS9 (or CRTF) region file onto the pixels of an image.

    Parameters
    ----------
    path : str or Path
        A region file; sky regions need a WCS. Points, lines and text have no area and are passed
        over.
    wcs : astropy.wcs.WCS or None
        Celestial WCS of the image.
    shape : (ny, nx)
        Shape of the image.

    Raises
    ------
    InputError
        Where the file cannot be read, holds no region with an area, or gives sky regions for an
        image without sky coordinates.
    """
    from regions import PixelRegion, Regions

    path = Path(path).expanduser()
    try:
        regions = Regions.read(str(path), format="crtf" if path.suffix == ".crtf" else "ds9")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except Exception as error:  # the parsers raise many classes
        raise InputError(f"{path}: this is not a DS9 region file.") from error
    full = Box(0, shape[0], 0, shape[1])
    stamps, drawn = [], 0
    for region in regions:
        include = bool(region.meta.get("include", True))
        if not isinstance(region, PixelRegion):
            if wcs is None:
                raise InputError(
                    f"{path}: the regions are on the sky but the image has no sky coordinates; "
                    "save them in image coordinates."
                )
            region = region.to_pixel(wcs)
        try:
            stamp = region.to_mask(mode="center")
        except NotImplementedError:
            continue
        drawn += 1
        bounds = stamp.bbox
        place = Box(bounds.iymin, bounds.iymax, bounds.ixmin, bounds.ixmax)
        common = place.intersect(full)
        if not common.empty:
            cut = np.asarray(stamp.data, bool)[common.shift(-place.y0, -place.x0).slices]
            stamps.append((common, cut, include))
    if not drawn:
        raise InputError(f"{path}: no region in it has an area.")
    if not stamps:
        logger.warning("%s: no region lies on the image; check its coordinates.", path)
    return RegionMask(tuple(stamps))
