"""Detection by the sep library: SExtractor's thresholding and deblending."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.products import Integers, Segments
from cyclades.stages.detection.deblending import Map, cut_out
from cyclades.stages.detection.thresholding import ThresholdDetection

SUB_OBJECTS = 16384
"""Branches that sep may follow in one island; its own default of 1024 fails on diffuse emission."""


class SepDetection(ThresholdDetection):
    """Thresholding and multi-threshold deblending of SExtractor (Bertin & Arnouts 1996).

    sep gets one island after the other, so that the result does not depend on how an image is
    cut and the cost grows with the number of islands only. Nothing is filtered before, because
    the noise of a radio image is smooth already, and nothing is cleaned away after.
    """

    name: ClassVar[str] = "sep"
    summary: ClassVar[str] = "SExtractor's thresholding and deblending, by sep"

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
