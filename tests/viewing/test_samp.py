"""Sending by SAMP, to programs on a hub in this process."""

import threading
import time
from urllib.parse import urlparse
from urllib.request import url2pathname

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse, parse_single_table
from astropy.table import Table
from report_cases import make_field

import cyclades
from cyclades.pipeline.cli import main
from cyclades.pipeline.viewing.samp import IMAGE, POINT, TABLE, samp_package, send
from cyclades.stages.core.errors import InputError


@pytest.fixture(scope="module")
def catalogue():
    image, _ = make_field(n=12, size=160)
    return cyclades.Pipeline.from_route("classical").run(image).catalogue


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of its own, found by its lock file and by nobody else."""
    samp = samp_package()
    lock = tmp_path / "samp.lock"
    monkeypatch.setenv("SAMP_HUB", lock.as_uri().replace("file:", "std-lockurl:file:"))
    made = samp.SAMPHubServer(
        web_profile=False, lockfile=str(lock), addr="127.0.0.1", timeout=0, mode="single"
    )
    made.start()
    yield made
    made.stop()


class Program:
    """A program on the hub: what it was sent, read while it may be read."""

    def __init__(self, name, kinds, wrong=""):
        self.client = samp_package().SAMPIntegratedClient(name=name, addr="127.0.0.1")
        self.wrong, self.got, self.held = wrong, [], []
        self.done = threading.Event()
        self.client.connect()
        for kind in kinds:
            self.client.bind_receive_call(kind, self.receive)

    def receive(self, key, sender, message_id, kind, parameters, extra):
        answer = {"samp.status": "samp.ok", "samp.result": {}}
        try:
            self.got.append((kind, dict(parameters)))
            if kind == TABLE:
                path = url2pathname(urlparse(parameters["url"]).path)
                parse(path, verify="exception")
                self.held.append(Table.read(path, format="votable"))
            elif kind == IMAGE:
                self.held.append(fits.getdata(url2pathname(urlparse(parameters["url"]).path)))
        except Exception as error:
            answer = {"samp.status": "samp.error", "samp.error": {"samp.errortxt": repr(error)}}
        if self.wrong:
            answer = {"samp.status": "samp.error", "samp.error": {"samp.errortxt": self.wrong}}
        self.client.reply(message_id, answer)


@pytest.fixture
def topcat(hub):
    made = Program("topcat", [TABLE, POINT])
    yield made
    made.client.disconnect()


@pytest.fixture
def ds9(hub):
    made = Program("SAOImage DS9", [IMAGE, POINT])
    yield made
    made.client.disconnect()


def test_programs_are_sent_what_they_take(topcat, ds9, catalogue, tmp_path):
    image, _ = make_field(n=12, size=160)
    row = catalogue.components[3]
    made = send({"ours": catalogue}, image, at=str(row["name"]), timeout=30)
    assert not any(one.error for one in made)
    assert sorted((one.client, one.message) for one in made) == [
        ("SAOImage DS9", POINT), ("SAOImage DS9", IMAGE), ("topcat", POINT), ("topcat", TABLE)
    ]  # fmt: skip
    (table,) = topcat.held
    components = catalogue.components
    assert table.colnames == components.colnames
    for name in ("ra", "total_flux", "major"):
        np.testing.assert_array_equal(np.asarray(table[name]), np.asarray(components[name]))
        assert table[name].unit == components[name].unit
        assert table[name].meta["ucd"] == components[name].info.meta["ucd"]
        # the file breaks long lines
        assert table[name].description.split() == components[name].info.description.split()
    assert list(table["name"].astype(str)) == list(components["name"])
    np.testing.assert_array_equal(ds9.held[0], image.data)
    pointed = next(parameters for kind, parameters in ds9.got if kind == POINT)
    assert float(pointed["ra"]) == pytest.approx(row["ra"].to_value(u.deg), abs=1e-8)
    assert float(pointed["dec"]) == pytest.approx(row["dec"].to_value(u.deg), abs=1e-8)


def test_the_command_sends_files_of_any_finder_to_one_program(
    topcat, ds9, catalogue, tmp_path, capsys
):
    ours, theirs = tmp_path / "ours.catalogue.fits", tmp_path / "list.csv"
    catalogue.write(ours)
    Table({"ra": [180.0, 180.1], "dec": [-30.0, -30.1]}).write(theirs)
    image, _ = make_field(n=12, size=160)
    fits.PrimaryHDU(image.data).writeto(tmp_path / "image.fits")
    words = [f"{ours}", f"theirs={theirs}", "--image", f"{tmp_path / 'image.fits'}"]
    with pytest.raises(SystemExit) as stop:
        main(["send", *words, "--to", "TOPCAT", "--table", "sources", "--at", "180.05,-30.05"])
    assert not stop.value.code
    assert capsys.readouterr().out.splitlines() == [
        "topcat: ours", "topcat: theirs", "topcat: 180.05000000 -30.05000000"
    ]  # fmt: skip
    assert [len(table) for table in topcat.held] == [len(catalogue.sources), 2]
    assert not ds9.got


def test_a_program_that_fails_is_told_of(hub, catalogue, tmp_path, capsys):
    broken = Program("broken", [TABLE], wrong="out of memory")
    path = tmp_path / "x.catalogue.fits"
    catalogue.write(path)
    with pytest.raises(SystemExit) as stop:
        main(["send", str(path)])
    broken.client.disconnect()
    assert stop.value.code == 2
    assert "broken did not take x: out of memory" in capsys.readouterr().err


def test_an_answer_is_not_lost_where_the_program_is_faster_than_the_hub(monkeypatch, request):
    server = samp_package().SAMPHubServer
    prompt = server._call

    def slow(self, *words):
        number = prompt(self, *words)
        time.sleep(0.3)
        return number

    monkeypatch.setattr(server, "_call", slow)
    program = request.getfixturevalue("topcat")
    rows = Table({"ra": [180.0], "dec": [-30.0]})
    made = send({"a": rows}, at=(180.0, -30.0), timeout=5)
    assert [(one.message, one.error) for one in made] == [(TABLE, ""), (POINT, "")]
    assert len(program.got) == 2


def test_a_program_that_does_not_answer_is_told_of(hub):
    silent = Program("silent", [])
    silent.client.bind_receive_call(POINT, lambda *words: None)
    (made,) = send({}, at=(180.0, -30.0), timeout=0.2)
    silent.client.disconnect()
    assert made.error == "it did not answer for 0.2 seconds"


def test_without_a_hub_or_a_program_the_error_says_what_to_start(
    catalogue, tmp_path, monkeypatch, request
):
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'none').as_uri()}")
    with pytest.raises(InputError, match="no SAMP hub"):
        send({"ours": catalogue})
    request.getfixturevalue("hub")
    with pytest.raises(InputError, match="no program on the SAMP hub"):
        send({"ours": catalogue})
    with pytest.raises(InputError, match="no row called 'J0'"):
        send({"ours": catalogue}, at="J0")


def test_the_votable_of_a_catalogue_is_valid_for_other_readers(catalogue, tmp_path):
    """`verify="exception"` refuses whatever the standard does not allow."""
    path = tmp_path / "whole.vot"
    catalogue.write(path)
    whole = parse(path, verify="exception")
    assert [table.name for table in whole.iter_tables()] == ["components", "sources", "islands"]
    # what loads one table loads the first
    assert len(parse_single_table(path).array) == len(catalogue.components)


def test_region_files_hold_the_shapes_for_ds9_and_carta(catalogue, tmp_path):
    from regions import Regions

    components = catalogue.components
    for name, kind in (("c.reg", "ds9"), ("c.crtf", "crtf")):
        catalogue.write(tmp_path / name)
        shapes = Regions.read(tmp_path / name, format=kind)
        assert len(shapes) == len(components)
        for shape, row in zip(shapes, components, strict=True):
            at = shape.center.icrs
            assert at.ra.deg == pytest.approx(row["ra"].to_value("deg"), abs=1e-7)
            assert at.dec.deg == pytest.approx(row["dec"].to_value("deg"), abs=1e-7)
            assert shape.height.to_value("arcsec") == pytest.approx(
                row["major"].to_value("arcsec"), abs=1e-3
            )
            turn = shape.angle.to_value("deg") - row["position_angle"].to_value("deg")
            assert (turn + 90) % 180 == pytest.approx(90, abs=1e-6)
