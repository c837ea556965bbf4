"""``cyclades compare-stages``."""

from pathlib import Path

import click


@click.command("compare-stages")
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
def compare_stages(
    image: Path, routes: str, truth: Path | None, output: Path | None, workers: int | None
) -> None:
    """Show what each stage of route B changes in the catalogue that route A makes of IMAGE.

    Route A is run, then each of its stages in turn is swapped for that of route B, everything
    else held fixed.
    """
    from cyclades.pipeline.comparison.stages import compare_stages as compare

    names = [name.strip() for name in routes.split(",") if name.strip()]
    stages = compare(image, names, truth, workers=workers)
    click.echo(stages.format())
    if output is not None:
        for path in stages.write(output):
            click.echo(path)
