"""Which crops of the sky a network is shown: a given share of them holds emission.

Most random crops of radio sky are noise. As large sets of photographs are curated before a network
learns from them without labels (Oquab et al. 2024, arXiv:2304.07193, by what they show), crops are
chosen here by the number of islands that the classical detection finds in them.
"""

from collections import OrderedDict
from typing import Any

import numpy as np

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.pretraining.crops import cut
from cyclades.pipeline.training.samples import Booleans, Integers, Plane, Sample, SampleSource
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.islands import find_islands
from cyclades.stages.networks.inputs import normalise

_CROPS = 0xCC0
"""Told apart by this are the draws of crops from all others that have the same seed."""
_FLOOD = 4.0
"""Noise units down to which an island grows; where it ends decides little about how many."""
_ATTEMPTS = 64
_FAR = 1 << 40
"""Fields that take the place of blank ones have numbers that no run comes to."""


class CurationOptions(Options):
    """How crops are chosen."""

    curated_share: float = parameter(
        0.75, "Part of the crops that hold islands; the others are any.", ge=0.0, le=1.0
    )
    least_islands: int = parameter(2, "Islands that a curated crop holds at least.", ge=1)
    threshold: float = parameter(
        5.0, "Peak from which on pixels make an island.", unit="local rms", gt=0.0
    )
    candidates: int = parameter(16, "Places looked at for each crop.", ge=1)
    blank_share: float = parameter(
        0.3, "Crops of which more than this is blank are not taken.", ge=0.0, lt=1.0
    )


