"""Several images: spectral indices, light curves, polarisation."""

import astropy.units as u
import numpy as np
import pytest
from fields import RMS, make_prior, observe, positions, sky_wcs

from cyclades.pipeline.measurement.planes import (
    check_names,
    measure_planes,
    plane_suffix,
    stokes_of,
    time_of,
)
from cyclades.pipeline.measurement.polarisation import UNKNOWN_ANGLE, debias, polarisation
from cyclades.pipeline.measurement.spectra import spectral_index
from cyclades.pipeline.measurement.variability import variability
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import BlankImageError, InputError
from cyclades.stages.core.schema import column
from cyclades.stages.core.source import ImageSet, MemorySource

SIZE = (500, 500)


def value(table, name):
    return np.asarray(getattr(table[name], "value", table[name]), float)


def check_pulls(pull, *, bias=0.0, spread=0.0):
    n = len(pull)
    assert abs(np.mean(pull)) < bias + 4 / np.sqrt(n)
    assert abs(np.std(pull) - 1) < spread + 4 / np.sqrt(2 * n)


@pytest.mark.parametrize("snr", [7.0, 50.0])
def test_spectral_indices_are_recovered(snr):
    rng = np.random.default_rng(1)
    n, nu = 4000, np.array([0.8e9, 1.4e9, 3.0e9])
    alpha = rng.normal(-0.7, 0.3, n)
    true = snr * (nu / 1.4e9) ** alpha[:, None]
    found = spectral_index(true + rng.standard_normal((n, 3)), np.ones((n, 3)), nu)
    good = np.isfinite(found["spectral_index"])
    assert good.mean() > 0.97
    pull = ((found["spectral_index"] - alpha) / found["spectral_index_err"])[good]
    # the index is not linear in the fluxes: at 7 sigma its errors are a little skewed
    check_pulls(pull, bias=0.05 if snr < 10 else 0.0, spread=0.05 if snr < 10 else 0.0)
    assert abs(found["spectral_chi2"][good].mean() - 1) < 0.05 + 4 * np.sqrt(2 / n)


def test_exact_power_laws_give_their_index_in_any_unit():
    nu = np.array([1e8, 3e8, 1e9, 3e9])
    for scale in (1e-9, 1.0, 1e9):
        for alpha in (-3.0, 0.0, 2.0):
            flux = scale * (nu / 5e8)[None, :] ** alpha
            found = spectral_index(flux, 0.01 * flux, nu)
            assert found["spectral_index"][0] == pytest.approx(alpha, abs=1e-6)
            # ordinary propagation of errors of the logarithms
            spread = np.log(nu) - np.log(nu).mean()
            assert found["spectral_index_err"][0] == pytest.approx(
                0.01 / np.sqrt((spread**2).sum()), rel=1e-6
            )


def test_images_without_a_detection_count_with_their_flux():
    nu = np.array([1e9, 1.5e9, 2e9])
    # two detections, and a third image that sees nothing, or less than nothing
    flux, error = np.array([[20.0, 9.0, -0.5], [20.0, 9.0, np.nan]]), np.ones((2, 3))
    found = spectral_index(flux, error, nu)
    steep, alone = found["spectral_index"]
    assert steep < alone
    assert found["spectral_planes"].tolist() == [3, 2]
    assert alone == pytest.approx(np.log(9 / 20) / np.log(1.5), abs=1e-6)
    assert np.isnan(found["spectral_index_max"]).all()


def test_limits_bound_the_index_of_a_single_detection():
    nu = np.array([1e9, 2e9, 4e9])
    flux = np.array([[30.0, 1.0, -2.0], [-1.0, 2.0, 30.0], [1.0, 30.0, 1.0], [1.0, 1.0, 1.0]])
    found = spectral_index(flux, np.ones((4, 3)), nu)
    assert np.isnan(found["spectral_index"]).all()
    low, high = found["spectral_index_min"], found["spectral_index_max"]
    # 3 sigma above the positive part: 4 at 2 GHz, 3 at 4 GHz; the tighter one counts
    assert high[0] == pytest.approx(np.log(4 / 30) / np.log(2))
    assert low[1] == pytest.approx(np.log(30 / 5) / np.log(2))
    assert low[2] == pytest.approx(np.log(30 / 4) / np.log(2))
    assert high[2] == pytest.approx(np.log(4 / 30) / np.log(2))
    assert np.isnan([low[0], high[1], low[3], high[3]]).all()
    rng = np.random.default_rng(2)
    true = 8.0 * np.array([1.0, 0.1]) ** np.ones((2000, 1))
    many = spectral_index(true + rng.standard_normal((2000, 2)), np.ones((2000, 2)), nu[:2])
    assert np.mean(many["spectral_index_max"] < np.log(0.1) / np.log(2)) < 0.01


