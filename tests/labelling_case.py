"""A small field whose candidates are labelled in the tests."""

from functools import cache

import numpy as np

from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.labelling.candidates import find_candidates
from cyclades.pipeline.labelling.decisions import Decision, Decisions
from cyclades.pipeline.labelling.page import FORMAT, VERSION
from cyclades.pipeline.simulation.field import FieldOptions, simulate

SEED = 5


@cache
def field():
    """Some dozens of sources."""
    options = FieldOptions.from_mapping({"size": 256, "plain": {"rms": 1e-5}}, name="test")
    return simulate(options, SEED)


@cache
def candidates():
    """What the classical route finds there."""
    config = RouteConfig.from_route("classical")
    return find_candidates(field().image, config, workers=1)


def decisions(*objects, **changes):
    """Decisions about these candidates."""
    held = candidates()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "image": held.image.name,
        "identity": held.identity,
        "configuration": held.result.config.to_mapping(),
        "classes": held.classes,
        "objects": tuple(Decision(**one) for one in objects),
    }
    return Decisions(**(content | changes))


def two_far_apart():
    """Two candidates that do not touch, the brightest first."""
    order = np.argsort(-candidates().snr)
    return int(order[0]), int(order[1])
