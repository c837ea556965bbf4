"""Several planes made into one to detect on: what it does to noise, points and blank pixels."""

import numpy as np
import pytest
from scipy import stats

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.combination import (
    detection_plane,
    measured_plane,
    normal_equivalent,
)
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.source import ImageSet, MemorySource

SIDE = 201
SIGMAS = {"g": 2.2, "r": 2.0, "z": 1.8}
RMS = {"g": 1.0, "r": 2.0, "z": 5.0}


def planes(peaks=None, *, level=0.0, seed=1):
    """White noise of different depth with a point source in the middle, and its backgrounds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    images, backgrounds = {}, {}
    for name, rms in RMS.items():
        variance = SIGMAS[name] ** 2
        star = np.exp(-0.5 * (x**2 + y**2) / variance) * (peaks or {}).get(name, 0.0)
        data = rms * rng.standard_normal((SIDE, SIDE)) + star + level
        psf = PointSpread(variance * np.eye(2))
        images[name] = SkyImage(data.astype("f4"), psf=psf, name=name)
        flat = np.full((SIDE, SIDE), level, np.float32)
        backgrounds[name] = Background(flat, np.full_like(flat, rms))
    return images, backgrounds


def test_normal_equivalent_keeps_tail_probabilities():
    for number in (1, 2, 3, 5):
        square = np.array([0.5, 3.0, 20.0, 60.0])
        expected = stats.norm.isf(stats.chi2.sf(square, number))
        found = normal_equivalent(square, np.full(4, number))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    # far beyond what a float holds as a probability, the deviate approaches chi
    far = normal_equivalent(np.array([79.9, 80.1, 1e4, 1e8]), np.full(4, 3))
    assert np.all(np.diff(far) > 0)
    assert far[1] - far[0] < 0.02
    np.testing.assert_allclose(far[2:], [100.0, 1e4], rtol=1e-3)
    assert np.isnan(normal_equivalent(np.zeros(1), np.zeros(1, int)))[0]
    assert np.isfinite(normal_equivalent(np.zeros(1), np.ones(1, int)))[0]


@pytest.mark.parametrize("detection", ["r", "weighted", "chi_squared"])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_noise_of_the_detection_plane_is_standard(detection, smoothing):
    images, backgrounds = planes(level=7.0)
    with Context() as context:
        plane, background = detection_plane(
            images, backgrounds, detection, smoothing, context=context
        )
    values = (plane.data - background.level) / background.rms
    # the filter leaves about SIDE^2 / (4 pi sigma^2) independent values
    independent = SIDE**2 / (4 * np.pi * 2.0**2 if smoothing else 1.0)
    assert abs(values.mean()) < 5 / np.sqrt(independent)
    # of the deviation, plus a part for the measured autocorrelation
    assert values.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * independent) + 0.02)


def test_a_matched_filter_gives_a_point_its_largest_significance():
    # total over rms, over the square root of the effective area 4 pi sigma^2
    peaks = {name: 20 * rms / np.sqrt(np.pi) / SIGMAS[name] for name, rms in RMS.items()}
    images, backgrounds = planes(peaks)
    middle = (SIDE // 2, SIDE // 2)
    with Context() as context:
        found = {
            (name, width): detection_plane(images, backgrounds, name, width, context=context)[0]
            for name in ("r", "weighted", "chi_squared")
            for width in (0.5, 1.0, 2.0)
        }
    peak = {key: float(plane.data[middle]) for key, plane in found.items()}
    assert peak["r", 1.0] == pytest.approx(20.0, abs=5)
    # a filter of half or twice the width loses a fifth: 2 s / (1 + s^2)
    for width in (0.5, 2.0):
        assert peak["r", width] == pytest.approx(0.8 * 20.0, abs=5)
    # squares of independent significances add up, less what three planes cost
    assert peak["chi_squared", 1.0] == pytest.approx(20 * np.sqrt(3), abs=5)
    assert found["r", 1.0].psf.covariance[0, 0] == pytest.approx(2 * 2.0**2)
    assert found["weighted", 1.0].psf.covariance[0, 0] == pytest.approx(2 * 2.2**2)


def test_pixels_that_some_planes_lack_have_the_others():
    images, backgrounds = planes()
    holed = images["g"].data.copy()
    holed[:50] = np.nan
    images["g"] = images["g"].replace(data=holed)
    lost = images["z"].data.copy()
    lost[:, :20] = np.nan
    for name in ("r", "z"):
        images[name] = images[name].replace(
            data=np.where(np.isnan(lost), np.nan, images[name].data)
        )
    with Context() as context:
        for detection in ("weighted", "chi_squared"):
            plane, background = detection_plane(images, backgrounds, detection, context=context)
            assert np.isnan(plane.data[:50, :20]).all()
            assert np.isfinite(plane.data[50:]).all()
            assert np.isfinite(plane.data[:, 20:]).all()
            np.testing.assert_array_equal(np.isnan(plane.data), np.isnan(background.rms))
            assert plane.data[:50, 20:].std() == pytest.approx(1.0, abs=0.05)
    mean, background = measured_plane(images, backgrounds, "weighted")
    np.testing.assert_allclose(mean.data[60:, :20], images["g"].data[60:, :20], rtol=1e-5)
    assert background.rms[0, 50] == pytest.approx((2.0**-2 + 5.0**-2) ** -0.5)
    assert background.rms[100, 100] == pytest.approx((1 + 2.0**-2 + 5.0**-2) ** -0.5)


def test_what_cannot_be_combined():
    import astropy.units as u

    images, backgrounds = planes()
    images["z"] = images["z"].replace(unit=u.nJy)
    with Context() as context:
        with pytest.raises(InputError, match="different units"):
            detection_plane(images, backgrounds, "weighted", context=context)
        detection_plane(images, backgrounds, "chi_squared", context=context)
        assert measured_plane(images, backgrounds, "chi_squared")[0] is images["g"]
        images["r"] = images["r"].replace(psf=None)
        with pytest.raises(InputError, match="--beam stars"):
            detection_plane(images, backgrounds, "r", 1.0, context=context)


def test_sets_of_whatever_stands_for_an_image(tmp_path):
    images, _ = planes()
    mixed = {"g": images["g"], "r": MemorySource(images["r"])}
    assert ImageSet.of(mixed).detection == "weighted"
    assert ImageSet.of(mixed, "chi-squared").detection == "chi_squared"
    assert ImageSet.of({"g": images["g"]}).detection == "g"
    with pytest.raises(InputError, match="no such file"):
        ImageSet.of({"g": tmp_path / "missing.fits"})
