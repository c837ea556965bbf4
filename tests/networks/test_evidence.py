"""What speaks for a detection beside its score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclades.stages.networks.evidence import (
    SURROUNDINGS,
    evidence_inputs,
    score_of,
    settle,
    weigh,
)
from cyclades.stages.networks.selection import Found, probability, real_scores
from cyclades.stages.networks.shapes import MEASURES, measure_shapes
from cyclades.stages.networks.specification import (
    Calibration,
    ClassDecision,
    Evidence,
    NetworkSpec,
)

SIDE = 128
BEAM = np.array([[4.0, 1.0], [1.0, 3.0]])
FIRST = len(MEASURES) + 5
INPUTS = FIRST + len(SURROUNDINGS)
CURVE = Calibration(score_logit=(-3.0, 0.0, 2.0), probability_logit=(-4.0, -1.0, 3.0))


def weights(output=0.0, column=None):
    """Evidence that adds a constant, or an input's hyperbolic tangent."""
    hidden = np.zeros(INPUTS + 1)
    if column is not None:
        hidden[column] = 1.0
    return {
        "centre": (0.0,) * INPUTS,
        "width": (1.0,) * INPUTS,
        "hidden": (tuple(hidden),),
        "output": ((0.0, output),) if column is None else ((output, 0.0),),
    }


def evidence(output=0.0, column=None, calibration=CURVE):
    return Evidence(**weights(output, column), calibration=calibration)


def points(places, peaks):
    inverse = np.linalg.inv(BEAM)
    y, x = np.mgrid[:SIDE, :SIDE]
    plane = np.zeros((SIDE, SIDE))
    for (x0, y0), peak in zip(places, peaks, strict=True):
        dx, dy = x - x0, y - y0
        q = inverse[0, 0] * dx * dx + 2.0 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
        plane += peak * np.exp(-0.5 * q)
    return plane.astype(np.float32)


def around(places, half=6.0):
    places = np.asarray(places, float) + 0.5
    return np.hstack([places - half, places + half]).astype(np.float32)


def scene():
    """Two sources; boxes around each, both, and an artefact."""
    places = [(40.0, 60.0), (60.0, 60.0)]
    boxes = around(places)
    both = [[boxes[0, 0], boxes[0, 1], boxes[1, 2], boxes[1, 3]]]
    boxes = np.vstack([boxes, both, around([(100.0, 20.0)])]).astype(np.float32)
    scores = np.zeros((4, 5), np.float32)
    scores[:3, 0] = (0.3, 0.2, 0.4)
    scores[3, 4] = 0.6
    return Found(boxes, scores, None), points(places, [20.0, 10.0])


def surroundings(found, plane):
    measures = measure_shapes(plane, found.boxes, BEAM)
    made = evidence_inputs(found, measures, plane, BEAM, NetworkSpec())
    assert made.shape == (len(found.boxes), INPUTS)
    return dict(zip(SURROUNDINGS, made[:, FIRST:].T, strict=True))


def test_boxes_of_a_peak_support_each_other():
    found, plane = scene()
    made = surroundings(found, plane)
    hold, same = SURROUNDINGS[0], SURROUNDINGS[2]
    # the box of both holds either peak; its own brightest is the first source's
    np.testing.assert_allclose(made[hold][:3], np.log([0.4, 0.4, 0.3]), rtol=1e-5)
    np.testing.assert_allclose(made[same][[0, 2]], np.log([0.4, 0.3]), rtol=1e-5)
    assert made[same][1] == pytest.approx(np.log(1e-4))
    overlap = 144.0 / (32.0 * 12.0)
    by = SURROUNDINGS[1]
    np.testing.assert_allclose(made[by][:2], np.log(0.4 * overlap), rtol=1e-5)
    np.testing.assert_allclose(np.exp(made["log brightest pixel"][:3]), [20, 10, 20], rtol=1e-3)


