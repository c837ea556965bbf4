"""What a training leaves beside the weights: the model card and the curves."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cyclades.pipeline.training.evaluation import Judged, benchmark_figures
from cyclades.stages.networks.specification import NetworkSpec

_CARD = """---
license: {licence}
library_name: cyclades
tags: [astronomy, radio-astronomy, object-detection]
---
# {name}

{head} head on {backbone}, {parameters:,} parameters, for `cyclades run IMAGE --set
detection={stage} --set detection.weights={name}.safetensors`.

- Input: {channels} ({stretches}) of the image in units of its noise; beams of {low:g} to {high:g}
  pixels (others are resampled).
- Classes: {classes}.
- Trained for {steps} steps of {batch} tiles of {size} x {size} pixels, seed {seed}; {samples:,}
  tiles in all. Data:

```yaml
{data}```

- Licence of the weights: {licence}.

## Figures on {tiles} held-out tiles

Objects below the floor of S/N of the data are ignored; scores are calibrated on as many other
tiles.

| figure | value |
|---|---|
{rows}

F1 at IoU 0.6 by class, of detections with a probability of at least 0.5:

| class | F1 |
|---|---|
{classes_rows}
"""


def write_card(spec: NetworkSpec, judged: Judged, weights: Path, parameters: int) -> Path:
    """Write the model card beside the weights.

    Parameters
    ----------
    spec : NetworkSpec
        Calibrated, with its figures.
    judged : Judged
        The held-out tiles that the figures are of.
    weights : path
        Of the file of weights.
    parameters : int
        How many numbers the network has.
    """
    how: dict[str, Any] = spec.training["configuration"]
    metrics: dict[str, float] = spec.training["metrics"]
    rows = [f"| {name} | {value:.3f} |" for name, value in metrics.items() if np.isfinite(value)]
    by_class = benchmark_figures(judged, spec)
    text = _CARD.format(
        name=spec.name,
        licence=spec.licence,
        head=spec.head.name,
        stage="yolo" if spec.head.name in ("yolo_seg", "ultralytics") else spec.head.name,
        backbone=spec.backbone.name if spec.backbone else "its own backbone",
        parameters=parameters,
        channels=f"{len(spec.input.stretches)} channels",
        stretches=", ".join(spec.input.stretches),
        low=spec.input.beam_pixels[0],
        high=spec.input.beam_pixels[1],
        classes=", ".join(spec.classes),
        steps=how["steps"],
        batch=how["batch"],
        size=how["size"],
        seed=how["seed"],
        samples=how["steps"] * how["batch"],
        data=yaml.safe_dump(how["data"], sort_keys=False),
        tiles=len(judged.truth),
        rows="\n".join(rows),
        classes_rows="\n".join(f"| {k} | {v:.3f} |" for k, v in by_class.items()),
    )
    path = weights.with_suffix(".md")
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
    return path


def write_curves(folder: Path) -> Path | None:
    """Draw the loss and the figures on held-out tiles along the steps, from the log."""
    logs = sorted((folder / "log").glob("metrics*.csv"))
    if not logs:
        return None
    from matplotlib.figure import Figure

    table = []
    for log in logs:
        with log.open(encoding="utf-8") as lines:
            table += list(csv.DictReader(lines))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in (
        (left, ["loss"]),
        (right, [f"validation_{n}" for n in ("ap50", "completeness_at_95", "reliability")]),
    ):
        for name in names:
            # steps that were made again after an interruption are the same ones
            points = sorted({int(r["step"]): float(r[name]) for r in table if r.get(name)}.items())
            if points:
                axes.plot(*zip(*points, strict=True), label=name.removeprefix("validation_"))
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend(frameon=False)
    left.set_yscale("log")
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path
