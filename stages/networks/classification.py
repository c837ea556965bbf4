"""Linear classifiers on features of frozen backbones, and what they call unlike their training.

One safetensors file holds it all: how pictures are made (`PictureOptions`, `FrameSpec`), the
backbones by name and hash, and the numbers. Nothing here needs torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.cutouts import FrameSpec
from cyclades.stages.networks.pictures import CLASSES, PictureOptions, Pooling
from cyclades.stages.networks.specification import CLASSIFIER_KEY, BackboneSpec, Part
from cyclades.stages.networks.weights_files import read_metadata, weights_folder

DEFAULT_NAME = "morphology"
COMMAND = "cyclades train-classifier"
FORMAT = 2
"""Of the file; 1 had one backbone, and is read as well."""
UNKNOWN = "unknown"

Floats = NDArray[np.floating]


class FeatureSpec(Part):
    """Which numbers stand for a picture."""

    backbone: BackboneSpec = BackboneSpec(
        name="vit_small_patch14_dinov2",
        weights="dinov2-s-derived",
        options={"taps": [6, 9, 12]},
    )
    """With its weights; strides and channels have no meaning here."""
    pictures: PictureOptions = PictureOptions()
    frame: FrameSpec = FrameSpec()
    pooling: tuple[Pooling, ...] = ("mean", "max")
    """Statistics of each tapped layer over the picture."""
    orientations: int = Field(default=8, ge=1, le=8)
    """Turns by quarters, and from 5 on mirrored ones, over which the features are averaged."""


class BesideSpec(Part):
    """A further backbone: the pictures, pooling and orientations are those of the first."""

    backbone: BackboneSpec
    """With its weights."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its tensors."""


class ClassifierSpec(Part):
    """What a classifier is, but for its numbers."""

    format: int = FORMAT
    name: str = DEFAULT_NAME
    classes: tuple[str, ...] = CLASSES
    features: FeatureSpec = FeatureSpec()
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the backbone's tensors; see `cyclades.stages.networks.pretrained.load_trunk`."""
    beside: tuple[BesideSpec, ...] = ()
    """Further backbones, whose features follow those of the first."""
    licence: str
    training: dict[str, Any] = Field(default_factory=dict)
    """How it was trained: options, pictures, figures on the test."""

    @property
    def backbones(self) -> tuple[tuple[FeatureSpec, str], ...]:
        """All backbones, each with what is taken of it, and the hash of its tensors."""
        further = [
            (self.features.model_copy(update={"backbone": one.backbone}), one.sha256)
            for one in self.beside
        ]
        return ((self.features, self.sha256), *further)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        return {CLASSIFIER_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a classifier says of pictures.

    Parameters
    ----------
    probabilities : ndarray, shape (n, classes)
        Calibrated; they sum to one.
    distances : ndarray, shape (n,)
        From the training pictures: root mean square of the deviations along the principal
        components of their features, each in its standard deviation (Mahalanobis 1936). About 1
        for what is like them.
    """

    probabilities: NDArray[np.float64]
    distances: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureClassifier:
    """Logistic regression on standardised features, with a temperature and a distance.

    Of several backbones the features stand side by side. The mean of the log-probabilities of a
    classifier each is, but for a number that is the same for all classes, the mean of their
    scores; so the coefficients are those of each, divided by how many there are.

    Parameters
    ----------
    spec : ClassifierSpec
    mean, scale : ndarray, shape (k,)
        Of the features of the training pictures.
    coefficients : ndarray, shape (classes, k)
    intercepts : ndarray, shape (classes,)
    temperature : ndarray, shape (1,)
        The scores are divided by it (Guo et al. 2017, arXiv:1706.04599).
    whitening : ndarray, shape (components, k)
        From standardised features to principal components of unit variance.
    held_out : ndarray, shape (m,)
        Distances of pictures that were not learned from, ascending.
    """

    spec: ClassifierSpec
    mean: Floats
    scale: Floats
    coefficients: Floats
    intercepts: Floats
    temperature: Floats
    whitening: Floats
    held_out: Floats

    def judge(self, features: Floats) -> Judgement:
        """Judge pictures by their features.

        Parameters
        ----------
        features : ndarray, shape (n, k)
            Of `cyclades.stages.networks.features.JoinedExtractor`.
        """
        from scipy.special import softmax

        standard = (np.asarray(features, np.float64) - self.mean) / self.scale
        scores = standard @ self.coefficients.T + self.intercepts
        return Judgement(
            softmax(scores / self.temperature, axis=1), distances(standard, self.whitening)
        )

    def limit(self, share: float) -> float:
        """Distance below which a share of the pictures lies that were not learned from."""
        return float(np.quantile(self.held_out, share))

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the numbers by name, as the file holds them."""
        return {name: np.asarray(getattr(self, name), np.float32) for name in TENSORS}


TENSORS = (
    "mean", "scale", "coefficients", "intercepts", "temperature", "whitening", "held_out",
)  # fmt: skip


def distances(standard: Floats, whitening: Floats) -> NDArray[np.float64]:
    """Return the distances of standardised features; see `Judgement`."""
    return np.asarray(np.sqrt(np.mean(np.square(standard @ whitening.T), axis=1)))


def find_classifier(name_or_path: str) -> Path:
    """Find a classifier: a file, or a name in the folder of weights.

    Raises
    ------
    InputError
        Where there is none; the sentence says which command makes one.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".safetensors" or path.is_file():
        if path.is_file():
            return path
    else:
        path = weights_folder() / f"{name_or_path}.safetensors"
        if path.is_file():
            return path
    raise InputError(
        f"{path}: there is no such classifier; '{COMMAND}' makes {DEFAULT_NAME!r} in a few "
        "minutes, from pictures that may not be passed on with cyclades."
    )


def read_classifier(path: Path) -> FeatureClassifier:
    """Read a classifier.

    Raises
    ------
    InputError
        Where the file is damaged, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    text = read_metadata(path).get(CLASSIFIER_KEY)
    if text is None:
        raise InputError(f"{path}: this is no classifier; give a file that '{COMMAND}' wrote.")
    try:
        content = json.loads(text)
        if content.get("format", 0) > FORMAT:
            raise InputError(
                f"{path}: written by a newer version of cyclades (format {content['format']}); "
                "update cyclades to use it."
            )
        held = load_file(path)
        return FeatureClassifier(
            ClassifierSpec.model_validate(content), **{name: held[name] for name in TENSORS}
        )
    except (SafetensorError, OSError, KeyError, AttributeError, ValidationError) as error:
        raise InputError(f"{path}: a damaged classifier; make it anew with '{COMMAND}'.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: a damaged classifier; make it anew with '{COMMAND}'.") from error
