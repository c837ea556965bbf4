"""From what a person decided to labels for a training, and a catalogue."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.labelling.candidates import Candidates
from cyclades.pipeline.labelling.page import FORMAT, VERSION
from cyclades.pipeline.simulation.coco import to_coco, write_coco
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError, OutputError
from cyclades.stages.core.products import Detections, Floats, Integers, Segments
from cyclades.stages.core.segments import complete_detections, segment_boxes

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue

LABELS_SUFFIX, CATALOGUE_SUFFIX = ".labels.coco.json", ".labels.catalogue.fits"
IGNORED = "undecided"
"""Instead of a class, of objects without a decision."""


class Decision(BaseModel):
    """What was decided about one object.

    Attributes
    ----------
    candidates : tuple of int
        That it is made of; several where they were merged, none where it was drawn.
    box : tuple of float, optional
        ``x0, y0, x1, y1`` of pixel centres, of an object that was drawn.
    state : str
        ``accepted``, ``rejected``, or ``open`` where nothing was decided.
    kind : str
        Its class, where it is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    state: str = "open"
    kind: str = ""


class Decisions(BaseModel):
    """What the page saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    version: int
    image: str
    identity: str
    configuration: dict[str, Any]
    classes: tuple[str, ...]
    objects: tuple[Decision, ...]

    @property
    def config(self) -> RouteConfig:
        """The route that found the candidates."""
        return RouteConfig.from_route(self.configuration)


def read_decisions(path: str | Path) -> Decisions:
    """Read a file that the page saved.

    Raises
    ------
    InputError
        Where it is missing, damaged, or no such file.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text("utf-8"))
        made = Decisions.model_validate(content)
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{file}: no decisions of a page of 'cyclades label' ({place}: {first['msg']}); "
                "save them in the page again."
            ) from error
        raise InputError(f"{file}: cannot be read as JSON; save it in the page again.") from error
    if made.format != FORMAT or made.version > VERSION:
        raise InputError(
            f"{file}: its format is {made.format} {made.version}, and {FORMAT} {VERSION} is known; "
            "use the version of cyclades that made the page, or a newer one."
        )
    return made


@dataclass(frozen=True, eq=False)
class Labels:
    """Objects as a person wants them.

    Parameters
    ----------
    segments : Segments
        Pixels of each.
    kinds : tuple of str
        Class of each; `IGNORED` where nothing was decided.
    detections : Detections
        Those that were accepted, complete, one source each, their class with probability one.
    counts : dict of str to int
        How many were accepted, rejected, left open, merged and drawn; and where there are any,
        drawn around nothing that stands out, of which there is no object.
    """

    segments: Segments
    kinds: tuple[str, ...]
    detections: Detections
    counts: dict[str, int]


def apply_decisions(candidates: Candidates, decisions: Decisions) -> Labels:
    """Make labels of decisions.

    Candidates that no decision names are left open.

    Parameters
    ----------
    candidates : Candidates
        Of the same image by the same route.
    decisions : Decisions

    Raises
    ------
    InputError
        Where they are about other objects, name one twice, or a class that is not known.
    """
    name = candidates.image.name
    if decisions.identity != candidates.identity:
        raise InputError(
            f"{name}: the decisions are about other objects than those found now; give the image "
            "that the page was made of, unchanged, and the same version of cyclades."
        )
    named = [one for decision in decisions.objects for one in decision.candidates]
    if len(set(named)) < len(named) or not set(named) <= set(range(len(candidates))):
        raise InputError(
            f"{name}: the decisions name an object twice, or one that there is not; save them in "
            "the page again."
        )
    known = candidates.classes
    pixels: list[Integers] = []
    kinds: list[str] = []
    parts: list[Detections] = []
    accepted: list[tuple[Decision, int]] = []
    left = sorted(set(range(len(candidates))) - set(named))
    every = [*decisions.objects, *(Decision(candidates=(number,)) for number in left)]
    counts = dict.fromkeys(("accepted", "rejected", "open", "merged", "drawn"), 0)
    taken = np.zeros(candidates.image.shape, bool).ravel()
    for decision in every:
        for number in decision.candidates if decision.state != "rejected" else ():
            taken[candidates.segments[number]] = True
    for decision in every:
        if decision.state not in counts:
            raise InputError(f"{name}: {decision.state!r} is no state of an object.")
        if decision.state == "accepted" and decision.kind not in known:
            raise InputError(
                f"{name}: the class {decision.kind!r} is none of {', '.join(known)}; give it by "
                "--classes, as when the page was made."
            )
        if decision.state == "rejected":
            counts["rejected"] += 1
            continue
        source = len(accepted)
        found = _detections(candidates, decision, source, taken)
        if found is None:
            counts["drawn around nothing"] = counts.get("drawn around nothing", 0) + 1
            continue
        counts[decision.state] += 1
        counts["merged"] += len(decision.candidates) > 1
        counts["drawn"] += decision.box is not None
        assert found.segments is not None
        pixels.append(np.unique(found.segments.take(found.islands).indices))
        kinds.append(decision.kind if decision.state == "accepted" else IGNORED)
        if decision.state == "accepted":
            accepted.append((decision, len(found)))
            parts.append(found)
    return Labels(
        Segments.from_lists(pixels),
        tuple(kinds),
        _joined(candidates, parts, [one.kind for one, _ in accepted]),
        counts,
    )


