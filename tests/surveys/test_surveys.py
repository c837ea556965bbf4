"""Surveys: what is asked for, what is made of the answers, what is kept, and how it fails."""

import json
import re
import socket

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.coordinates.name_resolve import sesame_url
from astropy.io import fits
from astropy.table import Table
from pyvo.utils import vocabularies
from survey_server import DEC, FLUX, RA, SurveyServer

from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.any_catalogue import read_any
from cyclades.pipeline.reference import documents
from cyclades.pipeline.surveys import web
from cyclades.pipeline.surveys.region import Region, parse_position, parse_size, region_of_image
from cyclades.pipeline.surveys.table import SERVICES, SURVEYS
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import FitsSource

INSIDE = 3
"""Sources of the made-up catalogues inside a square of 0.1 degrees; the fourth is outside."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    made = SurveyServer()
    for name, url in made.services.items():
        monkeypatch.setitem(SERVICES, name, url)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "BACKOFF", 0.0)
    monkeypatch.setattr(vocabularies, "IVOA_VOCABULARY_ROOT", f"{made.url}/rdf/")
    vocabularies.get_vocabulary.cache_clear()
    yield made
    made.close()


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def sentence(capsys):
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert "\n" not in text, text
    return text


def fetch(tmp_path, survey, product, *options):
    dec = -45.0 if survey == "SUMSS" else DEC
    code = cyclades("fetch", "--survey", survey, "--position", f"{RA},{dec}", "--size", "6arcmin",
                    "--products", product, "-o", tmp_path / "out", *options)  # fmt: skip
    return code, next((tmp_path / "out").glob(f"{survey}_J*.fits"), None)


@pytest.mark.parametrize("name", SURVEYS)
def test_a_fetched_catalogue_is_read_by_compare_as_it_is(name, server, tmp_path):
    code, path = fetch(tmp_path, name, "catalogue")
    assert code == 0
    table = read_any(path)
    assert len(table) == INSIDE
    dec = -45.0 if name == "SUMSS" else DEC
    centre, found = SkyCoord(RA, dec, unit="deg"), SkyCoord(table["ra"], table["dec"], unit="deg")
    assert found[0].separation(centre).arcsec < 0.01
    if name == "NVSS":  # which lists total fluxes only
        np.testing.assert_allclose(table["total_flux"], 1e-3 * FLUX[:INSIDE], rtol=1e-6)
        assert np.isnan(table["peak_flux"]).all()
    else:
        np.testing.assert_allclose(table["peak_flux"], 1e-3 * FLUX[:INSIDE], rtol=1e-6)
        assert (table["total_flux"] > table["peak_flux"]).all()
        assert (table["major"] >= SURVEYS[name].beam).all(), "sizes are with the beam"
    major, minor = SURVEYS[name].beam_at(dec)
    assert table.beam == pytest.approx((major, minor))
    if name in ("VLASS", "RACS", "LoTSS", "SUMSS"):
        assert 0.05 < table["ra_err"][0] < 3.0  # arcsec, whatever the published unit
    header = fits.getheader(path, 1)
    assert header["SURVEY"] == name
    assert header["REFERENC"] == SURVEYS[name].reference


@pytest.mark.parametrize("name", SURVEYS)
def test_a_fetched_image_opens_with_beam_and_unit(name, server, tmp_path):
    code, path = fetch(tmp_path, name, "image")
    assert code == 0
    source = FitsSource(path)
    assert source.psf is not None
    assert str(source.unit) == "Jy / beam"
    assert source.frequency == pytest.approx(SURVEYS[name].frequency * 1e6)
    header = fits.getheader(path)
    major, _ = SURVEYS[name].beam_at(-45.0 if name == "SUMSS" else DEC)
    assert 3600 * header["BMAJ"] == pytest.approx(major)
    if name == "LoTSS":  # its cut-outs know their beam
        assert header["BPA"] == 90.0
    if name == "VLASS":  # the newest epoch, the image that covers most, and no map of the rms
        assert header["OBJECT"] == "whole.tt0"
        asked = [asked["ID"] for path, asked in server.log if path == "/caom2ops/sync"]
        assert sorted(asked) == ["edge.tt0", "whole.tt0"]


def test_the_question_is_the_circle_around_the_square(server, tmp_path):
    assert fetch(tmp_path, "VLASS", "catalogue")[0] == 0
    query = server.log[0][1]["QUERY"]
    ra, dec, radius = map(float, re.search(r"CIRCLE\('ICRS', (.*?)\)", query)[1].split(","))
    assert (ra, dec) == (RA, DEC)
    assert radius == pytest.approx(0.1 / np.sqrt(2))
    assert '"J/ApJS/255/30/comp"' in query
    assert "DupFlag < 2 AND QualFlag IN (0, 4)" in query


def test_both_tables_of_racs_are_asked(server, tmp_path):
    assert fetch(tmp_path, "RACS", "catalogue")[0] == 0
    asked = " ".join(asked["QUERY"] for _, asked in server.log)
    assert "galacticcut" in asked
    assert "galacticregion" in asked


def test_the_cut_outs_have_the_size_asked_for(server, tmp_path):
    fetch(tmp_path, "NVSS", "image")
    fetch(tmp_path, "RACS", "image")
    fetch(tmp_path, "LoTSS", "image")
    asked = dict(server.log)
    assert float(asked["/runquery.pl"]["imscale"].split(",")[0]) == pytest.approx(0.1)
    assert asked["/runquery.pl"]["survey"] == "NVSS"
    assert asked["/runquery.pl"]["pixels"] == "24"
    assert float(asked["/hips2fits"]["fov"]) == pytest.approx(0.1)
    assert asked["/hips2fits"]["hips"] == "CSIRO/P/RACS/low/I"
    assert float(asked["/lofar"]["size"]) == pytest.approx(6.0)


def test_what_was_fetched_is_kept_until_refreshed(server, tmp_path, capsys):
    for product in ("catalogue", "image"):
        _, path = fetch(tmp_path, "NVSS", product)
        before = len(server.log)
        first = path.read_bytes()
        capsys.readouterr()
        assert fetch(tmp_path, "NVSS", product)[0] == 0
        assert "from the cache" in capsys.readouterr().out
        assert len(server.log) == before
        assert path.read_bytes() == first
        assert fetch(tmp_path, "NVSS", product, "--refresh")[0] == 0
        assert len(server.log) > before
        path.unlink()
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name or ".new." in p.name]


def test_another_place_is_another_entry_of_the_cache(server, tmp_path):
    fetch(tmp_path, "NVSS", "catalogue")
    before = len(server.log)
    cyclades("fetch", "--survey", "NVSS", "--position", f"{RA},{DEC}", "--size", "7arcmin",
             "--products", "catalogue", "-o", tmp_path)  # fmt: skip
    assert len(server.log) == before + 1


def test_a_busy_service_is_asked_again(server, tmp_path):
    server.busy = 2
    assert fetch(tmp_path, "NVSS", "catalogue")[0] == 0
    assert len(server.log) == 3


def test_a_service_that_stays_busy_is_one_sentence(server, tmp_path, capsys):
    server.busy = 100
    code, path = fetch(tmp_path, "FIRST", "catalogue")
    assert (code, path) == (2, None)
    assert "vizier (FIRST) at 127.0.0.1" in (said := sentence(capsys))
    assert "try again later" in said


@pytest.mark.parametrize("product", ["catalogue", "image"])
@pytest.mark.parametrize("name", ["NVSS", "VLASS", "RACS"])
def test_a_service_that_cannot_be_reached(name, product, server, tmp_path, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
    for service in SERVICES:
        monkeypatch.setitem(SERVICES, service, closed)
    code, path = fetch(tmp_path, name, product)
    assert (code, path) == (2, None)
    assert re.search(r"cannot be reached .*connection refused.*check the network", sentence(capsys))


def test_a_service_that_never_answers(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web, "TIMEOUT", (1.0, 0.1))
    monkeypatch.setattr(web, "RETRIES", 0)
    server.slow = 0.5
    assert fetch(tmp_path, "NVSS", "catalogue")[0] == 2
    assert "it took too long" in sentence(capsys)


def test_an_answer_that_is_no_image(server, tmp_path, capsys):
    server.broken = True
    assert fetch(tmp_path, "LoTSS", "image") == (2, None)
    assert "gave no FITS image ('<html>This position is not covered" in sentence(capsys)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_too_many_rows_for_one_answer(server, tmp_path, capsys):
    server.overflow = True
    assert fetch(tmp_path, "NVSS", "catalogue")[0] == 2
    assert "give a smaller --size" in sentence(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--survey", "NVS", "--position", "1,2"], "did you mean 'NVSS'"),
        (["--position", "1,2"], "--survey NVSS"),
        (["--survey", "NVSS"], "--field IMAGE"),
        (["--survey", "NVSS", "--position", "1,2", "--size", "3"], "--size 10arcmin"),
        (["--survey", "NVSS", "--position", "1,2", "--size", "40deg"], "between 0 and 20deg"),
        (["--survey", "NVSS", "--position", "1,95"], "cannot be read"),
        (["--survey", "NVSS", "--position", "12:61:00 +12:00:00"], "cannot be read"),
        (["--survey", "SUMSS", "--position", "1,50"], "does not reach declination"),
        (["--survey", "NVSS", "--position", "1,2", "--products", "cube"], "catalogue, image"),
        (["--survey", "FIRST", "--position", "1,2", "--size", "9deg", "--products", "image"],
         "give a --size below 5deg"),
        (["--survey", "NVSS", "--position", "1,2", "--field", "x.fits"], "not both"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences_and_ask_nobody(options, words, server, tmp_path, capsys):
    assert cyclades("fetch", *options, "-o", tmp_path) == 2
    assert words in sentence(capsys)
    assert not server.log


@pytest.mark.parametrize(
    "text",
    ["187.5,12.5", "187.5 12.5", "12:30:00 +12:30:00", "12h30m00s +12d30m00s", "12 30 00 12 30 0"],
)
def test_positions(text):
    assert parse_position(text) == pytest.approx((187.5, 12.5))


def test_sizes():
    assert parse_size("30arcmin") == 0.5
    with pytest.raises(InputError, match="is no angle"):
        parse_size("3 Jy")


def test_names_are_resolved(server):
    with sesame_url.set([f"{server.url}/sesame?"]):
        assert parse_position("M 87") == pytest.approx((187.70593, 12.39112))
        with pytest.raises(InputError, match="no catalogue has it"):
            parse_position("Nowhere")
    with (
        sesame_url.set(["http://127.0.0.1:9/"]),
        pytest.raises(
            InputError,
            match=r"^The name 'M 87'[^;]*Sesame cannot be reached[^;]*; give coordinates[^;]*$",
        ),
    ):
        parse_position("M 87")


def test_the_region_of_an_image_holds_its_corners(server, tmp_path):
    _, path = fetch(tmp_path, "RACS", "image")
    region = region_of_image(path)
    assert (region.ra, region.dec) == pytest.approx((RA, DEC), abs=1e-6)
    assert region.size == pytest.approx(24 * 0.005, rel=1e-3)
    code = cyclades("fetch", "--survey", "NVSS", "--field", path, "-o", tmp_path / "field",
                    "--products", "catalogue")  # fmt: skip
    assert code == 0
    assert len(Table.read(next((tmp_path / "field").iterdir()))) == INSIDE + 1


def test_one_failure_does_not_stop_the_others(server, tmp_path, capsys):
    code = cyclades("fetch", "--survey", "SUMSS,NVSS", "--position", f"{RA},{DEC}", "--json",
                    "--products", "catalogue", "-o", tmp_path)  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert code == 2
    assert [entry["survey"] for entry in told["files"]] == ["NVSS"]
    assert len(told["errors"]) == 1


def test_the_list_of_surveys(capsys):
    assert cyclades("fetch", "--list", "--json") == 0
    listed = {s["name"]: s for s in json.loads(capsys.readouterr().out)["surveys"]}
    assert set(listed) == {"FIRST", "NVSS", "VLASS", "RACS", "LoTSS", "SUMSS"}
    assert listed["NVSS"]["resolution_arcsec"] == 45.0
    assert all(s["catalogue_service"].startswith("https://") for s in listed.values())
    assert cyclades("fetch", "--list") == 0
    assert capsys.readouterr().out.count("\n") == 1 + len(listed)
    assert all(f"| {name} |" in documents()["surveys.md"] for name in listed)


def test_the_beam_of_sumss_grows_to_the_north():
    assert SURVEYS["SUMSS"].beam_at(-90.0) == pytest.approx((45.0, 45.0))
    assert SURVEYS["SUMSS"].beam_at(-30.0) == pytest.approx((90.0, 45.0))
    assert Region(187.7059, 12.3911, 1.0).name == "J123049.4+122327"
