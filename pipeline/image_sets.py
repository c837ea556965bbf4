"""The chain over aligned planes: one detection, and a measurement on every plane."""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.chain import ChainRun, Result
from cyclades.pipeline.measurement.forced import measure_at
from cyclades.pipeline.measurement.planes import PlaneMeasurements, time_of
from cyclades.pipeline.measurement.prior import read_prior
from cyclades.pipeline.provenance import describe_file
from cyclades.stages.core.combination import measured_plane
from cyclades.stages.core.schema import FLUX, ColumnSpec, column
from cyclades.stages.core.source import ImageSet
from cyclades.stages.core.tables import ImageUnits, add_column, per_pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cyclades.stages.core.catalogue import Catalogue

logger = logging.getLogger("cyclades.pipeline")
_ROW = "_row"
"""A column that says which row of the components a row of the catalogue is of."""


@dataclass
class SetRun(ChainRun):
    """The state of a run over the planes of a set.

    Every plane has its background. Detection sees the set's detection plane (or all planes,
    where it takes them as channels); characterization works on that plane, or on the weighted
    mean where it is a combination. With the positions and shapes of that catalogue the fluxes of
    every plane are measured, and appended as columns with the plane's name.
    """

    planes: ImageSet | None = None

    def in_windows(self) -> bool:
        """Return False: all planes are in memory."""
        return False

    def _read(self) -> None:
        assert self.planes is not None
        self.images = self.planes.read()
        self.products["image"] = next(iter(self.images.values()))

    def _background(self) -> None:
        assert self.planes is not None
        self.backgrounds = {
            name: self.config.background.estimate(image, context=self.context)
            for name, image in self.images.items()
        }
        image, background = measured_plane(self.images, self.backgrounds, self.planes.detection)
        self.products["image"], self.products["background"] = image, background

    def _detection(self) -> None:
        assert self.planes is not None
        self.products["detections"] = self.config.detection.detect_planes(
            self.images, self.backgrounds, self.planes.detection, context=self.context
        )

    def _cataloguing(self) -> None:
        components = self.products["components"]
        components.extra[_ROW] = np.arange(len(components))
        try:
            super()._cataloguing()
        finally:
            del components.extra[_ROW]

    def _refine(self, catalogue: "Catalogue") -> None:
        order = np.asarray(catalogue.components[_ROW], np.int64)
        catalogue.components.remove_column(_ROW)
        super()._refine(self._joined(catalogue, order))

    def _joined(self, catalogue: "Catalogue", order: "NDArray[np.int64]") -> "Catalogue":
        """Add the columns of every plane to a catalogue whose rows are in a given order."""
        components = self.products["components"]
        names = ", ".join(self.images)
        if not len(catalogue):
            logger.warning("%s: nothing was found, so no plane was measured.", self.source.name)
            return catalogue.replace(meta={**catalogue.meta, "images": names})
        prior, made = read_prior(catalogue), {}
        for name, image in self.images.items():
            made[name] = measure_at(
                image, prior, background=self.backgrounds[name], route=self.config,
                context=self.context,
            )  # fmt: skip
        times = {name: time_of(image) for name, image in self.images.items()}
        self.products["planes"] = PlaneMeasurements(made, times)
        joined = self.products["planes"].joined(catalogue)
        for name, image in self.images.items():
            again = self.config.characterization.measure_again(
                image, self.backgrounds[name], components, context=self.context
            )
            units = ImageUnits.of(image.unit, beam=True, sky=image.wcs is not None)
            area = np.ones(len(components))
            if per_pixel(image.unit) and image.psf is not None:
                area = image.psf.areas(components.x, components.y)
            for label, values in again.items():
                spec = column("components", label)
                scaled = values * area if spec.unit == FLUX else values
                own = ColumnSpec(
                    f"{label}_{plane_suffix(name)}", spec.unit, spec.ucd,
                    f"{spec.description}; image {name}", spec.tables, spec.dtype,
                )  # fmt: skip
                add_column(joined.components, own, scaled[order], units.resolve(spec.unit))
        return joined

    def result(self, *, keep: bool) -> Result:
        """Join what was made, and say which files the planes are of."""
        assert self.planes is not None
        made = super().result(keep=keep)
        files: dict[str, Any] = {}
        for name, plane in self.planes.planes.items():
            path = getattr(plane, "path", None)
            files[name] = {"path": None} if path is None else describe_file(path)
        made.provenance["input"]["planes"] = files
        made.provenance["input"]["detection_plane"] = self.planes.detection
        return made


def no_psf(name: str, image: str) -> str:
    """Return the sentence for a plane without a PSF."""
    return (
        f"the plane {name} ({image}) has no PSF, which forced measurement needs; give it with "
        "--beam 1.2arcsec, or --beam stars to measure it from the stars of the image."
    )


def plane_suffix(name: str) -> str:
    """Return a plane's name as it ends the names of columns."""
    return re.sub(r"\W+", "_", name)
