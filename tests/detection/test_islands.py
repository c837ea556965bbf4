"""The islands detector."""

import numpy as np
import pytest
from pydantic import ValidationError

from cyclades.stages.characterization.gaussian import GaussianCharacterization
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.products import Background
from cyclades.stages.detection.false_discovery import poisson_lower_limit
from cyclades.stages.detection.islands import IslandsDetection
from tests.skies import BEAM, correlated_noise, lattice, match, sky_image, source_rows

SHAPE = (700, 700)


def busy_field(seed=1, natural=True, low=6.0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    x, y = lattice(shape, 35, rng)
    rows = source_rows(rng.uniform(low, 60.0, x.size), x, y)
    return (*sky_image(rows, shape, correlated_noise(shape, rng, natural=natural)), rows)


def positions(found):
    return found.summit[found.leaves]


def test_sources_are_found_where_they_are():
    image, background, rows = busy_field(low=8.0)
    found = IslandsDetection().detect(image, background, context=Context())
    xy = positions(found)
    _, j = match(xy[:, 0], xy[:, 1], rows[:, 1], rows[:, 2], 2.5)
    assert len(j) == len(rows)
    assert len(xy) <= len(rows) + 3


@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05, 0.1])
def test_false_discovery_rate_is_kept(natural, rate):
    found, false = 0, 0
    for seed in range(6):
        image, background, rows = busy_field(seed, natural)
        detector = IslandsDetection(false_discovery_rate=rate)
        xy = positions(detector.detect(image, background, context=Context()))
        i, _ = match(xy[:, 0], xy[:, 1], rows[:, 1], rows[:, 2], 5.0)
        found += len(xy)
        false += len(xy) - len(i)
    # Expected false ones and 4 standard errors; the field has about 300 sources.
    expected = rate * found
    assert abs(false - expected) < 4 * np.sqrt(expected) + 0.15 * expected


@pytest.mark.parametrize("flood", [2.5, 3.0, 4.0])
def test_a_threshold_found_and_the_same_one_given_find_the_same(flood):
    image, background, _ = busy_field(2)
    context = Context()
    found = IslandsDetection(flood_threshold=flood).detect(image, background, context=context)
    seed = context.notes["detection_thresholds"]["seed"]
    detector = IslandsDetection(flood_threshold=flood, seed_threshold=seed)
    given = detector.detect(image, background, context=Context())
    np.testing.assert_array_equal(found.segments.indices, given.segments.indices)
    np.testing.assert_array_equal(found.segments.offsets, given.segments.offsets)
    np.testing.assert_array_equal(found.summit, given.summit)


def test_invariance_under_flips_and_transposition():
    image, background, _ = busy_field(3)
    reference = np.sort(positions(IslandsDetection().detect(image, background, context=Context())))
    for turn, back in [
        (lambda a: a[::-1], lambda p: np.stack([p[:, 0], SHAPE[0] - 1 - p[:, 1]], -1)),
        (lambda a: a[:, ::-1], lambda p: np.stack([SHAPE[1] - 1 - p[:, 0], p[:, 1]], -1)),
    ]:
        from cyclades.stages.core.beam import PointSpread

        mirrored = BEAM * np.array([[1, -1], [-1, 1]])
        turned = image.replace(
            data=np.ascontiguousarray(turn(image.data)), psf=PointSpread(mirrored)
        )
        found = positions(IslandsDetection().detect(turned, background, context=Context()))
        expected = reference[np.lexsort(reference.T)]
        result = np.sort(back(found))
        result = result[np.lexsort(result.T)]
        assert len(result) == len(expected)
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_significance_counts_not_flux():
    image, background, _ = busy_field(4)
    scale = np.linspace(1, 3, SHAPE[1], dtype=np.float32)[None, :]
    scaled = image.replace(data=image.data * scale + 7)
    maps = Background(background.level + 7, background.rms * scale)
    first = IslandsDetection().detect(image, background, context=Context())
    second = IslandsDetection().detect(scaled, maps, context=Context())
    np.testing.assert_allclose(positions(first), positions(second), atol=1e-2)


