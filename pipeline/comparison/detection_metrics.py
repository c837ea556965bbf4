"""Object-detection metrics: average precision as COCO defines it, and the radio benchmark's form.

Average precision follows Lin et al. (2014, ECCV; the COCO evaluation code): detections in order
of falling score take the free truth object of the same class with the largest intersection over
union (IoU) at or above the threshold; precision is made to fall monotonically with recall and
averaged over 101 recalls; all areas, at most 1000 detections an image and class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.overlaps import Objects, box_overlaps, overlaps
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 1000
BENCHMARK_IOU = 0.6
SPURIOUS = "spurious"


class Assigned(NamedTuple):
    """The detections of one image and class, judged at every IoU threshold."""

    scores: Floats
    hit: NDArray[np.bool_]
    """(thresholds, detections)."""
    ignored: NDArray[np.bool_]
    """(thresholds, detections): neither hit nor false."""
    wanted: int
    taken: Integers
    """(thresholds, detections): row of the truth object that each took; -1 for none."""
    order: Integers
    """Rows of the detections, best score first, as those above are."""


def assign(truth: Objects, found: Objects, thresholds: Floats, kind: str = "box") -> Assigned:
    """Give each detection, best score first, the free truth object that it overlaps most.

    A detection takes an ignored truth object only where no other is left for it, and then counts
    neither as a hit nor as false.
    """
    scores = np.ones(len(found)) if found.scores is None else np.asarray(found.scores, float)
    order = np.argsort(-scores, kind="stable")[:MOST_DETECTIONS]
    found, scores = found.take(order), scores[order]
    ignored = np.zeros(len(truth), bool) if truth.ignored is None else truth.ignored
    pairs = overlaps(found, truth, kind)
    hit = np.zeros((len(thresholds), len(found)), bool)
    dismissed = np.zeros_like(hit)
    owner = np.full(hit.shape, -1, np.int64)
    starts = np.searchsorted(pairs.first, np.arange(len(found) + 1))
    for t, threshold in enumerate(thresholds):
        least = min(float(threshold), 1 - 1e-10)
        taken = np.zeros(len(truth), bool)
        for d in np.flatnonzero(np.diff(starts)):
            rows = slice(starts[d], starts[d + 1])
            candidates, iou = pairs.second[rows], pairs.iou[rows]
            possible = (iou >= least) & ~taken[candidates]
            for choice in (possible & ~ignored[candidates], possible & ignored[candidates]):
                if choice.any():
                    # of equal overlaps COCO takes the last
                    best = int(np.flatnonzero(choice)[::-1][np.argmax(iou[choice][::-1])])
                    row = candidates[best]
                    taken[row] = True
                    hit[t, d] = True
                    owner[t, d] = row
                    dismissed[t, d] = ignored[row]
                    break
    wanted = int(np.count_nonzero(~ignored))
    return Assigned(scores, hit & ~dismissed, dismissed, wanted, owner, order)


def precision_recall(parts: Sequence[Assigned], threshold: int) -> tuple[Floats, Floats, Floats]:
    """Precision and recall along the score, pooled over images, at one IoU threshold.

    Returns
    -------
    recall, precision, score : ndarray, shape (n,)
        One entry a detection that is not ignored, best score first; recall NaN without truth.
    """
    wanted = sum(part.wanted for part in parts)
    scores = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    hit = np.concatenate([part.hit[threshold] for part in parts])[order]
    ignored = np.concatenate([part.ignored[threshold] for part in parts])[order]
    hits = np.cumsum(hit & ~ignored)[~ignored].astype(float)
    number = np.arange(1, len(hits) + 1)
    recall = hits / wanted if wanted else np.full(len(hits), np.nan)
    return recall, hits / number, scores[order][~ignored]


def interpolated_precision(recall: Floats, precision: Floats) -> float:
    """Mean of the monotonically falling precision at 101 recalls; 0 where a recall is not reached.

    Returns
    -------
    float
        Average precision; 0 without detections.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    reached = at < len(envelope)
    return float(np.sum(envelope[at[reached]])) / len(RECALLS)


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of a set of images.

    Parameters
    ----------
    ap50, ap : float
        At IoU 0.5, and the mean over IoU 0.5, 0.55, ... 0.95; over the classes that have truth.
        NaN where none has.
    by_class : dict of str to (float, float)
        The same for each class; ``"all"`` where there are no classes.
    wanted, detections : int
        Truth objects that are not ignored, and detections.
    """

    ap50: float
    ap: float
    by_class: dict[str, tuple[float, float]] = field(default_factory=dict)
    wanted: int = 0
    detections: int = 0


def average_precision(
    truth: Sequence[Objects],
    found: Sequence[Objects],
    kind: str = "box",
) -> AveragePrecision:
    """AP50 and AP50:95 by COCO's definition, for boxes or masks.

    Parameters
    ----------
    truth, found : sequence of Objects
        One entry an image, in the same order. Where both have labels, a detection counts only
        for truth of its own class; otherwise classes are not looked at.
    kind : str
        ``"box"`` or ``"mask"``.

    Raises
    ------
    InputError
        Where masks are asked for and missing, or the numbers of images differ.
    """
    if len(truth) != len(found):
        raise InputError(
            f"there are {len(truth)} images of truth and {len(found)} of detections; give one "
            "entry an image for both."
        )
    labelled = all(o.labels is not None for o in (*truth, *found))
    names: list[str | None] = [None]
    if labelled:
        names = [*sorted({label for o in (*truth, *found) for label in o.labels or ()})]
    by_class: dict[str, tuple[float, float]] = {}
    wanted = 0
    for name in names:
        parts = [
            assign(t.of_class(name), f.of_class(name), IOU_THRESHOLDS, kind)
            for t, f in zip(truth, found, strict=True)
        ]
        number = sum(part.wanted for part in parts)
        wanted += number
        if not number:
            continue
        values = [
            interpolated_precision(*precision_recall(parts, t)[:2])
            for t in range(len(IOU_THRESHOLDS))
        ]
        by_class[name or "all"] = (values[0], float(np.mean(values)))
    means = np.mean(list(by_class.values()), axis=0) if by_class else np.full(2, np.nan)
    return AveragePrecision(
        float(means[0]), float(means[1]), by_class, wanted, sum(len(f) for f in found)
    )


def precision_at(
    truth: Sequence[Objects], found: Sequence[Objects], recall: float, iou: float = 0.5
) -> dict[str, float]:
    """Precision of each class where its recall first reaches a value.

    As Burke et al. (2019, MNRAS 490, 3952) quote it: of the curve that falls monotonically, so
    that it is the best precision at that recall or a higher one.

    Parameters
    ----------
    truth, found : sequence of Objects
        One entry an image, with labels.
    recall : float
    iou : float
        Least intersection over union of boxes.

    Returns
    -------
    dict of str to float
        0 where the recall is not reached; classes without truth are left out.
    """
    made: dict[str, float] = {}
    for name in sorted({label for one in truth for label in one.labels or ()}):
        parts = [
            assign(t.of_class(name), f.of_class(name), np.array([iou]))
            for t, f in zip(truth, found, strict=True)
        ]
        if not sum(part.wanted for part in parts):
            continue
        reached, precision, _ = precision_recall(parts, 0)
        made[name] = float(precision[reached >= recall].max(initial=0.0))
    return made


class ClassScores(NamedTuple):
    """Counts and rates of one class, or of a total."""

    truth: int
    detections: int
    hits: int

    @property
    def completeness(self) -> float:
        """Hits over truth; NaN without truth."""
        return self.hits / self.truth if self.truth else float("nan")

    @property
    def reliability(self) -> float:
        """Hits over detections; NaN without detections."""
        return self.hits / self.detections if self.detections else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 0 where there is no hit."""
        number = self.truth + self.detections
        return 2 * self.hits / number if number else float("nan")


