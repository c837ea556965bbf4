"""An island and a margin around it as the pixels of a fit, and which islands are worth one."""

from dataclasses import dataclass, field, replace

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.fit_rows import IslandFits
from cyclades.stages.characterization.gaussian_shapes import pixel_parameters
from cyclades.stages.characterization.least_squares import (
    FWHM,
    Floats,
    Integers,
    fill_jacobian,
    levenberg_marquardt,
)
from cyclades.stages.core.geometry import inverse
from cyclades.stages.core.noise import NoiseAutocorrelation
from cyclades.stages.core.products import Segments
from cyclades.stages.core.rendering import gaussian_bands, render_gaussians

MARGIN = 1.5
"""Width of the margin fitted around an island, in FWHM of the beam."""
FINEST = 3.0
"""Least number of pixels across the smaller FWHM of the beam that are fitted; more of them add
time, since the noise of neighbours is the same."""
MOST_PIXELS = 2000
"""Pixels from which on only every second, fourth, ... row and column is fitted where components
are wide."""
MOST_AREA = 2**21
"""Pixels of the largest box that is modelled, for the sake of memory."""
REACH = 3.0
"""Sigmas of a component within which pixels are fitted."""
SINGULAR = 1e-9


@nb.njit(
    "Tuple((boolean, float64))(float64[:, ::1], int64, int64, float64[::1], float64[::1],"
    " float64[::1], float64[::1], float64[:, ::1])",
    cache=True,
    nogil=True,
)
def fit_components(
    params: Floats,
    first: int,
    last: int,
    u: Floats,
    v: Floats,
    value: Floats,
    weight: Floats,
    bounds: Floats,
) -> tuple[bool, float]:
    """Compiled entry to `levenberg_marquardt` with free shapes."""
    limited = np.empty(last - first, np.bool_)
    return levenberg_marquardt(params, first, last, 6, u, v, value, weight, bounds, limited)


@nb.njit(
    "void(float64[:, ::1], float64[::1], float64[::1], float64[::1], float64[:, ::1])",
    cache=True,
    nogil=True,
)
def weighted_jacobian(params: Floats, u: Floats, v: Floats, weight: Floats, out: Floats) -> None:
    """Compiled entry to `fill_jacobian` for all rows of `params`."""
    fill_jacobian(params, 0, params.shape[0], 6, u, v, weight, out)


