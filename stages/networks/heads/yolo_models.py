"""Complete ultralytics models, from image to detections, and their variants with stride 4.

This module imports ultralytics (AGPL-3.0); see `cyclades.stages.networks.heads.yolo_losses`.
Models are built from descriptions that ultralytics ships, or from a mapping of the same form, with
random weights: nothing is ever downloaded.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.networks.heads.yolo_dense import YoloNetwork, YoloNetworkOptions
from cyclades.stages.networks.specification import HeadSpec

# isort: split
import ultralytics
from ultralytics.nn import tasks
from ultralytics.nn.modules.head import Detect, Segment, Segment26, v10Detect

_HEADS = {cls.__name__: cls for cls in (Detect, Segment, Segment26, v10Detect)}
_UNBUILDABLE = (
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SCALED = re.compile(r"^(yolov?\d+)([nsmlx])(.*)$")
_ACTIVATION = re.compile(r"^(torch\.)?nn\.[A-Za-z0-9]+\((inplace=(True|False)|[0-9.]*)\)$")


class UltralyticsOptions(YoloNetworkOptions):
    """Options of the head `ultralytics`."""

    model: str | dict[str, Any] = "yolo11n.yaml"
    """Name of a description that ultralytics ships (with its scale: n, s, m, l, x), or one as a
    mapping."""
    in_channels: int | None = None
    """Channels of the images; by default those of the network's input."""
    stride_4: bool = False
    """Add a finest level of stride 4 where the model has none; see `with_stride_4`."""


class UltralyticsModel(YoloNetwork):
    """A whole ultralytics model for detection or instance segmentation.

    Parameters
    ----------
    spec : HeadSpec
        Its options are those of `UltralyticsOptions`.
    strides : tuple of int
        Not used: the model has its own.
    channels : int
        Of the images.
    classes : int
        Without background.

    Raises
    ------
    ConfigurationError
        Where an option is wrong, or the model is unknown or of another kind.
    """

    takes_images = True

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = UltralyticsOptions.of(spec)
        self.options, self.classes = options, classes
        wanted = options.in_channels or channels
        if wanted != channels and channels:
            raise ConfigurationError(
                f"The network's input has {channels} channels, but the option in_channels says "
                f"{wanted}; leave it out."
            )
        description = load_description(options.model)
        if options.stride_4:
            description = with_stride_4(description)
        masks = description["head"][-1][2].startswith("Segment")
        kind = tasks.SegmentationModel if masks else tasks.DetectionModel
        try:
            self.model: Any = kind(description, ch=wanted, nc=classes, verbose=False)
        except _UNBUILDABLE as error:
            raise ConfigurationError(
                f"ultralytics cannot build the model described ({error}); correct the option model."
            ) from error
        self.strides = tuple(int(s) for s in self.model.stride)
        # twice as fine as the finest level, in all of ultralytics' heads with masks
        self.prototype_stride = self.strides[0] / 2.0 if masks else 0.0
        self.train()

    @property
    def detect(self) -> Any:
        """The head, which comes last."""
        return self.model.model[-1]

    @property
    def largest_stride(self) -> int:
        """Sides of the images are multiples of this."""
        return max(self.strides)

    def raw(self, features: Tensor) -> dict[str, Any]:
        """Outputs of ultralytics' head before decoding."""
        found: dict[str, Any] = self.model(features)
        return found


