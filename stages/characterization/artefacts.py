"""Components that are pieces of a bright source's sidelobes, told by the holes around them.

Errors of calibration and deconvolution scatter a small part of a bright source over its
surroundings, in both signs alike. Near such a source a peak that is not much higher than the
deepest hole around it is most likely one of these pieces, however far above the noise it is.
"""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background

HOLE = 4.5
"""Depth in local rms from which a hole is none of the noise, as a rule."""
SURROUNDINGS = 8.0
"""Radius in FWHM of the beam in which the holes around a component are looked for."""
BRIGHT = 50.0
"""Ratio of peaks from which a source may have thrown off a component."""
REACH = 20.0
"""Distance in FWHM of the beam over which it may have."""
ROWS = 256


def likely_artefacts(
    image: SkyImage, background: Background, x: Floats, y: Floats, peak: Floats, ratio: float
) -> NDArray[np.bool_]:
    """Components near a much brighter one that are no higher than the holes around them are deep.

    Parameters
    ----------
    image, background : SkyImage, Background
    x, y : ndarray, shape (n,)
        Positions in pixels.
    peak : ndarray, shape (n,)
        In the image's unit; those that are not positive are no artefacts.
    ratio : float
        Height of a component in depths of the deepest hole below which it counts as an artefact.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    result = np.zeros(len(x), bool)
    known = np.isfinite(x) & np.isfinite(y) & (peak > 0.0)
    if image.psf is None or not known.any():
        return result
    beam = image.psf.size
    hole_x, hole_y, depth = holes(image, background, max(1, round(beam)))
    if not depth.size:
        return result
    row = np.clip(np.rint(y[known]), 0, image.shape[0] - 1).astype(int)
    column = np.clip(np.rint(x[known]), 0, image.shape[1] - 1).astype(int)
    height = np.full(len(x), np.inf)
    height[known] = peak[known] / background.rms[row, column]
    for i in np.flatnonzero(height < ratio * depth.max()):
        around = np.hypot(hole_x - x[i], hole_y - y[i]) <= SURROUNDINGS * beam
        if not height[i] < ratio * depth[around].max(initial=0.0):
            continue
        bright = peak >= BRIGHT * peak[i]
        apart = np.hypot(x[bright] - x[i], y[bright] - y[i])
        result[i] = bool((apart <= REACH * beam).any())
    return result


def holes(image: SkyImage, background: Background, side: int) -> tuple[Floats, Floats, Floats]:
    """Places and depths, in local rms, of the deepest pixel of each hole in each square of a grid.

    Parameters
    ----------
    side : int
        Of a square, in pixels; squares are anchored at pixel (0, 0) of the full image.

    Returns
    -------
    x, y, depth : ndarray, shape (n,)
        Of pixels that lie deeper than `HOLE`.
    """
    found = []
    # By some rows at a time, for the sake of memory.
    for first in range(0, image.shape[0], ROWS):
        rows = slice(first, first + ROWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            depth = (background.level[rows] - image.data[rows]) / background.rms[rows]
        y, x = np.nonzero(depth > HOLE)
        found.append(np.column_stack([x, y + first, depth[y, x]]))
    pixels = np.concatenate(found)
    y, x = (pixels[:, 1 - i] + image.origin[i] for i in (0, 1))
    square = y // side * image.full_shape[1] + x // side
    order = np.lexsort((-pixels[:, 2], square))
    deepest = order[np.unique(square[order], return_index=True)[1]]
    x, y, depth = pixels[deepest].T
    return x, y, depth
