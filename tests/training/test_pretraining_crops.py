"""Unlabelled crops: where they come from, which are taken, and what is shown of them."""
# ruff: noqa: E402

import numpy as np
import pytest
from astropy.io import fits
from requirements import require

require("learned")

from cyclades.pipeline.training.augmentation import AugmentationOptions, beam_size
from cyclades.pipeline.training.pretraining.crops import FitsFields, FitsOptions, build_fields
from cyclades.pipeline.training.pretraining.curation import (
    Crops,
    CurationOptions,
    choose,
    share_with_islands,
    wanted,
)
from cyclades.pipeline.training.pretraining.views import ViewBatches, ViewSizes, window_side
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.inputs import normalise, stretch
from cyclades.stages.networks.specification import InputSpec

INPUT = InputSpec(stretches=("asinh", "bright"), mesh=64, beam_pixels=(3.5, 8.0))


def header(shape, beam):
    """Header of an image with pixels of one arcsecond."""
    made = fits.Header()
    for axis, kind in ((1, "RA---SIN"), (2, "DEC--SIN")):
        made[f"CTYPE{axis}"], made[f"CUNIT{axis}"] = kind, "deg"
        made[f"CRPIX{axis}"], made[f"CRVAL{axis}"] = shape[2 - axis] / 2, (180.0, -30.0)[axis - 1]
        made[f"CDELT{axis}"] = (-1.0, 1.0)[axis - 1] / 3600.0
    made["BUNIT"] = "Jy/beam"
    if beam:
        made["BMAJ"] = made["BMIN"] = beam / 3600.0
        made["BPA"] = 0.0
    return made


def sky(shape, beam, sources=(), seed=0):
    """White noise of unit rms with sources of 50 times it at (y, x)."""
    image = np.random.default_rng(seed).normal(size=shape)
    y, x = np.indices(shape)
    sigma = beam / 2.3548
    for row, column in sources:
        image += 50.0 * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / sigma**2)
    return image.astype(np.float32)


def write(path, image, beam=5.0):
    fits.writeto(path, image, header(image.shape, beam))
    return path


def crops(fields, size=48, window=48, a_field=8, **options):
    return Crops(
        fields, CurationOptions(**options), size=size, window=window, crops_a_field=a_field, mesh=64
    )


def test_a_folder_gives_fields_of_all_its_images(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "a.fits", np.full((80, 90), 1.0, np.float32))
    write(tmp_path / "deep" / "b.fits.gz", np.full((80, 90), 2.0, np.float32))
    (tmp_path / "notes.txt").write_text("no image")
    fields = build_fields(FitsOptions(images=str(tmp_path), image={"blank_zeros": False}), 32)
    first = [fields.sample(index) for index in range(20)]
    assert {float(one.image[0, 0]) for one in first} == {1.0, 2.0}
    for one in first:
        assert one.shape == (32, 32)
        assert beam_size(one.beam) == pytest.approx(5.0, rel=1e-3)
        assert len(one) == 0
    # a field follows from its number alone
    np.testing.assert_array_equal(fields.sample(7).image, first[7].image)


@pytest.mark.parametrize("beam", [20.0, 2.0])
def test_beams_outside_the_range_are_brought_to_its_ends(tmp_path, beam):
    write(tmp_path / "a.fits", sky((400, 400), beam, [(200, 200)], 1), beam)
    fields = FitsFields(FitsOptions(images=str(tmp_path / "a.fits")), 96, (4.0, 8.0))
    for index in range(3):
        field = fields.sample(index)
        assert field.shape == (96, 96)
        assert beam_size(field.beam) == pytest.approx(8.0 if beam > 8 else 4.0, rel=1e-3)
        assert np.isfinite(field.image).all()


def test_files_that_are_no_images_are_passed_over(tmp_path, caplog):
    write(tmp_path / "good.fits", sky((100, 100), 5.0))
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 3000)
    fields = FitsFields(FitsOptions(images=str(tmp_path)), 64)
    taken = crops(fields, size=32, window=40)
    for index in range(0, 64, 8):
        assert np.isfinite(taken.sample(index).image).all()
    assert sum("bad.fits is passed over" in one for one in caplog.messages) == 1


