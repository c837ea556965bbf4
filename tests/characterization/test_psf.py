"""Photometry of points by the profile of the stars, and what is wider than they are."""

import numpy as np
import pytest

from cyclades.stages.characterization.psf import PsfCharacterization, pixel_errors
from cyclades.stages.characterization.psf_photometry import (
    PointFits,
    fit_points,
    saturated,
    spread_model,
)
from cyclades.stages.characterization.star_profile import (
    fit_moffat,
    moffat,
    moffat_area,
    sampled,
    star_profile,
)
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.geometry import covariance_from_shape, gaussian_area
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.segments import complete_detections
from cyclades.stages.core.stars import find_stars
from cyclades.stages.detection.sep import SepDetection

COVARIANCE = covariance_from_shape(4.8, 4.2, 20.0)
BETA = 3.5
SIDE = 520
STEP = 40


def field(flux, *, seed=1, covariance=COVARIANCE, noise=1.0, side=SIDE):
    """Moffat stars of given fluxes on a jittered grid, and their positions."""
    rng = np.random.default_rng(seed)
    data = noise * rng.standard_normal((side, side))
    centres = np.arange(STEP // 2, side, STEP)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, a.size) for a in np.meshgrid(centres, centres))
    flux = np.resize(flux, len(x)).astype(float)
    profile = sampled(covariance, BETA)
    half = 3 * STEP // 4
    for one, cx, cy in zip(flux, x, y, strict=True):
        x0, y0 = round(cx), round(cy)
        rows = slice(max(0, y0 - half), y0 + half + 1)
        columns = slice(max(0, x0 - half), x0 + half + 1)
        v, u = np.mgrid[rows, columns][:, : side - rows.start, : side - columns.start]
        data[rows, columns] += one * profile.at(u - cx, v - cy)
    return data.astype("f4"), x, y, flux


def test_moffat_profiles_have_unit_flux_and_the_given_fwhm():
    profile = sampled(COVARIANCE, BETA)
    y, x = np.mgrid[-24:25, -24:25]
    assert profile.at(x, y).sum() == pytest.approx(1.0, abs=0.006)  # what lies beyond
    assert moffat(np.array([2 * np.log(2)]), 2.7)[0] == pytest.approx(0.5)
    assert profile.array.max() == pytest.approx(1.0 / moffat_area(COVARIANCE, BETA), rel=1e-6)
    assert sampled(COVARIANCE).at(x, y).sum() == pytest.approx(1.0, abs=1e-3)


def test_the_profile_of_an_image_is_that_of_its_stars():
    data, *_ = field([3000.0, 8000.0, 20000.0])
    rms = np.ones_like(data)
    covariance, beta, _ = fit_moffat(data, rms, find_stars(data))
    np.testing.assert_allclose(covariance, COVARIANCE, rtol=0.02, atol=0.02)
    assert beta == pytest.approx(BETA, abs=0.15)
    found = star_profile(data, rms, None, "moffat", "image")
    assert found.stars > 50


@pytest.mark.slow
def test_photutils_builds_the_same_profile():
    data, *_ = field([3000.0, 8000.0, 20000.0])
    rms = np.ones_like(data)
    found = star_profile(data, rms, None, "moffat", "image")
    built = star_profile(data[:280, :280], rms[:280, :280], None, "epsf", "image")
    # photutils' own shape within five percent of the peak
    np.testing.assert_allclose(built.array, found.array, atol=0.05 * found.array.max())


def test_without_stars_the_beam_is_taken():
    noise = np.random.default_rng(1).standard_normal((100, 100)).astype("f4")
    psf = PointSpread(COVARIANCE)
    found = star_profile(noise, np.ones_like(noise), psf, "moffat", "image")
    np.testing.assert_array_equal(found.array, sampled(COVARIANCE).array)
    assert star_profile(noise, np.ones_like(noise), None, "moffat", "image") is None


@pytest.mark.parametrize("fixed", [True, False])
def test_fluxes_of_points_and_their_errors(fixed):
    data, x, y, flux = field([200.0, 400.0], seed=7)
    rms = np.ones_like(data)
    rng = np.random.default_rng(8)
    start = (0.0, 0.0) if fixed else rng.uniform(-0.3, 0.3, (2, len(x)))
    fits = fit_points(data, rms, x + start[0], y + start[1], sampled(COVARIANCE, BETA), fixed=fixed)
    pull = (fits.flux - flux) / fits.flux_err
    n = len(pull)
    assert abs(pull.mean()) < 4.5 / np.sqrt(n)
    assert pull.std() == pytest.approx(1.0, abs=4.5 / np.sqrt(2 * n))
    # matched filter: sqrt of the sum of squares, over the windows that are fitted
    assert np.median(flux / fits.flux_err) > 0.9 * np.median(flux) * np.sqrt(
        (sampled(COVARIANCE, BETA).at(*np.mgrid[-12:13, -12:13]) ** 2).sum()
    ) - 1.0  # fmt: skip


@pytest.mark.parametrize("fixed", [True, False])
def test_photon_noise_is_in_the_errors_of_bright_stars(fixed):
    """Of a star of 1e5 units at a gain of 2, the noise is ten times that of the sky alone."""
    data, x, y, flux = field([1e5], seed=17, noise=0.0)
    rng = np.random.default_rng(18)
    noise, gain = 1.0, 2.0
    expected = gain * np.maximum(data, 0.0)
    data = rng.poisson(expected) / gain + noise * rng.standard_normal(data.shape)
    rms, excess = np.full(data.shape, noise, "f4"), data.astype("f4")
    errors = pixel_errors(excess, rms, gain)
    profile = sampled(COVARIANCE, BETA)
    fits = fit_points(excess, errors, x, y, profile, fixed=fixed)
    pull, n = (fits.flux - flux) / fits.flux_err, len(x)
    assert abs(pull.mean()) < 4.5 / np.sqrt(n)
    assert pull.std() == pytest.approx(1.0, abs=4.5 / np.sqrt(2 * n))
    without = fit_points(excess, pixel_errors(excess, rms, None), x, y, profile, fixed=fixed)
    assert np.median(fits.flux_err) > 5.0 * np.median(without.flux_err)


def test_errors_of_fluxes_hold_that_of_the_profile():
    """The flux scale of many fields, each with a profile of its own, scatters as it says."""
    scale, error = [], []
    for seed in range(24):
        data, x, y, flux = field([2000.0, 4000.0, 8000.0], seed=100 + seed, side=200)
        found = star_profile(data, np.ones_like(data), None, "moffat", "image")
        assert found.stars >= 8
        fits = fit_points(data, np.ones_like(data), x, y, found, fixed=True)
        bare = fits.flux_err**2 - (found.scale_error * fits.flux) ** 2
        weight = flux**2 / bare
        scale.append(np.average(fits.flux / flux, weights=weight) - 1.0)
        error.append(np.hypot(found.scale_error, weight.sum() ** -0.5))
    pull = np.array(scale) / error
    assert abs(pull.mean()) < 4.0 * 1.2 / np.sqrt(24)
    assert 0.5 < pull.std() < 1.7


def test_gains_are_one_a_plane():
    stage = PsfCharacterization(gain={"g": 2.0, "r": 3.0})
    assert (stage.gain_of("r"), stage.gain_of(None)) == (3.0, 2.0)
    assert PsfCharacterization(gain=5.0).gain_of("z") == 5.0
    with pytest.raises(ConfigurationError, match="no entry for the plane z"):
        stage.gain_of("z")
    for wrong in (0.0, {"g": -1.0}, {}):
        with pytest.raises(ValueError, match="positive"):
            PsfCharacterization(gain=wrong)


def test_points_that_touch_are_fitted_together_and_blank_ones_not_at_all():
    data, x, y, _ = field([2000.0], seed=4, side=120)
    profile = sampled(COVARIANCE, BETA)
    v, u = np.mgrid[:120, :120]
    data += (1000.0 * profile.at(u - x[4] - 5.0, v - y[4])).astype("f4")
    data[:40, :40] = np.nan
    x, y = np.append(x, x[4] + 5.0), np.append(y, y[4])
    fits = fit_points(data, np.ones_like(data), x, y, profile, fixed=True)
    assert np.isnan(fits.flux[0])
    assert fits.flux[4] == pytest.approx(2000.0, abs=5 * fits.flux_err[4])
    assert fits.flux[-1] == pytest.approx(1000.0, abs=5 * fits.flux_err[-1])


def test_the_spread_model_is_zero_for_stars_and_positive_for_discs():
    profile = sampled(COVARIANCE, BETA)
    for widening, low, high in ((0.0, None, None), (0.4, 0.001, 0.03)):
        wide = COVARIANCE * (1.0 + widening)
        data, x, y, _ = field([1500.0], seed=5, covariance=wide, side=280)
        rms = np.ones_like(data)
        fits = fit_points(data, rms, x, y, profile, fixed=False)
        labels = np.zeros(data.shape, np.int32)
        spread, error = spread_model(data, rms, labels, np.arange(1, len(x) + 1), fits, profile)
        n = len(x)
        if low is None:
            assert abs((spread / error).mean()) < 4.5 / np.sqrt(n)
            assert (spread / error).std() == pytest.approx(1.0, abs=4.5 / np.sqrt(2 * n) + 0.15)
        else:
            assert low < np.median(spread) < high
            assert np.mean(spread > 3 * error) > 0.95
    lost = PointFits(*np.full((4, 1), np.nan))
    assert np.isnan(spread_model(data, rms, labels, np.array([1]), lost, profile)[0]).all()


def test_what_is_clipped_is_saturated_and_no_bright_star_is():
    data, x, _, _ = field([300.0, 2e5, 2e5], seed=14, side=280)
    cells = np.arange(280) // STEP
    labels = (7 * cells[:, None] + cells + 1).astype(np.int32)
    rms, n = np.ones_like(data), len(x)
    assert not saturated(data, rms, labels, n).any()
    clipped = np.minimum(data, 1000.0)
    pixels = np.bincount(labels[data > 1000.0], minlength=n + 1)[1:]
    assert (pixels >= 9).sum() > 20
    np.testing.assert_array_equal(saturated(clipped, rms, labels, n), pixels >= 9)
    # what is put in their place differs in the last digits, and other pixels may be brighter
    v, u = np.nonzero(data > 1000.0)
    clipped[v, u] += 1e-3 * np.random.default_rng(2).standard_normal(len(u)).astype("f4")
    clipped[v[::9], u[::9]] = 1500.0
    found = saturated(clipped, rms, labels, n)
    assert found[pixels >= 20].mean() > 0.9
    assert not found[pixels == 0].any()
    # half of the noise-free image is blank; the peak between four pixels makes these alike
    v, u = np.mgrid[:40, :40]
    even = 1e6 * sampled(gaussian_area(COVARIANCE) / 40.0 * np.eye(2), BETA).at(u - 19.5, v - 19.5)
    even = even.astype("f4")
    assert len(np.unique(even[19:21, 19:21])) == 1
    even[:, 24:] = np.nan
    one = np.ones(even.shape, np.int32)
    assert not saturated(even, np.ones_like(even), one, 1).any()
    assert not saturated(np.full_like(even, np.nan), np.ones_like(even), one, 1).any()


def measured(data):
    """Components of an image by the stage, and what it measures again on the same plane."""
    image = SkyImage(data, psf=PointSpread(COVARIANCE))
    rms = np.ones_like(data)
    background = Background(np.zeros_like(data), rms)
    stage = PsfCharacterization()
    with Context() as context:
        chosen = SepDetection(filter_beams=0.6, objects=True)
        detections = chosen.detect(image, background, context=context)
        detections = complete_detections(image, background, detections, context=context)
        found = stage.measure(image, background, detections, context=context)
        again = stage.measure_again(
            image, background, detections, found, plane="r", context=context
        )
    return found, again


def test_sizes_of_stars_are_those_of_the_profile_at_any_brightness():
    faint, bright = 300.0, 30000.0
    found, again = measured(field([faint, bright, bright], seed=11)[0])
    whole = found.flags == 0
    star = gaussian_area(COVARIANCE)
    area = gaussian_area(np.array([[found.sxx, found.sxy], [found.sxy, found.syy]]).T)
    flux = found.total * star
    for low, high, tolerance in ((100.0, 1000.0, 0.12), (1e4, 1e5, 0.05)):
        mine = whole & (flux > low) & (flux < high)
        assert mine.sum() > 30
        assert np.median(area[mine]) == pytest.approx(star, rel=tolerance)
    # a Gaussian of that size and peak has no more flux than there is
    assert (found.peak * area <= 1.05 * flux)[whole & (flux > 1e4)].all()
    # one star in forty is 95 percent sure to be wider by chance
    assert np.mean(found.resolved_probability[whole] > 0.99) < 0.1
    np.testing.assert_allclose(again["kron_flux"], found.extra["kron_flux"], rtol=1e-5)


def test_what_is_wider_than_a_star_is_resolved_and_keeps_its_size():
    wide = 2.25 * COVARIANCE
    data = field([30000.0], seed=12)[0]
    data[:, SIDE // 2 :] = field([30000.0], seed=13, covariance=wide)[0][:, SIDE // 2 :]
    found, _ = measured(data)
    mine = (found.x > SIDE // 2 + STEP) & (found.flags == 0)
    assert mine.sum() > 30
    assert (found.resolved_probability[mine] > 0.99).all()
    area = gaussian_area(np.array([[found.sxx, found.sxy], [found.sxy, found.syy]]).T)
    assert np.median(area[mine]) == pytest.approx(gaussian_area(wide), rel=0.1)
