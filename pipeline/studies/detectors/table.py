"""Files of a table of detectors: tidy Parquet tables, a page in words, and figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyclades.pipeline.comparison.report_sources import COLOURS
from cyclades.pipeline.studies.detectors.options import DetectorOptions
from cyclades.pipeline.studies.detectors.published import DIFFERENCES, PUBLISHED
from cyclades.pipeline.studies.detectors.running import DetectorStudy
from cyclades.pipeline.studies.detectors.scoring import ANY, FORMS, TOTAL
from cyclades.pipeline.studies.detectors.summary import (
    MAIN,
    Row,
    cell_rows,
    curve_rows,
    figure_rows,
    rows,
)
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.table import write_table

CLASSES = ("compact", "extended")
"""Classes that the radio benchmark's table has columns of, beside the total."""
RATES = ("reliability", "completeness", "f1")
DASH = "-"


def write_detectors(study: DetectorStudy) -> list[Path]:
    """Write what the cells that are there say.

    ``cells.parquet`` has one row a cell, ``detectors.parquet`` one a detector and figure,
    ``curves.parquet`` one a point of a validation curve, ``detectors.md`` the tables in words,
    ``accuracy_speed.png`` and ``curves.png`` the figures.

    Parameters
    ----------
    study : DetectorStudy

    Returns
    -------
    list of path
        Files; empty where no cell is there.
    """
    found = rows(study)
    if not found:
        return []
    folder = study.folder
    files = [
        write_table(folder / "cells.parquet", cell_rows(study, found)),
        write_table(folder / "detectors.parquet", figure_rows(found)),
    ]
    curves = curve_rows(found)
    if curves:
        files.append(write_table(folder / "curves.parquet", curves))
    page = folder / "detectors.md"
    with written_whole(page) as path:
        path.write_text("\n".join([*report(study, found), ""]), "utf-8")
    files.append(page)
    if any(math.isfinite(row.mean("mpx_per_second")) for row in found):
        files.append(folder / "accuracy_speed.png")
        draw_speed(found, files[-1])
    if curves:
        files.append(folder / "curves.png")
        draw_curves(found, files[-1])
    return files


def report(study: DetectorStudy, found: Sequence[Row]) -> list[str]:
    """Lines of Markdown, data by data."""
    o = study.options
    lines = ["# Detectors in one table", ""]
    for name, benchmark in study.data.items():
        mine = [row for row in found if row.data == name]
        if not mine:
            continue
        options = benchmark.options
        lines += [
            f"## {name}",
            "",
            benchmark.words(),
            "",
            _truth(_with_classes(mine), benchmark.what),
            "",
        ]
        lines += [
            f"Budget of a training: {o.budget.text}, {o.seeds} seeds, tiles of {options.size} "
            "pixels; for a seed every network sees the same tiles in the same order. Figures are "
            f"means over seeds, in brackets intervals of {100 * o.level:g} % over {benchmark.what} "
            "and seeds. A row that is not converged, or not better than its untrained self by "
            f"{o.gain:g} in AP50, carries no claim and gives no figure.",
            "",
        ]  # fmt: skip
        for form in FORMS:
            lines += [f"### Layout of the radio benchmark, {form} form", ""]
            lines += [*_benchmark_table(o.detectors, mine, form), ""]
        lines += ["### Average precision and cost", "", *_cost_table(study, mine), ""]
        lines += _withheld(mine)
    notes = [f"- **{name}**: {one.note}" for name, one in o.detectors.items() if one.note]
    if notes:
        lines += ["## Rows", "", *notes, ""]
    if study.problems:
        lines += ["## Left out", ""]
        lines += [f"- {number} cells: {reason}" for reason, number in study.problems.items()]
        lines += [""]
    lines += ["## What the published figures are", ""]
    for paragraph in DIFFERENCES:
        lines += [paragraph, ""]
    return lines


def _truth(row: Row, what: str) -> str:
    """Say how many objects of which class the test holds."""
    units = row.outcomes[0][1].units
    wanted: dict[str, int] = {}
    for unit in units:
        for name, values in unit["ranked"].items():
            wanted[name] = wanted.get(name, 0) + int(values[0])
    every = wanted.pop(ANY, 0)
    shares = [f"{name} {number}" for name, number in wanted.items() if number]
    text = f"The test holds {every} sources above the floor on {len(units)} {what}"
    return text + (f" ({', '.join(shares)})." if shares else ".")


def _with_classes(mine: Sequence[Row]) -> Row:
    """Return a row that counts truth by class, if there is one."""
    return next((row for row in mine if "ap50" in row.figures), mine[0])


def _text(row: Row, name: str, *, interval: bool = False) -> str:
    figure = row.figures.get(name)
    if figure is None or not math.isfinite(figure.value):
        return DASH
    if interval:
        return f"{figure.value:.3f} [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{figure.value:.3f}"


