"""``cyclades subtract``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import examples, json_option, number_of, print_json


@click.command(
    epilog=examples(
        "cyclades subtract field.fits --catalogue field.catalogue.fits -o residual.fits",
        "cyclades subtract residual.fits --catalogue other_comp.fits --add -o again.fits",
    )
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--catalogue",
    required=True,
    type=click.Path(path_type=Path),
    help="Sources, as cyclades, Aegean, PyBDSF, Selavy or a survey writes them.",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="The FITS image to write.",
)
@click.option("--add", is_flag=True, help="Add the sources instead.")
@click.option(
    "--mask-brighter",
    type=float,
    metavar="FLUX",
    help="Blank the pixels in which the sources are brighter than this, in the image's unit.",
)
@click.option("--beam", help="Beam of an image that does not tell it, as 5.4arcsec.")
@click.option(
    "--columns",
    type=click.Path(path_type=Path),
    help="Where the columns of an unknown catalogue are: a YAML file, as 'ra: RAJ2000'.",
)
@json_option
def subtract(
    image: Path,
    catalogue: Path,
    output: Path,
    add: bool,
    mask_brighter: float | None,
    beam: str | None,
    columns: Path | None,
    as_json: bool,
) -> None:
    """Take the sources of a catalogue out of IMAGE.

    The background stays in the image. Sources are drawn as elliptical Gaussians with their
    listed peak flux, size and angle, or as the beam where no size is listed.
    """
    from cyclades.pipeline.comparison.any_catalogue import read_any
    from cyclades.pipeline.subtraction import rows_on_image, subtract_catalogue, write_image
    from cyclades.stages.core.errors import OutputError
    from cyclades.stages.core.io import read_image

    if output.resolve() in (image.resolve(), catalogue.resolve()):
        raise OutputError(f"The output {output} would replace an input; choose another --output.")
    table = read_any(catalogue, columns)
    plane = read_image(image, beam=beam)
    made = subtract_catalogue(plane, table, add=add, mask_brighter=mask_brighter)
    write_image(made, output, "sum" if add else "residual")
    here = int(rows_on_image(table, plane).sum())
    if as_json:
        print_json({"files": [output], "sources": here, "rows": len(table), "added": add})
        return
    done = f"{number_of(here, 'source')} {'added' if add else 'subtracted'}"
    off = len(table) - here
    click.echo(f"{output}: {done}" + (f"; {off} of the catalogue lie off the image" if off else ""))
