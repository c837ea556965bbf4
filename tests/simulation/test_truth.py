"""The truth says what is in the image: fluxes, shapes, masks, classes."""

import dataclasses
import json

import numpy as np
import pytest
from sky_cases import from_elements, geometry, make_sky

from cyclades.pipeline.simulation import galaxies
from cyclades.pipeline.simulation.coco import decode, encode
from cyclades.pipeline.simulation.model import CLASSES, DISC
from cyclades.pipeline.simulation.objects import candidates, observe_objects
from cyclades.pipeline.simulation.observation import Artefacts
from cyclades.pipeline.simulation.render import drawn, render_sky
from cyclades.pipeline.simulation.truth import make_truth, read_truth
from cyclades.stages.characterization.gaussian import GaussianCharacterization
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.products import Background, Detections, Segments

RMS = 1e-4


def truth_of(sky, field, rms=RMS, artefacts=None):
    """Truth and noise-free image of a sky in uniform noise."""
    noise = np.full(field.shape, rms, np.float32)
    clean = np.zeros(field.shape, np.float32)
    chosen = candidates(sky, field.psf, noise)
    objects = observe_objects(sky, field.psf, drawn(sky, field.psf), noise, clean, chosen)
    image = field.image(clean)
    background = Background(np.zeros_like(noise), noise)
    truth = make_truth(objects, artefacts or Artefacts(), image, background, clean)
    return truth, image, background


def column(table, name):
    return np.asarray(table[name])


@pytest.fixture(scope="module")
def isolated():
    """Points and Gaussians on a lattice, far from each other."""
    generator = np.random.default_rng(5)
    field = geometry(600)
    y, x = (v.ravel() for v in np.mgrid[40:600:65, 40:600:65] + 0.0)
    n = len(x)
    x, y = x + generator.uniform(-0.5, 0.5, n), y + generator.uniform(-0.5, 0.5, n)
    shape = covariance_from_shape(
        generator.uniform(3, 9, n), generator.uniform(1, 3, n), generator.uniform(0, 180, n)
    )
    shape[::2] = 0.0
    sky = make_sky(
        x, y, generator.uniform(0.05, 0.2, n), (shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 1])
    )
    return sky, field, *truth_of(sky, field)


def test_columns_are_what_fits_of_the_noise_free_image_measure(isolated):
    sky, _, truth, image, background = isolated
    components = truth.catalogue.components
    x, y = column(components, "x"), column(components, "y")
    assert len(components) == len(sky)
    segments = truth.segments.take(column(components, "source_id") - 1)
    detections = Detections(
        shape=image.shape,
        box=truth.boxes[column(components, "source_id") - 1],
        score=np.ones(len(x)),
        parent=np.full(len(x), -1),
        segments=segments,
        summit=np.stack([x, y], -1),
    )
    fits = GaussianCharacterization().measure(image, background, detections, context=Context())
    order = np.argsort(fits.detection)
    np.testing.assert_allclose(fits.x[order], x, atol=2e-3)
    np.testing.assert_allclose(fits.y[order], y, atol=2e-3)
    np.testing.assert_allclose(fits.peak[order], column(components, "peak_flux"), rtol=2e-3)
    np.testing.assert_allclose(fits.total[order], column(components, "total_flux"), rtol=3e-3)


def test_the_classical_route_finds_the_columns_of_the_truth(isolated):
    from cyclades.pipeline.chain import Pipeline

    _, _, truth, image, _ = isolated
    noise = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    found = Pipeline.from_route("classical").run(image.replace(data=image.data + 1e-6 * noise))
    measured, true = found.catalogue.components, truth.catalogue.components
    dx = np.subtract.outer(column(true, "x"), column(measured, "x"))
    dy = np.subtract.outer(column(true, "y"), column(measured, "y"))
    nearest = np.hypot(dx, dy).argmin(1)
    assert np.hypot(dx, dy).min(1).max() < 0.05
    for name, tolerance in {"peak_flux": 5e-3, "total_flux": 1e-2, "major": 1e-2}.items():
        np.testing.assert_allclose(
            column(measured, name)[nearest], column(true, name), rtol=tolerance, err_msg=name
        )
    np.testing.assert_allclose(column(measured, "ra")[nearest], column(true, "ra"), atol=3e-5)


