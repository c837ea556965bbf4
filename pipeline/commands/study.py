"""``cyclades study``."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cyclades.pipeline.commands.terminal import (
    INTERRUPTED,
    complain,
    dry_run_option,
    examples,
    json_option,
    print_json,
    say_plan,
)

if TYPE_CHECKING:
    from cyclades.pipeline.options import Options
    from cyclades.pipeline.studies.options import StudyOptions

Given = TypeVar("Given", bound="Options")


@click.group()
def study() -> None:
    """Grids of trainings that answer a question, resumable cell by cell."""


def _grid_options(
    shipped: str, example: str, *commands: str
) -> Callable[[Callable[..., None]], Any]:
    """Options that all studies have."""
    options = (
        click.option(
            "--config",
            required=True,
            metavar="FILE",
            help=f"A YAML file of options, or the name of one that ships: {shipped}.",
        ),
        click.option(
            "--output",
            "-o",
            type=click.Path(path_type=Path),
            required=True,
            help="Folder of the study.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.PARAMETER=VALUE",
            help=f"Change one option, as seeds=5 or {example}; may be repeated.",
        ),
        click.option(
            "--processes",
            type=click.IntRange(min=1),
            help="Cells at a time.  [default: one a GPU, or one on the CPU]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Threads of each process.",
        ),
        click.option(
            "--table", is_flag=True, help="Compute nothing; write and print what there is."
        ),
        json_option,
        dry_run_option,
    )

    def decorate(function: Callable[..., None]) -> Any:
        for option in reversed(options):
            function = option(function)
        return study.command(epilog=examples(*commands))(function)

    return decorate


@_grid_options(
    "quick, morphology, stretches, transfer_cpu, transfer",
    "tasks.morphology.images=FOLDER",
    "cyclades study transfer --config quick --output study --dry-run",
    "cyclades study transfer --config transfer_cpu --output study --processes 2",
)
def transfer(
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    processes: int | None,
    threads: int,
    table: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Measure what pre-trained backbones buy: labels saved, by task.

    Every cell of backbone x mode x share of labels x task x seed that is not there yet is trained
    and judged. Writes tables of all cells and routes, label-saving factors, a page in words and
    the curves into the folder. A study that was interrupted goes on when the same command is given
    again.
    """
    from cyclades.pipeline.studies.running import Study
    from cyclades.pipeline.studies.table import write_study

    plan = Study.plan(read_options(config, assignments), output)
    waves = [] if table else [plan.missing()]
    _run(plan, waves, processes, threads, write_study, as_json, dry_run)


@_grid_options(
    "detectors_quick, detectors_cpu, detectors",
    "budget.images=20000",
    "cyclades study detectors --config detectors_quick --output detectors",
    "cyclades study detectors --config detectors_quick --output detectors --table",
)
def detectors(
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    processes: int | None,
    threads: int,
    table: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Put detectors of many kinds into one table: the same tiles, budget and scorer for all.

    Every detector x data x seed that is not there yet is trained and judged; routes of
    `cyclades run` stand beside networks. Writes tidy tables, a page in the layout of the radio
    benchmark (Sortino et al. 2023), curves, and accuracy against speed into the folder. A study
    that was interrupted goes on when the same command is given again.
    """
    from cyclades.pipeline.studies.detectors.options import DetectorStudyOptions
    from cyclades.pipeline.studies.detectors.running import DetectorStudy
    from cyclades.pipeline.studies.detectors.table import write_detectors

    plan = DetectorStudy.plan(_read(DetectorStudyOptions, config, assignments), output)
    waves = [] if table else plan.waves()
    _run(plan, waves, processes, threads, write_detectors, as_json, dry_run)


def _run(
    plan: Any,
    waves: Sequence[Sequence[Any]],
    processes: int | None,
    threads: int,
    write: Callable[[Any], list[Path]],
    as_json: bool,
    dry_run: bool,
) -> None:
    """Compute the cells of a plan, wave by wave, and write and print what there is."""
    from cyclades.pipeline.products import prepare_directory
    from cyclades.pipeline.studies.running import count_by_reason

    if not dry_run:
        prepare_directory(plan.folder)
    for reason, number in plan.problems.items():
        click.echo(f"{number} cells left out: {reason}", err=True)
    if dry_run:
        missing = [str(cell) for cells in waves for cell in cells]
        lines = [f"would compute {len(missing)} of {len(plan.keys)} cells:", *missing]
        facts = {"cells": len(plan.keys), "missing": missing, "left_out": plan.problems}
        say_plan(as_json, [plan.folder], lines, **facts)
        return
    problems: dict[str, int] = {}
    for cells in filter(None, waves):
        failed = _compute(plan, cells, processes, threads)
        for reason, number in count_by_reason(failed).items():
            click.echo(f"{number} cells failed: {reason}", err=True)
            problems[reason] = problems.get(reason, 0) + number
    files = write(plan)
    done, number = sum(1 for _ in plan.outcomes()), len(plan.keys)
    click.echo(f"{done} of {number} cells are there.", err=True)
    if as_json:
        facts = {"cells": number, "done": done, "failed": problems, "left_out": plan.problems}
        print_json({**facts, "files": files})
        return
    for file in files:
        if file.suffix == ".md":
            click.echo(file.read_text("utf-8"))
    for file in files:
        click.echo(file, err=True)


def _compute(plan: Any, cells: Sequence[Any], processes: int | None, threads: int) -> list[str]:
    """Compute cells, with a bar of progress; return what is wrong with each failure."""
    from tqdm import tqdm

    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.pipeline.studies.running import run_study

        on_interrupt = signal.getsignal(signal.SIGINT)
        with tqdm(total=len(cells), unit="cell", disable=None) as bar:

            def told(done: int, number: int, cell: Any) -> None:
                signal.signal(signal.SIGINT, on_interrupt)  # which Lightning takes for itself
                bar.set_postfix_str(str(cell))
                bar.update(1)

            failed = run_study(plan, processes=processes, threads=threads, told=told, cells=cells)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"A study needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    except KeyboardInterrupt:
        complain(
            f"interrupted; the same command goes on with the cells that are missing in "
            f"{plan.folder}."
        )
        raise SystemExit(INTERRUPTED) from None
    return list(failed.values())


def read_options(config: str, assignments: tuple[str, ...] = ()) -> "StudyOptions":
    """Read the configuration of a study: a file, or the name of one that ships."""
    from cyclades.pipeline.studies.options import StudyOptions

    return _read(StudyOptions, config, assignments)


def _read(kind: type[Given], config: str, assignments: tuple[str, ...]) -> Given:
    from cyclades.pipeline.commands.train import read_configuration

    return read_configuration(kind, "studies", config, assignments)
