"""A constant level, for images whose background is known; the rms is mapped all the same."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.grid import GridBackground
from cyclades.stages.background.mesh import Map
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.stage import WindowMaps, parameter
from cyclades.stages.core.streaming import BitMask, Plane


class NoBackground(GridBackground):
    """Zero or a constant as the level, and the rms by the estimator of `grid`.

    An interferometer without short spacings has no background, and a mesh finer than a source
    would subtract its flux. The rms is the scatter around the local level, as for every other
    estimator, so that a slow wave does not hide the noise.
    """

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "level zero or a constant; the rms is mapped as by grid"

    level: float = parameter(0.0, "The level.", unit="unit of the image")

    def estimate(
        self, image: SkyImage, *, context: Context, sources: NDArray[np.bool_] | None = None
    ) -> Background:
        """Return the constant level and the rms map, NaN where the image is blank."""
        rms = super().estimate(image, context=context, sources=sources).rms
        return self._with(rms)

    def survey(
        self, plane: Plane, *, context: Context, sources: BitMask | None = None
    ) -> WindowMaps | None:
        """Measure the rms of a plane that is read by strips."""
        maps = super().survey(plane, context=context, sources=sources)
        return None if maps is None else ConstantLevel(self, maps)

    def _with(self, rms: Map) -> Background:
        level = np.where(np.isfinite(rms), np.float32(self.level), np.float32(np.nan))
        return Background(level, rms)


@dataclass(frozen=True, eq=False)
class ConstantLevel:
    """The maps of a stage, with the level that it gives."""

    stage: NoBackground
    maps: WindowMaps

    def window(self, image: SkyImage) -> Background:
        """Return the maps of a window."""
        return self.stage._with(self.maps.window(image).rms)
