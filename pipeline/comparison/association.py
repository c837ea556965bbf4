"""How well a catalogue puts components together to sources."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.labels import MARGIN_BEAMS, Label, group_rows, tangent_offsets
from cyclades.pipeline.comparison.match import match_many, neighbours
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Pipeline

CENTRAL_RADIUS = 54.0
"""Arcsec; the trivial rule that everything near a field's centre is one source."""
LINKING_LENGTHS: Floats = np.arange(10.0, 80.1, 2.0)
"""Linking lengths tried, in arcsec."""
UNKNOWN, NO_OBJECT = -2, -1
COMPACT = "compact"
INJECTED_SNR = (7.0, 100.0)
"""Peaks of injected points: found whatever the threshold."""


def source_groups(table: ComparisonTable) -> Integers:
    """Number of the source of each row; rows without one are sources of their own."""
    groups = np.asarray(table["source"], np.int64).copy()
    alone = groups < 0
    groups[alone] = groups.max(initial=-1) + 1 + np.arange(np.count_nonzero(alone))
    return groups


def friends_of_friends(table: ComparisonTable, length: float) -> Integers:
    """Groups of rows linked by steps no longer than a length (arcsec)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i, j, _ = neighbours(table, table, np.full(len(table), length))
    links = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(len(table), len(table)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def central_group(
    table: ComparisonTable, ra: float, dec: float, radius: float = CENTRAL_RADIUS
) -> Integers:
    """Everything within a radius (arcsec) of a field's centre as one source, the rest alone."""
    x, y = tangent_offsets(table["ra"], table["dec"], ra, dec)
    return np.where(np.hypot(x, y) <= radius, 0, np.arange(1, len(table) + 1))


def covered_by_one(
    table: ComparisonTable,
    groups: Integers,
    labels: Sequence[Label],
    beam: float,
    margin: float = MARGIN_BEAMS,
) -> NDArray[np.bool_]:
    """Whether exactly one source covers each label, and holds nothing from outside its extent.

    A source covers a label where one of its components lies in the label's extent. Components
    farther than 1.5 arcmin from the label's target count neither way.

    Parameters
    ----------
    table : ComparisonTable
        Components of one field.
    groups : ndarray of int, shape (n,)
        Source of each component.
    labels : sequence of Label
        Labels of the same field.
    beam : float
        FWHM in arcsec.
    margin : float
        Beams by which the extents are wider than half the labels' angular extents.
    """
    result = np.zeros(len(labels), bool)
    for row, label in enumerate(labels):
        judged = label.judged(table["ra"], table["dec"])
        inside = label.inside(table["ra"], table["dec"], beam, margin) & judged
        covering = np.unique(groups[inside])
        outside = np.isin(groups, covering) & ~inside & judged
        result[row] = len(covering) == 1 and not outside.any()
    return result


class PairScores(NamedTuple):
    """Pairs of components that belong together, by truth and by the catalogue."""

    both: int
    found: int
    true: int

    @property
    def purity(self) -> float:
        """Share of the catalogue's pairs that are true; NaN where it has none."""
        return self.both / self.found if self.found else float("nan")

    @property
    def completeness(self) -> float:
        """Share of the true pairs that the catalogue has; NaN where there are none."""
        return self.both / self.true if self.true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; NaN without any pair."""
        number = self.found + self.true
        return 2 * self.both / number if number else float("nan")

    def __add__(self, other: object) -> "PairScores":
        """Pool the pairs of two fields."""
        if not isinstance(other, PairScores):
            return NotImplemented
        return PairScores(*(a + b for a, b in zip(tuple(self), tuple(other), strict=True)))


def pair_scores(groups: Integers, truth: Integers) -> PairScores:
    """Count the pairs of components that the catalogue and the truth join.

    Parameters
    ----------
    groups : ndarray of int, shape (n,)
        Source of each component of the catalogue.
    truth : ndarray of int, shape (n,)
        True object of each; `NO_OBJECT` for one that belongs to none of them (a pair of it and
        an object is false, a pair of two such is not judged), `UNKNOWN` to leave it out.
    """
    known = truth != UNKNOWN
    groups, truth = groups[known], truth[known]
    real = truth != NO_OBJECT
    joint = np.stack([groups[real], truth[real]], -1)
    return PairScores(
        _pairs(np.unique(joint, axis=0, return_counts=True)[1]),
        _pairs(np.unique(groups, return_counts=True)[1])
        - _pairs(np.unique(groups[~real], return_counts=True)[1]),
        _pairs(np.unique(truth[real], return_counts=True)[1]),
    )


def _pairs(counts: Integers) -> int:
    return int(np.sum(counts * (counts - 1) // 2))


def label_pair_scores(
    table: ComparisonTable, groups: Integers, labels: Sequence[Label], beam: float
) -> PairScores:
    """`pair_scores` of one field's components against its labels."""
    return pair_scores(groups, group_rows(labels, table["ra"], table["dec"], beam))


class Merged(NamedTuple):
    """Single sources that were found, and those put together with something else."""

    merged: int
    found: int

    @property
    def share(self) -> float:
        """Share of the found ones that were merged; NaN where none was found."""
        return self.merged / self.found if self.found else float("nan")


