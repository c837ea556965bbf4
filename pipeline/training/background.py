"""The head of the background ``dense``, learned from simulations.

``python -m cyclades.pipeline.training.background FOLDER`` simulates fields of many kinds, estimates
their level and rms as the head's first maps, has the backbone look at them once, and fits the head
to what the first maps are wrong by: the negative log-likelihood of Gaussian errors whose size is
predicted too. It writes ``dense.safetensors`` and its card.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cyclades.pipeline.simulation.field import Simulation
from cyclades.pipeline.training.background_skies import SIZE, random_field
from cyclades.stages.background.cells import STATISTICS, CellGrid
from cyclades.stages.background.dense import DenseBackground
from cyclades.stages.background.dense_maps import describe
from cyclades.stages.core.context import Context
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.networks.dense_background import (
    COMMAND,
    LEAST_WEIGHT,
    BackgroundSpec,
    gaussian_kernel,
    shapes,
)
from cyclades.stages.networks.graphs import CELL
from cyclades.stages.networks.pretrained import write_tensors
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_detector, read_metadata
from cyclades.stages.networks.weights_files import tensors_digest

TRUNK = "yolo"
ESTIMATOR = "grid"
WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
LARGEST = (1.0, 0.25)
SEEDS = (40_000, 40_300)
HELD = 20
"""Fields at the end of the seeds that are not learned from."""
STEPS, BATCH, RATE = 1200, 4, 3e-3
DECAY = 1e-3
"""On the weights of matrices (AdamW)."""
SMALLEST_ERROR = 0.01

CARD = """---
license: {licence}
library_name: cyclades
tags: [astronomy, radio-astronomy, background]
---
# {name}

A dense head on the backbone of {trunk} that corrects the level and the rms of the background
`{estimator}`: {numbers:,} numbers, for `cyclades run IMAGE --set background=dense --set
background.weights={name}.safetensors`.

- Input: cells of {cell} pixels of the network's image, each with the features of the backbone and
  {statistics} statistics of its pixels in units of the first maps; means of them over Gaussians of
  {widths} cells.
- Output: a shift of the level of at most {level} rms, and a factor on the rms of at most
  {factor:.1f} either way.
- Trained for {steps} steps of {batch} fields on {fields} simulated fields of {size} x {size}
  pixels (seeds {first} to {last}) of many kinds: sparse and crowded, rich in wide sources, with
  gradients of level and rms, blank parts and edges, stripes, and through the VLA, ASKAP, ATCA and
  MeerKAT with bowls, ripples and gain errors. Loss: negative log-likelihood of the true level and
  of the logarithm of the true rms, with Gaussian errors that are predicted too.
