"""Which rows belong together: one to one, many to one, and over any number of catalogues."""

import time

import numpy as np
import pytest
from comparison_cases import BEAM, RMS, observed, random_truth, rows

from cyclades.pipeline.comparison.match import (
    candidate_pairs,
    cross_match,
    fluxes_agree,
    match,
    match_many,
)
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.errors import InputError


def pairs(found):
    return list(zip(found.first_rows.tolist(), found.second_rows.tolist(), strict=True))


def test_the_nearest_pairs_go_first_over_all_rows():
    # b0 lies between a0 and a1 and nearer to a1: a0 must do with b1, though b0 is nearer to it
    first, second = rows([0.0, 4.0], 0.0), rows([2.5, -3.5], 0.0)
    found = match(first, second)
    assert pairs(found) == [(0, 1), (1, 0)]
    np.testing.assert_allclose(found.separation_arcsec, [3.5, 1.5], rtol=1e-4)


def test_small_errors_match_within_half_a_beam():
    first = rows([0.0, 100.0], 0.0)
    second = rows([0.49 * BEAM, 100.0 + 0.51 * BEAM], 0.0)
    assert pairs(match(first, second)) == [(0, 0)]


def test_large_errors_match_within_three_of_them():
    length = np.hypot(2.0, BEAM / 6.0)
    offsets = 3.0 * length * np.array([0.99, 1.01])
    assert offsets[0] > 0.5 * BEAM
    second = rows([offsets[0], 100.0 + offsets[1]], 0.0, ra_err=2.0, dec_err=2.0)
    assert pairs(match(rows([0.0, 100.0], 0.0), second)) == [(0, 0)]
    # an absurd error counts as half the beam only
    wild = rows(2.0 * BEAM, 0.0, ra_err=50.0, dec_err=50.0)
    assert not len(match(rows(0.0, 0.0), wild))


def test_large_sources_match_further_out():
    second = rows(8.0, 0.0)
    assert not len(match(rows(0.0, 0.0), second))
    assert len(match(rows(0.0, 0.0, major=30.0), second)) == 1


@pytest.mark.parametrize(
    ("peak", "total", "agrees"),
    [
        (1.9e-3, 9e-3, True),
        (2.1e-3, 9e-3, False),
        (0.55e-3, 9e-3, True),
        (0.45e-3, 9e-3, False),
        (9e-3, 1.2e-3, True),
        (np.nan, np.nan, True),
        (-1e-3, -1e-3, False),
    ],
)
def test_fluxes_must_agree_in_peak_or_total(peak, total, agrees):
    first = rows(0.0, 0.0, local_rms=1e-5)
    second = rows(0.0, 0.0).replace(peak_flux=[peak], total_flux=[total])
    row = np.zeros(1, np.int64)
    assert fluxes_agree(first, second, row, row)[0] == agrees
    assert len(match(first, second)) == agrees
    assert len(match(first, second, flux_check=False)) == 1


def test_faint_fluxes_agree_within_five_rms():
    first = rows(0.0, 0.0, peak=RMS)
    for factor, agrees in ((5.9, True), (6.1, False)):
        assert len(match(first, rows(0.0, 0.0, peak=factor * RMS))) == agrees


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9999, 60.0), (12.0, 89.9999)])
def test_the_sky_has_no_edges(ra, dec):
    rng = np.random.default_rng(8)
    base = rows(np.zeros(30), 0.0).replace(ra=np.full(30, ra), dec=np.full(30, dec))
    east, north = 300.0 * rng.standard_normal((2, 30)) / 3600.0
    # offsets on the sphere, from unit vectors in the tangent plane
    lon, lat = np.radians(ra), np.radians(dec)
    centre = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    e = np.array([-np.sin(lon), np.cos(lon), 0.0])
    n = np.cross(centre, e)
    turned = []
    for shift in (0.0, 1.0 / 3600.0):
        v = centre + np.radians(east + shift)[:, None] * e + np.radians(north)[:, None] * n
        v /= np.linalg.norm(v, axis=1)[:, None]
        turned.append(
            base.replace(
                ra=np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360.0,
                dec=np.degrees(np.arcsin(v[:, 2])),
            )
        )
    found = match(*turned)
    assert pairs(found) == [(k, k) for k in range(30)]
    np.testing.assert_allclose(found.separation_arcsec, 1.0, rtol=1e-3)


