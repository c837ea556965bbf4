"""Files of a study: tidy Parquet tables, figures, and a page in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclades.pipeline.studies.curves import draw_curves
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.running import Study
from cyclades.pipeline.studies.summary import (
    Drawn,
    Route,
    Saving,
    all_figures,
    headline,
    routes,
    savings,
)

Rows = list[dict[str, Any]]


def write_study(study: Study) -> list[Path]:
    """Write what the cells that are there say.

    ``cells.parquet`` has one row a cell, ``routes.parquet`` one a route (backbone, mode, labels)
    over its seeds, ``savings.parquet`` the label-saving factors, ``study.md`` the same in words,
    ``label_efficiency.png`` the curves.

    Parameters
    ----------
    study : Study

    Returns
    -------
    list of path
        Files; empty where no cell is there.
    """
    known = all_figures(study)
    if not known:
        return []
    found = routes(study, known)
    saved = savings(study, found)
    files = [
        write_table(study.folder / "cells.parquet", cell_rows(study, known)),
        write_table(study.folder / "routes.parquet", route_rows(study, found)),
    ]
    if saved:
        files.append(write_table(study.folder / "savings.parquet", [vars(one) for one in saved]))
    page = study.folder / "study.md"
    with written_whole(page) as path:
        path.write_text("\n".join([*report(study, found, saved), ""]), "utf-8")
    picture = study.folder / "label_efficiency.png"
    draw_curves(study, found, picture)
    return [*files, page, picture]


def cell_rows(study: Study, known: Drawn) -> Rows:
    """One row a cell: place in the grid, labels, times, and figures with their intervals.

    Parameters
    ----------
    study : Study
    known : dict
        What `all_figures` returned.
    """
    rows = []
    for cell, outcome in study.outcomes():
        figures, _ = known[study.keys[cell]]
        row: dict[str, Any] = {
            "task": cell.task,
            "backbone": cell.backbone,
            "architecture": study.options.backbones[cell.backbone].name,
            "weights": study.options.backbones[cell.backbone].weights if cell.pretrained else None,
            "mode": cell.mode,
            "fraction": cell.fraction,
            "labels": outcome.labels,
            "seed": cell.seed,
            "units": len(outcome.units),
            "seconds": outcome.seconds,
            "key": study.keys[cell],
        }
        for name, figure in figures.items():
            row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        rows.append(row)
    return rows


def route_rows(study: Study, found: Sequence[Route]) -> Rows:
    """One row a route and figure: mean over seeds and its interval."""
    return [
        {
            "task": route.task,
            "backbone": route.backbone,
            "mode": route.mode,
            "fraction": route.fraction,
            "labels": route.labels,
            "seeds": route.seeds,
            "seconds": route.seconds,
            "figure": name,
            "main": name == study.tasks[route.task].main,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
        }
        for route in found
        for name, figure in route.figures.items()
    ]


def report(study: Study, found: Sequence[Route], saved: Sequence[Saving]) -> list[str]:
    """Lines of Markdown: curves, times and labels, and label-saving factors, task by task."""
    lines = ["# Study: what transfer learning buys", ""]
    best = headline(study, saved)
    level = f"{100 * study.options.level:g} %"
    for name, task in study.tasks.items():
        mine = [route for route in found if route.task == name]
        if not mine:
            continue
        lines += [f"## {name}", ""]
        if name in best:
            one = best[name]
            lines += [
                f"**Label-saving factor: {one.text()}** ({one.backbone}, {one.mode}, "
                f"{one.labels} {task.what}; interval of {level}).",
                "",
            ]
        lines += [f"{task.main}, mean over seeds [interval of {level}], by number of {task.what}:"]
        lines += ["", *_curve_table(mine, task.main), ""]
        lines += ["Wall time of a cell in seconds (features included), by the same:"]
        lines += ["", *_time_table(mine), ""]
        factors = [one for one in saved if one.task == name]
        if factors:
            lines += ["Labels that the same architecture needs from scratch to be as good, over"]
            lines += ["those that the route had:", "", *_saving_table(factors), ""]
    return lines


def _by_labels(found: Sequence[Any], value: Any) -> list[str]:
    labels = sorted({one.labels for one in found})
    names = list(dict.fromkeys((one.backbone, one.mode) for one in found))
    lines = [
        "| backbone | mode | " + " | ".join(map(str, labels)) + " |",
        "|---|---|" + "---|" * len(labels),
    ]
    for backbone, mode in names:
        here = {o.labels: value(o) for o in found if (o.backbone, o.mode) == (backbone, mode)}
        cells = [here.get(number, "") for number in labels]
        lines.append(f"| {backbone} | {mode} | " + " | ".join(cells) + " |")
    return lines


def _curve_table(found: Sequence[Route], main: str) -> list[str]:
    def text(route: Route) -> str:
        figure = route.figures[main]
        return f"{figure.value:.3f} [{figure.low:.2f}, {figure.high:.2f}]"

    return _by_labels(found, text)


def _time_table(found: Sequence[Route]) -> list[str]:
    return _by_labels(found, lambda route: f"{route.seconds:.3g}")


def _saving_table(found: Sequence[Saving]) -> list[str]:
    return _by_labels(found, Saving.text)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as Parquet; a column that a row lacks is null there."""
    import pyarrow
    import pyarrow.parquet

    names = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    with written_whole(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return path
