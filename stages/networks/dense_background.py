"""A dense head that corrects a first level and rms: its file, and its numbers without torch.

The head sees cells of an image: the features of a detector's backbone, and statistics of the
pixels. Of both it takes means around each cell, over Gaussians of several widths and with weights
that it gives to the cells itself, so that cells full of sources count less. From these a small
perceptron says by how much the first maps are wrong. Nothing depends on a direction, and what is
unknown (blank cells, the outside of the image) has no weight.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.specification import BACKGROUND_KEY, Part
from cyclades.stages.networks.weights_files import read_metadata

Floats = NDArray[np.float32]

FORMAT = 1
COMMAND = "python -m cyclades.pipeline.training.background"
BLOCK = 256
"""Cells along the blocks that the head works on at a time."""
SUPPORT = 3.0
"""Standard deviations up to which a Gaussian reaches."""
LEAST_WEIGHT = 1e-3
"""Added to the sum of weights, whose means then tend to those of the training."""
OUTPUTS = ("level", "log error of level", "log rms", "log error of log rms")


class BackgroundSpec(Part):
    """What a dense head is, but for its numbers."""

    format: int = FORMAT
    name: str = "dense"
    trunk: str
    """The detector whose features it takes: a shipped one's name, or a file."""
    trunk_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the detector's tensors; see `cyclades.stages.networks.weights_files.tensors_digest`."""
    estimator: str
    """The background that gives the first maps."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its parameters where they are not the default."""
    cell: int
    """Side of the cells in pixels of the network."""
    statistics: tuple[str, ...]
    """What is known of each cell; see `cyclades.stages.background.cells.STATISTICS`."""
    widths: tuple[float, ...]
    """Standard deviations, in cells, of the Gaussians that means are taken over."""
    largest: tuple[float, float]
    """Largest corrections: of the level in units of the rms, and of the rms's logarithm."""
    licence: str
    training: dict[str, Any] = Field(default_factory=dict)
    """How it was trained."""

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        return {BACKGROUND_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}


@dataclass(frozen=True, eq=False)
class BackgroundNumbers:
    """The numbers of a dense head.

    Attributes
    ----------
    feature_centre, feature_scale : ndarray, shape (features,)
    project, project_bias : ndarray, shapes (k, features) and (k,)
        From the backbone's features to few.
    statistic_centre, statistic_scale : ndarray, shape (s,)
    gate, gate_bias : ndarray, shapes (j, s + k) and (j,)
        Weights of the cells, of several kinds.
    first, first_bias, second, second_bias, last, last_bias
        The perceptron's layers.
    direct : ndarray, shape (4, inputs)
        Past the hidden layers.
    """

    feature_centre: Floats
    feature_scale: Floats
    project: Floats
    project_bias: Floats
    statistic_centre: Floats
    statistic_scale: Floats
    gate: Floats
    gate_bias: Floats
    first: Floats
    first_bias: Floats
    second: Floats
    second_bias: Floats
    last: Floats
    last_bias: Floats
    direct: Floats


def shapes(
    features: int, statistics: int, widths: int, *, few: int = 16, gates: int = 2, hidden: int = 64
) -> dict[str, tuple[int, ...]]:
    """Shapes of `BackgroundNumbers` for a number of features, statistics and widths."""
    seen = statistics + few
    inputs = seen + widths * gates * (seen + 1)
    return {
        "feature_centre": (features,),
        "feature_scale": (features,),
        "project": (few, features),
        "project_bias": (few,),
        "statistic_centre": (statistics,),
        "statistic_scale": (statistics,),
        "gate": (gates, seen),
        "gate_bias": (gates,),
        "first": (hidden, inputs),
        "first_bias": (hidden,),
        "second": (hidden, hidden),
        "second_bias": (hidden,),
        "last": (len(OUTPUTS), hidden),
        "last_bias": (len(OUTPUTS),),
        "direct": (len(OUTPUTS), inputs),
    }


