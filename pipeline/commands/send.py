"""``cyclades send``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.terminal import (
    USER_ERROR,
    complain,
    examples,
    json_option,
    print_json,
)


@click.command(
    epilog=examples(
        "cyclades send results/field.catalogue.fits --image field.fits",
        "cyclades send results/field.catalogue.fits --table sources --to topcat",
        "cyclades send results/field.catalogue.fits --at 180.02,-30.11 --to ds9",
    )
)
@click.argument("catalogues", nargs=-1, required=True, metavar="[LABEL=]CATALOGUE...")
@click.option("--image", type=click.Path(path_type=Path), help="The image, to be sent as well.")
@click.option("--to", metavar="NAME", help="Only to programs with this in their name.")
@click.option("--at", metavar="WHERE", help="Where to point: a name of a row, or degrees RA,DEC.")
@click.option(
    "--table",
    type=click.Choice(["components", "sources", "islands"]),
    default="components",
    show_default=True,
    help="The table of catalogues of cyclades.",
)
@json_option
def send(
    catalogues: tuple[str, ...],
    image: Path | None,
    to: str | None,
    at: str | None,
    table: str,
    as_json: bool,
) -> int:
    """Send catalogues and their image to TOPCAT, DS9, Aladin and others on this machine.

    Programs are reached by SAMP; TOPCAT and Aladin bring the hub that it needs. CARTA, which has
    no SAMP, opens the files of 'cyclades run --formats votable,ds9'. The exit code is 2 where a
    program could not take what it was sent.
    """
    from cyclades.pipeline.commands.compare import named_catalogues
    from cyclades.pipeline.viewing.samp import send as send_all

    made = send_all(named_catalogues(catalogues), image, to=to, at=at, table=table)
    failed = [one for one in made if one.error]
    if as_json:
        print_json({"sent": [one._asdict() for one in made], "failed": len(failed)})
    else:
        for one in made:
            if not one.error:
                click.echo(f"{one.client}: {one.what}")
    for one in failed:
        complain(f"{one.client} did not take {one.what}: {one.error}")
    return USER_ERROR if failed else 0
