"""What of a whole image its windows depend on, measured by strips."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import NoiseAutocorrelation, measure_noise
from cyclades.stages.core.segments import significance_map
from cyclades.stages.core.streaming import Plane
from cyclades.stages.core.tiling import Box, Window, full_box, grid
from cyclades.stages.core.windows import NO_BEAM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cyclades.pipeline.config import RouteConfig
    from cyclades.stages.core.source import ImageSource
    from cyclades.stages.core.stage import PreparedDetection, WindowMaps

HALO = 40.0
"""Beams that are read around a window."""
LEAST_HALO = 64
"""Pixels that are read around a window at least."""

Report = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Survey:
    """What of a whole image its windows depend on; can be sent to another process.

    Parameters
    ----------
    config : RouteConfig
    plane : Plane
    maps : WindowMaps
        Background.
    noise : NoiseAutocorrelation
    detection : PreparedDetection
        With all that it takes from the whole image fixed.
    reach : float
        Pixels around an island of which its measurement looks at the islands there.
    seed : int
    device : str
        Of the stages.
    """

    config: "RouteConfig"
    plane: Plane
    maps: "WindowMaps"
    noise: NoiseAutocorrelation
    detection: "PreparedDetection"
    reach: float = 0.0
    seed: int = 0
    device: str = "cpu"

    @property
    def beam(self) -> float:
        """FWHM in pixels."""
        return NO_BEAM if self.plane.psf is None else self.plane.psf.size

    @property
    def full(self) -> Box:
        """The full image."""
        return full_box(self.plane.shape)

    @property
    def halo(self) -> int:
        """Pixels that are read around a window."""
        return max(LEAST_HALO, int(np.ceil(HALO * self.beam)))

    def windows(self, size: int) -> list[Window]:
        """Windows of a size, each with a halo."""
        return [
            Window(number, core, core.grow(self.halo).intersect(self.full))
            for number, core in enumerate(grid(self.plane.shape, size))
        ]

    def context(self, workers: int = 1) -> Context:
        """Return a context that knows the noise of the whole image."""
        context = Context(workers=workers, seed=self.seed, device=self.device)
        context.whole_image_noise = self.noise
        return context


def cannot(config: "RouteConfig") -> str:
    """Say why a route cannot work in windows; an empty string where it can."""
    if not isinstance(config.cataloguing[0], ComponentsCatalogue):
        return f"the cataloguing {config.cataloguing[0].name!r} needs the image as a whole"
    for stage in (config.detection, config.characterization):
        if not stage.capabilities.windows:
            return f"the {stage.kind} {stage.name!r} needs the image as a whole"
    return ""


def make_survey(
    config: "RouteConfig", source: "ImageSource", context: Context, report: Report
) -> Survey | str:
    """Measure by strips what depends on the whole image.

    Parameters
    ----------
    config : RouteConfig
    source : ImageSource
    context : Context
        Its workers are threads here; its notes tell of thresholds.
    report : callable
        Told the label of a stage, and the share of it that is done.

    Returns
    -------
    Survey or str
        A sentence where a stage cannot.
    """
    plane = Plane.of(source)
    reach = config.characterization.reach(plane)
    if reach is None:
        return f"the characterization {config.characterization.name!r} needs the image as a whole"
    report("background", 0.0)
    maps = config.background.survey(plane, context=context)
    if maps is None:
        return f"the background {config.background.name!r} needs the image as a whole"

    def significance(box: Box) -> "NDArray[np.float32]":
        image = source.window(box)
        return significance_map(image, maps.window(image))

    noise = measure_noise(plane.shape, plane.psf, significance, context)
    report("detection", 0.0)
    context.whole_image_noise = noise
    try:
        detection = config.detection.survey(plane, maps, context=context)
    finally:
        context.whole_image_noise = None
    if detection is None:
        return f"the detection {config.detection.name!r} needs the image as a whole"
    return Survey(config, plane, maps, noise, detection, reach, context.seed, context.device)


def full_frame(plane: Plane) -> SkyImage:
    """Coordinates, beam and units of a full plane, without its pixels."""
    frame = plane.frame
    wcs = getattr(plane.source, "wcs", frame.wcs)
    return frame.replace(wcs=wcs, psf=plane.source.psf, full_shape=plane.shape)
