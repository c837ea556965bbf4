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
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from cyclades.pipeline.training.fitting import fit, prepare_folder
from cyclades.pipeline.training.measured_sources import (
    GAUSSIAN_KIND,
    KINDS,
    Examples,
    field_examples,
)
from cyclades.pipeline.training.measurement_module import (
    MeasurementOptions,
    MeasurementTraining,
)
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Integers
from cyclades.stages.core.registry import create_stage
from cyclades.stages.networks.cell_maps import Wanted, seen_cells, want_cells
from cyclades.stages.networks.heads.table import detection_of
from cyclades.stages.networks.region_answers import answers
from cyclades.stages.networks.region_cells import regions, trunk_of
from cyclades.stages.networks.region_head import (
    RegionNetwork,
    load_region_network,
    save_region_network,
)
from cyclades.stages.networks.region_results import NAMES, Calibration
from cyclades.stages.networks.region_runtime import TorchHeads
from cyclades.stages.networks.region_spec import OUTPUTS, RegionSpec
from cyclades.stages.networks.region_windows import Windows
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_detector, find_measurer, read_metadata

FIELDS_A_FILE = 25
BRIGHTNESS = np.log([2.5, 4.5, 7.0, 12.0, 30.0, 100.0, 400.0])
MISFIT = np.log([1.1, 1.8, 4.0, 15.0])
LIKE_GAUSSIANS = 2
"""Knots of the misfit, from the first, around which Gaussians alone are looked at."""
FEWEST = 150
"""Rows of a cell of the calibration; cells with fewer have what all of that S/N have."""
WITHOUT_DIRECTION = [0, 6]
"""Outputs of which a mean error can be taken off,"""
BOTH_AXES = [3, 5]
"""and those of which the mean of two can."""
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
{beside}- Trained for {steps} steps of {batch} rows, seed {seed}, on {rows:,} rows of {fields}
  simulated fields ({kinds}), each under {realisations} realisations of the noise; flat in the
  logarithms of peak ({snr_low:g} to {snr_high:g} rms) and size; noise with the autocorrelation of
  the beam or wider. Errors calibrated on {held} rows of {held_out} further fields.
{started}- Made by `python -m cyclades.pipeline.training.measurement FOLDER`{options}.
- Licence of the weights: {licence}.

## Pulls on the rows of the calibration

Median and robust sigma of the errors over their own sigmas, after the calibration, by S/N of the
brightest pixel: of all rows, blends and parts of other shapes among them, and of lone Gaussians.

{table}

{gaussians}
"""
BESIDE = """- Sees features of the cells of {trunk} around a source as well ({few} of {channels}). A
  route whose other learned stages name the same weights looks at the image once.
"""
OPTIONS = """ with `--config FILE`,
  where FILE holds `{differ}`"""
STARTED = "- Learned on from where {start} had ended.\n"


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


def _look(weights: str) -> Callable[[SkyImage, Windows], NDArray[np.float16]]:
    """What gives the features of a detector's backbone around windows."""
    trunk, path, context = trunk_of(weights), find_detector(weights), Context()
    spec = NetworkSpec.from_metadata(read_metadata(path), path)
    detection: Any = create_stage("detection", detection_of(spec.head.name), weights=weights)
    wanted = Wanted(path, trunk.channels, lambda features: features)
    want_cells(context, wanted)

    def look(image: SkyImage, windows: Windows) -> NDArray[np.float16]:
        detection.look(image, context=context)
        cells = seen_cells(context, wanted, image)
        assert cells is not None
        return regions(cells, windows.centre, windows.frame).astype(np.float16)

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
    if options.start is not None:
        start_from(network, options.start)
    if spec.trunk is not None:
        scale_cells(network, rows)
    for member in range(options.members):
        own = folder / f"head{member}"
        checkpoint = prepare_folder(options, own, False, "training.yaml")
        module = MeasurementTraining(options, network, member, rows)
        fit(module, _unmixed(options), own, checkpoint=checkpoint)
        module.take_average()
    return network.eval()