- In {held} further fields, cell by cell, in units of the first rms: {errors}.
- Made by `{command} FOLDER`.
- Licence of the weights: {licence}, as those of {trunk}, whose features they are of.
"""

Floats = NDArray[np.float32]


class Cells(NamedTuple):
    """What is known of the cells of a field, and what is to be learned.

    Parameters
    ----------
    features : ndarray of float16, shape (k, rows, columns)
        Of the backbone.
    statistics : ndarray, shape (s, rows, columns)
    share : ndarray, shape (rows, columns)
        See `cyclades.stages.background.cells.statistics`.
    wanted : ndarray, shape (2, rows, columns)
        Mean over the cell of true minus first level, in units of the first rms, and of the
        logarithm of true over first rms; NaN in blank cells.
    """

    features: NDArray[np.float16]
    statistics: Floats
    share: Floats
    wanted: Floats


def cells_of(made: Simulation, stage: DenseBackground | None = None) -> Cells:
    """Look at a simulated field."""
    stage = DenseBackground() if stage is None else stage
    image = made.image
    with Context(workers=1) as context:
        estimator: Any = create_stage("background", ESTIMATOR)
        first = estimator.estimate(image, context=context)
        seen = stage.look(image, TRUNK, CELL, lambda features: features, context)
    described, share = describe(image, first, seen.grid)
    wanted = wanted_corrections(made, first, seen.grid)
    return Cells(seen.features.astype(np.float16), described, share, wanted)


def wanted_corrections(made: Simulation, first: Background, grid: CellGrid) -> Floats:
    """See `Cells.wanted`."""
    known = np.isfinite(made.image.data) & np.isfinite(first.rms) & np.isfinite(made.rms)
    none = np.zeros(known.shape, bool)
    wanted = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for plane in (
            (made.level - first.level) / first.rms,
            np.log(made.rms / first.rms),
        ):
            plane = np.ascontiguousarray(np.where(known, plane, 0.0), np.float32)
            number, _, total = grid.mesh.sums(plane, known, none)
            wanted.append(np.where(number > 0, total / number, np.nan))
    return np.asarray(wanted, np.float32)


class TrainedHead(nn.Module):
    """The head in torch; see `cyclades.stages.networks.dense_background.BackgroundHead`."""

    def __init__(self, features: int, statistics: int, seed: int, **sizes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in shapes(features, statistics, len(WIDTHS), **sizes).items():
            value = torch.zeros(shape)
            if name in ("project", "gate", "first", "second"):
                value = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
            if name.endswith("_scale"):
                value = torch.ones(shape)
            fixed = name.endswith(("_scale", "_centre"))
            self.register_parameter(name, nn.Parameter(value, requires_grad=not fixed))
        # without learning the first maps stay; errors start at a tenth
        self.get_parameter("last_bias").data[[1, 3]] = float(np.log(0.1))

    def standardise(self, fields: Sequence[Cells]) -> None:
        """Take the centres and scales of features and statistics from fields."""
        for name in ("feature", "statistic"):
            index = 0 if name == "feature" else 1
            values = np.concatenate(
                [f[index][:, f.share > 0.0].astype(np.float64) for f in fields], axis=1
            )
            getattr(self, f"{name}_centre").data = torch.tensor(values.mean(1)).float()
            scale = np.maximum(values.std(1), 1e-3)
            getattr(self, f"{name}_scale").data = torch.tensor(scale).float()

    def forward(self, features: Tensor, statistics: Tensor, share: Tensor) -> Tensor:
        """Outputs at every cell, shape (b, 4, rows, columns), of planes with a batch in front."""
        parameter = dict(self.named_parameters())

        def dense(values: Tensor, name: str, *, bias: bool = True) -> Tensor:
            made = torch.einsum("ok,bkyx->boyx", parameter[name], values)
            return made + parameter[f"{name}_bias"][:, None, None] if bias else made

        def scaled(values: Tensor, name: str) -> Tensor:
            centre, scale = parameter[f"{name}_centre"], parameter[f"{name}_scale"]
            return (values - centre[:, None, None]) / scale[:, None, None]

        few = torch.tanh(dense(scaled(features, "feature"), "project"))
        known = (share > 0.0)[:, None]
        seen = torch.cat([torch.where(known, scaled(statistics, "statistic"), 0.0), few], 1)
        gates = share[:, None] * torch.sigmoid(dense(seen, "gate"))
        parts = [seen]
        for width in WIDTHS:
            rows, columns = (_toeplitz(width, n) for n in share.shape[-2:])
            for gate in gates.unbind(1):
                weighted = torch.cat([seen * gate[:, None], gate[:, None]], 1)
                sums = rows @ weighted @ columns
                weight = sums[:, -1:] + LEAST_WEIGHT
                parts += [sums[:, :-1] / weight, torch.log(weight)]
        given = torch.cat(parts, 1)
        made = functional.silu(dense(given, "first"))
        made = functional.silu(dense(made, "second"))
        return dense(made, "last") + dense(given, "direct", bias=False)


def _toeplitz(width: float, number: int) -> Tensor:
    """The matrix of a Gaussian sum along an axis."""
    kernel = gaussian_kernel(width)
    reach = len(kernel) // 2
    offsets = np.arange(number)[:, None] - np.arange(number) + reach
    inside = (offsets >= 0) & (offsets < len(kernel))
    return torch.from_numpy(np.where(inside, kernel[np.clip(offsets, 0, len(kernel) - 1)], 0.0))


def batch_of(fields: Sequence[Cells]) -> tuple[Tensor, ...]:
    """Stack fields of unequal sizes: what is added is blank."""
    size = np.max([f.share.shape for f in fields], axis=0)

    def stacked(index: int, fill: float) -> Tensor:
        planes = []
        for field in fields:
            plane = np.asarray(field[index], np.float32)
            more = [(0, 0)] * (plane.ndim - 2)
            more += [(0, int(n - m)) for n, m in zip(size, plane.shape[-2:], strict=True)]
            planes.append(np.pad(plane, more, constant_values=fill))
        return torch.from_numpy(np.stack(planes))

    return stacked(0, 0.0), stacked(1, 0.0), stacked(2, 0.0), stacked(3, np.nan)


def likelihood(made: Tensor, wanted: Tensor) -> Tensor:
    """Negative log-likelihood of Gaussian errors, mean over known cells of both maps."""
    known = torch.isfinite(wanted)
    value, log_error = made[:, ::2], made[:, 1::2].clamp(np.log(SMALLEST_ERROR), 2.0)
    limits = torch.tensor(LARGEST)[:, None, None]
    target = torch.where(known, wanted.clamp(-limits, limits), 0.0)
    loss = 0.5 * ((target - value) * torch.exp(-log_error)) ** 2 + log_error
    return loss[known].mean()


def fit_head(
    fields: Sequence[Cells],
    held: Sequence[Cells] = (),
    *,
    steps: int = STEPS,
    seed: int = 0,
    **sizes: int,
) -> TrainedHead:
    """Fit a head to fields.

    Parameters
    ----------
    fields, held : sequence of Cells
        To learn from, and to print the errors of.
    steps : int
    seed : int
    **sizes : int
        See `cyclades.stages.networks.dense_background.shapes`.
    """
    head = TrainedHead(len(fields[0].features), len(fields[0].statistics), seed, **sizes)
    head.standardise(fields)
    matrices = [p for p in head.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in head.parameters() if p.requires_grad and p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    batches, losses = _batches(len(fields), np.random.default_rng(seed)), []
    for step in range(steps):
        *given, wanted = batch_of([fields[i] for i in next(batches)])
        loss = likelihood(head(*given), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 250 == 0:
            text = f"step {step + 1}: loss {np.mean(losses[-250:]):.4f}"
            print(f"{text}; {errors(head, held)}" if held else text, flush=True)
    return head.eval()


def _batches(number: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Numbers of fields, without end; all before any comes again."""
    size = min(BATCH, number)
    while True:
        order = generator.permutation(number)
        for first in range(0, number - size + 1, size):
            yield order[first : first + size]


