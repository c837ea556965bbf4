"""Columns of the catalogue as plain arrays: islands, components, and sources made of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.deconvolution import deconvolved_shape, element_transform, fitted_shape
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import (
    Floats,
    shape_from_covariance,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)
from cyclades.stages.core.naming import sky_order
from cyclades.stages.core.products import Integers
from cyclades.stages.core.tables import per_pixel

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background, Components, Detections, Segments

Values = dict[str, Any]

NEGATIVE_LEVEL = -0.5
"""A level below this many local rms is flagged: subtracting it raised the flux."""

_SUSPECT = int(Flag.FIT_FAILED | Flag.SIZE_AT_LIMIT | Flag.BELOW_BEAM)
_COMPLEX = int(Flag.POOR_FIT | Flag.TOO_MANY_COMPONENTS | Flag.WAVELET)


@dataclass(frozen=True, eq=False)
class Groups:
    """Components grouped to sources.

    Attributes
    ----------
    index : ndarray of int, shape (n_components,)
        Group of every component.
    counts : ndarray of int, shape (n_groups,)
    weights : ndarray, shape (n_components,)
        Share of the group's total flux; the shares of a group sum to one.
    brightest : ndarray of int, shape (n_groups,)
        Component with the highest absolute peak.
    """

    index: Integers
    counts: Integers
    weights: Floats
    brightest: Integers

    @classmethod
    def of(cls, island: Integers, total: Floats, peak: Floats) -> "Groups":
        """Group components by island; where no total flux is known, they weigh the same."""
        _, index = np.unique(island, return_inverse=True)
        counts = np.bincount(index).astype(np.int64)
        flux = np.nan_to_num(np.abs(total), nan=0.0, posinf=0.0)
        flux = np.where(np.bincount(index, flux)[index] > 0.0, flux, 1.0) if index.size else flux
        weights = flux / np.bincount(index, flux)[index] if index.size else flux
        order = np.lexsort([np.nan_to_num(np.abs(peak)), index])
        brightest = order[np.cumsum(counts) - 1] if index.size else order
        return cls(index.astype(np.int64), counts, weights, brightest.astype(np.int64))

    def sum(self, values: NDArray[Any]) -> Floats:
        """Sum over the rows of each group, along the first axis of any shape."""
        values = np.asarray(values, float)
        result = np.zeros((len(self.counts), *values.shape[1:]))
        np.add.at(result, self.index, values)
        return result

    def any(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether any row of each group is true."""
        return self.sum(values) > 0.0


def take(values: Values, rows: Integers) -> Values:
    """Return some rows of every column, in the order given."""
    return {name: value[rows] for name, value in values.items()}


def row_order(values: Values, *, sky: bool) -> Integers:
    """Order of the rows: by ra and dec, or by y and x without celestial coordinates."""
    keys = ("ra", "dec", "y", "x") if sky else ("y", "x")
    ties = ("peak_flux", "island")
    return sky_order(*(values[key] for key in (*keys, *ties) if key in values))


