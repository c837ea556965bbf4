"""A classifier of morphologies, from labelled pictures and frozen backbones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.linalg import block_diag
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.decomposition import PCA

from cyclades.pipeline.options import Options
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.tasks.features import regression
from cyclades.pipeline.studies.tasks.pictures import Pictures, find_pictures, read_pictures
from cyclades.pipeline.studies.weights import lacking
from cyclades.pipeline.training.classifier_figures import Figures, classifier_card, measure_figures
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.formats import give_usual_permissions
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.classification import (
    DEFAULT_NAME,
    BesideSpec,
    ClassifierSpec,
    FeatureClassifier,
    FeatureSpec,
    distances,
)
from cyclades.stages.networks.features import JoinedExtractor
from cyclades.stages.networks.pictures import CLASSES, centred
from cyclades.stages.networks.specification import BackboneSpec

logger = logging.getLogger("cyclades.training")

LICENCE = "LicenseRef-FIRST-noncommercial"
"""Of what is learned from FIRST's pixels: scholarly, educational and other non-commercial use."""

BESIDE = BackboneSpec(name="tf_efficientnet_lite0", weights="efficientnet-lite0-imagenet")
"""What joins the default backbone."""


class ClassifierOptions(Options):
    """What ``cyclades train-classifier`` reads."""

    name: str = parameter(DEFAULT_NAME, "Name of the files.")
    images: str | None = parameter(
        None,
        "Folder or zip of pictures named RA_DEC_class_catalogue.png. Left out: those of the "
        "Python package firstgalaxydata.",
    )
    licence: str = parameter(LICENCE, "Of the result; the default is that of FIRST's pixels.")
    separation: float = parameter(
        60.0,
        "Pictures of the training that are nearer than this to one of another split are left out.",
        unit="arcsec",
        ge=0.0,
    )
    features: FeatureSpec = parameter(FeatureSpec(), "Backbone, input and pooling.")
    beside: tuple[BackboneSpec, ...] | None = parameter(
        None,
        "Further backbones, with a classifier each; log-probabilities are averaged over all. Left "
        "out: EfficientNet-Lite0 beside the default backbone, where its weights can be had; none "
        "beside another one.",
    )
    inverse_penalty: float = parameter(
        3e-3, "Weight of the labels beside the penalty on standardised features.", gt=0.0
    )
    components: int = parameter(
        64,
        "Principal components of each backbone's features that distances are measured in.",
        ge=1,
    )

    def backbones(self) -> tuple[BackboneSpec, ...]:
        """Return the backbones, with a warning where that beside the default one is lacking.

        Raises
        ------
        ConfigurationError
            Where one has no weights.
        """
        first, beside = self.features.backbone, self.beside
        if beside is None:
            beside = (BESIDE,) if first == FeatureSpec().backbone else ()
            missing = lacking(BESIDE) if beside else None
            if missing is not None:
                logger.warning(
                    "%s Without it the classifier has one backbone, and makes more mistakes.",
                    missing,
                )
                beside = ()
        for place, one in enumerate((first, *beside)):
            if one.weights is None:
                name = f"beside.{place - 1}" if place else "features.backbone"
                raise ConfigurationError(
                    f"A classifier needs a backbone with weights; set {name}.weights to a name of "
                    "'cyclades weights' or a file of 'cyclades pretrain'."
                )
        return (first, *beside)


