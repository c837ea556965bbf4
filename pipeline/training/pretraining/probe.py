"""Whether features are of use, watched while they are learnt: their rank, and what neighbours say.

A loss without labels may fall while all features become alike. Two figures tell, on objects of
simulated tiles that the training does not see:

- the effective rank of their features (RankMe, Garrido et al. 2023, arXiv:2210.02885), the
  exponential of the entropy of the singular values: 1 where all are alike, at most the smaller of
  the number of features and of objects;
- the accuracy of a vote of nearest neighbours on the objects' classes.

An object's feature is the mean of the deepest feature map over its box, as a detector's head sees
it.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn
from torchvision.ops import roi_align

from cyclades.pipeline.options import Options
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.loading import collate
from cyclades.pipeline.training.pretraining.encoding import feature_map, stride_of
from cyclades.pipeline.training.samples import Integers
from cyclades.pipeline.training.simulated import SimulatedOptions, SimulatedSource
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.backbones import Backbone
from cyclades.stages.networks.specification import InputSpec

_TEMPERATURE = 0.07
_FEWEST = 5
"""Classes with fewer objects are left out: nobody could vote for them."""
_BATCH = 4


class ProbeOptions(Options):
    """What is measured at the checkpoints."""

    preset: str = parameter("mixed", "Preset of the simulated tiles.")
    objects: int = parameter(300, "Objects, of all classes as far as there are.", ge=20)
    tiles: int = parameter(48, "Tiles at most in which they are looked for.", ge=1)
    neighbours: int = parameter(10, "Neighbours that vote.", ge=1)
    seed: int = parameter(7_000_003, "Of the tiles.", ge=0)
    collapse: float = parameter(
        0.5,
        "A rank below this part of the largest after the warm-up is called a collapse, with a "
        "warning.",
        ge=0.0,
        lt=1.0,
    )

    @model_validator(mode="after")
    def _simulated(self) -> "ProbeOptions":
        try:
            self.data()
        except ConfigurationError as error:
            raise ValueError(str(error).removesuffix(".")) from None
        return self

    def data(self) -> SimulatedOptions:
        """Return the options of the tiles, each from a field of its own."""
        given = {"preset": self.preset, "seed": self.seed, "tiles_a_side": 1}
        return SimulatedOptions.from_mapping(given, name="tiles")


class Figures(NamedTuple):
    """What a probe finds.

    Parameters
    ----------
    rank : float
        Effective rank of the objects' features.
    accuracy : float
        Part of the objects whose class the neighbours tell.
    balanced : float
        Mean of that over the classes.
    majority : float
        Part of the objects that are of the most frequent class: what a guess reaches.
    """

    rank: float
    accuracy: float
    balanced: float
    majority: float


class Probe:
    """Objects of simulated tiles, to try features on.

    Parameters
    ----------
    options : ProbeOptions
    input : InputSpec
        The network's.
    size : int
        Side of the tiles in pixels.
    """

    def __init__(self, options: ProbeOptions, input: InputSpec, size: int) -> None:
        self.options = options
        source = SimulatedSource(options.data(), size, CLASSES)
        most = -(-options.objects // len(CLASSES))
        images: list[Tensor] = []
        boxes: list[NDArray[np.float32]] = []
        classes: list[Integers] = []
        tiles: list[int] = []
        taken = np.zeros(len(CLASSES), np.int64)
        for number in range(options.tiles):
            sample = source.sample(number)
            rows = _first_of_each(sample.classes, ~sample.ignore, most - taken)
            if not len(rows):
                continue
            taken += np.bincount(sample.classes[rows], minlength=len(CLASSES))
            tiles += [len(images)] * len(rows)
            images.append(collate([sample], input, with_masks=False)[0][0])
            boxes.append(sample.boxes[rows])
            classes.append(sample.classes[rows])
            if (taken >= most).all():
                break
        if not images:
            raise ConfigurationError(
                f"The probe's preset {options.preset!r} holds no objects; choose another."
            )
        self.images = torch.stack(images)
        self.tiles = np.array(tiles)
        self.boxes = torch.from_numpy(np.concatenate(boxes))
        self.classes: Integers = np.concatenate(classes)

    @torch.no_grad()
    def features(self, backbone: Backbone) -> NDArray[np.float32]:
        """Return the features of all objects, shape (objects, width)."""
        was: dict[nn.Module, bool] = {module: module.training for module in backbone.modules()}
        backbone.eval()
        device = next(backbone.parameters()).device
        found = []
        for first in range(0, len(self.images), _BATCH):
            part = self.images[first : first + _BATCH].to(device)
            rows = np.flatnonzero((self.tiles >= first) & (self.tiles < first + _BATCH))
            owner = torch.from_numpy(self.tiles[rows] - first).float()[:, None]
            boxes = torch.cat([owner, self.boxes[rows]], 1).to(device)
            grid = feature_map(backbone, part).float()
            pooled: Tensor = roi_align(
                grid, boxes, 1, 1.0 / stride_of(backbone), sampling_ratio=4, aligned=True
            )
            found.append(pooled.flatten(1).cpu().numpy())
        for module, mode in was.items():
            module.training = mode
        return np.concatenate(found)

    def measure(self, backbone: Backbone) -> Figures:
        """Measure rank and votes of a backbone, which stays in its mode."""
        features = self.features(backbone)
        accuracy, balanced, majority = neighbour_accuracy(
            features, self.classes, self.tiles, self.options.neighbours
        )
        return Figures(effective_rank(features), accuracy, balanced, majority)


def _first_of_each(
    classes: Integers, usable: NDArray[np.bool_], most: NDArray[np.int64]
) -> Integers:
    """Rows of the first usable objects of each class, as many as there may be of it."""
    rows = [np.flatnonzero(usable & (classes == one))[: most[one]] for one in range(len(most))]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def effective_rank(features: NDArray[np.floating]) -> float:
    """Effective rank of features: RankMe, the exponential of the entropy of the singular values.

    As published the features are not centred: where all are alike it is 1.

    Parameters
    ----------
    features : ndarray, shape (n, width)
    """
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    if not np.isfinite(values).all() or values.sum() <= 0.0:
        return 0.0
    share = values / values.sum()
    share = share[share > 0.0]
    return float(np.exp(-(share * np.log(share)).sum()))


def neighbour_accuracy(
    features: NDArray[np.floating], classes: Integers, groups: Integers, neighbours: int
) -> tuple[float, float, float]:
    """Accuracy of a vote of nearest neighbours from other groups.

    Similarity is the cosine of the angle between features whose mean has been taken off; a vote
    weighs ``exp(similarity / 0.07)`` (Wu et al. 2018, arXiv:1805.01978).

    Parameters
    ----------
    features : ndarray, shape (n, width)
    classes : ndarray of int, shape (n,)
    groups : ndarray of int, shape (n,)
        Objects of the same group (a tile, with its noise and its instrument) do not vote for each
        other.
    neighbours : int
        At most; fewer where there are not as many.

    Returns
    -------
    accuracy, mean of the accuracies of the classes, share of the most frequent class
        Of classes with at least five objects; NaN where fewer than two have as many.
    """
    counts = np.bincount(classes)
    kept = counts[classes] >= _FEWEST
    features, classes, groups = np.asarray(features, np.float64)[kept], classes[kept], groups[kept]
    present = np.unique(classes)
    if len(present) < 2:
        return np.nan, np.nan, np.nan
    centred = features - features.mean(0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    similarity = centred @ centred.T
    similarity[groups[:, None] == groups[None, :]] = -np.inf
    number = min(neighbours, len(classes) - 1)
    nearest = np.argpartition(-similarity, number - 1, axis=1)[:, :number]
    close = np.take_along_axis(similarity, nearest, 1)
    weight = np.where(np.isfinite(close), np.exp((close - 1.0) / _TEMPERATURE), 0.0)
    votes = np.stack([(weight * (classes[nearest] == one)).sum(1) for one in present], 1)
    right = present[votes.argmax(1)] == classes
    return (
        float(right.mean()),
        float(np.mean([right[classes == one].mean() for one in present])),
        float(np.bincount(classes).max() / len(classes)),
    )
