"""``cyclades weights``."""

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json


@click.command(
    epilog=examples("cyclades weights", "cyclades weights yolo", "cyclades weights --json")
)
@click.argument("name", required=False)
@json_option
def weights(name: str | None, as_json: bool) -> None:
    """List the detectors and the weights of backbones, or show one in full.

    NAME is one of the list, or a file of weights. Detectors ship with the package; weights of
    backbones are what a training may start from. What is not available offline is fetched from the
    Hugging Face hub when it is used.
    """
    from cyclades.stages.networks.weights_listing import describe, listing

    if name is not None:
        text = describe(name)
        if as_json:
            print_json({"name": name, "card": text})
        else:
            click.echo(text)
        return
    rows = listing()
    if as_json:
        heading, *others = rows
        print_json({"weights": [dict(zip(heading, row, strict=True)) for row in others]})
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if heading == "size" else cell.ljust(width)
            for cell, width, heading in zip(row, widths, rows[0], strict=True)
        ]
        click.echo("  ".join(cells).rstrip())
