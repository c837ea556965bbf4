"""Stars and galaxies drawn from number counts: where they are, how bright in each band, how large.

Counts are power laws in magnitude; colours and sizes are simple distributions that look like the
sky. They are made to test finders: nothing here is fitted to a survey in detail.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from cyclades.pipeline.simulation.model import Floats, Integers
from cyclades.pipeline.simulation.sky import place_beside
from cyclades.stages.core.stage import parameter

BANDS = ("g", "r", "z")
COUNT_BAND = "r"
"""Band of all magnitudes of counts and sizes."""
CLASSES = ("star", "galaxy")
STAR, GALAXY = 0, 1
POINT, DISC, BULGE = 0, 1, 2
NANOJANSKY = 31.4
"""AB magnitude of 1 nJy (Oke & Gunn 1983, ApJ 266, 713)."""
MARGIN = 60.0
"""Objects are drawn this many arcsec beyond the edges, since their light reaches inside."""
BULGE_RADIUS = 0.4
"""Half-light radius of the bulge of a disc galaxy over that of its disc."""
ENVELOPE_RADIUS = 1.6
"""Half-light radius of the disc of an early-type galaxy over that of its bulge."""
THICKNESS = 0.2
"""Axis ratio of a disc seen edge on."""


class MagnitudeCounts(BaseModel):
    """Objects per magnitude as a power law: ``dN/dm = density 10^(slope (m - 20))``, m in r."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    density: float = parameter(
        1700.0, "Objects at r = 20.", unit="per square degree and magnitude", ge=0.0
    )
    slope: float = parameter(0.16, "Logarithmic slope.", unit="per magnitude", gt=0.0, le=1.0)
    brightest: float = parameter(15.0, "Magnitude of the brightest objects.", unit="mag")

    def number(self, faintest: float) -> float:
        """Return the expected number of objects a square degree down to a magnitude."""
        if faintest <= self.brightest:
            return 0.0
        step = self.slope * np.log(10.0)
        low, high = (np.exp(step * (m - 20.0)) for m in (self.brightest, faintest))
        return float(self.density * (high - low) / step)

    def draw(self, number: int, faintest: float, generator: np.random.Generator) -> Floats:
        """Draw magnitudes of a number of objects."""
        low, high = (10.0 ** (self.slope * (m - faintest)) for m in (self.brightest, faintest))
        share = generator.random(number)
        return np.asarray(faintest + np.log10(low + share * (high - low)) / self.slope)


class OpticalSkyOptions(BaseModel):
    """A population of stars and galaxies.

    The density of stars is that of high galactic latitudes: 7,400 a square degree to r = 21.5, as
    in Juric et al. (2008, ApJ 673, 864; 48 million stars in 6500 square degrees). That of galaxies
    is 100 a square degree to r = 17.8 (Strauss et al. 2002, AJ 124, 1810: about 90), and
    about 2e5 to r = 25.5, within a factor of two of deep fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    stars: MagnitudeCounts = parameter(MagnitudeCounts(), "Number counts of stars.")
    galaxies: MagnitudeCounts = parameter(
        MagnitudeCounts(density=900.0, slope=0.43), "Number counts of galaxies."
    )
    faintest: float = parameter(
        25.5, "Magnitude of the faintest objects drawn; they make confusion.", unit="mag in r"
    )
    early: float = parameter(
        0.25, "Share of early-type galaxies, which are mostly bulge and red.", ge=0.0, le=1.0
    )
    radius: float = parameter(
        0.7, "Median half-light radius of galaxies of r = 22.", unit="arcsec", gt=0.0
    )
    radius_slope: float = parameter(
        -0.13, "Change of the logarithm of the radius with magnitude.", unit="dex per magnitude"
    )
    radius_scatter: float = parameter(0.18, "Scatter of the radius.", unit="dex", ge=0.0)
    blends: float = parameter(
        0.06, "Share of objects that lie beside another one of similar flux.", ge=0.0, le=1.0
    )
    blend_separation: tuple[float, float] = parameter(
        (0.6, 3.0), "Least and largest distance between them.", unit="arcsec"
    )
    clusters: int = parameter(0, "Clusters of galaxies in the field.", ge=0, le=100)
    cluster_members: float = parameter(
        150.0, "Mean number of members of a cluster, besides the counts.", gt=0.0
    )
    cluster_radius: float = parameter(25.0, "Core radius of a cluster.", unit="arcsec", gt=0.0)
    cluster_brightest: float = parameter(
        17.0, "Magnitude of the brightest members.", unit="mag in r"
    )

    @model_validator(mode="after")
    def _sensible(self) -> "OpticalSkyOptions":
        low, high = self.blend_separation
        if not 0.0 < low <= high:
            raise ValueError("blend_separation needs two positive numbers, the smaller one first")
        brightest = max(self.stars.brightest, self.galaxies.brightest)
        if self.clusters:
            brightest = max(brightest, self.cluster_brightest)
        if self.faintest <= brightest:
            raise ValueError("faintest must be fainter than the brightest objects")
        return self


@dataclass(frozen=True, eq=False)
class OpticalSky:
    """Stars and galaxies before any telescope has looked at them.

    An object consists of elements: a point, or a disc and a bulge. All are in 0-based pixels of the
    plane to be made.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions of the objects.
    object_class : ndarray of int, shape (n,)
        `STAR` or `GALAXY`.
    starts : ndarray of int, shape (n + 1,)
        Object k has the elements ``starts[k]:starts[k + 1]``.
    profile : ndarray of int, shape (m,)
        `POINT`, `DISC` or `BULGE`.
    flux : ndarray, shape (bands, m)
        nJy, in the bands of `BANDS`.
    shape : ndarray, shape (m, 3)
        ``sxx, sxy, syy`` of the ellipse that holds half of an element's light: R_e^2 for a round
        one, in pixels squared; zero for points.
    """

    x: Floats
    y: Floats
    object_class: Integers
    starts: Integers
    profile: Integers
    flux: Floats
    shape: Floats

    def __len__(self) -> int:
        return len(self.x)

    @property
    def owner(self) -> Integers:
        """Number of the object of each element."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def object_flux(self, band: str) -> Floats:
        """Total flux of each object in nJy."""
        flux = self.flux[BANDS.index(band)]
        return np.bincount(self.owner, flux, minlength=len(self)).astype(float)