@torch.no_grad()
def errors(head: TrainedHead, fields: Sequence[Cells]) -> str:
    """Rms errors in the cells of fields, before and after, as a sentence."""
    squares: list[NDArray[np.float64]] = []
    for field in fields:
        *given, wanted = batch_of([field])
        left = (wanted - head(*given)[:, ::2])[0].numpy()
        both = np.stack([wanted[0].numpy(), left])
        squares.append(np.nanmean(both.astype(float) ** 2, axis=(2, 3)))
    before, after = np.sqrt(np.median(squares, axis=0))
    return (
        f"median error of the level from {before[0]:.3f} to {after[0]:.3f}, of the rms from "
        f"{before[1]:.3f} to {after[1]:.3f}"
    )


def specification(name: str, training: dict[str, Any]) -> BackgroundSpec:
    """Return what a file says of the head of this training."""
    path = find_detector(TRUNK)
    return BackgroundSpec(
        name=name,
        trunk=TRUNK,
        trunk_sha256=tensors_digest(path),
        estimator=ESTIMATOR,
        cell=CELL,
        statistics=STATISTICS,
        widths=WIDTHS,
        largest=LARGEST,
        licence=NetworkSpec.from_metadata(read_metadata(path), path).licence,
        training=training,
    )


def save_head(head: TrainedHead, spec: BackgroundSpec, path: Path) -> None:
    """Write a head in 16-bit floats."""
    write_tensors(head.state_dict(), path, spec.metadata(), half=True)


def card(spec: BackgroundSpec, numbers: int) -> str:
    """Text of the model card."""
    told = spec.training
    return CARD.format(
        **spec.model_dump(include={"licence", "name", "trunk", "estimator", "cell"}),
        numbers=numbers,
        statistics=len(spec.statistics),
        widths=", ".join(f"{width:g}" for width in spec.widths),
        level=f"{spec.largest[0]:g}",
        factor=float(np.exp(spec.largest[1])),
        steps=told["steps"],
        batch=told["batch"],
        fields=told["seeds"][1] - told["seeds"][0] - told["held_out"],
        size=SIZE,
        first=told["seeds"][0],
        last=told["seeds"][1] - told["held_out"] - 1,
        held=told["held_out"],
        errors=told["errors"],
        command=COMMAND,
    )


def main() -> None:
    """Simulate, look, fit, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--keep", type=Path, help="folder in which what was seen is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, fields = time.process_time(), []
    for seed in range(*arguments.seeds):
        fields.append(_kept(seed, arguments.keep))
        if (seed + 1) % 20 == 0:
            print(f"{seed + 1}: {time.process_time() - start:.0f} s", flush=True)
    held = min(HELD, len(fields) // 4)
    head = fit_head(fields[: len(fields) - held], fields[len(fields) - held :],
                    steps=arguments.steps)  # fmt: skip
    spent = time.process_time() - start
    training = {
        "seeds": list(arguments.seeds),
        "held_out": held,
        "steps": arguments.steps,
        "batch": BATCH,
        "errors": errors(head, fields[len(fields) - held :]),
    }
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "dense.safetensors"
    spec, numbers = specification("dense", training), sum(p.numel() for p in head.parameters())
    save_head(head, spec, path)
    path.with_suffix(".md").write_text(card(spec, numbers), "utf-8")
    print(f"{path}: {numbers} numbers, {spent:.0f} s")


def _kept(seed: int, folder: Path | None) -> Cells:
    """The cells of a seed's field, from a folder where they are there."""
    path = None if folder is None else folder / f"{seed}.npz"
    if path is not None and path.is_file():
        with np.load(path) as held:
            return Cells(*(held[name] for name in Cells._fields))
    cells = cells_of(random_field(seed))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **cells._asdict())
    return cells


if __name__ == "__main__":
    main()
