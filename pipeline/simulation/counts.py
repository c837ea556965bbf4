"""How many sources of which flux the sky holds: differential source counts, and draws from them.

Fluxes are total fluxes of whole objects at 1.4 GHz, in Jy.
"""

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from cyclades.stages.core.stage import parameter

Floats = NDArray[np.float64]

FREQUENCY = 1.4e9
"""Hz, of all counts."""
STERADIAN = (180.0 / np.pi) ** 2
"""Square degrees."""
BINS_A_DECADE = 400

HOPKINS = (0.859, 0.508, 0.376, -0.049, -0.121, 0.057, -0.008)
HOPKINS_RANGE = (5e-5, 1.0)


class SourceCounts(BaseModel):
    """Base of the models of source counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    brightest: float = parameter(
        1.0, "Total flux of the brightest objects, at 1.4 GHz.", unit="Jy", gt=0.0
    )

    @abstractmethod
    def differential(self, flux: ArrayLike) -> Floats:
        """Objects a steradian and Jy, dN/dS, at fluxes in Jy (any shape, positive)."""
        raise NotImplementedError

    def number(self, low: float, high: float) -> float:
        """Return the expected number of objects a square degree between two fluxes in Jy."""
        return _tabulate(self, low, high).number


class HopkinsCounts(SourceCounts):
    """Counts of Hopkins et al. (2003), AJ 125, 465, from the Phoenix Deep Survey and FIRST.

    ``log10(S^2.5 dN/dS / (Jy^1.5 / sr)) = sum_i a_i log10(S / mJy)^i`` with
    a = 0.859, 0.508, 0.376, -0.049, -0.121, 0.057, -0.008, valid from 0.05 mJy to 1 Jy. Below,
    they are continued as a power law from their value at 0.05 mJy.
    """

    model: Literal["hopkins2003"] = "hopkins2003"
    faint_slope: float = parameter(
        1.7,
        "Slope of dN/dS ~ S^-slope below 0.05 mJy, where the published fit ends (Condon et al. "
        "2012, ApJ 758, 23 find 1.7 from confusion at microjanskys).",
        gt=0.0,
        lt=3.0,
    )
    brightest: float = parameter(
        1.0, "Total flux of the brightest objects, at 1.4 GHz.", unit="Jy", gt=0.0, le=1.0
    )

    def differential(self, flux: ArrayLike) -> Floats:
        """Objects a steradian and Jy; see `SourceCounts.differential`."""
        s = np.asarray(flux, float)
        inside = np.maximum(s, HOPKINS_RANGE[0])
        euclidean = 10.0 ** np.polynomial.polynomial.polyval(np.log10(1e3 * inside), HOPKINS)
        return np.asarray(euclidean * inside**-2.5 * (s / inside) ** -self.faint_slope)


class PowerLawCounts(SourceCounts):
    """A power law, ``dN/dS ~ S^-slope``."""

    model: Literal["power_law"] = "power_law"
    slope: float = parameter(1.6, "Slope of dN/dS ~ S^-slope.", gt=0.0, lt=4.0)
    density: float = parameter(
        150.0, "Objects a square degree between 1 mJy and 1 Jy.", unit="per square degree", gt=0.0
    )

    def differential(self, flux: ArrayLike) -> Floats:
        """Objects a steradian and Jy; see `SourceCounts.differential`."""
        power = 1.0 - self.slope
        integral = np.log(1e3) if power == 0.0 else (1.0 - 1e-3**power) / power
        return np.asarray(
            self.density * STERADIAN / integral * np.asarray(flux, float) ** -self.slope
        )


Counts = Annotated[HopkinsCounts | PowerLawCounts, Field(discriminator="model")]


class _Table(NamedTuple):
    """Cumulative counts on a grid of log fluxes."""

    number: float
    log_flux: Floats
    share: Floats


@lru_cache(maxsize=64)
def _tabulate(counts: SourceCounts, low: float, high: float) -> _Table:
    if not 0.0 < low < high:
        return _Table(0.0, np.zeros(2), np.array([0.0, 1.0]))
    bins = max(2, int(np.ceil(BINS_A_DECADE * np.log10(high / low))))
    log_flux = np.linspace(np.log(low), np.log(high), bins + 1)
    flux = np.exp(log_flux)
    density = flux * counts.differential(flux)
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(log_flux)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return _Table(float(total[-1] / STERADIAN), log_flux, total / total[-1])


def draw_fluxes(
    counts: SourceCounts, area: float, faintest: float, generator: np.random.Generator
) -> Floats:
    """Draw the total fluxes of the objects in an area of sky.

    Parameters
    ----------
    counts : SourceCounts
    area : float
        Square degrees.
    faintest : float
        Jy at 1.4 GHz; a fraction of the rms, so that fainter objects make confusion.
    generator : numpy.random.Generator

    Returns
    -------
    ndarray, shape (n,)
        Jy at 1.4 GHz; n is Poisson distributed.
    """
    table = _tabulate(counts, faintest, counts.brightest)
    number = generator.poisson(table.number * area)
    return np.exp(np.interp(generator.random(number), table.share, table.log_flux))
