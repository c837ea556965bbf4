"""The profile of stars: fitted to those of an image, or made from its PSF where it has none."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, determinant, inverse
from cyclades.stages.core.stars import Stars, find_stars

OVERSAMPLING = 4
REACH = 5.0
"""Half-size of a profile in FWHM; of a Moffat profile with beta 3.5, 0.2 percent lie beyond."""
FIT_SIZE = 1.6
"""Side of the windows that points are fitted in, in FWHM."""
FIT_REACH = 3.0
"""Half-size of the windows that profiles are fitted to, in FWHM."""
MODEL_ERROR = 0.02
"""Relative error of a pixel of a star besides the noise: what a profile of few parameters lacks.
Without it the cores of the brightest stars alone would decide."""
SOFT = 3.0
"""Errors beyond which a pixel of a star counts for less, as one of a neighbour."""
BETAS = (1.5, 30.0)
"""Least and largest exponent of a Moffat profile; the latter is a Gaussian."""


def window_side(fwhm: float) -> int:
    """Return the odd number of pixels of the side of the windows that points are fitted in."""
    return max(5, 2 * round(0.5 * FIT_SIZE * fwhm) + 1)


@dataclass(frozen=True, eq=False)
class StarProfile:
    """A star of unit flux, as it falls on pixels.

    Parameters
    ----------
    array : ndarray, shape (side, side)
        Values a pixel at steps of 1 / `OVERSAMPLING` pixel around the centre, which is the middle.
    fwhm : float
        Geometric mean, in pixels.
    beta : float
        Exponent of the Moffat profile; NaN for others.
    stars : int
        Number that it was fitted to; 0 where it was made from the image's PSF.
    scale_error : float
        Relative error of all fluxes that are fitted with it, from that of its shape; 0 where it
        was made from the image's PSF.
    """

    array: Floats
    fwhm: float
    beta: float
    stars: int
    scale_error: float = 0.0

    @cached_property
    def _spline(self) -> Floats:
        from scipy.ndimage import spline_filter

        return np.asarray(spline_filter(self.array, order=3))

    def at(self, x: Floats, y: Floats) -> Floats:
        """Return the profile's values at offsets in pixels from its centre; zero beyond it."""
        from scipy.ndimage import map_coordinates

        middle = self.array.shape[0] // 2
        where = np.stack(np.broadcast_arrays(y, x)) * OVERSAMPLING + middle
        return np.asarray(map_coordinates(self._spline, where, order=3, prefilter=False))

    def widened(self, scale: float) -> "StarProfile":
        """Return the profile of a round exponential disc of a scale length (pixels), as seen."""
        from scipy.signal import fftconvolve

        half = max(4, int(np.ceil(12.0 * scale * OVERSAMPLING)))
        # averaged over the steps, for a disc is narrower than one
        fine = (np.arange(-half * 5 - 2, half * 5 + 3) / 5.0) / OVERSAMPLING
        disc = np.exp(-np.hypot(fine[:, None], fine[None, :]) / scale)
        side = 2 * half + 1
        disc = disc.reshape(side, 5, side, 5).sum((1, 3))
        return replace(self, array=fftconvolve(self.array, disc / disc.sum(), mode="same"))


def moffat(square: Floats, beta: float) -> Floats:
    """Return ``(1 + q)^-beta`` with q such that one half is reached at `square` = 2 ln 2.

    `square` is the squared radius in sigmas of the Gaussian with the same FWHM.
    """
    scale = (2.0 ** (1.0 / beta) - 1.0) / (2.0 * np.log(2.0))
    return np.asarray((1.0 + scale * square) ** -beta)


def moffat_area(covariance: Floats, beta: float) -> float:
    """Return flux over peak of a Moffat profile whose FWHM is that of a Gaussian."""
    scale = (2.0 ** (1.0 / beta) - 1.0) / (2.0 * np.log(2.0))
    return float(np.pi * np.sqrt(determinant(covariance)) / scale / (beta - 1.0))


