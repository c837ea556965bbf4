"""Object-detection metrics of catalogues as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cyclades.pipeline.comparison.detection_metrics import (
    BENCHMARK_IOU,
    SPURIOUS,
    average_precision,
    benchmark_scores,
)
from cyclades.pipeline.comparison.field import ComparedField
from cyclades.pipeline.comparison.overlaps import Objects, box_overlaps

if TYPE_CHECKING:
    from astropy.table import Table

ELLIPSES, ISLANDS = "ellipses", "islands"
"""What instances are: boxes of one FWHM to either side, or islands against true isophotes."""
ONE_CLASS = "source"


def average_precision_table(fields: Sequence[ComparedField]) -> "Table":
    """AP50 and AP50:95 of every catalogue, pooled over fields.

    By class only where all catalogues have classes in common with the truth: a catalogue that
    says nothing of classes would otherwise be judged more mildly than the others.

    Returns
    -------
    astropy.table.Table
        ``catalogue``; ``instances``: ``ellipses``, where both truth and catalogue are boxes of
        one FWHM to either side of their components, or ``islands``, where a catalogue that lists
        islands is compared with the true isophotes of a simulation; ``box_ap50``, ``box_ap``,
        ``mask_ap50``, ``mask_ap`` (NaN without masks of both); ``truth`` (objects that are not
        ignored) and ``detections``.
    """
    from astropy.table import Table

    rows = []
    judged = fields[0].outcomes
    truth = [_real(f.true_boxes) for f in fields] if judged else []
    by_class = all(_share_classes(truth, [f.boxes[name] for f in fields]) for name in judged)
    for name in judged:
        boxes = [f.boxes[name] for f in fields]
        rows.append((name, ELLIPSES, *_scores(truth, boxes, by_class)))
        isophotes = [f.true_instances for f in fields]
        islands = [f.islands.get(name) for f in fields]
        if all(o is not None for o in (*isophotes, *islands)):
            scores = _scores([_real(o) for o in isophotes], _all(islands), by_class)
            rows.append((name, ISLANDS, *scores))
    names = ("catalogue", "instances", "box_ap50", "box_ap", "mask_ap50", "mask_ap", "truth",
             "detections")  # fmt: skip
    types = ("U64", "U16", *("f8",) * 4, "i8", "i8")
    return Table(rows=rows or None, names=names, dtype=types)


def _all(objects: Sequence[Objects | None]) -> list[Objects]:
    return [o for o in objects if o is not None]


def _scores(
    truth: Sequence[Objects], found: Sequence[Objects], by_class: bool
) -> tuple[float | int, ...]:
    if not by_class:
        truth, found = ([o.unclassed() for o in side] for side in (truth, found))
    boxes = average_precision(truth, found)
    masks = (np.nan, np.nan)
    if all(o.masks is not None for o in (*truth, *found)):
        made = average_precision(truth, found, "mask")
        masks = (made.ap50, made.ap)
    return boxes.ap50, boxes.ap, *masks, boxes.wanted, boxes.detections


def _real(objects: Objects | None) -> Objects:
    """Objects without artefacts."""
    assert objects is not None
    labels = np.array(objects.labels if objects.labels is not None else [""] * len(objects), str)
    return objects.take(np.flatnonzero(labels != SPURIOUS))


def _classed(
    truth: Sequence[Objects], found: Sequence[Objects]
) -> tuple[list[Objects], list[Objects]]:
    """Take the classes off where detections and truth have none in common."""
    if _share_classes(truth, found):
        return list(truth), list(found)
    return [o.unclassed() for o in truth], [o.unclassed() for o in found]


def _share_classes(truth: Sequence[Objects], found: Sequence[Objects]) -> bool:
    """Whether detections and truth have a class in common."""
    names = [
        {label for o in side for label in o.labels or ()} - {"", SPURIOUS}
        for side in (truth, found)
    ]
    return bool(names[0] & names[1])


def benchmark_table(fields: Sequence[ComparedField]) -> "Table":
    """Scores of the radio benchmark in both forms, by class and in total.

    Truth below the floor is left out, with what lies on it alone. A catalogue that has no class in
    common with the truth is judged with one class, ``source``, for all that is not ``spurious``.
    Boxes reach one FWHM to either side.

    Returns
    -------
    astropy.table.Table
        ``catalogue``, ``form`` (``compatible`` or ``corrected``), ``class`` (the last ``total``),
        ``truth``, ``detections``, ``hits``, ``completeness``, ``reliability``, ``f1``.
    """
    from astropy.table import Table

    rows = []
    for name in fields[0].outcomes:
        every = [f.true_boxes for f in fields]
        truth, found = _labelled(_all(every), [f.boxes[name] for f in fields])
        for form, corrected in (("compatible", False), ("corrected", True)):
            if not corrected:
                pairs = [without_ignored(*pair) for pair in zip(truth, found, strict=True)]
            else:
                pairs = list(zip(truth, found, strict=True))
            scores = benchmark_scores(
                [t for t, _ in pairs], [o for _, o in pairs], corrected=corrected
            )
            for label, c in (*scores.by_class.items(), ("total", scores.total)):
                rows.append((name, form, label, *c, c.completeness, c.reliability, c.f1))
    names = ("catalogue", "form", "class", "truth", "detections", "hits", "completeness",
             "reliability", "f1")  # fmt: skip
    types = ("U64", "U16", "U32", "i8", "i8", "i8", "f8", "f8", "f8")
    return Table(rows=rows or None, names=names, dtype=types)


def without_ignored(truth: Objects, found: Objects) -> tuple[Objects, Objects]:
    """Leave out ignored truth, and detections that overlap such truth only.

    The compatibility form knows no ignored truth: its truth was what could be seen.
    """
    if truth.ignored is None:
        return truth, found
    near = box_overlaps(found.boxes, truth.boxes)
    good = near.iou > BENCHMARK_IOU
    on = np.zeros((2, len(found)), bool)
    on[truth.ignored[near.second[good]].astype(int), near.first[good]] = True
    keep = on[0] | ~on[1]
    return truth.take(np.flatnonzero(~truth.ignored)), found.take(np.flatnonzero(keep))


def _labelled(
    truth: Sequence[Objects], found: Sequence[Objects]
) -> tuple[list[Objects], list[Objects]]:
    """Give every object a class: its own, or one for all where there are none in common."""
    if all(o.labels is not None for o in _classed(truth, found)[1]):
        return list(truth), list(found)
    made = [
        [
            Objects(
                o.boxes,
                o.scores,
                tuple(
                    SPURIOUS if label == SPURIOUS else ONE_CLASS
                    for label in (o.labels or ("",) * len(o))
                ),
                o.masks,
                o.ignored,
            )
            for o in side
        ]
        for side in (truth, found)
    ]
    return made[0], made[1]
