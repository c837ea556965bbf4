"""Which stages should be learned: ``python tests/benchmarks/routes.py OUTPUT``.

Prints the matrix of ``cyclades compare-stages`` in Markdown for three kinds of simulated fields:
skies with natural noise, the same through a telescope with artefacts, and skies of many wide
sources. Learned stages are those that can run, so that new ones come in by themselves. OUTPUT
keeps fields and catalogues, so that a run that was cut off goes on, and of each kind a table, a
figure and a page.

``--choose`` ranks the routes and prints the first as YAML, for ``data/routes/best.yaml``: on seeds
of its own, not on those that are reported. A route's score is the mean of two: F1, as the mean
over kinds, and pairwise F1 of the association, over the fields of all kinds pooled, for most of
them hold few objects of several components. Completeness at a fixed reliability serves no choice:
it jumps where the whole catalogue is about as reliable, by a source more or less.
``--data FOLDER`` judges ``--routes`` by the labels of FIRST fields as well. ``--seconds`` tells
what a look that several stages share saves, and does nothing else.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from backgrounds import WIDE_SKY
from peers import ARTEFACTS, compared, label_rows, labelled, markdown, run_route

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.matrix import StageMatrix, stage_matrix
from cyclades.pipeline.comparison.matrix_fields import simulated_fields
from cyclades.pipeline.comparison.matrix_figures import figures
from cyclades.pipeline.comparison.swaps import JOIN, NETWORK, find_stage, sharing, swapped
from cyclades.pipeline.config import RouteConfig, override
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.stage import KINDS
from cyclades.stages.networks.graphs import GraphDetector

WIDE: dict[str, Any] = {"sky": WIDE_SKY, "plain": PlainOptions(rms=2e-5)}
ROWS = ("masked+yolo", "masked+associate", "yolo+associate", "mask_rcnn+associate")
SCORE, POOLED = "f1", "pair_f1"
MOST_BIAS = 0.02
"""A route whose median flux ratio is farther from one than the base's by more is not chosen."""
SHARED = {
    "yolo": (
        "masked+yolo+associate",
        "masked+yolo+learned@measurement_yolo+associate",
        "dense+yolo+learned@measurement_yolo+associate",
    ),
    "mask_rcnn": ("masked+mask_rcnn+associate",),
}
"""Routes of learned stages that name one network, by that network."""
NETWORKS = ("detector", "measurer", "background")
"""What a context holds of networks, by the first part of their keys."""


def kinds(size: int) -> dict[str, FieldOptions]:
    """Options of every kind of field."""
    artefacts = FieldOptions.from_mapping(override({}, [f"size={size}", *ARTEFACTS]))
    return {
        "natural": FieldOptions(size=size),
        "telescope": artefacts,
        "wide": FieldOptions(size=size, **WIDE),
    }


def chosen(matrices: dict[str, StageMatrix]) -> str:
    """Rank the routes that all kinds have, and return the best one's configuration."""
    mean = {}
    for name in next(iter(matrices.values())).judged:
        held = [row for m in matrices.values() for row in m.table if row["route"] == name]
        if len(held) < len(matrices):
            continue
        biases = [
            abs(row["total_flux_ratio"] - 1.0) - abs(m.table["total_flux_ratio"][0] - 1.0)
            for row, m in zip(held, matrices.values(), strict=True)
        ]
        pooled = figures([one for m in matrices.values() for one in m.judged[name]])[POOLED]
        score = 0.5 * (float(np.mean([row[SCORE] for row in held])) + pooled)
        mean[name] = score if max(biases) < MOST_BIAS else -np.inf
    cost = {
        name: np.mean(
            [r["cpu_seconds"] for m in matrices.values() for r in m.table if r["route"] == name]
        )
        for name in mean
    }
    # of routes that score alike the cheapest
    order = sorted(mean, key=lambda name: (-round(mean[name], 3), cost[name]))
    rows = [
        {"route": name, "score": f"{mean[name]:.3f}", "CPU s/Mpx": f"{cost[name]:.2f}"}
        for name in order
    ]
    labelled_rows = next(iter(matrices.values())).rows
    config = next(row.config for row in labelled_rows if row.label == order[0])
    return f"{markdown(rows)}\n\n```yaml\n{config.to_yaml()}```"


def first_rows(data: Path, output: Path, routes: Sequence[str]) -> list[dict[str, str]]:
    """Recall, precision and association by the labels of FIRST fields."""
    folder = output / "first"
    folder.mkdir(parents=True, exist_ok=True)
    finders = {name: partial(run_route, name) for name in routes if name != "classical"}
    return label_rows(compared(labelled(data, folder), folder, None, finders))


