"""A classifier on all features of a frozen backbone that learns where in a picture to look.

Means over the whole picture, as logistic regression takes them, weigh empty sky like a hot spot.
Here each level has a few learned queries: the weights of a picture's places are the softmax of
their products with a query. The weighted means go to a linear layer, beside the largest values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cyclades.pipeline.studies.tasks.morphology_options import AttentionOptions

_QUERY_RATE = 10.0
"""Queries learn faster than the last layer by this factor."""
_STREAM = 0xA77E
_TESTED = 64
"""Pictures at a time."""

Levels = Sequence[tuple[int, int]]


class AttentionHead(nn.Module):
    """Learned weighted means and maxima over places, and a linear layer.

    Parameters
    ----------
    levels : sequence of (int, int)
        Width and number of places of each level.
    classes : int
    queries : int
        Weighted means a level.
    dropout : float
        Share of the features left out in training.
    """

    def __init__(self, levels: Levels, classes: int, queries: int, dropout: float) -> None:
        super().__init__()
        self.levels = tuple(levels)
        # nearly nothing at first: plain means
        self.queries = nn.ParameterList(
            [nn.Parameter(0.02 * torch.randn(queries, width)) for width, _ in levels]
        )
        width = sum((queries + 1) * width for width, _ in levels)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(width, classes)
        nn.init.zeros_(self.last.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return raw scores of the classes.

        Parameters
        ----------
        features : Tensor, shape (b, k)
            Levels one after the other, each of its width times its places.

        Returns
        -------
        Tensor, shape (b, classes)
        """
        parts = []
        split = torch.split(features, [width * places for width, places in self.levels], 1)
        for flat, (width, places), query in zip(split, self.levels, self.queries, strict=True):
            level = flat.view(-1, width, places)
            at = functional.layer_norm(level.transpose(1, 2), (width,))
            weights = (at @ query.T).softmax(1)
            parts += [(level @ weights).flatten(1), level.amax(2)]
        scores: Tensor = self.last(self.drop(self.norm(torch.cat(parts, 1))))
        return scores


def attend(
    values: NDArray[np.float16],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    tested: NDArray[np.int64],
    options: AttentionOptions,
    levels: Levels,
    seed: int,
) -> NDArray[np.float64]:
    """Train an attention head and return what it says of further pictures.

    Parameters
    ----------
    values : ndarray, shape (n, orientations, k), float16
        Each step learns from one orientation of a picture, drawn anew; log-probabilities of those
        of a tested one are averaged.
    classes : ndarray of int, shape (n,)
    learned, tested : ndarray of int
        Numbers of pictures.
    options : AttentionOptions
    levels : sequence of (int, int)
        See `AttentionHead`.
    seed : int
        Of first numbers and draws.

    Returns
    -------
    ndarray, shape (len(tested), classes)
        Log-probabilities of the classes that there are to learn from, ascending.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng((seed, _STREAM))
    kinds = np.unique(classes[learned])
    rows = [learned[classes[learned] == kind] for kind in kinds]
    views = values.shape[1]
    head = AttentionHead(levels, len(kinds), options.queries, options.dropout)
    rate = options.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": list(head.queries), "lr": _QUERY_RATE * rate, "weight_decay": 0.0},
        {"params": list(head.last.parameters()), "lr": rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    for _ in range(options.steps):
        drawn = generator.integers(0, len(kinds), options.batch)
        chosen = np.array([generator.choice(rows[kind]) for kind in drawn])
        seen = values[chosen, generator.integers(0, views, options.batch)]
        scores = head(torch.from_numpy(seen).float())
        loss = functional.cross_entropy(
            scores, torch.from_numpy(drawn), label_smoothing=options.smoothing
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    head.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(tested), _TESTED):
            part = torch.from_numpy(values[tested[first : first + _TESTED]])
            logs = [head(part[:, view].float()).log_softmax(1) for view in range(views)]
            found.append(torch.stack(logs).mean(0).numpy())
    return np.concatenate(found).astype(float)
