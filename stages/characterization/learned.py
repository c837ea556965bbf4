"""Measurements by a network: position, fluxes, shape and their covariance of each component."""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.gaussian import segment_residuals
from cyclades.stages.characterization.island_light import with_left_light
from cyclades.stages.characterization.moments import MomentsCharacterization, blank_components
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import PARAMETERS, Background, Components, Detections, Integers
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.rendering import gaussians_at
from cyclades.stages.core.segments import segment_boxes
from cyclades.stages.core.stage import Capabilities, CharacterizationStage, parameter
from cyclades.stages.core.streaming import Plane
from cyclades.stages.networks.cell_maps import CellMap, Wanted, seen_cells, want_cells
from cyclades.stages.networks.graphs import REGION_GRAPH, graph_file
from cyclades.stages.networks.heads.table import detection_of
from cyclades.stages.networks.region_answers import RegionMeasurer
from cyclades.stages.networks.region_cells import regions
from cyclades.stages.networks.region_graphs import GraphHeads
from cyclades.stages.networks.region_results import beam_fluxes, in_pixels, wider_probability
from cyclades.stages.networks.region_spec import RegionSpec
from cyclades.stages.networks.region_windows import (
    Windows,
    cut_windows,
    noise_size,
    window_reach,
)
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_measurer, find_trunk, read_metadata


