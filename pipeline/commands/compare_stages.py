"""``cyclades compare-stages``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(
    "compare-stages",
    epilog=examples(
        "cyclades compare-stages field.fits --routes classical,yolo --truth field.truth.fits",
        "cyclades compare-stages field.fits --routes classical,mine.yaml -o stages",
    ),
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--routes",
    required=True,
    metavar="A,B",
    help="Two routes, by name or as YAML files: the one to start from, and the one to take stages "
    "from.",
)
@click.option("--truth", type=click.Path(path_type=Path), help="The true sources.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Directory for tables and figures."
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@json_option
def compare_stages(
    image: Path,
    routes: str,
    truth: Path | None,
    output: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Show what each stage of route B changes in the catalogue that route A makes of IMAGE.

    Route A is run, then each of its stages in turn is swapped for that of route B, everything
    else held fixed.
    """
    from cyclades.pipeline.comparison.stages import compare_stages as compare

    names = [name.strip() for name in routes.split(",") if name.strip()]
    stages = compare(image, names, truth, workers=workers)
    files = [] if output is None else stages.write(output)
    if as_json:
        from cyclades.pipeline.provenance import records

        print_json(
            {"runs": records(stages.table), "changes": records(stages.changes), "files": files}
        )
        return
    click.echo(stages.format())
    for path in files:
        click.echo(path)