class Looks:
    """Counts the tiles that networks are shown, and the seconds that this takes."""

    def __init__(self) -> None:
        self.tiles, self.seconds = 0, 0.0
        self._detect = GraphDetector.detect

    def __enter__(self) -> "Looks":
        looks = self

        def detect(network: GraphDetector, channels: Any) -> Any:
            start = time.process_time()
            found = looks._detect(network, channels)
            looks.tiles += len(channels)
            looks.seconds += time.process_time() - start
            return found

        GraphDetector.detect = detect  # type: ignore[method-assign]
        return self

    def __exit__(self, *exception: object) -> None:
        GraphDetector.detect = self._detect  # type: ignore[method-assign]


def seconds(size: int, seed: int, repeats: int = 3) -> list[dict[str, str]]:
    """CPU seconds of routes whose learned stages share a look at the image, or do not."""
    image = simulate(FieldOptions(size=size), seed).image
    base = RouteConfig.from_route("classical")
    rows: list[dict[str, str]] = []
    for network, routes in SHARED.items():
        alone = swapped(base, [find_stage(network)])
        rows.append({NETWORK: network, **spent("detection alone", alone, image, repeats)[0]})
        for name in routes:
            config = sharing(swapped(base, [find_stage(one) for one in name.split(JOIN)]))
            once, fluxes = spent(f"{name}, one look", config, image, repeats)
            apart, others = spent(f"{name}, a look each", config, image, repeats, apart=True)
            assert np.array_equal(fluxes, others)
            rows += [{NETWORK: network, **once}, {NETWORK: network, **apart}]
    return rows


def spent(
    label: str, config: RouteConfig, image: SkyImage, repeats: int, *, apart: bool = False
) -> tuple[dict[str, str], Any]:
    """Row of CPU seconds of a route, the best of some runs, and its fluxes.

    With `apart`, a stage leaves nothing that it saw to the next.
    """
    pipeline, best, shown = Pipeline(config), np.full(3, np.inf), (0, 0.0)
    with Context(workers=1) as context:
        pipeline.run(simulate(FieldOptions(size=256), 0).image, context=context)
        times: list[float] = []

        def told(stage: str) -> None:
            if stage not in KINDS:
                return
            times.append(time.process_time())
            if apart:
                context.keep_only(*NETWORKS)

        for _ in range(repeats):
            times.clear()
            with Looks() as looks:
                made = pipeline.run(image.replace(), context=context, progress=told)
            times.append(time.process_time())
            background, detection, *_, end = times
            taken = np.array([detection - background, end - detection, end - background])
            if taken[-1] < best[-1]:
                best, shown = taken, (looks.tiles, looks.seconds)
    assert made.catalogue is not None
    row = {
        "route": label,
        "tiles seen": str(shown[0]),
        "network, s": f"{shown[1]:.2f}",
        "background, s": f"{best[0]:.2f}",
        "the rest, s": f"{best[1]:.2f}",
        "all, s": f"{best[2]:.2f}",
    }
    return row, np.asarray(made.catalogue.components["total_flux"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kinds", default="natural,telescope,wide")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--fields", type=int, default=6)
    parser.add_argument("--seed", type=int, default=821, help="of the first field")
    parser.add_argument("--base", default="classical")
    parser.add_argument("--stages", help="to be swapped in, with commas; those that can run")
    parser.add_argument("--row", action="append", help="further rows, as masked+yolo, or routes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--routes", default="classical,yolo,best", help="for the labels of FIRST")
    parser.add_argument("--seconds", action="store_true")
    arguments = parser.parse_args()
    if arguments.seconds:
        print(markdown(seconds(arguments.size, arguments.seed)))
        return
    stages = None
    if arguments.stages is not None:
        stages = [find_stage(name) for name in arguments.stages.split(",")]
    matrices = {}
    for kind in filter(None, arguments.kinds.split(",")):
        folder = arguments.output / kind
        seeds = range(arguments.seed, arguments.seed + arguments.fields)
        matrix = matrices[kind] = stage_matrix(
            simulated_fields(kinds(arguments.size)[kind], seeds, folder / "fields"),
            arguments.base,
            stages,
            ROWS if arguments.row is None else arguments.row,
            workers=arguments.workers,
            kept=folder / "catalogues",
        )
        matrix.write(folder)
        print(f"\n**{kind}**: {len(seeds)} fields of {arguments.size} x {arguments.size} pixels, ")
        print(f"seeds {seeds[0]} to {seeds[-1]}\n\n{markdown(matrix.lines())}\n", flush=True)
        for why in matrix.left_out.items():
            print("left out: {}: {}".format(*why))
    if arguments.choose:
        print(chosen(matrices))
    if arguments.data is not None:
        rows = first_rows(arguments.data, arguments.output, arguments.routes.split(","))
        print(f"\n**FIRST, labels**\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
