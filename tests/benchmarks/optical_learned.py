"""The learned optical route as Burke et al. (2019, MNRAS 490, 3952) measure theirs.

``python tests/benchmarks/optical_learned.py`` judges a network on held-out tiles of the simulated
survey: AP50 and precision at a recall of 80 % of stars and of galaxies. The class has to be right,
and boxes overlap by an IoU of 0.5; the precision is given at 0.3 too, since boxes of faint galaxies
are some pixels wide. Then, on crowded fields, the share of pairs that are told apart by separation,
beside the classical detection of the route `optical`.

``--compare OUTPUT --steps 150`` trains the network twice instead, from ImageNet weights and from
random numbers, on the same tiles in the same order, and judges both. Trainings that are complete
are not made again.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import markdown

from cyclades.pipeline.commands.train import read_options
from cyclades.pipeline.comparison.detection_metrics import average_precision, precision_at
from cyclades.pipeline.comparison.pairs import (
    by_separation,
    close_pairs,
    light_centres,
    told_apart,
)
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.simulation.optical import simulate_optical
from cyclades.pipeline.simulation.optical_sky import COUNT_BAND
from cyclades.pipeline.training.evaluation import judge, true_objects
from cyclades.pipeline.training.held_out import detection
from cyclades.pipeline.training.optical_tiles import OpticalTilesOptions, optical_presets
from cyclades.pipeline.training.sources import build_source
from cyclades.pipeline.training.trainer import train
from cyclades.stages.core.combination import measured_plane
from cyclades.stages.core.context import Context
from cyclades.stages.core.registry import create_stage
from cyclades.stages.networks.detector import load_detector
from cyclades.stages.networks.weights import find_detector

HELD_OUT = 70_000_027
"""Seed of the tiles and fields that are reported; those of trainings are far below."""
RECALL = 0.8
OVERLAPS = (0.5, 0.3)
PAIRED = 80_000_023
"""Seed of the first field with pairs; the others follow."""
EDGES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Of separations in FWHM of the stars in r."""
RATIO = 3.0
"""Of the fluxes of a pair at most."""
ALONE = 2.0
"""FWHM within which no third object is brighter than a third of the fainter one."""
PAIR_SNR = 20.0
"""Of the fainter object of a pair at least."""


def class_rows(weights: Path, tiles: int, size: int, name: str = "") -> list[dict[str, str]]:
    """AP50 and precision of each class, at a given recall."""
    detector = load_detector(weights)
    spec = detector.spec
    options = OpticalTilesOptions(preset="survey", seed=HELD_OUT)
    source = build_source(options, size, spec.classes)
    samples = [source.sample(i) for i in range(tiles)]
    judged = judge(detection(detector), samples, spec)
    truth = [true_objects(one, spec.classes) for one in samples]
    precision = [precision_at(truth, judged.ranked, RECALL, iou) for iou in OVERLAPS]
    made = average_precision(truth, judged.ranked).by_class
    rows = []
    for label in spec.classes:
        wanted = sum(
            int((np.array(one.labels or ()) == label)[~np.asarray(one.ignored)].sum())
            for one in truth
        )
        rows.append(
            ({"start": name} if name else {})
            | {"class": label, "objects": str(wanted), "AP50": f"{made[label][0]:.3f}"}
            | {
                f"precision at {RECALL:.0%} recall, IoU {iou}": f"{found[label]:.3f}"
                for iou, found in zip(OVERLAPS, precision, strict=True)
            }
        )
    return rows


