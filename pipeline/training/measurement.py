"""The region head that the characterization `learned` ships with, from simulations.

``python -m cyclades.pipeline.training.measurement FOLDER`` simulates fields of sources, learns one
or several heads, calibrates their errors on further fields, and writes ``FOLDER/NAME.safetensors``
with its card. ``--config FILE`` changes options (YAML). Simulated rows are kept in
``FOLDER/examples``, and a training that was interrupted goes on.
"""

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from cyclades.pipeline.training.fitting import fit, prepare_folder
from cyclades.pipeline.training.measured_sources import KINDS, Examples, field_examples
from cyclades.pipeline.training.measurement_module import (
    MeasurementOptions,
    MeasurementTraining,
)
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.networks.region_head import RegionNetwork, save_region_network
from cyclades.stages.networks.region_results import NAMES, Calibration
from cyclades.stages.networks.region_runtime import answers
from cyclades.stages.networks.region_spec import OUTPUTS, RegionSpec
from cyclades.stages.networks.region_trunk import RegionFeatures, trunk_of

FIELDS_A_FILE = 25
KNOTS = np.log([2.0, 3.5, 5.0, 7.0, 10.0, 20.0, 60.0, 200.0, 700.0])
WITHOUT_DIRECTION = (0, 6)
"""Outputs of which a mean error can be taken off."""
CARD = """---
license: {licence}
library_name: cyclades
tags: [astronomy, radio-astronomy, photometry]
---
# {name}

Region head for `cyclades run IMAGE --set characterization=learned`: position, peak, total flux and
shape of a component from two windows of the image in the frame of its beam, with their covariance.
{members} head(s) of {parameters:,} parameters.

- Beams of {low:g} to {high:g} pixels; segments that reach no further than {largest:g} beams from
  the summit. Everything else is measured by moments.
- Trained for {steps} steps of {batch} rows, seed {seed}, on {rows:,} rows of {fields} simulated
  fields ({kinds}), each under {realisations} realisations of the noise; flat in the logarithms of
  peak ({snr_low:g} to {snr_high:g} rms) and size; noise with the autocorrelation of the beam or
  wider. Errors calibrated on {held} rows of {held_out} further fields.
- Made by `python -m cyclades.pipeline.training.measurement FOLDER`.
- Licence of the weights: {licence}.

## Pulls on the rows of the calibration

Median and robust sigma of the errors over their own sigmas, after the calibration, by S/N of the
brightest pixel.

{table}
"""


def examples(options: MeasurementOptions, seeds: range, folder: Path) -> Examples:
    """Simulate the rows of fields, or read those that the folder keeps.

    Parameters
    ----------
    options : MeasurementOptions
        Of the fields.
    seeds : range
        One a field.
    folder : path
    """
    folder.mkdir(parents=True, exist_ok=True)
    look = None if options.trunk is None else _look(options.trunk)
    parts = []
    for first in range(seeds.start, seeds.stop, FIELDS_A_FILE):
        some = range(first, min(first + FIELDS_A_FILE, seeds.stop))
        what = f"{some.start}-{some.stop}-{options.side}-{options.realisations}"
        if options.trunk is not None:
            what += f"-{Path(options.trunk).stem}"
        path = folder / f"{what}.npz"
        if not path.is_file():
            made = Examples.join(
                [
                    field_examples(
                        seed, side=options.side, realisations=options.realisations, features=look
                    )
                    for seed in some
                ]
            )
            temporary = folder / f".{what}.npz"
            np.savez(temporary, **{one.name: getattr(made, one.name) for one in fields(made)})
            os.replace(temporary, path)
        with np.load(path) as held:
            parts.append(Examples(**held))
    return Examples.join(parts)


def _look(weights: str) -> Callable[[SkyImage, Floats], NDArray[np.float16]]:
    """What gives the features of a detector's backbone around places."""
    features = RegionFeatures(trunk_of(weights))

    def look(image: SkyImage, centre: Floats) -> NDArray[np.float16]:
        made: NDArray[np.float16] = features(image, centre).cpu().numpy().astype(np.float16)
        return made

    return look


def learn(options: MeasurementOptions, rows: Examples, folder: Path) -> RegionNetwork:
    """Train all heads, one after another.

    Parameters
    ----------
    options : MeasurementOptions
    rows : Examples
    folder : path
        Of checkpoints and curves.
    """
    spec = RegionSpec(
        name=options.name,
        members=options.members,
        width=options.width,
        trunk=None if options.trunk is None else trunk_of(options.trunk),
        licence=options.licence,
        training=options.model_dump(mode="json"),
    )
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    network = RegionNetwork(spec)
    for member in range(options.members):
        own = folder / f"head{member}"
        checkpoint = prepare_folder(options, own, False, "training.yaml")
        module = MeasurementTraining(options, network, member, rows)
        fit(module, _unmixed(options), own, checkpoint=checkpoint)
        module.take_average()
    return network.eval()


def _unmixed(options: MeasurementOptions) -> MeasurementOptions:
    """Options for Lightning, which is not to mix precisions: heads do so themselves."""
    return options.model_copy(update={"precision": "float32"})


