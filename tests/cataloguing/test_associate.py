"""Lobes, cores and strangers: which become one source, and what its row says."""

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from factories import make_background, make_components, make_context, make_detections, square
from pydantic import ValidationError
from sky_grids import GRIDS, make_wcs

from cyclades.stages.cataloguing.associate import AssociateRefinement, image_area
from cyclades.stages.cataloguing.bridges import LIGHT, BridgeLight
from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.cataloguing.merging import merge_sources
from cyclades.stages.cataloguing.pair_model import PairModel, agglomerate, default_model
from cyclades.stages.cataloguing.pairs import (
    CONTEXT,
    FEATURES,
    MOST,
    context_features,
    pair_features,
)
from cyclades.stages.cataloguing.parts import Parts, find_pairs
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    inverse,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.source import MemorySource

FWHM = 12.0
BEAM = radio_beam.Beam(FWHM * u.arcsec, FWHM * u.arcsec, 0 * u.deg)
RMS = 0.01
SIZE = 600
# east, north (arcsec), major, minor (arcsec), angle, peak: a double with a core, two strangers
DOUBLE = [
    (-40.0, 0.0, 26.0, 15.0, 90.0, 0.50),
    (38.0, 0.0, 24.0, 14.0, 90.0, 0.40),
    (0.0, 1.0, 12.0, 12.0, 0.0, 0.12),
]
STRANGERS = [(180.0, 330.0, 12.0, 12.0, 0.0, 0.3), (-350.0, -160.0, 12.0, 12.0, 0.0, 0.06)]


def make_image(name="sin", size=SIZE):
    """A blank image on one of the grids, or without coordinates on pixels of 2 arcsec."""
    wcs = make_wcs(name, size=size) if name else None
    psf = (
        PointSpread.from_beam(BEAM, wcs) if name else PointSpread(np.eye(2) * (6 / 2.3548200) ** 2)
    )
    data = np.zeros((size, size), np.float32)
    return SkyImage(data, unit=u.Unit("Jy/beam"), wcs=wcs, psf=psf, frequency=1.4e9, name="field")


def catalogue_of(sky_rows, image, *, flip=1.0, together=False):
    """Catalogue of Gaussians at offsets on the sky from the middle of an image."""
    middle = 0.5 * (image.shape[0] - 1)
    rows = []
    for east, north, major, minor, angle, peak in sky_rows:
        jacobian = np.diag([-2.0 * flip, 2.0])
        if image.wcs is not None:
            jacobian = sky_jacobian(image.wcs, middle, middle)[0] * 3600.0
        back = inverse(jacobian)
        x, y = middle + back @ np.array([east, north])
        shape = transform_covariance(covariance_from_shape(major, minor, angle * flip), back)
        rows.append((peak, x, y, shape[0, 0], shape[0, 1], shape[1, 1]))
    rows = np.array(rows).reshape(-1, 6)
    n = len(rows)
    areas = image.psf.areas(rows[:, 1], rows[:, 2])
    det = np.sqrt(rows[:, 3] * rows[:, 5] - rows[:, 4] ** 2)
    total = rows[:, 0] * 2.0 * np.pi * det / areas
    pixels = [square(x, y) for x, y in rows[:, 1:3]]
    values = {"total": total, "total_err": np.full(n, 0.03)}
    parent = None
    if together:
        pixels = [np.unique(np.concatenate(pixels), axis=0), *pixels]
        parent = np.r_[-1, np.zeros(n, int)]
        values |= {"island": np.zeros(n, int), "detection": np.arange(1, n + 1)}
    detections = make_detections(image.shape, pixels, parent=parent)
    return ComponentsCatalogue().build(
        image,
        make_background(image, rms=RMS),
        detections,
        make_components(rows, **values),
        context=make_context(),
    )


def refine(catalogue, image, **parameters):
    return AssociateRefinement(**parameters).refine(
        catalogue, MemorySource(image), context=make_context()
    )


