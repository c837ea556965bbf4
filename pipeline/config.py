"""The configuration of a route: read, checked as a whole, overridden, dumped in full.

A configuration is a mapping with the sections `image`, `background`, `detection`,
`characterization`, `cataloguing` and `seed`. A stage is given as a name or as a mapping with
``name`` and parameters; the parameters are declared by the stages' own models and nowhere else.
A section that is left out is that of the classical route.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from pydantic import BaseModel, ValidationError

from cyclades.pipeline.document import Document, Location
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.registry import BUILT_IN, stage_class, suggestion
from cyclades.stages.core.stage import (
    KINDS,
    BackgroundStage,
    CataloguingStage,
    CharacterizationStage,
    DetectionStage,
    RefinementStage,
    Stage,
)

SECTIONS = ("image", *KINDS, "seed")
DEFAULT_ROUTE = "classical"


class Problem(NamedTuple):
    """Something wrong with a configuration: where, and one sentence."""

    location: Location
    message: str


@dataclass(frozen=True)
class RouteConfig:
    """A whole route: the image options, the four stages and the seed.

    Parameters
    ----------
    background, detection, characterization : Stage
        The first three stages.
    cataloguing : tuple of Stage
        A stage that builds the catalogue, then refinements in order.
    image : ImageOptions
        How to read an image (beam, plane, mask, ...).
    seed : int
        Root of every random draw.
    """

    background: BackgroundStage
    detection: DetectionStage
    characterization: CharacterizationStage
    cataloguing: tuple[Stage, ...]
    image: ImageOptions
    seed: int = 0

    @classmethod
    def from_mapping(cls, mapping: Any, *, name: str = "configuration") -> "RouteConfig":
        """Check a mapping and make the configuration.

        Raises
        ------
        ConfigurationError
            With every problem found, each with the place where it is.
        """
        config, problems = parse(mapping)
        if config is None:
            raise ConfigurationError(f"{name}: " + " ".join(p.message for p in problems))
        return config

    @classmethod
    def from_route(cls, route: "str | Path | Mapping[str, Any]") -> "RouteConfig":
        """Return the configuration of a named route, of a YAML file, or of a mapping."""
        mapping, name = load(route)
        return cls.from_mapping(mapping, name=name)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage, in the order in which they run."""
        return (self.background, self.detection, self.characterization, *self.cataloguing)

    def replace(self, **sections: Any) -> "RouteConfig":
        """Return a copy with whole sections replaced by names, mappings or stage objects."""
        return self.from_mapping({**self._sections(), **sections})

    def _sections(self) -> dict[str, Any]:
        return {section: getattr(self, section) for section in SECTIONS}

    def to_mapping(self) -> dict[str, Any]:
        """Return every parameter of every section as plain values; `from_mapping` reads it."""
        return {
            "image": self.image.model_dump(mode="json"),
            **{kind: _dump(getattr(self, kind)) for kind in KINDS[:3]},
            "cataloguing": [_dump(stage) for stage in self.cataloguing],
            "seed": self.seed,
        }

    def to_yaml(self) -> str:
        """Return `to_mapping` as YAML text."""
        return self._yaml

    @cached_property
    def _yaml(self) -> str:
        # every image of a batch writes it
        return str(yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True))


def _dump(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, **stage.model_dump(mode="json")}


def parse(mapping: Any) -> tuple[RouteConfig | None, list[Problem]]:
    """Check a mapping; return the configuration, or None with every problem found."""
    if not isinstance(mapping, Mapping):
        message = f"A configuration is a mapping of the sections {', '.join(SECTIONS)}."
        return None, [Problem((), message)]
    problems = [
        Problem(
            (key,),
            f"There is no section {key!r}{suggestion(str(key), list(SECTIONS))}; "
            f"the sections are {', '.join(SECTIONS)}.",
        )
        for key in mapping
        if key not in SECTIONS
    ]
    sections: dict[str, Any] = {
        "image": _model(ImageOptions, mapping.get("image") or {}, ("image",), problems),
        "seed": _seed(mapping.get("seed", 0), problems),
    }
    missing = [kind for kind in KINDS if kind not in mapping]
    filled = {**load(DEFAULT_ROUTE)[0], **mapping} if missing else mapping
    for kind in KINDS[:3]:
        sections[kind] = _stage(kind, filled[kind], (kind,), problems)
    sections["cataloguing"] = _cataloguing(filled["cataloguing"], problems)
    if not problems:
        problems += _absent_columns(sections["characterization"], sections["cataloguing"])
    return (None if problems else RouteConfig(**sections)), problems