def _square(covariance: Floats, x: Floats, y: Floats) -> Floats:
    p = inverse(covariance)
    return np.asarray(p[0, 0] * x**2 + 2.0 * p[0, 1] * x * y + p[1, 1] * y**2)


def sampled(covariance: Floats, beta: float = np.inf, stars: int = 0) -> StarProfile:
    """Return a Moffat (or, by default, Gaussian) profile with the FWHM of a covariance."""
    fwhm = float(SIGMA_TO_FWHM * determinant(covariance) ** 0.25)
    half = int(np.ceil(REACH * fwhm * OVERSAMPLING))
    d = np.arange(-half, half + 1) / OVERSAMPLING
    square = _square(covariance, d[None, :], d[:, None])
    if np.isinf(beta):
        area = 2.0 * np.pi * float(np.sqrt(determinant(covariance)))
        return StarProfile(np.exp(-0.5 * square) / area, fwhm, np.nan, stars)
    return StarProfile(moffat(square, beta) / moffat_area(covariance, beta), fwhm, beta, stars)


def star_profile(
    excess: NDArray[np.float32],
    rms: NDArray[np.float32],
    psf: PointSpread | None,
    model: str,
    name: str,
) -> StarProfile | None:
    """Return the profile of an image's stars.

    Parameters
    ----------
    excess, rms : ndarray of float32, shape (ny, nx)
        Image above its level, and its noise; NaN where blank.
    psf : PointSpread, optional
        Taken as a Gaussian where the image has fewer than three stars.
    model : str
        ``moffat``, elliptical; ``gaussian``; or ``epsf``, what photutils builds from the stars
        (Anderson & King 2000, PASP 112, 1360).
    name : str
        Of the image.

    Returns
    -------
    StarProfile or None
        None where there are neither stars nor a PSF.
    """
    try:
        stars = find_stars(excess, name)
    except InputError:
        return None if psf is None else sampled(psf.covariance)
    covariance = np.median(stars.covariance, axis=0)
    if model == "gaussian":
        return sampled(covariance, stars=len(stars.x))
    fit = fit_moffat(excess, rms, stars)
    profile = sampled(fit.covariance, fit.beta, len(stars.x))
    profile = replace(profile, scale_error=fit.scale_error)
    return build_epsf(excess, rms, stars, profile) if model == "epsf" else profile


class MoffatFit(NamedTuple):
    """A Moffat profile, and what is known of fluxes fitted with it.

    Attributes
    ----------
    covariance : ndarray, shape (2, 2)
        Of the Gaussian with the same FWHM, pixels squared.
    beta : float
    scale_error : float
        Relative error of the fluxes of all stars together, from that of the profile's shape: by
        how differently single stars would have it (the sandwich estimator, White 1982,
        Econometrica 50, 1, with a star as one sample), which neighbours count in too.
    """

    covariance: Floats
    beta: float
    scale_error: float


def fit_moffat(excess: NDArray[np.float32], rms: NDArray[np.float32], stars: Stars) -> MoffatFit:
    """Fit one elliptical Moffat profile to all stars, each with a flux and a level of its own."""
    from scipy.optimize import least_squares

    first = np.median(stars.covariance, axis=0)
    half = int(np.ceil(FIT_REACH * float(np.median(stars.fwhm))))
    windows = [_window(excess, rms, x, y, half) for x, y in zip(stars.x, stars.y, strict=True)]

    def shape(p: Floats) -> tuple[Floats, float]:
        root = np.array([[np.exp(p[0]), 0.0], [p[1], np.exp(p[2])]])
        return root @ root.T, float(np.clip(1.0 + np.exp(p[3]), *BETAS))

    def residuals(p: Floats) -> Floats:
        covariance, beta = shape(p)
        parts = []
        for (u, v, values, noise), peak in zip(windows, stars.peak, strict=True):
            profile = moffat(_square(covariance, u, v), beta)
            weight = 1.0 / np.hypot(noise, MODEL_ERROR * peak * profile)
            basis = np.stack([profile, np.ones_like(profile)], -1) * weight[:, None]
            solved = np.linalg.lstsq(basis, values * weight, rcond=None)[0]
            parts.append(values * weight - basis @ solved)
        return np.concatenate(parts)

    root = np.linalg.cholesky(first)
    start = np.array([np.log(root[0, 0]), root[1, 0], np.log(root[1, 1]), np.log(2.5)])
    found = least_squares(residuals, start, loss="soft_l1", f_scale=SOFT, max_nfev=40)
    covariance, beta = shape(found.x)
    # the gradient of every star by itself, where the loss is soft
    weighted = found.fun * (1.0 + (found.fun / SOFT) ** 2) ** 0.25
    starts = np.cumsum([0] + [len(window[0]) for window in windows[:-1]])
    each = np.add.reduceat(found.jac * weighted[:, None], starts, axis=0)
    bread = np.linalg.pinv(found.jac.T @ found.jac, hermitian=True)
    share = len(windows) / max(1, len(windows) - len(found.x))
    spread = share * bread @ (each.T @ each) @ bread
    return MoffatFit(covariance, beta, _scale_error(shape, found.x, spread))


