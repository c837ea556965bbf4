"""The training of associations: images lose the light of what windows leave out."""

import numpy as np
import pytest

from cyclades.pipeline.simulation.field import simulate
from cyclades.pipeline.simulation.render import drawn
from cyclades.pipeline.training.association import (
    FALLING,
    RISING,
    boost,
    detector_of,
    field_options,
    fold_of,
)
from cyclades.pipeline.training.association_pairs import changed, sky_numbers
from cyclades.stages.cataloguing.pairs import CONTEXT, FEATURES


def test_an_object_that_is_left_out_leaves_its_noise_alone():
    field = simulate(field_options(60.0, np.random.default_rng(7), size=300), 7)
    numbers = sky_numbers(field)
    assert len(set(numbers.values())) == len(numbers) > 10
    shapes = drawn(field.sky, field.image.psf)
    lost = [shapes.values[shapes.starts[n] : shapes.starts[n + 1]] for n in numbers.values()]
    none = field.truth.catalogue.sources[:0]
    empty = (changed(field.image, lost, none).data - field.level) / field.rms
    before = (field.image.data - field.level) / field.rms
    assert before.max() > 20.0
    # what is left is noise and objects too faint for the truth
    assert np.abs(empty).max() < 8.0
    assert np.array_equal(changed(field.image, [], none).data, field.image.data)


def test_detectors_are_independent_of_stripes_and_folds():
    seeds = range(20000, 20080)
    kinds = [(seed % 2, fold_of(seed), detector_of(seed)) for seed in seeds]
    assert {kinds.count(kind) for kind in kinds} == {10}
    assert len(set(kinds)) == 8


def test_no_feature_that_speaks_for_one_source_speaks_against_it():
    pytest.importorskip("sklearn", exc_type=ImportError)
    generator = np.random.default_rng(5)
    features = generator.uniform(0.0, 1.0, (3000, len(FEATURES)))
    light, chance = FEATURES.index("bridge"), FEATURES.index("chance")
    # a training set in which chance joins and light parts, against what is known of either
    true = features[:, chance] - features[:, light] + generator.normal(0.0, 0.3, 3000) > 0.0
    tried = np.full((50, len(FEATURES)), 0.5)
    tried[:, light] = np.linspace(0.0, 1.0, 50)
    turned = np.full((50, len(FEATURES)), 0.5)
    turned[:, chance] = tried[:, light]
    free = boost(features, true, np.ones(3000), rounds=20, limits=False)
    assert free.log_odds(tried)[-1] < free.log_odds(tried)[0] - 0.5
    held = boost(features, true, np.ones(3000), rounds=20)
    assert np.all(np.diff(held.log_odds(tried)) >= -1e-12)
    assert np.all(np.diff(held.log_odds(turned)) <= 1e-12)
    assert set(RISING) | set(FALLING) <= {*FEATURES, *CONTEXT}
    assert not set(RISING) & set(FALLING)
