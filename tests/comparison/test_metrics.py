"""Completeness, reliability, pulls: against numbers worked out by hand or by other code."""

import numpy as np
import pytest
from comparison_cases import BEAM, RMS, observed, random_truth, rows
from skies import BEAM as PIXEL_BEAM
from skies import correlated_noise, lattice, sky_image, source_rows

from cyclades.pipeline.comparison.accuracy import (
    Pairs,
    accuracy_table,
    pull,
    pull_table,
    truth_detections,
    truth_started_pairs,
)
from cyclades.pipeline.comparison.intervals import (
    bootstrap,
    count_bootstrap,
    median,
    robust_sigma,
    wilson,
)
from cyclades.pipeline.comparison.metrics import (
    SNR_BINS,
    area_under_curve,
    by_bin,
    by_class,
    completeness_at,
    f1_score,
    flux_edges,
    peers_score,
    summary,
    threshold_curve,
)
from cyclades.pipeline.comparison.outcome import STATUS, Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.characterization.gaussian import GaussianCharacterization
from cyclades.stages.core.errors import InputError

JOIN = ComparisonTable.concatenate


def status(outcome):
    return [STATUS[k] for k in outcome.status]


def test_wilson_intervals():
    # Brown, Cai & DasGupta 2001 and every textbook: 8 of 10 at 95 % gives 0.490 to 0.943
    low, high = wilson(8, 10, 0.95)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = wilson([0, 10], [10, 10])
    assert low[0] == 0.0
    assert high[1] == 1.0
    assert high[0] == pytest.approx(1 - low[1])
    assert np.isnan(wilson(0, 0)).all()


def test_wilson_intervals_cover():
    rng = np.random.default_rng(0)
    hits = rng.binomial(60, 0.93, 4000)
    low, high = wilson(hits, 60)
    covered = np.mean((low <= 0.93) & (high >= 0.93))
    assert 0.6 < covered < 0.8


def test_bootstrap_of_a_median_and_of_fields():
    rng = np.random.default_rng(2)
    low, high = bootstrap(rng.standard_normal(2500), median, resamples=1000)
    # the standard error of a median is 1.2533 sigma / sqrt(n)
    assert high - low == pytest.approx(2 * 1.2533 / 50, rel=0.25)
    fields = rng.poisson(20, (300, 2))
    low, high = bootstrap(fields, lambda v: v[..., 0].sum(1) / v.sum(axis=(1, 2)))
    assert high - low == pytest.approx(2 * 0.5 / np.sqrt(fields.sum()), rel=0.25)
    assert np.isnan(bootstrap(np.ones(1), median)).all()


def test_count_bootstrap_is_the_binomial_error():
    low, high = count_bootstrap([900, 100], lambda c: c[:, 0] / c.sum(axis=1))
    assert low < 0.9 < high
    assert high - low == pytest.approx(2 * np.sqrt(0.09 / 1000), rel=0.1)
    assert np.isnan(count_bootstrap([0, 0], lambda c: c[:, 0])).all()


def test_robust_sigma():
    v = np.random.default_rng(1).normal(3.0, 2.0, 40_000)
    v[:400] = 1e6
    # the standard error of 1.4826 MAD is 1.17 sigma / sqrt(n)
    assert robust_sigma(v) == pytest.approx(2.0, abs=0.03 + 4 * 1.17 * 2 / 200)
    assert np.isnan(robust_sigma([]))
    assert np.isnan(median([]))


def test_truth_below_the_floor_is_neither_hit_nor_false():
    truth = rows([0.0, 50.0, 100.0, 150.0], 0.0, peak=RMS * np.array([4.9, 5.1, 20.0, 4.0]))
    found = rows([0.0, 50.0, 200.0], 0.0, peak=RMS * np.array([4.9, 5.1, 6.0]))
    outcome = Outcome.of(truth, found)
    assert status(outcome) == ["ignored", "true", "false"]
    made = summary(outcome)
    assert (made["truth"], made["truth_ignored"], made["rows_ignored"]) == (2, 2, 1)
    assert made["completeness"] == made["reliability"] == made["f1"] == 0.5
    # with no floor all four count
    made = summary(Outcome.of(truth, found, floor=0.0))
    assert made["completeness"] == 0.5
    assert made["reliability"] == pytest.approx(2 / 3)


