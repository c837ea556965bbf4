"""Fitting what joins a network's score with what else speaks for a detection."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cyclades.pipeline.comparison.detection_metrics import assign
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.evaluation import OVERLAP, REAL_OVERLAP, fit_calibration
from cyclades.pipeline.training.perceptron import fit_perceptron
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.networks.evidence import evidence_inputs, prior
from cyclades.stages.networks.inputs import normalise
from cyclades.stages.networks.selection import Found, real_scores, suppress
from cyclades.stages.networks.shapes import measure_shapes, perceptron
from cyclades.stages.networks.specification import Calibration, Evidence, NetworkSpec

Floats = NDArray[np.float64]

FOLDS = 4
"""Parts of the tiles: the calibration sees what perceptrons say that were fitted to the others."""
_FEWEST = 400
_DECAY = 1e-3


class Witnesses(NamedTuple):
    """What a tile teaches, one row a detection that is judged."""

    inputs: Floats
    scores: Floats
    """Raw scores of being a source."""
    real: NDArray[np.bool_]


def witnesses(sample: Sample, found: Found, spec: NetworkSpec) -> Witnesses | None:
    """Inputs, scores and truth of a tile's detections that no better one overlaps.

    A detection is real that is the best of an object, as the calibration has it. What looks like an
    artefact, lies where nothing is labelled or on an object that counts for nothing teaches
    nothing.

    Returns
    -------
    Witnesses or None
        None without a beam, or for several planes.
    """
    if sample.beam is None or sample.planes:
        return None
    plane = normalise(sample.image, spec.input.mesh)
    measures = measure_shapes(plane, found.boxes, sample.beam)
    inputs = evidence_inputs(found, measures, plane, sample.beam, spec)
    scores = real_scores(found.scores, spec).astype(float)
    source = np.isin(found.scores.argmax(1), spec.real_classes) if len(scores) else scores > 0
    rows = suppress(found.boxes, np.where(source, scores, 0.0), OVERLAP)
    rows = rows[source[rows]]
    if sample.unlabelled is not None:
        x, y = 0.5 * (found.boxes[rows, :2] + found.boxes[rows, 2:]).T
        ny, nx = sample.unlabelled.shape
        place = np.clip(y, 0, ny - 1).astype(int), np.clip(x, 0, nx - 1).astype(int)
        rows = rows[~sample.unlabelled[place]]
    genuine = np.flatnonzero(np.isin(sample.classes, spec.real_classes))
    truth = Objects(sample.boxes[genuine].astype(float), None, None, None, sample.ignore[genuine])
    given = Objects(found.boxes[rows].astype(float), scores[rows])
    judged = assign(truth, given, np.array([REAL_OVERLAP]))
    rows = rows[judged.order]
    kept = ~judged.ignored[0]
    return Witnesses(inputs[rows][kept], scores[rows][kept], judged.hit[0][kept])


def fit_evidence(heard: Sequence[Witnesses | None], seed: int = 0) -> Evidence | None:
    """Fit the evidence to what tiles teach, and calibrate it on tiles left out in turn.

    Parameters
    ----------
    heard : sequence of Witnesses or None
        From `witnesses`, one a tile.
    seed : int

    Returns
    -------
    Evidence or None
        None where there are too few detections, or all are real or none.
    """
    tiles = [one for one in heard if one is not None]
    number = np.array([len(one.real) for one in tiles], int)
    if number.sum() < _FEWEST:
        return None
    inputs, scores, real = (np.concatenate(column) for column in zip(*tiles, strict=True))
    if real.all() or not real.any():
        return None
    fold = np.repeat(np.arange(len(tiles)) % FOLDS, number)
    likely = np.zeros(len(real))
    for left_out in range(FOLDS):
        mine = fold == left_out
        if mine.all() or not mine.any():
            return None
        made = _fit(inputs[~mine], scores[~mine], real[~mine], seed)
        logits = prior(scores[mine]) + perceptron(inputs[mine], made)[:, 0]
        likely[mine] = 1.0 / (1.0 + np.exp(-logits))
    last = _fit(inputs, scores, real, seed)
    return last.model_copy(update={"calibration": fit_calibration(likely, real)})


def _fit(inputs: Floats, scores: Floats, real: NDArray[np.bool_], seed: int) -> Evidence:
    """Maximum likelihood with weight decay; not calibrated."""
    before = torch.from_numpy(prior(scores)).float()
    wanted = torch.from_numpy(real.astype(np.float32))

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(
            outputs[:, 0] + before[rows], wanted[rows]
        )

    return Evidence(**fit_perceptron(inputs, 1, loss, _DECAY, seed), calibration=Calibration())
