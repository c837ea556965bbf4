"""A mesh estimator that leaves out what a network takes for a source."""

from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cyclades.stages.background.base import MeshBackground
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.objects import flood_objects
from cyclades.stages.core.products import Background, Detections
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.segments import compact_objects, significance_map
from cyclades.stages.core.stage import BackgroundStage, Capabilities, WindowMaps, parameter
from cyclades.stages.core.streaming import BitMask, Plane
from cyclades.stages.networks.heads.table import detection_of
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_detector, read_metadata

UNKNOWN_BEAM = 4.0
"""FWHM in pixels by which objects grow where no beam is known."""


class MaskedBackground(BackgroundStage):
    """Level and rms of the pixels outside the objects that a learned detector finds.

    The estimator masks what stands out of its own first maps, so that it is blind to emission
    that those maps have swallowed. A network knows objects by their looks, in an image that is
    normalised on a mesh of its own. Its objects are left out from the first statistics on, besides
    what the estimator masks itself; cells without enough pixels are filled from their neighbours.

    What the network finds stays in the context for a detection that asks the same network in the
    same way, so that a run looks once.
    """

    name: ClassVar[str] = "masked"
    summary: ClassVar[str] = "a mesh estimator without the pixels of objects that a network finds"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_weights=True)

    estimator: Literal["grid", "sep", "photutils"] = parameter(
        "grid", "The background that takes the statistics."
    )
    options: dict[str, Any] = parameter(
        {}, "Its parameters where they are not the default, as {box_beams: 20}."
    )
    weights: str = parameter("mask_rcnn", "A shipped detector's name, a file, or a hub repository.")
    # A noise peak taken for a source costs a few pixels; a source that is not costs a bias.
    probability: float = parameter(
        0.05, "Least probability of being a real source of the objects left out.", gt=0.0, lt=1.0
    )
    flood: float = parameter(
        1.5, "Deviation down to which objects are flooded in their boxes.", unit="local rms", gt=0.0
    )
    grow: float = parameter(
        0.5, "By how much objects are grown; a beam is 4 pixels where none is known.",
        unit="beams", ge=0.0, le=20.0,
    )  # fmt: skip
    tile: int | None = parameter(
        None, "Longest side of the network's tiles; the detection's own by default.", unit="pixels"
    )
    batch: int = parameter(
        4, "Tiles of 512 x 512 pixels at a time; of larger ones fewer, of smaller ones more.", ge=1
    )
    coarse: tuple[int, ...] = parameter(
        (4,), "Factors by which the image is shrunk for further looks at wide objects; [] for none."
    )
    runtime: Literal["auto", "torch", "onnx"] = parameter(
        "auto", "torch, or ONNX Runtime where the weights were exported; auto takes what is there."
    )

    def model_post_init(self, context: object) -> None:
        """Check the estimator's parameters, and those of the detection as far as any has them."""
        for kind, name, parameters in (
            ("background", self.estimator, self.options),
            ("detection", "mask_rcnn", self._looks()),
        ):
            try:
                create_stage(kind, name, **parameters)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = ".".join(str(part) for part in first["loc"])
                message = str(first["msg"]).removeprefix("Value error, ")
                raise ValueError(f"{kind} {name!r}, {place or 'as a whole'}: {message}") from error

    def _looks(self) -> dict[str, Any]:
        """Parameters of the detection."""
        names = ("weights", "probability", "batch", "coarse", "runtime")
        parameters = {name: getattr(self, name) for name in names}
        return parameters if self.tile is None else {**parameters, "tile": self.tile}

    def estimate(self, image: SkyImage, *, context: Context) -> Background:
        """Return level and rms maps of the image's shape and unit, NaN where it is blank.

        Parameters
        ----------
        image : SkyImage
        context : Context
            Keeps what the network finds for the detection.

        Raises
        ------
        ConfigurationError
            Where neither torch nor ONNX Runtime is installed.
        InputError
            Where the weights are missing, damaged, or no detector's.
        """
        mesh = self._mesh()
        sources = self.source_pixels(image, mesh, context)
        _note_share(context, int(np.count_nonzero(sources)), image.shape)
        return mesh.estimate(image, context=context, sources=sources)

    def survey(self, plane: Plane, *, context: Context) -> WindowMaps | None:
        """Measure a plane that is read by strips, for the same maps in little memory.

        None where the estimator cannot.

        Raises
        ------
        ConfigurationError, InputError
            As `estimate`.
        """
        mesh = self._mesh()
        with context.noting_below("background"):
            first = mesh.survey(plane, context=context)
            if first is None:
                return None
            found = self._detection().survey(plane, first, context=context, keep=True)
        sources = plane_sources(found, plane, first, self.flood, self._radius(plane), context)
        number = sum(int(np.count_nonzero(sources[rows])) for rows in plane.strips())
        _note_share(context, number, plane.shape)
        return mesh.survey(plane, context=context, sources=sources)

    def _mesh(self) -> MeshBackground:
        """Return the estimator."""
        return cast(MeshBackground, create_stage("background", self.estimator, **self.options))

    def _detection(self) -> Any:
        """Return the detection, by the network that the weights are of."""
        path = find_detector(self.weights)
        head = NetworkSpec.from_metadata(read_metadata(path), path).head.name
        return create_stage("detection", detection_of(head), **self._looks())

    def _radius(self, image: SkyImage | Plane) -> int:
        """Pixels by which objects are grown."""
        beam = UNKNOWN_BEAM if image.psf is None else image.psf.size
        return round(self.grow * beam)

    def source_pixels(
        self, image: SkyImage, mesh: MeshBackground, context: Context
    ) -> NDArray[np.bool_]:
        """Pixels of the objects that the network finds, grown.

        Parameters
        ----------
        image : SkyImage
        mesh : MeshBackground
            Gives the maps that boxes are flooded above.
        context : Context

        Returns
        -------
        ndarray of bool, shape (ny, nx)
        """
        with context.noting_below("background"):
            first = mesh.estimate(image, context=context)
            found = self._detection().detect(image, first, context=context, keep=True)
        return grown(object_pixels(found, image, first, self.flood), self._radius(image))


