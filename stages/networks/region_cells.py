"""Features of a detector's backbone in regions around sources. Nothing here needs torch.

A region is a square of samples in the frame of the beam, interpolated between the cells that the
detector's look at the image left (`cyclades.stages.networks.cell_maps`). Projecting features to
few is linear, and so commutes with the interpolation: few are kept of the whole image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.cell_maps import CellMap, cell_channels
from cyclades.stages.networks.region_spec import RegionSpec, RegionTrunk
from cyclades.stages.networks.weights import find_detector
from cyclades.stages.networks.weights_files import tensors_digest

Plane = NDArray[np.float32]

REGION = 3
"""Samples along the side of a region."""
SPACING = 4.0
"""Beams between them: about a cell."""
SIGMAS = 2.3548
"""Sigmas of a beam in its FWHM."""


@dataclass(frozen=True, eq=False)
class Projection:
    """From the features of a cell to the few that the heads see, those of each head in turn.

    Parameters
    ----------
    weight : ndarray, shape (few, channels), float32
    bias : ndarray, shape (few,), float32
    """

    weight: Plane
    bias: Plane

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]], spec: RegionSpec) -> "Projection | None":
        """Read the projection off the tensors of a file of weights; None where it has none."""
        if spec.trunk is None:
            return None
        weights, biases = [], []
        for member in range(spec.members):
            weight, bias, centre, scale = (
                np.asarray(state[f"heads.{member}.{name}"], np.float32)
                for name in ("project.weight", "project.bias", "cell_centre", "cell_scale")
            )
            weights.append(weight / scale)
            biases.append(bias - weights[-1] @ centre)
        return cls(np.concatenate(weights), np.concatenate(biases))

    def __call__(self, features: Plane) -> Plane:
        """Project features, shape (channels, ...)."""
        flat = self.weight @ features.reshape(len(features), -1)
        flat += self.bias[:, None]
        return np.asarray(flat, np.float32).reshape(-1, *features.shape[1:])


def regions(cells: CellMap, centre: Floats, frame: Floats) -> Plane:
    """Features around places.

    Parameters
    ----------
    cells : CellMap
    centre : ndarray, shape (n, 2)
        (x, y) in pixels of the image.
    frame : ndarray, shape (n, 2, 2)
        From the beam's frame to pixels.

    Returns
    -------
    ndarray, shape (n, k, REGION, REGION)
        Axes are (y, x) of the beam's frame.
    """
    line = SIGMAS * SPACING * (np.arange(REGION) - 0.5 * (REGION - 1))
    v, u = np.meshgrid(line, line, indexing="ij")
    away = np.einsum("nij,abj->nabi", frame, np.stack([u, v], -1))
    return np.ascontiguousarray(np.moveaxis(cells.at(centre[:, None, None] + away), -1, 1))


def trunk_of(weights: str) -> RegionTrunk:
    """Describe a detector as the trunk of a region head.

    Raises
    ------
    InputError
        Where there is no such detector, or it has no backbone of its own kind.
    """
    path = find_detector(weights)
    digest = tensors_digest(path)
    return RegionTrunk(weights=weights, sha256=digest, channels=cell_channels(path))
