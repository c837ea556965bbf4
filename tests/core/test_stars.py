"""The PSF of an image from its own stars."""

import numpy as np
import pytest
from astropy.io import fits

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.io import open_image, read_image
from cyclades.stages.core.stars import find_stars, measured_psf, stellar_sizes

FWHM, ANGLE = (5.0, 4.2), 30.0
BETA = 3.5


def star_field(covariance, *, beta=BETA, galaxies=8, seed=3, side=400):
    """Moffat stars of S/N 30 to 300 on a grid, and wider profiles between them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(float)
    data = rng.standard_normal((side, side)) + 50.0
    p = np.linalg.inv(covariance)
    scale = (2.0 ** (1.0 / beta) - 1.0) / (2.0 * np.log(2.0))
    number = 0
    for cy in range(40, side, 80):
        for cx in range(40, side, 80):
            width = 2.5 if number < galaxies else 1.0
            u, v = x - cx - rng.uniform(-0.5, 0.5), y - cy - rng.uniform(-0.5, 0.5)
            square = (p[0, 0] * u**2 + 2 * p[0, 1] * u * v + p[1, 1] * v**2) / width
            data += rng.uniform(30, 300) * (1 + scale * square) ** -beta
            number += 1
    return data.astype("f4")


def test_the_psf_has_the_fwhm_and_the_angle_of_the_stars():
    covariance = covariance_from_shape(*FWHM, ANGLE)
    data = star_field(covariance)
    psf, stars = measured_psf(data)
    assert len(stars.x) >= 12
    # a Gaussian through the pixels above 0.4 of the peak of a Moffat profile
    np.testing.assert_allclose(psf.covariance, covariance, rtol=0.06, atol=0.1)
    # wider objects are not among them
    assert stars.fwhm.max() < 1.1 * np.sqrt(np.prod(FWHM))


def test_gaussian_stars_are_measured_exactly():
    covariance = covariance_from_shape(*FWHM, ANGLE)
    psf, _ = measured_psf(star_field(covariance, beta=500.0))
    np.testing.assert_allclose(psf.covariance, covariance, rtol=0.015, atol=0.02)


def test_stellar_sizes_are_the_narrowest_crowded_ones():
    rng = np.random.default_rng(2)
    stars = 4.0 * np.exp(0.01 * rng.standard_normal(12))
    size = np.concatenate([stars, 4.0 * np.exp(rng.uniform(0.15, 1.2, 30)), [1.1]])
    chosen = stellar_sizes(size)
    assert chosen[:12].sum() >= 11  # one may lie beyond three deviations
    assert not chosen[12:].any()


def test_beam_from_stars_of_a_file(tmp_path):
    covariance = covariance_from_shape(*FWHM, ANGLE)
    path = tmp_path / "stars.fits"
    fits.PrimaryHDU(star_field(covariance)).writeto(path)
    image = read_image(path, beam="stars")
    np.testing.assert_allclose(image.psf.covariance, covariance, rtol=0.06, atol=0.1)
    assert open_image(path, beam="stars").psf.size == image.psf.size
    assert read_image(path).psf is None
    assert read_image(path, beam="stars", per_pixel=True).unit.to_string() in ("1 / pix", "pix-1")
    with pytest.raises(ConfigurationError, match="not a beam"):
        open_image(path, beam="star")


def test_an_image_without_stars_is_refused():
    noise = np.random.default_rng(1).standard_normal((200, 200)).astype("f4")
    with pytest.raises(InputError, match="too few to measure the PSF; give it with --beam"):
        find_stars(noise)
