"""Cut-outs of sources as 8-bit pictures, alike whatever survey the image is from.

A network that learned on pictures of one survey has to see another one's sources as that survey
would have shown them: with as many pixels a beam, over as large a piece of sky, north up, and with
the same curve from brightness to grey. Nothing here needs torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    Floats,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.pictures import Bytes, centred
from cyclades.stages.networks.specification import Part

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.source import ImageSource

ARCSEC = 1.0 / 3600.0
_ALIKE = 0.2
"""Smoothing by less than this part of the beam (2 % of its width) is left out."""
_WINGS = 5.0
"""Standard deviations of the smoothing that are read around a cut-out."""
_ITERATIONS = 5
_LEVELS = np.float32(255.0)


class FrameSpec(Part):
    """What a picture of a source shows: pixels, beam, surroundings and clip.

    The defaults are those of the RadioGalaxyDataset (Griese et al. 2023): cut-outs of VLA FIRST,
    regridded to pixels of the same size by linear interpolation. A value between pixels is then
    the weighted mean of its neighbours, which adds d (1 - d) squared pixels to the variance of the
    beam along an axis, d being the distance to one of them: a sixth on average.
    """

    pixel: float = Field(default=1.8, gt=0.0)
    """Side of a pixel, arcsec."""
    beam: float = Field(default=5.67, gt=0.0)
    """FWHM of the beam, arcsec: FIRST's 5.4, widened by the interpolation."""
    side: int = Field(default=300, ge=8)
    """Side of the square in which the noise is measured, pixels."""
    clip: float = Field(default=3.0, ge=0.0)
    """What is fainter is black, in clipped standard deviations above the median."""


