"""The rows of a report: every catalogue as a layer of the image, and the worst mismatches."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.outcome import STATUS, Outcome, integrated_snr
from cyclades.pipeline.comparison.report_curves import plain
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.compare import Comparison
    from cyclades.pipeline.comparison.report_image import Frame

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's palette for colour-blind readers; the first four have a contrast of 3 or more to
black and to white."""
DASHES: tuple[list[int], ...] = ([], [7, 3], [2, 3], [8, 3, 2, 3])
TRUTH_DASH = [1, 2]
TRUTH_COLOUR = "#000000"
HAS_COUNTERPART, MISMATCH, IGNORED = range(3)
MOST = 80
"""Mismatches listed of each kind."""
RATIO_FLOOR = 7.0
"""S/N from which flux ratios are listed: below it the noise makes any ratio."""
FLUX_UNITS = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


class FluxUnit(NamedTuple):
    """What fluxes are divided by for people, and how that unit is called."""

    value: float
    prefix: str

    @classmethod
    def of(cls, tables: list[ComparisonTable]) -> "FluxUnit":
        """Choose the unit in which the median peak is between 1 and 1000."""
        peaks = np.concatenate([np.abs(table["peak_flux"]) for table in tables])
        peaks = peaks[np.isfinite(peaks) & (peaks > 0)]
        middle = float(np.median(peaks)) if len(peaks) else 1.0
        for value, prefix in FLUX_UNITS:
            if middle >= value:
                return cls(value, prefix)
        return cls(*FLUX_UNITS[-1])


class Identified(NamedTuple):
    """Cross-catalogue numbers of the rows of one table."""

    match: Integers
    clump: Integers


def identify(comparison: "Comparison") -> dict[str, Identified]:
    """Take the cross-catalogue numbers of every row out of the cross table, by table name."""
    cross = comparison.cross
    tables = _tables(comparison)
    names, rows = np.asarray(cross["catalogue"]), np.asarray(cross["row"])
    made = {}
    for table in tables:
        mine = names == table.name
        match, clump = (np.zeros(len(table), np.int64) for _ in range(2))
        match[rows[mine]] = np.asarray(cross["match_id"])[mine]
        clump[rows[mine]] = np.asarray(cross["clump_id"])[mine]
        made[table.name] = Identified(match, clump)
    return made


def _tables(comparison: "Comparison") -> list[ComparisonTable]:
    """The truth, where there is one, then the catalogues: the order of the layers."""
    truth = [] if comparison.truth is None else [comparison.truth]
    return [*truth, *comparison.catalogues.values()]


def missed_by(comparison: "Comparison") -> dict[str, NDArray[np.bool_]]:
    """Which rows of the truth stand for a source that counts and that a catalogue missed."""
    made = {}
    for name, outcome in comparison.outcomes.items():
        missed = np.zeros(len(outcome.truth), bool)
        missed[outcome.entries[outcome.counted & ~outcome.found]] = True
        made[name] = missed
    return made


def catalogue_status(comparison: "Comparison", name: str) -> Integers:
    """`MISMATCH` for false rows; without a truth, for rows that no other catalogue has."""
    if name in comparison.outcomes:
        outcome = comparison.outcomes[name]
        judged = np.where(outcome.judged, MISMATCH, IGNORED)
        return np.where(outcome.true, HAS_COUNTERPART, judged)
    identified = identify(comparison)
    mine = identified[name].match
    elsewhere = [held.match for other, held in identified.items() if other != name]
    if not elsewhere:
        # one catalogue alone: nothing to be missing from
        return np.full(len(mine), HAS_COUNTERPART)
    return np.where(np.isin(mine, np.concatenate(elsewhere)), HAS_COUNTERPART, MISMATCH)


def truth_status(comparison: "Comparison") -> Integers:
    """`MISMATCH` for truth that some catalogue missed, `IGNORED` for truth that does not count."""
    assert comparison.truth is not None
    status = np.full(len(comparison.truth), HAS_COUNTERPART)
    for outcome in comparison.outcomes.values():
        counted = np.append(outcome.counted, False)[outcome.entry_of]
        status[~counted] = IGNORED
    for missed in missed_by(comparison).values():
        status[missed] = MISMATCH
    return status


