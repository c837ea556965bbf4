"""Shapes of detections in units of the beam, and the class that they speak for.

A network is not told the beam of an image, and so cannot know whether a source is wider than it.
What it lacks is measured here in the normalised tile, and a small perceptron joins it with the
network's own scores. Only the classes of sources share anew what they had together: how likely a
detection is a source, or an artefact, stays as the network says.
"""

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.geometry import SIGMA_TO_FWHM
from cyclades.stages.networks.selection import Found, real_scores
from cyclades.stages.networks.specification import ClassDecision, NetworkSpec, Perceptron

Floats = NDArray[np.float64]

MEASURES = (
    "log peak",
    "flux in beams of 1.4 widths",
    "flux in beams of 2 widths",
    "flux in beams of 2.8 widths",
    "flux in beams of 4 widths",
    "area",
    "elongation",
    "asymmetry",
    "width of the box",
    "height of the box",
    "flux in the box",
    "second peak",
    "log beam",
)
"""What is measured of a detection; lengths are in beams, fluxes in those of a point of its peak."""
_WIDTHS = (1, 2, 4, 8, 16)
"""Squared widths of the Gaussian weights over that of the beam."""
_REACH = 2.5
"""Half side of the square that is weighted, in sigmas of the widest weight."""
_LEAST_SCORE = 1e-4
_LARGEST = 5.0
_BELOW = np.float32(0.999)


def decide(found: Found, measures: Floats, spec: NetworkSpec) -> Found:
    """Share the scores of sources anew among their classes.

    Parameters
    ----------
    found : Found
        Of one tile.
    measures : ndarray, shape (n, len(MEASURES))
        Of `measure_shapes`.
    spec : NetworkSpec
        Nothing changes without a decision.

    Returns
    -------
    Found
        What was likeliest an artefact still is, and what was not is not; the raw score of being a
        source (`real_scores`) of the latter is as it was, and so is their probability.
    """
    if spec.decision is None:
        return found
    real = list(spec.real_classes)
    inputs = decision_inputs(measures, found.scores)
    likely = shares(inputs, found.scores[:, real], spec.decision)
    scores = np.array(found.scores, np.float32)
    scores[:, real] = likely * real_scores(found.scores, spec)[:, None]
    return found._replace(scores=as_before(scores, found.scores, spec))


def as_before(
    scores: NDArray[np.float32], before: NDArray[np.float32], spec: NetworkSpec
) -> NDArray[np.float32]:
    """Cut scores so that what was likeliest an artefact before still is, and nothing else is."""
    real = list(spec.real_classes)
    others = [row for row in range(len(spec.classes)) if row not in real]
    if not others:
        return scores
    scores = scores.copy()
    artefact = np.isin(before.argmax(1), others)[:, None]
    best, false = (scores[:, rows].max(1, keepdims=True) for rows in (real, others))
    scores[:, real] = np.where(
        artefact, np.minimum(scores[:, real], _BELOW * false), scores[:, real]
    )
    scores[:, others] = np.where(
        artefact, scores[:, others], np.minimum(scores[:, others], _BELOW * best)
    )
    return scores


def decision_inputs(measures: Floats, scores: NDArray[np.floating]) -> Floats:
    """Inputs of a `ClassDecision`: measures and logarithms of the scores of all classes."""
    return np.hstack([measures, logarithms(scores)])


def logarithms(scores: NDArray[np.floating]) -> Floats:
    """Logarithms of scores; those below a ten-thousandth count as that."""
    return np.asarray(np.log(np.clip(scores, _LEAST_SCORE, 1.0)), float)


def scaled_inputs(inputs: Floats, centre: ArrayLike, width: ArrayLike) -> Floats:
    """Inputs in units of their widths about their centres, cut at five."""
    return np.asarray(
        np.clip((inputs - np.asarray(centre)) / np.asarray(width), -_LARGEST, _LARGEST)
    )


def shares(inputs: Floats, scores: NDArray[np.floating], decision: ClassDecision) -> Floats:
    """Probabilities of the classes of sources, given that it is one.

    Parameters
    ----------
    inputs : ndarray, shape (n, inputs)
        See `decision_inputs`.
    scores : ndarray, shape (n, classes)
        The network's, of sources.

    Returns
    -------
    ndarray, shape (n, classes)
        Of sum 1.
    """
    logit = perceptron(inputs, decision) + logarithms(scores)
    likely = np.exp(logit - logit.max(1, keepdims=True))
    return np.asarray(likely / likely.sum(1, keepdims=True))


