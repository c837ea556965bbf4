"""Batches for the trainer: the same ones however many processes make them."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cyclades.pipeline.training.augmentation import AugmentationOptions, augment
from cyclades.pipeline.training.samples import (
    Sample,
    SampleSource,
    class_numbers,
    input_channels,
)
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.specification import InputSpec
from cyclades.stages.networks.targets import Targets

_AUGMENTATION = 0xA06
"""Told apart by this are the draws of the augmentation from all others that have the same seed."""

Batch = tuple[Tensor, list[Targets]]
Content = TypeVar("Content")


class NumberedBatches(IterableDataset[Content]):
    """Whole batches for a `torch.utils.data.DataLoader` with ``batch_size=None``.

    Batch k holds the samples ``k batch ... (k + 1) batch - 1`` of all ranks together in the order
    of the ranks, and is the same for any number of workers, which make batches in turn. So a
    training that goes on at batch k sees what it would have seen uninterrupted.

    Parameters
    ----------
    batch : int
        Samples of a batch of one rank.
    first : int
        Number of the first batch.
    number : int, optional
        Batches to make; endless where left out.
    rank, world : int
        Which of how many processes of the training this is. Each has batches of its own.

    Raises
    ------
    ConfigurationError
        For numbers that make no sense.
    """

    def __init__(
        self,
        batch: int,
        *,
        first: int = 0,
        number: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        if batch < 1 or first < 0 or not 0 <= rank < world:
            raise ConfigurationError(
                f"There is no batch of {batch} samples from number {first} on for process {rank} "
                f"of {world}; give each process at least one sample."
            )
        self.batch, self.first, self.number = batch, first, number
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Content]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        number = self.first + worker
        while self.number is None or number < self.first + self.number:
            yield self.make(number)
            number += workers

    def members(self, number: int) -> range:
        """Return the numbers of the samples of a batch of this rank."""
        start = (number * self.world + self.rank) * self.batch
        return range(start, start + self.batch)

    @abstractmethod
    def make(self, number: int) -> Content:
        """Return a batch of this rank by its number."""
        raise NotImplementedError


class TrainingData(NumberedBatches[Batch]):
    """Batches of labelled samples; see `NumberedBatches`.

    Parameters
    ----------
    source : SampleSource
    input : InputSpec
        The network's input.
    augmentation : AugmentationOptions, optional
        None for none.
    classes : sequence of str, optional
        Classes of the network where they are others than the source's.
    batch : int
        Samples of a batch of one rank.
    with_masks : bool
        Whether targets hold masks.
    first, number, rank, world
        See `NumberedBatches`.
    seed : int
        Of the augmentation.

    Raises
    ------
    ConfigurationError
        For numbers that make no sense, or classes that do not fit.
    """

    def __init__(
        self,
        source: SampleSource,
        input: InputSpec,
        augmentation: AugmentationOptions | None = None,
        *,
        classes: Sequence[str] | None = None,
        batch: int = 16,
        with_masks: bool = True,
        first: int = 0,
        number: int | None = None,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch, first=first, number=number, rank=rank, world=world)
        self.source, self.input, self.augmentation = source, input, augmentation
        self.with_masks, self.seed = with_masks, seed
        same = classes is None or tuple(classes) == source.classes
        self._numbers = None if same else class_numbers(source.classes, classes or ())

    def make(self, number: int) -> Batch:
        """Return a batch of this rank by its number."""
        samples = [self.sample(index) for index in self.members(number)]
        return collate(samples, self.input, with_masks=self.with_masks)

    def sample(self, index: int) -> Sample:
        """Return a sample of the source, augmented, by its number there."""
        sample = self.source.sample(index)
        if self._numbers is not None:
            classes = self._numbers[sample.classes]
            sample = sample.replace(classes=classes).keep(classes >= 0)
        if self.augmentation is None:
            return sample
        seed = np.random.SeedSequence((self.seed, _AUGMENTATION), spawn_key=(index,))
        return augment(sample, np.random.default_rng(seed), self.augmentation)


def collate(samples: Sequence[Sample], input: InputSpec, *, with_masks: bool = True) -> Batch:
    """Make a network's input and targets.

    Parameters
    ----------
    samples : sequence of Sample
        All of one shape (h, w).
    input : InputSpec
        Stretches and mesh.
    with_masks : bool
        Whether targets hold the masks of samples that have pixels.

    Returns
    -------
    images : Tensor, shape (b, channels, h, w), float32
        Finite; 0 where the image is blank.
    targets : list of Targets
    """
    channels = [input_channels(sample, input) for sample in samples]
    return (
        torch.from_numpy(np.stack(channels)),
        [as_targets(sample, with_masks=with_masks) for sample in samples],
    )


def as_targets(sample: Sample, *, with_masks: bool = True) -> Targets:
    """Return the labels of a sample as tensors."""
    masks = None
    if with_masks and sample.segments is not None:
        pixels = np.zeros((len(sample), sample.shape[0] * sample.shape[1]), np.uint8)
        pixels[sample.segments.owner(), sample.segments.indices] = 1
        masks = torch.from_numpy(pixels.reshape(-1, *sample.shape))
    unlabelled = sample.unlabelled
    return Targets(
        boxes=torch.from_numpy(np.ascontiguousarray(sample.boxes, np.float32)),
        classes=torch.from_numpy(np.ascontiguousarray(sample.classes, np.int64)),
        ignore=torch.from_numpy(np.ascontiguousarray(sample.ignore)),
        masks=masks,
        unlabelled=None if unlabelled is None else torch.from_numpy(unlabelled.copy()),
    )