def test_extended_truth_counts_by_its_integrated_snr():
    # peak S/N 4 over an area of four beams: integrated S/N of 8
    wide = rows([0.0, 100.0], 0.0, peak=4 * RMS, total_flux=16 * RMS, major=20.0, minor=20.0,
                morphology=["extended", "point"])  # fmt: skip
    outcome = Outcome.of(wide, rows(500.0, 0.0))
    np.testing.assert_allclose(outcome.row_snr, [8.0, 4.0])
    assert outcome.counted.tolist() == [True, False]


def test_false_rows_on_extended_sources_and_artefacts_are_told_apart():
    truth = JOIN(
        [
            rows(0.0, 0.0, peak=1e-2, total_flux=0.09, major=30.0, minor=30.0,
                 morphology="extended"),
            rows(300.0, 0.0, peak=1e-2, morphology="compact"),
            rows(600.0, 0.0, peak=1e-2, morphology="spurious"),
            rows(900.0, 0.0, peak=1e-2, morphology="spurious"),
        ]
    )  # fmt: skip
    found = rows([1.0, 20.0, 300.0, 304.0, 600.0, 900.0, 1200.0], 0.0,
                 peak=[1e-2, 1e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2],
                 morphology=["", "", "", "", "", "spurious", ""])  # fmt: skip
    outcome = Outcome.of(truth, found)
    assert status(outcome) == [
        "true", "fragment", "true", "false", "artefact", "labelled spurious", "false",
    ]  # fmt: skip
    made = summary(outcome)
    assert made["reliability"] == pytest.approx(2 / 6)
    assert (made["false_on_extended"], made["false_on_artefacts"], made["false_elsewhere"]) == (
        1, 1, 2,
    )  # fmt: skip
    classes = {row["class"]: (row["truth"], row["found"]) for row in by_class(outcome)}
    assert classes == {"compact": (1, 1), "extended": (1, 1), "spurious": (2, 1), "total": (2, 2)}


def test_an_object_of_several_rows_is_found_once_and_may_have_several_rows():
    truth = rows([0.0, 30.0, 60.0, 500.0], 0.0, peak=1e-3 * np.array([1, 5, 1, 1]),
                 morphology=["multi-component"] * 4, source=[1, 1, 1, 2])  # fmt: skip
    # the second row fails the flux check with every element, but lies on one
    found = rows([30.0, 60.0, 300.0], 0.0, peak=[5e-3, 1e-2, 1e-3])
    outcome = Outcome.of(truth, found)
    assert status(outcome) == ["true", "true", "false"]
    np.testing.assert_allclose(outcome.total_flux, [7e-3, 1e-3])
    np.testing.assert_allclose(outcome.snr, [50.0, 10.0])
    assert outcome.found.tolist() == [True, False]
    assert outcome.found_by.tolist() == [0, -1]
    made = summary(outcome)
    assert made["completeness"] == 0.5
    assert made["reliability"] == pytest.approx(2 / 3)


def test_bins_count_truth_by_its_value_and_rows_by_theirs():
    rng = np.random.default_rng(5)
    truth = random_truth(3000, rng, side=20_000.0)
    keep = rng.random(3000) < np.where(truth["snr"] < 10, 0.5, 0.9)
    found = observed(truth, rng, errors=0.01, keep=keep, false=300, side=20_000.0)
    outcome = Outcome.of(truth, found)
    table = by_bin(outcome, SNR_BINS)
    snr = truth["snr"]
    for row in table:
        inside = (snr >= row["snr_low"]) & (snr < row["snr_high"]) & (snr >= 5)
        assert row["truth"] == inside.sum()
        # stray rows hit by chance only
        assert row["found"] == pytest.approx((inside & keep).sum(), abs=8)
    assert table["rows"].sum() == outcome.judged.sum()
    strong = table[table["snr_low"] >= 10]
    assert (strong["reliability"] == 1).all()
    np.testing.assert_allclose(table["f1"], f1_score(table["completeness"], table["reliability"]))
    edges = flux_edges(truth)
    fluxes = by_bin(outcome, edges.tolist(), "total_flux")
    assert fluxes["truth"].sum() == (snr >= 5).sum()


