"""Features of frozen backbones, computed once and kept, and the classifier on them."""

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.tasks.base import Workshop
from cyclades.pipeline.studies.tasks.morphology_options import FrozenOptions
from cyclades.pipeline.studies.tasks.pictures import Pictures
from cyclades.stages.networks.features import (
    layers,
    picture_norm,
    pooled,
    resampled,
    start_backbone,
    turned,
)
from cyclades.stages.networks.pictures import PictureOptions, prepare_pictures
from cyclades.stages.networks.specification import BackboneSpec

logger = logging.getLogger("cyclades.studies")

FEATURES = "features"
BATCH = 16


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all pictures of a set.

    Parameters
    ----------
    values : ndarray, shape (n, orientations, k), float16
        Statistics over each picture, or for the head ``attention`` all features of all levels.
    seconds : float
        Wall time of one picture.
    levels : tuple of (int, int)
        Width and number of places of each level, where there are all features.
    """

    values: NDArray[np.float16]
    seconds: float
    levels: tuple[tuple[int, int], ...] = ()


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
        "pooling": frozen.pooling if frozen.head == "logistic" else None,
        "orientations": frozen.orientations,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def find_features(workshop: Workshop, key: str) -> Features | None:
    """Read features that are kept; None where there are none."""
    try:
        with np.load(_file(workshop, key)) as held:
            levels = tuple((int(width), int(places)) for width, places in held["levels"])
            return Features(held["values"], float(held["seconds"]), levels)
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
    norm = picture_norm(spec)
    made, start = [], time.perf_counter()
    device = torch.device(workshop.device)
    half = options.precision == "bfloat16"
    levels: tuple[tuple[int, int], ...] = ()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for first in range(0, len(pictures.images), BATCH):
            cut = prepare_pictures(pictures.images[first : first + BATCH], options, *norm)
            images = resampled(torch.from_numpy(cut).to(device), options.size)
            several = []
            for number in range(frozen.orientations):
                if frozen.head == "logistic":
                    several.append(pooled(backbone, turned(images, number), frozen.pooling))
                    continue
                flat = [one.flatten(2) for one, _ in layers(backbone, turned(images, number))]
                levels = tuple((one.shape[1], one.shape[2]) for one in flat)
                several.append(torch.cat([one.flatten(1) for one in flat], 1))
            batch = torch.stack(several, 1).float().clamp(-6e4, 6e4)
            made.append(batch.cpu().numpy().astype(np.float16))
    values = np.concatenate(made)
    seconds = (time.perf_counter() - start) / len(values)
    logger.info("%s: features of %d pictures, %.3f s each", spec.name, len(values), seconds)
    with written_whole(_file(workshop, key)) as path:
        np.savez(
            path,
            values=values,
            seconds=np.float64(seconds),
            levels=np.array(levels, np.int64).reshape(-1, 2),
        )
    return Features(values, seconds, levels)


def regression(inverse_penalty: float) -> Any:
    """Return scikit-learn's pipeline of standardised features and logistic regression.

    Classes are weighed alike.

    Parameters
    ----------
    inverse_penalty : float
        See `FrozenOptions`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), model)


def regress(
    values: NDArray[np.floating],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    tested: NDArray[np.int64],
    inverse_penalty: float,
) -> NDArray[np.float64]:
    """Logistic regression on features, with classes weighed alike.

    Parameters
    ----------
    values : ndarray, shape (n, views, k)
        Each view of a picture to learn from is a sample of its own; log-probabilities of those of
        a tested one are averaged.
    classes : ndarray of int, shape (n,)
    learned, tested : ndarray of int
        Numbers of pictures.
    inverse_penalty : float
        See `FrozenOptions`.

    Returns
    -------
    ndarray, shape (len(tested), classes)
        Log-probabilities of the classes that there are to learn from, ascending.
    """
    views, width = values.shape[1:]
    model = regression(inverse_penalty / views)
    model.fit(
        values[learned].reshape(-1, width).astype(np.float32), np.repeat(classes[learned], views)
    )
    logs = model.predict_log_proba(values[tested].reshape(-1, width).astype(np.float32))
    return np.asarray(logs.reshape(len(tested), views, -1).mean(1), float)


def classify(
    values: NDArray[np.floating],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    tested: NDArray[np.int64],
    inverse_penalty: float,
) -> NDArray[np.int64]:
    """Return the classes of pictures by logistic regression; see `regress`.

    Returns
    -------
    ndarray of int, shape (len(tested),)
    """
    logs = regress(values, classes, learned, tested, inverse_penalty)
    return np.asarray(np.unique(classes[learned])[logs.argmax(1)], np.int64)


def _file(workshop: Workshop, key: str) -> Path:
    return workshop.folder / FEATURES / f"{key}.npz"
