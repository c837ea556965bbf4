"""What the learned detectors share: tiles, one network, seams, and calibrated probabilities."""

import importlib.util
import itertools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.products import Detections, Integers
from cyclades.stages.core.stage import Capabilities, DetectionStage, parameter
from cyclades.stages.core.streaming import Plane
from cyclades.stages.detection.found import FoundDetection, as_detections
from cyclades.stages.detection.wide import (
    Look,
    Objects,
    likely_rows,
    look_again,
)
from cyclades.stages.networks.cell_maps import Collect, keep_cells, wanted_cells
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

    def prepare(self, *, context: "Context") -> None:
        """Load the network.

        Raises
        ------
        ConfigurationError, InputError
            As `detect`.
        """
        self._network(context)

    def survey(
        self, plane: Plane, maps: "WindowMaps", *, context: "Context", keep: bool = False
    ) -> FoundDetection:
        """Find everything in a plane that is read tile by tile; windows get their part of it.

        See `detect` for `keep`.
        """
        objects, spec = self._look(plane, context, keep)
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
        image: "SkyImage | Plane",
        *,
        context: "Context",
        collect: Callable[[Frame], Collect] | None = None,
    ) -> NetworkSpec:
        """Look at an image for another stage; what is found stays in the context for `detect`.

        Parameters
        ----------
        image : SkyImage or Plane
        context : Context
        collect : callable, optional
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
        frame = self._frame(image, network.spec, context.workers)
        taken = None if collect is None else collect(frame)
        found = self._shown(image, frame, network, context, context.report, taken)
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
        cells = cells or wanted_cells(context, path) is not None
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
            found = self._shown(image, frame, network, context, report)
        context.note("detection.shared", kept is not None and kept[1] is found)
        if keep:
            context.cached(_KEPT, lambda: (look, found))
        return found

    def _shown(
        self,
        image: "SkyImage | Plane",
        frame: Frame,
        network: Any,
        context: "Context",
        report: Callable[[float], None],
        collect: Collect | None = None,
    ) -> Found:
        """Show the network every tile, once for all that stages want of it."""
        wanted = None if frame.planes else wanted_cells(context, find_detector(self.weights))
        if wanted is None:
            return find_objects(frame, network, self.tile, self.batch, report, collect)
        cells, keep = wanted.start(frame)

        def both(tile: Tile, features: NDArray[np.float32]) -> None:
            keep(tile, features)
            if collect is not None:
                collect(tile, features)

        found = find_objects(frame, network, self.tile, self.batch, report, both)
        keep_cells(context, wanted, image, cells)
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
        cells = cells or wanted_cells(context, path) is not None
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
