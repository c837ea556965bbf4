"""Simulated skies with exact truth, for tests of detection and measurement."""

import numpy as np

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import covariance_from_shape, inverse
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Detections, Segments
from cyclades.stages.core.rendering import render_gaussians

BEAM = covariance_from_shape(5.0, 4.0, 150.0)
"""Beam covariance in pixels (x, y), 5 by 4 pixels FWHM and not along the axes."""


def correlated_noise(shape, rng, beam=BEAM, *, natural=True):
    """Noise of unit rms whose autocorrelation is the beam (natural) or wider by sqrt(2).

    A naturally weighted image has the beam as its noise autocorrelation; white noise convolved
    with the beam has the beam convolved with itself.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    q = beam[0, 0] * fx**2 + 2 * beam[0, 1] * fx * fy + beam[1, 1] * fy**2
    transfer = np.exp(-2 * np.pi**2 * q * (0.5 if natural else 1.0))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * transfer, s=shape)
    return noise / noise.std()


def source_rows(peak, x, y, covariance=BEAM):
    """Rows (peak, x, y, sxx, sxy, syy) of equal shapes."""
    n = np.size(x)
    shape = [covariance[0, 0], covariance[0, 1], covariance[1, 1]]
    return np.column_stack([np.broadcast_to(peak, n), x, y, np.tile(shape, (n, 1))])


def sky_image(rows, shape, noise=None, **attributes):
    """Image of unit rms with sources, its exact background, and the truth rows."""
    data = render_gaussians(shape, rows)
    if noise is not None:
        data = data + noise
    image = SkyImage(data.astype(np.float32), psf=PointSpread(BEAM), **attributes)
    flat = Background(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    return image, flat


def lattice(shape, spacing, rng):
    """Positions on a lattice, each moved by up to half a pixel; (x, y)."""
    y, x = np.meshgrid(
        np.arange(spacing, shape[0] - spacing, spacing),
        np.arange(spacing, shape[1] - spacing, spacing),
        indexing="ij",
    )
    return (
        x.ravel() + rng.uniform(-0.5, 0.5, x.size),
        y.ravel() + rng.uniform(-0.5, 0.5, x.size),
    )


def truth_detections(shape, rows, radius=3):
    """Detections that start each fit at the truth, without a detection cut."""
    d = np.arange(-radius, radius + 1)
    dy, dx = np.meshgrid(d, d, indexing="ij")
    inside = dx**2 + dy**2 <= radius**2
    steps = dy[inside] * shape[1] + dx[inside]
    centres = np.rint(rows[:, 2]).astype(int) * shape[1] + np.rint(rows[:, 1]).astype(int)
    n = len(rows)
    return Detections(
        shape=shape,
        box=np.column_stack([rows[:, 1:3] - radius, rows[:, 1:3] + radius]),
        score=np.ones(n),
        parent=np.full(n, -1),
        segments=Segments.from_lists([np.sort(centre + steps) for centre in centres]),
        summit=rows[:, 1:3].copy(),
    )


def match(x, y, x0, y0, radius):
    """One-to-one nearest pairs within a radius: rows of the first set, rows of the second."""
    distance = np.hypot(np.subtract.outer(x, x0), np.subtract.outer(y, y0))
    pairs = []
    for flat in np.argsort(distance, axis=None):
        i, j = np.unravel_index(flat, distance.shape)
        if distance[i, j] > radius:
            break
        if not any(i == a or j == b for a, b in pairs):
            pairs.append((i, j))
    return np.array(pairs, int).reshape(-1, 2).T


def beam_radius(covariance, x, y):
    """Distance in beam sigmas."""
    p = inverse(covariance)
    return np.sqrt(p[0, 0] * x**2 + 2 * p[0, 1] * x * y + p[1, 1] * y**2)
