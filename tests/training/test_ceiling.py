"""The ceiling: what noise takes from an observer who is told the truth."""

import numpy as np
import pytest
from scipy import ndimage

from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.ceiling import (
    HEIGHTS,
    SEED,
    Observation,
    ceiling,
    noise_peaks,
    observe,
    peak_density,
    significance,
)
from cyclades.pipeline.training.evaluation import class_figures, figures, judge
from cyclades.pipeline.training.samples import Sample, pixel_boxes
from cyclades.stages.core.products import Segments
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import InputSpec, NetworkSpec

CLASSES = ("compact", "extended", "spurious")
SIDE = 192
BEAM = np.array([[3.6, 0.9], [0.9, 2.9]])


def gaussian(x, y, peak, covariance):
    (xx, xy), (_, yy) = np.linalg.inv(covariance)
    dx, dy = np.arange(SIDE) - x, (np.arange(SIDE) - y)[:, None]
    return peak * np.exp(-0.5 * (xx * dx * dx + 2.0 * xy * dx * dy + yy * dy * dy))


def noise(random, shape, covariance):
    """Gaussian noise of rms 1 whose autocorrelation has a covariance."""
    ky, kx = (2.0 * np.pi * np.fft.fftfreq(n) for n in shape)
    kx, ky = np.meshgrid(kx, ky)
    q = covariance[0, 0] * kx**2 + 2.0 * covariance[0, 1] * kx * ky + covariance[1, 1] * ky**2
    field = np.fft.ifft2(np.fft.fft2(random.standard_normal(shape)) * np.exp(-0.25 * q)).real
    return field / field.std()


def tile(objects, classes, level=0.0, rms=1.0, random=None, **changes):
    """Make a sample of objects that are images of their own; noise only from `random`."""
    pixels = [np.flatnonzero(one > min(rms, 0.5 * one.max())) for one in objects]
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in pixels])]).astype(np.int64)
    segments = Segments(np.concatenate([np.zeros(0, np.int64), *pixels]), offsets)
    image = np.sum([np.zeros((SIDE, SIDE)), *objects], axis=0) + level
    if random is not None:
        image = image + rms * noise(random, image.shape, BEAM)
    made = Sample(
        image=image.astype(np.float32),
        boxes=pixel_boxes(segments, (SIDE, SIDE)),
        classes=np.asarray(classes, np.int64),
        segments=segments,
        ignore=np.zeros(len(objects), bool),
        unlabelled=None,
        beam=BEAM,
        rms=np.full((SIDE, SIDE), rms, np.float32),
        snr=np.full(len(objects), np.nan),
    )
    return made.replace(**changes)


def sky(peaks=(6.0, 20.0)):
    """Objects on a grid: points, and blobs of three beams."""
    random = np.random.default_rng(4)
    objects, classes = [], []
    for y in range(24, SIDE, 48):
        for x in range(24, SIDE, 48):
            kind = len(classes) % 2
            peak = np.exp(random.uniform(*np.log(peaks)))
            at = np.array([x, y]) + random.uniform(-3, 3, 2)
            objects.append(gaussian(*at, peak, BEAM * (1, 9)[kind]))
            classes.append(kind)
    return objects, classes


def truth(sample):
    labels = tuple(CLASSES[k] for k in sample.classes)
    return Objects(sample.boxes.astype(float), None, labels, None, sample.ignore)


def reached(samples):
    made = ceiling([truth(s) for s in samples], [observe(s, CLASSES) for s in samples], CLASSES)
    return {name: values[0] for name, values in made.by_class.items()}


def test_without_noise_all_is_found():
    # false peaks are below everything that is bright
    made = reached([tile(*sky())])
    assert made == {"compact": pytest.approx(1.0), "extended": pytest.approx(1.0)}
    seen = observe(tile(*sky()), CLASSES).objects
    np.testing.assert_allclose(seen.boxes, tile(*sky()).boxes)


def test_it_falls_with_the_noise():
    random = np.random.default_rng(11)
    means = []
    for rms in (0.3, 1.0, 2.0, 4.0):
        made = reached([tile(*sky(), rms=rms, random=random) for _ in range(4)])
        means.append([made["compact"], made["extended"]])
    means = np.array(means)
    np.testing.assert_allclose(means[0], 1.0)
    assert (np.diff(means, axis=0) <= 0.0).all()
    assert means[1].min() > 0.9
    # large objects lose their peaks later
    assert means[2, 0] < 0.9
    assert means[3].max() < 0.7


def test_level_and_unit_do_not_matter():
    objects, classes = sky()
    plain = tile(objects, classes, random=np.random.default_rng(3))
    ramp = 4.0 + np.linspace(-0.3, 0.3, SIDE)[:, None]
    other = plain.replace(image=1e-5 * (plain.image + ramp.astype(np.float32)),
                          rms=np.float32(1e-5) * plain.rms)  # fmt: skip
    one, two = (observe(s, CLASSES).objects for s in (plain, other))
    assert one.labels == two.labels
    # the level follows the ramp but for the outer halves of the mesh's cells
    np.testing.assert_allclose(one.scores, two.scores, atol=0.15)
    # without a map of the noise it is measured
    measured = observe(plain.replace(rms=None), CLASSES).objects
    assert measured.labels == one.labels
    np.testing.assert_allclose(measured.scores, one.scores, rtol=0.08, atol=0.1)


