"""The whole comparison, from Python and from the command line."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from comparison_cases import observed, random_truth, rows
from factories import make_catalogue

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.samples import write_sample
from cyclades.stages.core.errors import InputError, OutputError


def cyclades(*arguments):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(31)
    truth = random_truth(300, rng)
    one = observed(truth, rng, keep=truth["snr"] > 5, name="one")
    other = observed(truth, rng, keep=rng.random(300) < 0.5, false=30, name="other")
    return truth, one, other


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated field, its truth, and the classical catalogue of it."""
    folder = tmp_path_factory.mktemp("field")
    image, truth = write_sample("simulated", folder)
    Pipeline.from_route("classical").run(image).write(folder)
    return image, truth, folder / f"{image.stem}.catalogue.fits"


def test_the_better_catalogue_wins(tables):
    truth, one, other = tables
    made = compare([one, other], truth)
    f1 = dict(zip(made.summary["catalogue"], made.summary["f1"], strict=True))
    assert f1["one"] > 0.95 > f1["other"]
    for row in made.summary:
        assert row["f1_low"] <= row["f1"] <= row["f1_high"]
        assert row["completeness_low"] < row["completeness"] <= row["completeness_high"]
    assert made.meta["floor"] == 5.0
    assert sum(made.meta["truth_by_snr"].values()) == len(truth)
    for name, table in made.tables.items():
        assert len(table), name
    assert set(made.cross["catalogue"]) == {"truth", "one", "other"}
    assert len(made.cross) == len(truth) + len(one) + len(other)
    text = made.format()
    assert "(true sources)" in text
    for word in ("one", "other", "pulls", "agreement", "5-7"):
        assert word in text


def test_catalogues_agree_without_truth(tables):
    _, one, other = tables
    made = compare({"a": one, "b": other})
    assert not made.outcomes
    assert not len(made.summary)
    (row,) = made.agreement
    assert (row["first"], row["second"]) == ("a", "b")
    assert row["first_rows"] == len(one)
    assert row["matched"] == pytest.approx(row["first_share"] * len(one))
    assert row["peak_flux_ratio"] == pytest.approx(1.0, abs=0.05)
    assert made.format().startswith("agreement of catalogues")


def test_rows_without_a_position_are_left_out_everywhere(tables):
    truth, one, _ = tables
    lost = one.replace(ra=np.where(np.arange(len(one)) == 3, np.nan, one["ra"]))
    made = compare([lost], truth)
    assert len(made.catalogues["one"]) == len(made.outcomes["one"].catalogue) == len(one) - 1
    assert np.sum(made.cross["catalogue"] == "one") == len(one) - 1
    assert made.meta["notes"] == ["1 rows of one have no position and are left out"]


def test_what_is_written_is_read_back(tables, tmp_path):
    truth, one, other = tables
    made = compare([one, other], truth)
    files = made.write(tmp_path / "out")
    assert {file.name for file in files} == {
        "summary.ecsv", "by_snr.ecsv", "by_flux.ecsv", "by_class.ecsv", "curves.ecsv",
        "pulls.ecsv", "accuracy.ecsv", "agreement.ecsv", "cross.ecsv", "comparison.json",
        "average_precision.ecsv", "benchmark.ecsv", "corrections.ecsv",
    }  # fmt: skip
    back = Table.read(tmp_path / "out" / "cross.ecsv")
    assert len(back) == len(made.cross)
    assert str(back["ra"].unit) == "deg"
    held = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert held["summary"][0]["completeness"] == made.summary["completeness"][0]
    assert held["meta"]["beam"] == 10.0
    assert held["by_snr"][0]["completeness"] is None  # nothing counts below the floor
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        made.write(tmp_path / "file")


def test_a_write_that_fails_leaves_the_tables_of_before(tables, tmp_path, monkeypatch):
    truth, one, _ = tables
    made = compare([one], truth)
    made.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(table, path, **options):
        path.write_text("half of a tab")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Table, "write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        made.write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_compared_is_refused(tables):
    truth, one, _ = tables
    with pytest.raises(InputError, match="nothing to compare with"):
        compare([one])
    with pytest.raises(InputError, match="called 'one'"):
        compare([one, one])
    assert len(compare([one], truth).summary) == 1


