"""Every notebook is a pair: a script to read and change, and the same as .ipynb for Jupyter."""

from pathlib import Path

import pytest
from requirements import require

require("notebooks")

import jupytext  # noqa: E402

FOLDER = Path(__file__).parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    """Kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_there_are_both_of_every_notebook():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SCRIPTS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_pair_is_in_step(path):
    script = path.with_suffix(".py")
    assert cells(path) == cells(script), f"{path.name} and {script.name} differ: make notebooks"
    for one in (path, script):
        assert jupytext.read(one).metadata["jupytext"]["formats"] == "ipynb,py:percent"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path):
    for cell in jupytext.read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell.metadata
