"""A pre-training: Lightning around a pretext, resumable to the bit, and what it leaves.

Crops, views and the draws of a pretext follow from the number of the step: see
`cyclades.pipeline.training.fitting`.
"""

import logging
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cyclades.pipeline.training.card import write_curves
from cyclades.pipeline.training.fitting import (
    fit,
    loader,
    prepare_folder,
    require_finite,
    warm_cosine,
)
from cyclades.pipeline.training.pretraining.card import CURVES, write_pretraining_card
from cyclades.pipeline.training.pretraining.contrast import Contrast, ContrastOptions
from cyclades.pipeline.training.pretraining.crops import build_fields
from cyclades.pipeline.training.pretraining.curation import Crops, share_with_islands
from cyclades.pipeline.training.pretraining.distillation import (
    DistillationOptions,
    SelfDistillation,
)
from cyclades.pipeline.training.pretraining.encoding import bare_backbone
from cyclades.pipeline.training.pretraining.masked import MaskedAutoencoder, MaskedOptions
from cyclades.pipeline.training.pretraining.options import PretrainingOptions
from cyclades.pipeline.training.pretraining.pretext import Pretext
from cyclades.pipeline.training.pretraining.probe import Figures, Probe
from cyclades.pipeline.training.pretraining.teaching import Teaching, TeachingOptions
from cyclades.pipeline.training.pretraining.views import ViewBatches, window_side
from cyclades.stages.networks.adaptation import parameter_groups
from cyclades.stages.networks.backbones import Backbone
from cyclades.stages.networks.pretrained import load_pretrained, save_backbone
from cyclades.stages.networks.specification import PretrainedSpec

logger = logging.getLogger("cyclades.training")

CONFIGURATION = "pretraining.yaml"
_JUDGED = 256
"""Crops from which the share with islands is taken, for the card."""


