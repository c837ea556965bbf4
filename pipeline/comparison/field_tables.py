"""Scores that are made field by field: challenge, association, residuals; and their pooling."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.association import (
    CENTRAL_RADIUS,
    COMPACT,
    LINKING_LENGTHS,
    Merged,
    PairScores,
    central_group,
    friends_of_friends,
    object_rows,
    pair_scores,
    source_groups,
    wrongly_merged,
)
from cyclades.pipeline.comparison.challenge import (
    ATTRIBUTES,
    challenge_columns,
    challenge_score,
    constant_class_baseline,
)
from cyclades.pipeline.comparison.field import TRUTH, ComparedField
from cyclades.pipeline.comparison.intervals import bootstrap
from cyclades.pipeline.comparison.metrics import f1_score
from cyclades.pipeline.comparison.outcome import OBJECTS, SPURIOUS, Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers
from cyclades.pipeline.comparison.without_truth import residual_statistics
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    inverse,
    pixel_positions,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.table import Table

ARCSEC = 3600.0
OWN, LINKED, CENTRAL = "own sources", "friends of friends", "centre"
Rate = Callable[[Floats], Floats]


def challenge_table(fields: Sequence[ComparedField], frequency: int) -> "Table":
    """Score of SKA Data Challenge 1 of every catalogue, with its attributes and the baseline.

    Tables with the challenge's own columns are scored by them, others by `challenge_columns`.

    Returns
    -------
    astropy.table.Table
        ``catalogue``, ``frequency`` (MHz), ``score``, ``detections``, ``matches``, ``false``,
        the mean of each attribute over the matches, and ``constant_class`` and
        ``constant_class_score``: the best that one class for all rows earns.

    Raises
    ------
    InputError
        Without a truth, or for a frequency that the challenge does not have.
    """
    from astropy.table import Table

    if any(f.truth is None for f in fields):
        raise InputError("The challenge's score needs a truth; give it with --truth.")
    rows = []
    for name in fields[0].outcomes:
        sums = np.zeros(4)
        attributes = np.zeros(len(ATTRIBUTES))
        pairs = []
        for f in fields:
            assert f.truth is not None
            beam = f.catalogues[name].beam or (f.beam, f.beam)
            real = f.truth.take(f.truth["morphology"] != SPURIOUS)
            truth = f.challenge.get(TRUTH) or challenge_columns(real, f.truth.beam or beam)
            found = f.challenge.get(name) or challenge_columns(f.catalogues[name], beam)
            made = challenge_score(found, truth, frequency)
            sums += [made.value, made.detections, made.matches, made.false]
            if made.matches:
                attributes += made.matches * np.array([made.attributes[a] for a in ATTRIBUTES])
            pairs.append((found, truth))
        best, alike = constant_class_baseline(pairs, frequency)
        value, *numbers = sums.tolist()
        row: dict[str, Any] = {"catalogue": name, "frequency": frequency, "score": value}
        row |= dict(zip(("detections", "matches", "false"), map(int, numbers), strict=True))
        means = attributes / numbers[1] if numbers[1] else np.full(len(ATTRIBUTES), np.nan)
        row |= dict(zip(ATTRIBUTES, means.tolist(), strict=True))
        row["constant_class"] = best
        row["constant_class_score"] = sum(score.value for score in alike)
        rows.append(row)
    return Table(rows)


def association_table(fields: Sequence[ComparedField]) -> "Table":
    """How well catalogues join components to sources, where true objects have several.

    Beside each catalogue's own sources stand, on its components, friends-of-friends at the
    linking length with the largest pairwise F1 (chosen on the truth, which flatters it) and
    everything within 54 arcsec of the field's centre as one source.

    Returns
    -------
    astropy.table.Table
        ``catalogue``, ``rule``, ``length`` (arcsec, NaN where there is none), ``whole`` (share of
        the found objects of several components whose components are one source and nothing
        else), ``pair_purity``, ``pair_completeness``, ``pair_f1``, ``merged`` (share of found
        compact single sources joined with anything), ``objects`` and ``singles`` (numbers of
        both). Empty without such objects.
    """
    from astropy.table import Table

    truths = [f.truth for f in fields if f.truth is not None]
    if not any(np.isin(t["morphology"], OBJECTS).any() and _several(t).any() for t in truths):
        return Table()
    rows: list[dict[str, Any]] = []
    for name in fields[0].outcomes:
        tables = [f.catalogues[name] for f in fields]
        true = [object_rows(t, real_truth(f), f.beam) for t, f in zip(tables, fields, strict=True)]
        linked = [
            (float(length), [friends_of_friends(table, float(length)) for table in tables])
            for length in LINKING_LENGTHS
        ]
        best = max(linked, key=lambda made: _quality(made[1], true, fields)["pair_f1"])
        rules = [
            (OWN, np.nan, [source_groups(table) for table in tables]),
            (LINKED, *best),
            (CENTRAL, CENTRAL_RADIUS, [central_group(t, *_centre(f))
                                       for t, f in zip(tables, fields, strict=True)]),
        ]  # fmt: skip
        rows += [
            {"catalogue": name, "rule": rule, "length": length, **_quality(groups, true, fields)}
            for rule, length, groups in rules
        ]
    return Table(rows)


def _several(truth: ComparisonTable) -> NDArray[np.bool_]:
    """Rows of objects with more than one row."""
    _, index, count = np.unique(truth["source"], return_inverse=True, return_counts=True)
    return np.asarray((count[index] > 1) & (truth["source"] >= 0))


def real_truth(f: ComparedField) -> ComparisonTable:
    """The truth of a field without artefacts."""
    assert f.truth is not None
    return f.truth.take(f.truth["morphology"] != SPURIOUS)


def _centre(f: ComparedField) -> tuple[float, float]:
    """Position of the middle of the image, or of the plane around the sources."""
    if f.image is None:
        ra, dec = f.wcs.wcs.crval
        return float(ra), float(dec)
    ny, nx = f.image.shape
    centre = sky_positions(f.wcs, 0.5 * (nx - 1), 0.5 * (ny - 1))
    return float(centre.ra.deg[0]), float(centre.dec.deg[0])


def _quality(
    groups: Sequence[Integers], true: Sequence[Integers], fields: Sequence[ComparedField]
) -> dict[str, Any]:
    """Pairs, whole objects and wrong merges of one rule, pooled over fields."""
    counts = [
        association_counts(own, rows, f) for own, rows, f in zip(groups, true, fields, strict=True)
    ]
    return association_rates(np.sum(counts, axis=0))


def association_counts(groups: Integers, true: Integers, f: ComparedField) -> Integers:
    """Numbers of one field that `association_rates` takes; those of several fields add up.

    Parameters
    ----------
    groups : ndarray of int, shape (n,)
        Source of each component of a catalogue of the field.
    true : ndarray of int, shape (n,)
        True object of each; see `cyclades.pipeline.comparison.association.object_rows`.
    f : ComparedField
        With a truth.

    Returns
    -------
    ndarray of int, shape (7,)
        Pairs of both, of the catalogue and of the truth; merged and found single sources; whole
        and found objects of several components.
    """
    truth = real_truth(f)
    several = _several(truth)
    whole = objects = 0
    numbers = truth["source"][several & np.isin(truth["morphology"], OBJECTS)]
    for number in np.intersect1d(true[true >= 0], numbers):
        used = np.unique(groups[true == number])
        objects += 1
        whole += len(used) == 1 and bool(np.all(true[groups == used[0]] == number))
    single = truth["source"][~several & (truth["morphology"] == COMPACT)]
    merged = wrongly_merged(groups, true, single)
    return np.array([*pair_scores(groups, true), *merged, whole, objects], np.int64)


def association_rates(counts: Integers) -> dict[str, Any]:
    """Shares of `association_counts`; see `association_table`."""
    both, found, true, merged, singles, whole, objects = map(int, counts)
    pairs = PairScores(both, found, true)
    return {
        "whole": whole / objects if objects else np.nan,
        "pair_purity": pairs.purity,
        "pair_completeness": pairs.completeness,
        "pair_f1": np.nan_to_num(pairs.f1),
        "merged": Merged(merged, singles).share,
        "objects": objects,
        "singles": singles,
    }


def catalogue_model(table: ComparisonTable, f: ComparedField) -> NDArray[np.float32]:
    """Draw a catalogue's components on the image's pixels, in the unit of its peaks."""
    from cyclades.stages.core.rendering import render_gaussians

    assert f.image is not None
    x, y = pixel_positions(f.wcs, table["ra"], table["dec"])
    major = np.where(np.isfinite(table["major"]), table["major"], f.beam)
    minor = np.where(np.isfinite(table["minor"]), table["minor"], major)
    sky = covariance_from_shape(major, minor, np.nan_to_num(table["position_angle"]))
    pixels = transform_covariance(sky, inverse(ARCSEC * sky_jacobian(f.wcs, x, y)))
    values = np.column_stack(
        [table["peak_flux"], x, y, pixels[:, 0, 0], pixels[:, 0, 1], pixels[:, 1, 1]]
    )
    return render_gaussians(f.image.shape, values)


def residual_table(fields: Sequence[ComparedField]) -> "Table":
    """Scatter of the image minus level and every catalogue's Gaussians, in units of the rms.

    Level and rms are those of the classical background (or the noise map that was given), the
    same for all catalogues. ``sources`` are the pixels where the model of any catalogue exceeds
    one rms.

    Returns
    -------
    astropy.table.Table
        ``catalogue``, ``pixels`` (``all``, ``sources`` or ``elsewhere``), ``rms``, ``mad``,
        ``kurtosis``, ``mean``, ``number``; empty where not every field has an image.
    """
    from astropy.table import Table

    if any(f.image is None or f.image.wcs is None or f.background is None for f in fields):
        return Table()
    kept: dict[str, list[Floats]] = {name: [] for name in fields[0].catalogues}
    bright: list[NDArray[np.bool_]] = []
    for f in fields:
        assert f.image is not None
        assert f.background is not None
        models = {name: catalogue_model(table, f) for name, table in f.catalogues.items()}
        rms = f.background.rms
        on = np.zeros(f.image.shape, bool)
        with np.errstate(invalid="ignore"):
            for model in models.values():
                on |= model > rms
        bright.append(on.ravel())
        for name, model in models.items():
            residual = (f.image.data - f.background.level - model) / rms
            kept[name].append(residual.ravel().astype(np.float64))
    on = np.concatenate(bright)
    rows = []
    for name, parts in kept.items():
        values = np.concatenate(parts)
        for label, pick in (("all", slice(None)), ("sources", on), ("elsewhere", ~on)):
            chosen = values[pick]
            rows.append((name, label, *residual_statistics(chosen, np.ones(len(chosen)))))
    names = ("catalogue", "pixels", "rms", "mad", "kurtosis", "mean", "number")
    return Table(rows=rows, names=names)


def over_fields(fields: Sequence[ComparedField]) -> "Table":
    """Completeness, reliability and F1 with intervals from resampling whole fields.

    Sources of one field share its noise, its artefacts and its crowding, so the intervals of
    `summary`, which take sources for independent, are too narrow where fields differ. The
    difference of two catalogues is that on the same resampled fields, which takes out what makes
    a field easy or hard for both.

    Returns
    -------
    astropy.table.Table
        ``catalogue``, ``minus`` (the other catalogue of a difference, or empty), ``quantity``,
        ``value``, ``low``, ``high`` (68 %), ``fields``; empty without a truth.
    """
    from astropy.table import Table

    counts = {
        name: np.array([outcome_counts(f.outcomes[name]) for f in fields], float)
        for name in fields[0].outcomes
    }
    rows = []
    for name, values in counts.items():
        for quantity, rate in RATES.items():
            interval = bootstrap(values, partial(_pooled, rate=rate))
            rows.append((name, "", quantity, float(_pooled(values, rate)), *interval))
    for one, other in combinations(counts, 2):
        joint = np.concatenate([counts[other], counts[one]], axis=1)
        for quantity, rate in RATES.items():
            interval = bootstrap(joint, partial(_difference, rate=rate))
            rows.append((other, one, quantity, float(_difference(joint, rate)), *interval))
    names = ("catalogue", "minus", "quantity", "value", "low", "high")
    types = ("U64", "U64", "U16", "f8", "f8", "f8")
    made = Table(rows=rows or None, names=names, dtype=types)
    made["fields"] = np.full(len(made), len(fields))
    return made


def _pooled(counts: Floats, rate: Rate) -> Floats:
    """A rate of the counts of all fields together."""
    return rate(counts.sum(axis=-2))


def _difference(counts: Floats, rate: Rate) -> Floats:
    """The first catalogue's rate less the second's, their counts side by side."""
    return np.asarray(_pooled(counts[..., :4], rate) - _pooled(counts[..., 4:], rate))


def outcome_counts(outcome: Outcome) -> tuple[int, int, int, int]:
    """Hits, counted truth, true rows, judged rows: what the rates of `RATES` take."""
    hit = outcome.counted & outcome.found
    return (
        int(hit.sum()),
        int(outcome.counted.sum()),
        int(outcome.true.sum()),
        int(outcome.judged.sum()),
    )


def _completeness(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(counts[..., 0] / counts[..., 1])


def _reliability(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(counts[..., 2] / counts[..., 3])


def _f1(counts: Floats) -> Floats:
    return f1_score(_completeness(counts), _reliability(counts))


RATES = {"completeness": _completeness, "reliability": _reliability, "f1": _f1}
