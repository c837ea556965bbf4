"""The queries of the page on DuckDB, on the Parquet files of a survey."""

import re
from pathlib import Path

import numpy as np
import pytest

from cyclades import read_catalogue
from cyclades.pipeline.survey.run import run_survey
from tests.survey.conftest import make_work

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "duckdb.md"
duckdb = pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def survey(four, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    run_survey(make_work(folder, formats=("fits", "parquet")), four)
    return folder


@pytest.fixture
def answers(survey, monkeypatch):
    """Rows that each query of the page gives, in their order."""
    monkeypatch.chdir(survey)
    text = PAGE.read_text("utf-8")
    queries = re.findall(r"^```sql\n(.*?)^```$", text, re.M | re.S)
    return [duckdb.sql(query).fetchall() for query in queries]


def test_queries_of_the_page_say_what_the_catalogue_does(answers, survey):
    bins, fields, cone, nearest = answers
    catalogue = read_catalogue(survey / "survey.catalogue.fits")
    sources, components = catalogue.sources, catalogue.components
    peak = np.asarray(sources["peak_flux"].value, float)
    assert sum(row[1] for row in bins) == np.count_nonzero(peak > 0) > 10
    inner = np.asarray(sources["flags"]) & 1 == 0
    assert {row[0]: row[1] for row in fields} == {
        str(name): int(np.count_nonzero(inner & (sources["field"] == name)))
        for name in np.unique(sources["field"][inner])
    }
    ra, dec = (np.radians(np.asarray(sources[n].to_value("deg"), float)) for n in ("ra", "dec"))
    separation = np.degrees(
        np.arccos(
            np.clip(
                np.sin(dec) * np.sin(np.radians(30.0))
                + np.cos(dec) * np.cos(np.radians(30.0)) * np.cos(ra - np.radians(150.0)),
                -1.0, 1.0,
            )
        )
    )  # fmt: skip
    near = np.flatnonzero(separation <= 2 / 60)
    assert len(near) > 2
    assert {row[0] for row in cone} == {str(sources["name"][i]) for i in near}
    np.testing.assert_allclose([row[4] for row in cone], np.sort(separation[near]), atol=1e-6)
    # What the survey took from that field is its own nearest neighbour.
    kept = {str(c["name"]): c for c in components}
    exact = [name for _, name, arcsec in nearest if arcsec < 1e-6]
    assert len(exact) > 2
    assert len({kept[name]["field"] for name in exact}) == 1
    assert max(row[2] for row in nearest) <= 5.0
