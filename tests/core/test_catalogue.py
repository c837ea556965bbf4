"""The catalogue object: tables, equality, errors of writing and reading."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from factories import make_catalogue

from cyclades.stages.core.catalogue import Catalogue, format_extension, read_catalogue
from cyclades.stages.core.errors import InputError, OutputError
from cyclades.stages.core.schema import EXTRA_COLUMNS, SCHEMA_VERSION, column, columns

DATA = Path(__file__).resolve().parents[1] / "data"
KEPT = {path.stem.removeprefix("catalogue-"): path for path in DATA.glob("catalogue-*.fits")}
"""A written file of every version of the schema."""


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue()


def test_length_tables_and_links(catalogue):
    assert len(catalogue) == 4
    assert list(catalogue.tables) == ["components", "sources", "islands"]
    assert len(catalogue.sources) == len(catalogue.islands) == 3
    assert set(catalogue.components["source_id"]) == set(catalogue.sources["source_id"])
    assert set(catalogue.components["island_id"]) == set(catalogue.islands["island_id"])
    for row in catalogue.sources:
        parts = catalogue.components[catalogue.components["source_id"] == row["source_id"]]
        assert len(parts) == row["n_components"]
        assert row["total_flux"].value == pytest.approx(parts["total_flux"].value.sum(), rel=1e-6)
    assert catalogue.meta["schema_version"] == SCHEMA_VERSION
    assert catalogue.meta["beam_major"] == pytest.approx(12 / 3600)


def test_equality_sees_values_units_and_metadata(catalogue):
    assert catalogue == make_catalogue()
    assert catalogue != catalogue.replace(meta={})
    changed = catalogue.components.copy()
    changed["flags"][0] += 1
    assert catalogue != catalogue.replace(components=changed)
    changed = catalogue.components.copy()
    changed["peak_flux"] = changed["peak_flux"].to("mJy/beam")
    assert catalogue != catalogue.replace(components=changed)
    assert catalogue != 1


def test_a_refinement_changes_a_copy(catalogue):
    before = catalogue.components["flags"].copy()
    table = catalogue.components.copy()
    table["flags"] += 1
    assert isinstance(catalogue.replace(components=table), Catalogue)
    assert np.array_equal(catalogue.components["flags"], before)


def test_unwritable_places_and_unknown_formats(catalogue, tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        catalogue.write(tmp_path / "missing" / "x.fits")
    with pytest.raises(OutputError, match="extension"):
        catalogue.write(tmp_path / "x.catalogue")
    with pytest.raises(OutputError, match="did you mean 'votable'"):
        catalogue.write(tmp_path / "x.vot", format="votabel")
    with pytest.raises(OutputError, match="no table 'rows'"):
        catalogue.write(tmp_path / "x.reg", table="rows")
    with pytest.raises(OutputError, match="aegean"):
        catalogue.export("aegaen")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(catalogue, tmp_path, monkeypatch):
    path = tmp_path / "x.catalogue.ecsv"
    path.write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        catalogue.write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_is_a_choice(catalogue, tmp_path):
    path = tmp_path / "x.fits"
    catalogue.write(path)
    catalogue.write(path)
    with pytest.raises(OutputError, match="exists"):
        catalogue.write(path, overwrite=False)
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_extensions():
    assert format_extension("votable") == "vot"
    assert format_extension("parquet") == "parquet"


def test_what_cannot_be_read_says_so(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_catalogue(tmp_path / "missing.fits")
    broken = tmp_path / "broken.vot"
    broken.write_text("not a table")
    with pytest.raises(InputError, match="cannot be read"):
        read_catalogue(broken)
    image = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(image)
    with pytest.raises(InputError, match="no catalogue"):
        read_catalogue(image)
    with pytest.raises(InputError, match="csv does not hold a whole catalogue"):
        read_catalogue(tmp_path / "x.csv")


def test_a_file_of_every_version_is_kept():
    assert {"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", SCHEMA_VERSION} <= KEPT.keys()


@pytest.mark.parametrize("version", KEPT)
def test_a_file_of_an_older_schema_is_read(version):
    old = read_catalogue(KEPT[version])
    assert old.meta["schema_version"] == version
    assert len(old) == 4
    for name, table in old.tables.items():
        # a later minor version may add columns, never take one away
        known = {c.name for c in (*columns(name), *EXTRA_COLUMNS)} | {"kron_flux"}
        assert set(table.colnames) <= known
    assert old.components["peak_flux"].unit == "Jy / beam"
    assert old.components["name"][0].startswith("CYC J")


def test_similarity_and_oddness_came_with_1_1_0():
    sources = read_catalogue(KEPT["1.1.0"]).sources
    np.testing.assert_array_equal(sources["similarity"], [1.0, -0.25, np.nan])
    np.testing.assert_array_equal(sources["oddness"], [-0.5, 7.5, np.nan])
    for name in ("similarity", "oddness"):
        spec = column("sources", name)
        assert sources[name].info.description == spec.description
        assert sources[name].info.meta["ucd"] == spec.ucd
    assert not {"similarity", "oddness"} & set(read_catalogue(KEPT["1.0.0"]).sources.colnames)


def test_associations_came_with_1_2_0():
    sources = read_catalogue(KEPT["1.2.0"]).sources
    assert list(sources["n_parts"]) == [2, 1, 1]
    assert list(sources["host_type"]) == ["core", "centre", "centre"]
    np.testing.assert_array_equal(sources["association_probability"], [0.75, np.nan, np.nan])
    for name in ("largest_angular_size", "host_ra", "host_dec", "host_x", "host_y"):
        spec = column("sources", name)
        assert sources[name].info.description == spec.description
        assert sources[name].info.meta["ucd"] == spec.ucd
    assert "n_parts" not in read_catalogue(KEPT["1.1.0"]).sources.colnames


def test_reliabilities_came_with_1_3_0():
    held = read_catalogue(KEPT["1.3.0"]).tables
    expected = {"components": [0.25, 0.75, 0.5, np.nan]}
    for name, table in held.items():
        values = expected.get(name, [0.75, 0.5, np.nan])
        np.testing.assert_array_equal(table["reliability"], values)
        assert table["reliability"].info.meta["ucd"] == column(name, "reliability").ucd
    older = read_catalogue(KEPT["1.2.0"]).tables.values()
    assert not any("reliability" in table.colnames for table in older)


def test_photometry_of_points_came_with_1_4_0():
    rows = read_catalogue(KEPT["1.4.0"]).components
    np.testing.assert_array_equal(rows["psf_flux"].to_value("Jy"), [0.5, 0.25, 1.0, np.nan])
    np.testing.assert_array_equal(rows["spread_model"], [0.0, 0.25, -0.125, np.nan])
    for name in ("psf_flux", "psf_flux_err", "spread_model", "spread_model_err"):
        assert rows[name].info.meta["ucd"] == column("components", name).ucd
    assert "psf_flux" not in read_catalogue(KEPT["1.3.0"]).components.colnames


@pytest.mark.parametrize(("version", "readable"), [("1.9.3", True), ("2.0.0", False), ("", False)])
def test_another_major_version_is_refused(catalogue, tmp_path, version, readable):
    path = tmp_path / "x.fits"
    catalogue.replace(meta=catalogue.meta | {"schema_version": version}).write(path)
    if readable:
        assert read_catalogue(path).components.colnames == catalogue.components.colnames
    else:
        with pytest.raises(InputError, match=r"schema version"):
            read_catalogue(path)
