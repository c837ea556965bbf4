"""The Gaussian that a window looks like, from moments under Gaussian weights that follow it.

A weight of covariance W makes the covariance S of a Gaussian ``(S^-1 + W^-1)^-1``, so that S can be
read off; W is then set to a multiple of S, until nothing changes (adaptive moments: Bernstein &
Jarvis 2002, AJ 123, 583). For bright Gaussians the result is exact; what it lacks for faint or
crowded ones and for other shapes is the network's part.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats

WIDTHS = (0.45, 1.0)
"""Covariance of weights over that of the profile: narrow ones lose least to correlated noise."""
ADAPTED = 6 * len(WIDTHS)
ITERATIONS = 8
SMALLEST, LARGEST = 0.2, 30.0
"""Variances between which profiles are looked for, in those of the beam."""
FARTHEST = 4.0
"""From the centre of the window, in sigmas of the beam."""
_OTHERS = 0.25


def adaptive_moments(fine: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """Gaussians that fine windows look like, for each of `WIDTHS`.

    Parameters
    ----------
    fine : ndarray, shape (n, 2, samples, samples), float32
        See `cyclades.stages.networks.region_windows.Windows`; samples of others do not count.
    step : float
        Of the samples.

    Returns
    -------
    ndarray, shape (n, ADAPTED), float32
        For each width: peak, u, v, and the logarithm of the covariance (uu, uv, vv).
    """
    result = np.zeros((len(fine), len(WIDTHS), 6))
    _adapt(np.ascontiguousarray(fine, np.float32), step, np.array(WIDTHS), result)
    return result.reshape(len(fine), ADAPTED).astype(np.float32)


@nb.njit(inline="always")
def _bounded(a: float, b: float, c: float, low: float, high: float) -> tuple[float, float, float]:
    """A symmetric matrix ((a, b), (b, c)) with eigenvalues brought between bounds."""
    mean, half = 0.5 * (a + c), 0.5 * (a - c)
    r = np.hypot(half, b)
    one, two = min(max(mean + r, low), high), min(max(mean - r, low), high)
    mean, new = 0.5 * (one + two), 0.5 * (one - two)
    f = new / r if r > 1e-12 else 0.0
    return mean + f * half, f * b, mean - f * half


@nb.njit(cache=True, nogil=True)
def _adapt(fine: NDArray[np.float32], step: float, widths: Floats, result: Floats) -> None:
    side = fine.shape[2]
    middle = 0.5 * (side - 1)
    for k in range(len(fine)):
        for w in range(len(widths)):
            kappa = widths[w]
            u, v = 0.0, 0.0
            pa, pb, pc = 1.0, 0.0, 1.0  # precision of the profile
            peak = 1.0
            for _ in range(ITERATIONS):
                a, b, c = pa / kappa, pb / kappa, pc / kappa
                m0 = m1u = m1v = m2a = m2b = m2c = 0.0
                room = np.sqrt(18.0 / (c - b * b / a))
                first = max(0, int(np.ceil((v - room) / step + middle)))
                last = min(side - 1, int(np.floor((v + room) / step + middle)))
                change = np.exp(-a * step * step)
                for i in range(first, last + 1):
                    dv = step * (i - middle) - v
                    du = -step * middle - u
                    value = np.exp(-0.5 * (a * du * du + 2.0 * b * du * dv + c * dv * dv))
                    ratio = np.exp(-a * step * (du + 0.5 * step) - b * step * dv)
                    for j in range(side):
                        if abs(fine[k, 1, i, j]) < _OTHERS:
                            f = value * fine[k, 0, i, j]
                            m0 += f
                            m1u += f * du
                            m1v += f * dv
                            m2a += f * du * du
                            m2b += f * du * dv
                            m2c += f * dv * dv
                        value *= ratio
                        ratio *= change
                        du += step
                if not m0 > 1e-3:
                    break
                cu, cv = m1u / m0, m1v / m0
                sa, sb, sc = _bounded(
                    m2a / m0 - cu * cu, m2b / m0 - cu * cv, m2c / m0 - cv * cv, 0.02, 100.0
                )
                det = sa * sc - sb * sb
                na, nb_, nc = _bounded(
                    sc / det - a, -sb / det - b, sa / det - c, 1.0 / LARGEST, 1.0 / SMALLEST
                )
                # the profile's centre: (P + Q) centroid = P x for a profile P and a weight Q
                ta, tb, tc = na + a, nb_ + b, nc + c
                du, dv = ta * cu + tb * cv, tb * cu + tc * cv
                det = na * nc - nb_ * nb_
                xu, xv = (nc * du - nb_ * dv) / det, (na * dv - nb_ * du) / det
                far = np.hypot(xu, xv)
                limit = min(1.0, 2.0 / max(far, 1e-9))
                xu, xv = limit * xu, limit * xv
                # peak of a profile there, from the weighted sum
                det = ta * tc - tb * tb
                wu, wv = na * xu + nb_ * xv, nb_ * xu + nc * xv
                q = na * xu * xu + 2.0 * nb_ * xu * xv + nc * xv * xv
                q -= (tc * wu * wu - 2.0 * tb * wu * wv + ta * wv * wv) / det
                peak = m0 * step * step * np.sqrt(det) / (2.0 * np.pi) * np.exp(0.5 * max(q, 0.0))
                pa, pb, pc = 0.5 * (pa + na), 0.5 * (pb + nb_), 0.5 * (pc + nc)
                if _ > 3:
                    pa, pb, pc = na, nb_, nc
                u, v = u + xu, v + xv
                far = np.hypot(u, v)
                if far > FARTHEST:
                    u, v = u * FARTHEST / far, v * FARTHEST / far
            mean, half = 0.5 * (pa + pc), 0.5 * (pa - pc)
            r = np.hypot(half, pb)
            one, two = -np.log(max(mean + r, 1e-9)), -np.log(max(mean - r, 1e-9))
            mean, new = 0.5 * (one + two), 0.5 * (one - two)
            f = new / r if r > 1e-12 else 0.0
            result[k, w, 0] = min(peak, 5.0)
            result[k, w, 1], result[k, w, 2] = u, v
            result[k, w, 3] = mean + f * half
            result[k, w, 4] = f * pb
            result[k, w, 5] = mean - f * half
