"""Strangers within an island: split off where a model says so, and rows that stay consistent."""

import numpy as np
import pytest
from test_associate import DOUBLE, STRANGERS, catalogue_of, make_image, painted, refine

from cyclades.stages.cataloguing.merging import rows_of
from cyclades.stages.cataloguing.parts import Parts, pairs_within
from cyclades.stages.cataloguing.splitting import split_groups, split_sources

AREA = 1.44e6
# a bright wide source, a compact one on its flank, and one apart
BLEND = [(0.0, 0.0, 30.0, 20.0, 90.0, 0.5), (26.0, 8.0, 12.0, 12.0, 0.0, 0.3)]


class Says:
    """In place of trees: log-odds of pairs by the sum of their logarithms of flux ratios."""

    def __init__(self, value):
        self.value = value

    def log_odds(self, features):
        return np.full(len(features), self.value)


@pytest.fixture
def blend():
    image = make_image()
    catalogue = catalogue_of(BLEND, image, together=True)
    return image, catalogue


def groups(catalogue, value, **options):
    source = rows_of(catalogue.sources, catalogue.components)
    parts = Parts.of(catalogue.components, AREA)
    return source, split_groups(parts, source, Says(value), probability=0.5, **options)


def test_what_the_model_says_is_one_object_is_returned_as_it_is(blend):
    _, catalogue = blend
    source, group = groups(catalogue, 5.0)
    assert len(np.unique(group)) == 1
    assert split_sources(catalogue, source, group, AREA, 2.0) is catalogue


def test_a_stranger_becomes_a_source_of_the_same_island(blend):
    _, catalogue = blend
    source, group = groups(catalogue, -5.0)
    made = split_sources(catalogue, source, group, AREA, 2.0)
    assert len(made.sources) == 2
    assert len(made.components) == len(catalogue.components) == 2
    assert made.islands == catalogue.islands
    assert np.asarray(made.sources["n_components"]).tolist() == [1, 1]
    assert set(made.sources["island_id"]) == set(catalogue.sources["island_id"])
    assert set(made.sources["source_code"]) == set(made.components["source_code"]) == {"S"}
    assert len(set(made.sources["name"])) == 2
    assert "n_parts" not in made.sources.colnames
    row = rows_of(made.sources, made.components)
    assert sorted(row) == [0, 1]
    # a source of one component is that component
    told = {"source_id"}
    for name in set(made.sources.colnames) - told:
        assert [str(v) for v in made.sources[name][row]] == [
            str(v) for v in made.components[name]
        ], name
    assert not np.any(np.asarray(made.components["flags"]) != catalogue.components["flags"])


def test_pieces_of_several_components_have_the_row_of_an_island_of_their_own():
    """Three touching components, of which the last is the stranger."""
    image = make_image()
    rows = [*BLEND, (-22.0, -4.0, 14.0, 12.0, 20.0, 0.2)]
    catalogue = catalogue_of(rows, image, together=True)
    source = rows_of(catalogue.sources, catalogue.components)
    stranger = int(np.argmin(np.asarray(catalogue.components["peak_flux"].value)))
    group = np.where(np.arange(3) == stranger, 1, 0)
    made = split_sources(catalogue, source, group, AREA, 2.0)
    expected = catalogue_of(BLEND, image, together=True).sources[0]
    row = made.sources[int(np.argmax(np.asarray(made.sources["n_components"])))]
    assert row["source_code"] == "M"
    for name in ("ra", "dec", "x", "y", "total_flux", "peak_flux", "major", "minor",
                 "position_angle", "deconvolved_major", "snr"):  # fmt: skip
        assert float(np.asarray(row[name])) == pytest.approx(
            float(np.asarray(expected[name])),
            rel=2e-5,
            abs=0.02 if name == "position_angle" else 1e-7,
        ), name
    assert row["total_flux_err"].value == pytest.approx(expected["total_flux_err"].value, rel=0.02)


def test_what_a_detector_joins_across_a_gap_stays_whole():
    image = make_image()
    catalogue = catalogue_of([DOUBLE[0], DOUBLE[1]], image, together=True)
    _, group = groups(catalogue, -5.0)
    assert len(np.unique(group)) == 1


def test_large_structure_and_components_without_a_shape_stay_with_their_source(blend):
    _, catalogue = blend
    parts = Parts.of(catalogue.components, AREA)
    assert len(pairs_within(parts, np.zeros(2, int))[0]) == 1
    assert len(pairs_within(parts, np.arange(2))[0]) == 0
    assert len(pairs_within(parts, np.zeros(2, int), most=1)[0]) == 0
    catalogue.components["major"][0] *= np.nan
    _, group = groups(catalogue, -5.0)
    assert len(np.unique(group)) == 1


def test_pieces_are_not_put_together_again(blend, monkeypatch):
    """Whatever the model says of pairs of sources: one judged them within the island."""
    from cyclades.stages.cataloguing import associate
    from cyclades.stages.cataloguing.pair_model import PairModel

    class Joins(Says):
        def log_odds(self, features):
            return np.full(len(features), 10.0)

    image, catalogue = blend
    model = PairModel(Says(10.0), Joins(10.0), Says(-5.0))
    monkeypatch.setattr(associate, "default_model", lambda: model)
    assert len(refine(catalogue, image).sources) == 2
    assert len(refine(catalogue, image, split=0.0).sources) == 1
    apart = catalogue_of(BLEND, image)
    assert len(refine(apart, image).sources) == 1


def partition(catalogue, total):
    """Sets of components, told by their fluxes, that are one source."""
    flux = np.asarray(catalogue.components["total_flux"].value)
    rows = np.argmin(np.abs(flux[:, None] - total), axis=1)
    source = np.asarray(catalogue.components["source_id"])
    return {frozenset(rows[source == s].tolist()) for s in np.unique(source)}


def test_flips_turns_and_order_do_not_change_who_belongs_together():
    """Forty sources without coordinates: pixels turned by 90 degrees or mirrored, rows shuffled."""
    rng = np.random.default_rng(5)
    image = make_image("")
    rows = [*DOUBLE, *STRANGERS]
    for _ in range(35):
        east, north = rng.uniform(-500.0, 500.0, 2)
        rows.append((east, north, *rng.uniform([12.0, 12.0], [30.0, 14.0]), 30.0, 0.0))
    flux = np.geomspace(0.06, 0.6, len(rows))
    rows = np.array(
        [(*row[:5], s) for row, s in zip(rows, flux[rng.permutation(len(rows))], strict=True)]
    )
    rows[:, 2:4] = -np.sort(-rows[:, 2:4], axis=1)
    whole = catalogue_of(rows, image)
    seen = painted(whole, image)
    noise = rng.normal(0.0, 0.01, image.shape).astype(np.float32)
    seen = seen.replace(data=seen.data + noise)
    total = np.asarray(whole.components["total_flux"].value)
    assert np.diff(np.sort(total)).min() > 1e-6
    expected = partition(refine(whole, seen), total)
    assert max(map(len, expected)) > 1

    turned = rows.copy()
    # columns become rows: (east, north) -> (-north, east)
    turned[:, 0], turned[:, 1], turned[:, 4] = -rows[:, 1], rows[:, 0], rows[:, 4] + 90.0
    mirrored = rows * np.array([-1.0, 1.0, 1.0, 1.0, -1.0, 1.0])
    for sky, data in (
        (rows[::-1], seen.data),
        (mirrored, seen.data[:, ::-1]),
        (turned, np.rot90(seen.data, 1)),
    ):
        plane = seen.replace(data=np.ascontiguousarray(data))
        assert partition(refine(catalogue_of(sky, image), plane), total) == expected
