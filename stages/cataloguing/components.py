"""The catalogue of components, grouped into one source an island."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cyclades._version import __version__
from cyclades.stages.cataloguing.rows import (
    Groups,
    Values,
    component_values,
    island_values,
    measured_values,
    positions,
    residuals,
    row_order,
    source_values,
    take,
)
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.naming import decimals_for, iau_names, pixel_names, unique
from cyclades.stages.core.products import Integers
from cyclades.stages.core.schema import FLUX, SCHEMA_VERSION, column
from cyclades.stages.core.stage import CataloguingStage, parameter
from cyclades.stages.core.tables import ImageUnits, make_table, per_pixel

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background, Components, Detections


class ComponentsCatalogue(CataloguingStage):
    """One row a component; the components of an island make one source.

    Where the detector tells objects apart whose pixels touch, a source is one of its objects.
    """

    name: ClassVar[str] = "components"
    summary: ClassVar[str] = "one row a fitted component; the components of an island are a source"
    adds: ClassVar[tuple[str, ...]] = ()

    name_prefix: str = parameter("CYC", "Acronym before the position in source names.")
    resolved_probability: float = parameter(
        0.99,
        "Probability of being wider than the beam above which a component is resolved.",
        ge=0.0,
        le=1.0,
    )
    limit_significance: float = parameter(
        2.0,
        "Significance of a squared size without the beam below which an upper limit is given.",
        unit="sigma",
        ge=0.0,
    )

    def build(
        self,
        image: "SkyImage",
        background: "Background",
        detections: "Detections",
        components: "Components",
        *,
        context: "Context",
    ) -> Catalogue:
        """Return the three linked tables.

        Parameters
        ----------
        image, background : SkyImage, Background
            The plane that was measured, and its maps.
        detections : Detections
            With segments; every island gets a row, whether or not a component was measured.
        components : Components
            In any order: rows and identifiers of the catalogue depend on the sky only.
        context : Context
            Its notes ``detected_by`` and ``measured_by``, where set, fill those columns.

        Raises
        ------
        InputError
            Where the detections lack segments.
        """
        if detections.segments is None:
            raise InputError(
                f"{image.name}: the catalogue needs the pixels of every detection; "
                "pass the detections through complete_detections first."
            )
        island = island_values(image, background, detections, detections.segments)
        component = component_values(image, background, detections, components)
        rank = np.zeros(len(detections), np.int64)
        rank[detections.islands] = np.arange(len(detections.islands))
        component["island"] = rank[component["island"]]
        extra = extra_values(image, components)
        return self.assemble(image, island, component, extra, context=context)

    def assemble(
        self,
        image: "SkyImage",
        island: Values,
        component: Values,
        extra: Values,
        *,
        context: "Context",
    ) -> Catalogue:
        """Return the three linked tables of rows that were measured, whole or window by window.

        Parameters
        ----------
        image : SkyImage
            Gives coordinates, beam and units; its pixels are not looked at.
        island, component : dict
            Columns as of `island_values` and `component_values`, in pixels of `image`; the column
            ``island`` of the components counts the rows of the islands.
        extra : dict
            Further columns of the components, in the units of the catalogue.
        context : Context
            As for `build`.
        """
        sky = image.wcs is not None
        order = row_order(island, sky=sky)
        island = take(island, order)
        rank = np.zeros(len(order), np.int64)
        rank[order] = np.arange(len(order))
        component["island"] = rank[component["island"]]
        component["flags"] = component["flags"] | island["flags"][component["island"]]
        order = row_order(component, sky=sky)
        component = take(component, order)

        group = Groups.of(component["source"], component["total_flux"], component["peak_flux"])
        source = source_values(component, group)
        self._measure(image, component, source, group)
        source = link(component, source, island, group, row_order(source, sky=sky))

        for values in (component, source, island):
            self._name(image, values)
            _complete(image, values, context.notes)
        units = ImageUnits.of(image.unit, beam=image.psf is not None, sky=sky)
        return Catalogue(
            make_table("components", component, units, sky=sky, extra=take(extra, order)),
            make_table("sources", source, units, sky=sky),
            make_table("islands", island, units, sky=sky),
            image_meta(image),
        )

    def _measure(self, image: "SkyImage", component: Values, source: Values, group: Groups) -> None:
        """Add the columns of position and shape to components and sources."""
        n = len(component["x"])
        several = np.flatnonzero(group.counts > 1)
        rows = {
            name: np.concatenate([component[name], source[name][several]])
            for name in ("x", "y", "position_covariance", "shape", "shape_errors")
        }
        merged = positions(image, source["x"][several], source["y"][several])
        for name, value in zip(("ra", "dec"), merged, strict=True):
            rows[name] = np.concatenate([component[name], value])
        measured = measured_values(image, rows, self.limit_significance)
        # A source of one component is that component, to the last bit.
        pick = group.brightest.copy()
        pick[several] = n + np.arange(several.size)
        component.update({name: value[:n] for name, value in measured.items()})
        source.update({name: value[pick] for name, value in measured.items()})
        component["resolved"] = component["resolved_probability"] > self.resolved_probability
        source["resolved"] = component["resolved"][group.brightest] | (group.counts > 1)

    def _name(self, image: "SkyImage", values: Values) -> None:
        """Add the column of names to a table whose rows are in their final order."""
        beam = np.nan
        if image.wcs is not None and image.psf is not None:
            pixel = float(np.sqrt(image.wcs.proj_plane_pixel_area().to_value("arcsec2")))
            beam = image.psf.size * pixel
        x, y = values["x"] + image.origin[1], values["y"] + image.origin[0]
        names = np.array(pixel_names(x, y, prefix=self.name_prefix), dtype=object)
        known = np.isfinite(values["ra"]) & np.isfinite(values["dec"])
        names[known] = iau_names(
            values["ra"][known],
            values["dec"][known],
            prefix=self.name_prefix,
            decimals=decimals_for(beam),
        )
        values["name"] = np.array(unique(names.tolist()), dtype=str)


def link(
    component: Values, source: Values, island: Values, group: Groups, source_order: Integers
) -> Values:
    """Number the rows of the three tables, refer them to each other and share their columns.

    Components and islands are in their final order already, and change in place; the sources are
    returned in theirs.
    """
    n_components, n_sources, n_islands = (len(v["x"]) for v in (component, source, island))
    rank = np.zeros(n_sources, np.int64)
    rank[source_order] = np.arange(n_sources)
    component["component_id"] = np.arange(n_components) + 1
    component["source_id"] = rank[group.index] + 1
    component["n_components"] = group.counts[group.index]
    component["source_code"] = source["source_code"][group.index]
    source["source_id"] = rank + 1
    island["island_id"] = np.arange(n_islands) + 1
    for values in (component, source):
        values["island_id"] = values["island"] + 1
        for name in ("island_flux", "island_flux_err"):
            values[name] = island[name][values["island"]]
    # of several sources of an island none speaks for it alone
    own = Groups.of(component["island"], component["total_flux"], component["peak_flux"])
    measured = component["island"][own.brightest]
    island["n_components"] = np.bincount(component["island"], minlength=n_islands)
    np.bitwise_or.at(island["flags"], component["island"], component["flags"])
    told = residuals(component, own)
    told |= {name: component[name][own.brightest] for name in ("chi2", "degrees_of_freedom")}
    for name, values in told.items():
        island[name] = np.full(n_islands, np.nan)
        island[name][measured] = values
    return take(source, source_order)


def _complete(image: "SkyImage", values: Values, notes: dict[str, Any]) -> None:
    """Add the columns that are the same for every row, and refer pixels to the full image."""
    n = len(values["x"])
    values["frequency"] = np.full(n, image.frequency)
    values["detected_by"] = np.full(n, str(notes.get("detected_by", "")))
    values["measured_by"] = np.full(n, str(notes.get("measured_by", "")))
    values["x"] = values["x"] + image.origin[1]
    values["y"] = values["y"] + image.origin[0]
    if image.wcs is None:
        values["flags"] = values["flags"] | int(Flag.NO_SKY_POSITION)
    else:
        lost = ~(np.isfinite(values["ra"]) & np.isfinite(values["dec"]))
        values["flags"] = values["flags"] | np.where(lost, int(Flag.NO_SKY_POSITION), 0)


def extra_values(image: "SkyImage", components: "Components") -> Values:
    """Further columns of the characterizer, in the units of the catalogue."""
    extra: Values = {name: np.asarray(value) for name, value in components.extra.items()}
    if per_pixel(image.unit) and image.psf is not None:
        area = image.psf.areas(components.x, components.y)
        for name in extra:
            if column("components", name).unit == FLUX:
                extra[name] = extra[name] * area
    return extra


def image_meta(image: "SkyImage") -> dict[str, Any]:
    """What is known of image and software; absent where unknown."""
    meta: dict[str, Any] = {
        "software": "cyclades",
        "version": __version__,
        "schema_version": SCHEMA_VERSION,
        "image": image.name,
    }
    if image.unit is not None:
        meta["unit"] = image.unit.to_string()
    if np.isfinite(image.frequency):
        meta["frequency"] = _rounded(image.frequency)
    axes = None if image.psf is None else image.psf.axes
    if axes is not None:
        for key, value in zip(("beam_major", "beam_minor", "beam_pa"), axes, strict=True):
            meta[key] = _rounded(value)
    return meta


def _rounded(value: float) -> float:
    """Twelve digits: what every format, FITS cards included, gives back unchanged."""
    return float(f"{value:.12g}")
