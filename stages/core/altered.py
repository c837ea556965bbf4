"""Images that differ from another by something simple, applied to each window when it is read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Floats
from cyclades.stages.core.rendering import REACH_SIGMA, add_gaussians
from cyclades.stages.core.source import ImageSource
from cyclades.stages.core.tiling import Box, full_box

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.stages.core.beam import PointSpread


@dataclass(frozen=True, eq=False)
class AlteredSource:
    """An `ImageSource` over another one.

    Parameters
    ----------
    inner : ImageSource
    """

    inner: ImageSource

    @property
    def name(self) -> str:
        """What to call the image."""
        return self.inner.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.inner.shape

    @property
    def psf(self) -> "PointSpread | None":
        """Beam or PSF of the plane."""
        return self.inner.psf

    @property
    def wcs(self) -> "WCS | None":
        """Celestial WCS of the plane."""
        known = getattr(self.inner, "wcs", None)
        return self.inner.window(Box(0, 1, 0, 1)).wcs if known is None else known

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box, altered."""
        return self.alter(self.inner.window(box))

    def read(self) -> SkyImage:
        """Return the whole plane, altered."""
        return self.window(full_box(self.shape))

    def alter(self, image: SkyImage) -> SkyImage:
        """Return a window with other pixels."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class NegativeSource(AlteredSource):
    """The negative of an image."""

    def alter(self, image: SkyImage) -> SkyImage:
        """Return a window with the sign of its pixels changed."""
        return image.replace(data=-image.data)


@dataclass(frozen=True, eq=False)
class BrighterSource(AlteredSource):
    """An image with Gaussians added.

    Parameters
    ----------
    inner : ImageSource
    gaussians : ndarray, shape (n, 6)
        ``peak, x, y, sxx, sxy, syy`` in the image's unit and pixels of the full image.
    """

    gaussians: Floats

    def alter(self, image: SkyImage) -> SkyImage:
        """Return a window with the Gaussians that reach into it."""
        box = image.box
        _, x, y, sxx, _, syy = self.gaussians.T
        reach_x, reach_y = REACH_SIGMA * sxx**0.5 + 1.0, REACH_SIGMA * syy**0.5 + 1.0
        near = (x + reach_x >= box.x0) & (x - reach_x <= box.x1)
        near &= (y + reach_y >= box.y0) & (y - reach_y <= box.y1)
        values = self.gaussians[near]  # a copy
        values[:, 1] -= box.x0
        values[:, 2] -= box.y0
        data = image.data.copy()
        add_gaussians(data, values)
        return image.replace(data=data)
