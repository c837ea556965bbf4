"""What objects look like: the elements of galaxies, radio galaxies and diffuse emission.

Every function makes n objects at once and returns `Elements` of shape (n, k): k elements an
object, about its position, with shares of its flux. Lengths are in any unit; an element of no
share is not there.
"""

from typing import NamedTuple

import numpy as np

from cyclades.pipeline.simulation.model import DISC, GAUSSIAN, Floats, Integers
from cyclades.stages.core.geometry import SIGMA_TO_FWHM

BENT_KNOTS = 5
DIFFUSE_ELEMENTS = 24


class Elements(NamedTuple):
    """Elements of n objects, each array of shape (n, k).

    Attributes
    ----------
    x, y : ndarray
        Offsets from the object's position.
    share : ndarray
        Share of the object's flux; the shares of an object sum to one.
    major, minor : ndarray
        FWHM of Gaussians; of a disc, FWHM of the Gaussian with its second moments.
    angle : ndarray
        Radians from +x towards +y of the major axis.
    core : ndarray of bool
        Whether the element is an active nucleus, with a flat spectrum.
    kind : int
        `GAUSSIAN` or `DISC`.
    """

    x: Floats
    y: Floats
    share: Floats
    major: Floats
    minor: Floats
    angle: Floats
    core: Integers
    kind: int = GAUSSIAN


def points(n: int) -> Elements:
    """Objects without extent."""
    zero = np.zeros((n, 1))
    return Elements(zero, zero, zero + 1.0, zero, zero, zero, zero.astype(np.int64))


def galaxies(extent: Floats, generator: np.random.Generator) -> Elements:
    """Elliptical Gaussians with axis ratios from 0.3 to 1; `extent` is the major FWHM."""
    return _single(extent, generator, GAUSSIAN)


def discs(extent: Floats, generator: np.random.Generator) -> Elements:
    """Uniform elliptical discs, as of nearby galaxies; `extent` is the largest diameter."""
    # a uniform disc of diameter D has the variance D^2 / 16 along an axis
    return _single(0.25 * SIGMA_TO_FWHM * extent, generator, DISC)


def _single(major: Floats, generator: np.random.Generator, kind: int) -> Elements:
    n = len(major)
    zero = np.zeros((n, 1))
    ratio = generator.uniform(0.3, 1.0, (n, 1))
    angle = generator.uniform(0.0, np.pi, (n, 1))
    column = major[:, None]
    core = zero.astype(np.int64)
    return Elements(zero, zero, zero + 1.0, column, column * ratio, angle, core, kind)


def doubles(extent: Floats, generator: np.random.Generator) -> Elements:
    """Straight radio galaxies: core, two lobes, two hot spots, two jets.

    The two classes of Fanaroff & Riley (1974, MNRAS 167, 31P): in half of them (II) the lobes
    are brightest at their outer ends, where the hot spots are, in the others (I) near the core.
    Either has arms of unequal length and flux, and a jet that is brighter on one side.

    Parameters
    ----------
    extent : ndarray, shape (n,)
        Distance between the outer ends of the lobes.
    generator : numpy.random.Generator
    """
    n = len(extent)
    second = generator.random((n, 1)) < 0.5
    axis = generator.uniform(0.0, 2.0 * np.pi, (n, 1))
    # column 0 is one side, column 1 the other
    split = 0.5 + 0.12 * generator.standard_normal((n, 1)).clip(-2.0, 2.0)
    arm = extent[:, None] * np.concatenate([split, 1.0 - split], 1)
    bend = axis + np.array([[0.0, np.pi]]) + generator.normal(0.0, 0.06, (n, 2))

    core = 10.0 ** generator.uniform(-2.0, -0.5, (n, 1))
    jets = 10.0 ** generator.uniform(-2.0, -0.7, (n, 1))
    beaming = 10.0 ** generator.uniform(0.0, 1.0, (n, 1))
    jet = jets * np.concatenate([beaming, np.ones((n, 1))], 1) / (1.0 + beaming)
    ratio = np.exp(generator.normal(0.0, 0.35, (n, 1)))
    side = (1.0 - core - jets) * np.concatenate([ratio, np.ones((n, 1))], 1) / (1.0 + ratio)
    hot = np.where(second, generator.uniform(0.15, 0.5, (n, 2)), 0.0)

    length = arm * np.where(second, 0.40, 0.55)
    width = length * generator.uniform(0.35, 0.8, (n, 2))
    middle = arm * np.where(second, 0.72, 0.42)
    spot = arm * 0.06
    direction = np.stack([np.cos(bend), np.sin(bend)])
    lobe_x, lobe_y = direction * middle
    spot_x, spot_y = direction * arm * 0.95
    jet_x, jet_y = direction * middle * 0.5
    zero = np.zeros((n, 1))
    return Elements(
        np.concatenate([zero, lobe_x, spot_x, jet_x], 1),
        np.concatenate([zero, lobe_y, spot_y, jet_y], 1),
        np.concatenate([core, side * (1.0 - hot), side * hot, jet], 1),
        np.concatenate([zero, length, spot, middle * 0.7], 1),
        np.concatenate([zero, width, spot, middle * 0.05], 1),
        np.concatenate([zero, bend, bend, bend], 1),
        np.tile(np.array([1] + [0] * 6), (n, 1)),
    )


