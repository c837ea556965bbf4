"""How complete, how reliable, how accurate: numbers from an `Outcome`.

Every metric is defined, with its source, in ``docs/metrics.md``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.intervals import count_bootstrap, wilson
from cyclades.pipeline.comparison.match import (
    MAJOR_SHARE,
    Matches,
    fluxes_agree,
    neighbours,
    one_to_one,
)
from cyclades.pipeline.comparison.outcome import ARTEFACT, FALSE, FRAGMENT, SPURIOUS, Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats

if TYPE_CHECKING:
    from astropy.table import Table

SNR_BINS = (0.0, 5.0, 7.0, 10.0, 20.0, 50.0, np.inf)
FIXED_RELIABILITIES = (0.95, 0.99)
FLUX_BINS = 8


def f1_score(completeness: Floats | float, reliability: Floats | float) -> Floats:
    """Harmonic mean of completeness and reliability; 0 where one is, whatever the other."""
    c, r = np.asarray(completeness, float), np.asarray(reliability, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((c == 0) | (r == 0), 0.0, 2.0 * c * r / (c + r))


def summary(outcome: Outcome) -> dict[str, float | int | str]:
    """One row of numbers about a catalogue, with 68 % intervals ``_low`` and ``_high``."""
    counted, found = outcome.counted, outcome.found
    n, hits = int(counted.sum()), int((counted & found).sum())
    judged, true = int(outcome.judged.sum()), int(outcome.true.sum())
    c, r = _share(hits, n), _share(true, judged)
    # a hit has one true row; an object of several rows may have further ones
    outcomes = [hits, n - hits, judged - true, true - hits]
    f1_low, f1_high = count_bootstrap(outcomes, _f1_of_counts)
    curve = threshold_curve(outcome)
    made: dict[str, float | int | str] = {
        "catalogue": outcome.name,
        "rows": len(outcome.catalogue),
        "truth": n,
        "truth_ignored": int((~counted).sum()),
        "floor": outcome.floor,
        "completeness": c,
        **_interval("completeness", hits, n),
        "reliability": r,
        **_interval("reliability", true, judged),
        "f1": float(f1_score(c, r)),
        "f1_low": f1_low,
        "f1_high": f1_high,
        "area_under_curve": area_under_curve(curve),
        "threshold_on": "score" if outcome.scored else "snr",
    }
    for wanted in FIXED_RELIABILITIES:
        made[f"completeness_at_{wanted:g}"] = completeness_at(curve, wanted)
    status = outcome.status
    made["rows_ignored"] = int((~outcome.judged).sum())
    made["false_rows"] = judged - true
    made["false_on_extended"] = int((status == FRAGMENT).sum())
    made["false_on_artefacts"] = int((status == ARTEFACT).sum())
    made["false_elsewhere"] = int((status == FALSE).sum())
    return made


def _f1_of_counts(counts: Floats) -> Floats:
    hits, missed, false, extra = counts.T
    return f1_score(hits / (hits + missed), (hits + extra) / (hits + extra + false))


def _share(hits: int, n: int) -> float:
    return hits / n if n else np.nan


def _interval(name: str, hits: int, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def by_bin(outcome: Outcome, edges: Sequence[float], quantity: str = "snr") -> "Table":
    """Completeness, reliability and F1 in bins.

    Parameters
    ----------
    outcome : Outcome
    edges : sequence of float
        Bins are ``[edges[k], edges[k + 1])``.
    quantity : str
        ``snr`` or ``total_flux``. True sources are sorted by their true value, catalogue rows
        by their own.

    Returns
    -------
    astropy.table.Table
        One row a bin: ``<quantity>_low``, ``<quantity>_high``, ``truth``, ``found``,
        ``completeness`` with its Wilson interval, ``rows``, ``true_rows``, ``reliability`` with
        its interval, ``f1``; shares of nothing are NaN.
    """
    from astropy.table import Table

    limits = np.asarray(edges, float)
    true_value = outcome.snr if quantity == "snr" else outcome.total_flux
    own_value = outcome.catalogue[quantity]
    n = _histogram(true_value[outcome.counted], limits)
    hits = _histogram(true_value[outcome.counted & outcome.found], limits)
    rows = _histogram(own_value[outcome.judged], limits)
    true = _histogram(own_value[outcome.true], limits)
    with np.errstate(divide="ignore", invalid="ignore"):
        c, r = hits / n, true / rows
    c_low, c_high = wilson(hits, n)
    r_low, r_high = wilson(true, rows)
    return Table(
        {
            "catalogue": np.full(len(n), outcome.name),
            f"{quantity}_low": limits[:-1],
            f"{quantity}_high": limits[1:],
            "truth": n,
            "found": hits,
            "completeness": c,
            "completeness_low": c_low,
            "completeness_high": c_high,
            "rows": rows,
            "true_rows": true,
            "reliability": r,
            "reliability_low": r_low,
            "reliability_high": r_high,
            "f1": f1_score(c, r),
        }
    )


def _histogram(values: Floats, edges: Floats) -> NDArray[np.int64]:
    bins = np.searchsorted(edges, values[np.isfinite(values)], side="right") - 1
    inside = bins[(bins >= 0) & (bins < len(edges) - 1)]
    return np.bincount(inside, minlength=len(edges) - 1).astype(np.int64)


def flux_edges(truth: ComparisonTable, bins: int = FLUX_BINS) -> Floats:
    """Logarithmic bins of total flux that hold all of a truth; none where it has no fluxes."""
    flux = truth["total_flux"]
    flux = flux[np.isfinite(flux) & (flux > 0) & (truth["morphology"] != SPURIOUS)]
    if not len(flux):
        return np.zeros(0)
    low, high = float(flux.min()), float(flux.max()) * (1.0 + 1e-9)
    return np.geomspace(low, max(high, 1.001 * low), bins + 1)


def by_class(outcome: Outcome) -> "Table":
    """Completeness of every class of the truth, and of the whole.

    For artefacts (class ``spurious``) ``found`` counts those that a row lies on: there, low is
    good.
    """
    from astropy.table import Table

    kinds = [kind for kind in np.unique(outcome.kind).tolist() if kind]
    rows = [(kind, outcome.counted & (outcome.kind == kind)) for kind in kinds]
    counts = [(kind, int(pick.sum()), int(outcome.found[pick].sum())) for kind, pick in rows]
    artefacts = np.flatnonzero(outcome.truth["morphology"] == SPURIOUS)
    if len(artefacts):
        taken = np.unique(outcome.lies_on[outcome.status == ARTEFACT])
        counts.append((SPURIOUS, len(artefacts), len(taken)))
    pick = outcome.counted
    counts.append(("total", int(pick.sum()), int(outcome.found[pick].sum())))
    names, n, hits = (list(column) for column in zip(*counts, strict=True))
    low, high = wilson(hits, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.asarray(hits) / np.asarray(n, float)
    return Table(
        {
            "catalogue": np.full(len(n), outcome.name),
            "class": names,
            "truth": n,
            "found": hits,
            "completeness": share,
            "completeness_low": low,
            "completeness_high": high,
        }
    )


def threshold_curve(outcome: Outcome) -> "Table":
    """Completeness and reliability of the catalogue cut at every value of its score or S/N.

    The match is that of the whole catalogue: a cut removes rows, it does not match anew.

    Returns
    -------
    astropy.table.Table
        ``threshold`` (descending), ``completeness``, ``reliability``, ``f1``; one row for each
        value that a judged row has.
    """
    from astropy.table import Table

    strength = outcome.strength
    judged = np.flatnonzero(outcome.judged)
    judged = judged[np.argsort(-strength[judged], kind="stable")]
    values = strength[judged]
    true = np.cumsum(outcome.true[judged])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else judged
    hit = outcome.counted & outcome.found
    found_at = np.sort(-strength[outcome.found_by[hit]])
    hits = np.searchsorted(found_at, -values[last], side="right")
    n = int(outcome.counted.sum())
    c = hits / n if n else np.full(len(last), np.nan)
    r = true[last] / (last + 1.0)
    return Table(
        {
            "catalogue": np.full(len(last), outcome.name),
            "threshold": values[last],
            "completeness": c,
            "reliability": r,
            "f1": f1_score(c, r),
        }
    )


def area_under_curve(curve: "Table") -> float:
    """Area under reliability as a function of completeness, by steps, without interpolation."""
    c, r = np.asarray(curve["completeness"]), np.asarray(curve["reliability"])
    return float(np.sum(np.diff(c, prepend=0.0) * r)) if len(c) else 0.0


def completeness_at(curve: "Table", reliability: float) -> float:
    """Return the highest completeness at which the reliability still has the wanted value."""
    good = np.asarray(curve["reliability"]) >= reliability
    return float(np.asarray(curve["completeness"])[good].max(initial=0.0))


def peers_score(
    truth: ComparisonTable, catalogue: ComparisonTable, beam: float, floor: float = 5.0
) -> Mapping[str, float]:
    """Completeness and reliability by simpler rules than ours, for comparison with older tables.

    A pair may be half a beam apart (of the truth's 0.6 major axis where that is larger) whatever
    its errors, pairs are taken by separation, completeness counts truth at or above the floor in
    peak S/N, and a row that matches truth below the floor is a true one.

    Returns
    -------
    dict
        ``C``, ``R``, ``F1``; ``C5``, ``C7``, ``C10``, ``C20`` by S/N bin (5-7, 7-10, 10-20,
        above) and ``C_<class>`` at S/N of 7 and above.
    """
    usable = np.isfinite(catalogue["ra"]) & np.isfinite(catalogue["peak_flux"])
    rows = catalogue.take(usable)
    reach = 0.5 * np.maximum(beam, MAJOR_SHARE * truth["major"])
    i, j, separation = neighbours(truth, rows, reach)
    agree = fluxes_agree(truth, rows, i, j)
    pairs = Matches(i[agree], j[agree], separation[agree], separation[agree])
    matched = one_to_one(pairs)
    found = np.zeros(len(truth), bool)
    found[matched.first_rows] = True
    snr = truth["snr"]
    c, r = _mean(found[snr >= floor]), len(matched) / max(len(rows), 1)
    made = {"C": c, "R": r, "F1": float(f1_score(c, r))}
    for low, high in ((5, 7), (7, 10), (10, 20), (20, np.inf)):
        made[f"C{low}"] = _mean(found[(snr >= low) & (snr < high)])
    for kind in np.unique(truth["morphology"]).tolist():
        made[f"C_{kind}"] = _mean(found[(snr >= 7.0) & (truth["morphology"] == kind)])
    return made


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else np.nan
