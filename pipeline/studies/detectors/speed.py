"""How fast a detector is and how much memory it takes, in a process of its own."""

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cyclades.pipeline.training.samples import Sample

logger = logging.getLogger("cyclades.studies")
BATCH = 8
"""Tiles at a time that networks are measured with."""
_LEAST_SECONDS = 1.0
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 50


def measure_network(weights: Path, channels: Any, device: str, threads: int) -> dict[str, float]:
    """Megapixels a second and peak memory of a network: from normalised tiles to detections.

    Parameters
    ----------
    weights : path
    channels : ndarray, shape (n, channels, h, w), float32
    device : str
    threads : int

    Returns
    -------
    dict
        ``mpx_per_second``, ``peak_memory_mb``; NaN where they cannot be measured.
    """
    return _apart(_network, str(weights), channels, device, threads)


def measure_route(
    route: Mapping[str, Any], tiles: Sequence[Sample], device: str, threads: int
) -> dict[str, float]:
    """Return the same of a route, from an image that the tiles are joined to, to its catalogue."""
    from cyclades.pipeline.studies.detectors.catalogues import mosaic

    plane, beam = mosaic(tiles)
    return _apart(_route, dict(route), plane, beam, device, threads)


def _apart(function: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """Call a function in a new process, whose memory is that of the work alone."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(function, *given).result()
    except Exception as error:  # a figure less is no reason to lose a training
        logger.warning("Speed and memory could not be measured (%s).", error)
        return {"mpx_per_second": float("nan"), "peak_memory_mb": float("nan")}


def _network(weights: str, channels: Any, device: str, threads: int) -> dict[str, float]:
    import torch

    from cyclades.pipeline.training.held_out import detection
    from cyclades.stages.networks.detector import load_detector

    torch.set_num_threads(threads)
    run = detection(load_detector(weights, device))
    parts = [channels[k : k + BATCH] for k in range(0, len(channels), BATCH)]

    def once() -> None:
        for part in parts:
            run(part)

    run(parts[0])
    pixels = channels.shape[0] * channels.shape[2] * channels.shape[3]
    speed = _speed(once, pixels)
    if device.startswith("cuda"):
        return {"mpx_per_second": speed,
                "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6}  # fmt: skip
    return {"mpx_per_second": speed, "peak_memory_mb": _peak()}


def _route(route: Any, plane: Any, beam: Any, device: str, threads: int) -> dict[str, float]:
    from cyclades.pipeline.chain import Pipeline
    from cyclades.pipeline.config import RouteConfig
    from cyclades.pipeline.studies.detectors.catalogues import as_image
    from cyclades.stages.core.context import Context

    pipeline = Pipeline(RouteConfig.from_mapping(route))
    image = as_image(plane, beam)
    with Context(workers=threads, seed=0, device=device) as context:
        pipeline.run(image, context=context)  # compiles and loads
        speed = _speed(lambda: pipeline.run(image, context=context), plane.size)
    return {"mpx_per_second": speed, "peak_memory_mb": _peak()}


def _speed(work: Callable[[], Any], pixels: int) -> float:
    """Megapixels a second of the fastest of several rounds; others share the machine."""
    times: list[float] = []
    while len(times) < _LEAST_ROUNDS or (sum(times) < _LEAST_SECONDS and len(times) < _MOST_ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(pixels / np.min(times) / 1e6)


def _peak() -> float:
    """Largest resident memory of this process in megabytes; NaN where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return float("nan")
    # not getrusage, whose figure a new process inherits from the one that started it
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return float(found[0]) * 1024 / 1e6 if found else float("nan")
