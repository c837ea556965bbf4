"""Networks that predict a set of objects: those of the package transformers.

A network is built from a configuration of transformers: one of ours, small and fine enough for
sources of a few pixels, or that of a checkpoint (`set_checkpoints`). Nothing is fetched.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForObjectDetection
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion

KIND = "model_type"
"""Entry of a configuration that names the architecture; a configuration that has it is whole."""
UNBUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_NOT_KEPT = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype",
             "transformers_version")  # fmt: skip
_TILE = 256
_LEVELS = 3
_PRIOR = 0.01
"""Score of each class before training, so that the many queries without an object do not drown
the few that have one (Lin et al. 2017, arXiv:1708.02002)."""


def small_configuration(
    kind: str,
    *,
    stride: int,
    channels: tuple[int, ...],
    blocks: int,
    width: int,
    attention_heads: int,
    encoder_layers: int,
    decoder_layers: int,
) -> dict[str, Any]:
    """Return a configuration of an architecture, with a finest stride fit for small sources.

    Parameters
    ----------
    kind : str
        As transformers names it: ``detr``, ``conditional_detr``, ``deformable_detr``, ``rt_detr``,
        ``rt_detr_v2``, ``d_fine``, ``yolos`` or ``rf_detr``.
    stride : int
        Finest, in pixels: 4 or twice a stride for those that have a ResNet as backbone, the side of
        the patches for `yolos` and `rf_detr`.
    channels : tuple of int
        Of the stages of the ResNet, from stride 4 on; as many are taken as needed.
    blocks : int
        Of each stage.
    width : int
        Of the transformer.
    attention_heads, encoder_layers, decoder_layers : int
        Of the transformer. `yolos` has an encoder alone; the encoder of `rf_detr` is its backbone.

    Raises
    ------
    ConfigurationError
        Where the stride is none that the architecture can have.
    """
    layers = {
        "decoder_layers": decoder_layers,
        "decoder_attention_heads": attention_heads,
        "decoder_ffn_dim": 4 * width,
        "d_model": width,
    }
    if kind == "yolos":
        return {
            "hidden_size": width,
            "num_hidden_layers": encoder_layers,
            "num_attention_heads": attention_heads,
            "intermediate_size": 4 * width,
            "patch_size": stride,
            "image_size": [_TILE, _TILE],
            "use_mid_position_embeddings": False,
        }
    if kind == "rf_detr":
        backbone = {
            KIND: "rf_detr_dinov2",
            "hidden_size": width,
            "num_hidden_layers": encoder_layers,
            "num_attention_heads": attention_heads,
            "patch_size": stride,
            "image_size": _TILE,
            "num_windows": 1,
            "use_mask_token": False,
            "out_indices": list(range(1, encoder_layers + 1)),
        }
        del layers["decoder_attention_heads"]
        return {
            **layers,
            "backbone_config": backbone,
            "decoder_self_attention_heads": attention_heads,
            "decoder_cross_attention_heads": attention_heads,
            "dropout": 0.0,
            "group_detr": 1,
        }
    levels = 1 if kind in ("detr", "conditional_detr") else _LEVELS
    first = math.log2(stride) - 2 if stride > 0 else -1.0
    if first < 0 or first % 1 or first + levels > len(channels):
        known = [4 << i for i in range(len(channels) - levels + 1)]
        raise ConfigurationError(
            f"{kind} with {len(channels)} channels has a finest stride of "
            f"{' or '.join(map(str, known)) or 'nothing'}, not {stride}; change the options stride "
            "or channels."
        )
    last = int(first) + levels
    backbone = {
        KIND: "resnet",
        "embedding_size": channels[0],
        "hidden_sizes": list(channels[:last]),
        "depths": [blocks] * last,
        "layer_type": "basic",
        "out_features": [f"stage{i}" for i in range(int(first) + 1, last + 1)],
    }
    made = {
        **layers,
        "backbone_config": backbone,
        "encoder_layers": encoder_layers,
        "encoder_attention_heads": attention_heads,
        "encoder_ffn_dim": 4 * width,
        "dropout": 0.0,
    }
    if kind in ("rt_detr", "rt_detr_v2", "d_fine"):
        made |= {
            "encoder_hidden_dim": width,
            "encoder_in_channels": list(channels[int(first) : last]),
            "decoder_in_channels": [width] * levels,
            "feat_strides": [stride << i for i in range(levels)],
            "encode_proj_layers": [levels - 1],
            "num_feature_levels": levels,
            "freeze_backbone_batch_norms": False,
        }
    elif kind == "deformable_detr":
        made |= {"num_feature_levels": levels, "with_box_refine": True}
    return made


def whole_configuration(
    entries: Mapping[str, Any], *, classes: int, channels: int, queries: int | None
) -> Any:
    """Return a configuration of transformers.

    Parameters
    ----------
    entries : mapping
        With ``model_type``; the rest as that architecture has it.
    classes, channels : int
        Of the images and objects, which take the place of what the entries say.
    queries : int, optional
        Number of queries instead of that of the entries.

    Raises
    ------
    ConfigurationError
        Where there is no such architecture, or it has no such entries.
    """
    kind = str(entries[KIND])
    if kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        known = list(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
        raise ConfigurationError(
            f"transformers has no detector of objects of the model_type {kind!r}"
            f"{suggestion(kind, known)}; it has {', '.join(known)}."
        )
    given = {key: value for key, value in entries.items() if key != KIND and key not in _NOT_KEPT}
    # weights of backbones are those of the whole network
    given = _without_weights(given)
    try:
        config = CONFIG_MAPPING[kind].from_dict(given)
    except UNBUILDABLE as error:
        raise ConfigurationError(
            f"The configuration of {kind} is wrong ({first_line(error)}); correct it."
        ) from error
    changes = {
        "num_labels": classes,
        "num_queries": queries,
        "num_detection_tokens": queries,
        "num_channels": channels,
        "auxiliary_loss": kind != "yolos",  # whose layers before the last are not given
        # they would be taught ignored objects
        "num_denoising": 0,
    }
    for name, value in changes.items():
        if value is not None and hasattr(config, name):
            setattr(config, name, value)
    backbone = getattr(config, "backbone_config", None)
    if backbone is not None and hasattr(backbone, "num_channels"):
        backbone.num_channels = channels
    if getattr(config, "two_stage", False):
        raise ConfigurationError(
            f"Proposals of {kind} in two stages are not learned here; take a checkpoint of one "
            "stage, or rt_detr."
        )
    return config


def check_entries(kind: str, entries: Mapping[str, Any]) -> None:
    """Refuse entries that configurations of an architecture do not have.

    Raises
    ------
    ConfigurationError
    """
    made = CONFIG_MAPPING[kind]()
    known = [*made.to_dict(), *made.attribute_map]
    for name in entries:
        if name not in known:
            raise ConfigurationError(
                f"A configuration of {kind} has no entry {name!r}{suggestion(name, known)}; see "
                "the documentation of transformers, and correct the option configuration."
            )


def plain(config: Any) -> dict[str, Any]:
    """Return all entries of a configuration that say how its network is built, as JSON has them."""
    entries = {name: v for name, v in config.to_dict().items() if name not in _NOT_KEPT}
    made: dict[str, Any] = json.loads(json.dumps(_without_weights(entries)))
    return made


def _without_weights(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries without any that would have transformers or timm fetch something."""
    made = dict(entries)
    for name in ("use_pretrained_backbone", "use_timm_backbone", "backbone", "backbone_kwargs"):
        if isinstance(made.get("backbone_config"), dict):
            made.pop(name, None)
    backbone = made.get("backbone_config")
    if isinstance(backbone, dict):
        inner = {k: v for k, v in backbone.items() if k not in _NOT_KEPT}
        if "use_pretrained_backbone" in inner:
            inner["use_pretrained_backbone"] = False
        made["backbone_config"] = inner
    elif "use_pretrained_backbone" in made:
        made["use_pretrained_backbone"] = False
    return made


