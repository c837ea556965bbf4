"""The catalogue of a forced measurement: rows, names and numbers of the prior."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.measurement.prior import Prior
from cyclades.stages.cataloguing.components import image_meta
from cyclades.stages.cataloguing.rows import (
    Groups,
    Values,
    component_values,
    island_values,
    measured_values,
    positions,
    source_values,
)
from cyclades.stages.characterization.forced import ForcedMeasurement
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.naming import iau_names, pixel_names, unique
from cyclades.stages.core.products import Background, Detections, Floats, Integers, Segments
from cyclades.stages.core.tables import ImageUnits, make_table

PREFIX = "CYC"
LIMIT_OF_SIZE = 2.0
"""Significance of a size without the beam; see `deconvolved_shape`."""
_ABSENT = ("peak_flux", "snr", "local_rms", "local_background")


def _detections(
    shape: tuple[int, int], prior: Prior, segments: Segments, islands: Integers
) -> Detections:
    """Rows of the islands (the pixels of their components), then of the components."""
    number, owner = len(islands), np.searchsorted(islands, prior["island_id"])
    pixel_owner, pixels = owner[segments.owner()], segments.indices
    # an island has each of its pixels once, however many components share it
    unique = np.unique(np.stack([pixel_owner, pixels]), axis=1) if len(pixels) else None
    found, indices = (np.zeros((2, 0), np.int64)) if unique is None else unique
    offsets = np.searchsorted(found, np.arange(number + 1)).astype(np.int64)
    merged = Segments(indices.astype(np.int64), offsets)
    n = len(prior)
    score = np.asarray(prior["detection_score"], float)
    best = np.zeros(number)
    np.maximum.at(best, owner, score)
    return Detections(
        shape=shape,
        box=np.zeros((number + n, 4)),
        score=np.concatenate([best, score]),
        parent=np.concatenate([np.full(number, -1), owner]),
        segments=Segments.concatenate([merged, segments]),
    )


def forced_catalogue(
    image: SkyImage,
    background: Background,
    prior: Prior,
    measured: ForcedMeasurement,
    errors: Floats,
    significance: float,
) -> Catalogue:
    """Make the three tables, with the rows and the numbers of the prior.

    Parameters
    ----------
    image, background : SkyImage, Background
    prior : Prior
    measured : ForcedMeasurement
        Rows as in the prior.
    errors : ndarray, shape (n, 2, 2)
        Covariance of the prior's positions in pixels squared.
    significance : float
        Sigmas of a detection and of an upper limit.
    """
    islands = np.unique(prior["island_id"])
    number, n = len(islands), len(prior)
    detections = _detections(image.shape, prior, measured.segments, islands)
    held = replace(
        measured.components,
        detection=number + np.arange(n),
        island=np.searchsorted(islands, prior["island_id"]),
    )
    component = component_values(image, background, detections, held)
    free = component["fit_type"] == "forced position"
    given = ~free
    component["position_covariance"] = np.where(
        given[:, None, None], errors, component["position_covariance"]
    )
    lost = (component["flags"] & int(Flag.NOT_COVERED)) > 0
    for name in _ABSENT:
        component[name] = np.where(lost, np.nan, component[name])
    for name in ("ra", "dec"):
        if prior.sky:
            component[name] = np.where(given, prior[name], component[name])
    group = Groups.of(prior["source_id"], prior["weight"], prior["weight"])
    source = source_values(component, group)
    source["total_flux_err"] = _source_errors(component, group, measured)
    source["ra"], source["dec"] = _source_positions(image, component, source, group)
    for values in (component, source):
        values.update(measured_values(image, values, LIMIT_OF_SIZE))
    component["resolved"] = prior["resolved"]
    source["resolved"] = prior["resolved"][group.brightest] | (group.counts > 1)
    assert detections.segments is not None
    island = island_values(image, background, detections, detections.segments)
    _share(component, source, island, group, prior, islands)
    for values in (component, source, island):
        _complete(image, values)
    component["name"] = _names(prior["name"], component, prior, image)
    firsts = component["name"][group.brightest]
    source["name"] = _listed(prior.names.get("sources"), source["source_id"], firsts)
    lead = Groups.of(prior["island_id"], prior["weight"], prior["weight"]).brightest
    named = component["name"][lead]
    island["name"] = _listed(prior.names.get("islands"), island["island_id"], named)

    units = ImageUnits.of(image.unit, beam=True, sky=prior.sky)
    tables = []
    for table, values in (("components", component), ("sources", source)):
        flux, error = values["total_flux"], values["total_flux_err"]
        extra = upper_limits(flux, error, significance)
        tables.append(make_table(table, values, units, sky=prior.sky, extra=extra))
    return Catalogue(
        tables[0],
        tables[1],
        make_table("islands", island, units, sky=prior.sky),
        image_meta(image),
    )


def upper_limits(flux: Floats, error: Floats, significance: float) -> dict[str, NDArray[Any]]:
    """Upper limits of fluxes, and where they are what is known.

    ``max(flux, 0) + significance error``: for any true flux F, the limit lies below F with no
    more than the one-sided probability of `significance` sigmas (0.13 percent for 3), and never
    below `significance` errors, however negative the noise made the flux.

    Returns
    -------
    dict of str to ndarray
        ``total_flux_limit`` and ``total_flux_is_limit``.
    """
    with np.errstate(invalid="ignore"):
        return {
            "total_flux_limit": np.maximum(flux, 0.0) + significance * error,
            "total_flux_is_limit": flux < significance * error,
        }


def _source_errors(component: Values, group: Groups, measured: ForcedMeasurement) -> Floats:
    """Errors of the summed fluxes, with the covariances of components fitted together."""
    variance = group.sum(component["total_flux_err"] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = component["total_flux_err"] / component["peak_flux_err"]
    order = np.argsort(group.index, kind="stable")
    starts = np.append(0, np.cumsum(group.counts))
    for number in np.flatnonzero(group.counts > 1):
        rows = order[starts[number] : starts[number + 1]]
        for k, one in enumerate(rows):
            for other in rows[k + 1 :]:
                shared = measured.flux_covariance(int(one), int(other))
                variance[number] += 2.0 * scale[one] * scale[other] * shared
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def _source_positions(
    image: SkyImage, component: Values, source: Values, group: Groups
) -> tuple[Floats, Floats]:
    """Positions of sources: a single component's own, else through the sky."""
    ra, dec = component["ra"][group.brightest], component["dec"][group.brightest]
    several = group.counts > 1
    ra[several], dec[several] = positions(image, source["x"][several], source["y"][several])
    return ra, dec


