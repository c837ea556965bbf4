"""The model by which `associate` joins parts of sources, learned from simulations.

``python -m cyclades.pipeline.training.association FILE`` simulates fields of many densities, runs
the classical route on them, describes all pairs of the sources that it finds, and boosts the trees
whose numbers are ``data/association.json``.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cyclades.pipeline.comparison.association import COMPACT, NO_OBJECT, object_rows
from cyclades.pipeline.comparison.tables import ComparisonTable, from_catalogue, from_truth
from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.simulation.render import drawn
from cyclades.pipeline.training.boosting import exported_trees
from cyclades.stages.cataloguing.associate import AssociateRefinement, image_area
from cyclades.stages.cataloguing.bridges import BridgeLight
from cyclades.stages.cataloguing.pair_model import Boosted, PairModel
from cyclades.stages.cataloguing.pairs import FEATURES, context_features, pair_features
from cyclades.stages.cataloguing.parts import ARCSEC, Parts, find_pairs
from cyclades.stages.cataloguing.rows import positions
from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    inverse,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.products import Integers
from cyclades.stages.core.rendering import add_gaussians
from cyclades.stages.core.source import MemorySource

if TYPE_CHECKING:
    from astropy.table import QTable

    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.image import SkyImage

BEAMS_A_SOURCE = (100.0, 500.0)
FAINTEST_SNR = 6.0
"""Densities are those of objects above this many rms."""
RMS = 1e-4
SIZE = 1024
SEEDS = (20000, 20100)
ROUNDS, LEAVES, LEAST, RATE, PENALTY = (120, 80), 12, 60, 0.08, 5.0
FOLDS = 2
WINDOW_BEAMS = (40.0, 120.0)
KEPT_SHARE = (0.02, 1.0)
REALISATIONS = 10
"""Windows are cut out of every field, since small images know little of their density, and objects
left out of them, so that one crowded field shows what sparse ones look like."""
STRANGERS = (0.3, 6.0)
"""Compact sources put anywhere into every window, over those that it holds: the simulated fields
are rich in radio galaxies, which are few among the sources of the sky."""
NOTE = (
    "Made by python -m cyclades.pipeline.training.association from {fields} simulated fields "
    "({pairs} pairs of sources of the classical route, {true} of them of one object)."
)


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of parts of a field with their truth.

    Attributes
    ----------
    features : ndarray, shape (pairs, features)
    true : ndarray of bool, shape (pairs,)
    weight : ndarray, shape (pairs,)
        0 for pairs that are not judged.
    number : int
        Parts.
    first, second : ndarray of int, shape (pairs,)
    field : int
    """

    features: Floats
    true: NDArray[np.bool_]
    weight: Floats
    number: int
    first: Integers
    second: Integers
    field: int


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
    """Simulate a field of a density that the seed tells."""
    generator = np.random.default_rng(seed)
    beams = float(np.exp(generator.uniform(*np.log(BEAMS_A_SOURCE))))
    return simulate(field_options(beams, generator), seed)


def part_objects(catalogue: "Catalogue", truth: ComparisonTable) -> Integers:
    """True object that most of the flux of every source of a catalogue is of, or `NO_OBJECT`."""
    table = from_catalogue(catalogue)
    psf = catalogue.components["psf_major"].value
    beam = float(np.median(psf)) if len(psf) else 1.0
    own = object_rows(table, truth, beam)
    source = np.searchsorted(
        np.asarray(catalogue.sources["source_id"]), np.asarray(catalogue.components["source_id"])
    )
    flux = np.nan_to_num(np.abs(table["total_flux"]))
    result = np.full(len(catalogue.sources), NO_OBJECT, np.int64)
    for row in range(len(result)):
        mine = source == row
        objects, index = np.unique(own[mine], return_inverse=True)
        if len(objects):
            result[row] = objects[np.argmax(np.bincount(index, flux[mine]))]
    return result


