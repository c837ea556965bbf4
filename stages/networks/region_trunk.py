"""Features of a detector's frozen backbone in regions around sources (RoIAlign)."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.networks.detector import load_detector
from cyclades.stages.networks.inputs import stretch
from cyclades.stages.networks.region_head import REGION
from cyclades.stages.networks.region_spec import RegionTrunk
from cyclades.stages.networks.tiles import Frame
from cyclades.stages.networks.weights import find_detector

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

TILE = 512
BEAMS = 8.0
"""Side of a region."""


def trunk_of(weights: str) -> RegionTrunk:
    """Describe a detector as the trunk of a region head."""
    path = find_detector(weights)
    spec = load_detector(path).spec
    if spec.backbone is None:
        raise InputError(f"{path}: this detector has no backbone of its own kind; take another.")
    return RegionTrunk(
        weights=weights,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        channels=spec.backbone.channels,
        stride=min(spec.backbone.strides),
    )


class RegionFeatures:
    """Regions of features of a detector's backbone.

    Parameters
    ----------
    trunk : RegionTrunk
        The file must have its hash.
    device : str

    Raises
    ------
    InputError
        Where the detector is missing, or another one.
    """

    def __init__(self, trunk: RegionTrunk, device: str = "cpu") -> None:
        path: Path = find_detector(trunk.weights, trunk.sha256)
        self.trunk, self.device = trunk, torch.device(device)
        self.detector = load_detector(path, device)

    @torch.inference_mode()
    def __call__(self, image: "SkyImage", centre: Floats) -> Tensor:
        """Features of regions of `BEAMS` beams, shape (n, channels, REGION, REGION).

        Parameters
        ----------
        image : SkyImage
            With a beam.
        centre : ndarray, shape (n, 2)
            (x, y) in its pixels; a region is taken from the tile that owns its centre.
        """
        assert image.psf is not None
        spec = self.detector.spec
        frame = Frame.of(image, spec)
        # the first pixel's outer corner is (0, 0) of the network's frame
        place = (centre + 0.5 + np.array(image.origin[::-1])) * frame.scale
        half = 0.5 * BEAMS * image.psf.size * frame.scale
        made = torch.zeros(len(centre), self.trunk.channels, REGION, REGION, device=self.device)
        for tile in frame.tiles(TILE, self.detector.largest_stride):
            core, padded = tile.core, tile.padded
            mine = (place[:, 0] >= core.x0) & (place[:, 0] < core.x1)
            mine &= (place[:, 1] >= core.y0) & (place[:, 1] < core.y1)
            rows = np.flatnonzero(mine)
            if not rows.size:
                continue
            planes = stretch(frame.cut(padded), spec.input.stretches)[None]
            levels = self.detector.features(torch.from_numpy(planes).to(self.device))
            low = place[rows] - np.array([padded.x0, padded.y0]) - half
            boxes = torch.as_tensor(
                np.column_stack([low, low + 2.0 * half]), dtype=torch.float32, device=self.device
            )
            made[torch.from_numpy(rows).to(self.device)] = roi_align(
                levels[self.trunk.stride], [boxes], REGION, 1.0 / self.trunk.stride,
                sampling_ratio=2, aligned=True,
            ).float()  # fmt: skip
        return made
