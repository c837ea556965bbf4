"""Sources too faint in every pixel, found on smoothed maps.

A resolved source can hold many times the flux of the faintest point that a threshold finds and
still lie below it everywhere. Here the significance map, without the islands found so far, is
smoothed with Gaussians of a few beams, brought back to unit noise by its own robust scatter, and
searched with the same thresholds (a matched filter for sources of that size).
"""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats
from cyclades.stages.core.products import Integers, Segments
from cyclades.stages.core.segments import label_segments, segment_maximum

LEAST_SHARE = 0.3
"""Share of usable pixels under the kernel below which a smoothed pixel is blank."""
LEAST_CELLS = 100
"""Independent cells below which the noise of a smoothed map cannot be measured."""


def smoothed_significance(
    significance: NDArray[np.float32], usable: NDArray[np.bool_], block: int, fwhm: float
) -> Floats:
    """Mean significance under a Gaussian, in units of its own noise.

    Parameters
    ----------
    significance : ndarray, shape (ny, nx), float32
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count: not blank, not part of a source found before.
    block : int
        Pixels averaged along each axis first; the map is that much smaller. It must not exceed
        half of the kernel's FWHM.
    fwhm : float
        FWHM of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (ny // block, nx // block)
        NaN where too little is usable, everywhere where too few cells are left to tell the noise.
    """
    from scipy import ndimage

    ny, nx = (n // block for n in significance.shape)
    cells = (ny, block, nx, block)
    inside = (slice(ny * block), slice(nx * block))
    values = np.where(usable, significance, np.float32(0.0))[inside].reshape(cells).sum((1, 3))
    shares = usable[inside].reshape(cells).mean((1, 3), dtype=np.float32)
    sigma = fwhm / SIGMA_TO_FWHM / block
    weight = ndimage.gaussian_filter(shares, sigma, mode="constant")
    mean = ndimage.gaussian_filter(values, sigma, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weight > LEAST_SHARE, mean / weight, np.nan)
    known = mean[np.isfinite(mean)]
    if known.size * block**2 < LEAST_CELLS * fwhm**2:
        return np.full(mean.shape, np.nan)
    middle = np.median(known)
    noise = 1.4826 * np.median(np.abs(known - middle))
    return np.asarray((mean - middle) / noise if noise > 0 else np.full(mean.shape, np.nan))


def full_pixels(cells: Integers, block: int, coarse: int, usable: NDArray[np.bool_]) -> Integers:
    """Flat indices of the usable pixels inside cells of a map `coarse` cells wide."""
    y, x = np.divmod(cells, coarse)
    steps = np.arange(block)
    rows = (y[:, None, None] * block + steps[None, :, None]).repeat(block, 2)
    columns = (x[:, None, None] * block + steps[None, None, :]).repeat(block, 1)
    pixels = (rows * usable.shape[1] + columns).ravel()
    return np.sort(pixels[usable.ravel()[pixels]])


def find_smooth_sources(
    significance: NDArray[np.float32],
    taken: Segments,
    beam: float,
    scales: tuple[float, ...],
    seed: float,
    flood: float,
) -> tuple[Segments, Floats]:
    """Islands of smoothed maps that keep clear of the islands found before.

    Parameters
    ----------
    significance : ndarray, shape (ny, nx), float32
    taken : Segments
        Islands found before; they and a beam around them are left out.
    beam : float
        FWHM of the beam in pixels.
    scales : tuple of float
        FWHM of the smoothing kernels in beams, in the order of search.
    seed, flood : float
        Thresholds in units of the smoothed map's noise.

    Returns
    -------
    islands : Segments
        Pixels of the full map.
    summit : ndarray, shape (n, 2)
        (x, y) of the smoothed peaks.
    """
    from scipy import ndimage

    used = np.zeros(significance.size, bool)
    used[taken.indices] = True
    used.shape = significance.shape
    width = 2 * int(np.ceil(beam)) + 1
    pieces: list[Integers] = []
    summits: list[tuple[float, float]] = []
    for scale in scales:
        block = max(1, int(0.5 * min(scale, 1.0) * beam))
        usable = np.isfinite(significance)
        usable &= ~ndimage.maximum_filter(used, size=width)
        smooth = smoothed_significance(significance, usable, block, scale * beam)
        found = label_segments(smooth, flood)
        for row in np.flatnonzero(segment_maximum(smooth, found) >= seed):
            cells = found[row]
            peak = cells[np.argmax(smooth.ravel()[cells])]
            y, x = np.divmod(peak, smooth.shape[1])
            pixels = full_pixels(cells, block, smooth.shape[1], usable)
            if not pixels.size:
                continue
            pieces.append(pixels)
            summits.append(((x + 0.5) * block - 0.5, (y + 0.5) * block - 0.5))
            used.ravel()[pixels] = True
    return Segments.from_lists(pieces), np.array(summits, float).reshape(-1, 2)
