"""Visibility area, counts and corrections of a comparison as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cyclades.pipeline.comparison.association import source_groups
from cyclades.pipeline.comparison.counts import (
    VisibilityArea,
    correction_table,
    differential_counts,
)
from cyclades.pipeline.comparison.field import ComparedField
from cyclades.pipeline.comparison.metrics import flux_edges
from cyclades.pipeline.comparison.outcome import FLOOR, SPURIOUS, Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats

if TYPE_CHECKING:
    from astropy.table import Table


def survey_tables(
    fields: Sequence[ComparedField], outcomes: Sequence[Outcome], edges: Sequence[float]
) -> "dict[str, Table]":
    """Survey products of the catalogues.

    Parameters
    ----------
    fields : sequence of ComparedField
    outcomes : sequence of Outcome
        Of each catalogue, pooled over the fields.
    edges : sequence of float
        Bins of total flux, Jy; where there are none, those that hold the first catalogue.

    Returns
    -------
    dict of str to Table
        ``visibility``: ``rms`` and ``area`` (where every field has an image with a noise map);
        ``counts``: `differential_counts` of every catalogue's sources with a peak S/N of 5 and
        above, corrected for visibility only, and of the truth; ``corrections``:
        `correction_table` of every catalogue (where there is a truth).
    """
    from astropy.table import Table, vstack

    made: dict[str, Table] = {}
    if outcomes and len(edges):
        made["corrections"] = vstack([correction_table(outcome, edges) for outcome in outcomes])
    backgrounds = [f.background if f.image is not None and f.image.wcs is not None else None
                   for f in fields]  # fmt: skip
    maps = [b.rms for b in backgrounds if b is not None]
    if len(maps) < len(fields):
        return made
    area = VisibilityArea.pooled(
        [VisibilityArea.from_map(rms, f.wcs) for rms, f in zip(maps, fields, strict=True)]
    )
    made["visibility"] = area.table()
    tables = {
        name: ComparisonTable.concatenate([f.detections[name] for f in fields])
        for name in fields[0].catalogues
    }
    if not len(edges):
        edges = flux_edges(next(iter(tables.values()))).tolist()
        if not edges:
            return made
    parts = []
    truth = [f.truth for f in fields if f.truth is not None]
    if truth and truth[0].meta.get("comparable_fluxes", True):
        total, peak = _sources(ComparisonTable.concatenate(truth), -np.inf)
        peak = np.full_like(peak, np.inf)  # all of it is visible: the whole area counts
        parts.append(_named("truth", differential_counts(total, peak, area, edges, threshold=1e-9)))
    for name, table in tables.items():
        total, peak = _sources(table, FLOOR)
        counts = differential_counts(total, peak, area, edges, threshold=FLOOR)
        parts.append(_named(name, counts))
    made["counts"] = vstack(parts)
    return made


def _sources(table: ComparisonTable, floor: float) -> tuple[Floats, Floats]:
    """Total and peak flux of sources that are no artefacts and whose best S/N reaches the floor.

    Where no peak is listed, the total flux stands for it, as of a point.
    """
    table = table.take(table["morphology"] != SPURIOUS)
    names, group = np.unique(source_groups(table), return_inverse=True)
    total: Floats = np.bincount(group, table["total_flux"], len(names)).astype(np.float64)
    peak: Floats = np.full(len(names), -np.inf)
    snr: Floats = np.full(len(names), -np.inf)
    bright = np.where(np.isfinite(table["peak_flux"]), table["peak_flux"], table["total_flux"])
    np.maximum.at(peak, group, np.nan_to_num(bright, nan=-np.inf))
    np.maximum.at(snr, group, np.nan_to_num(table["snr"], nan=np.inf))
    keep = snr >= floor
    return total[keep], peak[keep]


def _named(name: str, table: "Table") -> "Table":
    table.add_column(np.full(len(table), name), name="catalogue", index=0)
    return table
