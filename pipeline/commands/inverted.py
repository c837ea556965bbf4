"""``cyclades inverted``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.route import configuration, names_option
from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(
    epilog=examples(
        "cyclades inverted a.fits b.fits c.fits",
        "cyclades inverted *.fits --routes classical,yolo --beam 5.4arcsec --json",
    )
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@names_option(
    "--routes",
    default=("classical",),
    show_default=True,
    metavar="A,B",
    help="Routes to judge, by name or as YAML files.",
)
@click.option("--beam", help="Beam of images that do not tell it, as 5.4arcsec.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@json_option
def inverted(
    images: tuple[Path, ...],
    routes: tuple[str, ...],
    beam: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Estimate the false detections of routes on IMAGES whose sources nobody knows.

    Each route runs on every image and on its negative. What it finds in the negatives, in percent
    of what it finds in the images, estimates the share of false ones; surroundings of bright
    sources are left out. Below 20 negatives in all images together the answer says so: give more
    images.
    """
    from tqdm import tqdm

    from cyclades.pipeline.chain import Pipeline
    from cyclades.pipeline.comparison.without_truth import inverted_rate

    found = {}
    for name in routes:
        shown = tqdm(images, desc=name, unit="image", disable=None, leave=False)
        route = Pipeline(configuration(name, None, (), {"beam": beam}))
        rate = inverted_rate(route, shown, workers=workers)
        found[name] = {
            "percentage": rate.percentage,
            "interval": rate.interval,
            "enough": rate.enough,
            "fields": [vars(field) for field in rate.fields],
        }
        if as_json:
            continue
        click.echo(f"{name}: {rate}")
        if len(rate.fields) > 1:
            for field in rate.fields:
                click.echo(
                    f"  {field.name}: {field.negative} negative, {field.positive} real, "
                    f"{field.expected:.1f} expected"
                )
    if as_json:
        print_json({"routes": found})
