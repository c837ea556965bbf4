"""Noise of isophotal sums, pair of pixels by pair of pixels."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.products import Floats, Integers


@nb.njit(
    "void(int64[::1], int64[::1], int32[::1], float32[::1], int64, float64[:, ::1], int64[::1], "
    "float64[:, ::1], float64[:, :, ::1])",
    cache=True,
    nogil=True,
)
def noise_of_moments(
    indices: Integers,
    offsets: Integers,
    labels: NDArray[np.int32],
    rms: NDArray[np.float32],
    nx: int,
    moments: Floats,
    peaks: Integers,
    rho: Floats,
    result: Floats,
) -> None:
    """Covariance of the noise in the sums that moments are made of.

    The sums of a segment are ``sum_i n_i f_i`` with n the noise and f = (1, dx, dy, dx^2 - sxx,
    dx dy - sxy, dy^2 - syy) about the segment's own moments; a seventh entry is the noise of the
    peak pixel.

    Parameters
    ----------
    indices, offsets : ndarray of int64
        Segments, as flat pixel indices; they do not overlap.
    labels : ndarray of int32, shape (ny * nx,)
        Row of the segment of each pixel plus one; 0 elsewhere.
    rms : ndarray of float32, shape (ny * nx,)
        Local rms.
    nx : int
        Width of the image.
    moments : ndarray, shape (n, 5)
        x, y, sxx, sxy, syy of each segment.
    peaks : ndarray of int64, shape (n,)
        Flat index of each peak pixel.
    rho : ndarray, shape (2 r + 1, 2 r + 1)
        Noise autocorrelation.
    result : ndarray, shape (n, 7, 7)
        Filled with the covariances, in squared image units times powers of pixels.
    """
    r = rho.shape[0] // 2
    ny = labels.size // nx
    f = np.empty(6)
    g = np.empty(6)
    for row in range(offsets.size - 1):
        x0, y0 = moments[row, 0], moments[row, 1]
        sxx, sxy, syy = moments[row, 2], moments[row, 3], moments[row, 4]
        total = result[row]
        total[:] = 0.0
        for k in range(offsets[row], offsets[row + 1]):
            pixel = indices[k]
            y, x = pixel // nx, pixel % nx
            g[:] = 0.0
            # Half of the pairs: those with a later pixel count twice.
            for j in range(y, min(y + r + 1, ny)):
                first = x if j == y else max(x - r, 0)
                for i in range(first, min(x + r + 1, nx)):
                    other = j * nx + i
                    if labels[other] != row + 1:
                        continue
                    weight = rho[j - y + r, i - x + r] * rms[other]
                    if other != pixel:
                        weight *= 2.0
                    dx, dy = i - x0, j - y0
                    g[0] += weight
                    g[1] += weight * dx
                    g[2] += weight * dy
                    g[3] += weight * (dx * dx - sxx)
                    g[4] += weight * (dx * dy - sxy)
                    g[5] += weight * (dy * dy - syy)
            dx, dy = x - x0, y - y0
            f[0], f[1], f[2] = 1.0, dx, dy
            f[3], f[4], f[5] = dx * dx - sxx, dx * dy - sxy, dy * dy - syy
            for a in range(6):
                for b in range(6):
                    total[a, b] += rms[pixel] * f[a] * g[b]
            py, px = peaks[row] // nx, peaks[row] % nx
            if abs(py - y) <= r and abs(px - x) <= r:
                weight = rho[py - y + r, px - x + r] * rms[pixel] * rms[peaks[row]]
                for a in range(6):
                    total[a, 6] += weight * f[a]
        for a in range(6):
            total[6, a] = total[a, 6]
            for b in range(a):
                mean = 0.5 * (total[a, b] + total[b, a])
                total[a, b] = mean
                total[b, a] = mean
        if offsets[row + 1] > offsets[row]:
            total[6, 6] = rms[peaks[row]] ** 2
