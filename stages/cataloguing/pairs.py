"""Pairs of parts: what tells two lobes from two strangers.

Nothing here depends on pixels: lengths are in beams, fluxes are ratios, and how likely it is that
two parts lie so close by chance follows from the catalogue's own density.
"""

from collections.abc import Callable

import numpy as np

from cyclades.stages.cataloguing.bridges import LIGHT
from cyclades.stages.cataloguing.parts import Parts, reach
from cyclades.stages.core.geometry import Floats, determinant
from cyclades.stages.core.products import Integers

FEATURES = (
    "separation",
    "gap",
    "chance",
    "chance_of_brighter",
    "density",
    "flux_ratio",
    "peak_ratio",
    "size_of_brighter",
    "size_of_fainter",
    "resolved_brighter",
    "resolved_fainter",
    "snr_of_brighter",
    "snr_of_fainter",
    "pieces_of_brighter",
    "pieces_of_fainter",
    "pointing_of_brighter",
    "pointing_of_fainter",
    "between",
    "continued",
    "nearer_to_brighter",
    "nearer_to_fainter",
    "nearest_of_brighter",
    "nearest_of_fainter",
    "crowd",
    "same_island",
    *LIGHT,
    "pairs_near",
    "pairs_far",
    "extended",
    "parts",
)
"""Names of the columns of `pair_features`, in their order; a model is of these or of none."""
CONTEXT = (
    "own",
    "rivals_of_brighter",
    "rivals_of_fainter",
    "best_rival_of_brighter",
    "best_rival_of_fainter",
    "support",
    "opinion_of_brighter",
    "opinion_of_fainter",
)
"""Names of the columns of `context_features`."""

Bridge = Callable[["Parts", Integers, Integers], Floats]
NEAR, FAR = 4.0, 10.0
"""Beams: pairs closer than these are counted for the whole catalogue."""
PRIOR = 2.0
"""Added to numbers of pairs and of parts, so that catalogues of a few sources say little."""
EXTENDED = 1.5
"""Areas of a beam above which a part is extended."""
CROWD = 10.0
"""Beams around the middle of a pair."""
MOST = 12.0
"""Largest log-odds of a pair either way: no simulation tells more."""


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
        Describes the emission between the parts (`BridgeLight`); 0 without it.

    Returns
    -------
    ndarray, shape (pairs, features)
        `FEATURES`: decimal logarithms of separation and of the gap between the half-width
        contours (beams), of the number of parts that chance puts within that separation (as
        bright as the fainter, and as the brighter one), of the number of parts a beam, of the
        ratios of total and peak flux, of areas over the beam's (and their significance, as arsinh),
        of peak S/N and of the number of components; how far each part is elongated along
        the line to the other (-1 across, 1 along); whether a third part lies between the two, or
        one of them between the other and a third; how many other parts are nearer to each (log
        of one more), and how much nearer the nearest one is (log); how many others lie within
        `CROWD` beams; whether they share an island; what `BridgeLight` sees. Four say what kind
        of catalogue it is, and so how likely any pair is one source: how many more pairs are
        closer than `NEAR`, and between `NEAR` and `FAR` beams, than chance puts there (log); the
        share of extended parts; the number of parts (log).
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
        "peak_ratio": _log(parts.peak[first] / parts.peak[second]),
        "size_of_brighter": _log(area[first]),
        "size_of_fainter": _log(area[second]),
        "resolved_brighter": _resolved(area[first], parts.snr[first]),
        "resolved_fainter": _resolved(area[second], parts.snr[second]),
        "snr_of_brighter": _log(parts.snr[first]),
        "snr_of_fainter": _log(parts.snr[second]),
        "pieces_of_brighter": _log(parts.pieces[first]),
        "pieces_of_fainter": _log(parts.pieces[second]),
        "pointing_of_brighter": _pointing(parts, first, there),
        "pointing_of_fainter": _pointing(parts, second, back),
        "between": near.between(),
        "continued": near.continued(),
        "nearer_to_brighter": near.nearer(first),
        "nearer_to_fainter": near.nearer(second),
        "nearest_of_brighter": near.nearest(first),
        "nearest_of_fainter": near.nearest(second),
        "crowd": near.crowd(CROWD * beam),
        "same_island": 1.0 * (parts.island[first] == parts.island[second]),
    }
    light = np.zeros((len(first), len(LIGHT)))
    if bridge is not None:
        light = bridge(parts, first, second)
    columns |= dict(zip(LIGHT, light.T, strict=True))
    columns |= catalogue_features(parts, apart / beam, area)
    return np.asarray(np.nan_to_num(np.stack([columns[name] for name in FEATURES], -1)))