def _detections(
    candidates: Candidates, decision: Decision, source: int, taken: Any
) -> Detections | None:
    """The rows of one object; None where a drawn box holds nothing that stands out."""
    every = candidates.detections
    if decision.box is not None:
        result = candidates.result
        assert result.background is not None
        image = candidates.image
        free = np.where(taken.reshape(image.shape), np.float32(np.nan), image.data)
        x, y = sorted(decision.box[::2]), sorted(decision.box[1::2])
        drawn = Detections(
            image.shape,
            np.array([[x[0], y[0], x[1], y[1]]], float),
            np.ones(1),
            np.array([-1], np.int64),
        )
        with Context() as context:
            found = complete_detections(
                image.replace(data=free), result.background, drawn, context=context
            )
        return _only(found, source) if len(found) else None
    rows = np.sort(np.concatenate([candidates.rows[one] for one in decision.candidates]))
    place = np.full(len(every) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    parent = place[every.parent[rows]]
    assert every.segments is not None
    found = Detections(
        every.shape,
        every.box[rows],
        every.score[rows],
        parent,
        segments=every.segments.take(rows),
        summit=None if every.summit is None else every.summit[rows],
        sign=None if every.sign is None else every.sign[rows],
    )
    return _only(found, source)


def _only(found: Detections, source: int) -> Detections:
    """The same rows as one source, without what a detector said of them."""
    return found.replace(
        source=np.full(len(found), source, np.int64), class_probabilities=None, classes=(),
        flags=None, sign=found.signs,
    )  # fmt: skip


def _joined(candidates: Candidates, parts: list[Detections], kinds: list[str]) -> Detections:
    """All accepted objects, their classes certain."""
    classes = candidates.classes
    if not parts:
        empty: Floats = np.zeros((0, 4))
        none: Integers = np.zeros(0, np.int64)
        return Detections(
            candidates.image.shape, empty, np.zeros(0), none,
            segments=Segments.from_lists([]), summit=np.zeros((0, 2)),
        )  # fmt: skip
    marked = [
        part.replace(
            source=np.zeros(len(part), np.int64),
            class_probabilities=np.tile(np.equal(classes, kind).astype(float), (len(part), 1)),
            classes=classes,
        )
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return Detections.concatenate(marked)


def measured_catalogue(candidates: Candidates, labels: Labels) -> "Catalogue":
    """Measure the accepted objects as the candidates' route measures, one source each."""
    result = candidates.result
    assert result.background is not None
    image, config = candidates.image, result.config
    with Context(seed=config.seed) as context:
        context.note("detected_by", "label")
        context.note("measured_by", config.characterization.name)
        components = config.characterization.measure(
            image, result.background, labels.detections, context=context
        )
        builder: Any = config.cataloguing[0]
        made: Catalogue = builder.build(
            image, result.background, labels.detections, components, context=context
        )
    return made


def write_labels(candidates: Candidates, labels: Labels, directory: str | Path) -> list[Path]:
    """Write COCO labels and the catalogue.

    Objects that were left open are crowds in COCO (``iscrowd``), which a training ignores; those
    that were rejected are not there, and so are sky.

    Parameters
    ----------
    candidates : Candidates
    labels : Labels
    directory : path
        Made where it is missing.

    Returns
    -------
    list of Path
        The labels, and the catalogue.

    Raises
    ------
    OutputError
        Where they cannot be written.
    """
    folder, stem = Path(directory), candidates.image.name
    names, shape = candidates.classes, candidates.image.shape
    # a crowd needs no class of its own, and a category that no network knows would be refused
    kinds = np.array(
        [0 if kind == IGNORED else names.index(kind) for kind in labels.kinds], np.int64
    )
    boxes = segment_boxes(labels.segments, shape[1])
    content = to_coco(labels.segments, boxes, kinds, shape, f"{stem}.fits", names)
    for row, kind in zip(content["annotations"], labels.kinds, strict=True):
        row["iscrowd"] = int(kind == IGNORED)
    paths = [folder / f"{stem}{suffix}" for suffix in (LABELS_SUFFIX, CATALOGUE_SUFFIX)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{paths[0].name}.tmp"
        write_coco(content, temporary)
        os.replace(temporary, paths[0])
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    measured_catalogue(candidates, labels).write(paths[1], format="fits")
    return paths
