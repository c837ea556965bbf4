"""How characterizations compare: ``python tests/benchmarks/characterizations.py``.

The same detections are measured by each. First points and resolved Gaussians, isolated, from the
truth as in ``errors.py``, so that no detection cut selects what is judged: bias and pulls against
*true* S/N, and scatter. Then sources with other counts and sizes than those of the training. Then
discs, doubles, bent and diffuse sources as the chain's `islands` finds them, each summed over its
rows: total flux against truth. Last, sources a second.
"""

import argparse
import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.plain import PlainOptions, unit_noise
from cyclades.pipeline.training.measured_sources import KINDS, TrueObjects, draw_objects
from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.geometry import covariance_from_shape, determinant
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.rendering import add_gaussians
from cyclades.stages.detection.islands import IslandsDetection
from tests.benchmarks.errors import Matched, matched, simulated_field, true_detections

Floats = NDArray[np.float64]

COLUMNS = ("ra", "dec", "peak_flux", "total_flux", "major", "minor")
BINS = (3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 200.0)
SUM_BINS = (3.0, 10.0, 40.0, 400.0)
"""Brightest element of an object over rms."""
BEAM = covariance_from_shape(5.0, 4.0, 30.0)
"""FWHM of 5 and 4 pixels."""
SIDE = 768
FAR = 9.0
"""A row belongs to an object within three sigmas of one of its elements."""


class Sums(NamedTuple):
    """Objects and what was measured of them: total flux over the truth, and its pull."""

    kind: NDArray[np.int64]
    snr: Floats
    ratio: Floats
    pull: Floats


def robust(values: Floats) -> float:
    """Standard deviation from the median absolute one."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def gaussians(stage: Any, noise: str, seeds: range, workers: int = 1) -> Matched:
    """Points and Gaussians of simulated fields, measured from the truth."""
    options = PlainOptions(autocorrelation=noise)  # type: ignore[arg-type]
    parts = []
    for seed in seeds:
        field = simulated_field(options, seed, bins=BINS)
        assert field.background is not None
        detections = true_detections(field, field.background.rms)
        context = Context(workers=workers)
        made = stage.measure(field.image, field.background, detections, context=context)
        catalogue = ComponentsCatalogue().build(
            field.image, field.background, detections, made, context=context
        )
        parts.append(matched(field, catalogue.components, nearest=True))
    return Matched.join(parts)


def gaussian_rows(name: str, made: Matched) -> list[str]:
    """Rows of the table of Gaussians: n, scatter of flux and position, then median and sigma of
    pulls by column."""
    rows = []
    for kind, wide in (("points", False), ("resolved", True)):
        for low, high in pairwise(BINS):
            some = made.take((made.resolved == wide) & (made.snr >= low) & (made.snr < high))
            cells = [name, kind, f"{low:g}-{high:g}", str(len(some.snr))]
            cells += [f"{robust(some.flux_ratio):.3f}", f"{robust(some.ratio):.3f}"]
            cells.append(f"{np.hypot(*(robust(axis) for axis in some.along.T)):.2f}")
            for column in COLUMNS:
                pulls = some.pull(column)
                text = "-"
                if len(pulls) >= 20:
                    text = f"{np.median(pulls):+.2f} {robust(pulls):.2f}"
                cells.append(text)
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def objects_field(seed: int, **options: Any) -> tuple[SkyImage, Background, TrueObjects]:
    """A plane of isolated objects in natural noise of rms 1 on level 0."""
    generator = np.random.default_rng(seed)
    objects = draw_objects(generator, BEAM, SIDE, companions=0.0, **options)
    sky = np.zeros((SIDE, SIDE), np.float32)
    add_gaussians(sky, np.ascontiguousarray(objects.values))
    data = sky + unit_noise(sky.shape, BEAM, generator)
    zero = np.zeros_like(sky)
    return SkyImage(data, psf=PointSpread(BEAM)), Background(zero, zero + 1), objects


def object_sums(stage: Any, seeds: range, **options: Any) -> Sums:
    """Total fluxes of whole objects, as `islands` finds their rows."""
    parts = []
    for seed in seeds:
        image, background, objects = objects_field(seed, **options)
        context = Context()
        found = IslandsDetection().detect(image, background, context=context)
        made = stage.measure(image, background, found, context=context)
        parts.append(_sums(objects, found, made))
    return Sums(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _sums(objects: TrueObjects, found: Detections, made: Any) -> Sums:
    """Add up the rows of each object's islands; objects that share an island are left out."""
    values, precision = objects.values, objects.precision
    place = np.column_stack([made.x, made.y])
    nearest = np.full((len(objects.kind), len(place)), np.inf)
    for k in range(len(objects.kind)):
        mine = objects.owner == k
        d = place[None] - values[mine, None, 1:3]
        nearest[k] = np.einsum("eni,eij,enj->en", d, precision[mine], d).min(0)
    owner = np.where(nearest.min(0) < FAR, nearest.argmin(0), -1)
    area = np.sqrt(values[:, 3] * values[:, 5] - values[:, 4] ** 2) / determinant(BEAM) ** 0.5
    true = np.bincount(objects.owner, values[:, 0] * area)
    peak = np.maximum.reduceat(values[:, 0], np.flatnonzero(np.diff(objects.owner, prepend=-1)))
    share = made.total_err**2
    if made.total_share is not None:
        share = np.where(np.isfinite(made.total_share), made.total_share, share)
    rows = []
    for k in range(len(objects.kind)):
        mine = np.flatnonzero(owner == k)
        islands = np.unique(made.island[mine])
        if not mine.size or (owner[np.isin(made.island, islands)] != k).any():
            continue
        total = made.total[mine].sum()
        error = np.sqrt(np.maximum(share[mine].sum(), 0.0))
        rows.append([objects.kind[k], peak[k], total / true[k], (total - true[k]) / error])
    table = np.array(rows).reshape(-1, 4)
    return Sums(table[:, 0].astype(np.int64), *table[:, 1:].T)


