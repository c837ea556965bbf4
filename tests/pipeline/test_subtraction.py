"""Catalogues taken out of images, and put into them."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.any_catalogue import read_any
from cyclades.pipeline.subtraction import rows_on_image, subtract_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A field, and the files of its run."""
    folder = tmp_path_factory.mktemp("subtracted")
    assert cyclades("sample", "simulated", folder) == 0
    options = ("--columns", "aegean,pybdsf,selavy", "--formats", "csv,votable", "--quiet")
    assert cyclades("run", folder / "simulated.fits", "-o", folder, *options,
                    "--products", "residual,background,model") == 0  # fmt: skip
    return folder


@pytest.mark.parametrize(
    "name",
    ["fits", "vot", "csv", "aegean.fits", "aegean.csv", "pybdsf_gaul.fits",
     "selavy_components.fits"],
)  # fmt: skip
def test_the_residual_is_that_of_the_run(ran, tmp_path, name):
    """Whoever's columns the catalogue is in; the run takes the background out as well."""
    output = tmp_path / "out.fits"
    code = cyclades("subtract", ran / "simulated.fits", "--catalogue",
                    ran / f"simulated.catalogue.{name}", "-o", output)  # fmt: skip
    assert code == 0
    level = fits.getdata(ran / "simulated.background.fits")
    residual, header = fits.getdata(ran / "simulated.residual.fits", header=True)
    found, made = fits.getdata(output, header=True)
    # a catalogue in text has fewer digits than the image
    np.testing.assert_allclose(found - level, residual, atol=2e-5 * np.abs(found).max())
    for key in ("CTYPE1", "CRVAL1", "CRPIX2", "CDELT2", "RADESYS", "BMAJ", "BMIN", "BPA", "BUNIT",
                "RESTFRQ", "NAXIS1"):  # fmt: skip
        assert made[key] == header[key]
    assert list(tmp_path.iterdir()) == [output]


def test_adding_gives_back_what_was_taken(ran, tmp_path):
    catalogue = ran / "simulated.catalogue.fits"
    less, again = tmp_path / "less.fits", tmp_path / "again.fits"
    assert cyclades("subtract", ran / "simulated.fits", "--catalogue", catalogue, "-o", less) == 0
    assert cyclades("subtract", less, "--catalogue", catalogue, "-o", again, "--add") == 0
    image = fits.getdata(ran / "simulated.fits")
    np.testing.assert_allclose(fits.getdata(again), image, atol=1e-6 * image.max())
    model = fits.getdata(ran / "simulated.model.fits")
    np.testing.assert_allclose(image - fits.getdata(less), model, atol=1e-5 * image.max())


def test_bright_sources_can_be_blanked(ran, tmp_path):
    limit, output = 1e-3, tmp_path / "out.fits"
    options = ("--catalogue", ran / "simulated.catalogue.fits", "--mask-brighter", limit)
    assert cyclades("subtract", ran / "simulated.fits", "-o", output, *options) == 0
    model = fits.getdata(ran / "simulated.model.fits")
    blank = np.isnan(fits.getdata(output))
    clear = np.abs(model - limit) > 1e-5 * limit
    assert 0 < blank.mean() < 0.2
    np.testing.assert_array_equal(blank[clear], (model > limit)[clear])


