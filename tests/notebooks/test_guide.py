"""What the guide says comes from the rows that it reads, and documentation says the same."""

import re
import runpy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from pyarrow import parquet

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
GUIDE = FOLDER / "06_transfer_learning_guide.py"


@pytest.fixture(scope="module")
def told():
    """What the guide printed, and its names."""
    import contextlib
    import io

    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        names = runpy.run_path(str(GUIDE))
    plt.close("all")
    plt.switch_backend(before)
    return printed.getvalue(), names


def test_every_route_is_printed_with_its_interval(told):
    text, names = told
    assert names["MAIN"]
    for row in names["MAIN"]:
        assert f"{row['value']:.3f} [{row['low']:.2f}, {row['high']:.2f}]" in text


def test_every_task_has_one_label_saving_factor_or_says_why_not(told):
    text, names = told
    for study, task in names["TASKS"]:
        rows = [r for r in names["SAVINGS"] if (r["study"], r["task"]) == (study, task)]
        if not rows:
            assert f"{task}: none, for nothing was trained from scratch ({study})" in text
            continue
        best = names["headlines"][study, task]
        assert best in rows
        assert f"{task}: {best['bound']}{best['factor']:.2g} [" in text


def test_a_difference_is_clear_only_beyond_both_errors(told):
    verdict = told[1]["verdict"]

    def row(value, half):
        return {"value": value, "low": value - half, "high": value + half}

    assert "better" in verdict(row(0.8, 0.03), row(0.7, 0.04))
    assert "worse" in verdict(row(0.7, 0.03), row(0.8, 0.04))
    assert "no clear difference" in verdict(row(0.8, 0.08), row(0.7, 0.07))


def test_the_text_has_no_figures_of_its_own():
    cells = re.split(r"^# %%", GUIDE.read_text("utf-8"), flags=re.M)
    texts = [cell for cell in cells if cell.startswith(" [markdown]")]
    assert len(texts) > 5
    for text in texts:
        assert not re.search(r"\d\.\d", text)


def test_kept_rows_are_summaries_alone():
    files = sorted((FOLDER / "data").rglob("*.*"))
    assert files
    for path in files:
        assert path.suffix in {".parquet", ".csv", ".md"}
        assert path.stat().st_size < 100_000
        if path.suffix == ".parquet":
            rows = parquet.read_table(path).to_pylist()
            assert {"task", "backbone", "mode", "labels"} <= rows[0].keys()
            assert all(np.isfinite(row["value"]) for row in rows if row.get("main"))
            assert path.parent.name in (FOLDER / "data" / "README.md").read_text("utf-8")


def documentation(page, section):
    """Text of a section of a page."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.split(r"^##+ ", text.split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def test_what_routes_take_is_told_once(told):
    text, names = told
    table = names["COST_TABLE"]
    assert table in text
    inside = documentation("studies.md", "Time and data")
    assert "\n".join(line for line in inside.splitlines() if line.startswith("|")) == table
    lines = table.splitlines()[2:]
    assert len(lines) == len(names["COSTS"])
    said = (FOLDER / "data" / "README.md").read_text("utf-8")
    for row, line in zip(names["COSTS"], lines, strict=True):
        assert line.startswith(f"| `{row['route']}` | {row['kind']} |")
        assert f"\n| `{row['route']}` |" in said, "how it was measured is not told"
    assert {row["kind"] for row in names["COSTS"]} == {"analytic", "learned"}


def test_costs_are_those_of_the_pages_that_measured_them(told):
    costs = {row["route"]: row for row in told[1]["COSTS"]}
    speed = documentation("benchmarks.md", "Speed")
    for row in costs.values():
        if row["use_of"] == "an image":
            assert f" {row['use_seconds']} s" in speed
    trained = costs["classifier"]
    minutes = float(trained["preparation_seconds"]) / 60
    assert f"{minutes:.1f} minutes of CPU time" in documentation("classify.md", "Making it")
    labels = {row["labels"] for row in told[1]["MAIN"] if row["task"] == "morphology"}
    assert int(trained["labels"]) == max(labels)


def test_a_learned_route_is_set_beside_every_analytic_one_of_its_task(told):
    text, names = told
    costs = names["COSTS"]
    for row in (row for row in costs if row["kind"] == "learned"):
        beside = [o for o in costs if (o["kind"], o["task"]) == ("analytic", row["task"])]
        if not beside:
            assert f"{row['route']} ({row['labels']} labels); no analytic route" in text
        for other in beside:
            longer = float(row["use_seconds"]) / float(other["use_seconds"])
            assert f"{row['route']} ({row['labels']} labels) takes {longer:.2g} times" in text


def test_times_have_the_unit_that_suits_them(told):
    duration = told[1]["duration"]
    made = [duration(v) for v in (0.1, 10.3, 59, 60, 204, 7200, 14400)]
    assert made == ["0.1 s", "10 s", "59 s", "1 min", "3.4 min", "2 h", "4 h"]
