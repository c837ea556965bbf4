"""Shapes on the sky: catalogue rows as region files, the image's coverage as a MOC."""

import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import InputError, OutputError
from cyclades.stages.core.geometry import Floats, sky_positions

if TYPE_CHECKING:
    from astropy.table import QTable
    from mocpy import MOC
    from regions import Region

    from cyclades.stages.core.image import SkyImage

_DECIMALS = 8
"""Of degrees or pixels in region files: 0.04 milliarcseconds."""
MOC_SAMPLES = 512
"""Blocks along the longer side of the image: what the coverage resolves."""

_HEAD = {
    "reg": "# Region file format: DS9 astropy/regions\nicrs\n",
    "crtf": "#CRTFv0\nglobal coord=ICRS\n",
}
_LINE = {
    "reg": "ellipse({0:.8f},{1:.8f},{3:.8f},{2:.8f},{4:.8f}) # text={{{5}}}\n",
    "crtf": "ellipse[[{0:.8f}deg, {1:.8f}deg], [{2:.8f}deg, {3:.8f}deg], {4:.8f}deg], "
    "label='{5}'\n",
}
"""Of ra, dec, semi-axes and position angle in degrees, and the name."""
_LABEL = {"reg": "text", "crtf": "label"}


def _values(table: "QTable", name: str, unit: str) -> Floats:
    column = table[name]
    return np.asarray(column.to_value(unit) if hasattr(column, "to_value") else column, float)


def table_regions(table: "QTable", *, label: str = "text") -> "list[Region]":
    """Return the FWHM ellipses of components or sources, or the boxes of islands, as regions.

    On the sky where the table has sky columns, else in 0-based pixels. Rows without a finite
    position or size are left out. A row's name is in the region's metadata, under `label`.
    """
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from regions import (
        EllipsePixelRegion,
        EllipseSkyRegion,
        PixCoord,
        RectanglePixelRegion,
        RegionMeta,
    )

    names = [str(name) for name in table["name"]]
    if "major" not in table.colnames:
        low_x, high_x, low_y, high_y = (
            _values(table, name, "pix") for name in ("x_min", "x_max", "y_min", "y_max")
        )
        return [
            RectanglePixelRegion(
                PixCoord(0.5 * (x0 + x1), 0.5 * (y0 + y1)),
                x1 - x0 + 1.0,
                y1 - y0 + 1.0,
                meta=RegionMeta({label: name}),
            )
            for x0, x1, y0, y1, name in zip(low_x, high_x, low_y, high_y, names, strict=True)
        ]
    sky = "ra" in table.colnames
    first, second = (
        (_values(table, "ra", "deg"), _values(table, "dec", "deg"))
        if sky
        else (_values(table, "x", "pix"), _values(table, "y", "pix"))
    )
    size = "arcsec" if sky else "pix"
    major, minor = _values(table, "major", size), _values(table, "minor", size)
    angle = _values(table, "position_angle", "deg")
    known = np.isfinite(first + second + major + minor + angle) & (minor > 0.0)
    rows = np.flatnonzero(known)
    # The height of a region at angle zero points north, so that with the major axis as height
    # the angle of the region is the position angle; CASA's files have the same order.
    angles = angle * u.deg
    if not sky:
        return [
            EllipsePixelRegion(
                PixCoord(first[i], second[i]),
                minor[i],
                major[i],
                angles[i],
                meta=RegionMeta({label: names[i]}),
            )
            for i in rows
        ]
    position = SkyCoord(first, second, unit="deg", frame="icrs")
    width, height = minor * u.arcsec, major * u.arcsec
    return [
        EllipseSkyRegion(
            position[i], width[i], height[i], angles[i], meta=RegionMeta({label: names[i]})
        )
        for i in rows
    ]


def write_regions(table: "QTable", path: Path, format: str) -> None:
    """Write a table as DS9 (``reg``) or CASA (``crtf``) regions.

    Raises
    ------
    OutputError
        Where the format is not one of the two.
    """
    from regions import Regions

    if format not in ("reg", "crtf"):
        raise OutputError(f"Region files are reg or crtf, not {format!r}.")
    if "ra" in table.colnames and "major" in table.colnames:
        path.write_text(_sky_ellipses(table, format), encoding="utf-8")
        return
    regions = table_regions(table, label=_LABEL[format])
    options: dict[str, Any] = {"format": "ds9", "precision": _DECIMALS}
    if format == "crtf":
        options = {"format": "crtf", "fmt": f".{_DECIMALS}f", "coordsys": "image"}
    text = Regions(regions).serialize(**options) if regions else _HEAD[format]
    if format == "crtf":
        # degrees of pixels are what the package makes of them; CASA wants them called pixels
        text = text.replace("global coord=IMAGE\n", "")
        text = re.sub(r"\[[^][]*\]", lambda inner: inner[0].replace("deg", "pix"), text)
    path.write_text(text, encoding="utf-8")


