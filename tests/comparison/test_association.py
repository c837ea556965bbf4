"""Association quality: labels covered by one source, pairs, and wrong merges."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.association import (
    NO_OBJECT,
    UNKNOWN,
    PairScores,
    best_friends_of_friends,
    central_group,
    covered_by_one,
    friends_of_friends,
    label_pair_scores,
    nearest_objects,
    pair_scores,
    source_groups,
    wrongly_merged,
)
from cyclades.pipeline.comparison.labels import Label
from cyclades.pipeline.comparison.tables import ComparisonTable

ARCSEC = 1.0 / 3600.0
RA, DEC, BEAM = 150.0, 0.0, 5.0


def table(east, source=None):
    """Components in a row along east, in arcsec from the target."""
    columns = {"ra": RA + np.asarray(east, float) * ARCSEC, "dec": np.full(len(east), DEC)}
    if source is not None:
        columns["source"] = source
    return ComparisonTable.from_columns(columns)


def label(*east, extent):
    ra = RA + np.array(east) * ARCSEC
    return Label("a", "b", ra, np.full(len(east), DEC), extent, 1.0, RA, DEC)


def groups(*numbers):
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("numbers", "covered"),
    [
        ((0, 0, 1), True),  # both lobes in one source, the neighbour apart
        ((0, 1, 2), False),  # two sources on the label
        ((0, 0, 0), False),  # one source, which also holds the neighbour
    ],
)
def test_a_label_is_covered_by_exactly_one_source(numbers, covered):
    parts = table([-15.0, 15.0, 60.0])
    result = covered_by_one(parts, groups(*numbers), [label(-15.0, 15.0, extent=30.0)], BEAM)
    assert result.tolist() == [covered]


def test_what_lies_outside_the_shown_area_counts_neither_way():
    parts = table([-15.0, 15.0, 120.0])
    result = covered_by_one(parts, groups(0, 0, 0), [label(-15.0, 15.0, extent=30.0)], BEAM)
    assert result.tolist() == [True]


def test_a_wider_margin_takes_in_what_lies_beyond_the_extent():
    parts = table([-15.0, 15.0, 30.0])
    own = [label(-15.0, 15.0, extent=30.0)]
    # half of 30 arcsec and two beams of 5 arcsec: 25 arcsec
    assert not covered_by_one(parts, groups(0, 0, 0), own, BEAM).any()
    assert covered_by_one(parts, groups(0, 0, 0), own, BEAM, margin=3.1).all()
    assert not covered_by_one(parts, groups(0, 0, 1), own, BEAM, margin=3.1).any()


def test_a_label_without_detections_is_not_covered():
    assert covered_by_one(table([]), groups(), [label(0.0, extent=10.0)], BEAM).tolist() == [False]


def test_friends_of_friends_link_by_chains_and_across_ra_zero():
    parts = table([0.0, 9.0, 18.0, 40.0])
    linked = friends_of_friends(parts, 10.0)
    assert linked[0] == linked[1] == linked[2] != linked[3]
    assert len(np.unique(friends_of_friends(parts, 8.0))) == 4
    across = ComparisonTable.from_columns({"ra": [359.9995, 0.0005], "dec": [0.0, 0.0]})
    assert len(np.unique(friends_of_friends(across, 4.0))) == 1
    assert len(friends_of_friends(table([]), 10.0)) == 0


def test_the_central_rule_joins_what_is_near_the_centre():
    joined = central_group(table([-50.0, 50.0, 56.0, 80.0]), RA, DEC)
    assert joined[0] == joined[1]
    assert len(np.unique(joined)) == 3


def test_rows_without_a_source_are_alone():
    numbers = source_groups(table([0, 1, 2, 3], source=[4, -1, 4, -1]))
    assert numbers[0] == numbers[2] == 4
    assert len(np.unique(numbers)) == 3


def test_pairs_by_hand():
    """Truth AAAB; the catalogue joins the first two, and the last two."""
    scores = pair_scores(groups(0, 0, 1, 1), groups(5, 5, 5, 6))
    assert scores == PairScores(1, 2, 3)
    assert (scores.purity, scores.completeness) == (0.5, pytest.approx(1 / 3))
    assert scores.f1 == pytest.approx(0.4)
    assert scores + scores == PairScores(2, 4, 6)


def test_pairs_agree_with_counting_them_one_by_one():
    rng = np.random.default_rng(2)
    found, true = rng.integers(0, 8, 60), rng.integers(-2, 8, 60)
    both = joined = wanted = 0
    for i in range(60):
        for j in range(i):
            if UNKNOWN in (true[i], true[j]) or true[i] == true[j] == NO_OBJECT:
                continue
            same = true[i] == true[j]
            both += same and found[i] == found[j]
            joined += found[i] == found[j]
            wanted += same
    assert pair_scores(found, true) == PairScores(both, joined, wanted)


def test_label_pairs_leave_out_what_nobody_looked_at():
    parts = table([-15.0, 15.0, 60.0, 75.0, 120.0])
    scores = label_pair_scores(
        parts, groups(0, 0, 1, 1, 0), [label(-15.0, 15.0, extent=30.0)], BEAM
    )
    assert scores == PairScores(1, 1, 1)
    merged = label_pair_scores(
        parts, groups(0, 0, 0, 1, 0), [label(-15.0, 15.0, extent=30.0)], BEAM
    )
    assert merged == PairScores(1, 3, 1)


def test_wrong_merges_of_single_sources():
    """Object 0 is alone, 1 split; 2 is joined with something unlabelled, 3 with 4 (no single)."""
    found = groups(0, 1, 1, 2, 2, 3, 3)
    true = groups(0, 1, 1, 2, NO_OBJECT, 3, 4)
    result = wrongly_merged(found, true, groups(0, 1, 2, 3, 9))
    assert (result.merged, result.found) == (2, 4)
    assert result.share == 0.5


def test_components_belong_to_the_nearest_true_position():
    rows = nearest_objects(table([0.0, 4.0, 11.0, 50.0]), table([1.0, 12.0]), 10.0)
    assert rows.tolist() == [0, 0, 1, NO_OBJECT]
    assert nearest_objects(table([0.0]), table([]), 10.0).tolist() == [NO_OBJECT]


def test_the_best_linking_length_joins_doubles_but_not_neighbours():
    fields = [
        (table([-14.0, 14.0, 70.0]), [label(-14.0, 14.0, extent=28.0)]),
        (table([-11.0, 11.0, -60.0]), [label(-11.0, 11.0, extent=22.0)]),
    ]
    best = best_friends_of_friends(fields, BEAM)
    assert 28.0 <= best.length <= 48.0
    assert best.covered.tolist() == [True, True]


def test_first_fields_are_judged(shared_data):
    """Half of Radio Galaxy Zoo's sources are single islands; the route finds their components."""
    from cyclades import Pipeline, read_image
    from cyclades.pipeline.comparison.any_catalogue import from_catalogue
    from cyclades.pipeline.comparison.labels import component_recall, read_labels

    folder = shared_data / "first-rgz-fields-dev"
    labels = read_labels(folder / "labels.csv")
    found = total = 0
    shares = {"components": [], "sources": []}
    for path in sorted(folder.glob("*.fits.gz"))[:10]:
        image = read_image(path, beam="5.4arcsec")
        parts = from_catalogue(Pipeline.from_route().run(image, workers=1).catalogue)
        own = [entry for entry in labels if entry.field == path.name.removesuffix(".gz")]
        assert own
        for entry in own:
            found += component_recall(entry, parts["ra"], parts["dec"], 9.0)
            total += len(entry.ra)
        for name, numbers in (
            ("components", np.arange(len(parts))),
            ("sources", source_groups(parts)),
        ):
            shares[name] += covered_by_one(parts, numbers, own, 5.4).tolist()
    assert found / total > 0.9
    assert np.mean(shares["sources"]) > np.mean(shares["components"]) + 0.2
