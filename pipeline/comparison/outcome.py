"""What became of every true source and of every row of a catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.match import (
    Matches,
    common_beam,
    match,
    match_many,
    neighbours,
)
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers

FLOOR = 5.0
"""S/N below which truth is ignored: neither hit nor miss, and its rows neither true nor false."""
EXTENDED = ("extended", "multi-component", "diffuse")
"""Classes whose S/N is the integrated one, and on whose extent a stray row is a fragment."""
OBJECTS = ("multi-component", "diffuse")
"""Classes of which one object has several rows of truth, and may rightly have several rows."""
SPURIOUS = "spurious"
RESOLVED_RATIO = 1.1
BLEND_BEAMS = 2.0

TRUE, IGNORED, FALSE, FRAGMENT, ARTEFACT, LABELLED = range(6)
STATUS = ("true", "ignored", "false", "fragment", "artefact", "labelled spurious")
"""What a catalogue row is; false, fragment and artefact rows are all false ones."""


def integrated_snr(table: ComparisonTable) -> Floats:
    """S/N of the total flux under the best weighting: ``sqrt(total peak) / rms`` for a Gaussian.

    A source that covers N beams has the total flux N peak, and its flux in those N independent
    elements has the error sqrt(N) rms. For a point source it is the peak's S/N.
    """
    with np.errstate(invalid="ignore"):
        scale = np.sqrt(np.maximum(table["total_flux"] / table["peak_flux"], 1.0))
    return np.asarray(table["snr"] * np.where(np.isfinite(scale), scale, 1.0))


def detection_snr(truth: ComparisonTable) -> Floats:
    """S/N by which truth counts: of the peak; integrated for the classes of `EXTENDED`."""
    extended = np.isin(truth["morphology"], EXTENDED)
    return np.asarray(np.where(extended, integrated_snr(truth), truth["snr"]))


def geometric_kind(truth: ComparisonTable, beam: float) -> NDArray[np.str_]:
    """Return ``point``, ``resolved`` or ``blended`` for each truth row.

    Resolved is a total flux above 1.1 times the peak; blended has a true neighbour nearer than
    two beams or than the two major axes together.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        resolved = truth["total_flux"] / truth["peak_flux"] > RESOLVED_RATIO
    major = np.fmax(beam, truth["major"])
    reach = np.maximum(BLEND_BEAMS * beam, major + np.max(major, initial=beam))
    i, j, separation = neighbours(truth, truth, reach)
    near = (separation < np.maximum(BLEND_BEAMS * beam, major[i] + major[j])) & (i != j)
    kind = np.where(resolved, "resolved", "point").astype("U8")
    kind[i[near]] = "blended"
    return kind


