"""Any catalogue becomes the same columns in the same units."""

import numpy as np
import pytest
import yaml
from astropy.table import Table
from comparison_cases import rows
from factories import make_catalogue

from cyclades.pipeline.comparison.any_catalogue import from_catalogue, read_any
from cyclades.pipeline.comparison.tables import UNITS, ComparisonTable
from cyclades.stages.core.errors import InputError

MEASURED = ("ra", "dec", "peak_flux", "total_flux", "major", "minor", "position_angle")
ERRORS = tuple(f"{name}_err" for name in MEASURED)


def same(one, other, names, rtol=1e-6):
    for name in names:
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=name)


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue(unit="mJy/beam")


@pytest.mark.parametrize("extension", ["fits", "vot", "ecsv", "parquet"])
def test_our_files_are_read_in_fixed_units(catalogue, extension, tmp_path):
    path = tmp_path / f"x.{extension}"
    catalogue.write(path)
    direct, read = from_catalogue(catalogue), read_any(path, name="n")
    same(direct, read, [*UNITS])
    assert read.name == "n"
    # what units make of the table itself
    held = catalogue.components
    np.testing.assert_allclose(read["peak_flux"], held["peak_flux"].to_value("Jy/beam"), rtol=1e-6)
    np.testing.assert_allclose(read["ra_err"], held["ra_err"].to_value("arcsec"), rtol=1e-6)
    np.testing.assert_array_equal(read["source"], held["source_id"])
    assert direct.beam == pytest.approx((12.0, 8.0))
    if extension == "fits":
        assert read.beam == pytest.approx((12.0, 8.0))


@pytest.mark.parametrize("unit", ["Jy/beam", "mJy/beam"])
def test_our_csv_is_in_the_units_of_the_schema(unit, tmp_path):
    catalogue = make_catalogue(unit=unit)
    catalogue.write(tmp_path / "x.csv")
    same(from_catalogue(catalogue), read_any(tmp_path / "x.csv"), [*MEASURED, *ERRORS])


@pytest.mark.parametrize("extension", ["fits", "vot", "ecsv", "csv"])
def test_the_sources_are_read_on_request(extension, tmp_path):
    catalogue = make_catalogue()
    catalogue.write(tmp_path / f"x.{extension}")
    read = read_any(tmp_path / f"x.{extension}", table="sources")
    assert len(read) == len(catalogue.sources) < len(catalogue.components)
    same(from_catalogue(catalogue, table="sources"), read, [*MEASURED, *ERRORS])


@pytest.mark.parametrize(
    ("layout", "table", "names"),
    [
        ("aegean", "components", [*MEASURED, *ERRORS, "local_rms", "psf_major"]),
        ("pybdsf_gaul", "components", [*MEASURED, *ERRORS]),
        ("pybdsf_srl", "sources", [*MEASURED, *ERRORS]),
        ("selavy_components", "components", [*MEASURED, *ERRORS, "local_rms"]),
    ],
)
@pytest.mark.parametrize("units", [True, False])
def test_the_columns_of_others_give_the_same_numbers(layout, table, names, units, tmp_path):
    catalogue = make_catalogue()
    exported = catalogue.export(layout)
    if not units:
        # the factors of the layout then do what the file's units do otherwise
        for name in exported.colnames:
            exported[name].unit = None
    exported.write(tmp_path / "x.fits")
    read = read_any(tmp_path / "x.fits")
    assert read.meta["layout"].split()[0].lower() == layout.split("_")[0]
    same(from_catalogue(catalogue, table=table), read, names, rtol=2e-5)


def test_selavy_islands(tmp_path):
    catalogue = make_catalogue()
    catalogue.export("selavy_islands").write(tmp_path / "x.fits")
    read = read_any(tmp_path / "x.fits")
    islands = catalogue.islands
    np.testing.assert_allclose(read["peak_flux"], islands["peak_flux"].value, rtol=1e-6)
    np.testing.assert_allclose(read["ra"], islands["ra"].value)


