"""``cyclades train-classifier``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import (
    dry_run_option,
    examples,
    json_option,
    log_to_terminal,
    print_json,
    say_plan,
)
from cyclades.pipeline.commands.train import read_configuration


@click.command(
    "train-classifier",
    epilog=examples(
        "cyclades train-classifier", "cyclades train-classifier --set images=FOLDER -o mine"
    ),
)
@click.option("--config", metavar="FILE", help="A YAML file of options.  [default: none]")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder of the result.  [default: the folder of weights, where 'cyclades run' looks]",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change one option, as images=FOLDER or features.backbone.weights=FILE; may be repeated.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, or a torch device as cuda.")
@json_option
@dry_run_option
def train_classifier(
    config: str | None,
    output: Path | None,
    assignments: tuple[str, ...],
    device: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Make the classifier of morphologies from labelled pictures.

    It takes five minutes on two CPU cores.

    The pictures come from the Python package firstgalaxydata, the features from frozen backbones.
    Writes the weights (morphology.safetensors) and their card with the figures on the test
    (morphology.md), which 'cyclades run --set cataloguing=[components,classifier]' takes.
    """
    from tqdm import tqdm

    from cyclades.pipeline.config import override
    from cyclades.pipeline.products import prepare_directory
    from cyclades.stages.core.errors import ConfigurationError
    from cyclades.stages.networks.weights_files import weights_folder

    try:
        from cyclades.pipeline.training.classifier import ClassifierOptions
        from cyclades.pipeline.training.classifier import train_classifier as run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Training needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    log_to_terminal()  # a backbone that is lacking is news
    if config is None:
        options = ClassifierOptions.from_mapping(override({}, assignments), name="--set")
    else:
        options = read_configuration(ClassifierOptions, "training", config, assignments)
    if dry_run:
        folder = output or weights_folder()
        files = [folder / f"morphology.{suffix}" for suffix in ("safetensors", "md")]
        say_plan(as_json, files, options=options.model_dump(mode="json"))
        return
    prepare_directory(output or weights_folder())
    with tqdm(total=100, unit="%", disable=None, leave=False, desc="features") as bar:

        def told(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        path, figures = run(options, output or weights_folder(), device=device, report=told)
    if as_json:
        print_json({"files": [path], "figures": vars(figures)})
        return
    click.echo(path)
    click.echo(
        f"accuracy {figures.accuracy:.3f}, macro F1 {figures.macro_f1:.3f}, calibration error "
        f"{figures.calibration_error:.3f} on {figures.number} pictures of the test; "
        f"{figures.unknown:.1%} of them unknown"
    )
