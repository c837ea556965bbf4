"""Lazy images: a file from which windows are read, and aligned sets of them."""

from dataclasses import dataclass
from typing import Protocol

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.tiling import Box


class ImageSource(Protocol):
    """A plane that may be larger than memory and yields windows of itself."""

    @property
    def name(self) -> str:
        """What to call the image."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the full plane."""

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box, with the WCS, beam and origin of that window."""

    def read(self) -> SkyImage:
        """Return the whole plane."""


@dataclass(frozen=True)
class MemorySource:
    """An `ImageSource` over a plane that is already in memory."""

    image: SkyImage

    @property
    def name(self) -> str:
        """What to call the image."""
        return self.image.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape

    def window(self, box: Box) -> SkyImage:
        """Return the pixels of a box."""
        return self.image.cutout(box)

    def read(self) -> SkyImage:
        """Return the plane itself."""
        return self.image


def cutout(source: ImageSource, x: float, y: float, size: int) -> SkyImage:
    """Return a square window of `size` pixels around a 0-based position, cut at the edges."""
    half = size // 2
    y0, x0 = round(y) - half, round(x) - half
    return source.window(Box(y0, y0 + size, x0, x0 + size))


@dataclass(frozen=True)
class ImageSet:
    """Aligned planes (bands, Stokes, frequencies, epochs) and the one to detect on.

    Parameters
    ----------
    planes : dict of str to ImageSource
        Planes on the same pixels.
    detection : str
        Name of the plane that detection runs on.
    """

    planes: dict[str, ImageSource]
    detection: str

    def __post_init__(self) -> None:
        if self.detection not in self.planes:
            raise InputError(
                f"the detection plane {self.detection!r} is not among the planes "
                f"{', '.join(self.planes)}."
            )
        shapes = {name: plane.shape for name, plane in self.planes.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"the planes of a set must have one shape, not {shapes}.")

    @property
    def detection_plane(self) -> ImageSource:
        """The plane that detection runs on."""
        return self.planes[self.detection]
