"""Objects drawn one by one, and which pixels belong to each."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.core.rendering import REACH_SIGMA, add_gaussians

MASK_RMS = 1.0
"""An object's pixels are those above this many local rms in its noise-free image ..."""
MASK_PEAK = 0.5
"""... or above this share of its own peak, where that is less."""


@nb.njit(
    "Tuple((int64[::1], int64, float64, int64))(float32[:, ::1], float32[:, ::1], int64, int64, "
    "float32[:, ::1], int64[::1], int64)",
    cache=True,
    nogil=True,
)
def add_stamp(
    plane: NDArray[np.float32],
    stamp: NDArray[np.float32],
    y0: int,
    x0: int,
    rms: NDArray[np.float32],
    indices: Integers,
    used: int,
) -> tuple[Integers, int, float, int]:
    """Add the image of one object to a plane, and append its pixels to a list.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), float32
        Changed in place.
    stamp : ndarray, float32
        The object's own image, inside the plane.
    y0, x0 : int
        Where its first pixel lies in the plane.
    rms : ndarray, shape (ny, nx), float32
        Local rms; the object has no pixels where it is NaN.
    indices, used : ndarray of int, int
        The list and how much of it is filled.

    Returns
    -------
    indices, used : ndarray of int, int
        The list, which is a longer one where the first was full; see `MASK_RMS` and `MASK_PEAK`.
    peak : float
        Brightest usable pixel; 0 where there is none.
    pixel : int
        Its flat index; -1 where there is none.
    """
    nx = plane.shape[1]
    peak, pixel = 0.0, -1
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            value = stamp[j, i]
            plane[y0 + j, x0 + i] += value
            if value > peak and not np.isnan(rms[y0 + j, x0 + i]):
                peak = float(value)
                pixel = (y0 + j) * nx + x0 + i
    if used + stamp.size > len(indices):
        longer = np.empty(2 * (used + stamp.size), np.int64)
        longer[:used] = indices[:used]
        indices = longer
    half = MASK_PEAK * peak
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            noise = rms[y0 + j, x0 + i]
            if np.isnan(noise) or stamp[j, i] <= 0.0:
                continue
            if stamp[j, i] > min(half, MASK_RMS * noise):
                indices[used] = (y0 + j) * nx + x0 + i
                used += 1
    return indices, used, peak, pixel


@nb.njit(
    "Tuple((int64[::1], int64[::1], float64[::1], int64[::1]))"
    "(float32[:, ::1], float64[:, ::1], int64[::1], int64[::1], float32[:, ::1])",
    cache=True,
    nogil=True,
)
def draw_objects(
    plane: NDArray[np.float32],
    values: Floats,
    starts: Integers,
    chosen: Integers,
    rms: NDArray[np.float32],
) -> tuple[Integers, Integers, Floats, Integers]:
    """Add objects to a plane, one by one, and note the pixels of each.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), float32
        Changed in place.
    values, starts : ndarray
        See `cyclades.pipeline.simulation.render.Drawn`.
    chosen : ndarray of int, shape (n,)
        The objects to draw.
    rms : ndarray, shape (ny, nx), float32
        Local rms; no object has pixels where it is NaN.

    Returns
    -------
    indices, offsets : ndarray of int
        Pixels of each object, as in `Segments`; see `MASK_RMS` and `MASK_PEAK`.
    peak : ndarray, shape (n,)
        Brightest usable pixel of each object; 0 where there is none.
    pixel : ndarray of int, shape (n,)
        Its flat index; -1 where there is none.
    """
    ny, nx = plane.shape
    indices = np.empty(max(64 * len(chosen), 1024), np.int64)
    offsets = np.zeros(len(chosen) + 1, np.int64)
    peaks = np.zeros(len(chosen))
    pixels = np.full(len(chosen), -1)
    used = 0
    for k in range(len(chosen)):
        rows = values[starts[chosen[k]] : starts[chosen[k] + 1]].copy()
        x0, x1, y0, y1 = nx, -1, ny, -1
        for i in range(len(rows)):
            hx, hy = REACH_SIGMA * np.sqrt(rows[i, 3]), REACH_SIGMA * np.sqrt(rows[i, 5])
            x0 = min(x0, max(0, int(np.floor(rows[i, 1] - hx))))
            x1 = max(x1, min(nx - 1, int(np.ceil(rows[i, 1] + hx))))
            y0 = min(y0, max(0, int(np.floor(rows[i, 2] - hy))))
            y1 = max(y1, min(ny - 1, int(np.ceil(rows[i, 2] + hy))))
        if x1 >= x0 and y1 >= y0:
            stamp = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.float32)
            rows[:, 1] -= x0
            rows[:, 2] -= y0
            add_gaussians(stamp, rows)
            indices, used, peaks[k], pixels[k] = add_stamp(plane, stamp, y0, x0, rms, indices, used)
        offsets[k + 1] = used
    return indices[:used].copy(), offsets, peaks, pixels
