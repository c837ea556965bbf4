"""Tasks that find sources: on simulated fields, on survey fields and on real FIRST fields."""

import shutil
import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cyclades.pipeline.studies.cells import Cell, Outcome
from cyclades.pipeline.studies.tasks.base import Task, Unit, Workshop, hash_files, sky_groups
from cyclades.pipeline.studies.tasks.detection_options import (
    DetectionOptions,
    FirstDetectionOptions,
    SimulatedDetectionOptions,
    SurveyDetectionOptions,
)
from cyclades.pipeline.training.labelled import PLACE, find_images, image_name
from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.rgz_labels import RgzOptions
from cyclades.pipeline.training.samples import Floats, Sample
from cyclades.pipeline.training.sources import OneDataOptions, build_source
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.io import open_image
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.specification import BackboneSpec, NetworkSpec

MACHINE = ("devices", "nodes", "workers")
"""Options of a training that are of the machine rather than of the result."""
RUNS = "runs"
"""Folder of trainings that are not complete."""
MULTIPLE = "multi-component"
HELD_OUT = 60_000_011
"""Seed of the tiles that all cells are judged on; those of trainings are far below."""
_LEAST_SCORE = 0.005
_WIDE_ENOUGH = 0.5
"""Intersection over union from which one detection holds all of a source."""


class DetectionTask(Task):
    """A detector on the backbone; a unit is one tile or field of the test.

    Parameters
    ----------
    name : str
    options : DetectionOptions
    """

    main: ClassVar[str] = "completeness"
    version: ClassVar[int] = 2

    def __init__(self, name: str, options: DetectionOptions) -> None:
        super().__init__(name)
        self.options = options
        self.training(Cell(name, "", "scratch", 1.0, 0), BackboneSpec(), 1, 1, checked=True)

    @abstractmethod
    def labels(self, fraction: float) -> int:
        """Return the number of labels that are a share of all."""
        raise NotImplementedError

    @abstractmethod
    def data(self, cell: Cell) -> OneDataOptions:
        """Labelled tiles that a cell learns from."""
        raise NotImplementedError

    @abstractmethod
    def test(self) -> list[list[Sample]]:
        """Tiles of the test, unit by unit."""
        raise NotImplementedError

    def training(
        self, cell: Cell, backbone: BackboneSpec, threads: int, devices: int, checked: bool = False
    ) -> TrainingOptions:
        """Return the options of the training of a cell.

        Parameters
        ----------
        cell, backbone
            As of `run`.
        threads, devices : int
            Of the CPU; GPUs.
        checked : bool
            Whether only the options are to be checked, without looking at data.
        """
        o = self.options
        steps = int(o.training.get("steps", 1000))
        between = next(n for n in range(min(250, steps), 0, -1) if steps % n == 0)
        content: dict[str, Any] = {
            "steps_a_checkpoint": between,
            # figures are made by the study, on tiles that are the same for all cells
            "checkpoints_a_validation": steps + 1,
            **o.training,
            "name": "cell",
            "network": {
                "backbone": backbone.model_dump(),
                "head": o.head.model_dump(),
                "input": o.input.model_dump(),
            },
            "adaptation": {
                "mode": cell.mode,
                "rank": o.rank,
                "layer_decay": o.layer_decay if cell.mode == "fine_tuned" else 1.0,
            },
            "validation": {"samples": 1, "final_samples": 1},
            "seed": cell.seed,
            "licence": find_head(o.head.name).licence,
            "threads": threads,
            "devices": devices,
        }
        if not checked:
            content["data"] = self.data(cell).model_dump()
        return TrainingOptions.from_mapping(content, name=f"tasks.{self.name}.training")

    def run(self, cell: Cell, backbone: BackboneSpec, workshop: Workshop, key: str) -> Outcome:
        """Train a detector on the labels of a cell, or go on with it, and judge it."""
        from cyclades.pipeline.training.held_out import detection
        from cyclades.pipeline.training.trainer import train
        from cyclades.stages.networks.detector import load_detector

        folder = workshop.folder / RUNS / key
        spent = _Clock(folder / "seconds.txt")
        with spent:
            weights = train(
                self.training(cell, backbone, workshop.threads, 1), folder, progress=False
            )
        detector = load_detector(weights, workshop.device)
        run = detection(detector)
        units = tuple(_unit(run, tiles, detector.spec) for tiles in self.test())
        shutil.rmtree(folder, ignore_errors=True)
        further = {"steps": self.options.training.get("steps", 1000)}
        return Outcome(self.labels(cell.fraction), units, spent.seconds, further)

    def _relevant(self, mode: str, *places: str) -> dict[str, Any]:
        """Options that results of a mode depend on, without places on disk."""
        idle = {
            "reliability",  # of the figures, which are made from the units each time
            "rank" if mode != "adapters" else "",
            "layer_decay" if mode != "fine_tuned" else "",
            *places,
        }
        made = self.options.model_dump(mode="json", exclude=idle - {""})
        made["training"] = {k: v for k, v in made["training"].items() if k not in MACHINE}
        return {"version": self.version, **made}

    def figures(self, units: Sequence[Unit]) -> dict[str, float]:
        """Completeness at the fixed reliability, by class too, average precision and association.

        ``average_precision`` is the area below the best reliability against completeness, whatever
        the class: all detections count, where the completeness hangs on the surest false ones.
        ``association`` is the share of multi-component sources of which one detection holds all
        (its box overlaps that of the label by half), at the threshold of that reliability.
        """
        score = np.concatenate([np.asarray(unit["scores"], float) for unit in units])
        real = np.concatenate([np.asarray(unit["real"], bool) for unit in units])
        wanted = sum(int(unit["wanted"]) for unit in units)
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(real[order])
        reliability = hits / np.arange(1, len(hits) + 1)
        parted = np.diff(score[order], append=-np.inf) < 0.0  # no threshold parts equal scores
        good = np.flatnonzero((reliability >= self.options.reliability) & parted)
        last = int(good[-1]) if len(good) else -1
        threshold = float(score[order][last]) if last >= 0 else np.inf
        made = {
            "completeness": float(hits[last]) / wanted if last >= 0 and wanted else 0.0,
            "recall_at_most": float(hits[-1]) / wanted if len(hits) and wanted else 0.0,
            "average_precision": _area(hits, reliability, wanted),
        }
        objects = [one for unit in units for one in unit["objects"]]
        for name in sorted({str(one[0]) for one in objects}):
            mine = [one for one in objects if one[0] == name]
            made[f"completeness_{name}"] = float(np.mean([one[1] >= threshold for one in mine]))
            if name == MULTIPLE:
                made["association"] = float(np.mean([one[2] >= threshold for one in mine]))
        return made


