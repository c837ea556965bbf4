"""Samples cut at random from real images that have labels, wherever the labels come from."""

import glob
import re
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.training.samples import (
    LEAST_INSIDE,
    Booleans,
    Floats,
    Integers,
    Sample,
    SampleSource,
    SourceOptions,
    grown_boxes,
    keep_pixels,
)
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource, open_image
from cyclades.stages.core.products import Segments
from cyclades.stages.core.stage import parameter
from cyclades.stages.core.tiling import Box, full_box

PLACE = "{name}"
"""Stands for an image's name, without .fits or .fits.gz, in the paths of what belongs to it."""
KEPT_IMAGES = 64
_CROPS = 0xC40
"""Told apart by this are the draws of crops from all others that have the same seed."""
_FITS = re.compile(r"\.(fits|fit|fts)(\.gz|\.fz)?$", re.IGNORECASE)
_SUFFIXES = (".gz", ".fz", ".fits", ".fit", ".fts")


class ImageFilesOptions(SourceOptions):
    """Images on disk, and how to read them."""

    images: str | tuple[str, ...] = parameter(
        ...,
        "FITS images: a file, a folder, a pattern such as folder/*.fits, or a list of these.",
    )
    image: ImageOptions = parameter(ImageOptions(), "How the images are read: beam, plane, mask.")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image, of which only the windows asked for are read, with its labels.

    Parameters
    ----------
    source : FitsSource
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` with (0, 0) the outer corner of the first pixel.
    classes : ndarray of int64, shape (n,)
        Positions in the classes of the network.
    segments : Segments, optional
        Pixels of each object; None where labels are boxes only.
    ignore : ndarray of bool, shape (n,)
    snr : ndarray, shape (n,)
        NaN where unknown.
    labelled : callable, optional
        From a `Box` to the mask of its pixels where objects are labelled; None for everywhere.
    looked_at : ndarray, shape (k, 2), optional
        Pixels (x, y) around which objects are labelled, where that is not everywhere: a crop
        holds one of them, at any place in it.
    """

    source: FitsSource
    boxes: Floats
    classes: Integers
    segments: Segments | None
    ignore: Booleans
    snr: Floats
    labelled: Callable[[Box], Booleans] | None = None
    looked_at: Floats | None = None

    def place(self, size: int, generator: np.random.Generator) -> Box:
        """Draw the square that a crop of so many pixels a side is taken from."""
        at: tuple[int, int] | None = None
        if self.looked_at is not None and len(self.looked_at):
            x, y = self.looked_at[generator.integers(len(self.looked_at))]
            at = int(y), int(x)
        corner = []
        for axis, n in enumerate(self.source.shape):
            first, last = min(0, n - size), max(0, n - size)
            if at is not None:
                # a crop that sees nothing of what is labelled teaches nothing
                first, last = (int(np.clip(at[axis] - s, first, last)) for s in (size - 1, 0))
            corner.append(int(generator.integers(first, last + 1)))
        return Box(corner[0], corner[0] + size, corner[1], corner[1] + size)

    def crop(self, box: Box) -> Sample:
        """Return the sample of a box, which may reach beyond the image; there it is blank."""
        seen = box.intersect(full_box(self.source.shape))
        window = self.source.window(seen)
        inner = seen.shift(-box.y0, -box.x0).slices
        image = np.full(box.shape, np.nan, np.float32)
        image[inner] = window.data
        unlabelled = None
        if self.labelled is not None:
            unlabelled = np.ones(box.shape, bool)
            unlabelled[inner] = ~self.labelled(seen)
        psf = self.source.psf
        middle = 0.5 * (seen.x0 + seen.x1 - 1), 0.5 * (seen.y0 + seen.y1 - 1)
        x0, y0, x1, y1 = self.boxes.T
        rows = np.flatnonzero((x0 < box.x1) & (x1 > box.x0) & (y0 < box.y1) & (y1 > box.y0))
        moved = self.boxes[rows] - np.array([box.x0, box.y0, box.x0, box.y0])
        made = Sample(
            image=image,
            boxes=grown_boxes(moved, box.shape),
            classes=self.classes[rows],
            segments=None,
            ignore=self.ignore[rows],
            unlabelled=unlabelled,
            beam=None if psf is None else psf.covariances(*middle)[0],
            rms=None,
            snr=self.snr[rows],
        )
        if self.segments is None:
            cut = np.clip(moved, 0.0, [box.shape[1], box.shape[0]] * 2)
            area = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (cut, moved)]
            return made.replace(ignore=made.ignore | (area[0] < LEAST_INSIDE * area[1]))
        whole = self.segments.take(rows)
        return keep_pixels(made, _cut(whole, self.source.shape[1], box), whole.lengths)


class LabelledSource(SampleSource):
    """Crops at random places of labelled images, each image as often as any other.

    Where only some discs of an image are labelled, the middle of one lies in every crop.

    Parameters
    ----------
    options : ImageFilesOptions
    size, classes
        See `SampleSource`. Smaller images are surrounded by blank pixels.

    Raises
    ------
    InputError
        Where there are no images.
    """

    def __init__(self, options: ImageFilesOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(size, classes)
        self.seed = options.seed
        self.read = options.image
        self.paths = find_images(options.images)
        self._open: OrderedDict[int, LabelledImage] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the images opened so far behind: a worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    @abstractmethod
    def load(self, path: Path) -> LabelledImage:
        """Read the labels of an image."""
        raise NotImplementedError

    def sample(self, index: int) -> Sample:
        """Return sample number `index`."""
        seed = np.random.SeedSequence((self.seed, _CROPS), spawn_key=(index,))
        generator = np.random.default_rng(seed)
        image = self.labelled_image(int(generator.integers(len(self.paths))))
        return image.crop(image.place(self.size, generator))

    def labelled_image(self, number: int) -> LabelledImage:
        """Return an image with its labels, by its number in `paths`; recent ones are kept."""
        if number not in self._open:
            self._open[number] = self.load(self.paths[number])
            while len(self._open) > KEPT_IMAGES:
                self._open.popitem(last=False)
        return self._open[number]

    def open(self, path: Path) -> FitsSource:
        """Open an image as the options say."""
        return open_image(path, **self.read.model_dump(exclude_unset=True))


def find_images(pattern: str | Sequence[str]) -> list[Path]:
    """Return the files that a pattern finds, or the FITS files in and below a folder, by name.

    Those of several patterns come one after another.

    Raises
    ------
    InputError
        Where there is none.
    """
    if not isinstance(pattern, str):
        several = dict.fromkeys(path for one in pattern for path in find_images(one))
        if not several:
            raise InputError("There are no images; name some in the option images.")
        return list(several)
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = sorted(one for one in path.rglob("*") if _FITS.search(one.name) and one.is_file())
    else:
        found = sorted(glob.glob(str(path))) if glob.has_magic(pattern) else [str(path)]
        paths = [Path(one) for one in found if Path(one).is_file()]
    if not paths:
        raise InputError(f"There is no image {pattern}; correct the option images.")
    return paths


def image_name(path: Path) -> str:
    """Name of an image without the suffixes of FITS files."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _cut(segments: Segments, nx: int, box: Box) -> Segments:
    """Cut segments of an image to a box, as flat indices into it."""
    y, x = np.divmod(segments.indices, nx)
    inside = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
    lengths = np.bincount(segments.owner()[inside], minlength=len(segments))
    indices: NDArray[np.int64] = (y[inside] - box.y0) * box.shape[1] + x[inside] - box.x0
    return Segments(indices, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
