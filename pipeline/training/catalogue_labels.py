"""Labels from catalogues, whoever made them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cyclades.pipeline.comparison.any_catalogue import read_any
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.simulation.objects import EXTENDED
from cyclades.pipeline.training.labelled import (
    PLACE,
    ImageFilesOptions,
    LabelledImage,
    LabelledSource,
    image_name,
)
from cyclades.pipeline.training.samples import Booleans, Floats, Integers, class_numbers
from cyclades.stages.core.coverage import is_moc, read_moc
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    covariance_from_shape,
    determinant,
    inverse,
    pixel_positions,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.masks import FitsMask, read_regions
from cyclades.stages.core.planes import open_plane
from cyclades.stages.core.products import Segments
from cyclades.stages.core.segments import segment_boxes
from cyclades.stages.core.stage import parameter
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord

NAMES = ("compact", "extended", "multi-component")
COMPACT, WIDE, MULTIPLE = range(len(NAMES))
_CERTAIN = 3.0
"""Sigma by which a component's area must exceed the beam's to count as extended."""


class CatalogueOptions(ImageFilesOptions):
    """FITS images with catalogues as labels."""

    kind: Literal["catalogue"] = "catalogue"
    catalogue: str = parameter(
        ..., "Catalogue of all images, or of one each where its path holds {name}, of any finder."
    )
    columns: str | None = parameter(
        None, "YAML file that names the columns of a catalogue of unknown layout."
    )
    together: Literal["source", "island", "nothing"] = parameter(
        "source", "What makes components one object: the same source, the same island, or nothing."
    )
    labelled: str | None = parameter(
        None,
        "Where objects are labelled: a MOC, a DS9 region file, a FITS image that is not zero "
        "there, or a table of discs with ra, dec and radius (deg); a path may hold {name}. "
        "Everywhere where left out.",
    )


class CatalogueSource(LabelledSource):
    """Crops of images whose labels are the rows of a catalogue.

    A component's pixels are those of the ellipse at one FWHM from its centre, and its box is
    around them. A component is extended where its area exceeds the beam's by more than its
    signal to noise explains.

    Parameters
    ----------
    options : CatalogueOptions
    size, classes
        See `SampleSource`.

    Raises
    ------
    InputError
        Where there are no images, or a catalogue cannot be read.
    """

    def __init__(self, options: CatalogueOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(options, size, classes)
        self.options = options
        self._numbers = class_numbers(NAMES, classes, options.classes)
        self._whole: ComparisonTable | None = None

    def load(self, path: Path) -> LabelledImage:
        """Read the labels of an image."""
        source, table = self.open(path), self._table(path)
        x, y = _pixels(table, source)
        shapes = _shapes(table, source, x, y)
        sure = np.isfinite(shapes).all((1, 2))
        for place, side in ((x, source.shape[1]), (y, source.shape[0])):
            # numbers of sources may begin anew in each field of a catalogue of many
            sure &= np.isfinite(place) & (np.abs(place - 0.5 * side) < 1.5 * side)
        with np.errstate(invalid="ignore"):
            sure &= ~(table["peak_flux"] < 0.0)
        rows = np.flatnonzero(sure)
        x, y, shapes, table = x[rows], y[rows], shapes[rows], table.take(rows)
        pixels = [_ellipse(*one, source.shape) for one in zip(x, y, shapes, strict=True)]
        owner = self._owner(table)
        order = np.argsort(owner, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(order) else []
        segments = Segments.from_lists(
            [np.unique(np.concatenate([pixels[row] for row in rows])) for rows in members]
        )
        alone = _component_classes(table, source, x, y, shapes)
        kinds = np.array([alone[m[0]] if len(m) == 1 else MULTIPLE for m in members], np.int64)
        snr = np.array([_largest(table["snr"][m]) for m in members])
        classes = self._numbers[kinds]
        kept = np.flatnonzero((segments.lengths > 0) & (classes >= 0))
        segments = segments.take(kept)
        with np.errstate(invalid="ignore"):
            faint = snr[kept] < self.options.floor
        return LabelledImage(
            source,
            segment_boxes(segments, source.shape[1]) + np.array([0.0, 0.0, 1.0, 1.0]),
            classes[kept],
            segments,
            faint,
            snr[kept],
            self._labelled(path, source),
        )

    def _table(self, path: Path) -> ComparisonTable:
        shared = PLACE not in self.options.catalogue
        if shared and self._whole is not None:
            return self._whole
        file = Path(self.options.catalogue.replace(PLACE, image_name(path))).expanduser()
        table = read_any(file, self.options.columns)
        if shared:
            self._whole = table
        return table

    def _owner(self, table: ComparisonTable) -> Integers:
        """Object that each component belongs to, counted from 0."""
        own = np.arange(len(table))
        if self.options.together == "nothing":
            return own
        group = table[self.options.together]
        key = np.where(group >= 0, group, group.max(initial=0) + 1 + own)
        return np.asarray(np.unique(key, return_inverse=True)[1], np.int64)

    def _labelled(self, path: Path, source: FitsSource) -> Callable[[Box], Booleans] | None:
        if self.options.labelled is None:
            return None
        file = Path(self.options.labelled.replace(PLACE, image_name(path))).expanduser()
        return read_region(file, source)


def read_region(file: Path, source: FitsSource) -> Callable[[Box], Booleans]:
    """Read a part of the sky onto an image: MOC, DS9 regions, mask image or table of discs.

    Raises
    ------
    InputError
        Where the file is none of these.
    """
    if file.suffix.lower() in (".reg", ".ds9", ".crtf"):
        return read_regions(file, source.wcs, source.shape).window
    if is_moc(file):
        return read_moc(file, source.wcs).window
    if file.suffix.lower() in (".csv", ".ecsv", ".txt"):
        from astropy.table import Table

        table = Table.read(file, format="ascii.ecsv" if file.suffix == ".ecsv" else "ascii.csv")
        if not {"ra", "dec", "radius"} <= set(table.colnames):
            raise InputError(f"{file}: a table of discs has the columns ra, dec and radius (deg).")
        return discs(source, *(np.asarray(table[name], float) for name in ("ra", "dec", "radius")))
    plane = open_plane(file)
    if plane.shape != source.shape:
        raise InputError(
            f"{file}: the labelled part has shape {plane.shape}, the image {source.shape}; give "
            "one on the image's own pixels."
        )
    return FitsMask(plane).window


def discs(source: FitsSource, ra: Floats, dec: Floats, radius: Floats) -> Callable[[Box], Booleans]:
    """Return the part of an image that lies in discs on the sky, all in degrees."""
    centres = _sky(ra, dec)

    def window(box: Box) -> Booleans:
        y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1]
        sky = sky_positions(sky_grid(source), x.ravel(), y.ravel())
        inside = np.zeros(x.size, bool)
        for centre, size in zip(centres, radius, strict=True):
            inside |= sky.separation(centre).deg <= size
        return inside.reshape(box.shape)

    return window


def sky_grid(source: FitsSource) -> Any:
    """Return the celestial WCS of an image.

    Raises
    ------
    InputError
        Where it has none.
    """
    if source.wcs is None:
        raise InputError(
            f"{source.path}: the image has no sky coordinates, which these labels need."
        )
    return source.wcs


def _sky(ra: Floats, dec: Floats) -> "SkyCoord":
    from astropy.coordinates import SkyCoord

    return SkyCoord(ra, dec, unit="deg", frame="icrs")


def _pixels(table: ComparisonTable, source: FitsSource) -> tuple[Floats, Floats]:
    """0-based positions of rows on an image: from the sky, where it has coordinates."""
    if source.wcs is None:
        return table["x"], table["y"]
    return pixel_positions(source.wcs, table["ra"], table["dec"])


def _shapes(table: ComparisonTable, source: FitsSource, x: Floats, y: Floats) -> Floats:
    """Covariances of the components in pixels squared: as listed, else the beam's."""
    axes = table["major"], table["minor"], np.nan_to_num(table["position_angle"])
    shapes = np.full((len(table), 2, 2), np.nan)
    known = np.isfinite(axes[0]) & np.isfinite(axes[1]) & (axes[1] > 0.0) & np.isfinite(x + y)
    if source.wcs is not None and known.any():
        sky = covariance_from_shape(
            axes[0][known] / 3600.0, axes[1][known] / 3600.0, axes[2][known]
        )
        jacobian = sky_jacobian(source.wcs, x[known], y[known])
        shapes[known] = transform_covariance(sky, inverse(jacobian))
    lacking = ~np.isfinite(shapes).all((1, 2)) & np.isfinite(x + y)
    if lacking.any():
        if source.psf is None:
            raise InputError(
                f"{source.path}: neither the catalogue nor the image says how large sources are; "
                "give a beam in the option image.beam."
            )
        shapes[lacking] = source.psf.covariances(x[lacking], y[lacking])
    return shapes


