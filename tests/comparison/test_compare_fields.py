"""Several fields pooled, with and without labels of volunteers."""

import json

import numpy as np
import pytest
from astropy.table import Table
from comparison_cases import observed, random_truth, rows

from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.compare import compare, compare_fields
from cyclades.pipeline.comparison.field import load_field
from cyclades.pipeline.comparison.fields_file import read_fields
from cyclades.stages.core.errors import InputError

FIELDS = 6


def cyclades(*arguments):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def write(table, path):
    """Write a comparison table in the common columns of the peers."""
    names = {"ra": "ra", "dec": "dec", "peak_flux": "peak_flux", "total_flux": "int_flux",
             "major": "maj", "minor": "min", "position_angle": "pa",
             "local_rms": "local_rms"}  # fmt: skip
    made = Table({theirs: table[ours] for ours, theirs in names.items()})
    for name in ("e_ra", "e_dec"):
        made[name] = np.full(len(table), 0.3 / 3600)
    for name in ("e_peak", "e_int"):
        made[name] = table["local_rms"]
    made.write(path, format="ascii.csv")


@pytest.fixture(scope="module")
def tables():
    """Truth, a good and a poor catalogue of fields that differ in how hard they are."""
    rng = np.random.default_rng(8)
    made = []
    for k in range(FIELDS):
        truth = random_truth(80, rng)
        good = observed(truth, rng, keep=truth["snr"] > 6 + k, name="good")
        kept = (truth["snr"] > 6 + k) & (rng.random(80) < 0.8)
        poor = observed(truth, rng, keep=kept, false=5, name="poor")
        made.append((truth, good, poor))
    return made


@pytest.fixture(scope="module")
def pooled(tables):
    loaded = [
        load_field([good, poor], truth, name=f"f{k}")
        for k, (truth, good, poor) in enumerate(tables)
    ]
    return compare_fields(loaded)


def test_pooled_counts_are_those_of_the_fields(tables, pooled):
    single = [compare([good, poor], truth) for truth, good, poor in tables]
    for name in ("truth", "rows", "false_rows", "truth_ignored"):
        assert np.array_equal(pooled.summary[name], sum(np.array(s.summary[name]) for s in single))
    assert pooled.agreement["matched"][0] == sum(s.agreement["matched"][0] for s in single)
    assert pooled.meta["fields"] == FIELDS
    assert "over_fields" not in single[0].further
    detections = [s.further["average_precision"]["detections"] for s in single]
    assert np.array_equal(pooled.further["average_precision"]["detections"], sum(detections))


def test_the_cross_table_counts_rows_over_all_fields(pooled):
    cross = pooled.cross
    assert set(cross["field"]) == {f"f{k}" for k in range(FIELDS)}
    for name in ("truth", "good", "poor"):
        table = pooled.truth if name == "truth" else pooled.catalogues[name]
        mine = cross[cross["catalogue"] == name]
        assert sorted(mine["row"]) == list(range(len(table)))
        assert np.array_equal(table["ra"][mine["row"]], mine["ra"])
    # fields that lie on each other stay apart
    for column in ("clump_id", "match_id"):
        numbers = [set(cross[column][cross["field"] == f"f{k}"]) for k in range(FIELDS)]
        assert sum(map(len, numbers)) == len(set.union(*numbers))


def test_fields_are_resampled_whole_and_in_pairs(pooled):
    table = pooled.further["over_fields"]
    alone = table[(table["catalogue"] == "good") & (table["quantity"] == "completeness")][0]
    assert alone["value"] == pytest.approx(pooled.summary["completeness"][0])
    # fields of different depth scatter more than as many independent sources
    own = pooled.summary[0]
    assert alone["high"] - alone["low"] > own["completeness_high"] - own["completeness_low"]
    (paired,) = table[(table["minus"] == "good") & (table["quantity"] == "completeness")]
    other = table[(table["catalogue"] == "poor") & (table["quantity"] == "completeness")][0]
    assert paired["catalogue"] == "poor"
    assert paired["value"] == pytest.approx(other["value"] - alone["value"])
    # what makes a field hard for both cancels
    assert paired["high"] < 0
    assert paired["high"] - paired["low"] < alone["high"] - alone["low"]


