"""The autocorrelation of an image's noise, and what follows from it.

Interferometric noise is correlated over about a beam. Its autocorrelation decides how large the
errors of a fit are, how many noise peaks exceed a threshold, and how significant a structure of a
given size is; it is measured here once, from the image itself, with the sources masked.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, inverse
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.products import Background
from cyclades.stages.core.tiling import Box, grid

BLOCK = 1024
MAXIMUM_BLOCKS = 9
REACH_BEAMS = 3.0
MINIMUM_BEAMS = 100.0
SUBPIXELS = 8
EDGE_LIMIT = 0.2


@dataclass(frozen=True, eq=False)
class NoiseAutocorrelation:
    """Autocorrelation of the noise in units of its variance.

    Parameters
    ----------
    values : ndarray, shape (2 r + 1, 2 r + 1)
        Correlation at pixel offsets (dy, dx) from -r to r; 1 in the centre.
    origin : str
        ``"measured"``, ``"beam"`` (the beam's own shape, where too little noise is left to
        measure) or ``"white"`` (no beam either).
    """

    values: Floats
    origin: str

    @property
    def reach(self) -> int:
        """Largest offset along an axis, in pixels."""
        return int(self.values.shape[0]) // 2

    @property
    def curvature(self) -> Floats:
        """The matrix L of ``rho = 1 - d^T L d / 2`` near zero, shape (2, 2) in (x, y).

        From the logarithm at unit offsets, which is exact for a Gaussian autocorrelation.
        """
        r = self.reach
        tiny = 1e-6
        along_x = -2.0 * np.log(
            np.clip(0.5 * (self.values[r, r + 1] + self.values[r, r - 1]), tiny, 1)
        )
        along_y = -2.0 * np.log(
            np.clip(0.5 * (self.values[r + 1, r] + self.values[r - 1, r]), tiny, 1)
        )
        rising = -2.0 * np.log(np.clip(self.values[r + 1, r + 1], tiny, 1))
        falling = -2.0 * np.log(np.clip(self.values[r + 1, r - 1], tiny, 1))
        cross = 0.25 * (rising - falling)
        return np.array([[along_x, cross], [cross, along_y]])

    def filtered_variance(self, kernel: Floats) -> float:
        """Variance of unit noise after correlation with an odd-sized kernel."""
        size = 2 * kernel.shape[0] - 1
        power = np.abs(np.fft.rfft2(kernel, (size, size))) ** 2
        pairs = np.fft.fftshift(np.fft.irfft2(power, (size, size)))
        r, half = self.reach, pairs.shape[0] // 2
        m = min(r, half)
        inner = pairs[half - m : half + m + 1, half - m : half + m + 1]
        return float(np.sum(inner * self.values[r - m : r + m + 1, r - m : r + m + 1]))

    def expected_maxima(self, threshold: ArrayLike, area: float) -> Floats:
        """Expected number of noise maxima whose brightest pixel exceeds a threshold.

        ``A t sqrt(det L) exp(-t^2/2) / (2 pi)^1.5``: the expected Euler characteristic of the
        excursion set of a smooth Gaussian field (Adler 1981, The Geometry of Random Fields;
        Worsley 1995), which counts its maxima at high thresholds. A maximum that lies d pixels
        from the nearest pixel must be higher by the factor ``1 + d^T L d / 2`` to be seen; the
        mean of ``exp(-t^2 d^T L d / 2)`` over a pixel allows for that (a quarter fewer at 3.5
        rms with four pixels a beam).

        Parameters
        ----------
        threshold : array_like
            Threshold in units of the rms.
        area : float
            Pixels searched.
        """
        t = np.asarray(threshold, float)
        c = self.curvature
        roughness = np.sqrt(max(c[0, 0] * c[1, 1] - c[0, 1] ** 2, 0.0))
        d = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
        dx, dy = d[None, :], d[:, None]
        drop = c[0, 0] * dx**2 + 2 * c[0, 1] * dx * dy + c[1, 1] * dy**2
        seen = np.exp(-0.5 * t[..., None, None] ** 2 * drop).mean(axis=(-1, -2))
        density = t * roughness * np.exp(-0.5 * t**2) / (2.0 * np.pi) ** 1.5
        return np.asarray(area * density * seen)


def gaussian_autocorrelation(covariance: Floats, reach: int) -> Floats:
    """Values of ``exp(-d^T C^-1 d / 2)`` on the offsets of a `NoiseAutocorrelation`."""
    p = inverse(covariance)
    d = np.arange(-reach, reach + 1)
    dx, dy = d[None, :], d[:, None]
    return np.asarray(np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2)))


def measure_autocorrelation(
    blocks: Iterable[NDArray[np.floating]], reach: int
) -> tuple[Floats, Floats, int]:
    """Autocorrelation of planes whose unusable pixels are NaN.

    Sums of products at every offset, by FFT with zero padding, over the sums of pairs used. The
    power of all planes of a shape is added up before it is transformed back, once.

    Parameters
    ----------
    blocks : iterable of ndarray, shape (ny, nx)
        Noise in units of its rms; NaN where blank or masked.
    reach : int
        Largest offset.

    Returns
    -------
    products, pairs : ndarray, shape (2 reach + 1, 2 reach + 1)
        Their ratio is the autocovariance.
    usable : int
        Pixels that count.
    """
    from scipy import fft

    powers: dict[tuple[int, ...], Floats] = {}
    usable = 0
    for noise in blocks:
        good = np.isfinite(noise)
        usable += int(np.count_nonzero(good))
        shape = tuple(fft.next_fast_len(n + reach, real=True) for n in noise.shape)
        if shape not in powers:
            powers[shape] = np.zeros((2, shape[0], shape[1] // 2 + 1))
        for power, plane in zip(powers[shape], (np.where(good, noise, 0.0), good), strict=True):
            spectrum = fft.rfft2(plane.astype(np.float32, copy=False), shape, overwrite_x=True)
            # Real and imaginary parts side by side: one square for both, where they are.
            parts = spectrum.view(np.float32)
            np.square(parts, out=parts)
            power += parts[:, ::2]
            power += parts[:, 1::2]
    rows = np.arange(-reach, reach + 1)
    sums = np.zeros((2, len(rows), len(rows)))
    for shape, power in powers.items():
        for total, plane in zip(sums, power, strict=True):
            total += fft.irfft2(plane, shape)[np.ix_(rows, rows)]
    return sums[0], sums[1], usable


def _blocks(shape: tuple[int, int]) -> list[Box]:
    """At most `MAXIMUM_BLOCKS` blocks of an image, spread evenly over it."""
    cells = list(grid(shape, BLOCK))
    if len(cells) <= MAXIMUM_BLOCKS:
        return cells
    return [cells[i] for i in np.linspace(0, len(cells) - 1, MAXIMUM_BLOCKS).round().astype(int)]


def noise_autocorrelation(
    image: SkyImage, background: Background, *, context: Context
) -> NoiseAutocorrelation:
    """Measure the noise autocorrelation of an image, once a run.

    The sources are masked (islands above 4.5 rms, down to 2.5 rms, grown by a beam). Where fewer
    than `MINIMUM_BEAMS` beam areas of noise remain, or what remains does not look like noise, the
    beam itself is taken (the autocorrelation of a naturally weighted image), or white noise
    where there is no beam; the run's notes say which. In a window of an image it is that of the
    whole image, where the run has measured it.
    """
    if isinstance(context.whole_image_noise, NoiseAutocorrelation):
        return context.whole_image_noise
    key = ("noise autocorrelation", id(image.data), id(background.level))

    # The arrays are kept with the value so that their ids stay theirs as long as the key lives.
    def significance(box: Box) -> NDArray[np.float32]:
        noise = image.data[box.slices] - background.level[box.slices]
        noise /= background.rms[box.slices]
        return noise

    return context.cached(
        key,
        lambda: (
            measure_noise(image.shape, image.psf, significance, context),
            image.data,
            background.level,
        ),
    )[0]


def measure_noise(
    shape: tuple[int, int],
    psf: PointSpread | None,
    significance: Callable[[Box], NDArray[np.float32]],
    context: Context,
) -> NoiseAutocorrelation:
    """Measure the noise autocorrelation in blocks of an image; see `noise_autocorrelation`.

    Parameters
    ----------
    shape : (ny, nx)
        Of the image.
    psf : PointSpread, optional
    significance : callable
        Gives (data - level) / rms of a box of the image, as a new array.
    context : Context
    """
    covariance = None if psf is None else psf.covariance
    size = 3.0 if psf is None else psf.size
    reach = int(np.clip(np.ceil(REACH_BEAMS * size), 3, 40))
    area = 1.0 if psf is None else psf.area
    grown = int(np.ceil(size))

    def noise_in(box: Box) -> NDArray[np.float32]:
        noise = significance(box)
        noise[source_mask(noise, grow=grown)] = np.nan
        return noise

    blocks = (noise_in(box) for box in _blocks(shape))
    products, pairs, usable = measure_autocorrelation(blocks, reach)
    values = None
    if usable > MINIMUM_BEAMS * area and pairs.min() > 0.5 and products[reach, reach] > 0:
        covariances = products / np.maximum(pairs, 1.0)
        values = nearest_autocorrelation(covariances / covariances[reach, reach])
        if _implausible(values):
            values = None
    if values is not None:
        result = NoiseAutocorrelation(values, "measured")
    elif covariance is not None:
        result = NoiseAutocorrelation(gaussian_autocorrelation(covariance, reach), "beam")
    else:
        values = np.zeros_like(products)
        values[reach, reach] = 1.0
        result = NoiseAutocorrelation(values, "white")
    c = result.curvature
    context.note(
        "noise_autocorrelation",
        {
            "origin": result.origin,
            "usable_pixels": usable,
            "fwhm_x_pixels": round(float(SIGMA_TO_FWHM / np.sqrt(max(c[0, 0], 1e-9))), 3),
            "fwhm_y_pixels": round(float(SIGMA_TO_FWHM / np.sqrt(max(c[1, 1], 1e-9))), 3),
        },
    )
    return result


def nearest_autocorrelation(values: Floats) -> Floats:
    """Remove negative power from a measured autocorrelation.

    A cut and noisy estimate need not be an autocorrelation at all (its transform, the power
    spectrum, may be negative somewhere), and would then give negative variances.
    """
    from scipy import fft

    size = values.shape[0]
    padded = 2 * size
    power = fft.fft2(np.roll(np.pad(values, (0, padded - size)), -(size // 2), (0, 1))).real
    smooth = fft.ifft2(np.maximum(power, 0.0)).real
    centred = np.roll(smooth, size // 2, (0, 1))[:size, :size]
    return np.asarray(centred / smooth[0, 0])


def _implausible(values: Floats) -> bool:
    """Whether a measured autocorrelation is not finite, or does not fall within its reach.

    Extended emission or residual background correlates over more than any noise.
    """
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    return bool(not np.isfinite(values).all() or np.mean(np.abs(edge)) > EDGE_LIMIT)
