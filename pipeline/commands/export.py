"""``cyclades export``."""

from pathlib import Path

import click


@click.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder.  [default: theirs]")
@click.option("--half", is_flag=True, help="Round the weights to 16 bits, for shipping.")
@click.option("--tile", type=int, default=512, show_default=True, help="Side of the tiles, pixels.")
def export(weights: Path, output: Path | None, half: bool, tile: int) -> None:
    """Write the detector WEIGHTS for ONNX Runtime, which runs it without torch.

    The graphs are written beside the weights and take their numbers from them.
    """
    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.stages.networks.detector import load_detector, save_detector
        from cyclades.stages.networks.export import export_detector
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Exporting needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    folder = weights.parent if output is None else output
    target = folder / weights.name
    detector = load_detector(weights)
    if half or target != weights:
        save_detector(detector, target, half=half)
    for path in (target, *export_detector(load_detector(target), target, tile)):
        click.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