def test_a_catalogue_in_memory_is_taken():
    catalogue = make_catalogue()
    made = compare({"ours": catalogue, "again": catalogue})
    assert made.agreement["matched"][0] == len(catalogue)
    assert made.agreement["separation"][0] == pytest.approx(0.0, abs=1e-5)
    assert made.meta["beam"] == pytest.approx(12.0)


def test_the_image_gives_what_a_truth_lacks(simulated):
    path, _, catalogue = simulated
    from cyclades.pipeline.comparison.any_catalogue import read_any
    from cyclades.stages.core.io import read_image

    found = read_any(catalogue)
    image = read_image(path)
    bare = rows(np.zeros(len(found) + 1), 0.0).replace(
        ra=np.append(found["ra"], found["ra"][0] + 5.0),
        dec=np.append(found["dec"], found["dec"][0]),
        **{
            name: np.full(len(found) + 1, np.nan)
            for name in ("peak_flux", "total_flux", "snr", "local_rms", "major", "minor")
        },
    )
    made = compare({"x": found}, bare, image)
    assert len(made.truth) == len(found)
    assert "1 true sources off the image" in made.meta["notes"][0]
    ratio = made.truth["snr"] / found["snr"]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    assert made.summary["completeness"][0] == 1.0
    without = compare({"x": found}, bare)
    assert without.summary["truth"][0] == len(bare)
    assert "have no S/N" in without.meta["notes"][0]


def test_blank_pixels_hold_no_truth(simulated):
    from cyclades.pipeline.comparison.any_catalogue import read_any
    from cyclades.stages.core.io import read_image

    path, _, catalogue = simulated
    found, image = read_any(catalogue), read_image(path)
    data = image.data.copy()
    column, row = np.rint(found["x"][0]).astype(int), np.rint(found["y"][0]).astype(int)
    data[row, column] = np.nan
    made = compare({"x": found}, found, image.replace(data=data))
    assert len(made.truth) == len(found) - 1


def test_the_command_judges_a_catalogue(simulated, capsys, monkeypatch, tmp_path):
    _, truth, catalogue = simulated
    page = ModuleType("cyclades.pipeline.comparison.report")
    page.write_report = lambda comparison, directory: directory / "report.html"
    monkeypatch.setitem(sys.modules, page.__name__, page)
    out = tmp_path / "report"
    assert cyclades("compare", f"classical={catalogue}", "--truth", truth, "--report", out) == 0
    text = capsys.readouterr().out
    assert "true sources at S/N of 5 and above" in text
    assert "\nclassical " in text
    assert text.rstrip().endswith("report.html")
    assert (out / "summary.ecsv").exists()


def test_files_are_called_by_their_names(simulated, capsys, tmp_path):
    _, _, catalogue = simulated
    odd = tmp_path / "a=b.fits"
    odd.write_bytes(catalogue.read_bytes())
    assert cyclades("compare", catalogue, odd) == 0
    text = capsys.readouterr().out
    assert catalogue.name.removesuffix(".catalogue.fits") in text
    assert "a=b" in text
    assert cyclades("compare", catalogue, catalogue) == 2
    assert "LABEL=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("CATALOGUE",), "nothing to compare with"),
        (("CATALOGUE", "--truth", "absent.csv"), "There is no file absent.csv"),
        (("CATALOGUE", "b=IMAGE"), "it holds no table"),
    ],
)
def test_a_users_error_is_one_sentence(simulated, capsys, arguments, words):
    image, _, catalogue = simulated
    names = {"CATALOGUE": str(catalogue), "b=IMAGE": f"b={image}"}
    assert cyclades("compare", *[names.get(a, a) for a in arguments]) == 2
    text = capsys.readouterr().err.strip()
    assert words in text
    assert "\n" not in text


def test_a_map_of_columns_serves_the_unknown_tables_only(simulated, tmp_path):
    _, _, catalogue = simulated
    with fits.open(catalogue) as hdus:
        held = hdus[1].data
        Table({"lon": held["ra"], "lat": held["dec"], "S": held["peak_flux"]}).write(
            tmp_path / "other.fits"
        )
    (tmp_path / "map.yaml").write_text("ra: lon\ndec: lat\npeak_flux: S\n")
    assert cyclades("compare", catalogue, tmp_path / "other.fits", "--columns",
                    tmp_path / "map.yaml") == 0  # fmt: skip