def painted(catalogue, image):
    """The image with the light of a catalogue's sources."""
    parts = Parts.of(catalogue.components, 1.0)
    shapes = parts.shape
    if image.wcs is not None:
        shapes = transform_covariance(
            shapes, inverse(sky_jacobian(image.wcs, parts.x, parts.y) * 3600.0)
        )
    rows = np.stack(
        [parts.peak, parts.x, parts.y, shapes[:, 0, 0], shapes[:, 0, 1], shapes[:, 1, 1]], -1
    )
    return image.replace(data=render_gaussians(image.shape, rows))


@pytest.fixture(scope="module")
def field():
    image = make_image()
    catalogue = catalogue_of(DOUBLE + STRANGERS, image)
    return painted(catalogue, image), catalogue


@pytest.fixture(scope="module")
def made(field):
    return refine(field[1], field[0])


def double(catalogue):
    (row,) = np.flatnonzero(np.asarray(catalogue.sources["n_parts"]) == 3)
    return catalogue.sources[row]


def test_a_double_with_its_core_is_one_source(field, made):
    row = double(made)
    assert len(made.sources) == 3
    assert row["n_components"] == 3
    assert row["source_code"] == "M"
    assert row["resolved"]
    assert row["flags"] & Flag.ASSOCIATED
    assert 0.5 < row["association_probability"] <= 1.0
    parts = field[1].sources[np.argsort(field[1].sources["total_flux"])[::-1][:3]]
    # 78 arcsec between the peaks, and half of each lobe's width without the beam
    lobes = 0.5 * (np.sqrt(26.0**2 - FWHM**2) + np.sqrt(24.0**2 - FWHM**2))
    assert row["largest_angular_size"].value == pytest.approx(78.0 + lobes, rel=1e-3)
    assert row["host_type"] == "core"
    core = made.components[np.argmin(np.abs(made.components["peak_flux"].value - 0.12))]
    assert row["host_ra"] == core["ra"]
    assert row["host_dec"] == core["dec"]
    assert len(parts) == 3


def test_the_weighed_pairs_are_those_that_the_sources_come_of(field, made):
    image, catalogue = field
    stage = AssociateRefinement()
    parted, (parts, first, second, log_odds) = stage.weigh(catalogue, MemorySource(image))
    assert len(parted.sources) == len(parts) == len(catalogue.sources)
    group = stage.group(parts, first, second, log_odds)
    assert len(np.unique(group)) == len(made.sources)
    peaks = np.array([0.5, 0.4, 0.12])
    double_rows = np.flatnonzero(np.isclose(parts.peak[:, None], peaks, rtol=1e-3).any(1))
    own = np.isin(first, double_rows) & np.isin(second, double_rows)
    assert len(double_rows) == 3
    assert log_odds[own].max() > 0.0
    assert not np.any(log_odds[~own] > 0.0)


def test_fluxes_are_conserved_and_components_have_one_source_each(field, made):
    assert len(made.components) == len(field[1].components)
    assert len(made.islands) == len(field[1].islands)
    for name in ("component_id", "island_id", "total_flux", "name"):
        assert np.array_equal(made.components[name], field[1].components[name])
    ids = np.asarray(made.sources["source_id"])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert set(made.components["source_id"]) == set(ids)
    for row in made.sources:
        mine = made.components[made.components["source_id"] == row["source_id"]]
        assert len(mine) == row["n_components"]
        assert set(mine["n_components"]) == {row["n_components"]}
        assert row["total_flux"].value == pytest.approx(mine["total_flux"].value.sum(), rel=1e-6)
        error = np.sqrt((mine["total_flux_err"].value ** 2).sum())
        assert row["total_flux_err"].value == pytest.approx(error, rel=1e-6)
    assert np.all(np.diff(made.sources["ra"].value) >= 0)


