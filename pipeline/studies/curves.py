"""The figure of a study: label-efficiency curves, one panel a task."""

from collections.abc import Sequence
from pathlib import Path

from cyclades.pipeline.comparison.report_sources import COLOURS
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.running import Study
from cyclades.pipeline.studies.summary import Route

LINES = {
    "frozen": "-", "adapters": "-.", "fine_tuned": "--", "scratch": ":", "random": (0, (1, 4))
}  # fmt: skip


def draw_curves(study: Study, found: Sequence[Route], path: Path) -> None:
    """Draw each task's main figure against the number of labels, with intervals.

    Parameters
    ----------
    study : Study
    found : sequence of Route
    path : path
        PNG; it appears whole or not at all.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(route.task for route in found))
    figure = Figure(figsize=(5.6 * len(tasks), 4.6), layout="constrained")
    colours = {b: COLOURS[k % len(COLOURS)] for k, b in enumerate(study.options.backbones)}
    for axes, name in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        task = study.tasks[name]
        mine = [route for route in found if route.task == name]
        for backbone, mode in dict.fromkeys((route.backbone, route.mode) for route in mine):
            curve = sorted(
                (r for r in mine if (r.backbone, r.mode) == (backbone, mode)),
                key=lambda r: r.labels,
            )
            values = [route.figures[task.main] for route in curve]
            labels = [route.labels for route in curve]
            axes.plot(
                labels, [v.value for v in values], linestyle=LINES[mode], marker="o", ms=3,
                color=colours[backbone], label=f"{backbone}, {mode.replace('_', ' ')}",
            )  # fmt: skip
            axes.fill_between(
                labels, [v.low for v in values], [v.high for v in values],
                color=colours[backbone], alpha=0.1, lw=0,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel(task.what)
        axes.set_ylabel(task.main.replace("_", " "))
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130)
