"""Pairs with their truth from simulated fields, by which `associate` learns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.association import COMPACT, NO_OBJECT, object_rows
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.simulation.field import Simulation
from cyclades.pipeline.simulation.render import drawn
from cyclades.stages.cataloguing.associate import AssociateRefinement, image_area
from cyclades.stages.cataloguing.bridges import BridgeLight
from cyclades.stages.cataloguing.merging import rows_of
from cyclades.stages.cataloguing.pairs import pair_features
from cyclades.stages.cataloguing.parts import ARCSEC, Parts, find_pairs
from cyclades.stages.cataloguing.rows import positions
from cyclades.stages.cataloguing.splitting import component_pairs
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

WINDOW_BEAMS = (40.0, 120.0)
KEPT_SHARE = (0.02, 1.0)
REALISATIONS, WITHIN_REALISATIONS = 10, 3
"""Windows are cut out of every field, since small images know little of their density, and objects
left out of them, so that one crowded field shows what sparse ones look like."""
STRANGERS = (0.3, 6.0)
"""Compact sources put anywhere into every window, over those that it holds: the simulated fields
are rich in radio galaxies, which are few among the sources of the sky."""


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


def component_objects(catalogue: "Catalogue", truth: ComparisonTable) -> Integers:
    """True object of every component of a catalogue, or `NO_OBJECT`."""
    psf = catalogue.components["psf_major"].value
    beam = float(np.median(psf)) if len(psf) else 1.0
    return object_rows(from_catalogue(catalogue), truth, beam)


def part_objects(catalogue: "Catalogue", truth: ComparisonTable) -> Integers:
    """True object that most of the flux of every source of a catalogue is of, or `NO_OBJECT`."""
    own = component_objects(catalogue, truth)
    source = rows_of(catalogue.sources, catalogue.components)
    flux = np.nan_to_num(np.abs(np.asarray(catalogue.components["total_flux"].value, float)))
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
    shapes, number_of = drawn(field.sky, psf), sky_numbers(field)
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
            seen = changed(image, lost, new)
        parts = Parts.of(table, area)
        first, second = find_pairs(parts, AssociateRefinement().radius)
        a, b = own[first], own[second]
        judged = (a != NO_OBJECT) | (b != NO_OBJECT)
        if not judged.any():
            continue
        features = pair_features(parts, first, second, bridge=BridgeLight(MemorySource(seen)))
        weight = judged * np.count_nonzero(judged) ** -0.5
        yield PairSet(features, judged & (a == b), weight, len(parts), first, second, seed)


def within_sets(catalogue: "Catalogue", field: Simulation, seed: int) -> Iterator[PairSet]:
    """Pairs of components of one source, of a field and of it with objects left out.

    Parameters
    ----------
    catalogue, field, seed
        See `pair_sets`.
    """
    generator = np.random.default_rng([seed, 2])
    image, truth = field.image, from_truth(field.truth)
    owner = component_objects(catalogue, truth)
    source = rows_of(catalogue.sources, catalogue.components)
    assert image.psf is not None
    shapes, number_of = drawn(field.sky, image.psf), sky_numbers(field)
    area = image_area(MemorySource(image))
    for k in range(1 + WITHIN_REALISATIONS):
        seen, chosen = image, np.ones(len(owner), bool)
        if k:
            stay = np.exp(generator.uniform(*np.log(KEPT_SHARE)))
            objects = generator.random(max(number_of) + 1) < stay
            chosen = np.where(owner >= 0, objects[owner], generator.random(len(owner)) < stay)
            gone = [number_of[n] for n in number_of if not objects[n]]
            lost = [shapes.values[shapes.starts[n] : shapes.starts[n + 1]] for n in gone]
            seen = changed(image, lost, catalogue.sources[:0])
        rows = np.flatnonzero(chosen)
        parts = Parts.of(catalogue.components[rows], area)
        bridge = BridgeLight(MemorySource(seen))
        first, second, features = component_pairs(parts, source[rows], bridge=bridge)
        a, b = owner[rows][first], owner[rows][second]
        judged = (a != NO_OBJECT) | (b != NO_OBJECT)
        if judged.any():
            weight = judged * np.count_nonzero(judged) ** -0.5
            yield PairSet(features, judged & (a == b), weight, len(parts), first, second, seed)


def sky_numbers(field: Simulation) -> dict[int, int]:
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


def changed(image: "SkyImage", lost: Sequence[Floats], new: "QTable") -> "SkyImage":
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
