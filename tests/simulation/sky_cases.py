"""Small skies of known content."""

import numpy as np

from cyclades.pipeline.simulation.counts import FREQUENCY
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.model import CLASSES, GAUSSIAN, SkyModel


def geometry(size=256, **changes):
    """A field with a beam of 5 by 4 pixels."""
    options = {"pixel": 2 / 3600, "beam": (10 / 3600, 8 / 3600, 30.0), "frequency": FREQUENCY}
    return Geometry.make((size, size), **{**options, **changes})


def make_sky(x, y, flux, shape=(0.0, 0.0, 0.0), *, owner=None, kind=GAUSSIAN, classes=None):
    """A sky of elements; every one an object of its own unless an owner is given."""
    x = np.atleast_1d(np.asarray(x, float))
    n = len(x)
    owner = np.arange(n) if owner is None else np.asarray(owner)
    objects = owner.max(initial=-1) + 1
    sxx, sxy, syy = (np.broadcast_to(np.asarray(value, float), n).copy() for value in shape)
    return SkyModel(
        x=x,
        y=np.broadcast_to(np.asarray(y, float), n).copy(),
        flux=np.broadcast_to(np.asarray(flux, float), n).copy(),
        sxx=sxx,
        sxy=sxy,
        syy=syy,
        kind=np.full(n, kind),
        spectral_index=np.full(n, -0.7),
        owner=owner,
        object_class=np.zeros(objects, int) if classes is None else np.asarray(classes),
        frequency=FREQUENCY,
    )


def from_elements(elements, x, y, flux, class_name):
    """A sky of the objects that a function of `galaxies` made."""
    n, k = elements.x.shape
    a2, b2 = ((axis / np.sqrt(8 * np.log(2))) ** 2 for axis in (elements.major, elements.minor))
    c, s = np.cos(elements.angle), np.sin(elements.angle)
    return make_sky(
        (np.reshape(x, (-1, 1)) + elements.x).ravel(),
        (np.reshape(y, (-1, 1)) + elements.y).ravel(),
        (np.reshape(flux, (-1, 1)) * elements.share).ravel(),
        (
            (a2 * c**2 + b2 * s**2).ravel(),
            ((a2 - b2) * s * c).ravel(),
            (a2 * s**2 + b2 * c**2).ravel(),
        ),
        owner=np.repeat(np.arange(n), k),
        kind=elements.kind,
        classes=np.full(n, CLASSES.index(class_name)),
    )