def sum_rows(name: str, made: Sums) -> list[str]:
    """Rows of the table of whole objects by kind: n, median, scatter and pulls of the flux."""
    rows = []
    cuts = [(kind, made.kind == k) for k, kind in enumerate(KINDS)]
    for low, high in pairwise(SUM_BINS):
        bright = (made.snr >= low) & (made.snr < high)
        cuts.append((f"not Gaussian, peak {low:g}-{high:g}", (made.kind > 0) & bright))
    for kind, mine in [*cuts, ("not Gaussian", made.kind > 0)]:
        if np.count_nonzero(mine) < 10:
            continue
        ratio, pull = made.ratio[mine], made.pull[mine]
        pull = pull[np.isfinite(pull)]
        rms = np.sqrt(np.mean(np.clip(ratio - 1.0, -1.0, 1.0) ** 2))
        cells = [name, kind, str(len(ratio)), f"{np.median(ratio):.3f}", f"{robust(ratio):.3f}"]
        cells += [f"{rms:.3f}", f"{np.median(pull):+.2f}", f"{robust(pull):.2f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def speeds(stages: dict[str, Any], repeats: int = 3) -> list[str]:
    """Rows of sources a second, the best of some runs in turn, networks and kernels loaded."""
    field = simulated_field(PlainOptions(), 1, size=1536)
    assert field.background is not None
    detections = true_detections(field, field.background.rms)
    best = dict.fromkeys(stages, np.inf)
    contexts = {name: Context() for name in stages}
    for _ in range(repeats + 1):
        for name, stage in stages.items():
            start = time.process_time()
            stage.measure(field.image, field.background, detections, context=contexts[name])
            best[name] = min(best[name], time.process_time() - start)
    return [f"| {name} | {len(detections) / seconds:.0f} |" for name, seconds in best.items()]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", default=["gaussian", "moments", "learned"])
    parser.add_argument("--weights", help="of the learned stage, where not the shipped ones")
    parser.add_argument("--fields", type=int, default=4)
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--noise", nargs="+", default=["natural", "beam"])
    parser.add_argument("--tables", nargs="+", default=["gaussians", "counts", "objects", "speed"])
    a = parser.parse_args()
    stages = {
        name: create_stage(
            "characterization", name,
            **({"weights": a.weights} if name == "learned" and a.weights else {}),
        )
        for name in a.stages
    }  # fmt: skip
    seeds = range(a.seed, a.seed + a.fields)
    if "gaussians" in a.tables:
        print(
            "| stage | class | S/N | n | total scatter | peak scatter | position, beam sigmas |"
            + " | ".join(f" {c}" for c in COLUMNS)
            + " |\n"
            + "|---" * (7 + len(COLUMNS))
            + "|"
        )
        for noise in a.noise:
            for name, stage in stages.items():
                print("\n".join(gaussian_rows(f"{name}, {noise}", gaussians(stage, noise, seeds))))
    head = "| stage | kind | n | median | scatter | rms | pull median | pull sigma |\n" + "|---" * 8
    if "objects" in a.tables:
        print(f"\nTotal flux of whole objects over truth\n\n{head}|")
        for name, stage in stages.items():
            made = object_sums(
                stage, seeds, shares=(0.2, 0.2, 0.2, 0.2, 0.2), spacing=14.0,
                sizes={"gaussian": (0.3, 3.0)},
            )  # fmt: skip
            print("\n".join(sum_rows(name, made)))
    if "counts" in a.tables:
        for slope in (1.6, 2.2):
            for factor in (0.7, 1.4):
                print(f"\nCounts of slope {slope}, sizes times {factor}\n\n{head}|")
                sizes = {
                    "gaussian": (0.3 * factor, 2.0 * factor), "disc": (factor, 5.0 * factor),
                    "double": (1.5 * factor, 7.0 * factor), "bent": (1.5 * factor, 7.0 * factor),
                    "diffuse": (2.5 * factor, 7.0 * factor),
                }  # fmt: skip
                for name, stage in stages.items():
                    made = object_sums(
                        stage, seeds, shares=(0.6, 0.1, 0.1, 0.1, 0.1), spacing=10.0,
                        slope=slope, sizes=sizes,
                    )  # fmt: skip
                    print("\n".join(sum_rows(name, made)))
    if "speed" in a.tables:
        print("\n| stage | sources a second of one core |\n|---|---|")
        print("\n".join(speeds(stages)))


if __name__ == "__main__":
    main()
