"""The model by which `associate` joins parts of sources, learned from simulations.

``python -m cyclades.pipeline.training.association FILE`` simulates fields of many densities, runs
the classical route on them with one of two detectors, describes all pairs of the sources that it
finds, and boosts the trees whose numbers are ``data/association.json``.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.training.association_pairs import PairSet, pair_sets, within_sets
from cyclades.pipeline.training.boosting import exported_trees
from cyclades.stages.cataloguing.associate import AssociateRefinement, image_area
from cyclades.stages.cataloguing.bridges import BridgeLight
from cyclades.stages.cataloguing.merging import rows_of
from cyclades.stages.cataloguing.pair_model import Boosted, PairModel
from cyclades.stages.cataloguing.pairs import CONTEXT, FEATURES, context_features
from cyclades.stages.cataloguing.parts import Parts
from cyclades.stages.cataloguing.splitting import split_groups, split_sources
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.source import MemorySource

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.image import SkyImage

BEAMS_A_SOURCE = (100.0, 500.0)
FAINTEST_SNR = 6.0
"""Densities are those of objects above this many rms."""
RMS = 1e-4
SIZE = 1024
SEEDS = (20000, 20080)
DETECTORS = ("islands", "sep")
"""Detectors divide one lobe into different numbers of parts: the model sees either kind."""
ROUNDS, LEAVES, LEAST, RATE, PENALTY = (120, 80, 80), 12, 60, 0.08, 5.0
STRIPES = (0.2, 0.8)
"""Rms of stripes over that of all noise. Smoothed by four beams, the noise of FIRST is 0.3 to 0.5
of the rms, that of a beam alone 0.28: between two strangers it often looks like a bridge."""
FOLDS = 2
RISING = (
    "resolved_brighter",
    "resolved_fainter",
    "pointing_of_brighter",
    "pointing_of_fainter",
    "between",
    "continued",
    "bridge",
    "excess",
    "contrast",
    "middle",
    "own",
    "support",
)
"""What never speaks against one source, all else alike. Lobes of the sky are more varied than those
of the simulator; such limits keep trees from learning by heart what these look like."""
FALLING = ("chance", "chance_of_brighter", "flux_ratio", "peak_ratio")
"""What never speaks for one source."""
NOTE = (
    "Made by python -m cyclades.pipeline.training.association from {fields} simulated fields "
    "({pairs} pairs of sources of the classical route, detected by {detectors}; {true} pairs are "
    "one object)."
)


def field_options(
    beams: float, generator: np.random.Generator, *, size: int = SIZE, doubles: float = 0.6
) -> FieldOptions:
    """Options of a field of a density, with random counts, pixels, beam and clustering.

    Parameters
    ----------
    beams : float
        Beam areas for every object above `FAINTEST_SNR` rms.
    generator : numpy.random.Generator
    size : int
        Pixels.
    doubles : float
        Share of straight radio galaxies.
    """
    slope = float(generator.uniform(1.6, 2.1))
    minor = float(generator.uniform(7.0, 10.0))
    area = np.pi * 10.0 * minor / (4.0 * np.log(2.0)) / 3600.0**2
    power = 1.0 - slope
    above = ((FAINTEST_SNR * RMS) ** power - 1.0) / (1e-3**power - 1.0)
    sky = {
        "counts": {"model": "power_law", "slope": slope, "density": 1.0 / (beams * area * above)},
        "faintest": 1.0,
        "half_share_flux": 0.0,
        "doubles": doubles,
        "bent": 0.2,
        "galaxies": 0.1,
        "discs": 0.02,
        "diffuse": 0.02,
        "radio_galaxy_size": [3.0, 30.0],
        "clustered": float(generator.uniform(0.0, 0.3)),
    }
    plain = {
        "pixel": float(generator.uniform(1.5, 2.5)),
        "beam_minor": minor,
        "rms": RMS,
        "rms_ratio": 1.5,
    }
    return FieldOptions.from_mapping({"size": size, "sky": sky, "plain": plain})


def random_field(seed: int) -> Simulation:
    """Simulate a field of a density that the seed tells; every second one is striped."""
    generator = np.random.default_rng(seed)
    beams = float(np.exp(generator.uniform(*np.log(BEAMS_A_SOURCE))))
    options = field_options(beams, generator)
    if seed % 2:
        angle, share = float(generator.uniform(0.0, 180.0)), float(generator.uniform(*STRIPES))
        plain = options.plain.model_copy(update={"stripes": share, "stripes_angle": angle})
        options = options.model_copy(update={"plain": plain})
    return simulate(options, seed)


def detector_of(seed: int, detectors: Sequence[str] = DETECTORS) -> str:
    """Which detector finds the parts of a field; striped fields and folds have each alike."""
    return detectors[(seed // 4) % len(detectors)]


def apart(catalogue: "Catalogue", image: "SkyImage", within: Boosted) -> "Catalogue":
    """Return a catalogue whose sources are split as `associate` splits them."""
    memory, stage = MemorySource(image), AssociateRefinement()
    area, source = image_area(memory), rows_of(catalogue.sources, catalogue.components)
    parts, bridge = Parts.of(catalogue.components, area), BridgeLight(memory)
    group = split_groups(parts, source, within, probability=stage.split, bridge=bridge)
    return split_sources(catalogue, source, group, area, stage.limit_significance)


def fold_of(seed: int, folds: int = FOLDS) -> int:
    """Which fold a field is in: two neighbouring seeds, of which one is striped, share it."""
    return (seed // 2) % folds


def fit_within(sets: Sequence[PairSet], *, seed: int = 0) -> Boosted:
    """Boost the trees that tell the components of one source apart."""
    features, true, weight, judged = _joined(sets)
    given = features[judged], true[judged], weight[judged]
    # in one island a faint piece beside a bright one is no stranger the more
    return boost(*given, rounds=ROUNDS[2], seed=seed, limits=False)


def fit_model(
    sets: Sequence[PairSet],
    within: Boosted,
    *,
    rounds: Sequence[int] = ROUNDS,
    folds: int = FOLDS,
    seed: int = 0,
) -> PairModel:
    """Boost the trees of both looks by weighted maximum likelihood.

    The second look learns from what a first one says of fields that it has not seen.

    Parameters
    ----------
    sets : sequence of PairSet
    within : Boosted
        Of `fit_within`.
    rounds : (int, int, ...)
        Trees of either look.
    folds : int
        Into which fields fall for that.
    seed : int
    """
    features, true, weight, judged = _joined(sets)
    length = [len(s.true) for s in sets]
    fold = np.repeat([fold_of(s.field, folds) for s in sets], length)

    def fit(given: Floats, rows: NDArray[np.bool_], number: int) -> Boosted:
        return boost(given[rows], true[rows], weight[rows], rounds=number, seed=seed)

    unseen = np.zeros(len(true))
    for out in np.unique(fold):
        mine = fold == out
        unseen[mine] = fit(features, judged & ~mine, rounds[0]).log_odds(features[mine])
    pieces = np.split(unseen, np.cumsum(length)[:-1])
    context = np.concatenate(
        [
            context_features(s.number, s.first, s.second, odds)
            for s, odds in zip(sets, pieces, strict=True)
        ]
    )
    whole = np.concatenate([features, context], -1)
    alone, together = fit(features, judged, rounds[0]), fit(whole, judged, rounds[1])
    return PairModel(alone, together, within)


def _joined(sets: Sequence[PairSet]) -> tuple[Floats, NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    """Features, truth and weight of all pairs, and which are judged."""
    features = np.concatenate([s.features for s in sets])
    true = np.concatenate([s.true for s in sets])
    weight = np.concatenate([s.weight for s in sets])
    return features, true, weight, weight > 0.0


def boost(
    features: Floats,
    true: NDArray[np.bool_],
    weight: Floats,
    *,
    rounds: int,
    seed: int = 0,
    limits: bool = True,
) -> Boosted:
    """Boost trees, with weights whose mean is made 1.

    With limits they rise with the features of `RISING` and fall with those of `FALLING`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    names = (*FEATURES, *CONTEXT)[: features.shape[1]]
    machine = HistGradientBoostingClassifier(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST,
        learning_rate=RATE,
        l2_regularization=PENALTY,
        max_iter=rounds,
        early_stopping=False,
        random_state=seed,
        monotonic_cst=[limits * ((name in RISING) - (name in FALLING)) for name in names],
    )
    machine.fit(features, true, sample_weight=weight / weight.mean())
    return Boosted(*exported_trees(machine))


