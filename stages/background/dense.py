"""Level and rms corrected by a dense head on a detector's backbone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.base import MeshBackground
from cyclades.stages.background.cells import STATISTICS, CellGrid
from cyclades.stages.background.dense_maps import (
    Corrections,
    DenseMaps,
    describe,
    describe_plane,
)
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.stage import BackgroundStage, Capabilities, parameter
from cyclades.stages.core.streaming import Plane
from cyclades.stages.networks.cell_maps import Project, cell_channels, put_cells
from cyclades.stages.networks.dense_background import COMMAND, BackgroundHead, read_head
from cyclades.stages.networks.heads.table import detection_of
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.tiles import Frame, Tile
from cyclades.stages.networks.weights import (
    find_background,
    find_detector,
    find_trunk,
    read_metadata,
)


class DenseBackground(BackgroundStage):
    """A classical estimate, corrected in small cells by what a network sees.

    A mesh estimator gives a first level and rms. A dense head looks at cells of 16 pixels of the
    network's image: the features of a detector's backbone, and statistics of the pixels in units
    of the first maps. It says by how much the level is to be shifted, in units of the rms, and the
    rms to be multiplied; smooth maps through the cells are applied to the first ones.

    What the detector finds in the same pass stays in the context for a detection that asks it in
    the same way, so that a run looks once.
    """

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "a mesh estimator corrected by a dense head on a detector's backbone"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_weights=True)

    weights: str = parameter("dense", "A shipped head's name, or a file.")
    tile: int | None = parameter(
        None, "Longest side of the network's tiles; the detection's own by default.", unit="pixels"
    )
    batch: int = parameter(
        4, "Tiles of 512 x 512 pixels at a time; of larger ones fewer, of smaller ones more.", ge=1
    )
    runtime: Literal["auto", "torch", "onnx"] = parameter(
        "auto", "torch, or ONNX Runtime where the weights were exported; auto takes what is there."
    )

    def model_post_init(self, context: object) -> None:
        """Check the size of tiles as the detection does."""
        create_stage("detection", "yolo", **self._looks("yolo"))

    def _looks(self, weights: str) -> dict[str, Any]:
        """Parameters of the detection whose network looks."""
        own = {"weights": weights, "batch": self.batch, "runtime": self.runtime}
        return own if self.tile is None else {**own, "tile": self.tile}

    def estimate(self, image: SkyImage, *, context: Context) -> Background:
        """Return level and rms maps of the image's shape and unit, NaN where it is blank.

        Parameters
        ----------
        image : SkyImage
        context : Context
            Keeps the head, the network, and what the network finds for the detection.

        Raises
        ------
        ConfigurationError
            Where neither torch nor ONNX Runtime is installed.
        InputError
            Where the weights are missing, damaged or no background's, or those of the backbone are
            not the ones that the head was trained on.
        """
        head = self._head(context)
        first = _mesh(head).estimate(image, context=context)
        if not np.isfinite(first.rms).any():
            return first
        seen = self._seen(image, head, context)
        made = head.corrections(seen.features, *describe(image, first, seen.grid))
        return Corrections.of(seen.grid, *made).apply(first)

    def survey(self, plane: Plane, *, context: Context) -> DenseMaps | None:
        """Measure a plane that is read by strips, for the same maps in less memory.

        Of each cell it keeps 34 numbers, half a byte for a pixel of the network. None where the
        mesh estimator cannot.

        Raises
        ------
        ConfigurationError, InputError
            As `estimate`.
        """
        head = self._head(context)
        first = _mesh(head).survey(plane, context=context)
        if first is None:
            return None
        seen = self._seen(plane, head, context)
        described = describe_plane(plane, first, seen.grid, context.workers)
        made = head.corrections(seen.features, *described)
        return DenseMaps(first, Corrections.of(seen.grid, *made))

    def _head(self, context: Context) -> BackgroundHead:
        path = find_background(self.weights)
        return context.cached(("background", str(path)), lambda: _load(path))

    def _seen(self, image: SkyImage | Plane, head: BackgroundHead, context: Context) -> "Seen":
        with context.noting_below("background"):
            return self.look(image, head.spec.trunk, head.spec.cell, head.project, context)

    def look(
        self, image: SkyImage | Plane, trunk: str, cell: int, project: Project, context: Context
    ) -> "Seen":
        """Features of the cells of an image.

        Parameters
        ----------
        image : SkyImage or Plane
        trunk : str
            The detector that looks; a shipped one's name, or a file.
        cell : int
            Side of the cells in pixels of the network.
        project : callable
            Takes the features of the cells of a tile, shape (features, rows, columns); returns
            what is kept of them.
        context : Context
        """
        file = find_detector(trunk)
        name = NetworkSpec.from_metadata(read_metadata(file), file).head.name
        detection = cast(Any, create_stage("detection", detection_of(name), **self._looks(trunk)))
        held: list[Seen] = []

        def collect(frame: Frame) -> Callable[[Tile, NDArray[np.float32]], None]:
            grid = CellGrid.of(image.shape, image.origin, frame.scale, cell)
            none = project(np.zeros((cell_channels(file), 0, 0), np.float32))
            seen = Seen(grid, np.zeros((len(none), *grid.shape), np.float32))
            held.append(seen)
            return lambda tile, features: put_cells(
                seen.features, grid.first, project(features), tile, cell
            )

        detection.look(image, context=context, collect=collect)
        return held[0]


class Seen(NamedTuple):
    """What a network saw of an image: its cells, and what is kept of their features."""

    grid: CellGrid
    features: NDArray[np.float32]


def _mesh(head: BackgroundHead) -> MeshBackground:
    """Return the estimator of the first maps."""
    made = create_stage("background", head.spec.estimator, **head.spec.options)
    return cast(MeshBackground, made)


def _load(path: Path) -> BackgroundHead:
    """Read a head, and see that it fits this version and the backbone that is here."""
    head = read_head(path)
    if head.spec.statistics != STATISTICS:
        raise InputError(
            f"{path}: was trained on other statistics of the pixels than this version takes; train "
            f"it anew with {COMMAND}."
        )
    try:
        find_trunk(head.spec.trunk, head.spec.trunk_sha256)
    except InputError as error:
        raise InputError(
            f"{path}: was trained on a backbone, {head.spec.trunk}, that is not here or has been "
            f"changed; put its file back, or train the head anew with {COMMAND}."
        ) from error
    return head
