"""Gaussian fits: all components of an island together, with errors for correlated noise."""

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.gaussian_shapes import (
    correct_shapes,
    pixel_parameters,
    resolved_probability,
    total_flux,
)
from cyclades.stages.characterization.island_fits import fit_islands
from cyclades.stages.characterization.least_squares import AT_LIMIT, FAILED, FWHM
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import inverse
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import (
    Background,
    Components,
    Detections,
    Floats,
    Integers,
    Segments,
)
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.stage import Capabilities, CharacterizationStage, parameter

ISLANDS_PER_TASK = 64
POOR_FIT_RATIO = 4.0
WANDER = 0.5
"""How far a fitted centre may lie from its summit, in FWHM."""


def start_values(
    image: SkyImage,
    background: Background,
    detections: Detections,
    leaves: Integers,
    psf: PointSpread,
) -> tuple[Floats, Floats]:
    """Size and largest size of each leaf, in beams, from the extent of its segment.

    The area above half of the leaf's peak, compared with the beam's, gives the start; the
    segment's area gives the limit.
    """
    assert detections.segments is not None
    segments = detections.segments.take(leaves)
    excess = (image.data - background.level).ravel()[segments.indices]
    excess = excess * np.repeat(detections.signs[leaves], segments.lengths)
    owner = segments.owner()
    peak = np.zeros(len(leaves))
    np.maximum.at(peak, owner, excess)
    above = np.bincount(owner, excess > 0.5 * peak[owner], minlength=len(leaves))
    half_area = np.log(2.0) * psf.area
    size = np.sqrt(np.clip(above / half_area, 1.0, None))
    largest = 2.0 * np.sqrt(segments.lengths / half_area) + 3.0
    return np.minimum(size, largest), largest


def segment_residuals(
    excess: NDArray[np.float32], model: NDArray[np.float32], segments: Segments
) -> tuple[Floats, Floats]:
    """Mean and rms of ``excess - model`` over each segment; NaN for an empty one."""
    difference = (excess.ravel()[segments.indices] - model.ravel()[segments.indices]).astype(float)
    owner, n = segments.owner(), len(segments)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(owner, difference, minlength=n) / segments.lengths
        square = np.bincount(owner, difference**2, minlength=n) / segments.lengths
    return mean, np.sqrt(square)


