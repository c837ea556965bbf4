"""Skies drawn from source counts: what the objects are, where they lie, how they cluster."""

from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from cyclades.pipeline.simulation import galaxies
from cyclades.pipeline.simulation.counts import (
    FREQUENCY,
    Counts,
    HopkinsCounts,
    draw_fluxes,
)
from cyclades.pipeline.simulation.galaxies import Elements
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.model import CLASSES, Floats, Integers, SkyModel
from cyclades.stages.core.geometry import SIGMA_TO_FWHM
from cyclades.stages.core.stage import parameter

MARGIN_BEAMS = 8.0
"""Objects are drawn this far beyond the edges, since their light reaches inside."""

POINT, GALAXY, DISC, DOUBLE, BENT, DIFFUSE = range(6)
_CLASS_OF_KIND = np.array(
    [
        CLASSES.index(name)
        for name in (
            "compact", "extended", "extended", "multi-component", "multi-component", "diffuse"
        )
    ]
)  # fmt: skip


class SkyOptions(BaseModel):
    """A population of radio sources.

    Lengths are in beams (geometric mean FWHM), so that the same options give comparable images
    at every resolution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    counts: Counts = parameter(
        HopkinsCounts(), "Differential source counts of whole objects at 1.4 GHz."
    )
    faintest: float = parameter(
        0.3,
        "Total flux of the faintest objects drawn; those that cannot be found make confusion.",
        unit="lowest rms of the image",
        gt=0.0,
    )
    galaxies: float = parameter(
        0.25, "Share of Gaussian galaxies among bright objects.", ge=0.0, le=1.0
    )
    discs: float = parameter(0.05, "Share of uniform discs among bright objects.", ge=0.0, le=1.0)
    doubles: float = parameter(
        0.15, "Share of straight radio galaxies among bright objects.", ge=0.0, le=1.0
    )
    bent: float = parameter(
        0.07, "Share of bent radio galaxies among bright objects.", ge=0.0, le=1.0
    )
    diffuse: float = parameter(
        0.03, "Share of diffuse emission among bright objects.", ge=0.0, le=1.0
    )
    half_share_flux: float = parameter(
        5e-4,
        "Total flux at which these shares have fallen to half; fainter objects are points, as "
        "distant star-forming galaxies are.",
        unit="Jy at 1.4 GHz",
        ge=0.0,
    )
    galaxy_size: tuple[float, float] = parameter(
        (0.3, 3.0), "Least and largest major axis (FWHM) of galaxies.", unit="beams"
    )
    disc_size: tuple[float, float] = parameter(
        (1.0, 8.0), "Least and largest diameter of discs.", unit="beams"
    )
    radio_galaxy_size: tuple[float, float] = parameter(
        (1.5, 20.0), "Least and largest extent of radio galaxies.", unit="beams"
    )
    diffuse_size: tuple[float, float] = parameter(
        (5.0, 20.0), "Least and largest extent of diffuse emission.", unit="beams"
    )
    blends: float = parameter(
        0.06, "Share of objects that lie beside another one of similar flux.", ge=0.0, le=1.0
    )
    blend_separation: tuple[float, float] = parameter(
        (0.6, 3.0), "Least and largest distance between them.", unit="beams"
    )
    clustered: float = parameter(0.3, "Share of objects that belong to clusters.", ge=0.0, le=1.0)
    cluster_members: float = parameter(8.0, "Mean number of objects of a cluster.", gt=0.0)
    cluster_radius: float = parameter(
        15.0, "Standard deviation of the members' places about their centre.", unit="beams", gt=0.0
    )
    spectral_index: float = parameter(-0.7, "Mean spectral index.")
    spectral_scatter: float = parameter(0.25, "Scatter of the spectral index.", ge=0.0)
    core_spectral_index: float = parameter(-0.1, "Mean spectral index of cores.")

    @model_validator(mode="after")
    def _sensible(self) -> "SkyOptions":
        if self.shares.sum() > 1.0:
            raise ValueError("the shares of galaxies, discs, doubles, bent and diffuse exceed 1")
        for name, value in self:
            if isinstance(value, tuple) and not 0.0 < value[0] <= value[1]:
                raise ValueError(f"{name} needs two positive numbers, the smaller one first")
        return self

    @property
    def shares(self) -> Floats:
        """Shares of the kinds but points among bright objects."""
        return np.array([self.galaxies, self.discs, self.doubles, self.bent, self.diffuse])


class _Objects(NamedTuple):
    """Objects before they have elements: flux in Jy, place in pixels, kind, extent in pixels."""

    flux: Floats
    x: Floats
    y: Floats
    kind: Integers
    extent: Floats


def draw_sky(
    options: SkyOptions, geometry: Geometry, rms: float, generator: np.random.Generator
) -> SkyModel:
    """Draw a sky in and around a field.

    Fluxes are drawn at 1.4 GHz and carried to the field's frequency by each element's spectral
    index. Places are those of a Neyman-Scott process: a share of the objects lie about the
    centres of clusters, the others anywhere; the density is that of the counts on average.

    Parameters
    ----------
    options : SkyOptions
    geometry : Geometry
    rms : float
        Lowest rms of the image, Jy/beam, to which the faintest objects refer.
    generator : numpy.random.Generator

    Returns
    -------
    SkyModel
        At the frequency of the geometry.
    """
    beam = geometry.psf.size
    margin = float(np.ceil(MARGIN_BEAMS * beam))
    ny, nx = geometry.shape
    area = (ny + 2 * margin) * (nx + 2 * margin) * geometry.pixel_scale**2
    scale = (geometry.frequency / FREQUENCY) ** options.spectral_index
    flux = draw_fluxes(options.counts, area, options.faintest * rms / scale, generator)
    x, y = _places(options, len(flux), (ny, nx), margin, beam, generator)
    kind = _kinds(options, flux, generator)
    near, far = options.blend_separation
    x, y = place_beside(options.blends, (beam * near, beam * far), flux, x, y, generator)
    extent = _extents(options, kind, generator) * beam
    sky = _assemble(options, _Objects(flux, x, y, kind, extent), generator)
    sky = sky.at_frequency(geometry.frequency)
    # What libraries of other machines compute differently in the last bit is rounded away.
    return sky.replace(
        flux=sky.flux.astype(np.float32).astype(float),
        **{name: np.round(getattr(sky, name), 6) for name in ("x", "y", "sxx", "sxy", "syy")},
    )


def _places(
    options: SkyOptions,
    n: int,
    shape: tuple[int, int],
    margin: float,
    beam: float,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Uniform places, and those of cluster members, within the field and its margin."""
    low = np.full(2, -margin - 0.5)
    high = np.array([shape[1], shape[0]]) + margin - 0.5
    place = generator.uniform(low, high, (n, 2))
    member = generator.random(n) < options.clustered
    number = int(np.count_nonzero(member))
    if number:
        clusters = max(1, int(generator.poisson(number / options.cluster_members)))
        centre = generator.uniform(low, high, (clusters, 2))[
            generator.integers(clusters, size=number)
        ]
        offset = options.cluster_radius * beam * generator.standard_normal((number, 2))
        # members that leave on one side enter on the other, so that the density stays
        place[member] = low + (centre + offset - low) % (high - low)
    return place[:, 0], place[:, 1]


