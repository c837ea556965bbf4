"""Objects drawn to learn measurements from: points, Gaussians and galaxies, beam included.

Objects are drawn flat in the logarithm of their peak, from far below the threshold of detection to
far above it, and flat in the logarithm of their size. Profiles narrower than the beam are among
them: no source has one, but noise makes a source look like one, and a network that never meets any
takes points for wider than they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from cyclades.pipeline.simulation import galaxies
from cyclades.pipeline.simulation.galaxies import Elements
from cyclades.pipeline.simulation.model import DISC
from cyclades.pipeline.simulation.render import disc_nodes
from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    Floats,
    determinant,
    inverse,
)
from cyclades.stages.core.products import Integers
from cyclades.stages.networks.region_windows import symmetric_root

KINDS = ("gaussian", "disc", "double", "bent", "diffuse")
GAUSSIAN_KIND = 0
BEAM_PIXELS = (3.2, 8.0)
BEAM_RATIO = (0.4, 1.0)
GAUSSIAN_SNR = (2.0, 1000.0)
OTHER_SNR = (2.5, 400.0)
SIZES = {"disc": (1.0, 8.0), "double": (1.0, 14.0), "bent": (1.0, 14.0), "diffuse": (2.5, 14.0)}
"""In beams; see `cyclades.pipeline.simulation.galaxies`."""
SPACING = 9.0
"""Objects are this many beams apart on average."""
COMPANIONS = 0.3
"""Share of the Gaussians that lie beside another one."""
LOGARITHMS = (-0.7, 3.0)
"""Eigenvalues of the logarithm of Gaussians' covariances over the beam's: a half to four and a half
beams wide."""
NEAR_POINTS = (-0.6, 0.9)
ELONGATED = 1.4
"""Largest half difference of the two eigenvalues."""


@dataclass(frozen=True, eq=False)
class TrueObjects:
    """Objects in pixels of a plane, drawn from Gaussians that include the beam.

    Attributes
    ----------
    values : ndarray, shape (m, 6)
        ``peak, x, y, sxx, sxy, syy`` of the elements, in rms.
    owner : ndarray of int, shape (m,)
        Object of each, ascending.
    kind : ndarray of int, shape (n,)
        Position in `KINDS`.
    """

    values: Floats
    owner: Integers
    kind: Integers

    @property
    def precision(self) -> Floats:
        """Inverse covariances of the elements."""
        return inverse(self.values[:, [3, 4, 4, 5]].reshape(-1, 2, 2))


def random_beam(generator: Generator) -> Floats:
    """Covariance of a beam in pixels squared."""
    size = np.exp(generator.uniform(*np.log(BEAM_PIXELS))) / SIGMA_TO_FWHM
    ratio = generator.uniform(*BEAM_RATIO)
    angle = generator.uniform(0.0, np.pi)
    axis = np.array([np.cos(angle), np.sin(angle)])
    return np.asarray(size**2 * (np.outer(axis, axis) * (1 / ratio - ratio) + ratio * np.eye(2)))


def draw_objects(
    generator: Generator,
    beam: Floats,
    side: int,
    *,
    shares: tuple[float, ...] = (0.5, 0.1, 0.14, 0.14, 0.12),
    sizes: dict[str, tuple[float, float]] | None = None,
    slope: float | None = None,
    spacing: float = SPACING,
    companions: float = COMPANIONS,
) -> TrueObjects:
    """Draw objects anywhere on a plane.

    Parameters
    ----------
    generator : numpy.random.Generator
    beam : ndarray, shape (2, 2)
    side : int
        Of the plane in pixels.
    shares : tuple of float
        Of the kinds.
    sizes : dict, optional
        Ranges of extents in beams, by kind, in place of `SIZES`; of ``gaussian``, the intrinsic
        major FWHM, log-uniform, where half of the Gaussians are points.
    slope : float, optional
        Of differential counts in the peak (``dN/dS ~ S^-slope``) in place of flat ones.
    spacing : float
        Mean distance in beams.
    companions : float
        Share of the Gaussians that lie beside another one.
    """
    fwhm = SIGMA_TO_FWHM * float(determinant(beam)) ** 0.25
    number = max(4, int((side / (spacing * fwhm)) ** 2))
    kind = np.sort(generator.choice(len(KINDS), number, p=shares))
    ranges = {**SIZES, **(sizes or {})}
    margin = 2.0 * fwhm
    values: list[Floats] = []
    owner: list[Integers] = []
    kinds: list[int] = []
    root = symmetric_root(beam[None])[0]
    for k, name in enumerate(KINDS):
        n = int(np.count_nonzero(kind == k))
        if n == 0:
            continue
        if name == "gaussian":
            shapes = _gaussian_shapes(generator, n, root, beam, ranges.get("gaussian"), fwhm)
            parts = [_one(shape) for shape in shapes]
        else:
            low, high = np.log(ranges[name])
            extent = np.exp(generator.uniform(low, high, n)) * fwhm
            parts = _elements(name, extent, beam, generator)
        low, high = GAUSSIAN_SNR if name == "gaussian" else OTHER_SNR
        for part in parts:
            snr = _draw_snr(generator, low, high, slope)
            place = generator.uniform(margin, side - 1 - margin, 2)
            group = [(part, snr, place)]
            if name == "gaussian" and generator.random() < companions:
                other = parts[generator.integers(len(parts))]
                width = 0.5 * (part[0, 3] * part[0, 5]) ** 0.25
                width += 0.5 * (other[0, 3] * other[0, 5]) ** 0.25
                angle = generator.uniform(0.0, 2.0 * np.pi)
                apart = generator.uniform(0.7, 3.5) * SIGMA_TO_FWHM * width
                offset = apart * np.array([np.cos(angle), np.sin(angle)])
                ratio = np.exp(generator.uniform(np.log(0.1), 0.0))
                group.append((other, snr * ratio, place + offset))
            for rows, peak, (x, y) in group:
                made = rows.copy()
                made[:, 0] *= peak / _highest(rows)
                made[:, 1] += x
                made[:, 2] += y
                owner.append(np.full(len(made), len(kinds)))
                values.append(made)
                kinds.append(k)
    return TrueObjects(
        np.concatenate(values), np.concatenate(owner).astype(np.int64), np.array(kinds, np.int64)
    )


def _draw_snr(generator: Generator, low: float, high: float, slope: float | None) -> float:
    if slope is None:
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))
    power = 1.0 - slope
    u = generator.random()
    return float((low**power + u * (high**power - low**power)) ** (1.0 / power))


def _gaussian_shapes(
    generator: Generator,
    n: int,
    root: Floats,
    beam: Floats,
    sizes: tuple[float, float] | None,
    fwhm: float,
) -> Floats:
    """Covariances of Gaussians, beam included: flat in the logarithm's elements, or real ones."""
    if sizes is not None:
        low, high = np.log(sizes)
        major = np.exp(generator.uniform(low, high, n)) * fwhm / SIGMA_TO_FWHM
        major *= generator.random(n) < 0.5
        minor = major * generator.uniform(0.3, 1.0, n)
        angle = generator.uniform(0.0, np.pi, n)
        axis = np.stack([np.cos(angle), np.sin(angle)], -1)
        own = axis[:, :, None] * axis[:, None, :] * (major**2 - minor**2)[:, None, None]
        return np.asarray(own + (minor**2)[:, None, None] * np.eye(2) + beam)
    made = np.empty((n, 2, 2))
    for i in range(n):
        least, most = NEAR_POINTS if generator.random() < 0.45 else LOGARITHMS
        while True:
            mean = generator.uniform(least, most)
            u, v = generator.uniform(-ELONGATED, ELONGATED, 2)
            if mean - np.hypot(u, v) > least and mean + np.hypot(u, v) < most:
                break
        r = float(np.hypot(u, v))
        c, s = np.exp(mean) * np.cosh(r), np.exp(mean) * np.sinh(r) / max(r, 1e-9)
        made[i] = c * np.eye(2) + s * np.array([[u, v], [v, -u]])
    return np.asarray(root @ made @ root)


