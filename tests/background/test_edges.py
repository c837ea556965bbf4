"""Noise that rises towards ragged edges."""

import numpy as np
import pytest
from test_backgrounds import BEAM, FWHM, MESHES, add_sources, correlated_noise, estimate

from cyclades.stages.background.edges import edge_factor
from cyclades.stages.core.image import SkyImage

SIZE = 600
Y, X = np.mgrid[:SIZE, :SIZE]
INSIDE = 280.0 - np.hypot(X - 299.5, Y - 299.5)
"""Pixels from the rim of a round field."""
AREA = BEAM.area
BOX = round(30 * FWHM)


def round_field(rise: float, seed: int, sources: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of unit rms that rises within two beams of the rim; the rest is blank."""
    rms = 1.0 + rise * np.exp(-np.maximum(INSIDE, 0) / 5.0)
    data = rms * correlated_noise((SIZE, SIZE), seed)
    add_sources(data, sources, 40.0, seed)
    data[INSIDE < 0] = np.nan
    return data, rms


@pytest.mark.parametrize("name", MESHES)
def test_the_rms_rises_with_the_noise_at_a_ragged_edge(name: str) -> None:
    data, rms = round_field(2.0, 31, sources=60)
    found = estimate(name, SkyImage(data=data, psf=BEAM))
    for near, far in ((0, 4), (4, 8), (8, 12)):
        ring = (near <= INSIDE) & (far > INSIDE)
        # 300 independent values a ring: 4 %; without the factor 0.55, 0.7 and 0.85
        ratio = found.rms[ring] / rms[ring]
        assert np.median(ratio) == pytest.approx(1.0, abs=0.2)
    middle = INSIDE > 60
    assert np.median(found.rms[middle]) == pytest.approx(1.0, abs=0.05)
    step = np.abs(np.diff(np.log(found.rms), axis=1))
    assert np.nanmax(step) < 0.3


def test_an_edge_without_a_rise_changes_nothing() -> None:
    for seed, sources in ((32, 0), (33, 150)):
        data, _ = round_field(0.0, seed, sources)
        one = np.ones_like(data, np.float32)
        blank = np.isnan(data)
        plane = data.astype(np.float32)
        assert edge_factor(plane, 0 * one, one, blank, BOX, FWHM, AREA) is None
    whole = correlated_noise((SIZE, SIZE), 34).astype(np.float32)
    nowhere = np.zeros(whole.shape, bool)
    assert edge_factor(whole, 0 * one, one, nowhere, BOX, FWHM, AREA) is None
    # a rise that is not significant: too few pixels to tell
    few = np.zeros(whole.shape, bool)
    few[300, 300] = True
    whole[297:304, 297:304] *= 5
    assert edge_factor(whole, 0 * one, one, few, BOX, FWHM, AREA) is None


def test_the_factor_ends_where_the_rise_ends() -> None:
    data, _ = round_field(2.0, 35)
    one = np.ones(data.shape, np.float32)
    factor = edge_factor(data.astype(np.float32), 0 * one, one, np.isnan(data), BOX, FWHM, AREA)
    assert factor is not None
    assert factor.min() == 1.0
    assert (factor[INSIDE > 30] == 1.0).all()
    assert factor[(INSIDE > 0) & (INSIDE < 2)].min() > 1.8
