"""What a network is, in words: everything but its weights, kept with them in one file.

A file of weights (safetensors) holds its specification as JSON in its metadata, so that the file
alone says how to build the network, what it takes as input and what its numbers mean. Nothing
here needs torch.
"""

import itertools
import json
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cyclades.stages.core.errors import ConfigurationError, InputError

METADATA_KEY = "cyclades"
PRETRAINED_KEY = "cyclades.backbone"
CLASSIFIER_KEY = "cyclades.classifier"
BACKGROUND_KEY = "cyclades.background"
MEASURER_KEY = "cyclades.measurer"
FORMAT = 1
SPURIOUS = "spurious"
"""The class of artefacts: what a network puts there is not a source."""


class Part(BaseModel):
    """Base of the parts of a specification."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Described = TypeVar("Described", bound=Part)


class InputSpec(Part):
    """The network's input, made by `cyclades.stages.networks.inputs`."""

    stretches: tuple[str, ...] = ("asinh", "faint", "bright")
    """One channel each; see `cyclades.stages.networks.inputs.STRETCHES`."""
    beam_pixels: tuple[float, float] = (4.0, 6.0)
    """Images whose beam (geometric mean FWHM) is not within this range are resampled to it."""
    best_beam: tuple[float, float] | None = (4.2, 5.25)
    """And, as far as that range allows, to this one, where networks are at their best: a tile holds
    more beams than with wider ones, and pixels sample the beam better than with narrower ones.
    None, or several planes: nothing more is resampled."""
    mesh: int = Field(default=128, ge=16)
    """Cells, in pixels, of which each gives one median and one noise for the normalisation."""
    planes: tuple[str, ...] = ()
    """Bands of an image set, each normalised by itself; none for networks of a single image.
    Channels are all planes in the first stretch, then all in the second. Pre-trained networks take
    red, green and blue in this order, so ``("z", "r", "g")`` is a start that suits them."""

    @model_validator(mode="after")
    def _usable(self) -> "InputSpec":
        if not self.stretches:
            raise ValueError("a network needs at least one stretch as input channel")
        if not 0 < self.beam_pixels[0] <= self.beam_pixels[1]:
            raise ValueError("beam_pixels goes from a positive size to a larger one")
        if self.best_beam is not None and not 0 < self.best_beam[0] <= self.best_beam[1]:
            raise ValueError("best_beam goes from a positive size to a larger one")
        if len(set(self.planes)) != len(self.planes):
            raise ValueError("planes are different bands; name each once")
        return self

    @property
    def shown_beams(self) -> tuple[float, float]:
        """Least and largest beam in pixels of what a network is shown when it runs."""
        if self.best_beam is None or self.planes:
            return self.beam_pixels
        low, high = self.beam_pixels
        best = (min(max(one, low), high) for one in self.best_beam)
        return next(best), next(best)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.stretches) * max(1, len(self.planes))


class BackboneSpec(Part):
    """The backbone: image to ``{stride: features}``, with ``channels`` features a level."""

    name: str = "resnet18"
    """A timm model name of the families that `cyclades.stages.networks.backbones` knows."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the architecture, as ``{"channels": [32, 64, 128, 256]}``."""
    strides: tuple[int, ...] = (4, 8, 16, 32)
    channels: int = Field(default=64, ge=8)
    weights: str | None = None
    """Where training started: a name of `cyclades weights`, a file, a folder or a hub name."""


class TrunkSpec(Part):
    """Pre-trained weights that a frozen trunk has unchanged, and that its file leaves out."""

    weights: str
    """A name of ``cyclades weights``."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the trunk's tensors; see `cyclades.stages.networks.pretrained.load_trunk`."""


class HeadSpec(Part):
    """The head on the backbone's features."""

    name: str = "mask_rcnn"
    """Of `cyclades.stages.networks.heads.table`."""
    options: dict[str, Any] = Field(default_factory=dict)


class HeadOptions(BaseModel):
    """Base of the options of the heads, which come from `HeadSpec.options`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def of(cls, spec: HeadSpec) -> Self:
        """Check a head's options.

        Raises
        ------
        ConfigurationError
            Naming the first option that is wrong.
        """
        try:
            return cls.model_validate(spec.options)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigurationError(
                f"Head {spec.name!r}, option {where!r}: {first['msg']}; its options are "
                f"{', '.join(cls.model_fields)}."
            ) from None


class Calibration(Part):
    """From a raw score to the probability of being real: monotone, piecewise linear in the logit.

    ``logit(probability)`` at ``logit(score)``, constant beyond the first and last knot.
    """

    score_logit: tuple[float, ...] = ()
    probability_logit: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _monotone(self) -> "Calibration":
        x, y = self.score_logit, self.probability_logit
        if len(x) != len(y):
            raise ValueError("a calibration has as many probabilities as scores")
        if any(b <= a for a, b in itertools.pairwise(x)) or any(
            b < a for a, b in itertools.pairwise(y)
        ):
            raise ValueError("a calibration rises")
        return self


class Perceptron(Part):
    """A small network of one hidden layer (tanh) on measures of detections."""

    centre: tuple[float, ...]
    width: tuple[float, ...]
    """Of the inputs."""
    hidden: tuple[tuple[float, ...], ...]
    """One row of weights a hidden unit, its bias last."""
    output: tuple[tuple[float, ...], ...]
    """One row of weights an output, its bias last."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        inputs, units = len(self.centre), len(self.hidden)
        if (
            len(self.width) != inputs
            or any(len(row) != inputs + 1 for row in self.hidden)
            or any(len(row) != units + 1 for row in self.output)
        ):
            raise ValueError("the layers of a perceptron fit each other")
        return self


