"""Fluxes of points by photutils, and how much wider than a point each object is."""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.star_profile import OVERSAMPLING, StarProfile, window_side
from cyclades.stages.core.products import Floats
from cyclades.stages.core.stars import SPREAD_FLOOR

Map = NDArray[np.float32]
GROUP = 1.5
"""Objects within so many FWHM of one another are fitted together."""
WANDER = 0.6
"""How far a position may move, in FWHM."""
DISC = 1.0 / 16.0
"""Scale length of the disc of the spread model, in FWHM (Desai et al. 2012)."""
SPREAD_SIZE = 3.0
"""Side of the windows of the spread model in FWHM."""
PLATEAU_HEIGHT = 50.0
"""Least brightness of saturated pixels in units of the noise."""
PLATEAU_STEP = 0.001
"""Most by which neighbours on a plateau differ, in units of their value."""
PLATEAU_NEIGHBOURS = 4
"""So many of the eight neighbours of a saturated pixel are like it."""


class PointFits(NamedTuple):
    """Fits of points: NaN where there was nothing to fit.

    Attributes
    ----------
    flux, flux_err : ndarray, shape (n,)
        Sums of pixels; the errors hold that of the profile's shape.
    x, y : ndarray, shape (n,)
    """

    flux: Floats
    flux_err: Floats
    x: Floats
    y: Floats


def fit_points(
    excess: Map, error: Map, x: Floats, y: Floats, profile: StarProfile, *, fixed: bool
) -> PointFits:
    """Fit points to an image, near ones together.

    Free positions are fitted by `photutils.psf.PSFPhotometry`. At fixed ones the fluxes are the
    solution of a linear system, and need no iteration.

    Parameters
    ----------
    excess, error : ndarray of float32, shape (ny, nx)
        Image above its level, and the error of its pixels; NaN where blank.
    x, y : ndarray, shape (n,)
        Positions, at which the fits start or, where `fixed`, stay.
    profile : StarProfile
    fixed : bool
    """
    from astropy.table import Table
    from photutils.psf import ImagePSF, PSFPhotometry, SourceGrouper

    n, (ny, nx) = len(x), excess.shape
    result = PointFits(*(np.full(n, np.nan) for _ in range(4)))
    mask = ~(np.isfinite(excess) & (error > 0.0))
    side = window_side(profile.fwhm)
    rows = _fitted(mask, x, y, side)
    if not rows.size:
        return result
    if fixed:
        result.x[rows], result.y[rows] = x[rows], y[rows]
        weight = np.where(mask, 0.0, 1.0 / np.where(mask, 1.0, error.astype(float)))
        values = np.where(mask, 0.0, excess.astype(float))
        result.flux[rows], result.flux_err[rows] = solve_fluxes(
            values, weight, x[rows], y[rows], profile, side
        )
        return _with_profile_error(result, profile)
    model = ImagePSF(profile.array, oversampling=OVERSAMPLING)
    column, row = np.rint(x[rows]).astype(int), np.rint(y[rows]).astype(int)
    central = excess[np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)]
    flux = np.nan_to_num(central.astype(float)) / float(profile.array.max())
    start = Table({"x": x[rows], "y": y[rows], "flux": np.where(flux == 0.0, 1e-9, flux)})
    photometry = PSFPhotometry(
        model,
        (side, side),
        grouper=SourceGrouper(GROUP * profile.fwhm) if rows.size > 1 else None,
        xy_bounds=WANDER * profile.fwhm,
        group_warning_threshold=10**6,
    )
    with warnings.catch_warnings():
        # one for every fit that does not settle; their fluxes are used or flagged all the same
        warnings.simplefilter("ignore")
        found = photometry(
            np.where(mask, 0.0, excess), mask=mask, error=np.where(mask, 1.0, error),
            init_params=start,
        )  # fmt: skip
    found.sort("id")
    for values, name in zip(result, ("flux_fit", "flux_err", "x_fit", "y_fit"), strict=True):
        values[rows] = np.ma.filled(np.ma.MaskedArray(found[name]).astype(float), np.nan)
    return _with_profile_error(result, profile)


