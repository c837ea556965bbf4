"""Judging without truth: inverted images, a deeper image, residuals."""

import numpy as np
import pytest
from skies import BEAM, correlated_noise, source_rows

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.metrics import by_bin
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.comparison.without_truth import (
    InvertedField,
    InvertedRate,
    deep_agreement,
    inverted_rate,
    residual_statistics,
    residuals_of,
)
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.rendering import render_gaussians

SHAPE = (400, 400)


def field(seed, rows=None, scale=1.0):
    """Unit noise with the beam's correlation, and sources."""
    data = scale * correlated_noise(SHAPE, np.random.default_rng(seed))
    if rows is not None:
        data = data + render_gaussians(SHAPE, rows)
    return SkyImage(data.astype(np.float32), psf=PointSpread(BEAM), name=f"field {seed}")


def route(threshold):
    return Pipeline.from_route().replace(
        detection={"name": "islands", "seed_threshold": threshold},
        characterization="moments",
    )


def test_noise_alone_is_as_often_negative_as_positive_and_as_gaussian_theory_says():
    rate = inverted_rate(route(3.7), [field(seed) for seed in range(4)], workers=1)
    assert rate.enough
    # counts of the two signs are independent Poisson draws of one mean
    assert abs(rate.positive - rate.negative) < 4 * np.sqrt(rate.positive + rate.negative)
    assert abs(rate.negative - rate.expected) < 4 * np.sqrt(rate.expected)
    assert not rate.disagrees
    low, high = rate.interval
    assert low < rate.percentage < high


def test_sources_lower_the_percentage_and_their_surroundings_are_left_out():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(20, 380, (2, 60))
    rows = source_rows(10.0, x, y)
    rows[0, :3] = 300.0, 200.0, 200.0
    images = [field(1, rows)]
    rate = inverted_rate(route(5.0), images, workers=1)
    assert rate.percentage < 10.0
    excluded = rate.fields[0].excluded
    assert excluded > np.pi * (10 * np.sqrt(20.0)) ** 2
    assert rate.fields[0].area + excluded == SHAPE[0] * SHAPE[1]
    everything = inverted_rate(route(5.0), images, workers=1, bright_snr=1e9)
    assert everything.fields[0].excluded == 0
    assert everything.positive > rate.positive


def test_negative_artefacts_are_flagged():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(20, 380, (2, 15))
    rate = inverted_rate(route(5.0), [field(2, source_rows(-12.0, x, y))], workers=1)
    assert rate.negative >= 10
    assert rate.disagrees
    assert "disagrees" in str(rate)


def test_few_negatives_ask_for_more_fields():
    rate = InvertedRate((InvertedField("a", 100, 3, 2.5, 5.0, 10_000, 0),))
    assert not rate.enough
    assert not rate.disagrees
    assert rate.percentage == 3.0
    assert "pool more fields" in str(rate)
    pooled = InvertedRate(rate.fields * 7)
    assert pooled.enough
    assert "pool more" not in str(pooled)


def test_at_least_one_image_is_needed():
    with pytest.raises(InputError, match="at least one image"):
        inverted_rate(route(5.0), [])


def test_an_image_worked_through_in_windows_is_refused():
    config = route(5.0).replace(image={"window": 200})
    with pytest.raises(InputError, match="as a whole"):
        inverted_rate(config, [field(3)], workers=1)


def catalogue(flux, rms, offset=0.0):
    n = len(flux)
    return ComparisonTable.from_columns(
        {
            "ra": 30.0 + 0.02 * np.arange(n) + offset,
            "dec": np.full(n, -20.0),
            "peak_flux": flux,
            "total_flux": flux,
            "local_rms": np.full(n, rms),
            "major": np.full(n, 5.0),
            "minor": np.full(n, 5.0),
        },
        {"name": "shallow", "beam": (5.0, 5.0)},
    )


def test_a_deep_catalogue_serves_as_truth_at_the_shallow_noise():
    flux = np.array([4.0, 6.0, 6.5, 20.0, 30.0])
    deep = catalogue(flux, 0.1)
    shallow = catalogue(flux, 1.0).take(np.array([1, 3, 4]))
    outcome = deep_agreement(shallow, deep)
    assert outcome.counted.sum() == 4
    table = by_bin(outcome, (5.0, 10.0, 50.0))
    np.testing.assert_allclose(table["completeness"], [0.5, 1.0])
    np.testing.assert_allclose(table["reliability"], [1.0, 1.0])
    noisier = deep_agreement(shallow, deep, rms=2.0)
    assert noisier.counted.sum() == 2


def test_the_noise_of_the_shallow_image_must_be_known():
    shallow = catalogue(np.array([5.0]), np.nan)
    with pytest.raises(InputError, match="rms"):
        deep_agreement(shallow, catalogue(np.array([5.0]), 0.1))


def test_residual_statistics_of_gaussian_noise_and_of_outliers():
    rng = np.random.default_rng(9)
    noise = 2.0 * rng.standard_normal(40_000)
    noise[:10] = np.nan
    stats = residual_statistics(noise, np.full(40_000, 2.0))
    assert stats.number == 39_990
    assert stats.rms == pytest.approx(1.0, abs=4 / np.sqrt(2 * 40_000))
    assert stats.mad == pytest.approx(1.0, abs=4 * 1.17 / np.sqrt(40_000))
    assert abs(stats.kurtosis) < 4 * np.sqrt(24 / 40_000)
    noise[100:140] = 40.0
    left = residual_statistics(noise, np.full(40_000, 2.0))
    assert left.kurtosis > 10
    assert left.mad == pytest.approx(stats.mad, abs=0.01)
    assert residual_statistics(np.full(3, np.nan), np.ones(3)).number == 0


def test_residuals_of_a_run_are_noise_everywhere():
    rng = np.random.default_rng(10)
    x, y = rng.uniform(20, 380, (2, 40))
    result = Pipeline.from_route().run(field(3, source_rows(30.0, x, y)), workers=1)
    stats = residuals_of(result)
    assert stats["all"].number == SHAPE[0] * SHAPE[1]
    assert stats["islands"].number + stats["elsewhere"].number == stats["all"].number
    assert stats["islands"].rms < 1.5  # sources of 30 rms, fitted away
    assert stats["elsewhere"].mad == pytest.approx(1.0, abs=0.05)
    bare = Pipeline.from_route().run(field(3), workers=1, context=None, keep=False)
    with pytest.raises(InputError, match="keep=True"):
        residuals_of(bare)
