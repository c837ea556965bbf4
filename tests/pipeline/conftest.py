import numpy as np
import pytest
from astropy.io import fits
from toy_stages import ToyBackground, ToyCharacterization, ToyDetection

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.core.context import Context
from cyclades.stages.core.io import FitsSource

PEAK, X, Y = 100.0, 30, 22


def field(**header):
    """A point source of S/N 100 on white noise, beam 6 pixels, and its header."""
    cards = fits.Header()
    cards.update(
        {
            "CTYPE1": "RA---SIN", "CRVAL1": 180.0, "CRPIX1": 25.0, "CDELT1": -1 / 3600,
            "CTYPE2": "DEC--SIN", "CRVAL2": -30.0, "CRPIX2": 20.0, "CDELT2": 1 / 3600,
            "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS", "BUNIT": "Jy/beam",
            "BMAJ": 6 / 3600, "BMIN": 6 / 3600, "BPA": 0.0,
        }
    )  # fmt: skip
    for key, value in header.items():
        if value is None:
            del cards[key]
        else:
            cards[key] = value
    y, x = np.mgrid[:48, :64]
    r2 = (x - X) ** 2 + (y - Y) ** 2
    data = PEAK * np.exp(-4 * np.log(2) * r2 / 36.0) + np.random.default_rng(5).normal(size=y.shape)
    return data.astype(">f4"), cards


@pytest.fixture
def make_field(tmp_path):
    """Write the field to a file, with cards changed, or left out where None."""

    def make(name="field.fits", **header):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(*field(**header)).writeto(path)
        return path

    return make


@pytest.fixture
def image(make_field):
    return FitsSource(make_field()).read()


@pytest.fixture
def toys():
    """A pipeline of toy stages, with the real catalogue."""
    return Pipeline(
        RouteConfig.from_mapping(
            {
                "background": ToyBackground(),
                "detection": ToyDetection(),
                "characterization": ToyCharacterization(),
                "cataloguing": ["components"],
            }
        )
    )


@pytest.fixture
def context():
    with Context() as made:
        yield made
