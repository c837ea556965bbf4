"""A network that tells classes of pictures apart, trained with its backbone."""

from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from cyclades.pipeline.studies.tasks.features import BATCH
from cyclades.pipeline.studies.tasks.morphology_options import NetworkTraining, TrainedMode
from cyclades.stages.networks.adaptation import parameter_groups, prepare
from cyclades.stages.networks.features import (
    picture_norm,
    pooled,
    resampled,
    start_backbone,
    turned,
)
from cyclades.stages.networks.pictures import CLASSES, Bytes, PictureOptions, prepare_pictures
from cyclades.stages.networks.specification import BackboneSpec

POOLING = ("token", "mean", "max")
_LEAST = 1e-2
"""Variance below which a feature tells nothing: the largest of a clipped layer hardly varies."""
_WARM = 10
"""One of so many steps is of the warm-up."""
_TEST_STREAM = 0xC1A5


class Classifier(nn.Module):
    """The trunk of a backbone, pooled, each feature in units of its deviation, and a linear layer.

    Parameters
    ----------
    spec : BackboneSpec
    mode : str
        See `cyclades.stages.networks.adaptation.prepare`.
    rank : int
        Of adapters.
    size : int
        Side of the pictures.
    seed : int
        Of first numbers.
    """

    def __init__(
        self, spec: BackboneSpec, mode: TrainedMode, rank: int, size: int, seed: int
    ) -> None:
        super().__init__()
        self.backbone = start_backbone(spec, seed)
        self.backbone.neck = nn.Identity()  # only detectors need it
        prepare(self.backbone, mode, rank=rank)
        with torch.no_grad():
            width = pooled(self.backbone.eval(), torch.zeros(1, 3, size, size), POOLING).shape[1]
        # features of different layers have scales of their own, which one norm for all would keep
        self.norm = nn.BatchNorm1d(width, eps=_LEAST, affine=False)
        self.last = nn.Linear(width, len(CLASSES))
        nn.init.zeros_(self.last.weight)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores of the classes, shape (b, classes)."""
        found: Tensor = self.last(self.norm(pooled(self.backbone, images, POOLING)))
        return found


class _Draws(Dataset[tuple[Tensor, Tensor]]):
    """Batches by number, of all classes alike, turned, shifted and scaled at random."""

    def __init__(
        self,
        images: Tensor,
        classes: NDArray[np.int64],
        options: NetworkTraining,
        size: int,
        seed: int,
    ) -> None:
        self.images, self.classes, self.options = images, classes, options
        self.size, self.seed = size, seed
        self.present = [np.flatnonzero(classes == number) for number in np.unique(classes)]

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng((self.seed, _TEST_STREAM, step))
        kinds = generator.integers(0, len(self.present), self.options.batch)
        rows = np.array([generator.choice(self.present[kind]) for kind in kinds])
        return self._changed(self.images[rows], generator), torch.from_numpy(self.classes[rows])

    def _changed(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """Rotate, mirror, scale and shift each picture."""
        number, side = len(images), images.shape[-1]
        angle = generator.uniform(0.0, 2.0 * np.pi, number)
        mirror = generator.choice([-1.0, 1.0], number)
        factor = self.options.scale ** generator.uniform(-1.0, 1.0, number)
        shift = generator.uniform(-1.0, 1.0, (number, 2)) * 2.0 * self.options.shift / side
        matrix = np.empty((number, 2, 3), np.float32)
        matrix[:, 0, 0], matrix[:, 0, 1] = mirror * np.cos(angle), -np.sin(angle)
        matrix[:, 1, 0], matrix[:, 1, 1] = mirror * np.sin(angle), np.cos(angle)
        matrix[:, :, :2] /= factor[:, None, None]
        matrix[:, :, 2] = shift
        shape = [number, images.shape[1], self.size, self.size]
        grid = functional.affine_grid(torch.from_numpy(matrix), shape, align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )


class _Learning(lightning.LightningModule):
    def __init__(self, network: Classifier, options: NetworkTraining, mode: TrainedMode) -> None:
        super().__init__()
        self.network, self.options, self.mode = network, options, mode

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, classes = batch
        return functional.cross_entropy(
            self.network(images), classes, label_smoothing=self.options.smoothing
        )

    def configure_optimizers(self) -> Any:
        o = self.options
        groups = parameter_groups(
            self.network,
            learning_rate=getattr(o.learning_rate, self.mode),
            layer_decay=o.layer_decay if self.mode == "fine_tuned" else 1.0,
            weight_decay=o.weight_decay,
        )
        for group in groups:
            # what is new has everything to learn, and few steps to do so
            group["lr"] *= o.new_factor if group["name"].startswith("new") else 1.0
        optimiser = torch.optim.AdamW(groups)
        warm = max(1, o.steps // _WARM)

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / warm)
            return float(rising * 0.5 * (1.0 + np.cos(np.pi * min(step / o.steps, 1.0))) + 1e-4)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_classifier(
    spec: BackboneSpec,
    mode: TrainedMode,
    images: Bytes,
    classes: NDArray[np.int64],
    pictures: PictureOptions,
    options: NetworkTraining,
    *,
    seed: int,
    device: str,
) -> Classifier:
    """Train a classifier.

    Parameters
    ----------
    spec : BackboneSpec
        With weights, or without for one of random numbers.
    mode : str
        ``adapters``, ``fine_tuned`` or ``scratch``.
    images : ndarray of uint8, shape (n, ny, nx)
    classes : ndarray of int, shape (n,)
    pictures : PictureOptions
    options : NetworkTraining
    seed : int
        Of first numbers and draws.
    device : str
        ``cpu`` or ``cuda``.
    """
    network = Classifier(spec, mode, options.rank, pictures.size, seed)
    cut = torch.from_numpy(prepare_pictures(images, pictures, *picture_norm(spec)))
    draws = _Draws(cut, classes, options, pictures.size, seed)
    gpu = device.startswith("cuda")
    half = _half(pictures, device)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if half else "32-true",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(_Learning(network, options, mode), DataLoader(draws, batch_size=None))
    return network.eval()


def _half(pictures: PictureOptions, device: str) -> bool:
    """Whether trained networks run in 16 bits.

    On a CPU they don't: there it saves no time, and an EfficientNet learned what it knew in
    training no more when it was judged (0.55 instead of 0.72 after 200 steps).
    """
    return pictures.precision == "bfloat16" and device.startswith("cuda")


@torch.inference_mode()
def predict(
    network: Classifier,
    spec: BackboneSpec,
    images: Bytes,
    pictures: PictureOptions,
    orientations: int,
    device: str,
) -> NDArray[np.int64]:
    """Return the classes of pictures, from the mean log-probability over orientations."""
    network.to(device)
    found = []
    half = _half(pictures, device)
    kind = torch.device(device).type
    for first in range(0, len(images), BATCH):
        cut = prepare_pictures(images[first : first + BATCH], pictures, *picture_norm(spec))
        batch = resampled(torch.from_numpy(cut).to(device), pictures.size)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            several = [network(turned(batch, number)) for number in range(orientations)]
        logs = torch.stack([one.float().log_softmax(1) for one in several]).mean(0)
        found.append(logs.argmax(1).cpu().numpy())
    return np.concatenate(found).astype(np.int64)
