"""The configuration of a study: what ``cyclades study transfer --config FILE`` reads."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cyclades.pipeline.options import Options
from cyclades.pipeline.studies.tasks.detection_options import (
    FirstDetectionOptions,
    SimulatedDetectionOptions,
    SurveyDetectionOptions,
)
from cyclades.pipeline.studies.tasks.morphology_options import MorphologyOptions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.specification import BackboneSpec

Mode = Literal["frozen", "adapters", "fine_tuned", "scratch", "random"]
"""``random`` is the control of ``frozen``: features of a frozen network of random numbers."""
PRETRAINED = ("frozen", "adapters", "fine_tuned")
"""Modes that start from pre-trained weights."""
TaskOptions = Annotated[
    MorphologyOptions | SimulatedDetectionOptions | FirstDetectionOptions | SurveyDetectionOptions,
    Field(discriminator="kind"),
]


class LeftOut(Options):
    """Cells of the grid that are not to be computed: those that all of these name."""

    tasks: tuple[str, ...] = parameter((), "Names of tasks; all where empty.")
    backbones: tuple[str, ...] = parameter((), "Names of backbones; all where empty.")
    modes: tuple[Mode, ...] = parameter((), "Modes; all where empty.")
    fractions: tuple[float, ...] = parameter((), "Shares of the labels; all where empty.")


class StudyOptions(Options):
    """A grid of backbone x mode x labels x task x seeds."""

    backbones: Mapping[str, BackboneSpec] = parameter(
        ..., "Backbones by a name of one's own: architecture, options and weights."
    )
    modes: tuple[Mode, ...] = parameter(
        ("frozen", "adapters", "fine_tuned", "scratch", "random"),
        "What of a backbone is trained, and whether it starts from its weights.",
    )
    fractions: tuple[float, ...] = parameter(
        (0.01, 0.03, 0.1, 0.3, 0.5, 1.0), "Shares of the labels of a task."
    )
    seeds: int = parameter(3, "Draws of labels and of first numbers.", ge=1)
    tasks: Mapping[str, TaskOptions] = parameter(..., "Tasks by a name of one's own.")
    left_out: tuple[LeftOut, ...] = parameter((), "Cells that are not to be computed.")
    reference: float = parameter(
        0.1, "Share of the labels at which the label-saving factor of a task is stated.", gt=0.0
    )
    level: float = parameter(0.95, "Coverage of the intervals.", gt=0.0, lt=1.0)
    resamples: int = parameter(400, "Bootstrap samples of the intervals.", ge=20)

    @model_validator(mode="after")
    def _usable(self) -> "StudyOptions":
        if not self.backbones or not self.tasks or not self.modes or not self.fractions:
            raise ValueError("a study has at least one backbone, mode, fraction and task")
        if any(not 0.0 < one <= 1.0 for one in self.fractions):
            raise ValueError("fractions are above 0 and at most 1")
        if self.reference not in self.fractions:
            raise ValueError("reference is one of the fractions")
        for one in self.left_out:
            for kind, known in (("backbones", self.backbones), ("tasks", self.tasks)):
                unknown = sorted(set(getattr(one, kind)) - set(known))
                if unknown:
                    raise ValueError(f"left_out names {unknown[0]!r}, which is none of the {kind}")
        return self

    def wanted(self, task: str, backbone: str, mode: str, fraction: float) -> bool:
        """Whether a combination is part of the grid."""
        if mode in PRETRAINED and self.backbones[backbone].weights is None:
            return False
        if mode in self.tasks[task].without:
            return False
        return not any(
            (not one.tasks or task in one.tasks)
            and (not one.backbones or backbone in one.backbones)
            and (not one.modes or mode in one.modes)
            and (not one.fractions or fraction in one.fractions)
            for one in self.left_out
        )
