"""Forced measurement of catalogues on images: positions, beams, rows, limits."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from fields import RMS, make_prior, observe, positions, sky_wcs
from skies import correlated_noise

import cyclades
from cyclades.pipeline.measurement.forced import measure_at
from cyclades.pipeline.measurement.prior import read_prior
from cyclades.pipeline.measurement.rows import upper_limits
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.schema import column, columns
from cyclades.stages.core.source import ImageSet, MemorySource

SIZE = (600, 600)


def value(table, name):
    return np.asarray(getattr(table[name], "value", table[name]), float)


def pulls(table, truth):
    return (value(table, "total_flux") - truth) / value(table, "total_flux_err")


def check_pulls(pull):
    n = len(pull)
    assert abs(np.mean(pull)) < 4 / np.sqrt(n)
    assert 1 - 4 / np.sqrt(2 * n) < np.std(pull) < 1 + 4 / np.sqrt(2 * n)


def test_other_pixels_and_another_beam_give_the_same_total_flux():
    rng = np.random.default_rng(1)
    ra, dec = positions(SIZE, 42, rng, sky_wcs(SIZE))
    n = len(ra)
    size = np.column_stack([np.where(np.arange(n) % 2, 12.0, 0), np.where(np.arange(n) % 2, 5.0, 0),
                            rng.uniform(0, 180, n)])  # fmt: skip
    total = np.full(n, 30 * RMS)
    prior = make_prior(ra, dec, shape=size, resolved=size[:, 0] > 0)
    for wcs, beam in (
        (sky_wcs(SIZE), (10.0, 8.0, 30.0)),
        (sky_wcs((500, 500), 3.0, 35.0, kind=("RA---TAN", "DEC--TAN")), (20.0, 15.0, -50.0)),
        (sky_wcs((900, 900), 1.4, 190.0), (6.0, 5.0, 0.0)),
    ):
        shape = (int(wcs.wcs.crpix[1] * 2 - 1),) * 2
        image, flat = observe(ra, dec, total, rng, intrinsic=size, beam=beam, wcs=wcs, shape=shape)
        found = measure_at(image, prior, background=flat).components
        assert not (np.asarray(found["flags"]) & Flag.NOT_COVERED).any()
        check_pulls(pulls(found, total))
        np.testing.assert_array_equal(value(found, "ra"), ra)
        np.testing.assert_allclose(value(found, "psf_major"), beam[0], rtol=1e-3)
        wide = size[:, 0] > 0
        np.testing.assert_allclose(value(found, "deconvolved_major")[wide], 12.0, rtol=1e-3)
        turn = value(found, "deconvolved_position_angle")[wide] - size[wide, 2]
        np.testing.assert_allclose((turn + 90) % 180 - 90, 0, atol=0.2)


def test_limits_cover_faint_sources():
    rng = np.random.default_rng(2)
    shape = (900, 900)
    ra, dec = positions(shape, 20, rng, sky_wcs(shape))
    n = len(ra)
    total = RMS * np.tile([0.0, 1.0, 2.5, 4.0], n // 4 + 1)[:n]
    image, flat = observe(ra, dec, total, rng, shape=shape)
    found = measure_at(image, make_prior(ra, dec), background=flat, significance=2.0).components
    limit, error = value(found, "total_flux_limit"), value(found, "total_flux_err")
    is_limit = np.asarray(found["total_flux_is_limit"])
    assert (limit >= 2.0 * error).all()
    for flux in np.unique(total):
        rows = total == flux
        miss = np.mean(limit[rows] < flux)
        if flux < 2.0 * error.min():
            assert miss == 0.0
        else:
            # the one-sided tail of 2 sigma, 2.3 percent
            assert abs(miss - 0.0228) < 4 * np.sqrt(0.0228 / rows.sum())
    assert is_limit[total == 0].mean() > 0.95
    assert not is_limit[total > 3.9 * RMS].all()
    assert upper_limits(np.array([np.nan]), np.array([1.0]), 3.0)["total_flux_is_limit"] == [False]


def test_rows_names_and_numbers_are_those_of_the_prior(tmp_path):
    image, _ = simulated(3)
    first = cyclades.Pipeline.from_route("classical").run(image).catalogue
    again = measure_at(image, first)
    for table, key in (("components", "component_id"), ("sources", "source_id"),
                       ("islands", "island_id")):  # fmt: skip
        for name in ("name", key):
            np.testing.assert_array_equal(first.tables[table][name], again.tables[table][name])
        wanted = [c.name for c in columns(table)]
        assert again.tables[table].colnames[: len(wanted)] == wanted
    for name in ("source_id", "island_id", "ra", "ra_err", "dec_err", "resolved"):
        np.testing.assert_allclose(
            value(again.components, name), value(first.components, name), rtol=1e-4
        )
    ratio = value(again.components, "total_flux") / value(first.components, "total_flux")
    assert abs(np.median(ratio) - 1) < 0.05
    extra = again.components["total_flux_limit"].info
    assert extra.description == column("components", "total_flux_limit").description
    for suffix in ("fits", "ecsv", "vot", "parquet"):
        again.write(tmp_path / f"x.{suffix}")
        assert read_catalogue(tmp_path / f"x.{suffix}") == again
    # A subset, in another order, keeps its rows too.
    rows = np.array([5, 2, 9])
    part = measure_at(image, first.components[rows]).components
    np.testing.assert_array_equal(part["name"], first.components["name"][rows])
    np.testing.assert_array_equal(part["component_id"], first.components["component_id"][rows])


def simulated(seed):
    rng = np.random.default_rng(seed)
    ra, dec = positions(SIZE, 40, rng, sky_wcs(SIZE))
    total = RMS * np.exp(rng.uniform(np.log(8), np.log(100), len(ra)))
    image, _ = observe(ra, dec, total, rng, frequency=1.4e9)
    return image, (ra, dec, total)


def test_sources_of_several_components_have_right_errors():
    rng = np.random.default_rng(4)
    ra, dec = positions(SIZE, 40, rng, sky_wcs(SIZE))
    n = len(ra)
    # 3 arcsec apart: a third of the beam of this image
    ra, dec = np.concatenate([ra, ra]), np.concatenate([dec, dec + 3 / 3600])
    number = np.tile(np.arange(n) + 1, 2)
    total = np.full(2 * n, 15 * RMS)
    image, flat = observe(ra, dec, total, rng)
    prior = make_prior(ra, dec, source_id=number, island_id=number, total_flux=total)
    made = measure_at(image, prior, background=flat)
    check_pulls(pulls(made.sources, 30 * RMS))
    check_pulls(pulls(made.components, 15 * RMS)[:n])
    assert np.median(value(made.components, "total_flux_err")) > 1.5 * RMS
    assert np.median(value(made.sources, "total_flux_err")) < 1.2 * RMS
    assert (np.asarray(made.sources["n_components"]) == 2).all()


def test_without_sky_coordinates_pixels_are_used():
    rng = np.random.default_rng(5)
    image = SkyImage(
        correlated_noise((100, 100), rng, np.eye(2) * 4).astype(np.float32),
        psf=PointSpread(np.eye(2) * 4.0),
    )
    image.data[:] += 50 * np.exp(
        -0.125 * ((np.arange(100) - 30.3)[None, :] ** 2 + (np.arange(100) - 60)[:, None] ** 2)
    ).astype(np.float32)
    found = measure_at(image, Table({"x": [30.3, 70.0], "y": [60.0, 20.0]})).components
    assert abs(value(found, "peak_flux")[0] - 50) < 5
    assert abs(value(found, "peak_flux")[1]) < 5
    assert "ra" not in found.colnames
    with pytest.raises(InputError, match="columns x and y"):
        measure_at(image, Table({"ra": [1.0], "dec": [1.0]}))


def test_positions_on_the_far_side_of_the_sky_are_not_covered():
    image, (ra, dec, _) = simulated(6)
    prior = Table({"ra": [*ra[:3], 330.0, np.nan], "dec": [*dec[:3], 30.0, 0.0]})
    made = measure_at(image, prior)
    lost = np.asarray(made.components["flags"]) & Flag.NOT_COVERED > 0
    assert lost.tolist() == [False, False, False, True, True]
    for table in made.tables.values():
        assert np.isnan(value(table, "peak_flux")).tolist() == lost.tolist()
        assert np.isnan(value(table, "local_rms")).tolist() == lost.tolist()
    assert np.isnan(value(made.components, "total_flux_limit")).tolist() == lost.tolist()


def test_columns_with_units_of_their_own_are_honoured():
    image, (ra, dec, total) = simulated(7)
    made = measure_at(image, Table({"ra": ra * u.deg, "dec": (dec * 60) * u.arcmin}))
    assert np.std(pulls(made.components, total)) < 1.3


@pytest.mark.parametrize("layout", ["aegean", "pybdsf_gaul"])
def test_shapes_of_other_source_finders_are_used(tmp_path, layout):
    rng = np.random.default_rng(9)
    ra, dec = positions(SIZE, 60, rng, sky_wcs(SIZE))
    n = len(ra)
    size = np.tile([20.0, 12.0, 70.0], (n, 1))
    total = np.full(n, 0.3)
    image, _ = observe(ra, dec, total, rng, intrinsic=size)
    catalogue = cyclades.Pipeline.from_route("classical").run(image).catalogue
    catalogue.export(layout).write(tmp_path / "other.fits")
    target, flat = observe(ra, dec, total, rng, intrinsic=size, beam=(30.0, 25.0, 0.0))
    found = measure_at(target, tmp_path / "other.fits", background=flat).components
    flux = value(found, "total_flux")
    assert len(flux) == n
    # shapes were measured at 100 sigma, and carried to a beam that hides them
    assert abs(np.median(flux) / 0.3 - 1) < 0.02
    points = measure_at(target, Table({"ra": ra, "dec": dec}), background=flat).components
    assert np.median(value(points, "total_flux")) < 0.25


def test_errors_are_clear():
    image, (ra, dec, _) = simulated(8)
    prior = Table({"ra": ra, "dec": dec})
    with pytest.raises(InputError, match="no columns ra and dec"):
        measure_at(image, Table({"RAJ2000": ra}))
    with pytest.raises(InputError, match="no rows"):
        measure_at(image, prior[:0])
    with pytest.raises(InputError, match="more than once"):
        measure_at(image, Table({"ra": ra, "dec": dec, "component_id": np.ones(len(ra), int)}))
    with pytest.raises(InputError, match="no beam"):
        measure_at(image.replace(psf=None), prior)
    with pytest.raises(InputError, match="measure_planes"):
        measure_at(ImageSet({"a": MemorySource(image)}, "a"), prior)
    with pytest.raises(ConfigurationError, match="at most 2 beams"):
        measure_at(image, prior, free_positions=5.0)
    with pytest.raises(ConfigurationError, match="must be positive"):
        measure_at(image, prior, significance=0)


def test_tables_as_people_have_them():
    ra, dec = np.array([10.0, 11.0, 12.0]), np.array([20.0, 21.0, -99.0])
    table = Table(
        {
            "ra": MaskedColumn(ra, mask=[False, True, False], unit="deg"),
            "dec": MaskedColumn(dec, mask=[False, True, False], unit="deg"),
            "source_id": ["RACS_1", "RACS_2", "RACS_1"],
            "x": [1.0, 2.0, 3.0] * u.mm,
        }
    )
    prior = read_prior(table)
    assert np.isnan(prior["ra"]).tolist() == [False, True, False]
    assert np.isnan(prior["dec"]).tolist() == [False, True, True]
    assert prior["source_id"].tolist() == [1, 2, 1]
    hours = Table({"ra": ["12:00:00"], "dec": ["30:00:00"]})
    with pytest.raises(InputError, match="positions in degrees"):
        read_prior(hours)
