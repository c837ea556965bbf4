"""Figures of a field: its noise, its residual, and what its injected sources and negative tell."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.without_truth import search_negative
from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.windowed_facts import Scatter, measure
from cyclades.pipeline.survey.work import Work
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Pipeline, Result
    from cyclades.pipeline.windowed_maps import WindowedMaps
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.source import ImageSource

SNR_EDGES = (0.0, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1e9)
"""Bins in which completeness and reliability are counted."""
LEAST_BLOCK = 4
"""Pixels along the side of the blocks of a field's coverage at least: about a beam. Pixel by pixel
it takes as long as all other figures of a small field."""
USUAL_LIMIT = 5.0
"""Peak S/N that counts as the limit of a detector that tells no threshold."""


def grid_file(folder: Path, stem: str) -> Path:
    """File of the noise in blocks of a field."""
    return folder / f"{stem}.noise.npz"


def moc_file(folder: Path, stem: str) -> Path:
    """File of the coverage of a field."""
    return folder / f"{stem}.moc.fits"


def left_files(folder: Path, stem: str, facts: Mapping[str, Any]) -> list[Path]:
    """Files that `collect` left of a field whose figures are given."""
    from cyclades.pipeline.survey.rows import row_file
    from cyclades.stages.core.schema import TABLES

    made = [row_file(folder, stem, name) for name in TABLES]
    return made + ([grid_file(folder, stem), moc_file(folder, stem)] if "area" in facts else [])


def threshold_of(result: "Result") -> float:
    """Peak S/N above which a run looked for sources; 5 where its detector does not tell."""
    thresholds = result.provenance["notes"].get("detection_thresholds", {})
    return float(thresholds.get("seed", USUAL_LIMIT))


def collect(result: "Result", work: Work, stem: str, context: Context) -> dict[str, Any]:
    """Write what the survey needs of a field into a folder and return its figures.

    Parameters
    ----------
    result : Result
        With its products.
    work : Work
    stem : str
        First part of the names of the files.
    context : Context
        In which negatives and injected sources are searched, where asked for.

    Returns
    -------
    dict
        ``limit`` (peak S/N), ``rms`` (median), ``residual_rms`` and ``residual_mean`` (over the
        local rms, outside islands), ``components``, ``sources``, ``edge`` (components whose
        island touches the edge); with sky coordinates ``area`` (square degrees). ``negative``
        and ``positive``, ``injected`` and ``found``: counts in the bins `SNR_EDGES`.
    """
    from cyclades.pipeline.chain import Pipeline
    from cyclades.pipeline.survey.rows import write_rows
    from cyclades.pipeline.survey.work import ROWS
    from cyclades.stages.core.flags import Flag

    assert result.catalogue is not None
    folder = work.folder / ROWS
    folder.mkdir(exist_ok=True)
    catalogue = result.catalogue
    limit = threshold_of(result)
    flags = np.asarray(catalogue.components["flags"])
    facts: dict[str, Any] = {
        "limit": limit,
        "components": len(catalogue.components),
        "sources": len(catalogue.sources),
        "edge": int(np.count_nonzero(flags & int(Flag.EDGE))),
    }
    if result.windows is not None:
        facts |= _windowed(result.windows, folder, stem, limit)
    elif result.image is not None and result.background is not None:
        facts |= _whole(result, folder, stem, limit)
    if result.windows is not None or result.background is not None:
        pipeline = Pipeline(result.config)
        if work.inverted:
            facts |= _negatives(pipeline, result, context)
        if work.injected:
            facts |= _injected(pipeline, result, work.injected, stem, context)
    write_rows(catalogue, folder, stem)
    return facts


def _samples(shape: tuple[int, int]) -> int:
    """Blocks of the coverage along the longer side."""
    from cyclades.stages.core.footprints import MOC_SAMPLES

    return min(MOC_SAMPLES, max(1, max(shape) // LEAST_BLOCK))


def _whole(result: "Result", folder: Path, stem: str, limit: float) -> dict[str, Any]:
    """Noise and residual of a field in memory; its coverage and noise in blocks are written."""
    from cyclades.stages.core.footprints import write_moc

    image, background, detections = result.image, result.background, result.detections
    assert image is not None
    assert background is not None
    rms = background.rms
    known = rms[np.isfinite(rms)]
    outside = np.ones(rms.shape, bool)
    if detections is not None and detections.segments is not None:
        outside.ravel()[detections.segments.indices] = False
    scatter = Scatter()
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter.add((result.residual / rms)[outside])
    facts = {"rms": float(np.median(known)) if known.size else None, **scatter.facts}
    if image.wcs is not None:
        with written_whole(moc_file(folder, stem)) as path:
            write_moc(image, path, samples=_samples(image.shape))
        facts["area"] = _written(NoiseGrid.of(image, background, limit), folder, stem)
    return facts


def _windowed(maps: "WindowedMaps", folder: Path, stem: str, limit: float) -> dict[str, Any]:
    """The same of a field that was worked through in windows."""
    with written_whole(moc_file(folder, stem)) as path:
        grid, facts = measure(maps, limit, path, _samples(maps.survey.plane.shape))
    if grid is None:
        moc_file(folder, stem).unlink(missing_ok=True)
        return facts
    return {**facts, "area": _written(grid, folder, stem)}


def _written(grid: NoiseGrid, folder: Path, stem: str) -> float:
    """Write the noise in blocks of a field; return its area (square degrees)."""
    grid = grid.placed()
    grid.write(grid_file(folder, stem))
    return float(grid.cells.area.sum())


def _binned(snr: Any) -> list[int]:
    return [int(n) for n in np.histogram(snr, SNR_EDGES)[0]]


def _negatives(pipeline: "Pipeline", result: "Result", context: Context) -> dict[str, Any]:
    found = search_negative(pipeline, result, context)
    return {"positive": _binned(found.positive), "negative": _binned(found.negative)}


def _injected(
    pipeline: "Pipeline", result: "Result", number: int, stem: str, context: Context
) -> dict[str, Any]:
    """Counts of injected sources, and of those found, by true S/N; none where there is no room."""
    from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
    from cyclades.pipeline.comparison.match import match
    from cyclades.pipeline.simulation.injection import InjectionOptions, inject

    # by name, so that the draw does not depend on which other images there are
    generator = context.generator(zlib.crc32(stem.encode()))
    options = InjectionOptions(number=number)
    brighter: ImageSource | SkyImage
    try:
        if result.windows is not None:
            from cyclades.pipeline.survey.windowed_injection import inject_in_windows

            windowed = inject_in_windows(result.windows.survey, options, generator)
            brighter, truth = windowed.source, windowed.truth
        else:
            assert result.image is not None
            assert result.background is not None
            injection = inject(result.image, options, result.background, generator)
            brighter, truth = injection.image, from_truth(injection.truth)
    except InputError:
        return {"injected": _binned([]), "found": _binned([])}
    after = pipeline.run(brighter, keep=False, context=context).catalogue
    assert after is not None
    pairs = match(truth, from_catalogue(after))
    return {"injected": _binned(truth["snr"]), "found": _binned(truth["snr"][pairs.first_rows])}
