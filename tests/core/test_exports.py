"""Columns of Aegean, PyBDSF and Selavy."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import Angle
from astropy.table import Table
from factories import make_catalogue

from cyclades.stages.core.exports import LAYOUTS


def words(text):
    return text.split()


PYBDSF_SHAPES = [
    f"{error}{prefix}{axis}{plane}"
    for prefix in ("", "DC_")
    for plane in ("", "_img_plane")
    for axis in ("Maj", "Min", "PA")
    for error in ("", "E_")
]
PYBDSF_START = words("RA E_RA DEC E_DEC Total_flux E_Total_flux Peak_flux E_Peak_flux")
PYBDSF_END = words(
    "Isl_Total_flux E_Isl_Total_flux Isl_rms Isl_mean Resid_Isl_rms Resid_Isl_mean S_Code"
)
COLUMNS = {
    "aegean": words(
        "island source background local_rms ra_str dec_str ra err_ra dec err_dec peak_flux "
        "err_peak_flux int_flux err_int_flux a err_a b err_b pa err_pa flags residual_mean "
        "residual_std uuid psf_a psf_b psf_pa"
    ),
    "pybdsf_srl": [
        "Source_id",
        "Isl_id",
        *PYBDSF_START,
        *words("RA_max E_RA_max DEC_max E_DEC_max"),
        *PYBDSF_SHAPES,
        *PYBDSF_END,
    ],
    "pybdsf_gaul": [
        *words("Gaus_id Isl_id Source_id Wave_id"),
        *PYBDSF_START,
        *words("Xposn E_Xposn Yposn E_Yposn"),
        *PYBDSF_SHAPES,
        *PYBDSF_END[:-1],
        *words("Wave_Isl_rms Wave_Isl_mean"),
        PYBDSF_END[-1],
    ],
    "selavy_components": words(
        "island_id component_id component_name ra_hms_cont dec_dms_cont ra_deg_cont dec_deg_cont "
        "ra_err dec_err freq flux_peak flux_peak_err flux_int flux_int_err maj_axis min_axis "
        "pos_ang maj_axis_err min_axis_err pos_ang_err maj_axis_deconv min_axis_deconv "
        "pos_ang_deconv maj_axis_deconv_err min_axis_deconv_err pos_ang_deconv_err "
        "chi_squared_fit rms_fit_gauss spectral_index spectral_curvature spectral_index_err "
        "spectral_curvature_err rms_image has_siblings fit_is_estimate spectral_index_from_TT "
        "flag_c4 comment"
    ),
    "selavy_islands": words(
        "island_id island_name n_components ra_hms_cont dec_dms_cont ra_deg_cont dec_deg_cont "
        "freq maj_axis min_axis pos_ang flux_int flux_int_err flux_peak mean_background "
        "background_noise max_residual min_residual mean_residual rms_residual stdev_residual "
        "x_min x_max y_min y_max n_pix solid_angle beam_area x_ave y_ave x_cen y_cen x_peak "
        "y_peak flag_i1 flag_i2 flag_i3 flag_i4 comment"
    ),
}


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue(6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_and_their_order(layout, catalogue):
    table = catalogue.export(layout)
    assert table.colnames == COLUMNS[layout]
    assert len(table) == len(catalogue.tables[LAYOUTS[layout].table])


def test_aegean_s_own_columns(shared_data, catalogue):
    own = Table.read(shared_data / "parkes-1904-66" / "1904_comp.fits")
    table = catalogue.export("aegean")
    assert table.colnames == own.colnames
    for name in own.colnames:
        ours, theirs = table[name].dtype.kind, own[name].dtype.kind
        assert ours == theirs or (ours, theirs) == ("U", "S"), name


def test_aegean_values(catalogue):
    table, c = catalogue.export("aegean"), catalogue.components
    np.testing.assert_array_equal(table["ra"], c["ra"].value)
    np.testing.assert_array_equal(table["a"], c["major"].value)
    assert table["a"].unit == u.arcsec
    shared = np.asarray(c["n_components"] == 2)
    assert sorted(table["source"][shared]) == [0, 1]
    assert not table["source"][~shared].any()
    ra = Angle([f"{text} hours" for text in table["ra_str"]]).deg
    dec = Angle([f"{text} degrees" for text in table["dec_str"]]).deg
    np.testing.assert_allclose(ra, c["ra"].value, atol=15 * 0.0051 / 3600, rtol=0)
    np.testing.assert_allclose(dec, c["dec"].value, atol=0.0051 / 3600, rtol=0)


def test_an_unknown_error_is_minus_one_for_aegean(catalogue):
    components = catalogue.components.copy()
    components["major_err"][0] = np.nan
    table = catalogue.replace(components=components).export("aegean")
    assert table["err_a"][0] == -1.0


def test_pybdsf_is_in_degrees_and_jansky():
    catalogue = make_catalogue(6, unit="mJy/beam")
    table, s = catalogue.export("pybdsf_srl"), catalogue.sources
    np.testing.assert_allclose(table["Maj"], s["major"].value / 3600, rtol=1e-6)
    np.testing.assert_allclose(table["Total_flux"], s["total_flux"].value / 1000, rtol=1e-6)
    assert (table["Maj"].unit, table["Total_flux"].unit) == (u.deg, u.Jy)
    assert table["Peak_flux"].unit == u.Jy / u.beam
    assert set(table["S_Code"]) == {"S", "M"}
    islands = {row["island_id"]: row for row in catalogue.islands}
    for row in table:
        island = islands[row["Isl_id"]]
        assert row["Isl_rms"] == pytest.approx(island["local_rms"].to_value("Jy/beam"))
        assert row["RA_max"] == pytest.approx(island["ra"].value, rel=1e-12)


def test_upper_limits_are_zero_as_the_others_write_unresolved_axes(catalogue):
    components = catalogue.components.copy()
    components["deconvolved_minor_is_limit"][1] = True
    components["deconvolved_minor_err"][1] = np.nan
    changed = catalogue.replace(components=components)
    for layout, name, error in (
        ("pybdsf_gaul", "DC_Min", "E_DC_Min"),
        ("selavy_components", "min_axis_deconv", "min_axis_deconv_err"),
    ):
        table = changed.export(layout)
        assert table[name][1] == table[error][1] == 0.0
        assert table[name][0] > 0.0


def test_selavy_is_in_millijansky_arcsec_and_megahertz(catalogue):
    table, c = catalogue.export("selavy_components"), catalogue.components
    np.testing.assert_allclose(table["flux_int"], c["total_flux"].value * 1000, rtol=1e-6)
    np.testing.assert_allclose(table["ra_err"], c["ra_err"].value * 3600, rtol=1e-6)
    assert (table["flux_int"].unit, table["ra_err"].unit) == (u.mJy, u.arcsec)
    np.testing.assert_allclose(table["freq"], 1400.0)
    _, island, number = np.unique(c["island_id"], return_inverse=True, return_counts=True)
    assert list(table["has_siblings"]) == (number[island] > 1).astype(int).tolist()
    # several components of a source in islands of their own are no siblings
    joined = c.copy()
    joined["n_components"] = 2
    alone = catalogue.replace(components=joined).export("selavy_components")
    assert list(alone["has_siblings"]) == list(table["has_siblings"])
    islands = catalogue.export("selavy_islands")
    assert list(islands["n_pix"]) == list(catalogue.islands["n_pixels"])
    assert islands["x_peak"][0] == catalogue.islands["x"][0].value


def test_fluxes_without_jansky_keep_their_unit():
    table = make_catalogue(unit="K").export("pybdsf_srl")
    assert table["Peak_flux"].unit == u.K


def test_without_a_sky_its_columns_are_left_out():
    table = make_catalogue(sky=False).export("aegean")
    assert not {"ra", "dec", "ra_str", "err_ra"} & set(table.colnames)
    assert table["a"].unit == u.pix


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty(layout):
    table = make_catalogue(0).export(layout)
    assert len(table) == 0
    assert table.colnames == COLUMNS[layout]


def test_exports_are_written_as_fits(catalogue, tmp_path):
    path = tmp_path / "x.fits"
    catalogue.write(path, format="pybdsf_srl")
    back = Table.read(path)
    assert back.colnames == COLUMNS["pybdsf_srl"]
    np.testing.assert_array_equal(back["Total_flux"], catalogue.sources["total_flux"].value)
