"""Background by the mesh of photutils, with a choice of its estimators."""

from functools import cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.base import (
    CellStatistics,
    MeshBackground,
    gaussian_scale,
    measure_cells,
)
from cyclades.stages.background.mesh import Floats, Map, Mesh
from cyclades.stages.core.stage import parameter

LEVELS = {
    "median": "MedianBackground",
    "mean": "MeanBackground",
    "mode": "ModeEstimatorBackground",
    "mmm": "MMMBackground",
    "sextractor": "SExtractorBackground",
    "biweight": "BiweightLocationBackground",
}
SCALES = {
    "std": "StdBackgroundRMS",
    "mad": "MADStdBackgroundRMS",
    "biweight": "BiweightScaleBackgroundRMS",
}


class PhotutilsBackground(MeshBackground):
    """Boxes side by side, measured by `photutils.background.Background2D`."""

    name: ClassVar[str] = "photutils"
    summary: ClassVar[str] = "photutils' Background2D, with a choice of estimators"

    estimator: Literal["median", "mean", "mode", "mmm", "sextractor", "biweight"] = parameter(
        "median", "Estimator of the level in a box."
    )
    rms_estimator: Literal["std", "mad", "biweight"] = parameter(
        "std", "Estimator of the rms in a box; corrected for the clipping of Gaussian noise."
    )
    clip: float = parameter(3.0, "Values beyond this are clipped.", unit="rms of a box", ge=1.5)

    def statistics(self, data: Map, usable: NDArray[np.bool_], mesh: Mesh) -> tuple[Floats, Floats]:
        """Return photutils' location and scale of each cell (see `MeshBackground.statistics`)."""
        location, scale = measure_cells(
            data, usable, mesh, cell_statistics(self.estimator, self.rms_estimator, self.clip)
        )
        return location, scale / correction(self.estimator, self.rms_estimator, self.clip)


def cell_statistics(estimator: str, rms_estimator: str, clip: float) -> CellStatistics:
    """Return the function that measures cells which fill a plane exactly."""
    from astropy.stats import SigmaClip
    from photutils import background

    clipping = SigmaClip(clip, maxiters=10)
    # The mesh has clipped already; the estimators would clip again.
    level = getattr(background, LEVELS[estimator])(sigma_clip=None)
    rms = getattr(background, SCALES[rms_estimator])(sigma_clip=None)

    def measure(
        data: Map, masked: NDArray[np.bool_], height: int, width: int
    ) -> tuple[Floats, Floats]:
        found = background.Background2D(
            data,
            (height, width),
            mask=masked,
            # `measure_cells` has its own rule, which does not count clipped pixels as bad.
            exclude_percentile=99.9,
            filter_size=1,
            sigma_clip=clipping,
            bkg_estimator=level,
            bkg_rms_estimator=rms,
        )
        return np.asarray(found.background_mesh, float), np.asarray(
            found.background_rms_mesh, float
        )

    return measure


@cache
def correction(estimator: str, rms_estimator: str, clip: float) -> float:
    """What photutils gives for the rms of unit Gaussian noise."""
    return gaussian_scale(cell_statistics(estimator, rms_estimator, clip))