def _sky_ellipses(table: "QTable", format: str) -> str:
    """Text of the FWHM ellipses, to the letter that of `table_regions` serialized.

    Building and serializing a sky region takes `regions` 0.7 ms a row, which in a large catalogue
    is longer than the whole chain.
    """
    columns = [_values(table, name, "deg") for name in ("ra", "dec")]
    columns += [0.5 * _values(table, name, "deg") for name in ("major", "minor")]
    columns.append(_values(table, "position_angle", "deg"))
    known = np.isfinite(np.sum(columns, axis=0)) & (columns[3] > 0.0)
    rows = zip(*(c[known].tolist() for c in columns), table["name"][known], strict=True)
    return _HEAD[format] + "".join(_LINE[format].format(*row) for row in rows)


def moc_from_image(image: "SkyImage", *, samples: int = MOC_SAMPLES) -> "MOC":
    """Return the part of the sky where an image has valid pixels.

    Parameters
    ----------
    image : SkyImage
        Blank pixels are not covered.
    samples : int
        Blocks of pixels along the longer side. A block with a valid pixel is covered at the
        HEALPix order whose cells are about two blocks wide, so that no holes open between them.

    Raises
    ------
    InputError
        Where the image has no celestial coordinates.
    """
    step = moc_step(image.shape, samples)
    return moc_from_blocks(image, image.shape, covered_blocks(np.isfinite(image.data), step), step)


def moc_step(shape: tuple[int, int], samples: int = MOC_SAMPLES) -> int:
    """Pixels along the side of the blocks that the coverage of an image resolves."""
    return max(1, -(-max(shape) // samples))


def covered_blocks(valid: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Blocks of `step` x `step` pixels that hold a valid one."""
    starts_y, starts_x = (np.arange(0, n, step) for n in valid.shape)
    rows = np.logical_or.reduceat(valid, starts_y, axis=0)
    return np.asarray(np.logical_or.reduceat(rows, starts_x, axis=1))


def moc_from_blocks(
    image: "SkyImage", shape: tuple[int, int], blocks: NDArray[np.bool_], step: int
) -> "MOC":
    """Return the sky that some blocks of an image cover; see `moc_from_image`.

    Parameters
    ----------
    image : SkyImage
        Its coordinates and name; its pixels are not looked at.
    shape : (ny, nx)
        Of the full image.
    blocks : ndarray of bool
        Of `covered_blocks`.
    step : int
        Side of a block in pixels.
    """
    from mocpy import MOC

    if image.wcs is None:
        raise InputError(
            f"{image.name} has no celestial coordinates, so that its coverage is unknown; "
            "leave out the format moc."
        )
    from astropy import units as u

    ny, nx = shape
    row, column = np.nonzero(blocks)
    x = np.minimum(column * step + 0.5 * (step - 1), nx - 1.0)
    y = np.minimum(row * step + 0.5 * (step - 1), ny - 1.0)
    pixel = np.sqrt(image.wcs.proj_plane_pixel_area().to_value("deg2"))
    # HEALPix cells of order k are 58.6 deg / 2^k wide.
    order = int(np.clip(np.floor(np.log2(58.6 / (2.0 * step * pixel))), 0, 29))
    if not x.size:
        return MOC.from_lonlat([] * u.deg, [] * u.deg, max_norder=order)
    position = sky_positions(image.wcs, x, y)
    ra, dec = position.ra, position.dec
    known = np.isfinite(ra.value) & np.isfinite(dec.value)
    return MOC.from_lonlat(ra[known], dec[known], max_norder=order)


def write_moc(image: "SkyImage", path: str | PathLike[str], *, samples: int = MOC_SAMPLES) -> None:
    """Write the coverage of an image as a FITS MOC; see `moc_from_image`."""
    moc_from_image(image, samples=samples).save(str(path), format="fits", overwrite=True)
