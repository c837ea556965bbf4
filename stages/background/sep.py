"""Background by the mesh of SExtractor, as the sep library computes it."""

from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.base import MeshBackground, gaussian_scale, measure_cells
from cyclades.stages.background.mesh import Floats, Map, Mesh
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.stage import WindowMaps
from cyclades.stages.core.streaming import BitMask, Plane


class SepBackground(MeshBackground):
    """Clipped mode and rms of boxes side by side (Bertin & Arnouts 1996; Barbary 2016)."""

    name: ClassVar[str] = "sep"
    summary: ClassVar[str] = "SExtractor's mesh of clipped modes, by sep; the fastest"

    def mesh(self, image: SkyImage | Plane) -> Mesh:
        """Return boxes side by side, all pixels read: the mode needs many."""
        return Mesh.anchored(image.shape, image.origin, self.box(image))

    def survey(
        self, plane: Plane, *, context: Context, sources: BitMask | None = None
    ) -> WindowMaps | None:
        """Measure a plane by strips where a box has a pixel in its middle.

        Otherwise the values of cells, read beside their middles from splines, depend a little on
        the cells around them, and thus on the strip.
        """
        if self.box(plane) % 2 == 0:
            return None
        return super().survey(plane, context=context, sources=sources)

    def statistics(self, data: Map, usable: NDArray[np.bool_], mesh: Mesh) -> tuple[Floats, Floats]:
        """Return sep's location and scale of each cell (see `MeshBackground.statistics`)."""
        location, scale = measure_cells(data, usable, mesh, cell_statistics)
        return location, scale / correction()


def cell_statistics(
    data: Map, masked: NDArray[np.bool_], height: int, width: int
) -> tuple[Floats, Floats]:
    """Location and scale by sep in cells that fill the plane exactly.

    sep hands out full maps only. They are splines through the cells, read here in the middle of
    each.
    """
    import sep

    found = sep.Background(data, mask=masked, bw=width, bh=height, fw=1, fh=1)
    y, x = height // 2, width // 2
    cells = []
    for evaluate in (found.back, found.rms):
        full = evaluate(dtype=np.float32)
        # The middle of an even number of pixels lies between two of them.
        below, left = y - (1 - height % 2), x - (1 - width % 2)
        rows = 0.5 * (full[y::height] + full[below::height])
        cells.append(np.asarray(0.5 * (rows[:, x::width] + rows[:, left::width]), float))
    return cells[0], cells[1]


@cache
def correction() -> float:
    """What sep gives for the rms of unit Gaussian noise."""
    return gaussian_scale(cell_statistics)
