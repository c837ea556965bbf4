"""Fitting small perceptrons on measures of detections."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cyclades.stages.networks.shapes import scaled_inputs

HIDDEN = 24
"""Hidden units."""
_STEPS = 400
_RATE = 0.01
_BATCH = 16384
_DIGITS = 4

Loss = Callable[[Tensor, Tensor], Tensor]


def fit_perceptron(
    inputs: NDArray[np.float64], outputs: int, loss: Loss, decay: float, seed: int = 0
) -> dict[str, Any]:
    """Fit a `cyclades.stages.networks.specification.Perceptron` by gradient descent.

    Parameters
    ----------
    inputs : ndarray, shape (n, k)
    outputs : int
        How many.
    loss : callable
        Outputs, shape (m, outputs), of some rows, and which rows these are, to the mean loss.
    decay : float
        Of the sum of squared weights, biases left out.
    seed : int
        Of the first weights, and of the rows of each step.

    Returns
    -------
    dict
        Its fields.
    """
    centre, width = inputs.mean(0), np.maximum(inputs.std(0), 1e-3)
    x = torch.from_numpy(scaled_inputs(inputs, centre, width)).float()
    generator = torch.Generator().manual_seed(seed)
    hidden = nn.Parameter(
        torch.randn(HIDDEN, x.shape[1] + 1, generator=generator) / x.shape[1] ** 0.5
    )
    output = nn.Parameter(torch.zeros(outputs, HIDDEN + 1))
    optimiser = torch.optim.Adam([hidden, output], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    every = torch.arange(len(x))
    for _ in range(_STEPS):
        few = len(x) <= _BATCH
        rows = every if few else torch.randint(0, len(x), (_BATCH,), generator=generator)
        unit = torch.tanh(x[rows] @ hidden[:, :-1].T + hidden[:, -1])
        penalty = decay * ((hidden[:, :-1] ** 2).sum() + (output[:, :-1] ** 2).sum())
        optimiser.zero_grad()
        (loss(unit @ output[:, :-1].T + output[:, -1], rows) + penalty).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()

    def rounded(values: Tensor) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(row) for row in np.round(values.detach().double().numpy(), _DIGITS).tolist()
        )

    return {
        "centre": tuple(np.round(centre, _DIGITS).tolist()),
        "width": tuple(np.round(width, _DIGITS).tolist()),
        "hidden": rounded(hidden),
        "output": rounded(output),
    }
