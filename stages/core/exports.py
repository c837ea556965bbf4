"""The catalogue in the columns of other source finders, as tables of columns.

A column's source is a column of the exported table, ``table.column`` of a linked one (through
``island_id`` or ``source_id``), ``=value`` for a constant, or nothing where cyclades has no such
value (NaN). ``form:column`` changes the values: ``hms`` and ``dms`` to sexagesimal text,
``several`` to 1 where above one, ``within`` to the number of the row among equal values,
``measured`` to 0 where the value is an upper limit. Values are converted to the unit given;
fluxes of an image that is not in Jy keep its unit.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import OutputError
from cyclades.stages.core.registry import suggestion

if TYPE_CHECKING:
    from astropy.table import QTable, Table

    from cyclades.stages.core.catalogue import Catalogue


class ExportColumn(NamedTuple):
    """A column of another source finder: its name, where it comes from, its unit."""

    name: str
    source: str = ""
    unit: str = ""
    missing: float = np.nan


class Layout(NamedTuple):
    """The columns of another source finder's catalogue, made from one of our tables."""

    description: str
    table: str
    columns: tuple[ExportColumn, ...]


_C = ExportColumn


def _pairs(
    names: Sequence[tuple[str, str]], unit: str, error: str, source: str = "{}_err"
) -> tuple[ExportColumn, ...]:
    """Columns each followed by that of its error."""
    return tuple(
        made
        for name, column in names
        for made in (_C(name, column, unit), _C(error.format(name), source.format(column), unit))
    )


