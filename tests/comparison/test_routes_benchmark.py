"""The benchmark of routes: what a shared look saves, and how a route is chosen."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from astropy.table import Table

from cyclades.pipeline.comparison.swaps import Swap
from cyclades.pipeline.config import RouteConfig

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("routes_benchmark", FOLDER / "routes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_look_each_shows_the_network_the_tiles_twice(script, monkeypatch):
    monkeypatch.setattr(script, "SHARED", {"yolo": script.SHARED["yolo"][:1]})
    alone, shared, apart = script.seconds(288, 1, repeats=1)
    tiles = [int(row["tiles seen"]) for row in (alone, shared, apart)]
    # the shrunk image is looked at by either, for either leaves out other objects
    assert tiles[0] >= 1
    assert tiles[2] - tiles[1] == 1
    assert shared["route"] == "masked+yolo+associate, one look"
    assert script.markdown([alone, shared, apart]).count("\n") == 4


def test_the_best_route_scores_highest_and_is_not_biased(script, monkeypatch):
    config = RouteConfig.from_route("classical")
    others = {"better": "sep", "biased": "photutils", "dearer": "none"}
    rows = [Swap("base", (), config)]
    rows += [Swap(name, (), config.replace(background=b)) for name, b in others.items()]
    table = Table(
        {
            "route": [row.label for row in rows],
            "completeness_at_reliability": [0.8, 0.9, 0.95, 0.9],
            "f1": [0.8, 0.9, 0.95, 0.9],
            "total_flux_ratio": [0.99, 1.0, 0.9, 1.0],
            "cpu_seconds": [1.0, 2.0, 1.0, 3.0],
        }
    )
    pairs = dict(zip(table["route"], [0.8, 0.9, 0.95, 0.9], strict=True))
    monkeypatch.setattr(script, "figures", lambda judged: {"pair_f1": pairs[judged[0]]})
    judged = {row.label: [row.label] for row in rows}
    matrix = SimpleNamespace(table=table, rows=tuple(rows), judged=judged)
    text = script.chosen({"one": matrix})
    order = [line.split("|")[1].strip() for line in text.splitlines()[2:6]]
    assert order == ["better", "dearer", "base", "biased"]
    assert "name: sep" in text
