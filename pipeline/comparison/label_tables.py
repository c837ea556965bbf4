"""Catalogues of real fields against the labels of volunteers, as a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cyclades.pipeline.comparison.association import (
    CENTRAL_RADIUS,
    best_friends_of_friends,
    central_group,
    covered_by_one,
    friends_of_friends,
    label_pair_scores,
    source_groups,
)
from cyclades.pipeline.comparison.field import ComparedField
from cyclades.pipeline.comparison.intervals import bootstrap
from cyclades.pipeline.comparison.labels import (
    CONSENSUS_CUT,
    Label,
    LabelledShares,
    Share,
    component_recall,
    group_rows,
    labelled_shares,
)
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table

USES = ("plain", "weighted", "cut")
Rule = Callable[[ComparisonTable, Label], Integers]


def label_table(fields: Sequence[ComparedField], labels: Sequence[Label]) -> "Table":
    """Recall, precision and association of every catalogue against labels.

    Nothing farther than 1.5 arcmin from a field's labelled target counts as false.

    Parameters
    ----------
    fields : sequence of ComparedField
        Fields without a label are left out.
    labels : sequence of Label
        Belonging to fields by name.

    Returns
    -------
    astropy.table.Table
        ``catalogue``; ``quantity``: ``component recall`` (labelled components with a row within
        one beam, parts of sources included), ``central precision`` (rows within 1.5 arcmin of the
        target, with their parts, that lie in the extent of a label), ``covered by one`` (labels
        that exactly one source covers, without anything from outside), the same for
        ``friends of friends`` at its best linking length and for ``centre`` (all within 54 arcsec
        one source), and pair ``purity``,
        ``completeness`` and ``F1`` of each rule; ``consensus``: labels counted alike
        (``plain``), by their consensus level (``weighted``), or above 0.8 only (``cut``);
        ``value``, ``low``, ``high`` (68 %, resampled fields), ``number`` of labels (of fields for
        precision and pairs, each with the mean consensus of its labels), ``length`` (linking
        length, arcsec).

    Raises
    ------
    InputError
        Where no label belongs to any field.
    """
    from astropy.table import Table

    by_field: dict[str, list[Label]] = {}
    for label in labels:
        by_field.setdefault(label.field, []).append(label)
    used = [f for f in fields if f.name in by_field]
    if not used:
        raise InputError(
            f"No label belongs to any of the fields ({fields[0].name}, ...); fields are called "
            "by their images' file names, as in the column 'field' of the labels."
        )
    groups = [by_field[f.name] for f in used]
    rows: list[tuple[str, str, str, float, float, float, int, float]] = []

    def add(name: str, quantity: str, shares: LabelledShares, length: float = np.nan) -> None:
        for use, share in zip(USES, shares, strict=True):
            rows.append((name, quantity, use, *share, length))

    for name in used[0].catalogues:
        held = [(f.detections[name], own) for f, own in zip(used, groups, strict=True)]
        beam = used[0].beam
        # a labelled component may be what a fit describes as a part of its source
        parts = [(f.catalogues[name], own) for f, own in zip(used, groups, strict=True)]
        add(name, "component recall", _recall(parts, beam))
        add(name, "central precision", _precision(held, beam))
        linked = best_friends_of_friends(held, beam)
        every = [label for own in groups for label in own]
        rules: dict[str, tuple[Rule, float]] = {
            "own sources": (_own, np.nan),
            "friends of friends": (partial(_linked, length=linked.length), linked.length),
            "centre": (_central, CENTRAL_RADIUS),
        }
        for rule, (grouped, length) in rules.items():
            found = [(table, grouped(table, own[0]), own) for table, own in held]
            covered = [covered_by_one(table, joined, own, beam) for table, joined, own in found]
            shares = labelled_shares(every, np.concatenate(covered))
            add(name, f"covered by one: {rule}", shares, length)
            for kind, use, share in _pairs(found, beam):
                rows.append((name, f"pair {kind}: {rule}", use, *share, length))
    names = ("catalogue", "quantity", "consensus", "value", "low", "high", "number", "length")
    types = ("U64", "U48", "U8", "f8", "f8", "f8", "i8", "f8")
    return Table(rows=rows, names=names, dtype=types, meta={"fields": len(used)})


def _pairs(
    found: Sequence[tuple[ComparisonTable, Integers, Sequence[Label]]], beam: float
) -> Iterator[tuple[str, str, Share]]:
    """Pairwise purity, completeness and F1; a field weighs as the mean consensus of its labels."""
    counts = np.array([label_pair_scores(t, joined, own, beam) for t, joined, own in found], float)
    consensus = np.array([_consensus(own) for _, _, own in found])
    weights = (np.ones(len(found)), consensus, 1.0 * (consensus >= CONSENSUS_CUT))
    for kind, shares in PAIR_SHARES.items():
        for use, weight in zip(USES, weights, strict=True):
            values = counts * weight[:, None]
            with np.errstate(invalid="ignore"):  # no pairs in a draw of fields
                value = float(shares(values))
                bounds = bootstrap(values, shares) if np.isfinite(value) else (np.nan, np.nan)
            yield kind, use, Share(value, *bounds, int((weight > 0).sum()))


def _consensus(labels: Sequence[Label]) -> float:
    return float(np.mean([label.consensus for label in labels]))


def _purity(counts: Floats) -> Floats:
    both, found, _ = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return np.asarray(both / found)


def _completeness(counts: Floats) -> Floats:
    both, _, true = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return np.asarray(both / true)


def _f1(counts: Floats) -> Floats:
    both, found, true = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return np.asarray(2 * both / (found + true))


PAIR_SHARES = {"purity": _purity, "completeness": _completeness, "f1": _f1}


def _own(table: ComparisonTable, label: Label) -> Integers:
    return source_groups(table)


def _linked(table: ComparisonTable, label: Label, *, length: float) -> Integers:
    return friends_of_friends(table, length)


def _central(table: ComparisonTable, label: Label) -> Integers:
    return central_group(table, label.target_ra, label.target_dec)


Held = Sequence[tuple[ComparisonTable, Sequence[Label]]]


def _recall(held: Held, beam: float) -> LabelledShares:
    every = [label for _, own in held for label in own]
    hits = [
        component_recall(label, table["ra"], table["dec"], beam)
        for table, own in held
        for label in own
    ]
    return labelled_shares(every, hits, [len(label.ra) for label in every])


def _precision(held: Held, beam: float) -> LabelledShares:
    """Rows near the target that lie in a label; a field has the mean consensus of its labels."""
    fields, hits, number = [], [], []
    for table, own in held:
        rows = group_rows(own, table["ra"], table["dec"], beam)
        hits.append(int(np.count_nonzero(rows >= 0)))
        number.append(int(np.count_nonzero(rows >= -1)))
        fields.append(replace(own[0], consensus=_consensus(own)))
    return labelled_shares(fields, hits, number)
