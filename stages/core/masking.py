"""The pixels of sources, which must not enter an estimate of background or noise."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

SEED, FLOOD = 4.5, 2.5
"""Deviations in units of the rms at which a region counts, and down to which it reaches."""
CHUNK = 64
"""Pixels of a row that are passed over together where none deviates enough, as most do."""
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


@njit(cache=True, nogil=True)
def _doubled(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return values with as much room again behind them."""
    larger = np.empty(2 * values.size, np.int64)
    larger[: values.size] = values
    return larger


@njit(cache=True, nogil=True)
def _reaches(values: NDArray[np.float32], threshold: float) -> bool:
    """Whether any value deviates by a threshold; looks at several at once."""
    # In single precision, and sure not to miss one.
    limit = np.nextafter(np.float32(threshold), np.float32(0.0))
    number = 0
    for k in range(values.size):
        number += abs(values[k]) >= limit
    return number > 0


@njit(SIGNATURE, cache=True, nogil=True)
def _flooded(
    significance: NDArray[np.float32], seed: float, flood: float, radius: int
) -> NDArray[np.bool_]:
    """See `source_mask`."""
    ny, nx = significance.shape
    mask = np.zeros((ny, nx), np.bool_)
    found = np.empty(1024, np.int64)
    number, done = 0, 0
    for y in range(ny):
        for start in range(0, nx, CHUNK):
            stop = min(start + CHUNK, nx)
            if not _reaches(significance[y, start:stop], seed):
                continue
            for x in range(start, stop):
                if mask[y, x] or not abs(significance[y, x]) >= seed:
                    continue
                mask[y, x] = True
                if number == found.size:
                    found = _doubled(found)
                found[number] = y * nx + x
                number += 1
                while done < number:
                    yy, xx = found[done] // nx, found[done] % nx
                    done += 1
                    if number + 8 > found.size:
                        found = _doubled(found)
                    for j in range(max(yy - 1, 0), min(yy + 2, ny)):
                        for i in range(max(xx - 1, 0), min(xx + 2, nx)):
                            if not mask[j, i] and abs(significance[j, i]) >= flood:
                                mask[j, i] = True
                                found[number] = j * nx + i
                                number += 1
    if radius < 1:
        return mask
    # Only a pixel at the rim of its region can add pixels; rims first, for growing changes them.
    rims = 0
    for k in range(number):
        y, x = found[k] // nx, found[k] % nx
        left, right = mask[y, max(x - 1, 0)], mask[y, min(x + 1, nx - 1)]
        below, above = mask[max(y - 1, 0), x], mask[min(y + 1, ny - 1), x]
        if not (left and right and below and above):
            found[rims] = found[k]
            rims += 1
    for k in range(rims):
        y, x = found[k] // nx, found[k] % nx
        for j in range(max(y - radius, 0), min(y + radius + 1, ny)):
            for i in range(max(x - radius, 0), min(x + radius + 1, nx)):
                if (j - y) ** 2 + (i - x) ** 2 <= radius * radius:
                    mask[j, i] = True
    return mask
