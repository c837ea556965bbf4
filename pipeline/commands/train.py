"""``cyclades train``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
    from cyclades.pipeline.training.options import RunOptions, TrainingOptions

Given = TypeVar("Given", bound="Options")


@click.command(
    epilog=examples(
        "cyclades train --config yolo --output mine --dry-run",
        "cyclades train --config mine.yaml --output mine --set steps=20000",
    )
)
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    help="A YAML file of options, or the name of one that ships: mask_rcnn, yolo, "
    "dinov2_mask_rcnn, dinov2_yolo, optical_mask_rcnn.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the run."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change one option, as steps=20000 or data.preset=vla; may be repeated.",
)
@click.option("--restart", is_flag=True, help="Begin anew, whatever the folder holds.")
@json_option
@dry_run_option
def train(
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    restart: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a detector on labelled tiles.

    Writes the weights (NAME.safetensors), their card (NAME.md), the curves and the log into the
    folder of the run. A run that was interrupted goes on from its last checkpoint when the same
    command is given again.
    """
    from cyclades.stages.core.errors import ConfigurationError

    options = read_options(config, assignments)
    if dry_run:
        say_run(as_json, options, output, "training.yaml", restart)
        return
    try:
        from cyclades.pipeline.training.trainer import train as run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Training needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    finish_or_say(lambda: run(options, output, restart=restart), output, as_json)


def say_run(
    as_json: bool, options: "RunOptions", output: Path, kept_as: str, restart: bool
) -> None:
    """Print what a training or a pre-training would do and write."""
    names = [f"{options.name}.safetensors", f"{options.name}.md", "curves.png", kept_as]
    names += ["log/metrics.csv", "last.ckpt"]
    going_on = not restart and (output / "last.ckpt").is_file()
    start = "go on from the checkpoint in" if going_on else "begin in"
    say_plan(
        as_json,
        [output / name for name in names],
        [f"would {start} {output}: {options.steps} steps, seed {options.seed}"],
        options=options.model_dump(mode="json"),
        resumes=going_on,
    )


def finish_or_say(run: Callable[[], Path], output: Path, as_json: bool) -> None:
    """Run something that can be interrupted and gone on with, and print the file it makes."""
    try:
        path = run()
    except KeyboardInterrupt:
        complain(f"interrupted; the same command goes on from the last checkpoint in {output}.")
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json({"files": [path]})
    else:
        click.echo(path)


def read_options(config: str, assignments: tuple[str, ...] = ()) -> "TrainingOptions":
    """Read the configuration of a training: a file, or the name of one that ships."""
    from cyclades.pipeline.training.options import TrainingOptions

    return read_configuration(TrainingOptions, "training", config, assignments)


def read_configuration(
    kind: type[Given], folder: str, config: str, assignments: tuple[str, ...] = ()
) -> Given:
    """Read the options of a run.

    Parameters
    ----------
    kind : type
        Of the options.
    folder : str
        Folder of ``cyclades.data`` with those that ship.
    config : str
        A file, or the name of one that ships.
    assignments : tuple of str
        Changes, as ``steps=20000``.

    Raises
    ------
    ConfigurationError
        With every problem found.
    """
    from importlib.resources import as_file, files

    from cyclades.pipeline.config import override

    shipped = files("cyclades.data").joinpath(folder, f"{config}.yaml")
    if "/" not in config and shipped.is_file():
        with as_file(shipped) as path:
            mapping = kind.read_mapping(path)
    else:
        mapping = kind.read_mapping(Path(config))
    return kind.from_mapping(override(mapping, assignments), name=config)
