"""What the heads of a region network say of a source, put together. Nothing here needs torch.

Heads are run by torch (`cyclades.stages.networks.region_runtime`) or ONNX Runtime
(`cyclades.stages.networks.region_graphs`); orientations, mixtures and calibration are the same.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.region_cells import Projection
from cyclades.stages.networks.region_results import Calibration, mixture
from cyclades.stages.networks.region_spec import OUTPUTS, RegionSpec
from cyclades.stages.networks.region_windows import Windows

NOISE = (-0.1, 0.8)
"""Sizes of the noise's autocorrelation of the training; see `noise_size`."""
SETTLED = (0.26, 1.1)
"""Logarithms of the misfit over the noise between which positions go over from those of the
adaptive moments to those of the network."""
BATCH = 1024
"""Rows at a time: some ten megabytes on the CPU."""
ORIENTATIONS = (0, 7, 1, 6, 2, 5, 3, 4)
"""Mirrored along u (1), along v (2), axes swapped (4); near ones in this order differ most."""
STEEPEST = 6.0
"""Logarithms of the diagonal of a triangular factor are held within this."""

Plane = NDArray[np.float32]
Kind = TypeVar("Kind", bound=np.generic)


class Said(NamedTuple):
    """What one head says of n sources; see `cyclades.stages.networks.region_head.RegionHead`.

    Parameters
    ----------
    mean : ndarray, shape (n, 7)
    factor : ndarray, shape (n, 28)
    units : ndarray, shape (n, 7)
    """

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    units: NDArray[np.float32]


class Heads(Protocol):
    """Heads of a region network, whatever runs them.

    Attributes
    ----------
    spec : RegionSpec
    projection : Projection or None
        Of the features of a backbone's cells, for heads that see them.
    """

    spec: RegionSpec
    projection: Projection | None

    def say(
        self, fine: Plane, coarse: Plane, numbers: Plane, region: Plane | None = None
    ) -> list[Said]:
        """What each head says of windows; see `cyclades.stages.networks.region_windows.Windows`."""


class RegionMeasurer:
    """The heads of a file of weights, and their calibration.

    Parameters
    ----------
    heads : Heads
    """

    def __init__(self, heads: Heads) -> None:
        self.heads, self.spec = heads, heads.spec
        self.calibration = Calibration.from_mapping(self.spec.calibration)

    def measure(
        self, windows: Windows, region: Plane | None = None, orientations: int = 1
    ) -> tuple[Floats, Floats]:
        """Measure sources.

        Parameters
        ----------
        windows : Windows
        region : ndarray, shape (n, few, REGION, REGION), optional
            Projected features of a backbone around them, for heads that see such.
        orientations : int
            1 to 8 of the ways to turn and mirror the windows, over which the answers are averaged.

        Returns
        -------
        mean : ndarray, shape (n, 7)
            See `cyclades.stages.networks.region_head.RegionHead.forward`.
        covariance : ndarray, shape (n, 7, 7)
            Calibrated.
        """
        if not len(windows.scale):
            return np.zeros((0, OUTPUTS)), np.zeros((0, OUTPUTS, OUTPUTS))
        parts = []
        for first in range(0, len(windows.scale), BATCH):
            some = slice(first, first + BATCH)
            mine = windows.take(some)
            around = None if region is None else region[some]
            parts.append(
                answers(
                    self.heads, mine.fine, mine.coarse, self._numbers(mine), around, orientations
                )
            )
        mean, covariance, misfit = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self.calibration.apply(mean, covariance, windows.scale, misfit)

    def _numbers(self, windows: Windows) -> Plane:
        """Numbers of the windows, no further than the training went."""
        numbers = windows.numbers.copy()
        numbers[:, 0] = np.minimum(numbers[:, 0], np.log(self.spec.snr[1]))
        numbers[:, 1] = np.clip(numbers[:, 1], *NOISE)
        return numbers