def main() -> None:
    """Simulate, find, describe, fit, and write the numbers."""
    from cyclades.pipeline.chain import Pipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, metavar="NAME")
    arguments = parser.parse_args()
    detectors = tuple(arguments.detectors)
    route = Pipeline.from_route("classical")
    pipelines = {name: route.replace(detection=name) for name in detectors}
    made = []
    inner: list[PairSet] = []
    for seed in range(*arguments.seeds):
        field = random_field(seed)
        catalogue = pipelines[detector_of(seed, detectors)].run(field.image, workers=1).catalogue
        assert catalogue is not None
        inner.extend(within_sets(catalogue, field, seed))
        # the maps of the noise are not needed again
        made.append((seed, catalogue, replace(field, rms=field.rms[:1], level=field.level[:1])))
        print(f"{seed}: {len(catalogue.sources)} sources", flush=True)
    sets: list[PairSet] = []
    for fold in sorted({fold_of(seed) for seed, _, _ in made}):
        within = fit_within([s for s in inner if fold_of(s.field) != fold])
        for seed, catalogue, field in made:
            if fold_of(seed) == fold:
                sets.extend(pair_sets(apart(catalogue, field.image, within), field, seed))
    sets.sort(key=lambda s: s.field)
    true = np.concatenate([s.true for s in sets])
    note = NOTE.format(
        fields=arguments.seeds[1] - arguments.seeds[0],
        pairs=len(true),
        true=int(true.sum()),
        detectors=" or ".join(detectors),
    )
    held = {"note": note, **fit_model(sets, fit_within(inner)).to_mapping()}
    arguments.file.write_text(json.dumps(held) + "\n")
    print(f"{note} {len(FEATURES)} features.")


if __name__ == "__main__":
    main()
