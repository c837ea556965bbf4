"""Labels covered by one source against points wrongly merged, by rule: two curves a detector.

``python tests/benchmarks/association_curves.py DATA`` prints a Markdown table for sep and one for
the classical detector, of which ``associate`` and friends of friends get the same components. DATA
holds ``first-rgz-fields-dev``. Points are injected as by ``association.py``; ``--seed 7000`` takes
those by which thresholds are chosen. A rule that joins more covers more labels and merges more
points, so that rules compare at the same share of points merged alone. The fields are halved by
right ascension: a threshold or a linking length that is chosen on one half is judged on the other.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from association import BEAM, SEP, first_image, injected, interval, right_ascension, share
from peers import markdown

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.association import (
    covered_by_one,
    friends_of_friends,
    source_groups,
    wrongly_merged,
)
from cyclades.pipeline.comparison.labels import MARGIN_BEAMS, Label, read_labels
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.cataloguing.associate import AssociateRefinement, WeighedPairs
from cyclades.stages.cataloguing.merging import rows_of
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Integers
from cyclades.stages.core.source import MemorySource

LENGTHS = (20.0, 26.0, 32.0, 38.0, 44.0, 50.0, 56.0)
"""Arcsec."""
PROBABILITIES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LINKED = "friends of friends"
WIDER = 4.0
"""Beams of a second margin of the labels' extents."""
MOST_MERGED = 0.02
ROUTES = {"sep": SEP, "classical": Pipeline.from_route("classical")}


class Found(NamedTuple):
    """Components of an image with what `associate` says of pairs of their sources."""

    table: ComparisonTable
    weighed: WeighedPairs
    part: Integers
    right_ascension: float


Rule = Callable[[Found], tuple[ComparisonTable, Integers]]


def found(catalogue: Catalogue, image: SkyImage, place: float) -> Found:
    """Describe the sources of an image."""
    parted, weighed = AssociateRefinement().weigh(catalogue, MemorySource(image))
    part = rows_of(parted.sources, parted.components)
    return Found(from_catalogue(catalogue), weighed, part, place)


def linked(own: Found, length: float, whole: bool) -> tuple[ComparisonTable, Integers]:
    """Friends of friends among components, or among them and all of the same source."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    table = own.table.joined()
    groups = friends_of_friends(table, length)
    if not whole or not len(table):
        return table, groups
    _, source = np.unique(source_groups(table), return_inverse=True)
    held = np.ones(len(table), np.int8), (groups, groups.max() + 1 + source)
    size = groups.max() + 2 + source.max()
    return table, connected_components(coo_array(held, shape=(size, size)), directed=False)[1][
        groups
    ]


def associated(own: Found, probability: float) -> tuple[ComparisonTable, Integers]:
    """What `associate` makes of the components at a threshold."""
    parts, first, second, log_odds = own.weighed
    shift = np.log(probability / (1.0 - probability))
    group = AssociateRefinement().group(parts, first, second, log_odds - shift)
    table = own.table.replace(source=group[own.part]).joined()
    return table, source_groups(table)


def rules() -> dict[str, Rule]:
    """Every rule at every setting."""
    made: dict[str, Rule] = {"own sources": lambda own: linked(own, 0.0, True)}
    for p in PROBABILITIES:
        made[f"associate, {p:g}"] = lambda own, p=p: associated(own, p)
    for kind, whole in ((LINKED, False), (f"{LINKED} and islands whole", True)):
        for length in LENGTHS:
            made[f"{kind}, {length:g} arcsec"] = lambda own, k=length, w=whole: linked(own, k, w)
    return made


class Judged(NamedTuple):
    """A rule's hits of labels, and its merges of points."""

    covered: Floats
    wider: Floats
    merged: Integers


def judge(rule: Rule, fields: Sequence, points: Sequence) -> Judged:
    """Labels covered, at two margins, and (merged, found) points of every image."""
    hits = [
        np.stack([covered_by_one(*rule(own), labels, BEAM, m) for m in (MARGIN_BEAMS, WIDER)], -1)
        for own, labels in fields
    ]
    merged = [_merged(rule, *held) for held in points]
    covered, wider = np.concatenate(hits).astype(float).T
    return Judged(covered, wider, np.array(merged))


