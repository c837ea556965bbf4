"""``cyclades label``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.route import (
    configuration,
    like_option,
    likeness,
    names_option,
    route_options,
)
from cyclades.pipeline.commands.terminal import examples, json_option, number_of, print_json
from cyclades.stages.core.errors import ConfigurationError


@click.command(
    epilog=examples(
        "cyclades label field.fits --output labels",
        "cyclades label field.fits --decisions field.decisions.json --output labels",
        "cyclades label field.fits --route yolo --classes FRI,FRII,compact --output labels",
    )
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of what is written.",
)
@click.option(
    "--decisions",
    type=click.Path(path_type=Path),
    help="What the page saved: make labels and a catalogue of it.",
)
@names_option(
    "--classes",
    metavar="NAME,...",
    help="Classes to choose from.  [default: compact,extended,multi-component,diffuse]",
)
@route_options
@like_option
@click.option("--beam", help="Beam of an image that does not tell it, as 5.4arcsec.")
@json_option
def label(
    image: Path,
    output: Path,
    decisions: Path | None,
    classes: tuple[str, ...],
    like: str | None,
    route: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    beam: str | None,
    as_json: bool,
) -> None:
    """Label the objects of IMAGE by hand, starting from what a route finds.

    Writes OUTPUT/X.label.html, a page on which objects are accepted, rejected, merged, classified
    and drawn; the page saves X.decisions.json. Given that by --decisions, writes
    OUTPUT/X.labels.coco.json for 'cyclades train' and OUTPUT/X.labels.catalogue.fits.
    """
    from cyclades.pipeline.labelling.candidates import CLASSES, find_candidates
    from cyclades.pipeline.labelling.decisions import (
        apply_decisions,
        read_decisions,
        write_labels,
    )
    from cyclades.pipeline.labelling.page import write_label_page
    from cyclades.pipeline.products import image_stem, prepare_directory

    stem = image_stem(image)
    made = None if decisions is None else read_decisions(decisions)
    if made is not None and any((like, route, config, assignments, classes, beam)):
        raise ConfigurationError(
            "The decisions know their route, classes and beam; leave these options out."
        )
    prepare_directory(output)
    if made is None:
        given = None if like is None else likeness(like, [image], as_json)[0]
        chosen = configuration(route, config, assignments, {"beam": beam}, like=given)
        candidates = find_candidates(image, chosen, classes or CLASSES)
        page = write_label_page(candidates, output / f"{stem}.label.html")
        if as_json:
            print_json({"files": [page], "candidates": len(candidates)})
            return
        number = number_of(len(candidates), "candidate")
        click.echo(f"{page}: {number}; open it in a browser, and save there")
        return
    candidates = find_candidates(image, made.config, made.classes)
    labels = apply_decisions(candidates, made)
    files = write_labels(candidates, labels, output)
    if as_json:
        print_json({"files": files, **labels.counts})
        return
    told = ", ".join(f"{number} {what}" for what, number in labels.counts.items())
    for path in files:
        click.echo(path)
    click.echo(told)
