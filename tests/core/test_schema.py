"""The column table: UCDs, units, names, documentation."""

import astropy.units as u
import pytest
from astropy.io.votable.ucd import check_ucd
from factories import make_catalogue

from cyclades.stages.core.schema import (
    COLUMNS,
    EXTRA_COLUMNS,
    SCHEMA_VERSION,
    TABLES,
    column,
    columns,
    markdown,
)
from cyclades.stages.core.tables import ImageUnits


@pytest.mark.parametrize("spec", [*COLUMNS, *EXTRA_COLUMNS], ids=lambda c: c.name)
def test_every_column_has_a_valid_ucd_a_unit_and_a_description(spec):
    assert spec.ucd
    assert check_ucd(spec.ucd, check_controlled_vocabulary=True)
    assert spec.description
    units = ImageUnits.of(u.Jy / u.beam, beam=True, sky=True)
    unit = units.resolve(spec.unit)
    if unit is not None:
        unit.to_string("fits")
        unit.to_string("vounit")


@pytest.mark.parametrize("table", TABLES)
def test_names_are_unique_and_errors_follow_their_column(table):
    names = [c.name for c in columns(table)]
    assert len(names) == len(set(names))
    for i, name in enumerate(names):
        if name.endswith("_err"):
            assert names[i - 1] == name.removesuffix("_err")
            assert column(table, name).unit == column(table, names[i - 1]).unit


def test_the_design_s_columns_are_there():
    wanted = """name source_id island_id component_id ra ra_err dec dec_err x x_err y y_err
    peak_flux peak_flux_err total_flux total_flux_err major major_err minor minor_err
    position_angle position_angle_err deconvolved_major deconvolved_major_err
    deconvolved_minor deconvolved_minor_err deconvolved_position_angle
    deconvolved_position_angle_err deconvolved_major_is_limit deconvolved_minor_is_limit
    resolved resolved_probability beam_flux beam_flux_err local_rms local_background snr
    psf_major psf_minor psf_pa frequency island_flux n_pixels residual_mean residual_rms chi2
    degrees_of_freedom fit_type n_components source_code morphology morphology_probability
    detection_score flags detected_by measured_by"""
    assert not set(wanted.split()) - {c.name for c in columns("components")}


@pytest.mark.parametrize("sky", [True, False])
def test_tables_have_exactly_the_columns_of_the_schema(sky):
    catalogue = make_catalogue(sky=sky)
    for name, table in catalogue.tables.items():
        expected = [c.name for c in columns(name, sky=sky)]
        extra = ["kron_flux"] if name == "components" else []
        assert table.colnames == expected + extra
        for spec in columns(name, sky=sky):
            info = table[spec.name].info
            assert info.description == spec.description
            assert info.meta["ucd"] == spec.ucd
            kind = table[spec.name].dtype.str[1:]
            assert kind[0] == "U" if spec.dtype == "str" else kind == spec.dtype.replace("?", "b1")


def test_documentation_lists_every_column():
    text = markdown()
    assert SCHEMA_VERSION in text
    for spec in (*COLUMNS, *EXTRA_COLUMNS):
        assert f"| `{spec.name}` |" in text
    sections = text.split("\n## ")
    assert [s.split("\n")[0] for s in sections[1:4]] == list(TABLES)
    assert sections[1].count("\n| `") == len(columns("components"))


def test_the_error_of_the_right_ascension_is_on_the_sky():
    assert "cos(dec)" in column("components", "ra_err").description