class _Galaxies(NamedTuple):
    """Magnitude in r, place in pixels, and whether early-type and member of a cluster."""

    magnitude: Floats
    place: Floats
    early: Integers
    member: Integers


def draw_optical_sky(
    options: OpticalSkyOptions,
    shape: tuple[int, int],
    pixel: float,
    generator: np.random.Generator,
) -> OpticalSky:
    """Draw stars and galaxies in and around a field.

    Parameters
    ----------
    options : OpticalSkyOptions
    shape : (ny, nx)
    pixel : float
        Side of a pixel in arcsec.
    generator : numpy.random.Generator
    """
    margin = float(np.ceil(MARGIN / pixel))
    low = np.full(2, -margin - 0.5)
    high = np.array([shape[1], shape[0]]) + margin - 0.5
    area = float(np.prod(high - low)) * (pixel / 3600.0) ** 2

    def population(counts: MagnitudeCounts) -> tuple[Floats, Floats]:
        number = int(generator.poisson(counts.number(options.faintest) * area))
        magnitude = counts.draw(number, options.faintest, generator)
        return magnitude, generator.uniform(low, high, (number, 2))

    star_magnitude, star_place = population(options.stars)
    magnitude, place = population(options.galaxies)
    early = generator.random(len(magnitude)) < options.early
    members, places = _members(options, shape, pixel, generator)
    galaxies = _Galaxies(
        np.concatenate([magnitude, members]),
        np.concatenate([place, places]),
        np.concatenate([early, np.ones(len(members), bool)]).astype(np.int64),
        np.repeat([0, 1], [len(magnitude), len(members)]),
    )
    flux, profile, ellipse = _galaxy_elements(options, galaxies, pixel, generator)
    n, m = len(star_magnitude), len(galaxies.magnitude)
    light = _band_fluxes(star_magnitude, *_star_colours(star_magnitude, generator))
    x, y = np.concatenate([star_place, galaxies.place]).T
    total = np.concatenate([star_magnitude, galaxies.magnitude])
    near, far = options.blend_separation
    x, y = place_beside(
        options.blends,
        (near / pixel, far / pixel),
        10.0 ** (-0.4 * total),
        x,
        y,
        generator,
    )
    # What libraries of other machines compute differently in the last bit is rounded away.
    flux = np.concatenate([light, flux], axis=1).astype(np.float32).astype(float)
    return OpticalSky(
        x=np.round(x, 6),
        y=np.round(y, 6),
        object_class=np.repeat([STAR, GALAXY], [n, m]),
        starts=np.cumsum(np.repeat([0, 1, 2], [1, n, m])).astype(np.int64),
        profile=np.concatenate([np.full(n, POINT), profile]),
        flux=flux,
        shape=np.round(np.concatenate([np.zeros((n, 3)), ellipse]), 6),
    )


