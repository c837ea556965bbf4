"""Detection by a YOLO network."""

from typing import ClassVar

from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.learned import LearnedDetection
from cyclades.stages.networks.tiles import STRIDE


class YoloDetection(LearnedDetection):
    """YOLO on a backbone of choice; see `LearnedDetection`."""

    name: ClassVar[str] = "yolo"
    summary: ClassVar[str] = "boxes (and masks) of objects by a YOLO network"
    heads: ClassVar[tuple[str, ...]] = ("yolo", "yolo_seg", "ultralytics")

    weights: str = parameter("yolo", "A shipped detector's name, a file, or a hub repository.")
    tile: int = parameter(
        1024,
        "Longest side of the tiles; graphs that take one size have their own.",
        unit="pixels",
        ge=192,
        multiple_of=STRIDE,
    )
