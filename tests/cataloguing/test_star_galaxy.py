"""Star or galaxy from the spread model."""

import numpy as np
import pytest
from astropy.table import QTable

from cyclades.stages.cataloguing.star_galaxy import combined, galaxy_probability
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.stars import SPREAD_FLOOR


def test_wider_means_more_likely_a_galaxy():
    spread = np.linspace(-0.01, 0.03, 60)
    for significance in (8.0, 30.0, 300.0):
        p = galaxy_probability(spread, 0.06 / significance + 0 * spread, 0 * spread + significance)
        assert np.all(np.diff(p) > -1e-9)
    sure = galaxy_probability(np.array([0.0, 0.02]), np.full(2, 1e-4), np.full(2, 500.0))
    assert sure[0] < 0.1
    assert sure[1] > 0.9
    assert np.isnan(galaxy_probability(np.array([np.nan]), np.ones(1), np.ones(1)))[0]


def test_bands_are_weighted_by_their_errors():
    table = QTable(
        {
            "spread_model_g": [0.004, np.nan], "spread_model_err_g": [0.003, np.nan],
            "psf_flux_g": [30.0, np.nan], "psf_flux_err_g": [10.0, 1.0],
            "spread_model_r": [0.001, 0.002], "spread_model_err_r": [0.001, 0.004],
            "psf_flux_r": [40.0, 5.0], "psf_flux_err_r": [10.0, 1.0],
        }
    )  # fmt: skip
    spread, error, significance = combined(table)
    weight = 1 / (np.array([0.003, 0.001]) ** 2 + SPREAD_FLOOR**2)
    assert spread[0] == pytest.approx((weight * [0.004, 0.001]).sum() / weight.sum())
    assert spread[1] == pytest.approx(0.002)
    assert error[1] == pytest.approx(0.004)
    np.testing.assert_allclose(significance, [5.0, 5.0])
    alone = QTable({name.replace("_r", ""): table[name] for name in table.colnames if "_r" in name})
    assert combined(alone)[0][1] == pytest.approx(0.002)


def test_a_band_in_which_an_object_is_saturated_says_nothing_of_it():
    full = int(Flag.SATURATED)
    table = QTable(
        {
            "spread_model_g": [0.05, 0.05, 0.0], "spread_model_err_g": 3 * [0.001],
            "psf_flux_g": 3 * [1000.0], "psf_flux_err_g": 3 * [1.0], "flags_g": [full, full, 1],
            "spread_model_r": [0.0, 0.05, 0.0], "spread_model_err_r": 3 * [0.001],
            "psf_flux_r": 3 * [1000.0], "psf_flux_err_r": 3 * [1.0], "flags_r": [0, full, 0],
        }
    )  # fmt: skip
    spread, *_ = combined(table)
    assert spread[0] == 0.0
    assert np.isnan(spread[1])
    assert galaxy_probability(*combined(table))[[0, 2]].max() < 0.1
