"""The SKA Data Challenge 1 score against figures of its public package, and its rules by hand."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.challenge import (
    ATTRIBUTES,
    challenge_columns,
    challenge_score,
    constant_class_baseline,
)
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.errors import InputError

FOUND, FALSE, TWICE = 300, 40, 15
REFERENCE = {
    (1400, 7, False): (
        157.26134011472487,
        10,
        288,
        {
            "position": 0.9987438919307083,
            "flux": 0.575182050479969,
            "b_maj": 0.7584399952914573,
            "b_min": 0.8623040055520472,
            "pa": 0.8172246177866749,
            "core_frac": 0.6889019000809304,
            "class": 0.75,
        },
    ),
    (560, 8, False): (
        163.55578189702436,
        10,
        290,
        {
            "position": 1.0,
            "flux": 0.5824879592258283,
            "b_maj": 0.7822656280926144,
            "b_min": 0.8703718821474201,
            "pa": 0.8345298291756403,
            "core_frac": 0.7127256437004649,
            "class": 0.7344827586206897,
        },
    ),
    (9200, 9, True): (
        153.69264488831942,
        11,
        287,
        {
            "position": 0.9939101040836853,
            "flux": 0.5662499093837757,
            "b_maj": 0.7545573667763489,
            "b_min": 0.8724054066687846,
            "pa": 0.8046845349994397,
            "core_frac": 0.6731700795452351,
            "class": 0.7421602787456446,
        },
    ),
}
"""(frequency, seed, centroid): score, rejected, matches, mean attribute scores; made by ska-sdc
2.0.0 with pandas 2.3.3 from `catalogues(seed)`."""


def catalogues(seed, n=400):
    """Truth and a submission with errors, wrong classes, false detections and duplicates."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0.1, 1.4, n), rng.uniform(-30.6, -29.4, n)
    size = rng.integers(1, 4, n)
    truth = {
        "id": np.arange(n),
        "ra_core": ra,
        "dec_core": dec,
        "ra_cent": ra + rng.normal(0, 2e-5, n),
        "dec_cent": dec + rng.normal(0, 2e-5, n),
        "flux": 10 ** rng.uniform(-6, -3, n),
        "core_frac": rng.choice([0.0, 0.75, 0.9], n),
        "b_maj": rng.uniform(0.3, 3, n),
        "b_min": rng.uniform(0.2, 1, n),
        "pa": rng.uniform(0, 360, n),
        "size": size,
        "class": rng.integers(1, 4, n),
    }
    keep = rng.permutation(n)[:FOUND]
    found = {name: values[keep].copy() for name, values in truth.items()}
    for name in ("ra_core", "dec_core", "ra_cent", "dec_cent"):
        found[name] = found[name] + rng.normal(0, 4e-5, FOUND)
    found["flux"] = found["flux"] * np.exp(rng.normal(0, 0.3, FOUND))
    found["flux"][:10] *= 12.0
    found["b_maj"] = found["b_maj"] * np.exp(rng.normal(0, 0.4, FOUND))
    found["b_min"] = found["b_min"] * np.exp(rng.normal(0, 0.4, FOUND))
    found["pa"] = found["pa"] + rng.normal(0, 20, FOUND)
    found["core_frac"] = np.clip(found["core_frac"] + rng.normal(0, 0.1, FOUND), 0, 1)
    wrong = rng.random(FOUND) < 0.3
    found["size"] = np.where(wrong, rng.integers(1, 4, FOUND), found["size"])
    wrong = rng.random(FOUND) < 0.4
    found["class"] = np.where(wrong, rng.integers(1, 4, FOUND), found["class"])
    false = {name: values[rng.integers(0, n, FALSE)].copy() for name, values in truth.items()}
    false["ra_core"], false["dec_core"] = (
        rng.uniform(0.1, 1.4, FALSE),
        rng.uniform(-30.6, -29.4, FALSE),
    )
    false["ra_cent"], false["dec_cent"] = false["ra_core"].copy(), false["dec_core"].copy()
    twice = {name: values[:TWICE].copy() for name, values in found.items()}
    twice["ra_core"] = twice["ra_core"] + rng.normal(0, 4e-5, TWICE)
    twice["flux"] = twice["flux"] * 1.2
    return truth, {name: np.concatenate([found[name], false[name], twice[name]]) for name in truth}


@pytest.mark.parametrize("case", list(REFERENCE), ids=str)
def test_the_score_is_that_of_the_public_package(case):
    frequency, seed, centroid = case
    truth, submitted = catalogues(seed)
    value, rejected, matches, attributes = REFERENCE[case]
    score = challenge_score(submitted, truth, frequency, centroid=centroid)
    assert score.value == pytest.approx(value, rel=1e-9)
    assert (score.detections, score.rejected, score.matches) == (355, rejected, matches)
    assert score.false == 355 - matches
    for name in ATTRIBUTES:
        assert score.attributes[name] == pytest.approx(attributes[name], rel=1e-9)


