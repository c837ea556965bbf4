"""The restoring beam or PSF of an image, as a function of position."""

from dataclasses import dataclass, replace
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
coverage is projected like the sky). Elsewhere the beam keeps its shape on the sky, as it does in
an image whose reference point lies outside it: no telescope pointed there."""


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
    def from_beam(
        cls, beam: "radio_beam.Beam", wcs: "WCS", shape: tuple[int, int] | None = None
    ) -> "PointSpread":
        """Place a sky beam on an image.

        The position angle is counter-clockwise from the image frame's own +latitude at the
        reference pixel, as BPA is.

        Parameters
        ----------
        beam : radio_beam.Beam
        wcs : astropy.wcs.WCS
            Celestial WCS of the image.
        shape : (ny, nx), optional
            Of the full image, to tell whether the reference point lies in it.
        """
        axes = (beam.major.to_value("deg"), beam.minor.to_value("deg"), beam.pa.to_value("deg"))
        return cls.from_axes(*axes, wcs, shape)

    @classmethod
    def from_axes(
        cls,
        major: float,
        minor: float,
        position_angle: float,
        wcs: "WCS",
        shape: tuple[int, int] | None = None,
    ) -> "PointSpread":
        """Place a beam of given FWHM axes and angle, all in degrees; see `from_beam`."""
        sky = covariance_from_shape(major, minor, position_angle)
        x, y = wcs.wcs.crpix - 1.0
        jacobian = sky_jacobian(wcs, x, y, icrs=False)[0]
        projection = wcs.wcs.ctype[wcs.wcs.lng][-3:]
        outside = shape is not None and not (
            -0.5 <= x <= shape[1] - 0.5 and -0.5 <= y <= shape[0] - 0.5
        )
        return cls(
            transform_covariance(sky, inverse(jacobian)),
            wcs,
            constant_on_sky=outside or projection not in CONSTANT_IN_PIXELS,
        )

    def _sky_covariance(self) -> Floats:
        """Beam covariance in (east, north) of the image's own frame at the reference, deg^2."""
        assert self.wcs is not None
        x, y = self.wcs.wcs.crpix - 1.0
        jacobian = sky_jacobian(self.wcs, x, y, icrs=False)[0]
        return transform_covariance(self.covariance, jacobian)

    @property
    def axes(self) -> tuple[float, float, float] | None:
        """FWHM axes and position angle at the reference pixel in degrees; None without a WCS.

        The angle is that of BPA: from the image frame's own +latitude.
        """
        if self.wcs is None:
            return None
        major, minor, angle = shape_from_covariance(self._sky_covariance())
        return float(major), float(minor), float(angle)

    @property
    def beam(self) -> "radio_beam.Beam | None":
        """The beam at the reference pixel as a `radio_beam.Beam`; None without a WCS."""
        axes = self.axes
        if axes is None:
            return None
        import astropy.units as u
        import radio_beam

        return radio_beam.Beam(*(value * u.deg for value in axes))

    def window(self, x: float, y: float, wcs: "WCS | None") -> "PointSpread":
        """Return the same beam on the window whose first pixel is (x, y) of this plane.

        Parameters
        ----------
        x, y : float
            0-based position of the window's first pixel.
        wcs : astropy.wcs.WCS or None
            That of the window.
        """
        return self if wcs is self.wcs else replace(self, wcs=wcs)

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
