"""``cyclades hats``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.route import names_option
from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(
    epilog=examples(
        "cyclades hats survey --output survey/hats",
        "cyclades hats results/field.catalogue.fits -o hats --tables sources --margin 30",
    )
)
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path),
    help="Folder; each table becomes the collection of its name in it.",
)  # fmt: skip
@names_option(
    "--tables", default=("components", "sources"), show_default=True,
    help="Comma-separated: components, sources, islands.",
)  # fmt: skip
@click.option(
    "--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True,
    help="Rows of a partition at most.",
)  # fmt: skip
@click.option(
    "--margin", type=click.FloatRange(min=0.0, min_open=True), default=10.0, show_default=True,
    help="Arcsec around each partition in which the rows of its neighbours are kept too.",
)  # fmt: skip
@click.option(
    "--order", type=click.IntRange(0, 12), default=7, show_default=True,
    help="HEALPix order of the smallest partitions: 7 for 27 arcmin, and half of it for each more.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True,
    help="Worker processes; 1 works in this process.",
)  # fmt: skip
@json_option
def hats(
    catalogue: Path,
    output: Path,
    tables: tuple[str, ...],
    rows: int,
    margin: float,
    order: int,
    workers: int,
    as_json: bool,
) -> None:
    """Write CATALOGUE as HATS: Parquet files cut by HEALPix pixels, for lsdb.

    CATALOGUE is the folder of a batch, or a catalogue of cyclades. Parquet files are read in
    parts, however large; catalogues of other formats have to fit into memory. Needs cyclades[hats].
    """
    from cyclades.pipeline.survey.hats import write_hats

    made = write_hats(
        catalogue, output, tables=tables, rows=rows, margin=margin, order=order, workers=workers
    )
    if as_json:
        print_json({"collections": made})
        return
    for path in made:
        click.echo(path)
