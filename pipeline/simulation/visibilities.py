"""From antenna positions to gridded visibility weights, dirty beam and restoring beam.

Visibilities live on the Fourier grid of the image, in the half-plane of a real transform. The
imaging weights of one cell give two things: the sampling function, whose transform is the dirty
beam, and the power spectrum of the noise (Thompson, Moran & Swenson 2017, Interferometry and
Synthesis in Radio Astronomy, ch. 10; Briggs 1995, PhD thesis).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.arrays import Array, Floats
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import inverse

LIGHT = 299792458.0
LONGEST_STEP = 60.0
MOST_STEPS = 240
"""Times at which a track is sampled: every minute, or so many in all."""
LOBE = 0.4
"""The restoring beam is fitted to the main lobe above this level."""
SHORTEST_SHARE = 0.002


@dataclass(frozen=True, eq=False)
class Tracks:
    """Where the baselines of an observation lie in the uv plane.

    Parameters
    ----------
    u, v : ndarray, shape (times, baselines)
        Metres, towards the east and the north of the field.
    minutes : ndarray, shape (times,)
        Since the first time; those at which the field is too low are left out.
    first, second : ndarray of int, shape (baselines,)
        The antennas.
    frequencies : ndarray, shape (channels,)
        Hz.
    """

    u: Floats
    v: Floats
    minutes: Floats
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    frequencies: Floats

    @property
    def longest(self) -> float:
        """Longest baseline in wavelengths."""
        return float(np.hypot(self.u, self.v).max() * self.frequencies.max() / LIGHT)


def uv_tracks(
    array: Array,
    *,
    declination: float,
    hour_angle: float,
    duration: float,
    frequencies: Floats,
    elevation_limit: float,
) -> Tracks:
    """Follow a field across the sky (Thompson, Moran & Swenson 2017, eq. 4.1).

    Parameters
    ----------
    array : Array
    declination : float
        Degrees.
    hour_angle : float
        Of the middle of the observation, in hours at the array.
    duration : float
        Hours.
    frequencies : ndarray
        Hz, of the channels.
    elevation_limit : float
        Degrees; times below it are left out.

    Raises
    ------
    InputError
        Where the field never rises above the limit.
    """
    steps = int(np.clip(np.ceil(duration * 3600.0 / LONGEST_STEP), 1, MOST_STEPS))
    hours = hour_angle + duration * ((np.arange(steps) + 0.5) / steps - 0.5)
    angle, dec = np.radians(15.0 * hours), np.radians(declination)
    latitude = array.latitude
    sine = np.sin(latitude) * np.sin(dec) + np.cos(latitude) * np.cos(dec) * np.cos(angle)
    up = sine > np.sin(np.radians(elevation_limit))
    if not up.any():
        raise InputError(
            f"A field at declination {declination:.4g} deg is never {elevation_limit:.3g} deg "
            f"above the horizon of {array.telescope} at the hour angles asked for; choose another "
            "array, declination or hour angle."
        )
    s, c = np.sin(angle[up])[:, None], np.cos(angle[up])[:, None]
    bx, by, bz = array.baselines.T
    first, second = array.pairs
    return Tracks(
        u=s * bx + c * by,
        v=-np.sin(dec) * (c * bx - s * by) + np.cos(dec) * bz,
        minutes=60.0 * (hours[up] - hours[0]),
        first=first,
        second=second,
        frequencies=np.asarray(frequencies, float),
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """The Fourier grid of an image, in the half-plane of a real transform.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the plane that is transformed (the image and a margin).
    jacobian : ndarray, shape (2, 2)
        (east, north) in radians from (x, y) in pixels.
    """

    shape: tuple[int, int]
    jacobian: Floats

    @property
    def half_shape(self) -> tuple[int, int]:
        """Shape of the half-plane."""
        return self.shape[0], self.shape[1] // 2 + 1

    @property
    def frequencies(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Spatial frequencies (kx, ky) in cycles a pixel; they broadcast to the half-plane."""
        return (
            np.fft.rfftfreq(self.shape[1]).astype(np.float32)[None, :],
            np.fft.fftfreq(self.shape[0]).astype(np.float32)[:, None],
        )

    def total(self, values: NDArray[np.floating]) -> float:
        """Sum over the whole plane of values known in the half-plane."""
        ends = values[:, 0].sum(dtype=float)
        if self.shape[1] % 2 == 0:
            ends += values[:, -1].sum(dtype=float)
        return float(2.0 * values.sum(dtype=float) - ends)

    def gaussian(self, covariance: Floats) -> NDArray[np.float32]:
        """Transform of a Gaussian of unit peak, its covariance in pixels squared."""
        kx, ky = self.frequencies
        c = covariance
        q = c[0, 0] * kx**2 + 2.0 * c[0, 1] * kx * ky + c[1, 1] * ky**2
        area = 2.0 * np.pi * np.sqrt(np.linalg.det(c))
        return np.asarray(area * np.exp(-2.0 * np.pi**2 * q), np.float32)

    def cells(
        self, tracks: Tracks, channel: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the cells nearest to the visibilities of a channel.

        Returns
        -------
        cells : ndarray of int, shape (times * baselines,)
            Flat positions in the half-plane.
        inside : ndarray of bool
            Not so are cells beyond the grid, which an imager with these pixels leaves out, and
            that of zero spacing, since no interferometer measures the total flux.
        mirrored : ndarray of bool
            The visibility is there as its conjugate.
        """
        ny, nx = self.shape
        waves = tracks.frequencies[channel] / LIGHT
        j = self.jacobian
        column = np.rint((j[0, 0] * tracks.u + j[1, 0] * tracks.v) * (nx * waves)).ravel()
        row = np.rint((j[0, 1] * tracks.u + j[1, 1] * tracks.v) * (ny * waves)).ravel()
        inside = (np.abs(column) < nx / 2) & (np.abs(row) < ny / 2)
        inside &= (column != 0) | (row != 0)
        mirrored = column < 0
        row[mirrored] *= -1.0
        cells = np.where(inside, (row % ny) * (nx // 2 + 1) + np.abs(column), 0.0)
        return cells.astype(np.int64), inside, mirrored

    def add(
        self,
        tracks: Tracks,
        values: NDArray[np.complexfloating] | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> NDArray[np.complex128]:
        """Sum visibilities in the cells nearest to them.

        Parameters
        ----------
        tracks : Tracks
        values : ndarray, shape (times, baselines), optional
            Complex values of the visibilities, equal in all channels; by default 1.
        weights : ndarray, shape (channels, times * baselines), optional
            By default 1.

        Returns
        -------
        ndarray, shape (ny, nx // 2 + 1)
        """
        ny, nx = self.shape
        size = ny * (nx // 2 + 1)
        plane = np.zeros(size, complex)
        for channel in range(len(tracks.frequencies)):
            cells, inside, mirrored = self.cells(tracks, channel)
            cells = cells[inside]
            factor = None if weights is None else weights[channel][inside]
            if values is None:
                plane.real += np.bincount(cells, factor, size)
                continue
            flat = values.ravel()
            flat = np.where(mirrored, flat.conj(), flat)[inside]
            flat = flat if factor is None else flat * factor
            plane.real += np.bincount(cells, flat.real, size)
            plane.imag += np.bincount(cells, flat.imag, size)
        plane = plane.reshape(self.half_shape)
        # A visibility on the edge of the half-plane is there with its conjugate.
        plane[:, 0] += np.conj(np.roll(plane[::-1, 0], 1))
        return plane


@dataclass(frozen=True, eq=False)
class Weights:
    """Gridded visibility weights.

    Parameters
    ----------
    grid : Grid
    transfer : ndarray of float32, half-plane
        Sum of the imaging weights in each cell: the transform of the dirty beam, scaled to a
        unit peak.
    power : ndarray of float32, half-plane
        Sum of their squares: the power spectrum of the noise, of any scale. With natural
        weights it is that of the dirty beam, which then is the noise's autocorrelation.
    visibility : ndarray of float32, shape (channels, times * baselines), or None
        Imaging weight of each visibility; None where all are equal.
    scale : float
        Sums of visibilities times this are in the units of `transfer`.
    """

    grid: Grid
    transfer: NDArray[np.float32]
    power: NDArray[np.float32]
    visibility: NDArray[np.float32] | None
    scale: float


def visibility_weights(
    tracks: Tracks, grid: Grid, weighting: str, robust: float
) -> NDArray[np.float32] | None:
    """Imaging weights of single visibilities.

    ``natural`` gives all the same weight, ``uniform`` all cells; ``briggs`` lies between, with
    ``1 / (1 + n f^2)``, ``f^2 = (5 10^-robust)^2 / (sum n^2 / sum n)`` where n visibilities lie
    in a cell (Briggs 1995, PhD thesis, eq. 3.15).

    Parameters
    ----------
    tracks : Tracks
    grid : Grid
        Whose cells count: those of the field that the telescope sees, however small the image.
    weighting : {"natural", "briggs", "uniform"}
    robust : float

    Returns
    -------
    ndarray, shape (channels, times * baselines), or None
        None where all are equal.
    """
    if weighting == "natural":
        return None
    counts = grid.add(tracks).real
    share = (5.0 * 10.0**-robust) ** 2 * grid.total(counts) / max(grid.total(counts**2), 1.0)
    density = 1.0 / np.maximum(counts, 1.0) if weighting == "uniform" else 1 / (1 + counts * share)
    weights = []
    for channel in range(len(tracks.frequencies)):
        cells, inside, _ = grid.cells(tracks, channel)
        weights.append(np.where(inside, density.ravel()[cells], 0.0).astype(np.float32))
    return np.stack(weights)


def grid_weights(tracks: Tracks, grid: Grid, visibility: NDArray[np.float32] | None) -> Weights:
    """Grid the imaging weights of visibilities.

    Raises
    ------
    InputError
        Where no visibility lies on the grid.
    """
    sampling = grid.add(tracks, weights=visibility).real
    total = grid.total(sampling)
    if total <= 0.0:
        raise InputError(
            "No baseline of the array is seen by pixels of this size; make the pixels smaller."
        )
    scale = grid.shape[0] * grid.shape[1] / total
    squares = sampling if visibility is None else grid.add(tracks, weights=visibility**2).real
    return Weights(
        grid,
        np.asarray(sampling * scale, np.float32),
        np.asarray(squares * (scale / squares.max()), np.float32),
        visibility,
        scale,
    )


def noise_amplitude(power: NDArray[np.floating], grid: Grid) -> NDArray[np.float32]:
    """Square root of a power spectrum, scaled so that `draw_noise` gives a plane of unit rms."""
    ny, nx = grid.shape
    amplitude = np.sqrt(np.asarray(power, float) / grid.total(power)) * (ny * nx)
    # A real plane keeps half of the variance of the modes at both edges of the half-plane.
    amplitude[:, 0] *= np.sqrt(2.0)
    if nx % 2 == 0:
        amplitude[:, -1] *= np.sqrt(2.0)
    return np.asarray(amplitude, np.float32)


def draw_noise(
    amplitude: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.complex64]:
    """Draw the transform of a plane of noise with a given `noise_amplitude`."""
    parts = generator.standard_normal((*amplitude.shape, 2), dtype=np.float32)
    white = parts.view(np.complex64)[..., 0]
    white *= np.float32(np.sqrt(0.5))
    white *= amplitude
    return white


def plane_of(transform: NDArray[np.complexfloating], grid: Grid) -> NDArray[np.float32]:
    """Return the plane of a half-plane transform, float32."""
    from scipy import fft

    return np.asarray(fft.irfft2(transform, s=grid.shape, overwrite_x=True), np.float32)


def dirty_beam(transfer: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The dirty beam with its peak of 1 at the centre, pixel (ny // 2, nx // 2)."""
    beam = plane_of(transfer.astype(np.complex64), grid)
    return np.asarray(np.fft.fftshift(beam))


def fit_restoring_beam(beam: NDArray[np.float32]) -> Floats:
    """Fit a Gaussian of unit peak to the main lobe of a dirty beam.

    Least squares over the pixels above `LOBE` that are connected to the peak, as imagers do.

    Parameters
    ----------
    beam : ndarray, shape (ny, nx)
        With its peak of 1 at (ny // 2, nx // 2).

    Returns
    -------
    ndarray, shape (2, 2)
        Covariance in pixels squared, in (x, y).

    Raises
    ------
    InputError
        Where the main lobe has too few pixels for a fit, or reaches the edge.
    """
    from scipy import ndimage, optimize

    row, column = beam.shape[0] // 2, beam.shape[1] // 2
    labels, _ = ndimage.label(beam > LOBE)
    y, x = np.nonzero(labels == labels[row, column])
    if y.size < 9:
        raise InputError(
            "The dirty beam is too small for these pixels; make the pixels smaller or choose a "
            "lower frequency or a more compact array."
        )
    if y.min() == 0 or x.min() == 0 or y.max() == beam.shape[0] - 1:
        raise InputError(
            "The dirty beam is larger than the image; make the pixels larger, or the image."
        )
    values, dx, dy = beam[y, x].astype(float), x - column, y - row
    basis = np.stack([dx * dx, 2.0 * dx * dy, dy * dy], -1).astype(float)
    start, *_ = np.linalg.lstsq(basis * values[:, None], -2.0 * np.log(values) * values, rcond=None)
    fit = optimize.least_squares(lambda p: np.exp(-0.5 * basis @ p) - values, start)
    precision = np.array([[fit.x[0], fit.x[1]], [fit.x[1], fit.x[2]]])
    return inverse(precision)


def shortest_spacing(transfer: NDArray[np.float32], grid: Grid) -> float:
    """Length below which the uv plane is practically empty, in cycles a pixel.

    The distance that holds `SHORTEST_SHARE` of the imaging weight, or the cell nearest to zero.
    """
    kx, ky = grid.frequencies
    filled = transfer > 0.0
    distance = np.hypot(kx, ky)[filled]
    weight = transfer[filled]
    order = np.argsort(distance)
    share = np.cumsum(weight[order])
    found = int(np.searchsorted(share, SHORTEST_SHARE * share[-1]))
    return float(max(distance[order[found]], distance[order[0]], 1.0 / max(grid.shape)))
