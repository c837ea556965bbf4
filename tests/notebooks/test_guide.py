"""Notebooks run, and what they say comes from the rows that they read."""

import re
import runpy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from pyarrow import parquet

FOLDER = Path(__file__).parents[2] / "notebooks"
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
        assert path.suffix in {".parquet", ".md"}
        assert path.stat().st_size < 100_000
        if path.suffix == ".parquet":
            rows = parquet.read_table(path).to_pylist()
            assert {"task", "backbone", "mode", "labels"} <= rows[0].keys()
            assert all(np.isfinite(row["value"]) for row in rows if row.get("main"))
            assert path.parent.name in (FOLDER / "data" / "README.md").read_text("utf-8")
