"""Files that say how the beam varies over an image: tables of beams, maps of its axes, images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.beam_map import (
    AxesSamples,
    BeamSamples,
    PointSpreadMap,
    ScatteredSamples,
    elements,
    pixel_axes,
)
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.table import Table
    from astropy.wcs import WCS

COLUMNS = {
    "ra": ("ra", "raj2000", "ra_deg", "ra_icrs"),
    "dec": ("dec", "decj2000", "dej2000", "dec_deg", "de_icrs"),
    "x": ("x",),
    "y": ("y",),
    "major": ("psf_major", "psf_maj", "psf_a", "bmaj", "beam_major", "major", "maj"),
    "minor": ("psf_minor", "psf_min", "psf_b", "bmin", "beam_minor", "minor", "min"),
    "angle": ("psf_pa", "psf_position_angle", "bpa", "beam_pa", "position_angle", "pa"),
}
"""Names that a column may have, in lower case; the first that is there is taken, so that the
columns of the beam go before those of a source in a catalogue that has both."""
_READERS = {
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}
MOST_PLANES = 5
"""Planes of a cube up to which it is taken for one of axes."""
_SMALLEST_FWHM = 0.1
_SMALL_IMAGE = 64


def read_point_spread(path: str | Path, wcs: "WCS | None", shape: tuple[int, int]) -> PointSpread:
    """Read how the beam varies over an image.

    Parameters
    ----------
    path : str or Path
        A table (FITS, VOTable, ECSV, CSV) with a beam a row: ``ra``, ``dec`` (degrees, ICRS) or
        ``x``, ``y`` (0-based pixels of the image), ``major``, ``minor`` (FWHM) and ``pa``; other
        usual names (`COLUMNS`) are known, and the file's units. Axes without a unit are in
        degrees, or in pixels for an image without sky coordinates. Or a FITS cube whose first
        three planes are FWHM major axis, minor axis and position angle in degrees, on a
        celestial WCS of its own, as Aegean reads (Hancock, Trott & Hurley-Walker 2018, PASA 35,
        e011). Or FITS images of the point-spread function, of which the main lobes are fitted:
        one for the whole image, or several with a place each; see
        `cyclades.stages.core.beam_images.read_psf_images`.
    wcs : astropy.wcs.WCS or None
        Celestial WCS of the full image.
    shape : (ny, nx)
        Shape of the full image.

    Returns
    -------
    PointSpread
        Position angles in tables with ra and dec are east of ICRS north; otherwise from the
        frame's own +latitude, as BPA. Rows and pixels with a NaN are passed over.

    Raises
    ------
    InputError
        Where the file cannot be read or used.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give a file of beams.")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    psf = _read(path, wcs, shape)
    major, minor, _ = shape_from_covariance(psf.covariance)
    if not _SMALLEST_FWHM <= minor <= major <= max(*shape, _SMALL_IMAGE):
        raise InputError(
            f"{path}: the beam in the middle of the image would be {float(major):.3g} x "
            f"{float(minor):.3g} pixels, which cannot be; check the units of the axes (degrees "
            "where the file gives none)."
        )
    return psf


def _read(path: Path, wcs: "WCS | None", shape: tuple[int, int]) -> PointSpread:
    """Read a file of any of the kinds."""
    from cyclades.stages.core.beam_images import one_for_all, read_psf_images, several

    images = read_psf_images(path)
    if len(images) == 1:
        return one_for_all(images[0], wcs, shape)
    cube = None if images else _read_cube(path)
    if images:
        samples, frame = several(path, images, wcs)
    elif cube is not None:
        if wcs is None:
            raise no_sky(path)
        samples, frame = _grid(path, *cube)
    else:
        samples, frame = _scattered(path, _read_table(path), wcs, shape)
    return _with_typical_beam(PointSpreadMap(np.eye(2), wcs, samples=samples, frame=frame), shape)


def no_sky(path: Path) -> InputError:
    """Say that beams on the sky are of no use to an image without."""
    return InputError(
        f"{path}: the beams are given on the sky but the image has no sky coordinates; give a "
        "table with x, y and axes in pixels."
    )


def _with_typical_beam(psf: PointSpreadMap, shape: tuple[int, int]) -> PointSpreadMap:
    """Put the beam of the image's centre where headers and detection ask for a single one."""
    x, y = 0.5 * (shape[1] - 1.0), 0.5 * (shape[0] - 1.0)
    nothing = PointSpreadMap(np.full((2, 2), np.nan), psf.wcs, samples=psf.samples, frame=psf.frame)
    middle = nothing.covariances(x, y)[0]
    if psf.wcs is not None and psf.frame is not None:
        sky = transform_covariance(middle, sky_jacobian(psf.wcs, x, y, icrs=False)[0])
        at = psf.wcs.wcs.crpix - 1.0
        placed = transform_covariance(sky, inverse(sky_jacobian(psf.wcs, *at, icrs=False)[0]))
        middle = placed if np.isfinite(placed).all() else middle
    return PointSpreadMap(middle, psf.wcs, samples=psf.samples, frame=psf.frame)


def is_fits(path: Path) -> bool:
    """Whether a file begins like FITS, plain or gzipped."""
    with path.open("rb") as stream:
        return stream.read(6).startswith((b"SIMPLE", b"\x1f\x8b"))


