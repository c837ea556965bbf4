"""Where unlabelled sky comes from: FITS images of any kind, and the simulator.

Both give *fields*, larger pieces of sky from which
`cyclades.pipeline.training.pretraining.curation` takes the crops. Fields are samples without
objects, so that what mixes and changes labelled samples serves here too.
"""

import logging
from collections import OrderedDict
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.augmentation import Pair, beam_size, warp
from cyclades.pipeline.training.labelled import KEPT_IMAGES, LabelledImage, find_images
from cyclades.pipeline.training.samples import Sample, SampleSource, SequenceOptions
from cyclades.pipeline.training.simulated import SimulatedOptions, SimulatedSource
from cyclades.pipeline.training.sources import MixtureSource
from cyclades.stages.core.errors import CycladesError
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource, open_image
from cyclades.stages.core.stage import parameter
from cyclades.stages.core.tiling import Box

logger = logging.getLogger("cyclades.training")

_FIELDS = 0xF1E
"""Told apart by this are the draws of fields from all others that have the same seed."""


class FitsOptions(SequenceOptions):
    """FITS images without labels."""

    kind: Literal["fits"] = "fits"
    images: str = parameter(
        ..., "FITS images: a folder (and those below it), a file, or a pattern."
    )
    image: ImageOptions = parameter(ImageOptions(), "How the images are read: beam, plane, mask.")


OneSky = Annotated[SimulatedOptions | FitsOptions, Field(discriminator="kind")]
SkyData = OneSky | tuple[OneSky, ...]
"""One source of unlabelled sky (``{kind: fits, images: folder}``), or a list of them, which are
mixed by their ``share``."""


class FitsFields(SampleSource):
    """Pieces at random places of FITS images, each image as often as any other.

    Only the pixels of a piece are read. Images whose beam is not within the range asked for are
    brought to the nearest end of it by other pixels, as when a network runs on them. A file that
    cannot be read is passed over, with a warning.

    Parameters
    ----------
    options : FitsOptions
    size : int
        Side of the fields in pixels. Smaller images are surrounded by blank pixels.
    beam : (low, high), optional
        Range of beams (geometric mean FWHM) in pixels.

    Raises
    ------
    InputError
        Where there are no images.
    """

    def __init__(self, options: FitsOptions, size: int, beam: Pair | None = None) -> None:
        super().__init__(size, ())
        self.options, self.beam = options, beam
        self.paths = find_images(options.images)
        self._open: OrderedDict[int, FitsSource | None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the images opened so far behind: a worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def sample(self, index: int) -> Sample:
        """Return field number `index`; all of it blank where its file cannot be read."""
        seed = np.random.SeedSequence((self.options.seed, _FIELDS), spawn_key=(index,))
        generator = np.random.default_rng(seed)
        number = int(generator.integers(len(self.paths)))
        place = generator.random(2)
        source = self._opened(number)
        try:
            if source is not None:
                return self._field(source, (float(place[0]), float(place[1])))
        except CycladesError as error:
            self._pass_over(number, error)
        return unlabelled(np.full((self.size, self.size), np.nan, np.float32))

    def _field(self, source: FitsSource, place: tuple[float, float]) -> Sample:
        zoom = 1.0
        if source.psf is not None and self.beam is not None:
            middle = [0.5 * (n - 1) for n in reversed(source.shape)]
            size = beam_size(source.psf.covariances(*middle)[0])
            zoom = float(np.clip(size, *self.beam)) / size
        side = max(self.size, int(np.ceil(self.size / zoom)))
        first = []
        for n, share in zip(source.shape, place, strict=True):
            least, most = min(0, n - side), max(0, n - side)
            first.append(least + int(share * (most - least + 1)))
        box = Box(first[0], first[0] + side, first[1], first[1] + side)
        nothing = np.zeros(0)
        image = LabelledImage(
            source,
            boxes=np.zeros((0, 4)),
            classes=np.zeros(0, np.int64),
            segments=None,
            ignore=np.zeros(0, bool),
            snr=nothing,
        )
        read = image.crop(box)
        if zoom != 1.0:
            read = warp(read, 0.0, zoom)
        return cut(read, self.size)

    def _opened(self, number: int) -> FitsSource | None:
        if number not in self._open:
            try:
                given = self.options.image.model_dump(exclude_unset=True)
                self._open[number] = open_image(self.paths[number], **given)
            except CycladesError as error:
                self._pass_over(number, error)
            while len(self._open) > KEPT_IMAGES:
                self._open.popitem(last=False)
        return self._open.get(number)

    def _pass_over(self, number: int, error: CycladesError) -> None:
        self._open[number] = None
        logger.warning("%s is passed over: %s", self.paths[number], error)


def unlabelled(image: np.ndarray[Any, np.dtype[np.float32]]) -> Sample:
    """Return a sample of nothing but an image, shape (h, w)."""
    return Sample(
        image=image,
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int64),
        segments=None,
        ignore=np.zeros(0, bool),
        unlabelled=None,
        beam=None,
        rms=None,
        snr=np.zeros(0),
    )


def cut(sample: Sample, size: int, dy: int = 0, dx: int = 0) -> Sample:
    """Cut a square out of a sample, whose labels are dropped.

    Parameters
    ----------
    sample : Sample
    size : int
        Side in pixels.
    dy, dx : int
        Its first pixel is so far from that of the square in the middle.
    """
    h, w = sample.shape
    y, x = (h - size) // 2 + dy, (w - size) // 2 + dx
    part = np.s_[y : y + size, x : x + size]
    rms = None if sample.rms is None else np.ascontiguousarray(sample.rms[part])
    bare = unlabelled(np.ascontiguousarray(sample.image[part]))
    return bare.replace(beam=sample.beam, rms=rms)


def build_fields(options: SkyData, size: int, beam: Pair | None = None) -> SampleSource:
    """Make the source of fields that options describe.

    Parameters
    ----------
    options : SkyData
    size : int
        Side of the fields in pixels.
    beam : (low, high), optional
        See `FitsFields`; simulated fields are taken as they are.

    Raises
    ------
    InputError
        Where there are no images.
    """
    if isinstance(options, tuple):
        made = [build_fields(one, size, beam) for one in options]
        return MixtureSource(made, [one.share for one in options])
    if isinstance(options, FitsOptions):
        return FitsFields(options, size, beam)
    return SimulatedFields(options, size)


class SimulatedFields(SampleSource):
    """Fields of the simulator, each with an instrument and noise of its own.

    Parameters
    ----------
    options : SimulatedOptions
        Its number of tiles a side has no meaning here.
    size : int
        Side of the fields in pixels.
    """

    def __init__(self, options: SimulatedOptions, size: int) -> None:
        super().__init__(size, ())
        whole = options.model_copy(update={"tiles_a_side": 1, "classes": {}})
        self.source = SimulatedSource(whole, size, CLASSES)

    def sample(self, index: int) -> Sample:
        """Return field number `index`, without its labels."""
        return cut(self.source.sample(index), self.size)
