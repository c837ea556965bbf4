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
    """Write the WEIGHTS of a detector or region head for ONNX Runtime, which needs no torch.

    WEIGHTS is a file or, with --output, the name of a network that ships. The graphs are written
    beside the weights and take their numbers from them. There are none of weights that leave their
    backbone to a package, unless --whole is given.
    """
    from cyclades.stages.core.errors import ConfigurationError

    try:
        from cyclades.stages.networks.detector import load_detector, save_detector
        from cyclades.stages.networks.export import export_detector, export_region_head
        from cyclades.stages.networks.region_head import load_region_network, save_region_network
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Exporting needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    from cyclades.stages.networks.specification import MEASURER_KEY
    from cyclades.stages.networks.weights import shipped_detectors, shipped_heads
    from cyclades.stages.networks.weights_files import read_metadata

    shipped = {name: made.path for name, made in shipped_detectors().items()}
    named = (shipped | shipped_heads(MEASURER_KEY)).get(str(weights))
    if named is not None and not weights.exists():
        if output is None:
            raise ConfigurationError(
                f"{weights} ships with the package; give --output DIR for a copy."
            )
        weights = named
    if not weights.is_file():
        raise ConfigurationError(
            f"{weights}: there is no such file; give weights (*.safetensors), or one of "
            f"{', '.join(shipped)} with --output DIR."
        )
    folder = weights.parent if output is None else output
    target = folder / weights.name
    known = weights.suffix == ".safetensors" and weights.is_file()
    if known and MEASURER_KEY in read_metadata(weights):
        if tile is not None or whole or cells:
            raise ConfigurationError(
                f"{weights} is a region head, which takes windows of one size; leave out --tile, "
                "--whole and --cells."
            )
        if half or target != weights:
            save_region_network(load_region_network(weights), target, half=half)
        _say([target, *export_region_head(load_region_network(target), target)], as_json)
        return
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
    _say(paths, as_json)


def _say(paths: list[Path], as_json: bool) -> None:
    if as_json:
        print_json({"files": {str(path): path.stat().st_size for path in paths}})
        return
    for path in paths:
        click.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
