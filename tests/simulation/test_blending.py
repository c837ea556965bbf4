"""Objects that do not stand out from a brighter neighbour are told."""

import numpy as np
import pytest
from sky_cases import geometry, make_sky

from cyclades.pipeline.simulation.blending import blended_objects
from cyclades.pipeline.simulation.objects import observe_objects
from cyclades.pipeline.simulation.render import drawn

FRAME = geometry(128)
RMS = np.full(FRAME.shape, 1e-3, np.float32)
MAJOR, MINOR = 5.0, 4.0


def seen(sky):
    """Objects by number, and whether each is blended."""
    clean = np.zeros(FRAME.shape, np.float32)
    chosen = np.ones(len(sky.object_class), bool)
    objects = observe_objects(sky, FRAME.psf, drawn(sky, FRAME.psf), RMS, clean, chosen)
    result = np.zeros(len(chosen), bool)
    result[objects.number] = blended_objects(objects, clean, RMS)
    assert set(objects.number) == set(range(len(chosen)))
    return result.tolist()


def test_objects_far_apart_are_not_blended():
    assert seen(make_sky([30, 60, 90], [30, 80, 40], [0.01, 1.0, 0.05])) == [False] * 3


@pytest.mark.parametrize(("beams", "expected"), [(0.5, True), (2.5, False)])
def test_the_fainter_of_two_points_is_blended_within_a_beam(beams, expected):
    # along the major axis at 30 degrees from north, which is at the left of up
    step = beams * MAJOR * np.array([-np.sin(np.radians(30.0)), np.cos(np.radians(30.0))])
    pair = make_sky([64, 64 + step[0]], [64, 64 + step[1]], [0.05, 0.03])
    assert seen(pair) == [False, expected]


def test_a_dip_below_the_noise_does_not_part_two_points():
    # two equal points 1.3 beams apart: the saddle is 0.35 of the peak below it
    x = np.array([64.0, 64.0 + 1.3 * MAJOR * np.sin(np.radians(30.0))])
    y = np.array([64.0, 64.0 - 1.3 * MAJOR * np.cos(np.radians(30.0))])
    assert seen(make_sky(x, y, [0.0401, 0.04])) == [False, False]
    assert seen(make_sky(x, y, [0.00401, 0.004])) == [False, True]


def test_a_point_on_the_flank_of_a_galaxy_is_blended_and_one_that_rises_above_it_is_not():
    # a round Gaussian of 6 pixels sigma; its flank falls by 0.1 of its peak a pixel
    shape = ([36.0, 0.0], [0.0, 0.0], [36.0, 0.0])
    for flux, expected in ((0.006, True), (0.1, False)):
        sky = make_sky([64, 70], [64, 64], [3.0, flux], shape)
        assert seen(sky) == [False, expected]


def test_a_galaxy_of_several_components_is_never_blended():
    sky = make_sky([50, 78, 64], [64, 64, 64], [0.05, 0.05, 0.5], owner=[0, 0, 1])
    assert seen(sky) == [False, False]
    one = make_sky([64, 64], [64, 65], [0.05, 0.5], owner=[0, 1])
    assert seen(one) == [True, False]


def test_a_brighter_object_outside_the_image_counts():
    # the centre of a bright galaxy 4 pixels beyond the edge
    shape = ([36.0, 0.0], [0.0, 0.0], [36.0, 0.0])
    clean = np.zeros(FRAME.shape, np.float32)
    sky = make_sky([-4, 4], [64, 64], [3.0, 0.006], shape)
    objects = observe_objects(sky, FRAME.psf, drawn(sky, FRAME.psf), RMS, clean, np.ones(2, bool))
    blended = dict(zip(objects.number, blended_objects(objects, clean, RMS), strict=True))
    assert blended[1]
