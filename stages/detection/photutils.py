"""Detection by photutils: thresholding and watershed deblending."""

from typing import ClassVar

import numpy as np

from cyclades.stages.core.products import Integers, Segments
from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.deblending import Map
from cyclades.stages.detection.thresholding import ThresholdDetection


class PhotutilsDetection(ThresholdDetection):
    """Thresholding, and deblending by multiple thresholds and watershed, of photutils."""

    name: ClassVar[str] = "photutils"
    summary: ClassVar[str] = "thresholding and watershed deblending, by photutils"

    deblend_contrast: float = parameter(
        0.02,
        "Least share of an island's flux in a branch that counts as an object; 1 parts nothing.",
        ge=0,
        le=1,
    )

    def deblend(self, significance: Map, islands: Segments, rows: Integers) -> list[Integers]:
        """Labels of the pixels of islands (see `deblending.Deblender`)."""
        if not len(rows):
            return []
        from photutils.segmentation import SegmentationImage, deblend_sources

        chosen = islands.take(rows)
        found = deblend_sources(
            np.nan_to_num(significance),
            SegmentationImage(chosen.label_map(significance.shape)),
            self.minimum_pixels,
            n_levels=self.deblend_levels,
            contrast=self.deblend_contrast,
            mode="exponential",
            progress_bar=False,
        )
        values = found.data.ravel()[chosen.indices].astype(np.int64)
        return np.split(values, chosen.offsets[1:-1])
