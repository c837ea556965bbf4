"""How a region head learns: likelihood of the errors, and a penalty on their mean against truth.

A network that minimises squared errors, or maximises a likelihood, gives posterior means: at low
S/N they regress to what is common in the training, look precise, and distort counts. Here the rows
of a source under several realisations of the noise are in one batch, and the squared mean of their
errors is penalised beside the likelihood (bias-constrained estimators: Diskin, Eldar & Wiesel 2021,
arXiv:2110.12403). The product of the mean errors of two halves of the realisations estimates it
without the variance.
"""

from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cyclades.pipeline.training.fitting import loader, require_finite, warm_cosine
from cyclades.pipeline.training.measured_sources import Examples
from cyclades.pipeline.training.options import RunOptions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.heads.table import AGPL
from cyclades.stages.networks.region_answers import oriented, turned_numbers
from cyclades.stages.networks.region_head import (
    RegionNetwork,
    triangular,
)
from cyclades.stages.networks.region_spec import OUTPUTS
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_detector, read_metadata

OUTLIER = 4.0
"""Whitened errors beyond this many sigmas count linearly: rows whose truth is another source."""
LARGEST_BIAS = 6.0
AVERAGING = 0.998
"""Of the weights along the steps, a step."""


class MeasurementOptions(RunOptions):
    """What ``python -m cyclades.pipeline.training.measurement`` reads."""

    name: str = parameter("measurement", "Name of the files of weights and of the card.")
    batch: int = parameter(512, "Rows a step.", ge=8)
    steps: int = parameter(2000, "Steps of the optimiser.", ge=1)
    steps_a_checkpoint: int = parameter(200, "Steps between checkpoints.", ge=1)
    learning_rate: float = parameter(2e-3, "Largest learning rate (AdamW).", gt=0.0)
    weight_decay: float = parameter(1e-4, "Of weight matrices and kernels.", ge=0.0)
    gradient_limit: float = parameter(5.0, "Norm to which gradients are clipped.", gt=0.0)
    fields: int = parameter(350, "Simulated fields of the training.", ge=1)
    first_field: int = parameter(1000, "Seed of the first of them.", ge=0)
    held_out: int = parameter(50, "Further fields, of the calibration.", ge=1)
    first_held_out: int = parameter(900_000, "Seed of the first of them.", ge=0)
    side: int = parameter(448, "Of a field.", unit="pixels", ge=128)
    realisations: int = parameter(4, "Of the noise, for each field.", ge=2)
    grouped: float = parameter(
        0.5, "Share of a batch that are all realisations of some sources.", ge=0.0, le=1.0
    )
    bias: float = parameter(3.0, "Weight of the squared mean error beside the likelihood.", ge=0.0)
    trunk: str | None = parameter(
        None,
        "A detector of whose backbone the heads see features beside the windows; left out: none.",
    )
    start: str | None = parameter(
        None,
        "A head without a trunk that all heads start from, with trunks that say nothing yet; left "
        "out: random numbers.",
    )
    width: int = parameter(160, "Of the hidden layers.", ge=8)
    members: int = parameter(1, "Heads, which learn from the same rows in other orders.", ge=1)

    @model_validator(mode="after")
    def _licence_of_the_trunk(self) -> "MeasurementOptions":
        if self.trunk is not None:
            path = find_detector(self.trunk)
            licence = NetworkSpec.from_metadata(read_metadata(path), path).licence
            if AGPL in licence and AGPL not in self.licence:
                raise ValueError(
                    f"heads that hang on features of {self.trunk} are under its licence; give "
                    f"licence: {licence}"
                )
        return self


class ExampleBatches(IterableDataset[Any]):
    """Batches of rows: all realisations of some sources first, then any rows.

    The rows of a step follow from its number alone.

    Parameters
    ----------
    examples : Examples
    options : MeasurementOptions
    steps : range
    member : int
        Numbers the head that sees them.
    """

    def __init__(
        self, examples: Examples, options: MeasurementOptions, steps: range, member: int
    ) -> None:
        self.examples, self.options, self.steps, self.member = examples, options, steps, member
        order = np.argsort(examples.group, kind="stable")
        grouped = order[examples.group[order] >= 0]
        self._groups = grouped.reshape(-1, options.realisations)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        o = self.options
        groups = int(o.grouped * o.batch) // o.realisations if len(self._groups) else 0
        for step in self.steps:
            generator = np.random.default_rng([o.seed, self.member, step])
            mine = self._groups[generator.integers(0, max(len(self._groups), 1), groups)]
            others = generator.integers(0, len(self.examples), o.batch - mine.size)
            rows = np.concatenate([mine.ravel(), others])
            yield as_tensors(self.examples.take(rows), int(generator.integers(8)), mine.size)


