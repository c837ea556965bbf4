"""Visibility area, corrections and differential source counts."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.counts import (
    VisibilityArea,
    correction_table,
    differential_counts,
    poisson_interval,
)
from cyclades.pipeline.comparison.outcome import Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable


def plane_wcs(projection="SIN", dec=0.0, step=2.0):
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.crval, wcs.wcs.crpix = [40.0, dec], [50.5, 50.5]
    wcs.wcs.cdelt, wcs.wcs.radesys = [-step / 3600, step / 3600], "ICRS"
    return wcs


def test_visibility_area_counts_the_pixels_below_each_noise():
    rms = np.full((100, 100), 1.0)
    rms[:, 50:] = 2.0
    rms[:10] = np.nan
    area = VisibilityArea.from_map(rms, plane_wcs())
    pixel = (2.0 / 3600) ** 2
    assert area.total == pytest.approx(9000 * pixel, rel=1e-6)
    np.testing.assert_allclose(
        area.within([0.5, 1.0, 1.5, 2.0]), np.array([0, 4500, 4500, 9000]) * pixel, rtol=1e-6
    )
    np.testing.assert_allclose(
        area.for_peak([5.0, 10.0], 5.0), [4500 * pixel, 9000 * pixel], rtol=1e-6
    )
    both = VisibilityArea.pooled([area, area])
    assert both.within(1.0) == pytest.approx(9000 * pixel)
    curve = area.table(4)
    np.testing.assert_allclose(curve["rms"], [1, 1, 2, 2])


def test_pixels_of_a_cylindrical_map_shrink_towards_the_pole():
    rms = np.ones((100, 100))
    wcs = plane_wcs("CAR", step=1800.0)
    wcs.wcs.crval = [40.0, 0.0]
    wcs.wcs.crpix = [50.5, -49.5]  # rows from dec 50 to 100 pixels of half a degree above it
    area = VisibilityArea.from_map(rms[:70], wcs)
    low, high = np.radians([25.0, 60.0])
    band = np.degrees(1) ** 2 * np.radians(50.0) * (np.sin(high) - np.sin(low))
    assert area.total == pytest.approx(band, rel=2e-3)


def test_large_maps_are_sampled():
    rms = np.ones((1500, 1500), np.float32)
    rms[:, 750:] = 2.0
    area = VisibilityArea.from_map(rms, plane_wcs())
    assert len(area.rms) < 1_000_001
    assert area.total == pytest.approx(1500**2 * (2 / 3600) ** 2, rel=1e-4)
    assert area.within(1.0) == pytest.approx(0.5 * area.total, rel=2e-3)


@pytest.mark.parametrize(
    ("number", "low", "high"), [(0, 0.0, 1.841), (1, 0.173, 3.300), (10, 6.891, 14.267)]
)
def test_poisson_intervals_are_those_of_gehrels(number, low, high):
    """One-sigma limits of Gehrels (1986), tables 1 and 2."""
    below, above = poisson_interval(number)
    assert below == pytest.approx(low, abs=0.002)
    assert above == pytest.approx(high, abs=0.002)


def test_counts_of_a_known_power_law_are_recovered():
    """dN/dS = k S^-2.5 is flat when Euclid-normalised, in fields of unequal noise too."""
    rng = np.random.default_rng(8)
    deep, shallow, threshold, k = 1.0, 3.0, 5.0, 20.0
    area = VisibilityArea(
        np.array([deep, shallow]), np.array([4.0, 10.0])
    )  # 4 and 6 square degrees
    steradian = 10.0 / np.degrees(1.0) ** 2
    least = 4.0
    expected = k * steradian / 1.5 * least**-1.5
    scale = 60_000 / expected
    n = rng.poisson(60_000)
    flux = least * rng.random(n) ** (-1 / 1.5)
    noise = np.where(rng.random(n) < 0.4, deep, shallow)
    seen = flux > threshold * noise
    edges = np.geomspace(5.0, 80.0, 7)
    table = differential_counts(flux[seen], flux[seen], area, edges, threshold=threshold)
    counts = np.asarray(table["counts"]) / scale
    # the mean of S^-2.5 over a bin against its value at the geometric mean
    width = edges[1:] ** -1.5 - edges[:-1] ** -1.5
    flat = k * np.asarray(table["flux"]) ** 2.5 * -width / 1.5 / np.diff(edges)
    error = 0.5 * np.asarray(table["counts_high"] - table["counts_low"]) / scale
    assert (np.abs(counts - flat) < 4 * error).all()
    assert (error / counts < 0.1).all()
    assert np.asarray(table["effective_area"])[0] < 10.0
    assert np.asarray(table["effective_area"])[-1] == pytest.approx(10.0)


def test_errors_of_counts_have_their_coverage():
    """The error of 25 sources a bin is about a fifth, and an empty bin has an upper limit."""
    area = VisibilityArea(np.array([1.0]), np.array([1.0]))
    flux = np.full(25, 12.0)
    table = differential_counts(flux, flux, area, [10, 15, 20], threshold=5.0)
    row, empty = table[0], table[1]
    assert (row["counts_high"] - row["counts"]) / row["counts"] == pytest.approx(0.24, abs=0.01)
    assert empty["counts"] == 0
    one = 17.320508**2.5 / 5.0 * np.degrees(1.0) ** 2
    assert empty["counts_high"] == pytest.approx(1.841 * one, rel=2e-3)


def outcome():
    """Eight true sources of 1 Jy, six found and two false; the truth at S/N 100."""
    n = np.arange(8)
    truth = ComparisonTable.from_columns(
        {
            "ra": 10.0 + 0.1 * n,
            "dec": np.zeros(8),
            "total_flux": np.ones(8),
            "peak_flux": np.ones(8),
            "local_rms": np.full(8, 0.01),
            "major": np.full(8, 10.0),
            "minor": np.full(8, 10.0),
            "morphology": np.full(8, "compact"),
        }
    )
    rows = truth.take(n)
    catalogue = rows.replace(ra=np.where(n < 6, rows["ra"], rows["ra"] + 0.05))
    return Outcome.of(truth, catalogue, beam=10.0)


def test_corrections_carry_the_catalogue_to_the_truth():
    table = correction_table(outcome(), [0.5, 2.0, 4.0])
    assert table["completeness"][0] == table["reliability"][0] == 0.75
    assert table["correction"][0] == pytest.approx(1.0)
    assert 0.2 < table["correction_err"][0] < 0.4
    assert np.isnan(table["correction"][1])
    area = VisibilityArea(np.array([0.01]), np.array([1.0]))
    plain = differential_counts(np.ones(8), np.ones(8), area, [0.5, 2.0], threshold=5.0)
    corrected = differential_counts(
        np.ones(8), np.ones(8), area, [0.5, 2.0], threshold=5.0, correction=table[:1]
    )
    assert corrected["counts"][0] == pytest.approx(plain["counts"][0])
    assert corrected["counts_high"][0] > plain["counts_high"][0]


def test_a_source_that_is_seen_everywhere_counts_on_all_of_the_sky():
    area = VisibilityArea.from_map(np.full((100, 100), 1e-3), plane_wcs())
    made = differential_counts([1.0, 1.0], [np.inf, np.nan], area, [0.5, 2.0], threshold=5.0)
    assert made["number"][0] == 1
    assert made["effective_area"][0] == pytest.approx(area.total)
