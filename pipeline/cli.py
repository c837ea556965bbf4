"""The command line: parses, calls the Python API, prints.

Everything heavy is imported inside the commands, so that ``cyclades --help`` answers at once.
"""

import gc
import os
import sys
from collections.abc import Sequence

import click

from cyclades._version import __version__
from cyclades.pipeline.commands.batch import batch, watch
from cyclades.pipeline.commands.compare import compare
from cyclades.pipeline.commands.compare_stages import compare_stages
from cyclades.pipeline.commands.completion import completion
from cyclades.pipeline.commands.config import config
from cyclades.pipeline.commands.evaluate import evaluate
from cyclades.pipeline.commands.export import export
from cyclades.pipeline.commands.fetch import fetch
from cyclades.pipeline.commands.hats import hats
from cyclades.pipeline.commands.inverted import inverted
from cyclades.pipeline.commands.label import label
from cyclades.pipeline.commands.measure import measure
from cyclades.pipeline.commands.pretrain import pretrain
from cyclades.pipeline.commands.run import run
from cyclades.pipeline.commands.sample import sample
from cyclades.pipeline.commands.send import send
from cyclades.pipeline.commands.similar import similar
from cyclades.pipeline.commands.simulate import simulate
from cyclades.pipeline.commands.stages import stages
from cyclades.pipeline.commands.study import study
from cyclades.pipeline.commands.subtract import subtract
from cyclades.pipeline.commands.terminal import (
    EXIT_CODES,
    INTERRUPTED,
    USER_ERROR,
    complain,
    examples,
)
from cyclades.pipeline.commands.train import train
from cyclades.pipeline.commands.train_classifier import train_classifier
from cyclades.pipeline.commands.view import view
from cyclades.pipeline.commands.weights import weights
from cyclades.stages.core.errors import CycladesError

CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)
FIRST_STEPS = (
    "cyclades sample magpis .",
    "cyclades run magpis.fits --output results",
    "cyclades run --help",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence on stderr and exit code 2."""
    if arguments is None:
        _prepare_process()
    try:
        code = cli.main(arguments, prog_name="cyclades", standalone_mode=False)
    except click.exceptions.Abort:
        complain("interrupted; nothing unfinished was left behind.")
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = USER_ERROR
    except CycladesError as error:
        complain(error)
        code = USER_ERROR
    if arguments is None:
        # Nothing is left to be collected at the end but the modules, which takes a while.
        gc.freeze()
    sys.exit(code or 0)


def _prepare_process() -> None:
    """Spare a process that only runs one command what costs it a fifth of a short run.

    Hundreds of thousands of objects that imports make live to the end: looking through them for
    garbage again and again finds none. Threads of a BLAS, which has nothing to do for them, spin
    when they are started.
    """
    gc.set_threshold(100_000, 20, 100)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class Commands(click.Group):
    """A group whose help gives the whole first sentence of every command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        rows = [
            (name, command.get_short_help_str(limit=200))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{examples(*FIRST_STEPS)}\n\n{CODES}",
)
@click.version_option(__version__, prog_name="cyclades")
def cli() -> None:
    """Find, measure and catalogue sources in astronomical images, radio first."""


cli.add_command(batch)
cli.add_command(compare)
cli.add_command(compare_stages)
cli.add_command(completion)
cli.add_command(config)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(fetch)
cli.add_command(hats)
cli.add_command(inverted)
cli.add_command(label)
cli.add_command(measure)
cli.add_command(pretrain)
cli.add_command(run)
cli.add_command(sample)
cli.add_command(send)
cli.add_command(similar)
cli.add_command(simulate)
cli.add_command(stages)
cli.add_command(study)
cli.add_command(subtract)
cli.add_command(train)
cli.add_command(train_classifier)
cli.add_command(view)
cli.add_command(watch)
cli.add_command(weights)
