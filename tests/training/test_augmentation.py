"""Augmentation: fluxes, positions, noise and labels stay together."""

import numpy as np
import pytest

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.simulation.plain import unit_noise
from cyclades.pipeline.training.augmentation import (
    AugmentationOptions,
    add_noise,
    augment,
    beam_size,
    blank,
    flip,
    noise_level,
    scale_flux,
    smooth,
    warp,
)
from cyclades.pipeline.training.samples import Sample, pixel_boxes
from cyclades.pipeline.training.simulated import SimulatedOptions, SimulatedSource
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.geometry import covariance_from_shape, gaussian_area, inverse
from cyclades.stages.core.products import Segments

SIZE = 128
BEAM = covariance_from_shape(5.5, 4.0, 30.0)
OFF = AugmentationOptions.off()


def profile(x, y, covariance, size=SIZE):
    yy, xx = np.indices((size, size))
    dx, dy, p = xx - x, yy - y, inverse(covariance)
    return np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2))


def make(places=((60.3, 70.2), (80.1, 50.4)), shapes=(BEAM, BEAM * 3), peaks=(1.0, 0.5), noise=0.0):
    """Gaussian objects without noise, with the pixels above a tenth of their peaks."""
    parts = [p * profile(*xy, c) for xy, c, p in zip(places, shapes, peaks, strict=True)]
    rows = [np.flatnonzero(part > 0.1 * part.max()) for part in parts]
    segments = Segments.from_lists(rows)
    image = np.sum(parts, axis=0).astype(np.float32)
    if noise:
        image += noise * unit_noise(image.shape, BEAM, np.random.default_rng(0))
    n = len(places)
    return Sample(
        image=image,
        boxes=pixel_boxes(segments, image.shape),
        classes=np.arange(n),
        segments=segments,
        ignore=np.zeros(n, bool),
        unlabelled=None,
        beam=BEAM,
        rms=np.full(image.shape, noise or 0.01, np.float32),
        snr=np.array(peaks, float) / (noise or 0.01),
    )


def boxes_only(sample):
    return sample.replace(segments=None)


def flux(sample):
    """Sum over the image in units of the beam."""
    return np.nansum(sample.image, dtype=float) / gaussian_area(sample.beam)


def moments(sample, row):
    """Centroid and covariance of the light in an object's pixels."""
    y, x = np.divmod(sample.segments[row], sample.shape[1])
    light = sample.image[y, x].astype(float)
    mean = np.array([np.average(x, weights=light), np.average(y, weights=light)])
    offset = np.stack([x, y]) - mean[:, None]
    return mean, (offset * light) @ offset.T / light.sum()


