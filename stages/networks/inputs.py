"""The one canonical input of every network: the normalised image, in several stretches.

The image is brought to units of its own noise by the clipped median and median absolute deviation
of a mesh that is anchored at pixel (0, 0), interpolated between the cells' centres. It needs no
background stage, so that a network sees the same whatever background the user chose, and the
same for every way of cutting the image along the mesh.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.streaming import Plane as Streamed
from cyclades.stages.core.streaming import in_order

Plane = NDArray[np.float32]

MESH = 128
_SAMPLE_STEP = 2
"""Every second pixel along both axes is enough for a median of thousands, at a quarter the time."""
_FEWEST = 64
_CLIPS = 3
_LIMIT = 3.0
_MAD_TO_SIGMA = 1.4826

STRETCHES: dict[str, Callable[[Plane], NDArray[np.floating]]] = {
    "asinh": lambda x: np.arcsinh(x) / np.float32(2.0),
    "faint": lambda x: np.clip(x, -4.0, 8.0) / np.float32(4.0),
    "bright": lambda x: np.arcsinh(x / np.float32(30.0)),
    "linear": lambda x: np.clip(x, -5.0, 100.0) / np.float32(50.0),
}
"""Stretches of the normalised image by name. All are odd or clipped, finite, and 0 at 0."""


class Normalisation(NamedTuple):
    """Level and noise of an image on a mesh, to be applied to any part of it.

    Parameters
    ----------
    level, noise : ndarray, shape (cells along y, cells along x)
        In the unit of the image; no noise at all (an empty mesh) means that it is blank.
    rows, columns : ndarray
        Centres of the cells in pixels of the image.
    """

    level: NDArray[np.float64]
    noise: NDArray[np.float64]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @classmethod
    def measure(
        cls, plane: NDArray[np.floating], mesh: int = MESH, origin: tuple[int, int] = (0, 0)
    ) -> "Normalisation":
        """Measure the mesh of an image.

        Parameters
        ----------
        plane : ndarray, shape (ny, nx)
            NaN where blank.
        mesh : int
            Side in pixels of the cells that give one level and one noise each; cells at the ends
            that are shorter than half of it belong to their neighbours.
        origin : (y, x)
            Place of the image in the full frame, where the mesh is anchored.
        """
        plane = np.ascontiguousarray(plane, np.float32)
        if plane.ndim != 2:
            raise ConfigurationError(f"A network takes planes, not arrays of shape {plane.shape}.")
        rows, columns = (_edges(n, mesh, o) for n, o in zip(plane.shape, origin, strict=True))
        return cls._filled_in(*_mesh_statistics(plane, rows, columns), rows, columns)

    @classmethod
    def measure_strips(cls, plane: Streamed, mesh: int, threads: int = 1) -> "Normalisation":
        """Measure the mesh of a plane that is read by strips; see `measure`."""
        rows, columns = (_edges(n, mesh) for n in plane.shape)
        number = max(1, plane.strips()[0].stop // mesh)

        def one(first: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            edges = rows[first : first + number + 1]
            data = plane.rows(slice(int(edges[0]), int(edges[-1]))).data
            return _mesh_statistics(data, edges - edges[0], columns)

        found = list(in_order(one, range(0, len(rows) - 1, number), threads))
        level, noise = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        return cls._filled_in(level, noise, rows, columns)

    @classmethod
    def _filled_in(
        cls,
        level: NDArray[np.float64],
        noise: NDArray[np.float64],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
    ) -> "Normalisation":
        """Give cells without noise that of others."""
        known = noise > 0
        if known.any() and not known.all():
            level, noise = _filled(level, known), _filled(noise, known)
        centres = [np.asarray(0.5 * (e[:-1] + e[1:] - 1.0), float) for e in (rows, columns)]
        return cls(level, noise, centres[0], centres[1])

    def apply(self, cut: NDArray[np.floating], y0: int = 0, x0: int = 0) -> Plane:
        """Return (cut - level) / noise of a part of the image whose first pixel is (y0, x0).

        0 where it is blank, and everywhere on a constant image.
        """
        plane = np.ascontiguousarray(cut, np.float32)
        if not (self.noise > 0).any():
            return np.zeros_like(plane)
        return _normalised(plane, *self, y0, x0)


def normalise(image: NDArray[np.floating], mesh: int = MESH) -> Plane:
    """Bring a whole image, or each of several planes, to units of its noise; see `Normalisation`.

    Parameters
    ----------
    image : ndarray, shape (ny, nx) or (planes, ny, nx)
        NaN where blank.
    mesh : int
        See `Normalisation.measure`.
    """
    if image.ndim == 3:
        return np.stack([normalise(plane, mesh) for plane in image])
    return Normalisation.measure(image, mesh).apply(image)


def stretch(normalised: Plane, names: Sequence[str]) -> Plane:
    """Return the channels of a network.

    Parameters
    ----------
    normalised : ndarray, shape (ny, nx) or (planes, ny, nx)
    names : sequence of str
        Of `STRETCHES`.

    Returns
    -------
    ndarray, shape (len(names) * planes, ny, nx), float32
        All planes in the first stretch, then all in the second.

    Raises
    ------
    ConfigurationError
        Where there is no stretch of a name.
    """
    channels = np.empty((len(names), *normalised.shape), np.float32)
    for channel, name in zip(channels, names, strict=True):
        if name not in STRETCHES:
            known = list(STRETCHES)
            raise ConfigurationError(
                f"There is no stretch {name!r}{suggestion(name, known)}; choose from "
                f"{', '.join(known)}."
            )
        channel[...] = STRETCHES[name](normalised)
    return channels.reshape(-1, *normalised.shape[-2:])


def _edges(length: int, mesh: int, origin: int = 0) -> NDArray[np.int64]:
    """First pixels of the cells along an axis, and its length."""
    starts = np.arange(-origin % mesh, length, mesh, dtype=np.int64)
    edges = np.unique(np.concatenate([[0], starts, [length]]))
    if len(edges) > 2 and edges[-1] - edges[-2] < mesh / 2:
        edges = np.delete(edges, -2)
    if len(edges) > 2 and edges[1] < mesh / 2:
        edges = np.delete(edges, 1)
    return edges.astype(np.int64)


def _filled(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give cells without a value that of the nearest cell that has one."""
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.ascontiguousarray(values[tuple(nearest)])


