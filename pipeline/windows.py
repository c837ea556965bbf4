"""One image larger than memory: worked through in windows, for the catalogue of the whole.

First what depends on the whole image is measured by strips (`Survey`): the cells of the background,
the autocorrelation of the noise, the threshold or the objects of the detection. Then windows are
detected and measured one by one, each with a halo. An island belongs to the window that holds its
brightest pixel. One that its window does not show whole, with all that bears on it, is measured in
a larger window. The rows go to disk, and the catalogue is made of them at the end, so that it does
not depend on the windows.
"""

import logging
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.island_runs import IslandRuns, runs_of
from cyclades.pipeline.rows_file import RowsFile, Values
from cyclades.stages.cataloguing.components import ComponentsCatalogue, extra_values
from cyclades.stages.cataloguing.rows import component_values, island_values, take
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import NoiseAutocorrelation, measure_noise
from cyclades.stages.core.products import Background, Detections, Floats
from cyclades.stages.core.segments import complete_detections, significance_map
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.streaming import Plane
from cyclades.stages.core.tiling import Box, Window, full_box, grid
from cyclades.stages.core.windows import (
    NO_BEAM,
    IslandPlaces,
    bearing,
    certain,
    meeting,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cyclades.pipeline.config import RouteConfig
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.source import ImageSource
    from cyclades.stages.core.stage import PreparedDetection, WindowMaps

logger = logging.getLogger("cyclades.pipeline")

LARGE = 8192**2
"""Pixels from which on an image is worked through in windows unless told otherwise."""
WINDOW = 4096
"""Side of the windows then, in pixels."""
HALO = 40.0
"""Beams that are read around a window."""
LEAST_HALO = 64
"""Pixels that are read around a window at least."""

TABLES = ("island", "component", "extra", "runs")
"""What a window gives rows of."""
NOTES = {"detection_thresholds", "chain.complete_detections"}
"""What a window notes that holds for the image."""

Report = Callable[[str, float], None]


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


@dataclass(frozen=True, eq=False)
class Survey:
    """What of a whole image its windows depend on; can be sent to another process.

    Parameters
    ----------
    config : RouteConfig
    plane : Plane
    maps : WindowMaps
        Background.
    noise : NoiseAutocorrelation
    detection : PreparedDetection
        With all that it takes from the whole image fixed.
    seed : int
    """

    config: "RouteConfig"
    plane: Plane
    maps: "WindowMaps"
    noise: NoiseAutocorrelation
    detection: "PreparedDetection"
    seed: int = 0

    @property
    def beam(self) -> float:
        """FWHM in pixels."""
        return NO_BEAM if self.plane.psf is None else self.plane.psf.size

    @property
    def full(self) -> Box:
        """The full image."""
        return full_box(self.plane.shape)

    @property
    def halo(self) -> int:
        """Pixels that are read around a window."""
        return max(LEAST_HALO, int(np.ceil(HALO * self.beam)))

    def windows(self, size: int) -> list[Window]:
        """Windows of a size, each with a halo."""
        return [
            Window(number, core, core.grow(self.halo).intersect(self.full))
            for number, core in enumerate(grid(self.plane.shape, size))
        ]

    def context(self, workers: int = 1) -> Context:
        """Return a context that knows the noise of the whole image."""
        context = Context(workers=workers, seed=self.seed)
        context.whole_image_noise = self.noise
        return context


def cannot(config: "RouteConfig") -> str:
    """Say why a route cannot work in windows; an empty string where it can."""
    if not isinstance(config.cataloguing[0], ComponentsCatalogue):
        return f"the cataloguing {config.cataloguing[0].name!r} needs the image as a whole"
    for stage in (config.detection, config.characterization):
        if not stage.capabilities.windows:
            return f"the {stage.kind} {stage.name!r} needs the image as a whole"
    return ""


def make_survey(
    config: "RouteConfig", source: "ImageSource", context: Context, report: Report
) -> Survey | str:
    """Measure by strips what depends on the whole image.

    Parameters
    ----------
    config : RouteConfig
    source : ImageSource
    context : Context
        Its workers are threads here; its notes tell of thresholds.
    report : callable
        Told the label of a stage, and the share of it that is done.

    Returns
    -------
    Survey or str
        A sentence where a stage cannot.
    """
    plane = Plane.of(source)
    report("background", 0.0)
    maps = config.background.survey(plane, context=context)
    if maps is None:
        return f"the background {config.background.name!r} needs the image as a whole"

    def significance(box: Box) -> "NDArray[np.float32]":
        image = source.window(box)
        return significance_map(image, maps.window(image))

    noise = measure_noise(plane.shape, plane.psf, significance, context)
    report("detection", 0.0)
    context.whole_image_noise = noise
    try:
        detection = config.detection.survey(plane, maps, context=context)
    finally:
        context.whole_image_noise = None
    if detection is None:
        return f"the detection {config.detection.name!r} needs the image as a whole"
    return Survey(config, plane, maps, noise, detection, context.seed)


@dataclass(eq=False)
class Rows:
    """Rows of the catalogue that a window gave."""

    island: Values
    component: Values
    extra: Values
    runs: Values
    blank: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class WindowRun:
    """One window of a survey being measured.

    Parameters
    ----------
    survey : Survey
    window : Window
    context : Context
    """

    def __init__(self, survey: Survey, window: Window, context: Context) -> None:
        self.survey, self.window, self.context = survey, window, context
        self.parts: list[Rows] = []
        self.blank = 0

    def run(self) -> Rows:
        """Measure the islands that the window owns."""
        waiting = self.look(self.window.padded)
        times = 1
        while waiting:
            parts = [self.look_closer(*part) for part in self.together(waiting, times)]
            waiting = [island for part in parts for island in part]
            times *= 2
        return joined_rows(self.parts, self.window.number, self.blank, self.context.notes)

    def detect(self, box: Box) -> tuple[SkyImage, Background, Detections, "NDArray[np.int64]"]:
        """Detect in a part of the image; also where it may have cut an island."""
        survey = self.survey
        image = survey.plane.source.window(box)
        background = survey.maps.window(image)
        detections = survey.detection.detect(image, background, context=self.context)
        doubtful = survey.detection.doubtful(image, background)
        if not detections.complete:
            detections = complete_detections(image, background, detections, context=self.context)
            self.context.note("chain.complete_detections", True)
        return image, background, detections, doubtful

    def look(self, box: Box) -> list[tuple[Box, tuple[int, int]]]:
        """Measure what the window shows for certain; boxes and pixels of what it does not."""
        core = self.window.core
        image, background, detections, doubtful = self.detect(box)
        inner = core.shift(-box.y0, -box.x0).slices
        self.blank = int(np.count_nonzero(np.isnan(image.data[inner])))
        places = IslandPlaces.of(image, background, detections)
        sure = certain(places, self.survey.beam, box, self.survey.full, doubtful)
        inside = (places.y >= core.y0) & (places.y < core.y1)
        inside &= (places.x >= core.x0) & (places.x < core.x1)
        self.measure(image, background, detections, places, sure & inside, core)
        return waiting_rows(places, np.flatnonzero(meeting(places.boxes, core) & ~sure))

    def together(
        self, waiting: list[tuple[Box, tuple[int, int]]], times: int
    ) -> list[tuple[list[tuple[Box, tuple[int, int]]], Box]]:
        """Islands that are looked at together, and the windows that show more around them.

        Parameters
        ----------
        waiting : list of (Box, (y, x))
            Box and brightest pixel of each, as far as they are known.
        times : int
            How much more.
        """
        beams = int(np.ceil(HALO * self.survey.beam))
        found: list[tuple[list[tuple[Box, tuple[int, int]]], Box]] = []
        for island in waiting:
            box = island[0]
            wide = box.grow(times * (beams + max(box.shape))).intersect(self.survey.full)
            own, apart = [island], []
            for part in found:
                if wide.intersect(part[1]).empty:
                    apart.append(part)
                else:
                    own += part[0]
                    wide = around(wide, part[1])
            found = [*apart, (own, wide)]
        return found

    def look_closer(
        self, waiting: list[tuple[Box, tuple[int, int]]], wide: Box
    ) -> list[tuple[Box, tuple[int, int]]]:
        """Measure islands in a window that shows more around them; those that want more still."""
        image, background, detections, doubtful = self.detect(wide)
        places = IslandPlaces.of(image, background, detections)
        sure = certain(places, self.survey.beam, wide, self.survey.full, doubtful)
        rows = islands_at(image, detections, [pixel for _, pixel in waiting])
        chosen = np.zeros(len(places.y), bool)
        known = self.measured()
        for row in rows[sure[rows]]:
            found = int(places.y[row]), int(places.x[row])
            chosen[row] = self.window.core.contains(*found) and found not in known
        self.measure(image, background, detections, places, chosen)
        return waiting_rows(places, rows[~sure[rows]])

    def measured(self) -> set[tuple[int, int]]:
        """Brightest pixels of the islands that were measured."""
        return {
            (int(y), int(x))
            for part in self.parts
            for y, x in zip(part.island["y"], part.island["x"], strict=True)
        }

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        places: IslandPlaces,
        chosen: "NDArray[np.bool_]",
        core: Box | None = None,
    ) -> None:
        """Measure some islands, together with those that bear on them, and keep their rows."""
        if not chosen.any():
            return
        kept = bearing(places, chosen, self.survey.beam, core)
        subset = detections.take_islands(kept)
        components = self.survey.config.characterization.measure(
            image, background, subset, context=self.context
        )
        assert subset.segments is not None
        island = island_values(image, background, subset, subset.segments)
        component = component_values(image, background, subset, components)
        extra = extra_values(image, components)
        place = np.full(len(subset), -1, np.int64)
        own = np.flatnonzero(chosen[kept])
        place[subset.islands[own]] = np.arange(len(own))
        component["island"] = place[component["island"]]
        mine = np.flatnonzero(component["island"] >= 0)
        island, component, extra = take(island, own), take(component, mine), take(extra, mine)
        for values in (island, component):
            values["x"] = values["x"] + image.origin[1]
            values["y"] = values["y"] + image.origin[0]
        runs = runs_of(subset.segments.take(subset.islands[own]), image.shape[1], image.origin)
        self.parts.append(Rows(island, component, extra, runs))