def _members(
    options: OpticalSkyOptions,
    shape: tuple[int, int],
    pixel: float,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Magnitudes and places of the members of clusters.

    Their surface density falls as ``1 / (1 + (r / r_c)^2)`` (the modified Hubble profile) out to
    ten core radii, and the brightest of each is in the centre.
    """
    counts = MagnitudeCounts(slope=0.25, brightest=options.cluster_brightest)
    magnitudes, places = [np.zeros(0)], [np.zeros((0, 2))]
    for _ in range(options.clusters):
        number = 1 + int(generator.poisson(options.cluster_members))
        magnitude = np.sort(counts.draw(number, options.faintest, generator))
        centre = generator.uniform(0.1, 0.9, 2) * np.array([shape[1], shape[0]])
        radius = np.sqrt(101.0 ** generator.random(number) - 1.0)
        angle = generator.uniform(0.0, 2.0 * np.pi, number)
        radius[0] = 0.0
        offset = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        magnitudes.append(magnitude)
        places.append(centre + offset * options.cluster_radius / pixel)
    return np.concatenate(magnitudes), np.concatenate(places)


def _galaxy_elements(
    options: OpticalSkyOptions, galaxies: _Galaxies, pixel: float, generator: np.random.Generator
) -> tuple[Floats, Integers, Floats]:
    """Fluxes (bands, 2 n), profiles (2 n,) and ellipses (2 n, 3) of discs and bulges in turn."""
    magnitude, _, is_early, member = galaxies
    n, early = len(magnitude), is_early.astype(bool)
    bulge = np.where(early, 0.6 + 0.4 * generator.random(n), 0.5 * generator.random(n) ** 2)
    trend = options.radius_slope * (magnitude - 22.0)
    scatter = options.radius_scatter * generator.standard_normal(n)
    radius = options.radius / pixel * 10.0 ** (trend + scatter)
    cosine = generator.random(n)
    ratio = [
        np.sqrt(cosine**2 + THICKNESS**2 * (1.0 - cosine**2)),
        generator.uniform(0.6, 1.0, n),
    ]
    # the envelope of an early-type galaxy is as round as its bulge
    ratio[0] = np.where(early, ratio[1], ratio[0])
    size = [
        radius * np.where(early, ENVELOPE_RADIUS, 1.0),
        radius * np.where(early, 1.0, BULGE_RADIUS),
    ]
    angle = generator.uniform(0.0, np.pi, n)
    blue, red = _galaxy_colours(early, member.astype(bool), generator)
    with np.errstate(divide="ignore"):
        parts = [
            _band_fluxes(magnitude - 2.5 * np.log10(1.0 - bulge), blue, red),
            # bulges of disc galaxies are redder than their discs
            _band_fluxes(
                magnitude - 2.5 * np.log10(bulge),
                blue + np.where(early, 0.0, 0.35),
                red + np.where(early, 0.0, 0.2),
            ),
        ]
    flux = np.stack(parts, -1).reshape(len(BANDS), 2 * n)
    cos, sin = np.cos(angle), np.sin(angle)
    ellipses = []
    for q, r in zip(ratio, size, strict=True):
        a2, b2 = r**2, (q * r) ** 2
        ellipses.append(
            np.stack(
                [
                    a2 * cos**2 + b2 * sin**2,
                    (a2 - b2) * sin * cos,
                    a2 * sin**2 + b2 * cos**2,
                ],
                -1,
            )
        )
    return flux, np.tile([DISC, BULGE], n), np.stack(ellipses, 1).reshape(2 * n, 3)


def _band_fluxes(magnitude: Floats, blue: Floats, red: Floats) -> Floats:
    """Fluxes in nJy in `BANDS` from r magnitudes and the colours g - r and r - z."""
    magnitudes = np.stack([magnitude + blue, magnitude, magnitude - red])
    return np.asarray(10.0 ** (-0.4 * (magnitudes - NANOJANSKY)))


def _star_colours(magnitude: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Colours g - r and r - z of stars: the turn-off of the halo and disc, and M dwarfs.

    The dwarfs are near and faint: a tenth of the stars of r = 16, six tenths from r = 22 on.
    """
    n = len(magnitude)
    share = np.clip(0.1 + 0.5 * (magnitude - 16.0) / 6.0, 0.02, 0.6)
    dwarf = generator.random(n) < share
    a, b = generator.standard_normal((2, n))
    blue = np.where(dwarf, 1.42 + 0.08 * a, 0.5 + 0.15 * a)
    # M dwarfs of one g - r differ in r - z
    red = np.where(dwarf, 1.5 + 0.4 * b, 0.45 * blue + 0.04 * b)
    return blue, red


def _galaxy_colours(
    early: Integers, member: Integers, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Colours g - r and r - z; members of clusters lie on a narrow red sequence."""
    a, b = generator.standard_normal((2, len(early)))
    blue = np.where(early, 1.2 + 0.25 * a, 0.6 + 0.25 * a)
    red = np.where(early, 0.85 + 0.15 * b, 0.5 + 0.2 * b)
    return np.where(member, 1.1 + 0.04 * a, blue), np.where(member, 0.7 + 0.04 * b, red)
