"""Self-distillation: a student tells of one view of a crop what its teacher says of another.

The teacher is a running mean of the student. As in DINO (Caron et al. 2021, arXiv:2104.14294) what
they tell is a distribution over prototypes, of large and small views for the student, of large ones
alone for the teacher. As in iBOT and DINOv2 (Zhou et al. 2022, arXiv:2111.07832; Oquab et al. 2024,
arXiv:2304.07193) the student may have to tell hidden patches too, and vectors may be kept apart
(KoLeo, Sablayrolles et al. 2019, arXiv:1806.03198). Losses and heads are those of the package
lightly.
"""

import random
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.pretraining.encoding import (
    encode,
    plain_transformer,
    stride_of,
    whole_feature,
    width_of,
)
from cyclades.pipeline.training.pretraining.pretext import Pretext
from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.backbones import Backbone, TransformerBackbone


class DistillationOptions(Options):
    """Self-distillation as in DINO, or with patches and KoLeo as in DINOv2."""

    kind: Literal["dino"] = "dino"
    local_views: int = parameter(4, "Small views of a crop, beside two of its full size.", ge=0)
    local_size: int = parameter(64, "Side of the small views.", unit="pixels", ge=16)
    spread: float = parameter(
        0.25, "How far views may lie off the middle of the crop, in sides of it.", ge=0.0, le=1.0
    )
    hidden: int = parameter(1024, "Width of the head's hidden layers.", ge=16)
    bottleneck: int = parameter(192, "Width of the layer before the prototypes.", ge=8)
    prototypes: int = parameter(4096, "Prototypes.", ge=16)
    momentum: float = parameter(
        0.99, "Of the teacher, at first; it rises to 1 as a cosine.", gt=0.0, le=1.0
    )
    student_temperature: float = parameter(0.1, "Of the student's distribution.", gt=0.0)
    teacher_temperature: float = parameter(0.05, "Of the teacher's, after the warm-up.", gt=0.0)
    first_teacher_temperature: float = parameter(0.04, "Of the teacher's, at first.", gt=0.0)
    temperature_warm_up: int = parameter(500, "Steps between the two.", ge=0)
    centre_momentum: float = parameter(
        0.9, "Of the running mean that is taken off the teacher's output.", ge=0.0, lt=1.0
    )
    frozen_prototypes: int = parameter(100, "First steps in which prototypes stay.", ge=0)
    patch_weight: float = parameter(
        0.0, "Weight of the loss of hidden patches (iBOT); 1 as in DINOv2, 0 for none.", ge=0.0
    )
    patch_ratio: tuple[float, float] = parameter(
        (0.1, 0.5), "Least and largest part of the tokens hidden in half of the large views."
    )
    koleo_weight: float = parameter(
        0.0, "Weight of the loss that keeps vectors apart; 0.1 as in DINOv2, 0 for none.", ge=0.0
    )

    @model_validator(mode="after")
    def _in_order(self) -> "DistillationOptions":
        if not 0.0 < self.patch_ratio[0] <= self.patch_ratio[1] < 1.0:
            raise ValueError("patch_ratio goes from a part above 0 to a larger one below 1")
        return self


