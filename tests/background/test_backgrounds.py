"""Contracts and accuracy of the background estimators."""

import numpy as np
import pytest
from astropy.io import fits

from cyclades.stages.background.base import clipped, noise_floor
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.stage import BackgroundStage
from cyclades.stages.core.tiling import Box

NAMES = ["sep", "photutils", "grid", "none", "maps"]
MESHES = ["sep", "photutils", "grid"]
FWHM = 4.5
BEAM = PointSpread(np.eye(2) * (FWHM / np.sqrt(8.0 * np.log(2.0))) ** 2)


def stage(name: str, **parameters: object) -> BackgroundStage:
    made = create_stage("background", name, **parameters)
    assert isinstance(made, BackgroundStage)
    return made


def estimate(name: str, image: SkyImage, **parameters: object) -> Background:
    return stage(name, **parameters).estimate(image, context=Context())


def correlated_noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Unit noise with the beam as its autocorrelation."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    transfer = np.exp(-(np.pi**2) * BEAM.covariance[0, 0] * (fx**2 + fy**2))
    white = np.random.default_rng(seed).standard_normal(shape)
    noise = np.fft.irfft2(np.fft.rfft2(white) * transfer, s=shape)
    return noise / noise.std()


def add_sources(data: np.ndarray, number: int, peak: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-15:16, -15:16]
    stamp = np.exp(-0.5 * (x**2 + y**2) / BEAM.covariance[0, 0])
    for _ in range(number):
        yy, xx = (int(rng.integers(16, n - 16)) for n in data.shape)
        data[yy - 15 : yy + 16, xx - 15 : xx + 16] += peak * stamp


@pytest.mark.parametrize("name", MESHES)
def test_recovers_waves_of_level_and_rms_under_sources(name: str) -> None:
    y, x = np.mgrid[:900, :900]
    level = np.sin(2 * np.pi * x / 700) + np.cos(2 * np.pi * y / 800)
    rms = 1.5 + 0.5 * np.cos(2 * np.pi * x / 1800)
    noise = rms * correlated_noise((900, 900), 1)
    add_sources(noise, 250, 60.0, 2)
    found = estimate(name, SkyImage(data=10.0 + level + noise, psf=BEAM))
    # About 45 boxes of 90 px or more, each with a scatter of the mean of 5 % of the rms.
    offset = (found.level - 10.0 - level) / rms
    assert abs(np.median(offset)) < 0.04
    assert offset.std() < 0.15
    ratio = found.rms / rms
    assert 0.98 < np.median(ratio) < 1.02
    assert ratio.std() < 0.05


@pytest.mark.parametrize("name", MESHES)
def test_sources_do_not_leak(name: str) -> None:
    noise = correlated_noise((600, 600), 3)
    crowded = noise.copy()
    add_sources(crowded, 200, 100.0, 4)
    without = estimate(name, SkyImage(data=noise, psf=BEAM))
    with_sources = estimate(name, SkyImage(data=crowded, psf=BEAM))
    # Without masking the level would rise by 0.6 rms or more in the mean of the pixels.
    assert abs(float((with_sources.level - without.level).mean())) < 0.03
    assert abs(float((with_sources.rms / without.rms).mean()) - 1.0) < 0.02


@pytest.mark.parametrize("name", MESHES)
def test_source_as_large_as_a_box_is_not_background(name: str) -> None:
    data = correlated_noise((700, 700), 5)
    y, x = np.mgrid[:700, :700]
    data += 50.0 * np.exp(-0.5 * ((x - 350) ** 2 + (y - 350) ** 2) / 45.0**2)
    found = estimate(name, SkyImage(data=data, psf=BEAM))
    assert abs(found.level[350, 350]) < 5.0
    assert found.rms[350, 350] < 3.0


