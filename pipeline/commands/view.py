"""``cyclades view``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json
from cyclades.stages.core.errors import InputError


@click.command(
    epilog=examples(
        "cyclades view field.fits results/field.catalogue.fits --output field.html",
        "cyclades view field.fits classical=a.catalogue.fits yolo=b.catalogue.fits -o both.html",
    )
)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("catalogues", nargs=-1, required=True, metavar="[LABEL=]CATALOGUE...")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The page (HTML)."
)
@click.option("--truth", type=click.Path(path_type=Path), help="The true sources.")
@json_option
def view(
    image: Path, catalogues: tuple[str, ...], output: Path, truth: Path | None, as_json: bool
) -> None:
    """Make a page of an IMAGE with the sources of catalogues on it.

    The page is one HTML file that needs no network. Catalogues are layers, of cyclades or of any
    finder that 'cyclades compare' knows; a click on a source shows its cut-outs, and its row in
    every catalogue.
    """
    from cyclades.pipeline.commands.compare import named_catalogues
    from cyclades.pipeline.viewing.show import show

    named = named_catalogues(catalogues)
    if output.resolve() in {path.resolve() for path in (image, *named.values())}:
        raise InputError(f"The page {output} would replace an input; choose another --output.")
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {output}: give the page a name that ends in .html.")
    show(named, image, truth=truth, viewer="page").save(output)
    if as_json:
        print_json({"page": output})
        return
    click.echo(output)
