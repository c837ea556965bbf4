"""Elements on the Fourier grid: drawn once as small Gaussians, weighted as often as needed."""

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import DISC, Floats, Integers, SkyModel
from cyclades.pipeline.simulation.render import disc_nodes
from cyclades.stages.core.geometry import determinant, gaussian_area
from cyclades.stages.core.rendering import REACH_SIGMA, add_gaussians

PIXEL_SIGMA = 1.0
"""Elements are drawn on pixels as Gaussians of at least this sigma, which the transfer functions
divide out again; at 0.3 cycles a pixel, what is aliased is 4e-4 of it."""
_REACH = int(np.ceil(REACH_SIGMA * PIXEL_SIGMA))


@nb.njit("void(float32[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def add_points(plane: NDArray[np.float32], values: Floats) -> None:
    """Add round Gaussians (peak, x, y) of sigma `PIXEL_SIGMA`, row by column factors."""
    ny, nx = plane.shape
    along = np.empty(2 * _REACH + 1, np.float32)
    for k in range(values.shape[0]):
        peak, x, y = values[k, 0], values[k, 1], values[k, 2]
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if column < -_REACH or row < -_REACH or column >= nx + _REACH or row >= ny + _REACH:
            continue
        x0, x1 = max(0, column - _REACH), min(nx, column + _REACH + 1)
        y0, y1 = max(0, row - _REACH), min(ny, row + _REACH + 1)
        for xx in range(x0, x1):
            along[xx - x0] = np.exp(-0.5 * ((xx - x) / PIXEL_SIGMA) ** 2)
        for yy in range(y0, y1):
            factor = np.float32(peak * np.exp(-0.5 * ((yy - y) / PIXEL_SIGMA) ** 2))
            for xx in range(x0, x1):
                plane[yy, xx] += factor * along[xx - x0]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A sky smoothed by `PIXEL_SIGMA`, as Gaussians that each belong to an element.

    Parameters
    ----------
    values : ndarray, shape (n, 6)
        ``peak, x, y, sxx, sxy, syy`` for elements of unit flux; x and y on the grid's plane.
    element : ndarray of int, shape (n,)
    points : ndarray of bool, shape (n,)
        Rows that are no wider than the smoothing.
    """

    values: Floats
    element: Integers
    points: NDArray[np.bool_]

    @classmethod
    def of(cls, sky: SkyModel, offset: tuple[int, int]) -> "Drawing":
        """Prepare a sky; `offset` is (y, x) of the image's first pixel in the plane."""
        pixel = np.eye(2) * PIXEL_SIGMA**2
        area = gaussian_area(pixel)
        shapes = sky.shapes
        whole = shapes + pixel
        peak = area / gaussian_area(whole)
        values = np.column_stack(
            [peak, sky.x, sky.y, whole[:, 0, 0], whole[:, 0, 1], whole[:, 1, 1]]
        )
        element = np.arange(len(sky))
        points = (sky.sxx == 0.0) & (sky.syy == 0.0)
        is_disc = (sky.kind == DISC) & (determinant(shapes) > 0.0)
        if is_disc.any():
            pieces, owners = [values[~is_disc]], [element[~is_disc]]
            for row in np.flatnonzero(is_disc):
                nodes, weights = disc_nodes(shapes[row], pixel)
                piece = np.tile(values[row], (len(weights), 1))
                piece[:, 0] = weights
                piece[:, 1:3] += nodes
                piece[:, 3:] = pixel[0, 0], 0.0, pixel[1, 1]
                pieces.append(piece)
                owners.append(np.full(len(weights), row))
            count = sum(map(len, pieces[1:]))
            points = np.concatenate([points[~is_disc], np.ones(count, bool)])
            values, element = np.concatenate(pieces), np.concatenate(owners)
        values[:, 1] += offset[1]
        values[:, 2] += offset[0]
        return cls(values, element, points)

    def transform(self, flux: Floats, shape: tuple[int, int]) -> NDArray[np.complex64] | None:
        """Half-plane transform of the sky with some fluxes of its elements; None where all are 0.

        Parameters
        ----------
        flux : ndarray, shape (elements,)
        shape : (int, int)
            Of the plane.
        """
        from scipy import fft

        factor = flux[self.element]
        used = factor != 0.0
        if not used.any():
            return None
        plane = np.zeros(shape, np.float32)
        for rows, add in ((self.points, add_points), (~self.points, add_gaussians)):
            chosen = self.values[rows & used]
            chosen[:, 0] *= factor[rows & used]
            add(plane, np.ascontiguousarray(chosen[:, :3] if add is add_points else chosen))
        return np.asarray(fft.rfft2(plane, overwrite_x=True))