def test_sources_segments_boxes_and_classes_are_in_one_order(isolated):
    _, field, truth, _, _ = isolated
    sources = truth.catalogue.sources
    np.testing.assert_array_equal(column(sources, "source_id"), np.arange(len(truth)) + 1)
    np.testing.assert_array_equal(column(sources, "morphology"), truth.morphology)
    for row in range(len(truth)):
        pixel = round(float(sources["y"][row].value)) * field.shape[1]
        pixel += round(float(sources["x"][row].value))
        assert pixel in truth.segments[row]
        y, x = np.divmod(truth.segments[row], field.shape[1])
        np.testing.assert_array_equal(truth.boxes[row], [x.min(), y.min(), x.max(), y.max()])
    extended = column(sources, "deconvolved_major") > 0.1
    assert set(truth.morphology[~extended]) == {"compact"}
    assert "extended" in truth.morphology[extended]


def test_the_truth_has_no_errors(isolated):
    components = isolated[2].catalogue.components
    for name in ("ra_err", "peak_flux_err", "total_flux_err", "major_err"):
        assert not column(components, name).any(), name
    points = column(components, "object") % 2 == 0
    assert column(components, "resolved")[~points].all()
    assert not column(components, "resolved")[points].any()
    np.testing.assert_allclose(
        column(components, "snr"), column(components, "peak_flux") / RMS, rtol=1e-5
    )


def test_masks_are_the_pixels_above_the_rms():
    field = geometry(96)
    sky = make_sky([30.0, 60.0], [30.0, 62.0], [20 * RMS, 1.2 * RMS])
    truth, _, _ = truth_of(sky, field)
    number = column(truth.catalogue.components, "object")
    for k, threshold in enumerate((RMS, 0.6 * RMS)):
        row = int(column(truth.catalogue.components, "source_id")[number == k][0]) - 1
        one = make_sky(sky.x[k], sky.y[k], sky.flux[k])
        expected = np.flatnonzero(render_sky(one, field.psf, field.shape) > threshold)
        np.testing.assert_array_equal(np.sort(truth.segments[row]), expected)


def test_what_is_below_the_floor_is_left_out():
    truth, _, _ = truth_of(make_sky([30.0, 60.0], 30.0, [0.9 * RMS, 1.1 * RMS]), geometry(96))
    assert column(truth.catalogue.components, "object").tolist() == [1]


