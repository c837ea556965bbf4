"""Masks of objects that another detection found, by a network that is told where they are."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.products import Detections, Floats, Integers, Segments
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.segments import complete_detections, segment_boxes
from cyclades.stages.core.stage import Capabilities, DetectionStage, parameter
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.inputs import Normalisation, stretch
from cyclades.stages.networks.tiles import STRIDE, Frame, Tile
from cyclades.stages.networks.weights import find_model

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background

Stretch = Literal["asinh", "faint", "bright", "linear"]
WHOLE = 0.5
"""Share of a tile from which on a mask is taken for the sky, not for an object."""
DARKEST, BRIGHTEST = -3.0, 100.0
"""S/N that is black and white in the picture."""
_SEARCH_SHARE = 0.2
"""Of the whole work, for reports: finding the objects."""


class PromptableDetection(DetectionStage):
    """A network of the kind "segment anything" draws the masks of objects that are found already.

    Another detection finds the objects. The network is shown the image tile by tile, as a picture,
    and told the box or the peak of each; its mask takes the place of the object's pixels. Objects
    without a usable mask keep the pixels that they have: where the mask is empty, covers half the
    tile, misses the object, or is of too low a quality by the network's own estimate, and objects
    that are negative or wider than tiles show whole.
    """

    name: ClassVar[str] = "promptable"
    summary: ClassVar[str] = (
        "masks by a segment-anything network of objects another detection finds"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(needs_weights=True, gives_segments=True)

    detector: str = parameter("islands", "The detection that finds the objects.")
    detector_options: dict[str, Any] = parameter(
        {}, "Its parameters, as detector_options.seed_threshold=6."
    )
    weights: str = parameter(
        "facebook/sam-vit-base",
        "A SAM or SAM 2 model: a folder with config.json and model.safetensors, or a hub "
        "repository.",
    )
    prompt: Literal["box", "peak", "both"] = parameter(
        "box", "What the network is told of each object."
    )
    margin: float = parameter(1.0, "By which boxes are grown on each side.", unit="pixels", ge=0.0)
    quality: float = parameter(
        0.5,
        "Least intersection over union of a mask with its object, as the network estimates it.",
        ge=0.0,
        le=1.0,
    )
    tile: int = parameter(
        256,
        "Side of the tiles, of which each is enlarged to the network's size; small ones show "
        "sources of few pixels larger.",
        unit="pixels",
        ge=192,
        multiple_of=STRIDE,
    )
    stretches: tuple[Stretch, Stretch, Stretch] = parameter(
        ("asinh", "faint", "bright"), "Brightness curves that are the picture's colours."
    )

    def model_post_init(self, context: object) -> None:
        """Check that the objects' detection can be made."""
        if self.detector == self.name:
            raise ValueError(
                "detection.detector names the detection that finds the objects, as islands; "
                "promptable itself finds none."
            )
        try:
            self.finder()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "its parameters"
            raise ValueError(
                f"detection.detector_options, {where} of {self.detector}: {first['msg']}; "
                f"'cyclades stages {self.detector}' lists its parameters."
            ) from None
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    def finder(self) -> DetectionStage:
        """Return the detection that finds the objects."""
        made = create_stage("detection", self.detector, **self.detector_options)
        assert isinstance(made, DetectionStage)
        return made

    def detect(
        self, image: "SkyImage", background: "Background", *, context: "Context"
    ) -> Detections:
        """Return the objects of the other detection with their masks as pixels.

        Each component of a blend is an object of its own.

        Parameters
        ----------
        image : SkyImage
            Blank pixels are black to the network, and belong to no object.
        background : Background
            Given to the other detection; the picture has a level and a noise of its own.
        context : Context
            Gives device and threads, and keeps the network.

        Raises
        ------
        ConfigurationError
            Where torch or transformers is not installed.
        InputError
            Where weights are missing, damaged, or of another kind of network.
        """
        listener = context.listener
        if listener is not None:
            context.listener = lambda share: listener(_SEARCH_SHARE * share)
        try:
            found = self.finder().detect(image, background, context=context)
        finally:
            context.listener = listener
        if not found.complete:
            found = complete_detections(image, background, found, context=context)
        alone = np.full(len(found), -1, np.int64)
        objects = found.replace(parent=alone, source=None).take(found.leaves)
        network = self._network(context)
        frame = Frame(
            image.data, image.origin, 1.0, Normalisation.measure(image.data, origin=image.origin)
        )
        assert objects.segments is not None
        pixels = [objects.segments[row] for row in range(len(objects))]
        masked = 0
        tiles = frame.tiles(self.tile, whole=True)
        for done, tile in enumerate(tiles):
            rows = _members(objects, tile, image.origin)
            for row, mask in self._masks(frame, tile, objects, rows, network):
                pixels[row] = mask
                masked += 1
            context.report(_SEARCH_SHARE + (1.0 - _SEARCH_SHARE) * (done + 1) / len(tiles))
        context.note("detection.masks", {"objects": len(objects), "masked": masked})
        segments = Segments.from_lists(pixels)
        boxes = segment_boxes(segments, image.shape[1])
        boxes = np.where(np.isfinite(boxes), boxes, objects.box)
        return objects.replace(box=boxes, segments=segments, summit=None)

    def _masks(
        self, frame: Frame, tile: Tile, objects: Detections, rows: Integers, network: Any
    ) -> list[tuple[int, Integers]]:
        """Rows of objects and the pixels of their masks, where those are of use."""
        if not rows.size:
            return []
        padded = tile.padded
        shift = np.array([padded.x0 - frame.origin[1], padded.y0 - frame.origin[0]], float)
        boxes = points = None
        if self.prompt != "peak":
            grown = objects.box[rows] + np.array([0.0, 0.0, 1.0, 1.0])
            grown += np.array([-1.0, -1.0, 1.0, 1.0]) * self.margin
            boxes = np.clip(grown - np.tile(shift, 2), 0.0, float(self.tile))
        if self.prompt != "box":
            assert objects.summit is not None
            points = objects.summit[rows] + 0.5 - shift
        picture = make_picture(frame.cut(padded), self.stretches)
        masks, quality = network.segment(picture, boxes, points)
        place = padded.shift(-frame.origin[0], -frame.origin[1])
        inside = place.intersect(Box(0, frame.image.shape[0], 0, frame.image.shape[1]))
        seen = inside.shift(-place.y0, -place.x0).slices
        usable = np.isfinite(frame.image[inside.slices])
        assert objects.segments is not None
        made = []
        for row, mask, value in zip(rows.tolist(), masks, quality, strict=True):
            own = mask[seen]
            if not value >= self.quality or own.mean() >= WHOLE:
                continue
            y, x = np.nonzero(own & usable)
            flat = (y + inside.y0) * frame.image.shape[1] + x + inside.x0
            if np.isin(objects.segments[row], flat, assume_unique=True).any():
                made.append((row, flat.astype(np.int64)))
        return made

    def _network(self, context: "Context") -> Any:
        """Return the network of the weights, loaded once a run."""
        folder = find_model(self.weights)

        def load() -> Any:
            try:
                from cyclades.stages.networks.prompts import PromptedNetwork
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"The detection {self.name!r} needs the package {error.name!r}; install "
                    "cyclades[learned] and cyclades[transformers]."
                ) from error
            return PromptedNetwork(folder, context.device, context.workers)

        return context.cached(("prompted", str(folder), context.device), load)


