"""What a network is shown of a crop: views that could all have been observed, in batches.

A view is a crop that is turned, seen with another beam, depth and pixel, and brought to the
network's canonical input. Two views of one crop show the same sky; colours, brightness curves and
stretched pixels, by which photographs are varied, are left out, since they change what is measured.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclades.pipeline.training.augmentation import AugmentationOptions, augment
from cyclades.pipeline.training.loading import NumberedBatches
from cyclades.pipeline.training.pretraining.crops import cut
from cyclades.pipeline.training.samples import Sample, SampleSource
from cyclades.stages.networks.inputs import normalise, stretch
from cyclades.stages.networks.specification import InputSpec

MARGIN = math.sqrt(2.0)
"""Of the window around a view, relative to the view's side: what a rotation brings in."""
_VIEWS = 0x51E
"""Told apart by this are the draws of views from all others that have the same seed."""

Views = tuple[Tensor, ...]
"""Views of a batch by size: each of shape (b, views, channels, side, side), float32."""


class ViewSizes(NamedTuple):
    """How many views of a crop there are, and of which side in pixels.

    Parameters
    ----------
    side : int
    number : int
    """

    side: int
    number: int


def window_side(size: int) -> int:
    """Side of the windows from which views of a size are taken, even as the size is or odd."""
    side = math.ceil(size * MARGIN)
    return side + (side - size) % 2


class ViewBatches(NumberedBatches[Views]):
    """Batches of views; see `NumberedBatches`.

    Parameters
    ----------
    crops : SampleSource
        Windows with the crop in the middle.
    sizes : sequence of ViewSizes
    spread : int
        Pixels by which the middle of a view may be off the middle of the window, along each axis;
        less where the window ends.
    input : InputSpec
    augmentation : AugmentationOptions
    seed : int
    batch, first, number, rank, world
        See `NumberedBatches`.
    """

    def __init__(
        self,
        crops: SampleSource,
        sizes: Sequence[ViewSizes],
        input: InputSpec,
        augmentation: AugmentationOptions,
        *,
        spread: int = 0,
        seed: int = 0,
        batch: int = 16,
        first: int = 0,
        number: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(batch, first=first, number=number, rank=rank, world=world)
        self.crops, self.sizes, self.spread = crops, tuple(sizes), spread
        self.input, self.augmentation, self.seed = input, augmentation, seed

    def make(self, number: int) -> Views:
        """Return the views of a batch of this rank by its number."""
        made = [self.views(index) for index in self.members(number)]
        return tuple(torch.from_numpy(np.stack(one)) for one in zip(*made, strict=True))

    def views(self, index: int) -> list[NDArray[np.float32]]:
        """Return the views of a crop by size, each of shape (views, channels, side, side)."""
        window = self.crops.sample(index)
        seed = np.random.SeedSequence((self.seed, _VIEWS), spawn_key=(index,))
        draws = iter(np.random.default_rng(seed).spawn(sum(n for _, n in self.sizes)))
        return [
            np.stack([self._view(window, side, next(draws)) for _ in range(number)])
            for side, number in self.sizes
        ]

    def _view(self, window: Sample, side: int, draw: np.random.Generator) -> NDArray[np.float32]:
        whole = window.shape[0]
        room = min(self.spread, (whole - side) // 2)
        offset = draw.integers(-room, room + 1, 2)
        # as much around the view as a rotation brings in, or as the window has
        free = 2 * ((whole - side) // 2 - int(np.abs(offset).max()))
        part = side + min(free, window_side(side) - side)
        seen = augment(cut(window, part, *map(int, offset)), draw, self.augmentation)
        normalised = normalise(seen.image, self.input.mesh)
        edge = (part - side) // 2
        inner = np.ascontiguousarray(normalised[edge : edge + side, edge : edge + side])
        return stretch(inner, self.input.stretches)
