"""Images of the point-spread function: main lobes, places, and what they must not be taken for."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from sky_grids import CENTRE, PIXEL, SIZE, make_header, make_wcs

from cyclades.stages.core.beam_files import read_point_spread
from cyclades.stages.core.beam_images import fit_main_lobe, read_psf_images
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    shape_from_covariance,
    transform_covariance,
)
from cyclades.stages.core.rendering import render_gaussians

SHAPE = (SIZE, SIZE)
LOBE = np.array([[9.0, 2.0], [2.0, 4.0]])


def stamp(covariance=LOBE, size=61, height=1.0, centre=(29.6, 31.3)):
    (xx, xy), (_, yy) = covariance
    return height * render_gaussians((size, size), [[1.0, *centre, xx, xy, yy]]).astype(float)


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


@pytest.mark.parametrize("height", [1.0, 3e-7, 5e4])
def test_the_main_lobe_is_fitted_whatever_its_height_and_sidelobes(height):
    data = stamp()
    data[:10] += 0.3
    data[10:20] -= 0.2
    data[50:, 50:] = np.nan
    covariance, centre = fit_main_lobe(height * data)
    np.testing.assert_allclose(covariance, LOBE, rtol=1e-3)
    np.testing.assert_allclose(centre, (29.6, 31.3), atol=1e-3)


@pytest.mark.parametrize("fwhm", [1.6, 2.5, 4.0, 15.0])
def test_narrow_and_wide_round_lobes(fwhm):
    covariance, _ = fit_main_lobe(stamp(covariance_from_shape(fwhm, fwhm, 0)))
    np.testing.assert_allclose(shape_from_covariance(covariance)[:2], fwhm, rtol=1e-3)


def test_a_noisy_lobe():
    noise = np.random.default_rng(3).normal(0, 0.02, (61, 61))
    covariance, _ = fit_main_lobe(stamp() + noise)
    # about 40 pixels of S/N 50: the elements are good to 1 %
    np.testing.assert_allclose(covariance, LOBE, rtol=0.05)


@pytest.mark.parametrize("grid", ["sin", "tan_rotated_oblong", "galactic_tan_rotated"])
def test_one_image_with_its_own_pixels_is_like_the_headers_beam(tmp_path, grid):
    """Half the image's pixels, another orientation, four axes: the same beam on the sky."""
    wcs, own = make_wcs(grid), make_header("sin" if grid == "sin" else "tan", size=61)
    for i in (1, 2):
        own[f"CD{i}_{i}"] /= 2
    path = tmp_path / "psf.fits"
    fits.PrimaryHDU(stamp()[None, None].astype(np.float32), own).writeto(path)
    psf = read_point_spread(path, wcs, SHAPE)
    sky = transform_covariance(LOBE, np.diag([-0.5, 0.5]) * PIXEL)
    expected = shape_from_covariance(sky)
    np.testing.assert_allclose(psf.axes[:2], expected[:2], rtol=1e-3)
    assert psf.axes[2] == pytest.approx(expected[2], abs=0.05)


@pytest.mark.parametrize("sky", [True, False])
def test_one_image_without_a_wcs_is_on_the_pixels_of_the_image(tmp_path, sky):
    path = write(tmp_path / "psf.fits", fits.ImageHDU(stamp().astype(">f4"), name="PSF"))
    psf = read_point_spread(path, make_wcs("sin") if sky else None, SHAPE)
    np.testing.assert_allclose(psf.covariances([3, 90], [50, 7]), [LOBE, LOBE], rtol=1e-4)


@pytest.mark.parametrize("places", ["header_sky", "header_pixels", "table_sky", "table_pixels"])
@pytest.mark.parametrize("own", [None, "tan"])
@pytest.mark.parametrize("cube", [True, False])
def test_several_images_at_their_places(tmp_path, places, own, cube):
    """Three planes, which without places would be a cube of axes."""
    wcs = make_wcs("tan")
    x, y = np.array([10.0, 110.0, 10.0]), np.array([10.0, 10.0, 110.0])
    sky = wcs.pixel_to_world(x, y).icrs
    header = fits.Header() if own is None else make_header(own, size=61)
    shapes = [LOBE, 2 * LOBE, 3 * LOBE]
    stamps = [stamp(c, height=h).astype(np.float32) for c, h in zip(shapes, (1, 7, 3), strict=True)]
    hdus = [fits.ImageHDU(s, header) for s in stamps]
    if places.startswith("header"):
        if cube:
            pytest.skip("a header has one place")
        for i, hdu in enumerate(hdus):
            keys = ("RA", "DEC") if places == "header_sky" else ("X", "Y")
            values = (sky.ra.deg[i], sky.dec.deg[i]) if places == "header_sky" else (x[i], y[i])
            hdu.header.update(dict(zip(keys, map(float, values), strict=True)))
    else:
        if cube:
            hdus = [fits.ImageHDU(np.array(stamps), header)]
        columns = {"ra": sky.ra.deg * u.deg, "dec": sky.dec.deg * u.deg}
        table = Table(columns if places == "table_sky" else {"x": x, "y": y})
        hdus.append(fits.BinTableHDU(table))
    psf = read_point_spread(write(tmp_path / "psf.fits", *hdus), wcs, SHAPE)
    np.testing.assert_allclose(psf.covariances(x, y), shapes, rtol=2e-3)
    np.testing.assert_allclose(psf.covariances([130 / 3], [130 / 3])[0], 2 * LOBE, rtol=2e-3)
    window = psf.window(20, 5, wcs.slice((slice(5, 90), slice(20, 100))))
    np.testing.assert_allclose(window.covariances([70 / 3], [115 / 3])[0], 2 * LOBE, rtol=2e-3)


