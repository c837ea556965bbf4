"""Cells of a table of detectors: what they are, and how each is trained and judged."""

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cyclades.pipeline.config import RouteConfig, override
from cyclades.pipeline.studies.cells import FORMAT, Outcome, key
from cyclades.pipeline.studies.detectors.benchmarks import Benchmark, build_benchmark
from cyclades.pipeline.studies.detectors.judging import (
    ap50_of_sources,
    finite,
    first_units,
    judged_catalogues,
    judged_units,
    network_input,
)
from cyclades.pipeline.studies.detectors.options import DetectorOptions, DetectorStudyOptions
from cyclades.pipeline.studies.detectors.scoring import Pooled
from cyclades.pipeline.studies.running import Plan
from cyclades.pipeline.studies.tasks.base import Workshop
from cyclades.pipeline.studies.tasks.detection import MACHINE, RUNS
from cyclades.pipeline.studies.weights import lacking, weights_hash
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.stages.core.errors import CycladesError, InputError
from cyclades.stages.networks.heads.table import detection_of, find_head
from cyclades.stages.networks.specification import BackboneSpec

VERSION = 1
"""Raised when the same options lead to other results."""
KEPT = "weights"
"""Folder of trained networks that a hybrid takes."""


@dataclass(frozen=True)
class DetectorCell:
    """One row of the table on one set of data, once.

    Parameters
    ----------
    data, detector : str
        Names in the configuration.
    seed : int
        Of the order of tiles and of first numbers.
    """

    data: str
    detector: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data} {self.detector} {self.seed}"