def test_the_curve_agrees_with_cutting_the_catalogue():
    rng = np.random.default_rng(7)
    truth = random_truth(400, rng)
    found = observed(truth, rng, keep=rng.random(400) < 0.8, false=100)
    found = found.replace(score=rng.random(len(found)).round(2))
    outcome = Outcome.of(truth, found)
    assert outcome.scored
    curve = threshold_curve(outcome)
    matched = dict(zip(outcome.matches.second_rows, outcome.matches.first_rows, strict=True))
    area = last = 0.0
    for row in curve:
        kept = np.flatnonzero(found["score"] >= row["threshold"]).tolist()
        hits = sum(k in matched and truth["snr"][matched[k]] >= 5 for k in kept)
        ignored = sum(k in matched and truth["snr"][matched[k]] < 5 for k in kept)
        c, r = hits / (truth["snr"] >= 5).sum(), hits / (len(kept) - ignored)
        assert row["completeness"] == pytest.approx(c)
        assert row["reliability"] == pytest.approx(r)
        area += (c - last) * r
        last = c
    assert area_under_curve(curve) == pytest.approx(area)
    good = curve["reliability"] >= 0.8
    assert completeness_at(curve, 0.8) == (curve["completeness"][good].max() if good.any() else 0)
    made = summary(outcome)
    assert made["threshold_on"] == "score"
    assert made["completeness"] == pytest.approx(curve["completeness"][-1])
    assert made["reliability"] == pytest.approx(curve["reliability"][-1])


def test_an_empty_catalogue_and_an_empty_truth():
    truth = rows([0.0, 50.0], 0.0)
    none = truth.take(np.zeros(2, bool))
    made = summary(Outcome.of(truth, none))
    assert made["completeness"] == made["f1"] == 0.0
    assert np.isnan(made["reliability"])
    assert made["area_under_curve"] == 0.0
    made = summary(Outcome.of(none, truth))
    assert np.isnan(made["completeness"])
    assert made["reliability"] == 0.0


def test_pooling_fields_adds_their_counts():
    rng = np.random.default_rng(9)
    parts = []
    for _ in range(3):
        truth = random_truth(200, rng)
        parts.append(Outcome.of(truth, observed(truth, rng, false=20)))
    pooled = Outcome.concatenate(parts)
    for name in ("truth", "rows", "false_rows", "truth_ignored"):
        assert summary(pooled)[name] == sum(summary(part)[name] for part in parts)
    assert pooled.truth_kind.tolist() == [k for part in parts for k in part.truth_kind]


def by_the_peers_rules(truth, found):
    """Completeness and reliability by plain loops, with every distance on a flat sky."""
    x, y, u, v = (
        3600.0 * values
        for values in (
            (truth["ra"] - 180.0) * np.cos(np.radians(-30.0)),
            truth["dec"] + 30.0,
            (found["ra"] - 180.0) * np.cos(np.radians(-30.0)),
            found["dec"] + 30.0,
        )
    )
    candidates = []
    for i in range(len(x)):
        for j in range(len(u)):
            distance = np.hypot(x[i] - u[j], y[i] - v[j])
            if distance > 0.5 * max(BEAM, 0.6 * truth["major"][i]):
                continue
            for name in ("peak_flux", "total_flux"):
                f, g = truth[name][i], found[name][j]
                if abs(g - f) < 5 * truth["local_rms"][i] or (g > 0 and 0.5 < g / f < 2.0):
                    candidates.append((distance, i, j))
                    break
    taken_i, taken_j = set(), set()
    for _, i, j in sorted(candidates):
        if i not in taken_i and j not in taken_j:
            taken_i.add(i)
            taken_j.add(j)
    hit = np.isin(np.arange(len(x)), list(taken_i))
    return hit[truth["snr"] >= 5].mean(), len(taken_j) / len(u)


