"""What the cells of a row say together, and whether the row may be quoted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cyclades.pipeline.comparison.detection_metrics import ClassScores
from cyclades.pipeline.studies.cells import Outcome
from cyclades.pipeline.studies.detectors.convergence import Curve, Flatness, flatness
from cyclades.pipeline.studies.detectors.options import DetectorOptions, DetectorStudyOptions
from cyclades.pipeline.studies.detectors.running import DetectorCell, DetectorStudy
from cyclades.pipeline.studies.detectors.scoring import Pooled
from cyclades.pipeline.studies.summary import Figure, drawn_figures, over_seeds

MAIN = "ap50_any"
"""The figure that every row has: AP50 of sources, whatever class they are given."""


@dataclass(frozen=True, eq=False)
class Row:
    """A detector on one set of data, over its seeds.

    Parameters
    ----------
    data, detector : str
    outcomes : tuple of (DetectorCell, Outcome)
    figures : dict of str to Figure
        Means over seeds; see `Pooled.figures`.
    cells : tuple of dict of str to Figure
        The same of each seed.
    counts : dict
        Truth, detections and hits of the first seed, by form and class.
    flat : Flatness, optional
        None for routes, which are not trained.
    untrained, trained : float
        AP50 on the same few tiles; NaN for routes.
    claim : bool
        Whether the row may be quoted.
    why : str
        What forbids it; empty where nothing does.
    """

    data: str
    detector: str
    outcomes: tuple[tuple[DetectorCell, Outcome], ...]
    figures: dict[str, Figure]
    cells: tuple[dict[str, Figure], ...]
    counts: dict[tuple[str, str], ClassScores]
    flat: Flatness | None
    untrained: float
    trained: float
    claim: bool = True
    why: str = ""
    curves: tuple[Curve, ...] = field(default=())

    def mean(self, name: str) -> float:
        """Mean over seeds of something that cells note; NaN where none does."""
        known = [float(o.further[name]) for _, o in self.outcomes if name in o.further]
        return float(np.mean(known)) if known else float("nan")

    @property
    def seconds(self) -> float:
        """Mean wall time of the steps of a training, or of a route on all tiles."""
        return float(np.mean([outcome.seconds for _, outcome in self.outcomes]))


def rows(study: DetectorStudy) -> list[Row]:
    """Summarise the cells that are there, data by data, in the order of the configuration."""
    groups: dict[tuple[str, str], list[tuple[DetectorCell, Outcome]]] = {}
    for cell, outcome in study.outcomes():
        groups.setdefault((cell.data, cell.detector), []).append((cell, outcome))
    o = study.options
    made = [
        _row(o, data, name, groups[data, name])
        for data in o.data
        for name in o.detectors
        if (data, name) in groups
    ]
    return [_restrained(row, made, o) for row in made]


def _row(
    o: DetectorStudyOptions,
    data: str,
    name: str,
    found: Sequence[tuple[DetectorCell, Outcome]],
) -> Row:
    pooled = [Pooled(outcome.units, o.reliability) for _, outcome in found]
    several = [drawn_figures(one.figures, one.number, o.resamples, o.level) for one in pooled]
    figures, _ = over_seeds(several, f"{data} {name}", o.level)
    trained = o.detectors[name].network is not None
    curves = tuple([(int(s), float(v)) for s, v in c.further.get("curve", [])] for _, c in found)
    flat = flatness(curves, o.tolerance) if trained else None
    before, after = (
        float(np.mean([c.further.get(key, np.nan) for _, c in found]))
        for key in ("untrained", "trained")
    )
    why = ""
    if flat is not None and not flat.flat:
        why = f"not converged: {flat.reason}"
    elif trained and not after - before >= o.gain:
        why = (
            f"AP50 of {after:.2f} does not exceed that of its untrained self ({before:.2f}) by "
            f"{o.gain:g}"
        )
    return Row(
        data, name, tuple(found), figures, tuple(one[0] for one in several), pooled[0].counts(),
        flat, before, after, not why, why, curves,
    )  # fmt: skip


def _restrained(row: Row, others: Sequence[Row], o: DetectorStudyOptions) -> Row:
    """Forbid a row what others say of it: a hybrid's network, or a longer training of its own."""
    options = o.detectors[row.detector]
    if options.detector is not None:
        base = [one for one in others if (one.data, one.detector) == (row.data, options.detector)]
        if base and not base[0].claim:
            return _without_claim(row, f"its network is {base[0].why}")
    if not row.claim or options.network is None:
        return row
    mine = row.figures[MAIN]
    for other in others:
        theirs = o.detectors[other.detector]
        longer = other.data == row.data and row.mean("images") < other.mean("images")
        if (
            longer
            and _same(options, theirs)
            and other.figures[MAIN].value > max(mine.high, mine.value + o.tolerance)
        ):
            return _without_claim(
                row,
                f"not converged: {other.detector}, trained longer, has AP50 "
                f"{other.figures[MAIN].value:.3f} instead of {mine.value:.3f}",
            )
    return row


def _without_claim(row: Row, why: str) -> Row:
    return replace(row, claim=False, why=why)


def _same(one: DetectorOptions, other: DetectorOptions) -> bool:
    """Whether two rows are the same network, adapted alike."""
    return (one.network, one.adaptation) == (other.network, other.adaptation)


def cell_rows(study: DetectorStudy, found: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a cell: what it is, what it cost, and its figures with their intervals."""
    made = []
    for row in found:
        for (cell, outcome), figures in zip(row.outcomes, row.cells, strict=True):
            one: dict[str, Any] = {
                "data": row.data,
                "detector": row.detector,
                "seed": cell.seed,
                "units": len(outcome.units),
                "seconds": outcome.seconds,
                **{k: v for k, v in outcome.further.items() if k != "curve"},
                "key": study.keys[cell],
            }
            for name, figure in figures.items():
                one |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
            made.append(one)
    return made


def figure_rows(found: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a detector and figure: mean over seeds, interval, and whether it may be quoted."""
    return [
        {
            "data": row.data,
            "detector": row.detector,
            "seeds": len(row.outcomes),
            "claim": row.claim,
            "why_not": row.why,
            "figure": name,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
        }
        for row in found
        for name, figure in row.figures.items()
    ]


def curve_rows(found: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a point of a validation curve."""
    return [
        {
            "data": row.data,
            "detector": row.detector,
            "seed": cell.seed,
            "step": step,
            "images": step * outcome.further["images"] // outcome.further["steps"],
            "validation_ap50": value,
        }
        for row in found
        for (cell, outcome), curve in zip(row.outcomes, row.curves, strict=True)
        for step, value in curve
    ]
