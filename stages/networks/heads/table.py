"""One table from names to detection heads, open to other packages.

Another package adds a head with an entry point in the group ``cyclades.heads``, whose name is the
head's and whose value is the place of a `Head`, as ``"package.module:HEAD"``. A detection of the
same name comes with it (`cyclades.stages.detection.heads`). Nothing here needs torch.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion

GROUP = "cyclades.heads"
AGPL = "AGPL-3.0"
_HEADS = "cyclades.stages.networks.heads"


@dataclass(frozen=True)
class Head:
    """What is known of a head before it is imported.

    Parameters
    ----------
    place : str
        ``"package.module:Class"``. The class is made from a `HeadSpec`, the strides of the levels,
        their channels and the number of classes, has an attribute ``score_floor`` and the methods
        ``losses(features, targets, size)`` and ``predict(features, size)``; one derived from
        `cyclades.stages.networks.heads.dense.DenseHead` can be exported too. Where it is a whole
        network it gets images in place of features, has an attribute ``largest_stride``, and may
        have a method ``start(input)`` that fills it with weights to start a training from.
    summary : str
        For lists, as "boxes and masks of objects by a Mask R-CNN".
    masks : bool
        Whether it learns from masks.
    whole : bool
        Whether it is a whole network, with a backbone of its own.
    any_size : bool
        Whether, on a convolutional backbone, it treats images of any size alike.
    backbones : tuple of str
        What the names of its backbones begin with; any where empty.
    licence : str
        That its weights have at least.
    detection : str, optional
        The detection that takes its weights; by default one of its own name. Heads of other
        packages have one of their own name.
    extras : tuple of str
        Of this package, to be installed for it.
    tile : int
        Longest side of the tiles that the detection shows it, by default.
    """

    place: str
    summary: str
    masks: bool = False
    whole: bool = False
    any_size: bool = False
    backbones: tuple[str, ...] = ()
    licence: str = "BSD-3-Clause"
    detection: str | None = None
    extras: tuple[str, ...] = ("learned",)
    tile: int = 512

    def load(self) -> Any:
        """Import the class.

        Raises
        ------
        ConfigurationError
            Where a package is missing that it needs.
        """
        module, _, attribute = self.place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            wanted = " and ".join(f"cyclades[{extra}]" for extra in self.extras)
            raise ConfigurationError(
                f"This network needs the package {error.name!r}; install {wanted}."
            ) from error


def _yolo(place: str, summary: str, **more: Any) -> Head:
    extras = ("learned", "yolo")
    return Head(f"{_HEADS}.{place}", summary, licence=AGPL, detection="yolo", extras=extras, **more)


def _set(summary: str) -> Head:
    place, extras = f"{_HEADS}.set_prediction:SetPredictionHead", ("learned", "transformers")
    # positions are told in units of the tile, so that it is of the size that they were learned at
    return Head(place, summary, whole=True, extras=extras, tile=256)


BUILT_IN: dict[str, Head] = {
    "mask_rcnn": Head(
        f"{_HEADS}.rcnn:RcnnHead", "boxes and masks of objects by a Mask R-CNN", masks=True
    ),
    "faster_rcnn": Head(f"{_HEADS}.rcnn:RcnnHead", "boxes of objects by a Faster R-CNN"),
    "vitdet": Head(
        f"{_HEADS}.rcnn:RcnnHead",
        "boxes and masks of objects by a ViTDet (a plain transformer with a Mask R-CNN head)",
        masks=True,
        backbones=("vit_",),
    ),
    "yolo": _yolo("yolo:YoloHead", "boxes of objects by a YOLO head", any_size=True),
    "yolo_seg": _yolo(
        "yolo:YoloHead", "boxes and masks of objects by a YOLO head", masks=True, any_size=True
    ),
    "ultralytics": _yolo(
        "yolo:UltralyticsModel", "a whole YOLO network of ultralytics", masks=True, whole=True
    ),
    "detr": _set("boxes of objects by a DETR"),
    "conditional_detr": _set("boxes of objects by a Conditional DETR"),
    "deformable_detr": _set("boxes of objects by a Deformable DETR"),
    "rt_detr": _set("boxes of objects by an RT-DETR"),
    "rt_detr_v2": _set("boxes of objects by an RT-DETR of the second version"),
    "d_fine": _set("boxes of objects by a D-FINE"),
    "rf_detr": _set("boxes of objects by an RF-DETR"),
    "yolos": _set("boxes of objects by a YOLOS, a vision transformer alone"),
    "huggingface": _set("boxes of objects by a network of the Hugging Face hub"),
    "efficientdet": Head(
        f"{_HEADS}.efficientdet:EfficientDetHead",
        "boxes of objects by an EfficientDet",
        whole=True,
        extras=("learned", "efficientdet"),
    ),
    "semantic": Head(
        f"{_HEADS}.semantic:SemanticHead",
        "objects parted by a watershed of a map of sources",
        masks=True,
    ),
}


@cache
def _elsewhere() -> dict[str, Any]:
    """Entry points of other packages, by the head's name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def list_heads() -> list[str]:
    """Return the names of all heads, built in and of other packages."""
    return list(dict.fromkeys([*BUILT_IN, *_elsewhere()]))


def find_head(name: str) -> Head:
    """Return a head by its name.

    Raises
    ------
    ConfigurationError
        Where there is none, or the entry point of another package holds no `Head`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = _elsewhere().get(name)
    if point is None:
        raise ConfigurationError(
            f"There is no head {name!r}{suggestion(name, list_heads())}; choose one of "
            f"{', '.join(list_heads())}."
        )
    head = point.load()
    if not isinstance(head, Head):
        raise ConfigurationError(
            f"The entry point {name} = {point.value} of {GROUP} holds no Head; correct the package "
            "that brings it."
        )
    return head


def detection_of(name: str) -> str:
    """Return the name of the detection that takes the weights of a head."""
    return find_head(name).detection or name


def list_detections() -> list[str]:
    """Names of the heads that are a detection of their own name."""
    own = [name for name, head in BUILT_IN.items() if head.detection in (None, name)]
    return list(dict.fromkeys([*own, *_elsewhere()]))
