"""How good a detector is on labelled tiles, and what its scores mean."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.detection_metrics import (
    AveragePrecision,
    assign,
    average_precision,
    benchmark_scores,
)
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.ceiling import Observation, ceiling, observe
from cyclades.pipeline.training.samples import Sample, input_channels
from cyclades.stages.detection.wide import likely_rows
from cyclades.stages.networks.evidence import settle
from cyclades.stages.networks.inputs import normalise
from cyclades.stages.networks.selection import Found, real_scores
from cyclades.stages.networks.specification import SPURIOUS, Calibration, NetworkSpec

Floats = NDArray[np.float64]
Detect = Callable[[NDArray[np.float32]], list[Found]]

REAL_OVERLAP = 0.3
"""Intersection over union from which a detection is of a true object: boxes of faint sources are
some pixels wide, and a shift by one costs a quarter."""
OVERLAP = 0.5
"""Intersection over union above which the less likely of two detections goes, as in the stage."""
RELIABILITY = 0.95
_LEAST_A_KNOT = 25
_LEAST_SCORE = 0.01
_CLIP = 1e-4


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections of many tiles beside their labels.

    Parameters
    ----------
    truth, found : list of Objects
        One entry a tile. Each detection of `found` has its likeliest class and its raw score of
        being real.
    ranked : list of Objects
        The same detections once for every class that they may be, with the score of that class,
        as average precision takes them (COCO's protocol).
    score, real : ndarray
        Every detection that is judged: raw score of being real, and whether it is.
    artefact : ndarray of bool
        Which of these lie on an artefact of the simulation.
    wanted : int
        Real objects above the floor.
    seen : list of Observation
        What the observer of `ceiling` sees of each tile; None where it cannot look.
    """

    truth: list[Objects]
    found: list[Objects]
    ranked: list[Objects]
    score: Floats
    real: NDArray[np.bool_]
    artefact: NDArray[np.bool_]
    wanted: int
    seen: list[Observation | None] = field(default_factory=list)


def judge(
    detect: Detect,
    samples: Iterable[Sample],
    spec: NetworkSpec,
    batch: int = 8,
    look: Callable[[Sample, Found], None] | None = None,
) -> Judged:
    """Run a detector on labelled tiles and compare.

    Parameters
    ----------
    detect : callable
        Channels of tiles, shape (b, channels, h, w), to their detections.
    samples : iterable of Sample
        All of one size.
    spec : NetworkSpec
    batch : int
        Tiles at a time.
    look : callable, optional
        Told every tile and what the network finds in it, before classes are decided.
    """
    truths: list[Objects] = []
    founds: list[Objects] = []
    ranked: list[Objects] = []
    seen: list[Observation | None] = []
    scores, reals, artefacts = [], [], []
    wanted = 0
    for several in _batches(samples, batch):
        channels = np.stack([input_channels(s, spec.input) for s in several])
        for sample, found in zip(several, detect(channels), strict=True):
            if look is not None:
                look(sample, found)
            found = settled(found, sample, spec)
            truth = true_objects(sample, spec.classes)
            # nothing is wrong where nothing is labelled
            objects = without_unlabelled(_found(found, spec), sample.unlabelled)
            truths.append(truth)
            founds.append(objects)
            ranked.append(without_unlabelled(_ranked(found, spec), sample.unlabelled))
            seen.append(observe(sample, spec.classes, spec.input.mesh))
            genuine = truth.take(np.flatnonzero([n != SPURIOUS for n in truth.labels or ()]))
            sources = objects.take(np.flatnonzero([n != SPURIOUS for n in objects.labels or ()]))
            judged = assign(genuine.unclassed(), sources.unclassed(), np.array([REAL_OVERLAP]))
            wanted += judged.wanted
            kept = ~judged.ignored[0]
            scores.append(judged.scores[kept])
            reals.append(judged.hit[0][kept])
            false = truth.take(np.flatnonzero([n == SPURIOUS for n in truth.labels or ()]))
            order = np.argsort(-np.asarray(sources.scores), kind="stable")
            on = assign(
                false.unclassed(), sources.take(order).unclassed(), np.array([REAL_OVERLAP])
            )
            artefacts.append((on.hit[0] | on.ignored[0])[kept] & ~judged.hit[0][kept])
    join = np.concatenate
    empty = np.zeros(0)
    score = join([empty, *scores])
    real = join([empty.astype(bool), *reals])
    artefact = join([empty.astype(bool), *artefacts])
    return Judged(truths, founds, ranked, score, real, artefact, wanted, seen)


