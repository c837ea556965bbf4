"""Simulated tiles with their truth, without end, for training.

Tiles are cut from fields of some tiles a side, so that sources cross edges, cluster, and lie on
noise whose planes are never used twice: every field has its own draw, made at once with one
Fourier transform in single precision, which is what makes it fast. The field that tile i belongs
to follows from i alone and has a seed of its own, spawned from the stream's; so tile i is the
same whoever makes it.

``python -m cyclades.pipeline.simulation.stream`` measures the rate.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.blending import blended_objects
from cyclades.pipeline.simulation.counts import PowerLawCounts
from cyclades.pipeline.simulation.field import FieldOptions, Plane, make_field
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.model import Floats, Integers
from cyclades.pipeline.simulation.objects import ObservedObjects
from cyclades.pipeline.simulation.optical import make_optical_field
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import COUNT_BAND
from cyclades.pipeline.simulation.options import SimulationOptions
from cyclades.pipeline.simulation.sky import SkyOptions
from cyclades.pipeline.simulation.truth import with_artefacts
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.products import Segments
from cyclades.stages.core.segments import segment_boxes

Options = TypeVar("Options", bound=SimulationOptions)

SIZE = 256
TILES_A_SIDE = 4

TRAINING = FieldOptions(
    sky=SkyOptions(
        counts=PowerLawCounts(slope=1.5, density=300.0),
        doubles=0.25,
        bent=0.12,
        diffuse=0.06,
        radio_galaxy_size=(3.0, 20.0),
    )
)
"""More bright and extended objects than the sky has, so that networks see enough of them."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A square cut from a simulated field, with its truth.

    Attributes
    ----------
    index : int
        Number of the tile in its stream.
    image, rms, level : ndarray, shape (size, size), float32
        Jy/beam; the image is NaN where it is blank. Of optical tiles, (bands, size, size) and
        nJy/pix.
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1``, 0-based pixel centres of the tile, of the pixels inside it.
    classes : ndarray of int, shape (n,)
        Position in `cyclades.pipeline.simulation.model.CLASSES`.
    segments : Segments
        Flat indices into the tile.
    inside : ndarray, shape (n,)
        Share of the object's pixels that lie inside the tile.
    snr, total_snr : ndarray, shape (n,)
        Of the whole object; see `ObservedObjects`.
    blended : ndarray of bool, shape (n,)
        Objects that nobody can tell from a brighter one beside them; see
        `cyclades.pipeline.simulation.blending`.
    """

    index: int
    image: Plane
    rms: Plane
    level: Plane
    boxes: Floats
    classes: Integers
    segments: Segments
    inside: Floats
    snr: Floats
    total_snr: Floats
    blended: NDArray[np.bool_]


class FieldStream(ABC):
    """An endless sequence of tiles that are cut from fields.

    Parameters
    ----------
    size : int
        Side of a tile in pixels.
    seed : int
        The same seed gives the same tiles.
    tiles_a_side : int
        Tiles along a field's side.
    """

    def __init__(self, size: int, seed: int, tiles_a_side: int) -> None:
        if size < 1 or tiles_a_side < 1:
            raise ConfigurationError(
                "A stream of tiles needs a positive size and number of tiles a side."
            )
        self.size, self.seed, self.tiles_a_side = size, seed, tiles_a_side

    @property
    def tiles_a_field(self) -> int:
        """Tiles cut from each field."""
        return self.tiles_a_side**2

    def __iter__(self) -> Iterator[Tile]:
        return self.shard(0, 1)

    def shard(self, worker: int, workers: int) -> Iterator[Tile]:
        """Iterate over the tiles of one of several workers.

        A worker takes every `workers`-th field whole, so that no field is made twice; together
        the workers make every tile of the stream once.
        """
        if not 0 <= worker < workers:
            raise ConfigurationError(f"There is no worker {worker} among {workers}.")
        for number in itertools.count(worker, workers):
            yield from self.field(number)

    @abstractmethod
    def field(self, number: int) -> list[Tile]:
        """Return the tiles of one field, row by row; the first is ``number * tiles_a_field``."""

    def tile(self, index: int) -> Tile:
        """Return one tile by its number; its whole field is made for it."""
        number, place = divmod(index, self.tiles_a_field)
        return self.field(number)[place]

    def field_seed(self, number: int) -> np.random.SeedSequence:
        """Return the seed of a field, which follows from the stream's and its number alone."""
        return np.random.SeedSequence(self.seed, spawn_key=(number,))

    def sized(self, options: Options) -> Options:
        """Return options with the size of the stream's fields."""
        size = self.size * self.tiles_a_side
        return type(options).from_mapping({**options.model_dump(), "size": size})


