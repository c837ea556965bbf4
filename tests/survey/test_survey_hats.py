"""The survey's catalogue as HATS, and the example of the page on it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cyclades import read_catalogue
from cyclades.pipeline.cli import cli
from cyclades.pipeline.survey.hats import write_hats
from cyclades.stages.core.errors import ConfigurationError, OutputError
from tests.requirements import require

require("hats")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "hats.md"


@pytest.fixture(scope="module")
def hats(undisturbed, tmp_path_factory):
    """Collections of the survey of four fields, of which the batch wrote FITS alone."""
    folder = tmp_path_factory.mktemp("cut")
    command = ["hats", str(undisturbed), "--output", str(folder / "hats"), "--rows", "16",
               "--margin", "60", "--order", "9"]  # fmt: skip
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert done.exception is None
    assert done.output.split() == [str(folder / "hats" / n) for n in ("components", "sources")]
    assert [path.name for path in (folder / "hats").glob(".*")] == []
    return folder / "hats"


def test_every_row_stands_once_and_unchanged(hats, undisturbed):
    import lsdb

    catalogue = read_catalogue(undisturbed / "survey.catalogue.fits")
    for name, table in (("components", catalogue.components), ("sources", catalogue.sources)):
        held = lsdb.open_catalog(hats / name)
        assert held.npartitions > 1
        rows = held.compute().sort_values(f"{name[:-1]}_id")
        assert [column for column in rows.columns if column in table.colnames] == table.colnames
        for column in ("ra", "dec", "total_flux", "local_rms", "flags", "field", "name"):
            right = np.asarray(getattr(table[column], "value", table[column]))
            assert np.array_equal(rows[column].to_numpy(right.dtype), right), column


def test_margins_hold_neighbours_of_a_partition(hats):
    """Those within 60 arcsec of borders that cut a field of 5 arcmin."""
    import lsdb

    sources = lsdb.open_catalog(hats / "sources")
    assert sources.margin is not None
    assert len(sources.margin.compute()) > 0


@pytest.mark.slow
def test_example_of_the_page_says_what_the_catalogue_does(hats, undisturbed):
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", text],
        cwd=hats.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    near, bright, pairs = (int(line.split()[0]) for line in done.stdout.splitlines())
    sources = read_catalogue(undisturbed / "survey.catalogue.fits").sources
    ra, dec = (np.radians(sources[name].to_value("deg")) for name in ("ra", "dec"))
    centre = np.radians(30.0)
    cosine = np.sin(dec) * np.sin(centre) + np.cos(dec) * np.cos(centre) * np.cos(
        ra - np.radians(150.0)
    )
    assert near == np.count_nonzero(cosine >= np.cos(np.radians(120 / 3600))) > 2
    assert bright == np.count_nonzero(np.asarray(sources["snr"]) > 20) > 2
    single = np.count_nonzero(np.asarray(sources["n_components"]) == 1)
    assert single <= pairs <= len(sources)


def test_what_cannot_be_written_is_said_in_a_sentence(hats, undisturbed, tmp_path):
    with pytest.raises(OutputError, match="exists already"):
        write_hats(undisturbed, hats)
    with pytest.raises(ConfigurationError, match="no table 'rows'"):
        write_hats(undisturbed, tmp_path, tables=["rows"])
    with pytest.raises(ConfigurationError, match=r"order 2 holds more than 3 sources"):
        write_hats(undisturbed, tmp_path, tables=["sources"], rows=3, order=2)
    assert list(tmp_path.iterdir()) == []
