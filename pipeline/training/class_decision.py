"""Fitting what decides on classes by shapes in units of the beam."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cyclades.pipeline.comparison.overlaps import box_overlaps
from cyclades.pipeline.training.perceptron import fit_perceptron
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.networks.inputs import normalise
from cyclades.stages.networks.selection import Found, real_scores
from cyclades.stages.networks.shapes import (
    MEASURES,
    decision_inputs,
    logarithms,
    measure_shapes,
)
from cyclades.stages.networks.specification import ClassDecision, NetworkSpec

Floats = NDArray[np.float64]
Examples = tuple[Floats, Floats, NDArray[np.int64]]
"""Inputs, scores and classes."""

_FITS = 0.5
"""Least IoU of detections that are learned from with their object."""
_LEAST = 0.02
"""Least raw score of being a source of these."""
_FEWEST = 400
_DECAY = 7.5e-4


def examples(sample: Sample, found: Found, spec: NetworkSpec) -> Examples:
    """What a tile teaches: inputs of the decision, scores and classes of the sources found.

    Returns
    -------
    inputs : ndarray, shape (n, inputs)
    scores : ndarray, shape (n, classes of sources)
        The network's.
    classes : ndarray of int, shape (n,)
        True ones, positions in the classes of sources.
    """
    real = list(spec.real_classes)
    rows, objects = np.zeros((2, 0), np.int64)
    place = np.full(len(spec.classes), -1)
    place[real] = np.arange(len(real))
    if sample.beam is not None and not sample.planes and len(found.boxes):
        judged = np.flatnonzero(~sample.ignore & (place[sample.classes] >= 0))
        pairs = box_overlaps(found.boxes.astype(float), sample.boxes[judged].astype(float))
        likely = real_scores(found.scores, spec)[pairs.first] >= _LEAST
        good = np.flatnonzero((pairs.iou >= _FITS) & likely)
        # of several objects in a box, the one that it fits best
        order = good[np.lexsort((-pairs.iou[good], pairs.first[good]))]
        order = order[np.unique(pairs.first[order], return_index=True)[1]]
        rows, objects = pairs.first[order], judged[pairs.second[order]]
    scores = found.scores[rows]
    measures = np.zeros((0, len(MEASURES)))
    classes = np.zeros(0, np.int64)
    if len(rows) and sample.beam is not None:
        plane = normalise(sample.image, spec.input.mesh)
        measures = measure_shapes(plane, found.boxes[rows], sample.beam)
        classes = place[sample.classes[objects]]
    return decision_inputs(measures, scores), scores[:, real].astype(float), classes


def fit_decision(learned: Sequence[Examples], seed: int = 0) -> ClassDecision | None:
    """Fit the decision to what tiles teach, by maximum likelihood with weight decay.

    Parameters
    ----------
    learned : sequence of (inputs, scores, classes)
        From `examples`.
    seed : int
        Of the first weights.

    Returns
    -------
    ClassDecision or None
        None where there are too few sources, or one class of them alone.
    """
    if not learned:
        return None
    inputs, scores, classes = (np.concatenate(column) for column in zip(*learned, strict=True))
    number = scores.shape[1]
    if len(classes) < _FEWEST or len(np.unique(classes)) < 2:
        return None
    log_scores = torch.from_numpy(logarithms(scores)).float()
    wanted = torch.from_numpy(classes)

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs + log_scores[rows], wanted[rows])

    return ClassDecision(**fit_perceptron(inputs, number, loss, _DECAY, seed))
