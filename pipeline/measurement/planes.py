"""Known components on several images: frequencies, epochs or Stokes parameters."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.config import DEFAULT_ROUTE, RouteConfig
from cyclades.pipeline.measurement.forced import SIGNIFICANCE, measure_at, read_plane
from cyclades.pipeline.measurement.polarisation import polarisation
from cyclades.pipeline.measurement.prior import Prior, read_prior
from cyclades.pipeline.measurement.spectra import spectral_index
from cyclades.pipeline.measurement.variability import variability
from cyclades.pipeline.products import image_stem
from cyclades.pipeline.progress import Steps, Told
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.cube_axes import SPECTRAL
from cyclades.stages.core.errors import BlankImageError, InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.planes import open_plane
from cyclades.stages.core.source import ImageSet

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.table import QTable, Table
    from astropy.units import UnitBase
    from numpy.typing import NDArray

    from cyclades.stages.core.context import Context

logger = logging.getLogger("cyclades.measurement")

PLANE_COLUMNS = (
    "peak_flux", "peak_flux_err", "total_flux", "total_flux_err", "total_flux_limit",
    "total_flux_is_limit", "local_rms", "flags",
)  # fmt: skip
"""Columns that a joined catalogue has once an image, as ``total_flux_NAME``."""
_FITTED = ("components", "sources")
_TIMES = ("MJD-OBS", "DATE-OBS")
_STOKES = {1: "I", 2: "Q", 3: "U", 4: "V"}
_AXES = {"stokes": ("STOKES",), "frequencies": SPECTRAL}
"""How the types of an axis begin along which planes of a cube differ."""


@dataclass(frozen=True, eq=False)
class PlaneMeasurements:
    """Catalogues of one prior on several images, with the same rows.

    Parameters
    ----------
    catalogues : dict of str to Catalogue
        By the name of the image.
    times : dict of str to float
        Modified Julian dates; NaN where unknown.
    significance : float
        Sigmas of a detection and of upper limits.
    """

    catalogues: dict[str, Catalogue]
    times: dict[str, float]
    significance: float = SIGNIFICANCE

    def __repr__(self) -> str:
        n = len(next(iter(self.catalogues.values())))
        return f"<PlaneMeasurements of {n} components on {', '.join(self.catalogues)}>"

    def joined(self, base: Catalogue | None = None) -> Catalogue:
        """One catalogue of all images.

        The columns of the first image (or of `base`, a catalogue of the same rows), and after them
        those of every image that differ (`PLANE_COLUMNS`) with ``_NAME`` appended.
        """
        first = next(iter(self.catalogues.values())) if base is None else base
        tables = {table: first.tables[table].copy() for table in _FITTED}
        for name, catalogue in self.catalogues.items():
            suffix = plane_suffix(name)
            for table in _FITTED:
                for column in PLANE_COLUMNS:
                    if column in catalogue.tables[table].colnames:
                        held = catalogue.tables[table][column]
                        new = tables[table]
                        new[f"{column}_{suffix}"] = held
                        info = new[f"{column}_{suffix}"].info
                        info.description = f"{held.info.description}; image {name}"
                        info.meta = dict(held.info.meta or {})
        meta = {**first.meta, "images": ", ".join(self.catalogues)}
        return first.replace(meta=meta, **tables)

    def spectra(self) -> Catalogue:
        """`joined` with spectral indices; see `cyclades.pipeline.measurement.spectra`."""
        frequency = [c.meta.get("frequency", np.nan) for c in self.catalogues.values()]

        def columns(flux: "NDArray[Any]", error: "NDArray[Any]") -> dict[str, Any]:
            return spectral_index(flux, error, frequency, significance=self.significance)

        return self._extended(columns)

    def light_curves(self) -> Catalogue:
        """`joined` with variability indices; see `cyclades.pipeline.measurement.variability`."""
        return self._extended(variability)

    def light_curve_table(self) -> "QTable":
        """One row a component and epoch, in order of component and time.

        Columns: ``component_id``, ``name``, ``epoch`` (name of the image), ``mjd``, and the
        columns `PLANE_COLUMNS` of that image.
        """
        from astropy.table import QTable, vstack

        parts = []
        for name, catalogue in self.catalogues.items():
            table = catalogue.components
            part = QTable({key: table[key] for key in ("component_id", "name")})
            part["epoch"] = np.full(len(table), name)
            part["mjd"] = np.full(len(table), self.times[name])
            part["mjd"].info.description = "time of the image, modified Julian date"
            for key in PLANE_COLUMNS:
                part[key] = table[key]
            parts.append(part)
        made = vstack(parts, metadata_conflicts="silent")
        order = np.lexsort([made["mjd"], made["component_id"]])
        made = made[order]
        made.meta.clear()
        return made

    def polarisation(self) -> Catalogue:
        """`joined` with polarisation; see `cyclades.pipeline.measurement.polarisation`.

        Raises
        ------
        InputError
            Where the images are not called I, Q and U, I and V, or I, Q, U and V.
        """
        names = list(self.catalogues)
        if set(names) not in ({"I", "Q", "U"}, {"I", "V"}, {"I", "Q", "U", "V"}):
            raise InputError(
                f"the images are called {', '.join(names)}; polarisation needs I, Q and U, I and "
                "V, or all four, named as I=image.fits."
            )

        def columns(flux: "NDArray[Any]", error: "NDArray[Any]") -> dict[str, Any]:
            return polarisation(
                dict(zip(names, flux.T, strict=True)),
                dict(zip(names, error.T, strict=True)),
                significance=self.significance,
            )

        return self._extended(columns)

    def _extended(self, columns: Any) -> Catalogue:
        """`joined` with columns made from the (n, images) fluxes and errors of each table."""
        from cyclades.stages.core.schema import FLUX, column
        from cyclades.stages.core.tables import add_column

        joined = self.joined()
        for table in _FITTED:
            unit = self._unit(table)
            flux, error = (self._stacked(table, key) for key in ("total_flux", "total_flux_err"))
            for name, values in columns(flux, error).items():
                spec = column(table, name)
                own = unit if spec.unit == FLUX else _unit_of(spec.unit)
                add_column(joined.tables[table], spec, values, own)
        return joined

    def _unit(self, table: str) -> "UnitBase | None":
        """Unit in which fluxes of all images are compared: Jy in place of one of a beam's area."""
        import astropy.units as u

        unit = next(iter(self.catalogues.values())).tables[table]["total_flux"].unit
        return u.Jy if unit is not None and u.beam in unit.bases else unit

    def _stacked(self, table: str, name: str) -> "NDArray[Any]":
        """Values of a column on every image, in `_unit`, shape (n, images)."""
        unit = self._unit(table)
        values = []
        for label, catalogue in self.catalogues.items():
            held = _flux_density(catalogue.tables[table][name], catalogue.meta, label)
            if (held.unit is None) != (unit is None) or (
                unit is not None and not held.unit.is_equivalent(unit)
            ):
                raise InputError(
                    f"the fluxes of {label} are in {held.unit or 'no unit'}, those of "
                    f"{next(iter(self.catalogues))} in {unit or 'no unit'}; give images in one "
                    "unit."
                )
            plain = held if unit is None else held.to_value(unit)
            values.append(np.asarray(plain, float))
        return np.stack(values, -1)


