"""Summits: which peaks inside a group of bright pixels are components of their own.

The significance map is sharpened by subtracting its mean under the beam, which is the curvature
at the scale of the beam: smooth emission cancels, whatever is as small as the beam stays, and
close pairs come apart. Its noise follows from the noise autocorrelation. The peaks of the
sharpened map are then ranked by topological persistence (Edelsbrunner, Letscher & Zomorodian
2002): the depth of the valley that parts a peak from a higher one. A peak parted by less than a
few times the noise of the sharpened map is a ripple on its neighbour, not a component.
"""

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import Floats, inverse
from cyclades.stages.core.noise import NoiseAutocorrelation
from cyclades.stages.core.products import Integers, Segments

PERSISTENCE = 3.0
DEFAULT_FWHM = 3.0
FWHM_TO_VARIANCE = 1.0 / (8.0 * np.log(2.0))


def beam_kernel(psf: PointSpread | None) -> Floats:
    """Beam-shaped weights with unit sum, out to 1.25 FWHM, on an odd-sized square of pixels.

    Without a beam a round one of `DEFAULT_FWHM` pixels is taken.
    """
    covariance = np.eye(2) * DEFAULT_FWHM**2 * FWHM_TO_VARIANCE
    if psf is not None:
        covariance = psf.covariance
    precision = inverse(covariance)
    half = max(1, int(np.ceil(1.25 * np.sqrt(max(np.diag(covariance)) / FWHM_TO_VARIANCE))))
    d = np.arange(-half, half + 1)
    dx, dy = d[None, :], d[:, None]
    weights = np.exp(
        -0.5 * (precision[0, 0] * dx**2 + 2 * precision[0, 1] * dx * dy + precision[1, 1] * dy**2)
    )
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True, eq=False)
class Sharpening:
    """The sharpening filter and the rms that unit noise has after it."""

    kernel: Floats
    noise: float

    @classmethod
    def for_image(cls, psf: PointSpread | None, noise: NoiseAutocorrelation) -> "Sharpening":
        """Make the filter from the beam, and its noise from the autocorrelation."""
        kernel = beam_kernel(psf)
        difference = -kernel
        half = kernel.shape[0] // 2
        difference[half, half] += 1.0
        return cls(kernel, float(np.sqrt(max(noise.filtered_variance(difference), 1e-12))))


@nb.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _weighted_sums(values: NDArray[np.float32], weights: Floats) -> tuple[float, float]:
    """Sums of weight times value and of the weights, over values that are not NaN, in any order."""
    total, weight = 0.0, 0.0
    for k in range(values.size):
        known = values[k] == values[k]
        total += weights[k] * values[k] if known else 0.0
        weight += weights[k] if known else 0.0
    return total, weight


@nb.njit("void(float32[:, ::1], int64[::1], float64[:, ::1], float64[::1])", cache=True, nogil=True)
def sharpen(
    significance: NDArray[np.float32], pixels: Integers, kernel: Floats, out: Floats
) -> None:
    """Significance minus its beam-weighted mean, at some pixels.

    Blank neighbours are left out of the mean. `out` has one value a pixel.
    """
    ny, nx = significance.shape
    half = kernel.shape[0] // 2
    for i in range(pixels.size):
        y, x = pixels[i] // nx, pixels[i] % nx
        left, right = max(x - half, 0), min(x + half + 1, nx)
        total, weight = 0.0, 0.0
        for yy in range(max(y - half, 0), min(y + half + 1, ny)):
            added, counted = _weighted_sums(
                significance[yy, left:right], kernel[yy - y + half, left - x + half :]
            )
            total += added
            weight += counted
        out[i] = significance[y, x] - (total / weight if weight > 0 else 0.0)


