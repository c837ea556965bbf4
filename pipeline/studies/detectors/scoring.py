"""What is kept of each test tile, and the figures of all tiles together.

All rows of a table are judged by the same code, whether boxes come from a network or a catalogue.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.detection_metrics import (
    IOU_THRESHOLDS,
    ClassScores,
    assign,
    benchmark_scores,
    interpolated_precision,
)
from cyclades.pipeline.comparison.detection_tables import ONE_CLASS, without_ignored
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.evaluation import REAL_OVERLAP
from cyclades.pipeline.training.samples import SPURIOUS

Floats = NDArray[np.float64]
Unit = Mapping[str, Any]

ANY = "any"
"""All classes of sources as one."""
FORMS = ("compatible", "corrected")
TOTAL = "total"
_THRESHOLDS = np.concatenate([[REAL_OVERLAP], IOU_THRESHOLDS])
_AP50 = 1
"""Place of IoU 0.5 among the thresholds."""


def judged_tile(
    truth: Objects, found: Objects, ranked: Objects | None, limit: float
) -> dict[str, Any]:
    """Judge the detections of one tile.

    Parameters
    ----------
    truth : Objects
        With classes; what is ignored is neither to be found nor wrong to be found.
    found : Objects
        Detections with their scores and likeliest classes, or without classes.
    ranked : Objects or None
        The same once for every class that they may be, for average precision by class; None where
        classes are not known.
    limit : float
        Score from which on detections count for F1.

    Returns
    -------
    dict
        ``ranked``: by class and for `ANY`, what is wanted, and score, hits and dismissals (a bit
        for each IoU) of every detection; ``counts``: truth, detections and hits by form and class.
    """
    real, sources = _sources(truth), _sources(found)
    made = {ANY: _ranking(real.unclassed(), sources.unclassed())}
    if ranked is not None:
        names = dict.fromkeys([*(truth.labels or ()), *(ranked.labels or ())])
        for name in names:
            made[name] = _ranking(truth.of_class(name), ranked.of_class(name))
    return {"ranked": made, "counts": _counts(truth, found, limit)}


def _sources(objects: Objects) -> Objects:
    """Objects that are no artefacts."""
    if objects.labels is None:
        return objects
    return objects.take(np.flatnonzero([name != SPURIOUS for name in objects.labels]))


def _ranking(truth: Objects, found: Objects) -> list[Any]:
    one = assign(truth, found, _THRESHOLDS)
    bits = 1 << np.arange(len(_THRESHOLDS))
    return [
        one.wanted,
        np.round(one.scores, 6).tolist(),
        (bits @ one.hit.astype(int)).tolist(),
        (bits @ one.ignored.astype(int)).tolist(),
    ]


def _counts(truth: Objects, found: Objects, limit: float) -> dict[str, dict[str, list[int]]]:
    kept = found
    if found.scores is not None:
        kept = found.take(np.flatnonzero(np.asarray(found.scores) >= limit))
    made: dict[str, dict[str, list[int]]] = {}
    if kept.labels is not None:
        for form in FORMS:
            corrected = form == "corrected"
            pair = (truth, kept) if corrected else without_ignored(truth, kept)
            scores = benchmark_scores([pair[0]], [pair[1]], corrected=corrected)
            made[form] = {name: list(one) for name, one in scores.by_class.items()}
            made[form][TOTAL] = list(scores.total)
    one_class = [_named(_sources(side)) for side in (truth, kept)]
    total = benchmark_scores([one_class[0]], [one_class[1]], corrected=True).total
    made[ANY] = {TOTAL: list(total)}
    return made


def _named(objects: Objects) -> Objects:
    """Objects of one class."""
    return Objects(
        objects.boxes, objects.scores, (ONE_CLASS,) * len(objects), None, objects.ignored
    )


class Pooled:
    """Test tiles of one cell, pooled so that figures of any draw of them are quick.

    Parameters
    ----------
    units : sequence of mapping
        From `judged_tile`.
    reliability : float
        At which completeness is taken.
    """

    def __init__(self, units: Sequence[Unit], reliability: float) -> None:
        self.number, self.reliability = len(units), reliability
        names = dict.fromkeys(name for unit in units for name in unit["ranked"])
        self._ranked = {name: _Ranked(units, name) for name in names}
        keys = dict.fromkeys(
            (form, name) for unit in units for form, one in unit["counts"].items() for name in one
        )
        empty = [0, 0, 0]
        self._counts = {
            key: np.array([unit["counts"].get(key[0], {}).get(key[1], empty) for unit in units])
            for key in keys
        }

    def counts(self) -> dict[tuple[str, str], ClassScores]:
        """Truth, detections and hits of all tiles, by form and class."""
        return {key: ClassScores(*map(int, one.sum(0))) for key, one in self._counts.items()}

    def figures(self, drawn: NDArray[np.int64]) -> dict[str, float]:
        """Figures of the tiles that are drawn, each as often as it is.

        ``ap50``, ``ap`` (means of the classes with truth) and ``ap50_CLASS`` where classes are
        known; ``ap50_any`` and ``ap_any`` of sources, whatever class they are given;
        ``completeness_at_reliability`` of the same at IoU 0.3; then reliability, completeness and
        F1 as ``FORM_FIGURE_CLASS``.
        """
        times = np.bincount(drawn, minlength=self.number).astype(float)
        made: dict[str, float] = {}
        classes = []
        for name, one in self._ranked.items():
            if name == ANY:
                made["ap50_any"] = one.precision(times, _AP50)
                made["ap_any"] = one.mean_precision(times)
                made["completeness_at_reliability"] = one.completeness(times, self.reliability)
            elif float(times @ one.wanted):
                classes.append((one.precision(times, _AP50), one.mean_precision(times)))
                made[f"ap50_{name}"] = classes[-1][0]
        if classes:
            made["ap50"], made["ap"] = (float(v) for v in np.mean(classes, 0))
        for (form, name), counted in self._counts.items():
            truth, found, hits = times @ counted
            made[f"{form}_completeness_{name}"] = hits / truth if truth else float("nan")
            made[f"{form}_reliability_{name}"] = hits / found if found else float("nan")
            made[f"{form}_f1_{name}"] = (
                2.0 * hits / (truth + found) if truth + found else float("nan")
            )
        return made


class _Ranked:
    """Detections of one class on all tiles, best first."""

    def __init__(self, units: Sequence[Unit], name: str) -> None:
        rows = [unit["ranked"].get(name, [0, [], [], []]) for unit in units]
        self.wanted = np.array([row[0] for row in rows], float)
        score = np.concatenate([np.asarray(row[1], float) for row in rows])
        order = np.argsort(-score, kind="stable")
        self.owner = np.repeat(np.arange(len(rows)), [len(row[1]) for row in rows])[order]
        self.hit, self.ignored = (
            np.concatenate([np.asarray(row[k], np.int64) for row in rows])[order] for k in (2, 3)
        )

    def curve(self, times: Floats, place: int) -> tuple[Floats, Floats]:
        """Recall and precision along the score at one IoU."""
        weight = times[self.owner]
        hits = np.cumsum(weight * (self.hit >> place & 1))
        number = np.cumsum(weight * (1 - (self.ignored >> place & 1)))
        seen = number > 0.0
        wanted = float(times @ self.wanted)
        recall = hits[seen] / wanted if wanted else np.full(int(seen.sum()), np.nan)
        return recall, hits[seen] / number[seen]

    def precision(self, times: Floats, place: int) -> float:
        recall, precision = self.curve(times, place)
        if np.isnan(recall).any():
            return float("nan")
        return interpolated_precision(recall, precision)

    def mean_precision(self, times: Floats) -> float:
        return float(
            np.mean([self.precision(times, place) for place in range(_AP50, len(_THRESHOLDS))])
        )

    def completeness(self, times: Floats, reliability: float) -> float:
        recall, precision = self.curve(times, 0)
        good = precision >= reliability
        return float(recall[good].max()) if good.any() else 0.0
