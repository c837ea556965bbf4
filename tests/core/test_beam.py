"""The beam on the sky and in pixels, and its grammar."""

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st
from sky_grids import CENTRE, GRIDS, make_header, make_wcs, moments

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.beam_shape import BeamShape
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import determinant, shape_from_covariance, sky_jacobian

BEAM = radio_beam.Beam(9 * u.arcsec, 6 * u.arcsec, 25 * u.deg)


@pytest.mark.parametrize("name", GRIDS)
def test_beam_survives_the_way_to_pixels_and_back(name):
    psf = PointSpread.from_beam(BEAM, make_wcs(name))
    assert psf.beam.major.to_value("arcsec") == pytest.approx(9, rel=1e-6)
    assert psf.beam.minor.to_value("arcsec") == pytest.approx(6, rel=1e-6)
    assert psf.beam.pa.to_value("deg") == pytest.approx(25, abs=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_beam_pixels_match_a_beam_drawn_on_the_sky(name):
    """BPA is counted from the image frame's own +latitude at the reference pixel."""
    header, wcs = make_header(name), make_wcs(name)
    x0, y0 = header["CRPIX1"] - 1, header["CRPIX2"] - 1
    y, x = np.mgrid[:121, :121]
    sky, centre = wcs.pixel_to_world(x, y), wcs.pixel_to_world(x0, y0)
    distance, direction = centre.separation(sky).arcsec, centre.position_angle(sky).deg
    along = distance * np.cos(np.radians(direction - 25))
    across = distance * np.sin(np.radians(direction - 25))
    drawn = np.exp(-4 * np.log(2) * ((along / 9) ** 2 + (across / 6) ** 2))
    total, _, _, covariance = moments(drawn)
    psf = PointSpread.from_beam(BEAM, wcs)
    np.testing.assert_allclose(psf.covariance, covariance, rtol=1e-3, atol=1e-3)
    assert psf.area == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("name", ["sin", "ncp", "tan", "galactic_sin"])
def test_area_is_the_textbook_one_on_square_pixels(name):
    psf = PointSpread.from_beam(BEAM, make_wcs(name))
    assert psf.area == pytest.approx(np.pi * 9 * 6 / (4 * np.log(2)) / 4, rel=1e-6)
    assert psf.size == pytest.approx(np.sqrt(54) / 2, rel=1e-6)


def test_single_pointing_keeps_the_beam_in_pixels_and_mosaics_on_the_sky():
    """Twenty degrees off the reference, where pixels of both projections are far from square."""
    x, y = np.array([60.0, 18000.0]), np.array([60.0, 36000.0])
    synthesis = PointSpread.from_beam(BEAM, make_wcs("sin"))
    constant = synthesis.covariances(x, y)
    np.testing.assert_array_equal(constant[0], constant[1])
    np.testing.assert_allclose(constant[0], synthesis.covariance)

    wcs = make_wcs("tan")
    mosaic = PointSpread.from_beam(BEAM, wcs)
    local = mosaic.covariances(x, y)
    jacobian = sky_jacobian(wcs, x, y, icrs=False)
    major, minor, angle = shape_from_covariance(jacobian @ local @ np.swapaxes(jacobian, -1, -2))
    np.testing.assert_allclose(major * 3600, 9, rtol=1e-6)
    np.testing.assert_allclose(minor * 3600, 6, rtol=1e-6)
    np.testing.assert_allclose(angle, 25, atol=1e-3)
    on_sky = mosaic.areas(x, y) * np.abs(determinant(jacobian))
    assert on_sky[1] == pytest.approx(on_sky[0], rel=1e-6)
    assert mosaic.areas(x, y)[1] / mosaic.areas(x, y)[0] > 1.1


def test_no_positions_and_no_wcs():
    psf = PointSpread(np.eye(2))
    assert psf.covariances([], []).shape == (0, 2, 2)
    assert psf.beam is None
    assert psf.area == pytest.approx(2 * np.pi)


@pytest.mark.parametrize(
    ("text", "arcsec", "angle"),
    [
        ("5.4arcsec", (5.4, 5.4), 0),
        ("6.4x5.4arcsec@0deg", (6.4, 5.4), 0),
        ('6.4"x5.4"@30', (6.4, 5.4), 30),
        ("14.4 arcmin", (864, 864), 0),
        ("0.01deg x 20arcsec @ -10 deg", (36, 20), 170),
        ("5.4x6.4arcsec@10deg", (6.4, 5.4), 100),
        ("1e-3deg", (3.6, 3.6), 0),
        ("900MAS", (0.9, 0.9), 0),
    ],
)
def test_beam_grammar(text, arcsec, angle):
    shape = BeamShape.parse(text)
    assert not shape.in_pixels
    assert (shape.major * 3600, shape.minor * 3600) == pytest.approx(arcsec)
    assert shape.position_angle == pytest.approx(angle)


@pytest.mark.parametrize(
    "text",
    ["", "5.4", "5.4parsec", "arcsec", "-4arcsec", "0arcsec", "4pixelx5arcsec", "1x2x3arcsec",
     "5.4arcsec@north", "nanarcsec"],
)  # fmt: skip
def test_what_is_not_a_beam_is_refused(text):
    with pytest.raises(ValueError, match=r"beam"):
        BeamShape.parse(text)


UNITS = {"deg": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600, "mas": 1 / 3.6e6}


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(-360, 360).map(lambda v: round(v, 6)),
    st.sampled_from([*UNITS, "pixel"]),
)
def test_any_written_beam_is_read_back(first, second, angle, unit):
    major, minor = max(first, second), min(first, second)
    shape = BeamShape.parse(f"{major!r}x{minor!r}{unit}@{angle:.6f}deg")
    scale = UNITS.get(unit, 1.0)
    assert (shape.major, shape.minor) == pytest.approx((major * scale, minor * scale))
    turn = np.radians(2 * (shape.position_angle - angle))
    assert np.cos(turn) == pytest.approx(1.0)
    assert 0 <= shape.position_angle < 180
    assert BeamShape.parse(str(shape)) == shape
    # the order of the axes does not matter, only what they describe
    turned = BeamShape.parse(f"{minor!r}x{major!r}{unit}@{angle + 90:.6f}deg")
    assert (turned.major, turned.minor) == pytest.approx((shape.major, shape.minor))