def fields(unit: FluxUnit) -> list[dict[str, str]]:
    """The lines of the table of a chosen source: key, label, unit, kind, column of the error."""
    flux, brightness = f"{unit.prefix}Jy", f"{unit.prefix}Jy/beam"
    return [
        {"key": "name", "label": "name", "kind": "text"},
        {"key": "ra", "label": "right ascension", "unit": "ICRS", "kind": "ra"},
        {"key": "dec", "label": "declination", "unit": "ICRS", "kind": "dec"},
        {"key": "ra_err", "label": "error in ra cos dec", "unit": "arcsec"},
        {"key": "dec_err", "label": "error in dec", "unit": "arcsec"},
        {"key": "snr", "label": "signal to noise"},
        {"key": "integrated_snr", "label": "integrated signal to noise"},
        {"key": "peak_flux", "label": "peak flux", "unit": brightness, "error": "peak_flux_err"},
        {"key": "total_flux", "label": "total flux", "unit": flux, "error": "total_flux_err"},
        {"key": "local_rms", "label": "local rms", "unit": brightness},
        {"key": "major", "label": "major axis", "unit": "arcsec", "error": "major_err"},
        {"key": "minor", "label": "minor axis", "unit": "arcsec", "error": "minor_err"},
        {"key": "position_angle", "label": "position angle", "unit": "deg",
         "error": "position_angle_err"},
        {"key": "score", "label": "score"},
        {"key": "morphology", "label": "class", "kind": "text"},
        {"key": "source", "label": "source number", "kind": "text"},
        {"key": "island", "label": "island number", "kind": "text"},
        {"key": "row", "label": "row", "kind": "text"},
        {"key": "verdict", "label": "verdict", "kind": "text"},
    ]  # fmt: skip


def layers(comparison: "Comparison", frame: "Frame", unit: FluxUnit) -> list[dict[str, Any]]:
    """Return every table as a layer of the page: places, ellipses, status, identity, values."""
    identified = identify(comparison)
    beam = float(comparison.meta["beam"])
    made = []
    for number, table in enumerate(_tables(comparison)):
        truth = comparison.truth is not None and number == 0
        order = number - (comparison.truth is not None)
        status = truth_status(comparison) if truth else catalogue_status(comparison, table.name)
        place = frame.place(table, beam)
        made.append(
            {
                "name": table.name,
                "truth": truth,
                "colour": TRUTH_COLOUR if truth else COLOURS[order % len(COLOURS)],
                "dash": TRUTH_DASH if truth else DASHES[order % len(DASHES)],
                **{key: plain(values, 6) for key, values in place.items()},
                "status": status.tolist(),
                "match": identified[table.name].match.tolist(),
                "clump": identified[table.name].clump.tolist(),
                "values": {
                    **row_values(table, unit),
                    "integrated_snr": plain(integrated_snr(table)),
                    "verdict": _verdicts(comparison, table, status),
                },
            }
        )
    return made


def row_values(table: ComparisonTable, unit: FluxUnit) -> dict[str, list[Any]]:
    """Return the columns of a table that hold anything, for `fields`; fluxes in the unit."""
    made: dict[str, list[Any]] = {"row": [str(row) for row in range(len(table))]}
    for field in fields(unit):
        for key in (field["key"], field.get("error", "")):
            if key not in table.columns:
                continue
            values = table[key]
            if values.dtype.kind == "U":
                if (values != "").any():
                    made[key] = values.tolist()
            elif values.dtype.kind == "i":
                if (values >= 0).any():
                    made[key] = [str(v) if v >= 0 else "" for v in values.tolist()]
            elif np.isfinite(values).any():
                scale = unit.value if "flux" in key or key == "local_rms" else 1.0
                made[key] = plain(values / scale, 10 if key in ("ra", "dec") else 5)
    return made


