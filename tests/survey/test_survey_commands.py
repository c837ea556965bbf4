"""``cyclades batch`` and ``cyclades watch``: what they print, write, and wait for."""

import shutil

import pytest
from astropy.table import Table

from cyclades.pipeline.cli import main
from cyclades.pipeline.survey import run
from cyclades.pipeline.survey.inputs import folder_images
from cyclades.pipeline.survey.journal import read_entries
from cyclades.pipeline.survey.run import watch_folder
from cyclades.stages.core.catalogue import read_catalogue
from tests.survey.conftest import make_work

ROUTE = ("--set", "background=sep", "--set", "detection.seed_threshold=5.5")


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_a_batch_and_the_same_again(four, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("batch", four[0].parent, "-o", out, "--workers", 1, *ROUTE, "--formats", "ecsv,moc")
    assert cyclades(*command) == 0
    said = capsys.readouterr().out
    assert "4 of 4 images are done." in said
    assert str(out / "survey.catalogue.fits") in said
    catalogue = read_catalogue(out / "survey.catalogue.fits")
    assert catalogue.meta["image"] == "survey of 4 fields"
    assert len(read_catalogue(out / "survey.catalogue.ecsv")) == len(catalogue) > 5
    assert (out / "fields" / "field_00_00.catalogue.moc.fits").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.fits")}
    assert cyclades(*command) == 0
    assert "4 of 4 images are done already." in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.fits")} == before
    # another configuration: those images are processed again, and no file is left of before
    assert cyclades(*command[:-2], "--set", "detection.seed_threshold=20") == 0
    assert "already" not in capsys.readouterr().err
    assert len(read_catalogue(out / "survey.catalogue.fits")) < len(catalogue)
    assert not list(out.glob("survey.catalogue*.ecsv"))


def test_what_was_made_of_an_image_is_no_image(four, tmp_path):
    shutil.copy(four[0], tmp_path / "a.fits")
    shutil.copy(four[0], tmp_path / "b.v1.fits")
    for name in ("a.model", "a.catalogue", "b.v1.rms", "c.residual", "d.residual"):
        (tmp_path / "results").mkdir(exist_ok=True)
        shutil.copy(four[0], tmp_path / "results" / f"{name}.fits")
    (tmp_path / "results" / "c.provenance.json").write_text("{}")
    names = [path.name for path in folder_images(tmp_path)]
    # of d, nothing but its name says that it was made of another image
    assert names == ["a.fits", "b.v1.fits", "d.residual.fits"]


def test_one_bad_image_gives_a_sentence_and_the_code(four, tmp_path, capsys):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"nothing")
    (tmp_path / "list.txt").write_text(f"{four[0]}\nbad.fits\n")
    out = tmp_path / "out"
    command = ("batch", tmp_path / "list.txt", "-o", out, "--workers", 1, *ROUTE)
    assert cyclades(*command) == 2
    said = capsys.readouterr()
    assert "1 of 2 images are done." in said.out
    assert "1 of 2 images failed" in said.err
    assert str(bad) in said.err
    assert "Traceback" not in said.err
    table = Table.read(out / "summary.ecsv")
    assert dict(zip(table["field"], table["state"], strict=True)) == {
        "bad": "failed", four[0].stem: "done",
    }  # fmt: skip
    # it is not tried again, but still said
    assert cyclades(*command) == 2
    assert read_entries(out)[0].attempts == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--memory", "much"), "is no amount of memory"),
        (("--formats", "xls"), "no catalogue format"),
        (("--scheduler", "tcp://127.0.0.1:1", "--cluster", "x.yaml"), "not both"),
        (("--set", "detection.nonsense=1"), "nonsense"),
    ],
)
def test_mistakes_are_one_sentence(four, tmp_path, capsys, options, said):
    assert cyclades("batch", four[0], "-o", tmp_path / "out", *options) == 2
    text = capsys.readouterr().err.strip()
    assert said in text
    assert "\n" not in text


def test_images_without_coordinates_make_no_survey(tmp_path, capsys):
    import numpy as np
    from astropy.io import fits

    noise = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    header = fits.Header({"BUNIT": "Jy/beam"})
    fits.PrimaryHDU(noise, header).writeto(tmp_path / "plain.fits")
    out = tmp_path / "out"
    command = ("batch", tmp_path / "plain.fits", "-o", out, "--workers", 1, *ROUTE)
    assert cyclades(*command, "--beam", "4pixel") == 0
    assert not (out / "survey.catalogue.fits").exists()
    assert Table.read(out / "summary.ecsv")["state"][0] == "done"


class EnoughError(Exception):
    """Ends a watch that would never end."""


def test_watching_takes_what_is_complete(four, tmp_path, monkeypatch):
    """Of files that arrive in every way, each is processed once, when it is whole."""
    folder, work = tmp_path / "in", make_work(tmp_path / "out")
    folder.mkdir()
    whole = four[0].read_bytes()
    looks = []
    told, surveys = [], []

    def arrive(seconds):
        look = len(looks)
        looks.append([entry.stem for entry in told])
        if look == 0:
            shutil.copy(four[1], folder / "copied.fits")
            (folder / "hand.fits.part").write_bytes(whole)
            (folder / "growing.fits").write_bytes(whole[:5000])
        elif look == 1:
            (folder / "growing.fits").write_bytes(whole[:7000])
        elif look == 2:
            (folder / "growing.fits").write_bytes(whole[:9000])
            (folder / "poison.fits").write_bytes(b"no image")
        elif look == 3:
            (folder / "hand.fits.part").rename(folder / "hand.fits")
            (folder / "growing.fits").write_bytes(whole)
        elif look > 6:
            raise EnoughError

    monkeypatch.setattr(run.time, "sleep", arrive)
    with pytest.raises(EnoughError):
        watch_folder(work, folder, told=told.append, finished=surveys.append)
    states = {}
    for entry in told:
        states.setdefault(entry.stem, []).append(entry.state)
    assert states == {
        "copied": ["done"], "hand": ["done"], "poison": ["failed"], "growing": ["done"],
    }  # fmt: skip
    assert looks[0] == []
    assert len(surveys) >= 2
    catalogue = read_catalogue(work.folder / "survey.catalogue.fits")
    assert set(catalogue.components["field"]) <= {"copied", "hand", "growing"}
    # what was processed may go away, and the survey stays
    (folder / "copied.fits").unlink()
    monkeypatch.setattr(run.time, "sleep", lambda seconds: None)
    watch_folder(work, folder, once=True, told=told.append)
    assert [(one.stem, one.state) for one in told[4:]] == []
    assert len(read_catalogue(work.folder / "survey.catalogue.fits")) == len(catalogue)


def test_watching_once_ends(four, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(four[0], folder)
    out = folder / "out"  # below the folder that is watched
    command = ("watch", folder, "-o", out, "--once", "--interval", 0.05, "--workers", 1, *ROUTE)
    assert cyclades(*command) == 0
    said = capsys.readouterr().out
    assert "components in" in said
    assert "1 of 1 images are done." in said