def test_no_images_and_nothing_but_blank_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no image"):
        build_fields(FitsOptions(images=str(tmp_path)), 64)
    image = sky((100, 100), 5.0)
    image[:, 20:] = np.nan
    write(tmp_path / "a.fits", image)
    fields = build_fields(FitsOptions(images=str(tmp_path)), 100)
    with pytest.raises(InputError, match=r"of which at most 30% is blank.*curation\.blank_share"):
        crops(fields).sample(0)
    assert crops(fields, blank_share=0.7).sample(0).shape == (48, 48)


@pytest.mark.parametrize(("a_field", "at_once"), [(8, 1), (4, 6), (6, 4), (5, 3)])
def test_crops_take_turns_among_fields(a_field, at_once):
    taken = Crops(
        None, CurationOptions(), size=48, window=48, crops_a_field=a_field, fields_at_once=at_once
    )
    places = [taken.place(index) for index in range(at_once * a_field * 7)]
    # no crop twice, neighbours of different fields, and each field is left for good
    assert len(set(places)) == len(places)
    numbers = np.array([number for number, _ in places]).reshape(-1, at_once)
    assert all(len(set(turn)) == at_once for turn in numbers.tolist())
    for number in set(numbers.ravel().tolist()):
        turns = np.flatnonzero((numbers == number).any(1))
        assert np.ptp(turns) == len(turns) - 1 < a_field
    # as many fields begin in one turn as in another, give or take one
    begun = (numbers[1:] != numbers[:-1]).sum(1)
    assert np.ptp(begun) <= 1


def test_turns_change_the_order_of_crops_alone(tmp_path):
    fields = build_fields(SimulatedOptions(preset="natural", seed=4), 96)
    made = []
    for at_once in (1, 3):
        taken = Crops(
            fields, CurationOptions(), size=48, window=60, crops_a_field=2,
            fields_at_once=at_once, mesh=64,
        )  # fmt: skip
        made.append({taken.place(k): taken.sample(k).image for k in range(12)})
    both = set(made[0]) & set(made[1])
    assert len(both) >= 6
    for place in both:
        np.testing.assert_array_equal(made[0][place], made[1][place])


def test_crops_are_not_blanker_than_asked(tmp_path):
    image = sky((300, 300), 5.0)
    image[:, :150] = np.nan
    write(tmp_path / "a.fits", image)
    taken = crops(build_fields(FitsOptions(images=str(tmp_path)), 200), blank_share=0.1)
    shares = [np.isnan(taken.sample(index).image).mean() for index in range(64)]
    assert max(shares) <= 0.1


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """Fields with all sources in a sixteenth of them."""
    folder = tmp_path_factory.mktemp("corner")
    places = [(20, 20), (20, 50), (50, 20), (50, 50)]
    write(folder / "a.fits", sky((256, 256), 5.0, places, 4))
    return build_fields(FitsOptions(images=str(folder)), 256)


def test_a_share_of_the_crops_holds_islands(corner):
    shares = {}
    for share in (0.0, 0.5, 1.0):
        taken = crops(corner, curated_share=share, least_islands=1)
        shares[share], counts = share_with_islands(taken, 160)
        assert counts >= shares[share]
    # peaks lie from 20 to 50 along both axes: first pixels of 0 to 50, of 209, show one
    chance = (51 / 209) ** 2
    assert shares[0.0] == pytest.approx(chance, abs=4 * np.sqrt(chance / 160))
    assert 0.5 <= shares[0.5] <= 0.5 * (1.0 + chance + 4 * np.sqrt(chance / 80))
    # of 128 places in a field 7.6 show some: now and then fewer than the 8 crops
    assert shares[1.0] > 0.8


def test_the_number_of_islands_is_that_of_the_sources_inside(corner):
    taken = crops(corner, size=64, window=64, curated_share=1.0, least_islands=4, candidates=40)
    counts = [taken.islands(index) for index in range(64)]
    assert max(counts) == 4


def test_wanted_spreads_a_share_evenly():
    for share in (0.0, 0.3, 0.75, 1.0):
        marks = wanted(0, 100, share)
        assert marks.sum() == round(100 * share)
        assert (np.concatenate([wanted(k, 10, share) for k in range(0, 100, 10)]) == marks).all()


