"""The figure of a comparison stage by stage."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.accuracy import Pairs, difference
from cyclades.pipeline.comparison.intervals import median, robust_sigma
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.report_sources import COLOURS
from cyclades.pipeline.comparison.stages import flux_ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cyclades.pipeline.comparison.stages import StageComparison

EDGES = np.geomspace(5.0, 500.0, 9)
FEWEST = 5
MARKERS = "os^Dvp"
LOST, KEPT, NEW = "#D55E00", "#999999", "#0072B2"


def draw(stages: "StageComparison") -> "Figure":
    """Draw rows kept, lost and new, flux ratios and offsets by S/N, and the scores with a truth.

    Every panel is against the run of the first route.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    first = stages.routes[0]
    figure.suptitle(f"{stages.image.name}: {first}, one stage at a time from {stages.routes[1]}")
    _rows(axes[0, 0], stages)
    _by_snr(axes[0, 1], stages, "ratio")
    _by_snr(axes[1, 1], stages, "offset")
    if len(stages.comparison.summary):
        _scores(axes[1, 0], stages)
    else:
        _lost_by_snr(axes[1, 0], stages)
    return figure


def _rows(axes: Any, stages: "StageComparison") -> None:
    """Bars: to the left the rows of the first route that are lost, to the right kept and new."""
    from matplotlib.ticker import MaxNLocator

    table = stages.table[1:]
    y = np.arange(len(table))[::-1]
    axes.barh(y, -table["lost"], color=LOST, label="lost")
    axes.barh(y, table["new"], color=NEW, label="new")
    for place, row in zip(y, table, strict=True):
        text = f" {row['matched_share']:.1%} of {stages.table['components'][0]} kept"
        axes.annotate(text, (max(row["new"], 0), place), va="center", fontsize=9, color="0.25")
    axes.axvline(0, color="0.4", lw=0.8)
    axes.set_yticks(y, list(table["run"]))
    low, high = -max(1, max(table["lost"])), max(1, max(table["new"]))
    axes.set_xlim(1.1 * low, high + 0.7 * (high - low))
    axes.set(xlabel=f"rows against {stages.routes[0]}", title="Rows lost and new")
    axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(-1.0, len(table) - 0.5)
    axes.legend(loc="lower right", fontsize=9, ncols=2)


def _by_snr(axes: Any, stages: "StageComparison", what: str) -> None:
    """Total flux ratio (median and scatter) or median offset, in S/N bins."""
    from matplotlib.ticker import LogFormatter

    catalogues = stages.comparison.catalogues
    base = catalogues[stages.routes[0]]
    for number, label in enumerate(list(stages.results)[1:]):
        other = catalogues[label]
        pairs = match(base, other, beam=stages.comparison.meta["beam"])
        snr = base["snr"][pairs.first_rows]
        if what == "ratio":
            values = flux_ratio(base, other, pairs, "total_flux")
        else:
            both = Pairs.of_matches(label, base, other, pairs)
            values = np.hypot(difference(both, "ra"), difference(both, "dec"))
        points: list[tuple[float, float, float]] = []
        for low, high in pairwise(EDGES.tolist()):
            held = values[(snr >= low) & (snr < high) & np.isfinite(values)]
            if len(held) >= FEWEST:
                middle = np.sqrt(low * high) * 1.03**number
                points.append((middle, float(median(held)), float(robust_sigma(held))))
        x, y, spread = np.array(points).reshape(-1, 3).T
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        error = spread if what == "ratio" else None
        if not points:
            # too few for a median in any bin: each by itself
            held = np.isfinite(values) & (snr > 0)
            x, y, error, style["ls"] = snr[held], values[held], None, "none"
        axes.errorbar(x, y, error, label=label, ms=5, lw=1.2, capsize=2, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set_xlabel(f"signal to noise in {stages.routes[0]}")
    if what == "ratio":
        axes.axhline(1, color="0.4", lw=0.8, ls=":")
        axes.set(ylabel=f"total flux / {stages.routes[0]}", title="Flux ratio (bars: scatter)")
    else:
        axes.set(ylabel="median offset (arcsec)", title="Position")
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)


def _scores(axes: Any, stages: "StageComparison") -> None:
    """Completeness, reliability and F1 of every run with their 68 % intervals."""
    table = stages.table
    y = np.arange(len(table))[::-1]
    for number, name in enumerate(("completeness", "reliability", "f1")):
        value = np.asarray(table[name])
        error = [value - table[f"{name}_low"], table[f"{name}_high"] - value]
        axes.errorbar(
            value, y + 0.15 * (1 - number), xerr=np.maximum(error, 0), fmt=MARKERS[number],
            color=COLOURS[number], capsize=2, ms=6, label="F1" if name == "f1" else name,
        )  # fmt: skip
    axes.set_yticks(y, list(table["run"]))
    floor = stages.comparison.meta["floor"]
    axes.set(xlabel="share (68 % intervals)", title=f"Against the truth at S/N ≥ {floor:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_ylim(-1.0, len(table) - 0.5)
    axes.legend(loc="lower left", fontsize=9, ncols=3)


def _lost_by_snr(axes: Any, stages: "StageComparison") -> None:
    """Share of the first route's rows that each run loses, by S/N, without a truth."""
    labels = list(stages.results)[1:]
    for number, label in enumerate(labels):
        rows = stages.changes[stages.changes["run"] == label]
        rows = rows[rows["base_rows"] > 0]
        names = [f"{low:g}–{high:g}" for low, high in zip(rows["snr_low"], rows["snr_high"],
                                                          strict=True)]  # fmt: skip
        width = 0.8 / len(labels)
        x = np.arange(len(rows)) + (number - (len(labels) - 1) / 2) * width
        share = np.asarray(rows["lost"]) / np.asarray(rows["base_rows"])
        axes.bar(x, share, width, label=label, color=COLOURS[number % len(COLOURS)])
        axes.set_xticks(np.arange(len(rows)), names)
    axes.set(
        xlabel=f"signal to noise in {stages.routes[0]}",
        ylabel="share of rows lost",
        title="Lost rows",
        ylim=(0.0, 1.0),
    )
    axes.legend(fontsize=9)
