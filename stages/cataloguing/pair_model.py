"""The probability that two parts are one source, and the groups that suit all pairs best."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from cyclades.stages.cataloguing.pairs import CONTEXT, FEATURES, MOST, context_features
from cyclades.stages.cataloguing.trees import Tree
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

FILE = "association.json"
Allowed = Callable[[Integers], bool]


@dataclass(frozen=True, eq=False)
class Boosted:
    """A sum of trees.

    Attributes
    ----------
    trees : tuple of Tree
    start : float
        Log-odds before the first tree.
    """

    trees: tuple[Tree, ...]
    start: float = 0.0

    def log_odds(self, features: Floats) -> Floats:
        """Log-odds of rows; features of shape (rows, features)."""
        raw = np.full(len(features), self.start)
        for tree in self.trees:
            raw += tree(features)
        return np.asarray(np.clip(raw, -MOST, MOST))


@dataclass(frozen=True, eq=False)
class PairModel:
    """Two looks at pairs: every pair alone, then with what the first look says of those around.

    Attributes
    ----------
    alone : Boosted
        Of `FEATURES`.
    together : Boosted
        Of `FEATURES` and `CONTEXT`.
    within : Boosted
        Of `FEATURES`, for components of one source: whether they are one object.
    """

    alone: Boosted
    together: Boosted
    within: Boosted

    def log_odds(self, features: Floats, number: int, first: Integers, second: Integers) -> Floats:
        """Log-odds that pairs are one source.

        Parameters
        ----------
        features : ndarray, shape (pairs, features)
        number : int
            Parts.
        first, second : ndarray of int, shape (pairs,)
            All pairs of the catalogue that are near enough.
        """
        context = context_features(number, first, second, self.alone.log_odds(features))
        return self.together.log_odds(np.concatenate([features, context], -1))

    def to_mapping(self) -> dict[str, Any]:
        """What a file holds, rounded to what matters."""
        held: dict[str, Any] = {"features": [*FEATURES, *CONTEXT]}
        for name in ("alone", "together", "within"):
            look: Boosted = getattr(self, name)
            trees = [tree.to_mapping() for tree in look.trees]
            held[name] = {"start": round(look.start, 5), "trees": trees}
        return held

    @classmethod
    def from_mapping(cls, held: dict[str, Any]) -> "PairModel":
        """Make a model from what a file holds.

        Raises
        ------
        InputError
            Where it is a model of other features, or no model.
        """
        if held.get("features") != [*FEATURES, *CONTEXT]:
            raise InputError(
                "The model of associations was made for other features; make it anew with "
                "python -m cyclades.pipeline.training.association."
            )
        alone = len(FEATURES)
        numbers = {"alone": alone, "together": alone + len(CONTEXT), "within": alone}
        try:
            looks = {
                name: Boosted(
                    tuple(Tree.from_mapping(tree, number) for tree in held[name]["trees"]),
                    float(held[name]["start"]),
                )
                for name, number in numbers.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The model of associations is damaged: {error}.") from error
        return cls(**looks)


@cache
def default_model() -> PairModel:
    """The model that comes with the package."""
    text = files("cyclades.data").joinpath(FILE).read_text("utf-8")
    return PairModel.from_mapping(json.loads(text))


def agglomerate(
    number: int,
    first: Integers,
    second: Integers,
    log_odds: Floats,
    *,
    unseen: float = -4.0,
    allowed: Allowed | None = None,
) -> Integers:
    """Join parts to groups so that the log-odds of all pairs within groups add up to the most.

    Greedy agglomeration: of all pairs of groups, that with the highest mean log-odds between its
    members is joined, as long as it is positive (average linkage; correlation clustering of
    Bansal, Blum & Chawla 2004, Machine Learning 56, 89). A weak link thus joins no crowds: all
    other pairs speak against it.

    Parameters
    ----------
    number : int
        Parts.
    first, second : ndarray of int, shape (pairs,)
    log_odds : ndarray, shape (pairs,)
    unseen : float
        Log-odds of pairs that are not listed, being farther apart than was looked.
    allowed : callable, optional
        Takes the members of a would-be group and says whether it may be.

    Returns
    -------
    ndarray of int, shape (number,)
        Group of each part: its first member.
    """
    import heapq

    members = {k: [k] for k in range(number)}
    # what links two groups: the sum over listed pairs, and how many they are
    links: dict[int, dict[int, tuple[float, int]]] = {k: {} for k in range(number)}
    heap: list[tuple[float, int, int]] = []
    for i, j, value in zip(first.tolist(), second.tolist(), log_odds.tolist(), strict=True):
        links[i][j] = links[j][i] = (value, 1)
        if value > 0.0:
            heap.append((-value, min(i, j), max(i, j)))
    heapq.heapify(heap)

    def mean(a: int, b: int) -> float:
        total, count = links[a][b]
        pairs = len(members[a]) * len(members[b])
        return (total + unseen * (pairs - count)) / pairs

    while heap:
        value, a, b = heapq.heappop(heap)
        if a not in members or b not in members or b not in links[a] or -value != mean(a, b):
            continue  # one of the two has grown since
        joined = sorted(members[a] + members[b])
        if allowed is not None and not allowed(np.array(joined)):
            continue
        del links[a][b], links[b][a]
        members[a] = joined
        for c, (total, count) in links.pop(b).items():
            del links[c][b]
            mine = links[a].get(c, (0.0, 0))
            links[a][c] = links[c][a] = (mine[0] + total, mine[1] + count)
        del members[b]
        for c in links[a]:
            if mean(a, c) > 0.0:
                heapq.heappush(heap, (-mean(a, c), min(a, c), max(a, c)))
    result = np.arange(number)
    for own in members.values():
        result[own] = own[0]
    return result