class TileStream(FieldStream):
    """An endless sequence of simulated tiles of the radio sky.

    Parameters
    ----------
    options : FieldOptions or sequence of FieldOptions
        Their size is that of the stream's fields instead; of several, fields take one after
        the other.
    size, seed, tiles_a_side : int
        See `FieldStream`.

    Examples
    --------
    >>> from itertools import islice
    >>> tiles = list(islice(TileStream(size=64, seed=1), 3))
    >>> tiles[0].image.shape
    (64, 64)
    """

    def __init__(
        self,
        options: FieldOptions | Sequence[FieldOptions] = TRAINING,
        size: int = SIZE,
        seed: int = 0,
        tiles_a_side: int = TILES_A_SIDE,
    ) -> None:
        super().__init__(size, seed, tiles_a_side)
        several = (options,) if isinstance(options, FieldOptions) else tuple(options)
        if not several:
            raise ConfigurationError("A stream of tiles needs options of a field.")
        self.options = tuple(map(self.sized, several))

    def field(self, number: int) -> list[Tile]:
        """Return the tiles of one field; see `FieldStream.field`."""
        options = self.options[number % len(self.options)]
        field = make_field(options, _geometry(options), self.field_seed(number))
        seen = field.observation
        objects = with_artefacts(field.objects, seen.artefacts, seen.data, seen.rms, seen.psf)
        hidden = np.zeros(len(objects), bool)
        hidden[: len(field.objects)] = blended_objects(field.objects, field.clean, seen.rms)
        return cut_field(
            number, self.size, self.tiles_a_side, seen.data, seen.rms, seen.level, objects, hidden
        )


class OpticalTileStream(FieldStream):
    """An endless sequence of simulated optical tiles.

    Images, noises and levels have the shape (bands, size, size), in the order of
    `cyclades.pipeline.simulation.optical_sky.BANDS`; truth is that of the band r, and classes are
    positions in that module's `CLASSES`.

    Parameters
    ----------
    options : OpticalOptions, optional
        Their size is that of the stream's fields instead.
    size, seed, tiles_a_side : int
        See `FieldStream`.
    """

    def __init__(
        self,
        options: OpticalOptions | None = None,
        size: int = SIZE,
        seed: int = 0,
        tiles_a_side: int = TILES_A_SIDE,
    ) -> None:
        super().__init__(size, seed, tiles_a_side)
        self.options = self.sized(OpticalOptions() if options is None else options)

    def field(self, number: int) -> list[Tile]:
        """Return the tiles of one field; see `FieldStream.field`."""
        _, seen = make_optical_field(self.options, self.field_seed(number))
        data, rms, level = (
            np.stack([getattr(one, name) for one in seen.values()])
            for name in ("data", "rms", "level")
        )
        counted = seen[COUNT_BAND]
        # the dip between two peaks shows in what a filter of the seeing leaves of white noise
        seeing = self.options.geometry(COUNT_BAND).psf.covariance
        noise = counted.rms / np.float32(np.sqrt(0.5 * gaussian_area(seeing)))
        hidden = blended_objects(counted.objects, counted.clean, noise, crowded=True)
        return cut_field(
            number, self.size, self.tiles_a_side, data, rms, level, counted.objects, hidden
        )