def test_holes_and_neighbours_are_seen_in_a_ring_of_beams():
    place = [(64.0, 64.0)]
    found = Found(around(place), np.full((1, 5), 0.1, np.float32), None)
    plane = points(place, [10.0])
    plane[64, 64 + 20], plane[64 - 16, 64] = 5.0, -3.0
    plane[64, 64 + 40] = 50.0  # farther than six beams
    made = surroundings(found, plane)
    assert made["deepest hole around"][0] == pytest.approx(np.arcsinh(-3.0))
    assert made["highest pixel around"][0] == pytest.approx(np.arcsinh(5.0))
    assert made["log deepest hole around over the peak"][0] == pytest.approx(np.log(0.3))
    assert made["log highest pixel around over the peak"][0] == pytest.approx(np.log(0.5))
    assert made["log noise of negative pixels around"][0] == pytest.approx(np.log(3.0))


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20, unique=True))
def test_scores_give_the_probabilities_that_were_asked_for(likely):
    likely = np.sort(likely)
    scores = score_of(likely, CURVE)
    assert (np.diff(scores) >= 0.0).all()
    ends = 1.0 / (1.0 + np.exp([4.0, -3.0]))
    np.testing.assert_allclose(probability(scores, CURVE), np.clip(likely, *ends), rtol=1e-6)
    np.testing.assert_allclose(score_of(likely, Calibration()), likely)


def test_evidence_moves_the_probability_and_its_calibration_has_the_last_word():
    found, plane = scene()
    plain, doubted = Calibration(), Calibration(score_logit=(-9, 9), probability_logit=(-10, 8))
    for shift, calibration, offset in ((0.0, plain, 0.0), (2.0, plain, 2.0), (2.0, doubted, 1.0)):
        spec = NetworkSpec(calibration=CURVE, evidence=evidence(shift, calibration=calibration))
        made = settle(found, plane, BEAM, spec)
        likely = probability(real_scores(made.scores, spec), CURVE)[:3]
        odds = np.array([0.3, 0.2, 0.4]) / np.array([0.7, 0.8, 0.6]) * np.exp(offset)
        np.testing.assert_allclose(likely, odds / (1.0 + odds), rtol=1e-4)
        np.testing.assert_array_equal(made.scores.argmax(1) == 4, [False, False, False, True])
        np.testing.assert_array_equal(made.boxes, found.boxes)
    assert found.scores[0, 0] == np.float32(0.3)


def test_what_an_input_says_counts():
    found, plane = scene()
    bright = FIRST + SURROUNDINGS.index("log brightest pixel")
    spec = NetworkSpec(evidence=evidence(1.0, bright, Calibration()))
    inputs = evidence_inputs(found, measure_shapes(plane, found.boxes, BEAM), plane, BEAM, spec)
    scores = np.full(4, 0.5)
    likely = weigh(inputs, scores, spec.evidence)
    np.testing.assert_allclose(np.log(likely / (1 - likely)), np.tanh(inputs[:, bright]), rtol=1e-9)


def test_classes_are_decided_by_what_the_network_said():
    found, plane = scene()
    decision = ClassDecision(
        centre=(0.0,) * FIRST,
        width=(1.0,) * FIRST,
        hidden=((0.0,) * (FIRST + 1),),
        output=((0.0, 0.0), (0.0, 20.0), (0.0, 0.0), (0.0, 0.0)),
    )
    spec = NetworkSpec(decision=decision, evidence=evidence(-1.0))
    made = settle(found, plane, BEAM, spec)
    assert (made.scores[:3].argmax(1) == 1).all()
    alone = settle(found, plane, BEAM, spec.model_copy(update={"decision": None}))
    np.testing.assert_allclose(
        real_scores(made.scores, spec)[:3], real_scores(alone.scores, spec)[:3], rtol=1e-5
    )


def test_without_a_beam_or_anything_to_say_nothing_changes():
    found, plane = scene()
    assert settle(found, plane, None, NetworkSpec(evidence=evidence(1.0))) is found
    assert settle(found, plane, BEAM, NetworkSpec()) is found
    nothing = Found(np.zeros((0, 4), np.float32), np.zeros((0, 5), np.float32), None)
    assert settle(nothing, plane, BEAM, NetworkSpec(evidence=evidence(1.0))) is nothing


def test_blank_places_give_finite_numbers():
    boxes = np.array([[10, 10, 20, 20], [-5, 80, 6, 150], [0, 0, 0.1, 0.1]], np.float32)
    found = Found(boxes, np.zeros((3, 5), np.float32), None)
    for plane in (np.zeros((SIDE, SIDE), np.float32), np.full((SIDE, SIDE), -1.0, np.float32)):
        measures = measure_shapes(plane, boxes, BEAM)
        assert np.isfinite(evidence_inputs(found, measures, plane, BEAM, NetworkSpec())).all()


def test_a_specification_keeps_it():
    spec = NetworkSpec(evidence=evidence(0.5))
    assert NetworkSpec.from_metadata(spec.metadata(), "x") == spec
