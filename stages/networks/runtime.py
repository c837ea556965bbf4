"""Detectors run by torch, on the CPU or a GPU."""

import importlib.util
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclades.stages.networks.detector import Detector, load_detector
from cyclades.stages.networks.graphs import MOST_CALLERS
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.targets import Prediction
from cyclades.stages.networks.torch_device import torch_device

logger = logging.getLogger("cyclades.networks")

WORTH_COMPILING = 64
"""Tiles of one image from which on compiling, which takes up to a minute, is likely to pay."""
Predict = Callable[[Tensor], list[Prediction]]
_TRITON_FROM = (7, 0)
"""Compute capability of the oldest GPUs that Triton makes code for."""


class TorchDetector:
    """A detector on a device.

    On a GPU it computes with bfloat16 and channels last, and compiled where Triton is installed
    and an image has many tiles. Where the GPU's memory does not hold a batch, the batch is halved,
    and a single tile that does not fit is computed on the CPU.

    Parameters
    ----------
    weights : path
    device : str
        ``"cpu"`` or a torch device.
    threads : int
        On the CPU.
    cells : bool
        Whether what is found comes with the features of cells.

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
    worth_preparing : int or None
        Tiles of an image from which on it is compiled (see `prepare`); None where it never is.

    Raises
    ------
    InputError
        Where the device is not there, or the weights cannot be read.
    """

    def __init__(
        self, weights: Path, device: str = "cpu", threads: int = 1, *, cells: bool = False
    ) -> None:
        self.device = torch_device(device)
        torch.set_num_threads(threads)
        self.detector: Detector = load_detector(weights, device)
        self.spec = self.detector.spec
        self.size: int | None = None
        self._cells = cells
        self.stride, self.whole = self.detector.largest_stride, not self.detector.takes_any_size
        # on a GPU others prepare their tiles while one has its turn
        self.callers = 1 if self.device.type == "cpu" else min(threads, MOST_CALLERS)
        self._turn = threading.Lock()
        self.worth_preparing: int | None = None
        if _can_compile(self.device) and not cells:
            self.worth_preparing = WORTH_COMPILING
        self._compiled: Predict | None = None
        self._prepared: tuple[int, int] | None = None
        if self.device.type == "cuda":
            self.detector.to(memory_format=torch.channels_last)

    def prepare(self, shape: tuple[int, int], backend: Any = "inductor") -> None:
        """Compile the network for the tiles that follow, when the first of this shape comes.

        Tiles of other shapes are computed as before, since each would be compiled anew.

        Parameters
        ----------
        shape : (h, w)
        backend : str or callable
            Of `torch.compile`.
        """
        with self._turn:
            if self._prepared != shape:
                self._prepared = shape
                self._compiled = compiled_predict(self.detector, backend)

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
            logger.warning(
                "The GPU's memory does not hold %d tiles; trying half, which --set "
                "detection.batch=%d spares.",
                len(channels),
                half,
            )
            return [*self._detect_some(channels[:half]), *self._detect_some(channels[half:])]
        logger.warning(
            "The GPU's memory does not hold a single tile; going on with the CPU: give a smaller "
            "one, as --set detection.tile=256."
        )
        self.device = torch.device("cpu")
        self.detector.to(self.device)
        self._compiled = None
        return self._detect(channels)

    def _detect(self, channels: NDArray[np.float32]) -> list[Found]:
        number = len(channels)
        compiled = self._compiled if channels.shape[-2:] == self._prepared else None
        if compiled is not None:
            # few numbers of tiles, for each of which the network is compiled
            more = (1 << (number - 1).bit_length()) - number
            channels = np.pad(channels, ((0, more), (0, 0), (0, 0), (0, 0)))
        images = torch.from_numpy(channels).to(self.device)
        if self.device.type == "cuda":
            images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            if self._cells:
                seen, cells = self.detector.predict_with_cells(images)
                features = cells.float().cpu().numpy()
                return [
                    as_arrays(one)._replace(cells=own)
                    for one, own in zip(seen, features, strict=True)
                ]
            found = None if compiled is None else self._attempt(compiled, images)
            if found is None:
                found = self.detector.predict(images[:number])
            return [as_arrays(one) for one in found[:number]]

    def _attempt(self, compiled: Predict, images: Tensor) -> list[Prediction] | None:
        """Detections of the compiled network; None, from then on, where it cannot be compiled."""
        try:
            return compiled(images)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # compilers, drivers and missing headers raise what they like
            cause = getattr(error, "inner_exception", error)
            logger.warning(
                "The network cannot be compiled (%s: %s); going on without.",
                type(cause).__name__,
                str(cause).strip().partition("\n")[0],
            )
            self._compiled, self.worth_preparing = None, None
            return None


def compiled_predict(detector: Detector, backend: Any = "inductor") -> Predict:
    """`Detector.predict` with its dense part compiled, each shape of images for itself.

    What is computed at all cells of the image is compiled: everything up to the choice of
    detections for heads that are dense, the features for those that look at regions.

    Parameters
    ----------
    detector : Detector
        In evaluation mode.
    backend : str or callable
        Of `torch.compile`.
    """
    head = detector.head
    if not hasattr(head, "dense"):
        features = torch.compile(detector.features, backend=backend, dynamic=False)

        @torch.no_grad()
        def regions(images: Tensor) -> list[Prediction]:
            size = (images.shape[-2], images.shape[-1])
            found: list[Prediction] = head.predict(features(images), size)
            return found

        return regions

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = head.dense(detector.features(images))
        return made

    dense = torch.compile(outputs, backend=backend, dynamic=False)

    @torch.no_grad()
    def cells(images: Tensor) -> list[Prediction]:
        found: list[Prediction] = head.select(dense(images))
        return found

    return cells


def _can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` makes code for a device: a GPU that Triton, if installed, knows."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _TRITON_FROM


def as_arrays(found: Prediction) -> Found:
    """Return a prediction as arrays."""
    return Found(
        found.boxes.float().cpu().numpy(),
        found.scores.float().cpu().numpy(),
        None if found.masks is None else found.masks.float().cpu().numpy(),
    )
