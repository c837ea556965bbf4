"""``cyclades evaluate``."""

from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json
from cyclades.pipeline.commands.train import read_options

if TYPE_CHECKING:
    from cyclades.stages.networks.specification import NetworkSpec


@click.command(
    epilog=examples(
        "cyclades evaluate yolo --tiles 50",
        "cyclades evaluate yolo --errors",
        "cyclades evaluate mine/mine.safetensors --preset vla --json",
    )
)
@click.argument("weights")
@click.option(
    "--config",
    metavar="FILE",
    help="Take the held-out data of this training (a YAML file, or the name of a network that "
    "ships).  [default: those of the training that made the weights]",
)
@click.option(
    "--tiles",
    type=click.IntRange(min=1),
    help="How many.  [default: validation.final_samples of the training]",
)
@click.option(
    "--preset",
    help="Simulate another kind of sky: mixed, natural, beam, complex, telescopes, vla, askap, "
    "atca, meerkat.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Calibrate the scores and fit evidence and classes anew, on as many other tiles, and "
    "write WEIGHTS and their card.",
)
@click.option(
    "--classes",
    is_flag=True,
    help="Fit the decision on classes alone anew, on as many other tiles, and write WEIGHTS and "
    "their card; scores stay as they are.",
)
@click.option(
    "--errors",
    is_flag=True,
    help="Also tell where AP50 is lost: by kind of error, signal to noise, and artefacts.",
)
@json_option
def evaluate(
    weights: str,
    config: str | None,
    tiles: int | None,
    preset: str | None,
    calibrate: bool,
    classes: bool,
    errors: bool,
    as_json: bool,
) -> None:
    """Judge a detector on held-out tiles, by class, beside what noise lets anyone reach.

    WEIGHTS is a name of 'cyclades weights', a file, a folder with model.safetensors, or a
    repository of the Hugging Face hub. AP50 is COCO's average precision at IoU 0.5, the ceiling
    that of an observer who knows the truth's pixels and classes but sees the same noise; F1 is at
    IoU 0.6 and a probability of 0.5.
    """
    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.pipeline.training.held_out import CLASSES, SCORES
        from cyclades.pipeline.training.held_out import evaluate as run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Evaluating needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    options = None if config is None else read_options(config)
    fit = (SCORES, CLASSES) if calibrate else (CLASSES,) if classes else ()
    spec = run(weights, options, tiles=tiles, preset=preset, fit=fit, errors=errors)
    if as_json:
        told = ("held_out", "by_class", "metrics", "errors")
        print_json({"name": spec.name, **{k: v for k, v in spec.training.items() if k in told}})
        return
    for line in report(spec):
        click.echo(line)
    if errors:
        from cyclades.pipeline.training.error_report import error_lines

        for line in error_lines(spec.training["errors"]):
            click.echo(line)


def report(spec: "NetworkSpec") -> list[str]:
    """Lines of a table by class, and of the other figures."""
    from cyclades.pipeline.training.card import class_table, figure_table

    heading = ("class", "objects", "AP50", "ceiling", "F1")
    rows = [heading, *class_table(spec)]
    others = figure_table(spec)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = [f"{spec.name}: {spec.training['held_out']['tiles']} held-out tiles"]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    width = max(len(name) for name, _ in others)
    return [*lines, *(f"{name:<{width}}  {value}" for name, value in others)]
