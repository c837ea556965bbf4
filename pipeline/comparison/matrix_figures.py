"""The figures of a route over several fields, with intervals from resampling whole fields."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from cyclades.pipeline.comparison.accuracy import OVERALL, Pairs, pull
from cyclades.pipeline.comparison.association import object_rows, source_groups
from cyclades.pipeline.comparison.field import ComparedField
from cyclades.pipeline.comparison.field_tables import (
    RATES,
    association_counts,
    association_rates,
    outcome_counts,
    real_truth,
)
from cyclades.pipeline.comparison.intervals import bootstrap, median, robust_sigma
from cyclades.pipeline.comparison.metrics import (
    FIXED_RELIABILITIES,
    completeness_at,
    threshold_curve,
)
from cyclades.pipeline.comparison.outcome import Outcome
from cyclades.pipeline.comparison.tables import Floats, Integers

RESAMPLES = 200
RELIABLE = FIXED_RELIABILITIES[0]
PULLS_FROM = OVERALL[1]
"""Lowest S/N of the points whose pulls are taken: nearer the threshold noise is cut off."""


class Quantity(NamedTuple):
    """A column of the matrix.

    Attributes
    ----------
    title : str
        In words.
    ideal : float
        The best value; infinite where less (-inf) or more (inf) is better without end.
    digits : int
        Printed behind the point.
    """

    title: str
    ideal: float
    digits: int = 3


QUANTITIES: dict[str, Quantity] = {
    "completeness_at_reliability": Quantity(f"C at R {RELIABLE:g}", 1.0),
    "completeness": Quantity("C", 1.0),
    "reliability": Quantity("R", 1.0),
    "f1": Quantity("F1", 1.0),
    "total_flux_ratio": Quantity("flux ratio", 1.0),
    "total_flux_scatter": Quantity("scatter", 0.0),
    "peak_flux_pull": Quantity("pull peak", 1.0, 2),
    "total_flux_pull": Quantity("pull total", 1.0, 2),
    "position_pull": Quantity("pull position", 1.0, 2),
    "pair_f1": Quantity("pair F1", 1.0),
    "whole": Quantity("whole", 1.0),
    "merged": Quantity("merged", 0.0),
    "seconds": Quantity("s/Mpx", 0.0, 2),
    "cpu_seconds": Quantity("CPU s/Mpx", 0.0, 2),
}
"""Completeness at a reliability of 0.95; completeness, reliability and F1 at S/N of 5 and above;
median and robust scatter of measured over true total flux; robust sigma of the pulls of points at
S/N of 7 and above; pairwise F1 of components, share of objects of several components put together
exactly, share of compact sources merged with anything; seconds per million pixels by the clock, and
of the processor, which other jobs on the machine change little."""
PULLS = {
    "peak_flux_pull": ("peak_flux",),
    "total_flux_pull": ("total_flux",),
    "position_pull": ("ra", "dec"),
}
ASSOCIATION = ("pair_f1", "whole", "merged")


@dataclass(frozen=True, eq=False)
class Judged:
    """What a route made of one field.

    Parameters
    ----------
    outcome : Outcome
    association : ndarray of int, shape (7,)
        See `cyclades.pipeline.comparison.field_tables.association_counts`.
    seconds, cpu_seconds : float
        Of all stages, by the clock and of the processor.
    pixels : int
        Of the image.
    """

    outcome: Outcome
    association: Integers
    seconds: float
    cpu_seconds: float
    pixels: int

    @classmethod
    def of(
        cls, field: ComparedField, label: str, seconds: float, cpu_seconds: float, pixels: int
    ) -> "Judged":
        """Judge the catalogue of a field that has a label."""
        table = field.catalogues[label]
        rows = object_rows(table, real_truth(field), field.beam)
        counts = association_counts(source_groups(table), rows, field)
        return cls(field.outcomes[label], counts, seconds, cpu_seconds, pixels)

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs.of_outcome(self.outcome)

    @cached_property
    def flux_ratio(self) -> Floats:
        """Measured over true total flux of the matched sources that count."""
        pairs = self._pairs
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = pairs.measured["total_flux"] / pairs.truth["total_flux"]
        return np.asarray(ratio[~(pairs.snr < self.outcome.floor) & np.isfinite(ratio)])

    @cached_property
    def pulls(self) -> dict[str, Floats]:
        """Pulls of points, by quantity of `PULLS`."""
        pairs = self._pairs
        points = (pairs.kind == "point") & (pairs.snr >= PULLS_FROM)
        made = {}
        for name, parts in PULLS.items():
            values = np.concatenate([pull(pairs, part)[points] for part in parts])
            made[name] = values[np.isfinite(values)]
        return made


def figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Every quantity of `QUANTITIES`, over several fields pooled.

    NaN where there is nothing to tell it from; the association where no true object that was
    found has several components.
    """
    outcome = Outcome.concatenate([one.outcome for one in judged])
    counts = np.sum([outcome_counts(one.outcome) for one in judged], axis=0, dtype=float)
    made = {name: float(rate(counts)) for name, rate in RATES.items()}
    made["completeness_at_reliability"] = completeness_at(threshold_curve(outcome), RELIABLE)
    ratio = np.concatenate([one.flux_ratio for one in judged])
    made["total_flux_ratio"] = float(median(ratio))
    made["total_flux_scatter"] = float(robust_sigma(ratio))
    for name in PULLS:
        values = np.concatenate([one.pulls[name] for one in judged])
        made[name] = float(robust_sigma(values))
    rates = association_rates(np.sum([one.association for one in judged], axis=0))
    made |= {name: rates[name] if rates["objects"] else np.nan for name in ASSOCIATION}
    pixels = sum(one.pixels for one in judged)
    made["seconds"] = 1e6 * sum(one.seconds for one in judged) / pixels
    made["cpu_seconds"] = 1e6 * sum(one.cpu_seconds for one in judged) / pixels
    return {name: made[name] for name in QUANTITIES}


