"""Streams of tiles: the same whoever makes them, with truth that fits the pixels."""

from itertools import islice

import numpy as np
import pytest

from cyclades.pipeline.simulation.field import FieldOptions, make_field
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.simulation.stream import TRAINING, TileStream, cut_segments, measure_rate
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.products import Segments


def same(one, other):
    for name in ("image", "rms", "level", "boxes", "classes", "inside", "snr", "total_snr"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.segments.indices, other.segments.indices)
    np.testing.assert_array_equal(one.segments.offsets, other.segments.offsets)
    assert one.index == other.index


@pytest.fixture(scope="module")
def stream():
    return TileStream(size=96, seed=5, tiles_a_side=3)


def test_tiles_do_not_depend_on_who_makes_them(stream):
    alone = list(islice(stream, 36))
    assert [tile.index for tile in alone] == list(range(36))
    again = TileStream(size=96, seed=5, tiles_a_side=3)
    shared = [tile for worker in range(2) for tile in islice(again.shard(worker, 2), 18)]
    for tile in shared:
        same(tile, alone[tile.index])
    same(again.tile(23), alone[23])


def test_another_seed_gives_other_tiles(stream):
    other = TileStream(size=96, seed=6, tiles_a_side=3).tile(0)
    assert not np.array_equal(other.image, stream.tile(0).image)


def test_truth_fits_the_pixels(stream):
    for tile in stream.field(1):
        assert tile.image.shape == tile.rms.shape == (96, 96)
        assert tile.image.dtype == np.float32
        assert tile.image.flags.c_contiguous
        assert len(tile.boxes) == len(tile.classes) == len(tile.segments) == len(tile.inside)
        for row in range(len(tile.boxes)):
            y, x = np.divmod(tile.segments[row], 96)
            np.testing.assert_array_equal(tile.boxes[row], [x.min(), y.min(), x.max(), y.max()])
        assert np.all((tile.inside > 0) & (tile.inside <= 1))
        bright = (tile.snr > 12) & (tile.inside == 1)
        peaks = [
            (tile.image - tile.level).ravel()[tile.segments[row]].max()
            / tile.rms.ravel()[tile.segments[row]].max()
            for row in np.flatnonzero(bright)
        ]
        assert np.all(np.array(peaks) > 0.6 * tile.snr[bright])


def test_tiles_make_up_their_field():
    stream = TileStream(size=64, seed=2, tiles_a_side=2)
    tiles = stream.field(3)
    options = stream.options[0]
    seed = np.random.SeedSequence(2, spawn_key=(3,))
    whole = make_field(options, options.geometry(), seed)
    rows = [np.hstack([t.image for t in tiles[k : k + 2]]) for k in (0, 2)]
    np.testing.assert_array_equal(np.vstack(rows), whole.observation.data)
    pixels = sum(len(t.segments.indices) for t in tiles)
    assert pixels == len(whole.objects.segments.indices)


def test_noise_does_not_repeat():
    quiet = TRAINING.sky.model_copy(update={"counts": TRAINING.sky.counts.model_copy(
        update={"brightest": 2e-5})})  # fmt: skip
    plain = PlainOptions(rms_ratio=1.0, level=0.0)
    stream = TileStream(FieldOptions(sky=quiet, plain=plain), size=64, seed=1)
    tiles = [t for number in range(3) for t in stream.field(number)]
    noise = np.stack([t.image / t.rms for t in tiles]).astype(float)
    noise -= noise.mean((1, 2), keepdims=True)
    transform = np.fft.fft2(noise)
    independent = 64 * 64 / (2 * stream.options[0].geometry().beam_area)
    # the largest correlation at any shift between tiles that are not neighbours
    largest = 0.0
    for i in range(0, len(tiles), 5):
        for j in range(i + 6, len(tiles), 7):
            products = np.fft.ifft2(transform[i] * transform[j].conj()).real
            largest = max(
                largest, np.abs(products).max() / (noise[i].std() * noise[j].std()) / 4096
            )
    assert largest < 6 / np.sqrt(independent)
    assert largest < 0.6


def test_several_options_take_turns():
    options = [FieldOptions(plain=PlainOptions(rms=value)) for value in (1e-5, 1e-3)]
    stream = TileStream(options, size=64, seed=1, tiles_a_side=1)
    rms = [tile.rms.min() for tile in islice(stream, 4)]
    np.testing.assert_allclose(rms, [1e-5, 1e-3, 1e-5, 1e-3], rtol=1.0)


def test_the_training_mix_has_every_class_of_the_sky():
    seen = np.zeros(len(CLASSES), int)
    for number in range(3):
        for tile in TileStream(seed=4).field(number):
            seen += np.bincount(tile.classes[tile.total_snr >= 5], minlength=len(CLASSES))
    for name in ("compact", "extended", "multi-component", "diffuse"):
        assert seen[CLASSES.index(name)] > 5, name


def test_segments_are_cut_by_hand():
    segments = Segments.from_lists([np.array([0, 1, 2, 3, 4]), np.array([35]), np.array([8, 9])])
    cuts = cut_segments(segments, 6, 3, 2)
    rows = [cut[0].tolist() for cut in cuts]
    pixels = [[cut[1][k].tolist() for k in range(len(cut[1]))] for cut in cuts]
    assert rows == [[0, 2], [0, 2], [], [1]]
    assert pixels == [[[0, 1, 2], [5]], [[0, 1], [3]], [], [[8]]]
    none = cut_segments(Segments.from_lists([]), 6, 3, 2)
    assert [len(rows) for rows, _ in none] == [0, 0, 0, 0]


def test_senseless_streams_are_refused():
    with pytest.raises(ConfigurationError, match="needs options"):
        TileStream([])
    with pytest.raises(ConfigurationError, match="no worker 2 among 2"):
        next(TileStream().shard(2, 2))


@pytest.mark.slow
def test_rate():
    assert measure_rate(2, seconds=3.0) > 100