def errors_of(network: RegionNetwork, rows: Examples) -> tuple[Floats, Floats]:
    """Errors of an ensemble on rows, and their sigmas, not calibrated, each of shape (n, 7)."""
    errors, sigmas = [], []
    for some in _batches(rows):
        windows = tuple(
            torch.from_numpy(np.asarray(part, np.float32))
            for part in (some.fine, some.coarse, some.numbers, some.region)
        )
        mean, covariance = answers(network, *windows)
        truth = some.truth.astype(float)
        truth[:, [0, 6]] /= some.scale[:, None]
        errors.append(mean - truth)
        sigmas.append(np.sqrt(np.einsum("nii->ni", covariance)))
    return np.concatenate(errors), np.concatenate(sigmas)


def _batches(rows: Examples, number: int = 2048) -> Iterator[Examples]:
    for first in range(0, len(rows), number):
        yield rows.take(np.arange(first, min(first + number, len(rows))))


def calibrate(errors: Floats, scale: Floats) -> Calibration:
    """Medians and robust sigmas of pulls around each knot of S/N.

    Parameters
    ----------
    errors : ndarray, shape (n, 7)
        Errors over their sigmas.
    scale : ndarray, shape (n,)
    """
    place = np.log(scale)
    factors, offsets = np.ones((len(KNOTS), OUTPUTS)), np.zeros((len(KNOTS), OUTPUTS))
    edges = np.concatenate([[-np.inf], 0.5 * (KNOTS[1:] + KNOTS[:-1]), [np.inf]])
    for k in range(len(KNOTS)):
        mine = errors[(place >= edges[k]) & (place < edges[k + 1])]
        if len(mine) < 100:
            continue
        median = np.median(mine, 0)
        factors[k] = 1.4826 * np.median(np.abs(mine - median), 0)
        offsets[k, list(WITHOUT_DIRECTION)] = median[list(WITHOUT_DIRECTION)]
    return Calibration(KNOTS, factors, offsets, np.ones(1))


def together(errors: Floats, sigmas: Floats, rows: Examples) -> float:
    """Robust sigma of the pulls of islands' summed fluxes, were their rows' errors independent.

    Parameters
    ----------
    errors, sigmas : ndarray, shape (n, 7)
        Calibrated, over the scale of each row.
    rows : Examples
    """
    number = np.bincount(rows.island)
    error = np.bincount(rows.island, errors[:, 6] * rows.scale)
    variance = np.bincount(rows.island, (sigmas[:, 6] * rows.scale) ** 2)
    several = number > 1
    pull = error[several] / np.sqrt(variance[several])
    return float(1.4826 * np.median(np.abs(pull - np.median(pull)))) if several.any() else 1.0


def pull_table(errors: Floats, scale: Floats) -> str:
    """Markdown table of medians and robust sigmas of pulls by S/N."""
    lines = ["| S/N | rows | " + " | ".join(NAMES) + " |", "|---" * (2 + OUTPUTS) + "|"]
    for low, high in ((1, 5), (5, 10), (10, 30), (30, 100), (100, 1100)):
        mine = errors[(scale >= low) & (scale < high)]
        if len(mine) < 50:
            continue
        median = np.median(mine, 0)
        sigma = 1.4826 * np.median(np.abs(mine - median), 0)
        cells = [f"{m:+.2f} {s:.2f}" for m, s in zip(median, sigma, strict=True)]
        lines.append(f"| {low}-{high} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def train_measurement(options: MeasurementOptions, folder: Path) -> Path:
    """Simulate, learn, calibrate, and write weights and card.

    Parameters
    ----------
    options : MeasurementOptions
    folder : path

    Returns
    -------
    path
        Of the weights.
    """
    o = options
    seeds = range(o.first_field, o.first_field + o.fields)
    rows = examples(o, seeds, folder / "examples")
    network = learn(o, rows, folder)
    further = range(seeds.stop, seeds.stop + o.held_out)
    held = examples(o, further, folder / "examples")
    errors, sigmas = errors_of(network, held)
    calibration = calibrate(errors / sigmas, held.scale)
    factor, offset = calibration.at(held.scale)
    errors, sigmas = errors - offset * sigmas, sigmas * factor
    calibration = calibration._replace(together=np.array([together(errors, sigmas, held)]))
    network.spec = network.spec.model_copy(update={"calibration": calibration.to_mapping()})
    path = folder / f"{o.name}.safetensors"
    save_region_network(network, path)
    spec = network.spec
    card = CARD.format(
        name=o.name, licence=o.licence, members=o.members,
        parameters=sum(p.numel() for p in network.heads[0].parameters()),
        low=spec.beam_pixels[0], high=spec.beam_pixels[1], largest=spec.largest, steps=o.steps,
        batch=o.batch, seed=o.seed, rows=len(rows), fields=o.fields, kinds=", ".join(KINDS),
        realisations=o.realisations, snr_low=spec.snr[0], snr_high=spec.snr[1], held=len(held),
        held_out=o.held_out,
        table=pull_table(errors / sigmas, held.scale),
    )  # fmt: skip
    path.with_suffix(".md").write_text(card, "utf-8")
    return path


def main() -> None:
    """Train as the command line says, and print the hash of the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, help="YAML of options that differ")
    arguments = parser.parse_args()
    given = yaml.safe_load(arguments.config.read_text("utf-8")) if arguments.config else {}
    path = train_measurement(MeasurementOptions(**given), arguments.folder)
    print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")


if __name__ == "__main__":
    main()
