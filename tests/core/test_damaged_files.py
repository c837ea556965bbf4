"""Damaged FITS files are read or refused in a sentence; tests/benchmarks/fuzz.py reads more."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import FitsSource


@pytest.fixture(scope="module")
def fuzz():
    """The command as a module."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.pop(0)


def test_the_undamaged_file_is_read(fuzz, tmp_path):
    path = tmp_path / "good.fits"
    path.write_bytes(fuzz.good_file())
    image = FitsSource(path).read()
    assert image.shape == (24, 32)
    assert image.psf is not None


def test_damaged_files_are_read_or_refused_in_a_sentence(fuzz, tmp_path):
    counts, failed = fuzz.run(300, 7, tmp_path)
    assert failed == []
    assert counts["read"] > 50
    assert counts["refused"] > 100


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("NAXIS", "99999999999"), ("NAXIS3", "-1"), ("GCOUNT", "-1"), ("PCOUNT", "-5"),
        ("BITPIX", "NaN"), ("BMAJ", "1d400x"),
    ],
)  # fmt: skip
def test_sizes_that_no_file_has_are_refused_at_once(fuzz, tmp_path, card, value):
    content = bytearray(fuzz.good_file())
    place = max(content.find(f"{card:8s}=".encode()), 0) or content.find(b"RADESYS ")
    content[place : place + 80] = f"{card:8s}= {value:>20s}".encode().ljust(80)
    path = tmp_path / "damaged.fits"
    path.write_bytes(bytes(content))
    assert fuzz.outcome(path).seconds < 2.0
    with pytest.raises(InputError, match=r"damaged|not a FITS file|beam"):
        FitsSource(path).read()


def test_mutations_are_of_a_seed(fuzz):
    good = fuzz.good_file()
    one, same, other = (fuzz.mutated(good, np.random.default_rng(k)) for k in (3, 3, 4))
    assert one == same != other
