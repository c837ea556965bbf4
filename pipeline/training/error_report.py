"""Where a detector loses average precision: by kind of error, signal to noise, and artefacts."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.detection_errors import ERRORS, FITS, detection_errors
from cyclades.pipeline.comparison.detection_metrics import (
    assign,
    interpolated_precision,
    precision_recall,
)
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.ceiling import ceiling, significance
from cyclades.pipeline.training.class_ceiling import class_ceiling
from cyclades.pipeline.training.evaluation import Judged
from cyclades.pipeline.training.samples import Plane, Sample
from cyclades.stages.networks.specification import SPURIOUS, NetworkSpec

SNR_EDGES = (0.0, 5.0, 7.0, 10.0, 20.0, 50.0, np.inf)
"""Of the brightest pixel of a box, in rms."""
SOURCES = "sources"
"""All classes but that of artefacts as one: a source is found, whatever class it is given."""


class Heights:
    """Significance of the pixels of tiles, for the S/N of boxes on them."""

    def __init__(self, mesh: int) -> None:
        self.mesh = mesh
        self.planes: list[Plane | None] = []
        self.beams: list[NDArray[np.float64] | None] = []

    def add(self, sample: Sample) -> None:
        """Look at the next tile."""
        self.planes.append(None if sample.planes else significance(sample, self.mesh))
        self.beams.append(sample.beam)

    def of(self, tile: int, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Brightest pixel of each box in rms; NaN on images of several planes."""
        plane = self.planes[tile]
        if plane is None:
            return np.full(len(boxes), np.nan)
        low = np.maximum(np.floor(boxes[:, :2]), 0).astype(int)
        high = np.ceil(boxes[:, 2:]).astype(int)
        return np.array(
            [
                plane[y0:y1, x0:x1].max(initial=-np.inf)
                for (x0, y0), (x1, y1) in zip(low, high, strict=True)
            ],
            float,
        )


def error_report(judged: Judged, spec: NetworkSpec, heights: Heights) -> dict[str, Any]:
    """Everything that `cyclades evaluate --errors` prints.

    Parameters
    ----------
    judged : Judged
    spec : NetworkSpec
    heights : Heights
        Of the same tiles.

    Returns
    -------
    dict
        ``by_class``: AP50, the gains of `ERRORS` and how many there are, and the ceilings of an
        observer who is told classes and of one who has to tell them (`class_ceiling`).
        ``by_snr``: AP50 by class in bins of the brightest pixel in the box, of truth and, for false
        detections, of their own. ``by_artefacts``: AP50 and ceiling by class on tiles ``with`` and
        ``without`` artefacts.
        `SOURCES` stands for all classes of sources as one.
    """
    errors = detection_errors(judged.truth, judged.ranked)
    sources = detection_errors(*_as_sources(judged.truth, judged.found))
    by_class: dict[str, dict[str, Any]] = {
        name: {"ap50": e.ap50, "wanted": e.wanted, "gain": e.gain, "number": e.number}
        for name, e in {**errors, **sources}.items()
    }
    told = ceiling(judged.truth, judged.seen, spec.classes)
    telling = class_ceiling(judged.truth, judged.seen, heights.planes, heights.beams, spec.classes)
    for key, highest in (("ceiling", told), ("class_ceiling", telling)):
        for name, values in (highest.by_class if highest is not None else {}).items():
            by_class[name][key] = values[0]
    return {
        "by_class": by_class,
        "by_snr": _by_snr(judged, spec, heights),
        "by_artefacts": _by_artefacts(judged, spec),
    }


def _as_sources(
    truth: Sequence[Objects], found: Sequence[Objects]
) -> tuple[list[Objects], list[Objects]]:
    """Truth and detections of the one class `SOURCES`, artefacts left out."""

    def one(objects: Objects) -> Objects:
        kept = objects.take(np.flatnonzero([n != SPURIOUS for n in objects.labels or ()]))
        return Objects(kept.boxes, kept.scores, (SOURCES,) * len(kept), None, kept.ignored)

    return [one(t) for t in truth], [one(f) for f in found]


def _names(judged: Judged, spec: NetworkSpec) -> list[str]:
    there = {label for one in judged.truth for label in one.labels or ()}
    return [name for name in spec.classes if name in there]


