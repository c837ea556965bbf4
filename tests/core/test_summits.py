"""Which peaks count as components."""

import numpy as np
import pytest

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.noise import NoiseAutocorrelation, gaussian_autocorrelation
from cyclades.stages.core.products import Segments
from cyclades.stages.core.segments import label_segments
from cyclades.stages.core.summits import (
    Sharpening,
    find_summits,
    persistent_peaks,
    refine_summits,
    sharpen,
)
from tests.skies import BEAM, correlated_noise, sky_image, source_rows

NOISE = NoiseAutocorrelation(gaussian_autocorrelation(BEAM, 16), "measured")
SHARPENING = Sharpening.for_image(PointSpread(BEAM), NOISE)


def number_of_summits(significance, flood=3.0, **options):
    segments = label_segments(significance, flood)
    _, starts = find_summits(significance, segments, SHARPENING, **options)
    return np.diff(starts)


def test_noise_of_the_sharpened_map():
    from scipy import ndimage

    field = correlated_noise((1500, 1500), np.random.default_rng(1))
    sharp = field - ndimage.correlate(field, SHARPENING.kernel)
    assert sharp.std() == pytest.approx(SHARPENING.noise, rel=0.02)


@pytest.mark.parametrize("angle", [0.0, 40.0, 90.0, 130.0])
def test_pairs_come_apart(angle):
    step = 1.3 * 5.0 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    rows = source_rows([40.0, 25.0], [50, 50 + step[0]], [50, 50 + step[1]])
    image, _ = sky_image(rows, (110, 110))
    assert number_of_summits(image.data).tolist() == [2]


def test_a_smooth_source_is_not_shredded_by_noise():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(20):
        wide = source_rows(15.0, [60.0], [60.0], BEAM * 16)
        image, _ = sky_image(wide, (120, 120), correlated_noise((120, 120), rng))
        counts = number_of_summits(image.data)
        found.append(counts.max())
    # Without a persistence every ripple would be a component: several a source.
    image_counts = number_of_summits(image.data, persistence=0.01)
    assert image_counts.max() > 3
    assert np.mean(found) < 1.3


def test_the_wings_of_a_bright_source_hold_no_summits():
    rng = np.random.default_rng(3)
    bright, _ = sky_image(
        source_rows(2000.0, [100.0], [100.0]), (200, 200), correlated_noise((200, 200), rng)
    )
    assert number_of_summits(bright.data, 4.0).max() == 1


def test_every_segment_has_a_summit_and_empty_ones_none():
    rng = np.random.default_rng(4)
    field = correlated_noise((100, 100), rng).astype(np.float32)
    segments = Segments.from_lists([np.array([5, 6]), np.zeros(0, int), np.array([777])])
    pixels, starts = find_summits(field, segments, SHARPENING)
    assert starts.tolist() == [0, 1, 1, 2]
    assert pixels[0] in (5, 6)
    assert pixels[1] == 777


def test_sub_pixel_summits():
    x, y = 30.3, 41.8
    image, _ = sky_image(source_rows(100.0, [x], [y]), (80, 80))
    pixel = np.array([np.argmax(image.data)])
    found_x, found_y = refine_summits(image.data, pixel)
    # The parabola is a start value; a tenth of a pixel is enough.
    assert abs(found_x[0] - x) < 0.15
    assert abs(found_y[0] - y) < 0.15


def test_the_end_of_a_row_is_no_neighbour_of_the_next():
    width = 10
    for pixels, number in (([9, 10], 2), ([9, 19], 1), ([8, 19], 1), ([9, 18], 1), ([0, 19], 2)):
        values = np.array([5.0, 4.0])
        indices, offsets = np.array(pixels), np.array([0, 2])
        peaks, starts = persistent_peaks(indices, offsets, values, values, width, 1.0, 0.0)
        assert len(peaks) == number
        assert peaks[0] == 0
        assert starts.tolist() == [0, number]


def test_sharpening_leaves_out_what_is_blank_or_outside():
    rng = np.random.default_rng(5)
    field = rng.normal(size=(30, 40)).astype(np.float32)
    field[rng.random(field.shape) < 0.2] = np.nan
    kernel, half = SHARPENING.kernel, SHARPENING.kernel.shape[0] // 2
    pixels = np.flatnonzero(np.isfinite(field))
    found = np.empty(pixels.size)
    sharpen(field, pixels, kernel, found)
    wide = np.pad(field.astype(float), half, constant_values=np.nan)
    for pixel, value in zip(pixels[::7], found[::7], strict=True):
        y, x = divmod(int(pixel), 40)
        around = wide[y : y + 2 * half + 1, x : x + 2 * half + 1]
        known = np.isfinite(around)
        mean = (kernel * np.where(known, around, 0.0)).sum() / kernel[known].sum()
        assert value == pytest.approx(field[y, x] - mean, abs=1e-6)
