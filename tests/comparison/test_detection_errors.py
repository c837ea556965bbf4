"""Errors of detections by kind, on cases where the gain of every cure is known."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.detection_errors import ERRORS, detection_errors
from cyclades.pipeline.comparison.detection_metrics import average_precision
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.stages.core.errors import InputError

SIDE = 10.0
KINDS = tuple(ERRORS)


def boxes(places, shift=0.0):
    """Boxes of side 10 at multiples of 100 pixels, shifted along x."""
    x = 100.0 * np.asarray(places, float) + shift
    return np.column_stack([x, np.zeros_like(x), x + SIDE, np.full_like(x, SIDE)])


def truth(labels, ignored=()):
    flags = np.isin(np.arange(len(labels)), ignored)
    return Objects(boxes(np.arange(len(labels))), None, tuple(labels), None, flags)


def found(*entries):
    """Detections as (place, shift, label, score)."""
    place, shift, label, score = zip(*entries, strict=True)
    return Objects(boxes(place, np.array(shift, float)), np.array(score, float), label)


def errors(given, detected):
    made = detection_errors([given], [detected])
    whole = average_precision([given], [detected]).by_class
    for name, one in made.items():
        assert one.ap50 == pytest.approx(whole[name][0], abs=1e-12)
        assert min(one.gain.values()) >= -1e-12
        assert set(one.gain) == set(one.number) == set(ERRORS)
    return made


def gains(one):
    """Kinds that gain something, and how much."""
    return {kind: value for kind, value in one.gain.items() if value > 1e-12}


HITS = [(0, 0, "a", 0.9)]
"""One of two objects of class a is found: AP is 51 of 101 recalls."""
HALF = 51 / 101


def test_a_perfect_detector_errs_nowhere():
    one = errors(truth("aa"), found((0, 0, "a", 0.9), (1, 0, "a", 0.8)))["a"]
    assert one.ap50 == 1.0
    assert not gains(one)
    assert not any(one.number.values())


def test_a_missed_object():
    one = errors(truth("aa"), found(*HITS))["a"]
    assert one.ap50 == pytest.approx(HALF)
    assert gains(one) == {"missed": pytest.approx(1.0 - HALF)}
    assert one.number["missed"] == 1


def test_a_wrong_class_costs_both_classes():
    # the object of place 1 is of class a and is called b, before b's own is found
    made = errors(truth("aab"), found(*HITS, (1, 0, "b", 0.8), (2, 0, "b", 0.7)))
    assert gains(made["a"]) == {"class": pytest.approx(1.0 - HALF)}
    # of b's two detections the better is false
    assert made["b"].ap50 == pytest.approx(0.5)
    assert gains(made["b"]) == {"class": pytest.approx(0.5)}
    assert made["b"].number["class"] == 1
    assert made["a"].number["class"] == made["a"].number["missed"] == 0


def test_a_poor_box_is_moved():
    # shifts by 5 of 10 pixels leave an IoU of 1 / 3
    one = errors(truth("aa"), found(*HITS, (1, 5.0, "a", 0.8)))["a"]
    assert gains(one) == {"location": pytest.approx(1.0 - HALF)}
    assert one.number["location"] == 1
    # and by 9 of 1 / 19, which has nothing to do with the object
    far = errors(truth("aa"), found(*HITS, (1, 9.0, "a", 0.8)))["a"]
    assert gains(far) == {"missed": pytest.approx(1.0 - HALF)}
    assert far.number["background"] == 1


def test_a_poor_box_beside_a_good_one_only_goes():
    # precision is 1, then 2 / 3 from the second recall on
    detected = found(*HITS, (1, 5.0, "a", 0.8), (1, 0, "a", 0.7))
    one = errors(truth("aa"), detected)["a"]
    assert one.ap50 == pytest.approx(HALF + (1.0 - HALF) * 2.0 / 3.0)
    assert gains(one) == {"location": pytest.approx((1.0 - HALF) / 3.0)}


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        ((0, 1.0, "a", 0.8), "duplicate"),
        ((7, 0.0, "a", 0.8), "background"),
        ((2, 5.0, "a", 0.8), "both"),
        ((3, 1.0, "a", 0.8), "ignored"),
    ],
)
def test_false_detections_between_two_hits_go(between, kind):
    given = truth("aabb", ignored=[3])
    one = errors(given, found(*HITS, between, (1, 0, "a", 0.7)))["a"]
    assert one.ap50 == pytest.approx(HALF + (1.0 - HALF) * 2.0 / 3.0)
    assert gains(one) == {kind: pytest.approx((1.0 - HALF) / 3.0)}
    assert [k for k in KINDS if one.number[k]] == [kind]


def test_what_is_not_judged_is_no_error():
    one = errors(truth("aaa", ignored=[2]), found(*HITS, (2, 0, "a", 0.8), (1, 0, "a", 0.7)))["a"]
    assert one.ap50 == 1.0
    assert one.wanted == 2
    assert not any(one.number.values())


def test_of_several_the_best_is_cured():
    # three detections of class b lie on an object of class a: one becomes a's, with the score 0.6
    detected = found((0, 0, "b", 0.6), (0, 1.0, "b", 0.5), (0, -1.0, "b", 0.4), (5, 0, "a", 0.55))
    made = errors(truth("a"), detected)
    assert set(made) == {"a"}
    assert made["a"].ap50 == 0.0
    # a false one of 0.55 is behind it
    assert gains(made["a"])["class"] == pytest.approx(1.0)
    # with a false one before it half of the precision is left
    late = errors(truth("a"), found((0, 0, "b", 0.6), (5, 0, "a", 0.7)))["a"]
    assert gains(late) == {"class": pytest.approx(0.5)}


def test_images_are_told_apart():
    given = [truth("a"), truth("a")]
    detected = [found((0, 0, "a", 0.9)), Objects(np.zeros((0, 4)), np.zeros(0), ())]
    made = detection_errors(given, detected)["a"]
    assert made.ap50 == pytest.approx(HALF)
    assert made.number["missed"] == 1


def test_random_scenes_agree_with_average_precision():
    random = np.random.default_rng(3)
    given, detected = [], []
    for _ in range(6):
        labels = random.choice(["a", "b", "c"], 12)
        given.append(truth(labels, ignored=random.choice(12, 3, replace=False)))
        place = random.integers(0, 14, 40)
        shift = random.choice([0.0, 1.0, 4.0, 7.0], 40)
        kind = random.choice(["a", "b", "c"], 40)
        detected.append(found(*zip(place, shift, kind, random.random(40), strict=True)))
    made = detection_errors(given, detected)
    whole = average_precision(given, detected).by_class
    for name, one in made.items():
        assert one.ap50 == pytest.approx(whole[name][0], abs=1e-12)
        assert all(one.gain[kind] > 0.0 for kind in ("class", "location", "background"))
        total = sum(f.labels.count(name) for f in detected)
        hits = one.wanted - sum(one.number[k] for k in ("missed",))
        assert sum(one.number.values()) <= total + one.number["missed"]
        assert hits > 0


def test_errors_need_classes():
    bare = Objects(boxes([0]), np.ones(1))
    with pytest.raises(InputError, match="labels"):
        detection_errors([truth("a")], [bare])
