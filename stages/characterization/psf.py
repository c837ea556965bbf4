"""Photometry of stars: the profile of the image's own stars fitted to every object."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from cyclades.stages.characterization.apertures import KRON_FACTOR, KRON_MINIMUM, ellipses
from cyclades.stages.characterization.moments import MomentsCharacterization
from cyclades.stages.characterization.psf_photometry import (
    fit_points,
    saturated,
    spread_model,
    wider_probability,
)
from cyclades.stages.characterization.star_profile import StarProfile, star_profile
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Components, Detections, Floats
from cyclades.stages.core.stage import Capabilities, parameter

Map = NDArray[np.float32]
PSF_COLUMNS = ("psf_flux", "psf_flux_err", "spread_model", "spread_model_err")


def _positive(gain: float | dict[str, float] | None) -> float | dict[str, float] | None:
    """Check the gain, or those of all planes."""
    if gain is not None:
        values = gain.values() if isinstance(gain, dict) else (gain,)
        if not values or not all(0.0 < value < np.inf for value in values):
            raise ValueError("a gain is a positive number, or one a plane as {g: 2.0, r: 1.9}")
    return gain


class PsfCharacterization(MomentsCharacterization):
    """Fluxes of a fit of the stars' profile, besides everything that moments give.

    The profile is fitted to the bright isolated stars of the image. ``psf_flux`` is the flux for
    stars and misses light of galaxies; ``kron_flux``, which is ``total_flux`` too, has most of
    either. ``spread_model`` says how much wider than a star an object is, and so whether it is
    resolved. The wings of stars, which a Gaussian lacks, count in second moments of bright
    objects: their sizes are reduced to what total over peak flux leaves, down to that of a star.
    On further planes of an `ImageSet` points are fitted at the same positions, and Kron fluxes
    are sums in the same ellipses.
    """

    name: ClassVar[str] = "psf"
    summary: ClassVar[str] = "fits of the stars' own profile by photutils, besides moments"
    capabilities: ClassVar[Capabilities] = Capabilities()
    adds: ClassVar[tuple[str, ...]] = (*MomentsCharacterization.adds, *PSF_COLUMNS)

    model: Literal["moffat", "gaussian", "epsf"] = parameter(
        "moffat",
        "Profile of stars: an elliptical Moffat or Gaussian profile, or the effective PSF that "
        "photutils builds, for which many stars are needed.",
    )
    gain: Annotated[float | dict[str, float] | None, AfterValidator(_positive)] = parameter(
        None,
        "Electrons that one unit of the image stands for, one number or one a plane as "
        "{g: 2.0, r: 1.9}, which give the photon noise of the sources; left out of all errors "
        "where it is not given. A combination of planes takes the least of them.",
        unit="electrons per unit of a pixel",
    )

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Return one row a leaf of `detections`, in their order."""
        result = super().measure(image, background, detections, context=context)
        profile = self.profile(image, background, context)
        n = len(result)
        empty = {name: np.full(n, np.nan) for name in PSF_COLUMNS}
        result.extra.update(empty)
        area = _areas(image, result)
        kron, kron_err = result.extra["kron_flux"], result.extra["kron_flux_err"]
        known = np.isfinite(kron)
        result.total[known], result.total_err[known] = kron[known], kron_err[known]
        clamp_kron_radius(result)
        excess = image.data - background.level
        assert detections.segments is not None
        labels = detections.segments.take(result.detection).label_map(image.shape)
        result.flags[saturated(excess, background.rms, labels, n)] |= int(Flag.SATURATED)
        if profile is None or not n:
            return result
        reduce_sizes(result, area, profile)
        x, y = _starts(result, detections)
        error = pixel_errors(excess, background.rms, self.gain_of(None))
        fits = fit_points(excess, error, x, y, profile, fixed=False)
        spread, spread_err = spread_model(
            excess, background.rms, labels, np.arange(1, n + 1), fits, profile
        )
        for name, values in zip(
            PSF_COLUMNS, (fits.flux / area, fits.flux_err / area, spread, spread_err), strict=True
        ):
            result.extra[name][:] = values
        result.resolved_probability[:] = wider_probability(spread, spread_err)
        return result

    def measure_again(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        components: Components,
        *,
        plane: str,
        context: Context,
    ) -> dict[str, NDArray[Any]]:
        """Return PSF and Kron fluxes at the positions and in the ellipses of components.

        And flags, of what is saturated on this plane.
        """
        n = len(components)
        made: dict[str, NDArray[Any]] = {
            name: np.full(n, np.nan) for name in (*PSF_COLUMNS, "kron_flux", "kron_flux_err")
        }
        profile = self.profile(image, background, context)
        if not n:
            return made
        excess, area = image.data - background.level, _areas(image, components)
        assert detections.segments is not None
        labels = detections.segments.take(components.detection).label_map(image.shape)
        full = saturated(excess, background.rms, labels, n)
        made["flags"] = np.where(full, int(Flag.SATURATED), 0)
        flux, flux_err = kron_again(excess, background.rms, labels, components, self.gain_of(plane))
        for label in ("kron_flux", "total_flux"):
            made[label], made[f"{label}_err"] = flux / area, flux_err / area
        if profile is None:
            return made
        x, y = _starts(components, detections)
        error = pixel_errors(excess, background.rms, self.gain_of(plane))
        fits = fit_points(excess, error, x, y, profile, fixed=True)
        made["psf_flux"], made["psf_flux_err"] = fits.flux / area, fits.flux_err / area
        made["spread_model"], made["spread_model_err"] = spread_model(
            excess, background.rms, labels, np.arange(1, n + 1), fits, profile
        )
        return made

    def profile(
        self, image: SkyImage, background: Background, context: Context
    ) -> StarProfile | None:
        """Return the profile of an image's stars, and note what it is."""
        pixels = image.data, background.level, background.rms

        def make() -> tuple[StarProfile | None, tuple[Map, ...]]:
            excess = image.data - background.level
            made = star_profile(excess, background.rms, image.psf, self.model, image.name)
            return made, pixels  # kept, so that their ids stay their own

        found, _ = context.cached(("star profile", self.model, *map(id, pixels)), make)
        if found is not None:
            context.note(
                f"psf.{image.name}",
                {
                    "stars": found.stars,
                    "fwhm_pixels": round(found.fwhm, 3),
                    "beta": round(found.beta, 2) if np.isfinite(found.beta) else None,
                },
            )
        return found

    def gain_of(self, plane: str | None) -> float | None:
        """Return the electrons of a unit on a plane, or (None) on a combination of all.

        Raises
        ------
        ConfigurationError
            Where gains are given, but none of this plane.
        """
        if not isinstance(self.gain, dict):
            return self.gain
        if plane is None:
            return min(self.gain.values())
        if plane not in self.gain:
            raise ConfigurationError(
                f"characterization.gain has no entry for the plane {plane}; give one for each, as "
                "{g: 2.0, r: 1.9}."
            )
        return self.gain[plane]


