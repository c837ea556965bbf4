"""What a telescope makes of a sky: the contract between telescopes and fields."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import SkyModel
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.products import Segments

Floats = NDArray[np.float64]


def _no_segments() -> Segments:
    return Segments(np.zeros(0, np.int64), np.zeros(1, np.int64))


@dataclass(frozen=True, eq=False)
class Artefacts:
    """Features of an image that are not of the sky, and that a finder may take for sources.

    Parameters
    ----------
    segments : Segments
        Pixels of each artefact, as flat indices into the image; at least one a row.
    peak : ndarray, shape (n,)
        Brightest pixel of each, in Jy/beam above the level; noise not included.
    """

    segments: Segments = field(default_factory=_no_segments)
    peak: Floats = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.peak)


@dataclass(frozen=True, eq=False)
class Observation:
    """An image of a sky with what is exactly known of it.

    Parameters
    ----------
    data : ndarray, shape (ny, nx), float32
        Jy/beam: sky, artefacts, level and noise; NaN where blanked.
    rms : ndarray, shape (ny, nx), float32
        True rms of the noise, Jy/beam.
    level : ndarray, shape (ny, nx), float32
        What lies below the sources and is neither sky nor noise (bowls, ripples of large scale).
    psf : PointSpread
        Restoring beam of the image.
    sky : SkyModel
        The sky with the fluxes and the shapes that the image shows: what was given, element for
        element, changed by smearing, CLEAN bias and the like. Truth is made from it.
    artefacts : Artefacts
    """

    data: NDArray[np.float32]
    rms: NDArray[np.float32]
    level: NDArray[np.float32]
    psf: PointSpread
    sky: SkyModel
    artefacts: Artefacts = field(default_factory=Artefacts)
