"""The configuration of a table of detectors, as ``cyclades study detectors`` reads it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cyclades.pipeline.options import Options
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.studies.tasks.detection_options import OWN, FirstDetectionOptions
from cyclades.pipeline.training.options import AdaptationOptions, NetworkOptions
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import DataOptions
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.specification import InputSpec

SET_BY_THE_STUDY = (
    *OWN, "size", "steps", "steps_a_checkpoint", "checkpoints_a_validation", "devices", "nodes",
)  # fmt: skip
"""Options of a training that the study sets itself."""


class Budget(Options):
    """What a training may spend: tiles, or wall time."""

    images: int | None = parameter(None, "Tiles that a training sees.", ge=1)
    seconds: float | None = parameter(
        None, "Wall time of a training; a pilot of some steps says how many steps that are.", gt=0.0
    )

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if (self.images is None) == (self.seconds is None):
            raise ValueError("a budget is images or seconds")
        return self

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.images:,} images" if self.images else f"{self.seconds:g} s"


class DetectorOptions(Options):
    """One row: a network to train, or a route with the catalogue that it makes."""

    network: NetworkOptions | None = parameter(
        None, "Of a training: head, backbone and weights. Input and classes are those of all."
    )
    adaptation: AdaptationOptions = parameter(AdaptationOptions(), "How the backbone learns.")
    training: dict[str, Any] = parameter(
        {}, "Options of `cyclades train` of its own, as learning_rate or batch."
    )
    budget: Budget | None = parameter(
        None, "Of its own, as for a row that is trained until its curve is flat."
    )
    route: str | None = parameter(
        None, "A route of `cyclades run` whose catalogue is judged, instead of a network."
    )
    changes: tuple[str, ...] = parameter((), "Changes of the route, as detection.probability=0.5.")
    detector: str | None = parameter(
        None,
        "Row whose trained network takes the place of the route's detection: a hybrid of learned "
        "detection and the rest of the route.",
    )
    boxes: Literal["sources", "detections"] = parameter(
        "sources",
        "Boxes of a route: of the catalogue's sources, one FWHM to either side of their "
        "components, or of what was detected.",
    )
    published: str | None = parameter(
        None,
        "Published entry to put beside it; see `cyclades.pipeline.studies.detectors.published`.",
    )
    note: str = parameter("", "What to say of it under the table.")

    @model_validator(mode="after")
    def _one(self) -> "DetectorOptions":
        if (self.network is None) == (self.route is None):
            raise ValueError("a detector is a network or a route")
        if self.network is None and (self.budget or self.training):
            raise ValueError("a route is not trained, so it has no budget and no training")
        if self.route is None and (self.detector or self.changes):
            raise ValueError("detector and changes are options of a route")
        if self.network is not None and "classes" in self.network.model_fields_set:
            raise ValueError("classes are options of the data, the same for all detectors")
        _check_training(self.training)
        return self


class BenchmarkOptions(Options):
    """What all data have in common."""

    classes: tuple[str, ...] = parameter(tuple(CLASSES), "Classes of the networks.")
    size: int = parameter(128, "Side of the tiles.", unit="pixels", ge=32)
    tiles: int = parameter(256, "Tiles of the test.", ge=2)


class SimulatedBenchmarkOptions(BenchmarkOptions):
    """Simulated tiles, fixed by a seed: the test is the same whatever is trained."""

    kind: Literal["simulated"] = "simulated"
    sky: SimulatedOptions = parameter(
        SimulatedOptions(preset="benchmark", seed=2303), "Simulated sky."
    )


class FirstBenchmarkOptions(BenchmarkOptions):
    """Radio galaxies in FIRST fields with Radio Galaxy Zoo labels."""

    kind: Literal["first"] = "first"
    images: str | None = parameter(None, "FITS fields, as in folder/*.fits.gz.")
    labels: str | None = parameter(None, "Table of the consensus sources of all fields.")
    image: ImageOptions = parameter(
        FirstDetectionOptions.model_fields["image"].default, "How the fields are read."
    )
    consensus: float = parameter(
        0.6, "Labels on which a smaller share of volunteers agreed are ignored.", ge=0.0, le=1.0
    )
    crops: int = parameter(4, "Test crops a field, off its centre.", ge=1)


class LabelledBenchmarkOptions(BenchmarkOptions):
    """Labelled images of one's own: COCO, YOLO, CAESAR, LabelMe, catalogues."""

    kind: Literal["labelled"] = "labelled"
    train: DataOptions = parameter(..., "Images to learn from, as `data` of a training.")
    test: DataOptions = parameter(..., "Other images to judge on.")
    validation: DataOptions | None = parameter(
        None,
        "Further images for curves and calibration; other crops of those of the training where "
        "left out.",
    )


