"""Pure geometry of boxes, grids, halos and ownership.

Everything here is anchored at pixel (0, 0) of the full image, so that a catalogue does not
depend on how an image was cut: background meshes, network tiles and windows lie on the same
grids whatever window is being processed, and an object belongs to exactly one window, the one
that holds its brightest pixel.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Box(NamedTuple):
    """A half-open rectangle of pixels, ``[y0, y1) x [x0, x1)``, in full-image coordinates."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the box."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut the box out of a full-image array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def grow(self, halo: int) -> "Box":
        """Return the box with `halo` pixels more on every side (negative shrinks)."""
        return Box(self.y0 - halo, self.y1 + halo, self.x0 - halo, self.x1 + halo)

    def intersect(self, other: "Box") -> "Box":
        """Return the common part of two boxes; it may be empty."""
        return Box(
            max(self.y0, other.y0),
            min(self.y1, other.y1),
            max(self.x0, other.x0),
            min(self.x1, other.x1),
        )

    def contains(self, y: int, x: int) -> bool:
        """Whether pixel (y, x) lies in the box."""
        return self.y0 <= y < self.y1 and self.x0 <= x < self.x1

    def shift(self, dy: int, dx: int) -> "Box":
        """Return the box moved by (dy, dx) pixels."""
        return Box(self.y0 + dy, self.y1 + dy, self.x0 + dx, self.x1 + dx)


def full_box(shape: tuple[int, int]) -> Box:
    """Return the box of a whole image of the given shape."""
    return Box(0, shape[0], 0, shape[1])


def anchored_start(position: int, step: int) -> int:
    """Return the grid line at or before `position` of a grid of `step` pixels anchored at 0."""
    return position // step * step


def grid(shape: tuple[int, int], step: int | tuple[int, int]) -> Iterator[Box]:
    """Cut an image into cells of `step` pixels anchored at (0, 0).

    Parameters
    ----------
    shape : (ny, nx)
        Shape of the full image.
    step : int or (int, int)
        Cell size along y and x. The last cells of a row or column are shorter.

    Yields
    ------
    Box
        Cells in row-major order; together they cover every pixel exactly once.
    """
    step_y, step_x = (step, step) if isinstance(step, int) else step
    if step_y < 1 or step_x < 1:
        raise ValueError(f"grid steps are at least one pixel, not {step}")
    for y0 in range(0, shape[0], step_y):
        for x0 in range(0, shape[1], step_x):
            yield Box(y0, min(y0 + step_y, shape[0]), x0, min(x0 + step_x, shape[1]))


class Window(NamedTuple):
    """A window of the image: the pixels it owns, and the pixels it reads."""

    number: int
    core: Box
    padded: Box

    def owns(self, y: int, x: int) -> bool:
        """Whether an object whose brightest pixel is (y, x) belongs to this window."""
        return self.core.contains(y, x)


def windows(shape: tuple[int, int], *, tile: int, tiles_per_window: int, halo: int) -> list[Window]:
    """Cut an image into windows that are unions of whole tiles, each with a halo.

    Parameters
    ----------
    shape : (ny, nx)
        Shape of the full image.
    tile : int
        Side of the tile grid (background mesh or network tile) that windows must respect.
    tiles_per_window : int
        Tiles along one side of a window.
    halo : int
        Pixels read beyond the owned core; rounded up to whole tiles and clipped at the image.

    Returns
    -------
    list of Window
        In row-major order; their cores cover every pixel exactly once.
    """
    pad = -(-halo // tile) * tile
    full = full_box(shape)
    return [
        Window(number, core, core.grow(pad).intersect(full))
        for number, core in enumerate(grid(shape, tile * tiles_per_window))
    ]
