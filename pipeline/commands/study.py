"""``cyclades study``."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cyclades.pipeline.studies.options import StudyOptions


@click.group()
def study() -> None:
    """Grids of trainings that answer a question, resumable cell by cell."""


@study.command()
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    help="A YAML file of options, or the name of one that ships: quick, morphology, stretches, "
    "transfer_cpu, transfer.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the study."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change one option, as seeds=5 or tasks.morphology.images=FOLDER; may be repeated.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Cells at a time.  [default: one a GPU, or one on the CPU]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each process.",
)
@click.option("--table", is_flag=True, help="Compute nothing; write and print what there is.")
def transfer(
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    processes: int | None,
    threads: int,
    table: bool,
) -> None:
    """Measure what pre-trained backbones buy: labels saved, by task.

    Every cell of backbone x mode x share of labels x task x seed that is not there yet is trained
    and judged. Writes tables of all cells and routes, label-saving factors, a page in words and
    the curves into the folder. A study that was interrupted goes on when the same command is given
    again.
    """
    from cyclades.pipeline.studies.running import Study, count_by_reason
    from cyclades.pipeline.studies.table import write_study

    plan = Study.plan(read_options(config, assignments), output)
    for reason, number in plan.problems.items():
        click.echo(f"{number} cells left out: {reason}", err=True)
    if not table and plan.missing():
        for reason, number in count_by_reason(_compute(plan, processes, threads)).items():
            click.echo(f"{number} cells failed: {reason}", err=True)
    files = write_study(plan)
    done, number = sum(1 for _ in plan.outcomes()), len(plan.keys)
    click.echo(f"{done} of {number} cells are there.", err=True)
    for file in files:
        if file.suffix == ".md":
            click.echo(file.read_text("utf-8"))
    for file in files:
        click.echo(file, err=True)


def _compute(plan: Any, processes: int | None, threads: int) -> list[str]:
    """Compute what is missing, with a bar of progress; return what is wrong with each failure."""
    from tqdm import tqdm

    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.pipeline.studies.running import run_study

        on_interrupt = signal.getsignal(signal.SIGINT)
        with tqdm(total=len(plan.missing()), unit="cell", disable=None) as bar:

            def told(done: int, number: int, cell: Any) -> None:
                signal.signal(signal.SIGINT, on_interrupt)  # which Lightning takes for itself
                bar.set_postfix_str(f"{cell.task} {cell.backbone} {cell.mode} {cell.fraction:g}")
                bar.update(1)

            failed = run_study(plan, processes=processes, threads=threads, told=told)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"A study needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted; the same command goes on with the cells that are missing in "
            f"{plan.folder}.",
            err=True,
        )
        raise SystemExit(130) from None
    return list(failed.values())


def read_options(config: str, assignments: tuple[str, ...] = ()) -> "StudyOptions":
    """Read the configuration of a study: a file, or the name of one that ships."""
    from cyclades.pipeline.commands.train import read_configuration
    from cyclades.pipeline.studies.options import StudyOptions

    return read_configuration(StudyOptions, "studies", config, assignments)
