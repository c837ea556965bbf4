"""What of an observation depends on the telescope and the pixels only, made once and kept."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.arrays import load_array
from cyclades.pipeline.simulation.artefacts import gain_error_transfers
from cyclades.pipeline.simulation.drawing import PIXEL_SIGMA
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.telescope_options import TelescopeOptions
from cyclades.pipeline.simulation.visibilities import (
    LIGHT,
    Grid,
    Tracks,
    dirty_beam,
    fit_restoring_beam,
    grid_weights,
    noise_amplitude,
    shortest_spacing,
    uv_tracks,
    visibility_weights,
)
from cyclades.stages.core.geometry import Floats, sky_jacobian, sky_positions

MOST_MARGIN = 1024
GAIN_DRAWS = 4
LEAST_FIELD, MOST_FIELD = 256, 4096
"""Least and largest side, in pixels, of the field of view that robust weights refer to."""
PIXELS_A_BEAM = 4.0
KEPT_BYTES = 600_000_000
"""Instruments are kept as long as they fit into this, at least the last one."""
_COARSE = 512

Key = tuple[tuple[int, int], tuple[float, ...], float, TelescopeOptions]


@dataclass(frozen=True, eq=False)
class Instrument:
    """Transfer functions of a telescope on the Fourier grid of an image.

    All planes are float32 or complex64 half-planes that multiply the transform of a sky drawn
    with `PIXEL_SIGMA`.

    Parameters
    ----------
    grid : Grid
    transfer : ndarray
        Of the dirty beam of unit peak; `PIXEL_SIGMA` is not divided out.
    beam : ndarray, shape (2, 2)
        Restoring beam, pixels squared.
    restored : ndarray
        Of the restoring beam.
    residual : ndarray
        Of the dirty beam minus the restoring beam.
    bowls : ndarray
        Of the restoring beam without the spacings that are missing, minus the restoring beam.
    noise : ndarray
        Amplitude for `draw_noise`, of unit rms.
    gain_errors : tuple of ndarray
        Of the error beams; empty without errors.
    shortest : float
        Shortest spacing, cycles a pixel.
    offset : (int, int)
        (y, x) of the image's first pixel in the plane.
    """

    grid: Grid
    transfer: NDArray[np.float32]
    beam: Floats
    restored: NDArray[np.float32]
    residual: NDArray[np.float32]
    bowls: NDArray[np.float32]
    noise: NDArray[np.float32]
    gain_errors: tuple[NDArray[np.complex64], ...]
    shortest: float
    offset: tuple[int, int]

    @property
    def dirty_beam(self) -> NDArray[np.float32]:
        """The dirty beam, its peak of 1 at (ny // 2, nx // 2)."""
        return dirty_beam(self.transfer, self.grid)

    @property
    def nbytes(self) -> int:
        """Size of the planes."""
        planes = (self.transfer, self.restored, self.residual, self.bowls, self.noise)
        return sum(plane.nbytes for plane in (*planes, *self.gain_errors))


def instrument(geometry: Geometry, options: TelescopeOptions) -> Instrument:
    """Return the transfer functions of a telescope with one pointing; recent ones are kept.

    Raises
    ------
    InputError
        Where the field is below the horizon, or the pixels do not suit the array.
    """
    jacobian, declination = frame(geometry)
    if options.declination is not None:
        declination = options.declination
    key = geometry.shape, tuple(jacobian.ravel().tolist()), declination, _key(options)
    found = _recent.pop(key, None)
    if found is None:
        found = _make(*key)
    _recent[key] = found
    while len(_recent) > 1 and sum(kept.nbytes for kept in _recent.values()) > KEPT_BYTES:
        del _recent[next(iter(_recent))]
    return found


@lru_cache(maxsize=64)
def frame(geometry: Geometry) -> tuple[Floats, float]:
    """Return (east, north) in radians from pixels, and the declination in degrees, of a field."""
    x, y = geometry.pointing
    jacobian = np.radians(sky_jacobian(geometry.wcs, x, y)[0])
    jacobian.flags.writeable = False
    return jacobian, float(sky_positions(geometry.wcs, x, y).dec.deg[0])


def _key(options: TelescopeOptions) -> TelescopeOptions:
    """Set what transfer functions do not depend on to fixed values, so that they are shared."""
    fixed = TelescopeOptions()
    names = (
        *("rms", "clean_threshold", "clean_depth", "clean_bias", "short_spacings", "ripple"),
        *("channel_width", "integration", "primary_beam", "primary_beam_cut", "pointings"),
        *("artefact_threshold", "declination"),
    )
    return options.model_copy(update={name: getattr(fixed, name) for name in names})


def _make(
    shape: tuple[int, int],
    jacobian: tuple[float, ...],
    declination: float,
    options: TelescopeOptions,
) -> Instrument:
    from scipy import fft

    margins = [min(round((options.padding - 1.0) * n), MOST_MARGIN) for n in shape]
    padded = [int(fft.next_fast_len(n + m, real=True)) for n, m in zip(shape, margins, strict=True)]
    grid = Grid((padded[0], padded[1]), np.reshape(jacobian, (2, 2)))
    tracks = _tracks(options, declination)
    cells = _field_of_view(grid, options)
    visibility = visibility_weights(tracks, cells, options.weighting, options.robust)
    weights = grid_weights(tracks, grid, visibility)
    beam = fit_restoring_beam(dirty_beam(weights.transfer, grid))
    pixel = np.float32(1.0) / grid.gaussian(np.eye(2) * PIXEL_SIGMA**2)
    restored = grid.gaussian(beam)
    shortest = shortest_spacing(weights.transfer, grid)
    kx, ky = grid.frequencies
    power = restored**2 if options.noise == "beam" else weights.power
    errors: list[NDArray[np.complex64]] = []
    if options.gain_amplitude > 0.0 or options.gain_phase > 0.0:
        errors = gain_error_transfers(
            tracks,
            weights,
            amplitude=options.gain_amplitude,
            phase=options.gain_phase,
            interval=options.gain_interval,
            number=GAIN_DRAWS,
            # the draws are mixed anew for every observation, so they may be the same every time
            generator=np.random.default_rng(len(load_array(options.array))),
        )
    return Instrument(
        grid=grid,
        transfer=weights.transfer,
        beam=beam,
        restored=restored * pixel,
        residual=(weights.transfer - restored) * pixel,
        bowls=-np.exp(-(kx**2 + ky**2) / np.float32(shortest**2)) * restored * pixel,
        noise=noise_amplitude(power, grid),
        gain_errors=tuple(error * pixel for error in errors),
        shortest=shortest,
        offset=((padded[0] - shape[0]) // 2, (padded[1] - shape[1]) // 2),
    )


_recent: dict[Key, Instrument] = {}
"""The instruments used last, the latest at the end."""


def _field_of_view(grid: Grid, options: TelescopeOptions) -> Grid:
    """The grid of the whole primary beam, on whose cells an imager would count visibilities."""
    fwhm = options.primary_beam_factor * LIGHT / options.frequency
    fwhm /= load_array(options.array).diameter
    side = fwhm / np.sqrt(abs(np.linalg.det(grid.jacobian)))
    pixels = int(np.clip(side, LEAST_FIELD, MOST_FIELD))
    return Grid((pixels, pixels), grid.jacobian)


def _tracks(options: TelescopeOptions, declination: float) -> Tracks:
    return uv_tracks(
        load_array(options.array),
        declination=declination,
        hour_angle=options.hour_angle,
        duration=options.duration,
        frequencies=options.frequencies,
        elevation_limit=options.elevation_limit,
    )


def suit_geometry(
    options: TelescopeOptions,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    pixels_a_beam: float = PIXELS_A_BEAM,
) -> Geometry:
    """Return a geometry whose pixels suit the telescope's restoring beam.

    Parameters
    ----------
    options : TelescopeOptions
    shape : (ny, nx)
    centre : (ra, dec)
        ICRS degrees of the field's centre.
    pixels_a_beam : float
        Pixels along the minor axis of the restoring beam.

    Returns
    -------
    Geometry
        With the telescope's frequency and restoring beam.
    """
    tracks = _tracks(options, centre[1] if options.declination is None else options.declination)
    pixel = float(np.degrees(1.0 / (6.0 * tracks.longest)))
    shape_on_sky = (5.0 * pixel, 5.0 * pixel, 0.0)
    for side in (_COARSE, _COARSE):
        trial = Geometry.make(
            (side, side),
            pixel=pixel,
            beam=shape_on_sky,
            frequency=options.frequency,
            centre=centre,
        )
        psf = replace(trial.psf, covariance=instrument(trial, options).beam)
        beam = psf.beam
        assert beam is not None
        major, minor, angle = (float(q.to_value("deg")) for q in (beam.major, beam.minor, beam.pa))
        shape_on_sky = (major, minor, angle)
        pixel = shape_on_sky[1] / pixels_a_beam
    return Geometry.make(
        shape, pixel=pixel, beam=shape_on_sky, frequency=options.frequency, centre=centre
    )
