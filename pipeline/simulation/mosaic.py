"""Linear mosaics: pointings whose noise, beam and frequency differ, averaged by their weights."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.geometry import Floats


class Average:
    """A weighted mean of planes in which pixels of some are blank, built up one by one.

    The weight of a pixel is the inverse variance of its noise, so that the mean has the least
    noise: ``rms = 1 / sqrt(sum 1 / rms_i^2)`` (Sault, Staveley-Smith & Brouw 1996, A&AS 120,
    375, for the primary-beam corrected pointings of a linear mosaic).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weight = np.zeros(shape)
        self._sums: dict[str, Floats] = {}

    def add(self, rms: NDArray[np.floating], **planes: ArrayLike) -> None:
        """Add planes of a pointing (shape (..., ny, nx)) of which NaN in `rms` is blank."""
        with np.errstate(divide="ignore"):
            weight = np.where(np.isfinite(rms), 1.0 / np.square(rms, dtype=float), 0.0)
        self.weight += weight
        for name, plane in planes.items():
            part = np.where(weight > 0.0, weight * np.asarray(plane, float), 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + part

    def mean(self, name: str) -> NDArray[np.float32]:
        """Return a mean; NaN where all pointings are blank."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(
                np.where(self.weight > 0.0, self._sums[name] / self.weight, np.nan), np.float32
            )

    @property
    def rms(self) -> NDArray[np.float32]:
        """Noise of the mean; NaN where all pointings are blank."""
        with np.errstate(divide="ignore"):
            return np.asarray(
                np.where(self.weight > 0.0, 1.0 / np.sqrt(self.weight), np.nan), np.float32
            )
