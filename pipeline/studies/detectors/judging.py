"""Networks and catalogues on the tiles of a test, unit by unit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.studies.detectors.scoring import Pooled, judged_tile
from cyclades.pipeline.training.samples import Sample


def judged_catalogues(
    test: Sequence[Sequence[Sample]],
    found: Sequence[Sequence[Objects]],
    classes: Sequence[str],
) -> tuple[Any, ...]:
    """Units of a route: what its catalogues say of all tiles; all of their rows count.

    Classes are looked at where any catalogue has them; an empty one says nothing of that.
    """
    from cyclades.pipeline.training.evaluation import true_objects, without_unlabelled

    classed = any(one.labels is not None for unit in found for one in unit)
    units = []
    for tiles, several in zip(test, found, strict=True):
        judged = []
        for tile, one in zip(tiles, several, strict=True):
            labels = (one.labels or ("",) * len(one)) if classed else None
            named = Objects(one.boxes, one.scores, labels)
            kept = without_unlabelled(named, tile.unlabelled)
            truth = true_objects(tile, classes)
            judged.append(judged_tile(truth, kept, kept if classed else None, -np.inf))
        units.append(joined(judged))
    return tuple(units)


def judged_units(detector: Any, test: Sequence[Sequence[Sample]], limit: float) -> tuple[Any, ...]:
    """Units of a network: all tiles of the test judged."""
    from cyclades.pipeline.training.evaluation import judge
    from cyclades.pipeline.training.held_out import detection

    tiles = [tile for unit in test for tile in unit]
    found = judge(detection(detector), tiles, detector.spec)
    rows = zip(found.truth, found.found, found.ranked, strict=True)
    judged = iter([judged_tile(*row, limit) for row in rows])
    units = [joined([next(judged) for _ in unit]) for unit in test]
    return tuple(units)


def joined(tiles: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One unit of several tiles."""
    ranked: dict[str, list[Any]] = {}
    counts: dict[str, dict[str, list[int]]] = {}
    for tile in tiles:
        for name, row in tile["ranked"].items():
            mine = ranked.setdefault(name, [0, [], [], []])
            ranked[name] = [a + b for a, b in zip(mine, row, strict=True)]
        for form, classes in tile["counts"].items():
            for name, row in classes.items():
                mine = counts.setdefault(form, {}).setdefault(name, [0, 0, 0])
                counts[form][name] = [a + b for a, b in zip(mine, row, strict=True)]
    return {"ranked": ranked, "counts": counts}


def first_units(test: Sequence[list[Sample]], tiles: int) -> list[list[Sample]]:
    """Units that hold the first tiles of the test, at least one."""
    made: list[list[Sample]] = []
    for unit in test:
        if made and sum(map(len, made)) + len(unit) > tiles:
            break
        made.append(unit)
    return made


def ap50_of_sources(pooled: Pooled) -> float:
    """AP50 of sources on all units, whatever class they are given."""
    return pooled.figures(np.arange(pooled.number))["ap50_any"]


def network_input(tiles: Sequence[Sample], given: Any) -> Any:
    """Channels of tiles, shape (n, channels, h, w), for an `InputSpec`."""
    from cyclades.pipeline.training.loading import collate

    return collate(tiles, given, with_masks=False)[0].numpy()


def finite(values: dict[str, float]) -> dict[str, float]:
    """Leave out what could not be measured, which JSON has no word for."""
    return {name: value for name, value in values.items() if np.isfinite(value)}
