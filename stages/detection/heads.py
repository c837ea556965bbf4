"""Detections by the heads that need no more than the options that all have."""

from functools import cache
from typing import Any

from pydantic import create_model

from cyclades.stages.core.stage import parameter
from cyclades.stages.detection.learned import LearnedDetection
from cyclades.stages.networks.heads.table import find_head, list_detections
from cyclades.stages.networks.tiles import STRIDE


def __getattr__(name: str) -> Any:
    """The detection of a head, made when it is asked for by the head's name or its own."""
    heads = list_detections()
    # by its own a worker asks for it, that is handed a stage
    head = name if name in heads else {_class_name(one): one for one in heads}.get(name)
    if head is None:
        raise AttributeError(name)
    return _made(head)


def _class_name(head: str) -> str:
    return "".join(part.capitalize() for part in head.split("_")) + "Detection"


@cache
def _made(name: str) -> type[LearnedDetection]:
    head = find_head(name)
    made: type[LearnedDetection] = create_model(
        _class_name(name),
        __base__=LearnedDetection,
        __module__=__name__,
        __doc__=f"{head.summary[0].upper()}{head.summary[1:]}; see `LearnedDetection`.",
        weights=(
            str,
            parameter(name, "A file that 'cyclades train' wrote, its folder, or a hub repository."),
        ),
        tile=(
            int,
            parameter(
                head.tile,
                "Longest side of the tiles; graphs that take one size have their own.",
                unit="pixels",
                ge=min(192, head.tile),
                multiple_of=STRIDE,
            ),
        ),
    )
    made.name, made.summary, made.heads = name, head.summary, (name,)
    return made
