"""The table of detectors: its scorer, what it compares, and which rows it lets speak."""
# ruff: noqa: E402

import json

import numpy as np
import pytest
from requirements import require

require("learned")

import torch
from astropy.io import fits
from click.testing import CliRunner

from cyclades.pipeline.cli import cli
from cyclades.pipeline.commands.study import _read
from cyclades.pipeline.comparison.detection_metrics import average_precision, benchmark_scores
from cyclades.pipeline.comparison.detection_tables import without_ignored
from cyclades.pipeline.comparison.overlaps import Objects, box_overlaps
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.studies.cells import Outcome, Store
from cyclades.pipeline.studies.detectors.benchmarks import build_benchmark
from cyclades.pipeline.studies.detectors.catalogues import mosaic, run_route
from cyclades.pipeline.studies.detectors.convergence import flatness
from cyclades.pipeline.studies.detectors.judging import judged_catalogues
from cyclades.pipeline.studies.detectors.options import (
    DetectorStudyOptions,
    LabelledBenchmarkOptions,
)
from cyclades.pipeline.studies.detectors.published import PUBLISHED
from cyclades.pipeline.studies.detectors.running import DetectorCell, DetectorStudy
from cyclades.pipeline.studies.detectors.scoring import Pooled, judged_tile
from cyclades.pipeline.studies.detectors.summary import rows
from cyclades.pipeline.studies.detectors.table import write_detectors
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.errors import ConfigurationError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BACKBONE = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}, "channels": 16}
HEAD = {"name": "faster_rcnn", "options": {"hidden": 16}}
NETWORK = {"network": {"backbone": BACKBONE, "head": HEAD}}
BASE = {
    "detectors": {"one": NETWORK, "classical": {"route": "classical"}},
    "data": {"sky": {"kind": "simulated", "size": 64, "tiles": 3, "sky": {"preset": "natural"}}},
    "budget": {"images": 4},
    "training": {"batch": 2, "warm_up": 1, "precision": "float32"},
    "input": {"mesh": 32, "beam_pixels": [3.5, 8.0]},
    "seeds": 2,
    "points": 2,
    "validation": 1,
    "calibration": 1,
    "untrained": 2,
    "speed_tiles": 0,
    "resamples": 20,
}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def options(**changes):
    return DetectorStudyOptions.from_mapping(BASE | changes)


def drawn_objects(seed):
    """Truth and detections of one tile, overlapping by chance, with all that complicates it."""
    rng = np.random.default_rng(seed)
    kinds = ("compact", "extended", "spurious")

    def boxes(centre):
        half = rng.uniform(3, 6, (len(centre), 2))
        return np.concatenate([centre - half, centre + half], 1)

    centre = rng.uniform(10, 110, (8, 2))
    labels = tuple(rng.choice(kinds, 8))
    truth = Objects(boxes(centre), None, labels, None, rng.random(8) < 0.3)
    near = np.concatenate([centre + rng.normal(0, 1, centre.shape), rng.uniform(0, 120, (6, 2))])
    named = tuple(rng.choice(kinds, 14))
    found = Objects(boxes(near), np.round(rng.random(14), 2), named)
    return truth, found


def real(objects):
    return objects.take(np.flatnonzero([name != "spurious" for name in objects.labels]))


def test_pooled_figures_are_those_of_the_metrics():
    pairs = [drawn_objects(seed) for seed in range(12)]
    units = [judged_tile(truth, found, found, 0.4) for truth, found in pairs]
    pooled = Pooled(json.loads(json.dumps(units)), 0.95)
    # drawn twice counts twice
    for drawn in (np.arange(12), np.array([0, 3, 3, 3, 5, 7, 7, 9, 10, 11, 11, 1])):
        made = pooled.figures(drawn)
        truth, found = ([pairs[k][side] for k in drawn] for side in (0, 1))
        wanted = average_precision(truth, found)
        assert made["ap50"] == pytest.approx(wanted.ap50)
        assert made["ap"] == pytest.approx(wanted.ap)
        assert made["ap50_compact"] == pytest.approx(wanted.by_class["compact"][0])
        whatever = average_precision(
            [real(o).unclassed() for o in truth], [real(o).unclassed() for o in found]
        )
        assert made["ap50_any"] == pytest.approx(whatever.ap50)
        kept = [o.take(np.flatnonzero(o.scores >= 0.4)) for o in found]
        corrected = benchmark_scores(truth, kept, corrected=True)
        assert made["corrected_f1_total"] == pytest.approx(corrected.total.f1)
        seen = [without_ignored(t, f) for t, f in zip(truth, kept, strict=True)]
        compatible = benchmark_scores([t for t, _ in seen], [f for _, f in seen], corrected=False)
        assert made["compatible_f1_total"] == pytest.approx(compatible.total.f1)
        assert made["compatible_reliability_compact"] == pytest.approx(
            compatible.by_class["compact"].reliability
        )


