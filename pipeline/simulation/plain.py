"""Gaussian noise with a given autocorrelation, and smooth maps of level and rms."""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.model import Floats
from cyclades.stages.core.beam_shape import BeamShape
from cyclades.stages.core.stage import parameter

Plane = NDArray[np.float32]
STRIPE = (1.5, 6.0)
"""Width and length of stripes, in beams."""


class PlainOptions(BaseModel):
    """An image without a telescope: a Gaussian beam, and stationary noise.

    The noise is scaled by a smooth rms map and lies on a smooth level. There are no sidelobes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    pixel: float = parameter(2.0, "Side of a pixel.", unit="arcsec", gt=0.0)
    beam_major: float = parameter(10.0, "Major axis (FWHM) of the beam.", unit="arcsec", gt=0.0)
    beam_minor: float = parameter(8.0, "Minor axis (FWHM) of the beam.", unit="arcsec", gt=0.0)
    beam_angle: float = parameter(30.0, "Position angle of the beam, east of north.", unit="deg")
    frequency: float = parameter(1.4e9, "Frequency.", unit="Hz", gt=1e7, lt=1e12)
    autocorrelation: Literal["natural", "beam"] = parameter(
        "natural",
        "natural: the beam itself, as in a naturally weighted image; beam: that of white noise "
        "convolved with the beam, which networks learn to sharpen away.",
    )
    stripes: float = parameter(
        0.0,
        "Rms of stripes, as the scans of a single dish leave them, over that of all noise; they "
        "are 1.5 beams wide and 6 long.",
        ge=0.0,
        lt=1.0,
    )
    stripes_angle: float = parameter(
        0.0, "Position angle of the stripes, east of north.", unit="deg"
    )
    rms: float = parameter(5e-5, "Lowest rms of the noise.", unit="Jy/beam", gt=0.0)
    rms_ratio: float = parameter(2.0, "Highest over lowest rms; the map is a smooth wave.", ge=1.0)
    level: float = parameter(0.5, "Amplitude of the waves of the level.", unit="lowest rms", ge=0.0)
    wavelength: float = parameter(
        120.0, "Wavelength of the rms map and of the level.", unit="beams", gt=0.0
    )

    def geometry(self, shape: tuple[int, int], centre: tuple[float, float]) -> Geometry:
        """Return the frame of a field of these pixels and this beam."""
        return Geometry.make(
            shape,
            pixel=self.pixel / 3600.0,
            beam=(self.beam_major / 3600.0, self.beam_minor / 3600.0, self.beam_angle),
            frequency=self.frequency,
            centre=centre,
        )


def unit_noise(
    shape: tuple[int, int],
    beam: Floats,
    generator: np.random.Generator,
    *,
    autocorrelation: str = "natural",
) -> Plane:
    """Gaussian noise of unit variance whose autocorrelation is the beam.

    White noise is filtered by a transfer function whose square is the noise's power spectrum:
    the beam's transform (natural weighting), or its square (white noise convolved with the beam,
    whose autocorrelation is wider by sqrt(2)). The plane is periodic; the variance is that of the
    process, not of the sample.

    Parameters
    ----------
    shape : (ny, nx)
    beam : ndarray, shape (2, 2)
        Covariance in pixels squared, in (x, y).
    generator : numpy.random.Generator
    autocorrelation : {"natural", "beam"}

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    from scipy import fft

    size = (fft.next_fast_len(shape[0], real=True), fft.next_fast_len(shape[1], real=True))
    transfer = _transfer(size, tuple(beam.ravel().tolist()), autocorrelation)
    spectrum = fft.rfft2(generator.standard_normal(size, np.float32))
    spectrum *= transfer
    noise = fft.irfft2(spectrum, size, overwrite_x=True)
    return np.ascontiguousarray(noise[: shape[0], : shape[1]], np.float32)


@lru_cache(maxsize=4)
def _transfer(size: tuple[int, int], beam: tuple[float, ...], autocorrelation: str) -> Plane:
    """Amplitudes on the half plane of frequencies that give noise of unit variance."""
    fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :]
    q = beam[0] * fx**2 + 2.0 * beam[1] * fx * fy + beam[3] * fy**2
    transfer = np.exp(-(np.pi**2) * q * (1.0 if autocorrelation == "natural" else 2.0))
    # columns of the half plane stand for their mirror images as well
    twice = np.full(transfer.shape[1], 2.0)
    twice[0] = 1.0
    if size[1] % 2 == 0:
        twice[-1] = 1.0
    transfer /= np.sqrt(np.sum(twice * transfer**2) / (size[0] * size[1]))
    return np.asarray(transfer, np.float32)


def plain_noise(options: PlainOptions, geometry: Geometry, generator: np.random.Generator) -> Plane:
    """Gaussian noise of unit variance, with the stripes that the options ask for."""
    noise = unit_noise(
        geometry.shape,
        geometry.psf.covariance,
        generator,
        autocorrelation=options.autocorrelation,
    )
    if options.stripes:
        beam = (options.beam_major * options.beam_minor) ** 0.5
        across, along = (factor * beam for factor in STRIPE)
        shape = BeamShape.make(along, across, options.stripes_angle, "arcsec")
        stripe = shape.place(geometry.wcs, geometry.shape).covariance
        noise *= np.float32((1.0 - options.stripes**2) ** 0.5)
        noise += np.float32(options.stripes) * unit_noise(geometry.shape, stripe, generator)
    return noise


def smooth_maps(
    options: PlainOptions, geometry: Geometry, generator: np.random.Generator
) -> tuple[Plane, Plane]:
    """Return maps of rms and level in Jy/beam, waves of random direction and phase."""
    step = 2.0 * np.pi / (options.wavelength * geometry.psf.size)

    def wave() -> Plane:
        angle, phase = generator.uniform(0.0, 2.0 * np.pi, 2)
        y = np.arange(geometry.shape[0])[:, None] * (step * np.sin(angle)) + phase
        x = np.arange(geometry.shape[1])[None, :] * (step * np.cos(angle))
        # the sine of a sum by products of vectors: trigonometry of whole planes is slow
        parts = [f(v).astype(np.float32) for f in (np.sin, np.cos) for v in (y, x)]
        plane = parts[0] * parts[3]
        plane += parts[2] * parts[1]
        return np.asarray(plane)

    excess = np.float32(0.5 * (options.rms_ratio - 1.0))
    rms = np.float32(options.rms) * (1 + excess * (1 + wave()))
    level = np.float32(0.5 * options.rms * options.level) * (wave() + wave())
    return rms, level
