"""The model by which `associate` joins parts of sources, learned from simulations.

``python -m cyclades.pipeline.training.association FILE`` simulates fields of many densities, runs
the classical route on them, describes all pairs of the sources that it finds, and fits the small
perceptron whose numbers are ``data/association.json``.
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
from cyclades.stages.cataloguing.associate import AssociateRefinement, image_area
from cyclades.stages.cataloguing.bridges import BridgeLight
from cyclades.stages.cataloguing.pair_model import PairModel
from cyclades.stages.cataloguing.parts import FEATURES, Parts, find_pairs, pair_features
from cyclades.stages.cataloguing.rows import positions
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers
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
UNITS = 8
PENALTY = 3e-3
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
    """

    features: Floats
    true: NDArray[np.bool_]
    weight: Floats


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


def pair_sets(
    catalogue: "Catalogue", truth: ComparisonTable, image: "SkyImage", seed: int
) -> Iterator[PairSet]:
    """Pairs of a field, and of windows of it from which objects are left out.

    Two parts of which neither belongs to an object are left out.

    Parameters
    ----------
    catalogue : Catalogue
    truth : ComparisonTable
    image : SkyImage
    seed : int
        Of the windows and of what stays in them.
    """
    from astropy.table import vstack

    generator = np.random.default_rng([seed, 1])
    source = MemorySource(image)
    owner = part_objects(catalogue, truth)
    whole = image_area(source)
    x, y = (np.asarray(catalogue.sources[name].value) for name in ("x", "y"))
    pixel = np.sqrt(whole / np.prod(image.shape))
    psf = image.psf
    assert psf is not None
    bridge = BridgeLight(source)
    compact = _compact(owner, truth)
    for k in range(1 + REALISATIONS):
        chosen, area = np.ones(len(x), bool), whole
        if k:
            side = min(float(generator.uniform(*WINDOW_BEAMS)) * psf.size, image.shape[0])
            if k % 2:
                side = float(image.shape[0])
            x0, y0 = generator.uniform(0.0, max(image.shape[0] - side, 1e-6), 2)
            chosen = (x >= x0 - 0.5) & (x < x0 + side) & (y >= y0 - 0.5) & (y < y0 + side)
            area = (side * pixel) ** 2
            stay = np.exp(generator.uniform(*np.log(KEPT_SHARE)))
            objects = generator.random(owner.max(initial=0) + 1) < stay
            chosen &= np.where(owner >= 0, objects[owner], generator.random(len(x)) < stay)
        rows = np.flatnonzero(chosen)
        table, own = catalogue.sources[rows], owner[rows]
        if k and compact.size:
            number = round(len(rows) * float(np.exp(generator.uniform(*np.log(STRANGERS)))))
            corner = (x0, y0, side) if k % 2 == 0 else (0.0, 0.0, float(image.shape[0]))
            new = _strangers(catalogue.sources[generator.choice(compact, number)], image, corner,
                             generator)  # fmt: skip
            table = vstack([table, new], metadata_conflicts="silent")
            own = np.concatenate([own, 10**9 + np.arange(number)])
        parts = Parts.of(table, area)
        first, second = find_pairs(parts, AssociateRefinement().radius)
        a, b = own[first], own[second]
        judged = (a != NO_OBJECT) | (b != NO_OBJECT)
        if not judged.any():
            continue
        first, second, true = first[judged], second[judged], (a == b)[judged]
        features = pair_features(parts, first, second, bridge=bridge)
        yield PairSet(features, true, np.full(len(first), len(first) ** -0.5))


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


def fit_model(sets: Sequence[PairSet], *, units: int = UNITS, seed: int = 0) -> PairModel:
    """Fit the perceptron by weighted maximum likelihood with a penalty on squared weights.

    Parameters
    ----------
    sets : sequence of PairSet
    units : int
        Of the hidden layer.
    seed : int
        Of the weights at the start.
    """
    from scipy.optimize import minimize

    features = np.concatenate([s.features for s in sets])
    true = np.concatenate([s.true for s in sets]).astype(float)
    weight = np.concatenate([s.weight for s in sets])
    weight = weight / weight.sum()
    centre, scale = features.mean(0), np.maximum(features.std(0), 1e-3)
    given = (features - centre) / scale
    n = features.shape[1]
    shapes = [(n, units), (units,), (units,), (n,), (1,)]
    cuts = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

    def unpack(values: Floats) -> list[Floats]:
        return [v.reshape(s) for v, s in zip(np.split(values, cuts), shapes, strict=True)]

    def loss(values: Floats) -> tuple[float, Floats]:
        hidden, hidden_bias, output, direct, bias = unpack(values)
        inner = np.tanh(given @ hidden + hidden_bias)
        odds = inner @ output + given @ direct + bias
        value = float(np.sum(weight * (np.logaddexp(0.0, odds) - true * odds)))
        slope = weight * (1.0 / (1.0 + np.exp(-odds)) - true)
        back = slope[:, None] * output * (1.0 - inner**2)
        gradient = [given.T @ back, back.sum(0), inner.T @ slope, given.T @ slope, [slope.sum()]]
        flat = np.concatenate([np.ravel(g) for g in gradient])
        penalty = values.copy()
        penalty[-1] = 0.0
        return value + 0.5 * PENALTY * float(penalty @ penalty), flat + PENALTY * penalty

    start = np.random.default_rng(seed).normal(0.0, 0.3, int(sum(np.prod(s) for s in shapes)))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 400})
    hidden, hidden_bias, output, direct, bias = unpack(found.x)
    return PairModel(centre, scale, hidden, hidden_bias, output, direct, float(bias[0]))


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
        sets.extend(pair_sets(catalogue, from_truth(field.truth), field.image, seed))
        print(f"{seed}: {len(catalogue.sources)} sources", flush=True)
    true = np.concatenate([s.true for s in sets])
    note = NOTE.format(
        fields=arguments.seeds[1] - arguments.seeds[0], pairs=len(true), true=int(true.sum())
    )
    held = {"note": note, **fit_model(sets).to_mapping()}
    arguments.file.write_text(json.dumps(held, indent=1) + "\n")
    print(f"{note} {len(FEATURES)} features.")


if __name__ == "__main__":
    main()
