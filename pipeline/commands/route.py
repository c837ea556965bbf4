"""The options that choose a route and change it, as several commands have them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.stages.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cyclades.pipeline.config import RouteConfig


def _names(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


names_option = partial(click.option, multiple=True, callback=_names)
"""An option that takes names, comma-separated or one at a time: a tuple of them."""


def complete_names(
    table: str,
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Complete the last of comma-separated names by the keys of a table ``module:NAME``."""

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
        module, _, name = table.partition(":")
        before, comma, last = incomplete.rpartition(",")
        known = getattr(import_module(module), name)
        return [f"{before}{comma}{key}" for key in known if key.startswith(last)]

    return complete


def _complete_route(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    from cyclades.pipeline.config import routes

    return [name for name in routes() if name.startswith(incomplete)]


like_option = click.option(
    "--like",
    metavar="FINDER",
    help="Do as another source finder does: aegean or pybdsf, with its options if there are any, "
    "as 'aegean --seedclip 6' or 'pybdsf rms_box=(60,15)', or a file of them.",
)


def route_options(command: Any) -> Any:
    """Add the options that choose and change a configuration."""
    for option in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.PARAMETER=VALUE",
            help="Change one parameter, as detection.seed_threshold=6, or a stage, as "
            "detection=sep; may be repeated.",
        ),
        click.option(
            "--config", type=click.Path(path_type=Path), help="A configuration file (YAML)."
        ),
        click.option(
            "--route",
            shell_complete=_complete_route,
            help="A named route.  [default: classical]",
        ),
    ):
        command = option(command)
    return command


def configuration(
    route: str | None,
    file: Path | None,
    assignments: Iterable[str],
    image: dict[str, Any] | None = None,
    maps: tuple[Path, Path] | None = None,
    like: dict[str, Any] | None = None,
) -> "RouteConfig":
    """Join a route or a file, the image options and the assignments, in this order.

    What another source finder's options come to (`like`) stands in for the route.
    """
    from cyclades.pipeline.config import DEFAULT_ROUTE, RouteConfig, load, override

    if route is not None and file is not None:
        raise ConfigurationError("Give --route or --config, not both.")
    if like is not None and (route is not None or file is not None):
        raise ConfigurationError("Give --like, --route or --config, not two of them.")
    mapping, name = load(file if file is not None else route or DEFAULT_ROUTE)
    if like is not None:
        mapping, name = dict(like), "--like"
    given = {key: value for key, value in (image or {}).items() if value is not None}
    if given:
        mapping["image"] = {**(mapping.get("image") or {}), **given}
    if maps is not None:
        level, rms = map(str, maps)
        mapping["background"] = {"name": "maps", "level": level, "rms": rms}
    return RouteConfig.from_mapping(override(mapping, assignments), name=name)


def likeness(
    like: str, images: Sequence[Path], quiet: bool
) -> tuple[dict[str, Any], tuple[str, ...], int | None]:
    """Read --like: sections of a configuration, columns and workers; say what is not followed."""
    from cyclades.pipeline.migration.like import read_like

    read = read_like(like)
    # maps beside an image can stand in the configuration of that image only
    mapping = read.for_image(images[0]) if len(set(images)) == 1 else read.mapping
    notes = [f"{read.finder}'s {note}" for note in read.notes]
    if read.autoload and mapping is read.mapping:
        notes.append(
            "no maps are loaded by themselves: give one image, with X_bkg.fits and X_rms.fits "
            "beside it, or --background and --rms."
        )
    for note in () if quiet else notes:
        click.echo(note, err=True)
    return mapping, read.columns, read.workers
