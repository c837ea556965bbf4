"""Region heads run by torch, on the CPU or a GPU."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cyclades.stages.networks.region_answers import Said
from cyclades.stages.networks.region_cells import Projection
from cyclades.stages.networks.region_head import RegionNetwork, load_region_network
from cyclades.stages.networks.torch_device import torch_device


class TorchHeads:
    """Heads on a device; see `cyclades.stages.networks.region_answers.Heads`.

    Parameters
    ----------
    network : RegionNetwork
        In evaluation mode, on the device.
    device : str
    """

    def __init__(self, network: RegionNetwork, device: str = "cpu") -> None:
        self.network, self.spec = network, network.spec
        self.device = torch.device(device)
        state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
        self.projection = Projection.of(state, network.spec)

    @classmethod
    def load(cls, weights: Path, device: str = "cpu", threads: int = 1) -> "TorchHeads":
        """Read a file of weights.

        Parameters
        ----------
        weights : path
        device : str
        threads : int
            On the CPU.

        Raises
        ------
        InputError
            Where the device is not there, or the weights cannot be read.
        """
        torch_device(device)
        torch.set_num_threads(threads)
        return cls(load_region_network(weights, device), device)

    @torch.inference_mode()
    def say(
        self,
        fine: NDArray[np.float32],
        coarse: NDArray[np.float32],
        numbers: NDArray[np.float32],
        region: NDArray[np.float32] | None = None,
    ) -> list[Said]:
        """See `cyclades.stages.networks.region_answers.Heads`."""
        given = [
            None if part is None else torch.from_numpy(part).to(self.device)
            for part in (fine, coarse, numbers, region)
        ]
        return [Said(*(part.cpu().numpy() for part in said)) for said in self.network(*given)]
