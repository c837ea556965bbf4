"""Antenna positions, uv coverage and beams against published figures and geometry."""

import numpy as np
import pytest

from cyclades.pipeline.simulation.arrays import list_arrays, load_array
from cyclades.pipeline.simulation.instrument import instrument, suit_geometry
from cyclades.pipeline.simulation.telescope_options import TelescopeOptions
from cyclades.pipeline.simulation.visibilities import (
    LIGHT,
    Grid,
    dirty_beam,
    draw_noise,
    fit_restoring_beam,
    grid_weights,
    noise_amplitude,
    plane_of,
    uv_tracks,
    visibility_weights,
)
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.geometry import covariance_from_shape, inverse

# longest baseline in km, latitude in degrees, number of antennas
PUBLISHED = {
    "vla-a": (36.4, 34.08, 27),
    "vla-b": (11.1, 34.08, 27),
    "vla-c": (3.4, 34.08, 27),
    "vla-d": (1.03, 34.08, 27),
    "askap": (6.44, -26.70, 36),
    "meerkat": (7.7, -30.71, 64),
    "atca-6a": (5.94, -30.31, 6),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_arrays_have_their_published_size_and_place(name):
    longest, latitude, number = PUBLISHED[name]
    array = load_array(name)
    assert len(array) == number
    assert np.linalg.norm(array.baselines, axis=1).max() / 1e3 == pytest.approx(longest, rel=0.05)
    assert np.degrees(array.latitude) == pytest.approx(latitude, abs=0.03)
    assert array.source


def test_every_installed_array_can_be_read():
    for name in list_arrays():
        array = load_array(name)
        assert len(array) * (len(array) - 1) // 2 == len(array.baselines)
        assert np.linalg.norm(array.positions, axis=1) == pytest.approx(6.37e6, rel=0.004)
        assert np.linalg.norm(array.baselines, axis=1).min() > 10.0


def test_an_unknown_array_is_named_with_a_suggestion():
    with pytest.raises(ConfigurationError, match="did you mean 'vla-b'"):
        load_array("vla-bb")
    with pytest.raises(ValueError, match="There is no array"):
        TelescopeOptions(array="nothing")


def _tracks(name, **changes):
    options = {
        "declination": 20.0,
        "hour_angle": 0.0,
        "duration": 0.01,
        "frequencies": np.array([1.4e9]),
        "elevation_limit": 5.0,
    }
    return uv_tracks(load_array(name), **(options | changes))


def _weights(tracks, grid, weighting, robust):
    return grid_weights(tracks, grid, visibility_weights(tracks, grid, weighting, robust))


def test_baselines_at_transit_are_seen_as_east_and_foreshortened_north():
    array = load_array("vla-d")
    tracks = _tracks("vla-d")
    bx, by, bz = array.baselines.T
    dec = np.radians(20.0)
    assert tracks.u[0] == pytest.approx(by, abs=2.0)
    assert tracks.v[0] == pytest.approx(bz * np.cos(dec) - bx * np.sin(dec), abs=2.0)


def test_an_east_west_array_sees_circles_at_the_pole_and_a_line_at_the_equator():
    pole = _tracks("atca-6a", declination=-90.0, duration=11.9)
    length = np.hypot(pole.u, pole.v)
    assert np.ptp(length, axis=0).max() < 1e-6 * length.max()
    assert _tracks("atca-6a", declination=-90.0).longest == pytest.approx(
        5939.0 * 1.4e9 / LIGHT, rel=0.01
    )
    equator = _tracks("atca-6a", declination=0.0, duration=4.0)
    assert np.abs(equator.v).max() < 0.02 * np.abs(equator.u).max()


def test_a_field_below_the_horizon_is_refused_and_low_times_left_out():
    with pytest.raises(InputError, match="above the horizon of MeerKAT"):
        _tracks("meerkat", declination=80.0)
    whole = _tracks("meerkat", declination=-30.0, duration=24.0, elevation_limit=0.0)
    high = _tracks("meerkat", declination=-30.0, duration=24.0, elevation_limit=60.0)
    assert 0.1 < len(high.u) / len(whole.u) < 0.5


def test_visibilities_are_put_into_the_cells_of_their_own_waves():
    # one visibility must give a wave of its own spatial frequency over the plane
    tracks = _tracks("atca-6a", declination=-60.0)
    grid = Grid((768, 1024), np.radians(np.array([[-3.0, 0.5], [0.5, 3.0]]) / 3600.0))
    value = np.zeros(tracks.u.shape, complex)
    value[0, 4] = np.exp(0.7j)
    transform = grid.add(tracks, value)
    # the plane is half of the wave and half of its conjugate
    plane = plane_of(transform.astype(np.complex64), grid) * (768 * 1024) / 2.0
    u, v = tracks.u[0, 4] * 1.4e9 / LIGHT, tracks.v[0, 4] * 1.4e9 / LIGHT
    x, y = np.arange(20), np.arange(20)[:, None]
    east = grid.jacobian[0, 0] * x + grid.jacobian[0, 1] * y
    north = grid.jacobian[1, 0] * x + grid.jacobian[1, 1] * y
    wave = np.cos(2 * np.pi * (u * east + v * north) + 0.7)
    # the nearest cell is off by at most half a cell over 20 of 768 pixels
    assert np.abs(plane[:20, :20] - wave).max() < 2 * np.pi * (20 / 768 + 20 / 1024) / 2


def test_a_gaussian_dirty_beam_is_fitted_exactly():
    grid = Grid((128, 128), np.eye(2))
    beam = covariance_from_shape(6.0, 4.0, 25.0)
    plane = np.fft.fftshift(plane_of(grid.gaussian(beam).astype(np.complex64), grid))
    assert plane[64, 64] == pytest.approx(1.0, abs=1e-5)
    assert fit_restoring_beam(plane) == pytest.approx(beam, abs=1e-3)


@pytest.mark.parametrize(("name", "fwhm"), [("vla-a", 1.3), ("vla-b", 4.3), ("vla-d", 46.0)])
def test_restoring_beams_are_those_of_the_vla_status_summary(name, fwhm):
    # NRAO, VLA Observational Status Summary: approximate, at 1.5 GHz, full synthesis near zenith
    options = TelescopeOptions(array=name, frequency=1.5e9, duration=8.0)
    geometry = suit_geometry(options, (256, 256), centre=(180.0, 34.0))
    size = geometry.psf.size * geometry.pixel_scale * 3600.0
    assert size == pytest.approx(fwhm, rel=0.15)
    made = instrument(geometry, options)
    assert geometry.psf.covariance == pytest.approx(made.beam, rel=0.01, abs=0.02)


@pytest.mark.parametrize("weighting", ["natural", "briggs", "uniform"])
def test_the_dirty_beam_has_unit_peak_and_the_restoring_beam_fits_its_lobe(weighting):
    options = TelescopeOptions(array="meerkat", duration=4.0, weighting=weighting)
    geometry = suit_geometry(options, (256, 256), centre=(180.0, -35.0))
    made = instrument(geometry, options)
    beam = made.dirty_beam
    row, column = np.unravel_index(np.argmax(beam), beam.shape)
    assert (row, column) == (beam.shape[0] // 2, beam.shape[1] // 2)
    assert beam.max() == pytest.approx(1.0, abs=1e-5)
    # without the zero spacing, the dirty beam has no total
    assert abs(beam.sum(dtype=float)) < 1e-3 * np.abs(beam).sum(dtype=float)
    y, x = np.indices(beam.shape)
    p = inverse(made.beam)
    dx, dy = x - column, y - row
    gaussian = np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2))
    lobe = gaussian > 0.5
    # the many short baselines of the core put a broad foot under the naturally weighted lobe
    assert np.abs(beam - gaussian)[lobe].max() < (0.25 if weighting == "natural" else 0.1)


