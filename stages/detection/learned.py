"""What the learned detectors share: tiles, one network, seams, and calibrated probabilities."""

import importlib.util
import itertools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.products import Detections, Integers, Segments
from cyclades.stages.core.stage import Capabilities, DetectionStage, parameter
from cyclades.stages.core.streaming import Plane
from cyclades.stages.core.tiling import Box
from cyclades.stages.detection.wide import (
    Look,
    Objects,
    box_segments,
    likely_rows,
    look_again,
)
from cyclades.stages.networks.graphs import GraphDetector, has_graphs
from cyclades.stages.networks.heads.table import detection_of, find_head
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.tiles import STRIDE, Frame, Tile, find_objects, halo_of
from cyclades.stages.networks.weights import find_detector

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background
    from cyclades.stages.core.stage import WindowMaps

logger = logging.getLogger("cyclades.detection")

_MASKED = 0.5
_KEPT = "what a network found"


class LearnedDetection(DetectionStage):
    """A network finds boxes (and masks) of objects, tile by tile.

    The image is brought to units of its noise on a mesh of its own, whatever the background
    stage; images whose beam is not within what the network was trained for are resampled to it.
    Tiles lie on a grid anchored at pixel (0, 0) of the full frame; an object belongs to the tile
    that owns its centre. Scores are probabilities of being real, calibrated on simulations.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(needs_weights=True, windows=True)
    heads: ClassVar[tuple[str, ...]] = ()
    uses_masks: ClassVar[bool] = True

    weights: str = parameter("", "A shipped detector's name, a file, or a hub repository.")
    # F1 is highest at a probability of half the F1 that is reached (Lipton et al. 2014,
    # arXiv:1402.1892): 0.4 to 0.5 for skies on which it is 0.8 to 0.95.
    probability: float = parameter(0.4, "Least probability of being a real source.", gt=0.0, lt=1.0)
    reliability: float | None = parameter(
        None,
        "Wanted share of real ones among all detections, which then sets the probability.",
        gt=0.0,
        lt=1.0,
    )
    overlap: float = parameter(
        0.5, "Intersection over union above which the lower of two is dropped.", gt=0.0, le=1.0
    )
    tile: int = parameter(
        512,
        "Longest side of the tiles; graphs that take one size have their own.",
        unit="pixels",
        ge=192,
        multiple_of=STRIDE,
    )
    batch: int = parameter(
        4, "Tiles of 512 x 512 pixels at a time; of larger ones fewer, of smaller ones more.", ge=1
    )
    coarse: tuple[int, ...] = parameter(
        (4,),
        "Factors by which the image is shrunk for further looks, at objects wider than tiles show "
        "whole; [] for none.",
    )
    runtime: Literal["auto", "torch", "onnx"] = parameter(
        "auto", "torch, or ONNX Runtime where the weights were exported; auto takes what is there."
    )

    def model_post_init(self, context: object) -> None:
        """Check that the factors shrink, each more than the one before."""
        if any(b <= a for a, b in itertools.pairwise((1, *self.coarse))):
            raise ValueError(
                f"detection.coarse ({list(self.coarse)}) takes whole numbers from 2 on, each "
                "larger than the one before; [4] or [4, 16], say."
            )

    def detect(
        self,
        image: "SkyImage",
        background: "Background",
        *,
        context: "Context",
        keep: bool = False,
    ) -> Detections:
        """Return boxes, probabilities and classes; pixels too where the network gives masks.

        Parameters
        ----------
        image : SkyImage
            Blank pixels are zero to the network; nothing is found in blank tiles.
        background : Background
            Not looked at.
        context : Context
            Gives device and threads, and keeps the network.
        keep : bool
            Whether what the network finds in the image stays in the context, for the next stage
            that asks the same network in the same way; it takes it away.

        Raises
        ------
        ConfigurationError
            Where neither torch nor ONNX Runtime is installed.
        InputError
            Where the weights are missing, damaged, or of another kind of network.
        """
        objects, spec = self._look(image, context, keep)
        return as_detections(objects, spec, image)

    def detect_planes(
        self,
        images: "Mapping[str, SkyImage]",
        backgrounds: "Mapping[str, Background]",
        detection: str,
        *,
        context: "Context",
    ) -> Detections:
        """Return what a network finds that takes planes as channels.

        Networks of a single image get the detection plane. Backgrounds are not looked at.

        Parameters
        ----------
        images, backgrounds, detection, context
            See `cyclades.stages.core.stage.DetectionStage.detect_planes`.

        Raises
        ------
        ConfigurationError, InputError
            As `detect`, and where a plane is missing that the network takes.
        """
        wanted = self._network(context).spec.input.planes
        if not wanted:
            return super().detect_planes(images, backgrounds, detection, context=context)
        missing = [name for name in wanted if name not in images]
        if missing:
            raise InputError(
                f"The weights {self.weights} take the planes {', '.join(wanted)}, and the set has "
                f"no {missing[0]} (it has {', '.join(images)}); name its planes so, or give other "
                "weights."
            )
        planes = [images[name] for name in wanted]
        reference = images.get(detection, planes[0])
        objects, spec = self._look(reference, context, False, planes)
        return as_detections(objects, spec, reference)

    def survey(self, plane: Plane, maps: "WindowMaps", *, context: "Context") -> "FoundDetection":
        """Find everything in a plane that is read tile by tile; windows get their part of it."""
        objects, spec = self._look(plane, context, False)
        return FoundDetection(objects, spec, plane.shape, self.name)

    def _look(
        self,
        image: "SkyImage | Plane",
        context: "Context",
        keep: bool,
        planes: "Sequence[SkyImage]" = (),
    ) -> tuple[Objects, NetworkSpec]:
        """Objects in an image, or in planes that have its pixels, and what the network is."""
        network = self._network(context)
        spec: NetworkSpec = network.spec
        if planes:
            frame = Frame.of_planes(planes, cast("SkyImage", image), spec)
        else:
            frame = self._frame(image, spec, context.workers)
        # the shrunk image is one of a single plane
        coarse = () if planes else self.coarse
        cost = 1.0 + sum(factor**-2.0 for factor in coarse)
        found = self._found(
            image, frame, network, context, keep, lambda share: context.report(share / cost)
        )
        context.note("detection.network", {"name": spec.name, "scale": round(frame.scale, 4)})
        objects = _none(spec)
        least = self.probability
        if len(found.boxes):
            rows, likely = likely_rows(found, spec, self.overlap)
            least = self._least(likely[rows])
            context.note("detection.probability", round(least, 4))
            objects = self._objects(found, np.sort(rows[likely[rows] >= least]), likely, frame)
        if coarse:
            look = Look(network, self.tile, self.batch, self.overlap, least)
            objects = self._wide(image, frame, objects, look, context)
        context.report(1.0)
        return objects, spec

    def look(
        self,
        image: "SkyImage",
        *,
        context: "Context",
        collect: Callable[[Frame], Callable[[Tile, NDArray[np.float32]], None]],
    ) -> NetworkSpec:
        """Look at an image for another stage; what is found stays in the context for `detect`.

        Parameters
        ----------
        image : SkyImage
        context : Context
        collect : callable
            Given the image as the network sees it; returns what is given the features of the cells
            of each tile (see `cyclades.stages.networks.detector.cell_features`).

        Returns
        -------
        NetworkSpec

        Raises
        ------
        ConfigurationError, InputError
            As `detect`, and where the weights were not exported with the features of cells.
        """
        network = self._network(context, cells=True)
        frame = self._frame(image, network.spec)
        found = find_objects(frame, network, self.tile, self.batch, context.report, collect(frame))
        look = self._identity(image, context, cells=True)
        context.take(_KEPT)
        context.cached(_KEPT, lambda: (look, found))
        spec: NetworkSpec = network.spec
        return spec

    def _frame(self, image: "SkyImage | Plane", spec: NetworkSpec, threads: int = 1) -> Frame:
        """A single image as the network sees it."""
        if spec.input.planes:
            raise InputError(
                f"The weights {self.weights} take several planes ({', '.join(spec.input.planes)}); "
                "give an image of each, or weights of a network that takes a single image."
            )
        return Frame.of(image, spec, threads)

    def _identity(
        self, image: "SkyImage | Plane", context: "Context", *, cells: bool = False
    ) -> tuple[Any, ...]:
        """What two looks that find the very same have in common."""
        path = find_detector(self.weights)
        runtime = self._runtime(path, context.device, cells)
        return (str(path), runtime, context.device, self.tile, self.batch, weakref.ref(image))

    def _found(
        self,
        image: "SkyImage | Plane",
        frame: Frame,
        network: Any,
        context: "Context",
        keep: bool,
        report: Callable[[float], None],
    ) -> Found:
        """Everything that the network finds, or what a stage before kept of the very same look.

        One at most is kept, and only for the image object that was looked at: so nothing else
        can be taken for it, and images of a former run are not held.
        """
        look = self._identity(image, context)
        kept: tuple[Any, Found] | None = context.take(_KEPT)
        if kept is not None and kept[0] == look:
            found = kept[1]
        else:
            found = find_objects(frame, network, self.tile, self.batch, report)
        context.note("detection.shared", kept is not None and kept[1] is found)
        if keep:
            context.cached(_KEPT, lambda: (look, found))
        return found

    def _objects(
        self, found: Found, rows: Integers, likely: NDArray[np.float64], frame: Frame
    ) -> Objects:
        """Objects of some rows, in pixels of the image."""
        boxes = found.boxes[rows] / frame.scale - np.tile(frame.origin[::-1], 2)
        ny, nx = frame.image.shape
        boxes = np.clip(boxes, 0.0, np.array([nx, ny, nx, ny], float))
        inside = (boxes[:, 2:] - boxes[:, :2] > 0.5).all(1)
        boxes, rows = boxes[inside], rows[inside]
        masks = found.masks[rows] if found.masks is not None and self.uses_masks else None
        return Objects(boxes, likely[rows], found.scores[rows], masks, (None,) * len(rows))

    def _wide(
        self,
        image: "SkyImage | Plane",
        frame: Frame,
        objects: Objects,
        look: Look,
        context: "Context",
    ) -> Objects:
        """Look again at the shrunk image, for objects wider than tiles show whole."""
        shares = np.array([1.0, *(factor**-2.0 for factor in self.coarse)])
        done = np.cumsum(shares) / shares.sum()
        widest, notes = 2.0 * halo_of(look.network.size or self.tile), []
        for i, factor in enumerate(self.coarse):
            before = len(objects.boxes)
            objects, block = look_again(
                image, frame, objects, look, factor, widest, _part(context, done[i], done[i + 1])
            )
            added = sum(pixels is not None for pixels in objects.pixels)
            notes.append(
                {
                    "factor": factor,
                    "block": block,
                    "wide_objects": added,
                    "objects_before": before,
                    "objects_after": len(objects.boxes),
                }
            )
            widest *= factor
        context.note("detection.coarse", notes)
        return objects

    def _least(self, likely: NDArray[np.float64]) -> float:
        """Probability from which on detections are kept."""
        if self.reliability is None:
            return self.probability
        order = np.sort(likely[likely > 0])[::-1]
        share = np.cumsum(order) / np.arange(1, len(order) + 1)
        # of equal probabilities all are kept or none
        ends = np.append(order[1:] < order[:-1], True)[: len(order)]
        good = np.flatnonzero((share >= self.reliability) & ends)
        return float(order[good[-1]]) if good.size else 1.0

    def _network(self, context: "Context", *, cells: bool = False) -> Any:
        """Return the network of the weights, loaded once a run."""
        path = find_detector(self.weights)
        runtime = self._runtime(path, context.device, cells)
        key = ("detector", str(path), runtime, context.device, cells)
        network = context.cached(key, lambda: _load(path, runtime, context, cells))
        head = network.spec.head.name
        if head not in self.heads:
            raise InputError(
                f"{path}: these weights are of a {head} network; use them with "
                f"--set detection={detection_of(head)}."
            )
        return network

    def _runtime(self, path: Path, device: str, cells: bool = False) -> str:
        if self.runtime != "auto":
            return self.runtime
        exported = (
            has_graphs(path, cells=cells) and importlib.util.find_spec("onnxruntime") is not None
        )
        if exported and device == "cpu":
            return "onnx"
        if importlib.util.find_spec("torch") is not None:
            return "torch"
        if not has_graphs(path, cells=cells):
            extras = " and ".join(f"cyclades[{one}]" for one in find_head(self.heads[0]).extras)
            raise ConfigurationError(f"The weights {self.weights!r} need torch; install {extras}.")
        raise ConfigurationError(
            f"The detection {self.name!r} needs ONNX Runtime or torch; install cyclades[onnx] "
            "(some tens of megabytes) or cyclades[learned]."
        )


def as_detections(objects: Objects, spec: NetworkSpec, image: "SkyImage") -> Detections:
    """Detections of objects in pixels of an image."""
    segments = None
    if objects.masks is not None:
        segments = mask_segments(objects.boxes, objects.masks, image.data)
    if any(pixels is not None for pixels in objects.pixels):
        if segments is None:
            segments = box_segments(objects.boxes, image.shape)
        segments = Segments.from_lists(
            [segments[i] if own is None else own for i, own in enumerate(objects.pixels)]
        )
    chances = objects.scores[:, list(spec.real_classes)].astype(float)
    chances /= np.maximum(chances.sum(1, keepdims=True), 1e-9)
    return Detections(
        image.shape,
        objects.boxes - np.array([0.0, 0.0, 1.0, 1.0]),
        objects.likely,
        np.full(len(objects.boxes), -1, np.int64),
        segments=segments,
        class_probabilities=chances,
        classes=tuple(spec.classes[i] for i in spec.real_classes),
    )


@dataclass(frozen=True, eq=False)
class FoundDetection:
    """What a network found in a whole image, for any window of it.

    Parameters
    ----------
    objects : Objects
        In pixels of the full image.
    spec : NetworkSpec
    shape : (ny, nx)
        Of the full image.
    name : str
        Of the detection.
    """

    objects: Objects
    spec: NetworkSpec
    shape: tuple[int, int]
    name: str

    def detect(
        self, image: "SkyImage", background: "Background", *, context: "Context"
    ) -> Detections:
        """Return the objects that lie in a window as a whole."""
        window = image.box
        rows = np.flatnonzero(self._inside(window))
        objects = self.objects.take(rows)
        y0, x0 = image.origin
        inside = []
        for own in objects.pixels:
            if own is not None:
                y, x = np.divmod(own, self.shape[1])
                own = (y - y0) * image.shape[1] + x - x0
            inside.append(own)
        boxes = objects.boxes - np.array([x0, y0, x0, y0], float)
        return as_detections(objects._replace(boxes=boxes, pixels=tuple(inside)), self.spec, image)

    def doubtful(self, image: "SkyImage", background: "Background") -> Integers:
        """Boxes ``y0, y1, x0, x1`` of the objects that a window cuts."""
        window, boxes = image.box, self._whole_pixels()
        cut = ~self._inside(window)
        cut &= (boxes[:, 0] < window.y1) & (boxes[:, 1] > window.y0)
        cut &= (boxes[:, 2] < window.x1) & (boxes[:, 3] > window.x0)
        return boxes[cut]

    def _whole_pixels(self) -> Integers:
        """Boxes ``y0, y1, x0, x1`` of all pixels that objects touch."""
        low = np.floor(self.objects.boxes[:, [1, 0]]).astype(np.int64)
        high = np.ceil(self.objects.boxes[:, [3, 2]]).astype(np.int64)
        return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1)

    def _inside(self, window: Box) -> NDArray[np.bool_]:
        boxes = self._whole_pixels()
        inside = (boxes[:, 0] >= window.y0) & (boxes[:, 1] <= window.y1)
        return np.asarray(inside & (boxes[:, 2] >= window.x0) & (boxes[:, 3] <= window.x1))


def mask_segments(
    boxes: NDArray[np.float64], masks: NDArray[np.floating], data: NDArray[np.float32]
) -> Segments:
    """Pixels whose centres lie in a cell of a mask that is more likely in than out.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        With (0, 0) the outer corner of the first pixel.
    masks : ndarray, shape (n, m, m)
        Probabilities in the frame of each box, interpolated between the cells' centres.
    data : ndarray, shape (ny, nx)
        Blank pixels belong to no object.

    Returns
    -------
    Segments
        One row a box; where a mask holds no pixel, that of its highest cell.
    """
    found = _mask_pixels(
        np.ascontiguousarray(boxes, np.float64), np.ascontiguousarray(masks, np.float32), data
    )
    return Segments(*found)


@njit(
    "Tuple((int64[::1], int64[::1]))(float64[:, ::1], float32[:, :, ::1], float32[:, ::1])",
    cache=True,
    nogil=True,
)
def _mask_pixels(
    boxes: NDArray[np.float64], masks: NDArray[np.float32], data: NDArray[np.float32]
) -> tuple[Integers, Integers]:
    """See `mask_segments`."""
    ny, nx = data.shape
    number, m = len(boxes), masks.shape[1]
    offsets = np.zeros(number + 1, np.int64)
    size = 0
    for i in range(number):
        size += int((boxes[i, 2] - boxes[i, 0] + 2) * (boxes[i, 3] - boxes[i, 1] + 2)) + 1
    indices = np.empty(size, np.int64)
    n = 0
    for i in range(number):
        x0, y0, x1, y1 = boxes[i]
        best, highest = -1, -1.0
        start = n
        for y in range(max(0, int(y0)), min(ny, int(np.ceil(y1)))):
            for x in range(max(0, int(x0)), min(nx, int(np.ceil(x1)))):
                if not np.isfinite(data[y, x]):
                    continue
                u = (x + 0.5 - x0) / (x1 - x0) * m - 0.5
                v = (y + 0.5 - y0) / (y1 - y0) * m - 0.5
                if u < -0.5 or v < -0.5 or u > m - 0.5 or v > m - 0.5:
                    continue
                u, v = min(max(u, 0.0), m - 1.0), min(max(v, 0.0), m - 1.0)
                a, b = min(int(u), m - 2), min(int(v), m - 2)
                s, t = u - a, v - b
                p = (1 - t) * ((1 - s) * masks[i, b, a] + s * masks[i, b, a + 1]) + t * (
                    (1 - s) * masks[i, b + 1, a] + s * masks[i, b + 1, a + 1]
                )
                if p > highest:
                    highest, best = p, y * nx + x
                if p > _MASKED:
                    indices[n] = y * nx + x
                    n += 1
        if n == start and best >= 0:
            indices[n] = best
            n += 1
        offsets[i + 1] = n
    return indices[:n].copy(), offsets


def _load(path: Path, runtime: str, context: "Context", cells: bool = False) -> Any:
    if runtime == "onnx":
        return GraphDetector(path, context.workers, cells=cells)
    try:
        from cyclades.stages.networks.runtime import TorchDetector
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The weights {path.name} need the package {error.name!r}; install cyclades[learned]."
        ) from error
    return TorchDetector(path, context.device, context.workers, cells=cells)


def _part(context: "Context", start: float, end: float) -> Callable[[float], None]:
    """What reports the share of a part of the work as one of the whole."""
    return lambda share: context.report(float(start + (end - start) * share))


def _none(spec: NetworkSpec) -> Objects:
    """No objects."""
    scores = np.zeros((0, len(spec.classes)), np.float32)
    return Objects(np.zeros((0, 4)), np.zeros(0), scores, None, ())