def _verdicts(comparison: "Comparison", table: ComparisonTable, status: Integers) -> list[str]:
    """What the comparison says of each row, in words."""
    outcome = comparison.outcomes.get(table.name)
    if outcome is not None:
        return [STATUS[number] for number in outcome.status.tolist()]
    if comparison.truth is None:
        return ["" if s == HAS_COUNTERPART else "only here" for s in status.tolist()]
    lost = missed_by(comparison)
    names = [
        ", ".join(name for name, missed in lost.items() if missed[row]) for row in range(len(table))
    ]
    return [
        "ignored" if s == IGNORED else f"missed by {who}" if who else "found"
        for s, who in zip(status.tolist(), names, strict=True)
    ]


def mismatches(comparison: "Comparison", unit: FluxUnit) -> list[dict[str, Any]]:
    """Return the kinds of mismatch, each with its rows, the worst first.

    With a truth: missed truth and false rows by brightness, and matched rows by how far the ratio
    of total fluxes is from one; without: rows that only one catalogue has, and ratios to the
    first catalogue.
    """
    if comparison.truth is None and len(comparison.catalogues) < 2:
        return []
    identified = identify(comparison)
    if comparison.truth is not None:
        return [
            _missed(comparison, identified, unit),
            _false(comparison, identified, unit),
            _ratios(comparison, identified, unit),
        ]
    return [_lonely(comparison, identified, unit), _ratios(comparison, identified, unit)]


def _kind(
    key: str, label: str, columns: list[tuple[str, str]], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "key": key,
        "label": label,
        "columns": [{"label": name, "unit": unit} for name, unit in columns],
        "rows": rows,
    }


def _number(value: float, digits: int = 4) -> float | None:
    return plain([value], digits)[0]


def _missed(
    comparison: "Comparison", identified: dict[str, Identified], unit: FluxUnit
) -> dict[str, Any]:
    truth = comparison.truth
    assert truth is not None
    lost = missed_by(comparison)
    names = list(lost)
    outcome = next(iter(comparison.outcomes.values()))
    snr = outcome.row_snr
    rows = np.flatnonzero(np.any(list(lost.values()), axis=0))
    rows = rows[np.argsort(-np.nan_to_num(snr[rows]), kind="stable")]
    made = []
    for row in rows[:MOST].tolist():
        who = [name for name in names if lost[name][row]]
        made.append(
            {
                "layer": 0,
                "row": row,
                # a source that all miss has the colour of the truth
                "of": 1 + names.index(who[0]) if len(who) == 1 and len(names) > 1 else 0,
                "cells": [
                    str(identified[truth.name].match[row]),
                    _number(snr[row]),
                    _number(truth["total_flux"][row] / unit.value),
                    str(truth["morphology"][row]) or "–",
                    "all" if len(who) == len(names) > 1 else ", ".join(who),
                ],
            }
        )
    columns = [("source", ""), ("S/N", "counted"), ("total flux", f"{unit.prefix}Jy"),
               ("class", ""), ("missed by", "")]  # fmt: skip
    return _kind("missed", f"Missed ({len(rows)})", columns, made)


def _elsewhere(
    comparison: "Comparison", identified: dict[str, Identified], name: str, row: int
) -> str:
    """Names of the other catalogues that have the same source."""
    mine = identified[name].match[row]
    others = [other for other in comparison.catalogues if other != name]
    return ", ".join(other for other in others if mine in identified[other].match) or "–"


