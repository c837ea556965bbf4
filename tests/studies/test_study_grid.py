"""Studies: the grid, what a cell depends on, and what the cells say together."""

import json

import numpy as np
import pytest

from cyclades.pipeline.studies.cells import Cell, Outcome, Store, grid, identity, key
from cyclades.pipeline.studies.options import StudyOptions
from cyclades.pipeline.studies.running import Study
from cyclades.pipeline.studies.summary import (
    Saving,
    equal_labels,
    headline,
    routes,
    savings,
)
from cyclades.pipeline.studies.table import write_study
from cyclades.pipeline.studies.tasks.base import sky_groups
from cyclades.pipeline.studies.tasks.morphology import Morphology
from cyclades.pipeline.studies.tasks.morphology_options import MorphologyOptions
from cyclades.stages.core.errors import ConfigurationError

FRACTIONS = (0.01, 0.1, 1.0)
BASE = {
    "backbones": {
        "one": {"name": "resnet18", "weights": "one.safetensors"},
        "other": {"name": "resnet18", "weights": "other.safetensors"},
        "plain": {"name": "resnet34"},
    },
    "modes": ["frozen", "scratch"],
    "fractions": list(FRACTIONS),
    "seeds": 2,
    "tasks": {"morphology": {"kind": "morphology"}},
    "resamples": 200,
}


def options(**changes):
    return StudyOptions.from_mapping(BASE | changes)