def _read_cube(path: Path) -> "tuple[NDArray[np.float32], Header] | None":
    """Planes of the first image in a FITS file that has three or a few more, and its header."""
    from astropy.io import fits

    from cyclades.stages.core.planes import quiet

    if not is_fits(path):
        return None
    try:
        with quiet(), fits.open(path) as file:
            for hdu in file:
                lengths = [n for n in getattr(hdu, "shape", ()) if n > 1]
                if hdu.is_image and len(lengths) == 3 and 3 <= lengths[0] <= MOST_PLANES:
                    planes = hdu.data.reshape(lengths)[:3]
                    return np.array(planes, np.float32), hdu.header.copy()
    except OSError as error:
        raise InputError(f"{path}: the file is truncated or damaged; write it again.") from error
    return None


def _grid(path: Path, planes: NDArray[np.float32], header: "Header") -> "tuple[BeamSamples, WCS]":
    """Beams of a cube on its own plane."""
    from cyclades.stages.core.headers import celestial_wcs
    from cyclades.stages.core.planes import quiet

    with quiet():
        full = celestial_wcs(header)
    if full is None:
        raise InputError(f"{path}: the map of the beam has no usable sky coordinates.")
    frame = full.celestial
    samples = AxesSamples(planes, frame)
    major, minor, _ = planes
    if not (np.isfinite(planes).all(axis=0) & (minor > 0.0) & (major >= minor)).any():
        raise InputError(
            f"{path}: the planes hold no beam; they are major axis, minor axis and position "
            "angle in degrees."
        )
    return samples, frame


def _read_table(path: Path) -> "Table":
    from astropy.table import Table

    from cyclades.stages.core.planes import quiet

    try:
        with quiet():
            return Table.read(path, format=_READERS.get(path.suffix.lower(), "fits"))
    except Exception as error:  # the readers of five formats raise what they like
        raise InputError(
            f"{path}: this is neither a table of beams (FITS, VOTable, ECSV, CSV) nor a FITS cube "
            "of major axis, minor axis and position angle, nor images of the point-spread function."
        ) from error


def _scattered(
    path: Path, table: "Table", wcs: "WCS | None", shape: tuple[int, int]
) -> "tuple[BeamSamples, WCS | None]":
    """Beams of a table on the plane of the image."""
    spelt = {name.lower(): name for name in table.colnames}
    found = {
        ours: next((spelt[name] for name in names if name in spelt), None)
        for ours, names in COLUMNS.items()
    }
    sky = found["ra"] is not None and found["dec"] is not None and wcs is not None
    place = ("ra", "dec") if sky else ("x", "y")
    missing = [name for name in (*place, "major", "minor") if found[name] is None]
    if missing:
        if found["ra"] is not None and wcs is None:
            raise no_sky(path)
        wanted = ", ".join(COLUMNS[missing[0]])
        raise InputError(
            f"{path}: the table of beams has no column for {missing[0]} (looked for {wanted}); "
            f"it has {', '.join(table.colnames)}."
        )
    in_pixels = wcs is None or _unit(table, found["major"]) in ("pix", "pixel")
    axis_unit = "pix" if in_pixels else "deg"
    first, second = (numbers(path, table, found[name], "deg" if sky else "pix") for name in place)
    major, minor = (numbers(path, table, found[name], axis_unit) for name in ("major", "minor"))
    angle = np.zeros(len(table))
    if found["angle"] is not None:
        angle = numbers(path, table, found["angle"], "deg")
    known = np.isfinite(np.sum([first, second, major, minor, angle], axis=0)) & (minor > 0.0)
    if not known.any():
        raise InputError(f"{path}: no row of the table has a position and a beam.")
    first, second, major, minor, angle = (
        values[known] for values in (first, second, major, minor, angle)
    )
    covariances = covariance_from_shape(major, minor, angle)
    if sky:
        first, second = pixels_of(wcs, first, second)
        inside = np.isfinite(first) & np.isfinite(second)
        first, second, covariances = first[inside], second[inside], covariances[inside]
        if not len(first):
            raise InputError(f"{path}: no beam of the table lies on the sky of the image.")
    if in_pixels:
        flip = np.diag([-1.0, 1.0])
        return ScatteredSamples(first, second, elements(flip @ covariances @ flip)), None
    axes = pixel_axes(sky_jacobian(wcs, first, second, icrs=sky))
    values = elements(transform_covariance(covariances, np.swapaxes(axes, -1, -2)))
    good = np.isfinite(values).all(axis=1)
    return ScatteredSamples(first[good], second[good], values[good]), wcs


def pixels_of(wcs: Any, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
    """Return the 0-based pixels of ICRS positions in degrees; NaN off the projection."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import skycoord_to_pixel

    x, y = skycoord_to_pixel(SkyCoord(ra, dec, unit="deg", frame="icrs"), wcs, 0)
    return np.asarray(x, float), np.asarray(y, float)


def _unit(table: "Table", name: str | None) -> str:
    return str(table[name].unit or "")


def numbers(path: Path, table: "Table", name: str | None, unit: str) -> Floats:
    """Values of a column in a unit; without a unit of its own they are taken to be in it."""
    import astropy.units as u

    column = table[name]
    try:
        values = np.ma.filled(np.ma.MaskedArray(column).astype(float), np.nan)
        factor = 1.0 if column.unit in (None, "") else float(u.Unit(column.unit).to(unit))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        raise InputError(
            f"{path}: the column {name!r} of the table of beams is not in {unit} or what converts "
            "to it."
        ) from error
    return np.asarray(values, float) * factor