_AEGEAN = (
    _C("island", "island_id"),
    _C("source", "within:island_id"),
    _C("background", "local_background", "Jy/beam"),
    _C("local_rms", "local_rms", "Jy/beam"),
    _C("ra_str", "hms:ra"),
    _C("dec_str", "dms:dec"),
    _C("ra", "ra", "deg"),
    _C("err_ra", "ra_err", "deg", -1.0),
    _C("dec", "dec", "deg"),
    _C("err_dec", "dec_err", "deg", -1.0),
    _C("peak_flux", "peak_flux", "Jy/beam"),
    _C("err_peak_flux", "peak_flux_err", "Jy/beam", -1.0),
    _C("int_flux", "total_flux", "Jy"),
    _C("err_int_flux", "total_flux_err", "Jy", -1.0),
    _C("a", "major", "arcsec"),
    _C("err_a", "major_err", "arcsec", -1.0),
    _C("b", "minor", "arcsec"),
    _C("err_b", "minor_err", "arcsec", -1.0),
    _C("pa", "position_angle", "deg"),
    _C("err_pa", "position_angle_err", "deg", -1.0),
    _C("flags", "flags"),
    _C("residual_mean", "residual_mean", "Jy/beam"),
    _C("residual_std", "residual_rms", "Jy/beam"),
    _C("uuid", "name"),
    _C("psf_a", "psf_major", "arcsec"),
    _C("psf_b", "psf_minor", "arcsec"),
    _C("psf_pa", "psf_pa", "deg"),
)
_FITTED = (("Maj", "major"), ("Min", "minor"), ("PA", "position_angle"))
# PyBDSF's *_img_plane columns leave out the rotation of the image at the source; ours repeat the
# shape on the sky.
_PYBDSF_SHAPES = tuple(
    _C(
        f"{error}{prefix}{name}{suffix}",
        source.format(column) + ("_err" if error else ""),
        "deg",
        missing,
    )
    for prefix, source, missing in (("", "{}", np.nan), ("DC_", "measured:deconvolved_{}", 0.0))
    for suffix in ("", "_img_plane")
    for name, column in _FITTED
    for error in ("", "E_")
)
_PYBDSF_FLUXES = (
    *_pairs([("RA", "ra"), ("DEC", "dec")], "deg", "E_{}"),
    *_pairs([("Total_flux", "total_flux")], "Jy", "E_{}"),
    *_pairs([("Peak_flux", "peak_flux")], "Jy/beam", "E_{}"),
)
_PYBDSF_ISLAND = (
    *_pairs([("Isl_Total_flux", "island_flux")], "Jy", "E_{}"),
    _C("Isl_rms", "islands.local_rms", "Jy/beam"),
    _C("Isl_mean", "islands.local_background", "Jy/beam"),
    _C("Resid_Isl_rms", "islands.residual_rms", "Jy/beam"),
    _C("Resid_Isl_mean", "islands.residual_mean", "Jy/beam"),
    _C("S_Code", "source_code"),
)
_PYBDSF_SRL = (
    _C("Source_id", "source_id"),
    _C("Isl_id", "island_id"),
    *_PYBDSF_FLUXES,
    _C("RA_max", "islands.ra", "deg"),
    _C("E_RA_max", "ra_err", "deg"),
    _C("DEC_max", "islands.dec", "deg"),
    _C("E_DEC_max", "dec_err", "deg"),
    *_PYBDSF_SHAPES,
    *_PYBDSF_ISLAND,
)
_PYBDSF_GAUL = (
    _C("Gaus_id", "component_id"),
    _C("Isl_id", "island_id"),
    _C("Source_id", "source_id"),
    _C("Wave_id", "=0"),
    *_PYBDSF_FLUXES,
    *_pairs([("Xposn", "x"), ("Yposn", "y")], "pix", "E_{}"),
    *_PYBDSF_SHAPES,
    *_PYBDSF_ISLAND[:-1],
    # of PyBDSF's wavelet images, which are no images of their own here
    _C("Wave_Isl_rms", "=0.0", "Jy/beam"),
    _C("Wave_Isl_mean", "=0.0", "Jy/beam"),
    _PYBDSF_ISLAND[-1],
)
_SELAVY_POSITION = (
    _C("ra_hms_cont", "hms:ra"),
    _C("dec_dms_cont", "dms:dec"),
    _C("ra_deg_cont", "ra", "deg"),
    _C("dec_deg_cont", "dec", "deg"),
)
_SELAVY_AXES = (
    ("maj_axis", "major", "arcsec"),
    ("min_axis", "minor", "arcsec"),
    ("pos_ang", "position_angle", "deg"),
)
_SELAVY_COMPONENTS = (
    _C("island_id", "island_id"),
    _C("component_id", "component_id"),
    _C("component_name", "name"),
    *_SELAVY_POSITION,
    _C("ra_err", "ra_err", "arcsec"),
    _C("dec_err", "dec_err", "arcsec"),
    _C("freq", "frequency", "MHz"),
    *_pairs([("flux_peak", "peak_flux")], "mJy/beam", "{}_err"),
    *_pairs([("flux_int", "total_flux")], "mJy", "{}_err"),
    *(_C(name, source, unit) for name, source, unit in _SELAVY_AXES),
    *(_C(f"{name}_err", f"{source}_err", unit) for name, source, unit in _SELAVY_AXES),
    *(
        _C(f"{name}_deconv{error}", f"measured:deconvolved_{source}{error}", unit, 0.0)
        for error in ("", "_err")
        for name, source, unit in _SELAVY_AXES
    ),
    _C("chi_squared_fit", "chi2"),
    _C("rms_fit_gauss", "residual_rms", "mJy/beam"),
    _C("spectral_index", "=-99.0"),
    _C("spectral_curvature", "=-99.0"),
    _C("spectral_index_err", "=0.0"),
    _C("spectral_curvature_err", "=0.0"),
    _C("rms_image", "local_rms", "mJy/beam"),
    _C("has_siblings", "several:islands.n_components"),
    _C("fit_is_estimate", "=0"),
    _C("spectral_index_from_TT", "=0"),
    _C("flag_c4", "=0"),
    _C("comment", "="),
)
_SELAVY_ISLANDS = (
    _C("island_id", "island_id"),
    _C("island_name", "name"),
    _C("n_components", "n_components"),
    *_SELAVY_POSITION,
    _C("freq", "frequency", "MHz"),
    *(_C(name, f"sources.{source}", unit) for name, source, unit in _SELAVY_AXES),
    *_pairs([("flux_int", "island_flux")], "mJy", "{}_err"),
    _C("flux_peak", "peak_flux", "mJy/beam"),
    _C("mean_background", "local_background", "mJy/beam"),
    _C("background_noise", "local_rms", "mJy/beam"),
    _C("max_residual", "", "mJy/beam"),
    _C("min_residual", "", "mJy/beam"),
    _C("mean_residual", "residual_mean", "mJy/beam"),
    _C("rms_residual", "residual_rms", "mJy/beam"),
    _C("stdev_residual", "", "mJy/beam"),
    *(_C(name, name) for name in ("x_min", "x_max", "y_min", "y_max")),
    _C("n_pix", "n_pixels"),
    _C("solid_angle", "", "arcmin2"),
    _C("beam_area", "", "arcmin2"),
    _C("x_ave"),
    _C("y_ave"),
    _C("x_cen", "sources.x"),
    _C("y_cen", "sources.y"),
    _C("x_peak", "x"),
    _C("y_peak", "y"),
    *(_C(f"flag_i{number}", "=0") for number in (1, 2, 3, 4)),
    _C("comment", "="),
)