def bent(extent: Floats, generator: np.random.Generator) -> Elements:
    """Bent-tail radio galaxies: a core, and two tails that curve to the same side.

    Each tail is an arc of overlapping Gaussians that widen outwards; wide-angle tails are
    brightest at some distance from the core, narrow-angle tails near it.

    Parameters
    ----------
    extent : ndarray, shape (n,)
        Length of the two tails together, along the arcs.
    generator : numpy.random.Generator
    """
    n, k = len(extent), BENT_KNOTS
    axis = generator.uniform(0.0, 2.0 * np.pi, (n, 1, 1))
    turn = np.radians(generator.uniform(30.0, 110.0, (n, 1, 1)))
    asymmetry = 1.0 + 0.15 * generator.standard_normal((n, 2, 1)).clip(-2.0, 2.0)
    length = 0.5 * extent[:, None, None] * asymmetry
    place = (np.arange(k) + 0.6) / k
    # an arc of constant curvature that leaves the core at a right angle to its symmetry axis
    sign = np.array([1.0, -1.0])[None, :, None]
    heading = turn * place
    along = length * np.sin(heading) / turn
    aside = length * (1.0 - np.cos(heading)) / turn
    cos, sin = np.cos(axis), np.sin(axis)
    x = cos * sign * along - sin * aside
    y = sin * sign * along + cos * aside
    direction = axis + sign * heading

    core = 10.0 ** generator.uniform(-2.0, -0.5, (n, 1))
    peak = generator.uniform(0.1, 0.7, (n, 1, 1))
    weight = np.exp(-(((place - peak) / 0.45) ** 2)) * generator.uniform(0.6, 1.4, (n, 2, k))
    weight *= np.exp(generator.normal(0.0, 0.3, (n, 2, 1)))
    weight *= (1.0 - core)[:, :, None] / weight.sum((1, 2), keepdims=True)
    step = length / k * np.ones(k)
    width = length * (0.06 + 0.22 * place) * generator.uniform(0.6, 1.3, (n, 1, 1))
    major, minor = np.maximum(1.3 * step, width), np.minimum(1.3 * step, width)
    angle = np.where(1.3 * step >= width, direction, direction + 0.5 * np.pi)
    zero = np.zeros((n, 1))

    def flat(values: Floats) -> Floats:
        return np.concatenate([zero, values.reshape(n, 2 * k)], 1)

    share = flat(weight)
    share[:, :1] = core
    core_flag = np.tile(np.array([1] + [0] * (2 * k)), (n, 1))
    return Elements(flat(x), flat(y), share, flat(major), flat(minor), flat(angle), core_flag)


def diffuse(extent: Floats, generator: np.random.Generator) -> Elements:
    """Diffuse emission: many overlapping Gaussians without a core.

    Two thirds are clouds (haloes, star-forming regions), one third arcs of shells (relics,
    supernova remnants).

    Parameters
    ----------
    extent : ndarray, shape (n,)
        Diameter that holds nearly all of it.
    generator : numpy.random.Generator
    """
    n, k = len(extent), DIFFUSE_ELEMENTS
    size = extent[:, None]
    shell = generator.random((n, 1)) < 1.0 / 3.0
    ratio = generator.uniform(0.4, 1.0, (n, 1))
    cloud_x, cloud_y = 0.18 * generator.standard_normal((2, n, k)).clip(-2.2, 2.2)
    opening = generator.uniform(0.5, 2.0, (n, 1)) * np.pi
    around = opening * generator.random((n, k))
    radius = 0.4 + 0.02 * generator.standard_normal((n, k))
    u = size * np.where(shell, radius * np.cos(around), cloud_x)
    v = size * ratio * np.where(shell, radius * np.sin(around), cloud_y)
    turn = generator.uniform(0.0, 2.0 * np.pi, (n, 1))
    weight = generator.gamma(1.5, size=(n, k))
    weight /= weight.sum(1, keepdims=True)
    major = size * np.where(shell, 0.12, 0.25) * generator.uniform(0.6, 1.4, (n, k))
    minor = major * generator.uniform(0.5, 1.0, (n, k))
    return Elements(
        u * np.cos(turn) - v * np.sin(turn),
        u * np.sin(turn) + v * np.cos(turn),
        weight,
        major,
        minor,
        generator.uniform(0.0, np.pi, (n, k)),
        np.zeros((n, k), np.int64),
    )