class _Resampled:
    """Figures of a route for any draw of its fields; each draw is made once."""

    def __init__(self, judged: Sequence[Judged]) -> None:
        self.judged = judged
        self.known: dict[tuple[int, ...], dict[str, float]] = {}

    def __call__(self, drawn: Floats, name: str) -> Floats:
        """The figure of every row of numbers of fields."""
        return np.array([self.one(row)[name] for row in drawn.astype(int)])

    def one(self, rows: Integers) -> dict[str, float]:
        key = tuple(sorted(rows.tolist()))
        if key not in self.known:
            self.known[key] = figures([self.judged[row] for row in key])
        return self.known[key]


def matrix_figures(
    judged: Mapping[str, Sequence[Judged]], *, resamples: int = RESAMPLES
) -> list[dict[str, float]]:
    """Figures of every route, and what it gains on the first, with 68 % intervals.

    Parameters
    ----------
    judged : mapping of str to sequence of Judged
        By route; all of the same fields in the same order.
    resamples : int
        Draws of as many fields as there are, with replacement; the same for all routes, so that
        what makes a field easy or hard drops out of a gain.

    Returns
    -------
    list of dict
        One a route: every quantity, its ``_low`` and ``_high``, and ``_gain`` (the difference to
        the first route) with ``_gain_low`` and ``_gain_high``. Intervals of one field are NaN.
    """
    routes = [_Resampled(of) for of in judged.values()]
    base = routes[0]
    numbers = np.arange(len(base.judged), dtype=float)
    rows = []
    for route in routes:
        row: dict[str, float] = {}
        for name in QUANTITIES:
            statistics: dict[str, Callable[[Floats], Floats]] = {
                name: partial(route, name=name),
                f"{name}_gain": partial(_gain, route, base, name),
            }
            for key, statistic in statistics.items():
                row[key] = float(statistic(numbers[None])[0])
                row[f"{key}_low"], row[f"{key}_high"] = bootstrap(
                    numbers, statistic, resamples=resamples
                )
        rows.append(row)
    return rows


def _gain(route: _Resampled, base: _Resampled, name: str, drawn: Floats) -> Floats:
    return route(drawn, name) - base(drawn, name)