class ClassDecision(Perceptron):
    """From shapes in units of the beam to classes; see `cyclades.stages.networks.shapes`.

    Its outputs, one a class of sources in the order of the network's, are added to the logarithms
    of the network's scores. Its inputs end with the logarithms of the scores of all classes.
    """


class Evidence(Perceptron):
    """From shapes and surroundings to whether a detection is real.

    See `cyclades.stages.networks.evidence`. Its output is added to the logit of the network's score
    of being a source.
    """

    calibration: Calibration
    """Of the sum."""


class PretrainedSpec(Part):
    """The trunk of a backbone that `cyclades pretrain` trained, and the input that it knows."""

    format: int = FORMAT
    name: str = "backbone"
    backbone: BackboneSpec = BackboneSpec()
    """Strides and channels are no part of the trunk; a training may set others."""
    input: InputSpec = InputSpec()
    licence: str = "BSD-3-Clause"
    training: dict[str, Any] = Field(default_factory=dict)
    """How it was trained: configuration, steps, figures."""

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        return {PRETRAINED_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}

    @classmethod
    def from_metadata(
        cls, metadata: dict[str, str] | None, path: "str | Path"
    ) -> "PretrainedSpec | None":
        """Read the specification from a file's metadata; None where they hold none.

        Raises
        ------
        InputError
            Where this version cannot read it.
        """
        text = (metadata or {}).get(PRETRAINED_KEY)
        return None if text is None else parsed(cls, text, path)

    def mismatch(
        self, name: str, options: dict[str, Any], given: "InputSpec | None"
    ) -> tuple[str, str] | None:
        """Say what a network that is to start from these weights has to change; None if nothing.

        Parameters
        ----------
        name, options
            Of the network's backbone. Which blocks it taps is its own affair.
        given : InputSpec, optional
            The network's input.

        Returns
        -------
        what differs, what to do
        """
        own = {key: value for key, value in self.backbone.options.items() if key != "taps"}
        other = {key: value for key, value in options.items() if key != "taps"}
        if (name, _plain(other)) != (self.backbone.name, _plain(own)):
            return (
                f"weights of {self.backbone.name} with the options {own}",
                f"set network.backbone.name to {self.backbone.name} and its options to {own}",
            )
        if given is None:
            return None
        low, high = self.input.beam_pixels
        if given.stretches != self.input.stretches:
            names = ", ".join(self.input.stretches)
            return f"trained on the stretches {names}", f"set network.input.stretches to [{names}]"
        if given.planes != self.input.planes:
            names = ", ".join(self.input.planes)
            return f"trained on the planes [{names}]", f"set network.input.planes to [{names}]"
        if given.mesh != self.input.mesh:
            mesh = self.input.mesh
            return f"trained with a mesh of {mesh} pixels", f"set network.input.mesh to {mesh}"
        if given.beam_pixels[0] < low or given.beam_pixels[1] > high:
            return (
                f"trained on beams of {low:g} to {high:g} pixels",
                f"keep network.input.beam_pixels within [{low:g}, {high:g}] (images with others "
                "are resampled)",
            )
        return None


def _plain(options: dict[str, Any]) -> Any:
    """Options as JSON has them, so that tuples and lists are alike."""
    return json.loads(json.dumps(options))


class NetworkSpec(Part):
    """A whole network."""

    format: int = FORMAT
    name: str = "detector"
    classes: tuple[str, ...] = ("compact", "extended", "multi-component", "diffuse", SPURIOUS)
    input: InputSpec = InputSpec()
    backbone: BackboneSpec | None = BackboneSpec()
    """None for a complete model whose head brings its own."""
    trunk: TrunkSpec | None = None
    """Where the numbers of the backbone's trunk are; None where they are in the file itself."""
    head: HeadSpec = HeadSpec()
    calibration: Calibration = Calibration()
    decision: ClassDecision | None = None
    """Shares the scores of sources anew among their classes where the beam is known."""
    evidence: Evidence | None = None
    """Changes the scores of sources by what else speaks for them, where the beam is known."""
    licence: str = "BSD-3-Clause"
    training: dict[str, Any] = Field(default_factory=dict)
    """How it was trained: configuration, seeds, steps, metrics on held-out tiles."""

    @model_validator(mode="after")
    def _trunk_of_a_backbone(self) -> "NetworkSpec":
        if self.trunk is not None and self.backbone is None:
            raise ValueError("a trunk is part of a backbone")
        return self

    @property
    def real_classes(self) -> tuple[int, ...]:
        """Positions of the classes of sources, artefacts left out."""
        return tuple(i for i, name in enumerate(self.classes) if name != SPURIOUS)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        return {METADATA_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, path: "str | Path") -> "NetworkSpec":
        """Read the specification from a file's metadata.

        Raises
        ------
        InputError
            Where the metadata hold none, or one that this version cannot read.
        """
        text = (metadata or {}).get(METADATA_KEY)
        if text is None:
            raise InputError(
                f"{path}: these weights do not say what network they belong to; use a file that "
                "cyclades train wrote, or give them as backbone weights of a training."
            )
        return parsed(cls, text, path)


def parsed(kind: type[Described], text: str, path: "str | Path") -> Described:
    """Read a specification from its JSON."""
    try:
        content = json.loads(text)
        if content.get("format", 0) > FORMAT:
            raise InputError(
                f"{path}: written by a newer version of cyclades (format "
                f"{content['format']}); update cyclades to use it."
            )
        return kind.model_validate(content)
    except (ValueError, TypeError, ValidationError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its description of the network is damaged.") from error
