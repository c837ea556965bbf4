"""Shapes of detections in units of the beam, and the classes that they speak for."""

import numpy as np
import pytest
from pydantic import ValidationError

from cyclades.stages.networks.selection import Found, real_scores
from cyclades.stages.networks.shapes import (
    MEASURES,
    decide,
    decision_inputs,
    measure_shapes,
    shares,
)
from cyclades.stages.networks.specification import ClassDecision, NetworkSpec

SIDE = 96
BEAMS = (np.diag([2.5, 2.5]), np.diag([9.0, 4.0]), np.array([[7.0, 3.0], [3.0, 6.0]]))
INPUTS = len(MEASURES) + 5


def gaussian(covariance, peak=100.0, at=(47.3, 48.8)):
    (xx, xy), (_, yy) = np.linalg.inv(covariance)
    dx, dy = np.arange(SIDE) - at[0], (np.arange(SIDE) - at[1])[:, None]
    return peak * np.exp(-0.5 * (xx * dx * dx + 2.0 * xy * dx * dy + yy * dy * dy))


def measured(plane, beam, half=12.0):
    box = np.array([[48.0 - half, 48.0 - half, 48.0 + half, 48.0 + half]])
    made = measure_shapes(plane.astype(np.float32), box, beam)[0]
    return dict(zip(MEASURES, made, strict=True))


def decision(rows):
    """A decision whose only hidden unit is of no use, and whose outputs are constants."""
    return ClassDecision(
        centre=(0.0,) * INPUTS,
        width=(1.0,) * INPUTS,
        hidden=((0.0,) * (INPUTS + 1),),
        output=tuple((0.0, value) for value in rows),
    )


@pytest.mark.parametrize("beam", BEAMS)
def test_a_point_has_the_shape_of_a_point_under_every_beam(beam):
    made = measured(gaussian(beam), beam)
    assert made["log peak"] == pytest.approx(np.log(100.0), abs=0.01)
    for name in MEASURES[1:5]:
        assert made[name] == pytest.approx(0.0, abs=0.02), name
    for name in ("area", "elongation", "asymmetry", "second peak"):
        assert made[name] == pytest.approx(0.0, abs=0.02), name


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize("area", [1.25, 2.0, 4.0])
def test_a_resolved_source_is_wider(beam, area):
    # under a weight of twice the beam's variance 4, one over the sum of the inverses
    expected = np.log(1.0 / (1.0 / area + 0.25) / 0.8)
    made = measured(gaussian(beam * area), beam)
    assert made["area"] == pytest.approx(expected, abs=0.03)
    assert made["elongation"] == pytest.approx(0.0, abs=0.02)
    # and has more flux under wide weights: k A / (k + A) over that under the narrowest
    wide = np.log(16.0 / (16.0 + area) * (1.0 + area) / 2.0 * 17.0 / 16.0)
    assert made["flux in beams of 4 widths"] == pytest.approx(wide, abs=0.03)


def test_a_source_wider_along_one_axis_is_elongated():
    beam = BEAMS[2]
    root = np.linalg.cholesky(beam)
    made = measured(gaussian(root @ np.diag([3.0, 1.0]) @ root.T), beam)
    one, other = (1.0 / (1.0 / v + 0.25) for v in (3.0, 1.0))
    assert made["elongation"] == pytest.approx(0.5 * np.log(one / other), abs=0.03)


def test_shapes_do_not_depend_on_the_flux():
    beam = BEAMS[1]
    faint, bright = (measured(gaussian(2.0 * beam, peak), beam) for peak in (5.0, 500.0))
    for name in MEASURES[1:]:
        if name != "second peak":
            assert faint[name] == pytest.approx(bright[name], abs=1e-4), name


def test_two_peaks_are_seen():
    beam = BEAMS[0]
    both = gaussian(beam) + gaussian(beam, 60.0, at=(56.0, 48.0))
    assert measured(both, beam)["second peak"] == pytest.approx(np.log1p(60.0), abs=0.2)


def test_empty_places_give_finite_numbers():
    beam = BEAMS[0]
    boxes = np.array([[10.0, 10.0, 20.0, 20.0], [-5.0, 80.0, 6.0, 120.0], [0.0, 0.0, 0.1, 0.1]])
    for plane in (np.zeros((SIDE, SIDE), np.float32), np.full((SIDE, SIDE), -1.0, np.float32)):
        assert np.isfinite(measure_shapes(plane, boxes, beam)).all()


def scene():
    scores = np.array(
        [
            [0.5, 0.2, 0.1, 0.0, 0.05],
            [0.1, 0.7, 0.4, 0.2, 0.3],
            [0.2, 0.1, 0.0, 0.0, 0.25],
            [0.0, 0.0, 0.0, 0.0, 0.9],
            [0.1, 0.1, 0.1, 0.1, 0.0],
        ],
        np.float32,
    )
    boxes = np.tile(np.array([40.0, 40.0, 56.0, 56.0], np.float32), (len(scores), 1))
    return Found(boxes, scores, None), gaussian(BEAMS[0]).astype(np.float32)


@pytest.mark.parametrize(
    "rows", [(0.0, 0.0, 0.0, 0.0), (0.0, 9.0, 0.0, 0.0), (0.0, 0.0, 3.0, -3.0)]
)
def test_only_the_classes_of_sources_change(rows):
    found, plane = scene()
    spec = NetworkSpec(decision=decision(rows))
    made = decide(found, measure_shapes(plane, found.boxes, BEAMS[0]), spec)
    artefact = found.scores.argmax(1) == 4
    np.testing.assert_array_equal(made.scores.argmax(1) == 4, artefact)
    before, after = (real_scores(one.scores, spec) for one in (found, made))
    np.testing.assert_allclose(after[~artefact], before[~artefact], rtol=1e-5)
    np.testing.assert_allclose(made.scores[artefact, 4], found.scores[artefact, 4])
    np.testing.assert_array_equal(made.boxes, found.boxes)
    assert not np.shares_memory(made.scores, found.scores)
    if any(rows):
        best = int(np.argmax(rows))
        assert (made.scores[~artefact, best] > found.scores[~artefact, best]).all()


def test_without_decision_nothing_changes():
    found, plane = scene()
    assert decide(found, measure_shapes(plane, found.boxes, BEAMS[0]), NetworkSpec()) is found


def test_shares_sum_to_one_and_follow_the_scores():
    found, plane = scene()
    inputs = decision_inputs(measure_shapes(plane, found.boxes, BEAMS[0]), found.scores)
    assert inputs.shape == (5, INPUTS)
    made = shares(inputs, found.scores[:, :4], decision((0.0,) * 4))
    np.testing.assert_allclose(made.sum(1), 1.0)
    np.testing.assert_allclose(made[0], np.array([0.5, 0.2, 0.1, 1e-4]) / 0.8001, rtol=1e-5)


def test_layers_have_to_fit():
    good = decision((0.0,) * 4).model_dump()
    with pytest.raises(ValidationError, match="fit each other"):
        ClassDecision.model_validate({**good, "width": good["width"][1:]})
    spec = NetworkSpec(decision=ClassDecision.model_validate(good))
    assert NetworkSpec.from_metadata(spec.metadata(), "x") == spec