Benchmarks = Annotated[
    SimulatedBenchmarkOptions | FirstBenchmarkOptions | LabelledBenchmarkOptions,
    Field(discriminator="kind"),
]


class DetectorStudyOptions(Options):
    """A table of detectors x data x seeds."""

    detectors: Mapping[str, DetectorOptions] = parameter(
        ..., "Rows of the table by a name of one's own."
    )
    data: Mapping[str, Benchmarks] = parameter(..., "Data by a name of one's own.")
    budget: Budget = parameter(..., "Of every training: images or seconds.")
    training: dict[str, Any] = parameter(
        {"batch": 8, "learning_rate": 2e-3, "warm_up": 100},
        "Options of `cyclades train` for all, as batch, learning_rate, augmentation, workers.",
    )
    input: InputSpec = parameter(
        InputSpec(beam_pixels=(3.5, 8.0)), "Stretches, beam range and mesh of the input."
    )
    seeds: int = parameter(3, "Trainings of each network.", ge=1)
    points: int = parameter(12, "Points of the curve on validation tiles.", ge=2)
    validation: int = parameter(48, "Tiles of each of them.", ge=1)
    calibration: int = parameter(
        96, "Further held-out tiles, from which each network's threshold of a probability of 0.5 "
        "is taken.", ge=1,
    )  # fmt: skip
    untrained: int = parameter(32, "Test tiles that the untrained network is judged on.", ge=1)
    gain: float = parameter(
        0.3, "AP50 by which a network has to exceed its untrained self for a claim.", ge=0.0
    )
    tolerance: float = parameter(
        0.01, "Rise of AP50 over the last third of a curve that still counts as flat.", gt=0.0
    )
    reliability: float = parameter(
        0.95, "Reliability at which completeness is taken.", gt=0.0, lt=1.0
    )
    pilot: int = parameter(12, "Steps of the pilot of a budget of seconds.", ge=4)
    speed_tiles: int = parameter(
        16, "Tiles that speed and memory are measured on, in their own process; 0 leaves it out.",
        ge=0,
    )  # fmt: skip
    level: float = parameter(0.95, "Coverage of the intervals.", gt=0.0, lt=1.0)
    resamples: int = parameter(200, "Bootstrap samples of the intervals.", ge=20)

    @model_validator(mode="after")
    def _usable(self) -> "DetectorStudyOptions":
        if not self.detectors or not self.data:
            raise ValueError("a table has at least one detector and one set of data")
        for name, one in self.detectors.items():
            base = None if one.detector is None else self.detectors.get(one.detector)
            if one.detector is not None and (base is None or base.network is None):
                raise ValueError(f"detectors.{name}.detector names no row with a network")
        _check_training(self.training)
        return self

    def budget_of(self, name: str) -> Budget:
        """Budget of a row."""
        return self.detectors[name].budget or self.budget


def _check_training(content: Mapping[str, Any]) -> None:
    taken = sorted(set(content) & set(SET_BY_THE_STUDY))
    if taken:
        raise ValueError(f"training.{taken[0]} is set by the study itself")
