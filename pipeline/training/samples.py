"""What a network learns from: one image with its labels, and sequences of them by number."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.options import Options
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.products import Segments
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.segments import segment_boxes
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.inputs import normalise, stretch
from cyclades.stages.networks.specification import InputSpec

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Plane = NDArray[np.float32]

FLOOR = 5.0
"""Objects of lower S/N are neither to be found nor wrong to be found."""
SURFACE_FLOOR = 4.0
"""Nor are larger objects whose brightest pixel is below this many rms, unless it is half of
`FLOOR` and their total flux three times it."""
LEAST_INSIDE = 0.5
"""Nor are those of which less than this share is in the image."""
MIN_BOX = 6.0
"""Least side of a box, in pixels: smaller ones overlap no anchor and no neighbour of themselves."""
SPURIOUS = "spurious"


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels.

    Parameters
    ----------
    image : ndarray, shape (h, w) or (planes, h, w), float32
        In any unit; NaN where blank.
    boxes : ndarray, shape (n, 4), float32
        ``x0, y0, x1, y1`` with (0, 0) the outer corner of the first pixel, inside the image.
    classes : ndarray of int64, shape (n,)
        Positions in the classes of the network.
    segments : Segments, optional
        Pixels of each object, flat indices into the image; None where labels are boxes only.
    ignore : ndarray of bool, shape (n,)
        Objects that are neither to be found nor wrong to be found.
    unlabelled : ndarray of bool, shape (h, w), optional
        Where nothing is labelled; None where all of the image is.
    beam : ndarray, shape (2, 2), optional
        Covariance of the beam in pixels squared, in (x, y).
    rms : ndarray, shape of the image, float32, optional
        Of the noise, in the unit of the image.
    snr : ndarray, shape (n,)
        Signal to noise; see `detectability`. NaN where unknown.
    planes : tuple of str
        Names of the planes of the image; none where it is a single one.
    """

    image: Plane
    boxes: NDArray[np.float32]
    classes: Integers
    segments: Segments | None
    ignore: Booleans
    unlabelled: Booleans | None
    beam: Floats | None
    rms: Plane | None
    snr: Floats
    planes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def known(self) -> Booleans:
        """Pixels that no plane leaves blank, shape (h, w)."""
        known = np.isfinite(self.image)
        return np.asarray(known.all(0) if known.ndim == 3 else known)

    def chosen(self, planes: Sequence[str]) -> Plane:
        """Return the planes that a network takes.

        Parameters
        ----------
        planes : sequence of str
            Their names; none for a network that takes a single image.

        Returns
        -------
        ndarray, shape (len(planes), h, w), or (h, w) without names

        Raises
        ------
        ConfigurationError
            Where the sample has no such planes.
        """
        if tuple(planes) == self.planes:
            return self.image
        if not planes or not set(planes) <= set(self.planes):
            wanted, there = (", ".join(names) or "a single one" for names in (planes, self.planes))
            raise ConfigurationError(
                f"The network takes other planes ({wanted}) than the data have ({there}); set "
                f"network.input.planes to [{', '.join(self.planes)}], in any order."
            )
        return self.image[[self.planes.index(name) for name in planes]]

    def replace(self, **changes: Any) -> "Sample":
        """Return a copy with some attributes changed."""
        return replace(self, **changes)

    def keep(self, kept: Booleans) -> "Sample":
        """Return the sample with some of its objects only; itself where that is all of them."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept)
        return self.replace(
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            segments=None if self.segments is None else self.segments.take(rows),
            ignore=self.ignore[rows],
            snr=self.snr[rows],
        )


class SequenceOptions(Options):
    """What the options of every source of samples have in common, labelled or not."""

    share: float = parameter(1.0, "Part of a mixture, relative to the other sources'.", gt=0.0)
    seed: int = parameter(0, "The same seed gives the same samples.", ge=0)


class SourceOptions(SequenceOptions):
    """What the options of every source of labelled samples have in common."""

    floor: float = parameter(
        FLOOR, "Objects of lower signal to noise are ignored by the loss.", ge=0.0
    )
    classes: Mapping[str, str] = parameter(
        {},
        "Class of the network for a class of the labels, where the names differ; an empty name "
        "leaves the class out.",
    )
    samples: int | None = parameter(
        None, "Different samples that there are, which come again in another order; no end.", ge=1
    )


class SampleSource(ABC):
    """An endless sequence of samples, each of which follows from its number alone.

    Whoever asks for sample i gets the same one, so that the work can be shared among any number
    of workers, and a training that was interrupted goes on with the samples that it would have
    seen.

    Parameters
    ----------
    size : int
        Side of the samples in pixels.
    classes : sequence of str
        Classes of the network; the samples' classes are positions in it.
    """

    def __init__(self, size: int, classes: Sequence[str]) -> None:
        if size < MIN_BOX:
            raise ConfigurationError(
                f"Samples of {size} pixels a side hold no source; train on 64 pixels or more."
            )
        self.size, self.classes = size, tuple(classes)

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Return sample number `index`, counted from 0."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Sample]:
        return self.shard(0, 1)

    def shard(self, worker: int, workers: int, start: int = 0) -> Iterator[Sample]:
        """Iterate over every `workers`-th sample from number ``start + worker`` on."""
        if not 0 <= worker < workers:
            raise ConfigurationError(f"There is no worker {worker} among {workers}.")
        for index in itertools.count(start + worker, workers):
            yield self.sample(index)


def input_channels(sample: Sample, input: InputSpec) -> Plane:
    """Return what a network is given of a sample, shape (channels, h, w).

    Raises
    ------
    ConfigurationError
        Where the sample has not the planes that the network takes.
    """
    return stretch(normalise(sample.chosen(input.planes), input.mesh), input.stretches)


def class_numbers(
    names: Sequence[str], classes: Sequence[str], mapping: Mapping[str, str] | None = None
) -> Integers:
    """Positions in the network's classes of the classes of labels; -1 for one to leave out.

    A network without a class for artefacts leaves them out: to it they are background. A network
    whose only class of sources has none of the names takes all sources as that class.

    Parameters
    ----------
    names : sequence of str
        Classes of the labels.
    classes : sequence of str
        Those of the network.
    mapping : mapping, optional
        Network's class, or an empty name, by that of the labels.

    Raises
    ------
    ConfigurationError
        Where a class of the labels has no class of the network.
    """
    mapping = mapping or {}
    unknown = [name for name in mapping if name not in names]
    if unknown:
        raise ConfigurationError(
            f"The labels have no class {unknown[0]!r}{suggestion(unknown[0], list(names))}; they "
            f"have {', '.join(names)}."
        )
    real = [name for name in classes if name != SPURIOUS]
    numbers = np.full(len(names), -1, np.int64)
    for row, name in enumerate(names):
        wanted = mapping.get(name, name)
        if wanted in classes:
            numbers[row] = list(classes).index(wanted)
        elif name in mapping and wanted:
            raise ConfigurationError(
                f"The network has no class {wanted!r}{suggestion(wanted, list(classes))}; it has "
                f"{', '.join(classes)}."
            )
        elif name not in mapping and name != SPURIOUS:
            if len(real) != 1:
                raise ConfigurationError(
                    f"The network has no class {name!r}, which the labels have; say in the option "
                    f"classes which of {', '.join(classes)} it is, or leave it out with an empty "
                    "name."
                )
            numbers[row] = list(classes).index(real[0])
    return numbers


def detectability(peak_snr: Floats, total_snr: Floats, compact: Booleans) -> Floats:
    """Signal to noise that the floor refers to.

    Of compact objects it is the peak's. Of others it is that of the total flux within their own
    size, as long as their surface is not too faint for anybody to see them: it reaches `FLOOR`
    only where the peak reaches `SURFACE_FLOOR`, or half of `FLOOR` on objects so large that their
    total flux has three times it. It scales with the inverse of the noise.
    """
    seen = np.minimum(total_snr, peak_snr * FLOOR / SURFACE_FLOOR)
    smooth = np.minimum(total_snr / 3.0, peak_snr * 2.0)
    large = np.maximum(peak_snr, np.maximum(seen, smooth))
    return np.where(compact, peak_snr, large)


def pixel_boxes(segments: Segments, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes around the pixels of objects, at least `MIN_BOX` a side, cut at the image's edges.

    Returns
    -------
    ndarray, shape (n, 4), float32
        As in `Sample`; NaN for an object without pixels.
    """
    boxes = segment_boxes(segments, shape[1])
    boxes[:, 2:] += 1.0
    return grown_boxes(boxes, shape)


