"""Published figures of detectors on radio images, and what stands between them and ours."""

from typing import NamedTuple


class Published(NamedTuple):
    """Figures of one detector, as they were published.

    Parameters
    ----------
    what : str
        Name and source.
    figures : dict of str to float
        Shares; ``f1_total``, ``map`` or ``f1_CLASS``.
    """

    what: str
    figures: dict[str, float]

    @property
    def text(self) -> str:
        """For a cell of a table."""
        names = {"map": "mAP", "f1_total": "F1 total"}
        parts = (
            f"{names.get(key, key.replace('f1_', 'F1 '))} {value:.3f}"
            for key, value in self.figures.items()
        )
        return f"{', '.join(parts)} ({self.what})"


_CAESAR = "README of caesar-yolo"
_FOUR = ("f1_compact", "f1_extended", "f1_multi-component", "f1_spurious")


def _caesar(what: str, *values: float) -> Published:
    return Published(f"{what}, {_CAESAR}", dict(zip(_FOUR, values, strict=True)))


PUBLISHED = {
    "detr": Published("DETR, Sortino et al. 2023", {"f1_total": 0.766}),
    "detectron2": Published("Detectron2, Sortino et al. 2023", {"map": 0.839}),
    "yolov8n": _caesar("YOLOv8-n pre-trained", 0.769, 0.891, 0.876, 0.600),
    "yolov8l": _caesar("YOLOv8-l, best", 0.773, 0.902, 0.883, 0.519),
    "yolo11n": _caesar("YOLO11-n pre-trained", 0.763, 0.889, 0.869, 0.567),
}
"""By the name that the option ``published`` of a detector takes. They are two of
Sortino et al. (2023, Experimental Astronomy 56, 293), at second hand, and those of the public
caesar-yolo, whose class ``extended-multisland`` is ``multi-component`` here."""

DIFFERENCES = (
    "**Data.** The published figures are of real cut-outs of 132 x 132 pixels of ASKAP, ATCA and "
    "VLA images whose labels people made and checked by eye. Truth of the simulation holds all "
    "objects above the floor, be their shape visible or not, at ratios of classes of our own. The "
    "columns stand side by side; their difference is not a difference between detectors.",
    "**Metric.** `compatible` is the benchmark's rule, IoU above 0.6 with every truth object "
    "taking its best detection, whatever its label, and recognised artefacts in the totals; "
    "`corrected` pairs one to one within a class and leaves artefacts out of the totals. mAP here "
    "is COCO's AP50, the mean over the classes that have truth. F1 of networks is at a calibrated "
    "probability of 0.5, of catalogues at their own threshold. Catalogues without classes have "
    "totals of one class, and no truth or detection of artefacts in them.",
    "**Detectors.** YOLOv4 and YOLOv7 of the published table are represented by what replaced them "
    "(YOLOv8, YOLO11, YOLO26): their own code is no longer kept.",
)
"""Paragraphs under the tables."""
