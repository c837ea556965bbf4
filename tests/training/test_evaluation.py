"""Evaluation of detectors: what counts as found, as false or not at all, and what scores mean."""

import numpy as np
import pytest

from cyclades.pipeline.training.evaluation import (
    Judged,
    completeness_at,
    figures,
    fit_calibration,
    judge,
    threshold_of,
)
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.networks.selection import Found, probability
from cyclades.stages.networks.specification import Calibration, InputSpec, NetworkSpec

CLASSES = ("compact", "extended", "spurious")
SPEC = NetworkSpec(classes=CLASSES, input=InputSpec(mesh=16))
SIDE = 64
NUMBER = 20_000


def logit(p):
    return np.log(p / (1.0 - p))


def true_probability(score):
    """An overconfident detector: its logit is twice too large, and too high by one."""
    return 1.0 / (1.0 + np.exp(-0.5 * logit(score) + 1.0))


def test_a_calibration_recovers_the_probability():
    random = np.random.default_rng(5)
    score = random.uniform(0.02, 0.98, NUMBER)
    calibration = fit_calibration(score, random.random(NUMBER) < true_probability(score))
    x = np.array(calibration.score_logit)
    at = 1.0 / (1.0 + np.exp(-np.linspace(x[0], x[-1], 200)))
    wanted = true_probability(at)
    error = np.sqrt(wanted * (1.0 - wanted) / (NUMBER / 40))  # of one of its 40 knots
    # half a hundredth for the straight lines between knots
    off = np.abs(probability(at, calibration) - wanted) - 0.005
    assert (off < 4.5 * error).all()
    # ... which raw scores fail
    assert (np.abs(at - wanted) > 4.5 * error + 0.005).mean() > 0.5
    # what a set of detections promises on average comes true
    again = random.uniform(0.02, 0.98, NUMBER)
    real = random.random(NUMBER) < true_probability(again)
    assert probability(again, calibration).mean() == pytest.approx(
        real.mean(), abs=4.0 * (0.5 / NUMBER) ** 0.5
    )


def test_a_calibration_rises_even_where_reality_does_not():
    random = np.random.default_rng(6)
    score = random.uniform(0.02, 0.98, 4000)
    calibration = fit_calibration(score, random.random(4000) < 1.0 - score)
    assert np.all(np.diff(calibration.probability_logit) >= 0.0)
    assert probability(score, calibration).mean() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


def test_scores_that_saturate_give_one_knot():
    # one score of a knot is so little below the others that its mean differs in the sixth digit
    score = np.r_[np.linspace(0.1, 0.5, 500), 1.0 - 1e-4 - 1e-8, np.full(499, 1.0)]
    real = np.arange(1000) >= 500
    calibration = fit_calibration(score, real)
    assert np.all(np.diff(calibration.score_logit) > 0.0)
    assert 0.95 < probability(np.array([1.0]), calibration)[0] < 1.0


def test_saturated_scores_get_the_probability_of_all_of_them():
    random = np.random.default_rng(7)
    score = np.r_[np.full(1000, 0.1), np.full(1000, 1.0)]
    real = np.r_[random.random(1000) < 0.2, random.random(1000) < 0.8]
    calibration = fit_calibration(score, real)
    made = probability(np.array([0.1, 1.0]), calibration)
    # besides the added hits and misses
    np.testing.assert_allclose(made, [real[:1000].mean(), real[1000:].mean()], atol=0.02)


def test_a_few_detections_give_no_calibration():
    score = np.linspace(0.1, 0.9, 49)
    calibration = fit_calibration(score, score > 0.5)
    assert calibration == Calibration()
    np.testing.assert_allclose(probability(score, calibration), score)


def test_a_threshold_is_the_score_from_which_the_probability_is_reached():
    assert threshold_of(Calibration(), 0.7) == 0.7
    steep = Calibration(score_logit=(-2.0, 2.0), probability_logit=(-4.0, 4.0))
    assert threshold_of(steep, 0.5) == pytest.approx(0.5, abs=1e-3)
    limit = threshold_of(steep, 0.9)
    assert probability(np.array([limit]), steep)[0] == pytest.approx(0.9, abs=1e-3)
    assert logit(limit) == pytest.approx(0.5 * logit(0.9), abs=4.0 / 2000)
    never = Calibration(score_logit=(-2.0, 2.0), probability_logit=(-4.0, -1.0))
    assert threshold_of(never, 0.5) == 1.0
    # the calibration is constant below its first knot
    always = Calibration(score_logit=(-2.0, 2.0), probability_logit=(1.0, 4.0))
    assert threshold_of(always, 0.5) == 0.0
    assert probability(np.array([1e-3]), always)[0] > 0.5


def judged(score, real, wanted):
    artefact = np.zeros(len(score), bool)
    return Judged([], [], [], np.array(score, float), np.array(real, bool), artefact, wanted)


@pytest.mark.parametrize(
    ("score", "real", "wanted", "reliability", "completeness"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 4, 0.95, 0.5),
        ([0.6, 0.7, 0.9, 0.8], [1, 0, 1, 1], 4, 0.95, 0.5),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 4, 0.75, 0.75),
        # a false one at the top does not end the search
        ([0.9, 0.8, 0.7, 0.6], [0, 1, 1, 1], 3, 0.75, 1.0),
        ([0.9, 0.8], [0, 0], 3, 0.5, 0.0),
        ([], [], 3, 0.95, 0.0),
        ([0.9], [0], 0, 0.95, 0.0),
    ],
)
def test_completeness_at_a_reliability(score, real, wanted, reliability, completeness):
    assert completeness_at(judged(score, real, wanted), reliability) == completeness