@pytest.mark.parametrize("name", MESHES)
def test_noise_without_sources_is_unbiased(name: str) -> None:
    found = estimate(name, SkyImage(data=correlated_noise((900, 900), 6), psf=BEAM))
    # sqrt(beam area) / side = 0.005 is the standard error of the mean of the field.
    assert abs(float(found.level.mean())) < 0.02
    assert abs(float(found.rms.mean()) - 1.0) < 0.02


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("psf", [None, BEAM])
def test_blank_constant_and_tiny_images(name: str, psf: PointSpread | None) -> None:
    blank = np.full((50, 70), np.nan)
    found = estimate(name, SkyImage(data=blank, psf=psf))
    assert np.isnan(found.level).all()
    assert np.isnan(found.rms).all()
    for constant in (0.0, 3.7, -1e-7):
        found = estimate(name, SkyImage(data=np.full((200, 90), constant), psf=psf))
        assert (found.rms > 0).all()
        assert found.rms.max() <= 1e-5 * max(abs(constant), 1e-30)
        if name != "none":
            np.testing.assert_allclose(found.level, np.float32(constant), rtol=2e-7)
    for shape in ((1, 1), (1, 300), (3, 2), (40, 40)):
        data = np.random.default_rng(0).standard_normal(shape)
        found = estimate(name, SkyImage(data=data, psf=psf))
        assert found.level.shape == found.rms.shape == shape
        assert found.level.dtype == found.rms.dtype == np.float32
        assert np.isfinite(found.level).all()
        assert (found.rms > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_blank_pixels_are_blank_in_both_maps_and_change_nothing_else(name: str) -> None:
    noise = correlated_noise((500, 500), 7)
    whole = estimate(name, SkyImage(data=noise, psf=BEAM))
    holed = noise.copy()
    holed[:, 200:230] = np.nan
    holed[:60, :60] = np.nan
    found = estimate(name, SkyImage(data=holed, psf=BEAM))
    blank = np.isnan(holed)
    np.testing.assert_array_equal(np.isnan(found.level), blank)
    np.testing.assert_array_equal(np.isnan(found.rms), blank)
    assert np.abs(found.level - whole.level)[~blank].max() < 0.3
    assert np.abs(found.rms / whole.rms - 1.0)[~blank].max() < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_mostly_blank_cells_are_filled_from_neighbours(name: str) -> None:
    data = 5.0 + correlated_noise((400, 400), 8)
    keep = np.zeros(data.shape, bool)
    keep[:, :260] = True
    keep[200:204, :] = True
    data[~keep] = np.nan
    found = estimate(name, SkyImage(data=data, psf=BEAM))
    if name != "none":
        assert np.abs(found.level[200:204, 260:] - 5.0).max() < 0.6
    assert np.abs(found.rms[200:204, 260:] - 1.0).max() < 0.3


@pytest.mark.parametrize("name", MESHES)
def test_meshes_are_anchored_in_the_full_image(name: str) -> None:
    """A window off the cells' edges gives the same maps well inside as the whole image."""
    image = SkyImage(data=correlated_noise((800, 800), 9), psf=BEAM)
    window = image.cutout(Box(130, 760, 77, 690))
    whole = estimate(name, image, box_size=40)
    part = estimate(name, window, box_size=40)
    inner = (slice(300, 560), slice(250, 500))
    cut = (slice(300 - 130, 560 - 130), slice(250 - 77, 500 - 77))
    # A mesh that begins with the window differs by the scatter of its cells, 0.1 rms.
    assert np.abs(part.level[cut] - whole.level[inner]).max() < 0.02
    assert np.abs(part.rms[cut] / whole.rms[inner] - 1.0).max() < 0.01


@pytest.mark.parametrize("name", MESHES)
def test_rms_follows_the_weights_of_a_mosaic(name: str) -> None:
    noise = correlated_noise((500, 500), 10)
    weight = np.ones(noise.shape, np.float32)
    weight[:, 250:] = 0.04
    weight[:10] = 0.0
    weight[10:20] = np.nan
    found = estimate(name, SkyImage(data=noise / np.sqrt(np.maximum(weight, 0.01)), weight=weight))
    assert np.isnan(found.rms[:20]).all()
    assert np.isnan(found.level[:20]).all()
    # The step is in the map at once, not smeared over a box.
    assert found.rms[100, 240] == pytest.approx(1.0, abs=0.15)
    assert found.rms[100, 260] == pytest.approx(5.0, abs=0.75)


@pytest.mark.parametrize("name", MESHES)
def test_rms_next_to_a_steep_edge_stays_positive(name: str) -> None:
    noise = correlated_noise((600, 600), 11)
    noise[:, 300:] *= 300.0
    found = estimate(name, SkyImage(data=noise, psf=BEAM))
    assert found.rms.min() > 0.5
    assert found.rms.max() < 700.0


def test_units_scale_the_maps() -> None:
    data = correlated_noise((300, 300), 12)
    for name in MESHES:
        one = estimate(name, SkyImage(data=data, psf=BEAM))
        small = estimate(name, SkyImage(data=1e-6 * data, psf=BEAM))
        np.testing.assert_allclose(small.rms, 1e-6 * one.rms, rtol=1e-3)
        np.testing.assert_allclose(small.level, 1e-6 * one.level, atol=2e-9)


@pytest.mark.parametrize("estimator", ["median", "mean", "mode", "mmm", "sextractor", "biweight"])
def test_photutils_estimators(estimator: str) -> None:
    image = SkyImage(data=5.0 + correlated_noise((500, 500), 13), psf=BEAM)
    for rms_estimator in ("std", "mad", "biweight"):
        found = estimate("photutils", image, estimator=estimator, rms_estimator=rms_estimator)
        assert abs(float(found.level.mean()) - 5.0) < 0.06
        assert abs(float(found.rms.mean()) - 1.0) < 0.05


def test_none_keeps_the_level_and_maps_the_rms() -> None:
    image = SkyImage(data=3.0 + correlated_noise((400, 400), 14), psf=BEAM)
    found = estimate("none", image, level=2.5)
    assert (found.level == np.float32(2.5)).all()
    np.testing.assert_array_equal(found.rms, estimate("grid", image).rms)


def test_maps_are_read_converted_and_cut(tmp_path) -> None:
    import astropy.units as u

    y, x = np.mgrid[:60, :80]
    level = (x + 0.01 * y).astype(np.float32)
    header = fits.Header({"BUNIT": "mJy/beam"})
    fits.writeto(tmp_path / "level.fits", 1e3 * level, header)
    fits.writeto(tmp_path / "rms.fits", np.full((60, 80), 2.0, np.float32))
    image = SkyImage(data=correlated_noise((60, 80), 15), unit=u.Jy / u.beam)
    paths = {"level": str(tmp_path / "level.fits"), "rms": str(tmp_path / "rms.fits")}
    window = Box(10, 40, 20, 70)
    found = estimate("maps", image.cutout(window), **paths)
    np.testing.assert_allclose(found.level, level[window.slices], rtol=1e-6)
    assert (found.rms == 2.0).all()
    only_rms = estimate("maps", image, rms=paths["rms"])
    np.testing.assert_array_equal(only_rms.level, estimate("grid", image).level)


def test_maps_that_do_not_fit_are_refused_in_one_sentence(tmp_path) -> None:
    import astropy.units as u

    fits.writeto(tmp_path / "small.fits", np.ones((5, 6), np.float32))
    fits.writeto(
        tmp_path / "kelvin.fits", np.ones((60, 80), np.float32), fits.Header({"BUNIT": "K"})
    )
    image = SkyImage(data=np.zeros((60, 80)), unit=u.Jy / u.beam)
    for file, word in (("small", "shape"), ("kelvin", "unit"), ("absent", "absent")):
        with pytest.raises(InputError, match=word):
            estimate("maps", image, rms=str(tmp_path / f"{file}.fits"))


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_and_input_unchanged(name: str) -> None:
    image = SkyImage(data=correlated_noise((200, 200), 16), psf=BEAM)
    before = image.data.copy()
    first, second = estimate(name, image), estimate(name, image)
    np.testing.assert_array_equal(first.level, second.level)
    np.testing.assert_array_equal(first.rms, second.rms)
    np.testing.assert_array_equal(image.data, before)


def test_clipped_statistics_are_corrected_for_the_clipping() -> None:
    values = np.random.default_rng(17).standard_normal(100_000)
    location, scale = clipped(np.concatenate([values, np.full(500, 1e4)]))
    assert abs(location) < 0.02
    assert abs(scale - 1.0) < 0.02
    assert noise_floor(np.zeros((1, 3), np.float32), np.ones((1, 3), bool)) > 0


def test_real_image_with_blanks(shared_data) -> None:
    from cyclades.stages.core.io import read_image

    folder = shared_data / "parkes-1904-66"
    image = read_image(folder / "1904-66_SIN.fits")
    found = estimate("grid", image)
    np.testing.assert_array_equal(np.isnan(found.rms), np.isnan(image.data))
    assert 0.045 < np.nanmedian(found.rms) < 0.06
