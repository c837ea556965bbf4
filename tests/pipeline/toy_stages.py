"""The simplest stages that keep the contracts."""

from typing import ClassVar

import numpy as np

from cyclades.stages.core.products import Background, Components, Detections
from cyclades.stages.core.stage import (
    BackgroundStage,
    Capabilities,
    CharacterizationStage,
    DetectionStage,
    RefinementStage,
    parameter,
)


class ToyBackground(BackgroundStage):
    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "level zero and a constant rms"

    rms: float = parameter(1.0, "Constant rms.", unit="image unit", gt=0)

    def estimate(self, image, *, context):
        blank = np.where(np.isnan(image.data), np.float32(np.nan), np.float32(0))
        return Background(blank, blank + np.float32(self.rms))


class ToyDetection(DetectionStage):
    """A box around the brightest pixel, and nothing else."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "a box around the brightest pixel"

    half: int = parameter(6, "Half-size of the box.", unit="pixels", ge=1)

    def detect(self, image, background, *, context):
        y, x = np.unravel_index(np.nanargmax(image.data), image.shape)
        box = np.array([[x - self.half, y - self.half, x + self.half, y + self.half]], float)
        context.note("toy.peak", np.float32(image.data[y, x]))
        return Detections(image.shape, box, np.ones(1), np.array([-1]))


class ToyCharacterization(CharacterizationStage):
    """Gives every leaf the beam's shape at its summit."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "the beam at the summit"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_beam=True)

    def measure(self, image, background, detections, *, context):
        leaves = detections.leaves
        x, y = detections.summit[leaves].T
        peak = image.data[np.round(y).astype(int), np.round(x).astype(int)].astype(float)
        beam = image.psf.covariances(x, y)
        n = len(leaves)
        nothing, zero = np.full(n, np.nan), np.zeros(n, np.int64)
        return Components(
            detection=leaves,
            island=detections.island_of[leaves],
            peak=peak,
            x=x,
            y=y,
            sxx=beam[:, 0, 0],
            sxy=beam[:, 0, 1],
            syy=beam[:, 1, 1],
            total=peak,
            total_err=nothing,
            covariance=np.broadcast_to(np.diag([1.0, 0.01, 0.01, 0.01, 0.01, 0.01]), (n, 6, 6)),
            beam_flux=nothing,
            beam_flux_err=nothing,
            resolved_probability=nothing,
            flags=zero,
            chi2=nothing,
            degrees_of_freedom=nothing,
            residual_mean=nothing,
            residual_rms=nothing,
            n_pixels=zero,
            fit_type=("beam",) * n,
        )


class ToyRefinement(RefinementStage):
    """Doubles nothing, but says what it needs."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "needs a column that nobody gives"
    needs: ClassVar[tuple[str, ...]] = ("redshift",)

    def refine(self, catalogue, source, *, context):
        return catalogue
