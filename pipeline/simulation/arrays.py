"""Antenna positions of real interferometers."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Array:
    """An interferometer on the ground.

    Parameters
    ----------
    name : str
    telescope : str
        What to call it in products.
    positions : ndarray, shape (n, 3)
        Geocentric (ITRF) x, y, z of the antennas in metres.
    diameter : float
        Mean diameter of dishes or stations, metres.
    source : str
        Where the positions were published.
    """

    name: str
    telescope: str
    positions: Floats
    diameter: float
    source: str

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def longitude(self) -> float:
        """East longitude of the mean position, radians."""
        x, y, _ = self.positions.mean(0)
        return float(np.arctan2(y, x))

    @property
    def latitude(self) -> float:
        """Geodetic latitude of the mean position, radians, to 1e-4 (Bowring's first step)."""
        x, y, z = self.positions.mean(0)
        flattening = 1.0 / 298.257223563
        return float(np.arctan2(z, np.hypot(x, y) * (1.0 - flattening) ** 2))

    @property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the two antennas of each baseline."""
        return np.triu_indices(len(self), 1)

    @property
    def baselines(self) -> Floats:
        """Baselines in metres, shape (n (n - 1) / 2, 3).

        In equatorial axes turned to the array's own meridian: towards hour angle 0 and
        declination 0, towards hour angle -6 h, and towards the north pole.
        """
        c, s = np.cos(self.longitude), np.sin(self.longitude)
        turned = self.positions @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        first, second = self.pairs
        return np.asarray(turned[second] - turned[first])


def list_arrays() -> list[str]:
    """Return the names of the arrays whose antenna positions are installed."""
    folder = files("cyclades.data").joinpath("arrays")
    return sorted(
        entry.name.removesuffix(".ecsv")
        for entry in folder.iterdir()
        if entry.name.endswith(".ecsv")
    )


@cache
def load_array(name: str) -> Array:
    """Read the antenna positions of an array.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    """
    known = list_arrays()
    if name not in known:
        raise ConfigurationError(
            f"There is no array {name!r}{suggestion(name, known)}; choose one of "
            f"{', '.join(known)}."
        )
    from astropy.table import Table

    text = files("cyclades.data").joinpath("arrays", f"{name}.ecsv").read_text(encoding="utf-8")
    table = Table.read(text, format="ascii.ecsv")
    positions = np.stack([np.asarray(table[axis], float) for axis in "xyz"], -1)
    return Array(
        name,
        str(table.meta["telescope"]),
        positions,
        float(np.mean(table["diameter"])),
        str(table.meta["source"]),
    )
