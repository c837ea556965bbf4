"""What every training run shares: its folder, its optimiser's schedule, Lightning around it.

A run is cut into stretches of steps ("epochs" to Lightning) that each end in a checkpoint. What a
step sees and draws follows from its number alone, so that a run that was interrupted and resumed
ends with the same weights as one that was not.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from cyclades.pipeline.training.options import RunOptions
from cyclades.stages.core.errors import ConfigurationError, InputError

CHECKPOINT = "last.ckpt"
MACHINE = ("devices", "nodes", "workers", "threads")
"""Options of the machine rather than of the result, which may differ when a training goes on."""


def prepare_folder(options: RunOptions, output: Path, restart: bool, kept_as: str) -> Path | None:
    """Make the folder of a run; return the checkpoint to go on from, if there is one.

    Parameters
    ----------
    options : RunOptions
    output : path
    restart : bool
        Whether to take away what another run has left.
    kept_as : str
        Name of the file that keeps the options.

    Raises
    ------
    ConfigurationError
        Where the folder holds a run with another configuration.
    InputError
        Where it cannot be written.
    """
    text = options.to_yaml()
    kept, checkpoint = output / kept_as, output / CHECKPOINT
    try:
        output.mkdir(parents=True, exist_ok=True)
        if restart:
            for old in (checkpoint, kept, *output.glob("log/*.csv")):
                old.unlink(missing_ok=True)
        if (
            checkpoint.is_file()
            and kept.is_file()
            and _of_the_result(kept.read_text("utf-8")) != _of_the_result(text)
        ):
            raise ConfigurationError(
                f"{output} holds a training with another configuration ({kept_as}); choose "
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


def warm_cosine(optimiser: torch.optim.Optimizer, options: RunOptions) -> dict[str, Any]:
    """Return, for Lightning, an optimiser whose rates rise, and fall as a cosine to zero."""
    warm, steps = min(options.warm_up, options.steps // 5), options.steps

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / (warm + 1))
        return float(rising * 0.5 * (1.0 + np.cos(np.pi * min(step / steps, 1.0))) + 1e-4)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader(data: IterableDataset[Any], options: RunOptions) -> DataLoader[Any]:
    """Return a loader of whole batches, by as many processes as the options say."""
    return DataLoader(
        data,
        batch_size=None,
        num_workers=options.workers,
        multiprocessing_context="spawn" if options.workers else None,
    )


def require_finite(loss: torch.Tensor, step: int) -> None:
    """Refuse to go on with a loss that is not finite.

    Raises
    ------
    InputError
    """
    if not torch.isfinite(loss):
        raise InputError(
            f"The loss is not finite at step {step}; lower learning_rate, or train with "
            "precision: float32."
        )


def fit(
    module: lightning.LightningModule,
    options: RunOptions,
    output: Path,
    *,
    checkpoint: Path | None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> bool:
    """Train to the last step, or go on from a checkpoint.

    Parameters
    ----------
    module : LightningModule
    options : RunOptions
    output : path
        Folder of the checkpoint and of the log.
    checkpoint : path, optional
        Where to go on from.
    callbacks : sequence of Callback
        Called before a checkpoint is written.
    progress : bool
        Show a progress bar.

    Returns
    -------
    bool
        Whether this process, of all that train, is to write the result.

    Raises
    ------
    ConfigurationError
        Where the batch cannot be shared among the processes.
    """
    on_gpu = torch.cuda.is_available()
    saved = ModelCheckpoint(
        output, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
    )
    bar = [TQDMProgressBar(refresh_rate=10)] if progress else []
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
        callbacks=[saved, *callbacks, *bar],
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
    return bool(trainer.is_global_zero)
