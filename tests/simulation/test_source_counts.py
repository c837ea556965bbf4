"""Fluxes follow the source counts that were asked for."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from cyclades.pipeline.simulation.counts import (
    STERADIAN,
    HopkinsCounts,
    PowerLawCounts,
    draw_fluxes,
)

AREA = 30.0


def expected_number(counts, low, high):
    """Objects a square degree, by adaptive quadrature."""
    value, _ = quad(
        lambda t: np.exp(t) * float(counts.differential(np.exp(t))), np.log(low), np.log(high)
    )
    return value / STERADIAN


def chi_squared(counts, flux, edges):
    """Of the numbers in bins, and the number of bins."""
    expected = AREA * np.array([expected_number(counts, a, b) for a, b in pairwise(edges)])
    observed = np.histogram(flux, edges)[0]
    assert expected.min() > 10
    return np.sum((observed - expected) ** 2 / expected), len(expected)


@pytest.mark.parametrize(
    ("milli_jansky", "euclidean"), [(1.0, 7.228), (10.0, 41.88), (100.0, 230.7)]
)
def test_hopkins_counts_are_the_published_ones(milli_jansky, euclidean):
    # log10 of the counts is the sum of the coefficients times powers of 0, 1, 2
    s = 1e-3 * milli_jansky
    assert HopkinsCounts().differential(s) * s**2.5 == pytest.approx(euclidean, rel=1e-3)


def test_hopkins_counts_are_continued_as_a_power_law():
    counts = HopkinsCounts(faint_slope=1.6)
    at, just_below, below = counts.differential([5.001e-5, 4.999e-5, 5e-6])
    assert just_below == pytest.approx(at, rel=2e-3)
    assert below / counts.differential(5e-5) == pytest.approx(10**1.6, rel=1e-9)


@pytest.mark.parametrize(
    "counts", [HopkinsCounts(), PowerLawCounts(slope=1.6), PowerLawCounts(slope=2.5)]
)
def test_numbers_are_integrals(counts):
    assert counts.number(2e-5, 0.5) == pytest.approx(expected_number(counts, 2e-5, 0.5), rel=1e-4)


def test_power_law_density():
    assert PowerLawCounts(density=100.0).number(1e-3, 1.0) == pytest.approx(100.0, rel=1e-4)


@pytest.mark.parametrize("counts", [HopkinsCounts(), PowerLawCounts(slope=1.8)])
def test_draws_follow_the_counts(counts):
    generator = np.random.default_rng(8)
    flux = draw_fluxes(counts, AREA, 2e-5, generator)
    edges = np.geomspace(2e-5, 0.1, 25)
    chi2, bins = chi_squared(counts, flux, edges)
    assert abs(chi2 - bins) < 4 * np.sqrt(2 * bins)
    # the same test sees a slope that is wrong by 0.05
    wrong = PowerLawCounts(slope=1.85) if isinstance(counts, PowerLawCounts) else None
    if wrong is not None:
        assert chi_squared(wrong, flux, edges)[0] > bins + 10 * np.sqrt(2 * bins)


def test_no_fluxes_where_there_are_none():
    assert len(draw_fluxes(HopkinsCounts(), 1.0, 2.0, np.random.default_rng(1))) == 0