def make_picture(
    normalised: NDArray[np.float32], stretches: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return an image in units of its noise as a picture, 0 ... 1, one colour a stretch.

    Parameters
    ----------
    normalised : ndarray, shape (h, w)
    stretches : tuple of str
        Of `cyclades.stages.networks.inputs.STRETCHES`.

    Returns
    -------
    ndarray, shape (len(stretches), h, w), float32
        Black from `DARKEST` downwards, white from `BRIGHTEST` upwards.
    """
    low, high = stretch(np.array([[DARKEST, BRIGHTEST]], np.float32), stretches)[:, 0].T
    channels = stretch(normalised, stretches)
    scaled = (channels - low[:, None, None]) / (high - low)[:, None, None]
    return np.asarray(np.clip(scaled, 0.0, 1.0), np.float32)


def _members(objects: Detections, tile: Tile, origin: tuple[int, int]) -> Integers:
    """Rows of the positive objects that a tile owns, by their boxes' centres, and shows whole."""
    corner: Floats = np.array([origin[1], origin[0]], float)
    low, high = objects.box[:, :2] + corner, objects.box[:, 2:] + 1.0 + corner
    centre = 0.5 * (low + high)
    core, padded = tile.core, tile.padded
    own = (centre >= (core.x0, core.y0)) & (centre < (core.x1, core.y1))
    whole = (low >= (padded.x0, padded.y0)) & (high <= (padded.x1, padded.y1))
    return np.flatnonzero(own.all(1) & whole.all(1) & (objects.signs > 0))
