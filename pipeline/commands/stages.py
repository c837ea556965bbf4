"""``cyclades stages``."""

import click

from cyclades.pipeline.commands.terminal import examples, json_option, note_first_run, print_json


@click.command(
    epilog=examples(
        "cyclades stages", "cyclades stages detection", "cyclades stages islands --json"
    )
)
@click.argument("name", required=False)
@json_option
def stages(name: str | None, as_json: bool) -> None:
    """List the stages, or the parameters of one.

    NAME is an implementation (islands), a stage (detection) or both (detection.islands).
    """
    note_first_run()
    from cyclades.pipeline.reference import (
        describe_stage,
        list_all,
        matching,
        stage_facts,
        summaries,
    )

    if as_json:
        found = summaries() if name is None else [stage_facts(*pair) for pair in matching(name)]
        print_json({"stages": found})
    elif name is None:
        click.echo(list_all())
    else:
        click.echo("\n\n".join(describe_stage(*pair) for pair in matching(name)))