def _share(
    component: Values,
    source: Values,
    island: Values,
    group: Groups,
    prior: Prior,
    islands: Integers,
) -> None:
    """Give the three tables their numbers, and the columns that follow from one another."""
    for name in ("component_id", "source_id", "island_id", "morphology", "detected_by"):
        component[name] = prior[name]
    component["morphology_probability"] = prior["morphology_probability"]
    lead = group.brightest
    for name in ("source_id", "island_id", "morphology", "detected_by", "morphology_probability"):
        source[name] = component[name][lead]
    component["n_components"] = group.counts[group.index]
    component["source_code"] = source["source_code"][group.index]
    island["island_id"] = islands
    owner = np.asarray(np.searchsorted(islands, component["island_id"]), np.int64)
    by_island = Groups.of(owner, prior["weight"], prior["weight"])
    island["n_components"] = by_island.counts
    first = by_island.brightest
    for name in ("residual_mean", "residual_rms", "chi2", "degrees_of_freedom", "detected_by"):
        island[name] = component[name][first]
    for flag in np.unique(component["flags"]):
        island["flags"][owner[component["flags"] == flag]] |= flag
    for values, rows in ((component, owner), (source, owner[lead])):
        for name in ("island_flux", "island_flux_err"):
            values[name] = island[name][rows]
    empty = island["n_pixels"] == 0
    for name in (*_ABSENT, "ra", "dec", "island_flux", "island_flux_err"):
        island[name] = np.where(empty, np.nan, island[name])


def _complete(image: SkyImage, values: Values) -> None:
    """Add what is the same for every row, and refer pixels to the full image."""
    n = len(values["x"])
    values["frequency"] = np.full(n, image.frequency)
    values["measured_by"] = np.full(n, "forced")
    values["x"] = values["x"] + image.origin[1]
    values["y"] = values["y"] + image.origin[0]
    if image.wcs is None:
        values["flags"] = values["flags"] | int(Flag.NO_SKY_POSITION)


def _names(given: NDArray[Any], component: Values, prior: Prior, image: SkyImage) -> NDArray[Any]:
    """Names of the prior, or made from the positions where it has none."""
    missing = given == ""
    names = given.astype(object)
    if prior.sky:
        known = missing & np.isfinite(prior["ra"]) & np.isfinite(prior["dec"])
        names[known] = iau_names(prior["ra"][known], prior["dec"][known], prefix=PREFIX)
    else:
        x, y = component["x"][missing], component["y"][missing]
        names[missing] = pixel_names(x, y, prefix=PREFIX)
    made = np.array(unique(names.tolist()), dtype=str)
    return np.where(missing, made, given.astype(made.dtype) if len(given) else given)


def _listed(names: dict[int, str] | None, numbers: Integers, default: NDArray[Any]) -> NDArray[Any]:
    """Names by number, where the prior has them."""
    if not names:
        return default
    return np.array(
        [names.get(int(i), str(d)) for i, d in zip(numbers, default, strict=True)], dtype=str
    )