@lru_cache(maxsize=64)
def _geometry(options: FieldOptions) -> Geometry:
    return options.geometry()


def cut_field(
    number: int,
    size: int,
    tiles_a_side: int,
    data: Plane,
    rms: Plane,
    level: Plane,
    objects: ObservedObjects,
    blended: NDArray[np.bool_] | None = None,
) -> list[Tile]:
    """Cut a field with its truth into tiles, row by row.

    Parameters
    ----------
    number : int
        Of the field in its stream.
    size, tiles_a_side : int
    data, rms, level : ndarray, shape (..., ny, nx), float32
    objects : ObservedObjects
    blended : ndarray of bool, shape (n,), optional
        Of the objects; see `Tile`. None are, if left out.
    """
    hidden = np.zeros(len(objects), bool) if blended is None else blended
    cuts = cut_segments(objects.segments, data.shape[-1], size, tiles_a_side)
    lengths = objects.segments.lengths
    tiles = []
    for place, (rows, segments) in enumerate(cuts):
        y, x = (size * k for k in divmod(place, tiles_a_side))
        cut = np.s_[..., y : y + size, x : x + size]
        tiles.append(
            Tile(
                number * tiles_a_side**2 + place,
                data[cut].copy(),
                rms[cut].copy(),
                level[cut].copy(),
                segment_boxes(segments, size),
                objects.object_class[rows],
                segments,
                segments.lengths / lengths[rows],
                objects.snr[rows],
                objects.total_snr[rows],
                hidden[rows],
            )
        )
    return tiles


def cut_segments(
    segments: Segments, nx: int, size: int, tiles_a_side: int
) -> list[tuple[NDArray[np.int64], Segments]]:
    """Cut segments of a square field into those of its tiles.

    Returns
    -------
    list of (rows, segments)
        For each tile, row by row: the rows of the field's segments that reach into it, and
        their pixels there as flat indices into the tile.
    """
    y, x = np.divmod(segments.indices, nx)
    place = (y // size) * tiles_a_side + x // size
    local = (y % size) * size + x % size
    key = place * len(segments) + segments.owner()
    order = np.argsort(key, kind="stable")
    key, local = key[order], local[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    tile, row = np.divmod(key[starts], max(len(segments), 1))
    ends = np.append(starts[1:], len(key))
    limits = np.searchsorted(tile, np.arange(tiles_a_side**2 + 1))
    cuts = []
    for first, last in itertools.pairwise(limits.tolist()):
        if first == last:
            cuts.append((row[:0], Segments(local[:0], np.zeros(1, np.int64))))
            continue
        begin, end = starts[first], ends[last - 1]
        offsets = np.append(starts[first:last], end) - begin
        cuts.append((row[first:last], Segments(local[begin:end], offsets.astype(np.int64))))
    return cuts


def _count(worker: int, workers: int, seconds: float, size: int) -> tuple[int, float]:
    """Make tiles for some seconds; return how many, and the seconds."""
    tiles = TileStream(size=size).shard(worker, workers)
    next(tiles)
    start = time.perf_counter()
    made = 0
    for made, _ in enumerate(tiles, 1):  # noqa: B007
        if time.perf_counter() - start > seconds:
            break
    return made, time.perf_counter() - start


def measure_rate(workers: int = 2, seconds: float = 5.0, size: int = SIZE) -> float:
    """Return the tiles a second that processes make together, start-up left out."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_count, k, workers, seconds, size) for k in range(workers)]
        return sum(made / took for made, took in (job.result() for job in jobs))


if __name__ == "__main__":
    for count in (1, 2):
        rate = measure_rate(count)
        print(f"{rate:.0f} tiles of {SIZE} x {SIZE} pixels a second with {count} processes")