def test_negative_sources_are_optional_and_signed():
    rows = source_rows(
        [30.0, -30.0, 40.0, -25.0, -20.0], [30, 80, 130, 30, 38], [30] * 3 + [90] * 2
    )
    image, background = sky_image(
        rows, (160, 160), correlated_noise((160, 160), np.random.default_rng(5))
    )
    plain = IslandsDetection().detect(image, background, context=Context())
    assert len(plain.leaves) == 2
    both = IslandsDetection(negative=True).detect(image, background, context=Context())
    assert sorted(both.signs[both.leaves].tolist()) == [-1, -1, -1, 1, 1]
    assert (both.parent < np.arange(len(both))).all()
    child = np.flatnonzero(both.parent >= 0)
    assert (both.signs[child] == both.signs[both.parent[child]]).all()


def test_flood_above_seed_is_refused():
    with pytest.raises(ValidationError, match="must not exceed"):
        IslandsDetection(seed_threshold=4.0, flood_threshold=5.0)


def test_thresholds_are_noted():
    image, background, _ = busy_field(6)
    context = Context()
    IslandsDetection(false_discovery_rate=0.01).detect(image, background, context=context)
    thresholds = context.notes["detection_thresholds"]
    assert 3.0 < thresholds["seed"] < 5.5
    assert thresholds["flood"] <= thresholds["seed"]


def test_a_given_threshold_is_kept():
    image, background, _ = busy_field(6)
    context = Context()
    IslandsDetection(seed_threshold=6.5).detect(image, background, context=context)
    assert context.notes["detection_thresholds"]["seed"] == 6.5


def test_artefacts_of_the_inverted_image_raise_the_threshold_to_five():
    image, background, _ = busy_field(6)
    clean, striped = Context(), Context()
    detector = IslandsDetection(false_discovery_rate=0.05)
    detector.detect(image, background, context=clean)
    # Sixty holes as deep as faint sources are high: far more than noise makes of either sign.
    rng = np.random.default_rng(9)
    x, y = rng.uniform(10, SHAPE[0] - 10, (2, 60))
    holes, _ = sky_image(source_rows(-7.0, x, y), SHAPE, np.zeros(SHAPE))
    detector.detect(image.replace(data=image.data + holes.data), background, context=striped)
    assert clean.notes["detection_thresholds"]["seed"] < 4.5
    assert striped.notes["detection_thresholds"]["seed"] == 5.0


def test_poisson_lower_limits():
    """Of Gehrels (1986), table 2, at 95 %."""
    limits = poisson_lower_limit([0, 1, 2, 10], 0.95)
    np.testing.assert_allclose(limits, [0.0, 0.0513, 0.355, 5.43], rtol=2e-3)


def test_smoothing_finds_what_no_pixel_shows():
    """Sources of 4 beams' size whose peaks are at 2.5 rms, and hardly anything in plain noise."""
    rng = np.random.default_rng(7)
    x, y = lattice(SHAPE, 70, rng)
    rows = source_rows(2.5, x, y, BEAM * 16)
    image, background = sky_image(rows, SHAPE, correlated_noise(SHAPE, rng))
    plain = IslandsDetection().detect(image, background, context=Context())
    smooth = IslandsDetection(scales=(2.0, 4.0)).detect(image, background, context=Context())
    assert len(plain.islands) < 0.4 * len(rows)
    xy = positions(smooth)
    found = match(xy[:, 0], xy[:, 1], x, y, 10.0)[1]
    assert len(found) > 0.9 * len(rows)
    flagged = smooth.flags[smooth.leaves] & Flag.SMOOTHED > 0
    assert np.count_nonzero(flagged) == len(smooth.islands) - len(plain.islands)
    assert (smooth.segments.lengths > 0).all()
    empty, flat = sky_image(source_rows(0.0, x[:1], y[:1]), SHAPE, correlated_noise(SHAPE, rng))
    noise = IslandsDetection(scales=(2.0, 4.0)).detect(empty, flat, context=Context())
    assert len(noise.islands) <= 2


def test_smoothed_sources_are_measured():
    rng = np.random.default_rng(8)
    x, y = lattice(SHAPE, 70, rng)
    rows = source_rows(3.0, x, y, BEAM * 16)
    image, background = sky_image(rows, SHAPE, correlated_noise(SHAPE, rng))
    context = Context()
    detector = IslandsDetection(scales=(2.0, 4.0), seed_threshold=5.0)
    found = detector.detect(image, background, context=context)
    measured = GaussianCharacterization().measure(image, background, found, context=context)
    i, _ = match(measured.x, measured.y, x, y, 10.0)
    # Totals of 16 beams each, with errors near 20 %: 81 sources give the median to 3 %.
    assert np.median(measured.total[i]) == pytest.approx(3.0 * 16, rel=0.15)
