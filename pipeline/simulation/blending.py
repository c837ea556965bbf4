"""Objects that nobody can tell from a brighter neighbour."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.simulation.objects import SEPARATION, ObservedObjects
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers


def blended_objects(
    objects: ObservedObjects,
    clean: NDArray[np.float32],
    rms: NDArray[np.float32],
    *,
    crowded: bool = False,
) -> NDArray[np.bool_]:
    """Tell which objects do not stand out from a brighter one in the noise-free image.

    Objects are separate as components of one are (`SEPARATION`): on the line from the peak of
    one to any brighter component of another the image falls by two rms at least. Where it does
    not, as of a point on the flank of a bright galaxy, there is one peak for both. Objects of
    several components and diffuse ones are told by more than a peak and never count as blended.

    Parameters
    ----------
    objects : ObservedObjects
        Without artefacts.
    clean : ndarray, shape (ny, nx), float32
        All objects together, Jy/beam, no noise.
    rms : ndarray, shape (ny, nx), float32
    crowded : bool
        Whether a component has to be brighter by itself. Where faint objects lie on many bright
        ones, the sum of both is else the higher, and the bright one counts as blended.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    nx = clean.shape[1]
    single = np.bincount(objects.owner, minlength=len(objects)) == 1
    single &= objects.object_class != CLASSES.index("diffuse")
    depth = SEPARATION * rms.ravel()[objects.pixel].astype(float)
    y, x = np.divmod(objects.pixel, nx)
    return _blended(
        np.ascontiguousarray(clean),
        np.column_stack([x, y]).astype(float),
        np.where(single, depth, -np.inf),
        np.ascontiguousarray(objects.values[:, 1:3], float),
        np.ascontiguousarray(objects.owner, np.int64),
        np.ascontiguousarray(objects.values[:, 0], float),
        np.where(single & crowded, objects.peak, -np.inf),
    )


@nb.njit(
    "boolean[::1](float32[:, ::1], float64[:, ::1], float64[::1], float64[:, ::1], int64[::1],"
    " float64[::1], float64[::1])",
    cache=True,
    nogil=True,
)
def _blended(
    clean: NDArray[np.float32],
    peaks: Floats,
    depth: Floats,
    components: Floats,
    owner: Integers,
    heights: Floats,
    least: Floats,
) -> NDArray[np.bool_]:
    """Look along the lines; a depth of -inf leaves an object out.

    Of components those count whose own height exceeds the least of an object.
    """
    ny, nx = clean.shape
    result = np.zeros(len(peaks), np.bool_)
    for k in range(len(peaks)):
        if depth[k] < 0.0:
            continue
        x, y = peaks[k]
        own = clean[int(y), int(x)]
        for j in range(len(components)):
            if owner[j] == k or heights[j] <= least[k]:
                continue
            # of a component outside the image, the place where the line leaves it
            end_x = min(max(components[j, 0], 0.0), nx - 1.0)
            end_y = min(max(components[j, 1], 0.0), ny - 1.0)
            if clean[int(end_y + 0.5), int(end_x + 0.5)] <= own:
                continue
            steps = int(2.0 * max(abs(end_x - x), abs(end_y - y))) + 1
            joined = True
            for i in range(1, steps):
                at = i / steps
                value = clean[int(y + at * (end_y - y) + 0.5), int(x + at * (end_x - x) + 0.5)]
                if value <= own - depth[k]:
                    joined = False
                    break
            if joined:
                result[k] = True
                break
    return result