class GaussianCharacterization(CharacterizationStage):
    """Elliptical Gaussians fitted to all components of an island together."""

    name: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = (
        "Joint Gaussian fits of each island, with errors for the measured noise correlation."
    )
    capabilities: ClassVar[Capabilities] = Capabilities(needs_beam=True)

    fit_radius: float = parameter(
        0.7,
        "Radius of the ellipse fitted around each component; with correlated noise pixels "
        "further out add noise, not information.",
        unit="FWHM",
        ge=0.4,
        le=3.0,
    )
    joint_limit: int = parameter(
        8,
        "Largest number of components fitted together; in larger islands each is fitted in turn "
        "with the others subtracted.",
        ge=1,
        le=20,
    )
    beam_tolerance: float = parameter(
        0.01,
        "Relative uncertainty of the beam's size, allowed for before a source is called resolved.",
        ge=0,
    )

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Return one row a leaf of `detections`, in the order of their islands."""
        assert image.psf is not None
        assert detections.segments is not None
        assert detections.summit is not None
        leaves = detections.leaves
        leaves = leaves[np.argsort(detections.island_of[leaves], kind="stable")]
        island_rows, starts = np.unique(detections.island_of[leaves], return_index=True)
        starts = np.append(starts, len(leaves)).astype(np.int64)
        island = np.repeat(np.arange(len(island_rows)), np.diff(starts))
        summit = detections.summit[leaves]
        origin = summit[starts[:-1]].reshape(-1, 2)
        beam = image.psf.covariances(origin[:, 0], origin[:, 1])
        factor = np.asarray(np.linalg.cholesky(beam) if len(beam) else beam, float)
        size, largest = start_values(image, background, detections, leaves, image.psf)
        sign = detections.signs[island_rows]
        params = np.zeros((len(leaves), 6))
        x, y = np.rint(summit).astype(int).T
        excess = image.data - background.level
        params[:, 0] = np.maximum(excess[y, x] * sign[island], 0.1 * background.rms[y, x])
        unfactor = inverse(factor)
        params[:, 1:3] = np.einsum("nij,nj->ni", unfactor[island], summit - origin[island])
        params[:, 3] = params[:, 5] = size**-2.0
        bounds = np.column_stack([largest, params[:, 1:3], WANDER * FWHM * size])
        covariance = np.full((len(leaves), 6, 6), np.nan)
        beam_fit = np.full((len(leaves), 2), np.nan)
        quality = np.full((len(leaves), 3), np.nan)
        status = np.full(len(leaves), FAILED, np.int64)
        noise = noise_autocorrelation(image, background, context=context)

        def fit(first: int) -> None:
            fit_islands(
                first, min(first + ISLANDS_PER_TASK, len(island_rows)), starts, params,
                covariance, beam_fit, quality, status, factor, origin, sign,
                island_rows + 1, bounds, self.fit_radius, self.joint_limit,
                image.data, background.level, background.rms, labels, noise.values,
            )  # fmt: skip

        islands = detections.segments.take(island_rows)
        labels = np.zeros(image.data.size, np.int32)
        labels[islands.indices] = np.repeat(island_rows + 1, islands.lengths)
        labels = labels.reshape(image.shape)
        with ThreadPoolExecutor(context.workers) as pool:
            list(pool.map(fit, range(0, len(island_rows), ISLANDS_PER_TASK)))
        return self._components(
            image, background, detections, leaves, island_rows[island], sign[island], params,
            covariance, beam_fit, quality, status, factor[island], origin[island], excess,
            np.diff(starts)[island], noise.origin,
        )  # fmt: skip

    def _components(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        leaves: Integers,
        island: Integers,
        sign: Integers,
        params: Floats,
        covariance: Floats,
        beam_fit: Floats,
        quality: Floats,
        status: Integers,
        factor: Floats,
        origin: Floats,
        excess: NDArray[np.float32],
        siblings: Integers,
        noise_origin: str,
    ) -> Components:
        assert detections.segments is not None
        resolved = resolved_probability(params, covariance, self.beam_tolerance)
        params = correct_shapes(params, covariance)
        values, errors = pixel_parameters(params, covariance, factor, origin)
        total, total_err = total_flux(params, covariance)
        failed = status == FAILED
        # Where only the beam's shape was fitted, the flux is that of a point source.
        total_err[failed] = np.sqrt(covariance[failed, 0, 0])
        values[:, 0] *= sign
        model = render_gaussians(image.shape, values)
        segments = detections.segments.take(leaves)
        residual_mean, residual_rms = segment_residuals(excess, model, segments)
        flags = np.zeros(len(leaves), np.int64)
        if detections.flags is not None:
            flags |= detections.flags[leaves]
        flags[failed] |= Flag.FIT_FAILED
        flags[failed & np.isfinite(beam_fit[:, 0])] |= Flag.TOO_FEW_PIXELS
        flags[status == AT_LIMIT] |= Flag.SIZE_AT_LIMIT
        flags[siblings > 1] |= Flag.BLENDED
        flags[siblings > self.joint_limit] |= Flag.TOO_MANY_COMPONENTS
        flags[sign < 0] |= Flag.NEGATIVE
        with np.errstate(invalid="ignore"):
            flags[quality[:, 0] > POOR_FIT_RATIO * quality[:, 1]] |= Flag.POOR_FIT
        if noise_origin != "measured":
            flags |= Flag.ERRORS_FROM_BEAM
        # The peak's sign also turns its covariances with the other parameters.
        errors[:, 0, 1:] *= sign[:, None]
        errors[:, 1:, 0] *= sign[:, None]
        return Components(
            detection=leaves,
            island=island,
            peak=values[:, 0],
            x=values[:, 1],
            y=values[:, 2],
            sxx=values[:, 3],
            sxy=values[:, 4],
            syy=values[:, 5],
            total=total * sign,
            total_err=total_err,
            covariance=errors,
            beam_flux=beam_fit[:, 0] * sign,
            beam_flux_err=beam_fit[:, 1],
            resolved_probability=resolved,
            flags=flags,
            chi2=quality[:, 0],
            degrees_of_freedom=quality[:, 1],
            residual_mean=residual_mean,
            residual_rms=residual_rms,
            n_pixels=np.nan_to_num(quality[:, 2]).astype(np.int64),
            fit_type=tuple("beam" if bad else "gaussian" for bad in failed),
        )
