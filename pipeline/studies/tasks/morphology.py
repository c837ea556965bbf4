"""Task: four classes of radio galaxies, on real FIRST cut-outs."""

import time
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.studies.cells import Cell, Outcome
from cyclades.pipeline.studies.tasks.base import Task, Unit, Workshop
from cyclades.pipeline.studies.tasks.morphology_options import MorphologyOptions
from cyclades.pipeline.studies.tasks.pictures import (
    Pictures,
    draw_labels,
    find_pictures,
    read_pictures,
)
from cyclades.stages.networks.pictures import CLASSES, PictureOptions
from cyclades.stages.networks.specification import BackboneSpec

if TYPE_CHECKING:
    from cyclades.pipeline.studies.tasks.features import Features

_FROZEN = ("frozen", "random")


class Morphology(Task):
    """Classes of radio galaxies; a unit is one picture of the test.

    Parameters
    ----------
    name : str
    options : MorphologyOptions
    """

    main: ClassVar[str] = "accuracy"
    what: ClassVar[str] = "labelled pictures"
    version: ClassVar[int] = 1

    def __init__(self, name: str, options: MorphologyOptions) -> None:
        super().__init__(name)
        self.options = options

    @cached_property
    def pictures(self) -> Pictures:
        """All pictures; see `read_pictures` for the errors."""
        return read_pictures(find_pictures(self.options.images))

    def fingerprint(self, mode: str) -> dict[str, Any]:
        """Options that matter to a mode, without places on disk, and the digest of the pictures."""
        other = "training" if mode in _FROZEN else "frozen"
        options = self.options.model_dump(mode="json", exclude={"images", other})
        made = {"version": self.version, "data": self.pictures.digest, **options}
        if mode in _FROZEN:
            made["frozen"] = self._frozen(mode)
        return made

    def _frozen(self, mode: str) -> dict[str, Any]:
        """Options of frozen backbones, without the head and backbones that are not used.

        Cells that are there from before these could be chosen keep their keys.
        """
        given = self.options.frozen
        later = {"head", "attention", "beside", "joined", "views"}
        made = given.model_dump(mode="json", exclude=later)
        if given.head != "logistic":
            made |= given.model_dump(mode="json", include={"head", given.head})
            del made["pooling"], made["inverse_penalty"]
        elif given.views != "samples" and given.orientations > 1:
            made["views"] = given.views
        if given.joined != "features" and (given.beside or given.crops):
            made["joined"] = given.joined
        if given.beside:
            from cyclades.pipeline.studies.weights import weights_hash

            made["beside"] = [
                one.model_dump(mode="json", exclude={"weights"})
                | {"weights": weights_hash(one) if mode == "frozen" else None}
                for one in given.beside
            ]
        return made

    def preparations(self, cell: Cell, backbone: BackboneSpec) -> Sequence[Hashable]:
        """Return the features of frozen backbones that a cell needs."""
        if cell.mode not in _FROZEN:
            return ()
        return [
            (one.model_dump_json(), 0 if one.weights else cell.seed, place)
            for one in self._joined(backbone)
            for place in range(len(self._inputs()))
        ]

    def prepare(self, preparation: Any, workshop: Workshop) -> None:
        """Compute features."""
        text, seed, place = preparation
        self._features(
            BackboneSpec.model_validate_json(text), seed, self._inputs()[place], workshop
        )

    def run(self, cell: Cell, backbone: BackboneSpec, workshop: Workshop, key: str) -> Outcome:
        """Train a classifier on the labels of a cell and judge it on the test."""
        pictures, o = self.pictures, self.options
        train, test = pictures.apart(o.separation)
        chosen = draw_labels(pictures.classes, train, cell.fraction, cell.seed)
        start = time.perf_counter()
        shared = 0.0
        if cell.mode in _FROZEN:
            several = [
                self._features(one, 0 if one.weights else cell.seed, place, workshop)
                for one in self._joined(backbone)
                for place in self._inputs()
            ]
            shared = sum(one.seconds for one in several) * len(chosen)
            start = time.perf_counter()
            alone = o.frozen.joined == "probabilities"
            logs = [
                self._logs(part, chosen, test, cell.seed)
                for part in ([[one] for one in several] if alone else [several])
            ]
            found = np.unique(pictures.classes[chosen])[np.mean(logs, 0).argmax(1)]
            seconds = time.perf_counter() - start
        else:
            from cyclades.pipeline.studies.tasks.classifier import predict, train_classifier

            network = train_classifier(
                backbone,
                cell.mode,  # type: ignore[arg-type]
                pictures.images[chosen],
                pictures.classes[chosen],
                o.pictures,
                o.training,
                seed=cell.seed,
                device=workshop.device,
            )
            seconds = time.perf_counter() - start
            found = predict(
                network,
                backbone,
                pictures.images[test],
                o.pictures,
                o.training.orientations,
                workshop.device,
            )
        units = tuple(
            {"truth": int(true), "found": int(one)}
            for true, one in zip(pictures.classes[test], found, strict=True)
        )
        further = {"seconds_of_features": shared, "seconds_of_training": seconds}
        return Outcome(len(chosen), units, shared + seconds, further)

    def figures(self, units: Sequence[Unit]) -> dict[str, float]:
        """Accuracy, F1 by class and their mean over the classes that there are."""
        truth = np.array([unit["truth"] for unit in units], np.int64)
        found = np.array([unit["found"] for unit in units], np.int64)
        table = np.bincount(truth * len(CLASSES) + found, minlength=len(CLASSES) ** 2).reshape(
            len(CLASSES), len(CLASSES)
        )
        hits, all_of, said = np.diag(table), table.sum(1), table.sum(0)
        with np.errstate(invalid="ignore"):
            f1 = 2.0 * hits / (all_of + said)
        made = {
            "accuracy": float(hits.sum() / max(len(units), 1)),
            "macro_f1": float(np.nanmean(f1)),
        }
        return made | {f"f1_{name}": float(v) for name, v in zip(CLASSES, f1, strict=True)}

    def _logs(
        self,
        several: "Sequence[Features]",
        chosen: NDArray[np.int64],
        test: NDArray[np.int64],
        seed: int,
    ) -> NDArray[np.float64]:
        """Log-probabilities of a classifier on features that are joined."""
        frozen, classes = self.options.frozen, self.pictures.classes
        values = np.concatenate([one.values for one in several], -1)
        if frozen.head == "attention":
            from cyclades.pipeline.studies.tasks.attention import attend

            levels = [level for one in several for level in one.levels]
            return attend(values, classes, chosen, test, frozen.attention, levels, seed)
        from cyclades.pipeline.studies.tasks.features import regress

        if frozen.views == "mean":
            values = values.mean(1, keepdims=True, dtype=np.float32)
        return regress(values, classes, chosen, test, frozen.inverse_penalty)

    def _joined(self, backbone: BackboneSpec) -> list[BackboneSpec]:
        """Backbones whose features are joined, of random numbers where that of the cell is."""
        further = self.options.frozen.beside
        if backbone.weights is None:
            further = tuple(one.model_copy(update={"weights": None}) for one in further)
        return [backbone, *further]

    def _inputs(self) -> list[PictureOptions]:
        """Crops and sizes whose features are joined."""
        first = self.options.pictures
        further = [
            first.model_copy(update={"crop": crop, "size": size})
            for crop, size in self.options.frozen.crops
        ]
        return [first, *further]

    def _features(
        self, backbone: BackboneSpec, seed: int, pictures: PictureOptions, workshop: Workshop
    ) -> "Features":
        from cyclades.pipeline.studies.tasks.features import feature_key, make_features
        from cyclades.pipeline.studies.weights import weights_hash

        weights = weights_hash(backbone) or f"random {seed}"
        key = feature_key(backbone, weights, self.pictures, pictures, self.options.frozen)
        return make_features(
            backbone, seed, self.pictures, pictures, self.options.frozen, workshop, key
        )
