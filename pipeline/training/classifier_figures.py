"""How good a classifier is on pictures that it did not learn from, and its card."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.networks.classification import ClassifierSpec, FeatureClassifier
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.weights_table import WEIGHTS

BINS = 10
TYPICAL = 0.98
"""Share of held-out pictures that are known, as the stage has it by default."""
_DRAWS = 1000


@dataclass(frozen=True)
class Reliability:
    """Pictures whose likeliest class has a probability in one bin.

    Parameters
    ----------
    low, high : float
        Of the bin.
    number : int
        Pictures in it.
    probability : float
        Their mean probability.
    right : float
        Share of them whose class is right.
    """

    low: float
    high: float
    number: int
    probability: float
    right: float


@dataclass(frozen=True)
class Figures:
    """Figures on the pictures of a test.

    Parameters
    ----------
    number : int
        Pictures.
    accuracy, macro_f1 : float
        Of all pictures, whether known or not. F1 is averaged over the classes.
    calibration_error : float
        Expected calibration error (Naeini et al. 2015) in `BINS` equal bins of the probability of
        the likeliest class.
    calibration_error_by_chance : float
        The mean of the same for classes drawn from these probabilities: what perfect calibration
        would show on so few pictures.
    temperature : float
    unknown : float
        Share of the pictures beyond the distance within which the share `TYPICAL` of ``valid``
        lies.
    accuracy_of_known : float
    f1 : dict of str to float
    unknown_by_class : dict of str to float
    confusion : tuple of tuple of int
        Rows are true classes, columns classes found.
    reliability : tuple of Reliability
        Bins that hold pictures.
    """

    number: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    calibration_error_by_chance: float
    temperature: float
    unknown: float
    accuracy_of_known: float
    f1: dict[str, float]
    unknown_by_class: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[Reliability, ...]

    def plain(self) -> dict[str, Any]:
        """Return the figures as numbers, lists and mappings."""
        return asdict(self)


def reliability_table(
    probability: NDArray[np.floating], right: NDArray[np.bool_]
) -> tuple[Reliability, ...]:
    """Return the bins of a reliability diagram that hold pictures.

    Parameters
    ----------
    probability : ndarray, shape (n,)
        Of the likeliest class.
    right : ndarray of bool, shape (n,)
        Whether that is the true one.
    """
    place = np.minimum((np.asarray(probability) * BINS).astype(int), BINS - 1)
    return tuple(
        Reliability(
            k / BINS,
            (k + 1) / BINS,
            int((place == k).sum()),
            float(probability[place == k].mean()),
            float(right[place == k].mean()),
        )
        for k in np.unique(place).tolist()
    )


def calibration_error(probability: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error; see `Figures`."""
    bins = reliability_table(probability, right)
    return sum(b.number * abs(b.probability - b.right) for b in bins) / max(len(probability), 1)


def measure_figures(
    classifier: FeatureClassifier, features: NDArray[np.floating], classes: NDArray[np.int64]
) -> Figures:
    """Judge a classifier.

    Parameters
    ----------
    classifier : FeatureClassifier
    features : ndarray, shape (n, k)
    classes : ndarray of int, shape (n,)
        True ones.
    """
    from sklearn.metrics import confusion_matrix, f1_score

    names = classifier.spec.classes
    numbers = list(range(len(names)))
    judged = classifier.judge(features)
    found, probability = judged.probabilities.argmax(1), judged.probabilities.max(1)
    right = found == classes
    known = judged.distances <= classifier.limit(TYPICAL)
    f1 = f1_score(classes, found, labels=numbers, average=None, zero_division=0.0)
    generator = np.random.default_rng(0)
    chance = [
        calibration_error(probability, generator.random(len(found)) < probability)
        for _ in range(_DRAWS)
    ]
    return Figures(
        number=len(classes),
        accuracy=float(right.mean()),
        macro_f1=float(np.mean(f1)),
        calibration_error=calibration_error(probability, right),
        calibration_error_by_chance=float(np.mean(chance)),
        temperature=float(classifier.temperature[0]),
        unknown=float(1.0 - known.mean()),
        accuracy_of_known=float(right[known].mean()) if known.any() else float("nan"),
        f1={name: float(value) for name, value in zip(names, f1, strict=True)},
        unknown_by_class={
            name: float(1.0 - known[classes == k].mean()) for k, name in enumerate(names)
        },
        confusion=tuple(
            tuple(map(int, row)) for row in confusion_matrix(classes, found, labels=numbers)
        ),
        reliability=reliability_table(probability, right),
    )


