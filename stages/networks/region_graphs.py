"""Region heads run by ONNX Runtime, on the CPU, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.graphs import REGION_GRAPH, open_graph, read_tensors
from cyclades.stages.networks.region_answers import Plane, Said
from cyclades.stages.networks.region_spec import RegionSpec

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage


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
        self._graph = open_graph(weights, REGION_GRAPH, read_tensors(weights), threads)

    def regions(self, image: "SkyImage", centre: Floats) -> Plane | None:
        """None: heads that see features of a backbone are not exported."""
        return None

    def say(
        self, fine: Plane, coarse: Plane, numbers: Plane, region: Plane | None = None
    ) -> list[Said]:
        """See `cyclades.stages.networks.region_answers.Heads`."""
        made = self._graph.run(None, {"fine": fine, "coarse": coarse, "numbers": numbers})
        return [Said(*one) for one in zip(*made, strict=True)]