def waiting_rows(
    places: IslandPlaces, rows: "NDArray[np.int64]"
) -> list[tuple[Box, tuple[int, int]]]:
    """Box and brightest pixel of some islands."""
    return [(Box(*places.boxes[i].tolist()), (int(places.y[i]), int(places.x[i]))) for i in rows]


def around(first: Box, second: Box) -> Box:
    """Return the smallest box that holds two."""
    return Box(
        min(first.y0, second.y0),
        max(first.y1, second.y1),
        min(first.x0, second.x0),
        max(first.x1, second.x1),
    )


def islands_at(
    image: SkyImage, detections: Detections, pixels: list[tuple[int, int]]
) -> "NDArray[np.int64]":
    """Numbers of the islands that hold any of some pixels of the full image."""
    assert detections.segments is not None
    segments = detections.segments.take(detections.islands)
    y, x = (np.array(pixels, np.int64) - np.array(image.origin)).T
    held = np.isin(segments.indices, y * image.shape[1] + x)
    return np.unique(segments.owner()[held])


def joined_rows(
    parts: list[Rows], number: int, blank: int, notes: dict[str, Any] | None = None
) -> Rows:
    """Rows of the parts of a window as one; its sources are told from those of other windows."""
    shift, sources = 0, number << 32
    for part in parts:
        for values in (part.component, part.runs):
            values["island"] = values["island"] + shift
        part.component["source"] = part.component["source"] + sources
        shift += len(part.island["x"])
        sources += 1 << 24
    tables = [
        {name: np.concatenate([getattr(p, kind)[name] for p in parts]) for name in names}
        for kind in TABLES
        for names in [getattr(parts[0], kind) if parts else ()]
    ]
    island, component, extra, runs = tables
    return Rows(island, component, extra, runs, blank, dict(notes or {}))


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


def full_frame(plane: Plane) -> SkyImage:
    """Coordinates, beam and units of a full plane, without its pixels."""
    frame = plane.frame
    wcs = getattr(plane.source, "wcs", frame.wcs)
    return frame.replace(wcs=wcs, psf=plane.source.psf, full_shape=plane.shape)


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
