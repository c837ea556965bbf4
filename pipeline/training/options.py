"""The configuration of a training run: what ``cyclades train --config FILE`` reads."""

from typing import Any, Literal

from pydantic import model_validator

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.augmentation import AugmentationOptions
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import DataOptions
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.heads.table import AGPL, find_head
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, InputSpec, NetworkSpec


class NetworkOptions(Options):
    """The network to train."""

    backbone: BackboneSpec | None = parameter(BackboneSpec(), "Backbone; none for whole models.")
    head: HeadSpec = parameter(HeadSpec(), "Head on its features.")
    input: InputSpec = parameter(InputSpec(), "Stretches, beam range and mesh of the input.")
    classes: tuple[str, ...] = parameter(
        NetworkSpec().classes, "Classes; `spurious` is that of artefacts."
    )
    start: str | None = parameter(
        None, "A detector to start from (a shipped name or a file), head and all."
    )


class AdaptationOptions(Options):
    """How the backbone learns."""

    mode: Literal["scratch", "fine_tuned", "adapters", "partly_frozen", "frozen"] = parameter(
        "scratch", "What of the pre-trained backbone is trained."
    )
    layer_decay: float = parameter(
        1.0, "Factor on the learning rate from each block to the one before it.", gt=0.0, le=1.0
    )
    backbone_factor: float = parameter(
        0.1,
        "Factor on the learning rate of the backbone inside a whole network (`detr` and its "
        "kin), in the mode fine_tuned.",
        gt=0.0,
        le=1.0,
    )
    trained_layers: int = parameter(2, "Last layers trained in the mode partly_frozen.", ge=1)
    rank: int = parameter(8, "Rank of the adapters.", ge=1)


class ValidationOptions(Options):
    """Held-out data: for the curves while training, and for the calibration of scores after."""

    data: DataOptions | None = parameter(
        None, "Left out: the training's simulation with other seeds."
    )
    samples: int = parameter(64, "Tiles for the curves.", ge=1)
    final_samples: int = parameter(512, "Tiles for the final figures and the calibration.", ge=1)


class RunOptions(Options):
    """What every training run has, whatever it learns: its length, its optimiser, its machine."""

    name: str = parameter("network", "Name of the files of weights and of the card.")
    batch: int = parameter(8, "Tiles a step, over all devices together.", ge=1)
    steps: int = parameter(4000, "Steps of the optimiser.", ge=1)
    steps_a_checkpoint: int = parameter(250, "Steps between checkpoints.", ge=1)
    learning_rate: float = parameter(1e-3, "Largest learning rate (AdamW).", gt=0.0)
    warm_up: int = parameter(200, "Steps over which the learning rate rises.", ge=0)
    weight_decay: float = parameter(0.02, "Of weight matrices and kernels.", ge=0.0)
    gradient_limit: float = parameter(10.0, "Norm to which gradients are clipped.", gt=0.0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = parameter(
        "auto", "Mixed precision: bfloat16 where the device is a GPU, else float32."
    )
    devices: int | Literal["auto"] = parameter("auto", "GPUs a node (or CPU processes).")
    nodes: int = parameter(1, "Nodes.", ge=1)
    workers: int = parameter(0, "Processes that make tiles; 0 makes them in the trainer.", ge=0)
    threads: int | None = parameter(None, "Threads of the network on the CPU.", ge=1)
    seed: int = parameter(0, "Of the first weights and of every draw.", ge=0)
    licence: str = parameter("BSD-3-Clause", "Licence of the weights.")

    @model_validator(mode="after")
    def _whole_stretches(self) -> "RunOptions":
        if self.steps % self.steps_a_checkpoint:
            raise ValueError("steps is a multiple of steps_a_checkpoint")
        return self

    @property
    def epochs(self) -> int:
        """Stretches of steps that end in a checkpoint."""
        return self.steps // self.steps_a_checkpoint


class TrainingOptions(RunOptions):
    """A whole training run."""

    name: str = parameter("detector", "Name of the files of weights and of the card.")
    network: NetworkOptions = parameter(NetworkOptions(), "Architecture and input.")
    adaptation: AdaptationOptions = parameter(AdaptationOptions(), "How the backbone learns.")
    data: DataOptions = parameter(SimulatedOptions(), "Where labelled tiles come from.")
    validation: ValidationOptions = parameter(ValidationOptions(), "Held-out data.")
    augmentation: AugmentationOptions = parameter(
        AugmentationOptions(), "Changes of each tile before it is seen."
    )
    size: int = parameter(256, "Side of the tiles.", unit="pixels", ge=32)
    checkpoints_a_validation: int = parameter(1, "Checkpoints between validations.", ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingOptions":
        name, backbone = self.network.head.name, self.network.backbone
        try:
            head = find_head(name)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        if head.whole and backbone is not None:
            raise ValueError(
                f"{name} is a whole network with a backbone of its own; give backbone: null"
            )
        if not head.whole and backbone is None:
            raise ValueError(f"the head {name} needs a backbone")
        if backbone is not None and not backbone.name.startswith(head.backbones or ("",)):
            raise ValueError(
                f"the head {name} needs a backbone whose name begins with "
                f"{' or '.join(head.backbones)}, not {backbone.name}"
            )
        mode = self.adaptation.mode
        if head.whole and mode not in ("scratch", "fine_tuned"):
            raise ValueError(
                f"the mode {mode} is for backbones with a head of ours; {name} is a whole network, "
                "give the mode fine_tuned or scratch"
            )
        if head.licence == AGPL and AGPL not in self.licence:
            raise ValueError(
                "weights made with ultralytics code are under the AGPL; give licence: AGPL-3.0"
            )
        if mode in ("frozen", "adapters", "partly_frozen") and not (
            self.network.start or (backbone is not None and backbone.weights)
        ):
            raise ValueError(
                f"the mode {mode} needs a trained backbone; give network.backbone.weights"
            )
        return self

    def specification(self) -> NetworkSpec:
        """Return what the trained file will say of its network."""
        record: dict[str, Any] = self.model_dump(mode="json", exclude={"threads", "workers"})
        return NetworkSpec(
            name=self.name,
            classes=self.network.classes,
            input=self.network.input,
            backbone=self.network.backbone,
            head=self.network.head,
            licence=self.licence,
            training={"configuration": record, "steps": self.steps},
        )
