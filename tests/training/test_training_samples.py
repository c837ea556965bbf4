"""Sources of samples: the same whoever asks, labels that fit the pixels, regions without labels."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from pydantic import TypeAdapter

from cyclades.pipeline.simulation.coco import encode
from cyclades.pipeline.simulation.field import FieldOptions
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.labelled import find_images
from cyclades.pipeline.training.samples import (
    MIN_BOX,
    carry_segments,
    class_numbers,
    detectability,
    grown_boxes,
    pixel_boxes,
)
from cyclades.pipeline.training.simulated import SimulatedOptions, SimulatedSource, presets
from cyclades.pipeline.training.sources import (
    ROUND,
    DataOptions,
    MixtureSource,
    build_source,
    reseeded,
)
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.products import Segments
from cyclades.stages.core.tiling import full_box

SIZE = 64
PIXEL = 2.0 / 3600.0


def same(one, other):
    for name in ("image", "boxes", "classes", "ignore", "rms", "snr", "beam", "unlabelled"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is None or theirs is None:
            assert mine is theirs
        else:
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
    if one.segments is not None:
        np.testing.assert_array_equal(one.segments.indices, other.segments.indices)
        np.testing.assert_array_equal(one.segments.offsets, other.segments.offsets)


def simulated(seed=1, preset="natural", **options):
    return SimulatedSource(SimulatedOptions(preset=preset, seed=seed, **options), SIZE, CLASSES)


def test_a_sample_does_not_depend_on_what_was_asked_for_before():
    straight = [simulated().sample(i) for i in range(10)]
    source = simulated()
    for index in (7, 2, 9, 0, 3):
        same(source.sample(index), straight[index])
    shared = zip(simulated().shard(1, 3, start=2), (3, 6, 9), strict=False)
    for sample, index in shared:
        same(sample, straight[index])
    assert not np.array_equal(simulated(seed=2).sample(0).image, straight[0].image)


def test_simulated_labels_fit_the_pixels():
    source = simulated(floor=5.0)
    bright = 0
    for index in range(24):
        sample = source.sample(index)
        assert sample.image.shape == sample.rms.shape == (SIZE, SIZE)
        assert sample.boxes.dtype == np.float32
        for row in range(len(sample)):
            y, x = np.divmod(sample.segments[row], SIZE)
            x0, y0, x1, y1 = sample.boxes[row]
            assert x0 <= x.min()
            assert x1 >= x.max() + 1
            assert y0 <= y.min()
            assert y1 >= y.max() + 1
        assert sample.boxes.min(initial=0) >= 0
        assert sample.boxes.max(initial=0) <= SIZE
        assert sample.ignore[sample.snr < 5.0].all()
        # objects that count stand out of the noise where their pixels are
        for row in np.flatnonzero(~sample.ignore & (sample.snr > 10)):
            pixels = sample.segments[row]
            assert (sample.image / sample.rms).ravel()[pixels].max() > 4.0
            bright += 1
    assert bright > 5


def test_objects_that_are_cut_by_more_than_half_or_blended_are_ignored():
    source = simulated(floor=0.0)
    cut = blended = 0
    for number in range(6):
        for tile in source.stream.field(number):
            sample = source.sample(tile.index)
            np.testing.assert_array_equal(sample.ignore, (tile.inside < 0.5) | tile.blended)
            cut += int(np.sum(tile.inside < 0.5))
            blended += int(np.sum(tile.blended))
    assert cut > 0
    assert blended > 0


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_have_beams_that_a_network_takes(name):
    for options in presets()[name][:6]:
        size = options.model_copy(update={"size": 256}).geometry().psf.size
        assert 3.4 < size < 8.1


def test_detectability_scales_with_the_noise_and_asks_for_some_surface():
    peak = np.array([4.0, 4.0, 3.9, 2.6, 2.4, 5.0])
    total = np.array([9.0, 7.0, 14.0, 16.0, 90.0, 5.5])
    compact = np.array([True, False, False, False, False, True])
    snr = detectability(peak, total, compact)
    np.testing.assert_array_equal(snr >= 5.0, [False, True, False, True, False, True])
    np.testing.assert_allclose(detectability(peak / 3, total / 3, compact), snr / 3)


def test_small_boxes_grow_about_their_centre_and_stay_in_the_image():
    segments = Segments.from_lists([np.array([30 * SIZE + 20]), np.array([0, 1])])
    boxes = pixel_boxes(segments, (SIZE, SIZE))
    np.testing.assert_allclose(boxes[0], [17.5, 27.5, 23.5, 33.5])
    np.testing.assert_allclose(boxes[1], [0, 0, 4, 3.5])
    large = np.array([[3.0, 4.0, 30.0, 25.0]])
    np.testing.assert_array_equal(grown_boxes(large, (SIZE, SIZE)), large)
    assert MIN_BOX == 6


def test_segments_follow_pixels_that_are_shown_never_once_or_twice():
    segments = Segments.from_lists([np.array([0, 2]), np.array([2]), np.array([1])])
    carried = carry_segments(segments, np.array([2, -1, 0, 2]), 3)
    assert [carried[row].tolist() for row in range(3)] == [[0, 2, 3], [0, 3], []]


def test_classes_are_found_by_name():
    np.testing.assert_array_equal(class_numbers(CLASSES, CLASSES), range(5))
    np.testing.assert_array_equal(class_numbers(CLASSES, ("source",)), [0, 0, 0, 0, -1])
    two = class_numbers(("radio", "ghost"), CLASSES, {"radio": "extended", "ghost": ""})
    np.testing.assert_array_equal(two, [1, -1])
    with pytest.raises(ConfigurationError, match="no class 'radio'"):
        class_numbers(("radio",), CLASSES)
    with pytest.raises(ConfigurationError, match="did you mean 'compact'"):
        class_numbers(("radio",), CLASSES, {"radio": "compct"})


def test_a_mixture_takes_every_sample_of_its_sources_once_and_by_share():
    first, second = simulated(seed=1), simulated(seed=2)
    mixture = MixtureSource([first, second], [3.0, 1.0])
    chosen = [mixture.choose(index) for index in range(2 * ROUND)]
    for who, share in ((0, 0.75), (1, 0.25)):
        numbers = [number for source, number in chosen if source == who]
        assert numbers == list(range(round(share * 2 * ROUND)))
    # any eight samples in a row hold the share, within one
    who = np.array([source for source, _ in chosen])
    sums = np.convolve(who, np.ones(8), "valid")
    assert sums.min() >= 1
    assert sums.max() <= 3
    index = next(i for i, (source, _) in enumerate(chosen) if source == 1)
    same(mixture.sample(index), second.sample(0))


def test_unknown_presets_and_options_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'mixed'"):
        SimulatedOptions.from_mapping({"preset": "mixd"})
    with pytest.raises(ConfigurationError, match="no such option"):
        SimulatedOptions.from_mapping({"colour": 1})


def test_own_fields_can_be_given_and_seeds_changed():
    options = SimulatedOptions.from_mapping(
        {"preset": "mine", "fields": {"mine": [{"plain": {"beam_major": 9.0}}]}, "tiles_a_side": 1}
    )
    assert options.fields["mine"][0] == FieldOptions.from_mapping({"plain": {"beam_major": 9.0}})
    sample = build_source(options, SIZE).sample(3)
    other = build_source(reseeded(options, 10), SIZE).sample(3)
    assert not np.array_equal(sample.image, other.image)


# images on disk


def write_image(path, data, beam=4.0):
    header = WCS(naxis=2).to_header()
    ny, nx = data.shape
    header.update(
        CTYPE1="RA---SIN", CTYPE2="DEC--SIN", CUNIT1="deg", CUNIT2="deg", CRVAL1=30.0, CRVAL2=-20.0,
        CRPIX1=nx / 2, CRPIX2=ny / 2, CDELT1=-PIXEL, CDELT2=PIXEL, BUNIT="Jy/beam", RADESYS="ICRS",
        BMAJ=beam * PIXEL, BMIN=beam * PIXEL, BPA=0.0,
    )  # fmt: skip
    fits.writeto(path, data.astype(np.float32), header)
    return WCS(header)


def gaussian(shape, x, y, fwhm, peak=1.0):
    yy, xx = np.indices(shape)
    return peak * np.exp(-4 * np.log(2) * ((xx - x) ** 2 + (yy - y) ** 2) / fwhm**2)


@pytest.fixture
def image(tmp_path):
    shape = (150, 120)
    data = gaussian(shape, 40.0, 90.0, 4.0) + np.random.default_rng(1).normal(0, 0.01, shape)
    return tmp_path / "one.fits", write_image(tmp_path / "one.fits", data)


def crops(options, number=12, size=SIZE):
    source = build_source(options, size)
    return [source.sample(i) for i in range(number)]


def check_the_source_is_where_the_light_is(samples):
    seen = 0
    for sample in samples:
        for box in sample.boxes[~sample.ignore]:
            x0, y0, x1, y1 = np.round(box).astype(int)
            peak = np.unravel_index(np.nanargmax(sample.image), sample.shape)
            assert y0 <= peak[0] < y1
            assert x0 <= peak[1] < x1
            seen += 1
    assert seen > 2


def coco(path, annotation, **image):
    content = {
        "images": [{"id": 7, "file_name": "one.fits", "height": 150, "width": 120, **image}],
        "categories": [{"id": 3, "name": "galaxy"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, **annotation}],
    }
    path.write_text(json.dumps(content))


BOX = [36.0, 86.0, 9.0, 9.0]
SQUARE = [36.0, 86.0, 45.0, 86.0, 45.0, 95.0, 36.0, 95.0]
PIXELS = np.ravel(np.arange(86, 95)[:, None] * 120 + np.arange(36, 45))


def compressed(counts):
    """Run lengths as the COCO tools write them."""
    text = ""
    for k, value in enumerate(counts):
        value = value - counts[k - 2] if k > 2 else value
        while True:
            bits, rest = value & 31, value >> 5
            more = not (rest == 0 and not bits & 16) and not (rest == -1 and bits & 16)
            text += chr((bits | 32 if more else bits) + 48)
            if not more:
                break
            value = rest
    return text


@pytest.mark.parametrize("kind", ["box", "polygon", "runs", "compressed"])
def test_coco_labels(image, tmp_path, kind):
    runs = encode(PIXELS, (150, 120))
    segmentation = {
        "polygon": [SQUARE],
        "runs": {"size": [150, 120], "counts": runs},
        "compressed": {"size": [150, 120], "counts": compressed(runs)},
    }
    extra = {"segmentation": segmentation[kind]} if kind in segmentation else {}
    coco(tmp_path / "labels.json", {"bbox": BOX, **extra})
    options = {
        "kind": "folder",
        "images": str(tmp_path / "*.fits"),
        "labels": str(tmp_path / "labels.json"),
        "classes": {"galaxy": "extended"},
    }
    samples = crops(validated(options))
    check_the_source_is_where_the_light_is(samples)
    whole = [s for s in samples if len(s) and (s.boxes[0, 2:] - s.boxes[0, :2] == 9).all()]
    assert whole
    assert all(s.classes[0] == CLASSES.index("extended") for s in whole)
    if kind != "box":
        assert all(s.segments.lengths[0] == 81 for s in whole)
    assert all(s.unlabelled is None for s in samples)


def validated(options):
    return TypeAdapter(DataOptions).validate_python(options)


def test_yolo_labels(image, tmp_path):
    line = f"0 {40.5 / 120} {90.5 / 150} {9 / 120} {9 / 150}\n"
    (tmp_path / "one.txt").write_text(line)
    options = {
        "kind": "folder",
        "images": str(image[0]),
        "labels": str(tmp_path / "{name}.txt"),
        "names": ["compact"],
    }
    samples = crops(validated(options))
    check_the_source_is_where_the_light_is(samples)
    assert any(np.isclose(s.boxes[:, 2:] - s.boxes[:, :2], 9.0).any() for s in samples)
    (tmp_path / "one.txt").write_text("0 0.5 0.5\n")
    with pytest.raises(InputError, match="a line of YOLO labels"):
        crops(validated(options), 1)


def test_images_smaller_than_a_sample_are_surrounded_by_blanks(image, tmp_path):
    options = {"kind": "folder", "images": str(image[0]), "labels": str(tmp_path / "{name}.txt")}
    sample = crops(validated(options), 1, size=200)[0]
    assert sample.shape == (200, 200)
    assert np.isfinite(sample.image).sum() == 150 * 120
    assert len(sample) == 0


@pytest.mark.parametrize("layout", ["aegean", "pybdsf"])
def test_any_catalogue_labels(image, tmp_path, layout):
    path, wcs = image
    sky = wcs.pixel_to_world([40.0, 80.0], [90.0, 40.0])
    ra, dec = sky.ra.deg, sky.dec.deg
    fwhm, large = 4 * PIXEL * 3600, 12 * PIXEL * 3600
    n = np.zeros(2)
    if layout == "aegean":
        table = Table(
            {"island": [0, 1], "ra": ra, "dec": dec, "err_ra": n, "err_dec": n,
             "peak_flux": [1.0, 0.03], "err_peak_flux": n, "int_flux": [1.0, 1.0],
             "err_int_flux": n, "a": [fwhm, large], "b": [fwhm, large], "pa": n,
             "local_rms": [0.01, 0.01]}
        )  # fmt: skip
    else:
        table = Table(
            {"RA": ra, "DEC": dec, "E_RA": n, "Total_flux": [1.0, 1.0], "Peak_flux": [1.0, 0.03],
             "Maj": [fwhm / 3600, large / 3600], "Min": [fwhm / 3600, large / 3600], "PA": n,
             "Isl_rms": [0.01, 0.01]}
        )  # fmt: skip
    table.write(tmp_path / "one.csv", format="ascii.csv")
    options = {"kind": "catalogue", "images": str(path), "catalogue": str(tmp_path / "{name}.csv")}
    labels = build_source(validated(options), SIZE).labelled_image(0)
    np.testing.assert_array_equal(labels.classes, [0, 1])
    np.testing.assert_array_equal(labels.ignore, [False, True])
    np.testing.assert_allclose(labels.snr, [100.0, 3.0])
    # one FWHM to either side of the centre, whose outer corner is half a pixel up
    np.testing.assert_allclose(labels.boxes[0], [36, 86, 45, 95], atol=1)
    np.testing.assert_allclose(labels.boxes[1], [68, 28, 93, 53], atol=1)
    check_the_source_is_where_the_light_is(crops(validated(options)))


def test_one_catalogue_of_several_fields_and_sizes_below_a_pixel(image, tmp_path):
    """Sources of PyBDSF are numbered anew in every field."""
    path, wcs = image
    here = wcs.pixel_to_world([40.5, 80.5], [90.5, 40.5])
    ra = np.concatenate([here.ra.deg, here.ra.deg + 30.0])
    dec = np.concatenate([here.dec.deg, here.dec.deg])
    n, size = np.zeros(4), np.full(4, 0.4 * PIXEL)
    Table(
        {"Source_id": [0, 1, 0, 1], "RA": ra, "DEC": dec, "E_RA": n, "Total_flux": n + 1.0,
         "Peak_flux": n + 1.0, "Maj": size, "Min": size, "PA": n, "Isl_rms": n + 0.01}
    ).write(tmp_path / "all.csv", format="ascii.csv")  # fmt: skip
    options = {"kind": "catalogue", "images": str(path), "catalogue": str(tmp_path / "all.csv")}
    labels = build_source(validated(options), SIZE).labelled_image(0)
    np.testing.assert_array_equal(labels.classes, [0, 0])
    assert labels.segments.lengths.tolist() == [1, 1]


def test_nothing_is_labelled_outside_the_discs(image, tmp_path):
    path, wcs = image
    sky = wcs.pixel_to_world(40.0, 90.0)
    row = {"ra": [sky.ra.deg], "dec": [sky.dec.deg]}
    Table({**row, "radius": [20 * PIXEL]}).write(tmp_path / "discs.csv")
    zero = np.zeros(1)
    Table(
        {**row, "island": [0], "err_ra": zero, "err_dec": zero, "peak_flux": [1.0],
         "err_peak_flux": zero, "int_flux": [1.0], "err_int_flux": zero, "a": [8.0], "b": [8.0],
         "pa": zero, "local_rms": [0.01]}
    ).write(tmp_path / "one.csv")  # fmt: skip
    options = {
        "kind": "catalogue",
        "images": str(path),
        "catalogue": str(tmp_path / "one.csv"),
        "labelled": str(tmp_path / "discs.csv"),
    }
    sample = crops(validated(options), 1, size=200)[0]
    y, x = np.nonzero(~sample.unlabelled)
    assert len(x) == pytest.approx(np.pi * 20**2, rel=0.03)
    x0, y0, x1, y1 = sample.boxes[0]
    assert np.mean(x + 0.5) == pytest.approx((x0 + x1) / 2, abs=0.6)
    assert np.mean(y + 0.5) == pytest.approx((y0 + y1) / 2, abs=0.6)


def test_radio_galaxy_zoo_labels(shared_data):
    folder = shared_data / "first-rgz-fields-dev"
    options = {
        "kind": "rgz",
        "images": str(folder / "100_*.fits.gz"),
        "labels": str(folder / "labels.csv"),
        "image": {"beam": "5.4arcsec"},
    }
    source = build_source(validated(options), 128)
    kinds = []
    for number in range(12):
        labels = source.labelled_image(number)
        whole = labels.crop(full_box(labels.source.shape))
        share = np.mean(~whole.unlabelled)
        assert 0.05 < share < 0.5
        assert len(whole) >= 1
        for row in range(len(whole)):
            pixels = whole.segments[row]
            assert whole.image.ravel()[pixels].max() > 4 * 1.5e-4
        kinds += labels.classes.tolist()
    assert {CLASSES[k] for k in kinds} >= {"extended", "multi-component"}
    assert source.sample(5).shape == (128, 128)


def test_bad_files_are_refused_in_one_sentence(image, tmp_path):
    lost = {"kind": "folder", "images": str(tmp_path / "no*.fits"), "labels": "x.json"}
    with pytest.raises(InputError, match="There is no image"):
        build_source(validated(lost), SIZE)
    (tmp_path / "labels.json").write_text("[1, 2]")
    bad = {
        "kind": "folder", "images": str(image[0]), "labels": str(tmp_path / "labels.json")
    }  # fmt: skip
    with pytest.raises(InputError, match="no COCO file"):
        crops(validated(bad), 1)


def test_samples_that_come_again_are_the_same_in_other_orders():
    endless = simulated(seed=6)
    source = build_source(SimulatedOptions(preset="natural", seed=6, samples=3), SIZE, CLASSES)
    for index in range(3):
        same(source.sample(index), endless.sample(index))
    levels = [np.nansum(endless.sample(k).image) for k in range(3)]
    orders = set()
    for time in range(8):
        seen = [np.nansum(source.sample(3 * time + k).image) for k in range(3)]
        assert sorted(seen) == sorted(levels)
        orders.add(tuple(seen))
    assert len(orders) > 1
    # as a resumed training or another worker finds them
    other = build_source(SimulatedOptions(preset="natural", seed=6, samples=3), SIZE, CLASSES)
    same(other.sample(22), source.sample(22))


def test_held_out_samples_have_no_end():
    options = SimulatedOptions(preset="natural", seed=6, samples=3)
    assert reseeded(options, 5) == SimulatedOptions(preset="natural", seed=11)
    assert [one.samples for one in reseeded((options, options), 1)] == [None, None]


def test_images_of_several_patterns_are_joined_once_each(tmp_path):
    for name in ("b.fits", "a.fits", "c.fits"):
        (tmp_path / name).touch()
    patterns = (str(tmp_path / "c.fits"), str(tmp_path / "[ac].fits"))
    assert [path.name for path in find_images(patterns)] == ["c.fits", "a.fits"]
    with pytest.raises(InputError, match="There is no image"):
        find_images((str(tmp_path / "a.fits"), str(tmp_path / "x*.fits")))
    with pytest.raises(InputError, match="no images"):
        find_images(())
