"""Options that choose a route, for the commands that run one."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.stages.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cyclades.pipeline.config import RouteConfig


def names(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Split a comma-separated option."""
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


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
        click.option("--route", help="A named route.  [default: classical]"),
    ):
        command = option(command)
    return command


def configuration(
    route: str | None,
    file: Path | None,
    assignments: Iterable[str],
    image: dict[str, Any] | None = None,
    maps: tuple[Path, Path] | None = None,
) -> "RouteConfig":
    """Join a route or a file, the image options and the assignments, in this order."""
    from cyclades.pipeline.config import DEFAULT_ROUTE, RouteConfig, load, override

    if route is not None and file is not None:
        raise ConfigurationError("Give --route or --config, not both.")
    mapping, name = load(file if file is not None else route or DEFAULT_ROUTE)
    given = {key: value for key, value in (image or {}).items() if value is not None}
    if given:
        mapping["image"] = {**(mapping.get("image") or {}), **given}
    if maps is not None:
        level, rms = map(str, maps)
        mapping["background"] = {"name": "maps", "level": level, "rms": rms}
    return RouteConfig.from_mapping(override(mapping, assignments), name=name)