def perceptron(inputs: Floats, weights: Perceptron) -> Floats:
    """Outputs of a perceptron, shape (n, outputs)."""
    x = scaled_inputs(inputs, weights.centre, weights.width)
    hidden, output = np.array(weights.hidden), np.array(weights.output)
    unit = np.tanh(x @ hidden[:, :-1].T + hidden[:, -1])
    return np.asarray(unit @ output[:, :-1].T + output[:, -1])


def measure_shapes(plane: NDArray[np.float32], boxes: NDArray[np.floating], beam: Floats) -> Floats:
    """Measure detections of one tile.

    Gaussian weights of 1 to 4 times the beam's widths lie on the centroid that the narrowest of
    them has from the brightest pixel of the box. Fluxes under them are over those of a point of the
    same flux under the narrowest. Area and elongation are from the second moments under the weight
    of twice the beam's widths (the mean and half the difference of the logarithms of both axes),
    in the frame in which the beam is round.

    Parameters
    ----------
    plane : ndarray, shape (h, w), float32
        In units of the noise; 0 where blank.
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1``, (0, 0) the outer corner of the first pixel.
    beam : ndarray, shape (2, 2)
        Covariance in pixels squared, in (x, y).

    Returns
    -------
    ndarray, shape (n, len(MEASURES))
        Finite; logarithms, but for the asymmetry and the second peak.
    """
    beam = np.asarray(beam, float)
    raw = _measured(
        np.ascontiguousarray(plane, np.float32),
        np.ascontiguousarray(boxes, np.float64),
        np.ascontiguousarray(np.linalg.inv(beam)),
        _REACH * 2.0 * np.sqrt(np.diag(beam)),
        2.0 * np.pi * np.sqrt(np.linalg.det(beam)),
    )
    measures = np.zeros((len(raw), len(MEASURES)))
    measures[:, 0] = np.log(np.clip(raw[:, 0], 1.0, 1e4))
    # the flux of a point under a weight is in proportion to width^2 / (1 + width^2)
    for k, width in enumerate(_WIDTHS[1:], 1):
        point = 2.0 * width / (1.0 + width)
        ratio = raw[:, k] / np.maximum(raw[:, 0], 1e-3) / point
        measures[:, k] = np.log(np.clip(ratio, 0.1, 50.0))
    measures[:, 5:8] = raw[:, 5:8]
    fwhm = SIGMA_TO_FWHM * np.sqrt(np.diag(beam))
    sides = (boxes[:, 2:] - boxes[:, :2]) / fwhm
    measures[:, 8:10] = np.log(np.clip(sides, 0.1, 50.0))
    measures[:, 10] = np.log(np.clip(raw[:, 8], 0.1, 500.0))
    measures[:, 11] = raw[:, 9]
    measures[:, 12] = 0.25 * np.log(np.linalg.det(beam))
    return measures


