"""The holes of an image: how deep its negative peaks are, and where.

The noise of an image, and what errors of calibration scatter around bright sources, is as likely
negative as positive. The holes therefore tell how high what is no source may rise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.core.source import ImageSource

TILE_BEAMS = 32.0
"""Side of the tiles in which level and rms are taken, in beams."""
SHALLOWEST = 2.5
"""Depth of a hole in rms of its tile; half of the squares of noise have none so deep."""
MAD_TO_RMS = 1.4826
SAMPLES = 4000
"""Pixels of a tile from which level and rms are taken."""


@dataclass(frozen=True, eq=False)
class Holes:
    """The deepest pixel of each hole in each square of a grid of one beam.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Pixels.
    depth : ndarray, shape (n,)
        Below the level of the tile, positive, in the unit of the image.
    significance : ndarray, shape (n,)
        The depth over the rms of the tile.
    beams : float
        Squares of the grid that are not blank.
    """

    x: Floats
    y: Floats
    depth: Floats
    significance: Floats
    beams: float

    def deepest(self, x: Floats, y: Floats, radius: float) -> Floats:
        """Depth of the deepest hole within a radius (pixels) of each place; 0 without one."""
        from scipy.spatial import cKDTree

        result = np.zeros(len(x))
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if not len(self.x) or not len(known):
            return result
        tree = cKDTree(np.column_stack([self.x, self.y]))
        near = tree.query_ball_point(np.column_stack([x, y])[known], radius)
        for row, rows in zip(known.tolist(), near, strict=True):
            result[row] = self.depth[rows].max(initial=0.0)
        return result


def find_holes(source: "ImageSource", beam: float) -> Holes:
    """Find the holes of an image, by strips of tiles for the sake of memory.

    Level and rms are the median and the scaled median absolute deviation of each tile of 32 beams
    a side, on a grid that starts at the first pixel.

    Parameters
    ----------
    source : ImageSource
    beam : float
        FWHM in pixels, which is the side of a square of the grid.
    """
    square = max(1, round(beam))
    side = square * round(TILE_BEAMS)
    ny, nx = source.shape
    found, beams = [], 0.0
    for y0 in range(0, ny, side):
        strip = source.window(Box(y0, min(y0 + side, ny), 0, nx)).data
        for x0 in range(0, nx, side):
            tile = strip[:, x0 : x0 + side]
            beams += np.count_nonzero(np.isfinite(tile)) / square**2
            holes = _tile_holes(tile, square)
            holes[:, :2] += x0, y0
            found.append(holes)
    x, y, depth, significance = np.concatenate([np.zeros((0, 4)), *found]).T
    return Holes(x, y, depth, significance, beams)


def _tile_holes(tile: NDArray[np.float32], square: int) -> Floats:
    """Columns x, y, depth, significance of the holes of a tile."""
    values = tile[np.isfinite(tile)]
    values = values[:: max(1, len(values) // SAMPLES)].astype(float)
    if not len(values):
        return np.zeros((0, 4))
    level = float(np.median(values))
    rms = MAD_TO_RMS * float(np.median(np.abs(values - level)))
    if not rms > 0.0:
        return np.zeros((0, 4))
    rows, columns = (-(-n // square) for n in tile.shape)
    padded = np.full((rows * square, columns * square), np.inf)
    padded[: tile.shape[0], : tile.shape[1]] = np.where(np.isfinite(tile), tile, np.inf)
    cells = padded.reshape(rows, square, columns, square).swapaxes(1, 2).reshape(rows, columns, -1)
    lowest = cells.argmin(-1)
    depth = level - np.take_along_axis(cells, lowest[..., None], -1)[..., 0]
    row, column = np.nonzero(depth >= SHALLOWEST * rms)
    dy, dx = np.divmod(lowest[row, column], square)
    depth = depth[row, column]
    return np.column_stack([column * square + dx, row * square + dy, depth, depth / rms])
