"""The probability that a row is real: calibrated, rising with S/N, free of units, never missing."""

import json
from functools import cache

import astropy.units as u
import numpy as np
import pytest
from factories import make_catalogue, make_context
from skies import BEAM, correlated_noise

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.real_rows import real_rows
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.simulation.counts import PowerLawCounts
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.pipeline.training.boosting import exported_trees
from cyclades.pipeline.training.reliability import (
    RowSet,
    calibrating_line,
    fit_model,
    labelled_rows,
    varied,
    with_hidden,
    write_model,
)
from cyclades.pipeline.training.simulated import presets
from cyclades.stages.cataloguing.image_holes import Holes, find_holes
from cyclades.stages.cataloguing.reliability import ReliabilityRefinement, largest
from cyclades.stages.cataloguing.reliability_model import (
    MOST,
    ReliabilityModel,
    default_model,
    read_model,
)
from cyclades.stages.cataloguing.row_features import FEATURES, row_features
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.formats import format_extension
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.source import MemorySource
from tests.requirements import require

SIZE = 512
TABLES = ("components", "sources", "islands")


def refine(catalogue, image, **parameters):
    return ReliabilityRefinement(**parameters).refine(
        catalogue, MemorySource(image), context=make_context()
    )


def low(threshold=3.7, **changes):
    """The classical route down to where it finds noise."""
    route = Pipeline.from_route("classical")
    detection = route.config.detection.model_copy(update={"seed_threshold": threshold})
    return route.replace(detection=detection, **changes)


@cache
def field(seed):
    options = FieldOptions(size=SIZE, sky={"counts": PowerLawCounts(slope=1.6, density=500.0)})
    made = simulate(options, seed)
    return made, low().run(made.image, workers=1).catalogue


def column(table, name="reliability"):
    held = table[name]
    return np.asarray(getattr(held, "value", held), float)


def test_probabilities_are_the_shares_of_real_rows():
    chance, real, snr = [], [], []
    for seed in (61, 62, 63, 64, 65, 66):
        made, catalogue = field(seed)
        chance.append(column(refine(catalogue, made.image).components))
        real.append(real_rows(from_catalogue(catalogue), from_truth(made.truth)))
        snr.append(column(catalogue.components, "snr"))
    chance, real, snr = map(np.concatenate, (chance, real, snr))
    assert 0.1 < np.mean(~real) < 0.9, "the field shows nothing"
    for rows in (chance >= 0.0, chance < 0.5, chance >= 0.5):
        # rows of one field share its noise, hence the addition of the wanted 0.03
        error = np.sqrt(np.sum(chance[rows] * (1.0 - chance[rows]))) / rows.sum()
        assert abs(chance[rows].mean() - real[rows].mean()) < 4.0 * error + 0.03
    assert chance[snr > 20.0].min() > 0.7
    assert chance[snr > 20.0].mean() > 0.98

    def loss(p):
        return -np.mean(np.log(np.where(real, p, 1.0 - p)))

    # far better than the share alone, which has all that a column without information could
    assert loss(np.clip(chance, 1e-6, 1.0 - 1e-6)) < 0.7 * loss(np.full(len(real), real.mean()))


def test_the_probability_never_falls_with_signal_to_noise():
    made, catalogue = field(61)
    table, psf = catalogue.components, made.image.psf
    holes = find_holes(MemorySource(made.image), psf.size)
    snr = column(table, "snr")
    for row in np.argsort(snr)[::12]:
        before = 0.0
        for factor in (0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 4.0, 10.0, 100.0):
            own = table.copy()
            for name in ("peak_flux", "total_flux", "snr"):
                own[name][row] = table[name][row] * factor
            chance = default_model().probability(row_features(own, psf, holes))[row]
            assert chance >= before, (row, factor)
            before = chance
        assert before > 0.9


def test_every_feature_acts_as_declared_whatever_is_missing():
    rng = np.random.default_rng(5)
    made, catalogue = field(62)
    holes = find_holes(MemorySource(made.image), made.image.psf.size)
    features = row_features(catalogue.components, made.image.psf, holes)
    features = np.concatenate([features] * 5)
    missing = rng.random(features.shape) < 0.2
    features[missing] = np.nan
    model = default_model()
    base = model.log_odds(features)
    assert np.isfinite(base).all()
    moved = 0
    for k, direction in enumerate(FEATURES.values()):
        changed = features.copy()
        changed[:, k] += rng.exponential(0.5, len(changed))
        after = model.log_odds(changed)
        moved += np.any(after != base)
        assert (direction * (after - base) >= 0.0).all(), list(FEATURES)[k]
    assert moved > 10