def pair_sets(catalogue: "Catalogue", field: Simulation, seed: int) -> Iterator[PairSet]:
    """Pairs of a field, and of windows of it from which objects are left out.

    What is left out is left out of the image too. Two parts of which neither belongs to an object
    are not judged.

    Parameters
    ----------
    catalogue : Catalogue
        What the classical route finds in the field.
    field : Simulation
    seed : int
        Of the windows and of what stays in them.
    """
    from astropy.table import vstack

    generator = np.random.default_rng([seed, 1])
    image, truth = field.image, from_truth(field.truth)
    psf = image.psf
    assert psf is not None
    owner = part_objects(catalogue, truth)
    whole = image_area(MemorySource(image))
    x, y = (np.asarray(catalogue.sources[name].value) for name in ("x", "y"))
    pixel = np.sqrt(whole / np.prod(image.shape))
    compact = _compact(owner, truth)
    shapes, number_of = drawn(field.sky, psf), _sky_numbers(field)
    for k in range(1 + REALISATIONS):
        chosen, area, seen = np.ones(len(x), bool), whole, image
        table, own = catalogue.sources, owner
        if k:
            side = min(float(generator.uniform(*WINDOW_BEAMS)) * psf.size, image.shape[0])
            if k % 2:
                side = float(image.shape[0])
            x0, y0 = generator.uniform(0.0, max(image.shape[0] - side, 1e-6), 2)
            chosen = (x >= x0 - 0.5) & (x < x0 + side) & (y >= y0 - 0.5) & (y < y0 + side)
            area = (side * pixel) ** 2
            stay = np.exp(generator.uniform(*np.log(KEPT_SHARE)))
            objects = generator.random(max(number_of) + 1) < stay
            chosen &= np.where(owner >= 0, objects[owner], generator.random(len(x)) < stay)
            rows = np.flatnonzero(chosen)
            table, own = catalogue.sources[rows], owner[rows]
            gone = [number_of[n] for n in number_of if not objects[n]]
            lost = [shapes.values[shapes.starts[n] : shapes.starts[n + 1]] for n in gone]
            number = round(len(rows) * float(np.exp(generator.uniform(*np.log(STRANGERS)))))
            new = catalogue.sources[:0]
            if compact.size and k % 4 < 3:
                corner = (x0, y0, side) if k % 2 == 0 else (0.0, 0.0, float(image.shape[0]))
                new = _strangers(catalogue.sources[generator.choice(compact, number)], image,
                                 corner, generator)  # fmt: skip
                table = vstack([table, new], metadata_conflicts="silent")
                own = np.concatenate([own, 10**9 + np.arange(number)])
            seen = _changed(image, lost, new)
        parts = Parts.of(table, area)
        first, second = find_pairs(parts, AssociateRefinement().radius)
        a, b = own[first], own[second]
        judged = (a != NO_OBJECT) | (b != NO_OBJECT)
        if not judged.any():
            continue
        features = pair_features(parts, first, second, bridge=BridgeLight(MemorySource(seen)))
        weight = judged * np.count_nonzero(judged) ** -0.5
        yield PairSet(features, judged & (a == b), weight, len(parts), first, second, seed)


def _sky_numbers(field: Simulation) -> dict[int, int]:
    """Objects of the sky model by their number in the truth: those of the same flux."""
    truth = from_truth(field.truth)
    number, index = np.unique(truth["source"], return_inverse=True)
    flux = np.bincount(index, truth["total_flux"])
    total = np.bincount(field.sky.owner, field.sky.flux)
    order = np.argsort(total)
    place = np.searchsorted(total[order], flux).clip(1, len(order) - 1)
    above = total[order[place]] - flux < flux - total[order[place - 1]]
    found = order[np.where(above, place, place - 1)]
    return dict(zip(number.tolist(), found.tolist(), strict=True))


def _changed(image: "SkyImage", lost: Sequence[Floats], new: "QTable") -> "SkyImage":
    """An image without the Gaussians of some objects (of `drawn`), and with some sources."""
    light = np.zeros(image.shape, np.float32)
    if lost:
        values = np.concatenate(lost)
        values[:, 0] *= -1.0
        add_gaussians(light, np.ascontiguousarray(values))
    if len(new):
        x, y = (np.asarray(new[name].value, float) for name in ("x", "y"))
        shape = covariance_from_shape(
            *(np.asarray(new[name].value, float) for name in ("major", "minor", "position_angle"))
        )
        assert image.wcs is not None
        back = inverse(sky_jacobian(image.wcs, x, y) * ARCSEC)
        own = transform_covariance(shape, back)
        peak = np.asarray(new["peak_flux"].value, float)
        rows = np.stack([peak, x, y, own[:, 0, 0], own[:, 0, 1], own[:, 1, 1]], -1)
        add_gaussians(light, np.ascontiguousarray(rows))
    return image.replace(data=image.data + light)


