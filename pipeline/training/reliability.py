"""The model by which `reliability` tells real rows, learned from simulations.

``python -m cyclades.pipeline.training.reliability FILE`` simulates fields from clean to bad, runs
routes on them down to low thresholds, tells by the truth which rows are real, and fits the boosted
trees whose numbers are ``data/reliability.json``. It needs the extras ``learned`` and ``yolo``.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.real_rows import real_rows
from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.training.boosting import exported_trees
from cyclades.pipeline.training.simulated import presets
from cyclades.stages.cataloguing.image_holes import find_holes
from cyclades.stages.cataloguing.reliability_model import ReliabilityModel
from cyclades.stages.cataloguing.row_features import FEATURES, row_features
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.core.source import MemorySource

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Pipeline
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.image import SkyImage

SIZE = 768
SEEDS = (50000, 50029)
KINDS = {
    "natural": 0.25,
    "complex": 0.1,
    "scans": 0.1,
    "vla": 0.2,
    "askap": 0.2,
    "meerkat": 0.15,
}
"""Presets of fields and their shares."""
DENSITY = (0.3, 4.0)
"""Sources of a field over those of its preset."""
ERRORS = (0.3, 6.0)
"""Errors of calibration and ripples over those of the preset."""
MOST_RIPPLE = 1.5
LOW_SEED = (3.3, 4.3)
"""Seed thresholds of the second run of the classical route, in rms."""
LOW_PROBABILITY = 0.05
"""Least probability of detections of networks."""
EVERY = 4
"""Mask R-CNN, which is slow, runs on one field of so many."""
LEAVES, LEAST, RATE, PENALTY, ROUNDS = 8, 100, 0.08, 30.0, 120
"""Of the trees."""
FOLDS = 5
STAY = (0.02, 0.5)
STRAY = 5.0
"""Each catalogue is learned from as it is, and once more with a share between these alone of its
real rows, as of a field with few sources; what is unreal within so many beams of a row that goes,
goes with it."""
HIDDEN = {
    "no fit": ("size_error", "chi2", "residual"),
    "no shape": ("size_major", "size_minor", "size_error", "chi2", "residual"),
    "no beam": (
        "size_major", "size_minor", "pixels", "brighter_near", "brighter_around", "glare",
        "nearest", "over_near_holes", "over_wide_holes",
    ),
    "no score": ("score",),
}  # fmt: skip
"""Features that some catalogues lack; they are hidden in copies of a share of the rows each."""
HIDDEN_SHARE = 0.15
NOTE = (
    "Made by python -m cyclades.pipeline.training.reliability from {fields} simulated fields "
    "({rows} rows, {real} of them real)."
)


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows of a catalogue with their truth.

    Attributes
    ----------
    field : int
        Seed of the field.
    features : ndarray, shape (rows, features)
    real : ndarray of bool, shape (rows,)
    """

    field: int
    features: Floats
    real: NDArray[np.bool_]


def random_field(seed: int, kind: str | None = None, *, size: int = SIZE) -> Simulation:
    """Simulate a field whose kind, density of sources and errors the seed tells.

    Parameters
    ----------
    seed : int
    kind : str, optional
        One of the presets; by default the seed chooses among `KINDS`.
    size : int
        Pixels.
    """
    generator = np.random.default_rng([seed, 7])
    if kind is None:
        kind = str(generator.choice(list(KINDS), p=list(KINDS.values())))
    choices = presets()[kind]
    chosen = choices[int(generator.integers(len(choices)))]
    return simulate(varied(chosen, generator, size=size), seed)


def varied(options: FieldOptions, generator: Generator, *, size: int) -> FieldOptions:
    """Options with more or fewer sources and errors."""
    counts: Any = options.sky.counts
    denser = float(np.exp(generator.uniform(*np.log(DENSITY))))
    counts = counts.model_copy(update={"density": counts.density * denser})
    changed: dict[str, Any] = {
        "size": size,
        "sky": options.sky.model_copy(update={"counts": counts}),
    }
    if options.telescope is not None:
        telescope, worse = options.telescope, float(np.exp(generator.uniform(*np.log(ERRORS))))
        changed["telescope"] = telescope.replace(
            gain_amplitude=telescope.gain_amplitude * worse,
            gain_phase=telescope.gain_phase * worse,
            ripple=min(telescope.ripple * worse, MOST_RIPPLE),
        )
    return options.model_copy(update=changed)


def pipelines(seed: int, *, every: int = EVERY) -> "dict[str, Pipeline]":
    """Routes that run on a field, by name."""
    from cyclades.pipeline.chain import Pipeline

    low = float(np.random.default_rng([seed, 8]).uniform(*LOW_SEED))
    classical = Pipeline.from_route("classical")
    detection = classical.config.detection.model_copy(
        update={"seed_threshold": low, "flood_threshold": min(low, 3.0)}
    )
    made = {"classical": classical, "classical, low": classical.replace(detection=detection)}
    for route in ("yolo", "mask_rcnn"):
        if route == "yolo" or seed % every == 0:
            pipeline = Pipeline.from_route(route)
            detection = pipeline.config.detection.model_copy(
                update={"probability": LOW_PROBABILITY}
            )
            made[route] = pipeline.replace(detection=detection)
    return made


