"""Region heads run by ONNX Runtime, on the CPU, without torch."""

from pathlib import Path

from cyclades.stages.networks.graphs import REGION_GRAPH, open_graph, read_tensors
from cyclades.stages.networks.region_answers import Plane, Said
from cyclades.stages.networks.region_cells import Projection
from cyclades.stages.networks.region_spec import RegionSpec


class GraphHeads:
    """Heads of an exported file of weights; see `cyclades.stages.networks.region_answers.Heads`.

    Parameters
    ----------
    weights : path
        Its safetensors file, with the graph beside it.
    threads : int

    Raises
    ------
    ConfigurationError
        Where onnxruntime or safetensors is not installed.
    InputError
        Where the graph is missing or damaged.
    """

    def __init__(self, weights: Path, threads: int = 1) -> None:
        self.spec = RegionSpec.from_file(weights)
        state = read_tensors(weights)
        self.projection = Projection.of(state, self.spec)
        self._graph = open_graph(weights, REGION_GRAPH, state, threads)

    def say(
        self, fine: Plane, coarse: Plane, numbers: Plane, region: Plane | None = None
    ) -> list[Said]:
        """See `cyclades.stages.networks.region_answers.Heads`."""
        given = {"fine": fine, "coarse": coarse, "numbers": numbers}
        made = self._graph.run(None, given if region is None else {**given, "region": region})
        return [Said(*one) for one in zip(*made, strict=True)]
