"""The configuration of a pre-training: what ``cyclades pretrain --config FILE`` reads."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cyclades.pipeline.training.augmentation import AugmentationOptions
from cyclades.pipeline.training.options import RunOptions
from cyclades.pipeline.training.pretraining.contrast import ContrastOptions
from cyclades.pipeline.training.pretraining.crops import SkyData
from cyclades.pipeline.training.pretraining.curation import CurationOptions
from cyclades.pipeline.training.pretraining.distillation import DistillationOptions
from cyclades.pipeline.training.pretraining.masked import MaskedOptions
from cyclades.pipeline.training.pretraining.probe import ProbeOptions
from cyclades.pipeline.training.pretraining.teaching import TeachingOptions
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.specification import BackboneSpec, InputSpec, PretrainedSpec

PretextOptions = Annotated[
    MaskedOptions | DistillationOptions | ContrastOptions | TeachingOptions,
    Field(discriminator="kind"),
]


class PretrainingOptions(RunOptions):
    """A whole pre-training."""

    name: str = parameter("backbone", "Name of the file of weights and of the card.")
    backbone: BackboneSpec = parameter(
        BackboneSpec(name="vit_tiny_patch16_224", options={"patch_size": 8, "token_stride": 8}),
        "Backbone; `weights` says where it starts from, strides and channels mean nothing here.",
    )
    input: InputSpec = parameter(
        InputSpec(beam_pixels=(3.5, 8.0)), "Stretches, beam range and mesh of the input."
    )
    pretext: PretextOptions = parameter(
        MaskedOptions(), "What is learnt: `mae`, `dino`, `contrast` or `teacher`."
    )
    data: SkyData = parameter(SimulatedOptions(), "Where unlabelled sky comes from.")
    curation: CurationOptions = parameter(CurationOptions(), "Which crops are taken.")
    augmentation: AugmentationOptions = parameter(
        AugmentationOptions(mirror_corners=True), "Changes of each view before it is seen."
    )
    probe: ProbeOptions = parameter(ProbeOptions(), "What is measured at the checkpoints.")
    size: int = parameter(224, "Side of the crops.", unit="pixels", ge=32)
    field: int = parameter(
        512, "Side of the pieces of sky that crops are taken from.", unit="pixels", ge=32
    )
    crops_a_field: int = parameter(8, "Crops taken from each of them.", ge=1)
    fields_at_once: int = parameter(
        1,
        "Pieces of sky among which crops take turns, so that those of one batch are of many; each "
        "worker keeps its own.",
        ge=1,
    )
    half: bool = parameter(True, "Whether weights are written as 16-bit floats.")

    @model_validator(mode="after")
    def _together(self) -> "PretrainingOptions":
        transformer = self.backbone.name.startswith("vit_")
        pretext = self.pretext
        if isinstance(pretext, MaskedOptions):
            if not transformer:
                raise ValueError(
                    "a masked autoencoder hides tokens, which only vision transformers have; for "
                    f"{self.backbone.name} give pretext: {{kind: dino}}"
                )
            if pretext.decoder_width % pretext.decoder_heads:
                raise ValueError("pretext.decoder_heads divides pretext.decoder_width")
        elif isinstance(pretext, DistillationOptions) and pretext.patch_weight and not transformer:
            raise ValueError(
                "only vision transformers have patches to hide; for "
                f"{self.backbone.name} give pretext.patch_weight: 0"
            )
        stride = int(self.backbone.options.get("token_stride", 16)) if transformer else 32
        if self.size % stride:
            raise ValueError(f"size is a multiple of {stride}, from one feature to the next")
        if self.field < self.size:
            raise ValueError("field is at least as large as size")
        return self

    def specification(self) -> PretrainedSpec:
        """Return what the file of weights will say."""
        record: dict[str, Any] = self.model_dump(mode="json", exclude={"threads", "workers"})
        return PretrainedSpec(
            name=self.name,
            backbone=self.backbone,
            input=self.input,
            licence=self.licence,
            training={
                "configuration": record, "steps": self.steps, "pretext": self.pretext.kind,
            },
        )  # fmt: skip
