"""Options of optical images, and the camera that they describe."""

from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict

from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.optical_sky import NANOJANSKY, OpticalSkyOptions
from cyclades.pipeline.simulation.options import SimulationOptions
from cyclades.stages.core.stage import parameter


class BandOptions(BaseModel):
    """Exposures in one band."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    zero_point: float = parameter(
        26.818, "AB magnitude of one electron a second at airmass 1.", unit="mag"
    )
    sky: float = parameter(20.91, "Brightness of the sky.", unit="mag per square arcsec")
    seeing: float = parameter(1.18, "FWHM of stars, pixels included.", unit="arcsec", gt=0.0)
    exposure: float = parameter(134.0, "Exposure time of all visits.", unit="s", gt=0.0)
    visits: int = parameter(2, "Visits, each of which is read once.", ge=1)


class OpticalOptions(SimulationOptions):
    """A field of stars and galaxies, and the camera that looks at it.

    The defaults are those of the DECam Legacy Survey: nominal zero points, sky brightnesses and
    pixels of its observing software (github.com/legacysurvey/obsbot, decam.py), total exposure
    times of legacysurvey.org/decamls, median seeing of Dey et al. (2019, AJ 157, 168), and read
    noise, gain and linear range of NOIRLab's "DECam Characteristics".
    """

    sky: OpticalSkyOptions = parameter(OpticalSkyOptions(), "The population of sources.")
    pixel: float = parameter(0.262, "Side of a pixel.", unit="arcsec", gt=0.0)
    g: BandOptions = parameter(
        BandOptions(zero_point=26.61, sky=22.04, seeing=1.29, exposure=166.0), "The band g."
    )
    r: BandOptions = parameter(BandOptions(), "The band r.")
    z: BandOptions = parameter(
        BandOptions(zero_point=26.484, sky=18.46, seeing=1.11, exposure=200.0), "The band z."
    )
    beta: float = parameter(
        3.5, "Exponent of the Moffat profile of stars; smaller ones have wider wings.", gt=1.2
    )
    bulge_index: float = parameter(4.0, "Sersic index of bulges.", ge=1.0, le=6.0)
    disc_index: float = parameter(1.0, "Sersic index of discs.", ge=1.0, le=6.0)
    read_noise: float = parameter(7.0, "Read noise.", unit="electrons", ge=0.0)
    gain: float = parameter(
        4.0, "Gain, which adds the noise of digits to each visit.", unit="electrons per count",
        ge=0.0,
    )  # fmt: skip
    saturate: bool = parameter(
        False, "Cut pixels off at the full well. The truth's fluxes are those without the cut."
    )
    full_well: float = parameter(
        1e5, "Electrons of a pixel in one visit at which it saturates.", unit="electrons", gt=0.0
    )
    level: float = parameter(
        0.5,
        "What the subtraction of the sky has left: a slope from minus to plus this.",
        unit="rms",
        ge=0.0,
    )

    def band(self, name: str) -> BandOptions:
        """Return the options of one of `BANDS`."""
        chosen = getattr(self, name)
        assert isinstance(chosen, BandOptions)
        return chosen

    def electrons(self, name: str) -> float:
        """Return the electrons a nJy gives in all visits of a band."""
        band = self.band(name)
        return float(band.exposure * 10.0 ** (0.4 * (band.zero_point - NANOJANSKY)))

    def sky_electrons(self, name: str) -> float:
        """Return the electrons that the sky gives in a pixel in all visits of a band."""
        band = self.band(name)
        rate = 10.0 ** (0.4 * (band.zero_point - band.sky)) * self.pixel**2
        return float(band.exposure * rate)

    def read_variance(self, name: str) -> float:
        """Return the variance of reading a pixel in all visits of a band, in electrons squared."""
        return float(self.band(name).visits * (self.read_noise**2 + self.gain**2 / 12.0))

    def rms(self, name: str) -> float:
        """Return the noise of a pixel without sources in a band, in nJy."""
        variance = self.sky_electrons(name) + self.read_variance(name)
        return float(np.sqrt(variance) / self.electrons(name))

    def geometry(self, name: str) -> Geometry:
        """Return the frame of the field with the seeing of a band."""
        seeing = self.band(name).seeing / 3600.0
        return _geometry(self.size, (self.ra, self.dec), self.pixel / 3600.0, seeing)


@lru_cache(maxsize=16)
def _geometry(size: int, centre: tuple[float, float], pixel: float, seeing: float) -> Geometry:
    return Geometry.make(
        (size, size), pixel=pixel, beam=(seeing, seeing, 0.0), frequency=np.nan, centre=centre
    )
