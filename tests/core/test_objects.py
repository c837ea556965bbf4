"""Objects of box and mask detectors become islands, components and sources."""

import numpy as np
from scipy import ndimage

from cyclades.pipeline.chain import Pipeline, Result
from cyclades.pipeline.comparison.instances import found_objects
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.core.context import Context
from cyclades.stages.core.objects import (
    CENTRAL,
    SEED_RATIO,
    drop_repeated,
    flood_objects,
    join_touching,
    share_pixels,
)
from cyclades.stages.core.products import Detections, Segments
from cyclades.stages.core.segments import complete_detections
from tests.skies import correlated_noise, sky_image, source_rows

SHAPE = (160, 160)


def boxes(places, kinds=None, half=7):
    x, y = np.array(places, float).T
    box = np.stack([x - half, y - half, x + half, y + half], -1)
    n = len(box)
    classes = ("compact", "extended")
    return Detections(
        SHAPE, box, np.linspace(0.6, 0.9, n), np.full(n, -1),
        class_probabilities=None if kinds is None else np.eye(2)[kinds], classes=classes,
    )  # fmt: skip


def complete(rows, detections, seed=3):
    image, background = sky_image(rows, SHAPE, correlated_noise(SHAPE, np.random.default_rng(seed)))
    return image, background, complete_detections(image, background, detections, context=Context())


def test_objects_that_touch_are_one_island_and_two_sources():
    rows = source_rows([60.0, 50.0], [70, 78], [80, 80])
    image, background, found = complete(rows, boxes(rows[:, 1:3]))
    assert found.parent.tolist() == [-1, 0, 0]
    leaves = found.leaves
    assert len(set(found.source[leaves].tolist())) == 2
    np.testing.assert_allclose(found.summit[leaves], rows[:, 1:3], atol=1.0)
    route = Pipeline.from_route("classical").replace(background="none")
    with Context() as context:
        measured = route.config.characterization.measure(image, background, found, context=context)
        (builder,) = route.config.cataloguing
        catalogue = builder.build(image, background, found, measured, context=context)
    assert (len(catalogue.islands), len(catalogue.sources)) == (1, 2)
    # fitted together: the flank of the neighbour is not in the flux
    np.testing.assert_allclose(np.sort(measured.peak), [50, 60], rtol=0.06)


def test_instances_of_one_island_are_judged_apart_with_their_own_boxes():
    rows = source_rows([60.0, 50.0], [70, 78], [80, 80])
    given = boxes(rows[:, 1:3], [0, 0])
    image, background, found = complete(rows, given)
    config = RouteConfig.from_route("classical")
    objects = found_objects(Result(config, {}, image, background, found))
    assert len(objects) == 2
    order = np.argsort(objects.boxes[:, 0])
    outer = given.box + np.array([-0.5, -0.5, 0.5, 0.5])
    np.testing.assert_allclose(objects.boxes[order], outer)
    assert objects.masks is not None
    assert len(np.intersect1d(objects.masks[0], objects.masks[1])) == 0


def test_parts_that_lie_apart_are_one_source():
    rows = source_rows([40.0, 30.0], [60, 85], [80, 80])
    one = Detections(
        SHAPE, np.array([[50.0, 70, 95, 90]]), np.array([0.8]), np.array([-1]),
        class_probabilities=np.array([[0.0, 1.0]]), classes=("compact", "extended"),
    )  # fmt: skip
    _, _, found = complete(rows, one)
    assert len(found.islands) == 1
    assert len(found.leaves) == 2
    assert set(found.source[found.leaves].tolist()) == {0}


def test_a_compact_box_leaves_its_neighbour_alone():
    rows = source_rows([8.0, 90.0], [60, 69], [80, 87])
    significance = sky_image(rows, SHAPE)[0].data
    box = np.array([[52.0, 72, 68, 88]])
    faint = flood_objects(significance, box, 2.5, np.array([True]))[0]
    y, x = np.divmod(faint, SHAPE[1])
    assert (80, 60) in set(zip(y.tolist(), x.tolist(), strict=True))


def test_a_box_over_several_sources_is_no_second_box_of_the_brightest():
    rows = source_rows([60.0, 20.0, 15.0], [40, 60, 66], [40, 58, 76])
    box = np.array([[34, 34, 46, 46], [34, 34, 74, 84], [33, 33, 47, 47]], float)
    given = boxes(rows[:, 1:3], [0, 1, 0]).replace(box=box, score=np.array([0.9, 0.6, 0.5]))
    found = complete(rows, given)[2]
    leaves = found.leaves
    order = np.argsort(found.summit[leaves][:, 0])
    np.testing.assert_allclose(found.summit[leaves][order], rows[:, 1:3], atol=1.0)
    # the wide box has the two others, and the compact one is there once
    assert found.score[leaves][order].tolist() == [0.9, 0.6, 0.6]