def test_what_was_not_joined_keeps_its_values(field, made):
    for before in field[1].sources:
        after = made.sources[made.sources["name"] == before["name"]]
        if len(after) and after["n_parts"][0] == 1:
            for name in field[1].sources.colnames:
                if name != "source_id":
                    assert str(after[name][0]) == str(before[name]), name
            assert np.isnan(after["association_probability"][0])
            assert not after["flags"][0] & Flag.ASSOCIATED
    assert np.count_nonzero(np.asarray(made.sources["n_parts"]) == 1) == 2


def test_the_catalogue_given_is_not_changed_and_a_second_time_changes_nothing(field, made):
    image, catalogue = field
    assert catalogue == catalogue_of(DOUBLE + STRANGERS, make_image())
    assert refine(made, image) == made


@pytest.mark.parametrize("name", GRIDS)
def test_the_same_sky_gives_the_same_sources_on_every_grid(name, made):
    image = make_image(name)
    catalogue = catalogue_of(DOUBLE + STRANGERS, image)
    other = refine(catalogue, painted(catalogue, image))
    assert len(other.sources) == len(made.sources)
    here, there = double(made), double(other)
    for column, tolerance in (
        ("largest_angular_size", 2e-3),
        ("total_flux", 1e-2),
        ("association_probability", 0.1),
        ("major", 2e-3),
    ):
        one, two = (float(np.asarray(row[column])) for row in (here, there))
        assert two == pytest.approx(one, rel=tolerance), column


def test_pixels_flips_and_order_do_not_matter_without_coordinates():
    image = make_image("")
    rows = DOUBLE + STRANGERS
    catalogue = catalogue_of(rows, image)
    one = refine(catalogue, painted(catalogue, image))
    for flip, order in ((-1.0, slice(None)), (1.0, slice(None, None, -1))):
        catalogue = catalogue_of(rows[order], image, flip=flip)
        other = refine(catalogue, painted(catalogue, image))
        assert sorted(other.sources["n_parts"]) == sorted(one.sources["n_parts"]) == [1, 1, 3]
        assert double(other)["largest_angular_size"].value == pytest.approx(
            double(one)["largest_angular_size"].value, rel=1e-5
        )
    assert "host_ra" not in one.sources.colnames
    assert one.sources["largest_angular_size"].unit == u.pix


def test_a_joined_row_is_that_of_the_same_components_in_one_island():
    image = make_image()
    apart, whole = (catalogue_of(DOUBLE, image, together=t) for t in (False, True))
    source = MemorySource(image)
    parts = Parts.of(apart.sources, image_area(source))
    made = merge_sources(apart, parts, np.zeros(3, int), np.ones(3), significance=2.0).sources[0]
    expected = whole.sources[0]
    for name in ("ra", "dec", "x", "y", "total_flux", "peak_flux", "major", "minor", "n_pixels",
                 "position_angle", "deconvolved_major", "deconvolved_minor", "snr"):  # fmt: skip
        assert float(np.asarray(made[name])) == pytest.approx(
            float(np.asarray(expected[name])),
            rel=2e-5,
            abs=0.02 if name == "position_angle" else 1e-7,
        ), name
    for name in ("ra_err", "dec_err", "x_err", "y_err", "major_err", "minor_err", "total_flux_err"):
        assert float(np.asarray(made[name])) == pytest.approx(
            float(np.asarray(expected[name])), rel=0.02
        ), name
    assert made["name"] == expected["name"]


def test_equal_strangers_far_apart_stay_apart():
    image = make_image()
    rng = np.random.default_rng(3)
    rows = [(*rng.uniform(-550, 550, 2), 12.0, 12.0, 0.0, 0.06 + 0.3 * k / 12) for k in range(12)]
    made = refine(catalogue_of(rows, image), image)
    assert np.count_nonzero(np.asarray(made.sources["n_parts"]) > 1) <= 1


def test_objects_that_come_as_one_are_never_split():
    image = make_image()
    far = [(-200.0, 0.0, 12.0, 12.0, 0.0, 0.5), (200.0, 9.0, 12.0, 12.0, 0.0, 0.05)]
    made = refine(catalogue_of(far, image, together=True), image)
    assert len(made.sources) == 1
    assert made.sources["n_parts"][0] == 1
    assert made.sources["host_type"][0] == "centre"


