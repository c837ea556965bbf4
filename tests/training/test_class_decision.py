"""Fitting the decision on classes, and the ceiling of an observer who has to tell them."""
# ruff: noqa: E402

import numpy as np
import pytest
from requirements import require

require("learned")

from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.ceiling import HEIGHTS, Observation, ceiling
from cyclades.pipeline.training.class_ceiling import class_ceiling
from cyclades.pipeline.training.class_decision import examples, fit_decision
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.shapes import MEASURES, shares
from cyclades.stages.networks.specification import NetworkSpec

CLASSES = ("compact", "extended", "spurious")
SPEC = NetworkSpec(classes=CLASSES)
BEAM = np.diag([4.0, 4.0])
SIDE, STEP = 128, 32
PLACES = np.array([(x, y) for y in range(16, SIDE, STEP) for x in range(16, SIDE, STEP)], float)


def tile(areas):
    """Sources of S/N 50 on a grid, their areas in beams."""
    x, y = np.arange(SIDE), np.arange(SIDE)[:, None]
    plane = np.zeros((SIDE, SIDE))
    for (x0, y0), area in zip(PLACES, areas, strict=True):
        plane += 50.0 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / (4.0 * area))
    return plane.astype(np.float32)


def boxes(half=7.0):
    return np.column_stack([PLACES - half, PLACES + half]).astype(np.float32)


def sample(classes, **changes):
    random = np.random.default_rng(1)
    plain = Sample(
        image=tile(np.ones(16)) + random.normal(0.0, 0.2, (SIDE, SIDE)).astype(np.float32),
        boxes=boxes(),
        classes=np.asarray(classes, np.int64),
        segments=None,
        ignore=np.zeros(16, bool),
        unlabelled=None,
        beam=BEAM,
        rms=None,
        snr=np.full(16, 50.0),
    )
    return plain.replace(**changes)


def test_the_shape_outweighs_a_network_that_does_not_know():
    random = np.random.default_rng(2)
    inputs = random.normal(size=(3000, 6))
    scores = random.uniform(0.2, 0.4, (3000, 2))
    # logistic in one input, with a slope of 4
    classes = (random.random(3000) < 1.0 / (1.0 + np.exp(-4.0 * inputs[:, 3]))).astype(np.int64)
    made = fit_decision([(inputs[:2000], scores[:2000], classes[:2000])])
    likely = shares(inputs[2000:], scores[2000:], made)
    right = 1.0 / (1.0 + np.exp(-4.0 * inputs[2000:, 3]))
    assert np.abs(likely[:, 1] - right).mean() < 0.06
    assert np.corrcoef(likely[:, 1], right)[0, 1] > 0.97
    # the network alone is right half the time
    assert (scores[2000:].argmax(1) == classes[2000:]).mean() < 0.6
    again = fit_decision([(inputs[:2000], scores[:2000], classes[:2000])])
    assert again == made


def test_few_sources_or_one_class_teach_nothing():
    random = np.random.default_rng(3)
    inputs, scores = random.normal(size=(500, 6)), np.full((500, 2), 0.5)
    assert fit_decision([(inputs, scores, np.zeros(500, np.int64))]) is None
    few = np.arange(399) % 2
    assert fit_decision([(inputs[:399], scores[:399], few)]) is None
    assert fit_decision([]) is None


def test_sources_that_were_found_are_learned_from():
    classes = np.arange(16) % 3
    given = sample(classes, ignore=np.arange(16) == 0)
    scores = np.full((16, 3), 0.3, np.float32)
    scores[1] = 0.005  # too unlikely a source
    places = boxes()
    places[4, [0, 2]] += 9.0  # a box that does not fit
    inputs, own, kinds = examples(given, Found(places, scores, None), SPEC)
    rows = [k for k in range(16) if classes[k] != 2 and k not in (0, 1, 4)]
    np.testing.assert_array_equal(kinds, classes[rows])
    assert inputs.shape == (len(rows), len(MEASURES) + 3)
    assert own.shape == (len(rows), 2)
    for without in (given.replace(beam=None), given.keep(np.zeros(16, bool))):
        inputs, own, kinds = examples(without, Found(places, scores, None), SPEC)
        assert inputs.shape == (0, len(MEASURES) + 3)
        assert len(own) == len(kinds) == 0


@pytest.mark.parametrize("told_apart", [True, False])
def test_an_observer_who_has_to_tell_classes_needs_shapes(told_apart):
    random = np.random.default_rng(4)
    truth, seen, planes = [], [], []
    for _ in range(40):
        kind = random.integers(0, 2, 16)
        planes.append(tile(np.where(kind == 1, 2.5, 1.0) if told_apart else np.ones(16)))
        labels = tuple(CLASSES[k] for k in kind)
        truth.append(Objects(boxes(), None, labels, None, np.zeros(16, bool)))
        seen.append(
            Observation(Objects(boxes(), np.full(16, 50.0), labels), np.zeros(len(HEIGHTS)))
        )
    beams = [BEAM] * len(truth)
    told = ceiling(truth, seen, CLASSES)
    telling = class_ceiling(truth, seen, planes, beams, CLASSES)
    for name in CLASSES[:2]:
        assert told.by_class[name][0] == 1.0
        if told_apart:
            assert telling.by_class[name][0] > 0.99
        else:
            # 640 sources of which half are of the class: four standard errors and the order's luck
            assert telling.by_class[name][0] == pytest.approx(0.5, abs=0.12)
    assert class_ceiling(truth, seen, planes, [None, *beams[1:]], CLASSES) is None
