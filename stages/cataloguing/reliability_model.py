"""The probability that a row is real: boosted trees, kept as plain numbers."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cyclades.stages.cataloguing.row_features import FEATURES
from cyclades.stages.cataloguing.trees import Tree
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats

FILE = "reliability.json"
MOST = 9.0
"""Largest log-odds either way: no simulation tells more."""
_ANEW = "make it anew with python -m cyclades.pipeline.training.reliability"


@dataclass(frozen=True, eq=False)
class ReliabilityModel:
    """A sum of trees, whose log-odds a line then calibrates.

    Attributes
    ----------
    trees : tuple of Tree
    start : float
        Log-odds before the first tree.
    slope, shift : float
        The line: slope times the trees' log-odds, plus the shift. The slope is positive.
    """

    trees: tuple[Tree, ...]
    start: float = 0.0
    slope: float = 1.0
    shift: float = 0.0

    def log_odds(self, features: Floats) -> Floats:
        """Log-odds that rows are real; features of shape (rows, features), NaN where unknown."""
        raw = np.full(len(features), self.start)
        for tree in self.trees:
            raw += tree(features)
        return np.clip(self.slope * raw + self.shift, -MOST, MOST)

    def probability(self, features: Floats) -> Floats:
        """Probability that rows are real."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.log_odds(features))))

    def to_mapping(self) -> dict[str, Any]:
        """What a file holds, rounded to what matters."""
        return {
            "features": list(FEATURES),
            "start": round(float(self.start), 5),
            "slope": round(float(self.slope), 5),
            "shift": round(float(self.shift), 5),
            "trees": [tree.to_mapping() for tree in self.trees],
        }

    @classmethod
    def from_mapping(cls, held: dict[str, Any], name: str = FILE) -> "ReliabilityModel":
        """Make a model from what a file holds.

        Raises
        ------
        InputError
            Where it is a model of other features, or no model.
        """
        if not isinstance(held, dict) or held.get("features") != list(FEATURES):
            raise InputError(f"{name} is no model of the reliability of this version; {_ANEW}.")
        try:
            trees = tuple(Tree.from_mapping(one, len(FEATURES)) for one in held["trees"])
            line = {key: float(held[key]) for key in ("start", "slope", "shift")}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name} is a damaged model of reliability; {_ANEW}.") from error
        return cls(trees, **line)


@cache
def default_model() -> ReliabilityModel:
    """The model that comes with the package."""
    text = files("cyclades.data").joinpath(FILE).read_text("utf-8")
    return ReliabilityModel.from_mapping(json.loads(text))


def read_model(path: str | Path) -> ReliabilityModel:
    """Read a model from a file.

    Raises
    ------
    InputError
        Where the file cannot be read, or is no such model.
    """
    try:
        held = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a model of reliability; {_ANEW}.") from error
    return ReliabilityModel.from_mapping(held, str(path))