@dataclass(frozen=True, eq=False)
class BackgroundHead:
    """A dense head: what it is, and its numbers."""

    spec: BackgroundSpec
    numbers: BackgroundNumbers

    def project(self, features: Floats) -> Floats:
        """Bring features of cells, shape (features, rows, columns), to the few that are kept."""
        n = self.numbers
        centred = (features - n.feature_centre[:, None, None]) / n.feature_scale[:, None, None]
        made = np.tensordot(n.project, centred, 1) + n.project_bias[:, None, None]
        return np.asarray(np.tanh(made), np.float32)

    def corrections(self, few: Floats, statistics: Floats, share: Floats) -> tuple[Floats, Floats]:
        """By how much the first maps are to be changed in each cell.

        Parameters
        ----------
        few : ndarray, shape (k, rows, columns)
            Of `project`; 0 where nothing was looked at.
        statistics : ndarray, shape (s, rows, columns)
        share : ndarray, shape (rows, columns)
            Of a whole cell, that the statistics rest on.

        Returns
        -------
        level, rms : ndarray, shape (rows, columns)
            To be added to the level, in units of the first rms; logarithm of a factor on the rms.
        """
        found = np.zeros((2, *share.shape), np.float32)
        reach = int(np.ceil(SUPPORT * max(self.spec.widths)))
        for inner, outer, target in _blocks(share.shape, reach):
            made = self._outputs(few[:, *outer], statistics[:, *outer], share[outer], inner)
            for k, (row, limit) in enumerate(zip((0, 2), self.spec.largest, strict=True)):
                found[k][target] = np.clip(made[row], -limit, limit)
        return found[0], found[1]

    def _outputs(
        self, few: Floats, statistics: Floats, share: Floats, inner: tuple[slice, slice]
    ) -> Floats:
        """Outputs of the perceptron in the inner part of a block."""
        n = self.numbers
        scaled = (statistics - n.statistic_centre[:, None, None]) / n.statistic_scale[:, None, None]
        seen = np.concatenate([np.where(share > 0.0, scaled, 0.0), few]).astype(np.float32)
        gates = share * logistic(np.tensordot(n.gate, seen, 1) + n.gate_bias[:, None, None])
        parts = [seen[:, *inner]]
        for width in self.spec.widths:
            for gate in gates:
                sums = _blurred(np.concatenate([seen * gate, gate[None]]), width)[:, *inner]
                weight = sums[-1:] + LEAST_WEIGHT
                parts += [sums[:-1] / weight, np.log(weight)]
        given = np.concatenate(parts)
        flat = given.reshape(len(given), -1)
        made = n.first @ flat + n.first_bias[:, None]
        made *= logistic(made)
        made = n.second @ made + n.second_bias[:, None]
        made *= logistic(made)
        made = n.last @ made + n.last_bias[:, None] + n.direct @ flat
        return np.asarray(made, np.float32).reshape(-1, *given.shape[1:])


def logistic(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), np.float32)


def gaussian_kernel(width: float) -> Floats:
    """Weights along an axis of a Gaussian of a width in cells, cut at `SUPPORT`; they add to 1."""
    reach = int(np.ceil(SUPPORT * width))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _blurred(planes: Floats, width: float) -> Floats:
    """Gaussian sums over each plane, as if there were zeros outside."""
    from scipy.ndimage import convolve1d

    kernel = gaussian_kernel(width)
    along = convolve1d(planes, kernel, axis=1, mode="constant")
    return np.asarray(convolve1d(along, kernel, axis=2, mode="constant"), np.float32)


def _blocks(
    shape: tuple[int, int], reach: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Blocks of cells: what is wanted within what is read, what is read, and what is wanted."""
    rows, columns = (
        [(start, min(start + BLOCK, n), max(start - reach, 0)) for start in range(0, n, BLOCK)]
        for n in shape
    )
    for y0, y1, y in rows:
        for x0, x1, x in columns:
            inner = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
            outer = slice(y, y1 + reach), slice(x, x1 + reach)
            yield inner, outer, (slice(y0, y1), slice(x0, x1))


def read_head(path: Path) -> BackgroundHead:
    """Read the file of a dense head.

    Raises
    ------
    ConfigurationError
        Where safetensors is not installed.
    InputError
        Where the file is damaged, or of another kind or version.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Reading weights needs the package {error.name!r}; install cyclades[onnx] or "
            "cyclades[learned]."
        ) from error
    spec = read_background_spec(path)
    try:
        held = {name: np.asarray(v, np.float32) for name, v in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{path}: the file of weights is damaged; make it anew.") from error
    names = [field.name for field in fields(BackgroundNumbers)]
    inputs = held.get("project", np.zeros((0, 0))).shape
    hidden = held.get("second", np.zeros((0, 0))).shape[0]
    gates = held.get("gate", np.zeros((0, 0))).shape[0]
    wanted = (
        shapes(inputs[1], len(spec.statistics), len(spec.widths), few=inputs[0], gates=gates,
               hidden=hidden)
        if len(inputs) == 2 else {}
    )  # fmt: skip
    if {name: v.shape for name, v in held.items()} != wanted:
        raise InputError(
            f"{path}: the weights do not fit the head that they describe; write the file anew with "
            f"{COMMAND}."
        )
    return BackgroundHead(spec, BackgroundNumbers(**{name: held[name] for name in names}))


def read_background_spec(path: Path) -> BackgroundSpec:
    """Read what a file of weights says of its dense head.

    Raises
    ------
    InputError
        Where it is of another kind, or of a newer version.
    """
    text = read_metadata(path).get(BACKGROUND_KEY)
    if text is None:
        raise InputError(
            f"{path}: these are not the weights of a background; give a file that {COMMAND} wrote."
        )
    try:
        content = json.loads(text)
        if content.get("format", 0) > FORMAT:
            raise InputError(
                f"{path}: written by a newer version of cyclades (format {content['format']}); "
                "update cyclades to use it."
            )
        return BackgroundSpec.model_validate(content)
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(f"{path}: its description of the background is damaged.") from error