def positions(image: "SkyImage", x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """ICRS right ascension and declination in degrees; NaN without celestial coordinates."""
    if image.wcs is None or not len(x):
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    position = sky_positions(image.wcs, x, y)
    return np.asarray(position.ra.deg), np.asarray(position.dec.deg)


def _pixels(image: "SkyImage", x: Floats, y: Floats) -> Integers:
    """Flat index of the pixel nearest to each position, inside the image."""
    ny, nx = image.shape
    columns = np.clip(np.rint(np.nan_to_num(x)), 0, nx - 1).astype(np.int64)
    rows = np.clip(np.rint(np.nan_to_num(y)), 0, ny - 1).astype(np.int64)
    return rows * nx + columns


def touching(
    image: "SkyImage", segments: "Segments"
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the segments that touch the edge of the full image, and those that touch blank pixels.

    Returns
    -------
    edge, blank : ndarray of bool, shape (n,)
        Pixels touch along sides and corners.
    """
    ny, nx = image.shape
    y, x = np.divmod(segments.indices, nx)
    full_y, full_x = y + image.origin[0], x + image.origin[1]
    at_edge = (full_y == 0) | (full_x == 0)
    at_edge |= (full_y == image.full_shape[0] - 1) | (full_x == image.full_shape[1] - 1)
    at_blank = np.zeros(len(x), bool)
    flat = image.data.ravel()
    columns = [np.clip(x + dx, 0, nx - 1) for dx in (-1, 0, 1)]
    for dy in (-1, 0, 1):
        start = np.clip(y + dy, 0, ny - 1) * nx
        for column in columns:
            at_blank |= np.isnan(flat[start + column])
    edge, blank = np.zeros((2, len(segments)), bool)
    owner = segments.owner()
    edge[owner[at_edge]] = True
    blank[owner[at_blank]] = True
    return edge, blank


def island_values(
    image: "SkyImage", background: "Background", detections: "Detections", segments: "Segments"
) -> Values:
    """Columns that follow from the pixels of the islands, one row an island of the detections."""
    islands = detections.islands
    segment = segments.take(islands)
    owner, n, nx = segment.owner(), len(islands), image.shape[1]
    data = image.data.ravel()[segment.indices].astype(float)
    level = background.level.ravel()[segment.indices].astype(float)
    rms = background.rms.ravel()[segment.indices].astype(float)
    sign = detections.signs[islands]
    count = segment.lengths.astype(float)

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(owner, np.nan_to_num(values), minlength=n), float)

    brightest = segment.brightest(sign[owner] * (data - level))
    filled = brightest >= 0
    box = detections.box[islands]
    peak = _pixels(image, 0.5 * (box[:, 0] + box[:, 2]), 0.5 * (box[:, 1] + box[:, 3]))
    peak[filled] = segment.indices[brightest[filled]]
    y, x = np.divmod(peak, nx)
    rows, columns = np.divmod(segment.indices, nx)
    extent = {}
    for name, position, origin, corner in (
        ("x", columns, image.origin[1], box[:, [0, 2]]),
        ("y", rows, image.origin[0], box[:, [1, 3]]),
    ):
        low, high = np.rint(corner[:, 0]).astype(np.int64), np.rint(corner[:, 1]).astype(np.int64)
        held = segment.lengths > 0
        if held.any():
            starts = segment.offsets[:-1][held]
            low[held] = np.minimum.reduceat(position, starts)
            high[held] = np.maximum.reduceat(position, starts)
        extent[f"{name}_min"], extent[f"{name}_max"] = low + origin, high + origin

    with np.errstate(invalid="ignore", divide="ignore"):
        mean_rms, mean_level = total(rms) / count, total(level) / count
    area = np.ones(n) if image.psf is None else image.psf.areas(x, y)
    beams = np.ones(n) if per_pixel(image.unit) else area
    peak_flux = (image.data.ravel()[peak] - background.level.ravel()[peak]).astype(float)
    ra, dec = positions(image, x.astype(float), y.astype(float))
    edge, blank = touching(image, segment)
    flags = np.zeros(n, np.int64) if detections.flags is None else detections.flags[islands].copy()
    flags |= np.where(edge, int(Flag.EDGE), 0) | np.where(blank, int(Flag.BLANK_NEIGHBOUR), 0)
    flags |= np.where(sign < 0, int(Flag.NEGATIVE), 0)
    if background.uncertain is not None:
        unsure = total(background.uncertain.ravel()[segment.indices].astype(float)) > 0.0
        flags |= np.where(unsure, int(Flag.BACKGROUND_UNCERTAIN), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = peak_flux / mean_rms
    return {
        "ra": ra,
        "dec": dec,
        "x": x,
        "y": y,
        "peak_flux": peak_flux,
        "island_flux": total(data - level) / beams,
        "island_flux_err": mean_rms * np.sqrt(count * area) / beams,
        "snr": snr,
        "local_rms": mean_rms,
        "local_background": mean_level,
        "n_pixels": segment.lengths,
        **extent,
        "detection_score": detections.score[islands],
        **morphology(detections, islands),
        "flags": flags,
    }


def component_values(
    image: "SkyImage",
    background: "Background",
    detections: "Detections",
    components: "Components",
) -> Values:
    """Columns of the components before their shapes are carried to the sky, one row a component."""
    c = components
    pixel = _pixels(image, c.x, c.y)
    if detections.summit is not None:
        # A fitted position may fall on a blank pixel next to its island: its summit never does.
        summit = detections.summit[c.detection]
        blank = np.isnan(background.rms.ravel()[pixel])
        pixel = np.where(blank, _pixels(image, summit[:, 0], summit[:, 1]), pixel)
    level = background.level.ravel()[pixel].astype(float)
    rms = background.rms.ravel()[pixel].astype(float)
    flags = c.flags.astype(np.int64)
    if detections.flags is not None:
        flags = flags | detections.flags[c.detection]
    with np.errstate(invalid="ignore", divide="ignore"):
        flags = flags | np.where(level < NEGATIVE_LEVEL * rms, int(Flag.NEGATIVE_BACKGROUND), 0)
        snr = c.peak / rms
    scale = np.ones(len(c))
    if per_pixel(image.unit) and image.psf is not None:
        scale = image.psf.areas(c.x, c.y)
    variance = c.total_err**2
    if c.total_share is not None:
        variance = np.where(np.isfinite(c.total_share), c.total_share, variance)
    ra, dec = positions(image, c.x, c.y)
    return {
        "island": c.island,
        "ra": ra,
        "dec": dec,
        "x": np.asarray(c.x, float),
        "y": np.asarray(c.y, float),
        "peak_flux": np.asarray(c.peak, float),
        "peak_flux_err": c.error("peak"),
        "total_flux": c.total * scale,
        "total_flux_err": c.total_err * scale,
        "total_share": variance * scale**2,
        "beam_flux": c.beam_flux * scale,
        "beam_flux_err": c.beam_flux_err * scale,
        "position_covariance": c.covariance[:, 1:3, 1:3],
        "shape": c.shape_covariance,
        "shape_errors": c.covariance[:, 3:6, 3:6],
        "pixel_covariance": c.covariance[:, 1:, 1:],
        "resolved_probability": c.resolved_probability,
        "local_rms": rms,
        "local_background": level,
        "snr": snr,
        "n_pixels": c.n_pixels,
        "residual_mean": c.residual_mean,
        "residual_rms": c.residual_rms,
        "chi2": c.chi2,
        "degrees_of_freedom": c.degrees_of_freedom,
        "fit_type": np.array(c.fit_type, dtype=str),
        "detection_score": detections.score[c.detection],
        **morphology(detections, c.detection),
        "source": c.island if detections.source is None else detections.source[c.detection],
        "flags": flags,
    }


def morphology(detections: "Detections", rows: Integers) -> Values:
    """Most probable class of some rows of the detections and its probability, where known."""
    if detections.class_probabilities is None or not len(rows):
        return {
            "morphology": np.full(len(rows), ""),
            "morphology_probability": np.full(len(rows), np.nan),
        }
    probabilities = detections.class_probabilities[rows]
    best = np.argmax(probabilities, 1)
    return {
        "morphology": np.array(detections.classes)[best],
        "morphology_probability": probabilities[np.arange(len(rows)), best],
    }


def source_values(component: Values, group: Groups) -> Values:
    """Columns of the sources in pixels and image units, one row a group of components.

    Position, size and their errors are those of the sum of the components' Gaussians: flux-
    weighted mean and second moments, with errors propagated from independent components.
    """
    index, weight = group.index, group.weights
    mean = group.sum(weight[:, None] * np.stack([component["x"], component["y"]], -1))
    offset = np.stack([component["x"], component["y"]], -1) - mean[index]
    spread = component["shape"] + offset[:, :, None] * offset[:, None, :]
    moments = group.sum(weight[:, None, None] * spread)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = component["total_flux_err"] / component["total_flux"]
    # components without any flux weigh the same, whatever their error
    relative = np.nan_to_num(relative, posinf=0.0, neginf=0.0) * weight

    shift = relative[:, None] * offset
    squared = (weight**2)[:, None, None]
    position = squared * component["position_covariance"] + shift[:, :, None] * shift[:, None, :]

    # Derivatives of (m_xx, m_xy, m_yy) by a component's (x, y, s_xx, s_xy, s_yy) and its flux.
    by_parameter = np.zeros((len(index), 3, 5))
    by_parameter[:, 0, 0], by_parameter[:, 1, 0] = 2.0 * offset[:, 0], offset[:, 1]
    by_parameter[:, 1, 1], by_parameter[:, 2, 1] = offset[:, 0], 2.0 * offset[:, 1]
    by_parameter[:, [0, 1, 2], [2, 3, 4]] = 1.0
    by_flux = (spread - moments[index])[:, [0, 0, 1], [0, 1, 1]] * relative[:, None]
    errors = squared * (
        by_parameter @ component["pixel_covariance"] @ np.swapaxes(by_parameter, -1, -2)
    )
    errors = errors + by_flux[:, :, None] * by_flux[:, None, :]

    brightest = {
        name: component[name][group.brightest]
        for name in (
            "peak_flux",
            "peak_flux_err",
            "local_rms",
            "local_background",
            "snr",
            "chi2",
            "degrees_of_freedom",
            "island",
            "morphology",
            "morphology_probability",
        )
    }
    flags = np.zeros(len(group.counts), np.int64)
    np.bitwise_or.at(flags, index, component["flags"])
    score = np.zeros(len(group.counts))
    np.maximum.at(score, index, component["detection_score"])
    poor = group.any((component["flags"] & _COMPLEX) > 0)
    suspect = group.sum((component["flags"] & _SUSPECT) > 0) >= 2
    code = np.where(group.counts > 1, "M", "S")
    return {
        **brightest,
        **residuals(component, group),
        "x": mean[:, 0],
        "y": mean[:, 1],
        "position_covariance": group.sum(position),
        "shape": moments,
        "shape_errors": group.sum(errors),
        "total_flux": group.sum(component["total_flux"]),
        "total_flux_err": np.sqrt(np.maximum(group.sum(component["total_share"]), 0.0)),
        "n_pixels": group.sum(component["n_pixels"]),
        "n_components": group.counts,
        "source_code": np.where(poor | suspect, "C", code),
        "detection_score": score,
        "flags": flags,
    }


def residuals(component: Values, group: Groups) -> Values:
    """Mean and root mean square of the residuals of the components of each group, by pixels."""
    pixels = np.asarray(component["n_pixels"], float)
    count = group.sum(pixels)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = group.sum(pixels * component["residual_mean"]) / count
        rms = np.sqrt(group.sum(pixels * component["residual_rms"] ** 2) / count)
    return {"residual_mean": mean, "residual_rms": rms}


def measured_values(image: "SkyImage", rows: Values, significance: float) -> Values:
    """Positions, shapes and their errors on the sky, with and without the beam.

    Parameters
    ----------
    image : SkyImage
    rows : dict
        ``x, y, ra, dec`` (n,), ``position_covariance`` and ``shape`` (n, 2, 2),
        ``shape_errors`` (n, 3, 3), in pixels.
    significance : float
        See `deconvolved_shape`.

    Returns
    -------
    dict
        Columns of the catalogue; sizes in arcsec, or in pixels without celestial coordinates.
    """
    x, y = rows["x"], rows["y"]
    n = len(x)
    # Without a sky, the frame is that of an image with north up and east to the left.
    jacobian = np.broadcast_to(np.diag([-1.0, 1.0]), (n, 2, 2))
    if image.wcs is not None and n:
        jacobian = sky_jacobian(image.wcs, x, y) * 3600.0
    position = transform_covariance(rows["position_covariance"], jacobian)
    shape = transform_covariance(rows["shape"], jacobian)
    elements = element_transform(jacobian)
    errors = elements @ rows["shape_errors"] @ np.swapaxes(elements, -1, -2)
    beam = np.full((n, 2, 2), np.nan)
    if image.psf is not None:
        beam = transform_covariance(image.psf.covariances(x, y), jacobian)
    fitted = fitted_shape(shape, errors)
    intrinsic = deconvolved_shape(shape, beam, errors, significance=significance)
    psf_major, psf_minor, psf_angle = shape_from_covariance(beam)
    pixel = rows["position_covariance"]
    with np.errstate(invalid="ignore"):
        # a negative variance, which a failed fit may leave, is an unknown error
        ra_err, dec_err, x_err, y_err = (
            np.sqrt(c[:, i, i]) for c in (position, pixel) for i in (0, 1)
        )
    return {
        "ra": rows["ra"],
        "dec": rows["dec"],
        "ra_err": ra_err / 3600.0,
        "dec_err": dec_err / 3600.0,
        "x": x,
        "y": y,
        "x_err": x_err,
        "y_err": y_err,
        "major": fitted.major,
        "major_err": fitted.major_err,
        "minor": fitted.minor,
        "minor_err": fitted.minor_err,
        "position_angle": fitted.position_angle,
        "position_angle_err": fitted.position_angle_err,
        "deconvolved_major": intrinsic.major,
        "deconvolved_major_err": intrinsic.major_err,
        "deconvolved_major_is_limit": intrinsic.major_is_limit,
        "deconvolved_minor": intrinsic.minor,
        "deconvolved_minor_err": intrinsic.minor_err,
        "deconvolved_minor_is_limit": intrinsic.minor_is_limit,
        "deconvolved_position_angle": intrinsic.position_angle,
        "deconvolved_position_angle_err": intrinsic.position_angle_err,
        "psf_major": psf_major,
        "psf_minor": psf_minor,
        "psf_pa": psf_angle,
    }
