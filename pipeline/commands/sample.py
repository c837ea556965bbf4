"""``cyclades sample``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(epilog=examples("cyclades sample magpis .", "cyclades sample simulated samples"))
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
def sample(name: str, directory: Path, as_json: bool) -> None:
    """Write a sample image into DIRECTORY.

    NAME is magpis (a real one, from the package astroquery) or simulated (with its truth).
    """
    from cyclades.pipeline.samples import write_sample

    files = write_sample(name, directory)
    if as_json:
        print_json({"files": files})
        return
    for path in files:
        click.echo(path)
