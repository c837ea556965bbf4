"""Data that detectors learn from and are judged on."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from cyclades.pipeline.studies.cells import Cell
from cyclades.pipeline.studies.detectors.options import (
    BenchmarkOptions,
    FirstBenchmarkOptions,
    LabelledBenchmarkOptions,
    SimulatedBenchmarkOptions,
)
from cyclades.pipeline.studies.tasks.base import hash_files
from cyclades.pipeline.studies.tasks.detection import HELD_OUT, FirstDetection
from cyclades.pipeline.studies.tasks.detection_options import FirstDetectionOptions
from cyclades.pipeline.training.labelled import PLACE, find_images, image_name
from cyclades.pipeline.training.samples import Sample
from cyclades.pipeline.training.sources import DataOptions, OneDataOptions, build_source
from cyclades.stages.core.errors import ConfigurationError

_LABELS = ("labels", "catalogue", "columns", "labelled")
"""Options of images whose values are paths."""
_VALIDATION_SHARE = 0.2
"""Of the FIRST fields that are not tested."""


class Benchmark(ABC):
    """Tiles to learn from, to follow the learning on, and to judge on.

    Parameters
    ----------
    name : str
        In the configuration; errors mention it.
    options : BenchmarkOptions
    """

    what = "tiles"
    """Units of the test that intervals draw among."""

    def __init__(self, name: str, options: BenchmarkOptions) -> None:
        self.name, self.options = name, options

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Everything that results depend on, as JSON."""
        raise NotImplementedError

    @abstractmethod
    def training(self, seed: int) -> DataOptions:
        """Tiles to learn from: the same ones in the same order for a seed."""
        raise NotImplementedError

    @abstractmethod
    def validation(self, seed: int) -> DataOptions | None:
        """Tiles for curves and calibration; None for other seeds of the training's."""
        raise NotImplementedError

    @abstractmethod
    def words(self) -> str:
        """Say what the data are."""
        raise NotImplementedError

    @cached_property
    def test(self) -> list[list[Sample]]:
        """Tiles of the test, unit by unit; nothing learns from them."""
        return self._test()

    @abstractmethod
    def _test(self) -> list[list[Sample]]:
        raise NotImplementedError

    def _first_tiles(self, data: DataOptions) -> list[list[Sample]]:
        source = build_source(data, self.options.size, self.options.classes)
        return [[source.sample(number)] for number in range(self.options.tiles)]


class SimulatedBenchmark(Benchmark):
    """Simulated tiles; the test follows from the seed of the options alone."""

    options: SimulatedBenchmarkOptions

    def fingerprint(self) -> dict[str, Any]:
        """All options, since data are simulated from them."""
        return self.options.model_dump(mode="json")

    def training(self, seed: int) -> DataOptions:
        """Return a sky of its own for each seed."""
        sky = self.options.sky
        return sky.model_copy(update={"seed": sky.seed + 1000 * (seed + 1)})

    def validation(self, seed: int) -> None:
        """Return none: another seed of the simulation is taken."""

    def words(self) -> str:
        """Say preset, seed and floor."""
        sky = self.options.sky
        return (
            f"Simulated tiles (preset `{sky.preset}`, seed {sky.seed}). Truth: objects of a signal "
            f"to noise of {sky.floor:g} or more (peak; of extended ones integrated); fainter ones "
            "are neither to be found nor wrong to be found."
        )

    def _test(self) -> list[list[Sample]]:
        sky = self.options.sky
        return self._first_tiles(sky.model_copy(update={"seed": sky.seed + HELD_OUT,
                                                        "samples": None}))  # fmt: skip


