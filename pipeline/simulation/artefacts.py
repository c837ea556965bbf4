"""What calibration and incomplete uv coverage leave in an image besides the sky."""

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.observation import Artefacts
from cyclades.pipeline.simulation.visibilities import Grid, Tracks, Weights
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.segments import label_segments, segment_maximum

FLOOD = 2.5
"""An artefact's pixels are those above this many rms."""
RIPPLES = 3
RIPPLE_BEAMS = 8.0
"""Ripples are longer than this many beams, so that they are no noise to a finder."""


def gain_error_transfers(
    tracks: Tracks,
    weights: Weights,
    *,
    amplitude: float,
    phase: float,
    interval: float,
    number: int,
    generator: np.random.Generator,
) -> list[NDArray[np.complex64]]:
    """Transforms of the error beams of some draws of antenna gain errors.

    Each antenna's gain is off by a fraction and by an angle that stay the same for an interval;
    a baseline sees ``g_i conj(g_j)``, and the image of a point source gains the transform of the
    weighted errors: spokes along the tracks of the bad antennas (Perley 1999, ASP Conf. 180,
    275). The error at the source itself is taken out, as a flux scale would be.

    Parameters
    ----------
    tracks : Tracks
    weights : Weights
    amplitude : float
        One-sigma error of a gain's amplitude, as a fraction.
    phase : float
        One-sigma error of a gain's phase, degrees.
    interval : float
        Minutes that an error lasts.
    number : int
        Draws.
    generator : numpy.random.Generator

    Returns
    -------
    list of ndarray of complex64, half-plane
        Error beams are in units of the source's flux. To first order they are linear in the
        errors, so that sums with coefficients of unit square are draws as well.
    """
    antennas = int(tracks.second.max()) + 1
    block = (tracks.minutes // interval).astype(int)
    shape = (block.max() + 1, antennas)
    beams = []
    for _ in range(number):
        size = amplitude * generator.standard_normal(shape)
        angle = np.radians(phase) * generator.standard_normal(shape)
        gain = ((1.0 + size) * np.exp(1j * angle))[block]
        error = gain[:, tracks.first] * np.conj(gain[:, tracks.second]) - 1.0
        plane = weights.grid.add(tracks, error, weights.visibility) * weights.scale
        mean = weights.grid.total(plane.real) / weights.grid.total(weights.transfer)
        beams.append((plane - mean * weights.transfer).astype(np.complex64))
    return beams


def combine_draws(
    draws: tuple[NDArray[np.complex64], ...], generator: np.random.Generator
) -> NDArray[np.complex64]:
    """Mix draws of error beams into a new one, with coefficients of unit square."""
    mix = generator.standard_normal(len(draws)).astype(np.float32)
    mix /= np.linalg.norm(mix)
    plane = np.asarray(mix[0] * draws[0])
    for factor, draw in zip(mix[1:], draws[1:], strict=True):
        plane += factor * draw
    return plane


def draw_ripples(
    transfer: NDArray[np.float32], grid: Grid, beam: Floats, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Ripples of unit rms over the whole plane: visibilities that one baseline got wrong.

    Parameters
    ----------
    transfer : ndarray of float32, half-plane
        Of the dirty beam; where it is zero, there are no visibilities.
    grid : Grid
    beam : ndarray, shape (2, 2)
        Restoring beam, pixels squared.
    generator : numpy.random.Generator

    Returns
    -------
    ndarray, shape of the grid, float32
    """
    ny, nx = grid.shape
    kx, ky = grid.frequencies
    filled = transfer > 0.0
    fwhm = np.sqrt(8.0 * np.log(2.0)) * np.linalg.det(beam) ** 0.25
    distance = np.hypot(kx, ky)
    usable = np.argwhere(filled & (distance < 1.0 / (RIPPLE_BEAMS * fwhm)) & (distance > 0.0))
    if len(usable) == 0:
        usable = np.argwhere(filled)
        usable = usable[[np.argmin(distance[tuple(usable.T)])]]
    x, y = np.arange(nx), np.arange(ny)[:, None]
    plane = np.zeros(grid.shape, np.float32)
    for row, column in usable[generator.integers(len(usable), size=RIPPLES)]:
        angle = 2.0 * np.pi * (kx[0, column] * x + ky[row, 0] * y + generator.random())
        plane += np.cos(angle).astype(np.float32)
    return plane * np.float32(np.sqrt(2.0 / RIPPLES))


def find_artefacts(
    artefact: NDArray[np.float32],
    rms: NDArray[np.float32],
    sky: NDArray[np.float32],
    threshold: float,
) -> Artefacts:
    """Find the artefacts that a finder may take for sources.

    Parameters
    ----------
    artefact : ndarray, shape (ny, nx)
        Artefacts alone, Jy/beam; NaN where blank.
    rms : ndarray, shape (ny, nx)
    sky : ndarray, shape (ny, nx)
        The true sky in the restoring beam; where it outshines the artefact, there is none.
    threshold : float
        Peaks count above this many rms.

    Returns
    -------
    Artefacts
        Groups of connected pixels above `FLOOD` rms.
    """
    with np.errstate(invalid="ignore"):
        ratio = np.where(sky < artefact, artefact / rms, 0.0)
        segments = label_segments(ratio, FLOOD)
        keep = np.flatnonzero(segment_maximum(ratio, segments) > threshold)
    chosen = segments.take(keep)
    return Artefacts(chosen, segment_maximum(artefact, chosen))
