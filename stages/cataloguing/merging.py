"""The rows of sources that are put together from the sources of a catalogue."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.stages.cataloguing.hosts import extents
from cyclades.stages.cataloguing.parts import Parts
from cyclades.stages.cataloguing.rows import Groups, Values, row_order, source_values
from cyclades.stages.core.deconvolution import deconvolved_shape, fitted_shape
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats, covariance_from_shape
from cyclades.stages.core.naming import decimals_for, iau_names, pixel_names
from cyclades.stages.core.products import Integers
from cyclades.stages.core.schema import column
from cyclades.stages.core.tables import ImageUnits, add_column, replace_values

if TYPE_CHECKING:
    from astropy.table import QTable

    from cyclades.stages.core.catalogue import Catalogue

_SUMMED = ("n_components",)
_PLAIN = (
    "total_flux",
    "total_flux_err",
    "n_pixels",
    "n_components",
    "residual_mean",
    "residual_rms",
    "detection_score",
    "flags",
)
_SHAPES = ("major", "minor", "position_angle")
_STEP = 1e-4


def merge_sources(
    catalogue: "Catalogue",
    parts: Parts,
    group: Integers,
    probability: Floats | None,
    *,
    significance: float,
) -> "Catalogue":
    """Return a catalogue in which groups of sources are one source each.

    Parameters
    ----------
    catalogue : Catalogue
    parts : Parts
        Its sources.
    group : ndarray of int, shape (sources,)
        Group of every source.
    probability : ndarray, shape (sources,), optional
        That every source belongs to its group; NaN where it is alone. Without it the groups count
        as sources that were found so: no row is flagged, and no column is added.
    significance : float
        See `deconvolved_shape`.

    Returns
    -------
    Catalogue
        Sources and components refer to each other anew; sources have the further columns of an
        association. What was not joined keeps every value but its number.

    Notes
    -----
    Errors take the errors of the parts as independent; that of a part of several components
    includes what these share.
    """
    table = catalogue.sources
    groups = Groups.of(group, _numbers(table, "total_flux"), _numbers(table, "peak_flux"))
    several = np.flatnonzero(groups.counts > 1)
    sources = table[groups.brightest]
    joined = 0 if probability is None else int(Flag.ASSOCIATED)
    if several.size:
        merged = _merged(table, parts, groups, significance, joined)
        for name, values in merged.items():
            _write(sources, name, several, values[several])
        _rename(sources, several)
    code = np.asarray(sources["source_code"]).copy()
    complexes = groups.any(np.asarray(table["source_code"]) == "C")
    code[several] = np.where(complexes[several], "C", "M")
    replace_values(sources, "source_code", code)
    if several.size:
        sources["resolved"][several] = True

    keys = ("ra", "dec", "y", "x", "peak_flux", "island_id")
    held = {name: _numbers(sources, name) for name in keys if name in sources.colnames}
    held["island"] = held.pop("island_id")
    order = row_order(held, sky="ra" in held)
    rank = np.zeros(len(order), np.int64)
    rank[order] = np.arange(len(order))
    components = catalogue.components.copy()
    of = rows_of(table, components)
    new = rank[groups.index[of]]
    sources = sources[order]
    replace_values(sources, "source_id", np.arange(1, len(order) + 1, dtype=np.int32))
    replace_values(components, "source_id", (new + 1).astype(np.int32))
    for name in ("n_components", "source_code"):
        replace_values(components, name, np.asarray(sources[name])[new])
    flags = np.where(groups.counts[groups.index[of]] > 1, joined, 0).astype(np.int32)
    replace_values(components, "flags", np.asarray(components["flags"]) | flags)
    if probability is None:
        return catalogue.replace(sources=sources, components=components)

    weakest = np.full(len(order), np.inf)
    np.fmin.at(weakest, groups.index, probability)
    added = {
        "n_parts": groups.counts[order],
        "association_probability": np.where(np.isfinite(weakest), weakest, np.nan)[order],
        **extents(components, sources, new),
    }
    units = ImageUnits(None, None, "arcsec" if "ra" in sources.colnames else "pix")
    for name, values in added.items():
        spec = column("sources", name)
        add_column(sources, spec, values, units.resolve(spec.unit))
    return catalogue.replace(sources=sources, components=components)


def _numbers(table: "QTable", name: str) -> Floats:
    held = table[name]
    return np.asarray(getattr(held, "value", held), float)


def rows_of(sources: "QTable", components: "QTable") -> Integers:
    """Row of the source of every component."""
    ids = np.asarray(sources["source_id"])
    order = np.argsort(ids, kind="stable")
    return np.asarray(order[np.searchsorted(ids[order], np.asarray(components["source_id"]))])


def _write(table: "QTable", name: str, rows: Integers, values: Any) -> None:
    """Change some rows of a column that keeps its unit."""
    held = table[name]
    unit = getattr(held, "unit", None)
    held[rows] = values if unit is None else values * unit


def _merged(
    table: "QTable", parts: Parts, groups: Groups, significance: float, flag: int
) -> Values:
    """Columns of all groups, from sums over their parts about the first of each."""
    n = len(table)
    first = groups.brightest[groups.index]
    offset = parts.offsets(first, np.arange(n))
    errors = _element_errors(table)
    sky = "ra" in table.colnames
    east, north = ("ra_err", "dec_err") if sky else ("x_err", "y_err")
    scale = 3600.0 if sky else 1.0
    position = np.zeros((n, 2, 2))
    position[:, 0, 0], position[:, 1, 1] = (
        (scale * _numbers(table, name)) ** 2 for name in (east, north)
    )
    whole = np.zeros((n, 5, 5))
    whole[:, :2, :2], whole[:, 2:, 2:] = position, errors
    plain = {
        name: _numbers(table, name)
        for name in (
            "peak_flux", "peak_flux_err", "local_rms", "local_background", "snr", "chi2",
            "degrees_of_freedom", "n_pixels", "residual_mean", "residual_rms", "detection_score",
            "total_flux", "total_flux_err",
        )
    }  # fmt: skip
    values = {
        **plain,
        "x": offset[:, 0],
        "y": offset[:, 1],
        "shape": parts.shape,
        "position_covariance": position,
        "pixel_covariance": whole,
        "total_share": plain["total_flux_err"] ** 2,
        "island": parts.island,
        "morphology": np.asarray(table["morphology"]),
        "morphology_probability": _numbers(table, "morphology_probability"),
        "flags": np.asarray(table["flags"], np.int64),
    }
    made = source_values(values, groups)
    made["flags"] = made["flags"] | flag
    made["n_components"] = groups.sum(_numbers(table, "n_components")).astype(np.int64)
    fitted = fitted_shape(made["shape"], made["shape_errors"])
    beam = parts.beam[groups.brightest]
    own = deconvolved_shape(made["shape"], beam, made["shape_errors"], significance=significance)
    result = {name: made[name] for name in _PLAIN}
    for name in _SHAPES:
        result[name], result[f"{name}_err"] = getattr(fitted, name), getattr(fitted, f"{name}_err")
        result[f"deconvolved_{name}"] = getattr(own, name)
        result[f"deconvolved_{name}_err"] = getattr(own, f"{name}_err")
    for axis in ("major", "minor"):
        result[f"deconvolved_{axis}_is_limit"] = getattr(own, f"{axis}_is_limit")
    return {**result, **_positions(table, parts, groups, made)}


def _positions(table: "QTable", parts: Parts, groups: Groups, made: Values) -> Values:
    """Flux-weighted positions of the groups and their errors."""
    result: Values = {}
    with np.errstate(invalid="ignore"):
        errors = [np.sqrt(made["position_covariance"][:, i, i]) for i in (0, 1)]
        for name in ("x", "y"):
            result[name] = groups.sum(groups.weights * _numbers(table, name))
            # the same share of the flux-weighted error as on the sky, in pixels
            own = (groups.weights * _numbers(table, f"{name}_err")) ** 2
            relative = _numbers(table, "total_flux_err") / _numbers(table, "total_flux")
            shift = _numbers(table, name) - result[name][groups.index]
            moved = np.nan_to_num(relative * groups.weights * shift) ** 2
            result[f"{name}_err"] = np.sqrt(groups.sum(own + moved))
    if "ra" in table.colnames:
        start = groups.brightest
        mean = np.stack([made["x"], made["y"]], -1)
        vector = parts.vectors[start] + np.einsum("gk,gkc->gc", mean, parts.frames[start])
        result["ra"] = np.degrees(np.arctan2(vector[:, 1], vector[:, 0])) % 360.0
        result["dec"] = np.degrees(np.arctan2(vector[:, 2], np.hypot(vector[:, 0], vector[:, 1])))
        result["ra_err"], result["dec_err"] = (error / 3600.0 for error in errors)
    return result


def _element_errors(table: "QTable") -> Floats:
    """Covariance of the elements (s_ee, s_en, s_nn) of shapes, from the errors of their axes."""
    values = [_numbers(table, name) for name in _SHAPES]
    sigma = np.stack([_numbers(table, f"{name}_err") for name in _SHAPES], -1)
    columns = []
    for k, value in enumerate(values):
        step = _STEP * np.maximum(values[0], 1e-9) if k < 2 else np.full(len(value), _STEP)
        high, low = list(values), list(values)
        high[k], low[k] = value + step, value - step
        change = covariance_from_shape(*high) - covariance_from_shape(*low)
        columns.append(
            np.stack([change[:, 0, 0], change[:, 0, 1], change[:, 1, 1]], -1)
            / (2.0 * step)[:, None]
        )
    jacobian = np.stack(columns, -1) * sigma[:, None, :]
    return np.asarray(jacobian @ np.swapaxes(jacobian, -1, -2))


def _rename(sources: "QTable", rows: Integers) -> None:
    """Name some rows after their new positions; all others keep theirs."""
    names = np.asarray(sources["name"]).astype(object)
    x, y = (_numbers(sources, name) for name in ("x", "y"))
    ra, dec = x * np.nan, y * np.nan
    if "ra" in sources.colnames:
        ra, dec = (_numbers(sources, name) for name in ("ra", "dec"))
    taken = set(np.delete(names, rows).tolist())
    for row in rows.tolist():
        prefix = str(names[row]).rpartition(" ")[0]
        beam = np.sqrt(_numbers(sources, "psf_major") * _numbers(sources, "psf_minor"))[row]
        if np.isfinite(ra[row]) and np.isfinite(dec[row]):
            made = iau_names([ra[row]], [dec[row]], prefix=prefix, decimals=decimals_for(beam))[0]
        else:
            made = pixel_names([x[row]], [y[row]], prefix=prefix)[0]
        name, letter = made, ord("a")
        while name in taken:
            name, letter = f"{made}{chr(letter)}", letter + 1
        taken.add(name)
        names[row] = name
    replace_values(sources, "name", names.astype(str))
