"""Parts of sources and pairs of them: what tells two lobes from two strangers.

Nothing here depends on pixels: lengths are in beams, fluxes are ratios, and how likely it is that
two parts lie so close by chance follows from the catalogue's own density.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    Floats,
    covariance_from_shape,
    determinant,
)
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from astropy.table import QTable

ARCSEC = 3600.0
FEATURES = (
    "separation",
    "gap",
    "chance",
    "chance_of_brighter",
    "density",
    "flux_ratio",
    "size_of_brighter",
    "size_of_fainter",
    "snr_of_brighter",
    "snr_of_fainter",
    "pointing_of_brighter",
    "pointing_of_fainter",
    "between",
    "continued",
    "nearer_to_brighter",
    "nearer_to_fainter",
    "same_island",
    "bridge",
)
"""Names of the columns of `pair_features`, in their order; a model is of these or of none."""

Bridge = Callable[["Parts", Integers, Integers], Floats]


@dataclass(frozen=True, eq=False)
class Parts:
    """What may belong together: the sources of a catalogue as plain arrays.

    Attributes
    ----------
    vectors : ndarray, shape (n, 3)
        Unit vectors on the sky in arcsec (radians times arcsec), or (east, north, 0) in pixels
        without celestial coordinates.
    frames : ndarray, shape (n, 2, 3)
        Unit vectors towards east and north at each part.
    x, y : ndarray, shape (n,)
        0-based pixels.
    total, peak, snr : ndarray, shape (n,)
        Absolute values: a negative source is as bright as its mirror image.
    shape, beam : ndarray, shape (n, 2, 2)
        Covariances in (east, north), in arcsec squared, or in pixels squared.
    rms, level : ndarray, shape (n,)
        Of the image at the part.
    island : ndarray of int, shape (n,)
    sign : ndarray, shape (n,)
        1, or -1 for a negative source.
    area : float
        Of the image, in arcsec squared (or pixels).
    """

    vectors: Floats
    frames: Floats
    x: Floats
    y: Floats
    total: Floats
    peak: Floats
    snr: Floats
    shape: Floats
    beam: Floats
    rms: Floats
    level: Floats
    island: Integers
    sign: Floats
    area: float

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, sources: "QTable", area: float) -> "Parts":
        """Read them from a table of sources.

        Parameters
        ----------
        sources : QTable
        area : float
            Of the image, in arcsec squared (pixels without celestial coordinates).
        """

        def values(name: str) -> Floats:
            held = sources[name]
            return np.asarray(getattr(held, "value", held), float)

        x, y = values("x"), values("y")
        n = len(x)
        if "ra" in sources.colnames:
            ra, dec = np.radians(values("ra")), np.radians(values("dec"))
            zero, one = np.zeros(n), np.radians(1.0 / ARCSEC)
            radial = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
            east = np.stack([-np.sin(ra), np.cos(ra), zero], -1)
            vectors, frames = radial / one, np.stack([east, np.cross(radial, east)], 1)
        else:
            vectors = np.stack([-x, y, np.zeros(n)], -1)
            frames = np.broadcast_to(np.eye(3)[:2], (n, 2, 3))
        total, peak = values("total_flux"), values("peak_flux")
        return cls(
            vectors=vectors,
            frames=frames,
            x=x,
            y=y,
            total=np.abs(total),
            peak=np.abs(peak),
            snr=np.abs(values("snr")),
            shape=covariance_from_shape(*(values(c) for c in ("major", "minor", "position_angle"))),
            beam=covariance_from_shape(*(values(c) for c in ("psf_major", "psf_minor", "psf_pa"))),
            rms=values("local_rms"),
            level=values("local_background"),
            island=np.asarray(sources["island_id"], np.int64),
            sign=np.where(peak < 0.0, -1.0, 1.0),
            area=area,
        )

    @property
    def beam_size(self) -> Floats:
        """Geometric mean FWHM of the beam at each part."""
        return np.asarray(SIGMA_TO_FWHM * np.sqrt(np.sqrt(determinant(self.beam))))

    def offsets(self, first: Integers, second: Integers) -> Floats:
        """Offset (east, north) of the second parts from the first, at the first; (pairs, 2)."""
        step = self.vectors[second] - self.vectors[first]
        return np.asarray(np.einsum("pkc,pc->pk", self.frames[first], step))


def find_pairs(parts: Parts, radius: float) -> tuple[Integers, Integers]:
    """Pairs of parts within a radius of each other, the brighter first.

    Parts without position, flux or beam are in none; neither are a positive and a negative one.

    Parameters
    ----------
    parts : Parts
    radius : float
        In beams, between the near ends of the parts.
    """
    from scipy.spatial import cKDTree

    beam = parts.beam_size
    known = (
        np.isfinite(parts.vectors).all(1) & np.isfinite(beam) & np.isfinite(parts.shape[:, 0, 0])
    )
    rows = np.flatnonzero(
        known & np.isfinite(parts.total) & (parts.total > 0.0) & (parts.snr > 0.0)
    )
    if len(rows) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reach = radius * float(beam[rows].max())
    found = cKDTree(parts.vectors[rows]).query_pairs(reach, output_type="ndarray")
    first, second = rows[found[:, 0]], rows[found[:, 1]]
    apart = np.linalg.norm(parts.vectors[first] - parts.vectors[second], axis=-1)
    near = apart <= radius * np.sqrt(beam[first] * beam[second])
    near &= parts.sign[first] == parts.sign[second]
    first, second = first[near], second[near]
    swap = parts.total[first] < parts.total[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    order = np.lexsort((second, first))
    return first[order], second[order]


def density_above(parts: Parts, flux: Floats, slope: float) -> Floats:
    """Number of parts at least so bright a unit of area, from the catalogue itself.

    Half of the parts lie above the median flux; from there a power law leads to other fluxes, so
    that a few sources tell enough. No more than all of them lie above any flux.

    Parameters
    ----------
    parts : Parts
    flux : ndarray
    slope : float
        Of the integral counts, ``N(>S) ~ S^-slope``.
    """
    known = parts.total[np.isfinite(parts.total) & (parts.total > 0.0)]
    if not len(known):
        return np.zeros(np.shape(flux))
    ratio = (np.asarray(flux, float) / np.median(known)) ** -slope
    return np.asarray(len(known) / parts.area * np.minimum(0.5 * ratio, 1.0))


def pair_features(
    parts: Parts,
    first: Integers,
    second: Integers,
    *,
    slope: float = 0.9,
    bridge: Bridge | None = None,
) -> Floats:
    """Describe pairs of parts by what does not depend on the survey.

    Parameters
    ----------
    parts : Parts
    first, second : ndarray of int, shape (pairs,)
        The brighter and the fainter part of each pair.
    slope : float
        Of the integral source counts.
    bridge : callable, optional
        Gives the significance of the emission between the parts; 0 without it.

    Returns
    -------
    ndarray, shape (pairs, features)
        `FEATURES`: decimal logarithms of separation and of the gap between the half-width
        contours (beams), of the number of parts that chance puts within that separation (as
        bright as the fainter, and as the brighter one), of the number of parts a beam, of the
        flux ratio, of areas over the beam's and of peak S/N; how far each part is elongated along
        the line to the other (-1 across, 1 along); whether a third part lies between the two, or
        one of them between the other and a third; how many other parts are nearer to each (log
        of one more); whether they share an island; arsinh of the significance of a bridge.
    """
    if not len(first):
        return np.zeros((0, len(FEATURES)))
    there, back = parts.offsets(first, second), parts.offsets(second, first)
    apart = np.maximum(np.hypot(*there.T), 1e-9)
    size = parts.beam_size
    beam = np.sqrt(size[first] * size[second])
    reached = reach(parts, first, there) + reach(parts, second, back)
    area = np.sqrt(determinant(parts.shape) / determinant(parts.beam))
    within = np.pi * apart**2
    near = _Neighbourhood(parts, first, second, beam)
    columns = {
        "separation": _log(apart / beam),
        "gap": _log(np.maximum((apart - reached) / beam, 0.1)),
        "chance": _log(within * density_above(parts, parts.total[second], slope)),
        "chance_of_brighter": _log(within * density_above(parts, parts.total[first], slope)),
        "density": _log(np.full(len(first), len(parts) / parts.area) * beam**2),
        "flux_ratio": _log(parts.total[first] / parts.total[second]),
        "size_of_brighter": _log(area[first]),
        "size_of_fainter": _log(area[second]),
        "snr_of_brighter": _log(parts.snr[first]),
        "snr_of_fainter": _log(parts.snr[second]),
        "pointing_of_brighter": _pointing(parts, first, there),
        "pointing_of_fainter": _pointing(parts, second, back),
        "between": near.between(),
        "continued": near.continued(),
        "nearer_to_brighter": near.nearer(first),
        "nearer_to_fainter": near.nearer(second),
        "same_island": 1.0 * (parts.island[first] == parts.island[second]),
        "bridge": np.zeros(len(first)) if bridge is None else bridge(parts, first, second),
    }
    return np.asarray(np.nan_to_num(np.stack([columns[name] for name in FEATURES], -1)))


def _log(values: Floats) -> Floats:
    return np.asarray(np.log10(np.maximum(values, 1e-6)))


def reach(parts: Parts, rows: Integers, along: Floats) -> Floats:
    """Half the FWHM of parts along a direction."""
    unit = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    variance = np.einsum("pi,pij,pj->p", unit, parts.shape[rows], unit)
    return np.asarray(0.5 * SIGMA_TO_FWHM * np.sqrt(np.maximum(variance, 0.0)))


def _pointing(parts: Parts, rows: Integers, along: Floats) -> Floats:
    """Elongation without the beam along a direction minus that across it, over the whole size."""
    unit = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    own = parts.shape[rows] - parts.beam[rows]
    trace = np.trace(own, axis1=-2, axis2=-1)
    difference = 2.0 * np.einsum("pi,pij,pj->p", unit, own, unit) - trace
    return np.asarray(difference / np.trace(parts.shape[rows], axis1=-2, axis2=-1))


class _Neighbourhood:
    """Third parts near pairs.

    Every third part that is nearer to one of a pair than 1.5 times their separation is looked at.
    """

    def __init__(self, parts: Parts, first: Integers, second: Integers, beam: Floats) -> None:
        from scipy.spatial import cKDTree

        self.parts, self.first, self.second = parts, first, second
        usable = np.flatnonzero(np.isfinite(parts.vectors).all(1) & (parts.total > 0.0))
        a, b = parts.vectors[first], parts.vectors[second]
        self.apart = np.linalg.norm(b - a, axis=-1)
        # The separation is stretched so that rounding cannot take an end out.
        tree = cKDTree(parts.vectors[usable])
        found = tree.query_ball_point(0.5 * (a + b), 2.0 * self.apart + 1e-6)
        counts = np.fromiter(map(len, found), np.int64, len(found))
        self.pair = np.repeat(np.arange(len(first)), counts)
        self.third = usable[np.concatenate([np.asarray(f, np.int64) for f in found])]
        other = (self.third != first[self.pair]) & (self.third != second[self.pair])
        self.pair, self.third = self.pair[other], self.third[other]
        line = (b - a)[self.pair]
        step = parts.vectors[self.third] - a[self.pair]
        length = np.maximum(self.apart[self.pair], 1e-9)
        self.along = np.einsum("pc,pc->p", step, line) / length**2
        across = np.linalg.norm(step - self.along[:, None] * line, axis=-1)
        self.across = across / np.maximum(length, beam[self.pair])

    def _most(self, values: Floats) -> Floats:
        result = np.zeros(len(self.first))
        np.maximum.at(result, self.pair, values)
        return result

    def between(self) -> Floats:
        """How well the best third part lies on the inner half of the line, 0 to 1."""
        inner = np.exp(-(((self.along - 0.5) / 0.3) ** 4))
        return self._most(inner * np.exp(-((self.across / 0.15) ** 2)))

    def continued(self) -> Floats:
        """How well one of the pair lies between the other and a third part alike, 0 to 1.

        The third part is a lobe opposite to the other: as far, and as bright within a factor of
        a few.
        """
        beyond = np.where(self.along > 0.5, self.along, 1.0 - self.along)
        outer = np.where(self.along > 0.5, self.first[self.pair], self.second[self.pair])
        ratio = np.log(self.parts.total[self.third] / self.parts.total[outer])
        alike = np.exp(-((np.log(np.maximum(beyond - 1.0, 1e-3)) / 0.7) ** 2))
        straight = np.exp(-((self.across / 0.3) ** 2))
        return self._most(alike * straight * np.exp(-((ratio / 1.5) ** 2)))

    def nearer(self, end: Integers) -> Floats:
        """Parts nearer to one end than the other end is, as the logarithm of one more."""
        step = self.parts.vectors[self.third] - self.parts.vectors[end[self.pair]]
        closer = np.linalg.norm(step, axis=-1) < self.apart[self.pair]
        number = np.bincount(self.pair[closer], minlength=len(self.first))
        return np.asarray(np.log10(1.0 + number))