def test_the_grid_leaves_out_what_makes_no_sense_and_what_it_is_told_to():
    cells = list(grid(options(left_out=[{"backbones": ["other"], "fractions": [0.1]}])))
    assert len(cells) == len(set(cells))
    assert not any(c.backbone == "plain" and c.mode == "frozen" for c in cells)
    assert not any(c.backbone == "other" and c.fraction == 0.1 for c in cells)
    # one has 2 modes, other as many at two of three fractions, plain only scratch
    assert len(cells) == 2 * (2 * 3 + 2 * 2 + 1 * 3)
    assert {c.seed for c in cells[: len(cells) // 2]} == {0}


def test_detection_has_no_control_of_random_features():
    given = {"sky": {"kind": "simulated_detection"}, "morphology": {"kind": "morphology"}}
    cells = list(grid(options(tasks=given, modes=["random"])))
    assert {c.task for c in cells} == {"morphology"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fractions": [0.0, 0.1]}, "above 0"),
        ({"reference": 0.5}, "reference"),
        ({"left_out": [{"backbones": ["nobody"]}]}, "nobody"),
        ({"tasks": {}}, "at least one"),
        ({"steps": 3}, "no such option"),
        ({"tasks": {"a": {"kind": "simulated_detection", "training": {"seed": 3}}}}, "itself"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(change, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        options(**change)


def test_a_key_holds_what_a_result_depends_on_and_no_names():
    given = options()
    data = {"data": "abc"}
    cell = Cell("morphology", "one", "frozen", 0.1, 0)

    def of(cell, given=given, data=data, weights="w"):
        return key(identity(cell, given, data, weights))

    first = of(cell)
    assert of(cell) == first
    assert of(Cell("morphology", "one", "frozen", 0.1, 1)) != first
    assert of(Cell("morphology", "one", "frozen", 1.0, 0)) != first
    assert of(cell, weights="v") != first
    assert of(cell, data={"data": "abd"}) != first
    # the same architecture from scratch is the same cell, whatever weights there are beside it
    scratch = [Cell("morphology", name, "scratch", 0.1, 0) for name in ("one", "other", "plain")]
    assert of(scratch[0]) == of(scratch[1], weights="v") != of(scratch[2])


def test_the_store_gives_back_what_was_written_and_survives_damage(tmp_path):
    store = Store(tmp_path)
    outcome = Outcome(3, ({"truth": 1, "found": 2},), 1.5, {"steps": 3})
    assert store.read("a") is None
    store.write("a", {"mode": "frozen"}, outcome)
    assert store.read("a") == outcome
    assert [one.name for one in (tmp_path / "cells").iterdir()] == ["a.json"]
    assert json.loads(store.path("a").read_text())["identity"] == {"mode": "frozen"}
    store.path("a").write_text(store.path("a").read_text()[:-20])
    assert store.read("a") is None


def test_groups_on_the_sky_are_friends_of_friends():
    # a chain of three 40 arcsec apart at high declination, one across 0 h, one alone
    step = 40.0 / 3600.0
    ra = np.array([10.0, 10.0 + step / np.cos(np.radians(60.0)), 10.0, 359.999, 0.001, 50.0])
    dec = np.array([60.0, 60.0, 60.0 - step, 0.0, 0.0, 60.0])
    group = sky_groups(ra, dec, 60.0)
    assert group[0] == group[1] == group[2]
    assert group[3] == group[4]
    assert len(set(group)) == 3
    assert len(set(sky_groups(ra, dec, 8.0))) == 5


def test_equal_labels_are_read_off_a_rising_curve():
    labels = np.array([10.0, 100.0, 1000.0])
    values = np.array([0.5, 0.7, 0.9])
    assert equal_labels(labels, values, 0.7) == pytest.approx(100.0)
    assert equal_labels(labels, values, 0.8) == pytest.approx(10**2.5)
    assert equal_labels(labels, values, 0.5) == pytest.approx(10.0)
    assert equal_labels(labels, values, 0.95) == np.inf
    assert equal_labels(labels, values, 0.4) == 0.0
    # a dip is noise: the curve is made to rise first
    assert equal_labels(labels, np.array([0.5, 0.4, 0.9]), 0.45) == pytest.approx(10.0)


def study(folder, accuracy, seeds=4, **changes):
    """A study whose cells have known accuracies, by (backbone, mode, fraction)."""
    given = options(seeds=seeds, **changes)
    task = Morphology("morphology", MorphologyOptions())
    made = Study(given, folder, {"morphology": task}, {}, {})
    store = Store(folder)
    for cell in grid(given):
        content = identity(cell, given, {}, cell.backbone)
        name = made.keys[cell] = key(content)
        made.contents[name] = content
        share = accuracy(cell)
        if share is None:
            continue
        generator = np.random.default_rng((cell.seed, len(cell.mode), int(1000 * cell.fraction)))
        right = generator.random(400) < share
        units = tuple({"truth": k % 4, "found": (k + 1 - int(r)) % 4} for k, r in enumerate(right))
        labels = round(1000 * cell.fraction)
        store.write(name, content, Outcome(labels, units, 2.0 * labels, {}))
    return made


def by_labels(cell):
    """From scratch ten times the labels are needed to be as good as with a frozen backbone."""
    steps = np.log10(cell.fraction / 0.01)
    return 0.4 + 0.15 * steps + (0.15 if cell.mode == "frozen" else 0.0)


def test_label_savings_of_a_known_advantage(tmp_path):
    made = study(tmp_path, by_labels)
    found = routes(made)
    one = next(r for r in found if (r.backbone, r.mode, r.fraction) == ("one", "frozen", 0.1))
    figure = one.figures["accuracy"]
    # 4 seeds of 400 pictures: a standard error of 0.012
    assert figure.value == pytest.approx(0.7, abs=0.05)
    assert figure.low < figure.value < figure.high
    assert one.labels == 100
    assert one.seconds == 200.0
    saved = savings(made, found)
    assert {s.backbone for s in saved} == {"one", "other"}
    here = {s.fraction: s for s in saved if s.backbone == "one"}
    assert here[0.01].low < 10.0 < here[0.01].high
    assert 4.0 < here[0.01].factor < 25.0
    # with all labels the frozen backbone is better than anything from scratch: a limit of 1
    assert (here[1.0].bound, here[1.0].factor) == (">", 1.0)
    assert here[1.0].high == np.inf
    best = headline(made, saved)["morphology"]
    assert best.fraction == made.options.reference
    assert "..." in here[1.0].text()


def test_savings_whose_interval_lies_beyond_the_curve_are_limits():
    def text(factor, low, high, bound=""):
        return Saving("t", "b", "frozen", 0.1, 10, 0.8, factor, low, high, bound).text()

    assert text(3.0, 1.5, 6.0) == "3 [1.5, 6]"
    assert text(3.0, 0.0, np.inf) == "3 [..., ...]"
    assert text(10.0, 2.0, np.inf, ">") == ">10 [2, ...]"
    assert text(10.0, np.inf, np.inf, ">") == ">10 [>10, ...]"
    assert text(0.3, 0.0, 0.0, "<") == "<0.3 [..., <0.3]"


def test_two_seeds_that_differ_do_not_make_shares_below_nothing_or_above_all(tmp_path):
    made = study(tmp_path, lambda c: 0.55 + 0.4 * c.seed, seeds=2, fractions=[0.1])
    for route in routes(made):
        figure = route.figures["accuracy"]
        assert 0.0 <= figure.low < 0.55 < 0.95 < figure.high <= 1.0


def test_no_advantage_is_no_saving(tmp_path):
    made = study(tmp_path, lambda c: 0.4 + 0.15 * np.log10(c.fraction / 0.01))
    here = {s.fraction: s for s in savings(made, routes(made)) if s.backbone == "one"}
    assert here[0.1].low < 1.0 < here[0.1].high


def test_files_of_an_unfinished_study(tmp_path):
    from pyarrow import parquet

    made = study(tmp_path, lambda c: None if c.fraction == 1.0 else by_labels(c))
    # other's scratch cells are one's
    assert len(made.missing()) == 4 * (3 + 1)
    files = write_study(made)
    assert {file.name for file in files} == {
        "cells.parquet", "routes.parquet", "savings.parquet", "study.md", "label_efficiency.png"
    }  # fmt: skip
    cells = parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    assert len(cells) == 4 * 2 * 5
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in cells)
    assert {row["weights"] for row in cells if row["mode"] == "scratch"} == {None}
    page = (tmp_path / "study.md").read_text()
    assert "**Label-saving factor:" in page
    assert "| one | frozen |" in page
    assert write_study(study(tmp_path / "none", lambda c: None)) == []


def test_the_interval_over_seeds_is_wider_than_that_of_one(tmp_path):
    def scattered(cell):
        return 0.5 + 0.2 * (cell.seed % 2)

    made = study(tmp_path, scattered, modes=["frozen"])
    route = next(r for r in routes(made) if r.backbone == "one")
    figure = route.figures["accuracy"]
    # scatter of 0.115 over 4 seeds and t(3): 0.18 to either side, where units alone give 0.03
    assert 0.1 < figure.high - figure.value < 0.4


def test_text_of_a_limit():
    one = Saving("t", "b", "frozen", 0.1, 10, 0.5, 4.0, 0.0, np.inf, ">")
    assert one.text() == ">4 [..., ...]"