def plane_suffix(name: str) -> str:
    """Return a plane's name as it ends the names of columns, which FITS wants in ASCII."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "_", plain) or "_"


def check_names(names: "Iterable[str]") -> None:
    """Refuse planes whose columns would have the same names.

    Raises
    ------
    InputError
    """
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(plane_suffix(name), name)
        if other != name:
            raise InputError(
                f"The planes {other} and {name} would have columns of one name "
                f"(total_flux_{plane_suffix(name)}); name them otherwise, as first={name}.fits."
            )


def _flux_density(held: Any, meta: Mapping[str, Any], label: str) -> Any:
    """Return fluxes in Jy where their unit holds a beam, whose area every image has its own of."""
    import astropy.units as u

    unit = held.unit
    if unit is None or u.beam not in unit.bases:
        return held
    axes = [float(meta.get(f"beam_{axis}", np.nan)) for axis in ("major", "minor")]
    area = np.pi * axes[0] * axes[1] / (4.0 * np.log(2.0)) * u.deg**2
    frequency = float(meta.get("frequency", np.nan)) * u.Hz
    try:
        brightness = (held / u.beam).to(u.Jy / u.sr, u.brightness_temperature(frequency))
        return (brightness * area).to(u.Jy)
    except u.UnitConversionError as error:
        raise InputError(
            f"the fluxes of {label} are in {unit}, which a beam's area does not bring to Jy; give "
            "images in Jy/beam."
        ) from error


def _unit_of(name: str) -> "UnitBase | None":
    from astropy.units import Unit

    return Unit(name) if name else None


def measure_planes(
    images: "ImageSet | Mapping[str, Any]",
    catalogue: "Catalogue | Table | str | Path | Prior",
    *,
    free_positions: bool | float = False,
    significance: float = SIGNIFICANCE,
    times: Mapping[str, float] | None = None,
    route: "str | Path | Mapping[str, Any] | RouteConfig" = DEFAULT_ROUTE,
    workers: int | None = None,
    context: "Context | None" = None,
    progress: Told | None = None,
) -> PlaneMeasurements:
    """Measure the same components on several images.

    Parameters
    ----------
    images : ImageSet, or mapping of names to images
        A mapping's images are paths, ImageSources or SkyImages, which may have different pixels,
        beams and sizes.
    catalogue, free_positions, significance, route, workers, context
        As for `cyclades.pipeline.measurement.forced.measure_at`.
    times : mapping of str to float, optional
        Modified Julian dates by the image's name; from the headers where left out.
    progress : callable, optional
        Called with the number of steps that are done, their number in all, and words for the next;
        an image has three: it is read, its background estimated, the fluxes fitted.

    Returns
    -------
    PlaneMeasurements

    Raises
    ------
    InputError
        Where there is no image, or one cannot be used.
    """
    planes: Mapping[str, Any] = images.planes if isinstance(images, ImageSet) else images
    if not planes:
        raise InputError("there is no image to measure; give at least one.")
    config = route if isinstance(route, RouteConfig) else RouteConfig.from_route(route)
    prior = catalogue if isinstance(catalogue, Prior) else read_prior(catalogue)
    made, known = {}, dict(times or {})
    steps = Steps(progress, 3 * len(planes))
    check_names(planes)
    for name, image in planes.items():
        tell = steps.of(name)
        tell("read")
        try:
            plane = read_plane(image, config)
        except BlankImageError as error:
            if len(planes) == 1:
                raise
            # a channel without data is no reason to do without the others
            logger.warning("%s is left out: %s", name, error)
            continue
        known.setdefault(name, time_of(plane))
        made[name] = measure_at(
            plane, prior, free_positions=free_positions, significance=significance,
            route=config, workers=workers, context=context, progress=tell,
        )  # fmt: skip
    steps.end()
    if not made:
        raise InputError("all of the images are blank; nothing can be measured.")
    return PlaneMeasurements(made, known, significance)


def time_of(image: SkyImage) -> float:
    """Modified Julian date of an image from its header; NaN where it tells none."""
    from astropy.time import Time

    for key in _TIMES:
        value = None if image.header is None else image.header.get(key)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            try:
                return float(Time(value.strip()).mjd)
            except ValueError:
                continue
    return float("nan")


def file_planes(
    path: str | Path, options: ImageOptions, differ: str | None = None
) -> dict[str, FitsSource]:
    """Return the planes of a file to measure, by name.

    Parameters
    ----------
    path : path
    options : ImageOptions
        How to read it; where they choose a plane, it is the only one.
    differ : str, optional
        What the images differ in. A cube of ``stokes`` or ``frequencies`` gives all its planes.

    Returns
    -------
    dict of str to FitsSource
        An image is named by its Stokes parameter where they differ in those and the header tells
        it, else by its file; planes of a cube of frequencies are numbered from 0.

    Raises
    ------
    InputError
        Where the file cannot be read, or is a cube of something else.
    """
    path = Path(path)
    stem, axis_types = image_stem(path), _AXES.get(differ or "", ())
    try:
        header = open_plane(path, extension=options.extension, plane=options.plane).header
    except InputError:
        if not axis_types or options.plane:
            raise
        try:
            header = open_plane(path, extension=options.extension, plane=(0,)).header
        except InputError:
            header = None
        length = 0 if header is None else _axis(header, axis_types)[1]
        if header is None or length < 2:
            raise
        made = {}
        for k in range(length):
            name = stokes_of(header, k) if differ == "stokes" else f"{stem}.{k}"
            chosen = options.model_copy(update={"plane": (k,)})
            if name:
                made[name] = FitsSource(path, chosen)
        return made
    name = stokes_of(header) if differ == "stokes" else ""
    return {name or stem: FitsSource(path, options)}


def _axis(header: "Header", kinds: tuple[str, ...]) -> tuple[int, int]:
    """Number and length of the first axis whose type begins so; 0 and 0 where there is none."""
    for axis in range(1, int(header.get("NAXIS", 0)) + 1):
        if str(header.get(f"CTYPE{axis}", "")).strip().upper().startswith(kinds):
            return axis, int(header.get(f"NAXIS{axis}", 1))
    return 0, 0


def stokes_of(header: "Header", plane: int = 0) -> str:
    """Stokes parameter (I, Q, U or V) of a plane by the header; empty where it tells none."""
    axis, _ = _axis(header, _AXES["stokes"])
    if not axis:
        return ""
    reference, first, step = (
        float(header.get(f"{key}{axis}", 1.0)) for key in ("CRPIX", "CRVAL", "CDELT")
    )
    return _STOKES.get(round(first + (plane + 1.0 - reference) * step), "")
