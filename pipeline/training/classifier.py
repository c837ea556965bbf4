"""A classifier of morphologies, from labelled pictures and a frozen backbone."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cyclades.pipeline.options import Options
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.studies.tasks.pictures import Pictures, find_pictures, read_pictures
from cyclades.pipeline.training.classifier_figures import Figures, classifier_card, measure_figures
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.classification import (
    DEFAULT_NAME,
    ClassifierSpec,
    FeatureClassifier,
    FeatureSpec,
    distances,
)
from cyclades.stages.networks.features import Extractor
from cyclades.stages.networks.pictures import CLASSES, centred

logger = logging.getLogger("cyclades.training")

LICENCE = "LicenseRef-FIRST-noncommercial"
"""Of what is learned from FIRST's pixels: scholarly, educational and other non-commercial use."""


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
    inverse_penalty: float = parameter(
        3e-3, "Weight of the labels beside the penalty on standardised features.", gt=0.0
    )
    components: int = parameter(
        64, "Principal components of the features that distances are measured in.", ge=1
    )


def train_classifier(
    options: ClassifierOptions,
    folder: Path,
    *,
    device: str = "cpu",
    report: Callable[[float], None] | None = None,
) -> tuple[Path, Figures]:
    """Learn a classifier and write its file and its card.

    Logistic regression, classes weighed alike, on the features of the split ``train``; the
    temperature and the distances of what is typical come from ``valid``, the figures from
    ``test``.

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
        Where the backbone has no weights.
    InputError
        Where there are no pictures, a split is missing, or the weights cannot be had.
    OutputError
        Where the files cannot be written.
    """
    if options.features.backbone.weights is None:
        raise ConfigurationError(
            "A classifier needs a backbone with weights; set features.backbone.weights to a name "
            "of 'cyclades weights' or a file of 'cyclades pretrain'."
        )
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
    extractor = Extractor(options.features, device)
    crop = options.features.pictures.crop
    features = extractor(centred(pictures.images, crop), report)
    classifier = fit(features, pictures.classes, learned, held, options, extractor.sha256)
    figures = measure_figures(classifier, features[test], pictures.classes[test])
    classifier = _described(classifier, options, pictures, (learned, held, test), figures)
    path = folder / f"{options.name}.safetensors"
    _write(classifier, path)
    with written_whole(path.with_suffix(".md")) as temporary:
        temporary.write_text(classifier_card(classifier.spec, figures), "utf-8")
    return path, figures


def fit(
    features: NDArray[np.floating],
    classes: NDArray[np.int64],
    learned: NDArray[np.int64],
    held: NDArray[np.int64],
    options: ClassifierOptions,
    sha256: str,
) -> FeatureClassifier:
    """Learn from some pictures, and calibrate on others.

    Parameters
    ----------
    features : ndarray, shape (n, k)
    classes : ndarray of int, shape (n,)
        Positions in `CLASSES`, all of which are there.
    learned, held : ndarray of int
        Rows to learn from, and to calibrate on.
    options : ClassifierOptions
    sha256 : str
        Of the backbone.
    """
    scaler = StandardScaler().fit(features[learned].astype(np.float64))
    known, other = (scaler.transform(features[rows].astype(np.float64)) for rows in (learned, held))
    model = LogisticRegression(C=options.inverse_penalty, class_weight="balanced", max_iter=1000)
    model.fit(known, classes[learned])
    scores = model.decision_function(other)
    rows = np.arange(len(held))

    def loss(log_temperature: float) -> float:
        logs = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(logs[rows, classes[held]].mean())

    temperature = np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)
    number = min(options.components, len(learned) - 1, features.shape[1])
    components = PCA(number, svd_solver="full").fit(known)
    whitening = components.components_ / np.sqrt(components.explained_variance_)[:, None]
    return FeatureClassifier(
        ClassifierSpec(
            name=options.name, features=options.features, sha256=sha256, licence=options.licence
        ),
        mean=scaler.mean_,
        scale=scaler.scale_,
        coefficients=model.coef_,
        intercepts=model.intercept_,
        temperature=np.array([temperature]),
        whitening=whitening,
        held_out=np.sort(distances(other, whitening)),
    )


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