def _note_share(context: Context, number: int, shape: tuple[int, int]) -> None:
    context.note("background.masked_share", round(number / (shape[0] * shape[1]), 5))


def object_pixels(
    found: Detections, image: SkyImage, background: Background, flood: float
) -> NDArray[np.bool_]:
    """Pixels of objects: what a flood of their boxes reaches, and their masks.

    Masks are drawn where an object outshines the noise, and leave its faint rims out; a flood
    follows them, and misses what is fainter still inside a mask.

    Parameters
    ----------
    found : Detections
        One row an object. Segments that fill their box are the box itself, and no mask.
    image, background : SkyImage, Background
        What the flood looks at.
    flood : float
        Deviation down to which a box is flooded, in units of the local rms.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    mask = np.zeros(found.shape, bool)
    flat, segments = mask.ravel(), found.segments
    if segments is not None:
        sides = np.rint(found.box[:, 2:] - found.box[:, :2]) + 1.0
        masks = segments.take(np.flatnonzero(segments.lengths < sides.prod(1)))
        flat[masks.indices] = True
    significance = significance_map(image, background)
    flooded = flood_objects(significance, found.box, flood, compact_objects(found))
    flat[flooded.indices] = True
    return mask


def plane_sources(
    found: Any,
    plane: Plane,
    maps: WindowMaps,
    flood: float,
    radius: int,
    context: Context,
) -> BitMask:
    """Pixels of the objects of a plane, grown, strip by strip; see `object_pixels`.

    Parameters
    ----------
    found : FoundDetection
        See `cyclades.stages.detection.found`.
    plane : Plane
    maps : WindowMaps
        What the flood of boxes looks at.
    flood : float
        As for `object_pixels`.
    radius : int
        Pixels by which they are grown.
    context : Context
    """
    pixels, sources = BitMask(plane.shape), BitMask(plane.shape)
    for rows in plane.strips():
        part = found.of_rows(rows)
        if part is None:
            continue
        objects, box = part
        image = plane.source.window(box)
        background = maps.window(image)
        detections = objects.detect(image, background, context=context)
        inside = object_pixels(detections, image, background, flood)
        pixels.join(slice(box.y0, box.y1), slice(box.x0, box.x1), inside)
    for rows in plane.strips():
        sources[rows] = pixels.grown(rows, radius)
    return sources


def grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels within a radius of those of a mask."""
    return source_mask(mask.astype(np.float32), seed=0.5, flood=0.5, grow=radius)
