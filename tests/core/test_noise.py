"""The noise autocorrelation, and the number of noise peaks that follows from it."""

import numpy as np
import pytest
from scipy import ndimage

from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.noise import (
    NoiseAutocorrelation,
    gaussian_autocorrelation,
    measure_autocorrelation,
    noise_autocorrelation,
)
from cyclades.stages.core.products import Background
from tests.skies import BEAM, correlated_noise, lattice, sky_image, source_rows

SHAPE = (1200, 1200)


@pytest.mark.parametrize("natural", [True, False])
def test_autocorrelation_of_known_noise(natural):
    rng = np.random.default_rng(1)
    x, y = lattice(SHAPE, 60, rng)
    image, background = sky_image(
        source_rows(rng.uniform(10, 300, x.size), x, y),
        SHAPE,
        correlated_noise(SHAPE, rng, natural=natural),
    )
    context = Context()
    noise = noise_autocorrelation(image, background, context=context)
    expected = gaussian_autocorrelation(BEAM * (1 if natural else 2), noise.reach)
    # About 30,000 independent beams: the scatter of a correlation is near 1/170.
    assert noise.origin == "measured"
    assert np.abs(noise.values - expected).max() < 0.03
    assert np.abs(noise.values - expected).mean() < 0.008
    assert context.notes["noise_autocorrelation"]["origin"] == "measured"


def test_blank_pixels_do_not_enter():
    rng = np.random.default_rng(2)
    noise = correlated_noise((600, 600), rng)
    noise[rng.random(noise.shape) < 0.3] = np.nan
    noise[:, :150] = np.nan
    products, pairs, usable = measure_autocorrelation([noise], 8)
    assert usable == np.isfinite(noise).sum()
    values = products / pairs
    expected = gaussian_autocorrelation(BEAM, 8)
    assert pairs[8, 8] == pytest.approx(np.isfinite(noise).sum(), rel=1e-4)
    assert np.abs(values / values[8, 8] - expected).max() < 0.06


def test_curvature_of_a_gaussian_is_its_precision():
    noise = NoiseAutocorrelation(gaussian_autocorrelation(BEAM, 12), "beam")
    np.testing.assert_allclose(noise.curvature, np.linalg.inv(BEAM), rtol=1e-6)


@pytest.mark.parametrize("natural", [True, False])
def test_expected_maxima_against_counted_ones(natural):
    rng = np.random.default_rng(3)
    counted, threshold, fields = 0, 3.5, 6
    for _ in range(fields):
        field = correlated_noise(SHAPE, rng, natural=natural)
        peaks = (ndimage.maximum_filter(field, 3) == field) & (field > threshold)
        counted += int(peaks.sum())
    noise = NoiseAutocorrelation(
        gaussian_autocorrelation(BEAM * (1 if natural else 2), 15), "measured"
    )
    expected = float(noise.expected_maxima(threshold, fields * field.size))
    # 4 standard errors of a Poisson count, and 5 % for peaks between pixels.
    assert abs(counted - expected) < 4 * np.sqrt(expected) + 0.05 * expected


def test_filtered_variance_against_filtered_noise():
    rng = np.random.default_rng(4)
    field = correlated_noise((1500, 1500), rng)
    kernel = np.zeros((7, 7))
    kernel[3, 3], kernel[0, :] = 1.0, -1 / 7
    noise = NoiseAutocorrelation(gaussian_autocorrelation(BEAM, 15), "measured")
    measured = ndimage.correlate(field, kernel).std()
    assert np.sqrt(noise.filtered_variance(kernel)) == pytest.approx(measured, rel=0.02)


def test_too_little_noise_falls_back_to_the_beam_and_says_so():
    rng = np.random.default_rng(5)
    image, background = sky_image(source_rows(50.0, [10.0], [10.0]), (20, 20))
    context = Context()
    noise = noise_autocorrelation(image, background, context=context)
    assert noise.origin == "beam"
    assert context.notes["noise_autocorrelation"]["origin"] == "beam"
    np.testing.assert_allclose(noise.values, gaussian_autocorrelation(BEAM, noise.reach))
    bare = SkyImage(rng.standard_normal((4, 4)).astype(np.float32))
    flat = Background(np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32))
    assert noise_autocorrelation(bare, flat, context=Context()).origin == "white"


def test_it_is_measured_once_a_run(monkeypatch):
    import cyclades.stages.core.noise as module

    image, background = sky_image(source_rows(9.0, [60.0], [60.0]), (120, 120))
    calls = []
    real = module.measure_noise
    monkeypatch.setattr(module, "measure_noise", lambda *a: calls.append(1) or real(*a))
    context = Context()
    for _ in range(3):
        noise_autocorrelation(image, background, context=context)
    assert len(calls) == 1


def test_source_mask_keeps_noise_and_masks_both_signs():
    rng = np.random.default_rng(6)
    field = correlated_noise((400, 400), rng).astype(np.float32)
    field = np.clip(field, -4, 4)
    assert not source_mask(field).any()
    image, _ = sky_image(source_rows([20.0, -20.0], [100.0, 300.0], [100.0, 300.0]), (400, 400))
    mask = source_mask(field + image.data)
    assert mask[100, 100]
    assert mask[300, 300]
    assert mask.mean() < 0.01