def test_units_do_not_matter():
    made, catalogue = field(63)
    expected = column(refine(catalogue, made.image).components)
    other = catalogue.replace(
        components=catalogue.components.copy(),
        sources=catalogue.sources.copy(),
        islands=catalogue.islands.copy(),
    )
    factor = 1024.0  # a power of two changes no digit
    for name in catalogue.components.colnames:
        unit = catalogue.components[name].unit
        if (unit is not None and unit.is_equivalent("Jy / beam")) or unit == u.Jy:
            other.components[name] = catalogue.components[name] * factor
    image = made.image.replace(data=made.image.data * np.float32(factor))
    assert np.array_equal(column(refine(other, image).components), expected)
    # nor does an image of twice as many pixels
    holes = find_holes(MemorySource(made.image), made.image.psf.size)
    larger = Holes(2.0 * holes.x, 2.0 * holes.y, holes.depth, holes.significance, holes.beams)
    table = catalogue.components.copy()
    table["x"], table["y"] = 2.0 * table["x"], 2.0 * table["y"]
    table["n_pixels"] = 4 * np.asarray(table["n_pixels"])
    psf = PointSpread(4.0 * made.image.psf.covariance)
    np.testing.assert_allclose(
        row_features(table, psf, larger),
        row_features(catalogue.components, PointSpread(made.image.psf.covariance), holes),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    ("characterization", "beam"), [("gaussian", True), ("moments", True), ("moments", False)]
)
def test_what_a_catalogue_lacks_is_no_obstacle(characterization, beam):
    made, _ = field(64)
    image = made.image if beam else made.image.replace(psf=None)
    route = low(8.0, characterization=characterization)
    found = route.run(image, workers=1).catalogue
    refined = refine(found, image)
    chance = column(refined.components)
    assert len(chance) > 10
    assert ((chance > 0.0) & (chance < 1.0)).all()
    snr = column(found.components, "snr")
    assert chance[snr > 20.0].min() > 0.8
    # columns that another software left out
    table = refined.components
    table.remove_columns([n for n in table.colnames if n not in ReliabilityRefinement.needs])
    bare = column(refine(refined, image).components)
    assert np.isfinite(bare).all()
    assert bare[snr > 30.0].min() > 0.8


def test_sources_and_islands_have_their_best_component():
    made, catalogue = field(65)
    refined = refine(catalogue, made.image)
    components = refined.components
    for table, key in ((refined.sources, "source_id"), (refined.islands, "island_id")):
        for row in table:
            own = components["reliability"][components[key] == row[key]]
            assert row["reliability"] == own.max()
    for name, table in refined.tables.items():
        assert table.colnames[-1] == "reliability"
        before = catalogue.tables[name]
        assert all(np.all(table[c] == before[c]) for c in ("flags", "snr"))
    assert "reliability" not in catalogue.components.colnames
    assert refine(refined, made.image) == refined
    # comparisons rank by it
    assert np.array_equal(from_catalogue(refined)["score"], column(components))
    assert (from_catalogue(catalogue)["score"] == 1.0).all()


def test_parts_have_that_of_their_source_and_negative_rows_none():
    made, catalogue = field(66)
    table = catalogue.components.copy()
    order = np.argsort(column(table, "snr"))
    faint, bright, negative = (int(order[k]) for k in (0, -1, -2))
    table["source_id"][faint] = table["source_id"][bright]
    table["flags"][faint] |= int(Flag.WAVELET)
    table["flags"][negative] |= int(Flag.NEGATIVE)
    refined = refine(catalogue.replace(components=table), made.image)
    chance = column(refined.components)
    assert chance[faint] == chance[bright]
    assert np.isnan(chance[negative])
    sources = refined.sources
    if np.count_nonzero(table["source_id"] == table["source_id"][negative]) == 1:
        own = sources["reliability"][sources["source_id"] == table["source_id"][negative]]
        assert np.isnan(own).all()
    assert largest(np.array([0.2, np.nan, 0.7]), np.array([1, 2, 1]), np.array([1, 2, 3])) == (
        pytest.approx([0.7, np.nan, np.nan], nan_ok=True)
    )


def test_an_empty_catalogue_gets_the_column():
    image = SkyImage(np.zeros((64, 64), np.float32), psf=PointSpread(BEAM))
    catalogue = low(5.0).run(image, workers=1).catalogue
    refined = refine(catalogue, image)
    for name in TABLES:
        assert len(refined.tables[name]) == 0
        assert "reliability" in refined.tables[name].colnames


@pytest.mark.parametrize("format", ["fits", "votable", "ecsv", "parquet"])
def test_the_column_survives_every_format(format, tmp_path):
    image = SkyImage(np.zeros((200, 200), np.float32), psf=PointSpread(BEAM), name="field")
    refined = refine(make_catalogue(), image)
    path = tmp_path / f"x.{format_extension(format)}"
    refined.write(path, format)
    assert read_catalogue(path, format) == refined


