"""The PSF of an image from its own stars.

Stars are the bright, isolated, compact objects that share one size: on a plot of size against
brightness they lie on a line, which is the narrowest one that is crowded.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, determinant, inverse

SPREAD_FLOOR = 0.001
"""Error of the spread model that no brightness removes: the profile of the stars is not exact."""
SIGNIFICANCES = (40.0, 20.0, 10.0)
"""Least peak of a star over the rms of its pixels: the first that enough stars have."""
ENOUGH = 8
LEAST_NUMBER = 3
"""Stars below which no PSF is measured."""
MOST_CANDIDATES = 400
MESH = 64
"""Side of the boxes of the background, in pixels."""
ROUND = 0.75
"""Least axis ratio of a star."""
CROWDED = 0.6
"""A size is the stars' where so many share it, as a part of those that share the commonest size."""
WINDOW = 0.08
"""Relative sizes that count as shared."""
_ITERATIONS = 40
_SMALLEST, _LARGEST = 0.5, 12.0
"""Sigmas of stars in pixels."""
_CORE_LEVEL, _CORE_REACH = 0.4, 4.0
"""Least brightness of the pixels of a core, and its largest squared radius in squared sigmas."""
_ISOLATED = 0.05
"""Most light of a neighbour over that of a star."""


class Stars(NamedTuple):
    """Stars that a PSF was measured from.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        0-based pixels.
    peak : ndarray, shape (n,)
        Of the Gaussian that fits best, in the image's unit.
    covariance : ndarray, shape (n, 2, 2)
        That of this Gaussian, in pixels squared.
    """

    x: Floats
    y: Floats
    peak: Floats
    covariance: Floats

    @property
    def fwhm(self) -> Floats:
        """Geometric mean FWHM of each star in pixels."""
        return np.asarray(SIGMA_TO_FWHM * determinant(self.covariance) ** 0.25)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "Stars":
        """Return some of the stars."""
        return Stars(*(values[rows] for values in self))