def test_the_largest_extent_and_the_probability_are_obeyed(field):
    image, catalogue = field
    assert len(refine(catalogue, image, largest=2.0).sources) == 5
    strict = refine(catalogue, image, probability=1.0 - 1e-9)
    assert len(strict.sources) == 5
    with pytest.raises(ValidationError):
        AssociateRefinement(probability=1.5)


def test_empty_and_single_catalogues():
    image = make_image()
    for rows in ([], STRANGERS[:1]):
        made = refine(catalogue_of(rows, image), image)
        assert len(made.sources) == len(rows)
        assert "host_type" in made.sources.colnames


def test_negative_and_positive_sources_are_no_pair():
    image = make_image()
    catalogue = catalogue_of(DOUBLE, image)
    for name in ("peak_flux", "total_flux", "snr"):
        catalogue.sources[name][0] *= -1.0
    first, second = find_pairs(Parts.of(catalogue.sources, 1e6), 20.0)
    assert 0 not in first
    assert 0 not in second


def test_features_know_of_cores_and_of_lobes_that_point_to_each_other(field):
    image, catalogue = field
    parts = Parts.of(catalogue.sources, image_area(MemorySource(image)))
    first, second = find_pairs(parts, 10.0)
    features = pair_features(parts, first, second)
    named = dict(zip(FEATURES, features.T, strict=True))
    size = parts.snr
    lobes = (size[first] > 35) & (size[second] > 35)
    assert np.count_nonzero(lobes) == 1
    assert named["separation"][lobes] == pytest.approx(np.log10(78.0 / FWHM), abs=1e-3)
    assert named["between"][lobes] > 0.9
    assert named["pointing_of_brighter"][lobes] > 0.4
    assert named["continued"][lobes] < 0.1
    assert np.all(named["continued"][~lobes] > 0.9)


def light_of(image, parts):
    first, second = find_pairs(parts, 20.0)
    values = BridgeLight(MemorySource(image))(parts, first, second)
    return dict(zip(LIGHT, values.T, strict=True))


def test_a_bridge_between_lobes_shows():
    image = make_image()
    parts = Parts.of(catalogue_of([DOUBLE[0], DOUBLE[1]], image).sources, 1e6)
    middle = SIZE // 2
    data = image.data.copy()
    data[middle - 8 : middle + 8, middle - 20 : middle + 20] = 2.0 * RMS
    empty, full = light_of(image, parts), light_of(image.replace(data=data), parts)
    assert empty["bridge"] == pytest.approx(0.0, abs=1e-6)
    assert full["bridge"] > np.arcsinh(1.9)
    # two rms along the whole of what lies between the contours, none above three
    assert (empty["lit"], full["lit"]) == (pytest.approx(0.0), pytest.approx(1.0))
    assert full["bright"] == pytest.approx(0.0)
    assert np.sinh(full["saddle"]) == pytest.approx(2.0, rel=0.1)
    assert full["excess"] > empty["excess"] + 1.0


def test_light_of_the_parts_themselves_is_no_bridge_and_a_tail_has_a_side():
    image = make_image()
    catalogue = catalogue_of([DOUBLE[0], DOUBLE[1]], image)
    parts = Parts.of(catalogue.sources, 1e6)
    own = painted(catalogue, image).data.copy()
    seen = light_of(image.replace(data=own), parts)
    for name in ("excess", "middle", "tail_of_brighter", "tail_of_fainter"):
        assert np.sinh(seen[name]) == pytest.approx(0.0, abs=0.7), name
    # a tail of the brighter one towards the other, one FWHM from its middle
    brighter = int(np.argmax(parts.total))
    other = 1 - brighter
    step = np.array([parts.x[other] - parts.x[brighter], parts.y[other] - parts.y[brighter]])
    x, y = np.array([parts.x[brighter], parts.y[brighter]]) + step * 26.0 / 78.0
    own[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] += 5.0 * RMS
    tailed = light_of(image.replace(data=own), parts)
    assert tailed["tail_of_brighter"] > 0.7  # arsinh of 8 rms less that of 3
    assert tailed["tail_of_fainter"] == pytest.approx(seen["tail_of_fainter"], abs=0.1)


