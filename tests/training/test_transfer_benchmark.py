"""The benchmark of starts and telescopes: what it trains, and how its table is made."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from requirements import require

require("learned")

TELESCOPES = ("vla", "askap", "atca")


@pytest.fixture
def transfer(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("transfer")
    sys.modules.pop("transfer", None)


@pytest.fixture
def arguments(tmp_path):
    return Namespace(
        output=tmp_path, steps=600, tiles=4, seeds=3, telescopes=list(TELESCOPES),
        parts=["mixed", "unseen"], backbone="tf_efficientnet_lite0",
        weights="efficientnet-lite0-imagenet", size=256, batch=8, learning_rate=1e-3,
        precision="bfloat16", workers=0, threads=1, progress=False, table=False,
    )  # fmt: skip


def test_pairs_differ_in_their_start_alone(transfer, arguments):
    runs = list(transfer.runs(arguments))
    assert len(runs) == len({run.folder(arguments.output) for run in runs}) == 24
    seeds = set()
    for one, other in zip(runs[::2], runs[1::2], strict=True):
        assert (one.start, other.start) == ("ImageNet", "scratch")
        mine, theirs = one.options(arguments), other.options(arguments)
        assert mine.network.backbone.weights == "efficientnet-lite0-imagenet"
        assert theirs.network.backbone.weights is None
        backbone = mine.network.backbone.model_copy(update={"weights": None})
        network = mine.network.model_copy(update={"backbone": backbone})
        mine = mine.model_copy(update={"network": network, "adaptation": theirs.adaptation})
        assert mine == theirs
        assert [data.preset for data in theirs.data] == list(one.telescopes)
        assert theirs.steps % theirs.steps_a_checkpoint == 0
        seeds |= {data.seed for data in theirs.data}
    # telescopes of one training, and trainings of several seeds, share no simulated sky
    assert len(seeds) == 9
    assert max(seeds) < transfer.HELD_OUT


def test_the_table_holds_means_spreads_and_paired_differences(transfer, arguments):
    rng = np.random.default_rng(1)
    level = dict(zip(range(3), rng.normal(0.5, 0.2, 3), strict=True))
    better = {0: 0.01, 1: 0.02, 2: 0.06}
    done = {}
    for run in transfer.runs(arguments):
        value = level[run.seed] + (better[run.seed] if run.start == "ImageNet" else 0.0)
        done[run] = {name: {"ap50": value, "completeness_at_95": value} for name in TELESCOPES}
    lines = [line.strip("| ").split(" | ") for line in transfer.table(done, TELESCOPES).split("\n")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    # all telescopes, each of them seen and each of them left out: two starts and a difference
    assert len(rows) == 3 * (1 + 3 + 3)
    assert {row["tested on"] for row in rows if row["trained on"] == "askap + atca"} == {"vla"}
    scratch = np.array(list(level.values()))
    wanted = f"{scratch.mean():.3f} ± {scratch.std(ddof=1):.3f}"
    assert {row["AP50"] for row in rows if row["start"] == "scratch"} == {wanted}
    # what seeds share is no part of the error of the difference
    error = np.std(list(better.values()), ddof=1) / 3**0.5
    difference = {row["C at R .95"] for row in rows if row["start"] == "ImageNet - scratch"}
    assert difference == {f"+0.030 ± {error:.3f}"}
    assert {row["AP50 diffuse"] for row in rows} == {"-"}
    # of a single pair there is no error, and a start without its pair has no difference
    few = {run: found for run, found in done.items() if run.seed == 0}
    assert "| +0.010 |" in transfer.table(few, TELESCOPES)
    few = {run: found for run, found in few.items() if run.start == "scratch"}
    assert "+" not in transfer.table(few, TELESCOPES).replace("vla + ", "").replace("askap + ", "")
    assert transfer.table({}, TELESCOPES) == "No training is complete."


def test_figures_are_taken_up_only_where_they_are_of_the_same_benchmark(transfer, arguments):
    run = next(transfer.runs(arguments))
    folder = run.folder(arguments.output)
    assert transfer.judged(run, arguments) is None
    folder.mkdir()
    kept = {name: {"ap50": 0.5} for name in TELESCOPES}
    text = json.dumps({**transfer.identity(run, arguments), "figures": kept})
    (folder / "figures.json").write_text(text)
    for name, value, wanted in (
        ("workers", 3, kept),
        ("tiles", 8, None),
        ("steps", 500, None),
        ("backbone", "resnet18", None),
    ):
        changed = Namespace(**{**vars(arguments), name: value})
        assert transfer.judged(run, changed) == wanted, name
