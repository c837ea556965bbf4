"""Truth, runs and catalogues as instances; association on a simulated and an injected field."""

import numpy as np
import pytest
from comparison_cases import rows

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.association import (
    friends_of_friends,
    injected_merges,
    object_rows,
    pair_scores,
    simulated_merges,
    source_groups,
)
from cyclades.pipeline.comparison.detection_metrics import average_precision
from cyclades.pipeline.comparison.instances import (
    found_objects,
    oracle_objects,
    table_objects,
    truth_objects,
)
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.pipeline.simulation.stream import TRAINING


@pytest.fixture(scope="module")
def simulation():
    return simulate(FieldOptions(size=384, sky=TRAINING.sky), seed=3)


@pytest.fixture(scope="module")
def result(simulation):
    return Pipeline.from_route().run(simulation.image, workers=1)


def test_truth_found_as_itself_is_perfect(simulation):
    truth = truth_objects(simulation.truth)
    assert truth.ignored is not None
    assert 0 < truth.ignored.sum() < len(truth)
    for kind in ("box", "mask"):
        assert average_precision([truth], [truth], kind).ap == 1.0


def test_the_floor_ignores_what_is_fainter(simulation):
    snr = np.asarray(simulation.truth.catalogue.sources["snr"])
    compact = simulation.truth.morphology == "compact"
    by_source = np.argsort(np.asarray(simulation.truth.catalogue.sources["source_id"]))
    truth = truth_objects(simulation.truth, floor=8.0, artefacts=True)
    np.testing.assert_array_equal(truth.ignored[compact], snr[by_source][compact] < 8.0)


def test_a_run_scores_well_on_an_easy_field(simulation, result):
    truth = truth_objects(simulation.truth, floor=10.0)
    unlabelled = type(truth)(truth.boxes, None, None, truth.masks, truth.ignored)
    found = found_objects(result)
    assert len(np.unique(found.scores)) > 1
    assert average_precision([unlabelled], [found], "mask").ap50 > 0.3
    boxes = table_objects(from_catalogue(result.catalogue), simulation.image.wcs)
    assert boxes.masks is None
    assert len(boxes) == len(result.catalogue.sources)


def test_the_oracle_has_the_true_background(simulation, result):
    oracle = oracle_objects(Pipeline.from_route(), simulation)
    own = found_objects(result)
    assert abs(len(oracle) - len(own)) <= 0.3 * len(own)
    assert not np.array_equal(oracle.scores, own.scores)


def test_the_box_of_a_source_is_around_those_of_its_components(simulation):
    wcs = simulation.image.wcs
    ra, dec = wcs.wcs_pix2world([[100, 100], [120, 110], [300, 50]], 0).T
    table = ComparisonTable.from_columns(
        {
            "ra": ra,
            "dec": dec,
            "major": np.full(3, 20.0),
            "minor": np.full(3, 20.0),
            "position_angle": np.zeros(3),
            "source": [7, 7, 2],
            "snr": [10.0, 20.0, 5.0],
            "peak_flux": [1.0, 2.0, 1.0],
            "morphology": ["compact", "extended", "compact"],
        }
    )
    objects = table_objects(table, wcs)
    np.testing.assert_allclose(objects.boxes, [[290, 40, 310, 60], [90, 90, 130, 120]], atol=0.1)
    assert objects.scores.tolist() == [5.0, 20.0]
    assert objects.labels == ("compact", "extended")


def test_association_on_a_simulated_field(simulation, result):
    table, truth = from_catalogue(result.catalogue), from_truth(simulation.truth)
    own = object_rows(table, truth, 10.0)
    assert np.mean(own >= 0) > 0.8
    perfect = pair_scores(np.where(own >= 0, own, 1000 + np.arange(len(own))), own)
    assert perfect.both == perfect.found == perfect.true
    alone = simulated_merges(table, np.arange(len(table)), truth, 10.0)
    joined = simulated_merges(table, np.zeros(len(table), int), truth, 10.0)
    assert alone.found == joined.found > 10
    assert joined.share == 1.0
    assert alone.share < 0.1


def test_injected_points_are_merged_the_more_the_longer_the_links(simulation):
    merged = injected_merges(
        Pipeline.from_route(),
        simulation.image,
        {
            "sources": source_groups,
            "short": lambda table: friends_of_friends(table, 5.0),
            "long": lambda table: friends_of_friends(table, 120.0),
        },
        density=700.0,
        workers=1,
    )
    area = (384 * 2 / 3600) ** 2
    assert merged["sources"].found > 0.7 * 700 * area
    assert merged["short"].share < 0.2
    assert merged["long"].share > 0.5
    assert merged["sources"].share < merged["long"].share


def test_grouping_costs_nothing_where_the_truth_has_no_objects_of_several_rows():
    """Two true single sources that a catalogue lists as components of one source are both found."""
    from cyclades.pipeline.comparison.field import load_field

    truth = rows([0, 15, 400], [0, 0, 300], source=[-1, -1, -1])
    grouped = rows([0, 15, 400], [0, 0, 300], source=[4, 4, 5])
    field = load_field({"grouped": grouped, "single": truth}, truth)
    assert len(field.boxes["grouped"]) == len(field.boxes["single"]) == 3
