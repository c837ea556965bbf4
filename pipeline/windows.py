"""One image larger than memory: worked through in windows, for the catalogue of the whole.

First what depends on the whole image is measured by strips
(`cyclades.pipeline.window_survey`): the cells of the background, the autocorrelation of the noise,
the threshold or the objects of the detection. Then windows are detected and measured one by one
(`cyclades.pipeline.window_run`), each with a halo. The rows go to disk, and the catalogue is made
of them at the end, so that it does not depend on the windows.
"""

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclades.pipeline.island_runs import IslandRuns
from cyclades.pipeline.rows_file import RowsFile
from cyclades.pipeline.window_run import TABLES, Rows, WindowRun
from cyclades.pipeline.window_survey import Report, Survey, full_frame
from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Background, Floats
from cyclades.stages.core.segments import complete_detections
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.tiling import Window

if TYPE_CHECKING:
    from cyclades.pipeline.config import RouteConfig
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.source import ImageSource

LARGE = 8192**2
"""Pixels from which on an image is worked through in windows unless told otherwise."""
WINDOW = 4096
"""Side of the windows then, in pixels."""
NOTES = {"detection_thresholds", "chain.complete_detections"}
"""What a window notes that holds for the image."""


def window_size(config: "RouteConfig", source: "ImageSource") -> int:
    """Side of the windows that an image is worked through in; 0 for none.

    One that is in memory already is so only where the configuration says it, and a part of a larger
    image never.
    """
    if isinstance(source, MemorySource):
        return (config.image.window or 0) if source.image.origin == (0, 0) else 0
    if config.image.window is not None:
        return config.image.window
    return WINDOW if source.shape[0] * source.shape[1] > LARGE else 0


_survey: list[Survey] = []
"""That of a worker process."""


def _start_worker(survey: Survey) -> None:
    _survey[:] = [survey]


def _measure_window(window: Window, survey: Survey | None = None, workers: int = 1) -> Rows:
    """Measure a window, in a process of its own or in this one."""
    chosen = _survey[0] if survey is None else survey
    with chosen.context(workers) as context:
        return WindowRun(chosen, window, context).run()


def measure_windows(survey: Survey, windows: list[Window], workers: int) -> Iterator[Rows]:
    """Measure windows, in as many processes as there are workers, in their order."""
    if workers == 1 or len(windows) == 1:
        yield from map(partial(_measure_window, survey=survey, workers=workers), windows)
        return
    # Threads that the parent has started must not be forked.
    start = multiprocessing.get_context("spawn")
    number = min(workers, len(windows))
    pool = ProcessPoolExecutor(number, start, _start_worker, (survey,))
    try:
        yield from pool.map(_measure_window, windows)
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process ended before its time, for want of memory as a rule: use fewer "
            "--workers or a smaller --window; a script of your own must start its work below "
            'if __name__ == "__main__".'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def windowed_catalogue(
    survey: Survey, size: int, context: Context, report: Report
) -> tuple["Catalogue", Floats, IslandRuns, dict[str, int]]:
    """Measure a surveyed image window by window, and make the catalogue.

    Parameters
    ----------
    survey : Survey
    size : int
        Side of a window in pixels.
    context : Context
        Its workers are processes here.
    report : callable
        Told the label of a stage, and the share of it that is done.

    Returns
    -------
    catalogue : Catalogue
    gaussians : ndarray, shape (n, 6)
        The components as ``peak, x, y, sxx, sxy, syy``.
    islands : IslandRuns
        Their pixels.
    counts : dict of str to int
        Blank pixels, islands and components.
    """
    folder = Path(tempfile.mkdtemp(prefix="cyclades.", suffix=".rows"))
    files = {name: RowsFile(folder / f"{name}.parquet") for name in TABLES}
    windows = survey.windows(size)
    blank = 0
    report("characterization", 0.0)
    try:
        for number, rows in enumerate(measure_windows(survey, windows, context.workers), 1):
            blank += rows.blank
            for name in set(rows.notes) & NOTES:
                context.note(name, rows.notes[name])
            if rows.island:
                for values in (rows.component, rows.runs):
                    values["island"] = values["island"] + files["island"].rows
                for name, file in files.items():
                    if getattr(rows, name):
                        file.append(getattr(rows, name))
            report("characterization", number / len(windows))
        report("cataloguing", 0.0)
        island, component, extra, runs = (file.read() for file in files.values())
    finally:
        for file in files.values():
            file.close()
        shutil.rmtree(folder, ignore_errors=True)
    counts = {"blank_pixels": blank, "islands": 0, "components": 0}
    islands = IslandRuns.of(runs, island)
    if not island:
        return empty_catalogue(survey, context), np.zeros((0, 6)), islands, counts
    counts |= {"islands": len(island["x"]), "components": len(component["x"])}
    shape = component["shape"]
    gaussians = np.stack(
        [component[n] for n in ("peak_flux", "x", "y")]
        + [shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 1]],
        -1,
    )
    builder = survey.config.cataloguing[0]
    assert isinstance(builder, ComponentsCatalogue)
    frame = full_frame(survey.plane)
    catalogue = builder.assemble(frame, island, component, extra, context=context)
    return catalogue, gaussians, islands, counts


def empty_catalogue(survey: Survey, context: Context) -> "Catalogue":
    """Catalogue of an image without sources, made from one pixel of it."""
    frame = full_frame(survey.plane)
    if not np.isfinite(frame.data).any():
        frame = frame.replace(data=np.zeros((1, 1), np.float32))
    nothing = Background(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
    with survey.context() as own:
        found = survey.detection.detect(frame, nothing, context=own)
        if not found.complete:
            found = complete_detections(frame, nothing, found, context=own)
        found = found.take_islands(np.zeros(len(found.islands), bool))
        components = survey.config.characterization.measure(frame, nothing, found, context=own)
    builder = survey.config.cataloguing[0]
    assert isinstance(builder, ComponentsCatalogue)
    return builder.build(frame, nothing, found, components, context=context)
