"""Cells of a study's grid, and the file that keeps what came out of each.

The key of a cell is a hash of everything that its result depends on: the options of its task, a
fingerprint of the task's data, architecture and weights of the backbone, mode, share of the labels
and seed. Names that the user gave are no part of it. So a study goes on where it was interrupted,
changed options compute anew what they change and nothing else, and cells that two backbones share
(the same architecture from scratch) are computed once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.options import PRETRAINED, StudyOptions

FORMAT = 1
"""Of the files of cells; part of every key."""
CELLS = "cells"


@dataclass(frozen=True)
class Cell:
    """One training and its judgement.

    Parameters
    ----------
    task, backbone : str
        Names in the configuration.
    mode : str
        Of `cyclades.pipeline.studies.options.Mode`.
    fraction : float
        Share of the labels.
    seed : int
        Of the draw of labels, of first numbers and of the order of the training.
    """

    task: str
    backbone: str
    mode: str
    fraction: float
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.backbone} {self.mode} {self.fraction:g} {self.seed}"

    @property
    def pretrained(self) -> bool:
        """Whether it starts from the weights of its backbone."""
        return self.mode in PRETRAINED


@dataclass(frozen=True)
class Outcome:
    """What came out of a cell.

    Parameters
    ----------
    labels : int
        Labelled images, tiles or fields that it learned from.
    units : tuple of mapping
        Results on the independent units of the test set (images, tiles, fields), always in the
        same order; a task makes its figures from them, and the bootstrap draws among them.
    seconds : float
        Wall time of the training, and of the features where it took them from the cache: what it
        would have cost alone.
    further : mapping
        Whatever else is worth keeping, as the regularisation that was chosen.
    """

    labels: int
    units: tuple[Mapping[str, Any], ...]
    seconds: float
    further: Mapping[str, Any]


def grid(options: StudyOptions) -> Iterator[Cell]:
    """All cells of a study: seed by seed, so that one that is interrupted has whole curves."""
    for seed in range(options.seeds):
        for task in options.tasks:
            for fraction in options.fractions:
                for backbone in options.backbones:
                    for mode in options.modes:
                        if options.wanted(task, backbone, mode, fraction):
                            yield Cell(task, backbone, mode, fraction, seed)


def identity(
    cell: Cell, options: StudyOptions, data: Mapping[str, Any], weights: str | None
) -> dict[str, Any]:
    """Everything that the result of a cell depends on.

    Parameters
    ----------
    cell : Cell
    options : StudyOptions
    data : mapping
        Fingerprint of the task and its data.
    weights : str or None
        SHA-256 of the backbone's weights.
    """
    backbone = options.backbones[cell.backbone].model_dump(mode="json", exclude={"weights"})
    return {
        "format": FORMAT,
        "task": dict(data),
        "backbone": backbone,
        "weights": weights if cell.pretrained else None,
        "mode": cell.mode,
        "fraction": cell.fraction,
        "seed": cell.seed,
    }


def key(content: Mapping[str, Any]) -> str:
    """Hash of an identity."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Store:
    """Results of cells in a folder, one small file each, which appears whole or not at all.

    Parameters
    ----------
    folder : path
        Of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """File of a cell, by its key."""
        return self.folder / CELLS / f"{name}.json"

    def read(self, name: str) -> Outcome | None:
        """Result of a cell; None where there is none, or its file is damaged."""
        try:
            content = json.loads(self.path(name).read_text("utf-8"))["outcome"]
            units = tuple(content["units"])
            return Outcome(content["labels"], units, content["seconds"], content["further"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, content: Mapping[str, Any], outcome: Outcome) -> None:
        """Keep the result of a cell beside its identity.

        Raises
        ------
        OutputError
            Where the folder cannot be written to.
        """
        text = json.dumps({"identity": dict(content), "outcome": asdict(outcome)})
        with written_whole(self.path(name)) as path:
            path.write_text(text, "utf-8")
