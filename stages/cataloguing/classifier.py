"""Morphological classes of sources, from the features of frozen backbones."""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.stage import Capabilities, RefinementStage, parameter
from cyclades.stages.core.tables import replace_values
from cyclades.stages.networks.classification import (
    DEFAULT_NAME,
    UNKNOWN,
    FeatureClassifier,
    find_classifier,
    read_classifier,
)
from cyclades.stages.networks.cutouts import FrameSpec, Place, cut_out

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.source import ImageSource
    from cyclades.stages.networks.features import JoinedExtractor

_CUT = int(Flag.EDGE | Flag.BLANK_NEIGHBOUR)
_REACH = 0.75
"""A source reaches so many of its FWHM from its middle."""
_CUTTING = 0.3
"""Share of the time that the cut-outs take, roughly; the network has the rest."""


class _Loaded(NamedTuple):
    """A classifier and the networks whose features it judges."""

    path: Path
    sha256: str
    classifier: FeatureClassifier
    extractor: "JoinedExtractor"


class ClassifierRefinement(RefinementStage):
    """Gives every source a morphological class and its calibrated probability.

    Each source is seen as the pictures that the classifier learned from show theirs: smoothed to
    their beam, on their pixels, north up, clipped and scaled alike. What lies far from all of
    these in the space of the features is unknown. So is, with the flag ``not_classified``, what
    cannot be seen that way: sources cut by the edge or by blank pixels, seen by a coarser beam, or
    outshone by a neighbour, whose class theirs would be.

    Components have the class of their source.
    """

    name: ClassVar[str] = "classifier"
    summary: ClassVar[str] = "morphological classes of sources (FRI, FRII, compact, bent, unknown)"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_beam=True, needs_weights=True)
    needs: ClassVar[tuple[str, ...]] = ("source_id", "x", "y", "major", "flags")
    adds: ClassVar[tuple[str, ...]] = ("morphology", "morphology_probability")

    weights: str = parameter(
        DEFAULT_NAME,
        "A file that 'cyclades train-classifier' wrote, or its name in the folder of weights.",
    )
    typical: float = parameter(
        0.98,
        "Share of the pictures held out of the training that are known; what is less like the "
        "training than these is unknown.",
        gt=0.0,
        le=1.0,
    )
    frame: Literal["angle", "beam"] = parameter(
        "angle",
        "Cut-outs as large on the sky as those of the training, or as many beams wide, whatever "
        "that is on the sky.",
    )
    coarsest: float = parameter(
        1.2,
        "Widest beam that is taken for that of the training as it is (frame angle); under a wider "
        "one all sources are unknown.",
        unit="beams of the training",
        ge=1.0,
    )
    blank: float = parameter(
        0.1, "Largest share of a cut-out that may be blank or outside the image.", ge=0.0, le=1.0
    )
    outshone: float = parameter(
        0.1,
        "Least brightness of a source above the clip, as a share of the brightest pixel of its "
        "cut-out, which may be a neighbour's.",
        ge=0.0,
        le=1.0,
    )

    def prepare(self, *, context: "Context") -> None:
        """Load classifier and networks.

        Raises
        ------
        ConfigurationError
            Where torch is not installed.
        InputError
            Where the weights are missing or damaged; the sentence says which command makes them.
        """
        self._load(context)

    def refine(
        self, catalogue: "Catalogue", source: "ImageSource", *, context: "Context"
    ) -> "Catalogue":
        """Return the catalogue with class and probability of sources and components.

        Parameters
        ----------
        catalogue : Catalogue
            ``x`` and ``y`` of its sources are the centres of the cut-outs.
        source : ImageSource
            With beam and sky coordinates.
        context : Context
            Gives the device, and keeps the networks.

        Returns
        -------
        Catalogue
            The same rows in the same order. The probability of what is unknown is NaN.
        """
        loaded = self._load(context)
        spec = loaded.classifier.spec
        rows, pictures = self._pictures(catalogue, source, loaded.classifier, context)
        number = len(catalogue.sources)
        classes = np.full(number, UNKNOWN, dtype=f"U{max(map(len, (*spec.classes, UNKNOWN)))}")
        probability = np.full(number, np.nan, np.float32)
        flags = np.asarray(catalogue.sources["flags"]).copy()
        flags[np.setdiff1d(np.arange(number), rows)] |= int(Flag.NOT_CLASSIFIED)
        if len(rows):
            features = loaded.extractor(
                pictures, lambda share: context.report(_CUTTING + (1.0 - _CUTTING) * share)
            )
            judged = loaded.classifier.judge(features)
            known = judged.distances <= loaded.classifier.limit(self.typical)
            best = judged.probabilities.argmax(1)
            classes[rows[known]] = np.array(spec.classes)[best[known]]
            probability[rows[known]] = judged.probabilities.max(1)[known]
        context.note(
            "cataloguing.classifier",
            {
                "weights": str(loaded.path),
                "sha256": loaded.sha256,
                "classes": dict(Counter(classes.tolist())),
            },
        )
        made = _filled(catalogue, classes, probability, flags)
        hashes = [*made.meta.get("weights", ()), f"sha256:{loaded.sha256}"]
        return made.replace(meta={**made.meta, "weights": hashes})

    def _pictures(
        self,
        catalogue: "Catalogue",
        source: "ImageSource",
        classifier: FeatureClassifier,
        context: "Context",
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Rows of the sources that can be judged, and their pictures."""
        table = catalogue.sources
        x, y = (np.asarray(table[name].value, float) for name in ("x", "y"))
        major = np.asarray(table["major"].value, float)  # arcsec, or pixels without coordinates
        whole = (np.asarray(table["flags"]) & _CUT) == 0
        size = classifier.spec.features.pictures.crop
        rows, pictures = [], []
        for row in range(len(table)):
            context.report(_CUTTING * row / len(table))
            place = Place.of(source, x[row], y[row]) if whole[row] else None
            frame = None if place is None else self._frame(place, classifier.spec.features.frame)
            if place is None or frame is None:
                continue
            made = cut_out(place, frame, size)
            reach = _REACH * max(frame.beam, np.nan_to_num(major[row])) / frame.pixel
            own = _brightest(made.picture, reach)
            if made.blank <= self.blank and own > max(0.0, self.outshone * 255.0):
                rows.append(row)
                pictures.append(made.picture)
        kept = np.stack(pictures) if pictures else np.zeros((0, size, size), np.uint8)
        return np.array(rows, np.int64), kept

    def _frame(self, place: Place, frame: FrameSpec) -> FrameSpec | None:
        """What a cut-out at a place has to show; None where the beam is too coarse for it."""
        ratio = place.beam_size / frame.beam
        if self.frame == "beam":
            scaled = {"pixel": frame.pixel * ratio, "beam": frame.beam * ratio}
            return frame.model_copy(update=scaled)
        return frame if ratio <= self.coarsest else None

    def _load(self, context: "Context") -> _Loaded:
        path = find_classifier(self.weights)
        return context.cached(
            ("classifier", str(path), context.device), partial(_loaded, path, context)
        )


def _loaded(path: Path, context: "Context") -> _Loaded:
    try:
        classifier = read_classifier(path)
        from cyclades.stages.networks.features import JoinedExtractor
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The cataloguing stage 'classifier' needs the package {error.name!r}; install "
            "cyclades[learned]."
        ) from error
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor = JoinedExtractor(classifier.spec.backbones, context.device, context.workers)
    return _Loaded(path, sha256, classifier, extractor)


def _brightest(picture: NDArray[np.uint8], reach: float) -> float:
    """Brightest pixel within a distance of the middle, in pixels."""
    y, x = (np.indices(picture.shape) - 0.5 * (len(picture) - 1)) ** 2
    return float(np.where(x + y <= reach**2, picture, 0).max())


def _filled(
    catalogue: "Catalogue",
    classes: NDArray[np.str_],
    probability: NDArray[np.float32],
    flags: NDArray[Any],
) -> "Catalogue":
    """Write classes, probabilities and flags of sources to these and to their components."""
    new = int(Flag.NOT_CLASSIFIED)
    sources, components = catalogue.sources.copy(), catalogue.components.copy()
    ids = np.asarray(sources["source_id"])
    order = np.argsort(ids, kind="stable")
    of = order[np.searchsorted(ids[order], np.asarray(components["source_id"]))]
    replace_values(sources, "morphology", classes)
    replace_values(sources, "morphology_probability", probability)
    replace_values(sources, "flags", flags)
    replace_values(components, "morphology", classes[of])
    replace_values(components, "morphology_probability", probability[of])
    replace_values(components, "flags", np.asarray(components["flags"]) | (flags[of] & new))
    return catalogue.replace(sources=sources, components=components)
