"""``cyclades similar``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cyclades.pipeline.similarity.search import Search


@click.command(
    epilog=examples(
        "cyclades similar field.catalogue.fits field.fits --to 180.1,-30.2 --picture near.png",
        "cyclades similar field.catalogue.fits field.fits --odd --report odd.html",
    )
)
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--to",
    multiple=True,
    metavar="NAME",
    help="A source by its name, or by a position near it as RA,DEC in degrees; may be repeated.",
)
@click.option("--odd", is_flag=True, help="List the sources that are least like any other.")
@click.option(
    "--number", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="Rows shown."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The catalogue with the columns similarity and oddness of its sources, in the format of "
    "the extension.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="A PNG of the rows shown.")
@click.option(
    "--map", "chart", type=click.Path(path_type=Path), help="A PNG of all sources by likeness."
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    help="An HTML page to explore: the map, where pointing at a source shows its picture and row, "
    "and the pictures of the rows shown.",
)
@click.option(
    "--weights",
    default="dinov2-s-derived",
    show_default=True,
    help="The backbone: a name of 'cyclades weights', or a file of 'cyclades pretrain'.",
)
@click.option("--beam", help="Beam of an image that does not tell it, as 5.4arcsec.")
@click.option("--device", default="cpu", show_default=True, help="cpu, or a torch device as cuda.")
@json_option
def similar(
    catalogue: Path,
    image: Path,
    to: tuple[str, ...],
    odd: bool,
    number: int,
    output: Path | None,
    picture: Path | None,
    chart: Path | None,
    page: Path | None,
    weights: str,
    beam: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Rank the sources of CATALOGUE by their likeness to others of it, as IMAGE shows them.

    Similarity is the cosine between features of a frozen network, from -1 to 1; oddness says how
    far a source is from its nearest neighbours, in deviations of the catalogue. Features are kept,
    so that the next question about the same sources is answered at once.
    """
    import numpy as np
    from tqdm import tqdm

    from cyclades.pipeline.similarity.search import search
    from cyclades.stages.core.errors import ConfigurationError, InputError

    if not to and not odd:
        raise ConfigurationError("Say what to look for: --to NAME, --to RA,DEC, or --odd.")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(f"--report {page}: give the page a name that ends in .html.")
    for option, drawn in (("--picture", picture), ("--map", chart)):
        if drawn is not None and drawn.suffix.lower() != ".png":
            raise ConfigurationError(
                f"{option} {drawn}: give the picture a name that ends in .png."
            )
    with tqdm(total=100, unit="%", disable=None, leave=False) as bar:

        def told(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        found = search(catalogue, image, to, weights=weights, beam=beam, device=device, report=told)
    if odd and not np.isfinite(found.catalogue.sources["oddness"]).any():
        raise InputError(
            f"{catalogue}: too few of its sources have a picture in {image.name} for one to be odd "
            "among them (5 are needed); use --to NAME."
        )
    rows = found.order(odd)[:number]
    files = []
    if output is not None:
        found.catalogue.write(output, table="sources")
        files.append(output)
    if picture is not None or chart is not None:
        from cyclades.pipeline.similarity.drawing import draw_map, draw_sheet

        if picture is not None:
            draw_sheet(found, rows, picture, odd=odd)
            files.append(picture)
        if chart is not None:
            draw_map(found, chart)
            files.append(chart)
    if page is not None:
        from cyclades.pipeline.similarity.report import write_report

        files.append(write_report(found, page, number=number, odd=odd, image=image.name))
    if as_json:
        from cyclades.pipeline.provenance import records

        columns = [*_COLUMNS, *_values(found)]
        print_json({"rows": records(found.catalogue.sources[columns][rows]), "files": files})
        return
    for line in _lines(found, rows):
        click.echo(line)
    for path in files:
        click.echo(path)


_COLUMNS = ("name", "ra", "dec")


def _values(found: "Search") -> list[str]:
    """Columns of the numbers that the search made."""
    names = ("similarity", "oddness")
    return [name for name in names if name in found.catalogue.sources.colnames]


def _number(value: float, width: int) -> str:
    """Return a number as text, a dash where a source has no picture."""
    return f"{'-':>{width}}" if value != value else f"{value:{width}.3f}"


def _lines(found: "Search", rows: "NDArray[np.int64]") -> list[str]:
    """Rows of a table as text; targets have a star."""
    table = found.catalogue.sources
    values = _values(found)
    width = max([4, *(len(str(table["name"][row])) for row in rows)])
    lines = [f"  {'name':<{width}}  {'ra':>10}  {'dec':>10}  " + "  ".join(values)]
    for row in rows:
        star = "*" if row in found.targets else " "
        ra, dec = (table[axis][row].to_value("deg") for axis in ("ra", "dec"))
        numbers = "  ".join(_number(float(table[v][row]), len(v)) for v in values)
        lines.append(f"{star} {table['name'][row]:<{width}}  {ra:10.5f}  {dec:+10.5f}  {numbers}")
    return lines
