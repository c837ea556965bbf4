"""``cyclades compare-stages``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.route import names_option
from cyclades.pipeline.commands.terminal import examples, json_option, print_json, progress_bar
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

BASE = "classical"


@click.command(
    "compare-stages",
    epilog=examples(
        "cyclades compare-stages field.fits --routes classical,yolo --truth field.truth.fits",
        "cyclades compare-stages field.fits --routes classical,mine.yaml -o stages",
        "cyclades compare-stages --seeds 801-806 --stages yolo,associate -o matrix",
    ),
)
@click.argument("image", type=click.Path(path_type=Path), required=False)
@names_option(
    "--routes",
    metavar="A,B",
    help="Two routes, by name or as YAML files: the one to start from, and the one to take stages "
    "from.",
)
@click.option("--truth", type=click.Path(path_type=Path), help="The true sources.")
@click.option(
    "--matrix",
    type=click.Path(path_type=Path),
    metavar="FIELDS",
    help="In place of IMAGE, fields with truth: a folder of 'cyclades simulate', or a list as for "
    "'cyclades compare --fields'. Learned stages are put into a route one by one and together.",
)
@names_option(
    "--seeds",
    metavar="A-B",
    help="In place of --matrix, simulate fields of these seeds (kept in the --output).",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="With --seeds: an option of 'cyclades simulate', as size=512; may be repeated.",
)
@click.option("--base", default=BASE, show_default=True, help="The route of the matrix.")
@names_option(
    "--stages",
    metavar="A,B,...",
    help="Stages to put into it, with @WEIGHTS behind for other networks than theirs, as "
    "masked@yolo.  [default: learned ones and refinements that can run]",
)
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="A+B",
    help="A further row of the matrix: stages together, or a route; may be repeated.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Directory for tables and figures."
)
@click.option("--beam", help="Beam of an IMAGE that does not tell it, as 5.4arcsec.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@json_option
def compare_stages(
    image: Path | None,
    routes: tuple[str, ...],
    truth: Path | None,
    matrix: Path | None,
    seeds: tuple[str, ...],
    assignments: tuple[str, ...],
    base: str,
    stages: tuple[str, ...],
    rows: tuple[str, ...],
    output: Path | None,
    beam: str | None,
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show what each stage of a route changes in its catalogue.

    With IMAGE: route A of --routes is run, then each of its stages in turn is swapped for that of
    route B, everything else held fixed. With --matrix or --seeds: learned stages are put into the
    route --base, one by one and all together, and judged by fields with truth.
    """
    if matrix is not None or seeds:
        if routes or any(given is not None for given in (image, truth, beam)):
            raise InputError(
                "A matrix takes no IMAGE, --routes, --truth or --beam; its fields have truth."
            )
        _matrix(matrix, seeds, assignments, base, stages, rows, output, workers, quiet, as_json)
        return
    if image is None or not routes:
        raise InputError("Give an IMAGE and two --routes, or fields with truth as --matrix.")
    of_matrix = {"--set": assignments, "--stages": stages, "--row": rows, "--base": base}
    given = [name for name, value in of_matrix.items() if value and value != BASE]
    if given:
        raise InputError(f"{given[0]} is of a matrix; with an IMAGE give two --routes alone.")
    from cyclades.pipeline.comparison.stages import compare_stages as compare
    from cyclades.pipeline.provenance import records

    plane: Path | SkyImage = image
    if beam is not None:
        from cyclades.stages.core.io import read_image

        plane = read_image(image, beam=beam)
    with progress_bar("stage", quiet=quiet) as told:
        made = compare(plane, routes, truth, workers=workers, progress=told)
    files = [] if output is None else made.write(output)
    if as_json:
        tables = {"runs": records(made.table), "changes": records(made.changes)}
        print_json({**tables, "files": files})
        return
    click.echo(made.format())
    for path in files:
        click.echo(path)


def _matrix(
    folder: Path | None,
    seeds: tuple[str, ...],
    assignments: tuple[str, ...],
    base: str,
    stages: tuple[str, ...],
    rows: tuple[str, ...],
    output: Path | None,
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    from cyclades.pipeline.comparison.matrix import stage_matrix
    from cyclades.pipeline.comparison.matrix_fields import read_true_fields, simulated_fields
    from cyclades.pipeline.comparison.swaps import find_stage

    if not seeds:
        assert folder is not None
        if assignments:
            raise InputError("--set changes simulated fields; give --seeds with it.")
        fields = read_true_fields(folder)
    else:
        if folder is not None:
            raise InputError("Give --matrix or --seeds, not both.")
        from cyclades.pipeline.config import override
        from cyclades.pipeline.simulation.field import FieldOptions

        options = FieldOptions.from_mapping(override({}, assignments), name="--set")
        kept = None if output is None else output / "fields"
        fields = simulated_fields(options, _numbers(seeds), kept)
    with progress_bar("run", quiet=quiet) as told:
        made = stage_matrix(
            fields,
            base,
            [find_stage(name) for name in stages] or None,
            rows,
            workers=workers,
            kept=None if output is None else output / "catalogues",
            progress=told,
        )
    files = [] if output is None else made.write(output)
    if as_json:
        from cyclades.pipeline.provenance import records

        print_json({"matrix": records(made.table), "files": files})
        return
    click.echo(made.format())
    for path in files:
        click.echo(path)


def _numbers(parts: tuple[str, ...]) -> list[int]:
    """Whole numbers of ``7``, ``7-12`` or ``7,9-12``."""
    found: list[int] = []
    for part in parts:
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"Seeds are whole numbers, as 801-806 or 801,803; not {part!r}.")
        found += range(int(first), int(last if dash else first) + 1)
    if not found:
        raise InputError(f"There are no seeds in {','.join(parts)}; give some, as 801-806.")
    return list(dict.fromkeys(found))
