"""Fitting the evidence for detections."""
# ruff: noqa: E402

import numpy as np
from requirements import require

require("learned")

from cyclades.pipeline.training.evidence import Witnesses, fit_evidence, witnesses
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.networks.evidence import SURROUNDINGS, weigh
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.shapes import MEASURES
from cyclades.stages.networks.specification import NetworkSpec

SPEC = NetworkSpec(classes=("compact", "extended", "spurious"))
TILES, EACH, INPUTS = 200, 30, 6


def heard(seed, told):
    """Tiles whose detections are real by the odds of the score, and an input where it is told."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(TILES):
        inputs = random.normal(size=(EACH, INPUTS))
        scores = random.uniform(0.05, 0.95, EACH)
        logit = np.log(scores / (1.0 - scores)) + (3.0 * inputs[:, 2] if told else 0.0)
        real = random.random(EACH) < 1.0 / (1.0 + np.exp(-logit))
        made.append(Witnesses(inputs, scores, real))
    return made


def test_what_tells_real_ones_is_learned_and_calibrated():
    made = fit_evidence([*heard(1, told=True), None])
    assert made == fit_evidence(heard(1, told=True))
    inputs, scores, real = (np.concatenate(c) for c in zip(*heard(2, told=True), strict=True))
    likely = weigh(inputs, scores, made)
    right = 1.0 / (1.0 + np.exp(-(np.log(scores / (1.0 - scores)) + 3.0 * inputs[:, 2])))
    assert np.abs(likely - right).mean() < 0.03
    # in five bins of 1200: four standard errors are below 0.06
    for few in np.array_split(np.argsort(likely), 5):
        assert abs(likely[few].mean() - real[few].mean()) < 0.06


def test_inputs_that_tell_nothing_leave_the_score():
    made = fit_evidence(heard(3, told=False))
    inputs, scores, _ = (np.concatenate(c) for c in zip(*heard(4, told=False), strict=True))
    assert np.abs(weigh(inputs, scores, made) - scores).mean() < 0.03


def test_too_little_teaches_nothing():
    few = heard(5, told=True)[:10]
    assert fit_evidence(few) is None
    assert fit_evidence([]) is None
    assert fit_evidence([None]) is None
    every = [one._replace(real=np.ones(EACH, bool)) for one in heard(6, told=True)]
    assert fit_evidence(every) is None


def tile(**changes):
    random = np.random.default_rng(7)
    centres = np.array([[20.0, 20.0], [60.0, 20.0], [20.0, 60.0], [60.0, 60.0], [90.0, 90.0]])
    plain = Sample(
        image=random.normal(size=(128, 128)).astype(np.float32),
        boxes=np.hstack([centres - 6.0, centres + 6.0]).astype(np.float32),
        classes=np.array([0, 1, 0, 2, 0]),
        segments=None,
        ignore=np.array([False, False, True, False, False]),
        unlabelled=None,
        beam=np.diag([4.0, 4.0]),
        rms=None,
        snr=np.full(5, 20.0),
    )
    return plain.replace(**changes)


def test_the_best_box_of_an_object_is_real_and_no_other():
    sample = tile()
    extra = np.array([[105, 20, 117, 32], [19, 14, 31, 26], [13, 14.5, 25, 26.5]], np.float32)
    boxes = np.vstack([sample.boxes, extra])
    scores = np.zeros((8, 3), np.float32)
    # found, found, on what is ignored, called an artefact, missed, false, a second box, a copy
    scores[:, 0] = (0.6, 0.5, 0.4, 0.1, 0.002, 0.3, 0.2, 0.1)
    scores[3, 2] = 0.7
    boxes[4] = (100, 100, 104, 104)
    found = Found(boxes, scores, None)
    made = witnesses(sample, found, SPEC)
    assert made.inputs.shape == (len(made.real), len(MEASURES) + 3 + len(SURROUNDINGS))
    kept = dict(zip(np.round(made.scores, 3).tolist(), made.real.tolist(), strict=True))
    assert kept == {0.6: True, 0.5: True, 0.3: False, 0.002: False, 0.2: False}
    assert witnesses(tile(beam=None), found, SPEC) is None


def test_nothing_is_false_where_nothing_is_labelled():
    unlabelled = np.zeros((128, 128), bool)
    unlabelled[:, 100:] = True
    boxes = np.array([[105, 20, 117, 32], [30, 100, 42, 112]], np.float32)
    found = Found(boxes, np.array([[0.3, 0, 0], [0.4, 0, 0]], np.float32), None)
    made = witnesses(tile(unlabelled=unlabelled), found, SPEC)
    np.testing.assert_allclose(made.scores, [0.4])
    assert not made.real.any()
