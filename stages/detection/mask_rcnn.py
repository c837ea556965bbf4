"""Detection by a Mask R-CNN network."""

from typing import ClassVar

from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.learned import LearnedDetection


class MaskRcnnDetection(LearnedDetection):
    """Mask R-CNN on a backbone of choice; see `LearnedDetection`."""

    name: ClassVar[str] = "mask_rcnn"
    summary: ClassVar[str] = "boxes and masks of objects by a Mask R-CNN"
    heads: ClassVar[tuple[str, ...]] = ("mask_rcnn",)

    weights: str = parameter("mask_rcnn", "A shipped detector's name, a file, or a hub repository.")
