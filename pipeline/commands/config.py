"""``cyclades config``."""

from pathlib import Path

import click

from cyclades.pipeline.commands.route import configuration, like_option, route_options
from cyclades.pipeline.commands.terminal import (
    USER_ERROR,
    examples,
    json_option,
    note_first_run,
    print_json,
)


@click.group()
def config() -> None:
    """Show or check a configuration."""


@config.command(
    epilog=examples(
        "cyclades config show > route.yaml",
        "cyclades config show --route yolo --set detection.probability=0.6",
        "cyclades config show --like 'aegean --seedclip 6 --floodclip 4'",
    )
)
@route_options
@like_option
@json_option
def show(
    route: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    like: str | None,
    as_json: bool,
) -> None:
    """Print the effective configuration with every parameter, as YAML."""
    note_first_run()
    given = None
    if like is not None:
        from cyclades.pipeline.migration.like import read_like

        given = read_like(like).mapping
    made = configuration(route, config, assignments, like=given)
    if as_json:
        print_json(made.to_mapping())
    else:
        click.echo(made.to_yaml(), nl=False)


@config.command(epilog=examples("cyclades config check route.yaml"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> int:
    """List every error of the configuration FILE with its line."""
    note_first_run()
    from cyclades.pipeline.config import check_file

    problems = check_file(file)
    if as_json:
        listed = [{"line": line, "message": message} for line, message in problems]
        print_json({"file": str(file), "errors": listed})
        return USER_ERROR if problems else 0
    for line, message in problems:
        click.echo(f"{file}:{line}: {message}", err=True)
    if not problems:
        click.echo(f"{file}: no errors")
    return USER_ERROR if problems else 0
