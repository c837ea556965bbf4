"""The four stage contracts.

A stage is a frozen pydantic model: its fields are the only declaration of its parameters, and
configuration, command line, documentation and provenance derive from them. It holds no run-time
state, so it is cheap to compare, to replace and to send to a worker.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background, Components, Detections
    from cyclades.stages.core.source import ImageSource
    from cyclades.stages.core.streaming import Plane

KINDS = ("background", "detection", "characterization", "cataloguing")


def parameter(default: Any, description: str, *, unit: str = "", **bounds: Any) -> Any:
    """Declare a stage parameter: default, description, unit and bounds in one place.

    Parameters
    ----------
    default : object
        Default value; ``...`` makes the parameter required.
    description : str
        One sentence for people.
    unit : str
        Unit of the value in words (``"beams"``, ``"local rms"``, ``"pixels"``).
    **bounds
        ``gt``, ``ge``, ``lt``, ``le`` as in `pydantic.Field`.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit}, **bounds)


class Capabilities(NamedTuple):
    """What a stage needs from its neighbours and what it gives them."""

    needs_beam: bool = False
    """The stage cannot work without a beam or PSF."""
    needs_weights: bool = False
    """The stage loads trained network weights."""
    gives_segments: bool = False
    """A detector that says which pixels belong to each detection."""
    gives_summits: bool = False
    """A detector that says where the components of each detection peak."""
    windows: bool = False
    """A detector or characterizer whose rows depend on their surroundings alone, once what it
    needs of the whole image is known (see `DetectionStage.survey`)."""


class Stage(BaseModel):
    """Base of every stage: a name, a sentence, its parameters and its capabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()

    def prepare(self, *, context: "Context") -> None:
        """Load what the stage needs, before the image is read, so that what lacks shows.

        Raises
        ------
        CycladesError
            Where it cannot run; the sentence says what to do.
        """


class WindowMaps(Protocol):
    """Maps of a whole image that were measured beforehand, drawn window by window."""

    def window(self, image: "SkyImage") -> "Background":
        """Return level and rms in a window of the image, as in the maps of the whole image."""


class BackgroundStage(Stage):
    """Estimates the level and the rms of an image."""

    kind: ClassVar[str] = "background"

    def survey(self, plane: "Plane", *, context: "Context") -> "WindowMaps | None":
        """Measure a plane that is read by strips; None where the stage cannot.

        The maps of a window are those that `estimate` gives for the whole image.
        """
        return None

    @abstractmethod
    def estimate(self, image: "SkyImage", *, context: "Context") -> "Background":
        """Return level and rms maps of the image's shape and unit, NaN where it is blank."""
        raise NotImplementedError


class PreparedDetection(Protocol):
    """A detection with all that it takes from the whole image fixed, for windows of it."""

    def detect(
        self, image: "SkyImage", background: "Background", *, context: "Context"
    ) -> "Detections":
        """Return what lies in a window, as in the whole image."""

    def doubtful(self, image: "SkyImage", background: "Background") -> "NDArray[np.int64]":
        """Boxes ``y0, y1, x0, x1`` in the full image of what may go on outside of a window."""