def test_the_peers_mode_follows_the_peers_rules():
    rng = np.random.default_rng(12)
    truth = random_truth(500, rng, side=2500.0)
    wide = rng.random(500) < 0.2
    truth = truth.replace(
        major=np.where(wide, 30.0, BEAM),
        total_flux=np.where(wide, 3.0, 1.0) * truth["peak_flux"],
        morphology=np.where(wide, "extended", "point"),
    )
    found = observed(truth, rng, errors=2.0, keep=rng.random(500) < 0.85, false=80, side=2500.0)
    made = peers_score(truth, found, BEAM)
    c, r = by_the_peers_rules(truth, found)
    assert made["C"] == pytest.approx(c, abs=0.005)
    assert made["R"] == pytest.approx(r, abs=0.005)
    assert 0.5 < c < 0.95
    assert made["F1"] == pytest.approx(2 * made["C"] * made["R"] / (made["C"] + made["R"]))
    assert set(made) >= {"C5", "C7", "C10", "C20", "C_point", "C_extended"}


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_pulls_show_how_wrong_the_errors_are(scale):
    rng = np.random.default_rng(14)
    n = 3000
    truth = rows(*(30_000 * rng.random((2, n))), peak=RMS * rng.uniform(20, 49, n))
    pairs = Pairs.of_outcome(Outcome.of(truth, observed(truth, rng, errors=scale)))
    table = pull_table(pairs)
    overall = table[(table["snr_low"] == 20) & (table["kind"] == "point")]
    assert set(overall["quantity"]) == {"ra", "dec", "peak_flux", "total_flux"}
    for row in overall:
        assert row["number"] > 0.9 * n
        error = scale / np.sqrt(row["number"])
        assert row["sigma"] == pytest.approx(scale, abs=4 * 1.17 * error)
        assert abs(row["median"]) < 4 * 1.2533 * error
        assert row["sigma_low"] < row["sigma"] < row["sigma_high"]
    if scale == 1.0:
        assert max(overall["beyond_3"]) < 0.0027 + 4 * np.sqrt(0.0027 / 2700)
    else:
        # the share of a Gaussian beyond 2 sigma
        assert min(overall["beyond_3"]) > 0.0455 - 4 * np.sqrt(0.0455 / 2700)


def test_pulls_of_angles_and_longitudes_wrap():
    truth = rows([0.0, 0.0], [0.0, 80.0], major=30.0, minor=[10.0, 29.0], position_angle=179.0)
    truth = truth.replace(ra=np.array([359.9999, 10.0]))
    found = truth.replace(
        ra=np.array([0.0001, 10.0]),
        ra_err=np.full(2, 0.36),
        position_angle=np.full(2, 2.0),
        position_angle_err=np.array([1.5, 1.5]),
        major_err=np.array([0.0, 1.0]),
    )
    pairs = Pairs("x", truth, found, truth["snr"], np.full(2, "point"))
    assert pull(pairs, "ra")[0] == pytest.approx(2 * np.cos(np.radians(30.0)), rel=1e-6)
    # a nearly round shape has no angle; an error of zero is none
    np.testing.assert_allclose(pull(pairs, "position_angle"), [2.0, np.nan])
    np.testing.assert_allclose(pull(pairs, "major"), [np.nan, 0.0])


def test_ratios_and_offsets():
    rng = np.random.default_rng(3)
    truth = random_truth(400, rng, side=20_000.0)
    found = observed(truth, rng, errors=0.0)
    found = found.replace(
        peak_flux=1.05 * found["peak_flux"],
        dec=found["dec"] + 0.5 / 3600,
        ra=found["ra"] - 0.25 / 3600 / np.cos(np.radians(found["dec"])),
    )
    table = accuracy_table(Pairs.of_outcome(Outcome.of(truth, found)))
    total = table[
        (table["snr_low"] == 5) & np.isinf(table["snr_high"]) & (table["kind"] == "point")
    ]
    made = {row["quantity"]: row["median"] for row in total}
    assert made["peak_flux"] == pytest.approx(1.05)
    assert made["major"] == 1.0
    assert made["dec"] == pytest.approx(0.5, abs=1e-6)
    assert made["ra"] == pytest.approx(-0.25, abs=1e-4)
    assert made["separation"] == pytest.approx(np.hypot(0.5, 0.25), abs=1e-4)


