"""A detector on held-out tiles: its figures, its calibration, and a trained one judged again."""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from cyclades.pipeline.training.card import write_card
from cyclades.pipeline.training.class_decision import Examples, examples, fit_decision
from cyclades.pipeline.training.error_report import Heights, error_report
from cyclades.pipeline.training.evaluation import class_figures, figures, fit_calibration, judge
from cyclades.pipeline.training.evidence import Witnesses, fit_evidence, witnesses
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.samples import Sample, SampleSource
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import DataOptions, build_source, reseeded
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.formats import give_usual_permissions
from cyclades.stages.networks.adaptation import merge_adapters
from cyclades.stages.networks.detector import Detector, load_detector
from cyclades.stages.networks.runtime import as_arrays
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import NetworkSpec
from cyclades.stages.networks.weights import find_detector, shipped_detectors

_HELD_OUT = 1_000_003
"""Added to the seed of the training's simulation for held-out tiles; the final ones take twice
this, so that no tile of a curve is in the final figures."""
_FINAL = 2
SCORES, CLASSES = "scores", "classes"
"""What may be fitted to held-out tiles: calibration and evidence; the decision on classes."""


def held_out_data(options: TrainingOptions, number: int) -> DataOptions:
    """Data that the training has not seen: as given, or its simulation with another seed."""
    if options.validation.data is not None:
        return options.validation.data
    return reseeded(options.data, number * _HELD_OUT)


def detection(detector: Detector) -> Any:
    """Return a function from channels, shape (b, channels, h, w), to what is found."""
    device = next(detector.parameters()).device

    def detect(channels: NDArray[np.float32]) -> list[Found]:
        return [as_arrays(p) for p in detector.predict(torch.from_numpy(channels).to(device))]

    return detect


def finish(
    options: TrainingOptions,
    detector: Detector,
    *,
    fit: Collection[str] = (SCORES, CLASSES),
    progress: bool = False,
    errors: bool = False,
) -> NetworkSpec:
    """Measure a trained detector on tiles that no curve has seen, and note the figures.

    Parameters
    ----------
    options : TrainingOptions
        Say which held-out data, and how many tiles.
    detector : Detector
        Its specification is changed: calibration and figures.
    fit : collection of str
        What to fit first, to as many other tiles: `SCORES`, `CLASSES`, both or nothing.
    progress : bool
        Show a progress bar where there is a terminal.
    errors : bool
        Note where average precision is lost, too (see `error_report`).

    Returns
    -------
    NetworkSpec
        The detector's, new.
    """
    merge_adapters(detector)
    detector.eval()
    number, spec = options.validation.final_samples, detector.spec
    data = held_out_data(options, _FINAL)
    source = build_source(data, options.size, spec.classes)
    run = detection(detector)
    if fit:
        # The calibration must not be judged on the tiles that it was fitted to.
        learned: list[Examples] = []
        heard: list[Witnesses | None] = []

        def learn(sample: Sample, found: Found) -> None:
            learned.append(examples(sample, found, spec))
            heard.append(witnesses(sample, found, spec))

        plain = spec.model_copy(update={"decision": None, "evidence": None})
        first = judge(
            run,
            _tiles(source, 0, number, "calibrating", progress),
            plain,
            look=learn,
        )
        changes: dict[str, Any] = {}
        if SCORES in fit:
            changes["calibration"] = fit_calibration(first.score, first.real)
            changes["evidence"] = fit_evidence(heard)
        if CLASSES in fit:
            changes["decision"] = fit_decision(learned)
        spec = spec.model_copy(update=changes)
    heights = Heights(spec.input.mesh)
    judged = judge(
        run,
        _tiles(source, number, number, "judging", progress),
        spec,
        look=(lambda sample, found: heights.add(sample)) if errors else None,
    )
    several = data if isinstance(data, tuple) else (data,)
    training = {
        **spec.training,
        "metrics": figures(judged, spec),
        "by_class": class_figures(judged, spec),
        "held_out": {"tiles": number, "data": [one.model_dump(mode="json") for one in several]},
    }
    if errors:
        training["errors"] = error_report(judged, spec, heights)
    detector.spec = spec.model_copy(update={"training": training})
    return detector.spec


