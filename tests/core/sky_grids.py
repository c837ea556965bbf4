"""Celestial grids that show the same sky: projections, frames, rotated and skewed CD matrices."""

import warnings

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

CENTRE = SkyCoord(266.0, -28.5, unit="deg")
"""In the galactic plane, where galactic north is far from ICRS north."""

PIXEL = 2.0 / 3600
SIZE = 121

GRIDS = {
    "sin": ("RA---SIN", "DEC--SIN", 0.0, 1.0),
    "sin_rotated": ("RA---SIN", "DEC--SIN", 35.0, 1.0),
    "ncp": ("RA---NCP", "DEC--NCP", 0.0, 1.0),
    "ncp_rotated": ("RA---NCP", "DEC--NCP", -70.0, 1.0),
    "tan": ("RA---TAN", "DEC--TAN", 0.0, 1.0),
    "tan_rotated_oblong": ("RA---TAN", "DEC--TAN", 110.0, 1.4),
    "galactic_sin": ("GLON-SIN", "GLAT-SIN", 0.0, 1.0),
    "galactic_tan_rotated": ("GLON-TAN", "GLAT-TAN", 20.0, 0.8),
    "galactic_car": ("GLON-CAR", "GLAT-CAR", 0.0, 1.0),
    "fk5_sin_rotated": ("RA---SIN", "DEC--SIN", -15.0, 1.0),
}


def make_header(name: str, centre: SkyCoord = CENTRE, size: int = SIZE) -> fits.Header:
    """Header of a grid whose reference lies a few pixels off the middle of the image.

    `oblong` stretches the pixels along y; east is to the left before the rotation.
    """
    kind_x, kind_y, rotation, oblong = GRIDS[name]
    frame = centre.galactic if kind_x.startswith("GLON") else centre.icrs
    if name.startswith("fk5"):
        frame = centre.fk5
    angle = np.radians(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cd = turn @ np.diag([-PIXEL, PIXEL * oblong])
    header = fits.Header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, size, size
    header["CTYPE1"], header["CTYPE2"] = kind_x, kind_y
    header["CRVAL1"] = float(frame.spherical.lon.deg)
    header["CRVAL2"] = float(frame.spherical.lat.deg)
    header["CRPIX1"], header["CRPIX2"] = (size + 1) / 2 + 5.0, (size + 1) / 2 - 3.0
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(cd[i - 1, j - 1])
    if name.startswith("fk5"):
        header["EQUINOX"] = 2000.0
    elif kind_x.startswith("RA"):
        header["RADESYS"] = "ICRS"
    return header


def make_wcs(name: str, centre: SkyCoord = CENTRE, size: int = SIZE) -> WCS:
    """WCS of a grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy remarks on NCP
        return WCS(make_header(name, centre, size))


def render(wcs: WCS, source: SkyCoord, major: float, minor: float, angle: float) -> np.ndarray:
    """Unit-peak Gaussian on the sky, evaluated at pixel centres by spherical trigonometry.

    Axes are FWHM in degrees; the angle is east of ICRS north at the source. None of the package's
    own geometry is used.
    """
    ny, nx = SIZE, SIZE
    y, x = np.mgrid[:ny, :nx]
    sky = wcs.pixel_to_world(x, y).icrs
    distance, direction = source.separation(sky).deg, source.position_angle(sky).rad
    along = distance * np.cos(direction - np.radians(angle))
    across = distance * np.sin(direction - np.radians(angle))
    return np.exp(-4 * np.log(2) * ((along / major) ** 2 + (across / minor) ** 2))


def moments(image: np.ndarray) -> tuple[float, float, float, np.ndarray]:
    """Sum, centroid x and y (0-based) and covariance of an image's positive distribution."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    cx, cy = (image * x).sum() / total, (image * y).sum() / total
    sxy = (image * (x - cx) * (y - cy)).sum() / total
    sxx, syy = (image * (x - cx) ** 2).sum() / total, (image * (y - cy) ** 2).sum() / total
    return total, cx, cy, np.array([[sxx, sxy], [sxy, syy]])