def _area(hits: Floats, reliability: Floats, wanted: int) -> float:
    """Area below the envelope of reliability against completeness, from the surest detection on."""
    if not wanted:
        return 0.0
    envelope = np.maximum.accumulate(reliability[::-1])[::-1]
    return float(np.sum(np.diff(hits, prepend=0.0) * envelope) / wanted)


class _Clock:
    """Wall time of a training, over interruptions too."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.seconds = float(file.read_text("utf-8"))
        except (OSError, ValueError):
            self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._start
        if self.file.parent.is_dir():
            self.file.write_text(f"{self.seconds:.3f}", "utf-8")


def _unit(detect: Any, tiles: list[Sample], spec: NetworkSpec) -> dict[str, Any]:
    """Scores and hits of the detections of a unit, and what became of each of its objects."""
    from cyclades.pipeline.comparison.overlaps import box_overlaps
    from cyclades.pipeline.training.evaluation import REAL_OVERLAP, judge
    from cyclades.stages.networks.specification import SPURIOUS

    scores: list[float] = []
    real: list[bool] = []
    objects: list[tuple[str, float, float]] = []
    wanted = 0
    for tile in tiles:
        judged = judge(detect, [tile], spec)
        kept = judged.score >= _LEAST_SCORE
        scores += np.round(judged.score[kept], 5).tolist()
        real += judged.real[kept].tolist()
        wanted += judged.wanted
        truth, found = judged.truth[0], judged.found[0]
        sources = found.take(np.flatnonzero([one != SPURIOUS for one in found.labels or ()]))
        pairs = box_overlaps(sources.boxes, truth.boxes)
        values = np.asarray(sources.scores, float)
        for row, name in enumerate(truth.labels or ()):
            if name == SPURIOUS or (truth.ignored is not None and truth.ignored[row]):
                continue
            mine = pairs.second == row
            best = [
                float(values[pairs.first[mine & (pairs.iou >= least)]].max(initial=0.0))
                for least in (REAL_OVERLAP, _WIDE_ENOUGH)
            ]
            objects.append((name, round(best[0], 5), round(best[1], 5)))
    return {"scores": scores, "real": real, "wanted": wanted, "objects": objects}


class SimulatedDetection(DetectionTask):
    """Sources in simulated fields. A share of the labels is a number of tiles, seen repeatedly."""

    options: SimulatedDetectionOptions
    what: ClassVar[str] = "labelled tiles"

    def fingerprint(self, mode: str) -> dict[str, Any]:
        """All options that matter to a mode, since data are simulated from them."""
        return self._relevant(mode)

    def labels(self, fraction: float) -> int:
        """Return the number of tiles."""
        return max(1, round(fraction * self.options.labelled))

    def data(self, cell: Cell) -> OneDataOptions:
        """Return the first tiles of a simulation of its own for each seed."""
        sky = self.options.data
        changes = {"samples": self.labels(cell.fraction), "seed": sky.seed + 1000 * (cell.seed + 1)}
        return sky.model_copy(update=changes)

    def test(self) -> list[list[Sample]]:
        """Tiles of a simulation that no training sees."""
        return self._tiles

    @cached_property
    def _tiles(self) -> list[list[Sample]]:
        sky = self.options.data
        held = sky.model_copy(update={"seed": sky.seed + HELD_OUT, "samples": None})
        source = build_source(held, int(self.options.training.get("size", 256)))
        return [[source.sample(number)] for number in range(self.options.tiles)]


class SurveyDetection(SimulatedDetection):
    """Sources in fields as MeerKAT surveys them, tested on the same or on real survey images."""

    options: SurveyDetectionOptions

    def fingerprint(self, mode: str) -> dict[str, Any]:
        """All options, and the content of the images and catalogues of the test."""
        made = super().fingerprint(mode)
        if self.options.test is not None:
            made["test"] = {**made["test"], "content": self._content}
        return made

    @cached_property
    def _content(self) -> str:
        assert self.options.test is not None
        images, catalogue = find_images(self.options.test.images), self.options.test.catalogue
        several = [Path(catalogue.replace(PLACE, image_name(one))).expanduser() for one in images]
        return hash_files([*images, *(one for one in dict.fromkeys(several) if one.is_file())])

    def test(self) -> list[list[Sample]]:
        """Tiles of a simulation that no training sees, or crops of the images given."""
        return self._tiles if self.options.test is None else self._crops

    @cached_property
    def _crops(self) -> list[list[Sample]]:
        assert self.options.test is not None
        source = build_source(self.options.test, int(self.options.training.get("size", 256)))
        return [[source.sample(number)] for number in range(self.options.tiles)]


class FirstDetection(DetectionTask):
    """Radio galaxies in real FIRST fields, known where volunteers looked; a label is a field."""

    options: FirstDetectionOptions
    what: ClassVar[str] = "labelled fields"

    @cached_property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Fields to learn from and to test on, disjoint on the sky."""
        if self.options.images is None or self.options.labels is None:
            raise ConfigurationError(
                f"The task {self.name} needs FIRST fields and their labels; give them as "
                f"tasks.{self.name}.images and tasks.{self.name}.labels."
            )
        paths = find_images(self.options.images)
        places = [
            _centre(path, self.options.image.model_dump(exclude_unset=True)) for path in paths
        ]
        ra, dec = np.array(places).T
        group = sky_groups(ra, dec, self.options.separation)
        order = np.random.default_rng(HELD_OUT).permutation(np.unique(group))
        count = np.bincount(group)[order]
        test = order[np.cumsum(count) <= self.options.test_share * len(paths)]
        on_test = np.isin(group, test)
        if on_test.all() or not on_test.any():
            raise ConfigurationError(
                f"The fields of the task {self.name} cannot be parted into two sides that are "
                "disjoint on the sky; give more fields, or another test_share."
            )
        names = np.array([str(path) for path in paths])
        return tuple(names[~on_test].tolist()), tuple(names[on_test].tolist())

    def fingerprint(self, mode: str) -> dict[str, Any]:
        """Options without places on disk, and the content of fields and labels."""
        return {**self._relevant(mode, "images", "labels"), "content": self._content}

    @cached_property
    def _content(self) -> str:
        train, test = self.sides
        labels = Path(self.options.labels or "").expanduser()
        return hash_files([*(Path(one) for one in (*train, *test)), labels])

    def labels(self, fraction: float) -> int:
        """Return the number of fields."""
        return max(1, round(fraction * len(self.sides[0])))

    def data(self, cell: Cell) -> OneDataOptions:
        """Return crops of the fields that are drawn for the seed."""
        mine = np.random.default_rng((cell.seed, 0xF1)).permutation(self.sides[0])
        return self.crops_of(mine[: self.labels(cell.fraction)].tolist(), cell.seed)

    def test(self) -> list[list[Sample]]:
        """Crops of the fields of the test, which do not hold the field's centre in their middle."""
        return self._test

    @cached_property
    def _test(self) -> list[list[Sample]]:
        size = int(self.options.training.get("size", 256))
        made = []
        for path in self.sides[1]:
            source = build_source(self.crops_of([path], HELD_OUT), size)
            made.append([source.sample(number) for number in range(self.options.crops)])
        return made

    def crops_of(self, images: Sequence[str], seed: int) -> RgzOptions:
        """Return crops of some of the fields."""
        return RgzOptions(
            images=tuple(images),
            labels=self.options.labels or "",
            image=self.options.image,
            consensus=self.options.consensus,
            seed=seed,
        )


def _centre(path: Path, options: dict[str, Any]) -> tuple[float, float]:
    """Position of the middle of an image, degrees."""
    from cyclades.pipeline.training.catalogue_labels import sky_grid
    from cyclades.stages.core.geometry import sky_positions

    source = open_image(path, **options)
    y, x = (0.5 * (side - 1) for side in source.shape)
    place = sky_positions(sky_grid(source), np.array([x]), np.array([y]))
    return float(place.ra.deg[0]), float(place.dec.deg[0])