def test_truth_detections_share_pixels_and_skip_blanks():
    x, y = np.array([30.0, 33.0, 60.0, 80.0, np.nan]), np.array([30.0, 30.0, 60.0, 20.0, 5.0])
    image, background = sky_image(source_rows(1.0, x[:4], y[:4]), (100, 100))
    data = image.data.copy()
    data[10:30, 70:90] = np.nan
    image = image.replace(data=data)
    shapes = np.tile(PIXEL_BEAM, (5, 1, 1))
    detections, row_of = truth_detections(image, background, x, y, shapes)
    leaves = detections.leaves
    assert row_of[leaves].tolist() == [0, 1, 2]
    assert detections.parent[leaves].tolist() == [0, 0, -1]
    assert detections.parent[0] == -1
    assert row_of[0] == -1
    held = [set(detections.segments[k].tolist()) for k in leaves]
    assert not held[0] & held[1]
    assert held[0] | held[1] == set(detections.segments[0].tolist())
    np.testing.assert_allclose(detections.summit[leaves], np.column_stack([x[:3], y[:3]]))
    # a lone source has the pixels inside its half-peak ellipse: a quarter of pi times the axes
    assert len(held[2]) == pytest.approx(np.pi / 4 * 5.0 * 4.0, rel=0.15)


def sky_wcs(shape):
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval, wcs.wcs.crpix = [180.0, -30.0], [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-2 / 3600, 2 / 3600]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def test_fits_from_the_truth_have_no_cut():
    from cyclades.stages.core.geometry import (
        shape_from_covariance,
        sky_jacobian,
        transform_covariance,
    )

    rng, shape = np.random.default_rng(21), (900, 900)
    x, y = lattice(shape, 22, rng)
    snr = rng.uniform(5.0, 7.0, x.size)
    image, background = sky_image(
        source_rows(snr, x, y), shape, correlated_noise(shape, rng), wcs=sky_wcs(shape)
    )
    ra, dec = image.wcs.all_pix2world(x, y, 0)
    jacobian = 3600.0 * sky_jacobian(image.wcs, x, y)
    major, minor, angle = shape_from_covariance(transform_covariance(PIXEL_BEAM, jacobian))
    truth = ComparisonTable.from_columns(
        {"ra": ra, "dec": dec, "peak_flux": snr, "total_flux": snr, "major": major,
         "minor": minor, "position_angle": angle, "local_rms": np.ones(x.size)}
    )  # fmt: skip
    pairs = truth_started_pairs(image, background, truth, GaussianCharacterization())
    n = len(pairs.truth)
    assert n > 0.98 * x.size
    # rows belong together: none is further than its error allows
    assert np.nanmax(np.abs(pull(pairs, "ra"))) < 8.0
    bound = 4 * 1.17 / np.sqrt(n)
    for name in ("ra", "dec", "peak_flux", "total_flux"):
        assert robust_sigma(pull(pairs, name)) == pytest.approx(1.0, abs=0.06 + bound), name
    # with a cut at 5 rms the same pulls are too narrow: the cut is what the test is about
    cut = pairs.measured["peak_flux"] > 5.6
    assert robust_sigma(pull(pairs, "peak_flux")[cut]) < 0.93
    table = pull_table(pairs)
    assert set(table["kind"]) == {"point"}
    with pytest.raises(InputError, match="lacks a beam"):
        truth_started_pairs(image.replace(wcs=None), background, truth, GaussianCharacterization())


def test_parts_of_a_source_are_neither_hits_nor_false():
    truth = rows([0.0, 60.0], 0.0)
    catalogue = rows([0.0, 9.0, 60.0], 0.0)
    whole = Outcome.of(truth, catalogue)
    assert summary(whole)["false_rows"] == 1
    parts = catalogue.replace(source=np.array([1, 1, 2]), part=np.array([False, True, False]))
    judged = summary(Outcome.of(truth, parts))
    assert judged["rows"] == 2
    assert judged["false_rows"] == 0
    assert judged["completeness"] == judged["reliability"] == 1.0
