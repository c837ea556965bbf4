"""What is given to HATS, and what is refused: without the packages that write it."""

import sys

import numpy as np
import pytest
from astropy.table import Table
from pyarrow import parquet

from cyclades import read_catalogue
from cyclades.pipeline.survey.hats import _check, _parquet, find_catalogue, write_hats
from cyclades.stages.core.errors import ConfigurationError, InputError


def test_tables_are_given_as_parquet_with_every_row_and_column(undisturbed, tmp_path):
    source = find_catalogue(undisturbed)
    assert source == undisturbed / "survey.catalogue.fits"
    files = _parquet(source, tmp_path)
    catalogue = read_catalogue(source)
    for name, right in catalogue.tables.items():
        _check(files[name])
        held = parquet.read_table(files[name])
        assert held.column_names == right.colnames
        assert held.num_rows == len(right) > 5
        for column in ("ra", "dec", "name"):
            values = np.asarray(getattr(right[column], "value", right[column]))
            np.testing.assert_array_equal(held[column].to_numpy().astype(values.dtype), values)
    # Parquet is taken as it is, and comes before FITS in the folder of a batch
    made = tmp_path / "survey.catalogue.parquet"
    catalogue.write(made, "parquet")
    assert find_catalogue(tmp_path) == made
    assert _parquet(made, tmp_path / "unused")["components"] == made
    next(tmp_path.glob("survey.catalogue.sources.parquet")).unlink()
    with pytest.raises(InputError, match="is not a whole catalogue"):
        _parquet(made, tmp_path)


def test_what_cannot_be_cut_by_the_sky_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    for table, said in (
        (Table({"x": [1.0]}), "no columns ra and dec"),
        (Table({"ra": np.zeros(0), "dec": np.zeros(0)}), "has no rows"),
    ):
        table.write(file, format="parquet", overwrite=True)
        with pytest.raises(InputError, match=said):
            _check(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        _check(file)
    with pytest.raises(InputError, match="name the --output of a batch"):
        find_catalogue(tmp_path)
    with pytest.raises(InputError, match="no such catalogue"):
        find_catalogue(tmp_path / "none.fits")


def test_a_missing_package_is_named(monkeypatch, undisturbed, tmp_path):
    monkeypatch.setitem(sys.modules, "hats_import.collection.arguments", None)
    with pytest.raises(ConfigurationError, match=r"install cyclades\[hats\]"):
        write_hats(undisturbed, tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []
