"""How well parts of radio galaxies are put together: on labelled FIRST fields and on simulations.

``python tests/benchmarks/association.py OUTPUT --data FOLDER`` prints tables in Markdown. FOLDER
holds ``first-rgz-fields-dev``; without it the simulations alone are run. Catalogues before the
association are kept in OUTPUT and used again, so that a run that was cut off goes on. Beside the
sources of each route, before and after ``associate``, stand friends of friends with the linking
length that suits these very labels (or doubles) best, and pairs by separation and flux ratio
(Magliocchetti et al. 1998, MNRAS 300, 257) with the scales of FIRST in beams and rms, and with
``--sep`` friends of friends of what sep finds in FIRST (peaks of 5 rms, islands down to 3).
``at best, islands whole`` is the share that any grouping of the route's sources could get: the
others hold strangers already, which ``associate`` may split off, or reach beyond the label.
``--choose`` prints in place of all that how labels and injected
points go with the threshold on either half of the sky, with other points than those reported.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from peers import DENSITY, FIRST_BEAM, FIRST_SOUTHERN_BEAM, INJECTED, SOUTHERN, markdown

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.association import (
    COMPACT,
    LINKING_LENGTHS,
    best_friends_of_friends,
    central_group,
    covered_by_one,
    friends_of_friends,
    nearest_objects,
    object_rows,
    source_groups,
    wrongly_merged,
)
from cyclades.pipeline.comparison.intervals import bootstrap, wilson
from cyclades.pipeline.comparison.labels import Label, read_labels
from cyclades.pipeline.comparison.match import neighbours
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.simulation.field import simulate
from cyclades.pipeline.simulation.injection import inject
from cyclades.pipeline.training.association import field_options
from cyclades.stages.cataloguing.associate import AssociateRefinement
from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image
from cyclades.stages.core.products import Integers
from cyclades.stages.core.source import MemorySource

BEAM = 5.4
"""Arcsec, of FIRST."""
DENSITIES = {4400.0: range(40000, 40100), 150.0: range(41000, 41010)}
"""Beam areas a source above 6 rms, and the seeds of the fields."""
SEPARATIONS = (2.0, 5.0, 10.0, 20.0)
"""Beams."""
SEPARATION_AT, FLUX_AT, FLUX_POWER, RATIO = 100.0 / 5.4, 100.0 / 0.15, 0.5, 4.0
"""Pairs of FIRST: up to 100 arcsec at 100 mJy together, and as the root of the flux; fluxes
within a factor of four. Here in beams of 5.4 arcsec and rms of 0.15 mJy."""
CHOICE_SEED = 7000
"""Of the points by which thresholds are chosen; those that are reported have 0."""
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SEP = Pipeline.from_route("classical").replace(detection="sep")
"""Islands reach down to 3 rms, as those of the classical detector, and hold a peak of 5."""

Rule = Callable[[ComparisonTable], Integers]


def associated(catalogue: Catalogue, image: SkyImage, **options: float) -> Catalogue:
    """The catalogue after the refinement, at its defaults where nothing else is said."""
    refinement = AssociateRefinement(**options)
    with Context() as context:
        return refinement.refine(catalogue, MemorySource(image), context=context)


def flux_pairs(table: ComparisonTable, beam: float) -> Integers:
    """Groups of components linked by separation and flux ratio."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    flux = np.abs(table["total_flux"])
    i, j, apart = neighbours(table, table, np.full(len(table), 3.0 * SEPARATION_AT * beam))
    together = (flux[i] + flux[j]) / np.nanmedian(table["local_rms"])
    near = apart <= beam * SEPARATION_AT * (together / FLUX_AT) ** FLUX_POWER
    near &= np.abs(np.log(flux[i] / flux[j])) <= np.log(RATIO)
    # what is one source already stays one
    source = source_groups(table)
    _, first, index = np.unique(source, return_index=True, return_inverse=True)
    i, j = np.r_[i[near], np.arange(len(table))], np.r_[j[near], first[index]]
    links = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(len(table), len(table)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def first_image(path: Path) -> SkyImage:
    """A field of FIRST with the survey's beam."""
    declination = float(path.name.split("_")[1][7:])
    beam = FIRST_SOUTHERN_BEAM if declination < SOUTHERN else FIRST_BEAM
    return read_image(path, beam=beam)


def kept(path: Path, make: Callable[[], Catalogue]) -> Catalogue:
    """A catalogue from its file, made where there is none."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().write(path)
    return read_catalogue(path)


def interval(hits: Floats, fields: Sequence[str]) -> str:
    """Share of hits (or mean difference) with its spread over resampled fields."""
    _, index = np.unique(np.asarray(fields), return_inverse=True)
    counts = np.stack([np.bincount(index, hits), np.bincount(index)], -1)
    low, high = bootstrap(counts, lambda c: c[..., 0].sum(-1) / c[..., 1].sum(-1))
    return f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]"


def label_rows(
    route: str, paths: Sequence[Path], folder: Path, output: Path, *, sep: bool = False
) -> list[dict]:
    """Labels that exactly one source covers, by rule."""
    by_field: dict[str, list[Label]] = {}
    for label in read_labels(folder / "labels.csv"):
        by_field.setdefault(label.field, []).append(label)
    pipeline = Pipeline.from_route(route)
    held, after = [], []
    for path in paths:
        own = by_field.get(path.name.removesuffix(".gz"), [])
        if not own:
            continue
        image = first_image(path)
        name = path.name.removesuffix(".fits.gz")
        catalogue = kept(
            output / route / f"{name}.fits",
            lambda image=image: pipeline.run(image, workers=1).catalogue,
        )
        held.append((from_catalogue(catalogue).joined(), own))
        after.append(from_catalogue(associated(catalogue, image)).joined())
    labels = [label for _, own in held for label in own]
    fields = [label.field for label in labels]

    def covered(rule: Rule, tables: Sequence[ComparisonTable]) -> Floats:
        pairs = zip(tables, held, strict=True)
        found = [covered_by_one(t, rule(t), own, BEAM) for t, (_, own) in pairs]
        return np.concatenate(found).astype(float)

    before = [table for table, _ in held]
    linked = best_friends_of_friends(held, BEAM)
    central = [
        covered_by_one(t, central_group(t, own[0].target_ra, own[0].target_dec), own, BEAM)
        for t, own in held
    ]
    results = {
        "own sources": covered(source_groups, before),
        "associate": covered(source_groups, after),
        f"friends of friends, {linked.length:g} arcsec": linked.covered.astype(float),
        "pairs by separation and flux": covered(lambda t: flux_pairs(t, BEAM), before),
        "at best, islands whole": attainable(held),
        "centre": np.concatenate(central).astype(float),
    }
    if sep:
        found = [
            kept(
                output / "sep" / path.name.removesuffix(".gz"),
                lambda path=path: SEP.run(first_image(path), workers=1).catalogue,
            )
            for path in paths
            if path.name.removesuffix(".gz") in by_field
        ]
        pairs = zip(found, (own for _, own in held), strict=True)
        peer = best_friends_of_friends(
            [(from_catalogue(c).joined(), own) for c, own in pairs], BEAM
        )
        results[f"sep, friends of friends, {peer.length:g} arcsec"] = peer.covered.astype(float)
    best = results["associate"]
    several = np.array([len(label.ra) > 1 for label in labels])
    return [
        {
            "route": route,
            "rule": rule,
            "covered by one": interval(hits, fields),
            "labels of one component": f"{hits[~several].mean():.3f}",
            "of several": f"{hits[several].mean():.3f}",
            "associate minus this": "" if hits is best else interval(best - hits, fields),
        }
        for rule, hits in results.items()
    ]


def attainable(fields: Sequence[tuple[ComparisonTable, Sequence[Label]]]) -> Floats:
    """Labels that some grouping of the sources covers: all that lie in them, and no others."""
    made = []
    for table, own in fields:
        source = source_groups(table)
        for label in own:
            inside = label.inside(table["ra"], table["dec"], BEAM)
            inside &= label.judged(table["ra"], table["dec"])
            joined = np.where(np.isin(source, source[inside]), -1, source)
            made.append(covered_by_one(table, joined, [label], BEAM)[0])
    return np.array(made, float)


def choice_rows(paths: Sequence[Path], folder: Path, output: Path, repeats: int) -> list[dict]:
    """Labels covered by one and injected points merged, by the threshold, on halves of the sky."""
    by_field: dict[str, list[Label]] = {}
    for label in read_labels(folder / "labels.csv"):
        by_field.setdefault(label.field, []).append(label)
    pipeline = Pipeline.from_route("classical")
    hits: dict[float, list[tuple[float, bool]]] = {p: [] for p in THRESHOLDS}
    merged: dict[float, list[tuple[float, int, int]]] = {p: [] for p in THRESHOLDS}
    for number, path in enumerate(paths):
        own = by_field.get(path.name.removesuffix(".gz"), [])
        image = first_image(path)
        catalogue = kept(
            output / "classical" / path.name.removesuffix(".gz"),
            lambda image=image: pipeline.run(image, workers=1).catalogue,
        )
        for p, made in hits.items():
            table = from_catalogue(associated(catalogue, image, probability=p)).joined()
            right = covered_by_one(table, source_groups(table), own, BEAM)
            made += [(right_ascension(path), hit) for hit in right]
        for seen, found, owner, points in injected(pipeline, path, number, repeats, CHOICE_SEED):
            for p, made in merged.items():
                group = source_groups(from_catalogue(associated(found, seen, probability=p)))
                made.append((right_ascension(path), *wrongly_merged(group, owner, points)))
    middle = np.median([place for place, _ in hits[THRESHOLDS[0]]])
    rows = []
    for p in THRESHOLDS:
        place, hit = np.array(hits[p], float).T
        where, bad, all_of = np.array(merged[p], float).T
        row = {"probability": f"{p:g}"}
        for name, one, two in (
            ("lower half", place <= middle, where <= middle),
            ("upper half", place > middle, where > middle),
        ):
            row[f"covered, {name}"] = f"{hit[one].mean():.3f}"
            row[f"merged, {name}"] = f"{bad[two].sum():.0f} of {all_of[two].sum():.0f}"
        rows.append(row)
    return rows


def right_ascension(path: Path) -> float:
    """Of the target of a field of FIRST, in degrees."""
    return float(path.name.split("_")[1][:7])


def injected(
    pipeline: Pipeline, path: Path, number: int, repeats: int, seed: int
) -> Iterator[tuple[SkyImage, Catalogue, Integers, Integers]]:
    """Images of a field with points, their catalogues, and the points of their components."""
    image = first_image(path)
    start = pipeline.run_until("background", image, workers=1)
    plane, background = start.image, start.background
    area = np.count_nonzero(np.isfinite(plane.data)) * plane.wcs.proj_plane_pixel_area()
    options = INJECTED.model_copy(
        update={
            "number": max(1, round(DENSITY * area.to_value("deg2"))),
            "lowest_snr": 7.0,
            "highest_snr": 100.0,
            "separation": 0.0,
            "avoid": 0.0,
        }
    )
    for k in range(repeats):
        made = inject(plane, options, background, np.random.default_rng([number, seed + k]))
        catalogue = pipeline.run(made.image, workers=1).catalogue
        table, truth = from_catalogue(catalogue), from_truth(made.truth)
        yield (
            made.image,
            catalogue,
            nearest_objects(table, truth, 0.5 * BEAM),
            np.arange(len(truth)),
        )


def merge_rows(paths: Sequence[Path], length: float, repeats: int) -> list[dict]:
    """Points, injected anywhere at the survey's density, that rules wrongly merge."""
    pipeline = Pipeline.from_route("classical")
    total: dict[str, Integers] = {}
    for number, path in enumerate(paths):
        for image, catalogue, own, points in injected(pipeline, path, number, repeats, 0):
            table, joined = from_catalogue(catalogue), from_catalogue(associated(catalogue, image))
            groups = {
                "own sources": source_groups(table),
                "associate": source_groups(joined),
                f"friends of friends, {length:g} arcsec": friends_of_friends(table, length),
                "pairs by separation and flux": flux_pairs(table, BEAM),
            }
            for rule, group in groups.items():
                counted = wrongly_merged(group, own, points)
                total[rule] = total.get(rule, np.zeros(2, np.int64)) + np.array(counted)
    return [
        {"rule": rule, "points found": str(found), "wrongly merged": share(merged, found)}
        for rule, (merged, found) in total.items()
    ]


def share(hits: int, number: int) -> str:
    """A share with its Wilson interval."""
    if not number:
        return ""
    low, high = wilson(hits, number)
    return f"{hits / number:.3f} [{float(low):.3f}, {float(high):.3f}]"


def doubles(table: ComparisonTable, owner: Integers, beam: float) -> list[tuple[float, Integers]]:
    """Separation in beams and rows of the true objects that were found as several sources."""
    made = []
    sources = source_groups(table)
    for number in np.unique(owner[owner >= 0]):
        rows = np.flatnonzero(owner == number)
        if len(np.unique(sources[rows])) < 2:
            continue
        mine = table.take(rows)
        _, _, apart = neighbours(mine, mine, np.full(len(rows), 3600.0))
        made.append((float(apart.max()) / beam, rows))
    return made


def simulated_rows(beams: float, seeds: range, output: Path) -> list[dict]:
    """Doubles of simulations with exactly the right members, by separation."""
    pipeline = Pipeline.from_route("classical")
    fields = []
    for seed in seeds:
        field = simulate(field_options(beams, np.random.default_rng(seed)), seed)
        catalogue = kept(
            output / f"simulated-{beams:g}" / f"{seed}.fits",
            lambda field=field: pipeline.run(field.image, workers=1).catalogue,
        )
        if not len(catalogue):
            continue
        table, truth = from_catalogue(catalogue), from_truth(field.truth)
        beam = float(np.sqrt(np.prod(table.beam)))
        after = source_groups(from_catalogue(associated(catalogue, field.image)))
        owner = object_rows(table, truth, beam)
        number, first, count = np.unique(truth["source"], return_index=True, return_counts=True)
        single = number[(count == 1) & (truth["morphology"][first] == COMPACT)]
        fields.append((table, after, owner, doubles(table, owner, beam), single, beam))
    lengths = {
        f"friends of friends, {length / BEAM:.3g} beams": length / BEAM
        for length in LINKING_LENGTHS
    }

    def judged(rule: Callable[[ComparisonTable, Integers, float], Integers]) -> tuple:
        hits, merged = [], np.zeros(2, np.int64)
        for table, after, owner, pairs, single, beam in fields:
            group = rule(table, after, beam)
            for apart, rows in pairs:
                mine = np.flatnonzero(np.isin(group, group[rows]))
                exact = len(np.unique(group[rows])) == 1 and len(mine) == len(rows)
                hits.append((apart, float(exact)))
            merged += np.array(wrongly_merged(group, owner, single))
        return np.array(hits).reshape(-1, 2), merged

    rules = {
        "own sources": lambda t, a, b: source_groups(t),
        "associate": lambda t, a, b: a,
        "pairs by separation and flux": lambda t, a, b: flux_pairs(t, b),
    }
    results = {name: judged(rule) for name, rule in rules.items()}
    whole = [
        (apart, float(np.isin(source_groups(t), source_groups(t)[rows]).sum() == len(rows)))
        for t, _, _, pairs, _, _ in fields
        for apart, rows in pairs
    ]
    results["at best, islands whole"] = np.array(whole).reshape(-1, 2), results["own sources"][1]
    tried = {
        name: judged(lambda t, a, b, k=k: friends_of_friends(t, k * b))
        for name, k in lengths.items()
    }
    best = max(tried, key=lambda name: tried[name][0][:, 1].mean())
    results[best] = tried[best]
    rows = []
    for name, (hits, merged) in results.items():
        row = {"beams a source": f"{beams:g}", "rule": name}
        for low, high in zip((0.0, *SEPARATIONS), (*SEPARATIONS, np.inf), strict=True):
            mine = (hits[:, 0] >= low) & (hits[:, 0] < high)
            row[f"{low:g}-{high:g} beams ({mine.sum()})"] = share(hits[mine, 1].sum(), mine.sum())
        row["compact merged"] = share(*merged)
        rows.append(row)
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--routes", default="classical,yolo")
    parser.add_argument("--injected", type=int, default=2, help="times that points are injected")
    parser.add_argument("--sep", action="store_true", help="friends of friends of sep's too")
    parser.add_argument("--choose", action="store_true", help="thresholds on halves of the sky")
    parser.add_argument("--no-simulations", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is not None:
        folder = arguments.data / "first-rgz-fields-dev"
        paths = sorted(folder.glob("*.fits.gz"))
        if arguments.choose:
            print(markdown(choice_rows(paths, folder, arguments.output, arguments.injected)))
            return
        length = 0.0
        for route in arguments.routes.split(","):
            rows = label_rows(route, paths, folder, arguments.output, sep=arguments.sep)
            print(f"\n{markdown(rows)}", flush=True)
            if route == "classical":
                length = float(rows[2]["rule"].split()[-2])
        if arguments.injected and length:
            print(f"\nPoints injected at {DENSITY:g} per square degree:\n")
            print(markdown(merge_rows(paths, length, arguments.injected)), flush=True)
    if not arguments.no_simulations:
        for beams, seeds in DENSITIES.items():
            print(f"\n{markdown(simulated_rows(beams, seeds, arguments.output))}", flush=True)


if __name__ == "__main__":
    main()
