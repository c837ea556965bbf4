"""``cyclades export``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(
    epilog=examples(
        "cyclades export mine/mine.safetensors",
        "cyclades export mine/mine.safetensors --half --output shipped",
    )
)
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder.  [default: theirs]")
@click.option("--half", is_flag=True, help="Round the weights to 16 bits, for shipping.")
@click.option(
    "--tile",
    type=int,
    help="Side in pixels of the tiles that the graphs take.  [default: any, where the network "
    "allows it; otherwise 512]",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Write a backbone that the weights leave to a package into the copy too; graphs need it.",
)
@click.option(
    "--cells", is_flag=True, help="Write the graph that the background dense needs, too (YOLO)."
)
@json_option
def export(
    weights: Path,
    output: Path | None,
    half: bool,
    tile: int | None,
    whole: bool,
    cells: bool,
    as_json: bool,
) -> None:
    """Write the detector WEIGHTS for ONNX Runtime, which runs it without torch.

    The graphs are written beside the weights and take their numbers from them. There are none of
    weights that leave their backbone to a package, unless --whole is given.
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
    trunk = detector.spec.trunk
    if whole:
        detector.spec = detector.spec.model_copy(update={"trunk": None})
    elif trunk is not None and not half and target == weights:
        raise ConfigurationError(
            f"{weights} leaves its backbone to the weights {trunk.weights}, and graphs need it; "
            "give --whole and --output DIR for a copy that holds it."
        )
    if half or target != weights or (whole and trunk is not None):
        save_detector(detector, target, half=half)
    paths = [target]
    if detector.spec.trunk is None:
        for wanted in (False, True)[: 1 + cells]:
            paths += export_detector(load_detector(target), target, tile, cells=wanted)
    if as_json:
        print_json({"files": {str(path): path.stat().st_size for path in paths}})
        return
    for path in paths:
        click.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
