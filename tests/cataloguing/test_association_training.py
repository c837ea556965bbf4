"""The training of associations: images lose the light of what windows leave out."""

import numpy as np

from cyclades.pipeline.simulation.field import simulate
from cyclades.pipeline.simulation.render import drawn
from cyclades.pipeline.training.association import field_options
from cyclades.pipeline.training.association_pairs import changed, sky_numbers


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
