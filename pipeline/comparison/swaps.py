"""Which routes a matrix of stages compares: a base, and learned stages put into it."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, CycladesError
from cyclades.stages.core.registry import list_stages, stage_class, suggestion
from cyclades.stages.core.stage import KINDS, RefinementStage, Stage

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

TRIAL_SIZE = 96
"""Pixels along the image on which a route shows whether it can run at all."""
JOIN, AT = "+", "@"
NETWORK = "weights"
"""The parameter of a stage that names its network."""
LOOK = (NETWORK, "tile", "batch", "runtime")
"""Parameters by which two stages ask one network in the same way, and so share its look."""


class Swap(NamedTuple):
    """A row of the matrix.

    Attributes
    ----------
    label : str
        What it is called: the names of what is swapped in, with ``+`` between.
    stages : tuple of str
        The kinds in which it differs from the base; none for the base itself.
    config : RouteConfig
    """

    label: str
    stages: tuple[str, ...]
    config: RouteConfig


@cache
def trial_image() -> "SkyImage":
    """A small simulated field on which routes are tried."""
    from cyclades.pipeline.simulation.field import FieldOptions, simulate

    return simulate(FieldOptions(size=TRIAL_SIZE), 0).image


def refusal(config: RouteConfig, context: Context | None = None) -> str:
    """Run a route on a small image; return the sentence with which it refuses, or nothing.

    In a context that is used again its networks are then loaded and its code compiled.

    Parameters
    ----------
    config : RouteConfig
    context : Context, optional
    """
    workers = 1 if context is None else None
    try:
        Pipeline(config).run(trial_image().replace(), workers=workers, context=context)
    except CycladesError as error:
        return str(error)
    return ""


def learned_stages(
    base: RouteConfig, *, context: Context | None = None
) -> tuple[list[Stage], dict[str, str]]:
    """Stages that can be swapped into a route with what is installed, at their defaults.

    These are the stages that need weights and all refinements of the catalogue; of several
    detections (or others of one kind) with the same weights the first. Nothing is fetched.

    Parameters
    ----------
    base : RouteConfig
        The route that they are tried in.
    context : Context, optional
        In which they are tried.

    Returns
    -------
    stages : list of Stage
        In the order of the registry.
    refused : dict of str to str
        Of those that cannot run, by ``kind name``, why not.
    """
    stages: list[Stage] = []
    refused: dict[str, str] = {}
    networks: set[tuple[str, str]] = set()
    for kind, name in _candidates():
        try:
            stage = stage_class(kind, name)()
        except (CycladesError, ValidationError) as error:
            refused[f"{kind} {name}"] = _sentence(error)
            continue
        weights = str(getattr(stage, NETWORK, name))
        network = (kind, weights)
        if network in networks or stage in base.stages:
            continue
        if "/" in weights:  # trying it would fetch it
            refused[f"{kind} {name}"] = f"Its weights {weights} do not come with cyclades."
            continue
        try:
            why = refusal(swapped(base, [stage]), context)
        except ConfigurationError as error:  # the base lacks what a refinement needs
            why = str(error)
        if why:
            refused[f"{kind} {name}"] = why
            continue
        networks.add(network)
        stages.append(stage)
    return stages, refused


def _candidates() -> Iterator[tuple[str, str]]:
    """Kind and name of every stage that is learned, or refines."""
    for kind, names in list_stages().items():
        for name in names:
            try:
                found = stage_class(kind, name)
            except ConfigurationError:  # a package is missing that it needs
                continue
            if found.capabilities.needs_weights or issubclass(found, RefinementStage):
                yield kind, name


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"It has no default for {where!r}."
        return f"{where}: {first['msg'].removesuffix('.')}."
    return str(error)


def find_stage(name: str) -> Stage:
    """Return the stage of a name at its defaults.

    Parameters
    ----------
    name : str
        ``kind:name`` where two kinds have it; with ``@weights`` behind where the network is not
        the default one, as ``masked@yolo``.

    Raises
    ------
    ConfigurationError
        Where there is none, several kinds have it, or it has no defaults.
    """
    text, at, weights = name.partition(AT)
    kind, colon, own = text.partition(":")
    table = list_stages()
    kinds = [kind] if colon else [k for k, names in table.items() if text in names]
    own = own if colon else text
    if not kinds:
        known = [one for names in table.values() for one in names]
        raise ConfigurationError(
            f"There is no stage named {text!r}{suggestion(text, known)}; 'cyclades stages' lists "
            "them."
        )
    if len(kinds) > 1:
        raise ConfigurationError(
            f"{text!r} is a {' and a '.join(kinds)}; write {kinds[0]}:{text}, say."
        )
    try:
        return stage_class(kinds[0], own)(**({NETWORK: weights} if at else {}))
    except ValidationError as error:
        raise ConfigurationError(
            f"The {kinds[0]} {own!r} cannot be swapped in as {name!r}. {_sentence(error)} Give a "
            "route as a YAML file."
        ) from error


def swapped(base: RouteConfig, stages: Sequence[Stage]) -> RouteConfig:
    """Put stages into a route; refinements follow those that it has, in the order given."""
    sections: dict[str, Any] = {}
    for stage in stages:
        if isinstance(stage, RefinementStage):
            held = sections.get(stage.kind, base.cataloguing)
            names = [one.name for one in held]
            sections[stage.kind] = held if stage.name in names else (*held, stage)
        elif stage.kind == KINDS[-1]:
            sections[stage.kind] = (stage, *sections.get(stage.kind, base.cataloguing)[1:])
        else:
            sections[stage.kind] = stage
    return base.replace(**sections)


def sharing(config: RouteConfig, context: Context | None = None) -> RouteConfig:
    """Let stages ask the network of the detection, in its way, where they can work with it.

    So a run looks at the image once. A stage of which the network makes nothing (as a detector's
    for one that wants maps) stays as it is.

    Parameters
    ----------
    config : RouteConfig
    context : Context, optional
        In which it is tried.
    """
    detection = config.detection
    if not hasattr(detection, NETWORK):
        return config
    for kind in ("background", "characterization"):
        stage = getattr(config, kind)
        fields = type(stage).model_fields
        look = {n: getattr(detection, n) for n in LOOK if n in fields and hasattr(detection, n)}
        if NETWORK not in look or getattr(stage, NETWORK) == look[NETWORK]:
            continue
        try:
            tried = config.replace(**{kind: type(stage)(**{**stage.model_dump(), **look})})
        except (CycladesError, ValidationError):
            continue
        if not refusal(tried, context):
            config = tried
    return config


def matrix_rows(
    base: RouteConfig,
    name: str,
    stages: Sequence[Stage],
    further: Sequence[str] = (),
    *,
    context: Context | None = None,
) -> list[Swap]:
    """Rows of a matrix: the base, each stage alone, all together, and what else is wanted.

    All together are, for each detection, the first stage of every other kind, and all
    refinements. Stages in one row share the detection's network where they can (`sharing`).

    Parameters
    ----------
    base : RouteConfig
    name : str
        Of the base.
    stages : sequence of Stage
    further : sequence of str
        Names of stages as `find_stage` takes them with ``+`` between, or routes (a name or a
        YAML file).
    context : Context, optional
        In which sharing is tried.

    Raises
    ------
    ConfigurationError
        Where a stage or route is unknown.
    """
    rows = [Swap(name, (), base)]

    def add(label: str, config: RouteConfig) -> None:
        kinds = tuple(k for k in KINDS if getattr(config, k) != getattr(base, k))
        if all(config != row.config for row in rows):
            rows.append(Swap(label, kinds, config))

    def add_stages(chosen: Sequence[Stage], label: str = "") -> None:
        label = label or JOIN.join(stage.name for stage in chosen)
        add(label, sharing(swapped(base, chosen), context))

    for stage in stages:
        add_stages([stage])
    groups = [[s for s in stages if s.kind == kind] for kind in KINDS]
    detections: list[Stage | None] = [*groups[1]]
    for detection in detections or [None]:
        firsts = [*groups[0][:1], detection, *groups[2][:1], *groups[3]]
        every = [stage for stage in firsts if stage is not None]
        if len(every) > 1:
            add_stages(every)
    for text in further:
        parts = [part.strip() for part in text.split(JOIN)]
        known = {one for names in list_stages().values() for one in names}
        if all(part.partition(AT)[0].rpartition(":")[2] in known for part in parts):
            add_stages([find_stage(part) for part in parts], JOIN.join(parts))
        else:
            add(text.rpartition("/")[2].removesuffix(".yaml"), RouteConfig.from_route(text))
    return rows
