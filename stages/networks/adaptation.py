"""How much of a pre-trained trunk is trained: nothing, its last layers, all, or small additions.

Neck, convolutional stem and head are always trained. Low-rank adapters are those of Hu et al.
2021 (arXiv:2106.09685): the change of a weight matrix is the product of two thin ones.
"""

import re
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.backbones import Backbone

Mode = Literal["frozen", "partly_frozen", "fine_tuned", "adapters", "scratch"]
ADAPTED = re.compile(
    r"(attn\.(qkv|proj)|mlp\.fc\d|layer\d\.\d+\.conv\d|blocks\.\d+\.\d+\.conv_\w+)"
)
"""Names of the layers of ViTs, ResNets and EfficientNets that take adapters."""
NO_DECAY = re.compile(r"(pos_embed|cls_token|reg_token|mask_token|gamma|ls\d\.gamma)")


class LowRank(nn.Module):
    """A weight plus a change of low rank; nothing at first.

    Parameters
    ----------
    weight : Tensor, shape (out, in, ...)
    rank : int
        Of the change.
    scale : float
        Factor on the change.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def prepare(
    backbone: Backbone,
    mode: Mode,
    *,
    trained_layers: int = 2,
    rank: int = 8,
    scale: float = 1.0,
) -> None:
    """Set what of a backbone is trained; call it after the weights are loaded.

    Parameters
    ----------
    backbone : Backbone
        Changed in place.
    mode : str
        ``frozen``: nothing of the trunk changes, neither parameters nor the statistics of batch
        normalisation. ``partly_frozen``: all but the last layers. ``fine_tuned``: all is trained
        (see `parameter_groups` for smaller steps towards the image). ``adapters``: frozen, with
        low-rank adapters. ``scratch``: all is trained, from random numbers.
    trained_layers : int
        Of ``partly_frozen``: layers of the trunk to train (stages of a ResNet or EfficientNet,
        blocks of a ViT), counted from the end.
    rank, scale : int, float
        Of ``adapters``: rank of the changes, and the factor on them.

    Raises
    ------
    ConfigurationError
        Where the mode is unknown or a number is out of range.
    """
    trunk = backbone.trunk
    if mode in ("fine_tuned", "scratch"):
        trunk.requires_grad_(True)
        backbone.hold(())
    elif mode == "frozen":
        trunk.requires_grad_(False)
        backbone.hold([trunk])
    elif mode == "partly_frozen":
        _freeze_first(backbone, trained_layers)
    elif mode == "adapters":
        trunk.requires_grad_(False)
        backbone.hold([trunk])
        _add_adapters(trunk, rank, scale)
    else:
        raise ConfigurationError(
            f"There is no mode {mode!r} of training a backbone; there are frozen, partly_frozen, "
            "fine_tuned, adapters and scratch."
        )


def _freeze_first(backbone: Backbone, trained: int) -> None:
    depth = len(backbone.layers())
    if not 1 <= trained < depth:
        raise ConfigurationError(
            f"trained_layers={trained} of {backbone.name} must be from 1 to {depth - 1}; it has "
            f"{depth} layers."
        )
    first = depth - trained
    for name, parameter in backbone.trunk.named_parameters():
        parameter.requires_grad_(backbone.layer(name) >= first)
    backbone.hold(
        [
            module
            for name, module in backbone.trunk.named_modules()
            if name
            and backbone.layer(name) < first
            # not what holds frozen and trained layers
            and not any(parameter.requires_grad for parameter in module.parameters())
        ]
    )


def _add_adapters(trunk: nn.Module, rank: int, scale: float) -> None:
    if rank < 1:
        raise ConfigurationError(f"rank={rank} of the adapters must be 1 or more.")
    for name, module in list(trunk.named_modules()):
        plain = isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.groups == 1
        )
        if plain and ADAPTED.search(name) and not parametrize.is_parametrized(module):
            weight: Any = module.weight
            low_rank = LowRank(weight, min(rank, weight.shape[0], weight[0].numel()), scale)
            parametrize.register_parametrization(module, "weight", low_rank)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Fold adapters into the weights, so that the network is a plain one again.

    Parameters
    ----------
    model : Module
        A backbone, or anything that holds one; changed in place. Its adapted weights stay frozen.
    """
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module, "weight"):
            continue
        added: Any = module.parametrizations
        if all(isinstance(part, LowRank) for part in added["weight"]):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            module.get_parameter("weight").requires_grad_(False)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    *,
    layer_decay: float = 1.0,
    weight_decay: float = 0.0,
    backbone_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameters that are trained, in groups for an optimiser.

    Parameters
    ----------
    model : Module
        A backbone, or a network that holds one as ``backbone``.
    learning_rate : float
        Of everything but the trunk, and of the trunk's deepest layer times `layer_decay`.
    layer_decay : float
        Factor on the learning rate from one layer of the trunk to the next one towards the image,
        0 to 1 (Clark et al. 2020, arXiv:2003.10555).
    weight_decay : float
        Of matrices and convolutions; biases, norms and tokens get none.
    backbone_factor : float
        Factor on the learning rate of the backbone inside a whole network, where its head says
        which parameters these are (a method ``in_backbone(name)``).

    Returns
    -------
    list of dict
        With ``params``, ``lr``, ``weight_decay`` and ``name``.
    """
    if not 0 < layer_decay <= 1:
        raise ConfigurationError(f"layer_decay={layer_decay} must be above 0 and at most 1.")
    backbone = model if isinstance(model, Backbone) else getattr(model, "backbone", None)
    trunk = backbone.trunk if isinstance(backbone, Backbone) else None
    names = {} if trunk is None else {id(p): name for name, p in trunk.named_parameters()}
    depth = len(backbone.layers()) if isinstance(backbone, Backbone) else 0
    inside = getattr(getattr(model, "head", None), "in_backbone", None)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = names.get(id(parameter))
        label, rate = "new", learning_rate
        if inner is not None and isinstance(backbone, Backbone):
            layer = backbone.layer(inner)
            label, rate = f"trunk {layer}", learning_rate * layer_decay ** (depth - layer)
        elif inside is not None and inside(parameter_name.removeprefix("head.")):
            label, rate = "backbone", learning_rate * backbone_factor
        decays = parameter.ndim > 1 and not NO_DECAY.search(inner or parameter_name)
        group = groups.setdefault(
            (label, decays),
            {
                "params": [],
                "lr": rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": label if decays else f"{label}, no decay",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
