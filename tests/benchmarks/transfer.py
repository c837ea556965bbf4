"""Start from ImageNet or from scratch, and telescopes that a network has not seen.

``python tests/benchmarks/transfer.py OUTPUT`` repeats what Riggi et al. (2022) did on other data:
one Mask R-CNN is trained on simulated tiles of several telescopes together, from ImageNet weights
and from random numbers, with several seeds; and again on all telescopes but one. Every network is
judged on the same held-out tiles of each telescope. Networks that differ in their start alone see
the same tiles in the same order, so their difference is taken seed by seed.

Each training has its folder below OUTPUT and goes on from its last checkpoint when the command is
given again; those that are complete are not trained again. ``--table`` prints what there is so far.
For another backbone give ``--backbone resnet101 --weights resnet101-imagenet``.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import markdown

from cyclades.pipeline.training.evaluation import figures, judge
from cyclades.pipeline.training.fitting import MACHINE
from cyclades.pipeline.training.held_out import detection
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.samples import Sample
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.pipeline.training.trainer import train
from cyclades.stages.networks.detector import load_detector
from cyclades.stages.networks.specification import NetworkSpec

STARTS = ("ImageNet", "scratch")
HELD_OUT = 50_000_017
"""Seed of the tiles that all networks are judged on; those of trainings are far below."""
NAME = "transfer"
KEPT = "figures.json"
LONGEST = 250
"""Steps between checkpoints at most."""
COLUMNS = {
    "completeness_at_95": "C at R .95",
    "ap50": "AP50",
    **{f"ap50_{name}": f"AP50 {name}" for name in NetworkSpec().classes},
}


@dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    telescopes : tuple of str
        Presets of the simulation that it is trained on.
    start : str
        Of `STARTS`.
    seed : int
    """

    telescopes: tuple[str, ...]
    start: str
    seed: int

    def folder(self, output: Path) -> Path:
        """Where it is kept."""
        return output / f"{'+'.join(self.telescopes)}-{self.start.lower()}-{self.seed}"

    def options(self, arguments: argparse.Namespace) -> TrainingOptions:
        """Return its configuration."""
        pretrained = self.start == STARTS[0]
        backbone = {"name": arguments.backbone, "channels": 64}
        if pretrained:
            backbone["weights"] = arguments.weights
        between = max(n for n in range(1, LONGEST + 1) if arguments.steps % n == 0)
        content = {
            "name": NAME,
            "network": {
                "backbone": backbone,
                "head": {"name": "mask_rcnn", "options": {"hidden": 192}},
                "input": {"beam_pixels": [3.5, 8.0]},
            },
            "adaptation": {"mode": "fine_tuned" if pretrained else "scratch"},
            "data": [
                {"kind": "simulated", "preset": name, "seed": 1000 * (self.seed + 1) + place}
                for place, name in enumerate(self.telescopes)
            ],
            # the figures of this benchmark are made below, on tiles of one telescope at a time
            "validation": {"samples": 1, "final_samples": 8},
            "checkpoints_a_validation": arguments.steps + 1,
            "size": arguments.size,
            "batch": arguments.batch,
            "steps": arguments.steps,
            "steps_a_checkpoint": between,
            "learning_rate": arguments.learning_rate,
            "precision": arguments.precision,
            "workers": arguments.workers,
            "threads": arguments.threads,
            "seed": self.seed,
        }
        return TrainingOptions.from_mapping(content, name="transfer")


def runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """All trainings, those of one seed after those of the one before."""
    telescopes = tuple(arguments.telescopes)
    sets = [telescopes] if "mixed" in arguments.parts else []
    if "unseen" in arguments.parts:
        sets += [tuple(t for t in telescopes if t != left_out) for left_out in telescopes]
    for seed in range(arguments.seeds):
        for chosen in sets:
            for start in STARTS:
                yield Run(chosen, start, seed)


@lru_cache
def held_out(telescope: str, size: int, tiles: int) -> tuple[Sample, ...]:
    """Tiles of one telescope that no training has seen."""
    options = SimulatedOptions(preset=telescope, seed=HELD_OUT)
    source = build_source(options, size)
    return tuple(source.sample(i) for i in range(tiles))


