"""``cyclades batch`` and ``cyclades watch``."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.pipeline.commands.route import configuration, names_option, route_options
from cyclades.pipeline.commands.terminal import (
    INTERRUPTED,
    USER_ERROR,
    complain,
    examples,
    json_option,
    log_to_terminal,
    number_of,
    print_json,
    quiet_option,
)
from cyclades.stages.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from cyclades.pipeline.survey.journal import Entry
    from cyclades.pipeline.survey.run import Workers
    from cyclades.pipeline.survey.work import Work

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _bytes(context: click.Context, option: click.Parameter, value: str | None) -> int:
    """Read an amount of memory."""
    if value is None:
        return 0
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?B)?\s*", value, re.IGNORECASE)
    if found is None:
        raise ConfigurationError(f"{value!r} is no amount of memory; write it as 4GB.")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def _survey_options(command: Any) -> Any:
    """Options that batch and watch have in common."""
    options = (
        click.option(
            "--output", "-o", required=True, type=click.Path(path_type=Path),
            help="Directory for results and the journal.",
        ),
        route_options,
        names_option(
            "--formats", default=("fits",), show_default=True,
            help="Comma-separated catalogue formats besides FITS, as for cyclades run.",
        ),
        names_option(
            "--columns",
            help="Catalogues in the columns of other source finders too, as for cyclades run.",
        ),
        names_option(
            "--products",
            help="Comma-separated images to write of every field, as for cyclades run.",
        ),
        click.option("--beam", help="Beam of images that do not tell it, as 5.4arcsec."),
        click.option("--frequency", help="Frequency of images that do not tell it, as 1.4GHz."),
        click.option(
            "--completeness", "injected", type=click.IntRange(min=0), default=0, metavar="N",
            help="Inject N sources into every field, once its catalogue is made, to correct the "
            "counts for what is missed.",
        ),
        click.option(
            "--reliability", "inverted", is_flag=True,
            help="Search the negative of every field too, to correct the counts for what is "
            "false.",
        ),
        click.option(
            "--workers", type=click.IntRange(min=1),
            help="Worker processes, one thread each; 1 works in this process.  [default: one a "
            "processor, at most 8; one a GPU]",
        ),
        click.option(
            "--device", default="cpu", show_default=True,
            help="Where networks run: cpu, cuda (every GPU, one worker each), or cuda:0,cuda:2.",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Use the workers of a Dask scheduler."),
        click.option(
            "--cluster", type=click.Path(path_type=Path), metavar="FILE",
            help="Start a Dask cluster (SLURM, PBS, ...) that a YAML file describes.",
        ),
        click.option(
            "--memory", callback=_bytes, metavar="SIZE",
            help="Memory that a worker process may take, as 4GB; an image that needs more fails.",
        ),
        click.option(
            "--attempts", type=click.IntRange(min=1), default=3, show_default=True,
            help="How often an image is tried whose worker died.",
        ),
        click.option("--verbose", "-v", is_flag=True, help="Say what each stage does."),
        quiet_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _planned(
    output: Path,
    route: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    beam: str | None,
    frequency: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: Path | None,
    **options: Any,
) -> "tuple[Work, Workers]":
    from cyclades.pipeline.chain import default_workers
    from cyclades.pipeline.survey.run import Workers, gpus
    from cyclades.pipeline.survey.work import Work

    image = {"beam": beam, "frequency": frequency}
    chosen = configuration(route, config, assignments, image)
    if workers is None:
        elsewhere = scheduler is not None or cluster is not None
        workers = 1 if elsewhere else len(gpus(device)) or default_workers()
    work = Work.plan(chosen, output, device=device, **options)
    return work, Workers(workers, device, scheduler, cluster)


@click.command(
    epilog=examples(
        "cyclades batch images --output survey",
        "cyclades batch 'images/*.fits' more.txt -o survey --route yolo --workers 4",
        "cyclades batch images -o survey --cluster slurm.yaml --completeness 100",
    )
)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|FOLDER|PATTERN|LIST...")
@_survey_options
@click.option("--force", is_flag=True, help="Process images again that are done.")
@click.option("--retry", is_flag=True, help="Process images again that failed.")
@json_option
def batch(
    images: tuple[str, ...],
    output: Path,
    attempts: int,
    verbose: bool,
    quiet: bool,
    force: bool,
    retry: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Make a survey of many images: a catalogue of each, and one of all.

    A folder stands for the FITS images in it and below; a LIST is a text file (.txt, .list) with
    one a line. What is done is kept in OUTPUT/journal.sqlite: the same command goes on where it
    was interrupted, and processes only what is new or changed, in image or configuration. Writes
    OUTPUT/fields/*, OUTPUT/summary.ecsv, OUTPUT/survey.catalogue.fits (overlapping fields merged,
    every source once), survey.moc.fits, survey.area.ecsv, survey.counts.ecsv and survey.png. The
    exit code is 2 where an image failed.
    """
    from tqdm import tqdm

    from cyclades.pipeline.survey.inputs import expand
    from cyclades.pipeline.survey.journal import FAILED, read_entries
    from cyclades.pipeline.survey.run import run_survey

    log_to_terminal(verbose, quiet)
    work, workers = _planned(output, **options)
    paths = expand(images, without=work.folder)
    # one of many that is not there is that image's failure; the only one is a slip of the pen
    if not any(path.exists() for path in paths):
        raise InputError(f"{paths[0]}: there is no such file or folder.")
    failures = 0
    with (
        _stoppable(work.folder),
        tqdm(total=0, unit="image", disable=True if quiet else None, leave=False) as bar,
    ):

        def planned(number: int, total: int) -> None:
            bar.reset(number)
            if number < total and not quiet:
                click.echo(f"{total - number} of {total} images are done already.", err=True)

        def told(entry: "Entry") -> None:
            nonlocal failures
            failures += entry.state == FAILED
            bar.update(1)
            bar.set_postfix_str(f"{failures} failed" if failures else "")

        files = run_survey(
            work, paths, workers,
            force=force, retry=retry, attempts=attempts, planned=planned, told=told,
        )  # fmt: skip
    wanted = {str(path) for path in paths}
    entries = [entry for entry in read_entries(work.folder) if entry.image in wanted]
    failed = [entry for entry in entries if entry.state == FAILED]
    if as_json:
        print_json({"files": files, "images": [_facts(e) for e in entries], "failed": len(failed)})
    elif not quiet:
        _report(work.folder, files)
    if not failed:
        return 0
    complain(f"{len(failed)} of {len(entries)} images failed:")
    for entry in failed:
        named = entry.error.startswith(entry.image)
        click.echo(f"  {'' if named else f'{entry.image}: '}{entry.error}", err=True)
    return USER_ERROR