class Pretraining(lightning.LightningModule):
    """A pretext while its backbone learns.

    Parameters
    ----------
    options : PretrainingOptions
    pretext : Pretext
    """

    highest_rank: Tensor

    def __init__(self, options: PretrainingOptions, pretext: Pretext) -> None:
        super().__init__()
        self.options, self.pretext = options, pretext
        self.register_buffer("highest_rank", torch.zeros(()))

    def train_dataloader(self) -> Any:
        """Views of the present stretch of steps."""
        o = self.options
        world = self.trainer.world_size
        data = ViewBatches(
            build_crops(o),
            self.pretext.sizes,
            o.input,
            o.augmentation,
            spread=spread_of(o),
            seed=o.seed,
            batch=o.batch // world,
            first=self.trainer.current_epoch * o.steps_a_checkpoint,
            number=o.steps_a_checkpoint,
            rank=self.trainer.global_rank,
            world=world,
        )
        return loader(data, o)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        """Sum of the loss terms of a batch."""
        # What is hidden is drawn at random; tied to the step, a resumed run draws the same.
        seed = self.options.seed * 1_000_003 + self.global_step
        torch.manual_seed(seed * self.trainer.world_size + self.global_rank)
        terms = self.pretext(batch, self.global_step)
        total = torch.stack(list(terms.values())).sum()
        require_finite(total, self.global_step)
        self.log("loss", total, prog_bar=True, batch_size=len(batch[0]))
        if len(terms) > 1:
            self.log_dict(terms, batch_size=len(batch[0]))
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the pretext change gradients."""
        self.pretext.before_step(self.global_step)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Let the pretext follow the step."""
        self.pretext.after_step(self.global_step)

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine fall to zero."""
        o = self.options
        groups = parameter_groups(self.pretext, o.learning_rate, weight_decay=o.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=o.learning_rate, betas=self.pretext.betas)
        return warm_cosine(optimiser, o)

    def watch(self, found: Figures, step: int) -> None:
        """Say what the probe found, with a warning where the rank collapsed."""
        logger.info(
            "step %d: effective rank %.1f, neighbours tell %.3f of the classes (a guess %.3f)",
            step, found.rank, found.accuracy, found.majority,
        )  # fmt: skip
        if step < max(self.options.warm_up, 1):
            # random features differ in more ways than learnt ones do at first
            return
        highest = float(self.highest_rank)
        if found.rank < self.options.probe.collapse * highest:
            logger.warning(
                "step %d: the features collapse, their effective rank is %.1f and was %.1f; stop, "
                "and lower learning_rate%s.",
                step, found.rank, highest,
                " or the teacher's temperature, or give a koleo_weight"
                if isinstance(self.options.pretext, DistillationOptions) else "",
            )  # fmt: skip
        self.highest_rank.fill_(max(highest, found.rank))


class _Watch(Callback):
    """Rank and votes of neighbours, at the start and at each checkpoint."""

    def __init__(self, options: PretrainingOptions) -> None:
        self.options = options
        self.probe: Probe | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero and trainer.logger is not None:
            trainer.logger.log_metrics(self._measure(module, 0), step=0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            module.log_dict(self._measure(module, trainer.global_step), rank_zero_only=True)

    def _measure(self, module: Any, step: int) -> dict[str, float]:
        if self.probe is None:
            self.probe = Probe(self.options.probe, self.options.input, self.options.size)
        found = self.probe.measure(module.pretext.result)
        module.watch(found, step)
        return as_metrics(found)


def as_metrics(found: Figures) -> dict[str, float]:
    """Return figures by the names that the log has; those that are not finite are left out."""
    named = {f"probe_{name}": value for name, value in found._asdict().items()}
    return {name: value for name, value in named.items() if np.isfinite(value)}


def pretrain(
    options: PretrainingOptions, output: Path, *, restart: bool = False, progress: bool = True
) -> Path:
    """Pre-train a backbone, or go on with a pre-training that was interrupted.

    Parameters
    ----------
    options : PretrainingOptions
    output : path
        Folder of the checkpoint, the logs, the weights and their card. A checkpoint found there
        is continued.
    restart : bool
        Begin anew, whatever is there.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The file of weights, which a training takes as ``network.backbone.weights``.

    Raises
    ------
    ConfigurationError
        Where the folder holds a run with another configuration, a package is missing, or the
        backbone does not fit the pretext.
    InputError
        Where images or start weights cannot be read, or the loss is not finite.
    """
    checked = build_crops(options)
    torch.manual_seed(options.seed)
    pretext = start_pretext(options)
    checkpoint = prepare_folder(options, output, restart, CONFIGURATION)
    if options.threads:
        torch.set_num_threads(options.threads)
    module = Pretraining(options, pretext.to(memory_format=torch.channels_last))
    writes = fit(
        module,
        options,
        output,
        checkpoint=checkpoint,
        callbacks=[_Watch(options)],
        progress=progress,
    )
    weights = output / f"{options.name}.safetensors"
    if writes:
        spec = finish(options, pretext.result, checked)
        save_backbone(pretext.result, spec, weights, half=options.half)
        parameters = sum(p.numel() for p in pretext.result.trunk.parameters())
        write_pretraining_card(spec, weights, parameters)
        write_curves(output, CURVES)
    return weights


def finish(options: PretrainingOptions, backbone: Backbone, crops: Crops) -> PretrainedSpec:
    """Measure a backbone beside the one that the run started from, and describe it."""
    spec = options.specification()
    probe = Probe(options.probe, options.input, options.size)
    torch.manual_seed(options.seed)
    device = next(backbone.parameters()).device
    before = probe.measure(start_pretext(options).result.to(device))
    share, islands = share_with_islands(crops, _JUDGED)
    figures = {
        **as_metrics(probe.measure(backbone)),
        **{f"{name}_at_start": value for name, value in as_metrics(before).items()},
        "crops_with_islands": share,
        "islands_a_crop": islands,
    }
    training = {**spec.training, "figures": figures, "objects": len(probe.classes)}
    return spec.model_copy(update={"training": training})


def build_crops(options: PretrainingOptions) -> Crops:
    """Make the source of crops that options describe.

    Raises
    ------
    InputError
        Where there are no images.
    """
    size, field = options.size, options.field
    # a rotation of a view off the middle brings in what lies around it
    window = min(field, max(window_side(size), size + 2 * spread_of(options)))
    return Crops(
        build_fields(options.data, field, options.augmentation.beam),
        options.curation,
        size=size,
        window=window,
        crops_a_field=options.crops_a_field,
        fields_at_once=options.fields_at_once,
        mesh=options.input.mesh,
        seed=options.seed,
    )


def spread_of(options: PretrainingOptions) -> int:
    """Pixels by which views may lie off the middle of their crop."""
    # only pretexts that compare views move them
    return round(getattr(options.pretext, "spread", 0.0) * options.size)


def start_backbone(options: PretrainingOptions) -> Backbone:
    """Return the backbone as it is before the first step, of its start weights where given."""
    backbone = bare_backbone(options.backbone, options.input.channels)
    if options.backbone.weights is not None:
        load_pretrained(backbone, options.backbone.weights, options.input)
    return backbone


def start_pretext(options: PretrainingOptions) -> Pretext:
    """Return the pretext as it is before the first step.

    Raises
    ------
    ConfigurationError
        Where the backbone is unknown or does not fit the pretext, or a package is missing.
    InputError
        Where the weights to start from cannot be read or do not fit.
    """
    pretext = options.pretext
    if isinstance(pretext, MaskedOptions):
        keeps = options.backbone.weights is not None
        return MaskedAutoencoder(
            pretext, start_backbone(options), options.size, sines=not keeps
        ).train()
    if isinstance(pretext, ContrastOptions):
        return Contrast(pretext, start_backbone(options), options.size).train()
    if isinstance(pretext, TeachingOptions):
        return Teaching(pretext, start_backbone(options), options.size).train()
    return SelfDistillation(
        pretext, lambda: start_backbone(options), options.size, options.steps
    ).train()