def correlated_covariance(
    jacobian: Floats, inside: NDArray[np.bool_], number: Integers, noise: NoiseAutocorrelation
) -> tuple[Floats, float]:
    """Sandwich covariance of a fit (see `fit_errors.sandwich`) by FFT, for many pixels.

    Overlapping components may be degenerate in some direction; the pseudo-inverse leaves out what
    the pixels do not tell apart, which is of no consequence for the sum of the components.

    Parameters
    ----------
    jacobian : ndarray, shape (n, p)
        Derivatives of the model divided by the rms.
    inside : ndarray of bool, shape (ny, nx)
        The n pixels fitted, in row-major order.
    number : ndarray of int64, shape (n,)
        How many pixels each of them stands for.

    Returns
    -------
    covariance : ndarray, shape (p, p)
    fitted : float
        By how much the fit to noise lowers chi-squared of all pixels, as expected.
    """
    from scipy import fft

    count = jacobian.shape[1]
    weighted = jacobian * number[:, None]
    reach = noise.reach
    shape = [fft.next_fast_len(size + reach, real=True) for size in inside.shape]
    kernel = np.zeros(shape)
    steps = np.arange(-reach, reach + 1)
    np.add.at(kernel, np.ix_(steps % shape[0], steps % shape[1]), noise.values)
    transfer = fft.rfft2(kernel)
    smooth = np.empty_like(jacobian)
    plane = np.zeros(shape)
    view = plane[: inside.shape[0], : inside.shape[1]]
    for column in range(count):
        view[inside] = weighted[:, column]
        filtered = fft.irfft2(fft.rfft2(plane) * transfer, shape)
        smooth[:, column] = filtered[: inside.shape[0], : inside.shape[1]][inside]
    normal = jacobian.T @ weighted
    power = np.diag(normal)
    seen = power > SINGULAR**2 * power.max()
    scale = np.where(seen, 1.0 / np.sqrt(np.where(seen, power, 1.0)), 0.0)
    normal = np.linalg.pinv(normal * np.outer(scale, scale), rcond=SINGULAR, hermitian=True)
    normal *= np.outer(scale, scale)
    half = normal @ (weighted.T @ smooth)
    return half @ normal, float(np.trace(half))


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of an island and a margin around it, on a cut-out of the image.

    Parameters
    ----------
    corner : (int, int)
        Row and column of the cut-out's first pixel.
    value : ndarray, shape (ny, nx)
        What the island's components are to explain, in the sign of the island; 0 where unusable.
    rms : ndarray, shape (ny, nx)
        Finite and positive in every pixel.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to fit.
    island : ndarray of bool, shape (ny, nx)
        Pixels of the island itself.
    measured : ndarray of bool, shape (ny, nx)
        Pixels with a value and a noise.
    factor, origin : ndarray, shape (2, 2) and (2,)
        Of the whitened coordinates; `origin` is (x, y) in the image.
    """

    corner: tuple[int, int]
    value: Floats
    rms: Floats
    usable: NDArray[np.bool_]
    island: NDArray[np.bool_]
    measured: NDArray[np.bool_]
    factor: Floats
    origin: Floats
    u: Floats = field(init=False)
    v: Floats = field(init=False)

    def __post_init__(self) -> None:
        y, x = np.indices(self.value.shape)
        offset = np.stack([x + self.corner[1], y + self.corner[0]], -1) - self.origin
        whitened = offset @ inverse(self.factor).T
        object.__setattr__(self, "u", whitened[..., 0])
        object.__setattr__(self, "v", whitened[..., 1])

    @property
    def extent(self) -> float:
        """Longer side of the box around the island itself, in pixels."""
        y, x = np.nonzero(self.island)
        return float(max(np.ptp(y), np.ptp(x)) + 1) if y.size else 1.0

    def held(self, params: Floats) -> NDArray[np.bool_]:
        """Which components are centred on usable pixels."""
        return self._at(params, self.usable)

    def beyond(self, params: Floats) -> NDArray[np.bool_]:
        """Which components are centred where nothing was measured.

        What is left of a source beyond the edge does not tell its shape, nor its flux.
        """
        return ~self._at(params, self.measured)

    def _at(self, params: Floats, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Values of a mask at the centres of components; false outside."""
        centre = self.origin + params[:, 1:3] @ self.factor.T
        x, y = np.rint(centre - self.corner[::-1]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
        inside[inside] = mask[y[inside], x[inside]]
        return np.asarray(inside)

    def sample(self, params: Floats) -> tuple[NDArray[np.bool_], Integers]:
        """Usable pixels within `REACH` sigma of some components, thinned out to lattices.

        Where they are more than `MOST_PIXELS` the lattice is widened, but nowhere beyond what the
        smallest component there needs: one that falls between the pixels of a fit may take any
        value there.

        Returns
        -------
        chosen : ndarray of bool, shape (ny, nx)
        step : ndarray of int64, shape (ny, nx)
            Every how many rows and columns are taken there: the square root of the number of pixels
            that a chosen one stands for.
        """
        smaller = float(np.sqrt(np.linalg.eigvalsh(self.factor @ self.factor.T)[0]))
        base = max(1, int(FWHM * smaller / FINEST))
        widest = np.zeros(self.value.shape, np.int64)
        for _, u, v, a, b, c in params:
            du, dv = self.u - u, self.v - v
            near = a * du**2 + 2.0 * b * du * dv + c * dv**2 < REACH**2
            high = 0.5 * (a + c) + np.hypot(0.5 * (a - c), b)
            fine = FWHM * smaller / np.sqrt(high) / FINEST
            own = base * 2 ** max(0, int(np.log2(max(fine / base, 1.0))))
            widest[near & ((widest == 0) | (widest > own))] = own
        widest[~self.usable] = 0
        y, x = np.indices(widest.shape)
        largest = base
        while True:
            step = np.minimum(widest, largest)
            divisor = np.maximum(step, 1)
            chosen = (step > 0) & (y % divisor == 0) & (x % divisor == 0)
            if np.count_nonzero(chosen) <= MOST_PIXELS or largest >= widest.max():
                return chosen, step
            largest *= 2

    def model(self, params: Floats) -> NDArray[np.float32]:
        """Components in whitened coordinates drawn on the cut-out."""
        n = len(params)
        factor, origin = np.tile(self.factor, (n, 1, 1)), np.tile(self.origin, (n, 1))
        values, _ = pixel_parameters(params, np.zeros((n, 6, 6)), factor, origin)
        values[:, 1] -= self.corner[1]
        values[:, 2] -= self.corner[0]
        return render_gaussians(self.value.shape, values)

    def misfit(self, params: Floats, value: Floats | None = None) -> float:
        """Chi-squared of all usable pixels, of `value` in place of the region's own if given."""
        residual = ((self.value if value is None else value) - self.model(params)) / self.rms
        return float(np.sum(residual[self.usable] ** 2))

    def fit(self, params: Floats, bounds: Floats, rows: Integers) -> Floats:
        """Fit some components with the others held; returns all of them.

        They are as they were where the fit fails, or leaves more than there was.
        """
        others = np.delete(np.arange(len(params)), rows)
        trial = np.ascontiguousarray(params[rows])
        chosen, step = self.sample(trial)
        if np.count_nonzero(chosen) <= trial.size:
            return params
        value = self.value - self.model(params[others])
        fitted_well, _ = fit_components(
            trial, 0, len(rows), self.u[chosen], self.v[chosen], value[chosen],
            step[chosen] / self.rms[chosen], np.ascontiguousarray(bounds[rows]),
        )  # fmt: skip
        if not fitted_well or not self.misfit(trial, value) < self.misfit(params[rows], value):
            return params
        fitted = params.copy()
        fitted[rows] = trial
        return fitted

    def whiten(self, y: int, x: int) -> Floats:
        """Whitened position of a pixel of the cut-out."""
        offset = np.array([x + self.corner[1], y + self.corner[0]]) - self.origin
        return np.asarray(inverse(self.factor) @ offset)


@nb.njit(
    "void(int64[:, ::1], float32[:, ::1], float32[:, ::1], int64, float32[:, ::1],"
    " float32[:, ::1], int32[:, ::1], float64[:, ::1])",
    cache=True,
    nogil=True,
)
def add_box_sums(
    boxes: Integers,
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    first: int,
    band: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    out: Floats,
) -> None:
    """Add what some rows of the model give to the sums over the boxes of islands.

    The boxes ``x0, y0, x1, y1`` count with their edges, but without the pixels of other islands.
    `band` holds the model from row `first` on. The columns of `out`, shape (n, 9), are: number of
    pixels, sums of residual / rms and of its square, over the box; the same inside the island
    itself; sum of model / rms over the box; largest residual and largest model inside the island,
    without sign.
    """
    end = first + band.shape[0]
    for k in range(boxes.shape[0]):
        for y in range(max(boxes[k, 1], first), min(boxes[k, 3] + 1, end)):
            for x in range(boxes[k, 0], boxes[k, 2] + 1):
                label = labels[y, x]
                if label != 0 and label != k + 1:
                    continue
                model = band[y - first, x]
                residual = data[y, x] - level[y, x] - model
                scaled = residual / rms[y, x]
                if not np.isfinite(scaled):
                    continue
                out[k, 0] += 1.0
                out[k, 1] += scaled
                out[k, 2] += scaled * scaled
                out[k, 6] += model / rms[y, x]
                if label != 0:
                    out[k, 3] += 1.0
                    out[k, 4] += scaled
                    out[k, 5] += scaled * scaled
                    out[k, 7] = max(out[k, 7], abs(residual))
                    out[k, 8] = max(out[k, 8], abs(model))


def suspect_islands(
    fits: IslandFits,
    boxes: Integers,
    labels: NDArray[np.int32],
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    values: Floats,
    rms: NDArray[np.float32],
    noise: NoiseAutocorrelation,
    *,
    threshold: float,
    fraction: float,
) -> Integers:
    """Islands whose residual is more than noise, or whose flux the fit does not hold.

    Chi-squared of n pixels of correlated noise has the variance ``2 n sum rho^2``, their sum
    ``n sum rho``. It is a cheap look, over boxes: the wavelet transform decides.

    Parameters
    ----------
    boxes : ndarray of int64, shape (n, 4)
        ``x0, y0, x1, y1`` of each island and its margin, edges included.
    data, level, rms : ndarray, shape (ny, nx)
        Image, background and noise.
    values : ndarray, shape (m, 6)
        All components, as `render_gaussians` wants them.

    Returns
    -------
    ndarray of int64
        Rows of `boxes`; none of a box of more than `MOST_AREA` pixels.
    """
    sums = np.zeros((len(boxes), 9))
    for first, band in gaussian_bands(data.shape, values):
        add_box_sums(boxes, data, level, first, band, rms, labels, sums)
    drawn, largest, brightest = np.abs(sums[:, 6:]).T
    spread = 2.0 * float(np.sum(noise.values**2))
    total = max(float(np.sum(noise.values)), 1.0)
    chi2, freedom, n_fitted = fits.quality.T
    misfit = np.zeros(len(boxes))
    with np.errstate(invalid="ignore", divide="ignore"):
        fitted = (chi2 - freedom) / np.sqrt(n_fitted * spread)
    np.maximum.at(misfit, fits.island, np.nan_to_num(fitted))
    lost = np.zeros(len(boxes), bool)
    for at in (0, 3):
        pixels, flux, square = sums[:, at : at + 3].T
        pixels = np.maximum(pixels, 1.0)
        misfit = np.maximum(misfit, (square - pixels) / np.sqrt(pixels * spread))
        least = np.maximum(threshold * np.sqrt(pixels * total), fraction * drawn)
        lost |= np.abs(flux) > least
    rough = (misfit > threshold) & (largest > fraction * brightest)
    measured = np.bincount(fits.island, minlength=len(boxes)) > 0
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    return np.flatnonzero((rough | lost) & measured & (area <= MOST_AREA))


def margin_boxes(islands: Segments, shape: tuple[int, int], factor: Floats) -> Integers:
    """Boxes ``x0, y0, x1, y1`` (edges included) of islands and their margins, inside the image."""
    boxes = np.zeros((len(islands), 4), np.int64)
    boxes[:, 2:] = -1
    filled = np.flatnonzero(islands.lengths > 0)
    y, x = np.divmod(islands.indices, shape[1])
    reach = MARGIN * FWHM * np.sqrt(np.square(factor[filled]).sum(axis=-1))
    starts = islands.offsets[:-1][filled]
    for axis, (values, size) in enumerate([(x, shape[1]), (y, shape[0])]):
        margin = np.ceil(reach[:, axis]).astype(np.int64)
        boxes[filled, axis] = np.maximum(np.minimum.reduceat(values, starts) - margin, 0)
        boxes[filled, axis + 2] = np.minimum(np.maximum.reduceat(values, starts) + margin, size - 1)
    return boxes


def dilated(mask: NDArray[np.bool_], shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels that a symmetric shape about those of a mask covers, by convolution.

    `scipy.ndimage.binary_dilation` lists the pixels of the shape for every place near an edge: of
    a beam of a hundred pixels that is gigabytes.
    """
    from scipy import fft

    size = [
        fft.next_fast_len(m + s - 1, real=True)
        for m, s in zip(mask.shape, shape.shape, strict=True)
    ]
    covered = fft.irfft2(fft.rfft2(mask, size) * fft.rfft2(shape, size), size)
    y, x = (s // 2 for s in shape.shape)
    return np.asarray(covered[y : y + mask.shape[0], x : x + mask.shape[1]] > 0.5)


def island_region(
    label: int,
    box: Integers,
    labels: NDArray[np.int32],
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    model: NDArray[np.float32],
    rms: NDArray[np.float32],
    sign: int,
    factor: Floats,
    origin: Floats,
    params: Floats,
) -> Region:
    """Cut an island and its margin out of the residual, and put its own components back.

    Parameters
    ----------
    label : int
        The island's value in `labels`.
    box : ndarray, shape (4,)
        See `margin_boxes`.
    data, level, rms : ndarray, shape (ny, nx)
        Image, background and noise.
    model : ndarray of float32
        All components drawn on the pixels of the box.
    sign, factor, origin, params
        Of the island.
    """
    x0, y0, x1, y1 = (int(edge) for edge in box)
    cut = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    owner, scatter = labels[cut], rms[cut].astype(float)
    difference = data[cut].astype(float) - level[cut] - model
    island = owner == label
    hx, hy = np.ceil(MARGIN * FWHM * np.sqrt(np.square(factor).sum(axis=-1))).astype(int)
    steps = np.stack(np.meshgrid(np.arange(-hx, hx + 1), np.arange(-hy, hy + 1)), -1)
    beam = np.square(steps @ inverse(factor).T).sum(axis=-1) <= (MARGIN * FWHM) ** 2
    near = dilated(island, beam)
    good = np.isfinite(difference) & np.isfinite(scatter)
    region = Region(
        (y0, x0),
        np.where(good, sign * difference, 0.0),
        np.where(good, scatter, 1.0),
        near & good & (island | (owner == 0)),
        island & good,
        good,
        factor,
        origin,
    )
    return replace(region, value=np.where(good, region.value + region.model(params), 0.0))