class DetectionStage(Stage):
    """Finds the pixels, boxes or summits of sources."""

    kind: ClassVar[str] = "detection"

    def limits(self) -> tuple[float, tuple[int, ...]]:
        """Significance down to which islands reach, and the signs of sources.

        What reaches it at the edge of a window may belong to an island that the window cuts.
        """
        return 3.0, (1,)

    def doubtful(self, image: "SkyImage", background: "Background") -> "NDArray[np.int64]":
        """Boxes ``y0, y1, x0, x1`` in the full image of what may go on outside of a window."""
        from cyclades.stages.core.windows import doubtful_boxes

        return doubtful_boxes(image, background, *self.limits())

    def survey(
        self, plane: "Plane", maps: "WindowMaps", *, context: "Context"
    ) -> "PreparedDetection | None":
        """Return the stage with all that it takes from the whole image fixed.

        In a window it then finds what `detect` finds there in the whole image. None where it
        cannot.
        """
        return self if self.capabilities.windows else None

    @abstractmethod
    def detect(
        self, image: "SkyImage", background: "Background", *, context: "Context"
    ) -> "Detections":
        """Return what was found; a detector leaves out what it does not know."""
        raise NotImplementedError

    def detect_planes(
        self,
        images: "Mapping[str, SkyImage]",
        backgrounds: "Mapping[str, Background]",
        detection: str,
        *,
        context: "Context",
    ) -> "Detections":
        """Return what was found on aligned planes, as `detect` does.

        A detector that takes planes as channels overrides this; others get the detection plane.

        Parameters
        ----------
        images : mapping of str to SkyImage
            Planes on the same pixels, by name, in the order of the user's `ImageSet`.
        backgrounds : mapping of str to Background
            Level and rms of each.
        detection : str
            The set's detection plane: a plane's name, ``weighted`` or ``chi_squared``.
        context : Context
        """
        from cyclades.stages.core.combination import detection_plane

        image, background = detection_plane(images, backgrounds, detection, context=context)
        return self.detect(image, background, context=context)


class CharacterizationStage(Stage):
    """Measures the components of complete detections.

    `adds` names the columns that it gives beyond those of the schema, so that what refinements need
    can be checked before an image is read; None where they are not known beforehand.
    """

    kind: ClassVar[str] = "characterization"
    adds: ClassVar[tuple[str, ...] | None] = None

    def reach(self, plane: "Plane") -> float | None:
        """Pixels around an island of which its measurement looks at the islands there.

        Beyond the neighbours whose light reaches it, which are known in every window. None where
        the stage as it is set needs the image as a whole.

        Parameters
        ----------
        plane : Plane
            The image.
        """
        return 0.0 if self.capabilities.windows else None

    def measure_again(
        self,
        image: "SkyImage",
        background: "Background",
        detections: "Detections",
        components: "Components",
        *,
        plane: str,
        context: "Context",
    ) -> "dict[str, NDArray[Any]]":
        """Return further columns of known components on another plane with the same pixels.

        Positions and shapes are those of `components`. The chain runs it on every plane of an
        `ImageSet` and appends the plane's name, `plane`, to the columns. None by default:
        Gaussian fluxes of every plane are measured in any case.

        Returns
        -------
        dict of str to ndarray
            As `Components.extra`, in the rows of `components`; fluxes as there, over the area of
            the plane's beam. ``total_flux`` and ``total_flux_err`` stand in for the Gaussian ones.
        """
        return {}

    @abstractmethod
    def measure(
        self,
        image: "SkyImage",
        background: "Background",
        detections: "Detections",
        *,
        context: "Context",
    ) -> "Components":
        """Return one row a component, for every leaf row of `detections`."""
        raise NotImplementedError


class CataloguingStage(Stage):
    """Builds the catalogue: the first entry of the `cataloguing` list.

    `adds` names its columns beyond those of the schema and of the characterization; None where they
    are not known beforehand.
    """

    kind: ClassVar[str] = "cataloguing"
    adds: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def build(
        self,
        image: "SkyImage",
        background: "Background",
        detections: "Detections",
        components: "Components",
        *,
        context: "Context",
    ) -> "Catalogue":
        """Return the three linked tables."""
        raise NotImplementedError


class RefinementStage(Stage):
    """Refines a catalogue: any later entry of the `cataloguing` list.

    A refinement runs once on the merged catalogue, never on a tile, and names the columns that
    it needs and the columns that it adds.
    """

    kind: ClassVar[str] = "cataloguing"
    needs: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def refine(
        self, catalogue: "Catalogue", source: "ImageSource", *, context: "Context"
    ) -> "Catalogue":
        """Return a catalogue with the added columns; the one given is not changed."""
        raise NotImplementedError
