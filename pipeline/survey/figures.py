"""The figure of a survey: depth, counts, and fields that stand out."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cyclades.pipeline.survey.finish import Survey

INK, ODD = "#0072B2", "#D55E00"


def draw(survey: "Survey") -> "Figure":
    """Draw area against noise, counts, and the figures of the fields by which they are judged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    figure.suptitle(
        f"{len(survey.fields)} fields, {survey.depth.total:.4g} square degrees, "
        f"{survey.rows['components']} components, {survey.rows['sources']} sources"
    )
    unit = str(survey.catalogue.meta.get("unit", "image unit"))
    _area(axes[0, 0], survey, unit)
    _counts(axes[0, 1], survey)
    _expectation(axes[1, 0], survey)
    _residuals(axes[1, 1], survey, unit)
    return figure


def _area(axes: Any, survey: "Survey", unit: str) -> None:
    for name, curve, style in (
        ("noise", survey.depth, "-"),
        ("faintest peak", survey.limits, "--"),
    ):
        # a survey has millions of blocks, and a line that many points takes minutes
        table = curve.table(500)
        axes.step(table["rms"], table["area"], style, where="post", color=INK, label=name)
    axes.set_xscale("log")
    axes.set_xlabel(f"noise, or peak looked for, at most ({unit})")
    axes.set_ylabel("area (square degrees)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")


def _counts(axes: Any, survey: "Survey") -> None:
    table = survey.counts
    known = table is None or table["flux"].unit is not None
    axes.set_xlabel("total flux (Jy)" if known else "total flux")
    axes.set_ylabel(r"$S^{2.5}\,dN/dS$" + (r" (Jy$^{1.5}$ sr$^{-1}$)" if known else ""))
    if table is None:
        axes.text(0.5, 0.5, "no sources", ha="center", transform=axes.transAxes)
        return
    some = np.asarray(table["number"]) > 0
    flux, counts = np.asarray(table["flux"])[some], np.asarray(table["counts"])[some]
    low, high = (np.asarray(table[f"counts_{end}"])[some] for end in ("low", "high"))
    axes.errorbar(
        flux, counts, (np.maximum(counts - low, 0), np.maximum(high - counts, 0)),
        fmt="o", color=INK, ms=4, capsize=2,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")


def _marked(axes: Any, x: Any, y: Any, survey: "Survey") -> None:
    odd = np.asarray(survey.quality["outlier"]) != ""
    axes.plot(x[~odd], y[~odd], "o", color=INK, ms=4, alpha=0.6)
    axes.plot(x[odd], y[odd], "s", color=ODD, ms=6, label="stands out")
    middle = 0.5 * (np.nanmin(x) + np.nanmax(x)) if len(x) else 0.0
    for place in np.flatnonzero(odd)[:12]:
        right = x[place] > middle
        axes.annotate(
            survey.fields[place], (x[place], y[place]), fontsize=7, color=ODD,
            xytext=(-5 if right else 5, 4), textcoords="offset points",
            ha="right" if right else "left",
        )  # fmt: skip
    if odd.any():
        axes.legend(frameon=False, loc="upper left")


def _expectation(axes: Any, survey: "Survey") -> None:
    table = survey.quality
    x, y = np.asarray(table["expected"], float), np.asarray(table["sources"], float)
    _marked(axes, x, y, survey)
    most = float(max(np.nanmax(x, initial=1.0), np.nanmax(y, initial=1.0)))
    line = np.linspace(0.0, 1.05 * most, 100)
    axes.plot(line, line, color="0.5", lw=0.8)
    axes.fill_between(
        line, line - 3 * np.sqrt(line), line + 3 * np.sqrt(line), color="0.9", zorder=0
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sources expected from area and depth")
    axes.set_ylabel("sources found (grey: 3 sigma of chance)")


def _residuals(axes: Any, survey: "Survey", unit: str) -> None:
    table = survey.quality
    _marked(axes, np.asarray(table["rms"], float), np.asarray(table["residual_rms"], float), survey)
    axes.axhline(1.0, color="0.5", lw=0.8)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.set_xlabel(f"median noise of the field ({unit})")
    axes.set_ylabel("rms of the residual over the noise, outside islands")