@njit(
    "float64[:, ::1](float32[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1], float64)",
    cache=True,
    nogil=True,
)
def _measured(
    plane: NDArray[np.float32], boxes: Floats, inverse: Floats, reach: Floats, area: float
) -> Floats:
    """Flux under each weight (0-4), moments (5-7), flux in the box (8), second peak (9)."""
    ny, nx = plane.shape
    a, b, c = inverse[0, 0], inverse[0, 1], inverse[1, 1]
    # upper triangular root of the inverse: u = r00 dx + r01 dy, v = r11 dy
    r00 = np.sqrt(a)
    r01 = b / r00
    r11 = np.sqrt(c - r01 * r01)
    result = np.zeros((len(boxes), 10))
    for n in range(len(boxes)):
        left, top = max(int(boxes[n, 0]), 0), max(int(boxes[n, 1]), 0)
        right, bottom = min(int(boxes[n, 2]) + 1, nx), min(int(boxes[n, 3]) + 1, ny)
        peak, x0, y0 = -np.inf, 0.0, 0.0
        total = 0.0
        for y in range(top, bottom):
            for x in range(left, right):
                value = plane[y, x]
                total += value
                if value > peak:
                    peak, x0, y0 = float(value), float(x), float(y)
        if not peak > 0.0:
            continue
        xp, yp = x0, y0
        for _ in range(3):
            s, sx, sy = 0.0, 0.0, 0.0
            hx, hy = 0.4 * reach[0], 0.4 * reach[1]
            for y in range(max(int(y0 - hy), 0), min(int(y0 + hy) + 2, ny)):
                for x in range(max(int(x0 - hx), 0), min(int(x0 + hx) + 2, nx)):
                    dx, dy = x - x0, y - y0
                    w = np.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
                    s += w * plane[y, x]
                    sx += w * plane[y, x] * dx
                    sy += w * plane[y, x] * dy
            if s <= 0.0:
                break
            # a Gaussian's centroid under its own weight moves half the way
            mx = min(max(2.0 * sx / s, -1.0), 1.0)
            my = min(max(2.0 * sy / s, -1.0), 1.0)
            if abs(x0 + mx - xp) > 2.0 or abs(y0 + my - yp) > 2.0:
                break
            x0, y0 = x0 + mx, y0 + my
        f = np.zeros(5)
        g0, g1, g2, g3, g4 = 0.0, 0.0, 0.0, 0.0, 0.0
        m0, mu, mv, muu, muv, mvv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        q0, qu, qv = 0.0, 0.0, 0.0
        hx, hy = 2.0 * reach[0], 2.0 * reach[1]
        for y in range(max(int(y0 - hy), 0), min(int(y0 + hy) + 2, ny)):
            for x in range(max(int(x0 - hx), 0), min(int(x0 + hx) + 2, nx)):
                dx, dy = x - x0, y - y0
                u, v = r00 * dx + r01 * dy, r11 * dy
                w16 = np.exp(-0.5 * (u * u + v * v) / 16.0)
                w8 = w16 * w16
                w4 = w8 * w8
                w2 = w4 * w4
                w1 = w2 * w2
                value = plane[y, x]
                g0 += w1 * value
                g1 += w2 * value
                g2 += w4 * value
                g3 += w8 * value
                g4 += w16 * value
                t = w4 * value
                m0 += t
                mu += t * u
                mv += t * v
                muu += t * u * u
                muv += t * u * v
                mvv += t * v * v
                t = w16 * value
                q0 += t
                qu += t * u
                qv += t * v
        f[0], f[1], f[2], f[3], f[4] = g0, g1, g2, g3, g4
        result[n, 0] = 2.0 * f[0] / area
        for k in range(1, 5):
            result[n, k] = 2.0 * f[k] / area
        if m0 > 0.0:
            mu, mv = mu / m0, mv / m0
            muu, muv, mvv = muu / m0 - mu * mu, muv / m0 - mu * mv, mvv / m0 - mv * mv
            mean = 0.5 * (muu + mvv)
            off = np.sqrt(0.25 * (muu - mvv) ** 2 + muv * muv)
            # 0.8 is that of a point
            high = min(max((mean + off) / 0.8, 0.05), 10.0)
            low = min(max((mean - off) / 0.8, 0.05), 10.0)
            result[n, 5] = 0.5 * (np.log(high) + np.log(low))
            result[n, 6] = 0.5 * (np.log(high) - np.log(low))
        if q0 > 0.0:
            result[n, 7] = min(np.sqrt(qu * qu + qv * qv) / q0, 3.0)
        result[n, 8] = total / (peak * area)
        # the highest peak that stands apart from the first, over it
        second = 0.0
        for y in range(max(top, 1), min(bottom, ny - 1)):
            for x in range(max(left, 1), min(right, nx - 1)):
                value = plane[y, x]
                if value <= second:
                    continue
                dx, dy = x - xp, y - yp
                if a * dx * dx + 2.0 * b * dx * dy + c * dy * dy < 4.0:
                    continue
                if (
                    value >= plane[y - 1, x]
                    and value >= plane[y + 1, x]
                    and value >= plane[y, x - 1]
                    and value >= plane[y, x + 1]
                ):
                    # lowest on the line between both
                    steps = int(max(abs(dx), abs(dy))) + 1
                    lowest = float(value)
                    for k in range(1, steps):
                        yy, xx = yp + dy * k / steps, xp + dx * k / steps
                        lowest = min(lowest, float(plane[int(yy + 0.5), int(xx + 0.5)]))
                    if value - lowest > 0.0:
                        second = max(second, float(value) - lowest)
        result[n, 9] = np.log1p(second)
    return result