def test_the_catalogue_says_how_many_pairs_to_expect():
    """As many close pairs as chance puts there, or many more."""
    rng = np.random.default_rng(8)
    image = make_image()
    area = image_area(MemorySource(image))
    alone = [(*rng.uniform(-550, 550, 2), 12.0, 12.0, 0.0, 0.3) for _ in range(30)]
    beside = [(x + 25.0, y, 12.0, 12.0, 0.0, 0.2) for x, y, *_ in alone]
    named = []
    for rows in (alone, alone + beside):
        parts = Parts.of(catalogue_of(rows, image).sources, area)
        features = pair_features(parts, *find_pairs(parts, 25.0))
        named.append(dict(zip(FEATURES, features[0], strict=True)))
    assert named[0]["pairs_near"] < 0.35
    assert named[1]["pairs_near"] > named[0]["pairs_near"] + 0.3
    assert named[1]["parts"] == pytest.approx(np.log10(60.0))


def test_the_second_look_knows_rivals_and_friends():
    """0-1 and 1-2 are likely, 0-2 unlisted: 2 is a rival of 0 at 1, and nobody's friend of both."""
    first, second = np.array([0, 1]), np.array([1, 2])
    odds = np.array([2.0, 3.0])
    seen = dict(zip(CONTEXT, context_features(3, first, second, odds).T, strict=True))
    chance = 1.0 / (1.0 + np.exp(-odds))
    assert seen["own"] == pytest.approx(odds)
    assert seen["rivals_of_brighter"] == pytest.approx(np.log10([1.0, 1.0 + chance[0]]))
    assert seen["best_rival_of_fainter"] == pytest.approx([3.0, -MOST])
    assert seen["support"] == pytest.approx(0.0)
    assert np.all(seen["opinion_of_fainter"] <= 0.0)
    triangle = context_features(3, np.array([0, 1, 0]), np.array([1, 2, 2]), np.full(3, 2.0))
    support = triangle[:, CONTEXT.index("support")]
    assert support == pytest.approx(np.log10(1.0 + chance[0] ** 2))
    assert triangle[:, CONTEXT.index("opinion_of_brighter")] == pytest.approx(2.0 * chance[0])
    assert context_features(0, first[:0], second[:0], odds[:0]).shape == (0, len(CONTEXT))


def test_a_chain_of_weak_links_joins_no_crowd():
    first, second = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 4])
    groups = agglomerate(5, first, second, np.full(4, 1.0), unseen=-4.0)
    assert max(np.bincount(groups)) == 2
    strong = agglomerate(3, np.array([0, 1, 0]), np.array([1, 2, 2]), np.array([3.0, 3.0, -1.0]))
    assert len(np.unique(strong)) == 1
    one = np.array([0])
    never = agglomerate(2, one, one + 1, np.array([5.0]), allowed=lambda rows: False)
    assert len(np.unique(never)) == 2


def test_a_model_survives_its_file_and_refuses_other_features():
    model = default_model()
    held = model.to_mapping()
    features = np.random.default_rng(1).normal(size=(20, len(FEATURES)))
    first, second = np.triu_indices(7, 1)[0][:20], np.triu_indices(7, 1)[1][:20]
    np.testing.assert_allclose(
        PairModel.from_mapping(held).log_odds(features, 7, first, second),
        model.log_odds(features, 7, first, second),
        atol=1e-6,
    )
    with pytest.raises(InputError, match="other features"):
        PairModel.from_mapping(held | {"features": ["separation"]})
    with pytest.raises(InputError, match="damaged"):
        PairModel.from_mapping({k: v for k, v in held.items() if k != "alone"})
