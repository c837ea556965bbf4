"""Mistakes of every command: one sentence, exit code 2, and nothing half-written."""

import shlex
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from requirements import require

from cyclades.pipeline.cli import main


def cyclades(line):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    return stop.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A field with its catalogue, and files that are not what a command expects."""
    folder = tmp_path_factory.mktemp("mistakes")
    assert cyclades(f"simulate {folder}/field --size 128 --seed 3") == 0
    assert cyclades(f"run {folder}/field.fits -o {folder} -q") == 0
    data, header = fits.getdata(folder / "field.fits"), fits.getheader(folder / "field.fits")
    fits.writeto(folder / "cube.fits", np.stack([[data] * 3] * 2), header)
    fits.writeto(folder / "blank.fits", np.full_like(data, np.nan), header)
    fits.writeto(folder / "small.fits", data[:100, :100], header)
    for key in ("BMAJ", "BMIN", "BPA"):
        del header[key]
    fits.writeto(folder / "bare.fits", data, header)
    Table({"a": [1.0], "ra": [2.0]}).write(folder / "ab.csv")
    Table({"RA": [1.0], "dec": [2.0], "peak_flux": [1.0]}).write(folder / "near.csv")
    for name, text in {
        "text.csv": "hello\n", "broken.yaml": "detection: [unclosed\n", "list.yaml": "- 1\n",
        "broken.json": "{", "weights.safetensors": "hello",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    (folder / "folder").mkdir()
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """Its files in a folder of this test's own, which is the current one."""
    place = tmp_path / "here"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    return place


def contents(folder):
    """Every file with its bytes; an empty folder is nothing."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMPARE = "compare field.catalogue.fits --truth field.truth.fits"
MISTAKES = [
    ("run cube.fits -o out", "--set image.plane=[0,0]"),
    ("run folder -o out", "this is a folder"),
    ("run field.fits -o field.fits", "cannot be written to"),
    ("run field.fits -o out --psf folder", "this is a folder"),
    ("run field.fits -o out --psf text.csv", "no column for x"),
    ("run field.fits -o out --weight small.fits", "shape (100, 100)"),
    ("run field.fits -o out --config list.yaml", "is a mapping of the sections"),
    ("run field.fits -o out --device gpu", "no device 'gpu'"),
    ("run field.fits -o out --set cataloguing=components,associate", "[components,associate]"),
    ("run g=field.fits r=small.fits -o out", "one shape"),
    ("batch imags -o out", "imags: there is no such file or folder"),
    ("batch folder -o out", "holds no FITS images"),
    ("batch field.fits -o out --device gpu", "no device 'gpu'"),
    ("batch field.fits -o out --cluster none.yaml", "none.yaml"),
    ("batch field.fits -o out --cluster broken.yaml", "line 2"),
    ("watch none -o out --once", "no such folder"),
    ("compare ab.csv --truth field.truth.fits", "of no known catalogue; name them"),
    ("compare near.csv --truth field.truth.fits", "nearest is"),
    (f"{COMPARE} --columns none.yaml", "(No such file or directory)"),
    (f"{COMPARE} --columns broken.yaml", "line 2 is not valid YAML"),
    (f"{COMPARE} --columns field.fits", "not UTF-8 text"),
    (f"{COMPARE} --image small.fits", "shape (128, 128)"),
    (f"{COMPARE} --report field.fits", "cannot be written"),
    ("compare --fields broken.yaml", "line 2 is not valid YAML"),
    ("compare --fields field.fits", "not UTF-8 text"),
    ("compare-stages --matrix folder", "holds no image"),
    ("config check broken.yaml", "broken.yaml:2"),
    ("fetch --survey NVSS --position 1,2 --size 3bananas", "3bananas"),
    ("inverted cube.fits", "cut one out"),
    ("label bare.fits -o out", "--beam 5.4arcsec"),
    ("label field.fits -o out --decisions broken.json", "save it in the page again"),
    ("measure blank.fits -c field.catalogue.fits -o out", "blank"),
    ("measure field.fits -c ab.csv -o out", "no columns ra and dec"),
    ("sample none .", "choose one of magpis, simulated"),
    ("simulate x --set foo=1", "foo"),
    ("simulate x --config broken.yaml", "line 2"),
    ("stages foo", "foo"),
    ("subtract field.fits --catalogue folder -o r.fits", "folder"),
    ("subtract field.fits --catalogue field.catalogue.fits -o none/r.fits", "none"),
    ("view field.fits none.fits -o v.html", "none.fits"),
    ("view field.fits ab.csv -o v.html", "of no known catalogue"),
    ("view field.fits field.catalogue.fits -o v.png", ".html"),
    ("view cube.fits field.catalogue.fits -o v.html", "cut one out"),
    ("weights none", "none"),
    ("weights folder", "folder"),
]
LEARNED = [
    ("evaluate weights.safetensors", "not a safetensors file"),
    ("export none", "*.safetensors"),
    ("export yolo", "--output DIR"),
    ("export folder", "*.safetensors"),
    ("similar none.fits field.fits --odd", "none.fits: there is no such file"),
    ("similar field.catalogue.fits field.fits", "--odd"),
    ("similar field.catalogue.fits field.fits --odd --device gpu", "no device 'gpu'"),
    ("similar field.catalogue.fits field.fits --odd --device cuda:99", "no GPU"),
    ("similar field.catalogue.fits blank.fits --odd", "blank shows none of the"),
    ("similar field.catalogue.fits field.fits --odd --picture x.jpg", ".png"),
    ("pretrain --config broken.yaml -o out", "line 2"),
    ("train --config folder -o out", "Is a directory"),
    ("train --config yolo -o out --set foo=1", "yolo: foo: there is no such option."),
    ("train --config yolo -o out --set data.images=none", "yolo: data.simulated.images: there is"),
    ("train --config yolo -o out --set data.preset=none", "yolo: data.simulated: there is no pres"),
    ("train --config yolo -o out --set devices=many", "yolo: devices"),
    ("study transfer --config none -o out", "none"),
    ("study transfer --config quick -o field.fits", "cannot be written to"),
    ("study detectors --config detectors_quick -o field.fits", "cannot be written to"),
    ("train-classifier -o field.fits", "cannot be written to"),
]


def is_one_sentence(line, words, here, capsys):
    before = contents(here)
    assert cyclades(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert words in lines[0]
    assert len(lines[0]) < 450
    assert contents(here) == before


@pytest.mark.parametrize(("line", "words"), MISTAKES)
def test_a_mistake_is_one_sentence(line, words, here, capsys):
    is_one_sentence(line, words, here, capsys)


@pytest.mark.parametrize(("line", "words"), LEARNED)
def test_a_mistake_with_networks_is_one_sentence(line, words, here, capsys):
    require("learned")
    is_one_sentence(line, words, here, capsys)
