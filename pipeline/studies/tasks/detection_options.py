"""Options of the tasks that find sources."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.catalogue_labels import CatalogueOptions
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.specification import HeadSpec, InputSpec

OWN = ("name", "network", "adaptation", "data", "validation", "seed", "licence", "threads")
"""Options of a training that the study sets itself."""


class DetectionOptions(Options):
    """What the tasks that find sources have in common: head, training and judgement."""

    without: ClassVar[tuple[str, ...]] = ("random",)
    """Modes that the task has no cells of."""

    head: HeadSpec = parameter(
        HeadSpec(name="mask_rcnn", options={"hidden": 192}), "Head on the backbone's features."
    )
    input: InputSpec = parameter(
        InputSpec(beam_pixels=(3.5, 8.0)), "Stretches, beam range and mesh of the input."
    )
    training: dict[str, Any] = parameter(
        {"size": 256, "batch": 8, "steps": 1000, "learning_rate": 1e-3, "warm_up": 50},
        "Options of `cyclades train`, as size, batch, steps, learning_rate, augmentation, workers.",
    )
    layer_decay: float = parameter(
        0.9, "Factor on the learning rate from each layer to the one before it, fine-tuned.",
        gt=0.0, le=1.0,
    )  # fmt: skip
    rank: int = parameter(8, "Of the adapters.", ge=1)
    reliability: float = parameter(
        0.95, "Reliability at which completeness is taken.", gt=0.0, lt=1.0
    )
    tiles: int = parameter(128, "Tiles of the test.", ge=2)

    @model_validator(mode="after")
    def _free(self) -> "DetectionOptions":
        taken = sorted(set(self.training) & set(OWN))
        if taken:
            raise ValueError(f"training.{taken[0]} is set by the study itself")
        return self


class SimulatedDetectionOptions(DetectionOptions):
    """Sources in simulated fields; a label is one labelled tile."""

    kind: Literal["simulated_detection"] = "simulated_detection"
    data: SimulatedOptions = parameter(SimulatedOptions(preset="mixed"), "Simulated sky.")
    labelled: int = parameter(1024, "Labelled tiles that there are in all.", ge=8)


class SurveyDetectionOptions(SimulatedDetectionOptions):
    """Sources in fields as MeerKAT surveys them, or in survey images with a catalogue."""

    kind: Literal["survey_detection"] = "survey_detection"  # type: ignore[assignment]
    data: SimulatedOptions = parameter(SimulatedOptions(preset="meerkat"), "Simulated sky.")
    test: CatalogueOptions | None = parameter(
        None, "Real images with their catalogue to test on instead of simulated tiles."
    )


class FirstDetectionOptions(DetectionOptions):
    """Radio galaxies in real FIRST fields with Radio Galaxy Zoo labels; a label is one field."""

    kind: Literal["first_detection"] = "first_detection"
    images: str | tuple[str, ...] | None = parameter(
        None, "FITS fields, as in folder/*.fits.gz, or a list of these."
    )
    labels: str | None = parameter(None, "Table of the consensus sources of all fields.")
    image: ImageOptions = parameter(
        ImageOptions(beam="5.4arcsec"), "How the fields are read; FIRST's say no beam."
    )
    consensus: float = parameter(
        0.6, "Labels on which a smaller share of volunteers agreed are ignored.", ge=0.0, le=1.0
    )
    test_share: float = parameter(0.4, "Share of the fields to test on.", gt=0.0, lt=1.0)
    separation: float = parameter(
        780.0,
        "Fields whose centres are nearer than this are on one side.",
        unit="arcsec",
        ge=0.0,
    )
    crops: int = parameter(4, "Test crops a field, off its centre.", ge=1)
