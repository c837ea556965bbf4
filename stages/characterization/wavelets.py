"""A model of what Gaussians leave: structures of the residual's wavelet transform.

The residual of an island is decomposed by the isotropic undecimated ("a trous") wavelet transform
with the B3 spline (Starck & Murtagh 2006, Astronomical Image and Data Analysis). A
structure that is significant at some scale starts a Gaussian of that scale, and the components
around it are fitted again, on the whole island and a margin around it: the ellipse of a normal fit
says nothing of the wings, which is where a Gaussian fails on a disc or on an exponential profile.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.fit_rows import IslandFits, nearest_leaves
from cyclades.stages.characterization.gaussian_shapes import pixel_parameters, total_flux_gradient
from cyclades.stages.characterization.least_squares import (
    AT_LIMIT,
    CONVERGED,
    FWHM,
    Floats,
    Integers,
)
from cyclades.stages.characterization.regions import (
    Region,
    correlated_covariance,
    island_region,
    margin_boxes,
    suspect_islands,
    weighted_jacobian,
)
from cyclades.stages.core.noise import NoiseAutocorrelation
from cyclades.stages.core.products import Background, Segments
from cyclades.stages.core.rendering import gaussian_cutouts

SPLINE = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
MOST_SCALES = 8
LARGEST = 2.0
"""Largest axis of a component, in sizes of the structure that starts it."""
SUSPICION = 3.0
"""Significance of the misfit of an island that makes its residual worth a look."""
ROUNDS = 6
"""Times that all components of a large island are fitted, some neighbours at a time."""
SETTLED = 0.98
"""Part of the misfit above which a further round is not worth its time."""
FAINTEST = 0.1
"""Peak in units of the noise below which an added component is dropped."""


def smoothing_sigma(scale: int) -> float:
    """Standard deviation in pixels of the smoothing after `scale` steps of the transform."""
    return float(np.sqrt((4.0**scale - 1.0) / 3.0))


def smooth_along(plane: Floats, step: int) -> Floats:
    """Smoothing along the first axis by the spline, its coefficients `step` pixels apart."""
    result: Floats = SPLINE[2] * plane
    for apart, weight in ((step, SPLINE[1]), (2 * step, SPLINE[0])):
        result[:-apart] += weight * plane[apart:]
        result[apart:] += weight * plane[:-apart]
    return result


def next_smoothing(plane: Floats, scale: int) -> Floats:
    """The smoothing after that of `scale`, along both axes; outside the plane is zero."""
    return smooth_along(smooth_along(plane, 2**scale).T, 2**scale).T


def wavelet_planes(plane: NDArray[np.floating], scales: int) -> Floats:
    """Isotropic undecimated wavelet transform with the B3 spline.

    Plane j is the difference of two successive smoothings, by the spline with ``2^j - 1`` zeros
    between its coefficients; the planes add up to the image. Outside the image is zero.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx)
        Without NaN.
    scales : int
        Number of wavelet planes.

    Returns
    -------
    ndarray, shape (scales + 1, ny, nx)
        The wavelet planes, finest first, and the last smoothing.
    """
    smooth = np.asarray(plane, float)
    planes = []
    for scale in range(scales):
        following = next_smoothing(smooth, scale)
        planes.append(smooth - following)
        smooth = following
    return np.stack([*planes, smooth])


@lru_cache(maxsize=MOST_SCALES)
def wavelet_kernel(scale: int) -> Floats:
    """Kernel of wavelet plane `scale` (0 is the finest), on an odd-sized square."""
    half = 2 * (2 ** (scale + 1) - 1)
    delta = np.zeros((2 * half + 1, 2 * half + 1))
    delta[half, half] = 1.0
    return np.asarray(wavelet_planes(delta, scale + 1)[scale])


def wavelet_noise(noise: NoiseAutocorrelation, scales: int) -> Floats:
    """Rms of each wavelet plane of unit noise with the given autocorrelation, shape (scales,)."""
    variances = [noise.filtered_variance(wavelet_kernel(scale)) for scale in range(scales)]
    return np.asarray(np.sqrt(np.maximum(variances, 1e-12)))


@dataclass(frozen=True, eq=False)
class Structure:
    """The most significant structure of a residual, and the Gaussian to start for it."""

    significance: float
    peak: float
    position: Floats
    size: float


def strongest_structure(
    region: Region, params: Floats, noise_rms: Floats, finest: int, fraction: float
) -> Structure | None:
    """Most significant positive wavelet coefficient of the residual inside the island.

    Parameters
    ----------
    noise_rms : ndarray, shape (scales,)
        Of the wavelet planes of unit noise.
    finest : int
        First plane to look at: finer ones are below the beam.
    fraction : float
        Structures below this part of the model, both smoothed to the structure's scale, are
        errors of the shape of a bright component (of the beam, or of the calibration).

    Returns
    -------
    Structure or None
        None where nothing is positive.
    """
    model = np.where(region.usable, region.model(params), 0.0)
    smooth = np.where(region.usable, region.value - model, 0.0) / region.rms
    smooth_model = model / region.rms
    best: Structure | None = None
    for scale, noise in enumerate(noise_rms):
        following = next_smoothing(smooth, scale)
        allowed = region.island & (smooth > fraction * smooth_model)
        ratio = np.where(allowed, (smooth - following) / noise, 0.0)
        y, x = (int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
        significance = float(ratio[y, x])
        if scale >= finest and significance > (0.0 if best is None else best.significance):
            sigma = np.sqrt(smoothing_sigma(scale) * smoothing_sigma(scale + 1))
            size = sigma / np.sqrt(abs(np.linalg.det(region.factor)))
            best = Structure(
                significance,
                float(smooth[y, x] * region.rms[y, x]),
                region.whiten(y, x),
                max(1.0, float(size)),
            )
        smooth, smooth_model = following, next_smoothing(smooth_model, scale)
    return best


@dataclass(frozen=True, eq=False)
class RegionModel:
    """Components of an island after the residual was modelled.

    Parameters
    ----------
    params : ndarray, shape (n, 6)
        Whitened; the components that were there first, then the added ones.
    bounds : ndarray, shape (n, 4)
    changed : ndarray of int64
        Rows that were fitted; the others hold no errors here.
    covariance : ndarray, shape (n, 6, 6)
    share : ndarray, shape (n,)
        Covariance of each total flux with the sum of those fitted with it: they add up to the
        variance of the sum.
    status : ndarray of int64, shape (n,)
    chi2, freedom : float
    n_pixels : int
    """

    params: Floats
    bounds: Floats
    changed: Integers
    covariance: Floats
    share: Floats
    status: Integers
    chi2: float
    freedom: float
    n_pixels: int


def model_region(
    region: Region,
    params: Floats,
    bounds: Floats,
    noise: NoiseAutocorrelation,
    *,
    limit: int,
    threshold: float,
    joint: int,
    fraction: float,
) -> RegionModel | None:
    """Fit the components of an island to all of its pixels, and add Gaussians where it needs them.

    Parameters
    ----------
    params, bounds : ndarray, shape (n, 6) and (n, 4)
        Components so far.
    limit : int
        Most components to add.
    threshold : float
        Least significance of a wavelet coefficient.
    joint : int
        Most components fitted together: an added one and its nearest neighbours.
    fraction : float
        See `strongest_structure`.

    Returns
    -------
    RegionModel or None
        None where no structure is significant.
    """
    if region.beyond(params).any():
        return None
    beam = float(np.sqrt(abs(np.linalg.det(region.factor))))
    extent = region.extent
    largest = max(extent / (FWHM * beam), LARGEST)
    finest = next((j for j in range(MOST_SCALES) if smoothing_sigma(j + 1) >= beam), 0)
    scales = finest + 1
    while scales < MOST_SCALES and smoothing_sigma(scales) < 0.25 * extent:
        scales += 1
    noise_rms = wavelet_noise(noise, scales)
    n_before = len(params)
    start, params, bounds = params, params.copy(), bounds.copy()
    before = region.misfit(params)
    params = fit_anew(region, params, bounds, joint)
    if region.beyond(params).any():
        return None
    for _ in range(limit):
        found = strongest_structure(region, params, noise_rms, finest, fraction)
        if found is None or found.significance < threshold:
            break
        row = np.array([[found.peak, *found.position, found.size**-2, 0.0, found.size**-2]])
        most = min(LARGEST * found.size, largest)
        bound = np.array([[most, *found.position, FWHM * found.size]])
        trial, limits = np.concatenate([params, row]), np.concatenate([bounds, bound])
        trial = region.fit(trial, limits, np.array([len(params)]))
        apart = np.hypot(*(trial[:, 1:3] - found.position).T)
        near = np.sort(np.argsort(apart, kind="stable")[:joint])
        trial = region.fit(trial, limits, near)
        if not region.misfit(trial) < region.misfit(params):
            break
        params, bounds = trial, limits
    if len(params) > joint:
        params = settle(region, params, bounds, joint)
    # One that the others made superfluous has neither a flux nor an error.
    real = params[:, 0] > FAINTEST * np.median(region.rms[region.usable])
    real[:n_before] = True
    params, bounds = params[real], bounds[real]
    # Without an addition, what is left is a better fit of the same Gaussians, if it is one.
    gain = threshold**2 * max(float(np.sum(noise.values)), 1.0)
    if len(params) == n_before and not region.misfit(params) < before - gain:
        return None
    changed = np.ones(len(params), bool)
    changed[:n_before] = (params[:n_before] != start).any(axis=1)
    return finish(region, params, bounds, np.flatnonzero(changed), noise, joint)


def fit_anew(region: Region, params: Floats, bounds: Floats, joint: int) -> Floats:
    """Fit the components of an island to all of its pixels, `joint` neighbours at a time.

    Those that left the island's pixels, in a fit to the surroundings of their peaks, start again
    from there.
    """
    params = params.copy()
    lost = ~region.held(params)
    if lost.any():
        params[lost, 0] = 0.0
        params[lost, 1:3] = bounds[lost, 1:3]
        params[lost, 3:] = 1.0, 0.0, 1.0
        rest = region.value - region.model(params)
        for row in np.flatnonzero(lost):
            nearest = np.argmin((region.u - params[row, 1]) ** 2 + (region.v - params[row, 2]) ** 2)
            params[row, 0] = max(rest.flat[nearest], FAINTEST * region.rms.flat[nearest])
    elif len(params) > joint:
        return params
    for rows in neighbours(params, joint):
        params = region.fit(params, bounds, rows)
    return params


def settle(region: Region, params: Floats, bounds: Floats, joint: int) -> Floats:
    """Fit all components of an island, `joint` neighbours at a time, until that changes little.

    Where others are held, each round follows what the one before it changed beside it: a component
    that took the light of one not yet fitted gives it back.
    """
    left = np.inf
    for _ in range(ROUNDS):
        for rows in neighbours(params, joint):
            params = region.fit(params, bounds, rows)
        before, left = left, region.misfit(params)
        if not left < SETTLED * before:
            break
    return params


def neighbours(params: Floats, joint: int) -> Iterator[Integers]:
    """Rows in groups of `joint` at most: the brightest that is left and those nearest to it."""
    left = np.argsort(-params[:, 0], kind="stable")
    while left.size:
        apart = np.hypot(*(params[left, 1:3] - params[left[0], 1:3]).T)
        near = left[np.argsort(apart, kind="stable")[:joint]]
        yield np.sort(near)
        left = left[~np.isin(left, near)]


def finish(
    region: Region,
    params: Floats,
    bounds: Floats,
    changed: Integers,
    noise: NoiseAutocorrelation,
    joint: int,
) -> RegionModel:
    """Errors of the components that were fitted, in groups of `joint` rows."""
    n = len(params)
    covariance = np.full((n, 6, 6), np.nan)
    share = np.full(n, np.nan)
    n_usable = int(np.count_nonzero(region.usable))
    freedom = float(n_usable)
    for first in range(0, len(changed), joint):
        rows = changed[first : first + joint]
        group = np.ascontiguousarray(params[rows])
        chosen, step = region.sample(group)
        jacobian = np.empty((np.count_nonzero(chosen), 6 * len(rows)))
        weighted_jacobian(
            group, region.u[chosen], region.v[chosen], 1.0 / region.rms[chosen], jacobian
        )
        block, fitted = correlated_covariance(jacobian, chosen, step[chosen] ** 2, noise)
        freedom -= fitted
        gradient = np.zeros((len(rows), 6 * len(rows)))
        for k, row in enumerate(rows):
            at = slice(6 * k, 6 * k + 6)
            # A component that no pixel sees has no error, rather than one of zero.
            known = (np.diag(block)[at] > 0.0).all()
            covariance[row] = block[at, at] if known else np.nan
            gradient[k, at] = total_flux_gradient(params[row : row + 1])[0]
        share[rows] = gradient @ block @ gradient.sum(axis=0)
    mean = 0.5 * (params[:, 3] + params[:, 5])
    radius = np.hypot(0.5 * (params[:, 3] - params[:, 5]), params[:, 4])
    size = 1.0 / np.sqrt(np.maximum(mean - radius, 1e-12))
    limited = (size > 0.999 * bounds[:, 0]) | np.isnan(covariance[:, 0, 0])
    status = np.where(limited, AT_LIMIT, CONVERGED).astype(np.int64)
    freedom = max(freedom, 1.0)
    return RegionModel(
        params, bounds, changed, covariance, share, status, region.misfit(params), freedom, n_usable
    )


def model_islands(
    fits: IslandFits,
    frame: tuple[Floats, Floats, Integers],
    islands: Segments,
    labels: NDArray[np.int32],
    data: NDArray[np.float32],
    background: Background,
    noise: NoiseAutocorrelation,
    *,
    limit: int,
    threshold: float,
    joint: int,
    fraction: float,
    workers: int = 1,
) -> IslandFits:
    """Model the residuals of the islands whose fit is poor.

    Parameters
    ----------
    fits : IslandFits
        All islands.
    frame : tuple
        Cholesky factors of the beam, whitened origins and signs, of the rows of `islands`.
    labels : ndarray of int32, shape (ny, nx)
        Row of `islands` + 1; 0 outside.
    data : ndarray of float32, shape (ny, nx)
        The image.
    background : Background
        Its level and noise.
    limit, threshold, joint, fraction
        See `model_region`.

    Returns
    -------
    IslandFits
        Those that were modelled have a new fit, and possibly more rows.
    """
    factor, origin, sign = frame
    level, rms = background.level, background.rms
    values, _ = pixel_parameters(
        fits.params, fits.covariance, factor[fits.island], origin[fits.island]
    )
    values[:, 0] *= sign[fits.island]
    boxes = margin_boxes(islands, data.shape, factor)
    chosen = suspect_islands(
        fits, boxes, labels, data, level, values, rms, noise, threshold=SUSPICION, fraction=fraction
    )
    if not chosen.size:
        return fits

    def one(row: int, model: NDArray[np.float32]) -> IslandFits | None:
        before = fits.take(fits.island == row)
        region = island_region(
            row + 1, boxes[row], labels, data, level, model, rms, int(sign[row]), factor[row],
            origin[row], before.params,
        )  # fmt: skip
        found = model_region(
            region, before.params, before.bounds, noise,
            limit=limit, threshold=threshold, joint=joint, fraction=fraction,
        )  # fmt: skip
        if found is None:
            return None
        old = len(before.params)
        island = np.full(len(found.params) - old, row)
        leaf = nearest_leaves(before, island, found.params[old:, 1:3])
        after = before.join(IslandFits.start(island, leaf, found.params[old:], found.bounds[old:]))
        at = found.changed
        after.params[at], after.covariance[at] = found.params[at], found.covariance[at]
        after.status[at], after.share[at] = found.status[at], found.share[at]
        after.total[at] = np.nan
        after.quality[:] = found.chi2, found.freedom, found.n_pixels
        after.wavelet[old:] = True
        return after

    models = gaussian_cutouts(data.shape, values, boxes[chosen])
    with ThreadPoolExecutor(workers) as pool:
        done = [part for part in pool.map(one, chosen.tolist(), models) if part is not None]
    kept = fits.take(~np.isin(fits.island, [part.island[0] for part in done]))
    return kept.join(reduce(IslandFits.join, done)) if done else fits
