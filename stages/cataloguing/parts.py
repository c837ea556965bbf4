"""Parts that may belong to one source, as plain arrays."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    Floats,
    covariance_from_shape,
    determinant,
)
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from astropy.table import QTable

ARCSEC = 3600.0
MOST_COMPONENTS = 50
"""A source of more components is large structure, whose pieces are not told apart."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What may belong together: the sources of a catalogue as plain arrays.

    Attributes
    ----------
    vectors : ndarray, shape (n, 3)
        Unit vectors on the sky in arcsec (radians times arcsec), or (east, north, 0) in pixels
        without celestial coordinates.
    frames : ndarray, shape (n, 2, 3)
        Unit vectors towards east and north at each part.
    x, y : ndarray, shape (n,)
        0-based pixels.
    total, peak, snr : ndarray, shape (n,)
        Absolute values: a negative source is as bright as its mirror image.
    shape, beam : ndarray, shape (n, 2, 2)
        Covariances in (east, north), in arcsec squared, or in pixels squared.
    rms, level : ndarray, shape (n,)
        Of the image at the part.
    pieces : ndarray, shape (n,)
        Components.
    island : ndarray of int, shape (n,)
    sign : ndarray, shape (n,)
        1, or -1 for a negative source.
    area : float
        Of the image, in arcsec squared (or pixels).
    """

    vectors: Floats
    frames: Floats
    x: Floats
    y: Floats
    total: Floats
    peak: Floats
    snr: Floats
    shape: Floats
    beam: Floats
    rms: Floats
    level: Floats
    pieces: Floats
    island: Integers
    sign: Floats
    area: float

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, sources: "QTable", area: float) -> "Parts":
        """Read them from a table of sources.

        Parameters
        ----------
        sources : QTable
        area : float
            Of the image, in arcsec squared (pixels without celestial coordinates).
        """

        def values(name: str) -> Floats:
            held = sources[name]
            return np.asarray(getattr(held, "value", held), float)

        x, y = values("x"), values("y")
        n = len(x)
        if "ra" in sources.colnames:
            ra, dec = np.radians(values("ra")), np.radians(values("dec"))
            zero, one = np.zeros(n), np.radians(1.0 / ARCSEC)
            radial = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
            east = np.stack([-np.sin(ra), np.cos(ra), zero], -1)
            vectors, frames = radial / one, np.stack([east, np.cross(radial, east)], 1)
        else:
            vectors = np.stack([-x, y, np.zeros(n)], -1)
            frames = np.broadcast_to(np.eye(3)[:2], (n, 2, 3))
        total, peak = values("total_flux"), values("peak_flux")
        return cls(
            vectors=vectors,
            frames=frames,
            x=x,
            y=y,
            total=np.abs(total),
            peak=np.abs(peak),
            snr=np.abs(values("snr")),
            shape=covariance_from_shape(*(values(c) for c in ("major", "minor", "position_angle"))),
            beam=covariance_from_shape(*(values(c) for c in ("psf_major", "psf_minor", "psf_pa"))),
            rms=values("local_rms"),
            level=values("local_background"),
            pieces=np.maximum(values("n_components"), 1.0),
            island=np.asarray(sources["island_id"], np.int64),
            sign=np.where(peak < 0.0, -1.0, 1.0),
            area=area,
        )

    @property
    def beam_size(self) -> Floats:
        """Geometric mean FWHM of the beam at each part."""
        return np.asarray(SIGMA_TO_FWHM * np.sqrt(np.sqrt(determinant(self.beam))))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether each part has position, shape, beam and flux."""
        known = np.isfinite(self.vectors).all(1) & np.isfinite(self.beam_size)
        known &= np.isfinite(self.shape[:, 0, 0]) & np.isfinite(self.total)
        return np.asarray(known & (self.total > 0.0) & (self.snr > 0.0))

    def offsets(self, first: Integers, second: Integers) -> Floats:
        """Offset (east, north) of the second parts from the first, at the first; (pairs, 2)."""
        step = self.vectors[second] - self.vectors[first]
        return np.asarray(np.einsum("pkc,pc->pk", self.frames[first], step))


def find_pairs(parts: Parts, radius: float) -> tuple[Integers, Integers]:
    """Pairs of parts within a radius of each other, the brighter first.

    Parts without position, flux or beam are in none; neither are a positive and a negative one.

    Parameters
    ----------
    parts : Parts
    radius : float
        In beams, between the near ends of the parts.
    """
    from scipy.spatial import cKDTree

    beam, rows = parts.beam_size, np.flatnonzero(parts.known)
    if len(rows) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reach = radius * float(beam[rows].max())
    found = cKDTree(parts.vectors[rows]).query_pairs(reach, output_type="ndarray")
    first, second = rows[found[:, 0]], rows[found[:, 1]]
    apart = np.linalg.norm(parts.vectors[first] - parts.vectors[second], axis=-1)
    near = apart <= radius * np.sqrt(beam[first] * beam[second])
    near &= parts.sign[first] == parts.sign[second]
    first, second = first[near], second[near]
    swap = parts.total[first] < parts.total[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    order = np.lexsort((second, first))
    return first[order], second[order]


def pairs_within(
    parts: Parts, source: Integers, most: int = MOST_COMPONENTS
) -> tuple[Integers, Integers]:
    """Pairs of parts of the same source, the brighter first.

    Parameters
    ----------
    parts : Parts
        Components.
    source : ndarray of int, shape (parts,)
        Source of each.
    most : int
        Of a source with more parts than these no pair is listed.
    """
    rows = np.flatnonzero(parts.known)
    rows = rows[np.lexsort((rows, -parts.total[rows], source[rows]))]
    starts = np.flatnonzero(np.r_[True, np.diff(source[rows]) != 0]) if len(rows) else rows
    held = [
        (mine[i], mine[j])
        for mine in np.split(rows, starts[1:])
        if 1 < len(mine) <= most
        for i, j in [np.triu_indices(len(mine), 1)]
    ]
    if not held:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = (np.concatenate(ends) for ends in zip(*held, strict=True))
    order = np.lexsort((second, first))
    return first[order], second[order]


def reach(parts: Parts, rows: Integers, along: Floats) -> Floats:
    """Half the FWHM of parts along a direction."""
    unit = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    variance = np.einsum("pi,pij,pj->p", unit, parts.shape[rows], unit)
    return np.asarray(0.5 * SIGMA_TO_FWHM * np.sqrt(np.maximum(variance, 0.0)))
