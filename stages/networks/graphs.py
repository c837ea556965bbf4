"""ONNX graphs beside files of weights, and detectors run by ONNX Runtime, without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.heads.dense_selection import select_dense
from cyclades.stages.networks.selection import Found, select_proposals, select_regions
from cyclades.stages.networks.specification import NetworkSpec

GRAPH_KEY = "cyclades.graph"
NAMES_MARK = b"cyclades.open "
PREFIX = "detector."
"""Before a tensor's name in the file of weights, in the names of the graphs."""
FIRST_GRAPHS = ("dense", "propose")
REGION_GRAPH = "measure"
"""The graph of a region head."""
CELLS_GRAPH = "cells"
"""The graph of a dense head that gives the features of cells as well."""
CELL = 16
"""Side in pixels of the cells that the features are averaged in for a background."""
MOST_CALLERS = 4
"""Threads that use a network at a time, at most: each holds the features of a batch of tiles."""


def graph_file(weights: Path, graph: str) -> Path:
    """Where a graph of a detector lies: beside its weights."""
    return weights.with_name(f"{weights.stem}.{graph}.onnx")


def has_graphs(weights: Path, *, cells: bool = False) -> bool:
    """Whether a detector was exported; with `cells`, so that it gives the features of cells."""
    if cells:
        return graph_file(weights, CELLS_GRAPH).is_file()
    return any(graph_file(weights, name).is_file() for name in FIRST_GRAPHS)


def read_tensors(weights: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a file of weights, for `open_graph`.

    Raises
    ------
    ConfigurationError
        Where onnxruntime or safetensors is not installed.
    InputError
        Where the file is damaged.
    """
    try:
        import onnxruntime  # noqa: F401
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Running networks without torch needs the package {error.name!r}; install "
            "cyclades[onnx] (or cyclades[learned] for torch)."
        ) from error
    try:
        state: dict[str, NDArray[Any]] = load_file(weights)
    except SafetensorError as error:
        raise InputError(f"{weights}: a damaged file of weights; get it anew.") from error
    return state


def open_graph(weights: Path, graph: str, state: dict[str, NDArray[Any]], threads: int) -> Any:
    """Load a graph on the CPU and give it its weights.

    Parameters
    ----------
    weights : path
        The graph lies beside it.
    graph : str
    state : dict
        Of `read_tensors`.
    threads : int

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    InputError
        Where the graph is missing, damaged, or of other weights.
    """
    import onnxruntime

    path = graph_file(weights, graph)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; export {weights.name} anew.")
    data = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait for the next layer would burn a third of the time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # The runtime refuses tensors that a graph does not leave open, and can tell which these
    # are only after loading it; so the exporter wrote their names between two marks.
    parts = data.split(NAMES_MARK)
    names = parts[1].decode().split() if len(parts) == 3 else ["?"]
    if not set(names) <= state.keys():
        raise InputError(
            f"{path}: is damaged, or does not belong to {weights.name}; export it anew."
        )
    values = [np.ascontiguousarray(state[name], np.float32) for name in names]
    options.add_external_initializers(
        [f"{PREFIX}{name}" for name in names],
        [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in values],
    )
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, by kind of damage
        raise InputError(
            f"{path}: cannot be loaded (it is damaged, or does not belong to "
            f"{weights.name}); export it anew."
        ) from error


class GraphDetector:
    """A detector whose parts are ONNX graphs.

    Parameters
    ----------
    weights : path
        Its safetensors file, with the graphs beside it.
    threads : int
        In all. Several tiles, a thread each, are faster than several threads on one, and take
        more memory: up to `MOST_CALLERS` may be detected in at a time.
    cells : bool
        Whether what is found comes with the features of cells; dense heads alone have them.

    Attributes
    ----------
    spec : NetworkSpec
    size : int or None
        Side of the only tiles that the graphs take; None where they take any.
    stride : int
        Sides of tiles are multiples of this.
    whole : bool
        Tiles are all of one size, those at the image's edges too.
    callers : int
        Threads that may call `detect` at a time.
    worth_preparing : None
        It is ready as it is.

    Raises
    ------
    ConfigurationError
        Where onnxruntime or safetensors is not installed.
    InputError
        Where a graph is missing or damaged.
    """

    def __init__(self, weights: Path, threads: int = 1, *, cells: bool = False) -> None:
        from cyclades.stages.networks.weights import read_metadata

        state = read_tensors(weights)
        self.spec = NetworkSpec.from_metadata(read_metadata(weights), weights)
        self.callers = min(threads, MOST_CALLERS)
        self.worth_preparing = None
        each = threads // self.callers
        graphs = (CELLS_GRAPH,) if cells else FIRST_GRAPHS
        first = next((g for g in graphs if graph_file(weights, g).is_file()), None)
        if first is None:
            raise InputError(
                f"{weights}: its ONNX graphs are missing; export it with cyclades export"
                f"{' --cells' if cells else ''}, or "
                "install cyclades[learned] to run it with torch."
            )
        self._first = open_graph(weights, first, state, each)
        about = json.loads(self._first.get_modelmeta().custom_metadata_map[GRAPH_KEY])
        self.size: int | None = about["size"]
        self.stride: int = about.get("stride", 32)
        self.whole = self.size is not None
        self._rules: dict[str, Any] = about["rules"]
        self._cells = cells
        self._classify = self._segment = None
        if first == "propose":
            self._classify = open_graph(weights, "classify", state, each)
            if graph_file(weights, "segment").is_file():
                self._segment = open_graph(weights, "segment", state, each)

    def prepare(self, shape: tuple[int, int]) -> None:
        """Do nothing; see `cyclades.stages.networks.runtime.TorchDetector.prepare`."""

    def detect(self, channels: NDArray[np.float32]) -> list[Found]:
        """Detections of tiles, with raw scores.

        Parameters
        ----------
        channels : ndarray, shape (b, channels, h, w), float32
        """
        outputs = self._first.run(None, {"images": channels})
        if self._cells:
            *outputs, cells = outputs
            found = select_dense(outputs, **self._rules)
            return [one._replace(cells=own) for one, own in zip(found, cells, strict=True)]
        if self._classify is None:
            return select_dense(outputs, **self._rules)
        boxes, objectness, finest = outputs
        rules = self._rules
        classify: Any = self._classify
        segment: Any = self._segment

        def classified(rois: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
            found: list[NDArray[np.float32]] = classify.run(None, {"finest": finest, "rois": rois})
            return found

        def segmented(rois: NDArray[np.float32], kinds: NDArray[np.int64]) -> NDArray[np.float32]:
            masks = segment.run(None, {"finest": finest, "rois": rois})[0]
            return np.asarray(masks[np.arange(len(kinds)), kinds])

        rois = select_proposals(
            boxes, objectness, rules["numbers"], rules["proposal_overlap"], rules["proposals"]
        )
        return select_regions(
            rois,
            len(boxes),
            classified,
            segmented if segment is not None else None,
            (channels.shape[-2], channels.shape[-1]),
            rules["floor"],
            rules["overlap"],
        )
