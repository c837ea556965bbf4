"""Does it matter which crops of radio sky a backbone is pre-trained on?

``python tests/benchmarks/curation.py OUTPUT`` pre-trains the backbone of ``vit_tiny_taught`` on
crops chosen so that most hold emission, and on crops at random places, everything else the same,
with several seeds. Every backbone is judged, frozen, by a logistic regression that tells four
classes of radio galaxies on real FIRST pictures: each picture once, by a classifier that has
learned from pictures of other parts of the sky. All judge the same pictures, so that their
difference is taken picture by picture.

A pre-training that was interrupted goes on; those that are complete are not made again.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peers import markdown

from cyclades.pipeline.commands.train import read_configuration
from cyclades.pipeline.studies.tasks.base import Workshop, sky_groups
from cyclades.pipeline.studies.tasks.features import classify, feature_key, make_features
from cyclades.pipeline.studies.tasks.morphology_options import FrozenOptions
from cyclades.pipeline.studies.tasks.pictures import Pictures, find_pictures, read_pictures
from cyclades.pipeline.training.pretraining.options import PretrainingOptions
from cyclades.pipeline.training.pretraining.run import pretrain
from cyclades.stages.networks.pictures import PictureOptions
from cyclades.stages.networks.specification import BackboneSpec

CONFIGURATION = "vit_tiny_taught"
SHARES = {"curated": 0.95, "random places": 0.0}
FOLDS = 5
APART = 60.0
"""Arcsec within which pictures are of one object."""
FROZEN = FrozenOptions(orientations=1)
TAPS = {"taps": [6, 9, 12]}

Hits = NDArray[np.bool_]


def folds(pictures: Pictures) -> NDArray[np.int64]:
    """Fold of each picture: pictures of one object are in the same."""
    group = sky_groups(pictures.ra, pictures.dec, APART)
    drawn = np.random.default_rng(0).permutation(int(group.max()) + 1)
    return np.asarray(drawn[group] % FOLDS, np.int64)


def hits(spec: BackboneSpec, pictures: Pictures, seed: int, folder: Path) -> Hits:
    """Which pictures a classifier on a frozen backbone tells, each by one that has not seen it."""
    options, workshop = PictureOptions(), Workshop(folder)
    key = feature_key(spec, folder.name, pictures, options, FROZEN)
    values = make_features(spec, seed, pictures, options, FROZEN, workshop, key).values
    fold, found = folds(pictures), np.zeros(len(pictures.classes), np.int64)
    for number in range(FOLDS):
        learned, tested = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        found[tested] = classify(values, pictures.classes, learned, tested, FROZEN.inverse_penalty)
    return found == pictures.classes


def pretrained(folder: Path, share: float, seed: int, arguments: argparse.Namespace) -> Path:
    """Pre-train a backbone, or find it made."""
    sky = {"kind": "simulated", "preset": "mixed", "seed": 30_000 + seed}
    changes = [
        f"steps={arguments.steps}", f"steps_a_checkpoint={arguments.steps // 2}", f"seed={seed}",
        f"curation.curated_share={share}", f"workers={arguments.workers}", "threads=1",
        f"data={sky}",
    ]  # fmt: skip
    options = read_configuration(PretrainingOptions, "pretraining", CONFIGURATION, tuple(changes))
    return pretrain(options, folder, progress=False)


def difference(one: list[Hits], other: list[Hits]) -> str:
    """Mean over pictures and seeds, and its standard error from the pictures."""
    apart = np.mean([a.astype(float) - b for a, b in zip(one, other, strict=True)], axis=0)
    return f"{apart.mean():+.4f} ± {apart.std(ddof=1) / np.sqrt(apart.size):.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="of each pre-training, even")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that make crops")
    parser.add_argument("--images", help="pictures; by default those of firstgalaxydata")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pictures = read_pictures(find_pictures(arguments.images))
    names = ("random numbers", *SHARES)
    told: dict[str, list[Hits]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        for name in names:
            folder = arguments.output / f"{name.replace(' ', '-')}-{seed}"
            weights = None
            if name in SHARES:
                weights = str(pretrained(folder, SHARES[name], seed, arguments))
            spec = BackboneSpec(name="vit_tiny_patch16_224", options=TAPS, weights=weights)
            told[name].append(hits(spec, pictures, seed, folder))
            print(f"{name}, seed {seed}: {told[name][-1].mean():.4f}", flush=True)
    rows = [
        {
            "crops": name,
            "seeds": str(len(several)),
            "accuracy": f"{np.mean(several):.4f}",
            "less that of random places": difference(several, told["random places"]),
        }
        for name, several in told.items()
    ]
    print(f"\n{len(pictures.classes)} pictures, {arguments.steps} steps a pre-training.\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
