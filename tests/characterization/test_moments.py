"""Moments, windowed positions, apertures, and their errors."""

import numpy as np
import pytest

from cyclades.stages.characterization.apertures import aperture_error, window_noise
from cyclades.stages.characterization.isophotes import interpolated_peaks, truncation
from cyclades.stages.characterization.moments_kernel import noise_of_moments
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import gaussian_autocorrelation
from cyclades.stages.core.products import Background, Components, Detections, Segments
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.stage import CharacterizationStage
from cyclades.stages.core.tiling import Box

COVARIANCE = np.array([[4.4, 0.8], [0.8, 3.2]])
BEAM = PointSpread(COVARIANCE)
AREA = float(gaussian_area(COVARIANCE))


def add_gaussian(data, x0, y0, peak, covariance=COVARIANCE) -> None:
    y, x = np.mgrid[: data.shape[0], : data.shape[1]]
    p = np.linalg.inv(covariance)
    dx, dy = x - x0, y - y0
    data += peak * np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2))


def correlated_noise(shape, seed) -> np.ndarray:
    """Unit noise with the beam as its autocorrelation."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    c = COVARIANCE
    power = c[0, 0] * fx**2 + 2 * c[0, 1] * fx * fy + c[1, 1] * fy**2
    white = np.random.default_rng(seed).standard_normal(shape)
    noise = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-(np.pi**2) * power), s=shape)
    return noise / noise.std()


def flat_background(image: SkyImage, rms: float = 1.0) -> Background:
    level = np.where(np.isfinite(image.data), np.float32(0), np.float32(np.nan))
    return Background(level, level + np.float32(rms))


def measure(image: SkyImage, detections=None, rms=1.0, **parameters) -> Components:
    background = flat_background(image, rms)
    context = Context()
    if detections is None:
        detections = create_stage("detection", "sep").detect(image, background, context=context)
    stage = create_stage("characterization", "moments", **parameters)
    assert isinstance(stage, CharacterizationStage)
    return stage.measure(image, background, detections, context=context)


def by_segment(shape, lists, **others) -> Detections:
    segments = Segments.from_lists([np.asarray(pixels, np.int64) for pixels in lists])
    n = len(segments)
    return Detections(
        shape=shape,
        box=np.zeros((n, 4)),
        score=np.ones(n),
        parent=np.full(n, -1),
        segments=segments,
        summit=np.zeros((n, 2)),
        **others,
    )


@pytest.fixture(scope="module")
def many_points():
    """400 beams of S/N 8 to 50 on their own in noise correlated like the beam."""
    shape = (900, 900)
    data = correlated_noise(shape, 1)
    rng = np.random.default_rng(2)
    grid = np.arange(30, 870, 44)
    x, y = (v.ravel() + rng.uniform(-4, 4, v.size) for v in np.meshgrid(grid, grid))
    peak = np.exp(rng.uniform(np.log(8), np.log(50), x.size))
    half = 20
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    p = np.linalg.inv(COVARIANCE)
    for x0, y0, s in zip(x, y, peak, strict=True):
        ix, iy = round(x0), round(y0)
        dx, dy = xx - (x0 - ix), yy - (y0 - iy)
        q = p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2
        data[iy - half : iy + half + 1, ix - half : ix + half + 1] += s * np.exp(-0.5 * q)
    found = measure(SkyImage(data=data, psf=BEAM))
    position = np.stack([found.x, found.y], -1)
    distance = np.hypot(*(position[:, None] - np.stack([x, y], -1)[None]).transpose(2, 0, 1))
    match = distance.argmin(1)
    own = (distance.min(1) < 3) & ((found.flags & Flag.BLENDED) == 0)
    assert own.sum() > 350
    return found, own, {"x": x[match], "y": y[match], "peak": peak[match]}


def test_fluxes_of_points_are_unbiased(many_points) -> None:
    found, own, truth = many_points
    for name, value in (
        ("peak", found.peak),
        ("total", found.total),
        ("kron", found.extra["kron_flux"]),
    ):
        ratio = (value / truth["peak"])[own]
        # Scatter about 0.1 to 0.2 of the flux, 350 sources: standard error of the median 0.01.
        assert abs(np.median(ratio) - 1.0) < 0.05, name
    expected = 1.0 - np.exp(-0.5 * (1.25 * BEAM.size) ** 2 / np.sqrt(np.linalg.det(COVARIANCE)))
    circle = (found.extra["aperture_flux"] / truth["peak"])[own]
    assert abs(np.median(circle) / expected - 1.0) < 0.05


def test_errors_describe_the_scatter(many_points) -> None:
    found, own, truth = many_points
    pulls = {
        "x": (found.x - truth["x"]) / found.error("x"),
        "y": (found.y - truth["y"]) / found.error("y"),
        "peak": (found.peak - truth["peak"]) / found.error("peak"),
        "total": (found.total - truth["peak"]) / found.total_err,
        "sxx": (found.sxx - COVARIANCE[0, 0]) / found.error("sxx"),
        "syy": (found.syy - COVARIANCE[1, 1]) / found.error("syy"),
    }
    for name in ("kron_flux", "isophotal_flux", "aperture_flux"):
        assert (found.extra[f"{name}_err"][own] > 0).all()
    pulls["aperture"] = (
        found.extra["aperture_flux"]
        - np.median(found.extra["aperture_flux"] / truth["peak"]) * truth["peak"]
    ) / found.extra["aperture_flux_err"]
    for name, pull in pulls.items():
        low, high = np.percentile(pull[own], [15.87, 84.13])
        # The standard error of this width is 0.05 for 350 sources.
        assert 0.8 < 0.5 * (high - low) < 1.25, name


def test_points_are_not_resolved_and_wide_sources_are(many_points) -> None:
    found, own, _ = many_points
    assert np.mean(found.resolved_probability[own] > 0.99) < 0.05
    data = correlated_noise((120, 120), 3)
    add_gaussian(data, 60, 60, 30.0, 3.0 * COVARIANCE)
    wide = measure(SkyImage(data=data, psf=BEAM))
    assert wide.resolved_probability[np.argmax(wide.peak)] > 0.999


def test_noiseless_gaussian_comes_back() -> None:
    data = np.zeros((90, 100))
    shape = np.array([[9.0, -2.0], [-2.0, 5.0]])
    add_gaussian(data, 50.3, 40.7, 400.0, shape)
    found = measure(SkyImage(data=data, psf=BEAM))
    assert len(found) == 1
    np.testing.assert_allclose([found.x[0], found.y[0]], [50.3, 40.7], atol=0.01)
    np.testing.assert_allclose(found.peak[0], 400.0, rtol=5e-3)
    total = 400.0 * float(gaussian_area(shape)) / AREA
    np.testing.assert_allclose(found.total[0], total, rtol=0.01)
    np.testing.assert_allclose(found.shape_covariance[0], shape, atol=0.15)
    np.testing.assert_allclose(found.extra["kron_flux"][0], total, rtol=0.02)
    assert found.fit_type == ("moments",)
    assert abs(found.residual_mean[0]) < 2.0


def test_without_a_beam_fluxes_are_pixel_sums() -> None:
    data = np.zeros((90, 100))
    add_gaussian(data, 50.3, 40.7, 400.0)
    found = measure(SkyImage(data=data))
    np.testing.assert_allclose(found.total[0], 400.0 * AREA, rtol=0.01)
    assert found.flags[0] & Flag.NO_BEAM
    assert np.isnan(found.resolved_probability[0])
    circle = measure(SkyImage(data=data), aperture_size=40.0).extra["aperture_flux"][0]
    np.testing.assert_allclose(circle, 400.0 * AREA, rtol=1e-3)


def test_neighbours_do_not_count_in_apertures() -> None:
    alone, pair = np.zeros((80, 120)), np.zeros((80, 120))
    for data in (alone, pair):
        add_gaussian(data, 50, 40, 100.0)
    add_gaussian(pair, 64, 40, 100.0)
    one, two = (measure(SkyImage(data=data, psf=BEAM)) for data in (alone, pair))
    np.testing.assert_allclose(two.extra["kron_flux"][0], one.extra["kron_flux"][0], rtol=0.05)


def test_negative_sources_have_negative_fluxes() -> None:
    data = np.zeros((60, 60))
    add_gaussian(data, 30.2, 29.6, 80.0)
    image = SkyImage(data=data, psf=BEAM)
    context = Context()
    detections = create_stage("detection", "sep").detect(
        image, flat_background(image), context=context
    )
    up = measure(image, detections)
    down = measure(
        SkyImage(data=-data, psf=BEAM),
        detections.replace(sign=np.full(len(detections), -1)),
    )
    for name in ("peak", "total"):
        np.testing.assert_allclose(getattr(down, name), -getattr(up, name))
    np.testing.assert_allclose(down.x, up.x)
    np.testing.assert_allclose(down.extra["kron_flux"], -up.extra["kron_flux"])
    assert down.flags[0] & Flag.NEGATIVE
    assert not up.flags[0] & Flag.NEGATIVE


def test_poor_segments_give_points_and_empty_ones_nan() -> None:
    data = correlated_noise((50, 50), 4)
    data[20, 30] = 9.0
    data[40, :] = np.nan
    pixel = 20 * 50 + 30
    detections = by_segment(data.shape, [[pixel], [], [40 * 50 + 3]])
    found = measure(SkyImage(data=data, psf=BEAM), detections)
    np.testing.assert_allclose(found.peak[0], 9.0, rtol=0.3)
    np.testing.assert_allclose(found.total[0], found.peak[0])
    assert found.total_err[0] > 0
    np.testing.assert_allclose(found.shape_covariance[0], COVARIANCE)
    assert ((found.flags & Flag.TOO_FEW_PIXELS) > 0).all()
    assert np.isnan(found.total[1:]).all()
    assert np.isnan(found.extra["kron_flux"][1:]).all()
    np.testing.assert_array_equal(found.n_pixels, [1, 0, 0])
    nothing = measure(SkyImage(data=data, psf=BEAM), by_segment(data.shape, []))
    assert len(nothing) == 0


def test_a_window_gives_the_same_values() -> None:
    data = np.zeros((120, 140))
    add_gaussian(data, 70.4, 60.2, 60.0)
    image = SkyImage(data=data, psf=BEAM)
    whole = measure(image)
    part = measure(image.cutout(Box(30, 100, 25, 120)))
    np.testing.assert_allclose(part.x + 25, whole.x, atol=1e-4)
    np.testing.assert_allclose(part.y + 30, whole.y, atol=1e-4)
    np.testing.assert_allclose(part.total, whole.total, rtol=1e-5)


def test_truncation_restores_a_gaussian() -> None:
    """Against sums over the pixels of a well-sampled Gaussian above its isophote."""
    data = np.zeros((201, 201))
    add_gaussian(data, 100, 100, 1.0, 100.0 * np.eye(2))
    x = np.arange(201)
    for threshold in (0.05, 0.3, 0.7):
        inside = data > threshold
        one = np.ones(1)
        flux, size = truncation(threshold * one, one, 0 * one)
        total = data[inside].sum()
        np.testing.assert_allclose(flux[0] * total, 2 * np.pi * 100, rtol=0.02)
        second = (data * (x - 100) ** 2)[inside].sum() / total
        np.testing.assert_allclose(size[0] * second, 100.0, rtol=0.02)
    flux, size = truncation(-np.ones(1), np.ones(1), np.ones(1))
    np.testing.assert_allclose([flux[0], size[0]], 1.0, atol=1e-6)


def test_interpolated_peak_of_a_gaussian_is_exact() -> None:
    data = np.zeros((20, 20))
    add_gaussian(data, 9.7, 10.4, 5.0, 2.0 * np.eye(2))
    excess = np.ascontiguousarray(data, np.float32)
    np.testing.assert_allclose(interpolated_peaks(excess, np.array([10 * 20 + 10])), 5.0, rtol=1e-5)
    corner = np.zeros((3, 3), np.float32)
    corner[0, 0] = 2.0
    corner[0, 1] = np.nan
    np.testing.assert_allclose(interpolated_peaks(corner, np.array([0])), 2.0)


@pytest.mark.parametrize("beside", [0, 1])
def test_a_blank_neighbour_says_nothing_of_the_height_of_a_peak(beside):
    """A peak pixel beside a blank one is no higher than the curve along the other axis says."""
    data = np.zeros((41, 41), np.float32)
    add_gaussian(data, 20.0, 20.0, 50.0, np.diag([4.0, 4.0]))
    whole = data.copy()
    blank = (slice(None), slice(21, None)) if beside else (slice(21, None), slice(None))
    data[blank] = np.nan
    square = [y * 41 + x for y in range(17, 24) for x in range(17, 24)]
    found = [
        measure(SkyImage(plane, psf=BEAM), by_segment((41, 41), [square])).peak[0]
        for plane in (whole, data)
    ]
    np.testing.assert_allclose(found, 50.0, rtol=1e-3)


def test_noise_of_apertures_and_windows_matches_simulations() -> None:
    rho = gaussian_autocorrelation(COVARIANCE, 14)
    noise = correlated_noise((1000, 1000), 5)
    y, x = np.mgrid[-20:21, -20:21]
    blocks = [noise[j : j + 41, i : i + 41] for j in range(0, 959, 25) for i in range(0, 959, 25)]
    circle = x**2 + y**2 <= 6.0**2
    sums = np.array([block[circle].sum() for block in blocks])
    # 1500 samples: standard error of the deviation 2 %, and the pixels' edge of the circle 2 %.
    predicted = aperture_error(rho, np.array([np.sqrt(circle.sum() / np.pi)]))[0]
    np.testing.assert_allclose(sums.std(), predicted, rtol=0.1)
    window = np.exp(-0.5 * (x**2 + y**2) / 2.0**2)
    for axis, predicted in zip((x, y), window_noise(rho, np.array([2.0])), strict=True):
        sums = np.array([(block * window * axis).sum() for block in blocks])
        np.testing.assert_allclose(sums.std(), np.sqrt(predicted[0]), rtol=0.1)


def test_noise_of_moments_is_the_double_sum() -> None:
    rng = np.random.default_rng(6)
    nx, ny = 12, 9
    pixels = np.sort(rng.choice(nx * ny, 20, replace=False))
    labels = np.zeros(nx * ny, np.int32)
    labels[pixels] = 1
    rms = rng.uniform(0.5, 2.0, nx * ny).astype(np.float32)
    rho = gaussian_autocorrelation(COVARIANCE, 20)
    moments = np.array([[5.0, 4.0, 3.0, 0.5, 2.0]])
    result = np.zeros((1, 7, 7))
    noise_of_moments(
        pixels, np.array([0, 20]), labels, rms, nx, moments, pixels[3:4].copy(), rho, result
    )
    y, x = np.divmod(pixels, nx)
    dx, dy = x - 5.0, y - 4.0
    f = np.stack([np.ones(20), dx, dy, dx**2 - 3.0, dx * dy - 0.5, dy**2 - 2.0])
    f = np.concatenate([f, np.eye(20)[3][None]]) * rms[pixels]
    pairs = rho[y[:, None] - y[None] + 20, x[:, None] - x[None] + 20]
    np.testing.assert_allclose(result[0], f @ pairs @ f.T, rtol=1e-6, atol=1e-6)


def test_truncation_allows_for_the_noise_at_the_isophote() -> None:
    """Pixels that noise lifts over the isophote add 5 % of flux here, which must come off."""
    threshold, rms, one = 0.3, 0.1, np.ones(1)
    signal = np.zeros((121, 121))
    add_gaussian(signal, 60, 60, 1.0, 100.0 * np.eye(2))
    near = signal > 1e-3
    x = np.broadcast_to(np.arange(121.0) - 60.0, signal.shape)
    total, second = [], []
    for seed in range(20):
        data = signal + rms * np.random.default_rng(seed).standard_normal(signal.shape)
        inside = near & (data > threshold)
        total.append(data[inside].sum())
        second.append((data * x**2)[inside].sum() / total[-1])
    flux, size = truncation(threshold * one, one, rms * one)
    # Standard errors: 0.1 % of the flux, 0.3 % of the moment; the correction is second order.
    np.testing.assert_allclose(flux[0] * np.mean(total), 2 * np.pi * 100, rtol=0.015)
    np.testing.assert_allclose(size[0] * np.mean(second), 100.0, rtol=0.06)
