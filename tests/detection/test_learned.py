"""Learned detection as a stage: seams, scales, blanks, runtimes, and the catalogue behind it."""

import numpy as np
import pytest
from requirements import require
from scipy import ndimage

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import CycladesError, InputError
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.detection.found import mask_segments
from cyclades.stages.networks.graphs import GraphDetector, has_graphs
from cyclades.stages.networks.inputs import Normalisation, normalise, stretch
from cyclades.stages.networks.specification import Calibration, NetworkSpec
from cyclades.stages.networks.tiles import Frame
from cyclades.stages.networks.weights import find_detector, shipped_detectors
from tests.skies import correlated_noise, sky_image, source_rows

pytest.importorskip("onnxruntime")

NETWORKS = [
    name
    for name, one in shipped_detectors().items()
    if has_graphs(one.path) and not one.spec.input.planes
]
every_network = pytest.mark.parametrize("name", NETWORKS)
SHAPE = (900, 1000)


@pytest.fixture(scope="module")
def field():
    """Bright points that no tile holds all of."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[30 : SHAPE[0] - 30 : 45, 30 : SHAPE[1] - 30 : 45]
    x, y = (v.ravel() + rng.uniform(-6, 6, x.size) for v in (x, y))
    rows = source_rows(10 ** rng.uniform(1.0, 2.0, x.size), x, y)
    image, background = sky_image(rows, SHAPE, correlated_noise(SHAPE, rng))
    return image, background, rows


def found(name, image, background, **parameters):
    with Context() as context:
        return create_stage("detection", name, **parameters).detect(
            image, background, context=context
        )


def centres(detections):
    return 0.5 * (detections.box[:, :2] + detections.box[:, 2:])


def nearest(first, second):
    """Distance of each place to the nearest of others."""
    return np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1)).min(1)


def test_networks_ship():
    assert {"yolo", "mask_rcnn"} <= set(NETWORKS)


@every_network
def test_bright_points_are_found_once(name, field):
    image, background, rows = field
    places = centres(found(name, image, background))
    assert np.mean(nearest(rows[:, 1:3], places) < 2.0) > 0.97
    # nothing is found twice at the seams of the tiles
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert apart[~np.eye(len(places), dtype=bool)].min() > 3.0
    assert len(places) < 1.03 * len(rows)


@every_network
def test_moving_the_grid_by_half_a_tile_keeps_sources_and_fluxes(name, field):
    image, _, _ = field
    route = Pipeline.from_route("classical").replace(detection=name, background="none")
    tables = []
    half = route.config.detection.tile // 2
    for origin in ((0, 0), (half, half)):
        moved = image.replace(origin=origin)
        table = route.run(moved, workers=1).catalogue.components
        x, y = (np.asarray(table[axis].value) for axis in ("x", "y"))
        place = np.stack([x - origin[1], y - origin[0]], -1)
        bright = np.asarray(table["snr"]) > 7.0
        tables.append((place[bright], np.asarray(table["peak_flux"], float)[bright]))
    (first, flux), (second, other) = tables
    apart = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    best = apart.argmin(1)
    same = (apart.min(1) < 1.0) & (np.abs(other[best] / flux - 1.0) < 0.01)
    assert same.mean() >= 0.995
    assert abs(len(first) - len(second)) <= 0.01 * len(first) + 1


@every_network
def test_batches_change_nothing(name, field):
    image, background, _ = field
    one, four = (found(name, image, background, batch=n) for n in (1, 4))
    assert len(one) == len(four)
    np.testing.assert_allclose(one.box, four.box, atol=1e-2)
    np.testing.assert_allclose(one.score, four.score, atol=1e-3)


@every_network
def test_blanks_are_no_sources_and_hide_none(name, field):
    image, background, rows = field
    data = image.data.copy()
    data[:, 400:460] = np.nan
    data[600:, 600:] = np.nan
    blanked = image.replace(data=data)
    places = centres(found(name, blanked, background))
    x, y = places.T.round().astype(int)
    assert np.isfinite(data[np.clip(y, 0, 899), np.clip(x, 0, 999)]).mean() > 0.97
    clear = np.isfinite(data[rows[:, 2].astype(int), rows[:, 1].astype(int)])
    edge = np.hypot(rows[:, 1] - np.clip(rows[:, 1], 390, 470), 0) > 15
    far = clear & edge & ~((rows[:, 1] > 580) & (rows[:, 2] > 580))
    assert np.mean(nearest(rows[far, 1:3], places) < 2.0) > 0.95


@every_network
def test_all_blank_or_tiny_images_hold_nothing(name):
    for shape in ((300, 300), (1, 1)):
        image, background = sky_image(np.zeros((0, 6)), shape)
        blank = image.replace(data=np.full(shape, np.nan, np.float32))
        assert len(found(name, blank, background)) == 0


@every_network
def test_images_with_other_beams_are_resampled(name):
    rng = np.random.default_rng(8)
    beam = np.diag([6.0, 6.0]) ** 2
    y, x = (v.ravel() for v in np.mgrid[60:740:90, 60:740:90])
    rows = source_rows(40.0, x, y, beam)
    noise = correlated_noise((800, 800), rng, beam)
    image, background = sky_image(rows, (800, 800), noise)
    image = image.replace(psf=type(image.psf)(beam))
    assert Frame.of(image, NetworkSpec()).scale == pytest.approx(5.25 / image.psf.size)
    places = centres(found(name, image, background))
    assert np.mean(nearest(rows[:, 1:3], places) < 4.0) > 0.95


@every_network
def test_wanted_reliability_sets_the_threshold(name, field):
    image, background, _ = field
    numbers = [
        len(found(name, image, background, reliability=share)) for share in (0.999, 0.9, 0.6)
    ]
    assert numbers == sorted(numbers)
    scores = found(name, image, background, reliability=0.95).score
    assert scores.mean() >= 0.95


@every_network
def test_torch_and_onnx_runtime_agree(name, field):
    require("learned")
    if name.startswith("yolo"):
        require("yolo")
    from cyclades.stages.networks.runtime import TorchDetector

    image, _, _ = field
    path = find_detector(name)
    graph, torch = GraphDetector(path), TorchDetector(path)
    shapes = [(512, 512)] if graph.size else [(512, 512), (64, 416), (320, 96)]
    for height, width in shapes:
        cut = normalise(image.data)[-height:, :width]
        channels = stretch(cut, graph.spec.input.stretches)[None]
        (a,), (b,) = graph.detect(channels), torch.detect(channels)
        assert len(a.boxes) == len(b.boxes) > height * width / 5000
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0.1)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
        assert (a.masks is None) == (b.masks is None)
        if a.masks is not None:
            np.testing.assert_allclose(a.masks, b.masks, atol=1e-3)


@every_network
def test_convolutions_of_the_graphs_can_be_joined_with_their_normalisation(name):
    """ONNX Runtime does so where nothing that is computed stands between them."""
    onnx = pytest.importorskip("onnx")
    for file in find_detector(name).parent.glob(f"{name}.*.onnx"):
        graph = onnx.load(file, load_external_data=False).graph
        given = {tensor.name for tensor in graph.initializer}
        computed = {output for node in graph.node for output in node.output}
        for node in graph.node:
            if node.op_type == "Conv":
                assert set(node.input[1:]) <= given
                assert not set(node.input[1:]) & computed


def test_yolo_takes_tiles_of_any_size_and_tells_how_far_it_is():
    assert GraphDetector(find_detector("yolo")).size is None
    image = simulate(FieldOptions.from_mapping({"size": 400}), 3).image
    told = []
    route = Pipeline.from_route("yolo").replace(detection={"name": "yolo", "tile": 256})
    route.run(image, workers=2, progress=told.append)
    shares = [int(t.split()[1]) for t in told if t.startswith("detection ")]
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert [t for t in told if not t.endswith("%")][2] == "detection"


DISC = (540, 470, 200)
"""Centre (x, y) and radius of a disc twice as wide as a tile shows whole, in pixels."""


@pytest.fixture(scope="module")
def disc():
    """A uniform disc of six times the rms with bright points on it and around it."""
    shape, rng = (1024, 1024), np.random.default_rng(12)
    places, peaks = rng.uniform(30, 990, (60, 2)), 10 ** rng.uniform(1.0, 2.0, 60)
    rows = source_rows(peaks, *places.T)
    image, background = sky_image(rows, shape, correlated_noise(shape, rng))
    y, x = np.mgrid[: shape[0], : shape[1]]
    # seen with the beam, so that its edge is no sharper
    radius = np.hypot(x - DISC[0], y - DISC[1])
    bright = 6.0 * ndimage.gaussian_filter((radius < DISC[2]).astype(float), 1.9)
    wide = image.replace(data=(image.data + bright).astype(np.float32))
    return image, wide, background, rows, bright


def within(boxes, x, y, radius):
    """Boxes longer than two beams, most of which lies in the square around a disc."""
    low = np.maximum(boxes[:, :2], [x - radius, y - radius])
    high = np.minimum(boxes[:, 2:], [x + radius, y + radius])
    sides = boxes[:, 2:] - boxes[:, :2]
    common = np.clip(high - low, 0, None).prod(1) / sides.prod(1)
    return (common > 0.5) & (sides.max(1) > 40)


@every_network
def test_a_disc_wider_than_a_tile_shows_is_one_object(name, disc):
    _, image, background, rows, _ = disc
    pieces, whole = (found(name, image, background, coarse=c) for c in ((), (4,)))
    x, y, radius = DISC
    # pieces, or nothing
    assert within(pieces.box, *DISC).sum() != 1
    (row,) = np.flatnonzero(within(whole.box, *DISC))
    np.testing.assert_allclose(
        whole.box[row], [x - radius, y - radius, x + radius, y + radius], atol=16
    )
    # all of its pixels are its own but those of the points on it, and two cells around
    inside = np.zeros(image.shape, bool)
    inside.ravel()[whole.segments[row]] = True
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    true = np.hypot(xx - x, yy - y) < radius
    assert (inside & true).sum() > 0.97 * true.sum()
    assert (inside & ~true).sum() < 0.1 * true.sum()
    # points keep their places, on the disc too
    first, second = (set(map(tuple, d.box[~within(d.box, *DISC)])) for d in (pieces, whole))
    assert first == second
    on = np.hypot(rows[:, 1] - x, rows[:, 2] - y) < radius - 10
    assert np.mean(nearest(rows[on, 1:3], centres(whole)) < 2.0) > 0.8


def test_a_disc_comes_out_as_one_source_with_its_flux(disc):
    _, image, _, _, bright = disc
    route = Pipeline.from_route("classical").replace(detection="yolo", background="none")
    result = route.run(image, workers=1)
    flux = np.asarray(result.catalogue.sources["total_flux"], float)
    true = bright.sum() / image.psf.area
    assert flux.max() == pytest.approx(true, rel=0.05)
    assert np.sort(flux)[-2] < 0.1 * true
    (note,) = result.provenance["notes"]["detection.coarse"]
    assert (note["factor"], note["block"], note["wide_objects"]) == (4, 4, 1)


@every_network
def test_looking_for_wide_objects_changes_nothing_where_there_are_none(name, disc, field):
    for image, background in ((disc[0], disc[2]), field[:2]):
        plain, looked = (found(name, image, background, coarse=c) for c in ((), (4, 16)))
        np.testing.assert_array_equal(plain.box, looked.box)
        np.testing.assert_array_equal(plain.score, looked.score)
        assert (plain.segments is None) == (looked.segments is None)


def test_a_wide_object_does_not_depend_on_the_phase_of_tiles_and_blocks(disc):
    _, image, background, _, bright = disc
    x, y, radius = DISC
    sizes = []
    for origin in ((0, 0), (512, 512), (203, 1002)):
        detections = found("yolo", image.replace(origin=origin), background)
        (row,) = np.flatnonzero(within(detections.box, *DISC))
        inside = np.zeros(image.shape, bool)
        inside.ravel()[detections.segments[row]] = True
        sizes.append((inside & (bright > 3)).sum() / (bright > 3).sum())
        np.testing.assert_allclose(
            detections.box[row], [x - radius, y - radius, x + radius, y + radius], atol=16
        )
    assert min(sizes) > 0.97
    assert np.ptp(sizes) < 0.02


def test_small_images_are_not_looked_at_again():
    noise = correlated_noise((150, 150), np.random.default_rng(1))
    image, background = sky_image(np.zeros((0, 6)), (150, 150), noise)
    with Context() as context:
        create_stage("detection", "yolo").detect(image, background, context=context)
        assert [note["block"] for note in context.notes["detection.coarse"]] == [0]


def test_factors_shrink_ever_more():
    for wrong in ((1,), (4, 4), (8, 4)):
        with pytest.raises(ValueError, match=r"each larger than the one before"):
            create_stage("detection", "yolo", coarse=wrong)


def test_the_catalogue_keeps_its_columns_and_gets_classes_and_scores():
    options = FieldOptions.from_mapping({"size": 400})
    image = simulate(options, 3).image
    classical = Pipeline.from_route("classical").run(image, workers=1).catalogue
    learned = Pipeline.from_route("yolo").run(image, workers=1).catalogue
    for table in ("components", "sources", "islands"):
        assert getattr(classical, table).colnames == getattr(learned, table).colnames
    components = learned.components
    assert len(components)
    assert set(components["morphology"]) <= {"compact", "extended", "multi-component", "diffuse"}
    assert ((components["detection_score"] >= 0.4) & (components["detection_score"] <= 1)).all()
    assert set(components["detected_by"]) == {"yolo"}


def test_the_background_stage_does_not_matter_to_the_network(field):
    image, background, _ = field
    other = Background(background.level + 3, background.rms * 2)
    first, second = (found("yolo", image, b) for b in (background, other))
    np.testing.assert_array_equal(first.box, second.box)


def test_masks_become_pixels():
    data = np.zeros((40, 40), np.float32)
    data[10, 12] = np.nan
    y, x = np.mgrid[:28, :28] - 13.5
    disc = np.exp(-((x**2 + y**2) / 14.0**2) * np.log(2)).astype(np.float32)[None]
    segments = mask_segments(np.array([[5.0, 5.0, 25.0, 25.0]]), disc, data)
    yy, xx = np.divmod(segments[0], 40)
    assert np.hypot(xx - 14.5, yy - 14.5).max() <= 10.0
    # half maximum at a radius of half the box: the inscribed disc, less the blank pixel
    assert len(segments[0]) == pytest.approx(np.pi * 100, rel=0.05)
    assert 10 * 40 + 12 not in segments[0]
    nothing = mask_segments(np.array([[5.0, 5.0, 9.0, 9.0]]), np.zeros((1, 28, 28), "f4"), data)
    assert len(nothing[0]) == 1


def test_normalisation_does_not_depend_on_the_cut():
    rng = np.random.default_rng(1)
    image = (rng.normal(size=(700, 900)) * 3e-5 + 2e-4).astype(np.float32)
    image[100:150] = np.nan
    whole = normalise(image)
    assert whole[np.isfinite(image)].std() == pytest.approx(1.0, abs=0.02)
    assert (whole[100:150] == 0).all()
    mesh = Normalisation.measure(image)
    cut = mesh.apply(image[130:400, 77:600], 130, 77)
    np.testing.assert_array_equal(cut, whole[130:400, 77:600])
    window = Normalisation.measure(image[256:, 128:], 128, (256, 128)).apply(image[256:, 128:])
    np.testing.assert_allclose(window[200:, 200:], whole[456:, 328:], atol=1e-6)


def test_units_do_not_matter_to_the_normalisation():
    image = np.random.default_rng(2).normal(size=(256, 256)).astype(np.float32)
    np.testing.assert_allclose(normalise(image * 1e-6 + 1.0), normalise(image * 1e-6), atol=0.2)
    np.testing.assert_allclose(normalise(image * 1e-4), normalise(image), rtol=1e-4, atol=1e-4)
    assert not normalise(np.full((64, 64), 3.0)).any()


def test_wrong_weights_are_refused_in_a_sentence(tmp_path, field):
    image, background, _ = field
    with pytest.raises(CycladesError, match="there is no such file of weights"):
        found("yolo", image, background, weights="nosuch")
    with pytest.raises(InputError, match=r"use them with --set detection=yolo"):
        found("mask_rcnn", image, background, weights="yolo")
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(CycladesError, match="safetensors"):
        found("yolo", image, background, weights=str(pickled))


def test_a_damaged_graph_is_refused(tmp_path):
    source = find_detector("yolo")
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes())
    with pytest.raises(InputError, match="graphs are missing"):
        GraphDetector(copy)
    graph = source.with_name("yolo.dense.onnx").read_bytes()
    (tmp_path / "yolo.dense.onnx").write_bytes(graph[: len(graph) // 2])
    with pytest.raises(InputError, match="export it anew"):
        GraphDetector(copy)


def test_a_calibration_rises():
    with pytest.raises(ValueError, match="rises"):
        Calibration(score_logit=(0.0, 1.0), probability_logit=(1.0, 0.0))
