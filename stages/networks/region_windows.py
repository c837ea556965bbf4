"""What a region head sees of a source: two windows of S/N in the frame of the beam.

A window is sampled from the image minus level over the rms at its centre, in coordinates in which
the beam is round with unit variance, about the brightest pixel near a summit. In these coordinates
sources look the same under every beam and pixel, and so does noise with the autocorrelation of the
beam. Values are divided by that of the brightest pixel, which makes all that follows equivariant to
the scale of the fluxes. The fine window shows the source at a third of a beam a sample, the coarse
one its surroundings at four times that.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats, determinant
from cyclades.stages.core.noise import NoiseAutocorrelation
from cyclades.stages.core.products import Integers, Segments
from cyclades.stages.networks.adaptive_moments import ADAPTED, adaptive_moments

if TYPE_CHECKING:
    from cyclades.stages.core.beam import PointSpread
    from cyclades.stages.core.products import Detections

Plane = NDArray[np.float32]

SAMPLES = 24
"""Along the side of either window."""
STEP = 0.8
"""Of the fine window, in sigmas of the beam: a third of its FWHM, where its spectrum has ended."""
COARSER = 4
"""Samples of the fine window along the side of one of the coarse window."""
NUMBERS = 2 + ADAPTED
"""Of a source, beside its windows."""
CLIMB = 1.5
"""How far the brightest pixel may be from the summit, in sigmas of the beam along each axis."""
LEAST_SCALE = 1.0
"""Values are divided by no less than this many rms."""
KERNEL = 3
"""Pixels that an interpolation reaches to either side."""
OWN, SIBLING, STRANGER = 0.0, 0.5, 1.0
"""Second channel: pixels of nobody or the source, of a neighbour in its island, of another island
(or outside the image, or blank)."""
BLANK = -1
"""Label of blank pixels."""
SUMMIT_MARK = -1.0
"""Second channel at the samples nearest to the summits of other sources."""


class Windows(NamedTuple):
    """Windows of n sources.

    Parameters
    ----------
    fine, coarse : ndarray, shape (n, 2, SAMPLES, SAMPLES), float32
        S/N over `scale`; whose pixels they are. Axes are (y, x) of the beam's frame.
    numbers : ndarray, shape (n, NUMBERS), float32
        Logarithm of `scale`; half the logarithm of the area of the noise's autocorrelation over
        the beam's; the Gaussians that the fine window looks like
        (`cyclades.stages.networks.adaptive_moments`).
    scale : ndarray, shape (n,)
        S/N of the brightest pixel, at least `LEAST_SCALE`.
    rms : ndarray, shape (n,)
        At that pixel.
    centre : ndarray, shape (n, 2)
        (x, y) of that pixel.
    frame : ndarray, shape (n, 2, 2)
        From the beam's frame to pixels: the symmetric root of the beam's covariance, which turns
        with the image.
    """

    fine: NDArray[np.float32]
    coarse: NDArray[np.float32]
    numbers: NDArray[np.float32]
    scale: Floats
    rms: Floats
    centre: Floats
    frame: Floats

    def take(self, rows: "NDArray[np.bool_] | Integers | slice") -> "Windows":
        """Return some rows."""
        parts: Any = [part[rows] for part in self]
        return Windows(*parts)


def symmetric_root(covariance: Floats) -> Floats:
    """Symmetric square roots of positive (n, 2, 2) matrices.

    ``(C + sqrt(det C) 1) / sqrt(trace C + 2 sqrt(det C))``, by Cayley and Hamilton.
    """
    root = np.sqrt(determinant(covariance))
    trace = covariance[:, 0, 0] + covariance[:, 1, 1]
    made = covariance + root[:, None, None] * np.eye(2)
    return np.asarray(made / np.sqrt(trace + 2.0 * root)[:, None, None])


def noise_size(noise: NoiseAutocorrelation, psf: "PointSpread") -> float:
    """Half the logarithm of the area of the noise's autocorrelation over that of the beam.

    0 for naturally weighted noise, 0.69 for white noise convolved with the beam.
    """
    c = noise.curvature
    roughness = max(float(c[0, 0] * c[1, 1] - c[0, 1] ** 2), 1e-12)
    return float(-0.5 * np.log(roughness * determinant(psf.covariance)))


def window_reach(psf: "PointSpread", shape: tuple[int, int]) -> float:
    """Pixels from a summit to the farthest pixel of the widest window in a plane of a shape."""
    y, x = (np.linspace(0.0, number - 1.0, 5) for number in shape)
    places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    frame = np.abs(symmetric_root(psf.covariances(places[:, 0], places[:, 1])))
    side = CLIMB + 0.5 * STEP * COARSER * SAMPLES
    return float(side * frame.sum(2).max() + KERNEL)


def cut_windows(
    excess: Plane,
    rms: Plane,
    detections: "Detections",
    leaves: Integers,
    psf: "PointSpread",
    noise: float,
) -> Windows:
    """Windows of some leaves of complete detections.

    Parameters
    ----------
    excess, rms : ndarray, shape (ny, nx), float32
        Image minus level, NaN where blank; positive wherever that is not.
    detections : Detections
        With segments and summits.
    leaves : ndarray of int, shape (n,)
        Rows; negative sources are turned over.
    psf : PointSpread
    noise : float
        Of `noise_size`.
    """
    assert detections.segments is not None
    assert detections.summit is not None
    every = detections.leaves
    segments: Segments = detections.segments.take(every)
    labels = segments.label_map(excess.shape)
    place = np.full(len(detections), -1, np.int64)
    place[every] = np.arange(len(every))
    island = detections.island_of[every].astype(np.int64)
    summit = np.ascontiguousarray(detections.summit[leaves], float)
    frame = symmetric_root(psf.covariances(summit[:, 0], summit[:, 1]))
    n = len(leaves)
    fine = np.zeros((n, 2, SAMPLES, SAMPLES), np.float32)
    coarse = np.zeros_like(fine)
    scale, local, centre = np.ones(n), np.ones(n), np.zeros((n, 2))
    order, starts, size = _cells(detections.summit[every], excess.shape)
    plane = np.ascontiguousarray(excess, np.float32)
    blank = np.isnan(plane)
    if blank.any():
        labels[blank] = BLANK
        plane = np.where(blank, np.float32(0.0), plane)
    _cut(
        plane, np.ascontiguousarray(rms), labels, island, place[leaves],
        detections.signs[leaves].astype(np.float64), summit, np.ascontiguousarray(frame),
        np.ascontiguousarray(detections.summit[every], float), order, starts, size,
        fine, coarse, scale, local, centre,
    )  # fmt: skip
    numbers = np.column_stack([np.log(scale), np.full(n, noise), adaptive_moments(fine, STEP)])
    return Windows(fine, coarse, numbers.astype(np.float32), scale, local, centre, frame)


def _cells(summit: Floats, shape: tuple[int, int]) -> tuple[Integers, Integers, int]:
    """Summits by cells of an image: rows sorted by cell, where each cell starts, cells' side."""
    side = 64
    columns = shape[1] // side + 1
    cell = (np.rint(summit[:, 1]).astype(np.int64) // side) * columns
    cell += np.rint(summit[:, 0]).astype(np.int64) // side
    order = np.argsort(cell, kind="stable").astype(np.int64)
    cells = (shape[0] // side + 1) * columns
    starts = np.searchsorted(cell[order], np.arange(cells + 1)).astype(np.int64)
    return order, starts, side


@nb.njit(inline="always")
def _weights(t: float, out: Floats) -> None:
    """Weights of six pixels about a place between the third and the fourth (Lagrange)."""
    a, b, c, d, e, f = t + 2.0, t + 1.0, t, t - 1.0, t - 2.0, t - 3.0
    out[0] = -b * c * d * e * f / 120.0
    out[1] = a * c * d * e * f / 24.0
    out[2] = -a * b * d * e * f / 12.0
    out[3] = a * b * c * e * f / 12.0
    out[4] = -a * b * c * d * f / 24.0
    out[5] = a * b * c * d * e / 120.0


@nb.njit(cache=True, nogil=True)
def _cut(
    plane: Plane,
    rms: Plane,
    labels: NDArray[np.int32],
    island: Integers,
    rows: Integers,
    signs: Floats,
    summit: Floats,
    frame: Floats,
    summits: Floats,
    order: Integers,
    starts: Integers,
    side: int,
    fine: Plane,
    coarse: Plane,
    scale: Floats,
    local: Floats,
    centre: Floats,
) -> None:
    ny, nx = plane.shape
    n = SAMPLES
    half = 0.5 * (n - 1)
    columns = nx // side + 1
    wx, wy = np.empty(6), np.empty(6)
    for k in range(len(rows)):
        f = frame[k]
        own = rows[k]
        sx, sy = round(summit[k, 0]), round(summit[k, 1])
        rx, ry = int(max(1.0, CLIMB * f[0, 0])), int(max(1.0, CLIMB * f[1, 1]))
        # the brightest pixel of the source near its summit
        best, bx, by = -np.inf, sx, sy
        for y in range(max(0, sy - ry), min(ny, sy + ry + 1)):
            for x in range(max(0, sx - rx), min(nx, sx + rx + 1)):
                mine = labels[y, x] == own + 1 or labels[y, x] == 0
                value = signs[k] * plane[y, x]
                if mine and value > best:
                    best, bx, by = value, x, y
        local[k] = rms[by, bx]
        scale[k] = max(best / local[k], LEAST_SCALE)
        centre[k, 0], centre[k, 1] = bx, by
        factor = signs[k] / (scale[k] * local[k])
        fxx, fxy, fyx, fyy = f[0, 0], f[0, 1], f[1, 0], f[1, 1]
        reach = STEP * (COARSER * (half + 0.5))
        hx, hy = reach * (abs(fxx) + abs(fxy)), reach * (abs(fyx) + abs(fyy))
        inside = bx - hx >= 1 and by - hy >= 1 and bx + hx < nx - 1 and by + hy < ny - 1
        near = STEP * (half + 3.0 / STEP)
        whole = bx - near * (abs(fxx) + abs(fxy)) >= 3 and by - near * (abs(fyx) + abs(fyy)) >= 3
        whole &= bx + near * (abs(fxx) + abs(fxy)) < nx - 4
        whole &= by + near * (abs(fyx) + abs(fyy)) < ny - 4
        for i in range(n):
            v = STEP * (i - half)
            for j in range(n):
                u = STEP * (j - half)
                px, py = bx + fxx * u + fxy * v, by + fyx * u + fyy * v
                ix, iy = int(np.floor(px)), int(np.floor(py))
                xx, yy = int(np.floor(px + 0.5)), int(np.floor(py + 0.5))
                if not whole and (xx < 0 or xx >= nx or yy < 0 or yy >= ny):
                    fine[k, 1, i, j] = STRANGER
                    continue
                label = labels[yy, xx]
                if label == BLANK:
                    fine[k, 1, i, j] = STRANGER
                    continue
                if label > 0 and label != own + 1:
                    same = island[label - 1] == island[own]
                    fine[k, 1, i, j] = SIBLING if same else STRANGER
                _weights(px - ix, wx)
                _weights(py - iy, wy)
                total = 0.0
                for b in range(6):
                    y = iy + b - 2
                    line = 0.0
                    if whole:
                        for a in range(6):
                            line += wx[a] * plane[y, ix + a - 2]
                    else:
                        y = min(max(y, 0), ny - 1)
                        for a in range(6):
                            line += wx[a] * plane[y, min(max(ix + a - 2, 0), nx - 1)]
                    total += wy[b] * line
                fine[k, 0, i, j] = factor * total
        share = 1.0 / (COARSER * COARSER)
        step = STEP * COARSER
        for i in range(n):
            for j in range(n):
                light, other = 0.0, 0.0
                for b in range(COARSER):
                    v = step * (i - half) + STEP * (b - 0.5 * (COARSER - 1))
                    qx, qy = bx + fxy * v + 0.5, by + fyy * v + 0.5
                    for a in range(COARSER):
                        u = step * (j - half) + STEP * (a - 0.5 * (COARSER - 1))
                        px, py = qx + fxx * u, qy + fyx * u
                        if not inside and (px < 0.0 or px >= nx or py < 0.0 or py >= ny):
                            other += STRANGER
                            continue
                        # places inside are positive, so that their whole part is their floor
                        x, y = int(px), int(py)
                        light += plane[y, x]
                        label = labels[y, x]
                        if label != 0 and label != own + 1:
                            same = label > 0 and island[label - 1] == island[own]
                            other += SIBLING if same else STRANGER
                coarse[k, 0, i, j] = factor * share * light
                coarse[k, 1, i, j] = share * other
        # summits of the others
        det = f[0, 0] * f[1, 1] - f[0, 1] * f[1, 0]
        for cy in range(max(0, int(by - hy) // side), min(ny - 1, int(by + hy)) // side + 1):
            for cx in range(max(0, int(bx - hx) // side), min(nx - 1, int(bx + hx)) // side + 1):
                cell = cy * columns + cx
                for m in range(starts[cell], starts[cell + 1]):
                    other_row = order[m]
                    if other_row == own:
                        continue
                    dx, dy = summits[other_row, 0] - bx, summits[other_row, 1] - by
                    u = (f[1, 1] * dx - f[0, 1] * dy) / det
                    v = (f[0, 0] * dy - f[1, 0] * dx) / det
                    j, i = round(u / STEP + half), round(v / STEP + half)
                    if i >= 0 and i < n and j >= 0 and j < n:
                        fine[k, 1, i, j] = SUMMIT_MARK
                    j, i = round(u / step + half), round(v / step + half)
                    if i >= 0 and i < n and j >= 0 and j < n:
                        coarse[k, 1, i, j] = SUMMIT_MARK