def _compact(owner: Integers, truth: ComparisonTable) -> Integers:
    """Rows of the parts that are compact objects, and nothing else of them."""
    number, first, count = np.unique(truth["source"], return_index=True, return_counts=True)
    alone = number[(count == 1) & (truth["morphology"][first] == COMPACT)]
    found, times = np.unique(owner, return_counts=True)
    return np.flatnonzero(np.isin(owner, np.intersect1d(alone, found[times == 1])))


def _strangers(
    rows: "QTable", image: "SkyImage", corner: tuple[float, float, float], generator: Generator
) -> "QTable":
    """Copies of sources at places anywhere in a window of an image (x, y of its corner, side)."""
    made = rows.copy()
    x0, y0, side = corner
    x, y = generator.uniform(0.0, side, (2, len(made))) + np.array([[x0], [y0]])
    ra, dec = positions(image, x, y)
    for name, values in {"x": x, "y": y, "ra": ra, "dec": dec}.items():
        made[name][:] = values * made[name].unit
    made["island_id"][:] = -1 - np.arange(len(made))
    return made


def fit_model(
    sets: Sequence[PairSet],
    *,
    rounds: tuple[int, int] = ROUNDS,
    folds: int = FOLDS,
    seed: int = 0,
) -> PairModel:
    """Boost the trees of both looks by weighted maximum likelihood.

    The second look learns from what a first one says of fields that it has not seen.

    Parameters
    ----------
    sets : sequence of PairSet
    rounds : (int, int)
        Trees of either look.
    folds : int
        Into which fields fall for that.
    seed : int
    """
    features = np.concatenate([s.features for s in sets])
    true = np.concatenate([s.true for s in sets])
    weight = np.concatenate([s.weight for s in sets])
    length = [len(s.true) for s in sets]
    fold = np.repeat([s.field % folds for s in sets], length)

    def fit(given: Floats, rows: NDArray[np.bool_], number: int) -> Boosted:
        return boost(given[rows], true[rows], weight[rows], rounds=number, seed=seed)

    unseen = np.zeros(len(true))
    for out in np.unique(fold):
        mine = fold == out
        unseen[mine] = fit(features, (weight > 0.0) & ~mine, rounds[0]).log_odds(features[mine])
    pieces = np.split(unseen, np.cumsum(length)[:-1])
    context = np.concatenate(
        [
            context_features(s.number, s.first, s.second, odds)
            for s, odds in zip(sets, pieces, strict=True)
        ]
    )
    judged = weight > 0.0
    whole = np.concatenate([features, context], -1)
    return PairModel(fit(features, judged, rounds[0]), fit(whole, judged, rounds[1]))


def boost(
    features: Floats, true: NDArray[np.bool_], weight: Floats, *, rounds: int, seed: int = 0
) -> Boosted:
    """Boost trees, with weights whose mean is made 1."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    machine = HistGradientBoostingClassifier(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST,
        learning_rate=RATE,
        l2_regularization=PENALTY,
        max_iter=rounds,
        early_stopping=False,
        random_state=seed,
    )
    machine.fit(features, true, sample_weight=weight / weight.mean())
    return Boosted(*exported_trees(machine))


def main() -> None:
    """Simulate, find, describe, fit, and write the numbers."""
    from cyclades.pipeline.chain import Pipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    arguments = parser.parse_args()
    pipeline = Pipeline.from_route("classical")
    sets: list[PairSet] = []
    for seed in range(*arguments.seeds):
        field = random_field(seed)
        catalogue = pipeline.run(field.image, workers=1).catalogue
        assert catalogue is not None
        sets.extend(pair_sets(catalogue, field, seed))
        print(f"{seed}: {len(catalogue.sources)} sources", flush=True)
    true = np.concatenate([s.true for s in sets])
    note = NOTE.format(
        fields=arguments.seeds[1] - arguments.seeds[0], pairs=len(true), true=int(true.sum())
    )
    held = {"note": note, **fit_model(sets).to_mapping()}
    arguments.file.write_text(json.dumps(held) + "\n")
    print(f"{note} {len(FEATURES)} features.")


if __name__ == "__main__":
    main()
