"""Labels of Radio Galaxy Zoo: whole radio galaxies, known only around the sources looked at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cyclades.pipeline.comparison.labels import JUDGED_RADIUS, read_labels
from cyclades.pipeline.comparison.reading import read_table
from cyclades.pipeline.training.augmentation import noise_level
from cyclades.pipeline.training.catalogue_labels import (
    COMPACT,
    MULTIPLE,
    NAMES,
    WIDE,
    discs,
    sky_grid,
)
from cyclades.pipeline.training.labelled import (
    ImageFilesOptions,
    LabelledImage,
    LabelledSource,
    image_name,
)
from cyclades.pipeline.training.samples import Floats, Integers, class_numbers
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import pixel_positions
from cyclades.stages.core.products import Segments
from cyclades.stages.core.segments import label_segments, segment_boxes, segment_maximum
from cyclades.stages.core.stage import parameter

_FLOOD = 3.0
"""Local rms above which pixels are an object's."""
_CONTOUR = 4.0
"""Local rms of the lowest contour that volunteers saw; groups without such a pixel are noise."""
_WIDER = 1.5
"""An object is extended where its contour is wider than a point source's by this factor."""


class RgzOptions(ImageFilesOptions):
    """FITS images with Radio Galaxy Zoo labels, as in a table ``labels.csv``."""

    kind: Literal["rgz"] = "rgz"
    labels: str = parameter(..., "Table of the consensus sources of all images.")
    consensus: float = parameter(
        0.8, "Labels on which a smaller share of volunteers agreed are ignored.", ge=0.0, le=1.0
    )


class RgzSource(LabelledSource):
    """Crops of images with Radio Galaxy Zoo labels; only the discs judged there are labelled.

    An object's pixels are the groups above three times the noise that lie in its labelled
    extent.

    Parameters
    ----------
    options : RgzOptions
    size, classes
        See `SampleSource`.

    Raises
    ------
    InputError
        Where there are no images, or the table cannot be read.
    """

    def __init__(self, options: RgzOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(options, size, classes)
        self.options = options
        file = Path(options.labels).expanduser()
        self.labels = read_labels(file)
        table = read_table(file, "components")
        if "num_peaks" not in table.colnames:
            raise InputError(f"{file} has no column num_peaks; add the number of peaks.")
        self.peaks = [int(number) for number in table["num_peaks"]]
        self._numbers = class_numbers(NAMES, classes, options.classes)

    def load(self, path: Path) -> LabelledImage:
        """Read the labels of an image; sources that are listed twice count once."""
        source = self.open(path)
        if source.psf is None:
            raise InputError(f"{path}: the image has no beam; give one in the option image.beam.")
        mine = [
            (one, number)
            for one, number in zip(self.labels, self.peaks, strict=True)
            if image_name(Path(one.field)) == image_name(path)
        ]
        field, peaks = [one for one, _ in mine], [number for _, number in mine]
        targets = {(one.target_ra, one.target_dec): None for one in field}
        image = source.read()
        significance = image.data - np.nanmedian(image.data)
        significance /= np.float32(noise_level(image.data) or 1.0)
        groups = label_segments(significance, _FLOOD)
        groups = groups.take(np.flatnonzero(segment_maximum(significance, groups) >= _CONTOUR))
        beam = source.psf.size
        scale = float(np.sqrt(sky_grid(source).proj_plane_pixel_area().to_value("arcsec2")))
        places = [np.stack(pixel_positions(sky_grid(source), one.ra, one.dec), -1) for one in field]
        rows: list[Integers] = []
        chosen: list[int] = []
        for k, one in enumerate(field):
            if any(tuple(one.ra) == tuple(field[j].ra) for j in chosen):
                continue
            others = [p for p, two in zip(places, field, strict=True) if set(two.ra) - set(one.ra)]
            radius = 0.5 * one.extent / scale
            pixels = _flooded(groups, source.shape[1], places[k], others, radius, beam)
            if len(pixels):
                rows.append(pixels)
                chosen.append(k)
        snr = np.array([significance.flat[pixels].max() for pixels in rows], float)
        agreed = np.array([field[k].consensus >= self.options.consensus for k in chosen], bool)
        kinds = [
            MULTIPLE if number > 1 else _extent_class(field[k].extent / scale, beam, peak)
            for k, peak in zip(chosen, snr, strict=True)
            for number in [max(len(field[k].ra), peaks[k])]
        ]
        classes = self._numbers[np.array(kinds, np.int64)]
        kept = np.flatnonzero(classes >= 0)
        segments = Segments.from_lists(rows).take(kept)
        snr = snr[kept]
        centres = np.array(list(targets), float).reshape(-1, 2)
        return LabelledImage(
            source,
            segment_boxes(segments, source.shape[1]) + np.array([0.0, 0.0, 1.0, 1.0]),
            classes[kept],
            segments,
            ~agreed[kept] | (snr < self.options.floor),
            snr,
            discs(
                source, centres[:, 0], centres[:, 1], np.full(len(targets), JUDGED_RADIUS / 3600.0)
            ),
            np.stack(pixel_positions(sky_grid(source), *centres.T), -1),
        )


def _flooded(
    groups: Segments, nx: int, own: Floats, others: list[Floats], radius: float, beam: float
) -> Integers:
    """Pixels of the groups that belong to a label.

    These are the groups at its components, and those within its extent that are at no component
    of another label. Positions are (x, y), lengths in pixels.
    """
    rows = []
    for k in range(len(groups)):
        y, x = np.divmod(groups[k], nx)

        def nearest(places: Floats, x: Integers = x, y: Integers = y) -> float:
            return float(np.hypot(np.subtract.outer(places[:, 0], x),
                                  np.subtract.outer(places[:, 1], y)).min())  # fmt: skip

        theirs = any(nearest(places) <= beam for places in others)
        if nearest(own) <= beam or (not theirs and nearest(own.mean(0)[None]) <= radius):
            rows.append(groups[k])
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64)


def _extent_class(extent: float, beam: float, peak: float) -> int:
    """Class of a label of one peak: extended where wider than the contour of a point source.

    Parameters
    ----------
    extent, beam : float
        Diagonal of the box around the contour, and FWHM, in pixels.
    peak : float
        Signal to noise.
    """
    contour = beam * np.sqrt(np.log2(max(peak / _CONTOUR, 2.0)))
    return WIDE if extent > _WIDER * np.sqrt(2.0) * contour else COMPACT
