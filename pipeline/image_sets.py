"""The chain over aligned planes: one detection, and a measurement on every plane."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.chain import Result
from cyclades.pipeline.chain_run import ChainRun
from cyclades.pipeline.measurement.forced import SIGNIFICANCE, measure_at
from cyclades.pipeline.measurement.planes import (
    PlaneMeasurements,
    check_names,
    plane_suffix,
    time_of,
)
from cyclades.pipeline.measurement.prior import read_prior
from cyclades.pipeline.measurement.rows import upper_limits
from cyclades.pipeline.provenance import describe_file
from cyclades.stages.core.combination import measured_plane
from cyclades.stages.core.schema import FLUX, column
from cyclades.stages.core.source import ImageSet
from cyclades.stages.core.tables import ImageUnits, add_column, per_pixel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cyclades.stages.core.catalogue import Catalogue

logger = logging.getLogger("cyclades.pipeline")
TOTALS = ("total_flux", "total_flux_err")
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
        check_names(self.planes.planes)
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
        names = ", ".join(self.images)
        if not len(catalogue):
            logger.warning("%s: nothing was found, so no plane was measured.", self.source.name)
            return catalogue.replace(meta={**catalogue.meta, "images": names})
        prior, made, further = read_prior(catalogue), {}, {}
        for name, image in self.images.items():
            made[name] = measure_at(
                image, prior, background=self.backgrounds[name], route=self.config,
                context=self.context,
            )  # fmt: skip
            again = self._again(name, order)
            totals = {key: again.pop(key) for key in TOTALS if key in again}
            if totals:
                _replace_totals(made[name], totals)
            if (flags := again.pop("flags", None)) is not None:
                _add_flags((made[name], catalogue), flags)
            further[name] = again
        times = {name: time_of(image) for name, image in self.images.items()}
        planes = PlaneMeasurements(made, times)
        self.products["planes"], joined = planes, planes.joined(catalogue)
        for name, image in self.images.items():
            units = ImageUnits.of(image.unit, beam=True, sky=image.wcs is not None)
            for label, values in further[name].items():
                spec = column("components", label)
                own = replace(
                    spec,
                    name=f"{label}_{plane_suffix(name)}",
                    description=f"{spec.description}; image {name}",
                )
                add_column(joined.components, own, values, units.resolve(spec.unit))
        return joined

    def _again(self, name: str, order: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        """Columns of the characterization on a plane, in units and order of the catalogue."""
        image, components = self.images[name], self.products["components"]
        again = self.config.characterization.measure_again(
            image, self.backgrounds[name], self.products["detections"], components,
            plane=name, context=self.context,
        )  # fmt: skip
        area = np.ones(len(components))
        if per_pixel(image.unit) and image.psf is not None:
            area = image.psf.areas(components.x, components.y)
        return {
            label: (values * area if column("components", label).unit == FLUX else values)[order]
            for label, values in again.items()
        }

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


def _replace_totals(catalogue: "Catalogue", totals: "dict[str, NDArray[Any]]") -> None:
    """Put total fluxes, one a component, and their limits in the place of others.

    Sources have the sums of their components, with errors as if these were independent.
    """
    flux, error = (np.asarray(totals[key], float) for key in TOTALS)
    table = catalogue.components
    sources = np.asarray(catalogue.sources["source_id"])
    owner = np.searchsorted(sources, np.asarray(table["source_id"]))
    summed = np.bincount(owner, flux, len(sources)).astype(float)
    spread = np.sqrt(np.bincount(owner, error**2, len(sources)))
    for rows, f, e in ((table, flux, error), (catalogue.sources, summed, spread)):
        values = dict(zip(TOTALS, (f, e), strict=True)) | upper_limits(f, e, SIGNIFICANCE)
        for name, value in values.items():
            held = rows[name]
            unit = getattr(held, "unit", None)
            rows[name][:] = value.astype(held.dtype) * (1 if unit is None else unit)


def _add_flags(catalogues: "Iterable[Catalogue]", flags: "NDArray[Any]") -> None:
    """Set flags of components, which are in the order of the catalogues, and of their sources."""
    for catalogue in catalogues:
        for row, flag in zip(catalogue.components, flags, strict=True):
            if flag:
                owner = catalogue.sources["source_id"] == row["source_id"]
                catalogue.sources["flags"][owner] |= flag
        catalogue.components["flags"] |= flags


def no_psf(name: str, image: str) -> str:
    """Return the sentence for a plane without a PSF."""
    return (
        f"the plane {name} ({image}) has no PSF, which forced measurement needs; give it with "
        "--beam 1.2arcsec, or --beam stars to measure it from the stars of the image."
    )