def _one(shape: Floats) -> Floats:
    return np.array([[1.0, 0.0, 0.0, shape[0, 0], shape[0, 1], shape[1, 1]]])


def _elements(name: str, extent: Floats, beam: Floats, generator: Generator) -> list[Floats]:
    """Elements about (0, 0) with the beam, of objects of a kind."""
    makers = {
        "disc": galaxies.discs,
        "double": galaxies.doubles,
        "bent": galaxies.bent,
        "diffuse": galaxies.diffuse,
    }
    parts: Elements = makers[name](extent, generator)
    a2, b2 = (parts.major / SIGMA_TO_FWHM) ** 2, (parts.minor / SIGMA_TO_FWHM) ** 2
    cos, sin = np.cos(parts.angle), np.sin(parts.angle)
    own = np.stack(
        [a2 * cos**2 + b2 * sin**2, (a2 - b2) * sin * cos, a2 * sin**2 + b2 * cos**2], -1
    )
    made = []
    for i in range(len(extent)):
        if parts.kind == DISC:
            shape = own[i, 0][[0, 1, 1, 2]].reshape(2, 2)
            offsets, weights = disc_nodes(shape, beam)
            shapes = np.tile([0.0, 0.0, 0.0], (len(weights), 1))
        else:
            kept = parts.share[i] > 0.0
            offsets = np.stack([parts.x[i], parts.y[i]], -1)[kept]
            weights, shapes = parts.share[i][kept], own[i][kept]
        shapes = shapes + beam[[0, 0, 1], [0, 1, 1]]
        area = np.sqrt(shapes[:, 0] * shapes[:, 2] - shapes[:, 1] ** 2)
        made.append(np.column_stack([weights / area, offsets, shapes]))
    return made


def _highest(rows: Floats) -> float:
    """Highest value of a sum of Gaussians, at the centres of its elements or their centroid."""
    flux = rows[:, 0] * np.sqrt(rows[:, 3] * rows[:, 5] - rows[:, 4] ** 2)
    places = np.vstack([rows[:, 1:3], flux @ rows[:, 1:3] / flux.sum()])
    return float(light_at(rows, places).max())


def light_at(rows: Floats, places: Floats) -> Floats:
    """Return the values of a sum of Gaussians at places, shape (k,)."""
    return np.asarray(np.exp(-0.5 * squared_distances(rows, places)).T @ rows[:, 0])


def squared_distances(rows: Floats, places: Floats) -> Floats:
    """Return the squared distances of places in sigmas of Gaussians, shape (elements, places)."""
    p = inverse(rows[:, [3, 4, 4, 5]].reshape(-1, 2, 2))
    dx = places[None, :, 0] - rows[:, 1, None]
    dy = places[None, :, 1] - rows[:, 2, None]
    return np.asarray(
        p[:, 0, 0, None] * dx**2 + 2.0 * p[:, 0, 1, None] * dx * dy + p[:, 1, 1, None] * dy**2
    )
