"""``cyclades fetch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.pipeline.commands.route import complete_names, names_option
from cyclades.pipeline.commands.terminal import (
    USER_ERROR,
    complain,
    examples,
    json_option,
    print_json,
)
from cyclades.stages.core.errors import ConfigurationError, CycladesError

if TYPE_CHECKING:
    from cyclades.pipeline.surveys.region import Region
    from cyclades.pipeline.surveys.table import Survey


@click.command(
    epilog=examples(
        "cyclades fetch --list",
        "cyclades fetch --survey NVSS --position '12:30:49.4 +12:23:28' --size 30arcmin",
        "cyclades fetch --survey FIRST,VLASS --field field.fits --output surveys",
        "cyclades fetch --survey LoTSS --position '3C 295' --products image",
    )
)
@names_option(
    "--survey",
    "surveys",
    metavar="NAME,...",
    shell_complete=complete_names("cyclades.pipeline.surveys.table:SURVEYS"),
    help="FIRST, NVSS, VLASS, RACS, LoTSS, SUMSS, or several, comma-separated.",
)
@click.option(
    "--position",
    help="Centre: degrees as '187.7059,12.3911', '12:30:49.4 +12:23:28', or an object's name.",
)
@click.option("--size", help="Side of the square, as 30arcmin.  [default: 10arcmin]")
@click.option(
    "--field",
    type=click.Path(path_type=Path),
    help="An image: takes its centre and its size instead.",
)
@names_option(
    "--products",
    default=("catalogue", "image"),
    show_default=True,
    help="What to fetch, comma-separated.",
)
@click.option(
    "--output",
    "-o",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory for the files.",
)
@click.option("--refresh", is_flag=True, help="Ask again for what was fetched before.")
@click.option("--list", "listed", is_flag=True, help="List the surveys and fetch nothing.")
@json_option
def fetch(
    surveys: tuple[str, ...],
    position: str | None,
    size: str | None,
    field: Path | None,
    products: tuple[str, ...],
    output: Path,
    refresh: bool,
    listed: bool,
    as_json: bool,
) -> int:
    """Fetch images and catalogues of published surveys.

    Writes OUTPUT/SURVEY_Jhhmmss.s+ddmmss.fits (the image) and .catalogue.fits, which 'cyclades
    compare' reads as they are. What was fetched once is kept in the user's cache.
    """
    from cyclades.pipeline.surveys.fetch import check_products
    from cyclades.pipeline.surveys.table import SURVEYS, find_survey

    if listed:
        _list(list(SURVEYS.values()), as_json)
        return 0
    wanted = check_products(products)
    chosen = [find_survey(name) for name in surveys]
    if not chosen:
        raise ConfigurationError(
            "Say which survey, as --survey NVSS; 'cyclades fetch --list' tells of each."
        )
    region = _region(position, size, field)
    files, problems = _fetch_all(chosen, region, wanted, output, refresh)
    if as_json:
        place = {"ra": region.ra, "dec": region.dec, "size": region.size}
        print_json({**place, "files": files, "errors": problems})
    else:
        for entry in files:
            click.echo(f"{entry['path']}{'  (from the cache)' if entry['cached'] else ''}")
    for message in problems:
        complain(message)
    return USER_ERROR if problems else 0


def _region(position: str | None, size: str | None, field: Path | None) -> "Region":
    from cyclades.pipeline.surveys.region import (
        Region,
        parse_position,
        parse_size,
        region_of_image,
    )

    if field is not None:
        if position is not None or size is not None:
            raise ConfigurationError("Give --field or --position and --size, not both.")
        return region_of_image(field)
    if position is None:
        raise ConfigurationError("Say where: --position '12:30:49.4 +12:23:28' or --field IMAGE.")
    # the size first: a mistake in it needs no network
    side = parse_size(size or "10arcmin")
    return Region(*parse_position(position), side)


def _fetch_all(
    surveys: "list[Survey]",
    region: "Region",
    products: tuple[str, ...],
    output: Path,
    refresh: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fetch every product of every survey; one that fails does not stop the others."""
    from tqdm import tqdm

    from cyclades.pipeline.surveys.fetch import fetch as fetch_one

    files, problems = [], []
    for survey in surveys:
        for product in products:
            with tqdm(
                desc=f"{survey.name} {product}", unit="B", unit_scale=True, disable=None,
                leave=False,
            ) as bar:  # fmt: skip

                def told(done: int, size: int, bar: Any = bar) -> None:
                    bar.total = size or None
                    bar.update(done - bar.n)

                try:
                    path, cached = fetch_one(
                        survey, region, product, output, refresh=refresh, told=told
                    )
                except CycladesError as error:
                    problems.append(str(error))
                    continue
            files.append(
                {"survey": survey.name, "product": product, "path": str(path), "cached": cached}
            )
    return files, list(dict.fromkeys(problems))


def _list(surveys: "list[Survey]", as_json: bool) -> None:
    if as_json:
        print_json({"surveys": [survey.facts() for survey in surveys]})
        return
    rows = [("survey", "MHz", "beam", "rms, mJy", "coverage", "reference")]
    rows += [
        (
            s.name, f"{s.frequency:g}", f'{s.beam:g}"', f"{s.depth:g}", s.coverage, s.reference,
        )
        for s in surveys
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())
