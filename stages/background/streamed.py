"""The mesh estimators on a plane that is read by strips: the same maps, in little memory.

What `MeshBackground.estimate` does to a plane as a whole is done here in sweeps over strips of
rows. Between them only the values of cells are kept, and the mask of the sources at a bit a pixel;
the maps themselves are drawn from the cells for any window that is asked for.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.extended import (
    AROUND,
    MEAN,
    MOSTLY_SOURCE,
    UNCERTAIN,
    fine_cells,
    outstanding,
    running_means,
    spread,
)
from cyclades.stages.background.mesh import (
    Floats,
    Map,
    Mesh,
    bands,
    cell_counts,
    fill_missing,
    smooth,
)
from cyclades.stages.background.mesh_maps import (
    Booleans,
    CellMask,
    MeshMaps,
    Strip,
    distance_in,
    steps_of,
)
from cyclades.stages.background.peeling import Cells, Peeling, Surfaces
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.streaming import BitMask, Plane, flood_plane, in_order
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.background.base import MeshBackground


def stream(
    stage: "MeshBackground", plane: Plane, context: Context, sources: BitMask | None = None
) -> MeshMaps | None:
    """Measure the cells of a whole plane by strips; see `MeshBackground.estimate`.

    Parameters
    ----------
    stage : MeshBackground
    plane : Plane
    context : Context
        Its number of workers is that of the threads.
    sources : BitMask, optional
        Pixels known to be of sources.

    Returns
    -------
    MeshMaps or None
        None where not one cell has enough pixels.

    Raises
    ------
    InputError
        Where all pixels are blank.
    """
    return Sweeps(stage, plane, context.workers, sources).run()


class Sweeps:
    """The state of `stream`.

    Parameters
    ----------
    stage : MeshBackground
    plane : Plane
    threads : int
    sources : BitMask, optional
        Pixels known to be of sources.
    """

    def __init__(
        self, stage: "MeshBackground", plane: Plane, threads: int, sources: BitMask | None = None
    ) -> None:
        from cyclades.stages.background.base import rough

        self.stage, self.plane, self.threads, self.known = stage, plane, threads, sources
        self.mesh = stage.mesh(plane)
        self.rough = rough(self.mesh)
        self.radius = 2 if plane.psf is None else int(np.ceil(0.5 * plane.psf.size))
        self.box = stage.box(plane)
        self.floor = 0.0
        self.blank = False
        self.mask = BitMask(plane.shape)
        self.fine, self.width = fine_cells(plane.shape, plane.origin, self.box, MEAN)
        self.extended = CellMask(self.fine, np.zeros(self.fine.shape, bool))

    def run(self) -> MeshMaps | None:
        """Go through the plane as often as it takes; see `stream`."""
        first = location, scale = self.look()
        taken = np.zeros(self.mesh.shape, bool)
        mostly = MOSTLY_SOURCE * self.mesh.y.step * self.mesh.x.step
        surfaces: Surfaces | None = None
        cells: Cells | None = None
        masked = taken
        while True:
            before, surfaces = surfaces, self.standing(location, scale)
            if surfaces is None:
                return None
            found = None
            if before is not None and cells is not None:
                found = Peeling(self).again(before, surfaces, cells, masked)
            if found is None:
                self.flood(surfaces)
                self.extend(surfaces)
                found = self.look_again()
            masked = np.ones_like(taken) if cells is None else found.counts != cells.counts
            cells = found
            location, scale, counts, left = cells
            known, taken = taken, counts > mostly
            if not (taken & ~known).any() or not left:
                break
        del self.mean, self.covered
        if not left:
            # What is masked counts again where nothing else is left, as in a plane at once.
            self.mask = BitMask(self.plane.shape)
            location = first[0]
        if not np.isfinite(location).any():
            return None
        level = fill_missing(location)
        refinement, scale, uncertain = self.refine(level, counted=left)
        scale = np.where(scale > 0, scale, np.nan)
        if not (np.isfinite(scale).any() and np.isfinite(refinement).any()):
            return None
        noise = smooth(np.log(fill_missing(scale)))
        maps = MeshMaps(
            self.stage, self.plane, self.mesh, level, fill_missing(refinement), noise, self.floor,
            uncertain,
        )  # fmt: skip
        return self.with_edges(maps) if self.blank else maps

    def cell_rows(self) -> Iterator[tuple[int, int]]:
        """First and last cells along y of strips that hold whole boxes."""
        edges, limit = self.mesh.y.edges, self.plane.strips()[0].stop
        first = 0
        for last in range(1, len(edges)):
            end = last == len(edges) - 1
            if end or edges[last + 1] - edges[first] > max(limit, 8 * self.mesh.y.step):
                yield first, last
                first = last

    def part(self, cells: tuple[int, int], mesh: Mesh) -> tuple[Strip, Mesh]:
        """Read the boxes of some cells."""
        axis, rows = mesh.y.part(*cells)
        return self.rows(rows), Mesh(axis, mesh.x, mesh.stride)

    def read(self, box: Box) -> Strip:
        """Read a window."""
        return Strip.of(self.plane.source.window(box), self.known)

    def rows(self, rows: slice) -> Strip:
        """Read some rows."""
        return Strip.of(self.plane.rows(rows), self.known)

    def left_out(self, rows: slice) -> Booleans:
        """Pixels of sources in some rows."""
        return np.asarray(self.mask[rows] | self.extended.pixels(rows))

    def scales(
        self, data: Map, usable: Booleans, root: Map | None, mesh: Mesh
    ) -> tuple[Floats, Floats]:
        """Location and scale of cells, the scale in units of the weights' where there are any."""
        location, scale = self.stage.statistics(data, usable, mesh)
        if root is not None:
            scale = self.stage.statistics(data * root, usable, mesh)[1]
        return location, scale

    def look(self) -> tuple[Floats, Floats]:
        """First sweep: statistics of all pixels, the least rms, and whether any is blank."""
        from cyclades.stages.background.base import noise_floor

        def one(cells: tuple[int, int]) -> tuple[Floats, Floats, float, bool, bool]:
            strip, mesh = self.part(cells, self.rough)
            floor = noise_floor(strip.data, strip.usable)
            location, scale = self.scales(strip.data, strip.usable, strip.root, mesh)
            return location, scale, floor, bool(strip.usable.any()), strip.complete

        found = list(in_order(one, self.cell_rows(), self.threads))
        if not any(part[3] for part in found):
            if self.known is not None:
                self.known = None
                return self.look()
            raise InputError(f"{self.plane.source.name}: the image is all blank.")
        self.floor = max(part[2] for part in found)
        self.blank = not all(part[4] for part in found)
        return np.concatenate([p[0] for p in found]), np.concatenate([p[1] for p in found])

    def standing(self, location: Floats, scale: Floats) -> Surfaces | None:
        """Cells of a level and of the logarithm of an rms in which sources stand out."""
        from cyclades.stages.background.base import without_bumps

        size = 3 if self.mesh.y.margin == 0 else 5
        location, scale = without_bumps(location, scale, size)
        scale = np.where(scale > 0, scale, np.nan)
        if not (np.isfinite(location).any() and np.isfinite(scale).any()):
            return None
        return Surfaces(self.rough, fill_missing(location), smooth(np.log(fill_missing(scale))))

    def significance(self, strip: Strip, surfaces: Surfaces, columns: slice | None = None) -> Map:
        """Deviation from the level in units of the rms, in some columns or in all."""
        part = (strip.rows, columns or slice(0, self.plane.shape[1]))
        surface, rms = (nodes.surface(part) for nodes in surfaces.nodes)
        result = np.empty_like(strip.data)
        for rows in bands(len(result)):
            band = np.subtract(strip.data[rows], surface.draw(rows=rows), out=result[rows])
            with np.errstate(over="ignore", invalid="ignore"):
                band /= self.stage.rms_rows(rms, strip.root, self.floor, rows)
        return result

    def flood(self, surfaces: Surfaces) -> None:
        """Flood the sources, over the seams of strips: `flooded` holds them, not yet grown."""
        self.flooded = flood_plane(
            self.plane,
            lambda rows: self.significance(self.rows(rows), surfaces),
            self.stage.mask_seed_threshold,
            self.stage.mask_flood_threshold,
            self.threads,
        )

    def extend(self, surfaces: Surfaces) -> None:
        """Grow what was flooded, and find faint extended sources in what is left."""
        fine = self.fine

        def one(cells: tuple[int, int]) -> Floats:
            axis, rows = fine.y.part(*cells)
            strip = self.rows(rows)
            mask = self.mask[rows] | self.flooded.grown(rows, self.radius)
            self.mask[rows] = mask
            mask |= self.extended.pixels(rows)
            values = self.significance(strip, surfaces)
            return Mesh(axis, fine.x).sums(values, strip.usable, mask)

        self.mean = np.empty(fine.shape, np.float32)
        self.covered = np.empty(fine.shape, bool)
        ends = [*range(0, len(fine.y), max(1, self.plane.strips()[0].stop // fine.y.step))]
        parts = itertools.pairwise([*ends, len(fine.y)])
        done = 0
        for sums, first, last in overlapping(
            in_order(one, parts, self.threads), self.width // 2, len(fine.y)
        ):
            means = running_means(sums, self.width)
            rows = slice(done, done + last - first)
            self.mean[rows], self.covered[rows] = (plane[first:last] for plane in means)
            done = rows.stop
        del self.flooded
        self.extend_from_means()

    def extend_from_means(self) -> Booleans:
        """Add the fine cells that stand out; return those that are new."""
        found = outstanding(
            self.mean,
            self.covered,
            seed=self.stage.mask_seed_threshold,
            flood=self.stage.mask_flood_threshold,
        )
        known = self.extended.cells
        self.extended = CellMask(self.fine, known | found)
        return found & ~known

    def look_again(self) -> Cells:
        """Statistics without the sources, their pixels in each cell, and whether any are left."""

        def one(cells: tuple[int, int]) -> tuple[Floats, Floats, Floats, bool]:
            return self.cells_left(*self.part(cells, self.rough))

        found = list(in_order(one, self.cell_rows(), self.threads))
        location, scale, counts = (np.concatenate([p[i] for p in found]) for i in range(3))
        return Cells(location, scale, counts, any(part[3] for part in found))

    def cells_left(
        self, strip: Strip, mesh: Mesh, columns: slice | None = None
    ) -> tuple[Floats, Floats, Floats, bool]:
        """See `look_again`, for the cells of a part of the plane."""
        if columns is None:
            sources = self.left_out(strip.rows)
        else:
            sources = self.mask.part(strip.rows, columns)
            sources |= self.extended.pixels(strip.rows, columns)
        left = strip.usable > sources
        location, scale = self.scales(strip.data, left, strip.root, mesh)
        sources &= strip.usable
        return location, scale, mesh.counts(sources), bool(left.any())

    def refine(self, level: Floats, counted: bool) -> tuple[Floats, Floats, CellMask | None]:
        """Statistics of what the level leaves, and where sources leave too little for it."""
        fine, width = fine_cells(self.plane.shape, self.plane.origin, self.box, AROUND)
        pixels = fine.y.step * fine.x.step
        sums = np.zeros(fine.shape, np.min_scalar_type(3 * pixels))
        nodes = self.mesh.nodes(level)

        def one(cells: tuple[int, int]) -> tuple[Floats, Floats, tuple[slice, Floats]]:
            strip, mesh = self.part(cells, self.mesh)
            sources = self.left_out(strip.rows)
            part = (strip.rows, slice(0, self.plane.shape[1]))
            surface = nodes.surface(part)
            residual = np.empty_like(strip.data)
            for rows in bands(len(residual)):
                np.subtract(strip.data[rows], surface.draw(rows=rows), out=residual[rows])
            left = strip.usable > sources if counted else strip.usable
            location, scale = self.scales(residual, left, strip.root, mesh)
            sources &= strip.usable
            if strip.sources is not None:
                sources |= strip.sources
            edges = mesh.y.edges
            own = sources[int(edges[0]) : int(edges[-1])]
            return location, scale, self.fine_counts(own, strip.rows.start + int(edges[0]), fine)

        locations, scales = [], []
        for location, scale, (rows, counts) in in_order(one, self.cell_rows(), self.threads):
            locations.append(location)
            scales.append(scale)
            sums[rows] += counts.astype(sums.dtype)
        limit, half = UNCERTAIN * pixels, width // 2
        found = np.zeros(fine.shape, bool)
        for first in range(0, len(sums), 512):
            low, high = max(0, first - half), min(len(sums), first + 512 + half)
            means = spread(sums[low:high].astype(float), width)
            found[first : first + 512] = means[first - low :][:512] > limit
        uncertain = CellMask(fine, found) if found.any() else None
        return np.concatenate(locations), np.concatenate(scales), uncertain

    def fine_counts(self, mask: Booleans, start: int, fine: Mesh) -> tuple[slice, Floats]:
        """Chosen pixels of fine cells in rows from `start` on, which may cut cells in two."""
        edges = fine.y.edges
        first = int(np.searchsorted(edges, start, "right")) - 1
        last = int(np.searchsorted(edges, start + len(mask), "left"))
        inside = np.clip(edges[first : last + 1] - start, 0, len(mask))
        counts = cell_counts(np.ascontiguousarray(mask), inside, fine.x.edges)
        return slice(first, last), counts

    def with_edges(self, maps: MeshMaps) -> MeshMaps:
        """Add the rise of the noise towards blank pixels."""
        from dataclasses import replace

        steps = steps_of(self.stage, self.plane)
        thin = max(1, self.plane.shape[0] * self.plane.shape[1] // 2**26)

        def one(rows: slice) -> tuple[Map, NDArray[np.int64]]:
            image = self.plane.rows(rows)
            distance = distance_in(self.plane, image, steps)
            if distance is None:
                return np.zeros(0, np.float32), np.zeros(0, np.int64)
            background = maps.window(image)
            # The distances of a thin grid of a huge plane tell as much.
            y, x = np.ogrid[rows, : self.plane.shape[1]]
            distance = np.where((y + x) % thin == 0, distance, np.float32(0.0))
            return steps.values(distance, image.data, background.level, background.rms)

        found = list(in_order(one, self.plane.strips(), self.threads))
        values, number = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        area = 1.0 if self.plane.psf is None else self.plane.psf.area
        return replace(maps, rises=tuple(steps.rises(values, number, area / thin)))


def overlapping(
    parts: Iterator[Floats], half: int, length: int
) -> Iterator[tuple[Floats, int, int]]:
    """Rows of planes that come in parts, with those around them that a running mean wants.

    Parameters
    ----------
    parts : iterator of ndarray, shape (k, rows, nx)
        One below the other, of `length` rows in all.
    half : int
        Rows wanted before and after.

    Yields
    ------
    rows : ndarray, shape (k, n, nx)
    first, last : int
        Those between are complete, and follow the ones before.
    """
    held: Floats | None = None
    # Rows of `held`, counted from the first of all: where it begins, and what is done.
    start = done = read = 0
    for part in parts:
        held = part if held is None else np.concatenate([held, part], axis=1)
        read += part.shape[1]
        ready = length if read == length else max(done, read - half)
        if ready > done:
            yield held, done - start, ready - start
        done = ready
        drop = max(0, done - half - start)
        held, start = held[:, drop:], start + drop