def _with_profile_error(fits: PointFits, profile: StarProfile) -> PointFits:
    """Add to the errors of fluxes that of the profile, which all share."""
    return fits._replace(flux_err=np.hypot(fits.flux_err, profile.scale_error * fits.flux))


def solve_fluxes(
    values: Floats, weight: Floats, x: Floats, y: Floats, profile: StarProfile, side: int
) -> tuple[Floats, Floats]:
    """Return the fluxes of points at given positions, by linear least squares, and their errors.

    Parameters
    ----------
    values, weight : ndarray, shape (ny, nx)
        Pixels above the level, and one over their errors; zero where blank.
    x, y : ndarray, shape (n,)
    profile : StarProfile
    side : int
        Of the windows around each position, whose pixels count.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n, (ny, nx) = len(x), values.shape
    counts = np.zeros(values.shape, bool)
    for one, other in zip(x, y, strict=True):
        counts[_place(values.shape, one, other, side // 2)] = True
    counts &= weight > 0.0
    reach = int(np.ceil(2.0 * profile.fwhm))
    pixels, owners, entries = [], [], []
    for k in range(n):
        place = _place(values.shape, x[k], y[k], reach)
        v, u = np.mgrid[place]
        inside = counts[place]
        entries.append((profile.at(u - x[k], v - y[k]) * weight[place])[inside])
        pixels.append((v * nx + u)[inside])
        owners.append(np.full(len(pixels[-1]), k))
    shape = (ny * nx, n)
    design = csr_matrix(
        (np.concatenate(entries), (np.concatenate(pixels), np.concatenate(owners))), shape
    )
    normal = (design.T @ design).tocsr()
    right = np.asarray(design.T @ (values * weight).ravel())
    flux, error = np.full(n, np.nan), np.full(n, np.nan)
    _, group = connected_components(normal, directed=False)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        block = normal[members][:, members].toarray()
        # of points in one place only the sum is known: they share it
        inverse = np.linalg.pinv(block, hermitian=True)
        flux[members], error[members] = inverse @ right[members], np.sqrt(np.diag(inverse))
    return flux, error


def _fitted(mask: NDArray[np.bool_], x: Floats, y: Floats, side: int) -> NDArray[np.int64]:
    """Rows whose windows hold enough pixels for a fit, with a usable one in the middle."""
    ny, nx = mask.shape
    rows = []
    for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
        column, row, half = round(float(x[i])), round(float(y[i])), side // 2
        if not (0 <= column < nx and 0 <= row < ny) or mask[row, column]:
            continue
        part = mask[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
        if np.count_nonzero(~part) > side * side // 3:
            rows.append(i)
    return np.array(rows, np.int64)


def add_points(plane: Floats, fits: PointFits, profile: StarProfile, sign: float = 1.0) -> Floats:
    """Add fitted points to a plane, in place, and return it."""
    half = int(profile.array.shape[0] // 2 // OVERSAMPLING)
    for flux, x, y in zip(fits.flux, fits.x, fits.y, strict=True):
        if np.isfinite(flux):
            rows, columns = _place(plane.shape, x, y, half)
            v, u = np.mgrid[rows, columns]
            plane[rows, columns] += sign * flux * profile.at(u - x, v - y)
    return plane


def _place(shape: tuple[int, ...], x: float, y: float, half: int) -> tuple[slice, slice]:
    y0, x0 = round(y), round(x)
    return (
        slice(max(0, y0 - half), max(0, min(shape[0], y0 + half + 1))),
        slice(max(0, x0 - half), max(0, min(shape[1], x0 + half + 1))),
    )


def spread_model(
    excess: Map,
    rms: Map,
    labels: NDArray[np.int32],
    own: NDArray[np.int64],
    fits: PointFits,
    profile: StarProfile,
) -> tuple[Floats, Floats]:
    """Return how much better a slightly wider profile fits than a point, and its error.

    The spread model of Desai et al. (2012, ApJ 757, 83): with the point P, a disc G of the scale
    length FWHM / 16 seen through it, the pixels D and inverse variances W,
    ``G W D / P W D - G W P / P W P``. It is 0 for points and positive for what is wider. Pixels of
    other objects count for nothing; of what lies beneath, their points are subtracted.

    Parameters
    ----------
    excess, rms : ndarray of float32, shape (ny, nx)
    labels : ndarray of int, shape (ny, nx)
        Which object a pixel belongs to; 0 for none.
    own : ndarray of int, shape (n,)
        The objects' labels.
    fits : PointFits
        Of the objects.
    profile : StarProfile

    Returns
    -------
    spread, error : ndarray, shape (n,)
    """
    n = len(own)
    spread, error = np.full(n, np.nan), np.full(n, np.nan)
    wide = profile.widened(DISC * profile.fwhm)
    others = add_points(excess.astype(float), fits, profile, -1.0)
    half = max(2, round(0.5 * SPREAD_SIZE * profile.fwhm))
    for i in np.flatnonzero(np.isfinite(fits.flux) & (fits.flux > 0.0)):
        x, y = float(fits.x[i]), float(fits.y[i])
        place = _place(excess.shape, x, y, half)
        v, u = np.mgrid[place]
        point, disc = profile.at(u - x, v - y), wide.at(u - x, v - y)
        data = others[place] + fits.flux[i] * point
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = 1.0 / rms[place].astype(float) ** 2
        there = labels[place]
        weight[~np.isfinite(data + weight) | ((there > 0) & (there != own[i]))] = 0.0
        data = np.nan_to_num(data)
        # a common scale keeps the sums within range
        weight /= max(float(weight.max()), 1e-300)
        gd, pd = np.sum(disc * weight * data), np.sum(point * weight * data)
        gp, pp, gg = (np.sum(a * weight * b) for a, b in ((disc, point), (point, point),
                                                           (disc, disc)))  # fmt: skip
        if not (pd > 0.0 and pp > 0.0):
            continue
        spread[i] = gd / pd - gp / pp
        variance = (gd**2 * pp + pd**2 * gg - 2.0 * gd * pd * gp) / pd**4
        scale = float(np.nanmin(rms[place])) if np.isfinite(rms[place]).any() else np.nan
        error[i] = scale * np.sqrt(max(variance, 0.0))
    return spread, error


def wider_probability(spread: Floats, error: Floats) -> Floats:
    """Return the probability of being wider than a star, from the spread model; NaN without one.

    A one-sided test; `SPREAD_FLOOR` is added to the error in quadrature.
    """
    from scipy.special import erf

    z = spread / np.hypot(error, SPREAD_FLOOR)
    return np.asarray(erf(np.maximum(z, 0.0) / np.sqrt(2.0)))


def saturated(excess: Map, rms: Map, labels: NDArray[np.int32], n: int) -> NDArray[np.bool_]:
    """Tell which objects hold a plateau of bright pixels.

    A pixel belongs to one where at least `PLATEAU_NEIGHBOURS` of the eight around it differ from it
    by less than `PLATEAU_STEP` of its value, and it rises `PLATEAU_HEIGHT` times the noise. Neither
    noise nor a profile of less than fifty pixels leaves so many alike; clipping at the end of a
    detector's range does, and so does what pipelines put in its place. Four pixels round the peak
    of a star are alike by symmetry, which makes three neighbours.

    Parameters
    ----------
    excess : ndarray, shape (ny, nx)
        Image minus level; NaN where blank, which is like nothing.
    rms : ndarray, shape (ny, nx)
    labels : ndarray, shape (ny, nx)
        Object of each pixel, from 1; 0 for none.
    n : int
        Number of objects.

    Returns
    -------
    ndarray, shape (n,)
    """
    y, x = np.nonzero(np.nan_to_num(excess) > PLATEAU_HEIGHT * rms)
    here = excess[y, x]
    framed = np.pad(excess, 1, constant_values=np.nan)
    steps = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2) if (dy, dx) != (1, 1)]
    alike = sum(
        (np.abs(framed[y + dy, x + dx] - here) < PLATEAU_STEP * here).astype(int)
        for dy, dx in steps
    )
    flat = alike >= PLATEAU_NEIGHBOURS
    found = np.zeros(n + 1, bool)
    found[labels[y[flat], x[flat]]] = True
    return found[1:]