def test_faint_diffuse_emission_is_in_the_truth():
    generator = np.random.default_rng(3)
    elements = galaxies.diffuse(np.array([80.0]), generator)
    sky = from_elements(elements, 96.0, 96.0, 25 * RMS, "diffuse")
    truth, image, _ = truth_of(sky, geometry(192))
    assert truth.morphology.tolist() == ["diffuse"]
    assert image.data.max() < 2 * RMS
    assert len(truth.catalogue.components) == 1
    assert truth.catalogue.sources["total_flux"][0].value == pytest.approx(25 * RMS, rel=1e-5)
    assert truth.catalogue.sources["peak_flux"][0].value == pytest.approx(
        image.data.max(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("distance", "components", "name"),
    [(20.0, 2, "multi-component"), (4.0, 1, "extended"), (0.5, 1, "compact")],
)
def test_components_are_what_the_beam_separates(distance, components, name):
    multiple = [CLASSES.index("multi-component")]
    sky = make_sky(
        [60.0, 60.0 + distance], [60.0, 60.0], [30 * RMS, 20 * RMS], owner=[0, 0], classes=multiple
    )
    truth, _, _ = truth_of(sky, geometry(128))
    assert len(truth.catalogue.components) == components
    assert truth.morphology.tolist() == [name]
    source = truth.catalogue.sources[0]
    assert source["total_flux"].value == pytest.approx(50 * RMS, rel=1e-5)
    assert source["x"].value == pytest.approx(60 + 0.4 * distance, abs=1e-4)
    assert source["n_components"] == components


def test_what_the_noise_hides_does_not_separate():
    sky = make_sky([60.0, 72.0], 60.0, [1.9 * RMS, 1.9 * RMS], owner=[0, 0])
    assert len(truth_of(sky, geometry(128))[0].catalogue.components) == 1
    assert len(truth_of(sky, geometry(128), rms=RMS / 10)[0].catalogue.components) == 2


def test_a_saddle_on_the_way_does_not_join_two_peaks():
    # the third element lies in the saddle between the other two, without a peak of its own
    sky = make_sky([50.0, 56.0, 62.0], 60.0, [30 * RMS, 3 * RMS, 30 * RMS], owner=[0, 0, 0])
    truth, _, _ = truth_of(sky, geometry(128))
    assert len(truth.catalogue.components) == 2


def test_the_peak_of_a_disc_is_that_of_the_image():
    sky = make_sky(64.0, 64.0, 0.1, (40.0, 5.0, 25.0), kind=DISC)
    truth, image, _ = truth_of(sky, geometry(128))
    component = truth.catalogue.components[0]
    assert component["peak_flux"].value == pytest.approx(image.data[64, 64], rel=1e-4)
    assert component["total_flux"].value == pytest.approx(0.1, rel=1e-6)


def test_artefacts_are_spurious():
    field = geometry(96)
    pixels = np.array([20 * 96 + 70, 20 * 96 + 71, 21 * 96 + 70])
    artefacts = Artefacts(Segments.from_lists([pixels]), np.array([6 * RMS]))
    truth, _, _ = truth_of(make_sky(30.0, 60.0, 30 * RMS), field, artefacts=artefacts)
    assert sorted(truth.morphology) == ["compact", "spurious"]
    row = truth.morphology.tolist().index("spurious")
    np.testing.assert_array_equal(truth.segments[row], pixels)
    components = truth.catalogue.components
    mine = column(components, "source_id") == row + 1
    assert column(components, "object")[mine].tolist() == [-1]
    assert column(components, "snr")[mine] == pytest.approx(6.0, rel=1e-5)


def test_blank_pixels_hold_no_objects():
    field = geometry(96)
    sky = make_sky([30.0, 80.0], 48.0, 30 * RMS)
    noise = np.full(field.shape, RMS, np.float32)
    noise[:, 64:] = np.nan
    clean = np.zeros(field.shape, np.float32)
    objects = observe_objects(sky, field.psf, drawn(sky, field.psf), noise, clean, np.ones(2, bool))
    assert objects.number.tolist() == [0]


def test_an_empty_sky(tmp_path):
    truth, _, _ = truth_of(make_sky([], [], []), geometry(64))
    assert len(truth) == len(truth.catalogue) == 0
    truth.write(tmp_path / "empty")
    assert len(read_truth(tmp_path / "empty")) == 0


def test_round_trip(isolated, tmp_path):
    truth = isolated[2]
    files = truth.write(tmp_path / "field")
    assert [f.name for f in files] == ["field.truth.fits", "field.truth.coco.json"]
    for path in (*files, tmp_path / "field", tmp_path / "field.fits"):
        back = read_truth(path)
        assert back.catalogue == truth.catalogue
        assert back.shape == truth.shape
        np.testing.assert_array_equal(back.boxes, truth.boxes)
        np.testing.assert_array_equal(back.classes, truth.classes)
        for row in range(len(truth)):
            np.testing.assert_array_equal(back.segments[row], np.sort(truth.segments[row]))


def test_files_that_do_not_belong_together(isolated, tmp_path):
    truth = isolated[2]
    truth.write(tmp_path / "a")
    fewer = dataclasses.replace(
        truth, segments=truth.segments.take(np.arange(3)), boxes=truth.boxes[:3],
        classes=truth.classes[:3],
    )  # fmt: skip
    (tmp_path / "a.truth.coco.json").write_text(json.dumps(fewer.coco()))
    with pytest.raises(InputError, match="two files of one simulation"):
        read_truth(tmp_path / "a")
    (tmp_path / "a.truth.coco.json").write_text("{}")
    with pytest.raises(InputError, match="no COCO file"):
        read_truth(tmp_path / "a")
    with pytest.raises(InputError, match="no such file"):
        read_truth(tmp_path / "b")


def test_run_lengths_are_those_of_coco():
    generator = np.random.default_rng(6)
    for share in (0.0, 0.1, 0.6, 1.0):
        mask = generator.random((13, 9)) < share
        counts = encode(np.flatnonzero(mask), mask.shape)
        assert sum(counts) == mask.size
        flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
        np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), mask)
        np.testing.assert_array_equal(decode(counts, mask.shape), np.flatnonzero(mask))
    with pytest.raises(ValueError, match="do not fill"):
        decode([3, 4], (2, 2))


def test_other_readers_of_coco_see_the_same_masks(isolated):
    rle = pytest.importorskip("faster_coco_eval").mask
    truth = isolated[2]
    for row, annotation in enumerate(truth.coco()["annotations"][:10]):
        segmentation = annotation["segmentation"]
        mask = rle.decode(rle.frPyObjects(segmentation, *segmentation["size"]))
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(truth.segments[row]))
        x, y, width, height = annotation["bbox"]
        rows, columns = np.nonzero(mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