def test_choose_prefers_enough_islands_and_not_more():
    counts = np.array([0, 9, 0, 1, 2, 7, 0, 3])
    curated = np.array([True, False, True, True])
    rows = choose(counts, curated, 2)
    assert rows[1] == 0  # any: the first
    assert rows[[0, 2, 3]].tolist() == [1, 4, 5]  # in order, the crowded ones not preferred
    # too few with enough: those with the most, and again where there are too few at all
    assert choose(np.array([0, 0, 1]), np.array([True, True]), 2).tolist() == [2, 0]
    assert choose(np.array([0]), np.array([True, False, True]), 1).tolist() == [0, 0, 0]


def batches(source, **options):
    off = options.pop("augmentation", AugmentationOptions.off())
    return ViewBatches(
        source, options.pop("sizes", [ViewSizes(48, 1)]), INPUT, off, batch=4, **options
    )


def test_a_view_without_changes_is_the_middle_of_the_window(corner):
    source = crops(corner, window=window_side(48))
    (views,) = batches(source).make(0)
    assert views.shape == (4, 1, 2, 48, 48)
    assert views.isfinite().all()
    edge = (source.size - 48) // 2
    middle = normalise(source.sample(2).image, INPUT.mesh)[edge:-edge, edge:-edge]
    wanted_view = stretch(np.ascontiguousarray(middle), INPUT.stretches)
    np.testing.assert_array_equal(views[2, 0], wanted_view)


def test_a_rotated_view_has_no_blank_corners(corner):
    turned = AugmentationOptions.off().model_copy(update={"rotate": 1.0})
    (views,) = batches(crops(corner, window=window_side(48)), augmentation=turned).make(0)
    # what is blank is exactly 0 in the input
    assert (views == 0.0).float().mean() < 1e-3


def test_views_follow_from_the_number_of_the_crop(corner):
    sizes = [ViewSizes(48, 2), ViewSizes(16, 3)]
    changes = AugmentationOptions(rotate=0.5, noise=0.5)
    made = {"sizes": sizes, "augmentation": changes, "spread": 12, "seed": 3}
    whole = batches(crops(corner, window=80), **made).make(1)
    assert [tuple(part.shape) for part in whole] == [(4, 2, 2, 48, 48), (4, 3, 2, 16, 16)]
    again = batches(crops(corner, window=80), **made).make(1)
    for one, other in zip(whole, again, strict=True):
        assert (one == other).all()
    assert not (whole[0][:, 0] == whole[0][:, 1]).all()
    # two processes share a batch of eight; here the second one's half of batch 0
    shared = batches(crops(corner, window=80), **made, rank=1, world=2).make(0)
    assert (shared[0] == whole[0]).all()


def test_simulated_fields_are_unlabelled_and_never_end():
    fields = build_fields(SimulatedOptions(preset="natural", seed=2), 96)
    one, other = fields.sample(0), fields.sample(10**12)
    assert len(one) == len(other) == 0
    assert one.beam is not None
    assert one.rms is not None
    assert not np.array_equal(one.image, other.image)


def test_sources_are_mixed_by_their_share(tmp_path):
    write(tmp_path / "a.fits", sky((100, 100), 5.0))
    fits_share = FitsOptions(images=str(tmp_path), share=3.0)
    mixed = build_fields((SimulatedOptions(preset="natural"), fits_share), 64)
    with_rms = [mixed.sample(index).rms is not None for index in range(32)]
    assert np.mean(with_rms) == 0.25


def test_real_images_give_crops(shared_data):
    folder = shared_data / "first-rgz-fields-dev"
    options = FitsOptions(images=str(folder), image={"beam": "5.4arcsec"})
    taken = crops(build_fields(options, 300, (3.5, 8.0)), size=128, window=160, a_field=4)
    for index in range(0, 24, 3):
        window = taken.sample(index)
        assert beam_size(window.beam) == pytest.approx(3.5, rel=1e-2)
        assert np.isfinite(window.image[16:144, 16:144]).mean() > 0.7
