"""A run on an image whose beam changes across it."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from cyclades.pipeline.cli import main
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.geometry import covariance_from_shape, inverse, transform_covariance
from cyclades.stages.core.rendering import render_gaussians

SIZE, PIXEL, PEAK, RMS = 480, 2.0, 1.0, 0.01
"""Pixels, arcsec, Jy/beam: points of S/N 100."""
MIRROR = np.diag([-1.0, 1.0])


def header():
    cards = fits.Header()
    cards.update(
        {
            "CTYPE1": "RA---SIN", "CRVAL1": 40.0, "CRPIX1": 240.5, "CDELT1": -PIXEL / 3600,
            "CTYPE2": "DEC--SIN", "CRVAL2": 5.0, "CRPIX2": 240.5, "CDELT2": PIXEL / 3600,
            "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS", "BUNIT": "Jy/beam",
            "BMAJ": 14 / 3600, "BMIN": 9 / 3600, "BPA": 0.0,
        }
    )  # fmt: skip
    return cards


def beam(x):
    """Covariance in (east, north), arcsec^2, that changes linearly from one side to the other."""
    one, other = covariance_from_shape(9.0, 7.0, 150.0), covariance_from_shape(19.0, 11.0, 20.0)
    share = np.asarray(x, float)[:, None, None] / (SIZE - 1)
    return (1 - share) * one + share * other


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """An image of points, each with the beam of its place, the table of beams, and the truth."""
    folder = tmp_path_factory.mktemp("varying")
    rng = np.random.default_rng(8)
    y, x = np.mgrid[30:SIZE:42, 30:SIZE:42].reshape(2, -1) + rng.uniform(-0.5, 0.5, (2, 121))
    shape = transform_covariance(beam(x), MIRROR / PIXEL)
    rows = np.column_stack(
        [np.full(len(x), PEAK), x, y, shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 1]]
    )
    # noise with the beam of the middle as its autocorrelation
    middle = inverse(2.0 * transform_covariance(beam([SIZE / 2])[0], MIRROR / PIXEL))
    step = np.fft.fftfreq(SIZE, 1.0 / SIZE)
    dx, dy = step, step[:, None]
    kernel = middle[0, 0] * dx**2 + 2 * middle[0, 1] * dx * dy + middle[1, 1] * dy**2
    response = np.sqrt(np.abs(np.fft.fft2(np.exp(-kernel))))
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * response).real
    data = render_gaussians((SIZE, SIZE), rows) + RMS * noise / noise.std()
    image = folder / "mosaic.fits"
    fits.PrimaryHDU(data.astype(np.float32), header()).writeto(image)
    at = np.linspace(0, SIZE - 1, 7)
    tx, ty = (g.ravel() for g in np.meshgrid(at, at))
    ra, dec = WCS(header()).wcs_pix2world(tx, ty, 0)
    from cyclades.stages.core.geometry import shape_from_covariance

    major, minor, angle = shape_from_covariance(beam(tx))
    table = Table({"ra": ra, "dec": dec, "bmaj": major, "bmin": minor, "bpa": angle})
    for name, unit in {"ra": "deg", "dec": "deg", "bmaj": "arcsec", "bmin": "arcsec"}.items():
        table[name].unit = unit
    path = folder / "beams.ecsv"
    table.write(path, format="ascii.ecsv")
    write_psf_images(folder / "psfs.fits", tx, ra, dec)
    return image, path, rows


def write_psf_images(path, x, ra, dec):
    """Point-spread functions of any height with a sidelobe, on finer pixels, and their places."""
    pixel, size = 1.5, 65
    shapes = transform_covariance(beam(x), MIRROR / pixel)
    planes = [
        height * render_gaussians((size, size), [[1.0, 30.4, 33.2, c[0, 0], c[0, 1], c[1, 1]]])
        for height, c in zip(np.linspace(0.1, 9.0, len(x)), shapes, strict=True)
    ]
    stack = np.array(planes)
    stack[:, 4:8] += 0.2 * stack.max(axis=(1, 2))[:, None, None]
    own = header()
    own.update({"CRPIX1": 31.4, "CRPIX2": 34.2, "CDELT1": -pixel / 3600, "CDELT2": pixel / 3600})
    images = fits.PrimaryHDU(stack.astype(np.float32), own)
    places = fits.BinTableHDU(Table({"ra": ra, "dec": dec}))
    fits.HDUList([images, places]).writeto(path)


def run(image, output, *options):
    with pytest.raises(SystemExit) as stop:
        main(["run", str(image), "--output", str(output), "--quiet", *map(str, options)])
    assert stop.value.code == 0
    found = read_catalogue(output / "mosaic.catalogue.fits").components
    return {name: np.asarray(found[name]) for name in found.colnames}


def matched(found, rows):
    """The measured row nearest to each true one, all of which must be there."""
    distance = np.hypot(
        np.subtract.outer(rows[:, 1], found["x"]), np.subtract.outer(rows[:, 2], found["y"])
    )
    assert distance.min(axis=1).max() < 1.0
    return {name: values[distance.argmin(axis=1)] for name, values in found.items()}


@pytest.mark.parametrize("kind", ["table", "images"])
def test_the_local_beam_is_used_everywhere(field, tmp_path, kind):
    image, beams, rows = field
    beams = beams if kind == "table" else beams.with_name("psfs.fits")
    own = matched(run(image, tmp_path / "own", "--psf", beams), rows)
    plain = matched(run(image, tmp_path / "plain"), rows)
    left, right = rows[:, 1] < SIZE / 4, rows[:, 1] > 3 * SIZE / 4
    for side in (left, right):
        ratio = own["total_flux"][side] / PEAK
        # 30 points of S/N 100 on each side: their median is good to half a per cent
        assert np.median(ratio) == pytest.approx(1.0, abs=0.012)
        assert np.median(own["beam_flux"][side]) == pytest.approx(1.0, abs=0.012)
    assert np.mean(own["resolved"]) < 0.06
    # the header's single beam is wrong by a factor of two in area at either side
    assert np.median(plain["total_flux"][left]) < 0.75
    assert np.median(plain["total_flux"][right]) > 1.25
    assert np.mean(plain["resolved"][right]) > 0.95
    expected = beam(rows[:, 1])
    given = covariance_from_shape(own["psf_major"], own["psf_minor"], own["psf_pa"])
    np.testing.assert_allclose(given, expected, atol=2e-3 * np.trace(expected, 0, 1, 2).max())
    # where an axis is not a limit, it is far below the beam's
    sizes = np.nan_to_num(own["deconvolved_major"]) / own["psf_major"]
    assert np.median(sizes) < 0.25


def test_the_table_is_in_the_record_and_repeats_the_run(field, tmp_path):
    image, beams, _ = field
    first = run(image, tmp_path / "1", "--psf", beams)
    record = json.loads((tmp_path / "1" / "mosaic.provenance.json").read_text())
    assert record["configuration"]["image"]["psf"] == str(beams)
    assert [entry["path"] for entry in record["other_files"]] == [str(beams)]
    second = run(image, tmp_path / "2", "--config", tmp_path / "1" / "mosaic.config.yaml")
    np.testing.assert_array_equal(first["total_flux"], second["total_flux"])


def test_moments_use_the_local_beam_too(field, tmp_path):
    image, beams, rows = field
    options = ("--psf", beams, "--set", "characterization=moments")
    found = matched(run(image, tmp_path, *options), rows)
    left, right = rows[:, 1] < SIZE / 4, rows[:, 1] > 3 * SIZE / 4
    for side in (left, right):
        assert np.median(found["total_flux"][side]) == pytest.approx(1.0, abs=0.04)


def test_a_beam_and_a_table_are_one_too_many(field, tmp_path, capsys):
    image, beams, _ = field
    with pytest.raises(SystemExit) as stop:
        main(["run", str(image), "-o", str(tmp_path), "--psf", str(beams), "--beam", "9arcsec"])
    assert stop.value.code == 2
    assert "leave one of them out" in capsys.readouterr().err