def test_frequencies_must_differ_and_be_known():
    one = np.ones((1, 2))
    with pytest.raises(InputError, match="needs two"):
        spectral_index(one, one, [1e9, 1e9])
    with pytest.raises(InputError, match="unknown"):
        spectral_index(one, one, [1e9, np.nan])


def test_indices_from_images_with_other_pixels_and_beams():
    rng = np.random.default_rng(3)
    wcs = sky_wcs(SIZE)
    ra, dec = positions(SIZE, 30, rng, wcs)
    n = len(ra)
    alpha = rng.uniform(-1.2, 0.2, n)
    images = {}
    for name, nu, beam, grid in (
        ("low", 0.9e9, (12.0, 10.0, 20.0), sky_wcs((360, 360), 3.0, 20.0)),
        ("mid", 1.4e9, (10.0, 8.0, 30.0), wcs),
        ("high", 2.8e9, (6.0, 6.0, 0.0), sky_wcs((740, 740), 1.5)),
    ):
        shape = (int(grid.wcs.crpix[0] * 2 - 1),) * 2
        total = 40 * RMS * (nu / 1.4e9) ** alpha
        images[name], _ = observe(
            ra, dec, total, rng, beam=beam, shape=shape, wcs=grid, frequency=nu
        )
    made = measure_planes(images, make_prior(ra, dec))
    joined = made.spectra()
    for table in (joined.components, joined.sources):
        pull = (value(table, "spectral_index") - alpha) / value(table, "spectral_index_err")
        # noise and level are measured here, which adds a little
        check_pulls(pull, bias=0.1, spread=0.05)
        assert table["total_flux_high"].unit == table["total_flux"].unit
    assert joined.components["spectral_index"].info.description.startswith("power-law index")


def test_a_joined_catalogue_survives_its_files(tmp_path):
    made, *_ = epochs(np.random.default_rng(4), 2)
    joined = made.light_curves()
    for suffix in ("fits", "ecsv"):
        joined.write(tmp_path / f"x.{suffix}")
        assert read_catalogue(tmp_path / f"x.{suffix}") == joined


def test_variability_indices_follow_their_definitions():
    rng = np.random.default_rng(5)
    n, epochs = 5000, 8
    error = rng.uniform(0.5, 2.0, (n, epochs))
    steady = 10 + error * rng.standard_normal((n, epochs))
    found = variability(steady, error)
    # (N - 1) eta is chi-squared with N - 1 degrees of freedom
    chi2 = (epochs - 1) * found["variability_eta"]
    assert abs(chi2.mean() - 7) < 4 * np.sqrt(14 / n)
    assert abs(chi2.var() - 14) < 4 * np.sqrt((12 * 14 + 2 * 14**2) / n) * 1.5
    check_pulls((found["mean_flux"] - 10) / found["mean_flux_err"])
    w = error**-2
    eta = epochs / (epochs - 1) * ((w * steady**2).mean(1) - (w * steady).mean(1) ** 2 / w.mean(1))
    np.testing.assert_allclose(found["variability_eta"], eta, rtol=1e-9)
    np.testing.assert_allclose(
        found["variability_v"], steady.std(1, ddof=1) / steady.mean(1), rtol=1e-9
    )
    gaps = variability([[1.0, np.nan, 3.0], [1.0, np.nan, np.nan]], np.ones((2, 3)))
    assert gaps["n_epochs"].tolist() == [2, 1]
    assert gaps["variability_v"][0] == pytest.approx(np.sqrt(2) / 2)
    assert np.isnan(gaps["variability_v"][1])
    assert np.isnan(gaps["variability_eta"][1])


def epochs(rng, count=5):
    wcs = sky_wcs(SIZE)
    ra, dec = positions(SIZE, 30, rng, wcs)
    total = np.full(len(ra), 15 * RMS)
    images = {}
    for k in range(count):
        flux = total.copy()
        flux[0] *= 1 + 0.5 * np.sin(k)
        flux[1] = 25 * RMS if k == 1 else 0.0
        images[f"e{k}"], _ = observe(ra, dec, flux, rng)
    prior = make_prior(ra, dec)
    return measure_planes(images, prior, times={f"e{k}": 59000.0 + k for k in range(count)}), ra


