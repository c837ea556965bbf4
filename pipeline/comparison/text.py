"""A comparison as text for a terminal."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.metrics import SNR_BINS
from cyclades.pipeline.comparison.text_columns import columns as _columns
from cyclades.pipeline.comparison.text_columns import number as _number
from cyclades.pipeline.comparison.text_columns import with_interval
from cyclades.pipeline.comparison.text_further import further_blocks

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.comparison.compare import Comparison

_PULL_FLOOR = 7.0


def comparison_text(comparison: "Comparison") -> str:
    """Return the main numbers of a comparison as aligned columns."""
    blocks = []
    if len(comparison.summary):
        blocks.append(_against_truth(comparison))
    if len(comparison.agreement):
        blocks.append(_agreement(comparison.agreement))
    blocks += further_blocks(comparison.further)
    blocks += [f"note: {note}" for note in comparison.meta["notes"]]
    return "\n\n".join(blocks)


def _against_truth(comparison: "Comparison") -> str:
    rows = [
        {
            "catalogue": row["catalogue"],
            "rows": row["rows"],
            "completeness": with_interval(row, "completeness"),
            "reliability": with_interval(row, "reliability"),
            "F1": with_interval(row, "f1"),
            "area": f"{row['area_under_curve']:.3f}",
            "C(R=.95)": f"{row['completeness_at_0.95']:.3f}",
            "C(R=.99)": f"{row['completeness_at_0.99']:.3f}",
            "false": row["false_rows"],
            "on extended": row["false_on_extended"],
            "on artefacts": row["false_on_artefacts"],
        }
        for row in comparison.summary
    ]
    first = comparison.summary[0]
    blocks = [
        f"{first['truth']} true sources at S/N of {first['floor']:g} and above"
        f"{_distribution(comparison)}; {first['truth_ignored']} fainter ones are ignored in every "
        "table. Intervals are 68 %.",
        _columns(rows),
        "completeness / reliability / F1 by S/N\n" + _columns(_by_snr(comparison)),
        "completeness by class\n" + _columns(_by_class(comparison.by_class)),
    ]
    pulls = _pulls(comparison.pulls)
    if pulls:
        blocks.append(
            f"pulls at S/N of {_PULL_FLOOR:g} and above: robust sigma (median)\n" + _columns(pulls)
        )
    return "\n\n".join(blocks)


def _distribution(comparison: "Comparison") -> str:
    """How many true sources lie in each bin of S/N."""
    edges = [f"{edge:g}" for edge in SNR_BINS]
    counts = list(comparison.meta["truth_by_snr"].values())
    parts = [f"{a}-{b}: {n}" for a, b, n in zip(edges, edges[1:], counts, strict=False) if n]
    return f" (by S/N {', '.join(parts)})" if parts else ""


def _by_snr(comparison: "Comparison") -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    truth: dict[str, Any] = {"catalogue": "(true sources)"}
    for row in comparison.by_snr:
        label = f"{row['snr_low']:g}-{row['snr_high']:g}"
        entry = made.setdefault(row["catalogue"], {"catalogue": row["catalogue"]})
        shares = (row["completeness"], row["reliability"], row["f1"])
        entry[label] = " / ".join(map(_number, shares))
        truth[label] = row["truth"]
    return [truth, *made.values()]


def _by_class(table: "Table") -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    truth: dict[str, Any] = {"catalogue": "(true sources)"}
    for row in table:
        entry = made.setdefault(row["catalogue"], {"catalogue": row["catalogue"]})
        entry[row["class"]] = _number(row["completeness"])
        truth[row["class"]] = row["truth"]
    return [truth, *made.values()]


def _pulls(table: "Table") -> list[dict[str, Any]]:
    """Robust sigma and median of each quantity above the floor."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table:
        kind = str(row["kind"])
        if row["snr_low"] != _PULL_FLOOR or np.isfinite(row["snr_high"]) or kind == "blended":
            continue
        key = (str(row["catalogue"]), kind)
        entry = made.setdefault(key, {"catalogue": key[0], "kind": kind})
        entry[str(row["quantity"])] = f"{row['sigma']:.2f} ({row['median']:+.2f})"
    return [made[key] for key in sorted(made)]


def _agreement(table: "Table") -> str:
    rows = [
        {
            "first": row["first"],
            "second": row["second"],
            "rows": f"{row['first_rows']} / {row['second_rows']}",
            "matched": row["matched"],
            "shares": f"{row['first_share']:.3f} / {row['second_share']:.3f}",
            "shares at S/N 10": f"{_number(row['first_share_snr10'])} / "
            f"{_number(row['second_share_snr10'])}",
            "separation": f'{row["separation"]:.3g}"',
            "peak ratio": f"{row['peak_flux_ratio']:.3f}",
            "total ratio": f"{row['total_flux_ratio']:.3f}",
        }
        for row in table
    ]
    return "agreement of catalogues\n" + _columns(rows)
