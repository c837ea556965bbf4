"""Detection by a Faster R-CNN network."""

from typing import ClassVar

from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.learned import LearnedDetection


class FasterRcnnDetection(LearnedDetection):
    """Boxes of a Faster R-CNN, or of a Mask R-CNN whose masks are left out.

    Pixels are then flooded in the boxes, as for any detector of boxes; see `LearnedDetection`.
    """

    name: ClassVar[str] = "faster_rcnn"
    summary: ClassVar[str] = "boxes of objects by a Faster R-CNN"
    heads: ClassVar[tuple[str, ...]] = ("faster_rcnn", "mask_rcnn")
    uses_masks: ClassVar[bool] = False

    weights: str = parameter("mask_rcnn", "A shipped detector's name, a file, or a hub repository.")