class Crops(SampleSource):
    """An endless sequence of crops of fields, chosen by what they hold.

    Crops take turns among `fields_at_once` fields, so that neighbours in the sequence are of
    different ones; the fields are replaced one after the other. Crop i follows from i alone. As far
    as the candidates in its field allow, ``curated_share`` of the crops of a field, evenly among
    the others, hold at least ``least_islands``.

    Parameters
    ----------
    fields : SampleSource
    options : CurationOptions
    size : int
        Side of the crops that are judged, in pixels.
    window : int
        Side of what is given, with the crop in its middle: what lies around it is what a rotation
        brings in. From `size` to the side of the fields.
    crops_a_field : int
        Crops taken from each field, which may overlap.
    fields_at_once : int
        Fields among which crops take turns; they are kept in memory.
    mesh : int
        Of the normalisation by which islands are found.
    seed : int
    """

    def __init__(
        self,
        fields: SampleSource,
        options: CurationOptions,
        *,
        size: int,
        window: int,
        crops_a_field: int,
        fields_at_once: int = 1,
        mesh: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(window, ())
        self.fields, self.options = fields, options
        self.inner, self.crops_a_field = size, crops_a_field
        self.fields_at_once = fields_at_once
        self.mesh, self.seed = mesh, seed
        self._kept: OrderedDict[int, list[tuple[Sample, int]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fields made so far behind: a worker makes its own."""
        return {**self.__dict__, "_kept": OrderedDict()}

    def sample(self, index: int) -> Sample:
        """Return the window of crop number `index`, without labels."""
        return self._crop(index)[0]

    def islands(self, index: int) -> int:
        """Return the number of islands with their peak in crop number `index`."""
        return self._crop(index)[1]

    def _crop(self, index: int) -> tuple[Sample, int]:
        number, place = self.place(index)
        if number not in self._kept:
            self._kept[number] = self._choose(number)
            while len(self._kept) > self.fields_at_once + 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)  # the longest unused goes first
        return self._kept[number][place]

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of a crop's field, and that of the crop in it."""
        turn, slot = divmod(index, self.fields_at_once)
        # slots change their fields at different turns, so that batches take as long as each other
        late = slot * self.crops_a_field // self.fields_at_once
        in_slot, place = divmod(turn + late, self.crops_a_field)
        return in_slot * self.fields_at_once + slot, place

    def _choose(self, number: int) -> list[tuple[Sample, int]]:
        """Windows of the crops of a field, with their islands."""
        seed = np.random.SeedSequence((self.seed, _CROPS), spawn_key=(number,))
        generator = np.random.default_rng(seed)
        for attempt in range(_ATTEMPTS):
            field = self.fields.sample(number + attempt * _FAR)
            corners = self._places(field.image, generator)
            if len(corners):
                break
        else:
            raise InputError(
                f"{_ATTEMPTS} places in a row hold no crop of {self.inner} pixels of which at most "
                f"{self.options.blank_share:.0%} is blank; give larger images, a smaller size, or "
                "a larger curation.blank_share."
            )
        counts = self._count(field.image, corners)
        first = number * self.crops_a_field
        rows = choose(
            counts, wanted(first, self.crops_a_field, self.options.curated_share),
            self.options.least_islands,
        )  # fmt: skip
        chosen = []
        for row in rows:
            # the crop lies in the middle of its window
            y, x = corners[row] - (self.size - self.inner) // 2
            middle = [(n - self.size) // 2 for n in field.shape]
            chosen.append((cut(field, self.size, y - middle[0], x - middle[1]), int(counts[row])))
        return chosen

    def _places(self, image: Plane, generator: np.random.Generator) -> Integers:
        """First pixels (y, x) of crops that are not too blank, shape (n, 2), in random order."""
        number = self.options.candidates * self.crops_a_field
        share = generator.random((number, 2))
        known = np.isfinite(image)
        if not known.any():
            return np.zeros((0, 2), np.int64)
        margin = (self.size - self.inner) // 2
        places = np.empty((number, 2), np.int64)
        for axis in (0, 1):
            n = image.shape[axis]
            seen = np.flatnonzero(known.any(1 - axis))
            # windows stay in the field, and crops among its pixels that are not blank
            low, high = margin, n - self.size + margin
            low = min(max(low, int(seen[0])), high)
            high = max(min(high, int(seen[-1]) + 1 - self.inner), low)
            places[:, axis] = low + (share[:, axis] * (high - low + 1)).astype(np.int64)
        blank = _sums(~known, places, self.inner) / self.inner**2
        return places[blank <= self.options.blank_share]

    def _count(self, image: Plane, corners: Integers) -> Integers:
        """Islands with their peak in each of the crops."""
        normalised = normalise(image, self.mesh)
        threshold = self.options.threshold
        islands = find_islands(normalised, threshold, min(_FLOOD, threshold), 1)
        peaks = np.zeros(image.shape, bool)
        for row in range(len(islands)):
            pixels = islands[row]
            peaks.flat[pixels[np.argmax(normalised.flat[pixels])]] = True
        return np.asarray(np.rint(_sums(peaks, corners, self.inner)), np.int64)


def wanted(first: int, number: int, share: float) -> Booleans:
    """Say which of some crops in a row are to hold islands, so that a share of all does.

    Parameters
    ----------
    first, number : int
        Number of the first crop, and of crops.
    share : float
        From 0 to 1.
    """
    steps = np.floor(np.arange(first, first + number + 1) * share + 1e-9)
    return np.asarray(np.diff(steps) > 0.5)


def choose(counts: Integers, curated: Booleans, least: int) -> Integers:
    """Choose one of the candidates for each crop.

    Crops that may hold anything take the first ones, which are in random order. Those that are to
    hold islands take the first of the others that do, and where there are too few of these, those
    with the most islands. Where there are fewer candidates than crops some are taken again.

    Parameters
    ----------
    counts : ndarray of int, shape (n,)
        Islands of the candidates.
    curated : ndarray of bool, shape (m,)
    least : int
        Islands that are enough.

    Returns
    -------
    ndarray of int, shape (m,)
    """
    free = np.arange(np.count_nonzero(~curated)) % len(counts)
    rest = np.arange(len(free), len(counts)) if len(free) < len(counts) else np.arange(len(counts))
    # enough islands are alike: no crop is preferred for being crowded
    order = rest[np.argsort(-np.minimum(counts[rest], least), kind="stable")]
    chosen = np.empty(len(curated), np.int64)
    chosen[~curated] = free
    chosen[curated] = order[np.arange(np.count_nonzero(curated)) % len(order)]
    return chosen


def share_with_islands(crops: Crops, number: int) -> tuple[float, float]:
    """Part of the first crops with at least ``least_islands``, and their mean number of islands."""
    counts = np.array([crops.islands(index) for index in range(number)])
    return float((counts >= crops.options.least_islands).mean()), float(counts.mean())


def _sums(plane: Booleans, corners: Integers, side: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """True pixels in squares of a plane, by their first pixels (y, x)."""
    total = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1))
    total[1:, 1:] = plane.cumsum(0, dtype=np.float64).cumsum(1)
    y, x = corners.T
    return np.asarray(
        total[y + side, x + side] - total[y, x + side] - total[y + side, x] + total[y, x]
    )