def same(one, other):
    for name in ("image", "boxes", "classes", "ignore", "rms", "snr", "beam", "unlabelled"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is None or theirs is None:
            assert mine is theirs
        else:
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
    if one.segments is not None:
        assert [set(one.segments[k]) for k in range(len(one))] == [
            set(other.segments[k]) for k in range(len(other))
        ]


def centred(box):
    return 0.5 * (box[:2] + box[2:])


def test_nothing_changes_when_all_is_off():
    sample = make()
    for seed in range(5):
        same(augment(sample, np.random.default_rng(seed), OFF), sample)


@pytest.mark.parametrize("turn", range(8))
def test_flips_are_exact(turn):
    sample = make()
    turned = flip(sample, turn)
    assert np.array_equal(np.sort(turned.image, None), np.sort(sample.image, None))
    assert len(turned) == len(sample)
    for row in range(2):
        there, here = (s.image.ravel()[s.segments[row]] for s in (turned, sample))
        np.testing.assert_array_equal(np.sort(there), np.sort(here))
        y, x = np.divmod(turned.segments[row], SIZE)
        np.testing.assert_array_equal(
            turned.boxes[row], [x.min(), y.min(), x.max() + 1, y.max() + 1]
        )
    # a point source keeps the shape of the beam, which turned with it
    _, shape = moments(turned, 0)
    _, before = moments(sample, 0)
    np.testing.assert_allclose(shape / before.trace(), turned.beam / BEAM.trace(), atol=0.01)
    inverse_turn = turn if turn >= 4 or turn % 2 == 0 else 4 - turn
    same(flip(turned, inverse_turn), sample)
    same(boxes_only(turned), flip(boxes_only(sample), turn))


@pytest.mark.parametrize(("turn", "angle"), [(1, 90.0), (2, 180.0), (3, 270.0)])
def test_a_rotation_by_quarters_is_the_turn(turn, angle):
    sample = make()
    exact, turned = flip(sample, turn), warp(sample, angle, 1.0)
    np.testing.assert_allclose(turned.image, exact.image, atol=1e-5)
    np.testing.assert_allclose(turned.beam, exact.beam, atol=1e-9)
    np.testing.assert_array_equal(turned.boxes, exact.boxes)


@pytest.mark.parametrize(("angle", "zoom"), [(33.0, 1.0), (213.0, 1.25), (0.0, 0.8), (75.0, 0.9)])
def test_fluxes_in_beams_and_shapes_stay_under_rotation_and_zoom(angle, zoom):
    sample = make()
    turned = warp(sample, angle, zoom)
    assert len(turned) == len(sample)
    assert flux(turned) == pytest.approx(flux(sample), rel=0.01)
    assert np.nanmax(turned.image) == pytest.approx(sample.image.max(), rel=0.02)
    middle = (SIZE - 1) / 2
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix = zoom * np.array([[c, -s], [s, c]])
    for row in range(2):
        mean, shape = moments(turned, row)
        before, was = moments(sample, row)
        np.testing.assert_allclose(mean, matrix @ (before - middle) + middle, atol=0.1)
        np.testing.assert_allclose(shape, matrix @ was @ matrix.T, atol=0.06 * was.trace())
        assert len(turned.segments[row]) == pytest.approx(
            zoom**2 * len(sample.segments[row]), rel=0.07
        )
    np.testing.assert_allclose(turned.beam, matrix @ BEAM @ matrix.T)
    # boxes without pixels are those of the ellipse that fills them: near those of the pixels
    guessed = warp(boxes_only(sample), angle, zoom)
    for one, other in zip(guessed.boxes, turned.boxes, strict=True):
        np.testing.assert_allclose(centred(one), centred(other), atol=1.0)
        np.testing.assert_allclose(one[2:] - one[:2], other[2:] - other[:2], rtol=0.3)


def test_a_rotation_is_undone_by_the_one_back():
    sample = make()
    back = warp(warp(sample, 25.0, 1.0), -25.0, 1.0)
    inner = np.s_[35:93, 35:93]
    assert np.abs(back.image[inner] - sample.image[inner]).max() < 0.01


def test_corners_are_blank_or_mirrored_without_labels():
    sample = make(noise=0.01)
    turned = warp(sample, 45.0, 1.0)
    blank_share = np.mean(np.isnan(turned.image))
    assert blank_share == pytest.approx(1 - 2 * (np.sqrt(2) - 1), abs=0.01)
    assert turned.unlabelled is None
    mirrored = warp(sample, 45.0, 1.0, mirror=True)
    assert np.isfinite(mirrored.image).all()
    np.testing.assert_array_equal(mirrored.unlabelled, np.isnan(turned.image))
    np.testing.assert_array_equal(mirrored.segments.indices, turned.segments.indices)


def test_blanks_turn_with_the_image_and_do_not_ring():
    sample = make(noise=0.01)
    sample.image[20:40, 30:60] = np.nan
    turned = warp(sample, 30.0, 1.0)
    hidden, corners = (np.isnan(one.image).sum() for one in (turned, warp(make(), 30.0, 1.0)))
    assert hidden - corners == pytest.approx(600, rel=0.05)
    assert np.nanmin(turned.image) > -0.06


def test_unlabelled_regions_turn_with_the_image():
    mark = np.zeros((SIZE, SIZE), bool)
    mark[50:70, 60:90] = True
    sample = make().replace(unlabelled=mark)
    np.testing.assert_array_equal(warp(sample, 90.0, 1.0).unlabelled, flip(sample, 1).unlabelled)
    assert warp(sample, 20.0, 1.0).unlabelled.sum() == pytest.approx(600, rel=0.05)


def test_objects_that_leave_the_image_are_ignored_and_then_dropped():
    sample = make(places=((3.0, 3.0), (64.0, 64.0)), shapes=(BEAM, BEAM))
    assert len(warp(sample, 45.0, 1.0)) == 1
    cut = np.zeros((SIZE, SIZE), bool)
    cut[:, :68] = True
    assert blank(make(), cut).ignore.tolist() == [False]  # the object on the left has gone
    cut[:] = False
    cut[:, :80] = True
    halved = blank(make(shapes=(BEAM, BEAM * 3), places=((60.0, 70.0), (79.0, 50.0))), cut)
    assert halved.ignore.tolist() == [True]
    assert np.isnan(halved.image[cut]).all()


@pytest.mark.parametrize("natural", [True, False])
def test_added_noise_has_the_rms_asked_for(natural):
    size = 512
    beam = covariance_from_shape(4.5, 3.5, 20.0)
    noise = 2e-5 * unit_noise((size, size), beam, np.random.default_rng(3))
    sample = make().replace(
        image=noise, segments=None, beam=beam, rms=np.full((size, size), 2e-5, np.float32)
    )
    ratios = []
    for seed in range(3):
        louder = add_noise(sample, 1.8, np.random.default_rng(seed), natural=natural)
        ratios.append(louder.image.std() / noise.std())
    assert np.mean(ratios) == pytest.approx(1.8, rel=0.03)
    np.testing.assert_allclose(louder.snr, sample.snr / 1.8)
    np.testing.assert_allclose(louder.rms, 1.8 * sample.rms)
    added = louder.image - noise
    # its autocorrelation is the beam, or that of white noise convolved with the beam
    lag = np.mean(added[:, 2:] * added[:, :-2]) / np.var(added)
    exact = np.exp(-0.5 * 4 * inverse(beam * (1 if natural else 2))[0, 0])
    assert lag == pytest.approx(exact, abs=0.03)


def test_noise_follows_the_rms_map_and_needs_none():
    rms = np.ones((SIZE, SIZE), np.float32)
    rms[:, 64:] = 4.0
    quiet = make(peaks=(0.0, 0.0)).replace(rms=rms)
    louder = add_noise(quiet, 2.0, np.random.default_rng(1))
    assert louder.image[:, 64:].std() / louder.image[:, :64].std() == pytest.approx(4, rel=0.2)
    bare = make(noise=0.01).replace(rms=None)
    found = [
        noise_level(add_noise(bare, 2.0, np.random.default_rng(k)).image) / noise_level(bare.image)
        for k in range(1, 9)
    ]
    assert np.mean(found) == pytest.approx(2.0, rel=0.05)


def test_objects_that_sink_into_the_noise_are_ignored():
    options = AugmentationOptions.from_mapping(
        {**OFF.model_dump(), "noise": 1.0, "noise_factor": (2.0, 2.0), "floor": 5.0}
    )
    sample = make(peaks=(0.09, 0.5), noise=0.01)
    noisy = augment(sample, np.random.default_rng(1), options)
    assert noisy.ignore.tolist() == [True, False]
    np.testing.assert_allclose(noisy.snr, [4.5, 25.0])


def test_a_larger_beam_keeps_peaks_of_points_and_fluxes_in_beams():
    sample = make(places=((40.0, 64.0), (90.0, 64.0)), shapes=(BEAM, BEAM * 4))
    larger = smooth(sample, 1.3)
    np.testing.assert_allclose(larger.beam, BEAM * 1.69)
    assert larger.image[64, 40] == pytest.approx(1.0, rel=0.01)
    # a resolved source spreads less, and so has more light in the larger beam
    assert larger.image[64, 90] == pytest.approx(0.5 * 1.69 * 4 / 4.69, rel=0.01)
    assert flux(larger) == pytest.approx(flux(sample), rel=0.01)
    exact = profile(40.0, 64.0, BEAM * 1.69) + 0.5 * 1.69 * 4 / 4.69 * profile(
        90.0, 64.0, BEAM * 4.69
    )
    assert np.abs(larger.image - exact).max() < 0.01


def test_a_larger_beam_keeps_track_of_the_noise():
    image = unit_noise((512, 512), BEAM, np.random.default_rng(5))
    sample = make().replace(image=image, rms=np.ones((512, 512), np.float32), segments=None)
    larger = smooth(sample, 1.3)
    # natural noise: its autocorrelation C becomes C + 2 K, in the unit of the larger beam
    expected = 1.69 / (1 + 2 * 0.69) ** 0.5
    assert larger.image.std() == pytest.approx(expected, rel=0.03)
    assert larger.rms[0, 0] == pytest.approx(expected, rel=0.03)
    np.testing.assert_allclose(larger.snr * larger.rms[0, 0], sample.snr, rtol=1e-5)
    holes = image.copy()
    holes[100:140, 100:200] = np.nan
    filled = smooth(sample.replace(image=holes), 1.3).image
    np.testing.assert_array_equal(np.isnan(filled), np.isnan(holes))


def test_flux_scale():
    scaled = scale_flux(make(), 7.0)
    assert flux(scaled) == pytest.approx(7 * flux(make()))
    np.testing.assert_array_equal(scaled.snr, make().snr)


def test_beams_out_of_range_are_brought_into_it():
    options = AugmentationOptions.from_mapping({**OFF.model_dump(), "beam": (6.0, 8.0)})
    sample = augment(make(), np.random.default_rng(1), options)
    assert beam_size(sample.beam) == pytest.approx(6.0)
    inside = AugmentationOptions.from_mapping(
        {**OFF.model_dump(), "beam": (3.5, 5.0), "rescale": 1.0, "smooth": 1.0}
    )
    for seed in range(12):
        assert 3.49 < beam_size(augment(make(), np.random.default_rng(seed), inside).beam) < 5.01


@pytest.fixture(scope="module")
def simulated():
    source = SimulatedSource(SimulatedOptions(preset="natural", seed=4), SIZE, CLASSES)
    return [source.sample(i) for i in range(24)]


def test_everything_at_once_follows_from_the_generator(simulated):
    every = AugmentationOptions(rotate=0.5, rescale=0.5, smooth=0.5, noise=0.5, flux=0.5, blank=0.5)
    different = 0
    for index, sample in enumerate(simulated):
        one, two, other = (
            augment(sample, np.random.default_rng((7, k)), every) for k in (index, index, index + 1)
        )
        same(one, two)
        different += not np.array_equal(one.image, other.image, equal_nan=True)
        assert one.image.dtype == np.float32
        assert one.image.shape == sample.image.shape
        assert one.boxes.dtype == np.float32
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert one.boxes.min(initial=0) >= 0
        assert one.boxes.max(initial=0) <= SIZE
        np.testing.assert_array_equal(one.boxes, pixel_boxes(one.segments, one.shape))
        assert one.ignore[one.snr < every.floor].all()
    assert different >= 20


def test_one_step_does_not_change_the_draws_of_another(simulated):
    alone = AugmentationOptions.from_mapping({**OFF.model_dump(), "noise": 1.0})
    both = AugmentationOptions.from_mapping({**OFF.model_dump(), "noise": 1.0, "flux": 1.0})
    sample = simulated[0]
    one, two = (augment(sample, np.random.default_rng(3), o) for o in (alone, both))
    scale = two.rms / one.rms
    np.testing.assert_allclose(two.image, one.image * scale, rtol=1e-4, atol=1e-9)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ConfigurationError, match="nothing takes noise or beams away"):
        AugmentationOptions.from_mapping({"noise_factor": [0.5, 2.0]})
    with pytest.raises(ConfigurationError, match="no such option"):
        AugmentationOptions.from_mapping({"gamma": 2.0})
