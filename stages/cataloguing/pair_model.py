"""The probability that two parts are one source, and the groups that suit all pairs best."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from cyclades.stages.cataloguing.parts import FEATURES
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

FILE = "association.json"
Allowed = Callable[[Integers], bool]
MOST = 12.0
"""Largest log-odds of a pair either way: no simulation tells more."""


@dataclass(frozen=True, eq=False)
class PairModel:
    """A small perceptron: one hidden layer of hyperbolic tangents, numbers from simulations.

    Attributes
    ----------
    centre, scale : ndarray, shape (features,)
        What features are shifted and divided by.
    hidden : ndarray, shape (features, units)
    hidden_bias, output : ndarray, shape (units,)
    direct : ndarray, shape (features,)
        Weights of the features themselves, past the hidden layer.
    bias : float
    """

    centre: Floats
    scale: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    direct: Floats
    bias: float

    def log_odds(self, features: Floats) -> Floats:
        """Log-odds that pairs are one source; features of shape (pairs, features)."""
        given = (features - self.centre) / self.scale
        inner = np.tanh(given @ self.hidden + self.hidden_bias)
        return np.clip(inner @ self.output + given @ self.direct + self.bias, -MOST, MOST)

    def to_mapping(self) -> dict[str, Any]:
        """What a file holds, rounded to what matters."""
        numbers = {
            name: np.round(getattr(self, name), 5).tolist()
            for name in ("centre", "scale", "hidden", "hidden_bias", "output", "direct")
        }
        return {"features": list(FEATURES), **numbers, "bias": round(float(self.bias), 5)}

    @classmethod
    def from_mapping(cls, held: dict[str, Any]) -> "PairModel":
        """Make a model from what a file holds.

        Raises
        ------
        InputError
            Where it is a model of other features, or no model.
        """
        if held.get("features") != list(FEATURES):
            raise InputError(
                "The model of associations was made for other features; make it anew with "
                "python -m cyclades.pipeline.training.association."
            )
        names = ("centre", "scale", "hidden", "hidden_bias", "output", "direct")
        try:
            arrays = {name: np.array(held[name], float) for name in names}
            return cls(**arrays, bias=float(held["bias"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The model of associations is damaged: {error}.") from error


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
