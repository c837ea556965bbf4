"""The probability that a row is real: boosted trees, kept as plain numbers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cyclades.stages.cataloguing.row_features import FEATURES
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

FILE = "reliability.json"
LEAF = -1
"""In place of a feature, in nodes that are leaves."""
MOST = 9.0
"""Largest log-odds either way: no simulation tells more."""
_PARTS = ("feature", "threshold", "left", "right", "missing_left", "value")
_ANEW = "make it anew with python -m cyclades.pipeline.training.reliability"


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree; every array has one entry a node, and the first node is the root.

    Attributes
    ----------
    feature : ndarray of int, shape (nodes,)
        Column that is looked at, or `LEAF`.
    threshold : ndarray, shape (nodes,)
        Rows at or below it go left.
    left, right : ndarray of int, shape (nodes,)
        Next nodes, which come after their parent.
    missing_left : ndarray of int, shape (nodes,)
        Whether rows without a value go left.
    value : ndarray, shape (nodes,)
        What a leaf adds to the log-odds.
    """

    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    missing_left: Integers
    value: Floats

    def __call__(self, features: Floats) -> Floats:
        """What the tree adds to the log-odds of rows, from features of shape (rows, features)."""
        node = np.zeros(len(features), np.int64)
        going = np.arange(len(features))
        while len(going):
            going = going[self.feature[node[going]] != LEAF]
            here = node[going]
            values = features[going, self.feature[here]]
            left = np.where(
                np.isnan(values), self.missing_left[here] != 0, values <= self.threshold[here]
            )
            node[going] = np.where(left, self.left[here], self.right[here])
        return self.value[node]


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
            "trees": [
                {name: np.round(getattr(tree, name), 5).tolist() for name in _PARTS}
                for tree in self.trees
            ],
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
            trees = tuple(_tree(one) for one in held["trees"])
            line = {key: float(held[key]) for key in ("start", "slope", "shift")}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name} is a damaged model of reliability; {_ANEW}.") from error
        return cls(trees, **line)


def _tree(held: dict[str, Sequence[Any]]) -> Tree:
    def whole(part: str) -> Integers:
        return np.array(held[part], np.int64)

    def real(part: str) -> Floats:
        return np.array(held[part], np.float64)

    tree = Tree(
        whole("feature"),
        real("threshold"),
        whole("left"),
        whole("right"),
        whole("missing_left"),
        real("value"),
    )
    n = len(tree.feature)
    place = np.arange(n)
    inner = tree.feature != LEAF
    good = n > 0 and all(getattr(tree, part).shape == (n,) for part in _PARTS)
    # children come after their parents, so that no walk is endless
    good = good and all(
        bool(((child > place) & (child < n))[inner].all()) for child in (tree.left, tree.right)
    )
    if not good or not ((tree.feature >= LEAF) & (tree.feature < len(FEATURES))).all():
        raise ValueError("no tree")
    return tree


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