def catalogue_features(parts: Parts, beams: Floats, area: Floats) -> dict[str, Floats]:
    """What kind of catalogue it is, alike for all of its pairs.

    Parameters
    ----------
    parts : Parts
    beams : ndarray, shape (pairs,)
        Separations of all pairs that are looked at.
    area : ndarray, shape (parts,)
        Of the parts over the beam's.
    """
    number = len(parts)
    beam = float(np.nanmedian(parts.beam_size))
    made = {}
    for name, low, high in (("pairs_near", 0.0, NEAR), ("pairs_far", NEAR, FAR)):
        chance = 0.5 * number * (number - 1) * np.pi * (high**2 - low**2) * beam**2 / parts.area
        seen = np.count_nonzero((beams >= low) & (beams < high))
        made[name] = np.log10((seen + PRIOR) / (chance + PRIOR))
    large = np.count_nonzero(area > EXTENDED)
    made["extended"] = (large + 0.5 * PRIOR) / (number + PRIOR)
    made["parts"] = np.log10(number)
    return {name: np.full(len(beams), float(value)) for name, value in made.items()}


def context_features(number: int, first: Integers, second: Integers, log_odds: Floats) -> Floats:
    """Describe pairs by what a first look says of the pairs around them.

    Parameters
    ----------
    number : int
        Parts.
    first, second : ndarray of int, shape (pairs,)
    log_odds : ndarray, shape (pairs,)
        Of the first look.

    Returns
    -------
    ndarray, shape (pairs, len(CONTEXT))
        The pair's own log-odds; of each end, the expected number of other partners (log of one
        more) and the log-odds of the best one; the expected number of third parts that go with
        both (log of one more); what the other partners of each end say of the other end: their
        log-odds, weighted by how likely they are partners.
    """
    from scipy.sparse import coo_array

    if not len(first):
        return np.zeros((0, len(CONTEXT)))
    # sparse matrices take no indices in memory that is not theirs
    first, second = np.array(first), np.array(second)
    chance = 1.0 / (1.0 + np.exp(-log_odds))
    rows, columns = np.r_[first, second], np.r_[second, first]

    def square(values: Floats) -> coo_array:
        held = np.r_[values, values]
        return coo_array((held, (rows, columns)), shape=(number, number)).tocsr()

    partners = square(chance)
    # unlisted pairs are the least likely, and take no place in a sparse matrix
    votes = square(log_odds + MOST + 1e-9)
    total = np.asarray(partners.sum(1)).ravel()
    made = {
        "own": log_odds,
        "support": np.log10(1.0 + np.asarray((partners @ partners)[first, second]).ravel()),
    }
    said = (partners @ votes).tocsr()
    best = _best_two(number, rows, np.r_[log_odds, log_odds])
    for name, end, other in (("brighter", first, second), ("fainter", second, first)):
        rivals = np.maximum(total[end] - chance, 0.0)
        made[f"rivals_of_{name}"] = np.log10(1.0 + rivals)
        top = best[end]
        made[f"best_rival_of_{name}"] = np.where(top[:, 0] > log_odds, top[:, 0], top[:, 1])
        opinion = np.asarray(said[end, other]).ravel() / np.maximum(rivals, 1e-9) - MOST
        # without likely partners nothing is said
        made[f"opinion_of_{name}"] = opinion * np.minimum(rivals, 1.0)
    return np.stack([made[name] for name in CONTEXT], -1)


def _best_two(number: int, rows: Integers, values: Floats) -> Floats:
    """The two highest values of every row; the lowest log-odds where there are none."""
    result = np.full((number, 2), -MOST)
    order = np.lexsort((-values, rows))
    own, held = rows[order], values[order]
    start = np.searchsorted(own, own)
    place = np.arange(len(own)) - start
    for k in (0, 1):
        result[own[place == k], k] = held[place == k]
    return result


def _resolved(area: Floats, snr: Floats) -> Floats:
    """Arsinh of how many standard errors the area is above the beam's.

    The error is that of a point, ``sqrt(2) / snr`` (Condon 1997, PASP 109, 166).
    """
    return np.asarray(np.arcsinh((area - 1.0) * snr / np.sqrt(2.0)))


def _log(values: Floats) -> Floats:
    return np.asarray(np.log10(np.maximum(values, 1e-6)))


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

    def nearest(self, end: Integers) -> Floats:
        """Separation over the distance of the nearest third part to one end, as a logarithm."""
        step = self.parts.vectors[self.third] - self.parts.vectors[end[self.pair]]
        least = 3.0 * self.apart
        np.minimum.at(least, self.pair, np.linalg.norm(step, axis=-1))
        return _log(self.apart / np.maximum(least, 1e-9))

    def crowd(self, radius: Floats) -> Floats:
        """Other parts within a radius of the middle, as the logarithm of one more."""
        from scipy.spatial import cKDTree

        middle = 0.5 * (self.parts.vectors[self.first] + self.parts.vectors[self.second])
        usable = np.isfinite(self.parts.vectors).all(1) & (self.parts.total > 0.0)
        tree = cKDTree(self.parts.vectors[usable])
        number = tree.query_ball_point(middle, radius, return_length=True)
        return np.asarray(np.log10(1.0 + number - 2.0 * (self.apart < 2.0 * radius)))
