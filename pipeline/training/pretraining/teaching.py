"""Teaching: a small network learns on radio sky to say of it what a large one says.

The features of a frozen teacher at every place are to be told from the same view, as foundation
models are merged in AM-RADIO (Ranzinger et al. 2024, arXiv:2312.06709). Every place of a view is a
lesson of many numbers, so that far fewer views are needed than without a teacher; but what the
teacher does not see in radio sky, its student does not learn.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.pretraining.encoding import feature_map, stride_of, width_of
from cyclades.pipeline.training.pretraining.pretext import Pretext
from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.backbones import Backbone, build_backbone
from cyclades.stages.networks.pretrained import load_pretrained
from cyclades.stages.networks.specification import BackboneSpec

_TEACHER = BackboneSpec(
    name="vit_small_patch14_dinov2", weights="dinov2-s-derived", options={"taps": [6, 9, 12]}
)


class TeachingOptions(Options):
    """Features of a frozen teacher."""

    kind: Literal["teacher"] = "teacher"
    teacher: BackboneSpec = parameter(
        _TEACHER, "The teacher and its weights; all blocks that it taps are told."
    )


class Teaching(Pretext):
    """A student that tells the features of its teacher, place by place.

    Each feature of the teacher is told in units of its own deviation over the batch, about its
    mean: features that are much the same everywhere count as much as others.

    Parameters
    ----------
    options : TeachingOptions
    backbone : Backbone
        The student, without a neck, changed in place.
    size : int
        Side of the views in pixels.

    Raises
    ------
    ConfigurationError
        Where the teacher has no weights, or its features lie on another grid.
    InputError
        Where the teacher's weights cannot be had.
    """

    def __init__(self, options: TeachingOptions, backbone: Backbone, size: int) -> None:
        super().__init__(backbone)
        self.options = options
        self.sizes = (ViewSizes(size, 1),)
        teacher = build_backbone(options.teacher, backbone.in_channels)
        if options.teacher.weights is None:
            raise ConfigurationError(
                "A teacher of random numbers has nothing to tell; give pretext.teacher.weights."
            )
        load_pretrained(teacher, options.teacher.weights)
        if stride_of(teacher) != stride_of(backbone):
            raise ConfigurationError(
                f"Features of the teacher are {stride_of(teacher)} pixels apart, those of "
                f"{backbone.name} {stride_of(backbone)}; give both the same token_stride."
            )
        teacher.neck = nn.Identity()
        # in a list it is no part of the state, and no checkpoint holds it
        self._teacher = [teacher.eval().requires_grad_(False)]
        with torch.no_grad():
            width = feature_map(teacher, torch.zeros(1, backbone.in_channels, size, size)).shape[1]
        self.scale = nn.BatchNorm2d(width, affine=False)
        self.tell = nn.Conv2d(width_of(backbone), width, 1)

    def forward(self, views: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Mean squared difference to the teacher's features; see `Pretext.forward`.

        Most places show noise. Squared, what is far from the mean counts for more: sources.
        """
        images = views[0].flatten(0, 1)
        teacher = self._teacher[0].to(images.device)
        with torch.no_grad():
            wanted: Any = self.scale(feature_map(teacher, images).float())
        told = self.tell(feature_map(self.backbone, images)).float()
        with torch.autocast(images.device.type, enabled=False):
            return {"loss_teacher": functional.mse_loss(told, wanted)}
