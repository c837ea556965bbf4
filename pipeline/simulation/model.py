"""What a simulated sky is made of: objects, and the elements that they are drawn from."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CLASSES = ("compact", "extended", "multi-component", "diffuse", "spurious")
"""Classes of objects; `spurious` is for artefacts that a finder may take for sources."""

GAUSSIAN, DISC = 0, 1


@dataclass(frozen=True, eq=False)
class SkyModel:
    """A sky before any telescope has looked at it.

    An object (a galaxy, say) consists of elements: Gaussians (a point is one of zero size) and
    uniform elliptical discs. All positions and shapes are in 0-based pixels of the plane to be
    made; shapes are intrinsic, not convolved with any beam.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions of the elements.
    flux : ndarray, shape (n,)
        Total flux in Jy at `frequency`.
    sxx, sxy, syy : ndarray, shape (n,)
        Intrinsic covariance in pixels squared: of a Gaussian's profile, or of a disc's (a round
        disc of radius R has R^2 / 4). Zero for points.
    kind : ndarray of int, shape (n,)
        `GAUSSIAN` or `DISC`.
    spectral_index : ndarray, shape (n,)
        ``flux ~ frequency ** spectral_index``.
    owner : ndarray of int, shape (n,)
        Number of the object that each element belongs to, 0 ... objects - 1.
    object_class : ndarray of int, shape (objects,)
        Position in `CLASSES`.
    frequency : float
        Hz.
    """

    x: Floats
    y: Floats
    flux: Floats
    sxx: Floats
    sxy: Floats
    syy: Floats
    kind: Integers
    spectral_index: Floats
    owner: Integers
    object_class: Integers
    frequency: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shapes(self) -> Floats:
        """Intrinsic covariances as (n, 2, 2) matrices."""
        first = np.stack([self.sxx, self.sxy], -1)
        return np.stack([first, np.stack([self.sxy, self.syy], -1)], -2)

    def at_frequency(self, frequency: float) -> "SkyModel":
        """Return the sky at another frequency (Hz)."""
        scale = (frequency / self.frequency) ** self.spectral_index
        return replace(self, flux=self.flux * scale, frequency=frequency)

    def replace(self, **changes: Any) -> "SkyModel":
        """Return a copy with some attributes changed."""
        return replace(self, **changes)