def evaluate(
    weights: str | Path,
    options: TrainingOptions | None = None,
    *,
    tiles: int | None = None,
    preset: str | None = None,
    fit: Collection[str] = (),
    progress: bool = True,
    errors: bool = False,
) -> NetworkSpec:
    """Judge a trained detector on held-out tiles, on the GPU where there is one.

    Parameters
    ----------
    weights : str or path
        As `find_detector` takes.
    options : TrainingOptions, optional
        A training whose held-out data, size and number of tiles to take, instead of those of the
        detector's own.
    tiles : int, optional
        How many, instead of those of the options.
    preset : str, optional
        Of the simulation, instead of that of the options.
    fit : collection of str
        What to fit anew, as in `finish`; the file and its card are then written anew. The numbers
        of the network stay as they are.
    progress : bool
        Show a progress bar where there is a terminal.
    errors : bool
        Say where average precision is lost, too.

    Returns
    -------
    NetworkSpec
        With the figures.

    Raises
    ------
    ConfigurationError
        Where options do not fit, or a detector is to be calibrated that is no file of the user's.
    InputError
        Where weights or data cannot be read, or the file not be written.
    """
    file = find_detector(weights)
    if fit and (str(weights) in shipped_detectors() or not Path(weights).expanduser().exists()):
        raise ConfigurationError(
            f"{weights}: a fit writes the file anew; copy {file} and give the copy."
        )
    detector = load_detector(file, "cuda" if torch.cuda.is_available() else "cpu")
    if options is None:
        options = _recorded(detector.spec, file)
    spec = finish(
        _changed(options, tiles, preset),
        detector,
        fit=fit,
        progress=progress,
        errors=errors,
    )
    if fit:
        # the report is for the reader alone
        kept = {key: value for key, value in spec.training.items() if key != "errors"}
        _describe_anew(file, spec.model_copy(update={"training": kept}))
        if "configuration" in spec.training:
            write_card(spec, file, sum(p.numel() for p in detector.parameters()))
    return spec


def _tiles(
    source: SampleSource, first: int, number: int, what: str, progress: bool
) -> Iterator[Sample]:
    numbers = range(first, first + number)
    for i in tqdm(numbers, what, unit="tile", leave=False, disable=None if progress else True):
        yield source.sample(i)


def _recorded(spec: NetworkSpec, file: Path) -> TrainingOptions:
    """Return the configuration that weights were trained with."""
    try:
        return TrainingOptions.from_mapping(spec.training["configuration"])
    except (KeyError, ConfigurationError):
        raise ConfigurationError(
            f"{file}: the weights do not say how they were trained in words that this version "
            "knows; give a configuration with --config."
        ) from None


def _changed(options: TrainingOptions, tiles: int | None, preset: str | None) -> TrainingOptions:
    """Return options with another number of held-out tiles, or another sky in them."""
    changes: dict[str, Any] = {}
    if tiles is not None:
        changes["final_samples"] = tiles
    if preset is not None:
        data = held_out_data(options, _FINAL)
        if not isinstance(data, SimulatedOptions):
            raise ConfigurationError(
                "--preset changes simulated held-out data, and those of this configuration are "
                "others; give a configuration of a simulation with --config."
            )
        mapping = {**data.model_dump(mode="json"), "preset": preset}
        changes["data"] = SimulatedOptions.from_mapping(mapping, name="--preset")
    validation = options.validation.model_copy(update=changes)
    return options.model_copy(update={"validation": validation})


def _describe_anew(file: Path, spec: NetworkSpec) -> None:
    """Write a file of weights with another specification, its numbers untouched."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        save_file(load_file(file), temporary, metadata=spec.metadata())
        give_usual_permissions(temporary)
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: cannot be written ({reason}).") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
