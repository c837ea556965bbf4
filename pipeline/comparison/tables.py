"""Any catalogue as one table of plain columns in fixed units, so that catalogues compare."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import suggestion

if TYPE_CHECKING:
    from astropy.table import Table


Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
PathType = str | PathLike[str]

UNITS: dict[str, str] = {
    "ra": "deg",
    "dec": "deg",
    "ra_err": "arcsec",
    "dec_err": "arcsec",
    "x": "pix",
    "y": "pix",
    "peak_flux": "Jy / beam",
    "peak_flux_err": "Jy / beam",
    "total_flux": "Jy",
    "total_flux_err": "Jy",
    "major": "arcsec",
    "major_err": "arcsec",
    "minor": "arcsec",
    "minor_err": "arcsec",
    "position_angle": "deg",
    "position_angle_err": "deg",
    "psf_major": "arcsec",
    "psf_minor": "arcsec",
    "local_rms": "Jy / beam",
    "snr": "",
    "score": "",
}
"""The numbers of a `ComparisonTable` and their units; NaN where unknown."""
GROUPS = ("source", "island")
"""Integer columns; -1 where unknown."""
TEXTS = ("name", "morphology")
"""Text columns; empty where unknown."""
PART = "part"
"""Column of booleans: rows that model a part of their source, and are no detections."""
EXACTLY_UNRESOLVED = 1e-6


@dataclass(frozen=True, eq=False)
class ComparisonTable:
    """A catalogue or a truth in the columns and units that every comparison uses.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
        All of `UNITS` (float64, NaN where unknown), `GROUPS` (int64, -1), `TEXTS` and `PART`
        (bool, False where unknown). Errors of positions are on the sky; x, y are 0-based pixels;
        axes are FWHM with the beam.
    meta : dict
        ``name`` (what to call it), ``layout``, and where known ``image`` and ``beam`` (major and
        minor FWHM, arcsec); ``comparable_fluxes`` is False where listed fluxes are not those of
        the image.
    """

    columns: dict[str, NDArray[Any]]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["ra"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"<ComparisonTable {self.name!r}: {len(self)} rows>"

    @property
    def name(self) -> str:
        """What to call the table."""
        return str(self.meta.get("name", ""))

    @property
    def table(self) -> "Table":
        """The columns as an astropy table with units."""
        from astropy.table import Column, Table

        made = {
            name: Column(values, unit=UNITS.get(name) or None)
            for name, values in self.columns.items()
        }
        return Table(made, meta={key: str(value) for key, value in self.meta.items()})

    @property
    def beam(self) -> tuple[float, float] | None:
        """Major and minor FWHM of the beam in arcsec; None where nothing tells it.

        From the metadata, the column of the local beam, rows that are exactly beam-shaped (a
        truth has them), or what the rows imply: ``major minor peak / total`` is the product of
        the beam's axes wherever total fluxes come from fitted Gaussians; its median then gives a
        round beam.
        """
        if "beam" in self.meta:
            major, minor = self.meta["beam"]
            return float(major), float(minor)
        known = np.isfinite(self["psf_major"]) & np.isfinite(self["psf_minor"])
        if known.any():
            major, minor = (np.median(self[name][known]) for name in ("psf_major", "psf_minor"))
            return float(major), float(minor)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self["total_flux"] / self["peak_flux"]
            product = self["major"] * self["minor"] / ratio
        exact = np.abs(ratio - 1.0) < EXACTLY_UNRESOLVED
        if np.count_nonzero(exact & np.isfinite(product)) > 2:
            major, minor = (float(np.nanmedian(self[name][exact])) for name in ("major", "minor"))
            return major, minor
        product = product[np.isfinite(product) & (product > 0)]
        if not len(product):
            return None
        size = math.sqrt(float(np.median(product)))
        return size, size

    def take(self, rows: NDArray[Any]) -> "ComparisonTable":
        """Return some rows, by index or by mask."""
        return ComparisonTable(
            {name: values[rows] for name, values in self.columns.items()}, self.meta
        )

    def joined(self) -> "ComparisonTable":
        """Return the table with every part (see `PART`) joined to its source.

        A part adds its total flux to the nearest other row of its source, and the square of its
        error; position, peak and shape stay those of that row. Parts of a source without another
        row stay: the one with the highest peak is its detection, the others are joined to it.
        """
        part = self[PART].copy()
        if not part.any():
            return self
        source = np.where(self["source"] >= 0, self["source"], -1 - np.arange(len(self)))
        strength = np.where(part, np.nan_to_num(self["peak_flux"], nan=-np.inf), np.inf)
        order = np.lexsort((-strength, source))
        part[order[np.unique(source[order], return_index=True)[1]]] = False
        total, variance = self["total_flux"].copy(), self["total_flux_err"] ** 2
        east = np.cos(np.radians(self["dec"]))
        for row in np.flatnonzero(part):
            hosts = np.flatnonzero((source == source[row]) & ~part)
            turn = (self["ra"][hosts] - self["ra"][row] + 180.0) % 360.0 - 180.0
            apart = np.hypot(turn * east[row], self["dec"][hosts] - self["dec"][row])
            host = hosts[np.argmin(np.nan_to_num(apart, nan=np.inf))]
            total[host] += np.nan_to_num(self["total_flux"][row])
            variance[host] += np.nan_to_num(self["total_flux_err"][row]) ** 2
        return self.replace(total_flux=total, total_flux_err=np.sqrt(variance)).take(~part)

    def replace(self, meta: Mapping[str, Any] | None = None, **columns: Any) -> "ComparisonTable":
        """Return a table with some columns or entries of the metadata changed."""
        changed = {name: np.asarray(values) for name, values in columns.items()}
        return ComparisonTable({**self.columns, **changed}, {**self.meta, **(meta or {})})

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Any], meta: Mapping[str, Any] | None = None
    ) -> "ComparisonTable":
        """Make a table from what is known; ra and dec are needed, the rest becomes unknown.

        Where peak flux and rms are given but not their ratio, it is added.
        """
        known = (*UNITS, *GROUPS, *TEXTS, PART)
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise InputError(
                f"A comparison has no column {unknown[0]!r}{suggestion(unknown[0], list(known))}; "
                f"use {', '.join(known)}."
            )
        n = len(columns["ra"])
        made: dict[str, NDArray[Any]] = {}
        for name in UNITS:
            made[name] = np.array(columns.get(name, np.full(n, np.nan)), np.float64)
        for name in GROUPS:
            values = np.array(columns.get(name, np.full(n, -1)), np.float64)
            made[name] = np.where(np.isfinite(values), values, -1.0).astype(np.int64)
        for name in TEXTS:
            made[name] = np.array(columns.get(name, np.full(n, "")), str)
        made[PART] = np.array(columns.get(PART, np.zeros(n)), bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = made["peak_flux"] / made["local_rms"]
        made["snr"] = np.where(np.isfinite(made["snr"]), made["snr"], ratio)
        return cls(made, dict(meta or {}))

    @classmethod
    def concatenate(cls, parts: Sequence["ComparisonTable"]) -> "ComparisonTable":
        """Join tables; source and island numbers of each part stay apart from those before."""
        columns = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns
        }
        for name in GROUPS:
            moved, start = [], 0
            for part in parts:
                values = part[name]
                moved.append(np.where(values >= 0, values + start, -1))
                start += int(values.max(initial=-1)) + 1
            columns[name] = np.concatenate(moved)
        return cls(columns, dict(parts[0].meta))