def pixel_errors(excess: Map, rms: Map, gain: float | None) -> Map:
    """Return the errors of pixels: noise, and photons of the sources where a gain is given.

    The photons are those of the image smoothed over 3 x 3 pixels: weights that follow the noise
    of their own pixels would bias fluxes downwards.
    """
    if gain is None:
        return rms
    from scipy.ndimage import uniform_filter

    smooth = uniform_filter(np.nan_to_num(excess), 3)
    photons = np.maximum(smooth, np.float32(0.0)) / np.float32(gain)
    return np.asarray(np.sqrt(rms**2 + photons), np.float32)


def _areas(image: SkyImage, components: Components) -> Floats:
    """Beam areas by which sums of pixels are divided, as all fluxes of components are."""
    if image.psf is None:
        return np.ones(len(components))
    areas = np.full(len(components), image.psf.area)
    known = np.isfinite(components.x)
    areas[known] = image.psf.areas(components.x[known], components.y[known])
    return areas


def _starts(components: Components, detections: Detections) -> tuple[Floats, Floats]:
    """First positions: the measured ones, but the summits of what touches other objects.

    The barycentre of a piece of a blend is drawn away from its neighbours.
    """
    x, y = np.array(components.x, float), np.array(components.y, float)
    if detections.summit is not None:
        summit = detections.summit[components.detection]
        use = (components.flags & int(Flag.BLENDED)) > 0
        use |= ~np.isfinite(x)
        use &= np.isfinite(summit).all(-1)
        x[use], y[use] = summit[use].T
    return x, y


def clamp_kron_radius(components: Components) -> None:
    """Raise Kron radii to those that the least aperture has, so that they alone tell it."""
    a, b, _ = ellipses(np.stack([components.sxx, components.sxy, components.syy], -1))
    radius = components.extra["kron_radius"]
    radius[:] = np.maximum(radius, KRON_MINIMUM / KRON_FACTOR * np.sqrt(a * b))


def reduce_sizes(components: Components, area: Floats, profile: StarProfile) -> None:
    """Scale shapes so that none is wider than its total and peak flux allow.

    A star's total over peak flux is that of the profile; a Gaussian of the same FWHM has less.
    An object whose ratio is k times a star's has at most k times the area of that Gaussian, and
    no shape is made smaller than a star's. Axis ratio and angle stay.

    Parameters
    ----------
    components : Components
        Changed: shapes and what of the covariance belongs to them.
    area : ndarray, shape (n,)
        By which sums of pixels were divided to give total fluxes, pixels.
    profile : StarProfile
    """
    shape = np.stack([components.sxx, components.sxy, components.syy], -1)
    star = np.pi * profile.fwhm**2 / (4.0 * np.log(2.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = components.total * area / components.peak * profile.array.max()
        own = gaussian_area(shape[:, [0, 1, 1, 2]].reshape(-1, 2, 2))
        scale = np.minimum(1.0, star * np.maximum(ratio, 1.0) / own)
    scale[~np.isfinite(scale)] = 1.0
    for name in ("sxx", "sxy", "syy"):
        getattr(components, name)[:] *= scale
    components.covariance[:, 3:, :] *= scale[:, None, None]
    components.covariance[:, :, 3:] *= scale[:, None, None]


def kron_again(
    excess: Map,
    rms: Map,
    labels: NDArray[np.int32],
    components: Components,
    gain: float | None,
) -> tuple[Floats, Floats]:
    """Return sums of pixels, and their errors, in the Kron ellipses that components have already.

    Noise is taken as independent from pixel to pixel.
    """
    import sep

    shape = np.stack([components.sxx, components.sxy, components.syy], -1)
    a, b, angle = ellipses(shape)
    radius = KRON_FACTOR * components.extra["kron_radius"] / np.sqrt(a * b)
    rows = np.flatnonzero(np.isfinite(components.x + a + b + angle + radius))
    flux, error = np.full(len(components), np.nan), np.full(len(components), np.nan)
    if rows.size:
        mask = ~np.isfinite(excess)
        filled = np.ascontiguousarray(np.where(mask, 0.0, excess), np.float32)
        noise = np.ascontiguousarray(np.where(mask, 0.0, rms), np.float32)
        flux[rows], error[rows], _ = sep.sum_ellipse(
            filled, components.x[rows], components.y[rows], a[rows], b[rows], angle[rows],
            radius[rows], err=noise, gain=gain, mask=mask, segmap=labels,
            seg_id=(rows + 1).astype(np.int32),
        )  # fmt: skip
    return flux, error
