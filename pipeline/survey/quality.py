"""Whether each field of a survey is like the others: figures, and which of them stand out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.counts import VisibilityArea
from cyclades.pipeline.comparison.intervals import robust_sigma
from cyclades.pipeline.survey.merging import Joined
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from astropy.table import Table

OUTLIER = 5.0
"""Robust deviations from the other fields."""
FEWEST_FIELDS = 8
"""Fields that are needed to tell what is usual."""
LEAST_AREA = 0.05
"""Share of the survey in which a source could be seen, so that it counts in expectations."""
FEWEST_PAIRS = 5
"""Sources shared with other fields that are needed to compare fluxes and positions."""
LEAST_SPREAD = {
    "rms": 0.05,
    "residual_rms": 0.02,
    "residual_mean": 0.02,
    "excess": 1.0,
    "flux_ratio": 0.02,
    "offset_ra": 0.05,
    "offset_dec": 0.05,
}
"""What counts as the least scatter between fields, so that very equal fields do not single out
one that hardly differs: relative for rms and flux_ratio, deviations of the count for excess,
arcsec for offsets."""
_ARCSEC = 3600.0


def expected_sources(peak: Floats, limits: VisibilityArea, grids: Sequence[NoiseGrid]) -> Floats:
    """Return how many of a survey's sources each field would hold, were they spread evenly.

    A source counts the field's share of the sky in which its peak could be seen; so a field's
    own depth and size are taken into account and no model of the sky is needed.

    Parameters
    ----------
    peak : ndarray, shape (n,)
        Of the survey's sources; see `cyclades.pipeline.survey.depth.Sources`. Those seen in less
        than a twentieth of the survey are left out: a few would decide about its deepest field.
    limits : VisibilityArea
        Area against the faintest peak that is looked for, of the survey.
    grids : sequence of NoiseGrid
    """
    peaks = peak[~np.isnan(peak)]
    seen = limits.for_peak(peaks, 1.0)
    enough = seen >= LEAST_AREA * limits.total
    peaks, seen = peaks[enough], seen[enough]
    return np.array([float(np.sum(grid.depth.for_peak(peaks, 1.0) / seen)) for grid in grids])


LOOK = np.dtype([("field", "i4"), ("ratio", "f8"), ("east", "f8"), ("north", "f8")])
"""A bright component as one field sees it, beside how another does; see `looks_of`."""


class Looks(NamedTuple):
    """What fields have in common."""

    shared: Floats
    """Components of each field that others found, too."""
    taken: Integers
    """Components that the survey takes from each field."""
    looks: Iterable[NDArray[Any]]
    """Of `LOOK`, all of a field in one part."""


def looks_of(joined: Joined, fields: int) -> Looks:
    """Return what fields have in common, of components that were joined."""
    i, j = joined.pairs
    columns = joined.columns
    here, there = np.concatenate([i, j]), np.concatenate([j, i])
    # one that several other fields found is still one
    shared = np.bincount(joined.owner[np.unique(here)], minlength=fields).astype(float)
    taken = np.bincount(joined.owner[joined.kept], minlength=fields)
    bright = (columns["snr"][here] > 7.0) & (columns["snr"][there] > 7.0)
    here, there = here[bright], there[bright]
    made = np.zeros(len(here), LOOK)
    made["field"] = joined.owner[here]
    with np.errstate(divide="ignore", invalid="ignore"):
        made["ratio"] = columns["peak_flux"][here].astype(float) / columns["peak_flux"][there]
    dec = columns["dec"]
    turn = (columns["ra"][here] - columns["ra"][there] + 180.0) % 360.0 - 180.0
    made["east"] = _ARCSEC * turn * np.cos(np.radians(dec[here]))
    made["north"] = _ARCSEC * (dec[here] - dec[there])
    return Looks(shared, taken, [made])


def overlap_figures(looks: Looks) -> dict[str, Floats]:
    """Compare each field with those that it overlaps, by the components that both found.

    Returns
    -------
    dict of str to ndarray, shape (fields,)
        ``shared`` (components also found elsewhere), and of these the medians of ``flux_ratio``
        (peak flux here over there, above S/N 7 in both), ``offset_ra`` and ``offset_dec``
        (arcsec, here minus there); NaN of fewer than 5.
    """
    names = {"flux_ratio": "ratio", "offset_ra": "east", "offset_dec": "north"}
    made = {name: np.full(len(looks.shared), np.nan) for name in names}
    for part in looks.looks:
        for field in np.unique(part["field"]):
            mine = part[part["field"] == field]
            for name, of in names.items():
                values = mine[of][np.isfinite(mine[of])]
                if len(values) >= FEWEST_PAIRS:
                    made[name][field] = np.median(values)
    return {"shared": looks.shared, **made}


def quality(
    facts: Sequence[Mapping[str, Any]],
    looks: Looks,
    peak: Floats,
    limits: VisibilityArea,
    grids: Sequence[NoiseGrid],
) -> "Table":
    """Figures of every field, with those that stand out.

    Parameters
    ----------
    facts : sequence of mapping
        Of each field; see `cyclades.pipeline.survey.facts.collect`.
    looks : Looks
    peak : ndarray
        Of the survey's sources.
    limits : VisibilityArea
    grids : sequence of NoiseGrid

    Returns
    -------
    Table
        One row a field: ``rms``, ``area``, ``sources``, ``expected`` (see
        `expected_sources`), ``excess`` (sources minus expected, over the root of expected),
        ``residual_rms``, ``residual_mean``, the figures of `overlap_figures`, ``kept``
        (components that the survey takes from the field), and ``outlier``: names of the figures
        that lie more than 5 robust deviations from the median of all fields.
    """
    from astropy.table import Table

    def column(name: str) -> Floats:
        return np.array([one.get(name) for one in facts], float)

    expected = expected_sources(peak, limits, grids)
    sources = column("sources")
    figures = {
        "rms": column("rms"),
        "area": column("area"),
        "sources": sources.astype(int),
        "expected": expected,
        "excess": (sources - expected) / np.sqrt(np.maximum(expected, 1.0)),
        "residual_rms": column("residual_rms"),
        "residual_mean": column("residual_mean"),
        **overlap_figures(looks),
        "kept": looks.taken,
    }
    figures["shared"] = figures["shared"].astype(int)
    names: list[list[str]] = [[] for _ in facts]
    for name, least in LEAST_SPREAD.items():
        values = figures[name].astype(float)
        if name in ("rms", "flux_ratio"):
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log(values)
        for field in np.flatnonzero(np.abs(deviations(values, least)) > OUTLIER):
            names[field].append(name)
    units = {"area": "deg2", "offset_ra": "arcsec", "offset_dec": "arcsec"}
    made = Table(figures, units=units)
    made["outlier"] = [" ".join(one) for one in names]
    return made


def deviations(values: Floats, least: float) -> Floats:
    """Robust deviations of values from their median; zero for too few values, and for NaN."""
    known = np.isfinite(values)
    if np.count_nonzero(known) < FEWEST_FIELDS:
        return np.zeros(len(values))
    spread = max(float(robust_sigma(values[known])), least)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num((values - np.median(values[known])) / spread)