def test_light_curves_find_what_varies():
    made, ra = epochs(np.random.default_rng(6))
    table = made.light_curves().components
    eta = value(table, "variability_eta")
    assert set(np.argsort(eta)[-2:]) == {0, 1}
    steady = 4 * eta[2:]
    assert abs(steady.mean() - 4) < 0.4 + 4 * np.sqrt(8 / len(steady))
    curve = made.light_curve_table()
    assert len(curve) == 5 * len(ra)
    first = curve[curve["component_id"] == 2]
    assert np.asarray(first["mjd"]).tolist() == [59000.0 + k for k in range(5)]
    assert np.asarray(first["total_flux_is_limit"]).tolist() == [True, False, True, True, True]


def test_an_image_set_is_measured_plane_by_plane():
    rng = np.random.default_rng(7)
    ra, dec = positions(SIZE, 50, rng, sky_wcs(SIZE))
    planes = {}
    for name, scale in (("I", 40.0), ("Q", -6.0), ("U", 8.0), ("V", 0.0)):
        image, _ = observe(ra, dec, np.full(len(ra), scale * RMS), rng)
        planes[name] = MemorySource(image)
    made = measure_planes(ImageSet(planes, "I"), make_prior(ra, dec))
    table = made.polarisation().components
    n = len(table)
    check_pulls((value(table, "polarised_flux") - 10 * RMS) / value(table, "polarised_flux_err"),
                bias=0.1, spread=0.05)  # fmt: skip
    truth = np.degrees(0.5 * np.arctan2(8, -6))
    check_pulls((value(table, "polarisation_angle") - truth)
                / value(table, "polarisation_angle_err"), bias=0.1, spread=0.05)  # fmt: skip
    assert abs(np.mean(value(table, "polarised_fraction")) - 0.25) < 4 * 0.03 / np.sqrt(n)
    assert abs(np.mean(value(table, "circular_fraction"))) < 4 * 0.03 / np.sqrt(n)
    with pytest.raises(InputError, match="needs I, Q and U"):
        measure_planes({"I": planes["I"]}, make_prior(ra, dec)).polarisation()


@pytest.mark.parametrize("snr", [3.0, 5.0, 20.0])
def test_polarised_intensity_is_debiased(snr):
    rng = np.random.default_rng(8)
    n = 20000
    angle = rng.uniform(0, np.pi, n)
    error = {"I": np.ones(n), "Q": np.ones(n), "U": np.full(n, 1.0)}
    flux = {
        "I": np.full(n, 100.0),
        "Q": snr * np.cos(2 * angle) + rng.standard_normal(n),
        "U": snr * np.sin(2 * angle) + rng.standard_normal(n),
    }
    found = polarisation(flux, error)
    raw = np.hypot(flux["Q"], flux["U"])
    # without it, intensities are too high by 1 / (2 S/N)
    assert np.mean(raw) - snr > 0.8 / (2 * snr)
    assert abs(np.mean(found["polarised_flux"]) - snr) < 0.25 / (2 * snr) + 4 / np.sqrt(n)
    turn = (found["polarisation_angle"] - np.degrees(angle) + 90) % 180 - 90
    check_pulls(turn / found["polarisation_angle_err"], spread=0.1 if snr < 4 else 0.06)
    assert np.mean(found["polarised_flux_limit"] < snr) < 0.01


def test_debiasing_is_the_textbook_one_at_high_signal_to_noise_and_never_negative():
    p = np.array([10.0, 30.0])
    np.testing.assert_allclose(debias(p, 1.0), np.sqrt(p**2 - 1), rtol=2e-5)
    low = debias(np.linspace(0, 4, 50), 1.0)
    assert (low >= 0).all()
    assert (np.diff(low) > 0).all()
    # Q and U of different errors: only the error across the direction biases
    found = polarisation(
        {"I": [100.0], "Q": [10.0], "U": [0.0]}, {"I": [1.0], "Q": [2.0], "U": [1.0]}
    )
    assert found["polarised_flux"][0] == pytest.approx(np.sqrt(99), rel=1e-4)
    assert found["polarised_flux_err"][0] == 2.0
    nothing = polarisation(
        {"I": [1.0], "Q": [0.01], "U": [0.0]}, {"I": [1.0], "Q": [1.0], "U": [1.0]}
    )
    assert nothing["polarisation_angle_err"][0] == UNKNOWN_ANGLE
    assert nothing["polarised_flux_is_limit"][0]
    assert np.isnan(nothing["polarised_fraction"][0])


