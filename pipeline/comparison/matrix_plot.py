"""The figure and the page of a matrix of stages."""

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.matrix_figures import PULLS_FROM, QUANTITIES, RELIABLE
from cyclades.pipeline.comparison.report_sources import COLOURS
from cyclades.pipeline.page import asset, render_page, table_html, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cyclades.pipeline.comparison.matrix import StageMatrix

COLUMNS = 5
ROW_HEIGHT, PANEL_WIDTH = 0.26, 2.9
BASE_COLOUR = "0.35"
DEFINITIONS = (
    f"C at R {RELIABLE:g}: completeness at the threshold where the reliability is {RELIABLE:g}. "
    "C, R, F1: completeness, reliability and their harmonic mean at S/N of 5 and above. Flux ratio "
    "and scatter: median and robust scatter of measured over true total flux. Pulls: robust "
    f"scatter of errors over reported errors of points at S/N of {PULLS_FROM:g} and above. Pair "
    "F1: pairs of components that belong together; whole: share of objects of several components "
    "put together exactly; merged: share of compact sources joined with anything. s/Mpx: seconds "
    "of all stages per million pixels, networks loaded before, by the clock and of the processor. "
    "Intervals are 68 %, from resampling fields; a star marks what differs from the first route, "
    "on the same resampled fields, by more than its interval."
)


def draw(matrix: "StageMatrix") -> "Figure":
    """Draw a panel a quantity: the first route's interval, and those of differences to it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = matrix.table
    shown = [name for name in QUANTITIES if np.isfinite(table[name]).any()]
    lines = -(-len(shown) // COLUMNS)
    labels = list(table["route"])
    # the names of the routes stand once a line, and need their place
    room = 0.075 * max(map(len, labels))
    height = lines * (0.9 + ROW_HEIGHT * len(labels)) + 0.4
    figure = Figure(figsize=(COLUMNS * PANEL_WIDTH + room, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False)
    for panel in axes.ravel()[len(shown) :]:
        panel.set_axis_off()
    for panel, name in zip(axes.ravel(), shown, strict=False):
        _panel(panel, table, name)
    y = np.arange(len(labels))[::-1]
    for panel in axes[:, 0]:
        panel.set_yticks(y, labels)
        panel.set_ylim(-0.6, len(labels) - 0.4)
    number = table.meta["fields"]
    figure.suptitle(
        f"{labels[0]} and other routes on {number} field{'s' if number > 1 else ''} (68 %: bands "
        f"{labels[0]} over fields, bars the differences to it on the same fields)"
    )
    return figure


def _panel(panel: Any, table: Any, name: str) -> None:
    quantity = QUANTITIES[name]
    value = np.asarray(table[name], float)
    low, high = (float(table[f"{name}_{end}"][0]) for end in ("low", "high"))
    gain, *ends = (np.asarray(table[f"{name}_gain{end}"], float) for end in ("", "_low", "_high"))
    error = np.nan_to_num(np.maximum([gain - ends[0], ends[1] - gain], 0.0))
    y = np.arange(len(value))[::-1]
    if np.isfinite([low, high]).all():
        panel.axvspan(low, high, color=BASE_COLOUR, alpha=0.15, lw=0)
    panel.axvline(value[0], color=BASE_COLOUR, lw=0.8)
    colours = [BASE_COLOUR, *[COLOURS[0]] * (len(value) - 1)]
    for place, x, bar, colour in zip(y, value, error.T, colours, strict=True):
        panel.errorbar(x, place, xerr=bar[:, None], fmt="o", ms=4.5, capsize=2, color=colour)
    known = np.concatenate([value - error[0], value + error[1]])
    known = known[np.isfinite(known)]
    if known.min() <= quantity.ideal <= known.max():
        panel.axvline(quantity.ideal, color="0.4", lw=0.8, ls=":")
    panel.set_title(quantity.title, fontsize=10)
    panel.locator_params(axis="x", nbins=4)
    panel.tick_params(labelsize=9)
    panel.grid(axis="x", alpha=0.3)


def write_matrix_page(matrix: "StageMatrix", figure: Path, path: Path) -> None:
    """Write the matrix as one HTML page that needs no network.

    Parameters
    ----------
    matrix : StageMatrix
    figure : path
        Of the picture (PNG) that goes into the page.
    path : path
        Of the page.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    from astropy.table import Table

    from cyclades.pipeline.comparison.matrix import TITLE

    parts = [table_html("Main numbers", Table(matrix.lines()), folded=False)]
    parts.append(table_html("Intervals and gains on the first route", matrix.table))
    settings = {"route": [row.label for row in matrix.rows],
                "configuration": [row.config.to_yaml() for row in matrix.rows]}  # fmt: skip
    parts.append(table_html("Configurations", Table(settings)))
    unused = matrix.left_out | matrix.refused
    if unused:
        why = {"left out": list(unused), "why": list(unused.values())}
        parts.append(table_html("Left out", Table(why)))
    picture = base64.b64encode(figure.read_bytes()).decode("ascii")
    number = matrix.table.meta["fields"]
    text = render_page(
        asset("matrix.html"),
        {
            "tables": "".join(parts),
            "figure": f"data:image/png;base64,{picture}",
            "definitions": html.escape(DEFINITIONS),
        },
        title=TITLE,
        subtitle=f"{len(matrix.rows)} routes on {number} field{'s' if number > 1 else ''}",
        style=["td.text { white-space: pre; }"],
    )
    write_page(text, path)
