"""Export of a detector or region head to ONNX graphs whose weights stay in the safetensors file.

A graph is some hundred kilobytes; its weights are read from the detector's own file when it is
loaded, so that they are kept once and both runtimes compute with the same numbers. A YOLO network
is one graph, a Mask R-CNN three: regions, their classes and boxes, their masks. What lies between
(`cyclades.stages.networks.selection`) is the same code for torch.

Graphs of YOLO networks on convolutional backbones take images of any size. Those of Mask R-CNNs,
whose numbers of proposals are by the tile, of vision transformers, whose position embeddings are
resampled, and of whole networks take one size.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.detector import Detector, cell_features
from cyclades.stages.networks.graphs import (
    CELLS_GRAPH,
    GRAPH_KEY,
    NAMES_MARK,
    PREFIX,
    REGION_GRAPH,
    graph_file,
)
from cyclades.stages.networks.heads.dense import DenseHead
from cyclades.stages.networks.heads.rcnn import RcnnHead
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.region_cells import REGION
from cyclades.stages.networks.region_head import RegionNetwork
from cyclades.stages.networks.region_windows import NUMBERS, SAMPLES

_SIZE = 512
"""Side of the tiles that graphs of any size are traced with."""
_LARGE = 16
"""Tensors of more numbers are left to the file of weights."""


class _Dense(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = self.detector.head.dense(self.detector.features(images))
        return made


class _Cells(_Dense):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.detector.features(images)
        return (*self.detector.head.dense(features), cell_features(features))


class _Propose(_Dense):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.detector.features(images)
        head: RcnnHead = self.detector.head
        size = (images.shape[-2], images.shape[-1])
        return (*head.propose(features, size), features[head.strides[0]])


class _Classify(_Dense):
    def forward(self, finest: Tensor, rois: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        scores, boxes = self.detector.head.classify(finest, rois)
        return scores, boxes


class _Segment(_Dense):
    def forward(self, finest: Tensor, rois: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.detector.head.segment(finest, rois),)


class _Measure(nn.Module):
    def __init__(self, network: RegionNetwork) -> None:
        super().__init__()
        self.detector = network  # the attribute is the `PREFIX` of the names

    def forward(
        self, fine: Tensor, coarse: Tensor, numbers: Tensor, region: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        said = self.detector(fine, coarse, numbers, region)
        return tuple(torch.stack(part) for part in zip(*said, strict=True))


def export_region_head(network: RegionNetwork, weights: Path) -> list[Path]:
    """Write the graph of all heads of a region network beside its file of weights.

    Parameters
    ----------
    network : RegionNetwork
        In evaluation mode, on the CPU.
    weights : path
        The file that `save_region_network` wrote.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        Where the package onnx is missing.
    """
    window = torch.zeros(3, 2, SAMPLES, SAMPLES)
    # both windows in use, so that no operation is without effect on the example
    window[:, 0, 8:16, 8:16] = 1.0
    inputs: tuple[Tensor, ...] = (window, window.clone(), torch.zeros(3, NUMBERS))
    names: tuple[str, ...] = ("fine", "coarse", "numbers")
    trunk = network.spec.trunk
    if trunk is not None:
        inputs += (torch.zeros(3, network.spec.members * trunk.few, REGION, REGION),)
        names += ("region",)
    about = {"kind": "region", "members": network.spec.members}
    return [_export(_Measure(network), inputs, names, weights, REGION_GRAPH, about)]


def export_detector(
    detector: Detector, weights: Path, size: int | None = None, *, cells: bool = False
) -> list[Path]:
    """Write the graphs of a detector beside its file of weights.

    Parameters
    ----------
    detector : Detector
        In evaluation mode, on the CPU.
    weights : path
        The file that `save_detector` wrote; the graphs are named after it.
    size : int, optional
        Side of the tiles that the graphs take; by default any where the network allows it, and
        otherwise that of the head's tiles.
    cells : bool
        Write the graph of a dense head that gives the features of cells as well, instead.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        Where the package onnx is missing.
    ConfigurationError
        Where the size is no multiple of the network's largest stride, or its head is of a kind
        that is not exported.
    """
    head, stride = detector.head, detector.largest_stride
    if size is None and not detector.takes_any_size:
        size = find_head(detector.spec.head.name).tile
    if size is not None and (size < stride or size % stride):
        raise ConfigurationError(
            f"Tiles of this network are multiples of {stride} pixels, not {size}; change --tile."
        )
    side, channels = size or _SIZE, detector.spec.input.channels
    images = torch.zeros(2, channels, side, side)
    if not isinstance(head, (RcnnHead, DenseHead)):
        raise ConfigurationError(
            f"Networks with the head {detector.spec.head.name} are run by torch alone; there is no "
            "ONNX export of them."
        )
    if isinstance(head, DenseHead):
        rules: dict[str, Any] = {
            "floor": head.options.score_floor,
            "overlap": head.options.overlap,
            "candidates": head.options.candidates,
            "most": head.options.detections,
            "prototype_stride": head.prototype_stride,
        }
        about = {"size": size, "stride": stride, "kind": "dense", "rules": rules}
        shapes = None
        if size is None:
            # unequal sides, so that the exporter does not take them for one
            images = torch.zeros(2, channels, side, side - stride)
            sides = [
                stride * torch.export.Dim(name, min=2, max=256) for name in ("rows", "columns")
            ]
            shapes = ({0: torch.export.Dim.AUTO, 2: sides[0], 3: sides[1]},)
        module = _Cells(detector) if cells else _Dense(detector)
        graph = CELLS_GRAPH if cells else "dense"
        return [_export(module, (images,), ("images",), weights, graph, about, shapes)]
    if cells:
        raise ConfigurationError(
            f"Networks with the head {detector.spec.head.name} give the features of cells by torch "
            "alone; export a YOLO network."
        )
    o = head.options
    rules = {
        "numbers": head.level_numbers((side, side)),
        "proposal_overlap": o.proposal_overlap,
        "proposals": o.proposals,
        "floor": o.score_floor,
        "overlap": o.overlap,
    }
    about = {"size": size, "stride": stride, "kind": "regions", "rules": rules}
    finest = torch.zeros(2, detector.spec.backbone.channels if detector.spec.backbone else 1,
                         side // head.strides[0], side // head.strides[0])  # fmt: skip
    rois = torch.tensor([[0.0, 10.0, 10.0, 30.0, 30.0]] * 3)
    names = ("finest", "rois")
    files = [_export(_Propose(detector), (images,), ("images",), weights, "propose", about)]
    files.append(_export(_Classify(detector), (finest, rois), names, weights, "classify", about))
    if head.has_masks:
        files.append(_export(_Segment(detector), (finest, rois), names, weights, "segment", about))
    return files


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...],
    weights: Path,
    graph: str,
    about: dict[str, Any],
    shapes: tuple[dict[int, Any], ...] | None = None,
) -> Path:
    try:
        import onnx
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise InputError(
            "Exporting to ONNX needs the packages onnx and onnxscript; install cyclades[learned]."
        ) from error
    number = torch.export.Dim.AUTO
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(names),
            dynamic_shapes=shapes or tuple({0: number} for _ in inputs),
        )
    assert program is not None
    model = program.model_proto
    _drop_zero_biases(model)
    optimizer.remove_unused_nodes(model)
    state = module.state_dict()
    left_out = []
    for tensor in model.graph.initializer:
        value = state.get(tensor.name)
        if value is None or value.numel() <= _LARGE:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        name = tensor.name.removeprefix(PREFIX)
        entry.key, entry.value = "location", name
        left_out.append(name)
    entry = model.metadata_props.add()
    entry.key, entry.value = GRAPH_KEY, json.dumps(about)
    entry = model.metadata_props.add()
    mark = NAMES_MARK.decode()
    entry.key, entry.value = "cyclades.weights", f"{mark}{' '.join(left_out)} {mark}"
    # traces of the exporter's own, with the paths of the machine
    model.graph.ClearField("metadata_props")
    for entries in (
        model.graph.node,
        model.graph.value_info,
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
    ):
        for item in entries:
            for field in ("doc_string", "metadata_props"):
                item.ClearField(field)
    path = graph_file(weights, graph)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, path)
    return path


def _drop_zero_biases(model: Any) -> None:
    """Take out the zeros that the exporter gives to convolutions without a bias.

    They are computed in the graph, and keep ONNX Runtime from joining such a convolution with the
    batch normalisation behind it, which costs half as much time again.
    """
    maker = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3:
            made_by = maker.get(node.input[2])
            if made_by is not None and made_by.op_type == "Expand":
                del node.input[2]
