"""The trainer: Lightning around a detector, resumable to the bit.

A run is cut into stretches of steps ("epochs" to Lightning) that each end in a checkpoint. The
tiles of a step follow from its number alone, and so do the draws that the losses make, so that a
run that was interrupted and resumed ends with the same weights as one that was not.
"""

import logging
import signal
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from cyclades.pipeline.training.evaluation import figures, judge
from cyclades.pipeline.training.held_out import detection, finish, held_out_data
from cyclades.pipeline.training.loading import TrainingData
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.adaptation import parameter_groups, prepare
from cyclades.stages.networks.detector import Detector, load_detector, load_state, save_detector
from cyclades.stages.networks.pretrained import load_pretrained, load_trunk
from cyclades.stages.networks.specification import NetworkSpec, TrunkSpec
from cyclades.stages.networks.targets import Targets
from cyclades.stages.networks.weights import WEIGHTS, find_detector, read_metadata

logger = logging.getLogger("cyclades.training")

CHECKPOINT = "last.ckpt"
CONFIGURATION = "training.yaml"
MACHINE = ("devices", "nodes", "workers", "threads")
"""Options of the machine rather than of the result, which may differ when a training goes on."""


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
            with_masks=o.network.head.name in ("mask_rcnn", "yolo_seg", "ultralytics"),
            first=epoch * o.steps_a_checkpoint,
            number=o.steps_a_checkpoint,
            rank=self.trainer.global_rank,
            world=world,
            seed=o.seed,
        )
        return DataLoader(
            data,
            batch_size=None,
            num_workers=o.workers,
            multiprocessing_context="spawn" if o.workers else None,
        )

    def training_step(self, batch: tuple[Tensor, list[Targets]], index: int) -> Tensor:
        """Sum of the loss terms of a batch."""
        # The losses draw anchors and regions at random; tied to the step, a resumed run draws
        # the same.
        torch.manual_seed(self.options.seed * 1_000_003 + self.global_step)
        images, targets = batch
        terms = self.detector.losses(images, targets)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            raise InputError(
                f"The loss is not finite at step {self.global_step}; lower learning_rate, or train "
                "with precision: float32."
            )
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
        )
        optimiser = torch.optim.AdamW(groups, lr=o.learning_rate)
        warm, steps = min(o.warm_up, o.steps // 5), o.steps

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / (warm + 1))
            return float(rising * 0.5 * (1.0 + np.cos(np.pi * min(step / steps, 1.0))) + 1e-4)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


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
    options: TrainingOptions, output: Path, *, restart: bool = False, progress: bool = True
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

    checkpoint = _prepare_folder(options, output, restart)
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    # the order that convolutions are fastest in, on CPUs (a quarter) as on GPUs
    detector = start_detector(options, fresh=checkpoint is None).to(
        memory_format=torch.channels_last
    )
    module = Training(options, detector)
    on_gpu = torch.cuda.is_available()
    callbacks: list[Callback] = [
        ModelCheckpoint(
            output, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
        ),
        _Validation(options),
    ]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    precision = {"auto": "bf16-mixed" if on_gpu else "32-true", "float32": "32-true",
                 "bfloat16": "bf16-mixed", "float16": "16-mixed"}[options.precision]  # fmt: skip
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=options.devices if (on_gpu or options.devices != "auto") else 1,
        num_nodes=options.nodes,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=options.gradient_limit,
        logger=CSVLogger(str(output), name="", version="log"),
        callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=on_gpu,
    )
    if options.batch % trainer.world_size:
        raise ConfigurationError(
            f"batch ({options.batch}) is shared by {trainer.world_size} processes; give a multiple."
        )
    log = output / "log" / "metrics.csv"
    if checkpoint is not None and log.is_file() and trainer.is_global_zero:
        # Lightning would delete the curve so far
        log.replace(log.with_name(f"metrics-{len(list(log.parent.glob('*.csv'))):03d}.csv"))
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(
            module, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True
        )
    except SystemExit:  # Lightning's answer to Ctrl-C, which it ignores from then on
        if trainer.interrupted:
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
        raise
    weights = output / f"{options.name}.safetensors"
    if trainer.is_global_zero:
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
            trunk = TrunkSpec(weights=weights, sha256=load_trunk(detector.backbone, weights))
        elif fresh:
            load_pretrained(detector.backbone, weights)
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


def _prepare_folder(options: TrainingOptions, output: Path, restart: bool) -> Path | None:
    """Make the folder; return the checkpoint to go on from, if there is one."""
    text = options.to_yaml()
    kept, checkpoint = output / CONFIGURATION, output / CHECKPOINT
    try:
        output.mkdir(parents=True, exist_ok=True)
        if restart:
            for old in (output / CHECKPOINT, output / CONFIGURATION, *output.glob("log/*.csv")):
                old.unlink(missing_ok=True)
        if (
            checkpoint.is_file()
            and kept.is_file()
            and _of_the_result(kept.read_text("utf-8")) != _of_the_result(text)
        ):
            raise ConfigurationError(
                f"{output} holds a training with another configuration ({CONFIGURATION}); choose "
                "another folder, or begin anew with --restart."
            )
        kept.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}).") from error
    return checkpoint if checkpoint.is_file() else None


def _of_the_result(text: str) -> dict[str, Any]:
    """Return the options of a training that its result depends on."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None
    mapping = content if isinstance(content, dict) else {}
    return {name: value for name, value in mapping.items() if name not in MACHINE}
