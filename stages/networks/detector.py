"""A whole detector: backbone and head by specification, kept in one safetensors file.

A trunk that was frozen at weights of the table (`cyclades.stages.networks.weights`) need not be in
the file: the specification then names the weights with the hash of their tensors, and they join the
rest when the detector is loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.backbones import (
    Backbone,
    ConvolutionalBackbone,
    build_backbone,
)
from cyclades.stages.networks.graphs import CELL
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.pretrained import load_trunk, write_tensors
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.targets import Prediction, Targets

TRUNK = "backbone.trunk."
"""Before the names of the trunk's tensors."""


class Detector(nn.Module):
    """A network that finds objects in normalised images.

    Parameters
    ----------
    spec : NetworkSpec
        The parts; they start from random numbers.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        channels_in, classes = spec.input.channels, len(spec.classes)
        self.backbone: Backbone | None = None
        strides: tuple[int, ...] = ()
        channels = channels_in
        if spec.backbone is not None:
            self.backbone = build_backbone(spec.backbone, channels_in)
            strides, channels = spec.backbone.strides, spec.backbone.channels
        self.head: Any = find_head(spec.head.name).load()(spec.head, strides, channels, classes)
        # some heads find out more about themselves than they were told
        described = getattr(self.head, "spec", spec.head)
        self.spec = spec.model_copy(update={"head": described})

    @property
    def largest_stride(self) -> int:
        """Sides of the images are multiples of this."""
        if self.spec.backbone is None:
            return int(self.head.largest_stride)
        return max(self.spec.backbone.strides)

    @property
    def takes_any_size(self) -> bool:
        """Whether images of any size are treated alike, and exported graphs take them.

        R-CNN heads propose a given number of regions an image, vision transformers resample
        their position embeddings to its size, and whole networks may do either.
        """
        convolutional = isinstance(self.backbone, ConvolutionalBackbone)
        return convolutional and find_head(self.spec.head.name).any_size

    def features(self, images: Tensor) -> Any:
        """What the head takes: features by stride, or the images themselves."""
        return images if self.backbone is None else self.backbone(images)

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Terms of the loss, to be summed.

        Parameters
        ----------
        images : Tensor, shape (b, channels, h, w)
        targets : list of Targets, length b
        """
        size = (images.shape[-2], images.shape[-1])
        found: dict[str, Tensor] = self.head.losses(self.features(images), targets, size)
        return found

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections of each image, with raw scores; the network must be in evaluation mode."""
        size = (images.shape[-2], images.shape[-1])
        found: list[Prediction] = self.head.predict(self.features(images), size)
        return found

    @torch.no_grad()
    def predict_with_cells(self, images: Tensor) -> tuple[list[Prediction], Tensor]:
        """Detections of each image, and `cell_features` of the same pass of the backbone."""
        size = (images.shape[-2], images.shape[-1])
        features = self.features(images)
        found: list[Prediction] = self.head.predict(features, size)
        return found, cell_features(features)


def cell_features(features: dict[int, Tensor]) -> Tensor:
    """Means of the features of every level in cells of `CELL` pixels.

    Parameters
    ----------
    features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)

    Returns
    -------
    Tensor, shape (b, levels * channels, h / CELL, w / CELL)
        Levels from the finest on; of coarser ones than the cells, each value several times.
    """
    parts = []
    for stride, level in sorted(features.items()):
        if stride <= CELL:
            parts.append(functional.avg_pool2d(level, CELL // stride))
        else:
            times = stride // CELL
            parts.append(level.repeat_interleave(times, -1).repeat_interleave(times, -2))
    return torch.cat(parts, 1)


def save_detector(detector: Detector, path: Path, *, half: bool = False) -> None:
    """Write weights and specification to one file; it appears whole or not at all.

    Parameters
    ----------
    detector : Detector
    path : path
        ``*.safetensors``.
    half : bool
        Round to 16-bit floats, for shipping.

    Raises
    ------
    InputError
        Where the file cannot be written, or the trunk is not that of the weights that the
        specification names.
    """
    apart = detector.spec.trunk is not None
    if apart:
        _check_trunk(detector)
    state = {
        name: value
        for name, value in detector.state_dict().items()
        if not (apart and name.startswith(TRUNK))
    }
    write_tensors(state, path, detector.spec.metadata(), half=half)


def _check_trunk(detector: Detector) -> None:
    """Refuse a trunk that differs from the weights that the specification names."""
    spec, backbone = detector.spec, detector.backbone
    assert spec.trunk is not None
    assert spec.backbone is not None
    assert backbone is not None
    wanted = build_backbone(spec.backbone, backbone.in_channels)
    load_trunk(wanted, spec.trunk.weights, spec.trunk.sha256)
    for name, value in wanted.trunk.state_dict().items():
        if not torch.equal(backbone.trunk.state_dict()[name].cpu(), value):
            raise InputError(
                f"The trunk of {spec.name} differs from the weights {spec.trunk.weights} (first at "
                f"{name}), so it cannot be left out of the file; save it with a specification "
                "without trunk."
            )


def load_detector(path: "str | Path", device: str = "cpu") -> Detector:
    """Read a detector that `save_detector` wrote, in evaluation mode.

    Raises
    ------
    InputError
        Where the file is missing, damaged, of another kind, or does not fit its description; where
        the weights that its trunk is left to are not there, or others.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such file of weights.")
    try:
        with safe_open(file, "pt", device="cpu") as opened:
            spec = NetworkSpec.from_metadata(opened.metadata(), path)
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a safetensors file, or damaged; cyclades reads no other kind of weights, "
            "since pickled ones (.pt, .pth) can run any code."
        ) from error
    detector = Detector(spec)
    if spec.trunk is not None and detector.backbone is not None:
        load_trunk(detector.backbone, spec.trunk.weights, spec.trunk.sha256)
        trunk = detector.backbone.trunk.state_dict()
        state |= {f"{TRUNK}{name}": value for name, value in trunk.items()}
    load_state(detector, state, path)
    return detector.to(device).eval()


def load_state(detector: nn.Module, state: Mapping[str, Tensor], path: "str | Path") -> None:
    """Fill a network from a state that must fit it exactly."""
    own = detector.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    wrong = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra or wrong:
        name = min([*missing, *extra, *wrong])
        raise InputError(
            f"{path}: the weights do not fit the network they describe (first at {name}); the file "
            "comes from another version, write it anew with cyclades train."
        )
    detector.load_state_dict({name: state[name].to(own[name].dtype) for name in own})