class SelfDistillation(Pretext):
    """Student and teacher.

    Parameters
    ----------
    options : DistillationOptions
    build : callable
        Makes a backbone without a neck.
    size : int
        Side of the large views in pixels.
    steps : int
        Of the whole run.

    Raises
    ------
    ConfigurationError
        Where the package lightly is missing, or sizes or the backbone do not fit.
    """

    def __init__(
        self, options: DistillationOptions, build: Callable[[], Backbone], size: int, steps: int
    ) -> None:
        super().__init__(build())
        lightly = _lightly()
        self.options, self.steps = options, steps
        self._update: Any = lightly["update_momentum"]
        self._mask: Any = lightly["random_block_mask"]
        stride = stride_of(self.backbone)
        small = (ViewSizes(options.local_size, options.local_views),) if options.local_views else ()
        if small and options.local_size % stride:
            raise ConfigurationError(
                f"pretext.local_size={options.local_size} must be a multiple of {stride}, from one "
                f"feature of {self.backbone.name} to the next."
            )
        self.sizes = (ViewSizes(size, 2), *small)
        self.teacher = build()
        self.head: nn.Module = self._new_head(lightly)
        self.teacher_head: nn.Module = self._new_head(lightly)
        self.loss = lightly["DINOLoss"](
            output_dim=options.prototypes,
            student_temp=options.student_temperature,
            teacher_temp=options.teacher_temperature,
            center_momentum=options.centre_momentum,
        )
        self.koleo = lightly["KoLeoLoss"]()
        self.grid = size // stride
        self.plain: TransformerBackbone | None = None
        if options.patch_weight:
            self.plain = plain_transformer(self.backbone, "The loss of hidden patches")
            self.plain_teacher = plain_transformer(self.teacher, "The loss of hidden patches")
            self.mask_token = nn.Parameter(torch.zeros(width_of(self.backbone)))
            self.patch_loss = lightly["IBOTPatchLoss"](
                output_dim=options.prototypes,
                student_temp=options.student_temperature,
                teacher_temp=options.teacher_temperature,
                center_momentum=options.centre_momentum,
            )
        self.copy_to_teacher()

    def _new_head(self, lightly: dict[str, Any]) -> nn.Module:
        o = self.options
        # torch's own remark on the kind of weight normalisation that the head is made with
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            made: nn.Module = lightly["DINOProjectionHead"](
                width_of(self.backbone), o.hidden, o.bottleneck, o.prototypes,
                batch_norm=not isinstance(self.backbone, TransformerBackbone),
            )  # fmt: skip
        return made

    def copy_to_teacher(self) -> None:
        """Make the teacher what the student is."""
        for student, teacher in self._pairs():
            teacher.load_state_dict(student.state_dict())
            teacher.requires_grad_(False)

    @property
    def result(self) -> Backbone:
        """The teacher, which is better than its student."""
        return self.teacher

    def forward(self, views: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Cross entropies between teacher and student; see `Pretext.forward`."""
        o = self.options
        large = views[0].transpose(0, 1).flatten(0, 1)  # view by view
        hidden = self._hidden(len(large), large.device) if self.plain is not None else None
        with torch.no_grad():
            if self.plain is None:
                whole, patches = whole_feature(self.teacher, large), None
            else:
                whole, patches = _apart(self.plain_teacher, encode(self.plain_teacher, large))
            told = self.teacher_head(whole).float()
        if self.plain is None:
            own, own_patches = whole_feature(self.backbone, large), None
        else:
            seen = encode(self.plain, large, hidden=hidden, mask_token=self.mask_token)
            own, own_patches = _apart(self.plain, seen)
        answers = list(self.head(own).float().chunk(2))
        for several in views[1:]:
            small = several.transpose(0, 1).flatten(0, 1)
            answer = self.head(whole_feature(self.backbone, small)).float()
            answers += answer.chunk(several.shape[1])
        wanted = given = None
        if patches is not None and own_patches is not None and hidden is not None and hidden.any():
            flat = hidden.flatten(1)
            with torch.no_grad():
                wanted = self.teacher_head(patches[flat]).float()
            given = self.head(own_patches[flat]).float()
        temperature = self.temperature(step)
        # sums over thousands of prototypes, in whatever precision the networks run
        with torch.autocast(large.device.type, enabled=False):
            views_loss = self.loss(list(told.chunk(2)), answers, teacher_temp=temperature)
            terms = {"loss_views": views_loss}
            if wanted is not None:
                loss = self.patch_loss(wanted, given, hidden, teacher_temp=temperature)
                terms["loss_patches"] = o.patch_weight * loss
            if o.koleo_weight:
                apart = torch.stack([self.koleo(part.float()) for part in own.chunk(2)]).sum()
                terms["loss_koleo"] = o.koleo_weight * apart
        return terms

    def temperature(self, step: int) -> float:
        """Temperature of the teacher's distribution at a step."""
        o = self.options
        share = min(1.0, step / o.temperature_warm_up) if o.temperature_warm_up else 1.0
        first, last = o.first_teacher_temperature, o.teacher_temperature
        return first + share * (last - first)

    def before_step(self, step: int) -> None:
        """Leave the prototypes as they are in the first steps."""
        if step < self.options.frozen_prototypes:
            last: Any = self.head.get_submodule("last_layer")
            for parameter_ in last.parameters():
                parameter_.grad = None

    def after_step(self, step: int) -> None:
        """Move the teacher towards the student."""
        rising = 0.5 * (1.0 + np.cos(np.pi * min(step / self.steps, 1.0)))
        momentum = 1.0 - (1.0 - self.options.momentum) * float(rising)
        for student, teacher in self._pairs():
            self._update(student, teacher, momentum)

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.backbone, self.teacher), (self.head, self.teacher_head)]

    def _hidden(self, number: int, device: torch.device) -> Tensor:
        """Hidden tokens of as many views, in blocks, drawn from torch's generator."""
        low, high = self.options.patch_ratio
        # lightly draws from Python's generator, which is tied to torch's here and put back
        state = random.getstate()
        random.seed(int(torch.randint(1 << 31, ()).item()))
        mask: Tensor = self._mask(
            (number, self.grid, self.grid),
            min_image_mask_ratio=low,
            max_image_mask_ratio=high,
            min_num_masks_per_block=min(4, max(1, int(low * self.grid**2))),
        )
        random.setstate(state)
        return mask.to(device)


def _apart(backbone: TransformerBackbone, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The vector of a crop, and those of its patches."""
    trunk: Any = backbone.trunk
    patches = tokens[:, trunk.num_prefix_tokens :]
    return (tokens[:, 0] if trunk.cls_token is not None else patches.mean(1)), patches


def _lightly() -> dict[str, Any]:
    """Losses, heads and helpers of lightly."""
    try:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import random_block_mask, update_momentum
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The pretext dino needs the package {error.name!r}; install cyclades[pretraining], or "
            "take the pretext mae."
        ) from error
    several = (
        DINOLoss, IBOTPatchLoss, KoLeoLoss, DINOProjectionHead, random_block_mask, update_momentum,
    )  # fmt: skip
    return {one.__name__: one for one in several}
