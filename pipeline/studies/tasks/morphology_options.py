"""Options of the task that tells classes of radio galaxies apart."""

from typing import ClassVar, Literal

from cyclades.pipeline.options import Options
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.pictures import PictureOptions, Pooling
from cyclades.stages.networks.specification import BackboneSpec

TrainedMode = Literal["adapters", "fine_tuned", "scratch"]


class AttentionOptions(Options):
    """Training of a classifier that learns where in a picture to look."""

    queries: int = parameter(4, "Weighted means over the picture, by layer.", ge=1)
    steps: int = parameter(600, "Steps of the optimiser.", ge=1)
    batch: int = parameter(64, "Pictures a step, drawn from all classes alike.", ge=2)
    learning_rate: float = parameter(1e-3, "Largest (AdamW); ten times that for queries.", gt=0.0)
    weight_decay: float = parameter(0.1, "Of the last layer.", ge=0.0)
    dropout: float = parameter(0.5, "Share of the features left out at each step.", ge=0.0, lt=1.0)
    smoothing: float = parameter(0.1, "Of the labels.", ge=0.0, lt=1.0)


class FrozenOptions(Options):
    """Classifier on the features of a frozen backbone, classes weighed alike."""

    head: Literal["logistic", "attention"] = parameter(
        "logistic",
        "Logistic regression on statistics over the picture, or weighted means over it that are "
        "learned with a linear layer.",
    )
    attention: AttentionOptions = parameter(AttentionOptions(), "Of the head attention.")
    beside: tuple[BackboneSpec, ...] = parameter((), "Further backbones that join the cell's.")
    crops: tuple[tuple[int, int], ...] = parameter(
        (), "Further pairs of crop and size that join the first."
    )
    joined: Literal["features", "probabilities"] = parameter(
        "features",
        "What backbones and crops join: their features for one classifier, or the "
        "log-probabilities of a classifier each, which are averaged.",
    )
    pooling: tuple[Pooling, ...] = parameter(
        ("mean", "max"),
        "Statistics of a layer's features over the picture; token is the class token of a ViT.",
    )
    orientations: int = parameter(
        1,
        "Turns by quarters, and from 5 on mirrored ones.",
        ge=1,
        le=8,
    )
    views: Literal["samples", "mean"] = parameter(
        "samples",
        "What orientations are: samples of their own in training, with log-probabilities averaged "
        "in the test; or features to average, which then do not depend on the orientation.",
    )
    inverse_penalty: float = parameter(
        3e-3, "Weight of the labels beside the penalty on standardised features.", gt=0.0
    )


class LearningRates(Options):
    """Largest learning rate of each mode."""

    adapters: float = parameter(1e-3, "Of adapters.", gt=0.0)
    fine_tuned: float = parameter(2e-4, "Fine-tuned.", gt=0.0)
    scratch: float = parameter(5e-4, "From random numbers.", gt=0.0)


class NetworkTraining(Options):
    """Training of a network (adapters, fine-tuned, from scratch)."""

    steps: int = parameter(400, "Steps of the optimiser.", ge=1)
    batch: int = parameter(32, "Pictures a step, drawn from all classes alike.", ge=1)
    learning_rate: LearningRates = parameter(LearningRates(), "Largest (AdamW), by mode.")
    layer_decay: float = parameter(
        0.75, "Factor from each layer to the one before it, fine-tuned.", gt=0.0, le=1.0
    )
    new_factor: float = parameter(
        10.0, "On the learning rate of the last layer, which no weights are for.", gt=0.0
    )
    weight_decay: float = parameter(0.05, "Of matrices and kernels.", ge=0.0)
    rank: int = parameter(8, "Of the adapters.", ge=1)
    smoothing: float = parameter(0.1, "Of the labels.", ge=0.0, lt=1.0)
    shift: float = parameter(4.0, "Largest shift of a picture.", unit="pixels", ge=0.0)
    scale: float = parameter(1.2, "Largest factor on the size of a picture.", ge=1.0)
    orientations: int = parameter(8, "Of the test, as for frozen backbones.", ge=1, le=8)


class MorphologyOptions(Options):
    """Four classes of radio galaxies on real FIRST cut-outs (RadioGalaxyDataset)."""

    without: ClassVar[tuple[str, ...]] = ()

    kind: Literal["morphology"] = "morphology"
    images: str | None = parameter(
        None,
        "Folder or zip of pictures named RA_DEC_class_catalogue.png. Left out: those of the "
        "Python package firstgalaxydata.",
    )
    separation: float = parameter(
        60.0,
        "Pictures of the training that are nearer than this to one of the test are left out.",
        unit="arcsec",
        ge=0.0,
    )
    pictures: PictureOptions = parameter(PictureOptions(), "Input of the network.")
    frozen: FrozenOptions = parameter(FrozenOptions(), "Classifier on frozen backbones.")
    training: NetworkTraining = parameter(NetworkTraining(), "Training of the other modes.")
