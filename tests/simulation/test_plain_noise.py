"""The noise has the rms, the autocorrelation and the maps that were asked for."""

import numpy as np
import pytest
from sky_cases import geometry

from cyclades.pipeline.simulation.plain import PlainOptions, plain_noise, smooth_maps, unit_noise

GEOMETRY = geometry(192)
BEAM = GEOMETRY.psf.covariance
OFFSETS = [(0, 1), (1, 0), (2, 1), (1, -2), (3, 3), (-4, 2), (6, 1), (10, 0)]


def correlations(planes, dy, dx):
    """Mean product at an offset in each plane; the planes are periodic."""
    return np.array([np.mean(p * np.roll(p, (-dy, -dx), (0, 1))) for p in planes])


@pytest.mark.parametrize(("kind", "widening"), [("natural", 1.0), ("beam", 2.0)])
def test_autocorrelation(kind, widening):
    planes = [
        unit_noise(GEOMETRY.shape, BEAM, np.random.default_rng(seed), autocorrelation=kind).astype(
            float
        )
        for seed in range(40)
    ]
    variance = correlations(planes, 0, 0)
    assert abs(variance.mean() - 1.0) < 4 * variance.std(ddof=1) / np.sqrt(len(planes))
    assert variance.std(ddof=1) / np.sqrt(len(planes)) < 0.01
    precision = np.linalg.inv(widening * BEAM)
    for dy, dx in OFFSETS:
        d = np.array([dx, dy], float)
        expected = np.exp(-0.5 * d @ precision @ d)
        measured = correlations(planes, dy, dx)
        error = measured.std(ddof=1) / np.sqrt(len(planes))
        assert abs(measured.mean() - expected) < 4.5 * error, (kind, dy, dx)


def test_stripes_keep_the_variance_and_run_along_their_angle():
    # as narrow as they may be beside the plane, so that its mean takes little of their variance
    options = PlainOptions(beam_major=6.0, beam_minor=6.0, stripes=0.8, stripes_angle=0.0)
    frame = options.geometry(GEOMETRY.shape, (180.0, 0.0))
    generators = map(np.random.default_rng, range(80))
    planes = [plain_noise(options, frame, one).astype(float) for one in generators]
    variance = correlations(planes, 0, 0)
    error = variance.std(ddof=1) / np.sqrt(len(planes))
    assert abs(variance.mean() - 1.0) < 4 * error
    assert error < 0.01
    # FWHM of 3 pixels for the beam, 4.5 and 18 for the stripes, along north (the columns)
    for (dy, dx), along in (((0, 3), 4.5), ((9, 0), 18.0), ((0, 9), 4.5)):
        offset = float(max(dy, dx))
        shapes = np.exp(-4 * np.log(2) * offset**2 / np.array([3.0, along]) ** 2)
        expected = 0.36 * shapes[0] + 0.64 * shapes[1]
        measured = correlations(planes, dy, dx)
        error = measured.std(ddof=1) / np.sqrt(len(planes))
        assert abs(measured.mean() - expected) < 4.5 * error, (dy, dx)


def test_noise_is_gaussian():
    plane = unit_noise((512, 512), BEAM, np.random.default_rng(2)).astype(float)
    independent = plane.size / (2 * GEOMETRY.beam_area)
    skewness = np.mean(plane**3)
    kurtosis = np.mean(plane**4) - 3.0
    assert abs(skewness) < 4 * np.sqrt(6 / independent)
    assert abs(kurtosis) < 4 * np.sqrt(24 / independent)


def test_odd_sizes_keep_the_variance():
    variances = [
        unit_noise((101, 149), BEAM, np.random.default_rng(k)).astype(float).var()
        for k in range(60)
    ]
    error = np.std(variances, ddof=1) / np.sqrt(60)
    # the mean of a plane is not known beforehand, which costs a correlation area
    lost = 2 * GEOMETRY.beam_area / (101 * 149)
    assert abs(np.mean(variances) - 1.0 + lost) < 4 * error


def test_maps_have_the_range_asked_for():
    options = PlainOptions(rms=1e-4, rms_ratio=3.0, level=0.5, wavelength=20.0)
    rms, level = smooth_maps(options, GEOMETRY, np.random.default_rng(3))
    assert rms.dtype == level.dtype == np.float32
    assert rms.min() == pytest.approx(1e-4, rel=0.01)
    assert rms.max() == pytest.approx(3e-4, rel=0.01)
    assert 0.2 * 0.5e-4 < np.abs(level).max() <= 0.5e-4 * 1.0001


def test_flat_maps():
    options = PlainOptions(rms_ratio=1.0, level=0.0)
    rms, level = smooth_maps(options, GEOMETRY, np.random.default_rng(3))
    assert np.ptp(rms) == 0.0
    assert not level.any()
