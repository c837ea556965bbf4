"""An image as a network sees it, and all that the network finds in it, tile by tile.

Tiles are cells of a grid anchored at pixel (0, 0) of the full frame, read with a halo. Everything
lies on multiples of the coarsest stride, so that a pixel has the same place in the network's cells
however the frame is cut, and what a network says of an object depends on the tile through the
distant context alone.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.streaming import LazyPixels, Plane
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.evidence import settle
from cyclades.stages.networks.inputs import Normalisation, stretch
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import NetworkSpec

if TYPE_CHECKING:
    from cyclades.stages.core.beam import PointSpread
    from cyclades.stages.core.image import SkyImage

STRIDE = 32
"""Corners of tiles are multiples of this, and their sides of the network's coarsest stride."""
BATCH_TILE = 512
"""Side of the tiles that a batch is counted in."""
_SEAM = 8.0
"""Objects whose centres lie this close to a tile's own part are kept until duplicates go."""
_MARGIN = 8
"""Pixels around a tile that the interpolation of a resampled one may look at."""


def halo_of(side: int) -> int:
    """Pixels that tiles of a side read beyond what they own: half the widest object seen whole.

    More for large tiles, of which it costs little: 1.4 times the image with 96 pixels at 1024, but
    2.4 times at 512.
    """
    return 96 if side >= 1024 else 64


class Network(Protocol):
    """What runs a detector; see `graphs.GraphDetector` and `runtime.TorchDetector`."""

    spec: NetworkSpec
    size: int | None
    """Side of the only tiles that it takes; None where it takes any."""
    stride: int
    """Sides of tiles are multiples of this."""
    whole: bool
    """Tiles are all of one size, those at the image's edges too."""
    callers: int
    """Threads that may call `detect` at a time."""
    worth_preparing: int | None
    """Tiles of an image from which on `prepare` pays; None where it never does."""

    def prepare(self, shape: tuple[int, int]) -> None:
        """Get ready for many tiles of a shape."""

    def detect(self, channels: NDArray[np.float32]) -> list[Found]:
        """Detections of tiles, with raw scores."""


class Tile(NamedTuple):
    """A cell of the grid, and the pixels that the network is given for it."""

    core: Box
    padded: Box


