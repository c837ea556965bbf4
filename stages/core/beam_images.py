"""Images of the point-spread function: the Gaussians of their main lobes are the beam."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.beam_files import (
    COLUMNS,
    MOST_PLANES,
    is_fits,
    no_sky,
    numbers,
    pixels_of,
)
from cyclades.stages.core.beam_map import ScatteredSamples, elements, pixel_axes
from cyclades.stages.core.beam_shape import BeamShape
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    Floats,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.io.fits import HDUList
    from astropy.table import Table
    from astropy.wcs import WCS

    from cyclades.stages.core.beam_map import BeamSamples

CUT = 0.35
"""Part of the peak down to which the main lobe is fitted, as CASA does (its ``psfcutoff``)."""

LEAST_PIXELS = 12
"""Pixels of a lobe below which it is widened by one pixel: a Gaussian has six parameters."""

WORST_FIT = 0.1
"""Scatter around the fitted Gaussian, in units of the peak, above which the lobe is none."""

WORST_AREA = 3.0
"""Ratio of the lobe's pixels and those of the Gaussian above the cut that is still one."""


@dataclass(frozen=True, eq=False)
class PsfImage:
    """A point-spread function on pixels of its own, and its place in the image.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    label : str
        What to call it, with its file, in a message.
    wcs : astropy.wcs.WCS or None
        Celestial WCS of its pixels; without one they are as large as the image's.
    place : (float, float) or None
        Degrees (ICRS), or 0-based pixels of the image.
    on_sky : bool
        Whether the place is in degrees.
    """

    data: NDArray[np.float32]
    label: str
    wcs: "WCS | None"
    place: tuple[float, float] | None = None
    on_sky: bool = False

    @cached_property
    def lobe(self) -> tuple[Floats, bool]:
        """Covariance of the main lobe, and whether it is on the sky.

        In pixels squared, in (x, y), without a WCS; with one in degrees squared, along east and
        north of its own frame.
        """
        try:
            covariance, centre = fit_main_lobe(self.data)
        except InputError as error:
            raise InputError(f"{self.label} is no point-spread function: {error}") from None
        if self.wcs is None:
            return covariance, False
        return transform_covariance(
            covariance, sky_jacobian(self.wcs, *centre, icrs=False)[0]
        ), True

    def on_pixels(self, wcs: "WCS | None", x: float, y: float) -> Floats:
        """Covariance in pixels squared of an image of this WCS, at a 0-based position in it."""
        covariance, angular = self.lobe
        if not angular:
            return covariance
        if wcs is None:
            raise self.stranger()
        return transform_covariance(covariance, inverse(sky_jacobian(wcs, x, y, icrs=False)[0]))

    def stranger(self) -> InputError:
        """Say that it cannot be compared with an image without sky coordinates."""
        return InputError(
            f"{self.label} has sky coordinates but the image has none; give the point-spread "
            "function on the image's pixels, without sky coordinates."
        )