def _scale_error(
    shape: Callable[[Floats], tuple[Floats, float]], fitted: Floats, spread: Floats
) -> float:
    """Relative error of fluxes by a profile whose parameters have the covariance `spread`.

    A star P that is fitted as Q gets the flux ``sum(P Q) / sum(Q^2)``.
    """
    half = window_side(float(SIGMA_TO_FWHM * determinant(shape(fitted)[0]) ** 0.25)) // 2
    d = np.arange(-half, half + 1.0)

    def values(p: Floats) -> Floats:
        covariance, beta = shape(p)
        square = _square(covariance, d[None, :], d[:, None])
        return moffat(square, beta) / moffat_area(covariance, beta)

    star, slope = values(fitted), np.zeros(len(fitted))
    for k, step in enumerate(1e-4 * np.eye(len(fitted))):
        other = values(fitted + step)
        slope[k] = ((star * other).sum() / (other**2).sum() - 1.0) / step[k]
    return float(np.sqrt(slope @ spread @ slope))


def _window(
    excess: NDArray[np.float32], rms: NDArray[np.float32], x: float, y: float, half: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Offsets, values and noise of the usable pixels around a star."""
    ny, nx = excess.shape
    y0, x0 = round(y), round(x)
    rows = slice(max(0, y0 - half), min(ny, y0 + half + 1))
    columns = slice(max(0, x0 - half), min(nx, x0 + half + 1))
    v, u = np.mgrid[rows, columns]
    values, noise = excess[rows, columns].astype(float), rms[rows, columns].astype(float)
    good = np.isfinite(values) & (noise > 0.0)
    return u[good] - x, v[good] - y, values[good], noise[good]


def build_epsf(
    excess: NDArray[np.float32],
    rms: NDArray[np.float32],
    stars: Stars,
    profile: StarProfile,
) -> StarProfile:
    """Return the effective PSF that photutils builds from stars, with the Moffat's flux beyond.

    Its array is as large as the windows; outside, and for the total flux, it is the Moffat
    profile fitted to the same stars.
    """
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    half = int(np.ceil(FIT_REACH * profile.fwhm))
    filled = np.where(np.isfinite(excess), excess, 0.0)
    table = Table({"x": stars.x, "y": stars.y})
    cut = extract_stars(NDData(filled), table, size=2 * half + 1)
    builder = EPSFBuilder(oversampling=OVERSAMPLING, maxiters=10, progress_bar=False)
    found, _ = builder(cut)
    array = np.array(profile.array)
    middle, inner = array.shape[0] // 2, np.asarray(found.data, float)
    size = min(inner.shape[0], inner.shape[1], 2 * (half - 1) * OVERSAMPLING + 1)
    size -= 1 - size % 2
    cy, cx = inner.shape[0] // 2, inner.shape[1] // 2
    h = size // 2
    inner = inner[cy - h : cy + h + 1, cx - h : cx + h + 1]
    place = (slice(middle - h, middle + h + 1),) * 2
    array[place] = inner * array[place].sum() / inner.sum()
    return replace(profile, array=array, beta=np.nan)