def judged(run: Run, arguments: argparse.Namespace) -> dict[str, dict[str, float]] | None:
    """Figures of a run on each telescope, if they were made with the present arguments."""
    try:
        content = json.loads((run.folder(arguments.output) / KEPT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if {name: content.get(name) for name in ("options", "tiles")} != identity(run, arguments):
        return None
    known: dict[str, dict[str, float]] = content["figures"]
    return known if set(arguments.telescopes) <= set(known) else None


def identity(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on."""
    options = run.options(arguments).model_dump(mode="json", exclude=set(MACHINE))
    return {"options": options, "tiles": arguments.tiles}


def make(run: Run, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train, or go on, and judge."""
    folder = run.folder(arguments.output)
    weights = train(run.options(arguments), folder, progress=arguments.progress)
    detector = load_detector(weights, "cuda" if torch.cuda.is_available() else "cpu")
    made: dict[str, dict[str, float]] = {}
    for telescope in arguments.telescopes:
        samples = held_out(telescope, arguments.size, arguments.tiles)
        found = figures(judge(detection(detector), samples, detector.spec), detector.spec)
        made[telescope] = {name: float(value) for name, value in found.items()}
    content = {**identity(run, arguments), "figures": made}
    temporary = folder / f".{KEPT}.tmp"
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, folder / KEPT)
    return made


def values(done: dict[Run, Any], chosen: tuple[str, ...], tested: tuple[str, ...], start: str,
           column: str) -> dict[int, float]:  # fmt: skip
    """One figure by seed, the mean over the telescopes that are tested on."""
    return {
        run.seed: float(np.mean([found[name].get(column, np.nan) for name in tested]))
        for run, found in done.items()
        if run.telescopes == chosen and run.start == start
    }


def spread(numbers: list[float], sign: str = "", of_mean: bool = False) -> str:
    """Mean and standard deviation, or standard error of the mean; a dash for what is not known."""
    if not numbers or not np.isfinite(numbers).all():
        return "-"
    mean = format(np.mean(numbers), f"{sign}.3f")
    if len(numbers) < 2:
        return mean
    width = np.std(numbers, ddof=1) / (len(numbers) ** 0.5 if of_mean else 1.0)
    return f"{mean} ± {width:.3f}"


def table(done: dict[Run, Any], telescopes: tuple[str, ...]) -> str:
    """Rows of what was trained on and tested on: both starts, and their difference."""
    cases = [(telescopes, telescopes), *((telescopes, (one,)) for one in telescopes)]
    cases += [(tuple(t for t in telescopes if t != one), (one,)) for one in telescopes]
    rows = []
    for chosen, tested in cases:
        by_start = {
            column: [values(done, chosen, tested, start, column) for start in STARTS]
            for column in COLUMNS
        }
        if not any(next(iter(by_start.values()))):
            continue
        where = {"trained on": " + ".join(chosen), "tested on": " + ".join(tested)}
        for place, start in enumerate(STARTS):
            row = {**where, "start": start, "seeds": str(len(by_start["ap50"][place]))}
            for column, title in COLUMNS.items():
                row[title] = spread(list(by_start[column][place].values()))
            rows.append(row)
        both = sorted(by_start["ap50"][0].keys() & by_start["ap50"][1].keys())
        row = {**where, "start": " - ".join(STARTS), "seeds": str(len(both))}
        for column, title in COLUMNS.items():
            one, other = by_start[column]
            row[title] = spread([one[seed] - other[seed] for seed in both], "+", of_mean=True)
        rows.append(row)
    return markdown(rows) if rows else "No training is complete."


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=1500, help="of each training")
    parser.add_argument("--tiles", type=int, default=256, help="held-out tiles of each telescope")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--telescopes", nargs="+", default=["vla", "askap", "atca"])
    parser.add_argument("--parts", nargs="+", choices=("mixed", "unseen"),
                        default=["mixed", "unseen"])  # fmt: skip
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="efficientnet-lite0-imagenet")
    parser.add_argument("--size", type=int, default=256, help="side of the tiles, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--workers", type=int, default=0, help="processes that make tiles")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--table", action="store_true", help="train nothing, print what there is")
    arguments = parser.parse_args()
    telescopes = tuple(arguments.telescopes)
    done: dict[Run, Any] = {}
    for run in runs(arguments):
        found = judged(run, arguments)
        if found is None and not arguments.table:
            start = time.perf_counter()
            found = make(run, arguments)
            seconds = time.perf_counter() - start
            print(f"{run.folder(arguments.output).name}: {seconds:.0f} s", flush=True)
        if found is not None:
            done[run] = found
    print(
        f"\nMask R-CNN on {arguments.backbone}, {arguments.steps} steps of {arguments.batch} tiles "
        f"of {arguments.size} pixels; {arguments.tiles} held-out tiles of each telescope. Mean and "
        "standard deviation over seeds; of differences, paired by seed, the mean and its standard "
        f"error.\n\n{table(done, telescopes)}"
    )


if __name__ == "__main__":
    main()