@dataclass(frozen=True)
class BenchmarkScores:
    """Scores at one IoU in the manner of the radio benchmark.

    Parameters
    ----------
    by_class : dict of str to ClassScores
    total : ClassScores
        All classes in the compatibility form, all but ``spurious`` in the corrected form.
    """

    by_class: dict[str, ClassScores]
    total: ClassScores


def benchmark_scores(
    truth: Sequence[Objects], found: Sequence[Objects], *, corrected: bool
) -> BenchmarkScores:
    """Completeness, reliability and F1 of labelled boxes at IoU > 0.6.

    The compatibility form is that of Sortino et al. (2023, Experimental Astronomy 56, 293) and
    its public code: every truth object takes the detection with the largest IoU above 0.6
    whatever its label, even one that another truth object took; it is a hit where the label
    then agrees; the totals include the class ``spurious``. Thus a detection of the right class
    is lost behind a wrong one that overlaps a little more, one detection can count twice, and
    recognised artefacts raise the totals.

    The corrected form pairs one to one, the largest IoU first, among detections and truth of
    the same label; ignored truth is neither wanted nor false; the total leaves ``spurious`` out.

    Parameters
    ----------
    truth, found : sequence of Objects
        One entry an image, with labels.
    corrected : bool
        Which form.
    """
    names = sorted({label for o in (*truth, *found) for label in o.labels or ()})
    counts = {name: np.zeros(3, int) for name in names}
    for t, f in zip(truth, found, strict=True):
        if t.labels is None or f.labels is None:
            raise InputError("the benchmark's scores need labels of both truth and detections.")
        judge = _one_to_one if corrected else _best_of_each
        for name, values in judge(t, f).items():
            counts[name] += values
    by_class = {name: ClassScores(*map(int, values)) for name, values in counts.items()}
    summed = [c for name, c in by_class.items() if not (corrected and name == SPURIOUS)]
    total = np.sum(summed, axis=0) if summed else np.zeros(3, int)
    return BenchmarkScores(by_class, ClassScores(*map(int, total)))