LAYOUTS: dict[str, Layout] = {
    "aegean": Layout("components with the columns of Aegean", "components", _AEGEAN),
    "pybdsf_srl": Layout("sources with the columns of PyBDSF", "sources", _PYBDSF_SRL),
    "pybdsf_gaul": Layout("Gaussians with the columns of PyBDSF", "components", _PYBDSF_GAUL),
    "selavy_components": Layout(
        "components with the columns of Selavy", "components", _SELAVY_COMPONENTS
    ),
    "selavy_islands": Layout("islands with the columns of Selavy", "islands", _SELAVY_ISLANDS),
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "aegean": ("aegean",),
    "pybdsf": ("pybdsf_srl", "pybdsf_gaul"),
    "selavy": ("selavy_components", "selavy_islands"),
}
"""The layouts of each source finder, the one that its users take for the catalogue first."""


def expand_columns(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the layouts that names of source finders or of layouts stand for.

    Raises
    ------
    OutputError
        Where there is no such name.
    """
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name not in COLUMNS and name not in LAYOUTS:
            known = list(dict.fromkeys([*COLUMNS, *LAYOUTS]))
            raise OutputError(
                f"There is no export {name!r}{suggestion(name, known)}; "
                f"choose one of {', '.join(known)}."
            )
        found += COLUMNS.get(name, (name,))
    return tuple(dict.fromkeys(found))


def export_table(catalogue: "Catalogue", layout: str) -> "Table":
    """Return a catalogue in the columns of another source finder.

    Parameters
    ----------
    catalogue : Catalogue
    layout : str
        One of `LAYOUTS`, or a source finder of `COLUMNS`, which stands for its first layout.

    Returns
    -------
    astropy.table.Table
        Columns without sky coordinates are left out where the catalogue has none. Unknown
        values are NaN, or -1 for errors where the other source finder has it so.

    Raises
    ------
    OutputError
        Where there is no such layout.
    """
    from astropy.table import Column, Table

    wanted = LAYOUTS[expand_columns(layout)[0]]
    table = catalogue.tables[wanted.table]
    result = Table(meta={"origin": f"cyclades {catalogue.meta.get('version', '')}".strip()})
    for column in wanted.columns:
        found = _fetch(catalogue, table, column)
        if found is None:
            continue
        values, unit, description = found
        if values.dtype.kind == "f" and not np.isnan(column.missing):
            values = np.where(np.isnan(values), values.dtype.type(column.missing), values)
        result[column.name] = Column(values, unit=unit, description=description)
    return result


def _fetch(
    catalogue: "Catalogue", table: "QTable", column: ExportColumn
) -> tuple[NDArray[Any], Any, str] | None:
    """Values, unit and description of an exported column; None where it needs an absent sky."""
    n, source = len(table), column.source
    if not source:
        return np.full(n, np.nan, "f4"), column.unit or None, "not given by cyclades"
    if source.startswith("="):
        return _constant(source[1:], n), column.unit or None, ""
    form, _, name = source.rpartition(":")
    linked, _, name = name.rpartition(".")
    origin = catalogue.tables[linked] if linked else table
    if name not in origin.colnames:
        return None
    values, unit = _converted(origin[name], column.unit)
    if linked:
        values = _joined(table, origin, linked, values)
    if form == "measured":
        limit = f"{name}_is_limit"
        if limit in origin.colnames:
            values = np.where(np.asarray(origin[limit]), 0.0, values)
    elif form:
        values, unit = _FORMS[form](values), None
    return values, unit, origin[name].info.description or ""


def _constant(text: str, n: int) -> NDArray[Any]:
    try:
        value: Any = int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        value = text
    return np.full(n, value, "i4" if isinstance(value, int) else None)


def _converted(values: Any, unit: str) -> tuple[NDArray[Any], Any]:
    """Values in another unit, or in their own where it is of another kind (K for Jy)."""
    from astropy import units as u

    if values.unit is None:
        return np.asarray(values), None
    if unit and values.unit.is_equivalent(unit):
        target = u.Unit(unit)
        if hasattr(values, "to_value"):
            return np.asarray(values.to_value(target)), target
    return np.asarray(values), values.unit


def _joined(table: "QTable", origin: "QTable", linked: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bring a column of a linked table to the rows of another; NaN where there is no partner."""
    key = "source_id" if linked == "sources" and "source_id" in table.colnames else "island_id"
    wanted, held = np.asarray(table[key]), np.asarray(origin[key])
    order = np.argsort(held, kind="stable")
    place = np.searchsorted(held, wanted, sorter=order)
    place = np.minimum(place, len(held) - 1)
    if not len(held):
        return np.full(len(wanted), np.nan)
    rows = order[place]
    result = values[rows].astype(float)
    result[held[rows] != wanted] = np.nan
    return result


def _sexagesimal(values: NDArray[Any], *, hours: bool) -> NDArray[Any]:
    """Text ``hh:mm:ss.ss`` or ``+dd:mm:ss.ss``; NaN gives an empty text."""
    if not len(values):
        return np.zeros(0, "U12")
    known = np.isfinite(values)
    scaled = np.where(known, np.abs(values) / (15.0 if hours else 1.0), 0.0)
    ticks = np.rint(scaled * 360000.0).astype(np.int64)
    if hours:
        ticks %= 24 * 360000
    seconds, hundredths = np.divmod(ticks, 100)
    minutes, seconds = np.divmod(seconds, 60)
    whole, minutes = np.divmod(minutes, 60)
    signs = np.where(np.signbit(values), "-", "+")
    parts = (known, signs, whole, minutes, seconds, hundredths)
    return np.array(
        [
            f"{'' if hours else s}{d:02d}:{m:02d}:{sec:02d}.{h:02d}" if ok else ""
            for ok, s, d, m, sec, h in zip(*(part.tolist() for part in parts), strict=True)
        ]
    )


def _within(values: NDArray[Any]) -> NDArray[Any]:
    """Number of each row among the rows of the same value, from 0."""
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    result = np.zeros(len(values), "i4")
    result[order] = np.arange(len(values)) - np.repeat(starts, counts)
    return result


_FORMS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "hms": partial(_sexagesimal, hours=True),
    "dms": partial(_sexagesimal, hours=False),
    "several": lambda values: (values > 1).astype("i4"),
    "within": _within,
}