def row(**changes):
    values = {
        "ra_core": 1.0,
        "dec_core": -30.0,
        "ra_cent": 1.0,
        "dec_cent": -30.0,
        "flux": 1e-3,
        "core_frac": 0.5,
        "b_maj": 2.0,
        "b_min": 1.0,
        "pa": 20.0,
        "size": 2,
        "class": 1,
    } | changes
    return {name: np.array([value]) for name, value in values.items()}


def test_a_perfect_catalogue_scores_one_a_source():
    score = challenge_score(row(), row(), 1400)
    assert score.value == pytest.approx(1.0)
    assert score.attributes == dict.fromkeys(ATTRIBUTES, 1.0)


@pytest.mark.parametrize(
    ("column", "value", "attribute", "expected"),
    [
        ("flux", 1.2e-3, "flux", 0.5),
        ("b_maj", 3.2, "b_maj", 0.5),
        ("b_min", 1.6, "b_min", 0.5),
        ("pa", 40.0, "pa", 0.5),
        ("core_frac", 0.575, "core_frac", 0.5),
        ("class", 2, "class", 0.0),
        # the trap of the folded angle: 45 degrees off costs nothing
        ("pa", 65.0, "pa", 1.0),
    ],
)
def test_each_attribute_falls_as_the_inverse_of_its_error(column, value, attribute, expected):
    score = challenge_score(row(**{column: value}), row(), 1400)
    assert score.attributes[attribute] == pytest.approx(expected)
    others = [v for name, v in score.attributes.items() if name != attribute]
    assert others == pytest.approx([1.0] * 6)


def test_sizes_of_another_class_are_converted():
    largest = row(size=1, b_maj=2.0 * 5 / 2.355, b_min=1.0 * 5 / 2.355)
    score = challenge_score(largest, row(), 1400)
    assert score.attributes["b_maj"] == score.attributes["b_min"] == 1.0
    exponential = row(size=3, b_maj=2.0 / np.sqrt(2), b_min=1.0 / np.sqrt(2))
    assert challenge_score(exponential, row(), 1400).attributes["b_maj"] == 1.0


def test_steep_spectrum_sources_have_no_minor_axis_to_miss():
    truth = row(size=1)
    score = challenge_score(row(size=1, b_min=9.0, pa=60.0), truth, 1400)
    assert score.attributes["b_min"] == score.attributes["pa"] == 1.0


def test_a_false_detection_costs_one():
    two = {name: np.repeat(values, 2) for name, values in row().items()}
    two["ra_core"][1] += 0.1
    score = challenge_score(two, row(), 1400)
    assert score.value == pytest.approx(0.0)
    assert score.matched_score == pytest.approx(1.0)


def test_unusable_rows_do_not_count():
    two = {name: np.repeat(values, 2).astype(float) for name, values in row().items()}
    two["flux"][1] = np.nan
    score = challenge_score(two, row(), 1400)
    assert score.detections == 1
    assert score.submitted_rows.tolist() == [0]


def test_nothing_matched_scores_zero_as_in_the_package():
    score = challenge_score(row(dec_core=-31.0), row(), 1400)
    assert (score.value, score.matches, score.false) == (0.0, 0, 1)


def test_the_constant_class_baseline_earns_the_commonest_class():
    truth, submitted = catalogues(7)
    best, (baseline,) = constant_class_baseline([(submitted, truth)], 1400)
    real = challenge_score(submitted, truth, 1400)
    share = np.mean(truth["class"][baseline.truth_rows] == best)
    assert baseline.attributes["class"] == pytest.approx(share)
    assert real.value - baseline.value == pytest.approx(
        real.matches * (real.attributes["class"] - share) / 7
    )


def test_other_frequencies_columns_and_size_classes_are_refused():
    with pytest.raises(InputError, match="size class"):
        challenge_score(row(size=4), row(), 1400)
    with pytest.raises(InputError, match="560, 1400 or 9200"):
        challenge_score(row(), row(), 1500)
    with pytest.raises(InputError, match="core_frac"):
        challenge_score({k: v for k, v in row().items() if k != "core_frac"}, row(), 1400)


def test_a_catalogue_of_gaussians_is_brought_to_the_challenge():
    table = ComparisonTable.from_columns(
        {
            "ra": [359.9, 0.2],
            "dec": [-30.0, -30.1],
            "total_flux": [1e-3, 2e-3],
            "major": [0.5, 0.2],
            "minor": [0.3, 0.2],
            "position_angle": [20.0, 0.0],
        }
    )
    columns = challenge_columns(table, (0.25, 0.25))
    np.testing.assert_allclose(columns["ra_core"], [-0.1, 0.2])
    np.testing.assert_allclose(columns["b_maj"], [np.sqrt(0.25 - 0.0625), 0.025])
    assert challenge_score(columns, columns, 1400).value == pytest.approx(2.0)
    # whether angles are known or not
    bare = table.replace(position_angle=np.full(2, np.nan))
    columns = challenge_columns(bare, (0.25, 0.25))
    assert challenge_score(columns, columns, 1400).value == pytest.approx(2.0)


def test_no_true_sources_have_a_constant_class_all_the_same():
    table = ComparisonTable.from_columns({"ra": [], "dec": []})
    columns = challenge_columns(table, (0.25, 0.25))
    _, (score,) = constant_class_baseline([(columns, columns)], 1400)
    assert score.value == 0.0
