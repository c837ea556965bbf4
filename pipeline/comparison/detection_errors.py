"""Where average precision is lost: the errors of a detector by kind.

After TIDE (Bolya et al. 2020, arXiv:2008.08115): every detection that COCO counts as false gets one
kind of error, and a kind's weight is what average precision at IoU 0.5 gains when an oracle cures
it alone. Gains do not add up to what is missing, since a detection that is cured of one error may
stand behind another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.detection_metrics import (
    assign,
    interpolated_precision,
)
from cyclades.pipeline.comparison.overlaps import Objects, box_overlaps
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

ERRORS = {
    "class": "the box fits an object of another class",
    "location": "an object of the class overlaps, but too little",
    "both": "an object of another class overlaps, too little",
    "duplicate": "a better detection has the object already",
    "ignored": "the box fits an object that is not judged, of another class or found already",
    "background": "no object overlaps",
    "missed": "objects that no detection has, even with the wrong class or a poor box",
}
"""Kinds of errors, and what they mean; all but the last are false detections."""
FITS, NEAR = 0.5, 0.1
"""Least IoU of a box that fits, and of one that has to do with an object (TIDE's values)."""

_FALSE = [kind for kind in ERRORS if kind != "missed"]
_NONE = -1


@dataclass(frozen=True)
class ClassErrors:
    """Errors of one class.

    Parameters
    ----------
    ap50 : float
        Average precision at IoU 0.5.
    gain : dict of str to float
        What it gains where one kind of `ERRORS` is cured.
    number : dict of str to int
        Detections listed in the class with each error, however low their score; of ``missed``,
        objects.
    wanted : int
        Objects that are not ignored.
    """

    ap50: float
    gain: dict[str, float]
    number: dict[str, int]
    wanted: int


@dataclass(frozen=True, eq=False)
class _Listed:
    """All detections that are not ignored, one after the other, and what becomes of them."""

    score: Floats
    label: Integers
    hit: NDArray[np.bool_]
    error: Integers
    """Position in `_FALSE`; -1 of hits."""
    target: Integers
    """Object that the error is about, -1 where there is none."""


def detection_errors(truth: Sequence[Objects], found: Sequence[Objects]) -> dict[str, ClassErrors]:
    """Sort out what average precision at IoU 0.5 is lost to, class by class.

    An oracle cures, each alone:

    - ``class`` and ``location``: of the detections with that error about one object, the best
      becomes a hit if nothing else has the object, with its class or box made right and its score
      kept; all others go.
    - ``both``, ``duplicate``, ``ignored`` and ``background``: they go.
    - ``missed``: the objects are no longer wanted.

    Parameters
    ----------
    truth, found : sequence of Objects
        One entry an image, with labels; as `average_precision` takes them.

    Returns
    -------
    dict of str to ClassErrors
        Classes without truth are left out.

    Raises
    ------
    InputError
        Where labels are missing.
    """
    if any(one.labels is None for one in (*truth, *found)):
        raise InputError("errors are sorted by class; give labels of both truth and detections.")
    names = sorted({label for one in (*truth, *found) for label in one.labels or ()})
    parts, kinds, had, ignored = [], [], [], []
    start = 0
    for t, f in zip(truth, found, strict=True):
        parts.append(_sorted_out(t, f, names, start))
        kinds.append(_numbers(t, names))
        ignored.append(np.zeros(len(t), bool) if t.ignored is None else t.ignored)
        start += len(t)
        had.append(np.isin(np.arange(start - len(t), start), parts[-1].target[parts[-1].hit]))
    join = np.concatenate
    listed = _Listed(*(join([getattr(p, n) for p in parts]) for n in _Listed.__annotations__))
    kind, held, free = join(kinds), join(had), ~join(ignored)
    about = np.isin(listed.error, [_FALSE.index("class"), _FALSE.index("location")])
    lost = free & ~held
    lost[listed.target[about]] = False
    made = {}
    for row, name in enumerate(names):
        wanted = int(np.count_nonzero(free[kind == row]))
        if not wanted:
            continue
        before = _precision(listed.score, listed.hit, listed.label == row, wanted)
        after = {}
        for number, error in enumerate(_FALSE):
            hit, label = _cured(listed, number, kind, held)
            after[error] = _precision(listed.score, hit, label == row, wanted)
        fewer = wanted - int(np.count_nonzero(lost[kind == row]))
        after["missed"] = _precision(listed.score, listed.hit, listed.label == row, fewer)
        own = listed.error[listed.label == row]
        numbers = {error: int(np.count_nonzero(own == n)) for n, error in enumerate(_FALSE)}
        made[name] = ClassErrors(
            before,
            {error: value - before for error, value in after.items()},
            {**numbers, "missed": wanted - fewer},
            wanted,
        )
    return made


def _numbers(objects: Objects, names: Sequence[str]) -> Integers:
    return np.array([names.index(label) for label in objects.labels or ()], np.int64)


def _sorted_out(truth: Objects, found: Objects, names: Sequence[str], start: int) -> _Listed:
    """Judge the detections of one image; its objects are counted from `start` on."""
    kind = _numbers(truth, names)
    ignored = np.zeros(len(truth), bool) if truth.ignored is None else truth.ignored
    score, label, hit, target, boxes = [], [], [], [], []
    for row, name in enumerate(names):
        own = found.of_class(name)
        judged = assign(truth.of_class(name), own, np.array([FITS]))
        kept = ~judged.ignored[0]
        objects = np.append(np.flatnonzero(kind == row), _NONE)[judged.taken[0][kept]]
        score.append(judged.scores[kept])
        label.append(np.full(len(objects), row))
        hit.append(judged.hit[0][kept])
        target.append(objects)
        boxes.append(own.boxes[judged.order[kept]])
    join = np.concatenate
    labels, hits, targets, places = join(label), join(hit), join(target), join(boxes)
    iou = np.zeros((len(labels), len(truth) + 1))  # the last column is nothing at all
    pairs = box_overlaps(places, truth.boxes)
    iou[pairs.first, pairs.second] = pairs.iou
    same = np.append(kind, _NONE) == labels[:, None]
    judged_ones = np.append(~ignored, False)
    wanted = np.where(same & judged_ones, iou, 0.0)
    others = np.where(~same & judged_ones, iou, 0.0)
    unjudged = np.where(judged_ones, 0.0, iou)

    def best(overlap: Floats) -> Floats:
        return np.asarray(overlap.max(1))

    # the first that holds is the error, in TIDE's order
    tests = {
        "location": (best(wanted) >= NEAR) & (best(wanted) < FITS),
        "class": best(others) >= FITS,
        "duplicate": best(wanted) >= FITS,
        "ignored": best(unjudged) >= FITS,
        "background": best(np.where(judged_ones, iou, 0.0)) < NEAR,
        "both": np.ones(len(labels), bool),
    }
    error = np.select(list(tests.values()), [_FALSE.index(name) for name in tests], _NONE)
    about = np.select(
        [error == _FALSE.index("location"), error == _FALSE.index("class")],
        [wanted.argmax(1), others.argmax(1)],
        _NONE,
    )
    about = np.where(hits, targets, about)
    return _Listed(
        join(score),
        labels,
        hits,
        np.where(hits, _NONE, error).astype(np.int64),
        np.where(about >= 0, about + start, _NONE).astype(np.int64),
    )


def _cured(
    listed: _Listed, error: int, kind: Integers, held: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Integers]:
    """Hits, and classes of detections with -1 for those that go, without one kind of error."""
    hit, label = listed.hit.copy(), listed.label.copy()
    rows = np.flatnonzero(listed.error == error)
    label[rows] = _NONE
    if _FALSE[error] in ("class", "location"):
        rows = rows[~held[listed.target[rows]]]
        rows = rows[np.argsort(-listed.score[rows], kind="stable")]
        rows = rows[np.unique(listed.target[rows], return_index=True)[1]]
        hit[rows] = True
        label[rows] = kind[listed.target[rows]]
    return hit, label


def _precision(
    score: Floats, hit: NDArray[np.bool_], chosen: NDArray[np.bool_], wanted: int
) -> float:
    """Average precision of the chosen detections."""
    if not wanted:
        return 1.0
    order = np.argsort(-score[chosen], kind="stable")
    hits = np.cumsum(hit[chosen][order]).astype(float)
    return interpolated_precision(hits / wanted, hits / np.arange(1, len(hits) + 1))