def test_images_at_pixels_of_an_image_without_a_sky(tmp_path):
    hdus = [fits.ImageHDU(stamp(k * LOBE).astype(np.float32)) for k in (1, 2)]
    for hdu, x in zip(hdus, (0, 100), strict=True):
        hdu.header["X"], hdu.header["Y"] = x, 50
    psf = read_point_spread(write(tmp_path / "psf.fits", *hdus), None, SHAPE)
    np.testing.assert_allclose(psf.covariances([0, 100], [50, 50]), [LOBE, 2 * LOBE], rtol=1e-3)


def test_what_is_not_taken_for_psf_images(tmp_path):
    """A cube of axes, and a table of beams beside an image, are what they were."""
    planes = np.stack([np.full(SHAPE, v, np.float32) for v in (0.004, 0.003, 20.0)])
    cube = tmp_path / "cube.fits"
    fits.PrimaryHDU(planes, make_header("sin")).writeto(cube)
    assert not read_psf_images(cube)
    table = Table(
        {"ra": [CENTRE.ra.deg], "dec": [CENTRE.dec.deg], "bmaj": [0.004], "bmin": [0.003]}
    )
    image = fits.ImageHDU(stamp().astype(np.float32))
    both = write(tmp_path / "both.fits", image, fits.BinTableHDU(table))
    assert not read_psf_images(both)
    for path in (cube, both):
        psf = read_point_spread(path, make_wcs("sin"), SHAPE)
        np.testing.assert_allclose(psf.axes[:2], [0.004, 0.003], rtol=1e-3)


def placed(*stamps, keys=("X", "Y"), header=None):
    hdus = []
    for i, data in enumerate(stamps):
        hdus.append(fits.ImageHDU(np.asarray(data, np.float32), header))
        hdus[-1].header.update({keys[0]: 10.0 * i, keys[1]: 20.0})
    return hdus


@pytest.mark.parametrize(
    ("hdus", "sky", "reason"),
    [
        ([fits.ImageHDU(np.array([stamp()] * 7, np.float32))], True, "plane 0 of image 1"),
        ([fits.ImageHDU(np.array([stamp()] * 2, np.float32))], True, "RA and DEC"),
        ([*placed(stamp()), fits.ImageHDU(stamp())], True, "image 2 has no position"),
        (placed(stamp(), stamp(), keys=("RA", "DEC")), False, "no sky coordinates"),
        (placed(stamp(), stamp(), keys=("RA", "DEC")), True, "has a position on"),
        (placed(stamp(), np.ones((9, 9))), True, "image 2 is no point-spread function: its peak"),
        (placed(stamp(), 0 * stamp()), True, "no positive pixel"),
        (placed(stamp(), np.full((9, 9), np.nan)), True, "no positive pixel"),
        (placed(stamp(), 1.0 + 0.1 * stamp()), True, "reaches its edge"),
        (
            [*placed(stamp(), stamp()), fits.BinTableHDU(Table({"x": [1.0], "y": [2.0]}))],
            True,
            "1 rows for 2 images",
        ),
        (placed(stamp(), header=make_header("tan", size=61)), False, "but the image has none"),
    ],
)
def test_useless_images_are_refused(tmp_path, hdus, sky, reason):
    path = write(tmp_path / "psf.fits", *hdus)
    with pytest.raises(InputError, match=reason) as error:
        read_point_spread(path, make_wcs("sin") if sky else None, SHAPE)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith(".")


def test_structure_that_is_no_gaussian_is_refused():
    y, x = np.mgrid[:61, :61]
    cross = ((np.abs(x - 30) < 2) & (np.abs(y - 30) < 20)) | (
        (np.abs(y - 30) < 2) & (np.abs(x - 30) < 20)
    )
    with pytest.raises(InputError, match="no Gaussian"):
        fit_main_lobe(cross.astype(float))


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "psf.fits", fits.ImageHDU(stamp()))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError):
        read_point_spread(path, make_wcs("sin"), SHAPE)