def test_what_repeats_a_better_object_goes():
    image, background = sky_image(source_rows([60.0], [40], [40]), SHAPE)
    significance = image.data / background.rms
    # wider boxes see more of the one source's flank, and no peak of their own
    near = np.array([[37, 37, 43, 43], [33, 33, 47, 47], [20, 20, 60, 60]], float)
    compact = np.zeros(3, bool)
    claimed = flood_objects(significance, near, 2.5, compact)
    for score, best in (([0.9, 0.8, 0.7], 0), ([0.5, 0.8, 0.9], 2)):
        assert drop_repeated(claimed, significance, np.array(score), 2.5).tolist() == [best]
    # a fainter peak in less than half of the pixels is not enough
    data = significance.copy()
    data[46, 46] = 5.0
    claimed = flood_objects(data, near[[1, 2]], 2.5, compact[:2])
    assert drop_repeated(claimed, data, np.array([0.9, 0.8]), 2.5).tolist() == [0]


def test_shared_pixels_go_to_the_nearest():
    first, second = np.arange(0, 12), np.arange(8, 20)
    values = np.zeros((1, 20), np.float32)
    values[0, [2, 17]] = 10
    shared = share_pixels(Segments.from_lists([first, second]), values)
    assert shared[0].tolist() == list(range(10))
    assert shared[1].tolist() == list(range(10, 20))


def test_touching_includes_corners_and_chains():
    shape = (10, 10)
    parts = [[0, 1], [12], [23], [55], [57]]
    islands = join_touching(Segments.from_lists([np.array(p) for p in parts]), shape)
    assert islands.tolist() == [0, 0, 0, 1, 2]


def test_no_detections_stay_none():
    image, background = sky_image(np.zeros((0, 6)), SHAPE)
    none = Detections(SHAPE, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    found = complete_detections(image, background, none, context=Context())
    assert len(found) == 0
    assert found.complete


def labelled_pixels(significance, box, flood, single, allowed):
    """What `flood_objects` finds in one box, by labels of the whole image."""
    ny, nx = significance.shape
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:ny, :nx]
    inside = (x >= round(x0)) & (x <= round(x1)) & (y >= round(y0)) & (y <= round(y1))
    cut = np.where(inside & allowed, significance, np.nan)
    if np.isnan(cut).all():
        return np.zeros(0, int)
    across = (2 * x - x0 - x1) / max(x1 - x0, 1.0)
    along = (2 * y - y0 - y1) / max(y1 - y0, 1.0)
    central = np.where(across**2 + along**2 <= CENTRAL**2, cut, np.nan)
    summit = np.nanargmax(cut if np.isnan(central).all() else central)
    labels, number = ndimage.label(cut > flood, np.ones((3, 3)))
    chosen = (labels == labels.flat[summit]) & (labels > 0)
    for label in () if single else range(1, number + 1):
        if cut[labels == label].max() >= SEED_RATIO * flood:
            chosen |= labels == label
    chosen.flat[summit] = True
    return np.flatnonzero(chosen)


def test_flooding_agrees_with_labels():
    rng = np.random.default_rng(3)
    plane = ndimage.gaussian_filter(rng.normal(size=(60, 70)), 1.2).astype("f4") * 5
    plane[20:30, 10:30] = np.nan
    plane[rng.random(plane.shape) < 0.02] = np.nan
    n = 250
    centre, half = rng.uniform(0, [69, 59], (n, 2)), rng.uniform(0, 12, (n, 2))
    box = np.concatenate([centre - half, centre + half], 1)
    box[::5] = np.round(2 * box[::5]) / 2  # edges half way between pixels
    compact = rng.random(n) < 0.5
    masks = [np.flatnonzero(rng.random(plane.size) < 0.7) for _ in range(n)]
    everywhere = np.ones(plane.shape, bool)
    for given in (None, Segments.from_lists(masks)):
        found = flood_objects(plane, box, 1.0, compact, given)
        assert 0 < (found.lengths == 0).sum() < n / 4
        for row in range(n):
            allowed = everywhere
            if given is not None:
                allowed = np.zeros(plane.shape, bool)
                allowed.flat[masks[row]] = True
            wanted = labelled_pixels(plane, box[row], 1.0, compact[row], allowed)
            np.testing.assert_array_equal(found[row], wanted)