def labelled_rows(
    catalogue: "Catalogue", truth: "Catalogue", image: "SkyImage", seed: int
) -> tuple[RowSet, RowSet]:
    """Rows of a catalogue with features and truth, of all and of some; without parts of sources.

    Returns
    -------
    whole, thinned : RowSet
        See `STAY`.
    """
    psf = image.psf
    assert psf is not None
    table = catalogue.components
    holes = find_holes(MemorySource(image), psf.size)
    real = real_rows(from_catalogue(catalogue), from_catalogue(truth, "truth"))
    generator = np.random.default_rng([seed, 10, len(table)])
    stay = thinned(table["x"].value, table["y"].value, real, STRAY * psf.size, generator)
    made = []
    for rows in (np.arange(len(table)), np.flatnonzero(stay)):
        features = row_features(table[rows], psf, holes)
        whole = (np.asarray(table["flags"])[rows] & int(Flag.WAVELET | Flag.NEGATIVE)) == 0
        made.append(RowSet(seed, features[whole], real[rows][whole]))
    return made[0], made[1]


def thinned(
    x: Floats, y: Floats, real: NDArray[np.bool_], reach: float, generator: Generator
) -> NDArray[np.bool_]:
    """Rows that stay: a random share of the real ones, and unreal ones far from those that go."""
    from scipy.spatial import cKDTree

    share = float(np.exp(generator.uniform(*np.log(STAY))))
    stay = ~real | (generator.random(len(real)) < share)
    if stay.all():
        return stay
    apart = cKDTree(np.column_stack([x, y])[~stay]).query(np.column_stack([x, y]))[0]
    return np.asarray(stay & (real | (apart > reach)))


def with_hidden(features: Floats, generator: Generator) -> tuple[Floats, Integers]:
    """Rows, and copies of some in which features that catalogues may lack are hidden.

    Returns
    -------
    features : ndarray, shape (rows and copies, features)
    rows : ndarray of int
        Of which row each is.
    """
    names = list(FEATURES)
    made, rows = [features], [np.arange(len(features))]
    for hidden in HIDDEN.values():
        chosen = np.flatnonzero(generator.random(len(features)) < HIDDEN_SHARE)
        copy = features[chosen].copy()
        copy[:, [names.index(name) for name in hidden]] = np.nan
        made.append(copy)
        rows.append(chosen)
    return np.concatenate(made), np.concatenate(rows)


def fit_trees(features: Floats, real: NDArray[np.bool_], *, seed: int = 0) -> ReliabilityModel:
    """Boost trees whose log-odds rise or fall with features as `FEATURES` says."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    given, rows = with_hidden(features, np.random.default_rng([seed, 9]))
    machine = HistGradientBoostingClassifier(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST,
        learning_rate=RATE,
        l2_regularization=PENALTY,
        max_iter=ROUNDS,
        monotonic_cst=list(FEATURES.values()),
        early_stopping=False,
        random_state=seed,
    )
    machine.fit(given, real[rows])
    return ReliabilityModel(*exported_trees(machine))


def fit_model(sets: Sequence[RowSet], *, folds: int = FOLDS, seed: int = 0) -> ReliabilityModel:
    """Fit the trees, and the line that calibrates them on fields that they did not see.

    Parameters
    ----------
    sets : sequence of RowSet
    folds : int
        Fields are held out by turns; the line is fitted to the log-odds of all held-out rows.
    seed : int
        Of what is hidden.
    """
    features = np.concatenate([s.features for s in sets])
    real = np.concatenate([s.real for s in sets])
    field = np.concatenate([np.full(len(s.real), s.field) for s in sets])
    turn = np.unique(field, return_inverse=True)[1] % folds
    held_out = np.zeros(len(real))
    for k in range(folds):
        out = turn == k
        held_out[out] = fit_trees(features[~out], real[~out], seed=seed).log_odds(features[out])
    slope, shift = calibrating_line(held_out, real)
    trees = fit_trees(features, real, seed=seed)
    return ReliabilityModel(trees.trees, trees.start, slope, shift)


def calibrating_line(log_odds: Floats, real: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift of log-odds with the highest likelihood (Platt 1999)."""
    from scipy.optimize import minimize

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = line[0] * log_odds + line[1]
        off = 1.0 / (1.0 + np.exp(-odds)) - real
        value = float(np.mean(np.logaddexp(0.0, odds) - real * odds))
        return value, np.array([np.mean(off * log_odds), np.mean(off)])

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.1, 10.0), (None, None)]
    )
    return float(found.x[0]), float(found.x[1])


def row_sets(seeds: Sequence[int]) -> Iterator[RowSet]:
    """Rows of all routes on random fields."""
    for seed in seeds:
        field = random_field(seed)
        for pipeline in pipelines(seed).values():
            catalogue = pipeline.run(field.image, workers=1).catalogue
            assert catalogue is not None
            yield from labelled_rows(catalogue, field.truth.catalogue, field.image, seed)
        print(f"{seed}", flush=True)


def write_model(path: Path, model: ReliabilityModel, note: str) -> None:
    """Write a model as JSON, one line a tree."""
    held = {"note": note, **model.to_mapping()}
    trees = ",\n".join(json.dumps(tree) for tree in held.pop("trees"))
    head = json.dumps(held, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "trees": [\n{trees}\n ]\n}}\n')


def main() -> None:
    """Simulate, find, tell apart, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    arguments = parser.parse_args()
    sets = list(row_sets(range(*arguments.seeds)))
    real = np.concatenate([s.real for s in sets])
    note = NOTE.format(
        fields=arguments.seeds[1] - arguments.seeds[0], rows=len(real), real=int(real.sum())
    )
    write_model(arguments.file, fit_model(sets), note)
    print(f"{note} {len(FEATURES)} features.")


if __name__ == "__main__":
    main()
