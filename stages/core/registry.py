"""One table from names to stages, open to other packages.

Another package adds a stage with an entry point in the group ``cyclades.stages`` whose name is
``"<kind>.<name>"`` and whose value is ``"package.module:Class"``.
"""

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import KINDS, Stage

GROUP = "cyclades.stages"

BUILT_IN: dict[str, dict[str, str]] = {
    "background": {
        "sep": "cyclades.stages.background.sep:SepBackground",
        "photutils": "cyclades.stages.background.photutils:PhotutilsBackground",
        "grid": "cyclades.stages.background.grid:GridBackground",
        "none": "cyclades.stages.background.none:NoBackground",
        "maps": "cyclades.stages.background.maps:MapsBackground",
        "masked": "cyclades.stages.background.masked:MaskedBackground",
        "dense": "cyclades.stages.background.dense:DenseBackground",
    },
    "detection": {
        "islands": "cyclades.stages.detection.islands:IslandsDetection",
        "sep": "cyclades.stages.detection.sep:SepDetection",
        "photutils": "cyclades.stages.detection.photutils:PhotutilsDetection",
        "mask_rcnn": "cyclades.stages.detection.mask_rcnn:MaskRcnnDetection",
        "faster_rcnn": "cyclades.stages.detection.faster_rcnn:FasterRcnnDetection",
        "yolo": "cyclades.stages.detection.yolo:YoloDetection",
        "promptable": "cyclades.stages.detection.promptable:PromptableDetection",
    },
    "characterization": {
        "gaussian": "cyclades.stages.characterization.gaussian:GaussianCharacterization",
        "psf": "cyclades.stages.characterization.psf:PsfCharacterization",
        "moments": "cyclades.stages.characterization.moments:MomentsCharacterization",
        "learned": "cyclades.stages.characterization.learned:LearnedCharacterization",
    },
    "cataloguing": {
        "components": "cyclades.stages.cataloguing.components:ComponentsCatalogue",
        "associate": "cyclades.stages.cataloguing.associate:AssociateRefinement",
        "classifier": "cyclades.stages.cataloguing.classifier:ClassifierRefinement",
        "star_galaxy": "cyclades.stages.cataloguing.star_galaxy:StarGalaxyRefinement",
        "reliability": "cyclades.stages.cataloguing.reliability:ReliabilityRefinement",
    },
}

FAMILIES: dict[str, tuple[str, str]] = {
    "detection": (
        "cyclades.stages.networks.heads.table:list_detections",
        "cyclades.stages.detection.heads",
    )
}
"""Further stages of a kind: what lists their names, and the module whose attributes they are."""


@cache
def _table() -> dict[str, dict[str, str]]:
    table = {kind: dict(names) for kind, names in BUILT_IN.items()}
    for kind, (listing, module) in FAMILIES.items():
        where, _, function = listing.partition(":")
        for name in getattr(import_module(where), function)():
            table[kind].setdefault(name, f"{module}:{name}")
    for point in entry_points(group=GROUP):
        kind, _, name = point.name.partition(".")
        if kind in table and name:
            table[kind].setdefault(name, point.value)
    return table


def list_stages() -> dict[str, list[str]]:
    """Return ``{stage: [names of its implementations]}``, built in and installed."""
    return {kind: list(names) for kind, names in _table().items()}


def suggestion(word: str, known: list[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def stage_class(kind: str, name: str) -> type[Stage]:
    """Import and return the class registered as `name` for `kind`.

    Raises
    ------
    ConfigurationError
        Where the kind or the name is unknown, or its optional dependency is not installed.
    """
    if kind not in KINDS:
        raise ConfigurationError(
            f"There is no stage {kind!r}{suggestion(kind, list(KINDS))}; "
            f"the stages are {', '.join(KINDS)}."
        )
    names = _table()[kind]
    if name not in names:
        if kind == "cataloguing" and "," in name:
            raise ConfigurationError(
                f"Several stages of cataloguing are a list in brackets: [{name.strip('[] ')}]."
            )
        raise ConfigurationError(
            f"There is no {kind} named {name!r}{suggestion(name, list(names))}; "
            f"choose one of {', '.join(names)}."
        )
    module, _, attribute = names[name].partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The {kind} {name!r} needs the package {error.name!r}; install it "
            f"(see the extras in the README) or choose another {kind}."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigurationError(f"The {kind} {name!r} ({names[name]}) is not a cyclades stage.")
    return found


def create_stage(kind: str, name: str, **parameters: Any) -> Stage:
    """Make a stage from its name and parameters (pydantic's ValidationError is let through)."""
    return stage_class(kind, name)(**parameters)
