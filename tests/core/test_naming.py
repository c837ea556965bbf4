"""Names are cut, never rounded; order and suffixes depend on the sky only."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclades.stages.core.naming import decimals_for, iau_names, pixel_names, sky_order, unique


def test_names_are_truncated():
    ra = 15 * (12 + 34 / 60 + 56.7896 / 3600)
    dec = 1 + 2 / 60 + 3.999 / 3600
    assert iau_names([ra, ra], [dec, -dec], prefix="CYC") == [
        "CYC J123456.7+010203",
        "CYC J123456.7-010203",
    ]
    assert iau_names([ra], [-dec], prefix="", decimals=2) == ["J123456.789-010203.99"]
    assert iau_names([359.999999999], [-0.0001], prefix="") == ["J235959.9-000000"]


@given(st.floats(0, 359.999999), st.floats(-89.9999, 89.9999), st.integers(0, 3))
def test_a_name_is_the_largest_position_not_above_the_true_one(ra, dec, decimals):
    (name,) = iau_names([ra], [dec], prefix="", decimals=decimals)
    sign = "-" if "-" in name else "+"
    east, north = name[1:].split(sign)

    def angle(text):
        return int(text[:2]) * 3600 + int(text[2:4]) * 60 + Fraction(text[4:])

    step_ra, step_dec = Fraction(1, 10 ** (decimals + 1)), Fraction(1, 10**decimals)
    # the multiplication to ticks rounds once, at 1e-16 of the value
    slack = Fraction(1, 10**9)
    assert -slack <= Fraction(ra) / 15 * 3600 - angle(east) < step_ra + slack
    assert -slack <= abs(Fraction(dec)) * 3600 - angle(north) < step_dec + slack


@pytest.mark.parametrize(
    ("beam", "decimals"), [(864.0, 0), (5.4, 0), (2.0, 1), (0.1, 2), (0.001, 4)]
)
def test_digits_follow_the_beam(beam, decimals):
    assert decimals_for(beam) == decimals
    assert 10.0**-decimals <= max(beam / 3, 1.0)


def test_digits_without_a_beam():
    assert decimals_for(np.nan) == 0


def test_names_are_made_unique():
    assert unique(["p", "q", "p", "r", "p"]) == ["pa", "q", "pb", "r", "pc"]
    assert unique(["p"] * 28)[25:] == ["pz", "paa", "pab"]


def test_pixel_names_are_truncated():
    assert pixel_names([12.39, -0.01], [3.0, 7.99], prefix="CYC") == [
        "CYC X12.3Y3.0",
        "CYC X-0.1Y7.9",
    ]


def test_sky_order():
    ra = [20.0, 10.0, np.nan, 10.0]
    dec = [1.0, 5.0, 0.0, -5.0]
    assert list(sky_order(ra, dec)) == [3, 1, 0, 2]
