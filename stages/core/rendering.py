"""Gaussian components drawn onto pixels."""

from collections.abc import Iterator

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

REACH_SIGMA = 6.0
BAND = 256
"""Rows that are drawn at a time where no whole plane is needed."""


@nb.njit("void(float32[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def add_gaussians(plane: NDArray[np.float32], values: Floats) -> None:
    """Add components (peak, x, y, sxx, sxy, syy) to a plane, out to 6 sigma, without NaN rows."""
    ny, nx = plane.shape
    for k in range(values.shape[0]):
        peak, x, y = values[k, 0], values[k, 1], values[k, 2]
        sxx, sxy, syy = values[k, 3], values[k, 4], values[k, 5]
        det = sxx * syy - sxy * sxy
        if not (det > 0.0 and np.isfinite(peak) and np.isfinite(x) and np.isfinite(y)):
            continue
        a, b, c = syy / det, -sxy / det, sxx / det
        limit = REACH_SIGMA * REACH_SIGMA
        height = REACH_SIGMA * np.sqrt(syy)
        # Along a row the ratio of neighbouring pixels changes by a constant factor: three
        # exponentials a row instead of one a pixel.
        change = np.exp(-a)
        for yy in range(max(0, int(np.ceil(y - height))), min(ny, int(np.floor(y + height)) + 1)):
            dy = yy - y
            room = limit - (c - b * b / a) * dy * dy
            if not room > 0.0:
                continue
            middle, half = x - b * dy / a, np.sqrt(room / a)
            left = max(0, int(np.ceil(middle - half)))
            right = min(nx, int(np.floor(middle + half)) + 1)
            dx = left - x
            value = peak * np.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
            ratio = np.exp(-a * (dx + 0.5) - b * dy)
            for xx in range(left, right):
                plane[yy, xx] += value
                value *= ratio
                ratio *= change


def render_gaussians(shape: tuple[int, int], values: Floats) -> NDArray[np.float32]:
    """Draw components on an empty plane.

    Parameters
    ----------
    shape : (ny, nx)
    values : ndarray, shape (n, 6)
        ``peak, x, y, sxx, sxy, syy`` in image units and pixels (see
        `cyclades.stages.core.products.PARAMETERS`); rows with NaN or without a positive area are
        left out.

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    plane = np.zeros(shape, np.float32)
    add_gaussians(plane, np.ascontiguousarray(values, float))
    return plane


def gaussian_bands(
    shape: tuple[int, int], values: Floats
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Draw components band by band, in the memory of one band.

    Parameters
    ----------
    shape, values
        As for `render_gaussians`.

    Yields
    ------
    first : int
        The first row of the band.
    band : ndarray of float32, shape (rows, nx)
        C-contiguous; overwritten by the next band.
    """
    plane = np.empty((min(BAND, shape[0]), shape[1]), np.float32)
    shifted = np.array(values, float, order="C")
    for first in range(0, shape[0], BAND):
        band = plane[: min(BAND, shape[0] - first)]
        band[:] = 0.0
        add_gaussians(band, shifted)
        yield first, band
        shifted[:, 2] -= BAND


def gaussians_at(shape: tuple[int, int], values: Floats, pixels: Integers) -> NDArray[np.float32]:
    """Values of drawn components (see `render_gaussians`) at flat indices of pixels."""
    order = np.argsort(pixels, kind="stable")
    ordered = pixels[order]
    drawn = np.empty(len(pixels), np.float32)
    for first, band in gaussian_bands(shape, values):
        low, high = np.searchsorted(ordered, [first * shape[1], first * shape[1] + band.size])
        drawn[order[low:high]] = band.ravel()[ordered[low:high] - first * shape[1]]
    return drawn


def gaussian_cutouts(
    shape: tuple[int, int], values: Floats, boxes: Integers
) -> list[NDArray[np.float32]]:
    """Drawn components (see `render_gaussians`) in boxes ``x0, y0, x1, y1``, edges included."""
    cutouts = [np.empty((y1 - y0 + 1, x1 - x0 + 1), np.float32) for x0, y0, x1, y1 in boxes]
    for first, band in gaussian_bands(shape, values):
        last = first + len(band) - 1
        for k in np.flatnonzero((boxes[:, 1] <= last) & (boxes[:, 3] >= first)):
            x0, y0, x1, y1 = boxes[k]
            low, high = max(y0, first), min(y1, last) + 1
            cutouts[k][low - y0 : high - y0] = band[low - first : high - first, x0 : x1 + 1]
    return cutouts