def _false(
    comparison: "Comparison", identified: dict[str, Identified], unit: FluxUnit
) -> dict[str, Any]:
    found = []
    for number, (name, outcome) in enumerate(comparison.outcomes.items(), 1):
        rows = np.flatnonzero(outcome.judged & ~outcome.true).tolist()
        found += [(number, name, row, outcome.catalogue["peak_flux"][row]) for row in rows]
    found.sort(key=lambda entry: (-np.nan_to_num(entry[3]), entry[0], entry[2]))
    made = [
        {
            "layer": number,
            "row": row,
            "of": number,
            "cells": [
                str(identified[name].match[row]),
                _number(comparison.catalogues[name]["snr"][row]),
                _number(peak / unit.value),
                name,
                STATUS[comparison.outcomes[name].status[row]],
                _elsewhere(comparison, identified, name, row),
            ],
        }
        for number, name, row, peak in found[:MOST]
    ]
    columns = [("source", ""), ("S/N", ""), ("peak flux", f"{unit.prefix}Jy/beam"),
               ("catalogue", ""), ("kind", ""), ("also in", "")]  # fmt: skip
    return _kind("false", f"False ({len(found)})", columns, made)


def _lonely(
    comparison: "Comparison", identified: dict[str, Identified], unit: FluxUnit
) -> dict[str, Any]:
    found = []
    for number, (name, table) in enumerate(comparison.catalogues.items()):
        alone = np.flatnonzero(catalogue_status(comparison, name) == MISMATCH)
        found += [(number, name, row, table["peak_flux"][row]) for row in alone.tolist()]
    found.sort(key=lambda entry: (-np.nan_to_num(entry[3]), entry[0], entry[2]))
    made = [
        {
            "layer": number,
            "row": row,
            "of": number,
            "cells": [
                str(identified[name].match[row]),
                _number(comparison.catalogues[name]["snr"][row]),
                _number(peak / unit.value),
                name,
            ],
        }
        for number, name, row, peak in found[:MOST]
    ]
    columns = [("source", ""), ("S/N", ""), ("peak flux", f"{unit.prefix}Jy/beam"), ("only in", "")]
    return _kind("lonely", f"Only in one ({len(found)})", columns, made)


class _Pair(NamedTuple):
    """One measured row beside what it is compared with."""

    layer: int
    name: str
    row: int
    true: float
    measured: float
    error: float
    snr: float


def _ratios(
    comparison: "Comparison", identified: dict[str, Identified], unit: FluxUnit
) -> dict[str, Any]:
    pairs: list[_Pair] = []
    with_truth = comparison.truth is not None
    first = next(iter(comparison.catalogues))
    for number, (name, table) in enumerate(comparison.catalogues.items()):
        if with_truth:
            i, j, reference, snr = _matched(comparison.outcomes[name])
        elif name != first:
            from cyclades.pipeline.comparison.match import match

            reference = comparison.catalogues[first]
            held = match(reference, table, beam=comparison.meta["beam"])
            i, j, snr = held.first_rows, held.second_rows, reference["snr"]
        else:
            continue
        pairs += [
            _Pair(number + with_truth, name, b, reference["total_flux"][a],
                  table["total_flux"][b], table["total_flux_err"][b], snr[a])
            for a, b in zip(i.tolist(), j.tolist(), strict=True)
        ]  # fmt: skip
    pairs = [p for p in pairs if p.snr >= RATIO_FLOOR and p.true > 0 and p.measured > 0]
    pairs.sort(key=lambda p: -abs(np.log(p.measured / p.true)))
    made = [
        {
            "layer": p.layer,
            "row": p.row,
            "of": p.layer,
            "cells": [
                str(identified[p.name].match[p.row]),
                _number(p.snr),
                _number(p.measured / p.true, 3),
                _number(p.true / unit.value),
                _number((p.measured - p.true) / p.error, 3) if p.error > 0 else None,
                p.name,
            ],
        }
        for p in pairs[:MOST]
    ]
    label = "true" if with_truth else first
    columns = [
        ("source", ""),
        ("S/N", ""),
        (f"total / {label}", ""),
        (f"{label} flux", f"{unit.prefix}Jy"),
        ("pull", "sigma"),
        ("catalogue", ""),
    ]
    return _kind("ratio", f"Flux ratios (S/N ≥ {RATIO_FLOOR:g})", columns, made)


def _matched(outcome: Outcome) -> tuple[Integers, Integers, ComparisonTable, Floats]:
    matches = outcome.matches
    return matches.first_rows, matches.second_rows, outcome.truth, outcome.row_snr
