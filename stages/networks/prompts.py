"""Masks from boxes and points, by a network of the kind "segment anything" (transformers' parts).

Kirillov et al. 2023, SAM (arXiv:2304.02643); Ravi et al. 2024, SAM 2 (arXiv:2408.00714). Such a
network was trained on photographs and has no classes; it is told where to look.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import Sam2Model, SamModel
from transformers.utils import logging as remarks

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.torch_device import torch_device
from cyclades.stages.networks.weights_files import CONFIG
from cyclades.stages.networks.weights_table import IMAGENET_MEAN, IMAGENET_STD

KINDS: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
"""Class by the kind of model that its configuration names."""


class PromptedNetwork:
    """A network that answers boxes and points with masks.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``; see
        `cyclades.stages.networks.weights.find_model`.
    device : str
        A torch device.
    threads : int
        On the CPU.
    at_once : int
        Prompts that are answered at a time.

    Raises
    ------
    InputError
        Where the files cannot be read, are of another kind or do not fit each other, or the device
        is not there.
    """

    def __init__(
        self, folder: Path, device: str = "cpu", threads: int = 1, at_once: int = 32
    ) -> None:
        self.device, self.at_once = torch_device(device), at_once
        torch.set_num_threads(threads)
        self.model: Any = _load(folder).to(self.device).eval()
        self.size = int(self.model.config.prompt_encoder_config.image_size)

    @torch.inference_mode()
    def segment(
        self,
        picture: NDArray[np.float32],
        boxes: NDArray[np.floating] | None,
        points: NDArray[np.floating] | None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return one mask for each prompt.

        Parameters
        ----------
        picture : ndarray, shape (3, side, side), float32
            0 ... 1.
        boxes : ndarray, shape (n, 4), optional
            ``x0, y0, x1, y1`` in pixels, with (0, 0) the outer corner of the first pixel.
        points : ndarray, shape (n, 2), optional
            x and y, counted alike; one point inside each object. With boxes both are given at once.

        Returns
        -------
        masks : ndarray of bool, shape (n, side, side)
        quality : ndarray of float32, shape (n,)
            The network's estimate of the mask's intersection over union with the object.
        """
        side = picture.shape[-1]
        embedding = self.model.get_image_embeddings(self._pixels(picture))
        number = len(boxes) if boxes is not None else len(points if points is not None else ())
        masks = np.zeros((number, side, side), bool)
        quality = np.zeros(number, np.float32)
        for start in range(0, number, self.at_once):
            some = slice(start, start + self.at_once)
            given: dict[str, Any] = {}
            if boxes is not None:
                given["input_boxes"] = self._places(boxes[some], side)[None]
            if points is not None:
                given["input_points"] = self._places(points[some], side)[None, :, None]
                given["input_labels"] = torch.ones(
                    given["input_points"].shape[:3], dtype=torch.int64, device=self.device
                )
            # a point alone may mean a part or the whole: of three masks the likeliest is taken
            found = self.model(image_embeddings=embedding, multimask_output=boxes is None, **given)
            likely = found.iou_scores[0].float()
            best = likely.argmax(1)
            rows = torch.arange(len(best), device=self.device)
            chosen = found.pred_masks[0].float()[rows, best]
            fine = functional.interpolate(
                chosen[:, None], (side, side), mode="bilinear", align_corners=False
            )
            masks[some] = (fine[:, 0] > 0).cpu().numpy()
            quality[some] = likely[rows, best].cpu().numpy()
        return masks, quality

    def _pixels(self, picture: NDArray[np.float32]) -> Tensor:
        """Return the picture as the network takes it, shape (1, 3, size, size)."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        image = ((torch.from_numpy(picture) - mean) / std)[None].to(self.device)
        return functional.interpolate(
            image, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )

    def _places(self, places: NDArray[np.floating], side: int) -> Tensor:
        """Coordinates of the network, which adds half a pixel to what it is given."""
        moved = np.asarray(places, np.float32) * np.float32(self.size / side) - np.float32(0.5)
        return torch.from_numpy(moved).to(self.device)


def _load(folder: Path) -> Any:
    """Read a model from configuration and safetensors, all of whose tensors must be there."""
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / CONFIG}: not the configuration of a model, or damaged; fetch it again."
        ) from error
    if kind not in KINDS:
        raise InputError(
            f"{folder}: a model of the kind {kind!r}; give one of SAM or SAM 2, as "
            "facebook/sam-vit-base or facebook/sam2.1-hiera-tiny."
        )
    try:
        with _silent():
            model, info = KINDS[kind].from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: its weights cannot be read or do not fit its configuration; fetch both "
            "again."
        ) from error
    lacking = [*info["missing_keys"], *info["mismatched_keys"]]
    if lacking:
        raise InputError(
            f"{folder}: {len(lacking)} tensors of the network are missing or of another shape "
            f"(first {min(map(str, lacking))}); fetch weights and configuration of one model."
        )
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' bars, and its remarks on tensors, which we check, to itself."""
    logger, bars = logging.getLogger("transformers"), remarks.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            remarks.enable_progress_bar()