def test_beam_in_pixels_counts_its_angle_from_up_to_the_left():
    psf = BeamShape.parse("6x3pixel@30deg").place(None, (100, 100))
    largest = np.linalg.eigh(psf.covariance)[1][:, 1]
    assert abs(largest @ [-np.sin(np.pi / 6), np.cos(np.pi / 6)]) == pytest.approx(1.0)
    assert psf.beam is None
    assert psf.area == pytest.approx(np.pi * 18 / (4 * np.log(2)))
    # with north up and east left, that is the position angle on the sky
    placed = BeamShape.parse("6x3pixel@30deg").place(make_wcs("sin"), (100, 100))
    assert placed.beam.pa.to_value("deg") == pytest.approx(30, abs=1e-3)
    assert placed.beam.major.to_value("arcsec") == pytest.approx(12, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "wcs", "reason"),
    [
        ("5.4arcsec", None, "no sky coordinates"),
        ("5.4deg", "sin", "larger than the whole image"),
        ("0.05arcsec", "sin", "pixels wide"),
        ("500pixel", None, "larger than the whole image"),
    ],
)
def test_absurd_beams_are_refused(text, wcs, reason):
    with pytest.raises(InputError, match=reason) as caught:
        BeamShape.parse(text).place(wcs and make_wcs(wcs), (121, 121))
    assert "--beam" in str(caught.value)


def test_a_small_cutout_may_be_smaller_than_its_beam():
    assert BeamShape.parse("20arcsec").place(make_wcs("sin"), (3, 3)).size == pytest.approx(10)


def test_radio_beam_becomes_a_shape():
    shape = BeamShape.from_beam(BEAM)
    assert shape == BeamShape.parse("9x6arcsec@25deg")
    assert "9 x 6 arcsec at 25 deg" in shape.describe()


def test_beam_reference_may_lie_far_outside_the_image():
    centre = SkyCoord(CENTRE.ra + 3 * u.deg, CENTRE.dec)
    wcs = make_wcs("sin", centre)
    wcs.wcs.crpix += 5000
    assert PointSpread.from_beam(BEAM, wcs).size == pytest.approx(np.sqrt(54) / 2, rel=1e-6)


def test_far_from_its_reference_point_a_beam_keeps_its_shape_on_the_sky():
    """A cutout of an all-sky grid (Parkes, CRPIX at the pole) is no single pointing."""
    wcs = make_wcs("sin")
    wcs.wcs.crpix = [-400.0, -5000.0]
    wcs.wcs.cd = 20 * wcs.wcs.cd
    wcs.wcs.set()
    shape = BeamShape.parse("80x60arcsec@25deg")
    inside, outside = shape.place(make_wcs("sin"), (121, 121)), shape.place(wcs, (121, 121))
    assert not inside.constant_on_sky
    jacobian = sky_jacobian(wcs, 60, 60, icrs=False)
    sky = jacobian @ outside.covariances(60, 60) @ np.swapaxes(jacobian, 1, 2)
    major, minor, _ = shape_from_covariance(sky)
    assert major[0] * 3600 == pytest.approx(80, rel=1e-4)
    assert minor[0] * 3600 == pytest.approx(60, rel=1e-4)


def test_axes_are_those_of_the_beam_and_absent_without_sky_coordinates():
    psf = PointSpread.from_beam(BEAM, make_wcs("sin"))
    assert psf.axes == pytest.approx((9 / 3600, 6 / 3600, 25), rel=1e-4)
    assert BeamShape.parse("4pixel").place(None, (50, 50)).axes is None
