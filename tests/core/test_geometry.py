"""The same sky gives the same position, shape and flux on every grid."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from sky_grids import CENTRE, GRIDS, make_header, make_wcs, moments, render

from cyclades.stages.core.geometry import (
    covariance_from_shape,
    determinant,
    gaussian_area,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)

SOURCE = CENTRE.directional_offset_by(40 * u.deg, 20 * u.arcsec)
MAJOR, MINOR, ANGLE = 30 / 3600, 18 / 3600, 35.0


def angle_difference(a, b):
    return (a - b + 90.0) % 180.0 - 90.0


@pytest.mark.parametrize("name", GRIDS)
def test_same_sky_same_position_angle_size_and_flux(name):
    wcs = make_wcs(name)
    total, x, y, covariance = moments(render(wcs, SOURCE, MAJOR, MINOR, ANGLE))
    jacobian = sky_jacobian(wcs, x, y)[0]

    position = sky_positions(wcs, x, y)[0]
    # NCP pixels grow measurably across the source: a real shift of 2 mas
    assert position.separation(SOURCE).arcsec < 0.005

    major, minor, angle = shape_from_covariance(transform_covariance(covariance, jacobian))
    assert major == pytest.approx(MAJOR, rel=2e-4)
    assert minor == pytest.approx(MINOR, rel=2e-4)
    assert abs(angle_difference(angle, ANGLE)) < 0.02

    flux = total * abs(determinant(jacobian))
    assert flux == pytest.approx(np.pi * MAJOR * MINOR / (4 * np.log(2)), rel=2e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_jacobian_columns_point_where_one_pixel_leads(name):
    wcs = make_wcs(name)
    x, y = np.array([0.0, 60.0, 119.0]), np.array([119.0, 60.0, 3.0])
    jacobian = sky_jacobian(wcs, x, y)
    start = wcs.pixel_to_world(x, y).icrs
    for column, (dx, dy) in enumerate(((1, 0), (0, 1))):
        end = wcs.pixel_to_world(x + dx, y + dy).icrs
        step, direction = start.separation(end).deg, start.position_angle(end).rad
        east, north = jacobian[:, 0, column], jacobian[:, 1, column]
        np.testing.assert_allclose(east, step * np.sin(direction), atol=2e-4 * step.max())
        np.testing.assert_allclose(north, step * np.cos(direction), atol=2e-4 * step.max())


def test_galactic_image_turns_the_position_angle():
    wcs = make_wcs("galactic_sin")
    own = sky_jacobian(wcs, 60.0, 60.0, icrs=False)[0]
    icrs = sky_jacobian(wcs, 60.0, 60.0)[0]
    north = SkyCoord(CENTRE.galactic.l, CENTRE.galactic.b + 1 * u.arcsec, frame="galactic")
    expected = CENTRE.position_angle(north.icrs).deg
    # a shape along the image's +y lies along galactic north
    along_y = np.diag([0.01, 1.0])
    angle_own = shape_from_covariance(transform_covariance(along_y, own))[2]
    angle_icrs = shape_from_covariance(transform_covariance(along_y, icrs))[2]
    assert abs(angle_difference(angle_own, 0.0)) < 0.05
    assert abs(angle_difference(angle_icrs, expected)) < 0.05
    assert 30 < expected % 90 < 60  # far from any accidental agreement


def test_first_pixel_is_zero_zero():
    header = make_header("tan")
    position = sky_positions(WCS(header), header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    assert position.separation(CENTRE).arcsec < 1e-6


def test_header_without_radesys_is_fk5_where_it_has_an_equinox():
    header = make_header("fk5_sin_rotated")
    assert "RADESYS" not in header
    position = sky_positions(WCS(header), header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    raw = SkyCoord(header["CRVAL1"], header["CRVAL2"], unit="deg", frame="fk5")
    assert position.separation(raw.icrs).arcsec < 1e-6
    # FK5 and ICRS differ by some 20 mas: enough to notice if the frame were forgotten
    assert position.separation(SkyCoord(raw.ra, raw.dec, frame="icrs")).mas > 5


def test_b1950_header_is_precessed():
    header = make_header("sin")
    old = CENTRE.fk4
    header["CRVAL1"], header["CRVAL2"] = old.ra.deg, old.dec.deg
    header["RADESYS"], header["EQUINOX"] = "FK4", 1950.0
    position = sky_positions(WCS(header), header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    assert position.separation(CENTRE).arcsec < 1e-3


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9999])
def test_jacobian_holds_at_the_poles(dec):
    wcs = make_wcs("tan", SkyCoord(20.0, dec, unit="deg"))
    scale = np.sqrt(np.abs(determinant(sky_jacobian(wcs, [60, 64.9, 10], [60, 57.1, 100]))))
    np.testing.assert_allclose(scale, 2 / 3600, rtol=1e-6)


def test_jacobian_holds_across_longitude_zero():
    wcs = make_wcs("sin", SkyCoord(0.0, 10.0, unit="deg"))
    x = np.arange(121.0)
    scale = np.sqrt(np.abs(determinant(sky_jacobian(wcs, x, np.full(121, 60.0)))))
    np.testing.assert_allclose(scale, 2 / 3600, rtol=1e-6)


def test_swapped_longitude_and_latitude_axes():
    header = make_header("tan")
    swapped = header.copy()
    for card in ("CTYPE", "CRVAL"):
        swapped[f"{card}1"], swapped[f"{card}2"] = header[f"{card}2"], header[f"{card}1"]
    for j in (1, 2):
        swapped[f"CD1_{j}"], swapped[f"CD2_{j}"] = header[f"CD2_{j}"], header[f"CD1_{j}"]
    one, two = WCS(header), WCS(swapped)
    positions = [sky_positions(w, [3.0, 90.0], [20.0, 70.0]) for w in (one, two)]
    assert positions[0].separation(positions[1]).arcsec.max() < 1e-6
    jacobians = [sky_jacobian(w, [3.0], [20.0]) for w in (one, two)]
    np.testing.assert_allclose(*jacobians, atol=1e-9)


SHAPES = st.tuples(
    st.floats(0.5, 50.0), st.floats(0.05, 0.99), st.floats(0.0, 180.0, exclude_max=True)
)


@given(SHAPES)
def test_shape_and_covariance_are_inverse(shape):
    major, ratio, angle = shape
    covariance = covariance_from_shape(major, major * ratio, angle)
    back = shape_from_covariance(covariance)
    assert back[0] == pytest.approx(major, rel=1e-9)
    assert back[1] == pytest.approx(major * ratio, rel=1e-6)
    assert abs(angle_difference(back[2], angle)) < 1e-4
    assert 0 <= back[2] < 180
    assert gaussian_area(covariance) == pytest.approx(
        np.pi * major**2 * ratio / (4 * np.log(2)), rel=1e-9
    )
    np.testing.assert_allclose(inverse(covariance) @ covariance, np.eye(2), atol=1e-9)


def test_position_angle_counts_from_north_through_east():
    covariance = covariance_from_shape(10.0, 1.0, 30.0)
    east, north = np.sin(np.radians(30.0)), np.cos(np.radians(30.0))
    direction = np.array([east, north])
    largest = np.linalg.eigh(covariance)[1][:, 1]
    assert abs(largest @ direction) == pytest.approx(1.0)


def test_round_negative_and_missing_shapes():
    major, minor, angle = shape_from_covariance(
        [[[1.0, 1e-13], [1e-13, 1.0]], [[1.0, 0], [0, -0.5]], [[np.nan, 0], [0, 1]]]
    )
    assert angle[0] == 0.0
    assert minor[1] == 0.0
    assert major[1] > 0
    assert np.isnan(major[2])


def test_an_angle_is_never_180():
    assert shape_from_covariance([[1.0, -1e-20], [-1e-20, 2.0]])[2] == 0.0
