"""The trainer: Lightning around a detector, resumable to the bit.

The tiles of a step follow from its number alone, and so do the draws that the losses make: see
`cyclades.pipeline.training.fitting`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cyclades.pipeline.training.evaluation import figures, judge
from cyclades.pipeline.training.fitting import (
    fit,
    loader,
    prepare_folder,
    require_finite,
    warm_cosine,
)
from cyclades.pipeline.training.held_out import detection, finish, held_out_data
from cyclades.pipeline.training.loading import TrainingData
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.networks.adaptation import parameter_groups, prepare
from cyclades.stages.networks.detector import Detector, load_detector, load_state, save_detector
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.pretrained import load_pretrained, load_trunk
from cyclades.stages.networks.specification import NetworkSpec, TrunkSpec
from cyclades.stages.networks.targets import Targets
from cyclades.stages.networks.weights import WEIGHTS, find_detector, read_metadata

logger = logging.getLogger("cyclades.training")

CONFIGURATION = "training.yaml"


class Training(lightning.LightningModule):
    """A detector while it learns.

    Parameters
    ----------
    options : TrainingOptions
    detector : Detector
        Prepared as the options ask.
    """

    def __init__(self, options: TrainingOptions, detector: Detector) -> None:
        super().__init__()
        self.options, self.detector = options, detector

    def train_dataloader(self) -> Any:
        """Tiles of the present stretch of steps."""
        o = self.options
        epoch, world = self.trainer.current_epoch, self.trainer.world_size
        data = TrainingData(
            build_source(o.data, o.size, o.network.classes),
            o.network.input,
            o.augmentation,
            classes=o.network.classes,
            batch=o.batch // world,
            with_masks=find_head(o.network.head.name).masks,
            first=epoch * o.steps_a_checkpoint,
            number=o.steps_a_checkpoint,
            rank=self.trainer.global_rank,
            world=world,
            seed=o.seed,
        )
        return loader(data, o)

    def training_step(self, batch: tuple[Tensor, list[Targets]], index: int) -> Tensor:
        """Sum of the loss terms of a batch."""
        # The losses draw anchors and regions at random; tied to the step, a resumed run draws
        # the same.
        torch.manual_seed(self.options.seed * 1_000_003 + self.global_step)
        images, targets = batch
        terms = self.detector.losses(images, targets)
        total = torch.stack(list(terms.values())).sum()
        require_finite(total, self.global_step)
        self.log("loss", total, prog_bar=True, batch_size=len(targets))
        self.log_dict(terms, batch_size=len(targets))
        return total

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Move images and labels."""
        images, targets = batch
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return images, [t.to(device) for t in targets]

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine fall to zero."""
        o = self.options
        groups = parameter_groups(
            self.detector,
            learning_rate=o.learning_rate,
            layer_decay=o.adaptation.layer_decay,
            weight_decay=o.weight_decay,
            backbone_factor=(
                o.adaptation.backbone_factor if o.adaptation.mode == "fine_tuned" else 1.0
            ),
        )
        optimiser = torch.optim.AdamW(groups, lr=o.learning_rate)
        return warm_cosine(optimiser, o)


class _Validation(Callback):
    """Curves on held-out tiles, at the end of some stretches of steps."""

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.samples: list[Any] | None = None

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        done = trainer.current_epoch + 1
        if done % self.options.checkpoints_a_validation or not trainer.is_global_zero:
            return
        if self.samples is None:
            count = self.options.validation.samples
            source = build_source(
                held_out_data(self.options, 1), self.options.size, self.options.network.classes
            )
            self.samples = [source.sample(i) for i in range(count)]
        detector = module.detector
        detector.eval()
        judged = judge(detection(detector), self.samples, detector.spec)
        detector.train()
        found = figures(judged, detector.spec)
        module.log_dict(
            {f"validation_{k}": v for k, v in found.items() if np.isfinite(v)}, rank_zero_only=True
        )
        logger.info(
            "step %d: AP50 %.3f, completeness at reliability .95 %.3f",
            trainer.global_step, found["ap50"], found["completeness_at_95"],
        )  # fmt: skip


def train(
    options: TrainingOptions,
    output: Path,
    *,
    restart: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a detector, or go on with a training that was interrupted.

    Parameters
    ----------
    options : TrainingOptions
    output : path
        Folder of the checkpoint, the logs, the weights and their card. A checkpoint found there
        is continued.
    restart : bool
        Begin anew, whatever is there.
    progress : bool
        Show a progress bar.
    callbacks : sequence of Callback
        Lightning's, called before the validation.

    Returns
    -------
    Path
        The file of weights.

    Raises
    ------
    ConfigurationError
        Where the folder holds a training with another configuration.
    InputError
        Where data or start weights cannot be read, or the loss is not finite.
    """
    from cyclades.pipeline.training.card import write_card, write_curves

    checkpoint = prepare_folder(options, output, restart, CONFIGURATION)
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    # the order that convolutions are fastest in, on CPUs (a quarter) as on GPUs
    detector = start_detector(options, fresh=checkpoint is None).to(
        memory_format=torch.channels_last
    )
    module = Training(options, detector)
    writes = fit(
        module,
        options,
        output,
        checkpoint=checkpoint,
        callbacks=[*callbacks, _Validation(options)],
        progress=progress,
    )
    weights = output / f"{options.name}.safetensors"
    if writes:
        spec = finish(options, detector)
        save_detector(detector, weights)
        write_card(spec, weights, sum(p.numel() for p in detector.parameters()))
        write_curves(output)
    return weights


def start_detector(options: TrainingOptions, *, fresh: bool = True) -> Detector:
    """Return the detector as it is before the first step.

    Parameters
    ----------
    options : TrainingOptions
    fresh : bool
        Whether to load the weights to start from; not where a checkpoint follows.
    """
    detector = Detector(options.specification())
    network, frozen = options.network, options.adaptation.mode == "frozen"
    weights = network.backbone.weights if network.backbone is not None else None
    trunk: TrunkSpec | None = None
    if network.start is not None:
        file = find_detector(network.start)
        if frozen:
            trunk = NetworkSpec.from_metadata(read_metadata(file), file).trunk
        if fresh:
            load_state(detector, load_detector(file).state_dict(), file)
    elif detector.backbone is not None and weights is not None:
        if frozen and weights in WEIGHTS:
            trunk = TrunkSpec(
                weights=weights, sha256=load_trunk(detector.backbone, weights, input=network.input)
            )
        elif fresh:
            load_pretrained(detector.backbone, weights, network.input)
    elif fresh and hasattr(detector.head, "start"):
        # a whole network, which knows where its own backbone starts
        detector.head.start(network.input)
    # what stays as everyone has it is not written again
    detector.spec = detector.spec.model_copy(update={"trunk": trunk})
    adaptation = options.adaptation
    if detector.backbone is not None:
        prepare(
            detector.backbone,
            adaptation.mode,
            trained_layers=adaptation.trained_layers,
            rank=adaptation.rank,
        )
    return detector.train()