@click.command(
    epilog=examples(
        "cyclades watch incoming --output survey",
        "cyclades watch incoming -o survey --once --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@_survey_options
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=5.0, show_default=True,
    help="Seconds between looks at the folder.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Stop when all images that are there are processed.")
@json_option
def watch(
    folder: Path,
    output: Path,
    attempts: int,
    verbose: bool,
    quiet: bool,
    interval: float,
    once: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Process the images of FOLDER as they arrive, until Ctrl-C.

    An image is taken when its file no longer grows. Write it under a name that ends in .part and
    rename it, to be sure. One that cannot be processed is kept in the journal as failed and tried
    again when its file changes. Otherwise as cyclades batch. With --json, one object on a line for
    each image.
    """
    from cyclades.pipeline.survey.journal import FAILED
    from cyclades.pipeline.survey.run import watch_folder

    log_to_terminal(verbose, quiet)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; make it, or give another.")
    work, workers = _planned(output, **options)

    def told(entry: "Entry") -> None:
        if as_json:
            print_json(_facts(entry))
        elif entry.state == FAILED:
            click.echo(f"failed: {entry.image}: {entry.error}", err=True)
        elif not quiet:
            found = number_of(entry.counts.get("components", 0), "component")
            click.echo(f"{entry.image}: {found} in {entry.seconds:.1f} s")

    def finished(files: list[Path]) -> None:
        if not quiet and not as_json:
            _report(work.folder, files)

    with _stoppable(work.folder):
        watch_folder(
            work, folder.absolute(), workers,
            interval=interval, once=once, attempts=attempts, told=told, finished=finished,
        )  # fmt: skip


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """Take the end of a job's time for Ctrl-C, and say how to go on after either."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        complain(f"interrupted; the same command goes on with what is left in {folder}.")
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _facts(entry: "Entry") -> dict[str, Any]:
    """What became of an image, as plain values."""
    return {
        "image": entry.image, "state": entry.state, "counts": entry.counts,
        "seconds": entry.seconds, "error": entry.error,
    }  # fmt: skip


def _report(folder: Path, files: list[Path]) -> None:
    """Print what the survey is in a few lines."""
    from astropy.table import Table

    table = Table.read(folder / "summary.ecsv", format="ascii.ecsv")
    done = table[table["state"] == "done"]
    for file in files:
        click.echo(file)
    click.echo(f"{len(done)} of {len(table)} images are done.")
    if "outlier" not in table.colnames:
        return
    shown = done[[bool(text) for text in done["outlier"]]]
    if not len(shown):
        return
    click.echo(f"{len(shown)} fields stand out:")
    columns = ("field", "rms", "sources", "expected", "residual_rms", "flux_ratio", "outlier")
    shown = shown[[name for name in columns if name in shown.colnames]]
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name].info.format = ".3g"
    click.echo("\n".join(shown.pformat(max_lines=30, max_width=-1, show_unit=False)))
