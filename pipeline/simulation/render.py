"""Skies on pixels: elements convolved with the local beam, and the pixels of each object."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.model import DISC, SkyModel
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import Floats, determinant, gaussian_area
from cyclades.stages.core.products import Integers
from cyclades.stages.core.rendering import add_gaussians

NODES_PER_SIGMA = 1.0
"""Quadrature nodes a beam sigma along a disc's radius; see `disc_nodes`."""


class Drawn(NamedTuple):
    """Gaussians that draw a sky, sorted by object.

    Attributes
    ----------
    values : ndarray, shape (n, 6)
        ``peak, x, y, sxx, sxy, syy``, beam included, in Jy/beam and pixels.
    starts : ndarray of int, shape (objects + 1,)
        Object k is drawn by the rows ``starts[k]:starts[k + 1]``.
    """

    values: Floats
    starts: Integers


def convolved(sky: SkyModel, psf: PointSpread) -> tuple[Floats, Floats]:
    """Elements as Gaussians convolved with the local beam.

    Returns
    -------
    peak : ndarray, shape (n,)
        Jy/beam: the flux over the area of the convolved Gaussian, in local beams. Of a disc it
        is that of the Gaussian with its second moments; see `disc_peaks`.
    covariance : ndarray, shape (n, 2, 2)
        Pixels squared.
    """
    beam = psf.covariances(sky.x, sky.y)
    covariance = sky.shapes + beam
    return sky.flux * gaussian_area(beam) / gaussian_area(covariance), covariance


def disc_nodes(covariance: Floats, beam: Floats) -> tuple[Floats, Floats]:
    """Offsets and weights whose beams add up to a uniform elliptical disc.

    Gauss-Legendre nodes in the squared radius, where a uniform disc has uniform weight, on rays
    that are turned from ring to ring. The beam smooths what lies between nodes closer than its
    sigma, so that the sum equals the convolution to 1e-4 of its peak.

    Parameters
    ----------
    covariance : ndarray, shape (2, 2)
        Of the disc: a round one of radius R has R^2 / 4 on the diagonal.
    beam : ndarray, shape (2, 2)

    Returns
    -------
    offsets : ndarray, shape (m, 2)
        (x, y) in pixels.
    weights : ndarray, shape (m,)
        Their sum is 1.
    """
    size, axes = np.linalg.eigh(covariance)
    radii = 2.0 * np.sqrt(np.maximum(size, 0.0))
    width = np.sqrt(np.linalg.eigvalsh(beam)[0])
    rings = int(np.ceil(NODES_PER_SIGMA * radii.max() / width)) + 3
    square, ring_weight = _legendre(rings)
    radius = np.sqrt(0.5 * (square + 1.0))
    offsets, weights = [], []
    for k, (r, w) in enumerate(zip(radius, 0.5 * ring_weight, strict=True)):
        rays = int(np.ceil(2.0 * np.pi * NODES_PER_SIGMA * r * radii.max() / width)) + 6
        angle = 2.0 * np.pi * (np.arange(rays) + 0.5 * (k % 2)) / rays
        circle = r * np.stack([np.cos(angle), np.sin(angle)], -1)
        offsets.append((circle * radii) @ axes.T)
        weights.append(np.full(rays, w / rays))
    return np.concatenate(offsets), np.concatenate(weights)


@lru_cache(maxsize=64)
def _legendre(number: int) -> tuple[Floats, Floats]:
    square, weight = np.polynomial.legendre.leggauss(number)
    return square, weight


def drawn(sky: SkyModel, psf: PointSpread) -> Drawn:
    """Return the Gaussians that draw a sky; a disc becomes many."""
    peak, covariance = convolved(sky, psf)
    values = np.column_stack(
        [peak, sky.x, sky.y, covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]]
    )
    owner = sky.owner
    discs = np.flatnonzero((sky.kind == DISC) & (determinant(sky.shapes) > 0.0))
    if discs.size:
        beams = psf.covariances(sky.x[discs], sky.y[discs])
        pieces, owners = [], []
        for row, beam in zip(discs, beams, strict=True):
            offsets, weights = disc_nodes(sky.shapes[row], beam)
            piece = np.empty((len(weights), 6))
            piece[:, 0] = sky.flux[row] * weights
            piece[:, 1] = offsets[:, 0] + sky.x[row]
            piece[:, 2] = offsets[:, 1] + sky.y[row]
            piece[:, 3:] = beam[0, 0], beam[0, 1], beam[1, 1]
            pieces.append(piece)
            owners.append(np.full(len(weights), owner[row]))
        keep = np.ones(len(sky), bool)
        keep[discs] = False
        values = np.concatenate([values[keep], *pieces])
        owner = np.concatenate([owner[keep], *owners])
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(sky.object_class) + 1))
    return Drawn(np.ascontiguousarray(values[order]), starts.astype(np.int64))


def render_sky(sky: SkyModel, psf: PointSpread, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draw a sky convolved with its local beam, without noise.

    Parameters
    ----------
    sky : SkyModel
    psf : PointSpread
    shape : (ny, nx)

    Returns
    -------
    ndarray, shape (ny, nx), float32
        Jy/beam.
    """
    plane = np.zeros(shape, np.float32)
    add_gaussians(plane, drawn(sky, psf).values)
    return plane