def grown_boxes(boxes: Floats, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Grow boxes to `MIN_BOX` a side about their centres and cut them at the image's edges."""
    centre, side = 0.5 * (boxes[:, :2] + boxes[:, 2:]), boxes[:, 2:] - boxes[:, :2]
    half = 0.5 * np.maximum(side, MIN_BOX)
    grown = np.concatenate([centre - half, centre + half], -1)
    limits = np.array([shape[1], shape[0], shape[1], shape[0]], float)
    return np.asarray(np.clip(grown, 0.0, limits), np.float32)


def carry_segments(segments: Segments, origin: Integers, pixels: int) -> Segments:
    """Carry segments to an image whose pixels come from those of another.

    Parameters
    ----------
    segments : Segments
        Flat indices into the first image.
    origin : ndarray of int
        For each pixel of the second image, in any shape, the flat index of the pixel of the
        first that it shows; -1 where it shows none. A pixel may be shown several times.
    pixels : int
        Number of pixels of the first image.

    Returns
    -------
    Segments
        Flat indices into the second image, rising within each row, which may be empty.
    """
    origin = origin.ravel()
    # only what shows some object is sorted, which is little of the image
    wanted = np.zeros(pixels + 1, bool)  # the last is for -1
    wanted[segments.indices] = True
    places = np.flatnonzero(wanted[origin])
    places = places[np.argsort(origin[places], kind="stable")]
    count = np.bincount(origin[places], minlength=pixels)
    shown = count[segments.indices]
    start = (np.cumsum(count) - count)[segments.indices]
    ends = np.cumsum(shown)
    inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - shown, shown)
    owner = np.repeat(segments.owner(), shown)
    indices = places[np.repeat(start, shown) + inside]
    by_row = np.lexsort((indices, owner))
    lengths = np.bincount(owner, minlength=len(segments))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Segments(indices[by_row].astype(np.int64), offsets)


def keep_pixels(sample: Sample, segments: Segments, whole: ArrayLike) -> Sample:
    """Give a sample new pixels of its objects, and boxes around them.

    Parameters
    ----------
    sample : Sample
        Image and maps are new already, the labels those from before.
    segments : Segments
        Pixels of the objects on the new image.
    whole : array_like, shape (n,)
        Pixels that each object would have if nothing had been cut off. Objects with fewer than
        `LEAST_INSIDE` of them are ignored; those without any pixel are dropped.
    """
    lengths = segments.lengths
    changed = sample.replace(
        segments=segments,
        boxes=pixel_boxes(segments, sample.shape),
        ignore=sample.ignore | (lengths < LEAST_INSIDE * np.asarray(whole, float)),
    )
    return changed.keep(lengths > 0)
