"""The benchmark beside other finders, on a small field and without them."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SIZE, module.SEEDS = 256, (1, 2)
    return module


def test_simulated_fields_are_compared(peers, tmp_path):
    options = ["sky.counts.model=power_law", "sky.counts.density=700"]
    sample = peers.simulated(tmp_path, "small", options)
    made = peers.compared(sample, tmp_path, None)
    rows = peers.truth_rows(made, reliability=True)
    assert [row["finder"] for row in rows] == ["classical", "oracle"]
    assert 0.5 < float(rows[0]["F1"].split()[0]) <= 1.0
    lines = peers.markdown(rows).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert (tmp_path / "comparison" / "over_fields.ecsv").exists()
    assert peers.versions(None).startswith("cyclades ")


def test_a_finder_that_finds_nothing_has_an_empty_catalogue(peers, tmp_path):
    from cyclades.pipeline.comparison.any_catalogue import read_any

    assert len(read_any(peers.found(tmp_path / "absent.csv"))) == 0


def test_real_fields_have_the_surveys_beam(peers, shared_data):
    images = peers.first_fields(shared_data, 3)
    assert len(images) == 3
    for image in images:
        assert image.psf.axes[1] * 3600 == pytest.approx(5.4)