def test_the_level_is_not_raised_by_what_is_large():
    # a plateau over half of the tile would be the level of a plain median
    rows = np.arange(SIDE)[:, None]
    plateau = np.where((rows > 20) & (rows < 150), 8.0, 0.0) * np.ones(SIDE)
    plane = significance(tile([plateau], [1], level=3.0, random=np.random.default_rng(1)))
    assert np.median(plane[30:140]) == pytest.approx(8.0, abs=0.3)


@pytest.mark.parametrize(("fainter", "shown"), [(10.0, 2), (2.0, 1)])
def test_a_lobe_that_drowns_is_lost_from_the_box(fainter, shown):
    lobes = gaussian(60, 96, 30.0, BEAM) + gaussian(130, 96, fainter, BEAM)
    box = observe(tile([lobes], [1]), CLASSES).objects.boxes[0]
    assert (box[2] - box[0] > 70) == (shown == 2)
    assert box[0] < 60 < box[2]


def test_what_is_too_faint_or_blank_or_ignored_is_not_reported():
    objects = [gaussian(40, 40, 3.9, BEAM), gaussian(120, 40, 4.1, BEAM)]
    assert len(observe(tile(objects, [0, 0]), CLASSES).objects) == 1
    bright = tile([10.0 * one for one in objects], [0, 0])
    assert len(observe(bright, CLASSES).objects) == 2
    ignored = bright.replace(ignore=np.array([True, False]))
    assert len(observe(ignored, CLASSES).objects) == 1
    image = bright.image.copy()
    image[:, 100:] = np.nan
    assert len(observe(bright.replace(image=image), CLASSES).objects) == 1


def test_peaks_of_noise_are_as_many_as_the_noise_has():
    side = 1500
    for scale in (0.7, 1.5):
        field = noise(np.random.default_rng(17), (side, side), scale * BEAM)
        peak = field[field == ndimage.maximum_filter(field, 3, mode="wrap")]
        expected = side**2 * peak_density(scale * BEAM)
        for height in (4.0, 4.2):
            number = np.interp(height, HEIGHTS, expected)
            found = np.count_nonzero(peak > height)
            assert number > 10
            # counts vary, and the formula is of high levels and smooth peaks
            assert found == pytest.approx(number, abs=3.0 * number**0.5 + 0.1 * number)


def test_heights_of_peaks_follow_their_number():
    expected = 500.0 * peak_density(BEAM) / peak_density(BEAM)[0]
    heights = noise_peaks(expected)
    assert len(heights) == 500
    assert (np.diff(heights) < 0.0).all()
    assert heights[-1] == pytest.approx(SEED, abs=0.01)
    above = np.count_nonzero(heights > 4.5)
    assert above == pytest.approx(np.interp(4.5, HEIGHTS, expected), abs=1.0)


def test_peaks_of_noise_are_false_compact_sources():
    objects, classes = sky(peaks=(4.3, 6.0))
    sample = tile(objects, classes)
    seen = observe(sample, CLASSES)
    noisy = Observation(seen.objects, 2000.0 * seen.noise)
    made = ceiling([truth(sample)], [noisy], CLASSES).by_class
    assert made["compact"][0] < 0.9
    assert made["extended"][0] == pytest.approx(1.0)
    # no beam, no knowledge of the noise's peaks; no area, no peaks
    assert not observe(sample.replace(beam=None), CLASSES).noise.any()
    everywhere = np.ones((SIDE, SIDE), bool)
    assert not observe(sample.replace(unlabelled=everywhere), CLASSES).noise.any()


def test_labels_that_are_boxes_alone_have_no_ceiling():
    sample = tile(*sky())
    bare = observe(sample.replace(segments=None), CLASSES)
    assert bare is None
    assert ceiling([truth(sample)], [bare], CLASSES) is None
    assert ceiling([], [], CLASSES) is None
    # a tile without objects has no boxes
    empty = tile([], []).replace(segments=None)
    assert len(observe(empty, CLASSES).objects) == 0


def test_a_detector_that_sees_what_the_observer_sees_reaches_the_ceiling():
    spec = NetworkSpec(classes=CLASSES, input=InputSpec(mesh=64))
    random = np.random.default_rng(23)
    samples = [tile(*sky((2.5, 8.0)), random=random, beam=None) for _ in range(6)]
    samples[0] = samples[0].replace(ignore=np.arange(len(samples[0])) < 5)
    waiting = [observe(s, CLASSES, 64).objects for s in samples]

    def detect(channels):
        found = []
        for _ in channels:
            seen = waiting.pop(0)
            scores = np.zeros((len(seen), len(CLASSES)), np.float32)
            kinds = [CLASSES.index(name) for name in seen.labels]
            scores[np.arange(len(seen)), kinds] = 1.0 - 1.0 / seen.scores
            found.append(Found(seen.boxes.astype(np.float32), scores, None))
        return found

    judged = judge(detect, samples, spec, batch=2)
    made = class_figures(judged, spec)
    assert list(made) == ["compact", "extended"]
    assert sum(values["objects"] for values in made.values()) == 6 * 16 - 5
    for name, values in made.items():
        assert 0.4 < values["ceiling"] < 1.0
        assert values["ap50"] == pytest.approx(values["ceiling"]), name
        assert figures(judged, spec)[f"ap50_{name}"] == values["ap50"]
