"""Detection by a Faster R-CNN network."""

from typing import ClassVar

from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.learned import LearnedDetection


class FasterRcnnDetection(LearnedDetection):
    """Faster R-CNN on a backbone of choice; see `LearnedDetection`."""

    name: ClassVar[str] = "faster_rcnn"
    summary: ClassVar[str] = "boxes of objects by a Faster R-CNN"
    heads: ClassVar[tuple[str, ...]] = ("faster_rcnn",)

    weights: str = parameter(..., "A file of weights, or a hub repository.")