def test_headers_tell_time_and_stokes():
    from astropy.io.fits import Header

    rng = np.random.default_rng(9)
    image, _ = observe(np.zeros(0), np.zeros(0), np.zeros(0), rng, shape=(40, 40))
    assert np.isnan(time_of(image))
    assert time_of(image.replace(header=Header({"DATE-OBS": "2020-05-31T12:00:00"}))) == 59000.5
    assert time_of(image.replace(header=Header({"MJD-OBS": 58000.25}))) == 58000.25
    axis = {"NAXIS": 3, "NAXIS3": 1, "CTYPE3": "STOKES", "CRVAL3": 1.0, "CDELT3": 1.0}
    assert stokes_of(Header({**axis, "CRPIX3": 0.0})) == "Q"
    assert stokes_of(Header({**axis, "CRPIX3": 1.0})) == "I"
    assert stokes_of(Header({**axis, "NAXIS3": 4}), 3) == "V"
    assert stokes_of(Header()) == ""


@pytest.mark.parametrize(
    "name",
    ["spectral_index_err", "variability_eta", "polarised_flux", "total_flux_limit", "n_epochs"],
)
def test_further_columns_are_declared(name):
    from astropy.io.votable.ucd import check_ucd

    spec = column("components", name)
    assert spec.description
    assert check_ucd(spec.ucd, check_controlled_vocabulary=True)


@pytest.mark.parametrize("unit", ["K", "MJy/sr"])
def test_indices_of_surface_brightness_are_those_of_flux_density(unit):
    """A beam is another area in each image, so that fluxes in K beam do not compare."""
    ra, dec = positions(SIZE, 60, np.random.default_rng(3), sky_wcs(SIZE))
    images = {}
    for name, nu, beam in (("low", 1e9, (12.0, 10.0, 20.0)), ("high", 2e9, (8.0, 8.0, 0.0))):
        made, _ = observe(
            ra, dec, np.full(len(ra), 100 * RMS * (nu / 1e9) ** -0.7), np.random.default_rng(4),
            beam=beam, shape=SIZE, frequency=nu,
        )  # fmt: skip
        area = np.pi * beam[0] * beam[1] / (4 * np.log(2)) * u.arcsec**2
        flux = 1.0 * u.Jy / area
        scale = flux.to_value(unit, u.brightness_temperature(nu * u.Hz))
        images[name] = made.replace(data=made.data * np.float32(scale), unit=u.Unit(unit))
    joined = measure_planes(images, make_prior(ra, dec)).spectra()
    pull = (value(joined.components, "spectral_index") + 0.7) / value(
        joined.components, "spectral_index_err"
    )
    assert abs(np.mean(pull)) < 4 / np.sqrt(len(ra))
    assert value(joined.components, "total_flux_low").mean() > 10 * RMS  # in the image's own unit


def test_a_blank_channel_is_left_out(caplog):
    ra, dec = positions(SIZE, 60, np.random.default_rng(3), sky_wcs(SIZE))
    image, _ = observe(ra, dec, np.full(len(ra), 15 * RMS), np.random.default_rng(5))
    kept = measure_planes({"first": image, "flagged": Blank()}, make_prior(ra, dec))
    assert list(kept.catalogues) == ["first"]
    assert "flagged is left out" in caplog.text
    with pytest.raises(InputError, match="all of the images are blank"):
        measure_planes({"a": Blank(), "b": Blank()}, make_prior(ra, dec))


class Blank:
    """An image of which no pixel can be used."""

    def read(self):
        raise BlankImageError("cube.fits: the image is all blank; nothing can be measured.")


def test_names_of_planes_are_ascii_and_their_own():
    assert [plane_suffix(name) for name in ("\u00e91", "a-1.b", "\u65e5")] == ["e1", "a_1_b", "_"]
    with pytest.raises(InputError, match=r"columns of one name \(total_flux_a_1\)"):
        check_names(["a-1", "a_1"])
    check_names(["r", "R", "r1"])
