"""``cyclades pretrain``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import (
    dry_run_option,
    examples,
    json_option,
    log_to_terminal,
)
from cyclades.pipeline.commands.train import finish_or_say, read_configuration, say_run


@click.command(
    epilog=examples(
        "cyclades pretrain --config vit_tiny_mae --output pretrained --dry-run",
        "cyclades pretrain --config mine.yaml --output pretrained --set steps=20000",
    )
)
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    help="A YAML file of options, or the name of one that ships: vit_tiny_mae, vit_tiny_dino, "
    "vit_small_dinov2, resnet50_dino.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the run."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change one option, as steps=20000 or curation.curated_share=0.5; may be repeated.",
)
@click.option("--restart", is_flag=True, help="Begin anew, whatever the folder holds.")
@json_option
@dry_run_option
def pretrain(
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    restart: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Pre-train a backbone on images without labels.

    Writes the weights (NAME.safetensors), which a training takes as network.backbone.weights, their
    card (NAME.md), the curves and the log into the folder of the run. A run that was interrupted
    goes on from its last checkpoint when the same command is given again.
    """
    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.pipeline.training.pretraining.options import PretrainingOptions
        from cyclades.pipeline.training.pretraining.run import pretrain as run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Pre-training needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    log_to_terminal()  # a collapse of the features is news
    options = read_configuration(PretrainingOptions, "pretraining", config, assignments)
    if dry_run:
        say_run(as_json, options, output, "pretraining.yaml", restart)
        return
    finish_or_say(lambda: run(options, output, restart=restart), output, as_json)