def _kinds(options: SkyOptions, flux: Floats, generator: np.random.Generator) -> Integers:
    """Kind of each object: the shares of all but points fall towards faint fluxes."""
    draw = generator.random(len(flux))
    bright = flux / (flux + options.half_share_flux)
    with np.errstate(divide="ignore"):
        kind = 1 + np.searchsorted(np.cumsum(options.shares), draw / bright, side="right")
    return np.where(kind > DIFFUSE, POINT, kind).astype(np.int64)


def place_beside(
    share: float,
    separation: tuple[float, float],
    flux: Floats,
    x: Floats,
    y: Floats,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Move some objects beside others of similar flux, which keeps the counts as they are.

    Parameters
    ----------
    share : float
        Of the objects, that lie in such pairs.
    separation : (float, float)
        Least and largest distance in a pair, in pixels.
    flux, x, y : ndarray, shape (n,)
    generator : numpy.random.Generator

    Returns
    -------
    x, y : ndarray, shape (n,)
    """
    chosen = np.flatnonzero(generator.random(len(flux)) < share)
    # neighbours in an order of flux that is blurred by half a magnitude have similar fluxes
    blur = np.exp(0.5 * generator.standard_normal(len(chosen)))
    chosen = chosen[np.argsort(flux[chosen] * blur, kind="stable")]
    pairs = len(chosen) // 2
    first, second = chosen[0 : 2 * pairs : 2], chosen[1 : 2 * pairs : 2]
    distance = generator.uniform(*separation, pairs)
    angle = generator.uniform(0.0, 2.0 * np.pi, pairs)
    x, y = x.copy(), y.copy()
    x[second] = x[first] + distance * np.cos(angle)
    y[second] = y[first] + distance * np.sin(angle)
    return x, y


def _extents(options: SkyOptions, kind: Integers, generator: np.random.Generator) -> Floats:
    """Log-uniform extents in beams."""
    size = options.radio_galaxy_size
    ranges = [(1.0, 1.0), options.galaxy_size, options.disc_size, size, size, options.diffuse_size]
    low, high = np.log(np.array(ranges)).T
    return np.asarray(np.exp(low[kind] + (high - low)[kind] * generator.random(len(kind))))


def _assemble(options: SkyOptions, objects: _Objects, generator: np.random.Generator) -> SkyModel:
    """Make the elements of all objects, sorted by object."""
    makers = {
        GALAXY: galaxies.galaxies,
        DISC: galaxies.discs,
        DOUBLE: galaxies.doubles,
        BENT: galaxies.bent,
        DIFFUSE: galaxies.diffuse,
    }
    count = len(objects.flux)
    index = generator.normal(options.spectral_index, options.spectral_scatter, count)
    columns: list[Floats] = []
    for kind in range(6):
        rows = np.flatnonzero(objects.kind == kind)
        if not rows.size:
            continue
        parts = (
            galaxies.points(rows.size)
            if kind == POINT
            else makers[kind](objects.extent[rows], generator)
        )
        columns.append(_rows(parts, rows, objects, index, options))
    table = np.concatenate(columns) if columns else np.zeros((0, 9))
    table = table[np.argsort(table[:, 7], kind="stable")]
    x, y, flux, sxx, sxy, syy, shape, owner, alpha = (np.ascontiguousarray(c) for c in table.T)
    return SkyModel(
        x=x, y=y, flux=flux, sxx=sxx, sxy=sxy, syy=syy, kind=shape.astype(np.int64),
        spectral_index=alpha, owner=owner.astype(np.int64),
        object_class=_CLASS_OF_KIND[objects.kind].astype(np.int64), frequency=FREQUENCY,
    )  # fmt: skip


def _rows(
    parts: Elements, rows: Integers, objects: _Objects, index: Floats, options: SkyOptions
) -> Floats:
    """Elements of objects of one kind as rows of a table, without those of no flux."""
    a2, b2 = (parts.major / SIGMA_TO_FWHM) ** 2, (parts.minor / SIGMA_TO_FWHM) ** 2
    cos, sin = np.cos(parts.angle), np.sin(parts.angle)
    alpha = index[rows][:, None] + parts.core * (
        options.core_spectral_index - options.spectral_index
    )
    table = np.stack(
        np.broadcast_arrays(
            objects.x[rows][:, None] + parts.x,
            objects.y[rows][:, None] + parts.y,
            objects.flux[rows][:, None] * parts.share,
            a2 * cos**2 + b2 * sin**2,
            (a2 - b2) * sin * cos,
            a2 * sin**2 + b2 * cos**2,
            np.full((1, 1), float(parts.kind)),
            rows[:, None].astype(float),
            alpha,
        ),
        -1,
    )
    return np.asarray(table[parts.share > 0.0])
