"""The restoring beam or PSF of an image, as a function of position."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    gaussian_area,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    transform_covariance,
)

if TYPE_CHECKING:
    import radio_beam
    from astropy.wcs import WCS

CONSTANT_IN_PIXELS = ("SIN", "NCP")
"""Projections of a single pointing, in which the beam keeps its shape in pixels (a plane of uv
coverage is projected like the sky). Elsewhere the beam keeps its shape on the sky."""


@dataclass(frozen=True, eq=False)
class PointSpread:
    """A Gaussian beam or PSF that may vary with position.

    Parameters
    ----------
    covariance : ndarray, shape (2, 2)
        Covariance of the beam at the reference pixel, in pixels squared, in (x, y).
    wcs : astropy.wcs.WCS, optional
        Needed where the beam is constant on the sky rather than in pixels.
    constant_on_sky : bool
        Whether the pixel shape follows the local pixel geometry (mosaics, TAN, CAR, ...).
    """

    covariance: Floats
    wcs: "WCS | None" = None
    constant_on_sky: bool = False

    @classmethod
    def from_beam(cls, beam: "radio_beam.Beam", wcs: "WCS") -> "PointSpread":
        """Place a sky beam on an image.

        The position angle is counter-clockwise from the image frame's own +latitude at the
        reference pixel, as BPA is.
        """
        shape = [beam.major.to_value("deg"), beam.minor.to_value("deg"), beam.pa.to_value("deg")]
        sky = covariance_from_shape(*shape)
        x, y = wcs.wcs.crpix - 1.0
        jacobian = sky_jacobian(wcs, x, y, icrs=False)[0]
        projection = wcs.wcs.ctype[wcs.wcs.lng][-3:]
        return cls(
            transform_covariance(sky, inverse(jacobian)),
            wcs,
            constant_on_sky=projection not in CONSTANT_IN_PIXELS,
        )

    def _sky_covariance(self) -> Floats:
        """Beam covariance in (east, north) of the image's own frame at the reference, deg^2."""
        assert self.wcs is not None
        x, y = self.wcs.wcs.crpix - 1.0
        jacobian = sky_jacobian(self.wcs, x, y, icrs=False)[0]
        return transform_covariance(self.covariance, jacobian)

    @property
    def beam(self) -> "radio_beam.Beam | None":
        """The beam at the reference pixel as a `radio_beam.Beam`; None without a WCS."""
        if self.wcs is None:
            return None
        import astropy.units as u
        import radio_beam

        major, minor, angle = shape_from_covariance(self._sky_covariance())
        return radio_beam.Beam(major * u.deg, minor * u.deg, angle * u.deg)

    def covariances(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Covariances of the beam at 0-based pixel positions, shape (n, 2, 2), pixels squared."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        if not self.constant_on_sky or self.wcs is None or not x.size:
            return np.broadcast_to(self.covariance, (x.size, 2, 2)).copy()
        jacobian = sky_jacobian(self.wcs, x, y, icrs=False)
        local = transform_covariance(self._sky_covariance(), inverse(jacobian))
        bad = ~np.isfinite(local).all(axis=(-1, -2))
        local[bad] = self.covariance
        return local

    def areas(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Beam areas ``2 pi sqrt(det C)`` at 0-based pixel positions, in pixels, shape (n,)."""
        return gaussian_area(self.covariances(x, y))

    @property
    def area(self) -> float:
        """Beam area at the reference pixel, in pixels."""
        return float(gaussian_area(self.covariance))

    @property
    def size(self) -> float:
        """Geometric mean FWHM at the reference pixel, in pixels."""
        major, minor, _ = shape_from_covariance(self.covariance)
        return float(np.sqrt(major * minor))
