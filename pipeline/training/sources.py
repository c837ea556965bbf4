"""Where labelled samples come from, by name: what the section ``data`` of a training says."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.catalogue_labels import CatalogueOptions, CatalogueSource
from cyclades.pipeline.training.folder import FolderOptions, FolderSource
from cyclades.pipeline.training.optical_tiles import OpticalSource, OpticalTilesOptions
from cyclades.pipeline.training.rgz_labels import RgzOptions, RgzSource
from cyclades.pipeline.training.samples import Integers, Sample, SampleSource
from cyclades.pipeline.training.simulated import SimulatedOptions, SimulatedSource
from cyclades.stages.core.errors import ConfigurationError

OneDataOptions = Annotated[
    SimulatedOptions | OpticalTilesOptions | FolderOptions | CatalogueOptions | RgzOptions,
    Field(discriminator="kind"),
]
DataOptions = OneDataOptions | tuple[OneDataOptions, ...]
"""One source of samples (``{kind: simulated, preset: mixed}``), or a list of them, which are mixed
by their ``share``."""

KEPT_SAMPLES = 512
"""Samples that repeat and are kept in memory; those behind them are made anew each time."""
_ORDERS = 0x0D3
"""Told apart by this are the draws of orders from all others that have the same seed."""
ROUND = 128
"""Samples of a mixture after which the order of its sources repeats."""


class MixtureSource(SampleSource):
    """Several sources in turn, each as often as its share says.

    Which source sample i is from, and which of its samples that is, follows from i alone; the
    sources alternate as evenly as their shares allow.

    Parameters
    ----------
    sources : sequence of SampleSource
        All of the same size and classes.
    shares : sequence of float
        Relative to each other; each counts in steps of 1 / `ROUND`, and at least one.

    Raises
    ------
    ConfigurationError
        Where sources do not fit together.
    """

    def __init__(self, sources: Sequence[SampleSource], shares: Sequence[float]) -> None:
        if not sources or len(sources) != len(shares):
            raise ConfigurationError("A mixture needs at least one source, each with a share.")
        super().__init__(sources[0].size, sources[0].classes)
        if any((one.size, one.classes) != (self.size, self.classes) for one in sources):
            raise ConfigurationError("The sources of a mixture have one size and the same classes.")
        if len(sources) > ROUND or min(shares) <= 0.0:
            raise ConfigurationError(f"A mixture has at most {ROUND} sources, of positive shares.")
        self.sources = tuple(sources)
        wanted = np.asarray(shares, float) / np.sum(shares) * ROUND
        slots = np.maximum(np.floor(wanted).astype(np.int64), 1)
        while slots.sum() != ROUND:
            change = 1 if slots.sum() < ROUND else -1
            lack = np.where((slots > 1) | (change > 0), change * (wanted - slots), -np.inf)
            slots[np.argmax(lack)] += change
        # the k-th of a source's n slots lies at (k + 1/2) / n of a round
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in slots])
        self.order = np.repeat(np.arange(len(slots)), slots)[np.argsort(place, kind="stable")]
        self.slots = slots
        self._before = np.array(
            [np.count_nonzero(self.order[:k] == who) for k, who in enumerate(self.order)]
        )

    def choose(self, index: int) -> tuple[int, int]:
        """Return the number of the source that a sample is from, and its number there."""
        rounds, place = divmod(index, ROUND)
        who = int(self.order[place])
        return who, int(rounds * self.slots[who] + self._before[place])

    def sample(self, index: int) -> Sample:
        """Return sample number `index`."""
        who, number = self.choose(index)
        return self.sources[who].sample(number)


class RepeatedSource(SampleSource):
    """The first samples of a source again and again, each time in another order.

    Parameters
    ----------
    source : SampleSource
    number : int
        Of different samples.
    seed : int
        Of their orders; the first time they come as they are.
    """

    def __init__(self, source: SampleSource, number: int, seed: int) -> None:
        super().__init__(source.size, source.classes)
        self.source, self.number, self.seed = source, number, seed
        self._kept: dict[int, Sample] = {}
        self._order: tuple[int, Integers] = 0, np.arange(number)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the samples made so far behind: a worker makes its own."""
        return {**self.__dict__, "_kept": {}}

    def sample(self, index: int) -> Sample:
        """Return sample number `index`; the first `KEPT_SAMPLES` of the source are kept."""
        time, place = divmod(index, self.number)
        if time != self._order[0]:
            generator = np.random.default_rng((self.seed, _ORDERS, time))
            shuffled = generator.permutation(self.number) if time else np.arange(self.number)
            self._order = time, np.asarray(shuffled, np.int64)
        own = int(self._order[1][place])
        if own in self._kept:
            return self._kept[own]
        made = self.source.sample(own)
        if own < KEPT_SAMPLES:
            self._kept[own] = made
        return made


def build_source(options: DataOptions, size: int, classes: Sequence[str] = CLASSES) -> SampleSource:
    """Make the source of samples that options describe.

    Parameters
    ----------
    options : DataOptions
    size : int
        Side of the samples in pixels.
    classes : sequence of str
        Of the network.

    Raises
    ------
    InputError
        Where files are missing or cannot be read.
    ConfigurationError
        Where classes have no place in the network.
    """
    if isinstance(options, tuple):
        made = [build_source(one, size, classes) for one in options]
        return MixtureSource(made, [one.share for one in options])
    if options.samples is not None:
        endless = build_source(options.model_copy(update={"samples": None}), size, classes)
        return RepeatedSource(endless, options.samples, options.seed)
    if isinstance(options, SimulatedOptions):
        return SimulatedSource(options, size, classes)
    if isinstance(options, OpticalTilesOptions):
        return OpticalSource(options, size, classes)
    if isinstance(options, FolderOptions):
        return FolderSource(options, size, classes)
    if isinstance(options, CatalogueOptions):
        return CatalogueSource(options, size, classes)
    return RgzSource(options, size, classes)


def reseeded(options: DataOptions, by: int) -> DataOptions:
    """Return the options with other seeds: simulations that share nothing with the first ones.

    Crops of real images are other crops, but of the same images. There is no end to either.
    """
    if isinstance(options, tuple):
        return tuple(_reseeded(one, by) for one in options)
    return _reseeded(options, by)


def _reseeded(options: OneDataOptions, by: int) -> OneDataOptions:
    return options.model_copy(update={"seed": options.seed + by, "samples": None})
