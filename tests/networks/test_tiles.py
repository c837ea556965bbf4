"""Tiles: geometry, shapes, batches, threads and progress, with a network made of numpy."""

import numpy as np
import pytest

from cyclades.stages.networks.inputs import Normalisation
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.tiles import BATCH_TILE, STRIDE, Frame, find_objects, halo_of


def frame_of(shape, origin=(0, 0), scale=1.0, seed=1):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Frame(image, origin, scale, Normalisation.measure(image, 128, origin))


class Brightest:
    """Finds the pixels above 4 that are the highest within two, as boxes of one pixel."""

    def __init__(self, size=None, callers=1):
        self.spec, self.size, self.whole = NetworkSpec(), size, size is not None
        self.stride, self.callers = STRIDE, callers
        self.worth_preparing, self.prepared = None, None
        self.shapes = []

    def prepare(self, shape):
        self.prepared = shape

    def detect(self, channels):
        self.shapes.append(channels.shape)
        found = []
        for asinh in channels[:, 0]:
            plane = np.sinh(2.0 * asinh)
            y, x = np.nonzero(plane > 4.0)
            boxes = np.stack([x, y, x + 1, y + 1], -1).astype(np.float32)
            scores = np.repeat(plane[y, x, None], len(self.spec.classes), 1)
            found.append(Found(boxes, scores.astype(np.float32), None))
        return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("origin", [(0, 0), (512, 256), (70, 1000)])
@pytest.mark.parametrize("scale", [1.0, 0.6, 1.7])
def test_tiles_own_every_pixel_once_and_keep_to_the_grid(origin, scale, whole):
    frame = frame_of((700, 900), origin, scale)
    tiles = frame.tiles(512, whole=whole)
    y0, y1, x0, x1 = frame.extent
    owned = np.zeros((y1 - y0, x1 - x0), int)
    for core, padded in tiles:
        inside = core.intersect(frame.extent).shift(-y0, -x0)
        owned[inside.slices] += 1
        assert padded.y0 % STRIDE == padded.x0 % STRIDE == 0
        assert all(side % STRIDE == 0 and 2 * STRIDE <= side <= 512 for side in padded.shape)
        assert padded.shape == (512, 512) or not whole
        # nothing of the image within the halo is left out
        seen = core.grow(halo_of(512)).intersect(frame.extent)
        assert padded.intersect(seen) == seen
        assert core.y0 % (512 - 2 * halo_of(512)) == core.x0 % (512 - 2 * halo_of(512)) == 0
    assert (owned == 1).all()


def test_small_images_cost_what_they_hold():
    (tile,) = frame_of((300, 310)).tiles(1024)
    assert tile.padded.shape == (320, 320)
    (tile,) = frame_of((1, 1)).tiles(1024)
    assert tile.padded.shape == (64, 64)
    large = frame_of((64, 64))._replace(image=np.broadcast_to(np.float32(0.0), (4096, 4096)))
    area = sum(t.padded.shape[0] * t.padded.shape[1] for t in large.tiles(1024))
    assert area < 1.45 * 4096**2


@pytest.mark.parametrize(("size", "callers"), [(None, 1), (None, 3), (512, 2)])
def test_what_is_found_depends_neither_on_tiles_nor_on_threads(size, callers):
    frame = frame_of((1100, 900))
    plane = frame.normalisation.apply(frame.image)
    y, x = np.nonzero(plane > 4.0)
    wanted = set(zip(x.tolist(), y.tolist(), strict=True))
    assert len(wanted) > 20
    shares = []
    network = Brightest(size, callers)
    found = find_objects(frame, network, 320, 4, shares.append)
    places = [tuple(box) for box in found.boxes[:, :2].astype(int).tolist()]
    assert set(places) == wanted
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(b * h * w <= 4 * BATCH_TILE**2 for b, _, h, w in network.shapes)
    again = find_objects(frame, Brightest(size, 1), 320, 4)
    np.testing.assert_array_equal(found.boxes, again.boxes)


def test_blank_tiles_are_not_looked_at():
    frame = frame_of((600, 1200))
    frame.image[:, 500:] = np.nan
    frame = frame._replace(normalisation=Normalisation.measure(frame.image))
    network = Brightest()
    find_objects(frame, network, 320, 1)
    looked = sum(b * h * w for b, _, h, w in network.shapes)
    assert looked < 0.8 * sum(np.prod(t.padded.shape) for t in frame.tiles(320))
    frame.image[:] = np.nan
    shares = []
    assert not len(find_objects(frame, Brightest(), 320, 1, shares.append).boxes)
    assert shares[-1] == 1.0


def test_errors_of_a_network_reach_the_caller():
    network = Brightest(callers=2)
    network.detect = lambda channels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        find_objects(frame_of((900, 900)), network, 320, 1)


def test_many_tiles_are_of_one_size_for_a_network_that_is_prepared():
    frame = frame_of((700, 900))
    plain, prepared, few = Brightest(), Brightest(), Brightest()
    prepared.worth_preparing, few.worth_preparing = 10, 1000
    found = [find_objects(frame, network, 320, 4) for network in (plain, prepared, few)]
    assert (plain.prepared, prepared.prepared, few.prepared) == (None, (320, 320), None)
    assert {shape[2:] for shape in prepared.shapes} == {(320, 320)}
    assert {shape[2:] for shape in few.shapes} == {shape[2:] for shape in plain.shapes}
    places = [set(map(tuple, one.boxes.tolist())) for one in found]
    assert places[0] == places[1] == places[2]