def answers(
    heads: Heads,
    fine: Plane,
    coarse: Plane,
    numbers: Plane,
    region: Plane | None = None,
    orientations: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """What heads say together: mean and covariance of their mixture.

    Parameters
    ----------
    heads : Heads
    fine, coarse, numbers : ndarray, float32
        See `cyclades.stages.networks.region_windows.Windows`.
    region : ndarray, optional
        Projected features of a backbone, for heads that see them.
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
    misfit: Floats = np.zeros(len(fine))
    for orientation in ORIENTATIONS[:orientations]:
        turn = turning(orientation)
        seen = turned_numbers(numbers, orientation)
        around = None if region is None else oriented(region, orientation)
        for said in heads.say(oriented(fine, orientation), oriented(coarse, orientation), seen,
                              around):  # fmt: skip
            mean, units = said.mean.astype(float), said.units.astype(float)
            misfit = units[:, 0]
            inverse = np.linalg.inv(triangle(said.factor)) * units[:, :, None]
            mean[:, 1:3] = settled(mean[:, 1:3], seen, misfit)
            means.append(mean @ turn.T)
            covariances.append(turn @ (inverse @ np.swapaxes(inverse, 1, 2)) @ turn.T)
    if len(means) == 1:
        return means[0], covariances[0], misfit
    return *mixture(np.stack(means), np.stack(covariances)), misfit


def triangle(factor: NDArray[np.floating[Any]]) -> Floats:
    """Lower triangular (n, 7, 7) from rows of 28 numbers, diagonals from logarithms."""
    rows, columns = np.tril_indices(OUTPUTS)
    made = np.zeros((len(factor), OUTPUTS, OUTPUTS))
    made[:, rows, columns] = factor
    own = np.arange(OUTPUTS)
    made[:, own, own] = np.exp(np.clip(made[:, own, own], -STEEPEST, STEEPEST))
    return made


def settled(offset: Floats, numbers: Plane, misfit: Floats) -> Floats:
    """Offsets, taken from the adaptive moments where a Gaussian fits the window to the noise.

    Those are nearly as good as the noise allows there, and the network adds its own scatter.

    Parameters
    ----------
    offset : ndarray, shape (n, 2)
        Of the network.
    numbers : ndarray, shape (n, NUMBERS)
        Of the windows.
    misfit : ndarray, shape (n,)
        Over the scale.
    """
    low, high = SETTLED
    share = np.clip((np.log(misfit) + numbers[:, 0] - low) / (high - low), 0.0, 1.0)[:, None]
    return np.asarray(share * offset + (1.0 - share) * numbers[:, 3:5], float)


def turned_numbers(numbers: Plane, orientation: int) -> Plane:
    """Numbers of windows in another orientation: those of the Gaussians turn."""
    parts = [numbers[:, :2]]
    for first in range(2, numbers.shape[1], 6):
        part = numbers[:, first : first + 6].copy()
        if orientation & 1:
            part[:, [1, 4]] *= -1.0
        if orientation & 2:
            part[:, [2, 4]] *= -1.0
        parts.append(part[:, [0, 2, 1, 5, 4, 3]] if orientation & 4 else part)
    return np.concatenate(parts, 1)


def oriented(window: NDArray[Kind], orientation: int) -> NDArray[Kind]:
    """Windows in one of the eight orientations of a square; see `ORIENTATIONS`."""
    if orientation & 1:
        window = window[..., ::-1]
    if orientation & 2:
        window = window[..., ::-1, :]
    if orientation & 4:
        window = np.swapaxes(window, -1, -2)
    return np.ascontiguousarray(window)


def turning(orientation: int) -> Floats:
    """Matrix (7, 7) that turns measurements made in an orientation back."""
    turn = np.eye(OUTPUTS)
    if orientation & 1:
        turn[[1, 4], [1, 4]] *= -1.0
    if orientation & 2:
        turn[[2, 4], [2, 4]] *= -1.0
    # the axes were swapped last, so they are swapped back first
    return turn[:, [0, 2, 1, 5, 4, 3, 6]] if orientation & 4 else turn