def pair_rows(weights: Path, fields: int, size: int) -> list[dict[str, str]]:
    """Share of pairs that both detections tell apart, by separation."""
    crowded = optical_presets()["mixed"][1]
    sky = crowded.sky.model_copy(update={"blends": 0.5})
    options = crowded.model_copy(update={"sky": sky, "size": size})
    width = options.band(COUNT_BAND).seeing / options.pixel
    separation: list[np.ndarray] = []
    good: dict[str, list[np.ndarray]] = {"learned": [], "classical": []}
    route = RouteConfig.from_route("optical")
    learned = create_stage("detection", "mask_rcnn", weights=str(weights))
    detectors = {"learned": learned, "classical": route.detection}
    for field in range(fields):
        made = simulate_optical(options, PAIRED + field)
        true = made.truth.catalogue.components
        places = np.stack([true["x"].value, true["y"].value], -1)
        inside = ((places > width) & (places < size - 1 - width)).all(1)
        snr = np.asarray(true["total_flux"]) / snr_unit(made, true)
        pairs = close_pairs(places, snr, EDGES[-1] * width, RATIO, ALONE * width)
        kept = inside[pairs.rows].all(1) & (snr[pairs.rows].min(1) >= PAIR_SNR)
        pairs = pairs._replace(rows=pairs.rows[kept], separation=pairs.separation[kept])
        separation.append(pairs.separation / width)
        with Context() as context:
            maps = {
                band: route.background.estimate(image, context=context)
                for band, image in made.images.items()
            }
            plane, level = measured_plane(made.images, maps, "weighted")
            for name, stages in good.items():
                found = detectors[name].detect_planes(
                    made.images, maps, "weighted", context=context
                )
                centres = light_centres(found, plane.data - level.level)
                stages.append(told_apart(pairs, places, centres, width))
    joined = np.concatenate(separation)
    shares = {name: by_separation(joined, np.concatenate(g), EDGES) for name, g in good.items()}
    return [
        {
            "separation, FWHM": f"{low:g} to {high:g}",
            "pairs": str(shares["classical"][k][0]),
            **{name: f"{made[k][1]:.2f}" for name, made in shares.items()},
        }
        for k, (low, high) in enumerate(itertools.pairwise(EDGES))
    ]


def snr_unit(made: Any, true: Any) -> np.ndarray:
    """Noise of a total flux in r within the size of each object, in units of the column."""
    rms = float(np.median(made.backgrounds[COUNT_BAND].rms))
    pixel = made.options.pixel
    area = np.pi / (4.0 * np.log(2.0)) * np.asarray(true["major"] * true["minor"]) / pixel**2
    return np.asarray(rms * np.sqrt(2.0 * area))


def compare(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Train from both starts, and judge."""
    rows = []
    for start, changes in (
        ("ImageNet", ()),
        ("scratch", ("network.backbone.weights=null", "adaptation={mode: scratch}")),
    ):
        options = read_options(
            "optical_mask_rcnn",
            (
                *changes,
                f"steps={arguments.steps}",
                f"steps_a_checkpoint={arguments.steps}",
                "checkpoints_a_validation=2",
                f"warm_up={arguments.steps // 10}",
                f"size={arguments.train_size}",
                "validation.final_samples=16",
                f"seed={arguments.seed}",
            ),
        )
        folder = f"{start.lower()}-{arguments.steps}-{arguments.train_size}-{arguments.seed}"
        output = arguments.compare / folder
        weights = output / f"{options.name}.safetensors"
        if not weights.is_file():
            weights = train(options, output, progress=False)
        rows += class_rows(weights, arguments.tiles, arguments.size, start)
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="optical_mask_rcnn")
    parser.add_argument("--tiles", type=int, default=256, help="held-out tiles")
    parser.add_argument("--size", type=int, default=128, help="side of the tiles, pixels")
    parser.add_argument("--fields", type=int, default=4, help="fields with pairs")
    parser.add_argument("--field-size", type=int, default=1024, help="their side, pixels")
    parser.add_argument("--compare", type=Path, help="folder of the two trainings")
    parser.add_argument("--steps", type=int, default=150, help="of each")
    parser.add_argument("--train-size", type=int, default=64, help="side of their tiles, pixels")
    parser.add_argument("--seed", type=int, default=5, help="of their draws")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.compare is not None:
        print(markdown(compare(arguments)))
        return
    weights = find_detector(arguments.weights)
    if arguments.tiles:
        print(markdown(class_rows(weights, arguments.tiles, arguments.size)), "\n", flush=True)
    if arguments.fields:
        print(markdown(pair_rows(weights, arguments.fields, arguments.field_size)))


if __name__ == "__main__":
    main()