def test_the_chain_runs_it_last_and_notes_what_it_expects():
    made, _ = field(61)
    route = low(cataloguing=["components", "associate", "reliability"])
    result = route.run(made.image, workers=1)
    assert "n_parts" in result.catalogue.sources.colnames
    whole = np.asarray(result.catalogue.components["fit_type"]) != "wavelet"
    chance = column(result.catalogue.components)[whole]
    noted = result.provenance["notes"]["cataloguing.reliability"]
    assert noted["rows"] == len(chance)
    assert noted["expected_real"] == pytest.approx(chance.sum(), abs=0.1)


def test_holes_of_noise_are_as_many_as_expected_and_a_deep_one_is_found():
    noise = correlated_noise((512, 512), np.random.default_rng(4)).astype(np.float32)
    noise[300:303, 101:104] = -15.0
    noise[:100, :100] = np.nan
    holes = find_holes(MemorySource(SkyImage(noise, psf=PointSpread(BEAM))), 4.0)
    assert holes.beams == pytest.approx((512**2 - 100**2) / 16.0)
    assert holes.significance.max() == pytest.approx(15.0, rel=0.1)
    deepest = holes.significance.argmax()
    assert (holes.x[deepest], holes.y[deepest]) == (101, 300)
    # minima of a Gaussian field below -t, per pixel (Adler 1981)
    t = 3.2
    sigma = np.linalg.det(BEAM) ** 0.5
    expected = t * (2 * np.pi) ** -1.5 / sigma * np.exp(-0.5 * t**2) * (512**2 - 100**2)
    counted = np.count_nonzero(holes.significance > t)
    # a minimum on the border of two squares counts twice
    assert expected - 4.0 * expected**0.5 < counted < 1.7 * expected + 4.0 * expected**0.5
    near = holes.deepest(np.array([110.0, 400.0, np.nan]), np.array([300.0, 300.0, 1.0]), 12.0)
    assert near[0] == pytest.approx(15.0, rel=0.1)
    assert near[1] < 6.0
    assert near[2] == 0.0


def test_a_blank_image_has_no_holes():
    for value in (np.nan, 0.0):
        image = SkyImage(np.full((40, 50), value, np.float32), psf=PointSpread(BEAM))
        holes = find_holes(MemorySource(image), 5.0)
        assert len(holes.x) == 0
        assert holes.deepest(np.ones(2), np.ones(2), 9.0).tolist() == [0.0, 0.0]


def truth_of(rows):
    names = ("ra", "peak_flux", "total_flux", "major", "morphology")
    made = dict(zip(names, zip(*rows, strict=True), strict=True))
    n = len(rows)
    return ComparisonTable.from_columns(
        {**made, "dec": np.zeros(n), "minor": made["major"], "position_angle": np.zeros(n),
         "source": np.arange(n), "local_rms": np.ones(n)},
        {"beam": (5.0, 5.0)},
    )  # fmt: skip


def test_what_counts_as_real():
    arcsec = 1.0 / 3600.0
    truth = truth_of([
        (0.00, 50.0, 50.0, 5.0, "compact"),
        (0.10, 2.0, 2.0, 5.0, "compact"),
        (0.20, 5.0, 80.0, 20.0, "extended"),
        (0.30, 8.0, 8.0, 5.0, "spurious"),
        (0.40, 30.0, 30.0, 5.0, "compact"),
        (0.50, 9.0, 9.0, 5.0, "compact"),
    ])  # fmt: skip
    cases = [
        (0.00 + 0.2 * arcsec, 49.0, True),  # the source
        (0.00 + 1.8 * arcsec, 8.0, False),  # a second row on it
        (0.10, 5.0, False),  # mostly noise
        (0.20 + 9.0 * arcsec, 5.0, True),  # a piece of an extended source
        (0.30, 8.0, False),  # a sidelobe
        (0.40 + 0.5 * arcsec, 80.0, True),  # a blend of a source and what is not in the list
        (0.50 + 0.5 * arcsec, 80.0, False),  # an accident
        (0.60, 6.0, False),  # nothing there
    ]
    ra, peak, expected = zip(*cases, strict=True)
    rows = truth_of([(a, p, p, 5.0, "") for a, p in zip(ra, peak, strict=True)])
    assert real_rows(rows, truth).tolist() == list(expected)
    # a part is as real as its source
    parts = rows.replace(part=np.arange(len(rows)) == 7, source=np.array([0, 1, 2, 3, 4, 5, 6, 0]))
    assert real_rows(parts, truth)[7]