@dataclass(frozen=True, eq=False)
class DetectorStudy(Plan):
    """A table of detectors.

    Parameters
    ----------
    options : DetectorStudyOptions
    folder : path
    data : dict of str to Benchmark
    keys, contents, problems
        See `Plan`.
    """

    options: DetectorStudyOptions
    folder: Path
    data: dict[str, Benchmark] = field(default_factory=dict)
    keys: dict[Any, str] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    _lacking: dict[str, str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def plan(cls, options: DetectorStudyOptions, folder: Path) -> Self:
        """Look which cells there are to compute.

        Rows whose head is not there, or whose weights cannot be had, are left out, and so are data
        that are not there.
        """
        data = {name: build_benchmark(name, one) for name, one in options.data.items()}
        made = cls(options, folder, data)
        prints: dict[str, dict[str, Any]] = {}
        without: dict[str, str] = {}
        for name, one in data.items():
            try:
                prints[name] = one.fingerprint()
            except CycladesError as error:
                without[name] = str(error)
        for cell in made._grid():
            if cell.data in without:
                made.leave_out(without[cell.data])
                continue
            try:
                made.add(cell, made._identity(cell, prints[cell.data]))
            except CycladesError as error:
                made.leave_out(f"{cell.detector}: {error}")
        return made

    def _grid(self) -> Iterator[DetectorCell]:
        """Seed by seed; routes, which draw nothing, once."""
        for seed in range(self.options.seeds):
            for data in self.options.data:
                for name, row in self.options.detectors.items():
                    if seed == 0 or row.network is not None or row.detector is not None:
                        yield DetectorCell(data, name, seed)

    def _identity(self, cell: DetectorCell, data: dict[str, Any]) -> dict[str, Any]:
        o, row = self.options, self.options.detectors[cell.detector]
        made: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "table": "detectors", "data": data,
            "speed_tiles": o.speed_tiles if cell.seed == 0 else 0,
        }  # fmt: skip
        if row.network is None:
            route = self._route(row, "the network of the row")
            made |= {"route": route, "boxes": row.boxes}
            if row.detector is not None:
                base = DetectorCell(cell.data, row.detector, cell.seed)
                made["detector"] = key(self._identity(base, data))
            return made
        # checks options, heads and backbones before anything is trained
        training = self.training(cell, 1 if o.budget_of(cell.detector).images is None else None)
        spec = row.network.backbone
        idle = {*MACHINE, "threads", "data", "validation", "steps", "steps_a_checkpoint"}
        given = training.model_dump(mode="json", exclude=idle)
        if given["network"]["backbone"] is not None:
            given["network"]["backbone"].pop("weights")
        return made | {
            "training": given,
            "weights": None if spec is None else self._weights_hash(spec),
            "budget": o.budget_of(cell.detector).model_dump(mode="json"),
            "points": o.points,
            "validation": [o.validation, o.calibration],
            "untrained": o.untrained,
            "seed": cell.seed,
        }

    def _weights_hash(self, spec: BackboneSpec) -> str | None:
        """Hash of a backbone's weights; what cannot be had is asked for once."""
        name = spec.weights or ""
        if name not in self._lacking:
            self._lacking[name] = lacking(spec)
        reason = self._lacking[name]
        if reason is not None:
            raise InputError(reason)
        return weights_hash(spec)

    def missing(self) -> list[DetectorCell]:
        """Cells to compute, hybrids last, and networks again whose weights a hybrid lacks."""
        absent: list[DetectorCell] = super().missing()
        wanted = {
            DetectorCell(cell.data, base, cell.seed)
            for cell in absent
            if (base := self.options.detectors[cell.detector].detector) is not None
        }
        again = [
            cell
            for cell in self.keys
            if cell in wanted and cell not in absent and not self.kept(cell).is_file()
        ]
        return sorted([*again, *absent], key=self._is_hybrid)

    def waves(self) -> list[list[DetectorCell]]:
        """Cells that are missing: networks and routes, then hybrids, which need the networks."""
        cells = self.missing()
        parts = ([c for c in cells if self._is_hybrid(c) is late] for late in (False, True))
        return [part for part in parts if part]

    def _is_hybrid(self, cell: DetectorCell) -> bool:
        return self.options.detectors[cell.detector].detector is not None

    def kept(self, cell: DetectorCell) -> Path:
        """File of the weights of a network that a hybrid takes."""
        return self.folder / KEPT / f"{self.keys[cell]}.safetensors"

    def training(
        self,
        cell: DetectorCell,
        steps: int | None = None,
        *,
        threads: int = 1,
        pilot: bool = False,
    ) -> TrainingOptions:
        """Return the options of the training of a network.

        Parameters
        ----------
        cell : DetectorCell
        steps : int, optional
            As many as the budget of images allows where left out.
        threads : int
        pilot : bool
            Whether only the time of a step is wanted.
        """
        o, row = self.options, self.options.detectors[cell.detector]
        assert row.network is not None
        benchmark = self.data[cell.data]
        common = {**o.training, **row.training}
        if steps is None:
            images = o.budget_of(cell.detector).images
            assert images is not None
            steps = max(1, round(images / int(common.get("batch", 8))))
        between = steps if pilot else max(1, round(steps / o.points))
        steps = between * max(1, round(steps / between))
        network = row.network.model_dump()
        if "input" not in row.network.model_fields_set:
            network["input"] = o.input.model_dump()
        network["classes"] = benchmark.options.classes
        head = row.network.head.name
        data, held_out = benchmark.training(cell.seed), benchmark.validation(cell.seed)
        content: dict[str, Any] = {
            **common,
            "name": "cell",
            "network": network,
            "adaptation": row.adaptation.model_dump(),
            "data": _dumped(data),
            "validation": {
                "data": None if held_out is None else _dumped(held_out),
                "samples": 1 if pilot else o.validation,
                "final_samples": 1 if pilot else o.calibration,
            },
            "size": benchmark.options.size,
            "steps": steps,
            "steps_a_checkpoint": between,
            "checkpoints_a_validation": steps + 1 if pilot else 1,
            "seed": cell.seed,
            "licence": find_head(head).licence,
            "threads": threads,
            "devices": 1,
        }
        return TrainingOptions.from_mapping(content, name=f"detectors.{cell.detector}")

    def compute(self, cell: DetectorCell, workshop: Workshop) -> Outcome:
        """Train and judge a network, or run and judge a route."""
        if self.options.detectors[cell.detector].network is None:
            return self._catalogue(cell, workshop)
        return self._network(cell, workshop)

    def _network(self, cell: DetectorCell, workshop: Workshop) -> Outcome:
        from cyclades.pipeline.studies.detectors.clock import StepClock
        from cyclades.pipeline.training.card import read_curve
        from cyclades.pipeline.training.evaluation import threshold_of
        from cyclades.pipeline.training.trainer import start_detector, train
        from cyclades.stages.networks.detector import load_detector

        o = self.options
        folder = workshop.folder / RUNS / self.keys[cell]
        options = self.training(cell, self._steps(cell, folder, workshop.threads),
                                threads=workshop.threads)  # fmt: skip
        test = self.data[cell.data].test
        clock = StepClock(folder / "seconds.txt")
        weights = train(options, folder, progress=False, callbacks=(clock,))
        detector = load_detector(weights, workshop.device)
        limit = threshold_of(detector.spec.calibration, 0.5)
        units = judged_units(detector, test, limit)
        few = first_units(test, o.untrained)
        start = start_detector(options).to(workshop.device).eval()
        before = Pooled(judged_units(start, few, 0.5), o.reliability)
        after = Pooled(judged_units(detector, few, limit), o.reliability)
        further = {
            "curve": [[step + 1, round(value, 5)] for step, value in
                      read_curve(folder, "validation_ap50")],
            "images": options.steps * options.batch,
            "steps": options.steps,
            "parameters": sum(p.numel() for p in detector.parameters()),
            "untrained": ap50_of_sources(before),
            "trained": ap50_of_sources(after),
            "limit": limit,
        }  # fmt: skip
        if o.speed_tiles and cell.seed == 0:
            from cyclades.pipeline.studies.detectors.speed import measure_network

            tiles = [tile for unit in test for tile in unit][: o.speed_tiles]
            further |= finite(
                measure_network(weights, network_input(tiles, detector.spec.input), workshop.device,
                                workshop.threads)
            )  # fmt: skip
        if any(one.detector == cell.detector for one in o.detectors.values()):
            self.kept(cell).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights, self.kept(cell))
        shutil.rmtree(folder, ignore_errors=True)
        return Outcome(options.steps * options.batch, units, clock.seconds, further)

    def _steps(self, cell: DetectorCell, folder: Path, threads: int) -> int | None:
        """Steps of a budget of seconds by a pilot, which is run once; None for one of images."""
        seconds = self.options.budget_of(cell.detector).seconds
        if seconds is None:
            return None
        file = folder / "steps.json"
        if file.is_file():
            return int(json.loads(file.read_text("utf-8")))
        from cyclades.pipeline.studies.detectors.clock import StepClock
        from cyclades.pipeline.training.trainer import train

        number, pilot = self.options.pilot, folder / "pilot"
        clock = StepClock(pilot / "seconds.txt", skipped=number // 3)
        options = self.training(cell, number, threads=threads, pilot=True)
        train(options, pilot, restart=True, progress=False, callbacks=(clock,))
        shutil.rmtree(pilot, ignore_errors=True)
        steps = max(1, math.floor(seconds / clock.a_step))
        file.write_text(json.dumps(steps), "utf-8")
        return steps

    def _route(self, row: DetectorOptions, weights: str) -> dict[str, Any]:
        """Return every option of a row's route."""
        assert row.route is not None
        mapping = RouteConfig.from_route(row.route).to_mapping()
        if row.detector is not None:
            network = self.options.detectors[row.detector].network
            assert network is not None
            mapping["detection"] = {"name": detection_of(network.head.name), "weights": weights}
        return RouteConfig.from_mapping(override(mapping, row.changes)).to_mapping()

    def _catalogue(self, cell: DetectorCell, workshop: Workshop) -> Outcome:
        from cyclades.pipeline.studies.detectors.catalogues import run_route

        row, weights = self.options.detectors[cell.detector], ""
        if row.detector is not None:
            base = DetectorCell(cell.data, row.detector, cell.seed)
            file = self.kept(base) if base in self.keys else None
            if file is None or not file.is_file():
                raise InputError(
                    f"{cell.detector}: the network of the row {row.detector} is not trained yet; "
                    "give the same command again once it is."
                )
            weights = str(file)
        route = self._route(row, weights)
        benchmark = self.data[cell.data]
        start = time.perf_counter()
        config = RouteConfig.from_mapping(route)
        found = [
            run_route(
                config, tiles, boxes=row.boxes, device=workshop.device, threads=workshop.threads
            )
            for tiles in benchmark.test
        ]
        seconds = time.perf_counter() - start
        units = judged_catalogues(benchmark.test, found, benchmark.options.classes)
        further: dict[str, Any] = {}
        if self.options.speed_tiles and cell.seed == 0:
            from cyclades.pipeline.studies.detectors.speed import measure_route

            every = [tile for unit in benchmark.test for tile in unit]
            tiles = every[: self.options.speed_tiles]
            further = finite(measure_route(route, tiles, workshop.device, workshop.threads))
        return Outcome(0, units, seconds, further)


def _dumped(data: Any) -> Any:
    if isinstance(data, tuple):
        return [one.model_dump(mode="json", exclude_unset=True) | {"kind": one.kind}
                for one in data]  # fmt: skip
    return data.model_dump(mode="json", exclude_unset=True) | {"kind": data.kind}