def samples(number=5, **changes):
    """Tiles with six objects on a grid: four compact or extended ones, two artefacts."""
    random = np.random.default_rng(8)
    for _ in range(number):
        x0 = np.array([2.0, 22.0, 42.0] * 2) + random.uniform(0, 3, 6)
        y0 = np.repeat([4.0, 40.0], 3) + random.uniform(0, 3, 6)
        boxes = np.column_stack([x0, y0, x0 + 8.0, y0 + 10.0]).astype(np.float32)
        plain = Sample(
            image=random.normal(size=(SIDE, SIDE)).astype(np.float32),
            boxes=boxes,
            classes=np.array([0, 1, 2, 0, 1, 2]),
            segments=None,
            ignore=np.zeros(6, bool),
            unlabelled=None,
            beam=None,
            rms=None,
            snr=np.full(6, np.nan),
        )
        yield plain.replace(**changes)


def one_hot(classes, score):
    scores = np.full((len(classes), len(CLASSES)), 0.01, np.float32)
    scores[np.arange(len(classes)), classes] = score
    return scores


def detector(given, *, leave_out=(), more=None, as_class=None):
    """A detector that knows the labels; `more` is a box to add with a score of 0.9."""
    waiting = list(given)

    def detect(channels):
        assert channels.shape[1:] == (3, SIDE, SIDE)
        found = []
        for _ in channels:
            sample = waiting.pop(0)
            rows = np.setdiff1d(np.arange(len(sample)), leave_out)
            boxes = sample.boxes[rows]
            scores = one_hot((sample.classes if as_class is None else np.full(6, as_class))[rows],
                             0.8)  # fmt: skip
            if more is not None:
                boxes = np.concatenate([boxes, np.array([more], np.float32)])
                scores = np.concatenate([scores, one_hot([0], 0.9)])
            found.append(Found(boxes, scores, None))
        return found

    return detect


def merits(given, **options):
    given = list(given)
    made = judge(detector(given, **options), given, SPEC, batch=2)
    return made, figures(made, SPEC)


def test_a_perfect_detector_has_perfect_figures():
    made, found = merits(samples())
    assert made.wanted == 5 * 4
    assert len(made.truth) == len(made.found) == 5
    for name in ("completeness", "reliability", "completeness_at_95"):
        assert found[name] == 1.0, name
    assert found["ap50"] == pytest.approx(1.0)
    assert found["ap50_spurious"] == pytest.approx(1.0)
    assert found["artefacts_a_thousand"] == 0.0


def test_what_is_missed_and_what_is_false_counts():
    _, missed = merits(samples(), leave_out=[0])
    assert (missed["completeness"], missed["reliability"]) == (0.75, 1.0)
    _, false = merits(samples(), more=(0, 25, 8, 33))
    assert (false["completeness"], false["reliability"]) == (1.0, 0.8)
    # the false ones have the best scores
    assert false["completeness_at_95"] == 0.0


def test_a_detector_that_finds_nothing():
    made, found = merits(samples(), leave_out=range(6))
    assert len(made.score) == 0
    assert found["completeness"] == 0.0
    assert np.isnan(found["reliability"])
    assert found["completeness_at_95"] == 0.0


def test_tiles_without_objects_count_what_is_false():
    none = {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int64)}
    none |= {"ignore": np.zeros(0, bool), "snr": np.zeros(0)}
    made, found = merits(samples(**none), more=(0, 25, 8, 33))
    assert made.wanted == 0
    assert not made.real.any()
    assert len(made.real) == 5
    assert np.isnan(found["completeness"])
    assert found["reliability"] == 0.0


def test_ignored_objects_count_neither_way():
    ignore = np.array([True, False, False, False, False, False])
    for options in ({}, {"leave_out": [0]}):
        made, found = merits(samples(ignore=ignore), **options)
        assert made.wanted == 5 * 3
        assert len(made.score) == 5 * 3
        assert found["completeness"] == found["reliability"] == 1.0
        assert found["ap50"] == pytest.approx(1.0)


def test_what_is_found_where_nothing_is_labelled_counts_neither_way():
    unlabelled = np.zeros((SIDE, SIDE), bool)
    unlabelled[20:36, :12] = True
    _, found = merits(samples(unlabelled=unlabelled), more=(0, 25, 8, 33))
    assert found["completeness"] == found["reliability"] == 1.0
    assert found["ap50"] == pytest.approx(1.0)
    assert merits(samples(), more=(0, 25, 8, 33))[1]["ap50"] < 0.95


def test_an_artefact_taken_for_a_source_is_false_and_counted():
    made, found = merits(samples(), as_class=0)
    assert found["completeness"] == 1.0
    assert found["reliability"] == pytest.approx(4 / 6)
    assert found["artefacts_a_thousand"] == pytest.approx(500.0)
    assert np.count_nonzero(made.artefact) == 10
    assert not (made.artefact & made.real).any()


def test_a_source_taken_for_an_artefact_is_missed():
    _, found = merits(samples(), as_class=2)
    assert found["completeness"] == 0.0
    assert np.isnan(found["reliability"])