@nb.njit(
    "Tuple((int64[::1], int64[::1]))"
    "(int64[::1], int64[::1], float64[::1], float64[::1], int64, float64, float64)",
    cache=True,
    nogil=True,
)
def persistent_peaks(
    indices: Integers,
    offsets: Integers,
    sharp: Floats,
    height: Floats,
    nx: int,
    minimum_persistence: float,
    minimum_height: float,
) -> tuple[Integers, Integers]:
    """Peaks of `sharp` inside each segment, by persistence.

    Pixels of a segment are visited from the highest `sharp` down and joined to their visited
    neighbours (8-connected). When two peaks meet, the lower one has the persistence ``its
    height - height of the meeting point``; it survives where that and its own height are at
    least `minimum_persistence` (the sharpened map is negative around a bright peak, so that a rise
    back to zero is no peak) and where its `height` (the significance itself) is at least
    `minimum_height`. The highest peak of every segment survives always.

    Parameters
    ----------
    indices, offsets : ndarray of int64
        Segments, as flat pixel indices.
    sharp, height : ndarray
        Values at `indices`.
    nx : int
        Width of the image.

    Returns
    -------
    peaks, starts : ndarray of int64
        Positions in `indices` of the surviving peaks, highest first in each segment;
        ``peaks[starts[i]:starts[i + 1]]`` belong to segment i.
    """
    n_segments = offsets.size - 1
    root = np.empty(indices.size, np.int64)
    alive = np.zeros(indices.size, np.bool_)
    starts = np.zeros(n_segments + 1, np.int64)
    peaks = np.empty(indices.size, np.int64)
    filled = 0
    for s in range(n_segments):
        lo, hi = offsets[s], offsets[s + 1]
        order = np.argsort(-sharp[lo:hi])
        by_pixel = lo + np.argsort(indices[lo:hi])
        pixels = indices[by_pixel]
        root[lo:hi] = -1
        for rank in range(hi - lo):
            i = lo + order[rank]
            pixel = indices[i]
            root[i] = i
            alive[i] = True
            x = pixel % nx
            # One search a row: the three neighbours in it follow each other.
            for dy in range(-1, 2):
                low, high = pixel + dy * nx - min(x, 1), pixel + dy * nx + min(nx - 1 - x, 1)
                for at in range(np.searchsorted(pixels, low), hi - lo):
                    if pixels[at] > high:
                        break
                    if pixels[at] == pixel or root[by_pixel[at]] < 0:
                        continue
                    a = by_pixel[at]
                    while root[a] != a:
                        root[a] = root[root[a]]
                        a = root[a]
                    b = i
                    while root[b] != b:
                        root[b] = root[root[b]]
                        b = root[b]
                    if a == b:
                        continue
                    lower, top = (a, b) if sharp[a] < sharp[b] else (b, a)
                    depth = min(sharp[lower] - sharp[i], sharp[lower])
                    if depth < minimum_persistence or height[lower] < minimum_height:
                        alive[lower] = False
                    root[lower] = top
        starts[s] = filled
        for rank in range(hi - lo):
            i = lo + order[rank]
            if alive[i]:
                peaks[filled] = i
                filled += 1
    starts[n_segments] = filled
    return peaks[:filled].copy(), starts


def refine_summits(significance: NDArray[np.float32], pixels: Integers) -> tuple[Floats, Floats]:
    """Sub-pixel peak positions by a parabola through the neighbours along x and along y.

    Where a neighbour is blank, outside, or higher (the peak of the sharpened map need not be one
    of the map), the pixel's own position is kept along that axis.

    Returns
    -------
    x, y : ndarray, shape (n,)
        0-based positions, at most half a pixel from the pixel's centre.
    """
    ny, nx = significance.shape
    y, x = np.divmod(pixels, nx)
    shifts = []
    for along_y, along_x, coordinate, limit in ((0, 1, x, nx), (1, 0, y, ny)):
        inside = (coordinate > 0) & (coordinate < limit - 1)
        before = significance[np.maximum(y - along_y, 0), np.maximum(x - along_x, 0)]
        after = significance[np.minimum(y + along_y, ny - 1), np.minimum(x + along_x, nx - 1)]
        here = significance[y, x]
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = 0.5 * (after - before) / (2.0 * here - before - after)
            peaked = inside & (here >= before) & (here >= after) & np.isfinite(shift)
        shifts.append(np.where(peaked, np.clip(shift, -0.5, 0.5), 0.0))
    return x + shifts[0], y + shifts[1]


def find_summits(
    significance: NDArray[np.float32],
    segments: Segments,
    sharpening: Sharpening,
    *,
    persistence: float = PERSISTENCE,
    minimum_height: float = 0.0,
) -> tuple[Integers, Integers]:
    """Find the peaks of each segment that count as components.

    Parameters
    ----------
    significance : ndarray, shape (ny, nx), float32
        (data - level) / rms, in the sign of the sources sought.
    segments : Segments
        Pixels to look in.
    sharpening : Sharpening
        The filter.
    persistence : float
        Least valley between two components, in units of the sharpened map's noise.
    minimum_height : float
        Least significance of a second component.

    Returns
    -------
    pixels : ndarray of int64
        Flat indices of the summits, the highest of each segment first.
    starts : ndarray of int64
        ``pixels[starts[i]:starts[i + 1]]`` are the summits of segment i (none where it is empty).
    """
    sharp = np.empty(segments.indices.size)
    sharpen(significance, segments.indices, sharpening.kernel, sharp)
    height = significance.ravel()[segments.indices].astype(float)
    peaks, starts = persistent_peaks(
        segments.indices,
        segments.offsets,
        sharp,
        height,
        significance.shape[1],
        persistence * sharpening.noise,
        minimum_height,
    )
    return segments.indices[peaks], starts
