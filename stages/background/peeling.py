"""Further rounds of masking sources on a huge plane: only where the round before changed anything.

A source that fills boxes is peeled from its rim inwards (`MeshBackground.source_pixels`), in as
many rounds as the largest one takes. What a round finds anew lies around few sources; everywhere
else it would only find again what is known.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.extended import running_means
from cyclades.stages.background.mesh import Axis, Floats, Map, Mesh, Nodes
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.streaming import STRIP_PIXELS, in_order
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.background.streamed import Sweeps

Booleans = NDArray[np.bool_]
Region = tuple[slice, slice]
"""Cells of a mesh along y and x."""

DECAY = 0.27
"""What is left one cell on of a change of a cubic spline: 2 - sqrt(3)."""
UNCHANGED = 1e-5
"""Change of a significance that does not count: it takes some 1e10 pixels for one at the rim of a
source that it moves over the threshold."""
MASKED = 1e-4
"""Least change that a cell with newly masked pixels counts as: so much that the cell beside it,
which shares means with it, is looked at too."""
LARGEST = 2 * STRIP_PIXELS
"""Pixels of a region above which all of the plane is gone through again."""
MOST = 0.5
"""Share of the plane likewise."""


class Cells(NamedTuple):
    """Statistics of the cells without the masked pixels, how many these are, and if any are left.

    Parameters
    ----------
    location, scale, counts : ndarray, shape of the mesh
    left : bool
        Whether the plane holds a pixel that is not masked.
    """

    location: Floats
    scale: Floats
    counts: Floats
    left: bool


@dataclass(frozen=True, eq=False)
class Surfaces:
    """A level, and the logarithm of an rms, in which sources stand out.

    Parameters
    ----------
    mesh : Mesh
    level, noise : ndarray, shape of the mesh
        Cells.
    """

    mesh: Mesh
    level: Floats
    noise: Floats

    @cached_property
    def nodes(self) -> tuple[Nodes, Nodes]:
        """What the level and the logarithm of the rms are drawn from."""
        return self.mesh.nodes(self.level), self.mesh.nodes(self.noise)


def affected(before: Surfaces, after: Surfaces, masked: Booleans) -> Booleans:
    """Cells in which significances may have changed.

    Parameters
    ----------
    before, after : Surfaces
        Of two rounds.
    masked : ndarray of bool
        Cells of which pixels were masked in between.
    """
    from scipy.ndimage import maximum_filter

    change = np.abs(after.level - before.level) / np.exp(after.noise)
    change = np.maximum(change, np.abs(after.noise - before.noise))
    change = np.maximum(change, MASKED * masked)
    reached = change
    while True:
        wider = np.maximum(reached, DECAY * maximum_filter(reached, 3))
        new = (wider > UNCHANGED) & ~(reached > UNCHANGED)
        reached = wider
        if not new.any():
            return np.asarray(reached > UNCHANGED)


def regions(cells: Booleans, mesh: Mesh) -> list[Region] | None:
    """Boxes of connected cells; None where they are so large that nothing is gained by them."""
    from scipy.ndimage import find_objects, label

    found = [(y, x) for y, x in find_objects(label(cells, np.ones((3, 3)))[0])]
    areas = [
        float(np.prod([np.diff(axis.edges[[part.start, part.stop]]) for axis, part in pairs]))
        for pairs in (tuple(zip((mesh.y, mesh.x), region, strict=True)) for region in found)
    ]
    whole = float(mesh.y.length) * mesh.x.length
    if sum(areas) > MOST * whole or max(areas, default=0.0) > LARGEST:
        return None
    return found


class Peeling:
    """The rounds after the first of a plane, of which everything is known but a few regions.

    Parameters
    ----------
    sweeps : Sweeps
        Its mask and extended cells are added to.
    """

    def __init__(self, sweeps: "Sweeps") -> None:
        self.sweeps = sweeps

    def again(
        self, before: Surfaces, after: Surfaces, cells: Cells, masked: Booleans
    ) -> Cells | None:
        """Mask what stands out of new surfaces, and measure the cells that changes.

        Parameters
        ----------
        before, after : Surfaces
            Of the round before, and of this one.
        cells : Cells
            Those that the surfaces of this round were made from.
        masked : ndarray of bool, shape of the mesh
            Cells of which pixels were masked in the round before.

        Returns
        -------
        Cells or None
            None where a round on all of the plane is called for.
        """
        sweeps = self.sweeps
        where = affected(before, after, masked)
        boxes = regions(where, sweeps.rough)
        if boxes is None:
            return None

        def one(region: Region) -> tuple[Region, Booleans, tuple[Region, Map, Booleans]] | None:
            return self.masked(region, after)

        for found in in_order(one, boxes, sweeps.threads):
            if found is None:
                # What was masked so far is found again.
                return None
            region, mask, (fine, mean, covered) = found
            box = self.box(region)
            sweeps.mask.join(slice(box.y0, box.y1), slice(box.x0, box.x1), mask)
            sweeps.mean[fine], sweeps.covered[fine] = mean, covered
        new = sweeps.extend_from_means()
        new = _over(_over(new, 0, sweeps.fine.y, sweeps.rough.y), 1, sweeps.fine.x, sweeps.rough.x)
        inside = np.zeros(where.shape, bool)
        for region in boxes:
            inside[region] = True
        again = regions(inside | new, sweeps.rough)
        made = None if again is None else self.measured(cells, again)
        return sweeps.look_again() if made is None else made

    def box(self, region: Region) -> Box:
        """Pixels of the cells of a region, without their margins."""
        y, x = (
            axis.edges[[part.start, part.stop]].tolist()
            for axis, part in zip((self.sweeps.rough.y, self.sweeps.rough.x), region, strict=True)
        )
        return Box(y[0], y[1], x[0], x[1])

    def masked(
        self, region: Region, surfaces: Surfaces
    ) -> tuple[Region, Booleans, tuple[Region, Map, Booleans]] | None:
        """Mask of a region, and the means of the fine cells in it.

        None where the new part of the mask comes near the region's border: it may go on there.
        """
        sweeps, box = self.sweeps, self.box(region)
        stage, ny, nx = sweeps.stage, *sweeps.plane.shape
        strip = sweeps.read(box)
        rows, columns = box.slices
        values = sweeps.significance(strip, surfaces, columns)
        mask = source_mask(
            values,
            seed=stage.mask_seed_threshold,
            flood=stage.mask_flood_threshold,
            grow=sweeps.radius,
        )
        old = sweeps.mask.part(rows, columns)
        rim = sweeps.rough.y.margin + sweeps.radius
        low_y, low_x = (rim if start else 0 for start in (box.y0, box.x0))
        high_y, high_x = (
            n - rim if stop < full else n
            for n, stop, full in zip(box.shape, (box.y1, box.x1), (ny, nx), strict=True)
        )
        new = mask > old
        if np.count_nonzero(new) > np.count_nonzero(new[low_y:high_y, low_x:high_x]):
            return None
        mask |= old
        fine = (
            _whole_cells(sweeps.fine.y, box.y0, box.y1),
            _whole_cells(sweeps.fine.x, box.x0, box.x1),
        )
        (y, inner_y), (x, inner_x) = (
            axis.part(part.start, part.stop)
            for axis, part in zip((sweeps.fine.y, sweeps.fine.x), fine, strict=True)
        )
        inside = (
            slice(inner_y.start - box.y0, inner_y.stop - box.y0),
            slice(inner_x.start - box.x0, inner_x.stop - box.x0),
        )
        left_out = mask | sweeps.extended.pixels(rows, columns)
        sums = Mesh(y, x).sums(
            np.ascontiguousarray(values[inside]),
            np.ascontiguousarray(strip.usable[inside]),
            np.ascontiguousarray(left_out[inside]),
        )
        mean, covered = running_means(sums, sweeps.width)
        # Those at the border miss what is beyond it; nothing has changed there.
        half = sweeps.width // 2
        sure = tuple(
            slice(half if part.start else 0, len(axis) - (half if part.stop < length else 0))
            for axis, part, length in zip((y, x), fine, sweeps.fine.shape, strict=True)
        )
        target = tuple(
            slice(part.start + inner.start, part.start + inner.stop)
            for part, inner in zip(fine, sure, strict=True)
        )
        return region, mask, ((target[0], target[1]), mean[sure], covered[sure])

    def measured(self, cells: Cells, boxes: list[Region]) -> Cells | None:
        """Cells of which those of some regions are measured anew; None where none may be left."""
        sweeps = self.sweeps

        def one(region: Region) -> tuple[Floats, Floats, Floats, bool]:
            (y, rows), (x, columns) = (
                axis.part(part.start, part.stop)
                for axis, part in zip((sweeps.rough.y, sweeps.rough.x), region, strict=True)
            )
            strip = sweeps.read(Box(rows.start, rows.stop, columns.start, columns.stop))
            return sweeps.cells_left(strip, Mesh(y, x, sweeps.rough.stride), columns)

        location, scale, counts = (plane.copy() for plane in cells[:3])
        left = False
        for region, found in zip(boxes, in_order(one, boxes, sweeps.threads), strict=True):
            location[region], scale[region], counts[region], some = found
            left |= some
        # Cells of other regions have pixels left where they have a level.
        if not (left or np.isfinite(location).any()):
            return None
        return Cells(location, scale, counts, True)


def _whole_cells(axis: Axis, start: int, stop: int) -> slice:
    """Cells that lie between two pixels as a whole."""
    first = int(np.searchsorted(axis.edges, start))
    return slice(first, int(np.searchsorted(axis.edges, stop, "right")) - 1)


def _over(cells: Booleans, axis: int, fine: Axis, rough: Axis) -> Booleans:
    """Which of the boxes of rough cells have pixels of chosen fine ones, along one axis."""
    counts = np.cumsum(np.moveaxis(cells, axis, 0).astype(np.int32), 0)
    counts = np.concatenate([np.zeros_like(counts[:1]), counts])
    first = np.searchsorted(fine.edges, rough.starts, "right") - 1
    last = np.searchsorted(fine.edges, rough.stops, "left")
    return np.moveaxis(counts[np.minimum(last, len(fine))] > counts[first], 0, axis)
