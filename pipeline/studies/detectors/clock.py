"""Wall time of the steps of a training, without validation and calibration."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class StepClock(Callback):
    """Adds up the wall time of stretches of steps, tiles included, over interruptions too.

    Parameters
    ----------
    file : path
        Keeps the sum.
    skipped : int
        First steps of each stretch that `a_step` leaves out.
    """

    def __init__(self, file: Path, skipped: int = 0) -> None:
        self.file, self.skipped = file, skipped
        self._start = self._begun = self._measured = 0.0
        self._steps = self._here = 0
        try:
            self.seconds = float(file.read_text("utf-8"))
        except (OSError, ValueError):
            self.seconds = 0.0

    @property
    def a_step(self) -> float:
        """Seconds of a step, the first ones left out."""
        return max(self._measured / max(self._steps, 1), 1e-6)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Begin a stretch."""
        self._start = self._begun = time.perf_counter()
        self._here = 0

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Count a step."""
        self._here += 1
        now = time.perf_counter()
        if self._here == self.skipped:
            self._begun = now
        elif self._here > self.skipped:
            self._measured += now - self._begun
            self._begun = now
            self._steps += 1

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Keep what the stretch took; the validation comes after."""
        self.seconds += time.perf_counter() - self._start
        if trainer.is_global_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(f"{self.seconds:.3f}", "utf-8")