def shipped() -> dict[str, Path]:
    """Descriptions that ultralytics ships, by name without scale and ``.yaml``."""
    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def load_description(model: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's description.

    Parameters
    ----------
    model : str or mapping
        As ``"yolo11n.yaml"``, ``"yolov8s-seg"``, or a description in ultralytics' form.

    Raises
    ------
    ConfigurationError
        Where there is none of this name, or it is not for boxes or masks.
    """
    if isinstance(model, str):
        stem = model.removesuffix(".yaml")
        match = _SCALED.match(stem)
        known = shipped()
        name, scale = (match[1] + match[3], match[2]) if match and stem not in known else (stem, "")
        if name not in known:
            names = [n for n in known if n.startswith("yolo")]
            raise ConfigurationError(
                f"ultralytics ships no model {model!r}{suggestion(stem, names)}; name one of the "
                f"descriptions it ships (as yolo11n.yaml or yolov8n-p2.yaml), or give a mapping."
            )
        description: dict[str, Any] = yaml.safe_load(known[name].read_text(encoding="utf-8"))
        if description.get("scales"):
            description["scale"] = scale or next(iter(description["scales"]))
    else:
        description = copy.deepcopy(dict(model))
        if description.get("scales"):
            description.setdefault("scale", next(iter(description["scales"])))
    _check(description, str(model) if isinstance(model, str) else "the description given")
    return description


def _check(description: dict[str, Any], name: str) -> None:
    """Refuse what is no detector, and what would run other code than layers.

    ultralytics evaluates the activation as Python, and weights from elsewhere bring their
    description along.
    """
    try:
        layers = [*description["backbone"], *description["head"]]
        modules = [str(layer[2]) for layer in layers]
    except (KeyError, IndexError, TypeError):
        raise ConfigurationError(
            f"{name}: a model has a backbone and a head, each a list of [from, number, module, "
            "arguments]."
        ) from None
    if modules[-1] not in _HEADS:
        raise ConfigurationError(
            f"{name} ends in {modules[-1]}; take a model that ends in one of {', '.join(_HEADS)}."
        )
    activation = description.get("activation")
    if activation is not None and not _ACTIVATION.match(str(activation)):
        raise ConfigurationError(
            f"{name}: the activation {activation!r} is not of the form nn.SiLU()."
        )
    for module in modules:
        layer = getattr(tasks, module, None)
        plain = re.fullmatch(r"nn\.(Upsample|Identity|Conv2d|BatchNorm2d|MaxPool2d|ZeroPad2d|"
                             r"ConvTranspose2d|AvgPool2d|ReLU|SiLU)", module)  # fmt: skip
        own = isinstance(layer, type) and layer.__module__.startswith("ultralytics.nn.modules")
        if not plain and not own:
            raise ConfigurationError(f"{name}: there is no layer {module!r} in ultralytics.")


def with_stride_4(model: str | Mapping[str, Any]) -> dict[str, Any]:
    """Add a level of stride 4 to the description of a model whose finest stride is 8.

    As ultralytics did for its own variants ``-p2``: one more step of upsampling, joined with the
    backbone's features of that stride, and one more step down again.

    Parameters
    ----------
    model : str or mapping
        As for `load_description`.

    Returns
    -------
    dict
        A description; the same one where the model has a level of stride 4 already.

    Raises
    ------
    ConfigurationError
        Where the model is not a pyramid of the usual form (backbone, two steps up, two down).
    """
    description = load_description(model)
    backbone, head = description["backbone"], description["head"]
    levels = list(head[-1][0])
    finest = levels[0] - len(backbone)
    upward = [i for i, layer in enumerate(head) if layer[2] == "nn.Upsample"]
    if len(upward) + 1 == len(levels) == 4:
        return description
    place = _stride_4(backbone)
    block = head[finest] if 0 <= finest < len(head) else None
    usual = (
        len(upward) == 2
        and len(levels) == 3
        and place is not None
        and block is not None
        and upward[-1] < finest
        and block[3]
        and isinstance(block[3][0], int)
        and block[2] not in ("RepNCSPELAN4", "ELAN1")
    )
    if not usual or block is None:
        raise ConfigurationError(
            "Only pyramids of strides 8, 16 and 32 of the usual form can get a level of stride 4; "
            "take yolov8, yolo11, yolo12 or yolo26, or a description that has one."
        )
    half = block[3][0] // 2
    fine = [block[2], [half, *block[3][1:]]]
    if block[2] == "A2C2f":  # of which the narrowest models' finest level would be too narrow
        fine = ["C3k2", [half, False]]
    joined = levels[0]
    added = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, place], 1, "Concat", [1]],
        [-1, block[1], *fine],
        [-1, 1, "Conv", [half, 3, 2]],
        [[-1, joined], 1, "Concat", [1]],
        [-1, block[1], block[2], list(block[3])],
    ]

    def moved(source: int) -> int:
        return source + len(added) if source >= joined else source

    tail = []
    for sources, number, module, arguments in head[finest + 1 :]:
        new = moved(sources) if isinstance(sources, int) else [moved(s) for s in sources]
        tail.append([new, number, module, arguments])
    tail[-1][0] = [joined + 3, *tail[-1][0]]
    description["head"] = [*head[: finest + 1], *added, *tail]
    return description


def _stride_4(backbone: list[Any]) -> int | None:
    """Position of the backbone's last layer before its third step of 2, or None."""
    steps = 0
    for position, (_, _, _, arguments) in enumerate(backbone):
        # of the layers' third arguments only a convolution's step is an integer 2
        if len(arguments) >= 3 and type(arguments[2]) is int and arguments[2] == 2:
            steps += 1
            if steps == 3:
                return position - 1
    return None
