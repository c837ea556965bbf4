"""What all commands share: what they say on the terminal, as text or as JSON, and their help."""

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cyclades.pipeline.progress import Told

USER_ERROR = 2
INTERRUPTED = 130
EXIT_CODES = {
    0: "done",
    1: "a defect of cyclades, with a traceback to report",
    USER_ERROR: "a mistake in the command or the input, told on stderr; or some images failed",
    INTERRUPTED: "interrupted by Ctrl-C; nothing unfinished is left behind",
}
"""Every exit code of the command line and what it means."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say what would be done and which files be written."
)


def examples(*lines: str) -> str:
    """Return the examples of a command, for the end of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def number_of(count: int, noun: str) -> str:
    """Return a count with its noun, as "1 component" or "2 components"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def progress_bar(unit: str, *, quiet: bool = False) -> "Iterator[Told]":
    """Show on a terminal how far a piece of work is, at which rate, and how long it will take.

    Parameters
    ----------
    unit : str
        What is counted.
    quiet : bool
        Whether to show nothing; nothing is shown either where stderr is no terminal.

    Yields
    ------
    callable
        To be called with the number of what is done, the number in all, and words for what is
        next.
    """
    from tqdm import tqdm

    with tqdm(total=0, unit=unit, disable=True if quiet else None, leave=False) as bar:

        def show(done: int, number: int, words: str) -> None:
            bar.total = number
            bar.set_description_str(words, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield show


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one JSON object on one line; numbers that are not finite become null."""
    from cyclades.pipeline.provenance import plain

    click.echo(json.dumps(plain(result), ensure_ascii=False, allow_nan=False))


def say_plan(as_json: bool, files: Iterable[Path], lines: Iterable[str] = (), **facts: Any) -> None:
    """Print what a dry run found.

    Parameters
    ----------
    as_json : bool
    files : iterable of Path
        What would be written.
    lines : iterable of str
        What would be done, for people.
    **facts
        The same, for programs.
    """
    listed = [str(path) for path in files]
    if as_json:
        print_json({"dry_run": True, **facts, "files": listed})
        return
    for line in lines:
        click.echo(line)
    for path in listed:
        new = "" if not Path(path).exists() else " (replaces the one that is there)"
        click.echo(f"would write {path}{new}")


def note_first_run(folder: Path | None = None) -> None:
    """Say on a terminal that code will be compiled first, where no compiled code is there.

    Parameters
    ----------
    folder : Path, optional
        Of the stages; numba keeps the code there, or in a cache of its own where it may not write.
    """
    stages = Path(__file__).resolve().parents[2] / "stages" if folder is None else folder
    own = os.environ.get("NUMBA_CACHE_DIR")
    places = [stages] if own is None else [Path(own)]
    places.append(Path.home() / ".cache" / "numba")
    kept = "*.py{}{}.nbi".format(*sys.version_info)
    if sys.stderr.isatty() and not any(next(place.rglob(kept), None) for place in places):
        click.echo(
            "The first run compiles the fitting code, which takes about a minute; later ones start "
            "at once.",
            err=True,
        )


def complain(message: object) -> None:
    """Print one sentence about a mistake on stderr, with colour on a terminal (see NO_COLOR)."""
    name = click.style("cyclades:", fg="red", bold=True)
    click.echo(f"{name} {message}", err=True, color=False if _colourless() else None)


def _colourless() -> bool:
    """Whether the environment asks for no colours (no-color.org), or the terminal has none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def log_to_terminal(verbose: bool = False, quiet: bool = False) -> None:
    """Send the cyclades log, and the warnings of libraries where asked, to the terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("cyclades")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    # headers of real images make astropy warn about what the reader has already judged
    logging.captureWarnings(True)
    warnings = logging.getLogger("py.warnings")
    warnings.handlers = [handler if verbose else logging.NullHandler()]
    warnings.propagate = False
