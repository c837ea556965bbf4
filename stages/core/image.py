"""One plane of the sky in memory."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.tiling import Box, full_box

if TYPE_CHECKING:
    import radio_beam
    from astropy.io.fits import Header
    from astropy.units import UnitBase
    from astropy.wcs import WCS

LARGEST = 1e36
"""Pixels of this size leave room for sums of them within single precision (3.4e38)."""


def single_precision(values: ArrayLike) -> NDArray[np.float32]:
    """Return values in C order and single precision.

    Finite ones beyond its range become the largest there is, and not infinite, which would be
    blank: see `SkyImage.check_range`.
    """
    given = np.asarray(values)
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(given, np.float32)
    if given.dtype.kind == "f" and given.dtype.itemsize > 4:
        lost = np.isinf(made) & np.isfinite(given)
        if lost.any():
            made[lost] = np.copysign(np.finfo(np.float32).max, given[lost])
    return made


@dataclass(frozen=True, eq=False)
class SkyImage:
    """A single plane: what every stage reads.

    Parameters
    ----------
    data : ndarray, shape (ny, nx), float32
        Native-endian and C-contiguous; NaN where blank or masked.
    unit : astropy unit, optional
        Unit of the pixels (``Jy / beam``); dimensionless where the header says nothing.
    wcs : astropy.wcs.WCS, optional
        Celestial WCS of exactly this plane; without it sky columns are absent.
    psf : PointSpread, optional
        The beam or PSF on this plane.
    frequency : float
        Hz; NaN where unknown.
    mask : ndarray of bool, shape (ny, nx), optional
        True where the user excluded pixels (their data are NaN).
    weight : ndarray, shape (ny, nx), optional
        Relative inverse variances; the rms is then measured on image * sqrt(weight).
    origin : (int, int)
        (y, x) of this plane's first pixel in the full image.
    full_shape : (int, int)
        Shape of the full image.
    name : str
        What to call the image in products and messages.
    header : astropy.io.fits.Header, optional
        Header of the full image, for products.
    """

    data: NDArray[np.float32]
    unit: "UnitBase | None" = None
    wcs: "WCS | None" = None
    psf: PointSpread | None = None
    frequency: float = np.nan
    mask: NDArray[np.bool_] | None = None
    weight: NDArray[np.float32] | None = None
    origin: tuple[int, int] = (0, 0)
    full_shape: tuple[int, int] = (0, 0)
    name: str = "image"
    header: "Header | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        if data.ndim != 2 or 0 in data.shape:
            raise InputError(
                f"{self.name}: an image is one plane with two axes, not an array of shape "
                f"{data.shape}; choose a plane first."
            )
        data = single_precision(data)
        for label in ("mask", "weight"):
            plane = getattr(self, label)
            if plane is not None and plane.shape != data.shape:
                raise InputError(
                    f"{self.name}: the {label} has shape {plane.shape}, the image {data.shape}; "
                    "give one on the image's own pixels."
                )
        infinite = np.isinf(data)
        if self.mask is not None or infinite.any():
            bad = infinite if self.mask is None else infinite | self.mask
            data = np.where(bad, np.float32(np.nan), data)
        object.__setattr__(self, "data", data)
        if self.wcs is not None:
            # units and defaults of a WCS made by hand are filled in only now
            self.wcs.wcs.set()
        if self.full_shape == (0, 0):
            object.__setattr__(self, "full_shape", data.shape)

    def __repr__(self) -> str:
        ny, nx = self.shape
        unit = "no unit" if self.unit is None else self.unit.to_string() or "no unit"
        beam = "no beam" if self.psf is None else f"beam of {self.psf.size:.3g} pixels"
        frame = "no sky coordinates" if self.wcs is None else "/".join(self.wcs.wcs.ctype)
        return f"<SkyImage {self.name}: {nx} x {ny} pixels, {unit}, {beam}, {frame}>"

    def check_range(self) -> "SkyImage":
        """Return the image itself.

        Raises
        ------
        InputError
            Where pixels are so large that fluxes would leave the range of single precision.
        """
        ends = (np.fmin.reduce(self.data, axis=None), np.fmax.reduce(self.data, axis=None))
        if ends[0] < -LARGEST or ends[1] > LARGEST:
            number = np.count_nonzero(self.data < -LARGEST) + np.count_nonzero(self.data > LARGEST)
            raise InputError(
                f"{self.name}: {number} pixels lie beyond {LARGEST:.0e}, where sums leave the "
                "range of single precision; leave them out by --mask if they stand for blank "
                "ones, or write the image in a larger unit."
            )
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.data.shape[0], self.data.shape[1]

    @property
    def box(self) -> Box:
        """Where the plane lies in the full image."""
        return full_box(self.shape).shift(*self.origin)

    @property
    def beam(self) -> "radio_beam.Beam | None":
        """The beam at the reference pixel."""
        return None if self.psf is None else self.psf.beam

    def cutout(self, box: Box) -> "SkyImage":
        """Return the part of the plane inside a box of full-image pixels."""
        inside = box.intersect(self.box)
        if inside.empty:
            raise InputError(f"{self.name}: the box {tuple(box)} lies outside the image.")
        local = inside.shift(-self.origin[0], -self.origin[1])
        cut = local.slices
        wcs = None if self.wcs is None else self.wcs.slice(cut)
        psf = None if self.psf is None else self.psf.window(local.x0, local.y0, wcs)
        return self.replace(
            data=self.data[cut],
            wcs=wcs,
            psf=psf,
            mask=None if self.mask is None else self.mask[cut],
            weight=None if self.weight is None else self.weight[cut],
            origin=(inside.y0, inside.x0),
        )

    def replace(self, **changes: Any) -> "SkyImage":
        """Return a copy with some attributes changed."""
        return replace(self, **changes)
