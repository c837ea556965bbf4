"""Layouts of published weights: names of tensors as timm has them, from those of other sources.

Known are timm's own, torchvision's ResNets (alone or inside a detector), the torch-hub files of
DINO, DINOv2, DINOv3 and MAE, the classes of transformers (ViT, ViT-MAE, ViT-MSN, DINOv2, DINOv3,
ResNet, DETR's ResNet, in the names of its versions 4 and 5), and EfficientNet-Lite with the names
``_conv_stem``, ``_blocks``, ... A prefix, as ``vit.`` or ``backbone.trunk.``, is taken off.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

State = dict[str, Tensor]

TRANSFORMERS_VIT: Final = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)$", r"patch_embed.proj.\1"),
    (r"^(?:encoder\.|model\.)?layers?\.", "blocks."),
    (r"\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(?:intermediate\.dense|mlp\.up_proj)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)
TRANSFORMERS_RESNET: Final = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
)


def to_timm(state: Mapping[str, Tensor]) -> State:
    """Rename the tensors of a trunk as timm does, and leave out what lies outside of it.

    Parameters
    ----------
    state : mapping of str to Tensor
        As read from a file.

    Returns
    -------
    dict of str to Tensor
        Empty where no known layout is recognised.
    """
    for anchor, convert in LAYOUTS.items():
        for name in state:
            if name == anchor or name.endswith("." + anchor):
                prefix = name[: -len(anchor)]
                inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
                return convert(inside)
    return {}


def _timm_vit(state: State) -> State:
    """timm, and the torch-hub files, which differ in a few names."""
    hub_v3 = "storage_tokens" in state
    names = {"storage_tokens": "reg_token", "register_tokens": "reg_token"}
    found: State = {}
    for name, value in state.items():
        if name == "mask_token" or name.startswith(("rope", "decoder_", "local_cls_norm")):
            continue
        if hub_v3 and name.endswith("qkv.bias"):
            # the bias of the keys is masked in training: it is no part of the network
            query, _, own = value.chunk(3)
            found[name.replace("qkv.bias", "q_bias")] = query
            found[name.replace("qkv.bias", "v_bias")] = own
        elif not name.endswith("bias_mask"):
            renamed = names.get(name, name)
            found[re.sub(r"\bls(\d)\.gamma$", r"gamma_\1", renamed) if hub_v3 else renamed] = value
    return found


def _transformers_vit(state: State) -> State:
    version_3 = "embeddings.patch_embeddings.weight" in state
    scale = r"gamma_\1" if version_3 else r"ls\1.gamma"
    rules = (*TRANSFORMERS_VIT, (r"layer_scale(\d)\.lambda1$", scale))
    found: State = {}
    for name, value in state.items():
        if name == "embeddings.mask_token" or name.startswith(("pooler.", "rope")):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    for name in [name for name in found if name.endswith(".attn.q.weight")]:
        start = name.removesuffix("q.weight")
        parts = [found.pop(f"{start}{part}.weight") for part in "qkv"]
        found[f"{start}qkv.weight"] = torch.cat(parts)
        biases = {part: found.pop(f"{start}{part}.bias", None) for part in "qkv"}
        given = {part: bias for part, bias in biases.items() if bias is not None}
        if len(given) == 3:
            found[f"{start}qkv.bias"] = torch.cat(list(given.values()))
        else:
            found |= {f"{start}{part}_bias": bias for part, bias in given.items()}
    return found


def _timm(state: State) -> State:
    return state


def _transformers_resnet(state: State) -> State:
    rules = (
        *TRANSFORMERS_RESNET,
        (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
        (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
        (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
    )
    found: State = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


LITE_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-Lite0."""


def _plain_efficientnet(state: State) -> State:
    """EfficientNet-Lite0 with blocks counted through, as TensorFlow's weights were once ported."""
    places = [f"blocks.{i}.{j}" for i, count in enumerate(LITE_STAGES) for j in range(count)]
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    first["_bn2"] = "bn2"
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    later |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    found: State = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            block = int(parts[1])
            if block >= len(places):
                return {}
            inner = (later if block else first).get(parts[2], parts[2])
            found[".".join([places[block], inner, *parts[3:]])] = value
        else:
            found[".".join([top.get(parts[0], parts[0]), *parts[1:]])] = value
    return found


LAYOUTS: Final[dict[str, Callable[[State], State]]] = {
    "patch_embed.proj.weight": _timm_vit,
    "embeddings.patch_embeddings.projection.weight": _transformers_vit,
    "embeddings.patch_embeddings.weight": _transformers_vit,
    "embedder.embedder.convolution.weight": _transformers_resnet,
    "_conv_stem.weight": _plain_efficientnet,
    "conv_stem.weight": _timm,
    # not conv1.weight: every block has one too
    "layer1.0.conv1.weight": _timm,
}
"""What a layout is recognised by, and how it is converted."""


def describe_state(state: Mapping[str, Tensor]) -> str:
    """Say in timm's words what a state in timm's names is of, as far as it shows."""
    patch = state.get("patch_embed.proj.weight")
    if patch is not None and patch.ndim == 4:
        sizes = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
        size = sizes.get(patch.shape[0], f"{patch.shape[0]} wide")
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        extras = [
            text
            for key, text in (
                ("reg_token", "register tokens"),
                ("blocks.0.ls1.gamma", "layer scale (as DINOv2)"),
                ("blocks.0.gamma_1", "layer scale and rotary positions (as DINOv3)"),
            )
            if key in state
        ]
        return " with ".join(
            [f"a ViT {size}, patch {patch.shape[-1]}, {depth} blocks", *extras[:1]]
        )
    counts = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")})
        for i in (1, 2, 3, 4)
    ]
    if counts[0]:
        deep = "layer1.0.conv3.weight" in state
        known = {
            ((2, 2, 2, 2), False): "resnet18",
            ((3, 4, 6, 3), False): "resnet34",
            ((3, 4, 6, 3), True): "resnet50",
            ((3, 4, 23, 3), True): "resnet101",
        }
        return known.get(
            ((counts[0], counts[1], counts[2], counts[3]), deep), f"a ResNet of {counts} blocks"
        )
    if "conv_stem.weight" in state:
        return "an EfficientNet"
    return "none that cyclades knows"