def build_network(config: Any, *, fresh: bool) -> Any:
    """Build a network of random numbers.

    Parameters
    ----------
    config : PreTrainedConfig
    fresh : bool
        Whether it is to be trained from there. transformers then freezes too much and starts from
        too small numbers: convolutions and linear layers get those that the authors' own code
        gives them, frozen batch normalisations become learned ones.

    Raises
    ------
    ConfigurationError
        Where transformers cannot build it.
    """
    try:
        with quiet():
            model = AutoModelForObjectDetection.from_config(config)
    except UNBUILDABLE as error:
        raise ConfigurationError(
            f"transformers cannot build the {config.model_type} that is described "
            f"({first_line(error)}); correct the options of the head."
        ) from error
    model.float()
    if fresh:
        _thaw(model)
        _start(model)
    _start_classes(model, config.num_labels)
    # all of it is trained: where to start is one thing, radio sky another
    return model.requires_grad_(True)


def _thaw(module: nn.Module) -> None:
    """Replace frozen batch normalisations, which of random numbers do not normalise."""
    for name, child in list(module.named_children()):
        if type(child).__name__.endswith("FrozenBatchNorm2d"):
            setattr(module, name, nn.BatchNorm2d(len(child.weight)))  # type: ignore[arg-type]
        else:
            _thaw(child)


@torch.no_grad()
def _start(model: nn.Module) -> None:
    """Draw the first numbers; what is zero, or set otherwise by purpose, stays."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Embedding) and bool(module.weight.any()):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and weight is not None and bool(weight.any()):
            nn.init.xavier_uniform_(module.weight)
    for name, parameter in model.named_parameters():
        # alike for all queries, they would stay alike
        if name.endswith(("detection_tokens", "cls_token", "position_embeddings")):
            nn.init.trunc_normal_(parameter, std=0.02)
        # proposals move from where they are
        elif name.endswith("reference_point_embed.weight"):
            nn.init.zeros_(parameter)


@torch.no_grad()
def _start_classes(model: nn.Module, classes: int) -> None:
    for name, module in model.named_modules():
        said = "class" in name or "score" in name
        if isinstance(module, nn.Linear) and said and module.out_features == classes:
            nn.init.constant_(module.bias, -math.log((1.0 - _PRIOR) / _PRIOR))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars back; what is wrong is said in one sentence."""
    log = transformers.logging
    level, shown = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
