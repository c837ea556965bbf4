"""Windowed positions and aperture fluxes by sep, and their noise."""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.products import Floats, Segments

Map = NDArray[np.float32]
KRON_REACH = 6.0
KRON_FACTOR = 2.5
KRON_MINIMUM = 3.5
"""SExtractor's: reach of the Kron sum in sigmas, aperture in Kron radii, and its least radius in
sigmas."""
WANDER = 1.0
"""How far a windowed position may lie from the barycentre, in sigmas of the source."""
LEAST_MOMENT = 1.0 / 12.0
"""Second moment of a single pixel: no source is narrower."""


class Sky:
    """The plane that is measured: positive excess, its noise, and who owns which pixel.

    Parameters
    ----------
    excess : ndarray of float32, shape (ny, nx)
        Image above the level, turned so that the sources are positive; NaN where blank.
    segments : Segments
        Pixels of the components, none empty.
    rms : ndarray of float32, shape (ny, nx)
        Local rms.
    """

    def __init__(self, excess: Map, segments: Segments, rms: Map) -> None:
        self.excess = excess
        self.mask = ~np.isfinite(excess)
        self.data = np.ascontiguousarray(np.where(self.mask, np.float32(0.0), excess))
        self.segments = segments
        self.rms = np.ascontiguousarray(rms)
        self.labels = segments.label_map((excess.shape[0], excess.shape[1]))


def ellipses(covariance: Floats) -> tuple[Floats, Floats, Floats]:
    """Semi-axes in sigmas and angle of the major one from x, as sep wants them."""
    sxx, sxy, syy = covariance[:, 0], covariance[:, 1], covariance[:, 2]
    mean, half = 0.5 * (sxx + syy), 0.5 * (sxx - syy)
    radius = np.hypot(half, sxy)
    a, b = (np.sqrt(np.maximum(mean + sign * radius, LEAST_MOMENT)) for sign in (1.0, -1.0))
    return a, b, 0.5 * np.arctan2(sxy, half)


def window_noise(rho: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Variances of ``sum w n dx`` and ``sum w n dy`` for unit noise n in Gaussian windows w.

    Exact for any autocorrelation in windows that are sampled well: the integral over the mean
    position of a pair of pixels is done analytically.
    """
    r = rho.shape[0] // 2
    u = np.arange(-r, r + 1.0)
    s2 = sigma[:, None] ** 2
    one = np.exp(-0.25 * u**2 / s2)
    moment = one * (0.5 * s2 - 0.25 * u**2)
    scale = np.pi * sigma**2
    along_x = scale * np.einsum("ny,yx,nx->n", one, rho, moment)
    along_y = scale * np.einsum("ny,yx,nx->n", moment, rho, one)
    return np.maximum(along_x, 0.0), np.maximum(along_y, 0.0)


def aperture_error(rho: Floats, radius: Floats) -> Floats:
    """Standard deviation of the sum of unit noise in circles.

    The autocorrelation is summed over the overlap of the circle with itself, shifted.
    """
    r = rho.shape[0] // 2
    u = np.arange(-r, r + 1.0)
    distance = np.hypot(u[:, None], u[None, :])
    shifts, which = np.unique(distance, return_inverse=True)
    summed = np.bincount(which.ravel(), rho.ravel())
    half = np.clip(shifts / (2.0 * np.maximum(radius, 1e-9)[:, None]), 0.0, 1.0)
    overlap = 2.0 * radius[:, None] ** 2 * (np.arccos(half) - half * np.sqrt(1.0 - half**2))
    return np.sqrt(np.maximum(overlap @ summed, 0.0))


def windowed_positions(
    sky: Sky, moments: Floats, shape: Floats, peak: Floats, rms: Floats, rho: Floats
) -> tuple[Floats, Floats]:
    """Positions with Gaussian weights of the source's own size, and their variances.

    Returns
    -------
    position : ndarray, shape (n, 2)
        (x, y); NaN where the iteration went astray.
    variance : ndarray, shape (n, 2)
        For a Gaussian profile. The weighted noise ``sum w n dx`` moves the position by itself
        over ``sum w I`` and over the part of a shift that one weighted mean sees.
    """
    import sep

    a, b, _ = ellipses(shape)
    sigma = np.sqrt(a * b)
    x, y, _ = sep.winpos(sky.data, moments[:, 0], moments[:, 1], sigma, mask=sky.mask)
    position = np.stack([x, y], -1)
    astray = ~(np.hypot(*(position - moments[:, :2]).T) < WANDER * sigma)
    position[astray] = np.nan
    square = sigma**2
    sxx, sxy, syy = shape[:, 0], shape[:, 1], shape[:, 2]
    wider = (sxx + square) * (syy + square) - sxy**2
    weight = 2.0 * np.pi * peak * square * np.sqrt((sxx * syy - sxy**2) / wider)
    seen = np.stack([square / (square + sxx), square / (square + syy)], -1)
    noise = np.stack(window_noise(rho, sigma), -1)
    return position, noise * (rms / weight)[:, None] ** 2 / seen**2


def aperture_columns(
    sky: Sky, x: Floats, y: Floats, shape: Floats, radius: float
) -> dict[str, Floats]:
    """Kron and circular fluxes as pixel sums, Kron and half-light radii in pixels.

    The pixels of other components do not count. The Kron aperture (Kron 1980) is an ellipse of
    the source's shape and 2.5 Kron radii, at least 3.5 sigma.
    """
    import sep

    a, b, angle = ellipses(shape)
    seg_id = np.arange(1, len(x) + 1, dtype=np.int32)
    options = {"mask": sky.mask, "segmap": sky.labels, "seg_id": seg_id}
    kron, _ = sep.kron_radius(sky.data, x, y, a, b, angle, KRON_REACH, **options)
    size = np.maximum(KRON_FACTOR * kron, KRON_MINIMUM)
    kron_flux, _, _ = sep.sum_ellipse(sky.data, x, y, a, b, angle, size, **options)
    circle, _, _ = sep.sum_circle(sky.data, x, y, np.full(len(x), radius), **options)
    half, _ = sep.flux_radius(sky.data, x, y, KRON_REACH * a, 0.5, normflux=kron_flux, **options)
    return {
        "kron_flux": kron_flux,
        "kron_aperture": size * np.sqrt(a * b),
        "kron_radius": kron * np.sqrt(a * b),
        "aperture_flux": circle,
        "half_light_radius": half,
    }
