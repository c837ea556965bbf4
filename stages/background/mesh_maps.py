"""Maps that are drawn for any window of a plane from the cells that a mesh has measured."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.edges import Steps, blank_distance
from cyclades.stages.background.mesh import Floats, Map, Mesh, Nodes, bands
from cyclades.stages.core.products import Background
from cyclades.stages.core.streaming import BitMask, Plane
from cyclades.stages.core.tiling import full_box

if TYPE_CHECKING:
    from cyclades.stages.background.base import MeshBackground
    from cyclades.stages.core.image import SkyImage

Booleans = NDArray[np.bool_]


class Strip(NamedTuple):
    """Rows of a plane: pixels, which of them count, and the root of their weights.

    Pixels that are known to be of sources do not count.
    """

    rows: slice
    data: Map
    usable: Booleans
    root: Map | None
    sources: Booleans | None = None

    @classmethod
    def of(cls, image: "SkyImage", known: BitMask | None = None) -> "Strip":
        """Return the pixels of a window.

        Parameters
        ----------
        image : SkyImage
        known : BitMask, optional
            Pixels of the whole plane that are known to be of sources.
        """
        rows, columns = image.box.slices
        usable, root = usable_pixels(image)
        if known is None:
            return cls(rows, image.data, usable, root)
        sources = usable & known.part(rows, columns)
        return cls(rows, image.data, usable > sources, root, sources)

    @property
    def complete(self) -> bool:
        """Whether no pixel is blank."""
        present = self.usable if self.sources is None else self.usable | self.sources
        return bool(present.all())


def usable_pixels(image: "SkyImage") -> tuple[Booleans, Map | None]:
    """Pixels that count, and the root of the weights where there are any."""
    usable = np.isfinite(image.data)
    if image.weight is None:
        return usable, None
    with np.errstate(invalid="ignore"):
        usable &= np.isfinite(image.weight) & (image.weight > 0)
        return usable, np.sqrt(image.weight)


@dataclass(frozen=True, eq=False)
class CellMask:
    """Cells of a fine mesh that are chosen, and the pixels of them."""

    mesh: Mesh
    cells: Booleans

    def pixels(self, rows: slice, columns: slice = slice(None)) -> Booleans:
        """Pixels of some rows and columns of the plane that lie in chosen cells."""
        (first, tall), (left, wide) = (
            _covering(axis.edges, part.indices(axis.length))
            for axis, part in ((self.mesh.y, rows), (self.mesh.x, columns))
        )
        chosen = self.cells[first : first + len(tall), left : left + len(wide)]
        if not chosen.any():
            return np.zeros((int(tall.sum()), int(wide.sum())), bool)
        return np.repeat(np.repeat(chosen, wide, axis=1), tall, axis=0)


def _covering(
    edges: NDArray[np.int64], part: tuple[int, int, int]
) -> tuple[int, NDArray[np.int64]]:
    """First of the cells that cover a part of an axis, and how many of its pixels each has."""
    first = int(np.searchsorted(edges, part[0], "right")) - 1
    last = int(np.searchsorted(edges, part[1], "left"))
    inside: NDArray[np.int64] = np.clip(edges[first : last + 1], part[0], part[1])
    return first, inside[1:] - inside[:-1]


@dataclass(frozen=True, eq=False)
class MeshMaps:
    """Level and rms of a whole plane, to be drawn window by window.

    Parameters
    ----------
    stage : MeshBackground
    plane : Plane
    mesh : Mesh
    level, refinement, noise : ndarray, shape of the mesh
        The cells of the level, of what is added to it, and of the logarithm of the rms.
    floor : float
        Least rms.
    uncertain : CellMask, optional
        Where the level is uncertain.
    rises : list of float
        Ratios by which the noise rises towards blank pixels; see `edges.Steps`.
    """

    stage: "MeshBackground"
    plane: Plane
    mesh: Mesh
    level: Floats
    refinement: Floats
    noise: Floats
    floor: float
    uncertain: CellMask | None = None
    rises: tuple[float, ...] = ()

    @cached_property
    def nodes(self) -> tuple[Nodes, ...]:
        """What the level, what is added to it, and the logarithm of the rms are drawn from."""
        return tuple(self.mesh.nodes(c) for c in (self.level, self.refinement, self.noise))

    def window(self, image: "SkyImage") -> Background:
        """Return the maps of a window of the plane, NaN where it is blank."""
        usable, root = usable_pixels(image)
        part = image.box.slices
        *levels, surface = (nodes.surface(part) for nodes in self.nodes)
        level = levels[0].draw()
        levels[1].draw(level, add=True)
        rms = np.empty_like(level)
        for rows in bands(len(rms)):
            self.stage.rms_rows(surface, root, self.floor, rows, rms[rows])
        if self.rises:
            steps = steps_of(self.stage, self.plane)
            distance = distance_in(self.plane, image, steps)
            if distance is not None:
                rms *= steps.factor(distance, list(self.rises))
        blank = ~usable
        if blank.any():
            level[blank] = np.nan
            rms[blank] = np.nan
        uncertain = None if self.uncertain is None else self.uncertain.pixels(*part)
        if uncertain is not None and not uncertain.any():
            uncertain = None
        return Background(level, rms, uncertain)


def steps_of(stage: "MeshBackground", plane: Plane) -> Steps:
    """Distances from blank pixels at which the noise of a plane is looked at."""
    return Steps.of(stage.box(plane), 1.0 if plane.psf is None else plane.psf.size)


def distance_in(plane: Plane, image: "SkyImage", steps: Steps) -> Map | None:
    """Distances of a window's pixels to the nearest blank one; None where none is near."""
    around = image.box.grow(steps.margin).intersect(full_box(plane.shape))
    wide = plane.source.window(around)
    blank = ~usable_pixels(wide)[0]
    if not blank.any():
        return None
    inner = image.box.shift(-around.y0, -around.x0)
    return blank_distance(blank)[inner.slices]
