"""Sizes, their errors, and sizes without the beam."""

import warnings

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclades.stages.core.deconvolution import (
    deconvolve,
    deconvolved_shape,
    element_transform,
    fitted_shape,
)
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, covariance_from_shape

NO_ERRORS = np.zeros((3, 3))


def elements(covariance):
    c = np.asarray(covariance)
    return np.stack([c[..., 0, 0], c[..., 0, 1], c[..., 1, 1]], -1)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1.0, 5.0),
    st.floats(0.2, 1.0),
    st.floats(0.0, 180.0),
    st.floats(0.3, 5.0),
    st.floats(0.2, 0.95),
    st.floats(0.0, 180.0),
)
def test_deconvolution_agrees_with_radio_beam(b_major, b_ratio, b_angle, major, ratio, angle):
    beam = radio_beam.Beam(b_major * u.arcsec, b_major * b_ratio * u.arcsec, b_angle * u.deg)
    source = radio_beam.Beam(major * u.arcsec, major * ratio * u.arcsec, angle * u.deg)
    image = source.convolve(beam)
    expected = image.deconvolve(beam)

    def covariance(b):
        return covariance_from_shape(
            b.major.to_value(u.arcsec), b.minor.to_value(u.arcsec), b.pa.to_value(u.deg)
        )

    got = deconvolve(covariance(image), covariance(beam))
    # radio_beam and we subtract squares: the error of a small rest is that of the squares
    scale = image.major.to_value(u.arcsec) ** 2 * 1e-13
    for value, true in zip(got[:2], (expected.major, expected.minor), strict=True):
        true = true.to_value(u.arcsec)
        assert value == pytest.approx(true, rel=1e-6, abs=scale / true)
    difference = (got[2] - expected.pa.to_value(u.deg) + 90.0) % 180.0 - 90.0
    assert abs(difference) < 1e-4


def test_deconvolution_is_vectorised_and_gives_zero_for_narrow_axes():
    covariance = covariance_from_shape([10.0, 9.0], [8.0, 9.0], [0.0, 0.0])
    beam = covariance_from_shape(9.0, 9.0, 0.0)
    major, minor, angle = deconvolve(covariance, beam)
    assert major == pytest.approx([np.sqrt(19.0), 0.0], abs=1e-6)
    assert minor == pytest.approx([0.0, 0.0], abs=1e-6)
    assert angle[0] == 0.0


def test_element_transform_is_the_matrix_product():
    rng = np.random.default_rng(1)
    jacobian = rng.normal(size=(5, 2, 2))
    shape = covariance_from_shape([3, 4, 5, 6, 7], 2.0, [0, 30, 60, 90, 120])
    direct = jacobian @ shape @ np.swapaxes(jacobian, -1, -2)
    mapped = np.einsum("nij,nj->ni", element_transform(jacobian), elements(shape))
    np.testing.assert_allclose(mapped, elements(direct), rtol=1e-12, atol=1e-12)


def test_errors_are_the_gradient_of_the_shape():
    """Against numerical derivatives, one element at a time."""
    covariance = covariance_from_shape(8.0, 5.0, 70.0)
    step = 1e-6
    for k, (i, j) in enumerate(((0, 0), (0, 1), (1, 1))):
        errors = np.zeros((3, 3))
        errors[k, k] = 1.0
        shape = fitted_shape(covariance, errors)
        change = np.zeros((2, 2))
        change[i, j] = change[j, i] = step
        up, down = (
            fitted_shape(covariance + change, errors),
            fitted_shape(covariance - change, errors),
        )
        for name in ("major", "minor", "position_angle"):
            slope = (getattr(up, name) - getattr(down, name)) / (2 * step)
            expected = min(abs(slope), 90.0) if name == "position_angle" else abs(slope)
            assert getattr(shape, f"{name}_err") == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_upper_limit_is_the_measured_variance_plus_its_error():
    beam = covariance_from_shape(6.0, 6.0, 0.0)
    source = beam + np.diag([0.05, 0.9])
    errors = np.diag([0.1, 0.0, 0.2]) ** 2
    shape = deconvolved_shape(source, beam, errors, significance=2.0)
    assert not shape.major_is_limit
    assert shape.minor_is_limit
    assert shape.major == pytest.approx(SIGMA_TO_FWHM * np.sqrt(0.9))
    assert shape.major_err == pytest.approx(SIGMA_TO_FWHM * 0.5 * 0.2 / np.sqrt(0.9))
    assert shape.minor == pytest.approx(SIGMA_TO_FWHM * np.sqrt(0.05 + 2 * 0.1))
    assert np.isnan(shape.minor_err)
    assert shape.position_angle == pytest.approx(0.0)
    stricter = deconvolved_shape(source, beam, errors, significance=5.0)
    assert stricter.major_is_limit
    assert np.isnan(stricter.position_angle)


def test_limits_hold_for_point_sources():
    """A 2-sigma limit on the narrower axis of a point is below the truth seldom, by definition."""
    rng = np.random.default_rng(2)
    n, sigma = 4000, 0.2
    beam = covariance_from_shape(np.full(n, 6.0), 6.0, 0.0)
    noise = rng.normal(0, sigma, (n, 3)) * [1, np.sqrt(0.5), 1]
    measured = beam + noise[:, [[0, 1], [1, 2]]]
    errors = np.broadcast_to(np.diag([1, 0.5, 1]) * sigma**2, (n, 3, 3))
    shape = deconvolved_shape(measured, beam, errors, significance=2.0)
    assert np.mean(shape.minor_is_limit) > 0.99
    # the larger of two axes is biased up: twice the one-sided 2.3 % and a margin
    assert np.mean(shape.major_is_limit) > 0.90


def test_unknown_errors_and_beams_stay_unknown():
    covariance = covariance_from_shape([8.0, 8.0], 5.0, 30.0)
    nothing = np.full((2, 3, 3), np.nan)
    shape = fitted_shape(covariance, nothing)
    assert np.all(np.isfinite(shape.major))
    assert np.all(np.isnan(shape.major_err))
    assert np.all(np.isnan(shape.position_angle_err))
    beam = covariance_from_shape([6.0, 8.0], [4.0, 5.0], 30.0)
    without = deconvolved_shape(covariance, beam * (1 + 1e-9), nothing)
    assert without.major[0] == pytest.approx(np.sqrt(28.0), rel=1e-6)
    assert np.isnan(without.major_err[0])
    assert np.all(np.isnan([without.major[1], without.minor[1], without.position_angle[1]]))
    assert not (without.major_is_limit | without.minor_is_limit).any()
    without = deconvolved_shape(covariance, np.full((2, 2, 2), np.nan), nothing)
    assert np.all(np.isnan(without.major))
    assert not without.major_is_limit.any()


def test_a_negative_variance_is_an_unknown_error_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shape = fitted_shape(np.diag([4.0, 9.0])[None], np.diag([-1.0, -1.0, -1.0])[None])
    assert np.isnan([shape.major_err[0], shape.minor_err[0]]).all()