def _best_of_each(truth: Objects, found: Objects) -> dict[str, NDArray[np.int64]]:
    """(truth, detections, hits) by class, each truth object with its best detection."""
    counts = _counts(truth, found)
    pairs = box_overlaps(truth.boxes, found.boxes)
    good = pairs.iou > BENCHMARK_IOU
    first, second, iou = (column[good] for column in pairs)
    best: dict[int, int] = {}
    for k in np.argsort(-iou, kind="stable"):
        best.setdefault(int(first[k]), int(second[k]))
    labels, others = truth.labels or (), found.labels or ()
    for i, j in best.items():
        counts[labels[i]][2] += labels[i] == others[j]
    return counts


def _one_to_one(truth: Objects, found: Objects) -> dict[str, NDArray[np.int64]]:
    """(truth, detections, hits) by class, pairs of one label, without what is ignored."""
    counts = _counts(truth, found)
    labels, others = truth.labels or (), found.labels or ()
    ignored = np.zeros(len(truth), bool) if truth.ignored is None else truth.ignored
    for row in np.flatnonzero(ignored):
        counts[labels[row]][0] -= 1
    pairs = box_overlaps(truth.boxes, found.boxes)
    taken, used = np.zeros(len(truth), bool), np.zeros(len(found), bool)
    good = np.flatnonzero(pairs.iou > BENCHMARK_IOU)
    # wanted truth first, so that an ignored object never takes its detection
    for pair in good[np.lexsort((-pairs.iou[good], ignored[pairs.first[good]]))]:
        i, j = int(pairs.first[pair]), int(pairs.second[pair])
        if taken[i] or used[j] or labels[i] != others[j]:
            continue
        taken[i] = used[j] = True
        if ignored[i]:
            counts[others[j]][1] -= 1
        else:
            counts[labels[i]][2] += 1
    return counts


def _counts(truth: Objects, found: Objects) -> dict[str, Any]:
    names = {*(truth.labels or ()), *(found.labels or ())}
    return {
        name: np.array(
            [(truth.labels or ()).count(name), (found.labels or ()).count(name), 0], np.int64
        )
        for name in names
    }
