"""How large sources of several components are, and where their host galaxies may be."""

from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.cataloguing.parts import Parts, reach
from cyclades.stages.cataloguing.rows import Values
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, determinant
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from astropy.table import QTable

COMPACT = 1.5
"""Areas of a beam up to which a component may be a core."""
INNER = 0.3
"""A core lies within this share of the largest extent from the middle of it."""


def extents(components: "QTable", sources: "QTable", source: Integers) -> Values:
    """Largest angular size and host position of every source.

    Parameters
    ----------
    components, sources : QTable
    source : ndarray of int, shape (components,)
        Row of the source of every component.

    Returns
    -------
    dict
        ``largest_angular_size``, the largest distance between half-maximum contours (without the
        beam) of two components along the line between them, or the major axis of one;
        ``host_x``, ``host_y``, and ``host_ra``, ``host_dec`` on the sky: of the compact component
        with the highest peak among those near the middle of the largest extent (``host_type``
        ``core``), else the source's own position (``centre``).
    """
    parts = Parts.of(components, 1.0)
    own = np.nan_to_num(parts.shape - parts.beam)
    alone = SIGMA_TO_FWHM * np.sqrt(np.maximum(np.linalg.eigvalsh(own)[:, -1], 0.0))
    area = np.sqrt(determinant(parts.shape) / determinant(parts.beam))
    number = len(sources)
    size, host = np.zeros(number), np.full(number, -1)
    order = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[order], np.arange(number + 1))
    bare = _without_beam(parts)
    for row in range(number):
        mine = order[starts[row] : starts[row + 1]]
        if not len(mine):
            continue
        size[row] = alone[mine].max()
        if len(mine) > 1:
            size[row], host[row] = _extent(parts, bare, mine, area, size[row])
    core = host >= 0
    result: Values = {"largest_angular_size": size, "host_type": np.where(core, "core", "centre")}
    for name in ("ra", "dec", "x", "y"):
        if name in sources.colnames:
            place = np.asarray(sources[name].value, float).copy()
            place[core] = np.asarray(components[name].value, float)[host[core]]
            result[f"host_{name}"] = place
    return result


def _without_beam(parts: Parts) -> Parts:
    from dataclasses import replace

    return replace(parts, shape=np.nan_to_num(parts.shape - parts.beam))


def _extent(
    parts: Parts, bare: Parts, mine: Integers, area: Floats, least: float
) -> tuple[float, int]:
    """Largest extent of one source and the row of its core, -1 without one."""
    i, j = np.triu_indices(len(mine), 1)
    first, second = mine[i], mine[j]
    there, back = parts.offsets(first, second), parts.offsets(second, first)
    length = np.hypot(*there.T) + reach(bare, first, there) + reach(bare, second, back)
    far = int(np.argmax(length))
    a, b = parts.vectors[first[far]], parts.vectors[second[far]]
    size = max(float(length[far]), least)
    middle = np.linalg.norm(parts.vectors[mine] - 0.5 * (a + b), axis=-1)
    inner = (middle <= INNER * size) & (area[mine] <= COMPACT)
    inner &= (mine != first[far]) & (mine != second[far])
    if not inner.any():
        return size, -1
    candidates = mine[inner]
    return size, int(candidates[np.argmax(parts.peak[candidates])])