def train_classifier(
    options: ClassifierOptions,
    folder: Path,
    *,
    device: str = "cpu",
    report: Callable[[float], None] | None = None,
) -> tuple[Path, Figures]:
    """Learn a classifier and write its file and its card.

    Logistic regression, classes weighed alike, on the features of the split ``train``, for each
    backbone; the temperature of their joint probabilities and the distances of what is typical
    come from ``valid``, the figures from ``test``.

    Parameters
    ----------
    options : ClassifierOptions
    folder : path
        Gets ``NAME.safetensors`` and ``NAME.md``.
    device : str
        A torch device.
    report : callable, optional
        Told the share of the pictures whose features are there.

    Returns
    -------
    path, Figures

    Raises
    ------
    ConfigurationError
        Where a backbone has no weights.
    InputError
        Where there are no pictures, a split is missing, or the weights cannot be had.
    OutputError
        Where the files cannot be written.
    """
    backbones = options.backbones()
    pictures = read_pictures(find_pictures(options.images))
    learned, test = pictures.apart(options.separation)
    held = np.flatnonzero(pictures.splits == "valid")
    for name, rows in (("train", learned), ("valid", held), ("test", test)):
        absent = set(range(len(CLASSES))) - set(pictures.classes[rows].tolist())
        if absent:
            raise InputError(
                f"The split {name} holds no picture of the class {CLASSES[min(absent)]}; a "
                "classifier needs all classes in each of the folders train, valid and test."
            )
    options = options.model_copy(update={"beside": backbones[1:]})
    several = [options.features.model_copy(update={"backbone": one}) for one in backbones]
    extractor = JoinedExtractor([(one, None) for one in several], device)
    parts = extractor.parts(centred(pictures.images, options.features.pictures.crop), report)
    spec = ClassifierSpec(
        name=options.name,
        features=options.features,
        sha256=extractor.sha256[0],
        beside=tuple(
            BesideSpec(backbone=one, sha256=sha256)
            for one, sha256 in zip(backbones[1:], extractor.sha256[1:], strict=True)
        ),
        licence=options.licence,
    )
    classifier = fit(parts, pictures.classes, learned, held, options, spec)
    joined = np.concatenate([part[test] for part in parts], axis=1)
    figures = measure_figures(classifier, joined, pictures.classes[test])
    classifier = _described(classifier, options, pictures, (learned, held, test), figures)
    path = folder / f"{options.name}.safetensors"
    _write(classifier, path)
    with written_whole(path.with_suffix(".md")) as temporary:
        temporary.write_text(classifier_card(classifier.spec, figures), "utf-8")
    return path, figures


def fit(
    features: Sequence[NDArray[np.floating]],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    held: NDArray[np.int64],
    options: ClassifierOptions,
    spec: ClassifierSpec,
) -> FeatureClassifier:
    """Learn from some pictures, and calibrate on others.

    Distances are measured along the principal components of each backbone's features, all of them
    together.

    Parameters
    ----------
    features : sequence of ndarray, shape (n, k)
        By backbone.
    classes : ndarray of int, shape (n,)
        Positions in `CLASSES`, all of which are there.
    learned, held : ndarray of int
        Rows to learn from, and to calibrate on.
    options : ClassifierOptions
    spec : ClassifierSpec
        What it is.
    """
    models, known, other = [], [], []
    for part in features:
        values = part.astype(np.float64)
        model = regression(options.inverse_penalty).fit(values[learned], classes[learned])
        models.append(model)
        known.append(model[0].transform(values[learned]))
        other.append(model[0].transform(values[held]))
    coefficients = np.hstack([model[-1].coef_ for model in models]) / len(models)
    intercepts = np.mean([model[-1].intercept_ for model in models], axis=0)
    standard = np.hstack(other)
    scores = standard @ coefficients.T + intercepts
    rows = np.arange(len(held))

    def loss(log_temperature: float) -> float:
        logs = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(logs[rows, classes[held]].mean())

    temperature = np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)
    whitening = block_diag(*[_whitening(part, options.components) for part in known])
    return FeatureClassifier(
        spec,
        mean=np.concatenate([model[0].mean_ for model in models]),
        scale=np.concatenate([model[0].scale_ for model in models]),
        coefficients=coefficients,
        intercepts=intercepts,
        temperature=np.array([temperature]),
        whitening=whitening,
        held_out=np.sort(distances(standard, whitening)),
    )


def _whitening(standard: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """From standardised features to principal components of unit variance, shape (number, k)."""
    number = min(number, len(standard) - 1, standard.shape[1])
    components = PCA(number, svd_solver="full").fit(standard)
    scale = np.sqrt(components.explained_variance_)[:, None]
    return np.asarray(components.components_ / scale)


def _described(
    classifier: FeatureClassifier,
    options: ClassifierOptions,
    pictures: Pictures,
    rows: tuple[NDArray[np.int64], ...],
    figures: Figures,
) -> FeatureClassifier:
    """Write into the specification how the classifier was made, and how good it is."""
    numbers = dict(zip(("train", "valid", "test"), map(len, rows), strict=True))
    training: dict[str, Any] = {
        "options": options.model_dump(mode="json", exclude={"images", "features"}),
        "pictures": {"sha256": pictures.digest, **numbers},
        "figures": figures.plain(),
    }
    spec = classifier.spec.model_copy(update={"training": training})
    return replace(classifier, spec=spec)


def _write(classifier: FeatureClassifier, path: Path) -> None:
    tensors = {name: np.ascontiguousarray(v) for name, v in classifier.tensors().items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=classifier.spec.metadata())
        give_usual_permissions(temporary)