class LearnedCharacterization(CharacterizationStage):
    """A region head measures each component in its window of the image.

    It sees the image minus level over rms, in the frame of the beam and divided by its peak, so
    that scaling image and rms scales fluxes and errors. It was trained flat in the logarithms of
    flux and size, with a penalty on its bias against truth, and its errors were calibrated on
    held-out simulations. What lies outside its training (beams of too few or too many pixels,
    segments wider than its window) is measured by moments, and `fit_type` says so.

    A head may see features of a detector's backbone as well. They are those of the look that the
    stages before it took with that detector; where none did, it looks itself.
    """

    name: ClassVar[str] = "learned"
    summary: ClassVar[str] = "a network's positions, fluxes and shapes, with full covariances"
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_beam=True, needs_weights=True, windows=True
    )
    adds: ClassVar[tuple[str, ...]] = ()

    weights: str = parameter(
        "measurement", "A shipped region head's name, or a file with one or several."
    )
    runtime: Literal["auto", "torch", "onnx"] = parameter(
        "auto", "torch, or ONNX Runtime where the weights were exported; auto takes what is there."
    )
    orientations: int = parameter(
        1,
        "Ways to turn and mirror each window, over which the answers are averaged; 8 make results "
        "independent of the image's orientation, at 8 times the cost.",
        ge=1,
        le=8,
    )
    tile: int | None = parameter(
        None,
        "Longest side of the tiles of a look of its own, for heads that see features of a "
        "detector; the detection's own by default.",
        unit="pixels",
    )
    beam_tolerance: float = parameter(
        0.01,
        "Relative uncertainty of the beam's size, allowed for before a source is called resolved.",
        ge=0,
    )

    def model_post_init(self, context: object) -> None:
        """Check the size of tiles as the detection does."""
        create_stage("detection", "yolo", **self._looks())

    def _looks(self) -> dict[str, Any]:
        """Parameters of a look of its own."""
        look = {"runtime": self.runtime}
        return look if self.tile is None else {**look, "tile": self.tile}

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Return one row a leaf of `detections`, in their order.

        Raises
        ------
        ConfigurationError
            Where neither torch nor ONNX Runtime is installed, or the weights need torch.
        InputError
            Where the weights are missing, damaged, or of another kind.
        """
        assert image.psf is not None
        assert detections.segments is not None
        network = self._network(context)
        leaves = detections.leaves
        noise = noise_autocorrelation(image, background, context=context)
        usable = np.isfinite(background.rms) & (background.rms > 0)
        excess = np.where(usable, image.data - background.level, np.float32(np.nan))
        result = blank_components(detections, leaves, "learned", ())
        result = replace(result, total_share=np.full(len(leaves), np.nan))
        result.n_pixels[:] = detections.segments.take(leaves).lengths
        result.flags[detections.parent[leaves] >= 0] |= Flag.BLENDED
        result.flags[detections.signs[leaves] < 0] |= Flag.NEGATIVE
        if noise.origin != "measured":
            result.flags[:] |= Flag.ERRORS_FROM_BEAM
        known = self._known(image, detections, leaves, excess, network.spec)
        rows = np.flatnonzero(known)
        windows = cut_windows(
            excess, background.rms, detections, leaves[rows], image.psf,
            noise_size(noise, image.psf),
        )  # fmt: skip
        self._fill(result, rows, windows, network, image, detections.signs[leaves[rows]], context)
        result = with_left_light(
            result, detections, excess, background.rms, image.psf,
            float(np.exp(noise_size(noise, image.psf))), known,
        )  # fmt: skip
        context.note("characterization.by_moments", int(np.count_nonzero(~known)))
        if not known.all():
            result = self._by_moments(
                result, ~known, image, background, detections, context=context
            )
        segments = detections.segments.take(leaves)
        values = np.column_stack([getattr(result, name) for name in PARAMETERS])
        model = gaussians_at(image.shape, values, segments.indices)
        residual = image.data.ravel()[segments.indices] - model
        residual -= background.level.ravel()[segments.indices]
        result.residual_mean[:], result.residual_rms[:] = segment_residuals(residual, segments)
        return result

    def _known(
        self,
        image: SkyImage,
        detections: Detections,
        leaves: Integers,
        excess: NDArray[np.float32],
        spec: RegionSpec,
    ) -> NDArray[np.bool_]:
        """Leaves that are like what the network was trained on."""
        assert image.psf is not None
        assert detections.segments is not None
        assert detections.summit is not None
        summit = detections.summit[leaves]
        beams = image.psf.covariances(summit[:, 0], summit[:, 1])
        size = 2.3548 * np.linalg.det(beams) ** 0.25 if len(leaves) else np.zeros(0)
        boxes = segment_boxes(detections.segments.take(leaves), image.shape[1])
        reach = np.fmax(summit - boxes[:, :2], boxes[:, 2:] - summit).max(1, initial=0.0)
        x, y = np.clip(np.rint(summit).astype(int).T, 0, np.array(image.shape[::-1])[:, None] - 1)
        low, high = spec.beam_pixels
        known = (size >= low) & (size <= high) & (reach <= spec.largest * size)
        known &= np.isfinite(excess[y, x]) & np.isfinite(boxes[:, 0])
        return np.asarray(known, bool)

    def _fill(
        self,
        result: Components,
        rows: Integers,
        windows: Windows,
        network: RegionMeasurer,
        image: SkyImage,
        sign: Integers,
        context: Context,
    ) -> None:
        """Measure some rows and write them to the result."""
        around = self._around(network, windows, image, context)
        mean, covariance = network.measure(windows, around, self.orientations)
        measured = in_pixels(mean, covariance, windows)
        for k, name in enumerate(PARAMETERS):
            getattr(result, name)[rows] = measured.values[:, k]
        result.peak[rows] *= sign
        result.covariance[rows] = measured.covariance
        result.covariance[rows, 0, 1:] *= sign[:, None]
        result.covariance[rows, 1:, 0] *= sign[:, None]
        result.total[rows], result.total_err[rows] = sign * measured.total, measured.total_err
        if result.total_share is not None:
            shared = network.calibration.together[0] ** 2 * measured.total_err**2
            blended = result.flags[rows] & Flag.BLENDED > 0
            result.total_share[rows[blended]] = shared[blended]
        flux, error = beam_fluxes(windows, mean[:, 1:3])
        unit = windows.scale * windows.rms
        alone = result.flags[rows] & Flag.BLENDED == 0
        result.beam_flux[rows] = np.where(alone, sign * flux * unit, np.nan)
        result.beam_flux_err[rows] = np.where(alone, error * unit, np.nan)
        result.resolved_probability[rows] = wider_probability(
            measured.logarithm, measured.logarithm_covariance, self.beam_tolerance
        )

    def _by_moments(
        self,
        result: Components,
        rows: NDArray[np.bool_],
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Put the rows of moments in place of some."""
        other = MomentsCharacterization(beam_tolerance=self.beam_tolerance).measure(
            image, background, detections, context=context
        )
        for name, values in vars(result).items():
            moments = getattr(other, name)
            if isinstance(values, np.ndarray) and moments is not None:
                values[rows] = moments[rows]
        kinds = np.where(rows, other.fit_type, result.fit_type)
        return replace(result, fit_type=tuple(kinds.tolist()))

    def reach(self, plane: Plane) -> float | None:
        """Pixels to the corners of a head's window; None for a head that sees a detector's look.

        See `cyclades.stages.core.stage.CharacterizationStage.reach`.
        """
        spec = RegionSpec.from_file(find_measurer(self.weights))
        if spec.trunk is not None or plane.psf is None:
            return None
        return window_reach(plane.psf, plane.shape)

    def prepare(self, *, context: Context) -> None:
        """Load the heads, and say which features they want of a detector's look.

        Raises
        ------
        ConfigurationError, InputError
            As `measure`.
        """
        wanted = _wanted(self._network(context))
        if wanted is not None:
            want_cells(context, wanted)

    def _around(
        self, network: RegionMeasurer, windows: Windows, image: SkyImage, context: Context
    ) -> NDArray[np.float32] | None:
        """Features of a backbone around the windows, for heads that see such."""
        wanted = _wanted(network)
        if wanted is None or not len(windows.scale):
            return None
        cells = seen_cells(context, wanted, image)
        context.note("characterization.shared", cells is not None)
        if cells is None:
            cells = self._look(wanted, image, context)
        return regions(cells, windows.centre, windows.frame)

    def _look(self, wanted: Wanted, image: SkyImage, context: Context) -> CellMap:
        """Look at an image of which no stage before kept what is wanted."""
        want_cells(context, wanted)
        spec = NetworkSpec.from_metadata(read_metadata(wanted.weights), wanted.weights)
        look = {"weights": str(wanted.weights), **self._looks()}
        detection = cast(Any, create_stage("detection", detection_of(spec.head.name), **look))
        with context.noting_below("characterization"):
            detection.look(image, context=context)
        cells = seen_cells(context, wanted, image)
        assert cells is not None
        return cells

    def _network(self, context: Context) -> RegionMeasurer:
        path = find_measurer(self.weights)
        runtime = self._runtime(path, context.device)
        key = ("measurer", str(path), runtime, context.device, context.workers)
        return context.cached(key, partial(_load, path, runtime, context))

    def _runtime(self, path: Path, device: str) -> str:
        """What runs the heads: ONNX Runtime where it can, as detections do."""
        if self.runtime != "auto":
            return self.runtime
        exported = graph_file(path, REGION_GRAPH).is_file()
        if exported and device == "cpu" and importlib.util.find_spec("onnxruntime") is not None:
            return "onnx"
        if importlib.util.find_spec("torch") is not None:
            return "torch"
        if exported:
            raise ConfigurationError(
                "The characterization 'learned' needs ONNX Runtime or torch; install "
                "cyclades[onnx] (some tens of megabytes) or cyclades[learned]."
            )
        raise ConfigurationError(
            f"The weights {self.weights!r} need torch; install cyclades[learned], or choose "
            "another characterization."
        )


def _wanted(network: RegionMeasurer) -> Wanted | None:
    """What heads want of a detector's look at the image."""
    trunk, project = network.spec.trunk, network.heads.projection
    if trunk is None or project is None:
        return None
    try:
        path = find_trunk(trunk.weights, trunk.sha256)
    except InputError as error:
        raise InputError(
            f"The heads of {network.spec.name} were trained on a backbone, {trunk.weights}, that "
            "is not here or has been changed; put its file back, or train them anew with python -m "
            "cyclades.pipeline.training.measurement."
        ) from error
    return Wanted(path, trunk.channels, project)


def _load(path: Path, runtime: str, context: Context) -> RegionMeasurer:
    if runtime == "onnx":
        return RegionMeasurer(GraphHeads(path, context.workers))
    try:
        from cyclades.stages.networks.region_runtime import TorchHeads
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The weights {path.name} need the package {error.name!r}; install cyclades[learned]."
        ) from error
    return RegionMeasurer(TorchHeads.load(path, context.device, context.workers))
