"""Moments, windowed positions and apertures: no profile is fitted.

Everything is measured above the background level. Errors follow from the noise autocorrelation
(`cyclades.stages.core.noise`) summed over pairs of pixels, so that they hold for correlated
noise; they do not include the photon noise of the source.
"""

from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.apertures import (
    LEAST_MOMENT,
    Sky,
    aperture_columns,
    aperture_error,
    windowed_positions,
)
from cyclades.stages.characterization.isophotes import (
    MAXIMUM_ISOPHOTE,
    boundary_weights,
    brightest_pixels,
    interpolated_peaks,
    isophotal_moments,
    measured_covariance,
    residuals,
    truncation,
)
from cyclades.stages.characterization.moments_kernel import noise_of_moments
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import determinant
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import (
    PARAMETERS,
    Background,
    Components,
    Detections,
    Floats,
    Integers,
    Segments,
)
from cyclades.stages.core.stage import Capabilities, CharacterizationStage, parameter

Map = NDArray[np.float32]
NO_BEAM_APERTURE = 10.0
"""Diameter of the aperture where no beam is known, in pixels."""
MINIMUM_PIXELS = 4
"""Pixels below which a segment has no shape."""
FLUXES = ("isophotal_flux", "kron_flux", "aperture_flux")
EXTRA = (
    *(f"{name}{end}" for name in FLUXES for end in ("", "_err")),
    "kron_radius",
    "half_light_radius",
)
"""Columns beyond those of every characterizer."""


