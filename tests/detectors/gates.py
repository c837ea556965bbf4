"""What every learned detector has to pass: it overfits eight tiles, and is the same when loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclades.pipeline.training.evaluation import figures, judge
from cyclades.pipeline.training.held_out import detection
from cyclades.pipeline.training.loading import collate
from cyclades.pipeline.training.samples import Sample
from cyclades.pipeline.training.simulated import SimulatedOptions, presets
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.context import Context
from cyclades.stages.core.products import Detections
from cyclades.stages.core.registry import create_stage
from cyclades.stages.networks.adaptation import parameter_groups
from cyclades.stages.networks.detector import Detector
from cyclades.stages.networks.heads.table import detection_of, find_head
from cyclades.stages.networks.specification import NetworkSpec
from tests.skies import correlated_noise, sky_image, source_rows

SIDE = 64
TILES = 8
CLASSES = ("source",)
SMALL_LEVELS = {"strides": [4, 8], "channels": 32}
SMALL = {"name": "resnet18", "options": {"channels": [16, 24, 32, 48]}} | SMALL_LEVELS


@dataclass(frozen=True)
class Gate:
    """A small network of a kind, and the steps in which it learns eight tiles by heart.

    Parameters
    ----------
    head : str
        Of the table of heads.
    options : mapping
        Of the head.
    backbone : mapping or None
        None for whole networks.
    steps : int
    learning_rate : float
    """

    head: str
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: Mapping[str, Any] | None = field(default_factory=lambda: SMALL)
    steps: int = 120
    learning_rate: float = 6e-3

    def detector(self) -> Detector:
        """Return the network with its first numbers."""
        torch.manual_seed(0)
        return Detector(
            NetworkSpec.model_validate(
                {
                    "name": self.head,
                    "classes": CLASSES,
                    "input": {"mesh": 32, "beam_pixels": (3.5, 8.0)},
                    "backbone": self.backbone,
                    "head": {"name": self.head, "options": dict(self.options)},
                }
            )
        )


def crowded(density: float) -> dict[str, Any]:
    """Plain fields with many sources, of which as many are bright as are faint."""
    plain = presets()["natural"][2]
    counts = plain.sky.counts.model_copy(update={"slope": 1.0, "density": density})
    sky = plain.sky.model_copy(update={"counts": counts})
    return plain.model_copy(update={"sky": sky}).model_dump(mode="json")


@cache
def eight_tiles() -> tuple[Sample, ...]:
    """Tiles crowded with sources, of which those below ten times the noise are ignored."""
    options = SimulatedOptions.model_validate(
        {"preset": "crowded", "fields": {"crowded": [crowded(4500.0)]}, "seed": 11}
    )
    source = build_source(options, SIDE, CLASSES)
    tiles = [source.sample(number) for number in range(TILES)]
    return tuple(one.replace(ignore=one.ignore | (one.snr < 10.0)) for one in tiles)


def overfit(gate: Gate) -> Detector:
    """Train on the eight tiles alone, all of them at every step."""
    detector = gate.detector().train()
    groups = parameter_groups(
        detector, learning_rate=gate.learning_rate, layer_decay=1.0, weight_decay=0.0
    )
    optimiser = torch.optim.AdamW(groups, lr=gate.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in groups], gate.steps
    )
    images, targets = collate(
        list(eight_tiles()), detector.spec.input, with_masks=find_head(gate.head).masks
    )
    for step in range(gate.steps):
        torch.manual_seed(step)
        loss = sum(detector.losses(images, targets).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    return detector.eval()


def ap50(detector: Detector) -> float:
    """Average precision on the eight tiles."""
    judged = judge(detection(detector.eval()), eight_tiles(), detector.spec)
    assert judged.wanted >= 3 * TILES
    return float(figures(judged, detector.spec)["ap50"])


def run_as_stage(head: str, weights: Path, batch: int) -> Detections:
    """Detections in an image of several tiles with points of thirty times the noise."""
    rng = np.random.default_rng(4)
    y, x = (v.ravel() for v in np.mgrid[40:460:60, 40:460:60])
    shape = (500, 500)
    image, background = sky_image(source_rows(30.0, x, y), shape, correlated_noise(shape, rng))
    with Context() as context:
        stage = create_stage(
            "detection", detection_of(head), weights=str(weights), tile=192, batch=batch,
            coarse=(), probability=0.01,
        )  # fmt: skip
        return stage.detect(image, background, context=context)


def mask_overlaps(detector: Detector) -> np.ndarray:
    """Intersection over union of the masks of objects with the best detection's, in their boxes."""
    from cyclades.stages.detection.found import mask_segments

    found = []
    for tile in eight_tiles():
        images, targets = collate([tile], detector.spec.input, with_masks=True)
        (made,) = detector.predict(images)
        blank = np.zeros((SIDE, SIDE), np.float32)
        pixels = mask_segments(made.boxes.double().numpy(), made.masks.float().numpy(), blank)
        drawn = np.zeros((len(made.boxes), SIDE * SIDE), bool)
        for row in range(len(drawn)):
            drawn[row, pixels[row]] = True
        true = targets[0].masks.numpy().astype(bool).reshape(-1, SIDE * SIDE)
        for row in np.flatnonzero(~targets[0].ignore.numpy()):
            both = (drawn & true[row]).sum(1) / np.maximum((drawn | true[row]).sum(1), 1)
            found.append(both.max(initial=0.0))
    return np.array(found)