def _benchmark_table(
    detectors: Mapping[str, DetectorOptions], mine: Sequence[Row], form: str
) -> list[str]:
    heads = [f"{name} {short}" for name in (*CLASSES, TOTAL) for short in ("R", "C", "F1")]
    lines = [
        f"| detector | {' | '.join(heads)} | mAP | published |",
        "|---|" + "---|" * (len(heads) + 2),
    ]
    for row in mine:
        published = PUBLISHED.get(detectors[row.detector].published or "")
        beside = published.text if published else DASH
        if not row.claim:
            cells = [DASH] * (len(heads) + 1)
        else:
            classed = f"{form}_f1_{TOTAL}" in row.figures
            cells = [_text(row, f"{form}_{rate}_{name}") for name in CLASSES for rate in RATES]
            # without classes the total is that of one class for all, in either form
            shape = form if classed else ANY
            cells += [_text(row, f"{shape}_{rate}_{TOTAL}") for rate in RATES]
            cells.append(_text(row, "ap50"))
        lines.append(f"| {row.detector} | {' | '.join(cells)} | {beside} |")
    return lines


def _cost_table(study: DetectorStudy, mine: Sequence[Row]) -> list[str]:
    o = study.options
    at = f"completeness at R {o.reliability:g}"
    titles = (
        "detector", "AP50 of sources", "AP50 by class", "AP50:95 by class", at, "F1 of sources",
        "untrained AP50", "converged", "budget", "images", "training s", "parameters", "Mpx/s",
        "peak memory MB",
    )  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in mine:
        names = (MAIN, "ap50", "ap", "completeness_at_reliability", f"{ANY}_f1_{TOTAL}")
        figures = [_text(row, n, interval=True) if row.claim else DASH for n in names]
        trained = o.detectors[row.detector].network is not None
        cells = [
            row.detector,
            *figures,
            _number(row.untrained, ".3f"),
            DASH if not trained else "no" if row.why.startswith("not converged") else "yes",
            o.budget_of(row.detector).text + (" (own)" if o.detectors[row.detector].budget else "")
            if trained else DASH,
            _number(row.mean("images"), ",.0f"),
            _number(row.seconds, ",.0f") if trained else DASH,
            _number(row.mean("parameters"), ",.0f"),
            _number(row.mean("mpx_per_second"), ".3g"),
            _number(row.mean("peak_memory_mb"), ",.0f"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Training time is that of the steps, tiles included, validation not. Speed and peak memory "
        "are of inference in a process of its own: of networks from normalised tiles to "
        "detections, of routes from an image to its catalogue. The catalogue of a route ends at "
        "its own threshold, so its AP50 is that of a curve cut short.",
    ]
    return lines


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else DASH


def _withheld(mine: Sequence[Row]) -> list[str]:
    """Say which rows carry no claim and why, with their curves."""
    held = [row for row in mine if not row.claim]
    if not held:
        return []
    lines = ["### Rows without a claim", ""]
    for row in held:
        lines.append(f"- **{row.detector}**: {row.why}.")
        for (cell, _), curve in zip(row.outcomes, row.curves, strict=True):
            if curve:
                values = " ".join(f"{value:.3f}" for _, value in curve)
                lines.append(
                    f"  - seed {cell.seed}, validation AP50 up to step {curve[-1][0]}: {values}"
                )
    return [*lines, ""]


def draw_speed(found: Sequence[Row], path: Path) -> None:
    """Draw AP50 of sources against megapixels a second; hollow where a row carries no claim."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.data for row in found))
    figure = Figure(figsize=(6.2 * len(names), 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = [r for r in found if r.data == name and math.isfinite(r.mean("mpx_per_second"))]
        for k, row in enumerate(mine):
            one, colour = row.figures[MAIN], COLOURS[k % len(COLOURS)]
            speed = row.mean("mpx_per_second")
            axes.plot([speed, speed], [one.low, one.high], color=colour, lw=1)
            axes.plot(
                speed, one.value, marker="o" if row.flat else "s", color=colour, ls="",
                mfc=colour if row.claim else "none", label=row.detector,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("megapixels a second")
        axes.set_ylabel("AP50 of sources (hollow: no claim)")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        if mine:
            axes.legend(frameon=False, fontsize=7)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130)


def draw_curves(found: Sequence[Row], path: Path) -> None:
    """Draw the validation curves of all networks; dashed where a row is not flat."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.data for row in found if row.flat is not None))
    figure = Figure(figsize=(6.2 * len(names), 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = [row for row in found if row.data == name and row.flat is not None]
        for k, row in enumerate(mine):
            label: str | None = row.detector
            for (_, outcome), curve in zip(row.outcomes, row.curves, strict=True):
                batch = outcome.further["images"] / outcome.further["steps"]
                axes.plot(
                    [step * batch for step, _ in curve], [value for _, value in curve], lw=1,
                    color=COLOURS[k % len(COLOURS)], label=label,
                    ls="-" if row.flat is not None and row.flat.flat else "--",
                )  # fmt: skip
                label = None
        axes.set_xlabel("images seen")
        axes.set_ylabel("AP50 on validation tiles (dashed: not flat)")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130)
