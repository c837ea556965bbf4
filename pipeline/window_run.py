"""One window of a large image: its islands, measured where all that bears on them is seen.

An island belongs to the window that holds its brightest pixel. One that its window does not show
whole, with all that bears on it, is measured in a larger window.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.island_runs import runs_of
from cyclades.pipeline.rows_file import Values
from cyclades.pipeline.window_survey import HALO, Survey
from cyclades.stages.cataloguing.components import extra_values
from cyclades.stages.cataloguing.rows import component_values, island_values, take
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections
from cyclades.stages.core.segments import complete_detections
from cyclades.stages.core.tiling import Box, Window
from cyclades.stages.core.windows import IslandPlaces, bearing, certain, meeting

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES = ("island", "component", "extra", "runs")
"""What a window gives rows of."""


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
        sure = self.certain(places, box, doubtful)
        inside = (places.y >= core.y0) & (places.y < core.y1)
        inside &= (places.x >= core.x0) & (places.x < core.x1)
        self.measure(image, background, detections, places, sure & inside, core)
        return waiting_rows(places, np.flatnonzero(meeting(places.boxes, core) & ~sure))

    def certain(
        self, places: IslandPlaces, box: Box, doubtful: "NDArray[np.int64]"
    ) -> "NDArray[np.bool_]":
        """Which islands a part of the image shows whole, with all that bears on them."""
        survey = self.survey
        return certain(places, survey.beam, box, survey.full, doubtful, survey.reach)

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
        sure = self.certain(places, wide, doubtful)
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
        kept = bearing(places, chosen, self.survey.beam, core, self.survey.reach)
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
