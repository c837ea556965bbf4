"""The tables that only some comparisons have, as text for a terminal."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.challenge import ATTRIBUTES
from cyclades.pipeline.comparison.text_columns import columns, number

if TYPE_CHECKING:
    from astropy.table import Table


def further_blocks(tables: "Mapping[str, Table]") -> list[str]:
    """Return each table, under what it is, as aligned columns."""
    return [
        f"{title}\n{columns(rows(tables[name]))}"
        for name, (title, rows) in BLOCKS.items()
        if name in tables
    ]


def _average_precision(table: "Table") -> list[dict[str, Any]]:
    return [
        {
            "catalogue": row["catalogue"],
            "instances": row["instances"],
            "box AP50": number(row["box_ap50"]),
            "box AP50:95": number(row["box_ap"]),
            "mask AP50": number(row["mask_ap50"]),
            "mask AP50:95": number(row["mask_ap"]),
            "truth": row["truth"],
            "detections": row["detections"],
        }
        for row in table
    ]


def _benchmark(table: "Table") -> list[dict[str, Any]]:
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table:
        key = (str(row["catalogue"]), str(row["form"]))
        entry = made.setdefault(key, {"catalogue": key[0], "form": key[1]})
        shares = (row["completeness"], row["reliability"], row["f1"])
        entry[str(row["class"])] = " / ".join(map(number, shares))
    return list(made.values())


def _challenge(table: "Table") -> list[dict[str, Any]]:
    return [
        {
            "catalogue": row["catalogue"],
            "score": f"{row['score']:.1f}",
            "one class": f"{row['constant_class_score']:.1f}",
            "matches": row["matches"],
            "false": row["false"],
            **{name: number(row[name]) for name in ATTRIBUTES},
        }
        for row in table
    ]


def _association(table: "Table") -> list[dict[str, Any]]:
    return [
        {
            "catalogue": row["catalogue"],
            "rule": _rule(row["rule"], row["length"]),
            "whole objects": number(row["whole"]),
            "pair purity": number(row["pair_purity"]),
            "pair completeness": number(row["pair_completeness"]),
            "pair F1": number(row["pair_f1"]),
            "wrongly merged": number(row["merged"]),
        }
        for row in table
    ]


def _rule(rule: str, length: float) -> str:
    return f"{rule}, {length:g} arcsec" if np.isfinite(length) else rule


def _residuals(table: "Table") -> list[dict[str, Any]]:
    return [
        {
            "catalogue": row["catalogue"],
            "pixels": row["pixels"],
            "rms": number(row["rms"]),
            "1.4826 MAD": number(row["mad"]),
            "kurtosis": number(row["kurtosis"]),
            "number": row["number"],
        }
        for row in table
    ]


def _visibility(table: "Table") -> list[dict[str, Any]]:
    picked = [round(share * len(table)) - 1 for share in (0.05, 0.25, 0.5, 0.75, 1.0)]
    return [
        {
            "area (deg2)": f"{table['area'][k]:.4g}",
            "of all": f"{table['area'][k] / table['area'][-1]:.0%}",
            "rms at most": f"{table['rms'][k]:.4g}",
        }
        for k in picked
    ]


def _counts(table: "Table") -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for row in table:
        name = str(row["catalogue"])
        entry = made.setdefault(name, {"S (Jy)": name})
        low, high = row["counts_low"], row["counts_high"]
        seen = np.isfinite(row["counts"])
        text = f"{row['counts']:.3g} [{low:.3g}, {high:.3g}]" if seen else "-"
        entry[f"{row['flux']:.3g}"] = text
    return list(made.values())


def _corrections(table: "Table") -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for row in table:
        name = str(row["catalogue"])
        entry = made.setdefault(name, {"S from (Jy)": name})
        value, error = row["correction"], row["correction_err"]
        text = f"{number(value)} +- {number(error)}" if np.isfinite(value) else "-"
        entry[f"{row['total_flux_low']:.3g}"] = text
    return list(made.values())


def _labels(table: "Table") -> list[dict[str, Any]]:
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table:
        key = (str(row["catalogue"]), str(row["quantity"]))
        entry = made.setdefault(
            key, {"catalogue": key[0], "quantity": _rule(key[1], row["length"])}
        )
        text = number(row["value"])
        if np.isfinite(row["low"]):
            text += f" [{number(row['low'])}, {number(row['high'])}]"
        entry[str(row["consensus"])] = text
    return list(made.values())


def _over_fields(table: "Table") -> list[dict[str, Any]]:
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table:
        key = (str(row["catalogue"]), str(row["minus"]))
        name = f"{key[0]} minus {key[1]}" if key[1] else key[0]
        entry = made.setdefault(key, {"catalogue": name})
        sign = "+" if key[1] else ""
        entry[str(row["quantity"])] = (
            f"{row['value']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
        )
    return list(made.values())


BLOCKS: "dict[str, tuple[str, Callable[[Table], list[dict[str, Any]]]]]" = {
    "over_fields": ("with intervals from resampling whole fields", _over_fields),
    "average_precision": (
        "average precision (ellipses: boxes of one FWHM to either side of truth and rows; "
        "islands: pixels of islands and true isophotes)",
        _average_precision,
    ),
    "benchmark": (
        "radio benchmark, box IoU > 0.6: completeness / reliability / F1 by class",
        _benchmark,
    ),
    "challenge": ("SKA Data Challenge 1", _challenge),
    "association": ("association of components", _association),
    "labels": ("labels of volunteers, by use of their consensus", _labels),
    "residuals": ("residual over rms", _residuals),
    "visibility": ("visibility area", _visibility),
    "counts": ("Euclid-normalised counts (Jy^1.5 / sr), corrected for visibility", _counts),
    "corrections": ("corrections of counts: reliability / completeness", _corrections),
}
"""Titles and rows, in the order in which they are printed."""