def wrongly_merged(groups: Integers, truth: Integers, single: Integers) -> Merged:
    """Count unrelated single sources that the catalogue joined with other detections.

    Parameters
    ----------
    groups : ndarray of int, shape (n,)
        Source of each component of the catalogue.
    truth : ndarray of int, shape (n,)
        True object of each component, or `NO_OBJECT` (other sources of a real field into which
        points were injected, or noise).
    single : ndarray of int
        True objects that are one source alone, unrelated to all others.
    """
    found = np.intersect1d(truth[truth >= 0], single)
    merged = 0
    for target in found:
        members = np.isin(groups, groups[truth == target])
        merged += bool(np.any(truth[members] != target))
    return Merged(merged, len(found))


def nearest_objects(table: ComparisonTable, truth: ComparisonTable, radius: float) -> Integers:
    """Row of the true position nearest to each component within a radius (arcsec), else -1.

    Many components may belong to one position, so this is no one-to-one match.
    """
    near, rows, separation = neighbours(truth, table, np.full(len(truth), radius))
    order = np.lexsort((near, separation, rows))
    chosen, first = np.unique(rows[order], return_index=True)
    result = np.full(len(table), NO_OBJECT, np.int64)
    result[chosen] = near[order][first]
    return result


def object_rows(table: ComparisonTable, truth: ComparisonTable, beam: float) -> Integers:
    """Number of the true object (``truth["source"]``) that each component belongs to.

    A component belongs to the true row on whose ellipse it lies, or else to the nearest within
    half a beam; `NO_OBJECT` otherwise.

    Parameters
    ----------
    table, truth : ComparisonTable
        The truth needs the column ``source``.
    beam : float
        FWHM in arcsec.
    """
    rows = nearest_objects(table, truth, 0.5 * beam)
    lying = match_many(truth, table)
    rows[lying.second_rows] = lying.first_rows
    return np.where(rows >= 0, truth["source"][rows], NO_OBJECT)


def simulated_merges(
    table: ComparisonTable, groups: Integers, truth: ComparisonTable, beam: float
) -> Merged:
    """`wrongly_merged` for the compact single sources of a simulation.

    Noise peaks that are joined with a source count as merges too.
    """
    numbers, first, count = np.unique(truth["source"], return_index=True, return_counts=True)
    single = (count == 1) & (truth["morphology"][first] == COMPACT)
    return wrongly_merged(groups, object_rows(table, truth, beam), numbers[single])


def injected_merges(
    pipeline: "Pipeline",
    image: SkyImage,
    rules: Mapping[str, Callable[[ComparisonTable], Integers]],
    *,
    density: float,
    repeats: int = 1,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, Merged]:
    """Share of points injected anywhere into a real image that rules join with something else.

    Parameters
    ----------
    pipeline : Pipeline
        Finds the components, and the sources of the rule `source_groups`.
    image : SkyImage
    rules : mapping of str to callable
        Each takes a table of components and returns the source of each.
    density : float
        Points per square degree: that of the survey's sources above the limit.
    repeats : int
        How often to inject into the unchanged image.
    seed : int
    workers : int, optional

    Raises
    ------
    InputError
        Where the image has no beam or no coordinates.
    """
    from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
    from cyclades.pipeline.comparison.match import common_beam
    from cyclades.pipeline.simulation.injection import InjectionOptions, inject

    start = pipeline.run_until("background", image, workers=workers)
    plane, background = start.image, start.background
    assert plane is not None
    assert background is not None
    if plane.wcs is None:
        raise InputError(f"{plane.name} has no coordinates, so points cannot be injected.")
    area = np.count_nonzero(np.isfinite(plane.data)) * plane.wcs.proj_plane_pixel_area()
    options = InjectionOptions(
        number=max(1, round(density * area.to_value("deg2"))),
        lowest_snr=INJECTED_SNR[0],
        highest_snr=INJECTED_SNR[1],
        separation=0.0,
        avoid=0.0,
    )
    total = dict.fromkeys(rules, Merged(0, 0))
    for child in np.random.SeedSequence(seed).spawn(repeats):
        injection = inject(plane, options, background, np.random.default_rng(child))
        catalogue = pipeline.run(injection.image, workers=workers).catalogue
        assert catalogue is not None
        table, truth = from_catalogue(catalogue), from_truth(injection.truth)
        own = nearest_objects(table, truth, 0.5 * common_beam([truth, table]))
        for name, rule in rules.items():
            counted = wrongly_merged(rule(table), own, np.arange(len(truth)))
            total[name] = Merged(*np.add(total[name], counted).tolist())
    return total


class BestLength(NamedTuple):
    """Friends-of-friends at the linking length that suits it best."""

    length: float
    covered: NDArray[np.bool_]
    """For every label, in the order of the fields."""


def best_friends_of_friends(
    fields: Sequence[tuple[ComparisonTable, Sequence[Label]]],
    beam: float,
    lengths: Floats = LINKING_LENGTHS,
) -> BestLength:
    """Friends-of-friends at the length with the largest share of labels covered by one source.

    The length is chosen on the very labels that it is judged with, which flatters the rule: what
    claims to associate must beat it all the same.

    Parameters
    ----------
    fields : sequence of (ComparisonTable, labels)
        Components and labels of each field.
    beam : float
        FWHM in arcsec.
    lengths : ndarray
        Linking lengths to try, in arcsec.
    """
    tried = [
        np.concatenate(
            [
                covered_by_one(table, friends_of_friends(table, length), labels, beam)
                for table, labels in fields
            ]
        )
        for length in lengths
    ]
    best = int(np.argmax([covered.mean() for covered in tried]))
    return BestLength(float(lengths[best]), tried[best])
