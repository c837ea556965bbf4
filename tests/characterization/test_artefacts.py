"""Pieces that calibration errors tear off bright sources."""

import numpy as np
import pytest
from skies import correlated_noise, sky_image, source_rows

from cyclades.pipeline.chain import Pipeline
from cyclades.stages.characterization.artefacts import holes, likely_artefacts
from cyclades.stages.core.flags import Flag

SHAPE = (500, 500)
NEAR, SPARED, FAR = (172.0, 150.0), (128.0, 150.0), (350.0, 360.0)
"""A piece of the bright source, a real source at the same distance, and one far from it."""


@pytest.fixture(scope="module")
def sky():
    x, y = np.array([(150.0, 150.0), (150.0, 172.0), NEAR, SPARED, FAR]).T
    rows = source_rows([800.0, -8.0, 9.0, 15.0, 9.0], x, y)
    noise = correlated_noise(SHAPE, np.random.default_rng(3))
    return sky_image(rows, SHAPE, noise)


def near(x, y, place):
    return np.hypot(x - place[0], y - place[1]) < 3.0


def test_only_low_peaks_between_holes_near_a_bright_source(sky):
    image, background = sky
    x, y = np.array([(150.0, 150.0), NEAR, SPARED, FAR]).T
    peak = np.array([800.0, 9.0, 15.0, 9.0])
    found = likely_artefacts(image, background, x, y, peak, 1.5)
    np.testing.assert_array_equal(found, [False, True, False, False])
    assert likely_artefacts(image, background, x, y, peak, 3.0).sum() == 2
    # without the bright source there is nothing that they could be pieces of
    assert not likely_artefacts(image, background, x[1:], y[1:], peak[1:], 1.5).any()
    assert not likely_artefacts(image, background, x, y, -peak, 1.5).any()
    unknown = image.replace(psf=None)
    assert not likely_artefacts(unknown, background, x, y, peak, 1.5).any()


def test_one_pixel_stands_for_a_hole(sky):
    x, y, depth = holes(*sky, 5)
    deepest = np.argmax(depth)
    assert near(x[deepest], y[deepest], (150.0, 172.0))
    assert 6.0 < depth[deepest] < 11.0
    assert len(depth) < 8


@pytest.mark.parametrize(
    ("parameters", "kept", "flagged"),
    [({}, False, False), ({"artefacts": "flag"}, True, True), ({"artefact_ratio": 0}, True, False)],
)
def test_artefacts_are_dropped_or_flagged(sky, parameters, kept, flagged):
    image, _ = sky
    chosen = {"name": "gaussian", **parameters}
    result = Pipeline.from_route().replace(characterization=chosen).run(image, workers=1)
    found = result.catalogue.components
    x, y = (np.asarray(found[name].value) for name in ("x", "y"))
    marked = np.asarray(found["flags"]) & Flag.ARTEFACT > 0
    assert near(x, y, NEAR).any() == kept
    assert near(x, y, SPARED).any()
    assert near(x, y, FAR).any()
    assert marked.any() == flagged
    assert near(x[marked], y[marked], NEAR).all()
    assert ("artefacts" in result.provenance["notes"]) == (parameters != {"artefact_ratio": 0})
    assert len(found) == len(result.components)
