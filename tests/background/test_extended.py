"""Sources as large as the boxes of the background, and faint ones that no pixel shows."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from test_backgrounds import BEAM, FWHM, MESHES, add_sources, correlated_noise, estimate

from cyclades.stages.background.extended import extended_mask, uncertain_pixels
from cyclades.stages.background.mesh import Mesh
from cyclades.stages.core.image import SkyImage

BOX = round(30 * FWHM)
SIZE = 900


def disc(ratio: float, size: int = SIZE) -> np.ndarray:
    """Unit disc of a diameter in boxes, seen with the beam, a little off the middle."""
    y, x = np.mgrid[:size, :size]
    radius = np.hypot(x - 0.48 * size, y - 0.53 * size)
    return gaussian_filter((radius < 0.5 * ratio * BOX).astype(float), FWHM / 2.355)


@pytest.mark.parametrize(
    ("ratio", "brightness"), [(0.5, 1.5), (0.5, 3), (0.5, 30), (1, 3), (1, 10), (2, 3), (2, 5)]
)
def test_discs_are_not_background(ratio: float, brightness: float) -> None:
    """Brightness in units of the rms; without the masks up to 2.8 of it went into the level."""
    noise = correlated_noise((SIZE, SIZE), 21)
    add_sources(noise, 60, 30.0, 22)
    shape = disc(ratio)
    plain = estimate("grid", SkyImage(data=noise, psf=BEAM))
    found = estimate("grid", SkyImage(data=noise + brightness * shape, psf=BEAM))
    inside = shape > 0.5
    # a level from outside differs by its own error, 0.05 to 0.1 of the rms
    assert abs(float((found.level - plain.level)[inside].mean())) < 0.3
    assert float((found.rms / plain.rms)[inside].mean()) == pytest.approx(1.0, abs=0.1)
    assert plain.uncertain is None
    if brightness >= 3:
        assert found.uncertain is not None
        assert found.uncertain[inside].mean() > 0.5
    if found.uncertain is not None:
        far = gaussian_filter(shape, 0.2 * BOX) < 0.01
        assert not found.uncertain[far].any()


@pytest.mark.parametrize("name", MESHES)
def test_holes_are_not_background_either(name: str) -> None:
    noise = correlated_noise((SIZE, SIZE), 23)
    shape = disc(0.7)
    found = estimate(name, SkyImage(data=noise - 4.0 * shape, psf=BEAM))
    assert abs(float(found.level[shape > 0.5].mean())) < 0.35


def test_noise_and_waves_lose_few_pixels() -> None:
    """The scatter of the means sets the threshold, so that structure is not taken for sources."""
    noise = correlated_noise((SIZE, SIZE), 24)
    y, x = np.mgrid[:SIZE, :SIZE]
    everywhere, nowhere = np.ones((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    for waves in (0.0, 0.5 * np.sin(x / 25.0) * np.cos(y / 30.0)):
        plane = (noise + waves).astype(np.float32)
        mask = extended_mask(plane, everywhere, nowhere, BOX, (0, 0), seed=5.0, flood=3.0)
        assert mask.mean() < 0.005
    constant = np.zeros((SIZE, SIZE), np.float32)
    assert not extended_mask(constant, everywhere, nowhere, BOX, (0, 0), seed=5, flood=3).any()


def test_what_is_left_between_masked_pixels_is_masked() -> None:
    usable, sources = np.ones((200, 300), bool), np.zeros((200, 300), bool)
    sources[50:150, 50:150] = True
    sources[100:110, 100:110] = False
    plane = np.zeros((200, 300), np.float32)
    mask = extended_mask(plane, usable, sources, 96, (0, 0), seed=5.0, flood=3.0)
    assert mask[100:110, 100:110].all()
    assert not mask[:, 170:].any()


def test_little_sky_around_is_uncertain() -> None:
    sources = np.zeros((300, 300), bool)
    assert uncertain_pixels(sources, 100, (0, 0)) is None
    sources[100:115, 100:115] = True
    assert uncertain_pixels(sources, 100, (0, 0)) is None
    sources[100:150, 100:150] = True
    found = uncertain_pixels(sources, 100, (0, 0))
    assert found is not None
    assert found[110:140, 110:140].all()
    assert not found[:60].any()
    assert not found[190:].any()
    assert found.shape == sources.shape


def test_sums_and_their_planes() -> None:
    mesh = Mesh.anchored((7, 10), (0, 0), 4)
    plane = np.arange(70, dtype=np.float32).reshape(7, 10)
    plane[0, 0] = np.nan
    chosen = plane > 10
    usable, left_out = np.isfinite(plane), ~chosen
    known, kept, total = mesh.sums(plane, usable, left_out)
    assert total.shape == mesh.shape
    assert total[0, 0] == plane[1:4, :4][chosen[1:4, :4]].sum()
    assert total.sum() == plane[chosen].sum()
    np.testing.assert_array_equal(kept, mesh.counts(chosen))
    np.testing.assert_array_equal(known, mesh.counts(usable))
    assert kept.sum() == chosen.sum()
    assert kept[1, 2] == chosen[4:, 8:].sum()
    assert not mesh.expand(np.zeros(mesh.shape, bool)).any()
    wide = mesh.expand(np.eye(2, 3, dtype=bool))
    assert wide.shape == (7, 10)
    assert wide[:4, :4].all()
    assert not wide[:4, 4:8].any()


@pytest.mark.parametrize("name", MESHES)
def test_the_rms_has_no_seams_between_cells(name: str) -> None:
    """Steps of the map across the seams are like those elsewhere, though its cells scatter."""
    rms = np.log(estimate(name, SkyImage(data=correlated_noise((500, 500), 25), psf=BEAM)).rms)
    for plane in (rms, rms.T):
        steps = np.abs(np.diff(plane, axis=1))
        bends = np.abs(np.diff(plane, 2, axis=1))
        assert steps.max() < 0.02
        assert bends.max() < 0.002


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("seed", range(4))
def test_the_rms_is_positive_whatever_the_pixels(name: str, seed: int) -> None:
    """Gradients of a factor 1e6, exact constants, huge sources and holes in one image."""
    rng = np.random.default_rng(seed)
    data = correlated_noise((300, 320), seed) * np.logspace(0, rng.uniform(-6, 6), 320)
    y, x = rng.integers(0, 250, 2)
    data[y : y + 50, x : x + 50] = rng.choice([0.0, 1e-20, 1e4])
    data[rng.integers(0, 300), rng.integers(0, 320)] = rng.choice([-1e9, 1e9])
    y, x = rng.integers(0, 200, 2)
    data[y : y + 80, x : x + 90] = np.nan
    found = estimate(name, SkyImage(data=data, psf=BEAM))
    known = np.isfinite(data)
    np.testing.assert_array_equal(np.isfinite(found.rms), known)
    assert (found.rms[known] > 0).all()
    assert np.isfinite(found.level[known]).all()
