"""``cyclades measure``: files, and errors that say what to do."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from fields import RMS, make_prior, observe, positions, sky_wcs

from cyclades.pipeline.cli import main
from cyclades.stages.core.catalogue import read_catalogue

SIZE = (300, 300)


def write_image(path, image, **cards):
    header = image.wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    header["BMAJ"], header["BMIN"], header["BPA"] = image.psf.axes
    header.update(cards)
    fits.PrimaryHDU(image.data, header).writeto(path)
    return path


@pytest.fixture
def field(tmp_path):
    """Two images of one sky, at two frequencies and times, and a table of its sources."""
    rng = np.random.default_rng(1)
    ra, dec = positions(SIZE, 40, rng, sky_wcs(SIZE))
    total = np.full(len(ra), 20 * RMS)
    for name, nu, day in (("low", 1.0e9, 1), ("high", 2.0e9, 2)):
        image, _ = observe(ra, dec, total * (nu / 1e9) ** -0.7, rng, shape=SIZE)
        cards = {"RESTFRQ": nu, "DATE-OBS": f"2024-01-0{day}"}
        write_image(tmp_path / f"{name}.fits", image, **cards)
    make_prior(ra, dec).write(tmp_path / "prior.ecsv")
    Table({"ra": ra, "dec": dec, "peak_flux": total}).write(tmp_path / "plain.csv")
    return tmp_path


def measure(*arguments, code=0):
    with pytest.raises(SystemExit) as end:
        main(["measure", *map(str, arguments)])
    assert (end.value.code or 0) == code


def test_each_image_gives_a_catalogue(field, capsys):
    measure(field / "low.fits", "b=" + str(field / "high.fits"), "-c", field / "prior.ecsv",
            "-o", field / "out", "--formats", "fits,ecsv")  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "36 components" in said[0]
    assert "0 not covered" in said[0]
    first, second = (read_catalogue(field / "out" / f"{n}.measured.fits") for n in ("low", "b"))
    assert read_catalogue(field / "out" / "low.measured.ecsv") == first
    assert (first.components["name"] == second.components["name"]).all()
    assert first.meta["frequency"] == 1e9
    # what was measured can be measured again
    measure(field / "high.fits", "-c", field / "out" / "low.measured.fits", "-o", field / "again",
            "--positions", "free", "--limit", "0.3")  # fmt: skip
    again = read_catalogue(field / "again" / "high.measured.fits")
    assert set(again.components["fit_type"]) <= {"forced", "forced position"}
    assert again.meta["forced"]["free_positions"] == 0.3


def test_frequencies_and_epochs_are_combined(field):
    images = (field / "low.fits", field / "high.fits")
    measure(*images, "-c", field / "prior.ecsv", "-o", field, "--planes", "frequencies")
    table = read_catalogue(field / "planes.measured.fits").components
    index = np.asarray(table["spectral_index"])
    assert abs(np.nanmean(index) + 0.7) < 4 * np.nanstd(index) / 6
    measure(*images, "-c", field / "prior.ecsv", "-o", field / "e", "--planes", "epochs")
    curve = QTable.read(field / "e" / "light_curves.ecsv", format="ascii.ecsv")
    assert sorted(set(curve["mjd"])) == [60310.0, 60311.0]
    assert (
        "variability_eta" in read_catalogue(field / "e" / "planes.measured.fits").sources.colnames
    )


def test_stokes_are_read_from_the_headers(field, capsys):
    rng = np.random.default_rng(2)
    ra, dec = (np.asarray(Table.read(field / "plain.csv")[n]) for n in ("ra", "dec"))
    paths = []
    for number, (name, scale) in enumerate((("I", 50.0), ("Q", 5.0), ("U", 5.0))):
        image, _ = observe(ra, dec, np.full(len(ra), scale * RMS), rng, shape=SIZE)
        path = write_image(field / f"{name}.fits", image)
        with fits.open(path, mode="update") as hdus:
            hdus[0].data = hdus[0].data[None]
            hdus[0].header.update({"CTYPE3": "STOKES", "CRPIX3": 1.0, "CRVAL3": number + 1.0,
                                   "CDELT3": 1.0})  # fmt: skip
        paths.append(path)
    measure(*paths, "-c", field / "prior.ecsv", "-o", field / "s", "--planes", "stokes")
    table = read_catalogue(field / "s" / "planes.measured.fits").components
    fraction = np.asarray(table["polarised_fraction"])
    assert abs(np.median(fraction) - np.sqrt(0.02)) < 0.02
    assert abs(np.median(np.asarray(table["polarisation_angle"].value)) - 22.5) < 4
    measure(paths[0], field / "low.fits", "-c", field / "prior.ecsv", "-o", field / "s",
            "--planes", "stokes", code=2)  # fmt: skip
    assert "the images are called I, low" in capsys.readouterr().err
    # the same planes as one cube
    with fits.open(paths[0]) as hdus:
        cube = np.concatenate([fits.getdata(path) for path in paths])
        fits.PrimaryHDU(cube, hdus[0].header).writeto(field / "cube.fits")
    measure(field / "cube.fits", "-c", field / "prior.ecsv", "-o", field / "c",
            "--planes", "stokes")  # fmt: skip
    again = read_catalogue(field / "c" / "planes.measured.fits").components
    np.testing.assert_array_equal(np.asarray(again["polarised_fraction"]), fraction)
    measure(field / "cube.fits", "-c", field / "prior.ecsv", "-o", field / "c", code=2)
    assert "choose a plane" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-c", "missing.fits"], "There is no file missing.fits"),
        (["-c", "low.fits"], "cannot be read as a catalogue"),
        (["-c", "prior.ecsv", "--limit", "1"], "add --positions free"),
        (["-c", "prior.ecsv", "--limit", "9", "--positions", "free"], "at most 2 beams"),
        (["-c", "prior.ecsv", "--significance", "0"], "must be positive"),
        (["-c", "prior.ecsv", "--planes", "epochs"], "needs two images or more"),
        (["-c", "prior.ecsv", "--formats", "doc"], "doc"),
        (["-c", "prior.ecsv", "--set", "background.nonsense=1"], "nonsense"),
        (["low.fits", "-c", "prior.ecsv"], "more than one image is called 'low'"),
    ],
)
def test_errors_are_one_clear_sentence(field, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(field)
    measure("low.fits", *arguments, "-o", "out", code=2)
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not list(field.glob("out/*.measured.*"))


def test_inputs_are_never_replaced(field, capsys):
    measure(field / "low.fits", "-c", field / "prior.ecsv", "-o", field)
    before = (field / "low.measured.fits").read_bytes()
    measure(field / "low.fits", "-c", field / "low.measured.fits", "-o", field, code=2)
    assert "would replace an input" in capsys.readouterr().err
    assert (field / "low.measured.fits").read_bytes() == before


def test_a_plain_list_of_positions_is_enough(field):
    measure(field / "low.fits", "-c", field / "plain.csv", "-o", field / "out")
    table = read_catalogue(field / "out" / "low.measured.fits").components
    flux = np.asarray(table["total_flux"].value)
    assert abs(np.median(flux) - 20 * RMS) < RMS
    assert all(name.startswith("CYC J") for name in table["name"])
