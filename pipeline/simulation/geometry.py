"""The frame of a simulated field: pixels, sky coordinates and restoring beam."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.beam_shape import BeamShape

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.stages.core.image import SkyImage

CENTRE = (180.0, -30.0)
"""Right ascension and declination in degrees of a field that is given none."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the pixels of a simulated field lie, and the beam it is restored with.

    Parameters
    ----------
    shape : (ny, nx)
    wcs : astropy.wcs.WCS
        Celestial, ICRS; north up and east left in the fields made by `make`.
    psf : PointSpread
        Restoring beam; its `covariance` is in pixels squared, in (x, y).
    pixel_scale : float
        Degrees a pixel, at the reference pixel.
    frequency : float
        Hz.
    """

    shape: tuple[int, int]
    wcs: "WCS"
    psf: PointSpread
    pixel_scale: float
    frequency: float

    @classmethod
    def make(
        cls,
        shape: tuple[int, int],
        *,
        pixel: float,
        beam: tuple[float, float, float],
        frequency: float,
        centre: tuple[float, float] = CENTRE,
    ) -> "Geometry":
        """Return the frame of a single pointing in the orthographic (SIN) projection.

        Parameters
        ----------
        shape : (ny, nx)
        pixel : float
            Degrees a pixel.
        beam : (major, minor, position angle)
            FWHM axes in degrees; degrees east of north.
        frequency : float
            Hz.
        centre : (ra, dec)
            ICRS degrees of the reference pixel (nx // 2, ny // 2), counted from 0.

        Raises
        ------
        InputError
            For a beam that is far smaller than a pixel, or larger than the field.
        """
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = list(centre)
        wcs.wcs.crpix = [shape[1] // 2 + 1.0, shape[0] // 2 + 1.0]
        wcs.wcs.cdelt = [-pixel, pixel]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        psf = BeamShape.make(*beam, "deg").place(wcs, shape)
        return cls(shape, wcs, psf, pixel, frequency)

    @property
    def beam_area(self) -> float:
        """Area of the beam at the reference pixel, in pixels."""
        return self.psf.area

    @property
    def solid_angle(self) -> float:
        """Area of the field in square degrees, with the pixel of the reference point."""
        return self.shape[0] * self.shape[1] * self.pixel_scale**2

    @property
    def pointing(self) -> tuple[float, float]:
        """0-based (x, y) of the reference pixel, where the telescope points."""
        x, y = self.wcs.wcs.crpix - 1.0
        return float(x), float(y)

    def image(
        self, data: NDArray[np.float32], *, psf: PointSpread | None = None, name: str = "simulated"
    ) -> "SkyImage":
        """Return pixels in Jy/beam as the image that every stage reads.

        Parameters
        ----------
        data : ndarray, shape (ny, nx)
        psf : PointSpread, optional
            Where the beam is not the one of the geometry.
        name : str
        """
        import astropy.units as u

        from cyclades.stages.core.image import SkyImage

        return SkyImage(
            data,
            unit=u.Jy / u.beam,
            wcs=self.wcs,
            psf=self.psf if psf is None else psf,
            frequency=self.frequency,
            name=name,
        )
