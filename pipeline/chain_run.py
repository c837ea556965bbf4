"""The state of one run of the chain, from reading the image to the catalogue."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from cyclades.pipeline.chain import Result
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.progress import Progress
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.source import ImageSource
from cyclades.stages.core.stage import KINDS, CataloguingStage, RefinementStage

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue

logger = logging.getLogger("cyclades.pipeline")


@dataclass
class ChainRun:
    """The state of one run: what each stage made so far."""

    config: RouteConfig
    source: ImageSource
    context: Context
    progress: Progress | None
    timings: dict[str, float] = field(default_factory=dict)
    products: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def in_windows(self) -> bool:
        """Run window by window where the image is large, or the configuration says so."""
        from cyclades.pipeline.window_survey import cannot, make_survey
        from cyclades.pipeline.windows import window_size, windowed_catalogue

        size = window_size(self.config, self.source)
        if not size:
            return False
        start = [time.perf_counter()]
        labels: list[str] = []

        def report(label: str, share: float) -> None:
            now = time.perf_counter()
            if share == 0.0:
                if labels:
                    self.timings[labels[-1]] = now - start[0]
                labels.append(label)
                start[0] = now
            if self.progress is not None:
                self.progress(f"{label} {100 * share:.0f} %" if share else label)

        reason = cannot(self.config)
        found = reason or make_survey(self.config, self.source, self.context, report)
        if isinstance(found, str):
            logger.warning("%s: no windows, since %s.", self.source.name, found)
            self.context.note("windows", f"not used, since {found}")
            return False
        self.context.note("windows", {"size": size})
        from cyclades.pipeline.windowed_maps import WindowedMaps

        catalogue, gaussians, islands, self.counts = windowed_catalogue(
            found, size, self.context, report
        )
        self.products["windows"] = WindowedMaps(found, gaussians, islands)
        self._refine(catalogue)
        self.timings[labels[-1]] = time.perf_counter() - start[0]
        return True

    def advance(self, last: str, first: str = KINDS[0]) -> None:
        """Run the stages in order from `first` up to `last`."""
        if "image" not in self.products:
            self._timed("read", "", self._read)
        steps = (self._background, self._detection, self._characterization, self._cataloguing)
        for kind, step in list(zip(KINDS, steps, strict=True))[KINDS.index(first) :]:
            chosen = getattr(self.config, kind)
            names = "+".join(s.name for s in chosen) if isinstance(chosen, tuple) else chosen.name
            self._timed(kind, names, step)
            if kind == last:
                return

    def _timed(self, label: str, name: str, step: Callable[[], None]) -> None:
        progress = self.progress
        if progress is not None:
            progress(label)
            self.context.listener = lambda share: progress(f"{label} {100 * share:.0f} %")
        start = time.perf_counter()
        try:
            step()
        finally:
            self.context.listener = None
        self.timings[label] = time.perf_counter() - start
        logger.info("%s: %s %s %.2f s", self.source.name, label, name, self.timings[label])

    def _read(self) -> None:
        self.products["image"] = self.source.read()

    def _background(self) -> None:
        self.products["background"] = self.config.background.estimate(
            self.products["image"], context=self.context
        )

    def _detection(self) -> None:
        detections = self.config.detection.detect(
            self.products["image"], self.products["background"], context=self.context
        )
        self.products["detections"] = detections

    def _characterization(self) -> None:
        image, background = self.products["image"], self.products["background"]
        detections = self.products["detections"]
        if not detections.complete:
            from cyclades.stages.core.segments import complete_detections

            logger.info(
                "%s: the detection %s gives no pixels or no summits; complete_detections adds them",
                self.source.name,
                self.config.detection.name,
            )
            detections = complete_detections(image, background, detections, context=self.context)
            self.context.note("chain.complete_detections", True)
            self.products["detections"] = detections
        self.products["components"] = self.config.characterization.measure(
            image, background, detections, context=self.context
        )

    def _cataloguing(self) -> None:
        p = self.products
        builder = self.config.cataloguing[0]
        self._refine(
            cast(CataloguingStage, builder).build(
                p["image"], p["background"], p["detections"], p["components"], context=self.context
            )
        )

    def _refine(self, catalogue: "Catalogue") -> None:
        """Run the refinements on the merged catalogue."""
        for stage in cast("tuple[RefinementStage, ...]", self.config.cataloguing[1:]):
            absent = [c for c in stage.needs if c not in catalogue.components.colnames]
            if absent:
                raise ConfigurationError(
                    f"The refinement {stage.name!r} needs the column {absent[0]!r}, which no "
                    "stage before it gives; change the order or the stages of cataloguing."
                )
            catalogue = stage.refine(catalogue, self.source, context=self.context)
        meta = {**catalogue.meta, "configuration": self.config.to_mapping()}
        self.products["catalogue"] = catalogue.replace(meta=meta)

    def result(self, *, keep: bool) -> Result:
        """Join what was made and the record of how."""
        from cyclades.pipeline.provenance import record

        provenance = record(
            self.config, self.source, self.context, self.timings, self.products, self.counts
        )
        made = self.products
        if not keep:
            made = {
                key: value
                for key, value in made.items()
                if key in ("catalogue", "planes", "windows")
            }
        return Result(config=self.config, provenance=provenance, **made)
