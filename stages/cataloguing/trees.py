"""Boosted trees as plain numbers, which no library is needed for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

LEAF = -1
"""In place of a feature, in nodes that are leaves."""
_PARTS = ("feature", "threshold", "left", "right", "missing_left", "value")


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

    def to_mapping(self) -> dict[str, Any]:
        """What a file holds, rounded to what matters."""
        return {name: np.round(getattr(self, name), 5).tolist() for name in _PARTS}

    @classmethod
    def from_mapping(cls, held: Mapping[str, Sequence[Any]], features: int) -> "Tree":
        """Make a tree from what a file holds, for a number of features.

        Raises
        ------
        KeyError, TypeError, ValueError
            Where it is no such tree.
        """

        def whole(part: str) -> Integers:
            return np.array(held[part], np.int64)

        def real(part: str) -> Floats:
            return np.array(held[part], np.float64)

        tree = cls(
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
        if not good or not ((tree.feature >= LEAF) & (tree.feature < features)).all():
            raise ValueError("no tree")
        return tree