class FirstBenchmark(Benchmark):
    """Real FIRST fields; training, validation and test are disjoint on the sky."""

    options: FirstBenchmarkOptions
    what = "fields"

    @cached_property
    def _fields(self) -> FirstDetection:
        return self._detection(self.options.images, FirstDetectionOptions().test_share)

    @cached_property
    def _learned_from(self) -> FirstDetection:
        return self._detection(self._fields.sides[0], _VALIDATION_SHARE)

    def _detection(self, images: str | tuple[str, ...] | None, share: float) -> FirstDetection:
        o = self.options
        if images is None or o.labels is None:
            raise ConfigurationError(
                f"The data {self.name} are FIRST fields and their labels; give them as "
                f"data.{self.name}.images and data.{self.name}.labels."
            )
        options = FirstDetectionOptions(
            images=images, labels=o.labels, image=o.image, consensus=o.consensus, crops=o.crops,
            test_share=share, training={"size": o.size},
        )  # fmt: skip
        return FirstDetection(self.name, options)

    def fingerprint(self) -> dict[str, Any]:
        """Options without places on disk, and the content of fields and labels."""
        made = self.options.model_dump(mode="json", exclude={"images", "labels"})
        return {**made, "content": self._fields.fingerprint("scratch")["content"]}

    def training(self, seed: int) -> DataOptions:
        """Return crops of all fields to learn from."""
        return self._learned_from.data(Cell(self.name, "", "scratch", 1.0, seed))

    def validation(self, seed: int) -> DataOptions:
        """Return crops of further fields."""
        return self._learned_from.crops_of(self._learned_from.sides[1], HELD_OUT + 1)

    def words(self) -> str:
        """Say whose labels they are."""
        return (
            "FIRST fields with Radio Galaxy Zoo labels, parted on the sky; only discs that "
            "volunteers looked at are judged, labels on which fewer than "
            f"{100 * self.options.consensus:g} % agreed are ignored."
        )

    def _test(self) -> list[list[Sample]]:
        return self._fields.test()


class LabelledBenchmark(Benchmark):
    """Labelled images of one's own."""

    options: LabelledBenchmarkOptions

    def fingerprint(self) -> dict[str, Any]:
        """Options without places on disk, and the content of images and labels."""
        made = self.options.model_dump(mode="json", exclude={"train", "test", "validation"})
        for side in ("train", "test", "validation"):
            several = _several(getattr(self.options, side))
            made[side] = [_content(one) for one in several]
        return made

    def training(self, seed: int) -> DataOptions:
        """Return crops of the images, others for each seed."""
        made = tuple(
            one.model_copy(update={"seed": one.seed + 1000 * (seed + 1)})
            for one in _several(self.options.train)
        )
        return made if len(made) > 1 else made[0]

    def validation(self, seed: int) -> DataOptions | None:
        """Return what the options give."""
        return self.options.validation

    def words(self) -> str:
        """Say where the images are."""
        places = [str(getattr(one, "images", one.kind)) for one in _several(self.options.test)]
        return f"Labelled images: {', '.join(places)}."

    def _test(self) -> list[list[Sample]]:
        return self._first_tiles(self.options.test)


def _several(data: DataOptions | None) -> tuple[OneDataOptions, ...]:
    if data is None:
        return ()
    return data if isinstance(data, tuple) else (data,)


def _content(one: OneDataOptions) -> dict[str, Any]:
    """Options of data, with the content of files instead of their places."""
    made = one.model_dump(mode="json", exclude={"images", *_LABELS})
    pattern = getattr(one, "images", None)
    if pattern is not None:
        images = find_images(pattern)
        given = [getattr(one, name, None) for name in _LABELS]
        labels = [
            Path(value.replace(PLACE, image_name(image))).expanduser()
            for value in given
            if isinstance(value, str)
            for image in images
        ]
        made["content"] = hash_files([*images, *_files(dict.fromkeys(labels))])
    return made


def _files(places: Iterable[Path]) -> list[Path]:
    """Files that there are at places, those in folders among them."""
    made: list[Path] = []
    for place in places:
        made += sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    return [place for place in made if place.is_file()]


def build_benchmark(name: str, options: BenchmarkOptions) -> Benchmark:
    """Make the data that options describe."""
    if isinstance(options, FirstBenchmarkOptions):
        return FirstBenchmark(name, options)
    if isinstance(options, LabelledBenchmarkOptions):
        return LabelledBenchmark(name, options)
    return SimulatedBenchmark(name, options)
