"""What a dense head's corrections rest on and give, for an image at once or strip by strip."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.cells import LAGS, CellGrid, statistics
from cyclades.stages.background.mesh import Map, Mesh, Nodes, bands
from cyclades.stages.core.masking import FLOOD, SEED, source_mask
from cyclades.stages.core.products import Background
from cyclades.stages.core.streaming import Plane, flood_plane, in_order

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.stage import WindowMaps

UNKNOWN_BEAM = 4.0
"""FWHM in pixels where no beam is known."""


def describe(image: "SkyImage", first: Background, grid: CellGrid) -> tuple[Map, Map]:
    """Statistics of the cells of an image in units of first maps, and the share they rest on.

    See `cyclades.stages.background.cells.statistics`.
    """
    values, known = deviations(image, first)
    masked = source_mask(values, grow=_radius(image))
    return statistics(values, known, masked, grid, _beam(image))


def describe_plane(
    plane: Plane, first: "WindowMaps", grid: CellGrid, threads: int
) -> tuple[Map, Map]:
    """Statistics as those of `describe`, of a plane that is read by strips."""

    def read(rows: slice) -> tuple[Map, NDArray[np.bool_]]:
        image = plane.rows(rows)
        return deviations(image, first.window(image))

    flooded = flood_plane(plane, lambda rows: read(rows)[0], SEED, FLOOD, threads)
    # Pixels of the last cells are compared with those this far below.
    below = max(1, round(max(LAGS) * _beam(plane)))
    edges, number = grid.mesh.y.edges, len(grid.mesh.y)
    step = max(1, plane.strips()[0].stop // grid.mesh.y.step)

    def one(start: int) -> tuple[Map, Map]:
        axis, own = grid.mesh.y.part(start, min(start + step, number))
        rows = slice(own.start, min(own.stop + below, int(edges[-1])))
        values, known = read(rows)
        part = grid._replace(mesh=Mesh(axis, grid.mesh.x))
        return statistics(values, known, flooded.grown(rows, _radius(plane)), part, _beam(plane))

    found = list(in_order(one, range(0, number, step), threads))
    described, share = zip(*found, strict=True)
    return np.concatenate(described, axis=1), np.concatenate(share)


def _beam(image: "SkyImage | Plane") -> float:
    return UNKNOWN_BEAM if image.psf is None else image.psf.size


def _radius(image: "SkyImage | Plane") -> int:
    """Pixels by which sources are grown."""
    return int(np.ceil(0.5 * _beam(image)))


def deviations(image: "SkyImage", first: Background) -> tuple[Map, NDArray[np.bool_]]:
    """Deviations from a first level in units of a first rms, 0 where one is blank; what is not."""
    known = np.isfinite(image.data) & np.isfinite(first.rms)
    values = np.zeros(image.shape, np.float32)
    for rows in bands(len(values)):
        part = image.data[rows] - first.level[rows]
        np.divide(part, first.rms[rows], out=values[rows], where=known[rows])
    return values, known


class Corrections(NamedTuple):
    """Smooth maps through what a dense head says of the cells of an image.

    Parameters
    ----------
    level, rms : Nodes
        What is added to the first level, in units of the first rms; logarithm of a factor on the
        first rms.
    """

    level: Nodes
    rms: Nodes

    @classmethod
    def of(cls, grid: CellGrid, level: Map, rms: Map) -> "Corrections":
        """Prepare those of cells; see `BackgroundHead.corrections`."""
        return cls(*(grid.mesh.nodes(np.asarray(cells, float)) for cells in (level, rms)))

    def apply(self, first: Background, part: tuple[slice, slice] | None = None) -> Background:
        """Apply them to the first maps of an image, or of some rows and columns of it."""
        level, rms = (nodes.surface(part).draw() for nodes in self)
        level *= first.rms
        level += first.level
        np.exp(rms, out=rms)
        rms *= first.rms
        # the noise floor of the first maps may be the smallest number that there is
        np.maximum(rms, np.finfo(np.float32).tiny, out=rms)
        return Background(level, rms, first.uncertain)


@dataclass(frozen=True, eq=False)
class DenseMaps:
    """First maps with corrections, to be drawn for any window of a plane.

    Parameters
    ----------
    first : WindowMaps
    corrections : Corrections
    """

    first: "WindowMaps"
    corrections: Corrections

    def window(self, image: "SkyImage") -> Background:
        """Return the maps of a window of the plane, NaN where it is blank."""
        return self.corrections.apply(self.first.window(image), image.box.slices)
