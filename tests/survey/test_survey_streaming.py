"""A survey that is put together part by part is that which is put together at once."""

import shutil

import numpy as np
import pytest

from cyclades import read_catalogue
from cyclades.pipeline.survey.finish import finish
from cyclades.pipeline.survey.journal import Journal
from cyclades.pipeline.survey.strips import parts_of
from tests.survey.conftest import make_work


@pytest.fixture
def again(surveyed, tmp_path):
    """Write the survey of the nine fields anew, from the same rows, in parts of some size."""
    folder = tmp_path / "again"
    shutil.copytree(surveyed, folder)

    def write(rows):
        work = make_work(folder, injected=6, inverted=True)
        with Journal(folder) as journal:
            finish(journal, work, force=True, rows=rows)
        return folder

    return write


def same(mine, right):
    assert mine.meta == right.meta
    for name, table in right.tables.items():
        other = mine.tables[name]
        assert other.colnames == table.colnames
        for column in table.colnames:
            a, b = other[column], table[column]
            assert getattr(a, "unit", None) == getattr(b, "unit", None), column
            assert (a.info.description, a.info.meta) == (b.info.description, b.info.meta), column
            a, b = (np.asarray(getattr(c, "value", c)) for c in (a, b))
            assert a.dtype.kind == b.dtype.kind, column
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (name, column)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_parts_of_any_size_make_the_same_survey(again, surveyed, rows):
    right = read_catalogue(surveyed / "survey.catalogue.fits")
    assert len(right.components) > 40
    folder = again(rows)
    assert not (folder / "survey.catalogue.fits").exists()
    same(read_catalogue(folder / "survey.catalogue.parquet"), right)
    for name in ("summary.ecsv", "survey.area.ecsv", "survey.counts.ecsv",
                 "survey.corrections.ecsv"):  # fmt: skip
        assert (folder / name).read_bytes() == (surveyed / name).read_bytes(), name
    assert list(folder.glob(".*.partial")) == []


def test_row_groups_hold_a_part_each(again):
    from pyarrow import parquet

    whole = parquet.ParquetFile(again(15) / "survey.catalogue.parquet").metadata
    assert whole.num_row_groups > 2
    assert max(whole.row_group(i).num_rows for i in range(whole.num_row_groups)) <= 15


def test_parts_hold_at_most_what_is_asked_for():
    counts = np.array([0, 3, 2, 0, 9, 1, 1, 0, 4])
    part = parts_of(counts, 5)
    assert (np.diff(part) >= 0).all()
    assert np.bincount(part, counts).tolist() == [5, 9, 2, 4]
    assert parts_of(np.zeros(4, int), 5).tolist() == [0, 0, 0, 0]
