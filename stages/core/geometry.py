"""Shapes as covariance matrices, and the local geometry of a sky projection.

A Gaussian is carried as the 2x2 covariance matrix of its profile, because convolution,
deconvolution, projection and the comparison with a beam are then plain matrix algebra. The
conventions: pixel coordinates are 0-based (x, y) with (0, 0) the centre of the first pixel; sky
offsets are (east, north); position angles are counted from north through east; sizes are FWHM.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

SIGMA_TO_FWHM = float(np.sqrt(8.0 * np.log(2.0)))
Floats = NDArray[np.float64]
_ROUND = 1e-9


def covariance_from_shape(major: ArrayLike, minor: ArrayLike, position_angle: ArrayLike) -> Floats:
    """Covariance of Gaussians from their FWHM axes and position angle.

    Parameters
    ----------
    major, minor : array_like, shape (...)
        FWHM axes, any length unit.
    position_angle : array_like, shape (...)
        Degrees from the second axis (north) towards the first (east).

    Returns
    -------
    ndarray, shape (..., 2, 2)
        Covariance in (east, north), in the squared unit of the axes.
    """
    angle = np.radians(np.asarray(position_angle, float))
    a2 = (np.asarray(major, float) / SIGMA_TO_FWHM) ** 2
    b2 = (np.asarray(minor, float) / SIGMA_TO_FWHM) ** 2
    s, c = np.sin(angle), np.cos(angle)
    cross = (a2 - b2) * s * c
    first = np.stack([a2 * s * s + b2 * c * c, cross], -1)
    second = np.stack([cross, a2 * c * c + b2 * s * s], -1)
    return np.stack([first, second], -2)


def shape_from_covariance(covariance: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """FWHM axes and position angle of Gaussian covariances; the inverse of `covariance_from_shape`.

    Returns
    -------
    major, minor, position_angle : ndarray, shape (...)
        Axes in the unit of the covariance's square root; degrees in [0, 180), 0 for a round
        shape. A negative eigenvalue (an over-deconvolved axis) gives a zero axis; NaN stays NaN.
    """
    c = np.asarray(covariance, float)
    mean = 0.5 * (c[..., 0, 0] + c[..., 1, 1])
    difference = 0.5 * (c[..., 1, 1] - c[..., 0, 0])
    cross = 0.5 * (c[..., 0, 1] + c[..., 1, 0])
    radius = np.hypot(difference, cross)
    with np.errstate(invalid="ignore"):
        major = SIGMA_TO_FWHM * np.sqrt(np.maximum(mean + radius, 0.0))
        minor = SIGMA_TO_FWHM * np.sqrt(np.maximum(mean - radius, 0.0))
        angle = np.degrees(0.5 * np.arctan2(cross, difference)) % 180.0
        # Rounding alone must not give a round beam an angle, nor turn -0 into 180.
        angle = np.where((radius <= _ROUND * np.abs(mean)) | (angle >= 180.0), 0.0, angle)
    return major, minor, angle


def transform_covariance(covariance: ArrayLike, jacobian: ArrayLike) -> Floats:
    """Carry covariances through a linear map: ``J C J^T`` for every (..., 2, 2) pair."""
    c, j = np.asarray(covariance, float), np.asarray(jacobian, float)
    return np.asarray(j @ c @ np.swapaxes(j, -1, -2))


def determinant(matrices: ArrayLike) -> Floats:
    """Determinants of (..., 2, 2) matrices, without LAPACK's overhead."""
    m = np.asarray(matrices, float)
    return np.asarray(m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0])


def inverse(matrices: ArrayLike) -> Floats:
    """Inverses of (..., 2, 2) matrices; a singular one gives infinities."""
    m = np.asarray(matrices, float)
    first = np.stack([m[..., 1, 1], -m[..., 0, 1]], -1)
    second = np.stack([-m[..., 1, 0], m[..., 0, 0]], -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.stack([first, second], -2) / determinant(m)[..., None, None])


def gaussian_area(covariance: ArrayLike) -> Floats:
    """Integral of a unit-peak Gaussian: ``2 pi sqrt(det C)``, in the unit of the covariance."""
    return np.asarray(2.0 * np.pi * np.sqrt(determinant(covariance)))


def sky_positions(wcs: "WCS", x: ArrayLike, y: ArrayLike, *, icrs: bool = True) -> "SkyCoord":
    """Sky coordinates of 0-based pixel positions, in ICRS or in the image's own frame.

    A header without RADESYS is FK5 where it has an equinox, as the FITS standard says; the
    conversion to ICRS is made here.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    lon, lat = wcs.all_pix2world(np.atleast_1d(x), np.atleast_1d(y), 0)
    if wcs.wcs.lng == 1:
        lon, lat = lat, lon
    position = SkyCoord(lon, lat, unit="deg", frame=wcs_to_celestial_frame(wcs))
    return position.icrs if icrs else position


def pixel_positions(wcs: "WCS", ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
    """0-based pixel positions of ICRS positions in degrees, whatever the image's own frame.

    The inverse of `sky_positions`. NaN where a position is not finite, not on the sky (as -99 for
    unknown), or beyond the projection.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    ra, dec = (np.atleast_1d(np.asarray(v, float)) for v in (ra, dec))
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    good = np.isfinite(ra) & (np.abs(dec) <= 90.0)
    if not good.any():
        return x, y
    there = SkyCoord(ra[good], dec[good], unit="deg", frame="icrs").transform_to(
        wcs_to_celestial_frame(wcs)
    )
    lon, lat = np.asarray(there.spherical.lon.deg), np.asarray(there.spherical.lat.deg)
    world = (lat, lon) if wcs.wcs.lng == 1 else (lon, lat)
    x[good], y[good] = wcs.all_world2pix(*world, 0, quiet=True)
    return x, y


def sky_jacobian(wcs: "WCS", x: ArrayLike, y: ArrayLike, *, icrs: bool = True) -> Floats:
    """Local linear map from pixel offsets to sky offsets.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial WCS of the plane.
    x, y : array_like, shape (n,)
        0-based pixel positions.
    icrs : bool
        Offsets along ICRS east and north; otherwise along the image frame's own.

    Returns
    -------
    ndarray, shape (n, 2, 2)
        ``[[d east/dx, d east/dy], [d north/dx, d north/dy]]`` in degrees per pixel, by central
        differences of one pixel. Directions are compared as unit vectors, so that it holds at
        the poles and across longitude zero.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    steps = [(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)]
    position = sky_positions(
        wcs,
        np.concatenate([x + dx for dx, _ in steps]),
        np.concatenate([y + dy for _, dy in steps]),
        icrs=icrs,
    )
    lon = np.asarray(position.spherical.lon.radian).reshape(5, -1)
    lat = np.asarray(position.spherical.lat.radian).reshape(5, -1)
    vectors = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    east = np.stack([-np.sin(lon[0]), np.cos(lon[0]), np.zeros_like(lon[0])], -1)
    north = np.cross(vectors[0], east)
    along_x, along_y = vectors[1] - vectors[2], vectors[3] - vectors[4]
    rows = [
        np.stack([np.sum(along_x * axis, -1), np.sum(along_y * axis, -1)], -1)
        for axis in (east, north)
    ]
    return np.asarray(np.degrees(np.stack(rows, -2)))