def test_robust_weights_lie_between_natural_and_uniform():
    tracks = _tracks("meerkat", declination=-30.0, duration=4.0)
    grid = Grid((256, 256), np.radians(np.diag([-2.0, 2.0]) / 3600.0))
    size = {}
    cases = {
        "natural": ("natural", 0.0),
        "robust 2": ("briggs", 2.0),
        "robust 0": ("briggs", 0.0),
        "robust -2": ("briggs", -2.0),
        "uniform": ("uniform", 0.0),
    }
    for name, (weighting, robust) in cases.items():
        weights = _weights(tracks, grid, weighting, robust)
        size[name] = np.linalg.det(fit_restoring_beam(dirty_beam(weights.transfer, grid)))
    order = [size[name] for name in cases]
    assert order == sorted(order, reverse=True)
    assert size["robust 2"] == pytest.approx(size["natural"], rel=0.1)
    assert size["robust -2"] == pytest.approx(size["uniform"], rel=0.1)


def test_pixels_that_are_too_large_are_refused():
    grid = Grid((64, 64), np.radians(np.diag([-1.0, 1.0])))
    with pytest.raises(InputError, match="make the pixels smaller"):
        _weights(_tracks("vla-a"), grid, "natural", 0.0)


def _autocorrelation(planes):
    """Mean circular autocorrelation of planes, and the standard error of the mean."""
    power = np.abs(np.fft.fft2(planes)) ** 2
    each = np.fft.fftshift(np.fft.ifft2(power).real / planes[0].size, axes=(-2, -1))
    return each.mean(0), each.std(0, ddof=1) / np.sqrt(len(planes))


@pytest.mark.parametrize("weighting", ["natural", "uniform"])
def test_natural_noise_has_the_dirty_beam_as_its_autocorrelation(weighting):
    tracks = _tracks("meerkat", declination=-30.0, duration=4.0)
    grid = Grid((150, 144), np.radians(np.diag([-2.0, 2.0]) / 3600.0))
    weights = _weights(tracks, grid, weighting, 0.0)
    amplitude = noise_amplitude(weights.power, grid)
    generator = np.random.default_rng(5)
    planes = np.stack([plane_of(draw_noise(amplitude, generator), grid) for _ in range(150)])
    measured, error = _autocorrelation(planes.astype(float))
    # unit rms, of which the sample knows the error
    assert abs(measured[75, 72] - 1.0) < 4 * error[75, 72]
    inner = np.s_[65:86, 62:83]
    deviation = (measured - dirty_beam(weights.transfer, grid))[inner] / error[inner]
    spread = np.sqrt(np.mean(deviation**2))
    if weighting == "natural":
        # neighbouring lags are correlated, so that the mean of 441 squares scatters by more
        assert spread < 1.5
    else:
        # uniform weights: the noise has the power of 1 / n, not the beam's flat one
        assert spread > 5.0


def test_beam_noise_is_wider_than_the_beam_by_the_root_of_two():
    grid = Grid((128, 128), np.eye(2))
    beam = covariance_from_shape(5.0, 4.0, 30.0)
    amplitude = noise_amplitude(grid.gaussian(beam).astype(float) ** 2, grid)
    generator = np.random.default_rng(6)
    planes = np.stack([plane_of(draw_noise(amplitude, generator), grid) for _ in range(100)])
    measured, error = _autocorrelation(planes.astype(float))
    fitted = fit_restoring_beam((measured / measured[64, 64]).astype(np.float32))
    assert error[64, 64] < 0.01
    assert fitted == pytest.approx(2.0 * beam, rel=0.05, abs=0.2)