def fit_main_lobe(data: NDArray[np.floating]) -> tuple[Floats, tuple[float, float]]:
    """Fit an elliptical Gaussian to the main lobe of a point-spread function.

    Least squares over the pixels that are connected to the highest one above 35 % of it, with
    free height, centre and shape, so that sidelobes do not count.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        The function, of any height; NaN pixels do not count.

    Returns
    -------
    covariance : ndarray, shape (2, 2)
        In pixels squared, in (x, y).
    centre : (float, float)
        x, y, 0-based.

    Raises
    ------
    InputError
        Where there is no such lobe; the sentence goes on from the name of the image.
    """
    from astropy.modeling.fitting import TRFLSQFitter
    from astropy.modeling.models import Gaussian2D
    from scipy.ndimage import binary_dilation, label

    values = np.where(np.isfinite(data), data, -np.inf)
    row, column = (int(i) for i in np.unravel_index(values.argmax(), values.shape))
    peak = float(values[row, column])
    if not 0.0 < peak < np.inf:
        raise InputError("it has no positive pixel.")
    if row in (0, values.shape[0] - 1) or column in (0, values.shape[1] - 1):
        raise InputError("its peak lies at its edge; give images that hold the whole main lobe.")
    regions, _ = label(values > CUT * peak)
    lobe = regions == regions[row, column]
    if lobe[0].any() or lobe[-1].any() or lobe[:, 0].any() or lobe[:, -1].any():
        raise InputError(
            f"its main lobe reaches its edge above {100 * CUT:.0f} % of the peak; give a larger "
            "image of a single point-spread function, with its background subtracted."
        )
    pixels = int(lobe.sum())
    if pixels < LEAST_PIXELS:
        lobe = binary_dilation(lobe, np.ones((3, 3), bool)) & np.isfinite(data)
    y, x = np.nonzero(lobe)
    heights = np.asarray(data, float)[lobe] / peak
    width = 0.5 * np.sqrt(pixels / np.pi)
    start = Gaussian2D(1.0, column, row, 1.1 * width, 0.9 * width, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = TRFLSQFitter()(start, x, y, heights)
    residual = float(np.sqrt(np.mean((heights - found(x, y)) ** 2)))
    angle = float(found.theta.value)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    axes = np.diag([float(found.x_stddev.value) ** 2, float(found.y_stddev.value) ** 2])
    # a plateau is fitted well by a Gaussian far wider than itself
    expected = 2.0 * np.pi * np.log(1.0 / CUT) * np.sqrt(axes[0, 0] * axes[1, 1])
    if not (residual < WORST_FIT and expected / WORST_AREA < pixels < expected * WORST_AREA):
        raise InputError(
            "its main lobe is no Gaussian, even roughly; give an image of a single point-spread "
            "function, with its background subtracted."
        )
    return transform_covariance(axes, turn), (float(found.x_mean.value), float(found.y_mean.value))


def read_psf_images(path: Path) -> list[PsfImage]:
    """Read the images of the point-spread function in a FITS file.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    list of PsfImage
        One a two-dimensional image of the file and one a plane of a cube (axes of length one do
        not count), with the places that the file's table or the headers give. Empty where the
        file holds something else: no FITS images, a table of beams, or a cube of three to five
        planes without a table of positions, which is one of axes.

    Raises
    ------
    InputError
        Where the file is damaged, or its table of positions does not fit.
    """
    from astropy.io import fits

    from cyclades.stages.core.planes import quiet

    if not is_fits(path):
        return []
    try:
        with quiet(), fits.open(path) as file:
            tables = _tables(file)
            places = [place for place in (_places(path, table) for table in tables) if place]
            images = [hdu for hdu in file if hdu.is_image and len(_lengths(hdu)) in (2, 3)]
            axes = any(len(_lengths(i)) == 3 and _lengths(i)[0] <= MOST_PLANES for i in images)
            axes &= any(len(_lengths(i)) == 3 and _lengths(i)[0] >= 3 for i in images)
            if any(map(_is_of_beams, tables)) or (axes and not places):
                return []
            found = [psf for hdu in images for psf in _of_extension(path, file, hdu)]
    except InputError:
        raise
    except (OSError, TypeError, ValueError) as error:  # a file that is cut short gives any of them
        raise InputError(f"{path}: the file is truncated or damaged; write it again.") from error
    if not places or not found:
        return found
    where, on_sky = places[0]
    if len(where) != len(found):
        raise InputError(
            f"{path}: the table of positions has {len(where)} rows for {len(found)} images of "
            "the point-spread function; give one row an image, in their order."
        )
    return [
        replace(psf, place=(float(a), float(b)), on_sky=on_sky)
        for psf, (a, b) in zip(found, where, strict=True)
    ]


def _lengths(hdu: Any) -> list[int]:
    """Lengths of an image's axes other than those of one."""
    return [n for n in hdu.shape if n > 1]


def _tables(file: "HDUList") -> "list[Table]":
    from astropy.io import fits
    from astropy.table import Table

    return [
        Table.read(hdu) for hdu in file if isinstance(hdu, fits.BinTableHDU) and not hdu.is_image
    ]


def _of_extension(path: Path, file: "HDUList", hdu: Any) -> list[PsfImage]:
    """Planes of one extension, with the place that its header gives a single one."""
    from cyclades.stages.core.headers import celestial_wcs

    full = celestial_wcs(hdu.header)
    wcs = None if full is None else full.celestial
    planes = np.array(hdu.data, np.float32).reshape(-1, *_lengths(hdu)[-2:])
    name = " ".join(f"image {file.index_of(hdu)} {hdu.name}".split())
    if len(planes) > 1:
        return [PsfImage(p, f"{path}: plane {i} of {name}", wcs) for i, p in enumerate(planes)]
    psf = PsfImage(planes[0], f"{path}: {name}", wcs)
    for keys in (("RA", "DEC"), ("X", "Y")):
        values = [hdu.header.get(key) for key in keys]
        if all(isinstance(v, int | float) and np.isfinite(v) for v in values):
            return [replace(psf, place=(values[0], values[1]), on_sky=keys[0] == "RA")]
    return [psf]


def _is_of_beams(table: "Table") -> bool:
    """Whether a table gives axes of beams at places: images beside it are something else."""
    names = {name.lower() for name in table.colnames}
    has = {ours: bool(names.intersection(known)) for ours, known in COLUMNS.items()}
    somewhere = (has["ra"] and has["dec"]) or (has["x"] and has["y"])
    return somewhere and has["major"] and has["minor"]


def _places(path: Path, table: "Table") -> tuple[Floats, bool] | None:
    """Positions of a table, shape (n, 2), and whether they are on the sky; None without any."""
    spelt = {name.lower(): name for name in table.colnames}
    for keys, unit in ((("ra", "dec"), "deg"), (("x", "y"), "pix")):
        names = [next((spelt[n] for n in COLUMNS[key] if n in spelt), None) for key in keys]
        if None not in names:
            values = [numbers(path, table, name, unit) for name in names]
            return np.stack(values, -1), unit == "deg"
    return None


def one_for_all(psf: PsfImage, wcs: "WCS | None", shape: tuple[int, int]) -> PointSpread:
    """Beam of a single point-spread function: like the header's, wherever the image was taken."""
    covariance, angular = psf.lobe
    if not angular:
        return PointSpread(covariance, wcs)
    if wcs is None:
        raise psf.stranger()
    major, minor, angle = (float(axis) for axis in shape_from_covariance(covariance))
    return BeamShape.make(major, minor, angle, "deg").place(wcs, shape)


def several(
    path: Path, images: list[PsfImage], wcs: "WCS | None"
) -> "tuple[BeamSamples, WCS | None]":
    """Beams of several point-spread functions, each at its place.

    Raises
    ------
    InputError
        Where one has no place, or all lie off the image's projection.
    """
    x, y = np.full((2, len(images)), np.nan)
    for i, psf in enumerate(images):
        if psf.place is None:
            raise InputError(
                f"{psf.label} has no position; give each point-spread function RA and DEC "
                "(degrees) or X and Y (pixels of the image, from 0) in its header, or add a table "
                "with such columns and a row an image."
            )
        if psf.on_sky and wcs is None:
            raise no_sky(path)
        x[i], y[i] = pixels_of(wcs, *psf.place) if psf.on_sky else psf.place
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise InputError(
            f"{path}: no point-spread function has a position on the image's projection; check "
            "RA and DEC (degrees)."
        )
    rows = np.flatnonzero(known)
    covariances = np.stack([images[i].on_pixels(wcs, float(x[i]), float(y[i])) for i in rows])
    x, y = x[rows], y[rows]
    if wcs is None or all(images[i].wcs is None for i in rows):
        return ScatteredSamples(x, y, elements(covariances)), None
    jacobian = sky_jacobian(wcs, x, y, icrs=False)
    turned = np.swapaxes(pixel_axes(jacobian), -1, -2) @ jacobian
    return ScatteredSamples(x, y, elements(transform_covariance(covariances, turned))), wcs
