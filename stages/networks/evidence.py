"""What speaks for a detection beside the network's score, and the score that both give.

A network scores every box by itself. Beside it stand other boxes around the same peak, whose scores
it had to share among one source alone, a pair and a larger whole; how high the peak is over the
noise, under the beam; and holes, bright neighbours and noise around it, which say whether artefacts
are to be expected. A small perceptron adds what these are worth to the logit of the score. What is
likeliest an artefact stays that.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.networks.selection import Found, logit, probability, real_scores
from cyclades.stages.networks.shapes import (
    MEASURES,
    as_before,
    decide,
    decision_inputs,
    measure_shapes,
    perceptron,
)
from cyclades.stages.networks.specification import Calibration, Evidence, NetworkSpec

Floats = NDArray[np.float64]

SURROUNDINGS = (
    "log score of boxes that hold the peak",
    "log score of boxes that overlap, by how much",
    "log score of boxes of the same peak",
    "log of the highest of these",
    "log of the highest score of a box that overlaps",
    "deepest hole around",
    "highest pixel around",
    "log noise of negative pixels around",
    "log deepest hole around over the peak",
    "log highest pixel around over the peak",
    "log brightest pixel",
)
"""What is measured beside shapes and scores. Around: in an elliptical ring of 1.5 to 6 beams (FWHM)
about the brightest pixel of the box; in units of the noise."""
_RING = (3.5, 14.0)
"""Sigmas of the beam."""
_SAME = 1.5
"""Pixels between brightest pixels of boxes that are taken for one."""
_OVERLAPS = 0.3
_LEAST_SCORE = 1e-4
_LEAST_HEIGHT = 0.1
_RANGE = (1e-3, 0.999)


def settle(
    found: Found, plane: NDArray[np.float32], beam: Floats | None, spec: NetworkSpec
) -> Found:
    """Give detections of a tile their classes by shapes, and their scores by all the evidence.

    Parameters
    ----------
    found : Found
        Of one tile, all of it.
    plane, beam
        See `cyclades.stages.networks.shapes.measure_shapes`; nothing changes without a beam.
    spec : NetworkSpec
        Nothing changes without a decision or evidence.

    Returns
    -------
    Found
        `probability` of the scores, with the calibration of the specification, is as the evidence's
        own calibration has it.
    """
    known = spec.decision is not None or spec.evidence is not None
    if not known or beam is None or not len(found.boxes) or plane.ndim != 2:
        return found
    measures = measure_shapes(plane, found.boxes, beam)
    made = decide(found, measures, spec)
    if spec.evidence is None:
        return made
    inputs = evidence_inputs(found, measures, plane, beam, spec)
    before = real_scores(found.scores, spec)
    likely = weigh(inputs, before, spec.evidence)
    after = score_of(likely, spec.calibration)
    real = list(spec.real_classes)
    scores = np.array(made.scores, np.float32)
    scores[:, real] *= (after / np.maximum(before, 1e-6))[:, None]
    return found._replace(scores=as_before(scores, found.scores, spec))


def weigh(inputs: Floats, scores: NDArray[np.floating], evidence: Evidence) -> Floats:
    """Probability of being real, shape (n,), given the raw scores of being a source."""
    raw = 1.0 / (1.0 + np.exp(-(prior(scores) + perceptron(inputs, evidence)[:, 0])))
    return probability(raw, evidence.calibration)


def prior(scores: NDArray[np.floating]) -> Floats:
    """Logits of scores of being a source, those near 0 and 1 cut."""
    return logit(np.clip(np.asarray(scores, float), *_RANGE))


def score_of(likely: Floats, calibration: Calibration) -> Floats:
    """Raw scores to which a calibration gives these probabilities.

    Beyond its first and last knot their logits go on by the same steps, so that order is kept.
    """
    wanted = logit(np.clip(likely, 1e-6, 1.0 - 1e-6))
    if not calibration.score_logit:
        return np.asarray(likely, float)
    x, y = np.array(calibration.score_logit), np.array(calibration.probability_logit)
    made = np.interp(wanted, y, x) + np.minimum(wanted - y[0], 0.0) + np.maximum(wanted - y[-1], 0)
    return np.asarray(1.0 / (1.0 + np.exp(-made)))


def evidence_inputs(
    found: Found,
    measures: Floats,
    plane: NDArray[np.float32],
    beam: Floats,
    spec: NetworkSpec,
) -> Floats:
    """Inputs of `Evidence`: those of a class decision, then surroundings.

    Parameters
    ----------
    found : Found
        Of one tile, with the network's own scores.
    measures : ndarray, shape (n, k)
        Of `measure_shapes`.
    plane, beam
        As that takes them.
    spec : NetworkSpec

    Returns
    -------
    ndarray, shape (n, k + classes + len(SURROUNDINGS))
    """
    boxes = np.ascontiguousarray(found.boxes, np.float64)
    scores = real_scores(found.scores, spec).astype(float)
    peaks = _peaks(np.ascontiguousarray(plane, np.float32), boxes)
    support = _support(boxes, peaks, scores)
    around = _around(
        np.ascontiguousarray(plane, np.float32),
        peaks,
        np.ascontiguousarray(np.linalg.inv(beam), np.float64),
        np.ascontiguousarray(_RING[1] * np.sqrt(np.diag(beam)), np.float64),
    )
    peak = np.maximum(peaks[:, 2], 1.0)
    hole, high, noise = around.T
    beside = np.column_stack(
        [
            np.log(np.maximum(support, _LEAST_SCORE)),
            np.arcsinh(hole),
            np.arcsinh(high),
            np.log(np.maximum(noise, _LEAST_HEIGHT)),
            np.log(np.maximum(-hole, _LEAST_HEIGHT) / peak),
            np.log(np.maximum(high, _LEAST_HEIGHT) / peak),
            np.log(peak),
        ]
    )
    assert measures.shape[1] == len(MEASURES)
    assert beside.shape[1] == len(SURROUNDINGS)
    return np.hstack([decision_inputs(measures, found.scores), beside])


@njit("float64[:, ::1](float32[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def _peaks(plane: NDArray[np.float32], boxes: Floats) -> Floats:
    """Place and value of the brightest pixel of each box, shape (n, 3)."""
    ny, nx = plane.shape
    peaks = np.zeros((len(boxes), 3))
    for n in range(len(boxes)):
        left, top = max(int(boxes[n, 0]), 0), max(int(boxes[n, 1]), 0)
        right, bottom = min(int(boxes[n, 2]) + 1, nx), min(int(boxes[n, 3]) + 1, ny)
        best = -np.inf
        for y in range(top, bottom):
            for x in range(left, right):
                if plane[y, x] > best:
                    best = plane[y, x]
                    peaks[n, 0], peaks[n, 1], peaks[n, 2] = x, y, best
    return peaks


@njit("float64[:, ::1](float64[:, ::1], float64[:, ::1], float64[::1])", cache=True, nogil=True)
def _support(boxes: Floats, peaks: Floats, scores: Floats) -> Floats:
    """What the scores of other boxes add up to; the first five of `SURROUNDINGS`."""
    number = len(boxes)
    made = np.zeros((number, 5))
    for i in range(number):
        x, y = peaks[i, 0] + 0.5, peaks[i, 1] + 0.5
        area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
        for j in range(number):
            if i == j:
                continue
            if boxes[j, 0] <= x <= boxes[j, 2] and boxes[j, 1] <= y <= boxes[j, 3]:
                made[i, 0] += scores[j]
            dx, dy = peaks[i, 0] - peaks[j, 0], peaks[i, 1] - peaks[j, 1]
            if dx * dx + dy * dy < _SAME * _SAME:
                made[i, 2] += scores[j]
                made[i, 3] = max(made[i, 3], scores[j])
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            if w <= 0.0 or h <= 0.0:
                continue
            other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            overlap = w * h / (area + other - w * h)
            made[i, 1] += overlap * scores[j]
            if overlap > _OVERLAPS:
                made[i, 4] = max(made[i, 4], scores[j])
    return made


@njit(
    "float64[:, ::1](float32[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1])",
    cache=True,
    nogil=True,
)
def _around(plane: NDArray[np.float32], peaks: Floats, inverse: Floats, reach: Floats) -> Floats:
    """Deepest and highest pixel of the ring, and root mean square of its negative ones."""
    ny, nx = plane.shape
    a, b, c = inverse[0, 0], inverse[0, 1], inverse[1, 1]
    low, high = _RING[0] ** 2, _RING[1] ** 2
    made = np.zeros((len(peaks), 3))
    for n in range(len(peaks)):
        x0, y0 = peaks[n, 0], peaks[n, 1]
        total, number = 0.0, 0
        for y in range(max(0, int(y0 - reach[1])), min(ny, int(y0 + reach[1]) + 2)):
            for x in range(max(0, int(x0 - reach[0])), min(nx, int(x0 + reach[0]) + 2)):
                dx, dy = x - x0, y - y0
                q = a * dx * dx + 2.0 * b * dx * dy + c * dy * dy
                if q < low or q > high:
                    continue
                value = plane[y, x]
                made[n, 0] = min(made[n, 0], value)
                made[n, 1] = max(made[n, 1], value)
                if value < 0.0:
                    # holes beside bright sources shall not be all there is
                    total += min(value * value, 100.0)
                    number += 1
        made[n, 2] = np.sqrt(total / max(number, 1))
    return made