def as_tensors(examples: Examples, orientation: int = 0, grouped: int = 0) -> dict[str, Tensor]:
    """Rows as tensors, in one of the eight orientations of a square.

    Parameters
    ----------
    examples : Examples
    orientation : int
        Bits: mirrored along u, along v, and the axes swapped.
    grouped : int
        Rows at the beginning that are whole groups.
    """
    fine, coarse, region = (
        torch.from_numpy(oriented(part, orientation)).float()
        for part in (examples.fine, examples.coarse, examples.region)
    )
    truth = torch.from_numpy(examples.truth).clone()
    return {
        "region": region,
        "fine": fine,
        "coarse": coarse,
        "numbers": torch.from_numpy(turned_numbers(examples.numbers, orientation)),
        "scale": torch.from_numpy(examples.scale),
        "truth": turned(truth, orientation),
        "grouped": torch.tensor(grouped),
    }


def turned(values: Tensor, orientation: int) -> Tensor:
    """Measurements (peak, u, v, uu, uv, vv, flux) in one of eight orientations."""
    values = values.clone()
    if orientation & 1:
        values[:, [1, 4]] *= -1.0
    if orientation & 2:
        values[:, [2, 4]] *= -1.0
    if orientation & 4:
        values = values[:, [0, 2, 1, 5, 4, 3, 6]]
    return values


def measurement_losses(
    mean: Tensor, factor: Tensor, units: Tensor, batch: dict[str, Tensor], realisations: int
) -> dict[str, Tensor]:
    """Terms of the loss: robust squares, likelihood and squared mean error.

    Parameters
    ----------
    mean, factor, units : Tensor
        Of `cyclades.stages.networks.region_head.RegionHead`.
    batch : dict
        Of `as_tensors`.
    realisations : int
        Rows of a group.
    """
    scale, truth = batch["scale"], batch["truth"].clone()
    truth[:, [0, 6]] /= scale[:, None]
    error = (mean - truth) / units
    triangle = triangular(factor)
    white = torch.einsum("nij,nj->ni", triangle, error)
    size = white.abs()
    square = torch.where(size < OUTLIER, white**2, OUTLIER * (2.0 * size - OUTLIER))
    logarithms = torch.diagonal(triangle, dim1=1, dim2=2).log().sum(1)
    likelihood = (0.5 * square.sum(1) - logarithms).mean()
    distance = torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=1.0)
    grouped = int(batch["grouped"])
    bias = mean.new_zeros(())
    if grouped:
        still = torch.einsum("nij,nj->ni", triangle[:grouped].detach(), error[:grouped])
        still = still.clamp(-LARGEST_BIAS, LARGEST_BIAS).reshape(-1, realisations, OUTPUTS)
        half = realisations // 2
        bias = (still[:, :half].mean(1) * still[:, half:].mean(1)).sum(1).mean()
    return {"distance": distance * OUTPUTS, "likelihood": likelihood, "bias": bias}


class MeasurementTraining(lightning.LightningModule):
    """A region network while one of its heads learns.

    Parameters
    ----------
    options : MeasurementOptions
    network : RegionNetwork
    member : int
        Which head.
    examples : Examples
    """

    def __init__(
        self, options: MeasurementOptions, network: RegionNetwork, member: int, examples: Examples
    ) -> None:
        super().__init__()
        self.options, self.member, self.examples = options, member, examples
        head: Any = network.heads[member]
        head.mixed = options.precision != "float32"
        self.head: Any = head
        self.average = torch.optim.swa_utils.AveragedModel(
            self.head,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
                AVERAGING
            ),
            use_buffers=True,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Rows of the present stretch of steps."""
        o, first = self.options, self.trainer.current_epoch * self.options.steps_a_checkpoint
        steps = range(first, first + o.steps_a_checkpoint)
        return loader(ExampleBatches(self.examples, o, steps, self.member), o)

    def configure_optimizers(self) -> Any:
        """AdamW with a rate that rises and falls as a cosine."""
        o = self.options
        matrices = [p for p in self.head.parameters() if p.ndim > 1]
        others = [p for p in self.head.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": o.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=o.learning_rate,
        )
        return warm_cosine(optimiser, o)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Loss of a batch: at first by distance, so that wrong values do not pass as uncertain."""
        share = self.global_step / self.options.steps
        started = self.options.start is not None
        if share > 0.3 or started:
            self.head.norm.eval()
        region = None if self.options.trunk is None else self.head.projected(batch["region"])
        mean, factor, units = self.head(batch["fine"], batch["coarse"], batch["numbers"], region)
        number = self.options.realisations
        terms = measurement_losses(mean, factor, units, batch, number)
        if share < 0.1 and not started:
            away = measurement_losses(mean.detach(), factor, units, batch, number)
            loss = terms["distance"] + away["likelihood"]
        else:
            loss = terms["likelihood"] + self.options.bias * terms["bias"]
        require_finite(loss, self.global_step)
        self.log_dict({f"loss_{name}": value for name, value in terms.items()})
        return loss

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Average the weights."""
        self.average.update_parameters(self.head)

    def take_average(self) -> None:
        """Put the averaged weights into the head."""
        self.head.load_state_dict(self.average.module.state_dict())
