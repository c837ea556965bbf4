"""Sources too faint in their pixels to be masked, yet wide enough to raise the level."""

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.mesh import Floats, Map, Mesh
from cyclades.stages.core.masking import source_mask

CELLS_A_BOX = 24
"""Cells along a box of the mesh in which significances are averaged; one is about a beam wide."""

MEAN = 0.2
"""Side in boxes of the square of a running mean: in it a source that can move the level of a box
shows, while the level itself hardly bends."""

MOSTLY_SOURCE = 0.5
"""Masked part of such a square above which the rest of its middle is left out too."""

LEAST_CELLS = 100
"""Running means below which their scatter is not trusted."""

AROUND = 0.5
"""Side in boxes of the square around a pixel in which the level's certainty is judged."""

UNCERTAIN = 0.4
"""Masked part of a square of half a box above which the level in it was taken from elsewhere; a
single source of a third of a box in diameter fills as much."""


def extended_mask(
    significance: Map,
    usable: NDArray[np.bool_],
    sources: NDArray[np.bool_],
    box: int,
    origin: tuple[int, int],
    *,
    seed: float,
    flood: float,
) -> NDArray[np.bool_]:
    """Pixels of faint extended sources: where running means of the unmasked pixels stand out.

    A disc of three times the rms a pixel is hardly seen in single pixels, and moves the median
    of a box that it fills by half of its brightness. Means over many beams show it. Their scatter
    is measured, so that noise of any correlation, and a level with much structure at this scale,
    set their own threshold.

    Parameters
    ----------
    significance : ndarray of float32, shape (ny, nx)
        Deviation from the level in units of the local rms.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count; `significance` is not read elsewhere.
    sources : ndarray of bool, shape (ny, nx)
        Pixels that are masked already; they do not enter the means.
    box : int
        Side of a box of the mesh in pixels.
    origin : (y, x)
        Of the plane's first pixel in the full image, in which the cells are anchored.
    seed, flood : float
        As in `cyclades.stages.core.masking.source_mask`, in units of the scatter of the means.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    cells, width = fine_cells(usable.shape, origin, box, MEAN)
    mean, covered = running_means(cells.sums(significance, usable, sources), width)
    return cells.expand(outstanding(mean, covered, seed=seed, flood=flood))


def running_means(sums: Floats, width: int) -> tuple[Map, NDArray[np.bool_]]:
    """Means over squares of cells, and where most of a square is left out.

    Parameters
    ----------
    sums : ndarray, shape (3, ny, nx)
        Of each cell, as `Mesh.sums` gives them.
    width : int
        Side of a square in cells, odd.

    Returns
    -------
    mean : ndarray of float32, shape (ny, nx)
        NaN where most, or all, is left out.
    covered : ndarray of bool, shape (ny, nx)
    """
    known, counted, total = (spread(plane, width) for plane in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / counted
        covered = counted < (1.0 - MOSTLY_SOURCE) * known
    # a running sum leaves rounding errors where there is nothing
    mean[covered | (counted * width**2 < 0.5)] = np.nan
    return mean.astype(np.float32), covered


def outstanding(
    mean: Map, covered: NDArray[np.bool_], *, seed: float, flood: float
) -> NDArray[np.bool_]:
    """Cells that are covered, or whose means stand out of the scatter of all of them."""
    values = mean[np.isfinite(mean)]
    found = covered
    if values.size >= LEAST_CELLS:
        middle = float(np.median(values))
        values -= np.float32(middle)
        np.abs(values, out=values)
        scatter = 1.4826 * float(np.median(values, overwrite_input=True))
        if scatter > 0.0:
            deviation = np.asarray((mean - middle) / scatter, np.float32)
            found = found | source_mask(deviation, seed=seed, flood=flood, grow=0)
    return found


def uncertain_pixels(
    sources: NDArray[np.bool_], box: int, origin: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Pixels around which sources leave too little sky for a level of its own.

    Parameters
    ----------
    sources : ndarray of bool, shape (ny, nx)
        Masked pixels that are not blank.
    box : int
        Side of a box of the mesh in pixels.
    origin : (y, x)
        Of the plane's first pixel in the full image.

    Returns
    -------
    ndarray of bool, shape (ny, nx), or None
        None where there are none.
    """
    cells, width = fine_cells(sources.shape, origin, box, AROUND)
    found = spread(cells.counts(sources), width) > UNCERTAIN * cells.y.step * cells.x.step
    return cells.expand(found) if found.any() else None


def fine_cells(
    shape: tuple[int, ...], origin: tuple[int, int], box: int, boxes: float
) -> tuple[Mesh, int]:
    """Fine cells, and the odd number of them that is nearest to a length in boxes."""
    step = max(1, box // CELLS_A_BOX)
    return Mesh.anchored((shape[0], shape[1]), origin, step), 2 * int(0.5 * boxes * box / step) + 1


def spread(sums: Floats, width: int) -> Floats:
    """Running means of sums, as if there were nothing beyond the border."""
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(sums, width, mode="constant"))
