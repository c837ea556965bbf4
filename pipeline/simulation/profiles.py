"""Sersic galaxies and Moffat stars as mixtures of Gaussians, and their pixels.

A mixture of Gaussians convolved with a mixture of Gaussians is one again, so that galaxies are
convolved with the point spread function without any transform (Hogg & Lang 2013, PASP 125, 719).
Both profiles are mixtures with positive weights only: they are completely monotone in the squared
radius (Bernstein's theorem), the Sersic profile from index 1/2 on. Both mixtures are within 2.5e-3
of the profile where it is bright: inside two half-light radii, and one FWHM.
"""

from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import Floats, Integers
from cyclades.pipeline.simulation.stamps import add_stamp

LIGHT = (1e-3, 0.9995)
"""Shares of the light within the smallest and the largest radius that a Sersic mixture is fitted
to."""
STEP = 1.5
"""Ratio of the sigmas of neighbouring Gaussians of a Sersic mixture."""
MOFFAT_STEP = 0.6
"""Step in the logarithm of the squared width, in the quadrature of a Moffat profile."""
FAINTEST = 2e-5
"""Gaussians are drawn down to this share of the lowest rms."""

_PIXELS = (
    "Tuple((int64[::1], int64[::1], float64[::1], int64[::1]))"
    "(float32[:, ::1], float64[:, ::1], int64[::1], int64[::1], float64[:, ::1], int64[::1], "
    "float64[:, ::1], float32[:, ::1], float64)"
)


class Mixture(NamedTuple):
    """A round profile of unit flux as a sum of Gaussians.

    Attributes
    ----------
    weight : ndarray, shape (k,)
        Share of the flux; their sum is 1.
    variance : ndarray, shape (k,)
        Along one axis, in squared units of the profile's own radius.
    """

    weight: Floats
    variance: Floats


def sersic_constant(index: float) -> float:
    """Return b in ``exp(-b (R / R_e)^(1 / n))``, for which half of the light is inside R_e."""
    from scipy.special import gammaincinv

    return float(gammaincinv(2.0 * index, 0.5))


@lru_cache(maxsize=16)
def sersic_mixture(index: float) -> Mixture:
    """Fit Gaussians to a Sersic profile, by least squares with weights that are not negative.

    Residuals are those of the light per logarithm of the radius, which decides on what is seen
    after convolution, over the radii that hold all but `LIGHT` of it.

    Parameters
    ----------
    index : float
        Sersic index n, at least 1; 1 is an exponential disc, 4 a de Vaucouleurs bulge. Below,
        the widths that are needed crowd about one and would want finer steps.

    Returns
    -------
    Mixture
        In units of the half-light radius.
    """
    from scipy.optimize import nnls
    from scipy.special import gamma, gammaincinv

    if index < 1.0:
        raise ValueError("mixtures are fitted to Sersic profiles of index 1 and above")
    b = sersic_constant(index)
    low, high = ((gammaincinv(2.0 * index, share) / b) ** index for share in LIGHT)
    radius = np.geomspace(low, high, 400)
    total = 2.0 * np.pi * index * gamma(2.0 * index) * b ** (-2.0 * index)
    light = 2.0 * np.pi * radius**2 * np.exp(-b * radius ** (1.0 / index)) / total
    sigma = np.geomspace(low, high, 1 + int(np.ceil(np.log(high / low) / np.log(STEP))))
    square = (radius[:, None] / sigma) ** 2
    weight, _ = nnls(square * np.exp(-0.5 * square), light)
    used = weight > 1e-6
    return Mixture(np.round(weight[used] / weight[used].sum(), 9), np.round(sigma[used] ** 2, 12))


@lru_cache(maxsize=16)
def moffat_mixture(beta: float) -> Mixture:
    """Return a Moffat profile ``(1 + r^2 / a^2)^-beta`` as Gaussians.

    The profile is an integral over Gaussians whose inverse variances follow a gamma distribution,
    ``(1 + t)^-beta = int s^(beta - 1) exp(-s) exp(-s t) ds / Gamma(beta)``; here it is a sum over
    even steps in log s.

    Parameters
    ----------
    beta : float
        More than 1.

    Returns
    -------
    Mixture
        In units of the FWHM.
    """
    if beta <= 1.0:
        raise ValueError("a Moffat profile of beta 1 or less has no finite flux")
    scale = 0.25 / (2.0 ** (1.0 / beta) - 1.0)
    s = (beta - 1.0) * np.exp(np.arange(-12, 13) * MOFFAT_STEP)
    weight = s ** (beta - 1.0) * np.exp(-s)
    used = weight > 1e-5 * weight.sum()
    return Mixture(
        np.round(weight[used] / weight[used].sum(), 9), np.round(0.5 * scale / s[used], 12)
    )


DELTA = Mixture(np.ones(1), np.zeros(1))


def stack(mixtures: list[Mixture]) -> tuple[Floats, Integers]:
    """Return mixtures as rows (weight, variance), and where each of them starts."""
    rows = np.concatenate([np.column_stack(m) for m in mixtures])
    starts = np.cumsum([0] + [len(m.weight) for m in mixtures])
    return np.ascontiguousarray(rows), starts.astype(np.int64)