@njit(
    "Tuple((float64[:, ::1], float64[:, ::1]))(float32[:, ::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def _mesh_statistics(
    plane: Plane, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clipped median and 1.4826 MAD of the finite pixels of each cell; noise 0 where too few."""
    level = np.zeros((len(rows) - 1, len(columns) - 1))
    noise = np.zeros_like(level)
    for j in range(len(rows) - 1):
        for i in range(len(columns) - 1):
            cut = plane[rows[j] : rows[j + 1], columns[i] : columns[i + 1]]
            step = _SAMPLE_STEP if min(cut.shape) > 4 * _SAMPLE_STEP else 1
            values = np.empty(cut.size, np.float32)
            n = 0
            for y in range(0, cut.shape[0], step):
                for x in range(0, cut.shape[1], step):
                    if np.isfinite(cut[y, x]):
                        values[n] = cut[y, x]
                        n += 1
            if n < min(_FEWEST, cut.size):
                continue
            values = values[:n]
            for _ in range(_CLIPS):
                middle = np.median(values)
                sigma = _MAD_TO_SIGMA * np.median(np.abs(values - middle))
                level[j, i], noise[j, i] = middle, sigma
                kept = values[np.abs(values - middle) <= _LIMIT * sigma]
                if sigma == 0 or len(kept) == len(values):
                    break
                values = kept
    return level, noise


@njit(
    "float32[:, ::1](float32[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1],"
    " float64[::1], int64, int64)",
    cache=True,
    nogil=True,
)
def _normalised(
    plane: Plane,
    level: NDArray[np.float64],
    noise: NDArray[np.float64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    y0: int,
    x0: int,
) -> Plane:
    """Bilinear interpolation between the cells' centres, constant beyond the outermost."""
    ny, nx = plane.shape
    result = np.zeros((ny, nx), np.float32)
    # One row of the mesh, interpolated along y, and then along x pixel by pixel.
    column = np.zeros(nx, np.int64)
    share = np.zeros(nx)
    for x in range(nx):
        i = min(int(np.searchsorted(columns, x + x0)), len(columns) - 1)
        low = max(i - 1, 0)
        column[x] = low
        if i > low:
            share[x] = min(max((x + x0 - columns[low]) / (columns[i] - columns[low]), 0.0), 1.0)
    for y in range(ny):
        j = min(int(np.searchsorted(rows, y + y0)), len(rows) - 1)
        low = max(j - 1, 0)
        t = min(max((y + y0 - rows[low]) / (rows[j] - rows[low]), 0.0), 1.0) if j > low else 0.0
        level_row = (1 - t) * level[low] + t * level[j]
        noise_row = (1 - t) * noise[low] + t * noise[j]
        for x in range(nx):
            if np.isfinite(plane[y, x]):
                i = column[x]
                k = min(i + 1, len(columns) - 1)
                a = (1 - share[x]) * level_row[i] + share[x] * level_row[k]
                s = (1 - share[x]) * noise_row[i] + share[x] * noise_row[k]
                result[y, x] = (plane[y, x] - a) / s
    return result
