"""Which rows of a catalogue are real, by the truth of a simulation."""

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.match import candidate_pairs, one_to_one
from cyclades.pipeline.comparison.outcome import EXTENDED, SPURIOUS, Outcome
from cyclades.pipeline.comparison.tables import PART, ComparisonTable
from cyclades.stages.core.products import Integers

FLOOR = 3.0
"""S/N of the faintest true source of which a row is real."""
SHARE = 0.25
"""Least peak of a true source over that of the row that it makes real."""


def real_rows(
    catalogue: ComparisonTable, truth: ComparisonTable, *, beam: float | None = None
) -> NDArray[np.bool_]:
    """Whether each row is a real source, or a piece of one that is extended.

    A row is real if a true source of S/N 3 or more (integrated, if it is extended) matches it one
    to one (`cyclades.pipeline.comparison.match`); or if it lies within one FWHM of the centre of
    an extended one, since every piece of its emission is real; or if a true source that no other
    row matches lies at its place with a quarter of its peak or more (fluxes of blends may differ
    by more than a match allows). All else is not: peaks of the noise, sidelobes, and second rows
    of compact sources.

    Parameters
    ----------
    catalogue, truth : ComparisonTable
        Every row of the catalogue gets an answer; one that is a part of its source (a component
        of the residual-wavelet model) that of its source, True if any other row of it is real.
    beam : float, optional
        Major axis in arcsec; by default that of the truth.
    """
    n = len(catalogue)
    result = np.zeros(n, bool)
    numbered = catalogue.replace(island=np.arange(n))
    outcome = Outcome.of(truth, numbered, beam=beam, floor=FLOOR)
    rows = outcome.catalogue["island"]
    counted = np.append(np.append(outcome.counted, False)[outcome.entry_of], False)
    kind = np.append(truth["morphology"], "")
    extended = np.isin(kind, EXTENDED) | np.append(outcome.truth_kind == "resolved", False)
    matched = outcome.match_of
    real = np.where(matched >= 0, counted[matched], counted[outcome.lies_on])
    real &= (matched >= 0) | extended[outcome.lies_on]
    free_truth = np.setdiff1d(np.flatnonzero(counted[:-1]), matched)
    free_truth = free_truth[truth["morphology"][free_truth] != SPURIOUS]
    free_rows = np.flatnonzero(~real & (matched < 0))
    pairs = one_to_one(
        candidate_pairs(
            truth.take(free_truth),
            outcome.catalogue.take(free_rows),
            beam=outcome.beam,
            flux_check=False,
        )
    )
    a, b = free_truth[pairs.first_rows], free_rows[pairs.second_rows]
    enough = truth["peak_flux"][a] >= SHARE * np.abs(outcome.catalogue["peak_flux"][b])
    real[b[enough]] = True
    result[rows] = real
    return _parts_as_their_source(catalogue, result)


def _parts_as_their_source(
    catalogue: ComparisonTable, real: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    part: NDArray[np.bool_] = catalogue[PART]
    source: Integers = catalogue["source"]
    made = real.copy()
    made[part] |= np.isin(source[part], source[real & (source >= 0)])
    return made