class MomentsCharacterization(CharacterizationStage):
    """Isophotal moments, windowed positions, and fluxes in isophotes and apertures.

    The position is the windowed one (`sep.winpos`: Gaussian weights of the source's own size),
    for a blend the barycentre. The total flux is the isophotal sum, restored to what a Gaussian
    profile of that peak has in all; second moments are restored alike. It needs no beam: without
    one the total flux is a pixel sum.
    """

    name: ClassVar[str] = "moments"
    summary: ClassVar[str] = "isophotal moments, windowed positions, aperture and Kron fluxes"
    capabilities: ClassVar[Capabilities] = Capabilities(windows=True)
    adds: ClassVar[tuple[str, ...]] = EXTRA

    aperture_beams: float = parameter(
        2.5,
        "Diameter of the circular aperture in geometric mean FWHMs of the beam.",
        unit="beams",
        gt=0,
    )
    aperture_size: float | None = parameter(
        None,
        "Diameter of the circular aperture in pixels; overrides aperture_beams. Without a beam "
        "the default is 10 pixels.",
        unit="pixels",
        gt=0,
    )

    beam_tolerance: float = parameter(
        0.01,
        "Relative uncertainty of the beam's area, allowed for before a source is called resolved.",
        ge=0,
    )

    def aperture_radius(self, psf: PointSpread | None) -> float:
        """Radius of the circular aperture in pixels."""
        if self.aperture_size is not None:
            return 0.5 * self.aperture_size
        return 0.5 * (NO_BEAM_APERTURE if psf is None else self.aperture_beams * psf.size)

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Return one row a leaf of `detections`, in their order."""
        assert detections.segments is not None
        leaves = detections.leaves
        sign = detections.signs[leaves].astype(float)
        noise = noise_autocorrelation(image, background, context=context)
        excess = image.data - background.level
        segments = usable_pixels(detections.segments.take(leaves), excess, background.rms)
        rows = np.flatnonzero(segments.lengths > 0)
        result = blank_components(detections, leaves)
        result.n_pixels[:] = segments.lengths
        result.flags[detections.parent[leaves] >= 0] |= Flag.BLENDED
        result.flags[sign < 0] |= Flag.NEGATIVE
        result.flags[segments.lengths == 0] |= Flag.TOO_FEW_PIXELS
        if image.psf is None:
            result.flags[:] |= Flag.NO_BEAM
        if noise.origin != "measured":
            result.flags[:] |= Flag.ERRORS_FROM_BEAM
        for direction in (1.0, -1.0):
            mine = rows[sign[rows] == direction]
            if mine.size:
                sky = Sky(np.float32(direction) * excess, segments.take(mine), background.rms)
                self._measure(image, sky, noise.values, direction, mine, result)
        return result

    def _measure(
        self,
        image: SkyImage,
        sky: Sky,
        rho: Floats,
        sign: float,
        rows: Integers,
        result: Components,
    ) -> None:
        """Measure the components of one sign and write them to their rows of the result."""
        segments, nx = sky.segments, image.shape[1]
        values = sky.data.ravel()[segments.indices].astype(float)
        pixels = brightest_pixels(values, segments)
        peak = interpolated_peaks(sky.excess, pixels)
        rms = sky.rms.ravel()[pixels].astype(float)
        threshold = np.minimum.reduceat(values, segments.offsets[:-1])
        flux, moments = isophotal_moments(values, segments, nx)
        flux_factor, size_factor = truncation(threshold, peak, rms)
        shape = moments[:, 2:] * size_factor[:, None]
        few = ~(determinant(matrices(shape)) > LEAST_MOMENT**2)
        # found on another plane, pixels may be negative here, and both moments with them
        few |= ~(shape[:, 0] > 0.0)
        few |= ~(threshold < MAXIMUM_ISOPHOTE * peak) | (segments.lengths < MINIMUM_PIXELS)
        y, x = np.divmod(pixels, nx)
        moments[few, 0], moments[few, 1] = x[few], y[few]
        area = np.ones(len(rows))
        least = np.tile([LEAST_MOMENT, 0.0, LEAST_MOMENT], (len(rows), 1))
        if image.psf is not None:
            area = image.psf.areas(x, y)
            least = image.psf.covariances(x, y)[:, [0, 0, 1], [0, 1, 1]]
        shape[few] = least[few]
        pairs = np.zeros((len(rows), 7, 7))
        weighted = np.array(sky.rms, np.float32)
        weighted.ravel()[segments.indices] *= boundary_weights(
            values, segments.owner(), threshold, peak, rms
        )
        noise_of_moments(
            segments.indices, segments.offsets, sky.labels.ravel(), weighted.ravel(), nx,
            moments, pixels, np.ascontiguousarray(rho, float), pairs,
        )  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = measured_covariance(pairs, flux, threshold, peak, rms, moments)
        isophotal = np.stack([flux, np.sqrt(pairs[:, 0, 0])])
        flux = flux * flux_factor
        # Too few pixels for a shape: the flux is that of a point, or the sum without a beam.
        flux[few] = isophotal[0, few] if image.psf is None else (peak * area)[few]
        covariance[few, 1:6] = np.nan
        covariance[few, :, 1:6] = np.nan
        covariance[few, 6, 6] = pairs[few, 0, 0]
        if image.psf is not None:
            covariance[few, 6, 6] = (rms * area)[few] ** 2
            covariance[few, 0, 6] = (rms**2 * area)[few]
        position, variance = windowed_positions(sky, moments, shape, peak, rms, rho)
        use = np.isfinite(position).all(-1) & (result.flags[rows] & Flag.BLENDED == 0)
        centre = np.where(use[:, None], position, moments[:, :2])
        for axis in (1, 2):
            covariance[use, axis, :] = covariance[use, :, axis] = 0.0
            covariance[use, axis, axis] = variance[use, axis - 1]

        model = np.column_stack([peak, centre, shape])
        mean, scatter = residuals(values, segments, nx, model)
        found = aperture_columns(
            sky, centre[:, 0], centre[:, 1], shape, self.aperture_radius(image.psf)
        )
        for name in ("peak", "x", "y", "sxx", "sxy", "syy"):
            getattr(result, name)[rows] = model[:, PARAMETERS.index(name)]
        result.peak[rows] *= sign
        result.covariance[rows] = covariance[:, :6, :6]
        result.covariance[rows, 0, 1:] *= sign
        result.covariance[rows, 1:, 0] *= sign
        result.total[rows] = sign * flux / area
        result.total_err[rows] = np.sqrt(covariance[:, 6, 6]) / area
        result.residual_mean[rows], result.residual_rms[rows] = sign * mean, scatter
        result.flags[rows[few]] |= Flag.TOO_FEW_PIXELS
        if image.psf is not None:
            with np.errstate(invalid="ignore"):
                spread = (
                    covariance[:, 6, 6] / flux**2
                    + covariance[:, 0, 0] / peak**2
                    - 2.0 * covariance[:, 0, 6] / (flux * peak)
                )
            ratio = flux / area / peak
            result.resolved_probability[rows] = resolved_probability(
                ratio, spread, self.beam_tolerance
            )
        extra = result.extra
        radius = np.full(len(rows), self.aperture_radius(image.psf))
        for name, value, error in (
            ("isophotal_flux", *isophotal),
            ("kron_flux", found["kron_flux"], rms * aperture_error(rho, found["kron_aperture"])),
            ("aperture_flux", found["aperture_flux"], rms * aperture_error(rho, radius)),
        ):
            extra[name][rows], extra[f"{name}_err"][rows] = sign * value / area, error / area
        for name in ("kron_radius", "half_light_radius"):
            extra[name][rows] = found[name]


def resolved_probability(ratio: Floats, variance: Floats, tolerance: float) -> Floats:
    """Probability that a profile is wider than the beam, from total over peak flux.

    A one-sided test of the logarithm of the ratio, whose variance (without the uncertainty
    `tolerance` of the beam) is given; 0 for a ratio below 1.
    """
    from scipy.special import erf

    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.log(ratio) / np.sqrt(variance + tolerance**2)
    return np.asarray(np.where(np.isfinite(z), erf(np.maximum(z, 0.0) / np.sqrt(2.0)), np.nan))


def matrices(shape: Floats) -> Floats:
    """Rows (sxx, sxy, syy) as (n, 2, 2) matrices."""
    return shape[:, [0, 1, 1, 2]].reshape(-1, 2, 2)


def usable_pixels(segments: Segments, excess: Map, rms: Map) -> Segments:
    """Segments without blank pixels."""
    good = np.isfinite(excess.ravel()[segments.indices] + rms.ravel()[segments.indices])
    if good.all():
        return segments
    lengths = np.bincount(segments.owner()[good], minlength=len(segments))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Segments(segments.indices[good], offsets)


def blank_components(
    detections: Detections,
    leaves: Integers,
    fit_type: str = "moments",
    extra: tuple[str, ...] = EXTRA,
) -> Components:
    """Components with nothing measured yet."""
    n = len(leaves)
    flags = np.zeros(n, np.int64)
    if detections.flags is not None:
        flags |= detections.flags[leaves]
    names = [field.name for field in fields(Components) if field.type == Floats]
    arrays: dict[str, Any] = {name: np.full(n, np.nan) for name in names}
    arrays["covariance"] = np.full((n, 6, 6), np.nan)
    return Components(
        **arrays,
        detection=leaves,
        island=detections.island_of[leaves],
        flags=flags,
        n_pixels=np.zeros(n, np.int64),
        fit_type=(fit_type,) * n,
        extra={name: np.full(n, np.nan) for name in extra},
    )