def test_agrees_with_brute_force():
    rng = np.random.default_rng(4)
    truth = random_truth(150, rng, side=400.0)
    found = observed(truth, rng, false=60, side=400.0)
    all_pairs = candidate_pairs(truth, found)
    used_i, used_j, expected = set(), set(), set()
    for u, i, j in sorted(
        zip(all_pairs.normalised, all_pairs.first_rows, all_pairs.second_rows, strict=True)
    ):
        assert u <= 3.0
        if i not in used_i and j not in used_j:
            used_i.add(i)
            used_j.add(j)
            expected.add((int(i), int(j)))
    assert set(pairs(match(truth, found))) == expected
    # and the candidates are all that a double loop finds
    dx = (truth["ra"][:, None] - found["ra"]) * np.cos(np.radians(-30.0)) * 3600.0
    dy = (truth["dec"][:, None] - found["dec"]) * 3600.0
    error = np.nan_to_num(found["ra_err"])
    u = np.hypot(dx, dy) / np.sqrt(np.minimum(error**2, 25.0) + (BEAM / 6.0) ** 2)
    # cos(dec) varies by 0.1 % over the field: leave out pairs within that of the limit
    clear = np.abs(u - 3.0) > 0.01
    flux = found["peak_flux"] / truth["peak_flux"][:, None]
    difference = np.abs(found["peak_flux"] - truth["peak_flux"][:, None])
    wanted = (u < 3.0) & ((difference < 5 * RMS) | ((flux > 0.5) & (flux < 2.0)))
    held = np.zeros_like(wanted)
    held[all_pairs.first_rows, all_pairs.second_rows] = True
    assert np.array_equal(held & clear, wanted & clear)


def test_rows_without_positions_match_nothing():
    first = rows([0.0, 50.0], 0.0)
    second = first.replace(ra=np.array([np.nan, first["ra"][1]]))
    assert pairs(match(first, second)) == [(1, 1)]
    assert not len(match(first.take(np.zeros(2, bool)), second))
    assert not len(match(first, second.take(np.zeros(2, bool))))


def test_without_a_beam_it_says_what_to_give():
    bare = ComparisonTable.from_columns({"ra": [1.0], "dec": [2.0]}, {"name": "x"})
    with pytest.raises(InputError, match="Nothing tells the beam of x, x"):
        match(bare, bare)
    assert len(match(bare, bare, beam=5.0)) == 1


def test_several_rows_may_lie_on_one():
    # 60 by 20 arcsec, at 45 degrees: north-east is inside, north-west is not
    large = rows(0.0, 0.0, major=60.0, minor=20.0, position_angle=45.0)
    pieces = rows([30.0, -30.0, -30.0, 200.0], [30.0, -30.0, 30.0, 0.0])
    found = match_many(large, pieces)
    assert pairs(found) == [(0, 0), (0, 1)]
    np.testing.assert_allclose(found.normalised, np.hypot(30, 30) / 60.0, rtol=1e-3)
    # of two rows the one that is nearer in its own FWHM
    two = ComparisonTable.concatenate([large, rows(29.0, 29.0)])
    assert pairs(match_many(two, pieces.take(np.array([0])))) == [(1, 0)]


def test_sources_are_followed_through_catalogues():
    rng = np.random.default_rng(6)
    truth = random_truth(60, rng, side=3000.0)
    a = observed(truth, rng, name="a")
    b = observed(truth, rng, name="b", keep=np.arange(60) % 3 > 0)
    c = observed(truth, rng, name="c", false=5)
    table = cross_match([a, b, c])
    assert len(table) == len(a) + len(b) + len(c)
    for group in table.group_by("match_id").groups:
        # a match has at most one row of each catalogue, and lies in one clump
        assert len(set(group["catalogue"])) == len(group)
        assert len(set(group["clump_id"])) == 1
    # rows of a and c stand for the same source where their match is the same
    match_of = {(row["catalogue"], int(row["row"])): row["match_id"] for row in table}
    together = [match_of["a", k] == match_of["c", k] for k in range(60)]
    assert np.mean(together) > 0.95
    assert min(table["match_id"]) == 1
    assert len(set(table["match_id"])) == max(table["match_id"])


def test_touching_sources_share_a_clump_but_no_match():
    a = rows([0.0, 8.0, 100.0], 0.0, name="a")
    b = rows([0.5, 100.2], 0.0, name="b")
    table = cross_match([a, b])
    key = {(row["catalogue"], int(row["row"])): row for row in table}
    assert key["a", 0]["clump_id"] == key["a", 1]["clump_id"] == key["b", 0]["clump_id"]
    assert key["a", 0]["match_id"] == key["b", 0]["match_id"] != key["a", 1]["match_id"]
    assert key["a", 2]["match_id"] == key["b", 1]["match_id"]
    assert key["a", 2]["clump_id"] != key["a", 0]["clump_id"]


def test_a_hundred_thousand_sources_in_five_seconds():
    rng = np.random.default_rng(1)
    truth = random_truth(100_000, rng, side=30 * 3600.0)
    order = rng.permutation(len(truth))
    found = observed(truth, rng, keep=order >= 0).take(order)
    start = time.perf_counter()
    matches = match(truth, found)
    assert time.perf_counter() - start < 5.0
    assert np.mean(order[matches.second_rows] == matches.first_rows) > 0.999
    assert len(matches) > 99_000
