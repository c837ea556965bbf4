"""What a survey of overlapping fields is, against the sky that was put into them."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from mocpy import MOC

from cyclades.stages.core.catalogue import read_catalogue
from tests.survey_fields import BEAM, PIXEL, RMS

NEAR = 0.5 * BEAM * PIXEL
"""Arcsec."""


@pytest.fixture(scope="module")
def catalogue(surveyed):
    return read_catalogue(surveyed / "survey.catalogue.fits")


@pytest.fixture(scope="module")
def sky(catalogue):
    return SkyCoord(catalogue.components["ra"], catalogue.components["dec"])


@pytest.fixture(scope="module")
def truth(survey_images):
    """Sources that lie well inside some field, and how many fields hold them."""
    paths, (ra, dec, peak) = survey_images
    holding = np.zeros(len(ra), int)
    for path in paths:
        x, y = WCS(fits.getheader(path)).all_world2pix(ra, dec, 0)
        size = fits.getheader(path)["NAXIS1"]
        holding += (np.minimum(x, y) > 8) & (np.maximum(x, y) < size - 9)
    inside = holding > 0
    return SkyCoord(ra[inside], dec[inside], unit="deg"), peak[inside], holding[inside]


def test_every_bright_source_stands_once(truth, catalogue, sky):
    positions, peak, _ = truth
    bright = peak > 12 * 1.5 * RMS  # S/N 12 in the worst field
    assert bright.sum() > 10
    near = positions[bright][:, None].separation(sky[None, :]).arcsec < NEAR
    assert (near.sum(1) == 1).all()
    rows = near.argmax(1)
    error = catalogue.components["peak_flux_err"][rows].value
    pull = (catalogue.components["peak_flux"][rows].value - peak[bright]) / error
    assert abs(np.mean(pull)) < 4 / np.sqrt(len(pull)) + 0.5
    # fields did find them more than once
    assert catalogue.components["n_fields"][rows].max() >= 2


def test_nothing_stands_twice(catalogue, sky):
    one, other = np.triu_indices(len(sky), 1)
    close = sky[one].separation(sky[other]).arcsec < NEAR
    fields = catalogue.components["field"]
    assert not (close & (fields[one] != fields[other])).any()


def test_the_row_of_the_quietest_field_is_kept(surveyed, catalogue, sky):
    looked = 0
    parts = {
        path.name.partition(".")[0]: read_catalogue(path).components
        for path in (surveyed / "fields").glob("*.catalogue.fits")
    }
    for row, here in zip(catalogue.components, sky, strict=True):
        if row["n_fields"] < 2:
            continue
        noise = {}
        for name, part in parts.items():
            near = SkyCoord(part["ra"], part["dec"]).separation(here).arcsec < NEAR
            if near.sum() == 1 and part["flags"][near][0] == 0:
                noise[name] = part["local_rms"][near][0]
        if row["field"] in noise and len(noise) == row["n_fields"]:
            looked += 1
            assert row["local_rms"] == min(noise.values())
    assert looked > 8


def test_the_tables_refer_to_each_other(catalogue):
    tables = catalogue.tables
    for name, key in (("components", "component_id"), ("sources", "source_id"),
                      ("islands", "island_id")):  # fmt: skip
        table = tables[name]
        assert list(table[key]) == list(range(1, len(table) + 1))
        assert len(set(table["name"])) == len(table)
        assert (np.diff(table["ra"].value) >= 0).all()
    components, sources, islands = tables.values()
    for key, others in (("source_id", sources), ("island_id", islands)):
        at = np.searchsorted(others[key], components[key])
        assert (np.asarray(others[key])[at] == components[key]).all()
        assert (np.asarray(others["field"])[at] == components["field"]).all()
    of = np.asarray(sources["total_flux"])[np.asarray(components["source_id"]) - 1]
    alone = np.asarray(components["n_components"]) == 1
    np.testing.assert_allclose(of[alone], np.asarray(components["total_flux"])[alone])


def test_sky_that_fields_share_counts_once(surveyed, survey_images):
    pixels = (128 + 2 * 96) ** 2
    expected = pixels * (PIXEL / 3600) ** 2
    area = Table.read(surveyed / "survey.area.ecsv")
    assert area["area"][-1] == pytest.approx(expected, rel=0.02)
    moc = MOC.load(str(surveyed / "survey.moc.fits"), format="fits")
    degrees = moc.sky_fraction * 41252.96
    assert expected < degrees < 1.15 * expected
    # of two fields the quieter one counts
    assert 0.9 * RMS < area["rms"][0] < area["rms"][-1] < 1.9 * RMS
    np.testing.assert_allclose(area["limit"], 5.5 * area["rms"], rtol=1e-5)


def test_fields_hold_what_is_expected_of_them(surveyed):
    table = Table.read(surveyed / "summary.ecsv")
    assert (table["state"] == "done").all()
    difference = table["sources"].sum() - table["expected"].sum()
    # sources cluster by chance: Poisson errors of both, of the same sources
    assert abs(difference) < 4 * np.sqrt(table["expected"].sum())
    assert not "".join(np.ma.filled(table["outlier"], ""))
    np.testing.assert_allclose(table["residual_rms"], 1.0, atol=0.1)
    assert table["kept"].sum() == len(Table.read(surveyed / "survey.catalogue.fits", hdu=1))
    assert (table["shared"] > 0).all()


def test_corrections_and_counts(surveyed):
    corrections = Table.read(surveyed / "survey.corrections.ecsv")
    assert corrections["injected"].sum() > 9 * 3
    assert (corrections["found"] <= corrections["injected"]).all()
    bright = corrections["snr_low"] >= 10
    injected = corrections["injected"][bright].sum()
    assert injected > 15
    assert corrections["found"][bright].sum() >= injected - 2
    counts = Table.read(surveyed / "survey.counts.ecsv")
    sources = Table.read(surveyed / "survey.catalogue.fits", hdu=2)
    assert counts["number"].sum() == len(sources)
    assert (counts["correction"] > 0).all()
    assert counts.meta is not None
    assert (surveyed / "survey.png").read_bytes()[:4] == b"\x89PNG"


def test_every_field_has_its_files_and_its_log(surveyed, survey_images):
    for path in survey_images[0]:
        assert (surveyed / "fields" / f"{path.stem}.catalogue.fits").exists()
        assert "attempt 1" in (surveyed / "logs" / f"{path.stem}.log").read_text()
    left = [p for p in surveyed.rglob(".*") if p.name != ".journal.sqlite.lock"]
    assert not left