def test_perfect_detections_have_full_marks_and_none_have_none():
    truth = drawn_objects(1)[0]
    found = Objects(truth.boxes, np.full(len(truth), 0.9), truth.labels)
    empty = Objects(np.zeros((0, 4)), np.zeros(0), ())
    best = Pooled([judged_tile(truth, found, found, 0.5)], 0.95).figures(np.arange(1))
    none = Pooled([judged_tile(truth, empty, empty, 0.5)], 0.95).figures(np.arange(1))
    for name in ("ap50", "ap", "ap50_any", "completeness_at_reliability", "corrected_f1_total"):
        assert best[name] == pytest.approx(1.0)
        assert none[name] == 0.0


def line(start, end, scatter=0.0, seed=0, number=24):
    noise = np.random.default_rng(seed).normal(0, scatter, number)
    return [(10 * (k + 1), float(v)) for k, v in enumerate(np.linspace(start, end, number) + noise)]


def test_a_curve_is_flat_where_its_end_rises_by_no_more_than_its_error():
    assert flatness([line(0.5, 0.5, 0.01, seed) for seed in range(3)], 0.01).flat
    rising = flatness([line(0.1, 0.7, 0.01, seed) for seed in range(3)], 0.01)
    assert not rising.flat
    # a third of the rise lies in the last third, whatever level each seed has
    assert rising.rise == pytest.approx(0.2, abs=0.02)
    assert 0.0 < rising.error < 0.02
    apart = flatness([line(0.1, 0.1, 0.002, 1), line(0.8, 0.8, 0.002, 2)], 0.01)
    assert apart.flat
    assert apart.error < 0.01
    assert not flatness([line(0.5, 0.5, 0.4)], 0.01).flat
    assert not flatness([line(0.5, 0.5, number=6)], 0.01).flat
    assert not flatness([[]], 0.01).flat
    # what fell is not still rising
    assert flatness([line(0.7, 0.6, 0.001)], 0.01).flat


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budget": {}}, "images or seconds"),
        ({"budget": {"images": 3, "seconds": 3}}, "images or seconds"),
        ({"detectors": {"a": {}}}, "a network or a route"),
        ({"detectors": {"a": {"route": "classical", "budget": {"images": 3}}}}, "not trained"),
        ({"detectors": {"a": {"route": "classical", "detector": "b"}}}, "no row with a network"),
        ({"detectors": {"a": {"network": {"classes": ["x"]}}}}, "classes are options of the data"),
        ({"training": {"steps": 4}}, r"training\.steps is set by the study itself"),
        ({"data": {}}, "at least one"),
        ({"stepz": 3}, "no such option"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_a_sentence(change, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        options(**change)


def test_rows_that_cannot_be_are_left_out_and_said(tmp_path):
    study = DetectorStudy.plan(
        options(
            detectors={
                "one": NETWORK,
                "future": {"network": {"backbone": None, "head": {"name": "from_the_future"}}},
                "lost": {
                    "network": {"backbone": BACKBONE | {"weights": "no.safetensors"}, "head": HEAD}
                },
                "classical": {"route": "classical"},
            },
            data=BASE["data"] | {"first": {"kind": "first"}},
        ),
        tmp_path,
    )
    # routes draw nothing and run once
    assert [(c.detector, c.seed) for c in study.keys] == [("one", 0), ("classical", 0), ("one", 1)]
    reasons = dict(study.problems)
    assert sum(reasons.values()) == 2 + 2 + 2 + 2 + 2 + 1
    assert any("from_the_future" in reason for reason in reasons)
    assert any("no.safetensors" in reason for reason in reasons)
    assert any("data.first.images" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["detectors_quick", "detectors_cpu", "detectors"])
def test_shipped_configurations_are_sound(name, monkeypatch, tmp_path):
    monkeypatch.setattr("cyclades.pipeline.studies.detectors.running.lacking", lambda spec: None)
    monkeypatch.setattr("cyclades.pipeline.studies.detectors.running.weights_hash", lambda s: "w")
    given = _read(DetectorStudyOptions, name, ())
    study = DetectorStudy.plan(given, tmp_path)
    allowed = ("There is no head", "are FIRST fields")
    assert all(any(a in reason for a in allowed) for reason in study.problems)
    assert {one.published for one in given.detectors.values()} - {None} <= PUBLISHED.keys()


def test_a_seed_shows_every_network_the_same_tiles_in_the_same_order(tmp_path):
    masks = {"network": {"backbone": BACKBONE, "head": {"name": "mask_rcnn"}}}
    larger = masks | {"training": {"batch": 4}}
    study = DetectorStudy.plan(options(detectors={"one": NETWORK, "other": larger}), tmp_path)
    one, other, again = (
        study.training(DetectorCell("sky", *cell))
        for cell in (("one", 0), ("other", 0), ("one", 1))
    )
    assert one.data == other.data
    assert one.seed == other.seed == 0
    assert one.augmentation == other.augmentation
    # as many images in fewer steps
    assert (one.steps, other.steps) == (2, 1)
    assert one.data != again.data
    test = study.data["sky"].options.sky.seed
    assert len({test, one.data.seed, again.data.seed}) == 3


def test_keys_hold_what_a_result_depends_on_and_no_names(tmp_path):
    hybrid = {"route": "classical", "detector": "one"}

    def keys(**changes):
        study = DetectorStudy.plan(options(seeds=1, **changes), tmp_path)
        return {cell.detector: name for cell, name in study.keys.items()}

    both = {"one": NETWORK, "both": hybrid}
    plain = keys(detectors=both)
    assert len(set(plain.values())) == 2
    renamed = keys(detectors={"same": NETWORK, "it": hybrid | {"detector": "same"}})
    assert renamed["same"] == plain["one"]
    assert renamed["it"] == plain["both"]
    longer = keys(detectors=both, budget={"images": 8})
    assert longer["one"] != plain["one"]
    assert longer["both"] != plain["both"]
    assert keys(detectors=both, training=BASE["training"] | {"workers": 1}) == plain
    assert keys(detectors=both, reliability=0.9) == plain
    loose = {"one": NETWORK, "both": hybrid | {"changes": ["detection.probability=0.1"]}}
    assert keys(detectors=loose)["both"] != plain["both"]


@pytest.mark.parametrize("boxes", ["sources", "detections"])
def test_boxes_of_a_catalogue_are_those_of_the_labels(boxes):
    source = build_source(SimulatedOptions(preset="natural", seed=3), 128)
    tiles = [source.sample(k) for k in range(16)]
    route = RouteConfig.from_route("classical")
    found = run_route(route, tiles, boxes=boxes, device="cpu", threads=1)
    offsets, overlaps = [], []
    for tile, one in zip(tiles, found, strict=True):
        assert one.labels is None
        assert ((one.boxes >= 0.0) & (one.boxes <= 128.0)).all()
        truth = np.asarray(tile.boxes, float)[~tile.ignore & (tile.classes == 0) & (tile.snr > 10)]
        pairs = box_overlaps(truth, one.boxes)
        for row in np.unique(pairs.first):
            mine = np.flatnonzero(pairs.first == row)
            best = mine[np.argmax(pairs.iou[mine])]
            overlaps.append(pairs.iou[best])
            middle = one.boxes[pairs.second[best]] - truth[row]
            offsets.append(middle.reshape(2, 2).mean(0))
    assert len(overlaps) > 10
    # half a pixel would show
    assert np.abs(np.median(offsets, 0)).max() < 0.2
    assert np.median(overlaps) > 0.5


def test_tiles_are_joined_in_units_of_their_noise():
    source = build_source(SimulatedOptions(preset="natural", seed=3), 128)
    bright = [source.sample(0), source.sample(1)]
    plane, beam = mosaic([*bright, *bright, bright[0]])
    noise = 1.4826 * np.nanmedian(np.abs(plane - np.nanmedian(plane)))
    assert 0.5 < noise < 2.0
    assert plane.shape == (256, 256)
    np.testing.assert_array_equal(beam, bright[0].beam)


def test_catalogues_with_classes_count_the_truth_of_tiles_on_which_they_are_empty():
    sky = options().data["sky"].sky
    tiles = [build_source(sky, 128).sample(k) for k in range(6)]
    empty = Objects(np.zeros((0, 4)), np.zeros(0))
    full = next(k for k, tile in enumerate(tiles) if (~tile.ignore).any())
    found = [[empty] for _ in tiles]
    plain = Pooled(judged_catalogues([[t] for t in tiles], found, _classes()), 0.95)
    assert ("corrected", "total") not in plain.counts()
    boxes = np.asarray(tiles[full].boxes, float)
    labels = tuple(_classes()[k] for k in tiles[full].classes)
    found[full] = [Objects(boxes, np.ones(len(boxes)), labels)]
    named = Pooled(judged_catalogues([[t] for t in tiles], found, _classes()), 0.95).counts()
    spurious = _classes().index("spurious")
    every = sum(int(np.count_nonzero(~t.ignore & (t.classes != spurious))) for t in tiles)
    assert named["corrected", "total"].truth == every == plain.counts()["any", "total"].truth
    assert 0 < named["corrected", "total"].hits < every


def _classes():
    return options().data["sky"].classes


def invented(folder, **curves):
    """A study whose rows have known curves and detections: share found, by row."""
    detectors = dict.fromkeys(curves, NETWORK)
    for k, name in enumerate(curves):
        detectors[name] = {"network": {"backbone": BACKBONE | {"channels": 16 + 8 * k},
                                       "head": HEAD}}  # fmt: skip
    detectors["poor"] = detectors.get("poor", NETWORK)
    detectors["longer"] = detectors["flat"] | {"budget": {"images": 40}}
    detectors["hybrid"] = {"route": "classical", "detector": "rising"}
    detectors["classical"] = {"route": "classical"}
    study = DetectorStudy.plan(options(detectors=detectors, seeds=2), folder)
    truth = [drawn_objects(seed)[0] for seed in range(4)]
    for cell, name in study.keys.items():
        share = {"flat": 0.5, "longer": 0.9, "rising": 0.6}.get(cell.detector, 0.7)
        units = []
        for one in truth:
            kept = one.take(np.arange(len(one))[: round(share * len(one))])
            found = Objects(kept.boxes, np.full(len(kept), 0.9), kept.labels)
            units.append(judged_tile(one, found, found, 0.5))
        further = {}
        if cell.detector in (*curves, "longer", "poor"):
            images = 40 if cell.detector == "longer" else 4
            start, end = curves.get(cell.detector, (0.8, 0.8))
            further = {
                "curve": line(start, end, 0.002, cell.seed), "images": images, "steps": 240,
                "parameters": 1000, "untrained": 0.5 if cell.detector == "poor" else 0.01,
                "trained": 0.7, "limit": 0.5, "mpx_per_second": 2.0, "peak_memory_mb": 300.0,
            }  # fmt: skip
        Store(folder).write(name, study.contents[name], Outcome(4, tuple(units), 2.0, further))
    return study


def test_rows_that_are_not_converged_carry_no_claim(tmp_path):
    from pyarrow import parquet

    study = invented(tmp_path, flat=(0.8, 0.8), rising=(0.1, 0.9), poor=(0.6, 0.6), good=(0.7, 0.7))
    found = {row.detector: row for row in rows(study)}
    assert found["good"].claim
    assert found["classical"].claim
    assert "over the last third" in found["rising"].why
    assert "untrained self" in found["poor"].why
    # its curve is flat, but the same network does better when it is trained longer
    assert found["flat"].flat.flat
    assert "longer" in found["flat"].why
    assert found["longer"].claim
    assert "its network is not converged" in found["hybrid"].why
    files = write_detectors(study)
    assert {file.name for file in files} == {
        "cells.parquet", "detectors.parquet", "curves.parquet", "detectors.md",
        "accuracy_speed.png", "curves.png",
    }  # fmt: skip
    page = (tmp_path / "detectors.md").read_text()
    table = [row for row in page.split("\n") if row.startswith("| rising |")]
    assert len(table) == 3
    for row in table[:2]:
        assert set(row.split("|")[2:-2]) == {" - "}
    assert "seed 1, validation AP50 up to step 240: 0.1" in page
    good = next(row for row in page.split("\n") if row.startswith("| good |"))
    assert "1.000" in good
    tidy = parquet.read_table(tmp_path / "detectors.parquet").to_pylist()
    assert {row["detector"] for row in tidy if row["claim"]} == {"good", "longer", "classical"}
    curves = parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert max(r["images"] for r in curves if r["detector"] == "longer") == 40


def test_nothing_is_written_of_nothing(tmp_path):
    assert write_detectors(DetectorStudy.plan(options(), tmp_path)) == []


def test_the_command_trains_judges_and_goes_on(tmp_path):
    content = BASE | {
        "seeds": 1,
        "detectors": {
            "one": NETWORK,
            "timed": NETWORK | {"budget": {"seconds": 0.5}},
            "hybrid": {"route": "classical", "detector": "one"},
        },
    }
    content["pilot"] = 4
    (tmp_path / "table.yaml").write_text(json.dumps(content))
    arguments = ["study", "detectors", "--config", str(tmp_path / "table.yaml"),
                 "--output", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "3 of 3 cells are there" in done.output
    assert not any((tmp_path / "out" / "runs").iterdir())
    study = DetectorStudy.plan(DetectorStudyOptions.from_mapping(content), tmp_path / "out")
    outcomes = {cell.detector: outcome for cell, outcome in study.outcomes()}
    assert outcomes["one"].further["images"] == 4
    assert len(outcomes["one"].further["curve"]) == 2
    assert outcomes["one"].further["curve"][-1][0] == 2
    assert outcomes["one"].seconds > 0.0
    assert outcomes["timed"].further["steps"] >= 1
    assert len(outcomes["hybrid"].units) == 3
    assert study.waves() == []
    page = (tmp_path / "out" / "detectors.md").read_text()
    assert "not converged" in page
    assert "0.5 s (own)" in page
    # what is there is not computed again, and --table computes nothing
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cells").iterdir()}
    more = [*arguments, "--set", "detectors.classical={route: classical}"]
    table = CliRunner().invoke(cli, [*more, "--table"])
    assert "3 of 4 cells are there" in table.output
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cells").iterdir()} == kept
    # a hybrid whose network is not kept has it trained again
    for file in (tmp_path / "out" / "weights").iterdir():
        file.unlink()
    study.contents.clear()
    path = Store(study.folder).path(study.keys[DetectorCell("sky", "hybrid", 0)])
    path.unlink()
    waves = study.waves()
    assert [[cell.detector for cell in wave] for wave in waves] == [["one"], ["hybrid"]]


def test_labelled_images_of_ones_own_are_data_too(tmp_path):
    rng = np.random.default_rng(5)
    for side in ("train", "test"):
        folder = tmp_path / side
        folder.mkdir()
        plane = rng.normal(0.0, 0.01, (80, 80)).astype("f4")
        drawn = np.zeros(plane.shape, "u1")
        drawn[20:28, 30:38] = 1
        fits.writeto(folder / "a.fits", plane + drawn)
        fits.writeto(folder / "mask.fits.gz", drawn)
        content = {"img": "a.fits", "objs": [{"mask": "mask.fits.gz", "class": "compact"}]}
        (folder / "a.json").write_text(json.dumps(content))

    def benchmark():
        made = {
            side: {"kind": "folder", "images": str(tmp_path / side / "a.fits"),
                   "labels": str(tmp_path / side)}
            for side in ("train", "test")
        }  # fmt: skip
        given = LabelledBenchmarkOptions.from_mapping({"size": 64, "tiles": 4, **made})
        return build_benchmark("mine", given)

    mine = benchmark()
    tiles = [tile for (tile,) in mine.test]
    assert len(tiles) == 4
    assert all(tile.image[tile.segments.indices // 64, tile.segments.indices % 64].min() > 0.9
               for tile in tiles if len(tile))  # fmt: skip
    assert any(len(tile) for tile in tiles)
    assert mine.training(0) != mine.training(1)
    before = mine.fingerprint()
    assert str(tmp_path) not in json.dumps(before)
    (tmp_path / "test" / "a.json").write_text('{"img": "a.fits", "objs": []}')
    assert benchmark().fingerprint() != before


def test_fields_of_first_are_three_parts_of_the_sky(shared_data):
    folder = shared_data / "first-rgz-fields-dev"
    given = options(
        data={"first": {"kind": "first", "size": 64, "images": str(folder / "1[0-2]*.fits.gz"),
                        "labels": str(folder / "labels.csv"), "crops": 1}}
    ).data["first"]  # fmt: skip
    mine = build_benchmark("first", given)
    learned, validated = set(mine.training(0).images), set(mine.validation(0).images)
    tested = set(mine._fields.sides[1])
    assert learned
    assert validated
    assert tested
    assert not learned & validated
    assert not (learned | validated) & tested
    assert mine.training(0).images != mine.training(1).images
