"""The command line: what it writes, what it prints, how it fails."""

import json
import re

import astropy.units as u
import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable, Table
from mocpy import MOC

from cyclades.pipeline import chain
from cyclades.pipeline.cli import main
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.exports import COLUMNS, LAYOUTS
from cyclades.stages.core.formats import FORMATS


def cyclades(*arguments):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def sentence(capsys):
    """The one line on stderr; nothing may look like a traceback."""
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert "\n" not in text, text
    return text


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    assert cyclades("sample", "simulated", folder) == 0
    return folder / "simulated.fits"


def test_run_writes_the_catalogue_and_its_company(simulated, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    products = "background,rms,significance,islands,model,residual,quicklook"
    code = cyclades("run", simulated, "--output", out, "--formats", "votable,csv",
                    "--products", products)  # fmt: skip
    assert code == 0
    assert re.search(r"simulated\.catalogue\.fits: \d+ components", capsys.readouterr().out)
    names = {path.name.removeprefix("simulated.") for path in out.iterdir()}
    assert names == {
        "catalogue.fits", "catalogue.vot", "catalogue.csv", "catalogue.sources.csv",
        "catalogue.islands.csv", "config.yaml", "provenance.json", "quicklook.png",
        *(f"{p}.fits" for p in products.split(",")[:-1]),
    }  # fmt: skip
    with fits.open(out / "simulated.catalogue.fits") as file:
        assert [hdu.name.lower() for hdu in file[1:]] == ["components", "sources", "islands"]
    assert (out / "simulated.quicklook.png").read_bytes()[:4] == b"\x89PNG"


def test_the_written_configuration_repeats_the_run(simulated, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    options = ("--set", "detection.seed_threshold=8", "--beam", "12x9arcsec@20deg")
    assert cyclades("run", simulated, "-o", first, *options) == 0
    config = first / "simulated.config.yaml"
    assert yaml.safe_load(config.read_text())["detection"]["seed_threshold"] == 8
    assert cyclades("run", simulated, "-o", second, "--config", config) == 0
    name = "simulated.catalogue.fits"
    assert read_catalogue(first / name) == read_catalogue(second / name)
    assert (second / "simulated.config.yaml").read_text() == config.read_text()


def test_provenance_holds_what_a_repetition_needs(simulated, tmp_path):
    import hashlib

    assert cyclades("run", simulated, "-o", tmp_path, "--workers", "1") == 0
    record = json.loads((tmp_path / "simulated.provenance.json").read_text())
    assert record["input"]["sha256"] == hashlib.sha256(simulated.read_bytes()).hexdigest()
    assert record["input"]["size"] == simulated.stat().st_size
    assert record["software"]["numpy"] == np.__version__
    assert record["workers"] == 1
    assert record["time"].endswith("+00:00")
    written = yaml.safe_load((tmp_path / "simulated.config.yaml").read_text())
    assert record["configuration"] == written
    table = QTable.read(tmp_path / "simulated.catalogue.fits", hdu="components")
    assert record["counts"]["components"] == len(table)


def test_maps_of_ones_own_replace_the_background(simulated, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    assert cyclades("run", simulated, "-o", first, "--products", "background,rms") == 0
    maps = [f"--{name}={first / f'simulated.{name}.fits'}" for name in ("background", "rms")]
    assert cyclades("run", simulated, "-o", second, *maps) == 0
    tables = [
        QTable.read(folder / "simulated.catalogue.fits", hdu="components")
        for folder in (first, second)
    ]
    np.testing.assert_allclose(tables[0]["peak_flux"], tables[1]["peak_flux"], rtol=1e-5)
    record = json.loads((second / "simulated.provenance.json").read_text())
    assert [entry["path"] for entry in record["other_files"]] == [
        str(first / f"simulated.{name}.fits") for name in ("background", "rms")
    ]


def test_a_bad_image_does_not_stop_the_others(simulated, tmp_path, make_field, capsys):
    bad, out = make_field("bad.fits", BMAJ=None, BMIN=None, BPA=None), tmp_path / "out"
    assert cyclades("run", bad, tmp_path / "absent.fits", simulated, "-o", out) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "2 of 3 images failed" in captured.err
    assert "bad has no beam" in captured.err
    assert "absent.fits" in captured.err
    assert {p.name for p in out.iterdir()} == {
        "simulated.catalogue.fits", "simulated.config.yaml", "simulated.provenance.json",
    }  # fmt: skip


def test_a_defect_of_ours_does_not_stop_the_others(simulated, tmp_path, capsys, monkeypatch):
    run = chain.Pipeline.run

    def fail_first(self, image, **options):
        if image.name == "other.fits":
            raise ZeroDivisionError("division by zero")
        return run(self, image, **options)

    monkeypatch.setattr(chain.Pipeline, "run", fail_first)
    assert cyclades("run", tmp_path / "other.fits", simulated, "-o", tmp_path / "out") == 2
    assert "unexpected ZeroDivisionError (division by zero)" in capsys.readouterr().err
    assert (tmp_path / "out" / "simulated.catalogue.fits").is_file()


def test_the_number_of_workers_changes_nothing(simulated):
    pipeline = chain.Pipeline.from_route("classical")
    one, two = (pipeline.run(simulated, workers=workers).catalogue for workers in (1, 2))
    assert one == two


def nothing(path):
    return path


def cube(path):
    fits.PrimaryHDU(np.ones((3, 4, 5), np.float32)).writeto(path)


def blank(path):
    data = np.full((20, 20), np.nan, np.float32)
    fits.PrimaryHDU(data).writeto(path)


def truncated(path):
    fits.PrimaryHDU(np.ones((200, 200), np.float32)).writeto(path)
    path.write_bytes(path.read_bytes()[:20000])


def text(path):
    path.write_text("this is not an image")


def no_beam(path):
    fits.PrimaryHDU(np.random.default_rng(0).normal(size=(30, 30))).writeto(path)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (nothing, [], "X.fits"),
        (cube, [], "plane"),
        (blank, ["--beam", "4pixel"], "blank"),
        (truncated, ["--beam", "4pixel"], "truncated"),
        (text, [], "FITS"),
        (no_beam, [], "--beam 4pixel"),
        (no_beam, ["--beam", "5.4bananas"], "5.4bananas"),
        (no_beam, ["--set", "detection=ilands"], "did you mean 'islands'"),
        (no_beam, ["--set", "detection.seed_treshold=6"], "did you mean 'seed_threshold'"),
        (no_beam, ["--set", "detection.seed_threshold=high"], "not 'high'"),
        (no_beam, ["--set", "seed"], "section.parameter=value"),
        (no_beam, ["--route", "clasical"], "did you mean 'classical'"),
        (no_beam, ["--config", "none.yaml"], "No such file"),
        (no_beam, ["--route", "classical", "--config", "none.yaml"], "not both"),
        (no_beam, ["--products", "resdual"], "did you mean 'residual'"),
        (no_beam, ["--formats", "votble"], "did you mean 'votable'"),
        (no_beam, ["--columns", "aegan"], "did you mean 'aegean'"),
        (no_beam, ["--psf", "absent.fits"], "absent.fits"),
        (no_beam, ["--include", "absent.reg", "--beam", "4pixel"], "absent.reg"),
        (no_beam, ["--rms", "rms.fits"], "--background and --rms together"),
        (no_beam, ["--mask", "absent.fits", "--beam", "4pixel"], "absent.fits"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, make, options, words, capsys):
    make(tmp_path / "X.fits")
    out = tmp_path / "out"
    assert cyclades("run", tmp_path / "X.fits", "--output", out, *options) == 2
    assert words in sentence(capsys)
    assert not out.exists() or not list(out.iterdir())


def test_unwritable_output_is_found_before_the_work(simulated, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(chain.Pipeline, "run", lambda *_, **__: pytest.fail("the work started"))
    (tmp_path / "file").write_text("")
    assert cyclades("run", simulated, "--output", tmp_path / "file") == 2
    assert "cannot be written to" in sentence(capsys)


def test_inputs_of_one_name_are_refused_before_the_work(tmp_path, make_field, capsys):
    paths = [make_field("a/X.fits"), make_field("b/X.fits.gz")]
    assert cyclades("run", *paths, "--output", tmp_path / "out") == 2
    assert "would both write X." in sentence(capsys)


def test_an_output_never_replaces_an_input(tmp_path, make_field, capsys):
    paths = [make_field("X.fits"), make_field("X.model.fits")]
    before = paths[1].read_bytes()
    assert cyclades("run", *paths, "--output", tmp_path, "--products", "model") == 2
    assert "would replace an input" in sentence(capsys)
    assert paths[1].read_bytes() == before


def test_interruption_exits_130_and_leaves_nothing(simulated, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cyclades.pipeline.provenance.versions", interrupt)
    assert cyclades("run", simulated, "--output", tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_quiet_prints_nothing(simulated, tmp_path, capsys):
    assert cyclades("run", simulated, "--output", tmp_path, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_verbose_names_the_stages(simulated, tmp_path, capsys):
    assert cyclades("run", simulated, "--output", tmp_path, "--verbose") == 0
    text = capsys.readouterr().err
    for stage in ("background grid", "detection islands", "characterization gaussian"):
        assert stage in text


def test_stages_lists_and_describes(capsys):
    assert cyclades("stages") == 0
    listed = capsys.readouterr().out
    assert "islands" in listed
    assert "gaussian" in listed
    assert cyclades("stages", "islands") == 0
    described = capsys.readouterr().out
    assert re.search(r"false_discovery_rate: float; default 0.01; > 0, < 1", described)
    assert cyclades("stages", "iland") == 2
    assert "did you mean 'islands'" in sentence(capsys)


def test_config_show_and_check(tmp_path, capsys):
    assert cyclades("config", "show", "--set", "detection.seed_threshold=6") == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["detection"]["seed_threshold"] == 6
    file = tmp_path / "route.yaml"
    file.write_text(text)
    assert cyclades("config", "check", file) == 0
    capsys.readouterr()
    file.write_text(text.replace("seed_threshold", "seed_treshold").replace("seed: 0", "seed: x"))
    assert cyclades("config", "check", file) == 2
    lines = capsys.readouterr().err.splitlines()
    numbers = [int(line.removeprefix(f"{file}:").partition(":")[0]) for line in lines]
    broken = file.read_text().splitlines()
    assert "seed_treshold" in broken[numbers[0] - 1]
    assert broken[numbers[-1] - 1] == "seed: x"


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["run", "X.fits"]])
def test_usage_errors_exit_2(arguments, capsys):
    assert cyclades(*arguments) == 2
    assert "Usage" in capsys.readouterr().err


def test_every_format_and_layout_is_named_in_the_help(capsys):
    assert cyclades("run", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    named = re.search(r"--formats TEXT (.*?)\[default", text).group(1)
    others = re.search(r"--columns TEXT (.*?) --", text).group(1)
    for listed, names in ((named, set(FORMATS) - set(LAYOUTS)), (others, {*LAYOUTS, *COLUMNS})):
        words = re.split(r"[^a-z0-9_]+", listed.lower())
        assert [name for name in names if name not in words] == []


def test_columns_of_other_source_finders(simulated, tmp_path):
    options = ("--columns", "aegean,pybdsf,selavy_islands", "--formats", "csv", "-q")
    assert cyclades("run", simulated, "-o", tmp_path, *options) == 0
    names = {path.name.removeprefix("simulated.catalogue.") for path in tmp_path.iterdir()}
    for layout in ("aegean", "pybdsf_srl", "pybdsf_gaul", "selavy_islands"):
        assert f"{layout}.csv" in names
        assert f"{layout}.fits" in names
    assert not any("selavy_components" in name for name in names)
    catalogue = read_catalogue(tmp_path / "simulated.catalogue.fits")
    for layout, expected in (("aegean", "aegean"), ("pybdsf", "pybdsf_srl")):
        table = catalogue.export(layout)
        assert table.colnames == catalogue.export(expected).colnames
        for suffix, kind in (("fits", "fits"), ("csv", "ascii.csv")):
            written = Table.read(tmp_path / f"simulated.catalogue.{expected}.{suffix}", format=kind)
            assert written.colnames == table.colnames
            flux = "peak_flux" if layout == "aegean" else "Peak_flux"
            np.testing.assert_allclose(written[flux], table[flux], rtol=1e-6)
    assert catalogue.export("selavy").colnames == catalogue.export("selavy_components").colnames


def test_coverage_and_regions_limit_what_is_searched(simulated, tmp_path):
    header = fits.getheader(simulated)
    moc = MOC.from_cone(header["CRVAL1"] * u.deg, header["CRVAL2"] * u.deg, radius=200 * u.arcsec,
                        max_depth=16)  # fmt: skip
    moc.save(str(tmp_path / "part.json"), format="json")
    tables = {}
    for option in ("--include", "--mask"):
        out = tmp_path / option.strip("-")
        assert cyclades("run", simulated, "-o", out, option, tmp_path / "part.json", "-q") == 0
        tables[option] = QTable.read(out / "simulated.catalogue.fits", hdu="components")
        record = json.loads((out / "simulated.provenance.json").read_text())
        assert [entry["path"] for entry in record["other_files"]] == [str(tmp_path / "part.json")]
    for option, table in tables.items():
        assert len(table) >= 5
        inside = moc.contains_lonlat(table["ra"], table["dec"])
        # a source on the border may have its fitted centre a pixel beyond
        assert np.mean(inside == (option == "--include")) > 0.9


def test_coverage_and_ds9_regions_by_either_name(simulated, tmp_path):
    assert cyclades("run", simulated, "-o", tmp_path, "--formats", "moc,ds9,reg", "-q") == 0
    moc = MOC.load(str(tmp_path / "simulated.catalogue.moc.fits"), format="fits")
    assert moc.sky_fraction * 4 * np.pi == pytest.approx((512 * np.radians(2 / 3600)) ** 2, rel=0.1)
    assert (tmp_path / "simulated.catalogue.reg").read_text().count("ellipse(") > 10


def test_ctrl_c_in_compiled_code_ends_the_batch(simulated, tmp_path, capsys, monkeypatch):
    """numba wraps the KeyboardInterrupt of a handler that ran meanwhile."""

    def interrupted(*args, **kwargs):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(chain.Pipeline, "run", interrupted)
    assert cyclades("run", simulated, "-o", tmp_path) == 130
    assert "interrupted" in sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_any_name_is_catalogued_and_counted_in_words(tmp_path, make_field, capsys):
    image = make_field("Ähre α 1.fits")
    assert cyclades("run", image, "-o", tmp_path / "out", "--products", "residual") == 0
    said = capsys.readouterr().out
    made = read_catalogue(tmp_path / "out" / "Ähre α 1.catalogue.fits")
    assert made.meta["image"] == "Ähre α 1"
    number = len(made)
    assert f": {number} component{'' if number == 1 else 's'} in " in said
    residual = tmp_path / "out" / "Ähre α 1.residual.fits"
    assert fits.getheader(residual)["IMAGE"] == "?hre ? 1"
    where = ["--catalogue", tmp_path / "out" / "Ähre α 1.catalogue.fits"]
    assert cyclades("subtract", image, *where, "-o", tmp_path / "left.fits") == 0
