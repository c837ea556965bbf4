"""Features of frozen backbones, computed once and kept, and the classifier on them."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.tasks.base import Workshop
from cyclades.pipeline.studies.tasks.morphology_options import FrozenOptions, PictureOptions
from cyclades.pipeline.studies.tasks.pictures import Pictures, prepare_pictures
from cyclades.stages.networks.backbones import Backbone, TransformerBackbone, build_backbone
from cyclades.stages.networks.pretrained import load_pretrained
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.weights import WEIGHTS
from cyclades.stages.networks.weights_table import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger("cyclades.studies")

FEATURES = "features"
BATCH = 16
_SEED = 20_011


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all pictures of a set.

    Parameters
    ----------
    values : ndarray, shape (n, orientations, k), float16
    seconds : float
        Wall time of one picture.
    """

    values: NDArray[np.float16]
    seconds: float


def picture_norm(spec: BackboneSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the pictures that weights were made from, else ImageNet's."""
    entry = WEIGHTS.get(spec.weights or "")
    return (entry.mean, entry.std) if entry is not None else (IMAGENET_MEAN, IMAGENET_STD)


def start_backbone(spec: BackboneSpec, seed: int) -> Backbone:
    """Build a backbone with its weights, or with random numbers of a seed where it has none."""
    torch.manual_seed(_SEED + seed)
    backbone = build_backbone(spec, 3)
    if spec.weights is not None:
        load_pretrained(backbone, spec.weights)
    return backbone


def turned(images: Tensor, number: int) -> Tensor:
    """Return one of the eight orientations of images, the first being as they are."""
    made = torch.rot90(images, number % 4, (-2, -1))
    return made.flip(-1) if number >= 4 else made


def resampled(images: Tensor, size: int) -> Tensor:
    """Bring square images to a size."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )


def pooled(backbone: Backbone, images: Tensor, pooling: Sequence[str]) -> Tensor:
    """Return statistics of the features of each tapped layer over each picture.

    Parameters
    ----------
    backbone : Backbone
    images : Tensor, shape (b, 3, size, size)
    pooling : sequence of str
        Of `cyclades.pipeline.studies.tasks.morphology_options.Pooling`. Backbones without a class
        token have none.

    Returns
    -------
    Tensor, shape (b, k)
    """
    trunk: Any = backbone.trunk
    layers: list[tuple[Tensor, Tensor | None]]
    if isinstance(backbone, TransformerBackbone):
        found = trunk.forward_intermediates(
            images,
            indices=[tap - 1 for tap in backbone.taps],
            norm=True,
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        layers = [(tokens.float(), prefix.float()[:, 0]) for tokens, prefix in found]
    else:
        layers = [(level.float(), None) for level in trunk(images)]
    parts = []
    for level, token in layers:
        flat = level.flatten(2)
        for name in pooling:
            if name == "token":
                parts += [] if token is None else [token]
            elif name == "mean":
                parts.append(flat.mean(2))
            elif name == "max":
                parts.append(flat.amax(2))
            else:
                parts.append(flat.std(2, unbiased=False))
    return torch.cat(parts, 1)


def feature_key(
    spec: BackboneSpec,
    weights: str,
    pictures: Pictures,
    options: PictureOptions,
    frozen: FrozenOptions,
) -> str:
    """Hash of everything that features depend on.

    Parameters
    ----------
    spec : BackboneSpec
    weights : str
        SHA-256 of the weights, or what random numbers they are.
    pictures, options, frozen
        What they are computed of, and how.
    """
    content = {
        "backbone": {"name": spec.name, "options": spec.options, "norm": picture_norm(spec)},
        "weights": weights,
        "pictures": pictures.digest,
        "input": options.model_dump(mode="json"),
        "pooling": frozen.pooling,
        "orientations": frozen.orientations,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def find_features(workshop: Workshop, key: str) -> Features | None:
    """Read features that are kept; None where there are none."""
    try:
        with np.load(_file(workshop, key)) as held:
            return Features(held["values"], float(held["seconds"]))
    except (OSError, ValueError, KeyError):
        return None


def make_features(
    spec: BackboneSpec,
    seed: int,
    pictures: Pictures,
    options: PictureOptions,
    frozen: FrozenOptions,
    workshop: Workshop,
    key: str,
) -> Features:
    """Compute the features of all pictures and keep them, if they are not kept already.

    Parameters
    ----------
    spec : BackboneSpec
    seed : int
        Of random numbers, where the backbone has no weights.
    pictures, options, frozen
        See `feature_key`.
    workshop : Workshop
    key : str
        Of these features.

    Raises
    ------
    OutputError
        Where they cannot be kept.
    """
    held = find_features(workshop, key)
    if held is not None:
        return held
    backbone = start_backbone(spec, seed).to(workshop.device).eval()
    mean, std = picture_norm(spec)
    made, start = [], time.perf_counter()
    device = torch.device(workshop.device)
    half = options.precision == "bfloat16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for first in range(0, len(pictures.images), BATCH):
            cut = prepare_pictures(pictures.images[first : first + BATCH], options, mean, std)
            images = resampled(torch.from_numpy(cut).to(device), options.size)
            several = [
                pooled(backbone, turned(images, number), frozen.pooling)
                for number in range(frozen.orientations)
            ]
            made.append(torch.stack(several, 1).float().cpu().numpy())
    values = np.clip(np.concatenate(made), -6e4, 6e4).astype(np.float16)
    seconds = (time.perf_counter() - start) / len(values)
    logger.info("%s: features of %d pictures, %.3f s each", spec.name, len(values), seconds)
    with written_whole(_file(workshop, key)) as path:
        np.savez(path, values=values, seconds=np.float64(seconds))
    return Features(values, seconds)


def classify(
    values: NDArray[np.floating],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    tested: NDArray[np.int64],
    inverse_penalty: float,
) -> NDArray[np.int64]:
    """Logistic regression on features, with classes weighed alike.

    Parameters
    ----------
    values : ndarray, shape (n, orientations, k)
        Each orientation of a picture to learn from is a sample of its own; log-probabilities of
        those of a tested one are averaged.
    classes : ndarray of int, shape (n,)
    learned, tested : ndarray of int
        Numbers of pictures.
    inverse_penalty : float
        See `FrozenOptions`.

    Returns
    -------
    ndarray of int, shape (len(tested),)
        Classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    views, width = values.shape[1:]
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=inverse_penalty / views, class_weight="balanced", max_iter=500),
    )
    model.fit(
        values[learned].reshape(-1, width).astype(np.float32), np.repeat(classes[learned], views)
    )
    logs = model.predict_log_proba(values[tested].reshape(-1, width).astype(np.float32))
    best = logs.reshape(len(tested), views, -1).mean(1).argmax(1)
    return np.asarray(model.classes_[best], np.int64)


def _file(workshop: Workshop, key: str) -> Path:
    return workshop.folder / FEATURES / f"{key}.npz"