@dataclass(frozen=True, eq=False)
class Outcome:
    """One catalogue matched with one truth.

    Parameters
    ----------
    name : str
    truth, catalogue : ComparisonTable
        Truth rows of class ``spurious`` are artefacts, not sources.
    matches : Matches
        Truth rows (first) and catalogue rows (second), one to one.
    lies_on : ndarray of int, shape (catalogue rows,)
        The truth row whose extent (one FWHM) holds the catalogue row, or -1.
    beam : float
        Major axis of the beam, arcsec.
    truth_kind : ndarray of str, shape (truth rows,)
        ``point``, ``resolved`` or ``blended``; see `geometric_kind`.
    floor : float
        S/N below which truth is ignored.
    """

    name: str
    truth: ComparisonTable
    catalogue: ComparisonTable
    matches: Matches
    lies_on: Integers
    beam: float
    truth_kind: NDArray[np.str_]
    floor: float = FLOOR

    @classmethod
    def of(
        cls,
        truth: ComparisonTable,
        catalogue: ComparisonTable,
        *,
        beam: float | None = None,
        floor: float = FLOOR,
    ) -> "Outcome":
        """Match a catalogue with a truth and keep what is needed to judge it.

        Rows that are parts of a source are joined to it first (`ComparisonTable.joined`).
        """
        width = common_beam([truth, catalogue]) if beam is None else beam
        usable = np.isfinite(catalogue["ra"]) & np.isfinite(catalogue["dec"])
        catalogue = catalogue.take(usable).joined()
        real = np.flatnonzero(truth["morphology"] != SPURIOUS)
        labelled = catalogue["morphology"] == SPURIOUS
        candidates = np.flatnonzero(~labelled)
        pairs = match(truth.take(real), catalogue.take(candidates), beam=width)
        matches = Matches(
            real[pairs.first_rows],
            candidates[pairs.second_rows],
            pairs.separation_arcsec,
            pairs.normalised,
        )
        on = match_many(truth, catalogue)
        lies_on = np.full(len(catalogue), -1)
        lies_on[on.second_rows] = on.first_rows
        kind = geometric_kind(truth, width)
        return cls(catalogue.name, truth, catalogue, matches, lies_on, width, kind, floor)

    @classmethod
    def concatenate(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """Pool the outcomes of one finder on several fields."""
        t = np.concatenate([[0], np.cumsum([len(part.truth) for part in parts])])
        c = np.concatenate([[0], np.cumsum([len(part.catalogue) for part in parts])])
        first = [part.matches.first_rows + t[k] for k, part in enumerate(parts)]
        second = [part.matches.second_rows + c[k] for k, part in enumerate(parts)]
        return cls(
            parts[0].name,
            ComparisonTable.concatenate([part.truth for part in parts]),
            ComparisonTable.concatenate([part.catalogue for part in parts]),
            Matches(
                np.concatenate(first),
                np.concatenate(second),
                np.concatenate([part.matches.separation_arcsec for part in parts]),
                np.concatenate([part.matches.normalised for part in parts]),
            ),
            np.concatenate(
                [np.where(p.lies_on >= 0, p.lies_on + t[k], -1) for k, p in enumerate(parts)]
            ),
            parts[0].beam,
            np.concatenate([part.truth_kind for part in parts]),
            parts[0].floor,
        )

    @cached_property
    def row_snr(self) -> Floats:
        """S/N of each truth row; see `detection_snr`."""
        return detection_snr(self.truth)

    @cached_property
    def entry_of(self) -> Integers:
        """Number of the true source that each truth row belongs to; -1 for artefacts.

        Rows of one multi-component or diffuse object are one source, all others one each.
        """
        kind = self.truth["morphology"]
        together = np.isin(kind, OBJECTS) & (self.truth["source"] >= 0)
        n = len(self.truth)
        key = np.where(together, n + self.truth["source"], np.arange(n))
        real = kind != SPURIOUS
        entry = np.full(n, -1)
        entry[real] = np.unique(key[real], return_inverse=True)[1]
        return entry

    @cached_property
    def entries(self) -> Integers:
        """The truth row that stands for each true source: its row of the highest S/N."""
        rows = np.flatnonzero(self.entry_of >= 0)
        order = rows[np.lexsort((-np.nan_to_num(self.row_snr[rows]), self.entry_of[rows]))]
        return order[np.unique(self.entry_of[order], return_index=True)[1]]

    @property
    def snr(self) -> Floats:
        """S/N of each true source."""
        return self.row_snr[self.entries]

    @property
    def kind(self) -> NDArray[np.str_]:
        """Class of each true source."""
        return np.asarray(self.truth["morphology"][self.entries], str)

    @cached_property
    def total_flux(self) -> Floats:
        """Total flux of each true source, over all its rows, Jy."""
        rows = self.entry_of >= 0
        flux = self.truth["total_flux"][rows]
        return np.asarray(np.bincount(self.entry_of[rows], flux, len(self.entries)), np.float64)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """True sources that count: at or above the floor, or all of those without a known S/N."""
        return ~(self.snr < self.floor)

    @cached_property
    def match_of(self) -> Integers:
        """The truth row matched with each catalogue row, or -1."""
        result = np.full(len(self.catalogue), -1)
        result[self.matches.second_rows] = self.matches.first_rows
        return result

    @cached_property
    def found_by(self) -> Integers:
        """A catalogue row for each true source, or -1.

        That matched with its brightest matched row; an object of several rows is also found by
        the best row that lies on it.
        """
        result = np.full(len(self.entries), -1)
        strength = self._strength
        single = ~np.isin(self.truth["morphology"], OBJECTS)
        lying = np.flatnonzero((self.lies_on >= 0) & (self.match_of < 0) & self._candidate)
        lying = lying[~single[self.lies_on[lying]]]
        for rows, truth_rows in (
            (lying, self.lies_on[lying]),
            (self.matches.second_rows, self.matches.first_rows),
        ):
            order = np.argsort(strength[rows], kind="stable")
            result[self.entry_of[truth_rows[order]]] = rows[order]
        return result

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """Whether each true source was found."""
        return self.found_by >= 0

    @cached_property
    def status(self) -> Integers:
        """What each catalogue row is; see `STATUS`."""
        # row -1 stands for no truth
        kind = np.append(self.truth["morphology"], "")
        resolved = np.append(self.truth_kind == "resolved", False) | np.isin(kind, EXTENDED)
        counted = np.append(np.append(self.counted, False)[self.entry_of], False)
        on = self.lies_on
        status = np.full(len(self.catalogue), FALSE)
        status[resolved[on]] = FRAGMENT
        status[kind[on] == SPURIOUS] = ARTEFACT
        belongs = np.where(np.isin(kind[on], OBJECTS), on, -1)
        belongs = np.where(self.match_of >= 0, self.match_of, belongs)
        owned = belongs >= 0
        status[owned] = np.where(counted[belongs], TRUE, IGNORED)[owned]
        status[~self._candidate] = LABELLED
        return status

    @property
    def _candidate(self) -> NDArray[np.bool_]:
        """Rows that the catalogue itself does not call artefacts."""
        return np.asarray(self.catalogue["morphology"] != SPURIOUS)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Catalogue rows that are either true or false."""
        return ~np.isin(self.status, (IGNORED, LABELLED))

    @property
    def true(self) -> NDArray[np.bool_]:
        """Catalogue rows that are true."""
        return np.asarray(self.status == TRUE)

    @cached_property
    def scored(self) -> bool:
        """Whether the catalogue's scores tell its rows apart."""
        score = self.catalogue["score"]
        known = score[np.isfinite(score)]
        return bool(len(known) and known.min() < known.max())

    @cached_property
    def _strength(self) -> Floats:
        """What a threshold would be set on: the score where there is one, else the S/N."""
        values = self.catalogue["score"] if self.scored else self.catalogue["snr"]
        if not np.isfinite(values).any():
            values = self.catalogue["peak_flux"]
        return np.asarray(np.nan_to_num(values, nan=-np.inf))

    @property
    def strength(self) -> Floats:
        """Score, or else S/N, or else peak flux of each catalogue row: what thresholds cut."""
        return self._strength
