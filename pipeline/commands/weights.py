"""``cyclades weights``."""

import click


@click.command()
@click.argument("name", required=False)
def weights(name: str | None) -> None:
    """List the detectors and the weights of backbones, or show one in full.

    NAME is one of the list, or a file of weights. Detectors ship with the package; weights of
    backbones are what a training may start from. What is not available offline is fetched from the
    Hugging Face hub when it is used.
    """
    from cyclades.stages.networks.weights import describe, listing

    if name is not None:
        click.echo(describe(name))
        return
    rows = listing()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if heading == "size" else cell.ljust(width)
            for cell, width, heading in zip(row, widths, rows[0], strict=True)
        ]
        click.echo("  ".join(cells).rstrip())