def test_a_file_lists_the_fields(tables, tmp_path, capsys):
    for k, (truth, good, poor) in enumerate(tables[:3]):
        for name, table in (("truth", truth), ("good", good), ("poor", poor)):
            write(table, tmp_path / f"{name}{k}.csv")
    entries = "".join(
        f"- truth: truth{k}.csv\n  catalogues: {{good: good{k}.csv, poor: poor{k}.csv}}\n"
        for k in range(3)
    )
    (tmp_path / "fields.yaml").write_text(f"fields:\n{entries}")
    out = tmp_path / "out"
    assert cyclades("compare", "--fields", tmp_path / "fields.yaml", "--report", out) == 0
    text = capsys.readouterr().out
    assert "resampling whole fields" in text
    assert "poor minus good" in text
    assert (out / "over_fields.ecsv").exists()
    assert (out / "field 2" / "report.html").exists()
    assert json.loads((out / "comparison.json").read_text())["meta"]["fields"] == 3


def test_a_deep_catalogue_of_a_list_serves_as_truth(tables, tmp_path):
    truth, good, _ = tables[0]
    for name, table in (("deep", truth), ("good", good)):
        write(table, tmp_path / f"{name}.csv")
    (tmp_path / "fields.yaml").write_text("fields: [{deep: deep.csv, catalogues: {a: good.csv}}]\n")
    (loaded,) = read_fields(tmp_path / "fields.yaml").load()
    assert loaded.truth is not None
    assert len(loaded.truth) == len(truth)
    assert loaded.outcomes["a"].found.any()