def _merged(rule: Rule, own: Found, owner: Integers, number: Integers) -> tuple[int, int]:
    # no part is joined to another row, so that rows stay those that the points were told by
    whole = own._replace(table=own.table.replace(part=np.zeros(len(owner), bool)))
    merged, seen = wrongly_merged(rule(whole)[1], owner, number)
    return merged, seen


def rows(name: str, fields: Sequence, points: Sequence) -> Iterator[dict]:
    """The table of a detector."""
    labels = [label for _, own in fields for label in own]
    names = [label.field for label in labels]
    several = np.array([len(label.ra) > 1 for label in labels])
    middle = np.median([own.right_ascension for own, _ in fields])
    low = np.repeat(
        [own.right_ascension <= middle for own, _ in fields], [len(own) for _, own in fields]
    )
    low_points = np.array([held[0].right_ascension <= middle for held in points])
    results = {rule: judge(make, fields, points) for rule, make in rules().items()}
    for rule, (covered, wider, merged) in results.items():
        yield {
            "detector": name,
            "rule": rule,
            "covered by one": interval(covered, names),
            "of one component": f"{covered[~several].mean():.3f}",
            "of several": f"{covered[several].mean():.3f}",
            f"margin of {WIDER:g} beams": f"{wider.mean():.3f}",
            "points merged": share(*merged.sum(0)),
            "lower half": _half(covered[low], merged[low_points]),
            "upper half": _half(covered[~low], merged[~low_points]),
        }
    for kind in ("associate", LINKED, f"{LINKED} and islands whole"):
        mine = {rule: held for rule, held in results.items() if rule.startswith(f"{kind}, ")}
        settings, covered, merged = [], np.zeros(len(labels)), np.zeros(2, np.int64)
        for here, points_here in ((low, low_points), (~low, ~low_points)):
            # own sources merge least of all: where no setting suits, nothing is joined
            below = {
                rule: held.covered[here].mean()
                for rule, held in mine.items()
                if _rate(held.merged[points_here]) < MOST_MERGED
            }
            best = max(below, key=lambda rule: below[rule], default="own sources")
            settings.append(best)
            covered[~here] = results[best].covered[~here]
            merged += results[best].merged[~points_here].sum(0)
        yield {
            "detector": name,
            "rule": f"{kind}, chosen on the other half ({'; '.join(settings)})",
            "covered by one": interval(covered, names),
            "of one component": f"{covered[~several].mean():.3f}",
            "of several": f"{covered[several].mean():.3f}",
            "points merged": share(*merged),
        }
    peer = max(
        (rule for rule in results if not rule.startswith("associate")),
        key=lambda rule: results[rule].covered.mean(),
    )
    for p in PROBABILITIES:
        better = results[f"associate, {p:g}"].covered - results[peer].covered
        print(f"associate, {p:g} less {peer}: {interval(better, names)}")


def _rate(merged: Integers) -> float:
    bad, number = merged.sum(0)
    return float(bad / max(number, 1))


def _half(covered: Floats, merged: Integers) -> str:
    return f"{covered.mean():.3f}, {_rate(merged):.3f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of real images")
    parser.add_argument("--seed", type=int, default=0, help="of the injected points")
    parser.add_argument("--repeats", type=int, default=2, help="times that points are injected")
    parser.add_argument("--detectors", default="sep,classical")
    arguments = parser.parse_args()
    folder = arguments.data / "first-rgz-fields-dev"
    labels: dict[str, list[Label]] = {}
    for label in read_labels(folder / "labels.csv"):
        labels.setdefault(label.field, []).append(label)
    for name in arguments.detectors.split(","):
        pipeline = ROUTES[name]
        fields, points = [], []
        for number, path in enumerate(sorted(folder.glob("*.fits.gz"))):
            place = right_ascension(path)
            own = labels.get(path.name.removesuffix(".gz"))
            if own:
                image = first_image(path)
                catalogue = pipeline.run(image, workers=1).catalogue
                fields.append((found(catalogue, image, place), own))
            for seen, catalogue, owner, all_points in injected(
                pipeline, path, number, arguments.repeats, arguments.seed
            ):
                points.append((found(catalogue, seen, place), owner, all_points))
        print(f"\n{markdown(list(rows(name, fields, points)))}", flush=True)


if __name__ == "__main__":
    main()