def test_wrong_models_are_refused_in_a_sentence(tmp_path):
    image = SkyImage(np.zeros((64, 64), np.float32), psf=PointSpread(BEAM))
    held = default_model().to_mapping()
    endless = json.loads(json.dumps(held))
    endless["trees"][0]["left"][0] = 0
    far = json.loads(json.dumps(held))
    far["trees"][0]["feature"][0] = 99
    cases = {
        "missing": None,
        "text": "no JSON",
        "list": "[1, 2]",
        "features": json.dumps({**held, "features": ["snr"]}),
        "lacks": json.dumps({k: v for k, v in held.items() if k != "slope"}),
        "endless": json.dumps(endless),
        "far": json.dumps(far),
    }
    for name, text in cases.items():
        path = tmp_path / f"{name}.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=r"make it anew with python -m cyclades") as caught:
            ReliabilityRefinement(model=str(path)).prepare(context=make_context())
        assert str(path) in str(caught.value)
        assert str(caught.value).count("\n") == 0
    good = tmp_path / "good.json"
    write_model(good, default_model(), "a note")
    assert len(read_model(good).trees) == len(default_model().trees)
    made = low(5.0, cataloguing=["components", {"name": "reliability", "model": str(good)}])
    assert len(made.run(image, workers=1).catalogue) == 0


def test_a_model_survives_its_file_and_its_odds_are_bounded():
    model = default_model()
    features = np.random.default_rng(1).normal(size=(50, len(FEATURES)))
    again = ReliabilityModel.from_mapping(json.loads(json.dumps(model.to_mapping())))
    np.testing.assert_array_equal(again.log_odds(features), model.log_odds(features))
    steep = ReliabilityModel(model.trees, model.start, 100.0, 0.0)
    assert np.abs(steep.log_odds(features)).max() <= MOST
    assert model.slope > 0.0


def test_exported_trees_give_the_probabilities_of_scikit_learn():
    require("learned")
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(2)
    features = rng.normal(size=(800, len(FEATURES)))
    real = rng.random(800) < 1.0 / (1.0 + np.exp(-2.0 * features[:, 0] - features[:, 3]))
    features[rng.random(features.shape) < 0.2] = np.nan
    machine = HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=6, random_state=0)
    machine.fit(features, real)
    np.testing.assert_allclose(
        ReliabilityModel(*exported_trees(machine)).probability(features),
        machine.predict_proba(features)[:, 1],
        atol=1e-9,
    )


def test_a_small_training_learns_and_hides_features():
    require("learned")
    made, catalogue = field(62)
    rows, some = labelled_rows(catalogue, made.truth.catalogue, made.image, 62)
    assert 0 < len(some.real) < len(rows.real)
    assert some.real.mean() < rows.real.mean()
    density = list(FEATURES).index("bright_rows")
    assert some.features[:, density].max() < rows.features[:, density].min()
    assert rows.features.shape == (len(rows.real), len(FEATURES))
    given, of = with_hidden(rows.features, np.random.default_rng(0))
    assert len(given) == len(of) > len(rows.real)
    assert np.isnan(given[len(rows.real) :]).sum() > np.isnan(rows.features[of]).sum()
    rng = np.random.default_rng(3)
    sets = []
    for k in range(6):
        features = rng.normal(size=(300, len(FEATURES)))
        sets.append(
            RowSet(k, features, rng.random(300) < 1.0 / (1.0 + np.exp(-3 * features[:, 0])))
        )
    model = fit_model(sets, folds=3)
    new = rng.normal(size=(3000, len(FEATURES)))
    truth = 1.0 / (1.0 + np.exp(-3.0 * new[:, 0]))
    assert np.abs(model.probability(new) - truth).mean() < 0.08


def test_the_calibrating_line_is_found():
    rng = np.random.default_rng(6)
    odds = rng.normal(0.0, 2.0, 40000)
    real = rng.random(len(odds)) < 1.0 / (1.0 + np.exp(-(0.6 * odds - 0.4)))
    slope, shift = calibrating_line(odds, real)
    assert slope == pytest.approx(0.6, abs=0.05)
    assert shift == pytest.approx(-0.4, abs=0.06)


def test_fields_of_the_training_differ_in_errors_and_density():
    chosen = presets()["vla"][0]
    made = [varied(chosen, np.random.default_rng(k), size=128) for k in range(20)]
    errors = np.array([one.telescope.gain_phase for one in made]) / chosen.telescope.gain_phase
    density = np.array([one.sky.counts.density for one in made]) / chosen.sky.counts.density
    assert errors.min() < 1.0 < 2.0 < errors.max()
    assert density.min() < 0.8 < 1.6 < density.max()
    assert {one.size for one in made} == {128}