@dataclass(frozen=True, eq=False)
class Cutout:
    """A picture of a source.

    Parameters
    ----------
    picture : ndarray of uint8, shape (size, size)
        North up in the sense of FITS (first row south), east to the left. All zero where nothing
        rises above the clip.
    blank : float
        Share of the picture that lies outside the image or on blank pixels.
    """

    picture: Bytes
    blank: float

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see."""
        return not bool(self.picture.any())


@dataclass(frozen=True, eq=False)
class Place:
    """The neighbourhood of a position in an image.

    Parameters
    ----------
    source : ImageSource
    x, y : float
        0-based, in pixels of the full image.
    jacobian : ndarray, shape (2, 2)
        From pixels (x, y) to degrees (east, north).
    beam : ndarray, shape (2, 2)
        Covariance of the beam in (east, north), degrees squared.
    """

    source: "ImageSource"
    x: float
    y: float
    jacobian: Floats
    beam: Floats

    @classmethod
    def of(cls, source: "ImageSource", x: float, y: float) -> "Place | None":
        """Return what is known of a position; None without coordinates or beam, or outside.

        Parameters
        ----------
        source : ImageSource
        x, y : float
            0-based, in pixels of the full image.
        """
        if not (np.isfinite(x) and np.isfinite(y)):
            return None
        row, column = round(y), round(x)
        if not (0 <= row < source.shape[0] and 0 <= column < source.shape[1]):
            return None
        here = source.window(Box(row, row + 1, column, column + 1))
        if here.wcs is None or here.psf is None:
            return None
        own_x, own_y = x - here.origin[1], y - here.origin[0]
        jacobian = sky_jacobian(here.wcs, own_x, own_y)[0]
        if not np.isfinite(jacobian).all():
            return None
        beam = transform_covariance(here.psf.covariances(own_x, own_y)[0], jacobian)
        return cls(source, x, y, jacobian, beam)

    @property
    def beam_size(self) -> float:
        """Geometric mean FWHM of the beam, arcsec."""
        major, minor, _ = shape_from_covariance(self.beam)
        return float(np.sqrt(major * minor)) / ARCSEC


def cut_out(place: Place, frame: FrameSpec, size: int) -> Cutout:
    """Make the picture of a position.

    The image is smoothed to the frame's beam where its own is sharper, resampled to the frame's
    pixels by quintic splines, north up, and clipped and scaled as the frame's pictures are: the
    level is the median and the noise the standard deviation of the square of ``frame.side``
    pixels, both clipped at three sigma; what is below ``frame.clip`` of it is black, the brightest
    pixel of the inner ``size`` pixels white.

    Parameters
    ----------
    place : Place
    frame : FrameSpec
    size : int
        Side of the picture, pixels of the frame.

    Returns
    -------
    Cutout
        Blank pixels are black.
    """
    from astropy.stats import sigma_clipped_stats

    plane = sky_plane(place, frame)
    first = (frame.side - size) // 2
    inner = plane[first : first + size, first : first + size]
    blank = float(np.mean(~np.isfinite(inner)))
    known = plane[np.isfinite(plane)]
    if not known.size:
        return Cutout(np.zeros((size, size), np.uint8), 1.0)
    _, level, noise = sigma_clipped_stats(known, sigma=3.0, maxiters=_ITERATIONS)
    risen = np.nan_to_num(plane - (level + frame.clip * noise))
    highest = float(risen.max())
    if highest <= 0.0:
        return Cutout(np.zeros((size, size), np.uint8), blank)
    # twice through whole numbers, as the pictures that networks learn from: they were scaled over
    # all of the square, and `centred` scales what is cut out of it
    grey = np.clip(risen, 0.0, None) * (_LEVELS / highest)
    return Cutout(centred(np.floor(grey).astype(np.uint8)[None], size)[0], blank)


def sky_plane(place: Place, frame: FrameSpec) -> NDArray[np.float32]:
    """Return the square of a frame around a position: its beam and pixels, north up.

    Parameters
    ----------
    place : Place
    frame : FrameSpec

    Returns
    -------
    ndarray, shape (side, side), float32
        In the image's unit, not rescaled for the larger beam. NaN where the image is blank.
    """
    from scipy.ndimage import map_coordinates

    back = inverse(place.jacobian)
    offset = (np.arange(frame.side) - 0.5 * (frame.side - 1)) * frame.pixel * ARCSEC
    east, north = -offset[None, :], offset[:, None]
    dx = back[0, 0] * east + back[0, 1] * north
    dy = back[1, 0] * east + back[1, 1] * north
    smoothing = transform_covariance(_missing(place.beam, frame.beam * ARCSEC), back)
    margin = 3 + int(np.ceil(_WINGS * np.sqrt(np.diag(smoothing).max())))
    box = Box(
        int(np.floor(place.y + dy.min())) - margin,
        int(np.ceil(place.y + dy.max())) + margin + 1,
        int(np.floor(place.x + dx.min())) - margin,
        int(np.ceil(place.x + dx.max())) + margin + 1,
    )
    inside = box.intersect(Box(0, place.source.shape[0], 0, place.source.shape[1]))
    data = _padded(place.source.window(inside), box)
    known = np.isfinite(data)
    if not known.any():
        return np.full((frame.side, frame.side), np.nan, np.float32)
    data = np.where(known, data, np.median(data[known]))
    weight = known.astype(np.float64)
    if smoothing.any():
        weight = _smoothed(weight, smoothing)
        data = _smoothed(data * known, smoothing) / np.maximum(weight, 1e-3)
    at = np.stack(np.broadcast_arrays(place.y + dy - box.y0, place.x + dx - box.x0))
    plane = map_coordinates(data, at, order=5, mode="nearest", output=np.float32)
    covered = map_coordinates(weight, at, order=1, mode="constant", cval=0.0)
    return np.where(covered > 0.5, plane, np.float32(np.nan))


def _missing(beam: Floats, wanted: float) -> Floats:
    """Covariance that brings a beam to a round one of a FWHM; zero along axes that are wider."""
    values, vectors = np.linalg.eigh((wanted / SIGMA_TO_FWHM) ** 2 * np.eye(2) - beam)
    values[values < (_ALIKE * wanted / SIGMA_TO_FWHM) ** 2] = 0.0
    return np.asarray((vectors * values) @ vectors.T)


def _padded(image: "SkyImage", box: Box) -> Floats:
    """Pixels of a box, NaN outside the image."""
    data = np.full(box.shape, np.nan)
    data[image.box.shift(-box.y0, -box.x0).slices] = image.data
    return data


def _smoothed(data: Floats, covariance: Floats) -> Floats:
    """Convolve with a Gaussian of unit sum, which a Fourier transform gives whatever its width."""
    from scipy import fft

    shape = tuple(fft.next_fast_len(n, real=True) for n in data.shape)
    v = fft.fftfreq(shape[0])[:, None]
    u = fft.rfftfreq(shape[1])[None, :]
    (xx, xy), (_, yy) = covariance
    factor = np.exp(-2.0 * np.pi**2 * (xx * u * u + 2.0 * xy * u * v + yy * v * v))
    made = fft.irfft2(fft.rfft2(data, shape) * factor, shape)
    return np.asarray(made[: data.shape[0], : data.shape[1]])
