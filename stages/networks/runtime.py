"""Detectors run by torch, on the CPU or a GPU."""

import logging
import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.detector import Detector, load_detector
from cyclades.stages.networks.graphs import MOST_CALLERS
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.targets import Prediction

logger = logging.getLogger("cyclades.networks")


class TorchDetector:
    """A detector on a device.

    On a GPU it computes with bfloat16 and channels last. Where the GPU's memory does not hold a
    batch, the batch is halved, and a single tile that does not fit is computed on the CPU.

    Parameters
    ----------
    weights : path
    device : str
        ``"cpu"`` or a torch device.
    threads : int
        On the CPU.

    Attributes
    ----------
    spec : NetworkSpec
    size : None
        Tiles of any size are taken.
    stride : int
        Sides of tiles are multiples of this.
    whole : bool
        Tiles are all of one size, those at the image's edges too.
    callers : int
        Threads that may call `detect` at a time.

    Raises
    ------
    InputError
        Where the device is not there, or the weights cannot be read.
    """

    def __init__(self, weights: Path, device: str = "cpu", threads: int = 1) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(
                f"There is no GPU for the device {device!r} (or torch was installed without one); "
                "use --device cpu."
            )
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.detector: Detector = load_detector(weights, device)
        self.spec = self.detector.spec
        self.size: int | None = None
        self.stride, self.whole = self.detector.largest_stride, not self.detector.takes_any_size
        # on a GPU others prepare their tiles while one has its turn
        self.callers = 1 if self.device.type == "cpu" else min(threads, MOST_CALLERS)
        self._turn = threading.Lock()
        if self.device.type == "cuda":
            self.detector.to(memory_format=torch.channels_last)

    def detect(self, channels: NDArray[np.float32]) -> list[Found]:
        """Detections of tiles, with raw scores.

        Parameters
        ----------
        channels : ndarray, shape (b, channels, h, w), float32
        """
        with self._turn:
            return self._detect_some(channels)

    def _detect_some(self, channels: NDArray[np.float32]) -> list[Found]:
        """Detect in as many tiles at a time as the memory holds."""
        try:
            return self._detect(channels)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(channels) > 1:
            half = len(channels) // 2
            logger.warning("The GPU's memory does not hold %d tiles; trying half.", len(channels))
            return [*self._detect_some(channels[:half]), *self._detect_some(channels[half:])]
        logger.warning("The GPU's memory does not hold a single tile; going on with the CPU.")
        self.device = torch.device("cpu")
        self.detector.to(self.device)
        return self._detect(channels)

    def _detect(self, channels: NDArray[np.float32]) -> list[Found]:
        images = torch.from_numpy(channels).to(self.device)
        if self.device.type == "cuda":
            images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            return [as_arrays(found) for found in self.detector.predict(images)]


def as_arrays(found: Prediction) -> Found:
    """Return a prediction as arrays."""
    return Found(
        found.boxes.float().cpu().numpy(),
        found.scores.float().cpu().numpy(),
        None if found.masks is None else found.masks.float().cpu().numpy(),
    )