def test_a_pattern_stands_for_many_fields(tmp_path):
    for name in ("a.fits", "b.fits.gz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.yaml").write_text(
        "labels: l.csv\ncolumns: {ra: lon}\nfields:\n- image: '*.fits*'\n"
        "  truth: '{name}.txt'\n  catalogues: {x: 'out/{name}.csv'}\n"
    )
    listed = read_fields(tmp_path / "list.yaml")
    assert [f.name for f in listed.fields] == ["a.fits", "b.fits"]
    assert listed.fields[1].catalogues == {"x": tmp_path / "out" / "b.csv"}
    assert listed.fields[1].truth == tmp_path / "b.txt"
    assert listed.fields[1].image == tmp_path / "b.fits.gz"
    assert listed.labels == tmp_path / "l.csv"
    assert listed.columns == {"ra": "lon"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "cannot be read as a list of fields"),
        ("a: 1", "lists no fields"),
        ("fields: []", "lists no fields"),
        ("fields: [{catalogs: {a: b}}]", "field 1 names no catalogues"),
        ("fields: [{catalogues: {a: b}, iamge: c}]", "'iamge'"),
        ("label: x\nfields: [{catalogues: {a: b}}]", "did you mean 'labels'"),
        ("fields: [{image: '*.none', catalogues: {a: b}}]", "there is no image"),
        ("fields: [{image: a/x.fits, catalogues: {a: b}}, {image: b/x.fits, catalogues: {a: b}}]",
         "two fields"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_in_one_sentence(tmp_path, capsys, text, words):
    path = tmp_path / "fields.yaml"
    path.write_text(text)
    assert cyclades("compare", "--fields", path) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


def test_fields_and_one_field_exclude_each_other(tmp_path, capsys):
    assert cyclades("compare", "--fields", tmp_path / "x", "--truth", tmp_path / "t") == 2
    assert "--fields or --truth" in capsys.readouterr().err
    assert cyclades("compare") == 2
    assert "There is no catalogue" in capsys.readouterr().err


def test_fields_must_be_alike(tables):
    truth, good, poor = tables[0]
    one = load_field([good, poor], truth, name="one")
    with pytest.raises(InputError, match="differ in 'poor'"):
        compare_fields([one, load_field([good], truth, name="two")])
    with pytest.raises(InputError, match="one and two has a truth"):
        compare_fields([one, load_field([good, poor], name="two")])


@pytest.fixture
def labelled(tmp_path):
    """Four fields: a target of two components, one more source near it and one far from it."""
    lines = ["field,first_id,component_ras,component_decs,ang_extent_arcsec,consensus_level"]
    for k in range(4):
        # 20 arcsec to either side of the target
        step = 20 / 3600 / np.cos(np.radians(-30))
        lines.append(
            f"f{k}.fits.gz,FIRSTJ120000.0-300000,{180 + step};{180 - step},-30;-30,40,"
            f"{0.6 if k < 2 else 0.9}"
        )
        found = rows([20.0, -20.0, 0.0, 0.0], [0.0, 0.0, 70.0, 200.0])
        if k == 0:
            found = found.take(np.arange(1, 4))  # one component is missed
        write(found, tmp_path / f"f{k}.csv")
        (tmp_path / f"f{k}.fits").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_labels_judge_what_volunteers_saw(labelled):
    from cyclades.pipeline.comparison.any_catalogue import read_any
    from cyclades.pipeline.comparison.labels import read_labels

    loaded = [
        load_field({"x": read_any(labelled / f"f{k}.csv")}, name=f"f{k}.fits") for k in range(4)
    ]
    labels = read_labels(labelled / "labels.csv")
    table = compare_fields(loaded, labels=labels).further["labels"]
    value = {(r["quantity"], r["consensus"]): r["value"] for r in table}
    assert value["component recall", "plain"] == pytest.approx(7 / 8)
    assert value["component recall", "weighted"] == pytest.approx((0.6 * 3 + 0.9 * 4) / 6.0)
    assert value["component recall", "cut"] == 1.0
    # the far source counts neither way
    assert value["central precision", "plain"] == pytest.approx(7 / 11)
    assert value["central precision", "cut"] == pytest.approx(4 / 6)
    # separate rows cover a label only where one of its components is missing
    assert value["covered by one: own sources", "plain"] == pytest.approx(1 / 4)
    assert value["covered by one: friends of friends", "plain"] == 1.0
    assert value["covered by one: centre", "plain"] == 1.0
    assert value["pair completeness: own sources", "plain"] == 0.0
    assert value["pair f1: friends of friends", "plain"] == 1.0
    lengths = {r["quantity"]: r["length"] for r in table}
    assert 40 <= lengths["covered by one: friends of friends"] < 70
    with pytest.raises(InputError, match="No label belongs"):
        compare_fields([load_field({"x": loaded[0].catalogues["x"]}, name="z")], labels=labels)


def test_a_part_of_a_source_recalls_a_labelled_component_and_is_no_row_of_its_own(labelled):
    from cyclades.pipeline.comparison.any_catalogue import read_any
    from cyclades.pipeline.comparison.labels import read_labels

    loaded = []
    for k in range(4):
        table = read_any(labelled / f"f{k}.csv")
        if k == 1:  # the second component is what a fit adds to the first
            table = table.replace(part=[False, True, False, False], source=[0, 0, 1, 2])
        loaded.append(load_field({"x": table}, name=f"f{k}.fits"))
    rows = compare_fields(loaded, labels=read_labels(labelled / "labels.csv")).further["labels"]
    value = {(r["quantity"], r["consensus"]): r["value"] for r in rows}
    assert value["component recall", "plain"] == pytest.approx(7 / 8)
    assert value["central precision", "plain"] == pytest.approx(6 / 10)


def test_labels_are_named_in_the_file(labelled, capsys, monkeypatch):
    monkeypatch.setattr(
        "cyclades.pipeline.comparison.fields_file.load_field",
        lambda catalogues, truth, image, **options: load_field(
            catalogues, columns=options["columns"], name=options["name"]
        ),
    )
    (labelled / "fields.yaml").write_text(
        "labels: labels.csv\nfields:\n- image: 'f*.fits'\n  catalogues: {x: '{name}.csv'}\n"
    )
    assert cyclades("compare", "--fields", labelled / "fields.yaml") == 0
    text = capsys.readouterr().out
    assert "labels of volunteers" in text
    assert "component recall" in text
    assert "friends of friends" in text
