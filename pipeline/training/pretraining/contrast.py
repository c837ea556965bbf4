"""Contrast: two views of one crop are to be found again among those of all others.

SimCLR (Chen et al. 2020, arXiv:2002.05709) with the loss and the head of the package lightly. There
is no teacher, which in self-distillation has to become worth following first. The feature that is
compared is the mean over the grid, not the class token: a detector uses the grid, and so every part
of it is trained.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.pretraining.encoding import feature_map, width_of
from cyclades.pipeline.training.pretraining.pretext import Pretext
from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.backbones import Backbone


class ContrastOptions(Options):
    """Contrast of crops."""

    kind: Literal["contrast"] = "contrast"
    spread: float = parameter(
        0.25, "How far views may lie off the middle of the crop, in sides of it.", ge=0.0, le=1.0
    )
    hidden: int = parameter(512, "Width of the head's hidden layer.", ge=16)
    width: int = parameter(128, "Features that are compared.", ge=8)
    temperature: float = parameter(
        0.2, "By which cosines are divided: small ones look at the most similar crops.", gt=0.0
    )


class Contrast(Pretext):
    """Two views of a crop are alike, those of different crops of a batch are not.

    Parameters
    ----------
    options : ContrastOptions
    backbone : Backbone
        Without a neck, changed in place.
    size : int
        Side of the views in pixels.

    Raises
    ------
    ConfigurationError
        Where the package lightly is missing.
    """

    def __init__(self, options: ContrastOptions, backbone: Backbone, size: int) -> None:
        super().__init__(backbone)
        self.options = options
        self.sizes = (ViewSizes(size, 2),)
        try:
            from lightly.loss import NTXentLoss
            from lightly.models.modules import SimCLRProjectionHead
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The pretext contrast needs the package {error.name!r}; install "
                "cyclades[pretraining], or take the pretext mae."
            ) from error
        self.head: nn.Module = SimCLRProjectionHead(
            width_of(backbone), options.hidden, options.width
        )
        self.loss: Any = NTXentLoss(options.temperature)

    def forward(self, views: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Cross entropy of finding the other view; see `Pretext.forward`."""
        images = views[0].transpose(0, 1).flatten(0, 1)  # view by view
        compared = self.head(feature_map(self.backbone, images).mean((2, 3))).float()
        with torch.autocast(images.device.type, enabled=False):
            return {"loss_contrast": self.loss(*compared.chunk(2))}
