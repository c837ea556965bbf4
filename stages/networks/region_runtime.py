"""Region heads run by torch, on the CPU or a GPU."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.region_answers import Plane, Said
from cyclades.stages.networks.region_head import RegionNetwork, load_region_network
from cyclades.stages.networks.region_trunk import RegionFeatures
from cyclades.stages.networks.torch_device import torch_device

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage


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
        self._features: RegionFeatures | None = None

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
        made = cls(load_region_network(weights, device), device)
        if made.spec.trunk is not None:
            made._features = RegionFeatures(made.spec.trunk, device)
        return made

    def regions(self, image: "SkyImage", centre: Floats) -> Plane | None:
        """See `cyclades.stages.networks.region_answers.Heads`."""
        if self._features is None:
            return None
        made: Plane = self._features(image, centre).cpu().numpy()
        return made

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
        return [Said(*(part.cpu().numpy() for part in head(*given))) for head in self.network.heads]