def start_from(network: RegionNetwork, weights: str) -> None:
    """Give all heads the numbers of a head without a trunk, and let trunks say nothing.

    Raises
    ------
    InputError
        Where it has a trunk, or another width.
    """
    given = load_region_network(find_measurer(weights))
    if given.spec.trunk is not None or given.spec.width != network.spec.width:
        raise InputError(
            f"{weights}: heads start from one of the same width without a trunk; change start."
        )
    state = given.heads[0].state_dict()
    first = "hidden.0.weight"
    for head in network.heads:
        own = head.state_dict()
        own |= {name: value for name, value in state.items() if name != first}
        own[first] = torch.zeros_like(own[first])
        own[first][:, : state[first].shape[1]] = state[first]
        head.load_state_dict(own)


def scale_cells(network: RegionNetwork, rows: Examples) -> None:
    """Tell all heads the mean and the scatter of the features of cells."""
    values = np.moveaxis(rows.region, 1, -1).reshape(-1, rows.region.shape[1])
    values = values[:: max(1, len(values) // 100_000)].astype(np.float32)
    # rounded as the file of weights has them, so that both are the same
    centre, scale = (v.astype(np.float16) for v in (values.mean(0), values.std(0) + 1e-3))
    for head in network.heads:
        own: Any = head
        own.cell_centre.copy_(torch.from_numpy(centre.astype(np.float32)))
        own.cell_scale.copy_(torch.from_numpy(scale.astype(np.float32)))


def _unmixed(options: MeasurementOptions) -> MeasurementOptions:
    """Options for Lightning, which is not to mix precisions: heads do so themselves."""
    return options.model_copy(update={"precision": "float32"})


class Errors(NamedTuple):
    """Errors of an ensemble on rows.

    Attributes
    ----------
    error, sigma : ndarray, shape (n, 7)
        Over the scale of each row.
    misfit : ndarray, shape (n,)
    """

    error: Floats
    sigma: Floats
    misfit: Floats


def errors_of(network: RegionNetwork, rows: Examples) -> Errors:
    """Errors on rows and what the network takes for their sigmas, not calibrated."""
    heads, parts = TorchHeads(network), []
    for some in _batches(rows):
        fine, coarse, numbers, region = (
            np.asarray(part, np.float32)
            for part in (some.fine, some.coarse, some.numbers, some.region)
        )
        if heads.projection is not None:
            region = np.moveaxis(heads.projection(np.moveaxis(region, 1, 0)), 0, 1)
        around = None if heads.projection is None else region
        mean, covariance, misfit = answers(heads, fine, coarse, numbers, around)
        truth = some.truth.astype(float)
        truth[:, [0, 6]] /= some.scale[:, None]
        parts.append((mean - truth, np.sqrt(np.einsum("nii->ni", covariance)), misfit))
    return Errors(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _batches(rows: Examples, number: int = 2048) -> Iterator[Examples]:
    for first in range(0, len(rows), number):
        yield rows.take(np.arange(first, min(first + number, len(rows))))


def calibrate(errors: Errors, rows: Examples) -> Calibration:
    """Medians and robust sigmas of pulls around each knot of S/N and misfit.

    Parameters
    ----------
    errors : Errors
        Not calibrated.
    rows : Examples
    """
    pulls = errors.error / errors.sigma
    bright = _nearest(BRIGHTNESS, np.log(rows.scale.astype(float)))
    worse = _nearest(MISFIT, np.log(errors.misfit * rows.scale))
    factors = np.ones((len(BRIGHTNESS), len(MISFIT), OUTPUTS))
    offsets = np.zeros_like(factors)
    plain = (rows.kind == GAUSSIAN_KIND) & rows.alone
    for i, j in np.ndindex(factors.shape[:2]):
        # what looks like a Gaussian most likely is one: other shapes are rare on the sky
        kept = plain if j < LIKE_GAUSSIANS else np.ones(len(rows), bool)
        mine = pulls[(bright == i) & (worse == j) & kept]
        if len(mine) < FEWEST:
            mine = pulls[(bright == i) & kept]
        if len(mine) < FEWEST:
            continue
        median = np.median(mine, 0)
        factors[i, j] = 1.4826 * np.median(np.abs(mine - median), 0)
        shift = median / factors[i, j]
        offsets[i, j, WITHOUT_DIRECTION] = shift[WITHOUT_DIRECTION]
        offsets[i, j, BOTH_AXES] = shift[BOTH_AXES].mean()
    made = Calibration(BRIGHTNESS, MISFIT, factors, offsets, np.ones(1))
    return made._replace(together=np.array([_together(calibrated(errors, rows, made), rows)]))


def calibrated(errors: Errors, rows: Examples, calibration: Calibration) -> Errors:
    """Errors as they are after the calibration."""
    factor, offset = calibration.at(rows.scale.astype(float), errors.misfit)
    sigma = errors.sigma * factor
    return Errors(errors.error - offset * sigma, sigma, errors.misfit)


def _nearest(knots: Floats, values: Floats) -> Integers:
    """Number of the knot nearest to each value."""
    return np.searchsorted(0.5 * (knots[1:] + knots[:-1]), values)


def _together(errors: Errors, rows: Examples) -> float:
    """Robust sigma of the pulls of islands' summed fluxes, were their rows independent."""
    number = np.bincount(rows.island)
    error = np.bincount(rows.island, errors.error[:, 6] * rows.scale)
    variance = np.bincount(rows.island, (errors.sigma[:, 6] * rows.scale) ** 2)
    several = number > 1
    if np.count_nonzero(several) < FEWEST:
        return 1.0
    pull = error[several] / np.sqrt(variance[several])
    return float(1.4826 * np.median(np.abs(pull - np.median(pull))))


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
    rows = examples(o, range(o.first_field, o.first_field + o.fields), folder / "examples")
    network = learn(o, rows, folder)
    further = range(o.first_held_out, o.first_held_out + o.held_out)
    held = examples(o, further, folder / "examples")
    return finish(o, network, len(rows), held, folder)


def finish(
    options: MeasurementOptions, network: RegionNetwork, rows: int, held: Examples, folder: Path
) -> Path:
    """Calibrate a network, and write weights and card.

    Parameters
    ----------
    options : MeasurementOptions
    network : RegionNetwork
    rows : int
        That it learned from.
    held : Examples
        Other rows.
    folder : path

    Returns
    -------
    path
        Of the weights.
    """
    o = options
    errors = errors_of(network, held)
    calibration = calibrate(errors, held)
    errors = calibrated(errors, held, calibration)
    plain = (held.kind == GAUSSIAN_KIND) & held.alone
    network.spec = network.spec.model_copy(update={"calibration": calibration.to_mapping()})
    path = folder / f"{o.name}.safetensors"
    save_region_network(network, path)
    spec, beside = network.spec, ""
    if spec.trunk is not None:
        few, channels = spec.trunk.few, spec.trunk.channels
        beside = BESIDE.format(trunk=spec.trunk.weights, few=few, channels=channels)
    own = {"licence", "name", "threads", "workers"}
    differ = o.model_dump(mode="json", exclude_defaults=True, exclude=own)
    text = yaml.safe_dump(differ, default_flow_style=True, width=72).strip()
    card = CARD.format(
        options=OPTIONS.format(differ=text) if differ else "",
        beside=beside,
        started="" if o.start is None else STARTED.format(start=o.start),
        name=o.name, licence=o.licence, members=o.members,
        parameters=sum(p.numel() for p in network.heads[0].parameters()),
        low=spec.beam_pixels[0], high=spec.beam_pixels[1], largest=spec.largest, steps=o.steps,
        batch=o.batch, seed=o.seed, rows=rows, fields=o.fields, kinds=", ".join(KINDS),
        realisations=o.realisations, snr_low=spec.snr[0], snr_high=spec.snr[1], held=len(held),
        held_out=o.held_out,
        table=pull_table(errors.error / errors.sigma, held.scale.astype(float)),
        gaussians=pull_table(
            (errors.error / errors.sigma)[plain], held.scale.astype(float)[plain]
        ),
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
