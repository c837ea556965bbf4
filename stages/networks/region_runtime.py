"""Region heads run by torch, on the CPU or a GPU."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.region_head import (
    RegionNetwork,
    load_region_network,
    triangular,
)
from cyclades.stages.networks.region_results import Calibration, mixture
from cyclades.stages.networks.region_trunk import RegionFeatures
from cyclades.stages.networks.region_windows import Windows

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

NOISE = (-0.1, 0.8)
"""Sizes of the noise's autocorrelation of the training; see `noise_size`."""
SETTLED = (0.26, 1.1)
"""Logarithms of the misfit over the noise between which positions go over from those of the
adaptive moments to those of the network."""
BATCH = 1024
"""Rows at a time: some ten megabytes on the CPU."""
ORIENTATIONS = (0, 7, 1, 6, 2, 5, 3, 4)
"""Mirrored along u (1), along v (2), axes swapped (4); near ones in this order differ most."""


class RegionMeasurer:
    """A region network on a device.

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

    def __init__(self, weights: Path, device: str = "cpu", threads: int = 1) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(
                f"There is no GPU for the device {device!r} (or torch was installed without one); "
                "use --device cpu."
            )
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.network = load_region_network(weights, device)
        self.spec = self.network.spec
        self.calibration = Calibration.from_mapping(self.spec.calibration)
        self._features: RegionFeatures | None = None
        if self.spec.trunk is not None:
            self._features = RegionFeatures(self.spec.trunk, device)

    def measure(
        self, image: "SkyImage", windows: Windows, orientations: int = 1
    ) -> tuple[Floats, Floats]:
        """Measure sources.

        Parameters
        ----------
        image : SkyImage
            Which the windows are of; looked at by heads that see features of a backbone.
        windows : Windows
        orientations : int
            1 to 8 of the ways to turn and mirror the windows, over which the answers are averaged.

        Returns
        -------
        mean : ndarray, shape (n, 7)
            See `cyclades.stages.networks.region_head.RegionHead.forward`.
        covariance : ndarray, shape (n, 7, 7)
            Calibrated.
        """
        region = None if self._features is None else self._features(image, windows.centre)
        parts = []
        for first in range(0, len(windows.scale), BATCH):
            some = slice(first, first + BATCH)
            around = None if region is None else region[some]
            parts.append(self._some(windows.take(some), around, orientations))
        if not parts:
            return np.zeros((0, 7)), np.zeros((0, 7, 7))
        mean, covariance, misfit = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self.calibration.apply(mean, covariance, windows.scale, misfit)

    def _some(
        self, windows: Windows, region: Tensor | None, orientations: int
    ) -> tuple[Floats, Floats, Floats]:
        fine, coarse, numbers = (
            torch.as_tensor(part, dtype=torch.float32, device=self.device)
            for part in (windows.fine, windows.coarse, self._numbers(windows))
        )
        return answers(self.network, fine, coarse, numbers, region, orientations)

    def _numbers(self, windows: Windows) -> NDArray[np.float32]:
        """Numbers of the windows, no further than the training went."""
        numbers = windows.numbers.copy()
        numbers[:, 0] = np.minimum(numbers[:, 0], np.log(self.spec.snr[1]))
        numbers[:, 1] = np.clip(numbers[:, 1], *NOISE)
        return numbers


@torch.inference_mode()
def answers(
    network: RegionNetwork,
    fine: Tensor,
    coarse: Tensor,
    numbers: Tensor,
    region: Tensor | None = None,
    orientations: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """What the heads of a network say together: mean and covariance of their mixture.

    Parameters
    ----------
    network : RegionNetwork
    fine, coarse, numbers : Tensor
        See `cyclades.stages.networks.region_windows.Windows`.
    region : Tensor, optional
        Features of a backbone, for heads that see them.
    orientations : int
        In how many orientations each sees the windows. The spread of the answers is that of the
        network's own errors, of which the mean has less.

    Returns
    -------
    mean : ndarray, shape (n, 7)
    covariance : ndarray, shape (n, 7, 7)
        Not calibrated.
    misfit : ndarray, shape (n,)
        Of the Gaussian that each source looks like, over the scale.
    """
    means, covariances = [], []
    for orientation in ORIENTATIONS[:orientations]:
        turn = turning(orientation)
        views = [oriented(window, orientation) for window in (fine, coarse)]
        seen = turned_numbers(numbers, orientation)
        around = None if region is None else oriented(region, orientation)
        for head in network.heads:
            mean, factor, units = head(*views, seen, around)
            inverse = np.linalg.inv(triangular(factor).cpu().numpy().astype(float))
            inverse *= units.cpu().numpy().astype(float)[:, :, None]
            mean[:, 1:3] = settled(mean[:, 1:3], seen, units[:, 0])
            means.append(mean.cpu().numpy().astype(float) @ turn.T)
            covariances.append(turn @ (inverse @ np.swapaxes(inverse, 1, 2)) @ turn.T)
    misfit = units[:, 0].cpu().numpy().astype(float)
    if len(means) == 1:
        return means[0], covariances[0], misfit
    return *mixture(np.stack(means), np.stack(covariances)), misfit


def settled(offset: Tensor, numbers: Tensor, misfit: Tensor) -> Tensor:
    """Offsets, taken from the adaptive moments where a Gaussian fits the window to the noise.

    Those are nearly as good as the noise allows there, and the network adds its own scatter.

    Parameters
    ----------
    offset : Tensor, shape (n, 2)
        Of the network.
    numbers : Tensor, shape (n, NUMBERS)
        Of the windows.
    misfit : Tensor, shape (n,)
        Over the scale.
    """
    low, high = SETTLED
    place = (misfit.log() + numbers[:, 0] - low) / (high - low)
    share = place.clamp(0.0, 1.0)[:, None]
    return share * offset + (1.0 - share) * numbers[:, 3:5]


def turned_numbers(numbers: Tensor, orientation: int) -> Tensor:
    """Numbers of windows in another orientation: those of the Gaussians turn."""
    parts = [numbers[:, :2]]
    for first in range(2, numbers.shape[1], 6):
        part = numbers[:, first : first + 6].clone()
        if orientation & 1:
            part[:, [1, 4]] *= -1.0
        if orientation & 2:
            part[:, [2, 4]] *= -1.0
        parts.append(part[:, [0, 2, 1, 5, 4, 3]] if orientation & 4 else part)
    return torch.cat(parts, 1)


def oriented(window: torch.Tensor, orientation: int) -> torch.Tensor:
    """Windows in one of the eight orientations of a square; see `ORIENTATIONS`."""
    if orientation & 1:
        window = window.flip(-1)
    if orientation & 2:
        window = window.flip(-2)
    return window.transpose(-1, -2) if orientation & 4 else window


def turning(orientation: int) -> Floats:
    """Matrix (7, 7) that turns measurements made in an orientation back."""
    turn = np.eye(7)
    if orientation & 1:
        turn[[1, 4], [1, 4]] *= -1.0
    if orientation & 2:
        turn[[2, 4], [2, 4]] *= -1.0
    # the axes were swapped last, so they are swapped back first
    return turn[:, [0, 2, 1, 5, 4, 3, 6]] if orientation & 4 else turn
