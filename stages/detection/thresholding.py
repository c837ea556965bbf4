"""What the detectors share that hand each island to another library to part it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cyclades.stages.core.combination import detection_plane
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections, Integers, Segments
from cyclades.stages.core.segments import significance_map
from cyclades.stages.core.stage import Capabilities, DetectionStage, parameter
from cyclades.stages.detection.deblending import Map, deblended
from cyclades.stages.detection.islands import find_islands

if TYPE_CHECKING:
    from cyclades.stages.core.stage import PreparedDetection, WindowMaps
    from cyclades.stages.core.streaming import Plane


class ThresholdDetection(DetectionStage):
    """Base of the detectors that threshold the significance and part blends by branches."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        gives_segments=True, gives_summits=True, windows=True
    )

    threshold: float = parameter(
        3.0, "Significance above which pixels belong to an island.", unit="local rms", gt=0
    )
    minimum_peak: float = parameter(
        5.0, "Least peak significance of an island.", unit="local rms", gt=0
    )
    minimum_pixels: int = parameter(
        5, "Least number of pixels of an island and of a deblended object.", unit="pixels", ge=1
    )
    deblend_levels: int = parameter(32, "Number of thresholds of the deblending.", ge=1)
    deblend_contrast: float = parameter(
        0.01,
        "Least share of an island's flux in a branch that counts as an object; 1 parts nothing.",
        ge=0,
        le=1,
    )

    objects: bool = parameter(
        False, "Whether each deblended object is a source of its own, as stars and galaxies are."
    )
    filter_beams: float = parameter(
        0.0,
        "Width of the Gaussian that the image is filtered with, over that of its PSF; 0 for none. "
        "Where noise is independent from pixel to pixel, 1 finds the faintest points, and about "
        "0.6 nearly as faint ones while it parts closer pairs.",
        unit="beams",
        ge=0,
        le=4,
    )

    def survey(
        self, plane: "Plane", maps: "WindowMaps", *, context: Context
    ) -> "PreparedDetection | None":
        """Return the stage itself; None with a filter, whose noise is that of the whole image."""
        return None if self.filter_beams else self

    def limits(self) -> tuple[float, tuple[int, ...]]:
        """Significance down to which islands reach, and the signs of sources."""
        return self.threshold, (1,)

    def detect(self, image: SkyImage, background: Background, *, context: Context) -> Detections:
        """Return complete detections: islands and, for blends, their objects."""
        planes = {"image": image}, {"image": background}
        return self.detect_planes(*planes, "image", context=context)

    def detect_planes(
        self,
        images: Mapping[str, SkyImage],
        backgrounds: Mapping[str, Background],
        detection: str,
        *,
        context: Context,
    ) -> Detections:
        """Detect on aligned planes, each filtered before they are combined."""
        image, background = detection_plane(
            images, backgrounds, detection, self.filter_beams, context=context
        )
        significance = significance_map(image, background)
        peak = max(self.threshold, self.minimum_peak)
        islands = find_islands(significance, peak, self.threshold, self.minimum_pixels)
        found = deblended(significance, islands, image.psf, self.deblend)
        return found.replace(source=np.arange(len(found))) if self.objects else found

    @abstractmethod
    def deblend(self, significance: Map, islands: Segments, rows: Integers) -> list[Integers]:
        """Labels of the pixels of islands (see `deblending.Deblender`)."""