@nb.njit(
    "void(float32[:, ::1], float64, float64, float64, float64, float64, float64, float64)",
    cache=True,
    nogil=True,
)
def _add_gaussian(
    plane: NDArray[np.float32],
    peak: float,
    x: float,
    y: float,
    sxx: float,
    sxy: float,
    syy: float,
    floor: float,
) -> None:
    """Add a Gaussian where it exceeds the floor; along a row its values are products."""
    ny, nx = plane.shape
    det = sxx * syy - sxy * sxy
    a, b, c = syy / det, -sxy / det, sxx / det
    reach = 2.0 * np.log(peak / floor)
    factor = np.exp(-a)
    hy = np.sqrt(reach * syy)
    for j in range(max(0, int(np.ceil(y - hy))), min(ny - 1, int(np.floor(y + hy))) + 1):
        dy = j - y
        centre = x - b * dy / a
        hx = np.sqrt(max(0.0, (reach - dy * dy / syy) / a))
        first, last = max(0, int(np.ceil(centre - hx))), min(nx - 1, int(np.floor(centre + hx)))
        dx = first - x
        value = peak * np.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
        step = np.exp(-0.5 * (a * (2.0 * dx + 1.0) + 2.0 * b * dy))
        for i in range(first, last + 1):
            plane[j, i] += value
            value *= step
            step *= factor


@nb.njit(_PIXELS, cache=True, nogil=True)
def draw_profiles(
    plane: NDArray[np.float32],
    elements: Floats,
    profile: Integers,
    starts: Integers,
    mixtures: Floats,
    limits: Integers,
    psf: Floats,
    rms: NDArray[np.float32],
    floor: float,
) -> tuple[Integers, Integers, Floats, Integers]:
    """Add objects to a plane, one by one, and note the pixels of each.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), float32
        Changed in place.
    elements : ndarray, shape (m, 6)
        ``flux, x, y, sxx, sxy, syy``, sorted by object: total flux, 0-based position, and the
        ellipse that holds half of the light, as the matrix that is R_e^2 for a round one.
    profile : ndarray of int, shape (m,)
        Which mixture an element has.
    starts : ndarray of int, shape (n + 1,)
        Object k has the elements ``starts[k]:starts[k + 1]``.
    mixtures, limits : ndarray
        See `stack`.
    psf : ndarray, shape (k, 2)
        Weight and variance in pixels squared.
    rms : ndarray, shape (ny, nx), float32
    floor : float
        Gaussians end where they are fainter.

    Returns
    -------
    indices, offsets, peak, pixel : ndarray
        See `cyclades.pipeline.simulation.stamps.draw_objects`.
    """
    ny, nx = plane.shape
    n = len(starts) - 1
    indices = np.empty(max(64 * n, 1024), np.int64)
    offsets = np.zeros(n + 1, np.int64)
    peaks = np.zeros(n)
    pixels = np.full(n, -1)
    rows = np.empty((256, 6))
    used = 0
    for k in range(n):
        x0, x1, y0, y1 = nx, -1, ny, -1
        count = 0
        for e in range(starts[k], starts[k + 1]):
            flux, x, y = elements[e, 0], elements[e, 1], elements[e, 2]
            for m in range(limits[profile[e]], limits[profile[e] + 1]):
                for p in range(len(psf)):
                    sxx = mixtures[m, 1] * elements[e, 3] + psf[p, 1]
                    sxy = mixtures[m, 1] * elements[e, 4]
                    syy = mixtures[m, 1] * elements[e, 5] + psf[p, 1]
                    area = 2.0 * np.pi * np.sqrt(sxx * syy - sxy * sxy)
                    peak = flux * mixtures[m, 0] * psf[p, 0] / area
                    if peak <= floor:
                        continue
                    reach = 2.0 * np.log(peak / floor)
                    hx, hy = np.sqrt(reach * sxx), np.sqrt(reach * syy)
                    if x + hx < 0.0 or y + hy < 0.0 or x - hx > nx - 1 or y - hy > ny - 1:
                        continue
                    x0 = min(x0, max(0, int(np.floor(x - hx))))
                    x1 = max(x1, min(nx - 1, int(np.ceil(x + hx))))
                    y0 = min(y0, max(0, int(np.floor(y - hy))))
                    y1 = max(y1, min(ny - 1, int(np.ceil(y + hy))))
                    if count == len(rows):
                        longer = np.empty((2 * count, 6))
                        longer[:count] = rows
                        rows = longer
                    rows[count, 0], rows[count, 1], rows[count, 2] = peak, x, y
                    rows[count, 3], rows[count, 4], rows[count, 5] = sxx, sxy, syy
                    count += 1
        if count:
            stamp = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.float32)
            for r in range(count):
                _add_gaussian(
                    stamp, rows[r, 0], rows[r, 1] - x0, rows[r, 2] - y0,
                    rows[r, 3], rows[r, 4], rows[r, 5], floor,
                )  # fmt: skip
            indices, used, peaks[k], pixels[k] = add_stamp(plane, stamp, y0, x0, rms, indices, used)
        offsets[k + 1] = used
    return indices[:used].copy(), offsets, peaks, pixels