def classifier_card(spec: ClassifierSpec, figures: Figures) -> str:
    """Return the model card of a classifier.

    Parameters
    ----------
    spec : ClassifierSpec
        With how it was trained.
    figures : Figures
    """
    f, p, frame = spec.features, spec.features.pictures, spec.features.frame
    options, held = spec.training["options"], spec.training["pictures"]
    backbones = "\n".join(_backbone(one.backbone, sha256) for one, sha256 in spec.backbones)
    joined = (
        "a frozen backbone"
        if len(spec.backbones) == 1
        else f"each of {len(spec.backbones)} frozen backbones, log-probabilities averaged"
    )
    heading = " | ".join(spec.classes)
    rows = "\n".join(
        f"| {name} | {' | '.join(map(str, row))} | {figures.f1[name]:.3f} | "
        f"{figures.unknown_by_class[name]:.1%} |"
        for name, row in zip(spec.classes, figures.confusion, strict=True)
    )
    bins = "\n".join(
        f"| {b.low:.1f} to {b.high:.1f} | {b.number} | {b.probability:.3f} | {b.right:.3f} |"
        for b in figures.reliability
    )
    return f"""---
license: other
license_name: {spec.licence}
library_name: cyclades
tags: [astronomy, radio-astronomy, image-classification]
---
# {spec.name}

Classes of radio galaxies ({", ".join(spec.classes)}) by logistic regression on the features of
{joined},
for `cyclades run IMAGE --set 'cataloguing=[components,classifier]'`.

{backbones}
- Features: {" and ".join(f.pooling)} of each layer over the picture, averaged over
  {f.orientations} orientations.
- Input: {p.crop} x {p.crop} pixels of {frame.pixel:g} arcsec with a beam of {frame.beam:g} arcsec,
  clipped at {frame.clip:g} standard deviations, the brightest white; resampled to {p.size} x
  {p.size}, the curves {", ".join(p.stretches)} as channels.
- Learned from {held["train"]} pictures, calibrated on {held["valid"]}, judged on {held["test"]}
  (SHA-256 of the pictures {held["sha256"]}); pictures nearer than {options["separation"]:g} arcsec
  to one of another split are not learned from.
- Licence: {spec.licence}. The pictures of the Python package firstgalaxydata are of VLA FIRST,
  whose pixels are for scholarly, educational and other non-commercial use.

## Figures on the test

| figure | value |
|---|---|
| accuracy | {figures.accuracy:.3f} |
| macro F1 | {figures.macro_f1:.3f} |
| expected calibration error, {BINS} bins | {figures.calibration_error:.3f} |
| the same of a perfectly calibrated classifier on as many pictures | \
{figures.calibration_error_by_chance:.3f} |
| temperature | {figures.temperature:.3f} |
| unknown (typical {TYPICAL:g}) | {figures.unknown:.1%} |
| accuracy of the known | {figures.accuracy_of_known:.3f} |

| true class | {heading} | F1 | unknown |
|---|{"---|" * (len(spec.classes) + 2)}
{rows}

Columns between are the classes found, whether known or not.

| probability | pictures | mean probability | share that is right |
|---|---|---|---|
{bins}
"""


def _backbone(spec: BackboneSpec, sha256: str) -> str:
    """Return the line of the card on one backbone."""
    entry = WEIGHTS.get(spec.weights or "")
    licence = "" if entry is None else f", {entry.licence}"
    return f"- Backbone: {spec.weights} ({spec.name}, SHA-256 of its tensors {sha256}){licence}."
