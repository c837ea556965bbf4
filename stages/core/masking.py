"""The pixels of sources, which must not enter an estimate of background or noise."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

SEED, FLOOD = 4.5, 2.5
"""Deviations in units of the rms at which a region counts, and down to which it reaches."""
SIGNATURE = "boolean[:,::1](float32[:,::1], float64, float64, int64)"


def source_mask(
    significance: NDArray[np.float32], *, seed: float = SEED, flood: float = FLOOD, grow: int = 2
) -> NDArray[np.bool_]:
    """Pixels of sources and holes: flooded from significant pixels, then grown.

    Only connected regions that hold a seed count: masking every pixel above the flood threshold
    would cut the positive noise and leave a level that is biased low.

    Parameters
    ----------
    significance : ndarray of float32, shape (ny, nx)
        Deviation from the level in units of the local rms; NaN pixels are never masked.
    seed : float
        Absolute deviation at which a region counts.
    flood : float
        Absolute deviation down to which a region reaches (eight-connected).
    grow : int
        Pixels by which regions are grown, as a disc.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True on sources and holes.
    """
    plane = np.ascontiguousarray(significance, np.float32)
    return np.asarray(_flooded(plane, float(seed), float(flood), int(grow)))


@njit(SIGNATURE, cache=True, nogil=True)
def _flooded(
    significance: NDArray[np.float32], seed: float, flood: float, radius: int
) -> NDArray[np.bool_]:
    """See `source_mask`."""
    ny, nx = significance.shape
    mask = np.zeros((ny, nx), np.bool_)
    stack = np.empty(1024, np.int64)
    for y in range(ny):
        for x in range(nx):
            if mask[y, x] or not abs(significance[y, x]) >= seed:
                continue
            mask[y, x] = True
            stack[0] = y * nx + x
            top = 1
            while top:
                top -= 1
                yy, xx = stack[top] // nx, stack[top] % nx
                if top + 8 > stack.size:
                    larger = np.empty(2 * stack.size, np.int64)
                    larger[:top] = stack[:top]
                    stack = larger
                for j in range(max(yy - 1, 0), min(yy + 2, ny)):
                    for i in range(max(xx - 1, 0), min(xx + 2, nx)):
                        if not mask[j, i] and abs(significance[j, i]) >= flood:
                            mask[j, i] = True
                            stack[top] = j * nx + i
                            top += 1
    if radius < 1:
        return mask
    grown = mask.copy()
    for y in range(ny):
        for x in range(nx):
            if not mask[y, x]:
                continue
            # Only a pixel at the rim of its region can add pixels.
            left, right = mask[y, max(x - 1, 0)], mask[y, min(x + 1, nx - 1)]
            below, above = mask[max(y - 1, 0), x], mask[min(y + 1, ny - 1), x]
            if left and right and below and above:
                continue
            for j in range(max(y - radius, 0), min(y + radius + 1, ny)):
                for i in range(max(x - radius, 0), min(x + radius + 1, nx)):
                    if (j - y) ** 2 + (i - x) ** 2 <= radius * radius:
                        grown[j, i] = True
    return grown
