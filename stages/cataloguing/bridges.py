"""Emission between parts, below the threshold of detection: jets and the insides of lobes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.cataloguing.parts import Parts, reach
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.core.source import ImageSource

_FAINT = 0.5
"""A part's own light is passed where its Gaussian has fallen to this many rms."""
_SHORTEST = 0.5
"""Beams; nothing is said of a shorter gap."""


@dataclass(frozen=True)
class BridgeLight:
    """Significance of the emission on the line between two parts, read from the image.

    Parameters
    ----------
    source : ImageSource
    """

    source: "ImageSource"

    def __call__(self, parts: Parts, first: Integers, second: Integers) -> Floats:
        """Return arsinh of the median S/N on the line times the root of its length in beams.

        Where the parts' own light leaves less than half a beam, or the line is blank, it is 0.

        Parameters
        ----------
        parts : Parts
        first, second : ndarray of int, shape (pairs,)
        """
        there = parts.offsets(first, second)
        apart = np.maximum(np.hypot(*there.T), 1e-9)
        start = _clear(parts, first, there) / apart
        end = 1.0 - _clear(parts, second, there) / apart
        length = (end - start) * apart / np.sqrt(parts.beam_size[first] * parts.beam_size[second])
        result = np.zeros(len(first))
        for row in np.flatnonzero(length >= _SHORTEST).tolist():
            i, j = first[row], second[row]
            step = np.array([parts.x[j] - parts.x[i], parts.y[j] - parts.y[i]])
            number = max(3, round(2.0 * float(np.hypot(*step)) * (end[row] - start[row])))
            share = np.linspace(start[row], end[row], number)[:, None]
            values = self._values(np.array([parts.x[i], parts.y[i]]) + share * step)
            level = 0.5 * (parts.level[i] + parts.level[j])
            rms = 0.5 * (parts.rms[i] + parts.rms[j])
            if np.isfinite(values).any() and rms > 0.0:
                snr = parts.sign[i] * (np.nanmedian(values) - level) / rms
                result[row] = np.arcsinh(snr * np.sqrt(max(1.0, length[row])))
        return result

    def _values(self, places: Floats) -> Floats:
        """Pixels nearest to places (x, y); NaN outside the image."""
        ny, nx = self.source.shape
        x, y = np.rint(places).astype(np.int64).T
        inside = (x >= 0) & (y >= 0) & (x < nx) & (y < ny)
        if not inside.any():
            return np.full(1, np.nan)
        x, y = x[inside], y[inside]
        box = Box(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1)
        return np.asarray(self.source.window(box).data[y - box.y0, x - box.x0], float)


def _clear(parts: Parts, rows: Integers, along: Floats) -> Floats:
    """Distance along a direction at which a part's own light has fallen to `_FAINT` rms."""
    sigma = 2.0 * reach(parts, rows, along) / SIGMA_TO_FWHM
    depth = np.log(np.maximum(parts.snr[rows] / _FAINT, 1.0))
    return np.asarray(sigma * np.sqrt(2.0 * depth))