def _ellipse(x: float, y: float, shape: Floats, size: tuple[int, int]) -> Integers:
    """Pixels within one FWHM of a Gaussian's centre; at least the one at the centre."""
    limit = SIGMA_TO_FWHM**2
    reach = np.sqrt(limit * np.diag(shape))
    x0, x1 = max(0, int(np.ceil(x - reach[0]))), min(size[1] - 1, int(np.floor(x + reach[0])))
    y0, y1 = max(0, int(np.ceil(y - reach[1]))), min(size[0] - 1, int(np.floor(y + reach[1])))
    dx, dy = np.arange(x0, x1 + 1) - x, np.arange(y0, y1 + 1)[:, None] - y
    p = inverse(shape)
    inside = p[0, 0] * dx**2 + 2.0 * p[0, 1] * dx * dy + p[1, 1] * dy**2 <= limit
    row, column = np.nonzero(inside)
    if len(row):
        return np.asarray((row + y0) * size[1] + column + x0, np.int64)
    middle = round(float(y)), round(float(x))
    seen = 0 <= middle[0] < size[0] and 0 <= middle[1] < size[1]
    return np.full(int(seen), middle[0] * size[1] + middle[1], np.int64)


def _component_classes(
    table: ComparisonTable, source: FitsSource, x: Floats, y: Floats, shapes: Floats
) -> Integers:
    """Compact or extended, for every component."""
    if source.psf is None:
        return np.full(len(table), COMPACT, np.int64)
    beams = np.sqrt(determinant(shapes) / determinant(source.psf.covariances(x, y)))
    # the area of a point source scatters by sqrt(2) over its signal to noise, or so
    noise = _CERTAIN * np.sqrt(2.0) / np.nan_to_num(table["snr"], nan=np.inf)
    extended = (beams > EXTENDED) & (beams > 1.0 + noise)
    return np.where(extended, WIDE, COMPACT).astype(np.int64)


def _largest(values: Floats) -> float:
    """Largest value that is known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else np.nan
