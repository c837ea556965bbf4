"""The ceiling of an observer who is told where objects are, but has to tell their classes.

It is the observer of `cyclades.pipeline.training.ceiling`, who sees the pixels of each object above
the noise, with one thing less: of sources it is not told the class, and judges by their shapes in
units of the beam, with a decision that was fitted to other tiles (`class_decision`). Its shares are
estimates of the probability of each class given those shapes, so that this ceiling is that of an
observer who makes the best of them; another, with more than shapes, might get a little further.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.detection_metrics import AveragePrecision
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.ceiling import HEIGHTS, Observation, ceiling
from cyclades.pipeline.training.class_decision import Examples, fit_decision
from cyclades.pipeline.training.samples import Plane
from cyclades.stages.networks.shapes import MEASURES, measure_shapes, shares
from cyclades.stages.networks.specification import SPURIOUS

Floats = NDArray[np.float64]

FOLDS = 4
"""Parts of the tiles, each judged by a decision that was fitted to the others."""
_NEAR = 0.25
_LEAST = 0.01


def class_ceiling(
    truth: Sequence[Objects],
    seen: Sequence[Observation | None],
    planes: Sequence[Plane | None],
    beams: Sequence[Floats | None],
    classes: Sequence[str],
) -> AveragePrecision | None:
    """Average precision of the observer who has to tell classes.

    A source is listed in every class with the probability of that class times that of being no
    peak of the noise, which follows from its height, the heights of all objects and those that are
    expected of the noise. Artefacts are told, as to the other observer.

    Parameters
    ----------
    truth, seen, classes
        As for `cyclades.pipeline.training.ceiling.ceiling`.
    planes : sequence of ndarray
        Of each tile, in rms above the level.
    beams : sequence of ndarray, shape (2, 2)
        Of each tile, covariance in pixels squared.

    Returns
    -------
    AveragePrecision or None
        None where the other ceiling is, where tiles have no beam, and where there are too few
        sources to fit to.
    """
    known = [one for one in seen if one is not None]
    if len(known) < len(seen) or any(one is None for one in (*planes, *beams)):
        return None
    real = [name for name in classes if name != SPURIOUS]
    shapes: list[Examples] = []
    for one, plane, beam in zip(known, planes, beams, strict=True):
        labels = one.objects.labels or ()
        rows = np.flatnonzero([name != SPURIOUS for name in labels])
        measures = np.zeros((0, len(MEASURES)))
        if len(rows) and plane is not None and beam is not None:
            measures = measure_shapes(plane, one.objects.boxes[rows], beam)
        kind = np.array([real.index(labels[row]) for row in rows], np.int64)
        shapes.append((measures, np.full((len(rows), len(real)), 1.0 / len(real)), kind))
    part = np.arange(len(known)) * FOLDS // max(len(known), 1)
    heights = [np.asarray(one.objects.scores, float) for one in known]
    share = _real_share(heights, known)
    told: list[Observation] = []
    for fold in range(FOLDS):
        decision = fit_decision(
            [s for s, p in zip(shapes, part, strict=True) if p != fold] or shapes
        )
        if decision is None:
            return None
        for place in np.flatnonzero(part == fold):
            one, (measures, even, _) = known[place], shapes[place]
            likely = shares(measures, even, decision)
            told.append(one._replace(objects=_listed(one.objects, likely, share, real)))
    # the peaks of the noise have the same scale of scores
    return ceiling(truth, told, classes, share)


def _real_share(heights: Sequence[Floats], seen: Sequence[Observation]) -> Floats:
    """Share of objects among peaks of each of `HEIGHTS`; it does not fall."""
    every = np.sort(np.concatenate([np.zeros(0), *heights]))
    expected = np.sum([one.noise for one in seen], axis=0)

    def between(low: Floats, high: Floats) -> tuple[Floats, Floats]:
        objects = np.searchsorted(every, high) - np.searchsorted(every, low)
        return objects.astype(float), np.interp(low, HEIGHTS, expected) - np.interp(
            high, HEIGHTS, expected
        )

    objects, noise = between(HEIGHTS - _NEAR, HEIGHTS + _NEAR)
    share = (objects + 0.5) / (objects + noise + 0.5)
    return np.asarray(np.maximum.accumulate(share))


def _listed(objects: Objects, likely: Floats, share: Floats, real: Sequence[str]) -> Objects:
    """Objects once for each class that they may be."""
    labels = objects.labels or ()
    own = np.flatnonzero([name != SPURIOUS for name in labels])
    false = np.flatnonzero([name == SPURIOUS for name in labels])
    row, kind = np.nonzero(likely >= _LEAST)
    height = np.asarray(objects.scores, float)
    score = np.interp(height[own[row]], HEIGHTS, share) * likely[row, kind]
    return Objects(
        np.concatenate([objects.boxes[own[row]], objects.boxes[false]]),
        np.concatenate([score, height[false]]),
        (*(real[int(k)] for k in kind), *(SPURIOUS,) * len(false)),
    )