def plane(unit="Jy/beam", **changes):
    import astropy.units as u

    from cyclades.stages.core.beam import PointSpread

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], [10.0, 20.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [33.0, 33.0], [-1 / 3600, 1 / 3600]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    psf = PointSpread.from_axes(6 / 3600, 4 / 3600, 30.0, wcs)
    values = {"unit": u.Unit(unit), "wcs": wcs, "psf": psf} | changes
    return SkyImage(np.zeros((65, 65), np.float32), **values)


def table(tmp_path, **columns):
    path = tmp_path / "sources.csv"
    Table({"ra": [10.0], "dec": [20.0], **columns}).write(path, format="ascii.csv", overwrite=True)
    return read_any(path, {name: name for name in ("ra", "dec", *columns)})


def test_units_and_missing_shapes(tmp_path):
    """A source without a size is drawn as the beam; Jy/beam in the unit of the image."""
    sources = table(tmp_path, peak_flux=[2.0])
    model = -subtract_catalogue(plane("mJy/beam"), sources).data
    assert model[32, 32] == pytest.approx(2000.0, rel=1e-6)
    area = plane().psf.area
    assert model.sum() == pytest.approx(2000.0 * area, rel=1e-4)
    per_pixel = -subtract_catalogue(plane("mJy/pix"), sources).data
    np.testing.assert_allclose(per_pixel, model)
    # surveys write 0 or -1 for what they do not tell
    for size in (0.0, -1.0):
        sizes = {"major": [size], "minor": [size], "position_angle": [0.0]}
        given = table(tmp_path, peak_flux=[2.0], **sizes)
        np.testing.assert_allclose(-subtract_catalogue(plane("mJy/beam"), given).data, model)


def test_what_is_not_on_the_sky_is_left_out(tmp_path):
    path = tmp_path / "sources.csv"
    Table({"ra": [10.0, 10.0], "dec": [-99.0, 20.0], "peak_flux": [1.0, 1.0]}).write(path)
    sources = read_any(path, {name: name for name in ("ra", "dec", "peak_flux")})
    assert -subtract_catalogue(plane(), sources).data.min() == pytest.approx(1.0)


def test_a_total_flux_gives_the_peak(tmp_path):
    sources = table(tmp_path, total_flux=[3.0], major=[10.0], minor=[8.0], position_angle=[15.0])
    image = plane()
    model = -subtract_catalogue(image, sources).data
    assert model.sum() / image.psf.area == pytest.approx(3.0, rel=1e-3)
    assert model.max() == pytest.approx(3.0 * 6 * 4 / (10 * 8), rel=1e-4)


def test_blank_pixels_stay_blank(tmp_path):
    image = plane()
    image.data[30:34] = np.nan
    made = subtract_catalogue(image, table(tmp_path, peak_flux=[2.0]))
    np.testing.assert_array_equal(np.isnan(made.data), np.isnan(image.data))


def test_a_source_elsewhere_changes_nothing(tmp_path):
    path = tmp_path / "sources.csv"
    Table({"ra": [190.0, 10.0], "dec": [-20.0, 20.0], "peak_flux": [1.0, 1.0]}).write(path)
    sources = read_any(path, {name: name for name in ("ra", "dec", "peak_flux")})
    made = subtract_catalogue(plane(), sources)
    assert made.data[32, 32] == pytest.approx(-1.0)
    assert np.isfinite(made.data).all()
    assert rows_on_image(sources, plane()).tolist() == [False, True]
    beside = sources.take(np.array([1])).replace(ra=np.array([11.0]))
    with pytest.raises(InputError, match="No source of the catalogue lies on"):
        subtract_catalogue(plane(), beside)


@pytest.mark.parametrize(
    ("changes", "reason"), [({"wcs": None}, "no sky coordinates"), ({"psf": None}, "No row")]
)
def test_what_cannot_be_drawn_is_said(tmp_path, changes, reason):
    with pytest.raises(InputError, match=reason):
        subtract_catalogue(plane(**changes), table(tmp_path, peak_flux=[2.0]))


def test_bad_input_is_one_sentence_and_nothing_is_written(ran, tmp_path, capsys):
    image, catalogue = ran / "simulated.fits", ran / "simulated.catalogue.fits"
    before = image.read_bytes()
    for arguments, words in (
        ((image, "--catalogue", catalogue, "-o", image), "would replace an input"),
        ((image, "--catalogue", tmp_path / "none.fits", "-o", tmp_path / "o.fits"), "none.fits"),
        ((image, "--catalogue", catalogue, "-o", tmp_path / "o.png"), "end its name with .fits"),
        ((image, "--catalogue", catalogue, "-o", tmp_path / "no" / "o.fits"), "could not be"),
    ):
        assert cyclades("subtract", *arguments) == 2
        error = capsys.readouterr().err.strip()
        assert words in error
        assert "\n" not in error
    assert image.read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    assert np.isfinite(read_image(image).data).all()