def fit_calibration(score: Floats, real: NDArray[np.bool_]) -> Calibration:
    """Probability of being real as a rising function of the score, from judged detections.

    Isotonic regression of what is real on the score (Zadrozny & Elkan 2002), its steps joined to
    knots of at least `_LEAST_A_KNOT` detections, each with one added hit and miss.
    """
    from scipy.optimize import isotonic_regression

    if len(score) < 2 * _LEAST_A_KNOT:
        return Calibration()
    order = np.argsort(score, kind="stable")
    x, y = _logit(score[order]), real[order].astype(float)
    bins = np.array_split(np.arange(len(x)), max(2, min(40, len(x) // _LEAST_A_KNOT)))
    at = np.array([x[b].mean() for b in bins])
    share = np.array([(y[b].sum() + 0.5) / (len(b) + 1.0) for b in bins])
    weight = np.array([float(len(b)) for b in bins])
    # scores that saturate make knots at one place, which are joined
    at, place = np.unique(np.round(at, 5), return_inverse=True)
    share = np.bincount(place, weight * share) / np.bincount(place, weight)
    rising = isotonic_regression(share, weights=np.bincount(place, weight)).x
    return Calibration(
        score_logit=tuple(at.tolist()),
        probability_logit=tuple(np.round(_logit(rising), 5).tolist()),
    )


def figures(judged: Judged, spec: NetworkSpec) -> dict[str, Any]:
    """Figures of merit for the log and the card.

    AP50 by class and mean (COCO's definition, objects below the floor ignored), F1 by class in
    the radio benchmark's corrected form, completeness and reliability at a probability of 0.5,
    completeness at a reliability of 0.95, and the artefacts accepted for each thousand objects.
    """
    precision: AveragePrecision = average_precision(judged.truth, judged.ranked)
    made: dict[str, Any] = {"ap50": precision.ap50, "ap": precision.ap}
    made |= {f"ap50_{name}": values[0] for name, values in precision.by_class.items()}
    chosen = judged.score >= threshold_of(spec.calibration, 0.5)
    hits = int(np.count_nonzero(judged.real[chosen]))
    made["completeness"] = hits / judged.wanted if judged.wanted else float("nan")
    made["reliability"] = hits / int(chosen.sum()) if chosen.any() else float("nan")
    made["completeness_at_95"] = completeness_at(judged, RELIABILITY)
    made["artefacts_a_thousand"] = (
        1000.0 * float(np.count_nonzero(judged.artefact[chosen])) / max(judged.wanted, 1)
    )
    return made


def class_figures(judged: Judged, spec: NetworkSpec) -> dict[str, dict[str, float]]:
    """Figures of each class of the network that has objects or detections.

    ``objects`` that are wanted, ``ap50``, its ``ceiling`` and ``f1`` (see `benchmark_figures`);
    what is not known is left out.
    """
    wanted = Counter(
        label
        for truth in judged.truth
        for label, ignored in zip(truth.labels or (), _ignored(truth), strict=True)
        if not ignored
    )
    precision = average_precision(judged.truth, judged.ranked).by_class
    highest = ceiling(judged.truth, judged.seen, spec.classes)
    f1 = benchmark_figures(judged, spec)
    made: dict[str, dict[str, float]] = {}
    for name in spec.classes:
        if not wanted[name] and name not in f1:
            continue
        values = {
            "objects": wanted[name],
            "ap50": precision.get(name, (np.nan,))[0],
            "ceiling": highest.by_class.get(name, (np.nan,))[0] if highest else np.nan,
            "f1": f1.get(name, np.nan),
        }
        made[name] = {key: value for key, value in values.items() if np.isfinite(value)}
    return made


def benchmark_figures(judged: Judged, spec: NetworkSpec) -> dict[str, float]:
    """F1 by class at IoU 0.6, of detections above a probability of 0.5; artefacts a class."""
    limit = threshold_of(spec.calibration, 0.5)
    found = [f.take(np.flatnonzero(np.asarray(f.scores) >= limit)) for f in judged.found]
    scores = benchmark_scores(judged.truth, found, corrected=True)
    return {name: value.f1 for name, value in scores.by_class.items()}


def completeness_at(judged: Judged, reliability: float) -> float:
    """Largest completeness at which reliability is still reached; 0 where it never is."""
    order = np.argsort(-judged.score, kind="stable")
    hits = np.cumsum(judged.real[order])
    good = hits >= reliability * np.arange(1, len(hits) + 1)
    return float(hits[good].max()) / judged.wanted if good.any() and judged.wanted else 0.0


def threshold_of(calibration: Calibration, probability: float) -> float:
    """Raw score from which on the probability of being real is at least the one given."""
    x = np.asarray(calibration.score_logit)
    if not len(x):
        return probability
    grid = np.linspace(x[0], x[-1], 2001)
    value = np.interp(grid, x, calibration.probability_logit)
    good = np.flatnonzero(value >= _logit(np.array([probability]))[0] - 1e-9)
    if good.size and good[0] == 0:  # and so it is for every score below the first knot
        return 0.0
    return float(1.0 / (1.0 + np.exp(-grid[good[0]]))) if good.size else 1.0


def _logit(p: Floats) -> Floats:
    p = np.clip(np.asarray(p, float), _CLIP, 1.0 - _CLIP)
    return np.log(p / (1.0 - p))


def _batches(samples: Iterable[Sample], number: int) -> Iterable[list[Sample]]:
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        if len(held) == number:
            yield held
            held = []
    if held:
        yield held


def settled(found: Found, sample: Sample, spec: NetworkSpec) -> Found:
    """What the stage makes of a network's detections in a sample, whatever their probability."""
    if sample.beam is not None and not sample.planes:
        found = settle(found, normalise(sample.image, spec.input.mesh), sample.beam, spec)
    rows = np.sort(likely_rows(found, spec, OVERLAP)[0])
    return found._replace(boxes=found.boxes[rows], scores=found.scores[rows], masks=None)


def true_objects(sample: Sample, classes: Sequence[str]) -> Objects:
    """Labels of a tile as objects with the names of their classes."""
    labels = tuple(classes[int(k)] for k in sample.classes)
    return Objects(np.asarray(sample.boxes, float), None, labels, None, sample.ignore)


def _found(found: Found, spec: NetworkSpec) -> Objects:
    """Detections with the raw score of being real; those that look like artefacts say so."""
    kinds = np.argmax(found.scores, 1) if len(found.boxes) else np.zeros(0, int)
    labels = tuple(spec.classes[int(k)] for k in kinds)
    score = np.where(
        [name == SPURIOUS for name in labels], found.scores.max(1, initial=0.0),
        real_scores(found.scores, spec),
    )  # fmt: skip
    return Objects(found.boxes.astype(float), score.astype(float), labels)


def _ranked(found: Found, spec: NetworkSpec) -> Objects:
    """Detections once for each class of a score worth ranking."""
    box, kind = np.nonzero(found.scores >= _LEAST_SCORE)
    labels = tuple(spec.classes[int(k)] for k in kind)
    return Objects(found.boxes[box].astype(float), found.scores[box, kind].astype(float), labels)


def _ignored(truth: Objects) -> NDArray[np.bool_]:
    return np.zeros(len(truth), bool) if truth.ignored is None else truth.ignored


def without_unlabelled(found: Objects, unlabelled: NDArray[np.bool_] | None) -> Objects:
    """Leave out detections whose centre lies where nothing is labelled."""
    if unlabelled is None or not len(found):
        return found
    ny, nx = unlabelled.shape
    x = np.clip(0.5 * (found.boxes[:, 0] + found.boxes[:, 2]), 0, nx - 1).astype(int)
    y = np.clip(0.5 * (found.boxes[:, 1] + found.boxes[:, 3]), 0, ny - 1).astype(int)
    return found.take(np.flatnonzero(~unlabelled[y, x]))