class Frame(NamedTuple):
    """An image as the network sees it: normalised, and resampled by a factor about (0, 0).

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Or one whose parts are read when they are asked for.
    origin : (y, x)
        Of the image in the full frame.
    scale : float
        Pixels of the network a pixel of the image.
    normalisation : Normalisation
    planes : tuple of Frame
        Where the network takes several planes: these, in its order. The image is then the one
        that blank pixels and the shape are those of.
    psf : PointSpread, optional
        Of the image, in its pixels; what is not known, or is none of a single plane, is None.
    """

    image: NDArray[np.float32] | LazyPixels
    origin: tuple[int, int]
    scale: float
    normalisation: Normalisation
    planes: "tuple[Frame, ...]" = ()
    psf: "PointSpread | None" = None

    @classmethod
    def of(cls, image: "SkyImage | Plane", spec: NetworkSpec, threads: int = 1) -> "Frame":
        """Choose the factor that brings the beam to what the network is shown, 1 where it is."""
        scale = 1.0 if image.psf is None else _scale([image.psf.size], spec)
        return cls._at(image, scale, spec, threads)._replace(psf=image.psf)

    @classmethod
    def of_planes(
        cls, images: "Sequence[SkyImage]", reference: "SkyImage", spec: NetworkSpec
    ) -> "Frame":
        """Join planes on the same pixels, at the factor that suits the mean of their beams.

        Parameters
        ----------
        images : sequence of SkyImage
            In the order of the network.
        reference : SkyImage
            Gives blank pixels and shape.
        spec : NetworkSpec
        """
        sizes = [image.psf.size for image in images if image.psf is not None]
        scale = _scale(sizes, spec) if sizes else 1.0
        planes = tuple(cls._at(image, scale, spec, 1) for image in images)
        return cls._at(reference, scale, spec, 1)._replace(planes=planes)

    @classmethod
    def _at(
        cls, image: "SkyImage | Plane", scale: float, spec: NetworkSpec, threads: int
    ) -> "Frame":
        # The mesh has the network's scale too: as many beams a cell as in training.
        mesh = max(16, round(spec.input.mesh / scale))
        if isinstance(image, Plane):
            measured = Normalisation.measure_strips(image, mesh, threads)
            return cls(LazyPixels(image), (0, 0), scale, measured)
        made = Normalisation.measure(image.data, mesh, image.origin)
        return cls(image.data, image.origin, scale, made)

    @property
    def extent(self) -> Box:
        """The pixels of the network's full frame that hold the image."""
        low = [int(np.floor(o * self.scale)) for o in self.origin]
        high = [
            int(np.ceil((o + n) * self.scale))
            for o, n in zip(self.origin, self.image.shape, strict=True)
        ]
        return Box(low[0], high[0], low[1], high[1])

    def beam(self, box: Box) -> NDArray[np.float64] | None:
        """Covariance of the beam in the middle of a box, in pixels of the network squared."""
        if self.psf is None:
            return None
        y, x = (
            0.5 * (low + high) / self.scale - 0.5 - o
            for low, high, o in zip((box.y0, box.x0), (box.y1, box.x1), self.origin, strict=True)
        )
        return np.asarray(self.psf.covariances(x, y)[0] * self.scale**2)

    def tiles(self, side: int, stride: int = STRIDE, *, whole: bool = False) -> list[Tile]:
        """Tiles that cover the image, in pixels of the network's full frame.

        Parameters
        ----------
        side : int
            Longest side in pixels, a multiple of the stride and of `STRIDE`.
        stride : int
            The coarsest of the network.
        whole : bool
            Give all tiles the same side; otherwise they end where the image does, or a little
            behind it.
        """
        y0, y1, x0, x1 = self.extent
        halo = halo_of(side)
        step = side - 2 * halo
        rows, columns = (
            [
                (
                    (start, start + step),
                    (start - halo, start + step + halo)
                    if whole
                    else _reach(start - halo, start + step + halo, low, high, stride),
                )
                for start in range(low // step * step, high, step)
            ]
            for low, high in ((y0, y1), (x0, x1))
        )
        found = [
            Tile(Box(*row[0], *column[0]), Box(*row[1], *column[1]))
            for row, column in itertools.product(rows, columns)
        ]
        # those of one shape make batches
        return sorted(found, key=lambda tile: tile.padded.shape, reverse=True)

    def cut(self, box: Box) -> NDArray[np.float32]:
        """Return the normalised pixels of a box of the network's frame; 0 beyond the image.

        Of several planes the shape is (planes, ny, nx).
        """
        if self.planes:
            return np.stack([plane.cut(box) for plane in self.planes])
        if self.scale == 1.0:
            place = box.shift(-self.origin[0], -self.origin[1])
            return self._padded(place)
        from scipy import ndimage

        # pixel i of the network lies at (i + 0.5) / scale - 0.5 of the full frame
        step = 1.0 / self.scale
        start = [
            (v + 0.5) * step - 0.5 - o for v, o in zip((box.y0, box.x0), self.origin, strict=True)
        ]
        first = [int(np.floor(s)) - _MARGIN for s in start]
        length = [int(np.ceil(n * step)) + 2 * _MARGIN for n in box.shape]
        source = self._padded(Box(first[0], first[0] + length[0], first[1], first[1] + length[1]))
        offset = [s - f for s, f in zip(start, first, strict=True)]
        return np.asarray(
            ndimage.affine_transform(
                source, np.full(2, step), offset, box.shape, order=3, mode="nearest"
            )
        )

    def _padded(self, place: Box) -> NDArray[np.float32]:
        inside = place.intersect(Box(0, self.image.shape[0], 0, self.image.shape[1]))
        plane = np.zeros(place.shape, np.float32)
        if not inside.empty:
            target = inside.shift(-place.y0, -place.x0)
            plane[target.slices] = self.normalisation.apply(
                self.image[inside.slices], inside.y0, inside.x0
            )
        return plane


def _scale(sizes: Sequence[float], spec: NetworkSpec) -> float:
    """Pixels of the network a pixel of images whose beams have these sizes in the mean."""
    size = float(np.mean(sizes))
    return float(np.clip(size, *spec.input.shown_beams) / size)


def _reach(first: int, last: int, low: int, high: int, stride: int) -> tuple[int, int]:
    """Ends along an axis of what a tile reads of an image from low to high."""
    first = max(first, low // STRIDE * STRIDE)
    # features of a single cell are a case of their own to an exporter
    cells = max(2, -(-(min(last, high) - first) // stride))
    return first, first + cells * stride


def find_objects(
    frame: Frame,
    network: Network,
    side: int,
    batch: int,
    report: Callable[[float], None] = lambda share: None,
    collect: Callable[[Tile, NDArray[np.float32]], None] | None = None,
) -> Found:
    """Everything that a network finds in an image, in pixels of the network's full frame.

    Parameters
    ----------
    frame : Frame
    network : Network
        Called by as many threads as it allows; what is found does not depend on them.
    side : int
        Of the tiles, where the network takes any.
    batch : int
        Tiles of 512 x 512 pixels at a time; of larger ones fewer, so that as many pixels are held.
    report : callable
        Told the share of the tiles that are done.
    collect : callable, optional
        Given the features of the cells of every tile that is not blank, by the thread that the
        network is called in.

    Returns
    -------
    Found
        The same object may appear more than once near the seams of tiles.
    """
    side = network.size or side
    tiles = frame.tiles(side, network.stride, whole=network.whole)
    if network.worth_preparing is not None and len(tiles) >= network.worth_preparing:
        tiles = frame.tiles(side, network.stride, whole=True)
        network.prepare((side, side))

    def run(group: list[Tile]) -> list[Found]:
        planes = [frame.cut(tile.padded) for tile in group]
        filled = [i for i, plane in enumerate(planes) if plane.any()]
        if not filled:
            return []
        channels = np.stack([stretch(planes[i], network.spec.input.stretches) for i in filled])
        found = network.detect(channels)
        if collect is not None:
            for i, one in zip(filled, found, strict=True):
                assert one.cells is not None
                collect(group[i], one.cells)
        spec = network.spec
        return [
            _own(group[i], settle(f, planes[i], frame.beam(group[i].core), spec))
            for i, f in zip(filled, found, strict=True)
        ]

    parts: list[Found] = []
    done = 0
    for group, found in _in_order(run, _groups(tiles, batch), network.callers):
        parts += found
        done += len(group)
        report(done / len(tiles))
    if not parts:
        none = np.zeros((0, 4), np.float32)
        return Found(none, np.zeros((0, len(network.spec.classes)), np.float32), None)
    masks = [part.masks for part in parts if part.masks is not None]
    return Found(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(masks) if masks else None,
    )


def _groups(tiles: Iterable[Tile], batch: int) -> Iterator[list[Tile]]:
    """Tiles of one shape, as many as a batch holds."""
    for shape, alike in itertools.groupby(tiles, lambda tile: tile.padded.shape):
        number = max(1, batch * BATCH_TILE**2 // (shape[0] * shape[1]))
        while group := list(itertools.islice(alike, number)):
            yield group


def _in_order(
    run: Callable[[list[Tile]], list[Found]], groups: Iterable[list[Tile]], threads: int
) -> Iterator[tuple[list[Tile], list[Found]]]:
    """Run groups in threads, no more than these at a time, and yield in the groups' order."""
    if threads == 1:
        for group in groups:
            yield group, run(group)
        return
    waiting: deque[tuple[list[Tile], Future[list[Found]]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for group in groups:
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((group, pool.submit(run, group)))
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _own(tile: Tile, found: Found) -> Found:
    """What a tile owns, or nearly, of what was found in it, in pixels of the full frame."""
    core, place = tile.core, np.array([tile.padded.x0, tile.padded.y0] * 2, np.float32)
    moved = found.boxes + place
    centre = 0.5 * (moved[:, :2] + moved[:, 2:])
    low = np.array([core.x0, core.y0]) - _SEAM
    high = np.array([core.x1, core.y1]) + _SEAM
    own = ((centre >= low) & (centre < high)).all(1)
    # half the memory, for what is compared with one half only
    masks: Any = None if found.masks is None else found.masks[own].astype(np.float16)
    return Found(moved[own], found.scores[own], masks)