def _seed(value: Any, problems: list[Problem]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        problems.append(Problem(("seed",), f"seed is a whole number from 0 on, not {value!r}."))
        return 0
    return value


def _stage(kind: str, entry: Any, location: Location, problems: list[Problem]) -> Stage | None:
    """Make the stage of one entry: a stage object, a name, or a mapping with ``name``."""
    parameters: Any
    if isinstance(entry, Stage):
        name, parameters = entry.name, entry
    elif isinstance(entry, str):
        name, parameters = entry, {}
    elif isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
        name, parameters = entry["name"], {k: v for k, v in entry.items() if k != "name"}
    else:
        problems.append(
            Problem(
                location,
                f"{_dotted(location)} is the name of a stage, or a mapping with its name "
                f"(name: ...) and its parameters, not {entry!r}.",
            )
        )
        return None
    try:
        cls = type(entry) if isinstance(entry, Stage) else stage_class(kind, name)
    except ConfigurationError as error:
        problems.append(Problem((*location, "name"), str(error)))
        return None
    if cls.kind != kind or cls.name != name:
        problems.append(
            Problem(
                location,
                f"The stage {name!r} given for {kind} declares itself as the {cls.kind} "
                f"{cls.name!r}; correct its registration.",
            )
        )
        return None
    return cast("Stage | None", _model(cls, parameters, location, problems))


def _model(
    cls: type[BaseModel], parameters: Any, location: Location, problems: list[Problem]
) -> BaseModel | None:
    """Validate parameters against a model, or note what is wrong with each."""
    if isinstance(parameters, cls):
        return parameters
    try:
        return cls.model_validate(parameters)
    except ValidationError as error:
        where = _dotted(location)
        if issubclass(cls, Stage):
            where = f"{cls.kind} {cls.name!r}"
        problems += [
            Problem((*location, *item["loc"]), _explain(dict(item), where, cls.model_fields))
            for item in error.errors(include_url=False)
        ]
        return None


def _explain(item: dict[str, Any], where: str, known: Iterable[str]) -> str:
    """Turn one pydantic error into a sentence."""
    names = list(known)
    parameter = _dotted(item["loc"])
    if item["type"] == "extra_forbidden":
        has = f"its parameters are {', '.join(names)}" if names else "it has no parameters"
        return f"The {where} has no parameter {parameter!r}{suggestion(parameter, names)}; {has}."
    if item["type"] == "missing":
        return f"The {where} needs a value for {parameter!r}."
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    if not parameter:
        return f"The {where}: {message}."
    return f"The parameter {parameter!r} of {where}: {message}, not {item['input']!r}."


def _dotted(location: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in location)


def _cataloguing(entries: Any, problems: list[Problem]) -> tuple[Stage, ...]:
    """Make the builder and the refinements of the list."""
    if isinstance(entries, (str, Stage)):
        entries = [entries]
    if not isinstance(entries, (list, tuple)) or not entries:
        problems.append(
            Problem(("cataloguing",), "cataloguing is a list of stage names, as [components].")
        )
        return ()
    stages: list[Stage] = []
    for number, entry in enumerate(entries):
        location: Location = ("cataloguing", number)
        if isinstance(entry, Mapping) and len(entry) == 1 and "name" not in entry:
            name, parameters = next(iter(entry.items()))
            location = (*location, name)
            if parameters is not None and not isinstance(parameters, Mapping):
                message = f"The parameters of {name} are a mapping, not {parameters!r}."
                problems.append(Problem(location, message))
                continue
            entry = {"name": name, **(parameters or {})}
        stage = _stage("cataloguing", entry, location, problems)
        expected = RefinementStage if number else CataloguingStage
        if stage is None:
            continue
        if not isinstance(stage, expected):
            problems.append(
                Problem(
                    location,
                    "The list cataloguing starts with one stage that builds the catalogue "
                    f"(components) and goes on with refinements; {stage.name!r} cannot be "
                    f"number {number + 1}.",
                )
            )
        stages.append(stage)
    return tuple(stages)


def _absent_columns(measuring: Stage, cataloguing: tuple[Stage, ...]) -> list[Problem]:
    """Refinements that need a column which no stage before them gives.

    Stages that do not tell their columns beforehand may give any; then the run checks.
    """
    from cyclades.stages.core.schema import columns

    known = {column.name for column in columns("components")}
    for stage in (measuring, cataloguing[0]):
        added = cast("CharacterizationStage | CataloguingStage", stage).adds
        if added is None:
            return []
        known.update(added)
    problems = []
    for number, stage in enumerate(cast("tuple[RefinementStage, ...]", cataloguing[1:]), 1):
        absent = next((name for name in stage.needs if name not in known), None)
        if absent is not None:
            problems.append(
                Problem(
                    ("cataloguing", number),
                    f"The refinement {stage.name!r} needs the column {absent!r}, which no stage "
                    f"before it gives; {_who_gives(absent)}.",
                )
            )
        known.update(stage.adds)
    return problems


def _who_gives(column: str) -> str:
    """What to choose for a column."""
    for name in BUILT_IN["characterization"]:
        cls = cast("type[CharacterizationStage]", stage_class("characterization", name))
        if column in (cls.adds or ()):
            return f"choose the characterization {name!r}, or leave the refinement out"
    for name in BUILT_IN["cataloguing"]:
        refinement = cast("type[RefinementStage]", stage_class("cataloguing", name))
        if column in (refinement.adds or ()):
            return f"put {name!r} before it"
    return "change the order or the stages of cataloguing"


def routes() -> list[str]:
    """Return the names of the routes that come with the package."""
    folder = files("cyclades.data").joinpath("routes")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load(route: "str | Path | Mapping[str, Any]") -> tuple[dict[str, Any], str]:
    """Return the mapping of a named route, a YAML file or a mapping, and what to call it.

    Stages that a file leaves out are filled in, so that assignments can reach into them. A
    string is a route's name unless it looks like a path (a suffix or a separator).
    """
    if isinstance(route, Mapping):
        return dict(route), "configuration"
    text = str(route)
    if isinstance(route, str) and not text.endswith((".yaml", ".yml")) and "/" not in text:
        known = routes()
        if text not in known:
            raise ConfigurationError(
                f"There is no route {text!r}{suggestion(text, known)}; choose one of "
                f"{', '.join(known)}, or give a YAML file."
            )
        source = files("cyclades.data").joinpath("routes", f"{text}.yaml").read_text("utf-8")
        return dict(yaml.safe_load(source)), f"route {text}"
    document = Document.read(Path(text))
    problems = _file_problems(document)
    if problems:
        line, message = problems[0]
        more = ""
        if len(problems) > 1:
            check = f"'cyclades config check {text}' lists them"
            more = f" (The first of {len(problems)} errors; {check}.)"
        raise ConfigurationError(f"{text}, line {line}: {message}{more}")
    return {**load(DEFAULT_ROUTE)[0], **document.content}, text


def check_file(path: Path) -> list[tuple[int, str]]:
    """Return every problem of a configuration file as (line, sentence), in line order."""
    return _file_problems(Document.read(path))


def _file_problems(document: Document) -> list[tuple[int, str]]:
    problems = list(document.problems)
    if document.node is not None or not problems:
        problems += [(document.line(p.location), p.message) for p in parse(document.content)[1]]
    return sorted(problems)


def override(mapping: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply ``section.parameter=value`` assignments; values are parsed as YAML.

    ``detection=sep`` replaces a stage and drops the parameters of the former one;
    ``cataloguing.components.name_prefix=X`` reaches into the list by stage name.

    Raises
    ------
    ConfigurationError
        Where an assignment has no ``=``, is not YAML, or names a list entry that is not there.
    """
    result = dict(mapping)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigurationError(
                f"{assignment!r} is not of the form section.parameter=value, as in "
                "detection.seed_threshold=6."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"The value in {assignment!r} is not valid YAML.") from error
        section, *rest = keys
        if not rest:
            result[section] = value
        elif section == "cataloguing":
            result[section] = _override_list(result.get(section), rest, value, assignment)
        else:
            result[section] = _override_entry(result.get(section), rest, value)
    return result


def _override_entry(entry: Any, keys: list[str], value: Any) -> dict[str, Any]:
    """Set a (possibly nested) parameter of a stage entry, which may be just a name."""
    content = {"name": entry} if isinstance(entry, str) else dict(entry or {})
    first, *rest = keys
    content[first] = _override_entry(content.get(first), rest, value) if rest else value
    return content


def _override_list(entries: Any, keys: list[str], value: Any, assignment: str) -> list[Any]:
    """Set a parameter of the entry of the cataloguing list that has the given name."""
    named = []
    for entry in [entries] if isinstance(entries, str) else entries or ["components"]:
        if isinstance(entry, Mapping) and len(entry) == 1 and "name" not in entry:
            name, parameters = next(iter(entry.items()))
            named.append({"name": name, **(parameters or {})})
        else:
            named.append({"name": entry} if isinstance(entry, str) else dict(entry))
    names = [str(entry.get("name")) for entry in named]
    if keys[0] not in names or len(keys) < 2:
        raise ConfigurationError(
            f"{assignment!r} does not name a parameter of a cataloguing stage"
            f"{suggestion(keys[0], names)}; write cataloguing.NAME.parameter=value with one of "
            f"{', '.join(names)}."
        )
    number = names.index(keys[0])
    named[number] = _override_entry(named[number], keys[1:], value)
    return named
