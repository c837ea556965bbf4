"""Gaussian components drawn onto pixels."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats

REACH_SIGMA = 6.0


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
        hx, hy = REACH_SIGMA * np.sqrt(sxx), REACH_SIGMA * np.sqrt(syy)
        for yy in range(max(0, int(np.floor(y - hy))), min(ny, int(np.ceil(y + hy)) + 1)):
            for xx in range(max(0, int(np.floor(x - hx))), min(nx, int(np.ceil(x + hx)) + 1)):
                dx, dy = xx - x, yy - y
                q = a * dx * dx + 2.0 * b * dx * dy + c * dy * dy
                if q < REACH_SIGMA * REACH_SIGMA:
                    plane[yy, xx] += peak * np.exp(-0.5 * q)


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