def find_stars(data: NDArray[np.float32], name: str = "the image") -> Stars:
    """Find the stars of an image that are fit to measure its PSF.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        NaN where blank; the background may have any level.
    name : str
        What to call the image in messages.

    Returns
    -------
    Stars
        The brightest first.

    Raises
    ------
    InputError
        For fewer than three stars.
    """
    import sep

    blank = ~np.isfinite(data)
    filled = np.ascontiguousarray(np.where(blank, np.float32(0.0), data), np.float32)
    background = sep.Background(filled, mask=blank, bw=MESH, bh=MESH)
    excess = filled - background.back(dtype=np.float32)
    rms = background.rms(dtype=np.float32)
    rms = np.maximum(rms, np.float32(1e-6 * float(background.globalrms) + 1e-30))
    found = sep.extract(excess, 5.0, err=rms, mask=blank, minarea=5)
    order = np.argsort(-found["peak"])
    found = found[order]
    candidates = _isolated(found, rms, excess.shape)
    stars = adaptive_shapes(excess, found["x"][candidates], found["y"][candidates])
    axes = np.linalg.eigvalsh(np.nan_to_num(stars.covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        fit = np.sqrt(axes[:, 0] / axes[:, 1]) > ROUND
    fit &= (axes[:, 0] > _SMALLEST**2) & (axes[:, 1] < _LARGEST**2)
    significance = found["peak"][candidates] / _there(rms, found)[candidates]
    stars, significance = stars.take(fit), significance[fit]
    bright = stars.take(np.zeros(0, np.int64))
    for least in SIGNIFICANCES:
        chosen = stars.take(significance > least)
        if len(chosen.x):
            bright = chosen.take(stellar_sizes(chosen.fwhm))
        if len(bright.x) >= ENOUGH:
            break
    stars = bright
    if len(stars.x) < LEAST_NUMBER:
        raise InputError(
            f"{name}: only {len(stars.x)} of its objects look like stars of one size, too few to "
            "measure the PSF; give it with --beam 1.2arcsec."
        )
    return stars


def _isolated(
    found: NDArray[np.void], rms: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Bright objects of sep, sorted by peak, that nothing cuts, covers or outshines."""
    y, x = np.rint(found["y"]).astype(int), np.rint(found["x"]).astype(int)
    reach = 6.0 * np.maximum(np.minimum(found["a"], _LARGEST), 1.0)
    inside = (x > reach) & (y > reach) & (x < shape[1] - reach) & (y < shape[0] - reach)
    bright = (
        (found["peak"] > SIGNIFICANCES[-1] * _there(rms, found)) & inside & (found["flag"] == 0)
    )
    rows = np.flatnonzero(bright)[: 4 * MOST_CANDIDATES]
    kept = []
    for row in rows:
        distance = np.hypot(found["x"] - found["x"][row], found["y"] - found["y"][row])
        near = (distance < reach[row] + 2.0 * found["a"]) & (distance > 0.0)
        if not np.any(found["flux"][near] > _ISOLATED * found["flux"][row]):
            kept.append(row)
    return np.array(kept[:MOST_CANDIDATES], np.int64)


def _there(plane: NDArray[np.float32], found: NDArray[np.void]) -> NDArray[np.float32]:
    """Values of a plane at the centres of objects."""
    y, x = np.rint(found["y"]).astype(int), np.rint(found["x"]).astype(int)
    inside = np.clip(y, 0, plane.shape[0] - 1), np.clip(x, 0, plane.shape[1] - 1)
    return np.asarray(plane[inside])


def adaptive_shapes(excess: NDArray[np.float32], x: Floats, y: Floats) -> Stars:
    """Return the Gaussians that fit the cores of objects best.

    Centre and shape are from moments under weights of the object's own shape (Bernstein & Jarvis
    2002, AJ 123, 583, section 3), the size from the pixels above 0.4 of the peak. NaN where the
    iteration fails.

    Parameters
    ----------
    excess : ndarray of float32, shape (ny, nx)
        Image above its background.
    x, y : ndarray, shape (n,)
        First positions.
    """
    half = round(4.0 * _LARGEST / 2.0)
    n, (ny, nx) = len(x), excess.shape
    d = np.arange(-half, half + 1)
    x0, y0 = np.rint(x).astype(int), np.rint(y).astype(int)
    rows, columns = y0[:, None] + d, x0[:, None] + d
    stamp = excess[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]]
    outside = ((rows < 0) | (rows >= ny))[:, :, None] | ((columns < 0) | (columns >= nx))[:, None]
    values = np.where(outside | ~np.isfinite(stamp), 0.0, stamp).astype(float)
    centre = np.stack([x - x0, y - y0], -1)
    shape = np.tile(4.0 * np.eye(2), (n, 1, 1))
    peak = np.full(n, np.nan)
    for _ in range(_ITERATIONS):
        p = inverse(shape)
        u = d[None, :] - centre[:, :1]
        v = d[None, :] - centre[:, 1:]
        square = p[:, 0, 0, None, None] * u[:, None, :] ** 2 + p[:, 1, 1, None, None] * (
            v[:, :, None] ** 2
        )
        square += 2.0 * p[:, 0, 1, None, None] * u[:, None, :] * v[:, :, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            weighted = values * np.exp(-0.5 * np.clip(square, 0.0, 100.0))
            total = weighted.sum((1, 2))
            mu = np.einsum("nyx,nx->n", weighted, u) / total
            mv = np.einsum("nyx,ny->n", weighted, v) / total
            uu = np.einsum("nyx,nx->n", weighted, u**2) / total - mu**2
            vv = np.einsum("nyx,ny->n", weighted, v**2) / total - mv**2
            uv = np.einsum("nyx,nx,ny->n", weighted, u, v) / total - mu * mv
            # a Gaussian under a weight of its own shape has half its covariance, half its shift
            new = 2.0 * np.stack([np.stack([uu, uv], -1), np.stack([uv, vv], -1)], -1)
            good = (total > 0.0) & (determinant(new) > _SMALLEST**4 / 16.0)
            good &= determinant(new) < (2.0 * _LARGEST) ** 4
            peak = 2.0 * total / (2.0 * np.pi * np.sqrt(determinant(shape)))
        shape[good] = new[good]
        centre[good] += np.clip(2.0 * np.stack([mu, mv], -1)[good], -1.0, 1.0)
        shape[~good] = np.eye(2) * 4.0
        peak[~good] = np.nan
    shape[~np.isfinite(peak)] = np.nan
    shape /= _core(values, square)[:, None, None]
    return Stars(x0 + centre[:, 0], y0 + centre[:, 1], peak, shape)


def _core(stamp: Floats, square: Floats) -> Floats:
    """Precision of the cores of profiles over that of the Gaussians given by `square`.

    Stars have wings, which widen moments by a tenth. In the logarithm a Gaussian is a line in the
    squared radius: it is fitted to the pixels above `_CORE_LEVEL` of the brightest one, with the
    weights of equal errors of the pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = (square < _CORE_REACH) & (square >= 0.0)
        brightest = np.where(inside, stamp, 0.0).max((1, 2), keepdims=True)
        inside &= stamp > _CORE_LEVEL * brightest
        value = np.where(inside, stamp, 1.0)
        weight = np.where(inside, stamp, 0.0) ** 2
        total, log = weight.sum((1, 2)), np.log(value)
        t = np.where(inside, square, 0.0)
        mean_t, mean_log = (np.einsum("nyx,nyx->n", weight, a) / total for a in (t, log))
        t, log = t - mean_t[:, None, None], log - mean_log[:, None, None]
        slope = (weight * t * log).sum((1, 2)) / (weight * t**2).sum((1, 2))
    return np.asarray(np.where(slope < 0.0, -2.0 * slope, np.nan))


def stellar_sizes(size: Floats) -> NDArray[np.bool_]:
    """Return which objects have the size of stars.

    Parameters
    ----------
    size : ndarray, shape (n,)
        Any positive measure of length.
    """
    logarithm = np.log(size)
    number = np.array([np.count_nonzero(np.abs(logarithm - a) < 0.5 * WINDOW) for a in logarithm])
    smallest = logarithm[number >= CROWDED * number.max()].min()
    chosen = np.abs(logarithm - smallest) < WINDOW
    for _ in range(5):
        middle = np.median(logarithm[chosen])
        spread = 1.4826 * np.median(np.abs(logarithm[chosen] - middle))
        chosen = np.abs(logarithm - middle) < np.clip(3.0 * spread, 0.25 * WINDOW, WINDOW)
    return np.asarray(chosen)


def measured_psf(data: NDArray[np.float32], name: str = "the image") -> tuple[PointSpread, Stars]:
    """Return the Gaussian PSF that fits the stars of an image best, constant in pixels.

    It is the median over the stars; see `find_stars`.
    """
    stars = find_stars(data, name)
    return PointSpread(np.median(stars.covariance, axis=0)), stars
