"""The telescope's parameters: array, uv coverage, imaging, errors, pointings."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from cyclades.pipeline.simulation.arrays import Floats, load_array
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import parameter


class Pointing(BaseModel):
    """One pointing of a mosaic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    east: float = parameter(0.0, "Offset of the pointing from the field's centre.", unit="deg")
    north: float = parameter(0.0, "Offset of the pointing from the field's centre.", unit="deg")
    rms: float = parameter(1.0, "Noise over that of the telescope's options.", unit="", gt=0.0)
    frequency: float = parameter(
        1.0, "Frequency over that of the telescope's options.", unit="", gt=0.1, lt=10.0
    )
    hour_angle: float = parameter(
        0.0, "Hour angle minus that of the telescope's options.", unit="h", ge=-12.0, le=12.0
    )


class TelescopeOptions(BaseModel):
    """An interferometric observation and its imaging."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    array: str = parameter("vla-b", "Array of antennas; see `list_arrays`.")
    frequency: float = parameter(1.4e9, "Middle of the band.", unit="Hz", gt=1e7, lt=1e12)
    bandwidth: float = parameter(1.28e8, "Width of the band.", unit="Hz", ge=0.0)
    channels: int = parameter(
        8, "Channels in which the uv plane is filled and the primary beam averaged.", ge=1, le=64
    )
    duration: float = parameter(2.0, "Length of the observation.", unit="h", gt=0.0, le=24.0)
    hour_angle: float = parameter(
        0.0, "Hour angle of the middle of the observation.", unit="h", ge=-12.0, le=12.0
    )
    declination: float | None = parameter(
        None,
        "Declination that the array tracks; none: that of the field.",
        unit="deg",
        ge=-90,
        le=90,
    )
    elevation_limit: float = parameter(
        10.0, "Times at which the field is lower are left out.", unit="deg", ge=0.0, lt=90.0
    )
    weighting: Literal["natural", "briggs", "uniform"] = parameter(
        "briggs", "Weights of the visibilities."
    )
    robust: float = parameter(0.5, "Robustness of Briggs weights.", ge=-2.0, le=2.0)
    rms: float = parameter(5e-5, "Noise at the centre of a pointing.", unit="Jy/beam", gt=0.0)
    noise: Literal["visibilities", "beam"] = parameter(
        "visibilities",
        "Power spectrum of the noise: that of the weighted visibilities, or that of white noise "
        "convolved with the restoring beam, which a network can learn to sharpen away.",
    )
    clean_threshold: float = parameter(
        5.0, "Elements whose peaks are fainter are not cleaned.", unit="rms", ge=0.0
    )
    clean_depth: float = parameter(
        1.0, "Peak that is left in the residual of cleaned elements.", unit="rms", ge=0.0
    )
    clean_bias: float = parameter(
        0.0,
        "Peak that CLEAN takes from every cleaned element, whatever its flux (NVSS 0.7, FIRST "
        "1.7: Condon et al. 1998, AJ 115, 1693; Becker et al. 1995, ApJ 450, 559).",
        unit="rms",
        ge=0.0,
    )
    short_spacings: bool = parameter(
        False, "Whether all spacings are there, so that cleaned extended emission has no bowls."
    )
    gain_amplitude: float = parameter(
        0.0, "One-sigma error of an antenna's gain left by the calibration.", ge=0.0, lt=0.5
    )
    gain_phase: float = parameter(
        0.0,
        "One-sigma error of an antenna's phase left by the calibration.",
        unit="deg",
        ge=0.0,
        lt=60,
    )
    gain_interval: float = parameter(10.0, "Time for which a gain error lasts.", unit="min", gt=0.0)
    ripple: float = parameter(
        0.0, "Rms of the ripples that wrong visibilities leave in the image.", unit="rms", ge=0.0
    )
    channel_width: float = parameter(
        0.0, "Width of a correlated channel, for bandwidth smearing.", unit="Hz", ge=0.0
    )
    integration: float = parameter(
        0.0, "Integration time of a visibility, for time smearing.", unit="s", ge=0.0
    )
    primary_beam: bool = parameter(
        True, "Whether the image is corrected for a primary beam, so that its noise rises."
    )
    primary_beam_factor: float = parameter(
        1.05,
        "FWHM of the primary beam over wavelength / diameter (VLA 1.02, MeerKAT 1.13, ASKAP 1.09).",
        gt=0.5,
        lt=2.0,
    )
    primary_beam_cut: float = parameter(
        0.2, "The image is blank where the primary beam is lower.", ge=0.01, lt=1.0
    )
    pointings: tuple[Pointing, ...] = parameter(
        (Pointing(),), "Pointings; several make a linear mosaic.", min_length=1
    )
    padding: float = parameter(
        2.0,
        "Side of the transformed plane over that of the image, at most 1024 pixels more; "
        "sidelobes are wrapped round at its edges.",
        ge=1.0,
        le=3.0,
    )
    artefact_threshold: float = parameter(
        4.5, "Artefacts with brighter peaks are listed as spurious.", unit="rms", gt=0.0
    )

    @field_validator("array")
    @classmethod
    def _known(cls, name: str) -> str:
        load_array(name)
        return name

    def replace(self, **changes: Any) -> "TelescopeOptions":
        """Return options with some values changed and checked."""
        return type(self)(**{**self.model_dump(), **changes})

    @property
    def frequencies(self) -> Floats:
        """Middle frequencies of the channels in Hz."""
        steps = (np.arange(self.channels) + 0.5) / self.channels - 0.5
        return self.frequency + self.bandwidth * steps

    def at(self, pointing: Pointing) -> "TelescopeOptions":
        """Return the options of a single pointing of a mosaic."""
        return self.replace(
            frequency=self.frequency * pointing.frequency,
            bandwidth=self.bandwidth * pointing.frequency,
            rms=self.rms * pointing.rms,
            hour_angle=self.hour_angle + pointing.hour_angle,
            pointings=(Pointing(east=pointing.east, north=pointing.north),),
        )


def hexagon(
    spacing: float,
    rings: int,
    generator: np.random.Generator,
    *,
    rms_scatter: float = 0.2,
    frequency_scatter: float = 0.0,
    hour_angle_scatter: float = 1.0,
) -> tuple[Pointing, ...]:
    """Return the pointings of a hexagonal mosaic, each with a noise and an hour angle of its own.

    Parameters
    ----------
    spacing : float
        Degrees between neighbours.
    rings : int
        Rings round the central pointing.
    generator : numpy.random.Generator
    rms_scatter, frequency_scatter : float
        One-sigma scatter of the logarithm of noise and frequency.
    hour_angle_scatter : float
        One-sigma scatter in hours.
    """
    if rings < 0 or spacing <= 0.0:
        raise ConfigurationError(
            "A mosaic needs a positive spacing and no negative number of rings."
        )
    steps = range(-rings, rings + 1)
    places = [(a, b) for a in steps for b in steps if abs(a + b) <= rings]
    draws = generator.standard_normal((len(places), 3))
    return tuple(
        Pointing(
            east=spacing * (a + 0.5 * b),
            north=spacing * np.sqrt(0.75) * b,
            rms=float(np.exp(rms_scatter * draw[0])),
            frequency=float(np.exp(frequency_scatter * draw[1])),
            hour_angle=float(np.clip(hour_angle_scatter * draw[2], -11.0, 11.0)),
        )
        for (a, b), draw in zip(places, draws, strict=True)
    )