SURVEYS = {
    "LoTSS": (
        {"Source_Name": "ILTJ1", "E_RA": 0.2, "E_DEC": 0.3, "Maj": 7.0, "E_Maj": 0.5, "Min": 6.0,
         "E_Min": 0.4, "Isl_rms": 0.07, "Mosaic_ID": "P1"},
        {"ra_err": 0.2, "local_rms": 7e-5},
    ),
    "VLASS (CIRADA)": (
        {"Component_name": "VLASS1QLCIR J1", "E_RA": 0.2 / 3600, "E_DEC": 0.3 / 3600, "Maj": 7.0,
         "E_Maj": 0.5, "Min": 6.0, "E_Min": 0.4, "Isl_rms": 0.07, "Isl_id": 4},
        {"ra_err": 0.2, "local_rms": 7e-5, "island": 4},
    ),
    "RACS": (
        {"Source_Name": "RACS J1", "Source_ID": "RACS_1", "E_RA": 0.2, "E_Dec": 0.3, "Maj": 7.0,
         "E_Maj": 0.5, "Min": 6.0, "E_Min": 0.4, "Noise": 0.07, "Total_flux_Source": 2.5,
         "E_Total_flux_Source": 0.25},
        {"ra_err": 0.2, "local_rms": 7e-5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SURVEYS)
@pytest.mark.parametrize("lower", [False, True])
def test_survey_catalogues(name, lower, tmp_path):
    given, expected = SURVEYS[name]
    common = {
        "RA": 150.0,
        "DEC": 2.0,
        "Peak_flux": 2.0,
        "E_Peak_flux": 0.1,
        "PA": 30.0,
        "E_PA": 9.0,
    }
    if "Total_flux_Source" not in given:
        common |= {"Total_flux": 2.5, "E_Total_flux": 0.25}
    held = {key.lower() if lower else key: [value] for key, value in {**common, **given}.items()}
    Table(held).write(tmp_path / "x.fits")
    read = read_any(tmp_path / "x.fits")
    assert read.meta["layout"] == name
    wanted = {"ra": 150.0, "dec": 2.0, "peak_flux": 2e-3, "peak_flux_err": 1e-4,
              "total_flux": 2.5e-3, "total_flux_err": 2.5e-4, "major": 7.0, "minor": 6.0,
              "major_err": 0.5, "position_angle": 30.0, "dec_err": 0.3, **expected}  # fmt: skip
    for column, value in wanted.items():
        assert read[column][0] == pytest.approx(value), column
    assert read["snr"][0] == pytest.approx(2e-3 / 7e-5)


def test_a_truth_of_the_peers_and_its_beam(tmp_path):
    lines = ["ra,dec,peak,int_flux,maj,min,pa,type,group,x,y,local_rms,snr"]
    lines += [f"180.{k},-30,0.002,0.002,10,8,30,point,{k},5.5,6.5,1e-4,20" for k in range(4)]
    lines += ["180.5,-30,0.002,0.004,20,12,30,extended,9,5,6,1e-4,20"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    read = read_any(tmp_path / "t.csv")
    assert read["morphology"].tolist() == ["point"] * 4 + ["extended"]
    assert read["source"].tolist() == [0, 1, 2, 3, 9]
    assert read["x"][0] == 5.5
    assert read.beam == pytest.approx((10.0, 8.0))


def test_unknown_errors_are_nan(tmp_path):
    exported = make_catalogue().export("aegean")
    exported["err_ra"][:] = -1
    exported["err_a"][:] = -1
    exported.write(tmp_path / "x.fits")
    read = read_any(tmp_path / "x.fits")
    assert np.isnan(read["ra_err"]).all()
    assert np.isnan(read["major_err"]).all()
    assert np.isfinite(read["dec_err"]).all()


def test_text_with_a_header_line(tmp_path):
    (tmp_path / "t.txt").write_text(
        "# format:name ra_d dec_d i q u v emaj_s emin_s pa_d\n"
        "Source3 12.53 -19.63 9.6e-08 0 0 0 3 3 21.4\nSource4 12.54 -19.64 9e-08 0 0 0 3 3 21.4\n"
    )
    read = read_any(tmp_path / "t.txt")
    assert read["ra"].tolist() == [12.53, 12.54]
    assert read["name"].tolist() == ["Source3", "Source4"]
    assert read.meta["comparable_fluxes"] is False
    assert read.beam is None


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "o.csv"
    Table({"RAJ2000": [10.0], "DEJ2000": [-5.0], "Fp": [3.0], "Axis": [0.2], "Cl": ["a"]}).write(
        path
    )
    return path


def test_a_map_of_columns(other, tmp_path):
    mapping = {
        "ra": "RAJ2000",
        "dec": "DEJ2000",
        "peak_flux": {"column": "Fp", "unit": "mJy"},
        "major": {"column": "Axis", "unit": "arcmin"},
        "morphology": "Cl",
        "beam": 9.0,
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(mapping))
    for given in (mapping, tmp_path / "m.yaml"):
        read = read_any(other, given)
        assert (read["ra"][0], read["dec"][0]) == (10.0, -5.0)
        assert read["peak_flux"][0] == pytest.approx(3e-3)
        assert read["major"][0] == pytest.approx(12.0)
        assert read["morphology"][0] == "a"
        assert read.beam == (9.0, 9.0)
        assert np.isnan(read["total_flux"][0])
        assert read["source"][0] == -1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ra": "RAJ200"}, "no column 'RAJ200'; did you mean 'RAJ2000'"),
        ({"major": {"column": "Axis", "unit": "mJy"}}, "converts to arcsec"),
        ({"majr": "Axis"}, "no column 'majr'; did you mean 'major'"),
        ({"dec": None}, "names no 'dec'"),
    ],
)
def test_a_wrong_map_is_one_sentence(other, changes, words):
    mapping = {"ra": "RAJ2000", "dec": "DEJ2000", **changes}
    with pytest.raises(InputError) as caught:
        read_any(other, {key: value for key, value in mapping.items() if value})
    assert words.replace("; did you mean", "").split("'")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_tables_say_what_the_nearest_kind_would_need(other, tmp_path):
    with pytest.raises(InputError, match=r"RAJ2000.*nearest is NVSS.*S1.4, MajAxis;.*--columns"):
        read_any(other)
    with pytest.raises(InputError, match="no file"):
        read_any(tmp_path / "absent.fits")
    (tmp_path / "bad.fits").write_bytes(b"no FITS")
    with pytest.raises(InputError, match="cannot be read"):
        read_any(tmp_path / "bad.fits")


def test_a_catalogue_without_sky_positions_is_refused():
    with pytest.raises(InputError, match="no sky coordinates"):
        from_catalogue(make_catalogue(sky=False))


def test_the_beam_follows_from_fitted_rows():
    rng = np.random.default_rng(3)
    table = rows(np.arange(40.0), 0.0)
    major, minor = rng.uniform(10, 30, 40), rng.uniform(9, 10, 40)
    total = table["peak_flux"] * major * minor / (8.0 * 6.0)
    made = table.replace(major=major, minor=minor, total_flux=total)
    del made.meta["beam"]
    assert made.beam == pytest.approx((np.sqrt(48.0),) * 2)


def test_joined_tables_keep_their_groups_apart():
    one = rows([0.0, 9.0], 0.0, source=[3, -1])
    both = ComparisonTable.concatenate([one, one])
    assert both["source"].tolist() == [3, -1, 7, -1]
    assert len(both.table) == 4
    assert str(both.table["peak_flux"].unit) == "Jy / beam"


def parts_of_two_sources():
    return ComparisonTable.from_columns(
        {
            "ra": [10.0, 10.01, 10.009, 20.0, 20.001],
            "dec": [0.0, 0.0, 0.001, 0.0, 0.0],
            "peak_flux": [5.0, 3.0, 0.5, 1.0, 2.0],
            "total_flux": [5.0, 3.0, 1.5, 4.0, 6.0],
            "total_flux_err": [0.3, 0.4, 0.3, 0.6, 0.8],
            "source": [1, 1, 1, 2, 2],
            "part": [False, False, True, True, True],
        },
        {"name": "ours"},
    )


def test_parts_are_joined_to_the_nearest_row_of_their_source():
    joined = parts_of_two_sources().joined()
    np.testing.assert_array_equal(joined["ra"], [10.0, 10.01, 20.001])
    np.testing.assert_allclose(joined["total_flux"], [5.0, 4.5, 10.0])
    np.testing.assert_allclose(joined["total_flux_err"], [0.3, 0.5, 1.0])
    np.testing.assert_array_equal(joined["peak_flux"], [5.0, 3.0, 2.0])
    assert joined.joined()["part"].sum() == 1
    assert len(joined.joined()) == 3


def test_parts_of_no_known_source_stay():
    table = parts_of_two_sources()
    assert len(table.replace(source=np.full(5, -1)).joined()) == 5
    assert table.replace(part=np.zeros(5, bool)).joined() is not None


def test_wavelet_components_are_parts(tmp_path):
    path = tmp_path / "ours.csv"
    path.write_text(
        "ra,dec,peak_flux,total_flux,major,position_angle,source_id,fit_type\n"
        "10,0,1,1,5,0,1,gaussian\n10.001,0,0.2,0.5,9,0,1,wavelet\n"
    )
    table = read_any(path)
    np.testing.assert_array_equal(table["part"], [False, True])
    assert len(table.joined()) == 1


def test_a_map_for_other_tables_leaves_ours_as_it_is(tmp_path):
    catalogue = make_catalogue()
    catalogue.write(tmp_path / "x.fits")
    given = {"ra": "ra", "dec": "dec", "peak_flux": {"column": "peak_flux", "unit": "mJy/beam"}}
    same(from_catalogue(catalogue), read_any(tmp_path / "x.fits", given), [*UNITS])


def test_of_a_map_for_a_known_table_the_beam_is_taken(tmp_path):
    catalogue = make_catalogue()
    catalogue.export("pybdsf_gaul").write(tmp_path / "gaul.csv", format="ascii.csv")
    read = read_any(tmp_path / "gaul.csv", {"beam": 5.4})
    assert read.beam == (5.4, 5.4)
    same(from_catalogue(catalogue), read, MEASURED)
    with pytest.raises(InputError, match="FWHM in arcsec"):
        read_any(tmp_path / "gaul.csv", {"beam": "wide"})


def test_columns_named_behind_other_comments(tmp_path):
    """The lists of PyBDSF begin with what made them."""
    catalogue = make_catalogue()
    catalogue.export("pybdsf_gaul").write(tmp_path / "plain.csv", format="ascii.csv")
    text = (tmp_path / "plain.csv").read_text()
    head = "# Gaussian list for 'x.fits'\n# Equinox : 2000.0\n\n# "
    (tmp_path / "gaul.csv").write_text(head + text.replace(",", ", "))
    same(read_any(tmp_path / "plain.csv"), read_any(tmp_path / "gaul.csv"), MEASURED)


def test_units_in_a_spelling_of_their_own(tmp_path):
    table = make_catalogue().export("pybdsf_gaul")
    table["Peak_flux"].unit, table["RA"].unit = "mJy/bm", "h"
    table.write(tmp_path / "hours.ecsv")
    with pytest.raises(InputError, match="is a time and no angle"):
        read_any(tmp_path / "hours.ecsv")
    table["RA"].unit = "deg"
    table.write(tmp_path / "degrees.ecsv")
    np.testing.assert_allclose(
        read_any(tmp_path / "degrees.ecsv")["peak_flux"], 1e-3 * np.asarray(table["Peak_flux"])
    )
