"""Checkpoints of the networks that predict a set: those of the Hugging Face hub, or in a folder.

Nothing is fetched but the two files of a checkpoint that was asked for, its weights are read from
safetensors alone, and no code that comes with one is run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForObjectDetection
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.heads.set_networks import (
    KIND,
    UNBUILDABLE,
    first_line,
    quiet,
    whole_configuration,
)
from cyclades.stages.networks.pretrained import adapt_input
from cyclades.stages.networks.weights import fetch, read_metadata, weights_folder
from cyclades.stages.networks.weights_files import FILE, PICKLED, refuse_pickled

CONFIGURATION = "config.json"


def checkpoint_configuration(checkpoint: str) -> dict[str, Any]:
    """Read the configuration of a checkpoint.

    Parameters
    ----------
    checkpoint : str
        A folder with ``config.json`` and ``model.safetensors``, or a repository of the hub.

    Raises
    ------
    InputError
        Where it cannot be had, or is none of a network.
    """
    path = _checkpoint_file(checkpoint, CONFIGURATION)
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
        kind = entries[KIND]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: not a configuration of a network of transformers; fetch it anew."
        ) from error
    if kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        raise InputError(
            f"{checkpoint}: a network of the model_type {kind}, which is no detector of objects; "
            f"take one of {', '.join(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)}."
        )
    return dict(entries)


def _checkpoint_file(checkpoint: str, file: str) -> Path:
    """Find a file of a checkpoint; the hub is asked for it where it is not here."""
    folder = Path(checkpoint).expanduser()
    kept = weights_folder() / checkpoint.replace("/", "--")
    refuse_pickled(folder)
    for place in (folder, kept):
        if place.is_dir():
            if (place / file).is_file():
                return place / file
            pickled = any(p.suffix in PICKLED for p in place.iterdir())
            raise InputError(
                f"{place}: the folder must hold {CONFIGURATION} and {FILE}, and holds no {file}"
                f"{'; pickled weights are not read' if pickled else ''}."
            )
    if (
        checkpoint.count("/") != 1
        or checkpoint.startswith((".", "/", "~"))
        or folder.suffix == (".safetensors")
    ):
        raise InputError(
            f"{checkpoint}: no such folder of a checkpoint ({CONFIGURATION} and {FILE}); a "
            "repository of the Hugging Face hub is given as user/repository."
        )
    return fetch(checkpoint, file=file)


def load_checkpoint(model: Any, checkpoint: str) -> Path:
    """Fill a network with the weights of a checkpoint; what says classes stays as it is.

    A first layer for another number of channels is adapted as timm does. Queries stay at random
    numbers where the checkpoint has another number of them.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    checkpoint : str
        See `checkpoint_configuration`.

    Returns
    -------
    path
        The file that was read.

    Raises
    ------
    InputError
        Where it cannot be had or read, or is of another network.
    """
    entries = checkpoint_configuration(checkpoint)
    path = _checkpoint_file(checkpoint, FILE)
    read_metadata(path)
    config = whole_configuration(
        entries,
        classes=model.config.num_labels,
        channels=int(entries.get("num_channels", 3)),
        queries=None,
    )
    try:
        with quiet():
            # by transformers, which knows the names that layers had in earlier versions
            given, report = AutoModelForObjectDetection.from_pretrained(
                path.parent, config=config, use_safetensors=True, local_files_only=True,
                ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float32,
            )  # fmt: skip
    except (*UNBUILDABLE, OSError) as error:
        raise InputError(
            f"{checkpoint}: cannot be read by transformers ({first_line(error)})."
        ) from error
    resized = {name for name, *_ in report["mismatched_keys"]}
    missing = {name for name in report["missing_keys"] if name not in resized}
    lost = sorted(name for name in missing | resized if not _says_class(name))
    state, own = given.state_dict(), model.state_dict()
    new: dict[str, Tensor] = {}
    for name, value in own.items():
        fits = name in state and name not in missing | resized
        if fits and state[name].shape == value.shape:
            new[name] = state[name]
        elif fits and value.ndim == 4 and state[name].shape[0] == value.shape[0]:
            new[name] = adapt_input(state[name], value.shape[1])
        elif (
            not _says_class(name)
            and "num_batches_tracked" not in name
            and not (fits and _of_queries(name))
        ):
            lost.append(name)
    if lost:
        raise InputError(
            f"{checkpoint}: not weights of the {model.config.model_type} that is described "
            f"({len(lost)} of {len(own)} tensors are missing or differ, {lost[0]} first); leave "
            "out the option configuration, or take the checkpoint that belongs to it."
        )
    model.load_state_dict(new, strict=False)
    return path


def _says_class(name: str) -> bool:
    """Whether a tensor belongs to what says the class of an object."""
    return any(word in name for word in ("class", "score_head"))


def _of_queries(name: str) -> bool:
    """Whether a tensor has a row for each query."""
    words = ("query", "detection_tokens", "position_embeddings", "reference_point")
    return any(word in name for word in words)
