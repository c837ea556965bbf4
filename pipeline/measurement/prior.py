"""The catalogue that is measured: its positions, shapes without a beam, and identifiers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    inverse,
    pixel_positions,
    sky_jacobian,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.stages.core.image import SkyImage

ARCSEC = 3600.0
_SHAPE = ("major", "minor", "position_angle", "psf_major", "psf_minor", "psf_pa")
_UNITS = {
    "ra": "deg", "dec": "deg", "ra_err": "deg", "dec_err": "deg",
    "x": "pix", "y": "pix", "x_err": "pix", "y_err": "pix",
}  # fmt: skip
_FOREIGN_SHAPES = {
    "Aegean": ("a", "b", "pa", "psf_a", "psf_b", "psf_pa"),
    "PyBDSF": ("DC_Maj", "DC_Min", "DC_PA"),
}
"""Sizes in other programmes' columns: with the beam and the beam's own, or without the beam."""
_KEPT = {"detection_score": 1.0, "morphology": "", "morphology_probability": np.nan,
         "detected_by": ""}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Prior:
    """Known components.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
        ``name``, ``component_id``, ``source_id``, ``island_id``; ``ra``, ``dec``, ``ra_err``,
        ``dec_err`` (degrees), or ``x``, ``y`` of a catalogue without sky positions; ``weight``,
        the fluxes by which components share a source; ``resolved``, and columns that are kept.
    intrinsic : ndarray, shape (n, 2, 2)
        Covariances of the profiles without the beam in (east, north), in arcsec squared (pixels
        squared without sky positions); zero for points.
    sky : bool
        Whether there are sky positions.
    names : dict of str to dict of int to str
        Names of ``sources`` and ``islands`` by number, where the catalogue has them.
    label : str
        What to call the catalogue.
    """

    columns: dict[str, NDArray[Any]]
    intrinsic: Floats
    sky: bool
    names: dict[str, dict[int, str]]
    label: str

    def __len__(self) -> int:
        return len(self.intrinsic)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def place(self, image: "SkyImage") -> tuple[Floats, Floats, Floats, Floats]:
        """Carry positions and shapes to the pixels of an image, whatever its grid is.

        Returns
        -------
        x, y : ndarray, shape (n,)
            0-based; NaN where the projection does not reach.
        intrinsic : ndarray, shape (n, 2, 2)
            In pixels squared.
        errors : ndarray, shape (n, 2, 2)
            Covariance of the positions in pixels squared; NaN where unknown.

        Raises
        ------
        InputError
            Where either has sky positions and the other has not.
        """
        if self.sky != (image.wcs is not None):
            if self.sky:
                raise InputError(
                    f"{image.name} has no sky coordinates; give a catalogue with its pixels, in "
                    "columns x and y (0-based), and without ra and dec."
                )
            raise InputError(
                f"{self.label} has no columns ra and dec; add them, in degrees (ICRS)."
            )
        frame = np.broadcast_to(np.diag([-1.0, 1.0]), (len(self), 2, 2))
        if image.wcs is None:
            x = np.asarray(self["x"] - image.origin[1], float)
            y = np.asarray(self["y"] - image.origin[0], float)
            errors = np.zeros((len(self), 2, 2))
            errors[:, 0, 0], errors[:, 1, 1] = self["x_err"] ** 2, self["y_err"] ** 2
            return x, y, transform_covariance(self.intrinsic, frame), errors
        assert image.wcs is not None
        x, y = pixel_positions(image.wcs, self["ra"], self["dec"])
        to_pixels = np.full((len(self), 2, 2), np.nan)
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            to_pixels[known] = inverse(sky_jacobian(image.wcs, x[known], y[known]) * ARCSEC)
        errors = np.zeros((len(self), 2, 2))
        errors[:, 0, 0] = (ARCSEC * self["ra_err"]) ** 2
        errors[:, 1, 1] = (ARCSEC * self["dec_err"]) ** 2
        return (
            x,
            y,
            transform_covariance(self.intrinsic, to_pixels),
            transform_covariance(errors, to_pixels),
        )


def read_prior(catalogue: "Catalogue | Table | str | Path") -> Prior:
    """Take a catalogue, a table or a file as the prior.

    Sizes are used where the table has the columns of our schema for them (``major``, ``minor``,
    ``position_angle``, ``psf_major``, ``psf_minor``, ``psf_pa``): the beam is taken out of the
    components that are ``resolved`` (of all, without that column); the others are points.
    Of other programmes, sizes of Aegean (``a b pa psf_a psf_b psf_pa``) and PyBDSF (``DC_Maj``,
    ``DC_Min``, ``DC_PA``) are used; the rest give positions only, and points.

    Parameters
    ----------
    catalogue : Catalogue, astropy table, or path
        A table needs the columns ``ra`` and ``dec`` (degrees, ICRS, where they have no unit). A
        file may be any that `cyclades.pipeline.comparison.any_catalogue.read_any` reads.

    Raises
    ------
    InputError
        Where the file cannot be read, positions are missing, or there is no row.
    """
    if isinstance(catalogue, (str, Path)):
        return _read_file(Path(catalogue))
    if isinstance(catalogue, Catalogue):
        label = f"the catalogue of {catalogue.meta.get('image', 'an image')}"
        names = {
            table: dict(
                zip(
                    np.asarray(catalogue.tables[table][key]).tolist(),
                    np.asarray(catalogue.tables[table]["name"], str).tolist(),
                    strict=True,
                )
            )
            for table, key in (("sources", "source_id"), ("islands", "island_id"))
        }
        return _from_table(catalogue.components, label, names)
    return _from_table(catalogue, "the catalogue", {})


def _read_file(path: Path) -> Prior:
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a catalogue with --catalogue.")
    try:
        return read_prior(read_catalogue(path))
    except InputError as error:
        if "has schema version" in str(error):
            raise
    from cyclades.pipeline.comparison.any_catalogue import read_any, recognise
    from cyclades.pipeline.comparison.reading import read_table

    stored = read_table(path, "components")
    layout = recognise(stored.colnames)
    if layout is None or layout.name == "cyclades":
        for name in stored.colnames:
            if name.lower() in ("ra", "dec") and name.lower() not in stored.colnames:
                stored.rename_column(name, name.lower())
        return _from_table(stored, str(path), {})
    table = read_any(path)
    from astropy.table import QTable

    known = QTable({name: table[name] for name in ("ra", "dec")})
    for axis in ("ra", "dec"):
        known[f"{axis}_err"] = table[f"{axis}_err"] / ARCSEC
    known["total_flux"] = table["total_flux"]
    if np.all(table["name"] != ""):
        known["name"] = table["name"]
    if layout.name in _FOREIGN_SHAPES and set(_FOREIGN_SHAPES[layout.name]) <= set(stored.colnames):
        for name, values in zip(_SHAPE, _foreign_shape(stored, layout.name), strict=True):
            known[name] = values
    return _from_table(known, str(path), {})


def _foreign_shape(stored: "Table", layout: str) -> list[Floats]:
    """Columns `_SHAPE` (arcsec, degrees) of a catalogue of another programme."""
    names = _FOREIGN_SHAPES[layout]
    values = []
    for number, name in enumerate(names):
        held = stored[name]
        plain = np.ma.filled(np.ma.MaskedArray(getattr(held, "value", held)).astype(float), np.nan)
        angle = number % 3 == 2
        # PyBDSF gives sizes in degrees, Aegean in arcsec
        values.append(plain if angle or layout == "Aegean" else plain * ARCSEC)
    # sizes without the beam are those of a beam of size zero
    return values + [np.zeros(len(stored))] * (len(_SHAPE) - len(values))


def _numbers(table: "Table", name: str, unit: str, label: str) -> Floats:
    """Values of a column in a unit, or in degrees and pixels where it has none; NaN where masked.

    Raises
    ------
    InputError
        Where it holds no numbers, or they are in a unit that does not convert.
    """
    from astropy.units import Unit, UnitConversionError

    held = table[name]
    own = getattr(held, "unit", None)
    mask = np.asarray(getattr(held, "mask", False), bool)
    try:
        plain = np.ma.getdata(np.ma.MaskedArray(getattr(held, "value", held)))
        values = np.where(mask, np.nan, plain.astype(float))
        if own is not None and unit:
            spelt = "deg" if str(own).lower() in ("degree", "degrees") else own
            values = values * Unit(spelt).to(unit)
    except (ValueError, TypeError, UnitConversionError) as error:
        raise InputError(
            f"The column {name!r} of {label} cannot be used ({error}); give numbers, positions in "
            "degrees (ICRS)."
        ) from error
    return np.asarray(values, float)


def _identifiers(held: Any) -> NDArray[np.int64]:
    """Whole numbers of a column; where it holds names, rows of one name get one number."""
    values = np.ma.getdata(np.ma.MaskedArray(getattr(held, "value", held)))
    if values.dtype.kind in "iu":
        return np.asarray(values, np.int64)
    _, number = np.unique(values.astype(str), return_inverse=True)
    return np.asarray(number + 1, np.int64)


def _from_table(table: "Table", label: str, names: dict[str, dict[int, str]]) -> Prior:
    n = len(table)
    if not n:
        raise InputError(f"{label} has no rows; there is nothing to measure.")
    sky = "ra" in table.colnames and "dec" in table.colnames
    wanted = ("ra", "dec") if sky else ("x", "y")
    if any(name not in table.colnames for name in wanted):
        raise InputError(f"{label} has no columns ra and dec; add them, in degrees (ICRS).")

    def numbers(name: str, unit: str) -> Floats:
        if name not in table.colnames:
            return np.full(n, np.nan)
        return _numbers(table, name, unit, label)

    places = ("ra", "dec", "ra_err", "dec_err") if sky else ("x", "y", "x_err", "y_err")
    columns: dict[str, Any] = {name: np.full(n, np.nan) for name in _UNITS}
    columns |= {name: numbers(name, _UNITS[name]) for name in places}
    # what stands for unknown, as -99, is no declination
    columns["dec"] = np.where(np.abs(columns["dec"]) <= 90.0, columns["dec"], np.nan)
    if not np.isfinite(columns[wanted[0]]).any():
        raise InputError(f"{label} has no finite positions; there is nothing to measure.")
    for name, key in (("component_id", None), ("source_id", None), ("island_id", "source_id")):
        default = columns[key] if key else np.arange(n) + 1
        held = _identifiers(table[name]) if name in table.colnames else default
        columns[name] = np.asarray(held, np.int64)
    if len(np.unique(columns["component_id"])) != n:
        raise InputError(f"{label} has a component_id more than once; rows need their own numbers.")
    for name, missing in _KEPT.items():
        columns[name] = np.asarray(table[name] if name in table.colnames else [missing] * n)
    columns["name"] = np.asarray(table["name"] if "name" in table.colnames else [""] * n, str)
    weight = np.abs(numbers("total_flux", ""))
    columns["weight"] = np.where(np.isfinite(weight) & (weight > 0.0), weight, 0.0)
    size = "arcsec" if sky else "pix"
    shape = [numbers(name, "deg" if name.endswith(("angle", "pa")) else size) for name in _SHAPE]
    difference = covariance_from_shape(*shape[:3]) - covariance_from_shape(*shape[3:])
    known = np.isfinite(difference).all(axis=(1, 2))
    resolved = np.asarray(table["resolved"], bool) if "resolved" in table.colnames else known
    intrinsic = np.zeros((n, 2, 2))
    values, vectors = np.linalg.eigh(difference[known & resolved])
    clipped = np.maximum(values, 0.0)[:, None, :]
    intrinsic[known & resolved] = (vectors * clipped) @ np.swapaxes(vectors, 1, 2)
    columns["resolved"] = np.asarray(resolved & known)
    return Prior(columns, intrinsic, sky, names, label)
