"""Beams that vary over an image: samples of the beam, and what lies between them.

Covariances are interpolated, element by element, and never axes or angles: an angle jumps from
180 to 0 degrees, and a nearly round beam has none.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    determinant,
    inverse,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.wcs import WCS


class BeamSamples(Protocol):
    """Elements (sxx, sxy, syy) of covariances, known at some positions of a plane."""

    def at(self, x: Floats, y: Floats) -> Floats:
        """Return the elements at 0-based positions, shape (n, 3); NaN where nothing is known."""


@dataclass(frozen=True, eq=False)
class GridSamples:
    """A sample at every pixel of a plane; bilinear between them, the border's value outside.

    Parameters
    ----------
    values : ndarray, shape (3, ny, nx)
        sxx, sxy, syy; pixels with a NaN are passed over.
    """

    values: NDArray[np.floating]

    def at(self, x: Floats, y: Floats) -> Floats:
        """Return the elements at 0-based positions, shape (n, 3)."""
        _, ny, nx = self.values.shape
        known = np.isfinite(x) & np.isfinite(y)
        x = np.clip(np.where(known, x, 0.0), 0.0, nx - 1.0)
        y = np.clip(np.where(known, y, 0.0), 0.0, ny - 1.0)
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        total, weights = np.zeros((len(x), 3)), np.zeros(len(x))
        for j in (0, 1):
            for i in (0, 1):
                weight = np.abs(1 - i - (x - column)) * np.abs(1 - j - (y - row))
                here = self.nodes(np.minimum(row + j, ny - 1), np.minimum(column + i, nx - 1))
                good = np.isfinite(here).all(axis=1) & known
                total[good] += weight[good, None] * here[good]
                weights[good] += weight[good]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total / weights[:, None])

    def nodes(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> Floats:
        """Return the elements of some pixels of the plane, shape (n, 3)."""
        return np.asarray(self.values[:, row, column].T, float)


@dataclass(frozen=True, eq=False)
class AxesSamples(GridSamples):
    """A beam at every pixel of a plane on the sky, by its axes and angle.

    Parameters
    ----------
    values : ndarray, shape (3, ny, nx)
        FWHM major axis, minor axis and position angle in degrees, counted as BPA; they become
        covariances only where they are asked for.
    frame : astropy.wcs.WCS
        Celestial WCS of the plane, along whose `pixel_axes` the elements are given.
    """

    frame: "WCS"

    def nodes(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> Floats:
        """Return the elements of some pixels in degrees squared, shape (n, 3)."""
        flat, back = np.unique(row * self.values.shape[2] + column, return_inverse=True)
        y, x = np.divmod(flat, self.values.shape[2])
        major, minor, angle = np.asarray(self.values[:, y, x], float)
        minor = np.where((minor > 0.0) & (major >= minor), minor, np.nan)
        axes = pixel_axes(sky_jacobian(self.frame, x, y, icrs=False))
        shapes = covariance_from_shape(major, minor, angle)
        return elements(transform_covariance(shapes, np.swapaxes(axes, -1, -2)))[back]


@dataclass(frozen=True, eq=False)
class ScatteredSamples:
    """Samples anywhere on a plane: linear in the triangles between them, the nearest outside.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        0-based positions; fewer than three, or all on one line, give the nearest sample.
    values : ndarray, shape (n, 3)
        sxx, sxy, syy.
    """

    x: Floats
    y: Floats
    values: Floats

    @cached_property
    def _between(self) -> Any:
        from scipy.interpolate import LinearNDInterpolator
        from scipy.spatial import Delaunay, QhullError

        if len(self.x) < 3:
            return None
        try:
            return LinearNDInterpolator(Delaunay(np.stack([self.x, self.y], -1)), self.values)
        except QhullError:
            return None

    @cached_property
    def _nearest(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(np.stack([self.x, self.y], -1))

    def at(self, x: Floats, y: Floats) -> Floats:
        """Return the elements at 0-based positions, shape (n, 3)."""
        place = np.stack([x, y], -1)
        known = np.isfinite(place).all(axis=1)
        found = np.full((len(place), 3), np.nan)
        if self._between is not None:
            found[known] = self._between(place[known])
        outside = known & np.isnan(found).any(axis=1)
        if outside.any():
            found[outside] = self.values[self._nearest.query(place[outside])[1]]
        return found


def elements(covariances: Floats) -> Floats:
    """Return (sxx, sxy, syy), shape (n, 3), of covariances, shape (n, 2, 2)."""
    return np.asarray(covariances)[:, [0, 0, 1], [0, 1, 1]]


def matrices(values: Floats) -> Floats:
    """Return the covariances, shape (n, 2, 2), of elements (sxx, sxy, syy), shape (n, 3)."""
    return np.asarray(values)[:, [0, 1, 1, 2]].reshape(-1, 2, 2)


def pixel_axes(jacobian: Floats) -> Floats:
    """Rotations from the axes of pixels to (east, north): the R of ``J = R S``, S symmetric.

    Along these axes a beam that is the same everywhere on the sky has the same elements in
    any projection, at the poles too, so that they are what can be interpolated.

    Parameters
    ----------
    jacobian : ndarray, shape (n, 2, 2)
        See `sky_jacobian`.
    """
    metric = np.swapaxes(jacobian, -1, -2) @ jacobian
    root = np.sqrt(determinant(metric))[..., None, None]
    trace = np.trace(metric, axis1=-2, axis2=-1)[..., None, None]
    stretch = (metric + root * np.eye(2)) / np.sqrt(trace + 2.0 * root)
    return np.asarray(jacobian @ inverse(stretch))


@dataclass(frozen=True, eq=False)
class PointSpreadMap(PointSpread):
    """A beam that is known by samples.

    Parameters
    ----------
    covariance : ndarray, shape (2, 2)
        A typical one, in pixels squared; it also stands where the samples say nothing.
    wcs : astropy.wcs.WCS, optional
        Of this image; needed where the samples lie on a plane of their own.
    samples : BeamSamples
    frame : astropy.wcs.WCS, optional
        Celestial WCS of the plane of the samples, which are then in degrees squared along its
        `pixel_axes`. Without it they lie on the pixels of the full image, in pixels squared.
    first : (float, float)
        (x, y) of this plane's first pixel in the full image, for samples on its pixels.
    """

    samples: BeamSamples | None = None
    frame: "WCS | None" = None
    first: tuple[float, float] = (0.0, 0.0)

    def window(self, x: float, y: float, wcs: "WCS | None") -> "PointSpreadMap":
        """Return the same beam on the window whose first pixel is (x, y) of this plane."""
        return replace(self, wcs=wcs, first=(self.first[0] + x, self.first[1] + y))

    def covariances(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Covariances of the beam at 0-based pixel positions, shape (n, 2, 2), pixels squared."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        if self.samples is None or not x.size:
            return super().covariances(x, y)
        if self.frame is None:
            local = matrices(self.samples.at(x + self.first[0], y + self.first[1]))
        else:
            assert self.wcs is not None
            place = sample_positions(self.frame, self.wcs, x, y)
            axes = pixel_axes(sky_jacobian(self.frame, *place))
            sky = transform_covariance(matrices(self.samples.at(*place)), axes)
            local = transform_covariance(sky, inverse(sky_jacobian(self.wcs, x, y)))
        bad = ~np.isfinite(local).all(axis=(-1, -2))
        local[bad] = self.covariance
        return local


def sample_positions(frame: "WCS", wcs: "WCS", x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Positions on the plane of `frame` of pixel positions on an image; NaN off the sky."""
    from astropy.wcs.utils import skycoord_to_pixel

    across, along = skycoord_to_pixel(sky_positions(wcs, x, y), frame, 0)
    return np.asarray(across, float), np.asarray(along, float)
