"""Beams that vary over an image: tables and maps of them, and the places in between."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from sky_grids import CENTRE, GRIDS, PIXEL, SIZE, make_header, make_wcs

from cyclades.stages.core.beam_files import read_point_spread
from cyclades.stages.core.beam_map import GridSamples, PointSpreadMap, ScatteredSamples
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import open_image
from cyclades.stages.core.tiling import Box

SHAPE = (SIZE, SIZE)
MAJOR, MINOR = 14.0, 9.0
"""Arcsec."""


def positions(n=25, seed=3):
    x, y = np.random.default_rng(seed).uniform(0, SIZE - 1, (2, n))
    return x, y


def on_the_sky(psf, wcs, x, y, *, icrs=True):
    """Axes in arcsec and angle of a beam at some pixels."""
    jacobian = sky_jacobian(wcs, x, y, icrs=icrs)
    major, minor, angle = shape_from_covariance(
        transform_covariance(psf.covariances(x, y), jacobian)
    )
    return 3600 * major, 3600 * minor, angle


def write_table(path, wcs, x, y, major, minor, angle, **columns):
    sky = wcs.pixel_to_world(x, y).icrs
    table = Table(
        {
            "RA": sky.ra.deg * u.deg,
            "DEC": sky.dec.deg * u.deg,
            "BMAJ": major * u.arcsec,
            "BMIN": minor * u.arcsec,
            "BPA": angle * u.deg,
            **columns,
        }
    )
    table.write(path, format={".vot": "votable", ".ecsv": "ascii.ecsv"}.get(path.suffix, "fits"))
    return path


def apart(one, other):
    """Smallest difference of two axes in degrees."""
    return np.abs((np.asarray(one) - other + 90.0) % 180.0 - 90.0)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".vot"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_table_gives_its_own_beams_at_its_own_places(tmp_path, grid, suffix):
    wcs, (x, y) = make_wcs(grid), positions()
    rng = np.random.default_rng(1)
    minor = rng.uniform(6, 10, len(x))
    major, angle = minor * rng.uniform(1.1, 2, len(x)), rng.uniform(0, 180, len(x))
    path = write_table(tmp_path / f"psf{suffix}", wcs, x, y, major, minor, angle)
    psf = read_point_spread(path, wcs, SHAPE)
    found = on_the_sky(psf, wcs, x, y)
    np.testing.assert_allclose(found[0], major, rtol=1e-5)
    np.testing.assert_allclose(found[1], minor, rtol=1e-5)
    assert apart(found[2], angle).max() < 1e-3


@pytest.mark.parametrize("grid", GRIDS)
def test_equal_round_beams_are_equal_everywhere(tmp_path, grid):
    """Also between the rows and outside them, whatever the projection does there."""
    wcs, (x, y) = make_wcs(grid), positions()
    here = np.array([20.0, 100.0, 60.0]), np.array([20.0, 30.0, 100.0])
    beam = np.full(3, 12.0)
    path = write_table(tmp_path / "psf.fits", wcs, *here, beam, beam, np.zeros(3))
    major, minor, _ = on_the_sky(read_point_spread(path, wcs, SHAPE), wcs, x, y)
    np.testing.assert_allclose(major, 12.0, rtol=1e-5)
    np.testing.assert_allclose(minor, 12.0, rtol=1e-5)


def test_covariances_and_not_angles_are_interpolated(tmp_path):
    """Halfway between 170 and 10 degrees lies 0, rounder than either, and not 90."""
    wcs = make_wcs("sin")
    x, y = np.array([10.0, 10.0, 110.0, 110.0]), np.array([10.0, 110.0, 10.0, 110.0])
    angle = np.array([170.0, 170.0, 10.0, 10.0])
    path = write_table(
        tmp_path / "psf.fits", wcs, x, y, np.full(4, MAJOR), np.full(4, MINOR), angle
    )
    major, minor, found = on_the_sky(read_point_spread(path, wcs, SHAPE), wcs, [60.0], [60.0])
    mean = 0.5 * (
        covariance_from_shape(MAJOR, MINOR, 170) + covariance_from_shape(MAJOR, MINOR, 10)
    )
    expected = shape_from_covariance(mean)
    assert apart(found, 0.0) < 0.02
    np.testing.assert_allclose([major[0], minor[0]], expected[:2], rtol=2e-4)


def test_a_table_around_the_pole():
    """North turns by 180 degrees across the pole; a beam of fixed pixels must not."""
    wcs = make_wcs("tan", SkyCoord(30.0, 90.0, unit="deg"))
    x, y = np.array([40.0, 90.0, 65.0, 65.0]), np.array([57.0, 57.0, 40.0, 80.0])
    pixels = covariance_from_shape(7.0, 4.0, 30.0)
    sky = transform_covariance(pixels, sky_jacobian(wcs, x, y))
    from cyclades.stages.core.beam_map import elements, pixel_axes

    axes = pixel_axes(sky_jacobian(wcs, x, y))
    values = elements(transform_covariance(sky, np.swapaxes(axes, 1, 2)))
    psf = PointSpreadMap(np.eye(2), wcs, samples=ScatteredSamples(x, y, values), frame=wcs)
    found = psf.covariances([65.2, 60.0, 70.0], [57.1, 60.0, 50.0])
    np.testing.assert_allclose(found, np.tile(pixels, (3, 1, 1)), rtol=1e-4)


def write_cube(path, header, major, minor, angle):
    shape = (header["NAXIS2"], header["NAXIS1"])
    cube = np.stack([np.broadcast_to(plane, shape) for plane in (major, minor, angle)])
    fits.PrimaryHDU(cube.astype(np.float32), header).writeto(path)
    return path


@pytest.mark.parametrize("grid", ["sin_rotated", "tan_rotated_oblong", "fk5_sin_rotated"])
def test_a_cube_on_a_coarse_grid_of_its_own(tmp_path, grid):
    """Axes that change linearly across the map, on an image with another grid."""
    header = make_header("tan", size=31)
    for i in (1, 2):
        header[f"CD{i}_{i}"] *= 8
    y, x = np.mgrid[:31, :31]
    cube = write_cube(
        tmp_path / "psf.fits", header, (12 + 0.1 * x) / 3600, (8 + 0.05 * y) / 3600, 40.0
    )
    wcs, places = make_wcs(grid), positions()
    from astropy.wcs import WCS

    own = WCS(header)
    u_, v = own.world_to_pixel(wcs.pixel_to_world(*places).icrs)
    major, minor, angle = on_the_sky(read_point_spread(cube, wcs, SHAPE), wcs, *places)
    np.testing.assert_allclose(major, 12 + 0.1 * u_, rtol=1e-3)
    np.testing.assert_allclose(minor, 8 + 0.05 * v, rtol=1e-3)
    assert apart(angle, 40.0).max() < 0.1


def test_the_angle_of_a_cube_is_that_of_its_own_frame(tmp_path):
    header = make_header("galactic_tan_rotated")
    cube = write_cube(tmp_path / "psf.fits", header, MAJOR / 3600, MINOR / 3600, 25.0)
    wcs = make_wcs("sin")
    x, y = positions(5)
    _, _, angle = on_the_sky(read_point_spread(cube, wcs, SHAPE), wcs, x, y)
    here = wcs.pixel_to_world(x, y).icrs
    north = here.position_angle(SkyCoord(0, 90, unit="deg", frame="galactic").icrs).deg
    assert apart(angle, 25.0 + north).max() < 0.05


def test_blank_pixels_of_a_cube_are_passed_over(tmp_path):
    header = make_header("sin")
    _, x = np.mgrid[:SIZE, :SIZE]
    major = np.where(x < 60, np.nan, MAJOR / 3600)
    cube = write_cube(tmp_path / "psf.fits", header, major, MINOR / 3600, 0.0)
    psf = read_point_spread(cube, make_wcs("sin"), SHAPE)
    # at the border the pixels that are there count, far from it the beam of the middle
    for place in ([59.5], [20.0]):
        found = on_the_sky(psf, make_wcs("sin"), place, [50.0])
        np.testing.assert_allclose([found[0][0], found[1][0]], [MAJOR, MINOR], rtol=1e-4)


def test_pixels_without_a_sky(tmp_path):
    path = tmp_path / "psf.csv"
    path.write_text("x,y,major,minor,pa\n0,0,4,3,30\n100,0,8,6,30\n0,100,4,3,30\n100,100,8,6,30\n")
    psf = read_point_spread(path, None, SHAPE)
    image = SkyImage(np.ones(SHAPE, np.float32), psf=psf)
    expected = covariance_from_shape([4.0, 8.0], [3.0, 6.0], 30.0)
    expected[:, [0, 1], [1, 0]] *= -1  # counted from +y towards -x
    np.testing.assert_allclose(psf.covariances([0, 100], [50, 50]), expected)
    np.testing.assert_allclose(psf.covariances([50], [50])[0], expected.mean(axis=0))
    part = image.cutout(Box(20, 80, 30, 90)).cutout(Box(40, 60, 50, 70))
    np.testing.assert_allclose(part.psf.covariances([10], [5]), psf.covariances([60], [45]))
    np.testing.assert_allclose(psf.areas([0, 100], [0, 0]), [13.6, 54.4], rtol=1e-3)


@pytest.mark.parametrize("kind", ["table", "cube"])
def test_windows_have_the_beam_of_the_full_image(tmp_path, kind):
    header, wcs = make_header("tan_rotated_oblong"), make_wcs("tan_rotated_oblong")
    if kind == "table":
        x, y = positions()
        path = write_table(tmp_path / "p.fits", wcs, x, y, 12 + x / 20, 8 + y / 40, x)
    else:
        _, column = np.mgrid[:SIZE, :SIZE]
        path = write_cube(tmp_path / "p.fits", header, (12 + column / 20) / 3600, 8 / 3600, 70.0)
    image = tmp_path / "a.fits"
    fits.PrimaryHDU(np.ones(SHAPE, np.float32), header).writeto(image)
    source = open_image(image, psf=str(path))
    whole = source.read()
    expected = whole.psf.covariances([70.0, 75.0], [40.0, 44.0])
    box = Box(30, 60, 50, 100)
    for part in (source.window(box), whole.cutout(box)):
        found = part.psf.covariances([20.0, 25.0], [10.0, 14.0])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # another process opens the file anew
    import pickle

    again = pickle.loads(pickle.dumps(source.psf)).covariances([70.0, 75.0], [40.0, 44.0])
    np.testing.assert_allclose(again, expected, rtol=1e-9, atol=1e-9)


def test_the_beam_in_headers_is_that_of_the_middle(tmp_path):
    wcs = make_wcs("tan")
    x, y = np.array([0.0, 120.0, 0.0, 120.0]), np.array([0.0, 0.0, 120.0, 120.0])
    path = write_table(
        tmp_path / "psf.fits", wcs, x, y, np.array([10.0, 20, 10, 20]), np.full(4, 8.0), np.zeros(4)
    )
    psf = read_point_spread(path, wcs, SHAPE)
    middle = np.sqrt(0.5 * (10**2 + 20**2))
    np.testing.assert_allclose(3600 * psf.axes[0], middle, rtol=1e-3)
    np.testing.assert_allclose(psf.size * PIXEL * 3600, np.sqrt(middle * 8.0), rtol=1e-3)


def test_samples_on_every_pixel():
    rng = np.random.default_rng(2)
    values = rng.uniform(2, 3, (3, 6, 8))
    values[:, 2, 3] = np.nan
    samples = GridSamples(values)
    x, y = np.array([0.0, 7.0, 1.5, -3.0, 9.0]), np.array([0.0, 5.0, 1.0, 2.0, 9.0])
    expected = np.stack(
        [
            values[:, 0, 0],
            values[:, 5, 7],
            0.5 * (values[:, 1, 1] + values[:, 1, 2]),
            values[:, 2, 0],
            values[:, 5, 7],
        ]
    )
    np.testing.assert_allclose(samples.at(x, y), expected)
    assert np.isnan(samples.at(np.array([3.0, np.nan]), np.array([2.0, 1.0]))).all()


def test_the_beam_columns_of_a_catalogue_go_before_its_sources(tmp_path):
    wcs, (x, y) = make_wcs("sin"), positions(6)
    beam = np.full(6, 11.0)
    path = write_table(
        tmp_path / "psf.fits", wcs, x, y, beam, beam, np.zeros(6), MAJOR=np.full(6, 99.0)
    )
    major, _, _ = on_the_sky(read_point_spread(path, wcs, SHAPE), wcs, x, y)
    np.testing.assert_allclose(major, 11.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "sky", "reason"),
    [
        ("ra,dec,major\n1,2,3\n", True, "no column for minor"),
        ("ra,dec,major,minor,pa\n266,-28.5,0.1,0.1,0\n", False, "no sky coordinates"),
        ("ra,dec,major,minor,pa\n266,-28.5,15,12,0\n", True, "check the units"),
        ("ra,dec,major,minor,pa\n266,-28.5,,,\n", True, "no row of the table"),
        ("ra,dec,major,minor,pa\n266,-28.5,large,0.1,0\n", True, "'major'"),
        ("ra,dec,major,minor,pa\n86,28.5,0.003,0.003,0\n", True, "no beam of the table lies"),
    ],
)
def test_useless_tables_are_refused(tmp_path, text, sky, reason):
    path = tmp_path / "psf.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_point_spread(path, make_wcs("sin") if sky else None, SHAPE)


def test_useless_files_are_refused(tmp_path):
    image = tmp_path / "a.fits"
    fits.PrimaryHDU(np.ones(SHAPE, np.float32), make_header("sin")).writeto(image)
    with pytest.raises(InputError, match="no such file"):
        read_point_spread(tmp_path / "none.fits", make_wcs("sin"), SHAPE)
    with pytest.raises(InputError, match="no point-spread function"):
        read_point_spread(image, make_wcs("sin"), SHAPE)
    (tmp_path / "text.txt").write_text("beams\n")
    with pytest.raises(InputError, match="neither a table"):
        read_point_spread(tmp_path / "text.txt", make_wcs("sin"), SHAPE)
    cube = write_cube(tmp_path / "cube.fits", make_header("sin"), 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="planes hold no beam"):
        read_point_spread(cube, make_wcs("sin"), SHAPE)
    with pytest.raises(InputError, match="leave one of them out"):
        open_image(image, psf=str(cube), beam="5arcsec")


def test_one_beam_stands_for_all(tmp_path):
    path = tmp_path / "psf.csv"
    path.write_text(f"ra,dec,major,minor\n{CENTRE.ra.deg},{CENTRE.dec.deg},0.004,0.003\n")
    wcs, (x, y) = make_wcs("tan"), positions()
    psf = read_point_spread(path, wcs, SHAPE)
    expected = transform_covariance(
        covariance_from_shape(0.004, 0.003, 0.0), inverse(sky_jacobian(wcs, x, y))
    )
    np.testing.assert_allclose(psf.covariances(x, y), expected, rtol=1e-3, atol=3e-3)
