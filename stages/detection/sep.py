"""Detection by the sep library: SExtractor's thresholding and deblending."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections, Integers, Segments
from cyclades.stages.core.segments import significance_map
from cyclades.stages.core.stage import Capabilities, DetectionStage, parameter
from cyclades.stages.detection.deblending import Map, cut_out, deblended
from cyclades.stages.detection.islands import find_islands

SUB_OBJECTS = 16384
"""Branches that sep may follow in one island; its own default of 1024 fails on diffuse emission."""


class SepDetection(DetectionStage):
    """Thresholding and multi-threshold deblending of SExtractor (Bertin & Arnouts 1996).

    sep gets one island after the other, so that the result does not depend on how an image is
    cut and the cost grows with the number of islands only. Nothing is filtered before, because
    the noise of a radio image is smooth already, and nothing is cleaned away after.
    """

    name: ClassVar[str] = "sep"
    summary: ClassVar[str] = "SExtractor's thresholding and deblending, by sep"
    capabilities: ClassVar[Capabilities] = Capabilities(gives_segments=True, gives_summits=True)

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

    def detect(self, image: SkyImage, background: Background, *, context: Context) -> Detections:
        """Return complete detections: islands and, for blends, their objects."""
        significance = significance_map(image, background)
        peak = max(self.threshold, self.minimum_peak)
        islands = find_islands(significance, peak, self.threshold, self.minimum_pixels)
        return deblended(significance, islands, image.psf, self.deblend)

    def deblend(self, significance: Map, islands: Segments, rows: Integers) -> list[Integers]:
        """Labels of the pixels of islands (see `deblending.Deblender`)."""
        import sep

        labels = []
        sep.set_sub_object_limit(SUB_OBJECTS)
        for row in rows:
            cut, inside = cut_out(significance, islands[int(row)])
            # sep's pixel buffer must hold the island.
            sep.set_extract_pixstack(max(300_000, 2 * cut.size))
            found = self.extract(cut)
            labels.append(found[inside].astype(np.int64))
        return labels

    def extract(self, cut: Map) -> NDArray[np.int32]:
        """Label map of sep's objects in the rectangle of one island."""
        import sep

        _, labels = sep.extract(
            cut,
            self.threshold,
            minarea=self.minimum_pixels,
            filter_kernel=None,
            deblend_nthresh=self.deblend_levels,
            deblend_cont=self.deblend_contrast,
            clean=False,
            segmentation_map=True,
        )
        return np.asarray(labels)