def _lists(judged: Judged, name: str) -> tuple[list[Objects], list[Objects]]:
    if name == SOURCES:
        return _as_sources(judged.truth, judged.found)
    return [t.of_class(name) for t in judged.truth], [f.of_class(name) for f in judged.ranked]


def _by_snr(judged: Judged, spec: NetworkSpec, heights: Heights) -> dict[str, list[dict[str, Any]]]:
    """AP50 in bins of S/N, as COCO has it by area: what lies outside a bin is not judged in it."""
    made: dict[str, list[dict[str, Any]]] = {}
    for name in (*_names(judged, spec), SOURCES):
        truth, found = _lists(judged, name)
        high = [[heights.of(i, one.boxes) for i, one in enumerate(side)] for side in (truth, found)]
        rows = []
        for low, top in itertools.pairwise(SNR_EDGES):
            parts = []
            for t, f, of_truth, of_found in zip(truth, found, *high, strict=True):
                ignored = np.zeros(len(t), bool) if t.ignored is None else t.ignored
                outside = (of_truth < low) | (of_truth >= top)
                bound = Objects(t.boxes, None, t.labels, None, ignored | outside)
                part = assign(bound, f, np.array([FITS]))
                own = of_found[part.order]
                beside = ~part.hit & ((own < low) | (own >= top))
                parts.append(part._replace(ignored=part.ignored | beside))
            wanted = sum(part.wanted for part in parts)
            if wanted:
                value = interpolated_precision(*precision_recall(parts, 0)[:2])
                end = top if np.isfinite(top) else None
                rows.append({"low": low, "high": end, "wanted": wanted, "ap50": value})
        made[name] = rows
    return made


def _by_artefacts(judged: Judged, spec: NetworkSpec) -> dict[str, dict[str, dict[str, float]]]:
    """AP50 of tiles with artefacts in their truth, and of those without."""
    dirty = np.array([SPURIOUS in (one.labels or ()) for one in judged.truth], bool)
    made: dict[str, dict[str, dict[str, float]]] = {}
    for label, rows in (("without", np.flatnonzero(~dirty)), ("with", np.flatnonzero(dirty))):
        if not len(rows):
            continue
        truth = [judged.truth[i] for i in rows]
        highest = ceiling(truth, [judged.seen[i] for i in rows], spec.classes)
        values: dict[str, dict[str, float]] = {}
        for one in (
            detection_errors(truth, [judged.ranked[i] for i in rows]),
            detection_errors(*_as_sources(truth, [judged.found[i] for i in rows])),
        ):
            for name, e in one.items():
                values[name] = {"ap50": e.ap50, "wanted": float(e.wanted)}
                if highest is not None and name in highest.by_class:
                    values[name]["ceiling"] = highest.by_class[name][0]
        made[label] = values
    return made


def error_lines(report: dict[str, Any]) -> list[str]:
    """Tables of a report as text."""
    kinds = list(ERRORS)
    heading = ("AP50 gained without", *kinds, "AP50", "ceiling telling classes", "ceiling")
    by_class = [heading]
    for name, one in report["by_class"].items():
        gains = (f"{one['gain'][kind]:+.3f}" for kind in kinds)
        others = (
            f"{one[key]:.3f}" if key in one else "-" for key in ("ap50", "class_ceiling", "ceiling")
        )
        by_class.append((name, *gains, *others))
    edges = list(itertools.pairwise(SNR_EDGES))
    by_snr = [("AP50 by S/N", *(f"{a:g}-{b:g}" if np.isfinite(b) else f">{a:g}" for a, b in edges))]
    for name, rows in report["by_snr"].items():
        there = {row["low"]: f"{row['ap50']:.3f} ({row['wanted']})" for row in rows}
        by_snr.append((name, *(there.get(low, "-") for low, _ in edges)))
    tiles = list(report["by_artefacts"])
    by_artefacts = [("AP50 on tiles", *(f"{one} artefacts" for one in tiles))]
    for name in report["by_class"]:
        cells = []
        for one in tiles:
            value = report["by_artefacts"][one].get(name)
            cells.append("-" if value is None else f"{value['ap50']:.3f} ({value['wanted']:.0f})")
        by_artefacts.append((name, *cells))
    lines: list[str] = []
    for table in (by_class, by_snr, by_artefacts):
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines.append("")
        for row in table:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells))
    return lines
