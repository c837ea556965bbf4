"""Units, frequencies and beams of headers; headers of products."""

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from astropy.io import fits
from astropy.wcs import WCS
from sky_grids import CENTRE, GRIDS, make_header, make_wcs

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import sky_positions
from cyclades.stages.core.headers import (
    celestial_wcs,
    clean_header,
    header_beam,
    header_frequency,
    header_unit,
    parse_frequency,
    product_header,
    table_beam,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.planes import quiet
from cyclades.stages.core.tiling import Box
from cyclades.stages.core.units import parse_unit


def header_of(**cards):
    header = fits.Header()
    for keyword, value in cards.items():
        header[keyword] = value
    return header


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("JY/BEAM ", u.Jy / u.beam),
        ("Jy/bm", u.Jy / u.beam),
        ("Jy beam-1", u.Jy / u.beam),
        ("Jy beam^-1", u.Jy / u.beam),
        ("Jy/(beam)", u.Jy / u.beam),
        ("beam-1 Jy", u.Jy / u.beam),
        ("Jansky/beam", u.Jy / u.beam),
        ("janskys per beam", u.Jy / u.beam),
        ("Jy/beam.km/s", u.Jy / u.beam * u.km / u.s),
        ("JY/BEAM.KM/S", u.Jy / u.beam * u.km / u.s),
        ("mJy beam-1 m s-1", u.mJy / u.beam * u.m / u.s),
        ("K km/s", u.K * u.km / u.s),
        ("mJy/beam", u.mJy / u.beam),
        ("MJY/BEAM", u.mJy / u.beam),
        ("uJy/beam", u.uJy / u.beam),
        ("UJY/BEAM", u.uJy / u.beam),
        ("\u00b5Jy/beam", u.uJy / u.beam),
        ("Jy/pixel", u.Jy / u.pixel),
        ("JY/PIX", u.Jy / u.pixel),
        ("Jy", u.Jy),
        ("MJy/sr", u.MJy / u.sr),
        ("MJY/SR", u.MJy / u.sr),
        ("Jy/arcsec^2", u.Jy / u.arcsec**2),
        ("Jy/arcsec2", u.Jy / u.arcsec**2),
        ("K", u.K),
        ("KELVIN", u.K),
        ("mK", u.mK),
        ("counts", u.ct),
        ("ADU", u.adu),
        ("e-/s", u.electron / u.s),
        ("", u.dimensionless_unscaled),
        ("   ", u.dimensionless_unscaled),
        ("erg/s/cm2/Hz", u.erg / u.s / u.cm**2 / u.Hz),
        ("KJy/beam", u.kJy / u.beam),
        ("NJy/beam", u.nJy / u.beam),
    ],
)
def test_units(text, unit):
    assert parse_unit(text) == unit


@pytest.mark.parametrize("text", ["Jy/beam", "mJy/pixel", "Jy/beam.km/s", "K km/s", "MJy/sr"])
def test_units_of_products_are_read_back(text):
    image = SkyImage(np.zeros((4, 4), np.float32), parse_unit(text))
    assert header_unit(product_header(image)) == parse_unit(text)


def test_unit_that_is_not_understood(caplog):
    assert parse_unit("flux (arbitrary)") is None
    assert header_unit(header_of(BUNIT="flux, I think")) == u.dimensionless_unscaled
    assert "flux, I think" in caplog.text
    assert header_unit(header_of()) == u.dimensionless_unscaled


@pytest.mark.parametrize(
    ("value", "hertz"),
    [("1.4GHz", 1.4e9), ("150 MHz", 1.5e8), ("1.4e9", 1.4e9), (3e9, 3e9), ("21cm", 1.4275831e9)],
)
def test_frequency_as_people_write_it(value, hertz):
    assert parse_frequency(value) == pytest.approx(hertz)


@pytest.mark.parametrize("value", ["-1GHz", "blue", 0.0, float("nan"), "3 Jy", "", "1.4", 150.0])
def test_what_is_not_a_frequency_is_refused(value):
    with pytest.raises(ValueError, match="frequency"):
        parse_frequency(value)


@pytest.mark.parametrize(
    ("cards", "hertz"),
    [
        ({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CUNIT3": "Hz"}, 1.4e9),
        ({"CTYPE4": "FREQ-LSR", "CRVAL4": 1.4e9, "RESTFRQ": 1.42e9}, 1.4e9),
        ({"CTYPE3": "FREQ", "CRVAL3": 1400.0, "CUNIT3": "MHz"}, 1.4e9),
        ({"CTYPE3": "FREQ", "CRVAL3": 1400.0, "CUNIT3": "MHZ", "RESTFRQ": 1e9}, 1.4e9),
        ({"CTYPE3": "VRAD", "CRVAL3": 2997.92458, "CUNIT3": "KM/S", "RESTFREQ": 1e9}, 0.99e9),
        ({"CTYPE3": "LAMBDA", "CRVAL3": 0.2130681818}, 1.40702e9),
        ({"CTYPE3": "WAVE", "CRVAL3": 500.0, "CUNIT3": "nm"}, 5.99585e14),
        ({"CTYPE3": "VOPT", "CRVAL3": 0.0, "CUNIT3": "m/s", "RESTFRQ": 1.65e10}, 1.65e10),
        ({"CTYPE3": "VRAD", "CRVAL3": 2997.92458, "CUNIT3": "km/s", "RESTFREQ": 1e9}, 0.99e9),
        ({"CTYPE3": "VOPT", "CRVAL3": 2997.92458, "CUNIT3": "km/s", "RESTFRQ": 1.01e9}, 1e9),
        ({"RESTFRQ": 1.42e9}, 1.42e9),
        ({"RESTFREQ": 1.42e9}, 1.42e9),
        ({"RESTFRQ": 0.0, "FREQ": 8.4e9}, 8.4e9),
        ({"FREQ": 8.4e9}, 8.4e9),
        ({"CTYPE3": "FREQ", "CRVAL3": 0.0, "RESTFRQ": 1e9}, 1e9),
        ({"CTYPE3": "VELO", "CRVAL3": 1e4}, np.nan),
        ({"CTYPE3": "FREQ", "CRVAL3": "unknown"}, np.nan),
        ({}, np.nan),
    ],
)
def test_frequency_of_a_header(cards, hertz):
    assert header_frequency(header_of(**cards)) == pytest.approx(hertz, rel=1e-5, nan_ok=True)


def test_frequency_of_a_plane():
    header = header_of(CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=2.0, CDELT3=1e7)
    assert header_frequency(header, {3: 4}) == pytest.approx(1.03e9)
    assert header_frequency(header, {3: 1}) == pytest.approx(1e9)
    assert header_frequency(header) == pytest.approx(1e9)


def arcsec(beam):
    return (beam.major * 3600, beam.minor * 3600, beam.position_angle)


AIPS = "AIPS   CLEAN BMAJ=  1.5000E-03 BMIN=  1.2500E-03 BPA= -10.00"
CASA = (
    "Sun May 5 05:30:47 2013  HISTORY imager::clean() [] Fitted beam used in",
    "> restoration: 61.4929 by 23.7484 (arcsec) at pa 13.5456 (deg)",
)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"BMAJ": 0.0015, "BMIN": 0.00125, "BPA": 30.0}, (5.4, 4.5, 30)),
        ({"BMAJ": 0.0015, "BMIN": 0.00125}, (5.4, 4.5, 0)),
        ({"BMAJ": 0.0015}, (5.4, 5.4, 0)),
        ({"BMAJ": 0.0015, "BMIN": 0.00125, "BPA": -30.0}, (5.4, 4.5, 150)),
        ({"BMAJ": 0.00125, "BMIN": 0.0015, "BPA": 30.0}, (5.4, 4.5, 120)),
        ({"CLBMMAJ": 0.0015, "CLBMMIN": 0.00125, "CLBMPA": 5.0}, (5.4, 4.5, 5)),
        ({"CLEANBMJ": 0.0015, "CLEANBMN": 0.00125, "CLEANBPA": 5.0}, (5.4, 4.5, 5)),
        ({"BMAJ": 0.0, "BMIN": 0.0}, None),
        ({}, None),
    ],
)
def test_beam_of_cards(cards, expected):
    beam = header_beam(header_of(**cards))
    assert (beam is None) == (expected is None)
    if beam is not None:
        assert arcsec(beam) == pytest.approx(expected)


def test_beam_of_history():
    header = header_of()
    assert header_beam(header) is None
    header["HISTORY"] = "AIPS   IMAGR BMAJ=  5.4 BMIN= 5.4 BPA= 0.0 / in arcsec"
    header["HISTORY"] = "The synthesized beam has a FWHM of 5.4 arcsec"
    assert header_beam(header) is None
    header["HISTORY"] = "AIPS   CLEAN BMAJ=  9.9000E-03 BMIN=  9.9000E-03 BPA=   0.00"
    header["HISTORY"] = AIPS
    assert arcsec(header_beam(header)) == pytest.approx((5.4, 4.5, 170))
    for line in CASA:
        header["HISTORY"] = line
    assert arcsec(header_beam(header)) == pytest.approx((61.4929, 23.7484, 13.5456))
    header["HISTORY"] = "RESTOR: Beam =  6.500E+00 x  6.000E+00 arcsec, pa =  1.000E+00 degrees"
    assert arcsec(header_beam(header)) == pytest.approx((6.5, 6, 1))
    header["BMAJ"] = 0.002
    assert arcsec(header_beam(header)) == pytest.approx((7.2, 7.2, 0))


@pytest.mark.parametrize("cards", [{"BMAJ": -0.001}, {"BMAJ": "unknown"},
                                   {"BMAJ": 0.001, "BMIN": -1.0}])  # fmt: skip
def test_absurd_beam_cards_name_the_remedy(cards):
    with pytest.raises(InputError, match=r"BMAJ.*--beam"):
        header_beam(header_of(**cards))


def beams_table(unit="arcsec"):
    channel = np.repeat(np.arange(3), 2)
    columns = [
        fits.Column("BMAJ", "E", unit, array=[6, 6, 8, 9, 7, 0]),
        fits.Column("BMIN", "E", unit, array=[5, 5, 5, 5, 5, 0]),
        fits.Column("BPA", "E", "deg", array=[10, 11, 20, 21, 30, 0]),
        fits.Column("CHAN", "J", array=channel),
        fits.Column("POL", "J", array=[0, 1] * 3),
    ]
    return fits.BinTableHDU.from_columns(columns, name="BEAMS")


def test_beam_of_casa_table():
    table = beams_table()
    assert arcsec(table_beam(table, 1, 0)) == pytest.approx((8, 5, 20), rel=1e-6)
    assert arcsec(table_beam(table, 1, 1)) == pytest.approx((9, 5, 21), rel=1e-6)
    # a continuum plane takes the beam of median area; blank rows do not count
    assert arcsec(table_beam(table, None, None)) == pytest.approx((7, 5, 30), rel=1e-6)
    assert table_beam(table, 2, 1) is None
    assert table_beam(beams_table("deg"), 0, 0).major == pytest.approx(6)


@pytest.mark.parametrize("name", GRIDS)
def test_product_header_says_the_same_as_the_image(name):
    wcs = make_wcs(name)
    psf = PointSpread.from_beam(radio_beam.Beam(9 * u.arcsec, 6 * u.arcsec, 25 * u.deg), wcs)
    image = SkyImage(
        np.ones((121, 121)), unit=u.Jy / u.beam, wcs=wcs, psf=psf, frequency=1.4e9,
        header=header_of(OBJECT="field 1"),
    )  # fmt: skip
    part = image.cutout(Box(10, 60, 20, 90))
    for piece in (image, part):
        written = fits.PrimaryHDU(piece.data, product_header(piece))
        written.verify("exception")
        made = written.header
        assert made["NAXIS"] == 2
        assert made["BUNIT"] == "Jy/beam"
        assert made["OBJECT"] == "field 1"
        assert made["RESTFRQ"] == 1.4e9
        assert made["BMAJ"] * 3600 == pytest.approx(9, rel=1e-9)
        assert made["BMIN"] * 3600 == pytest.approx(6, rel=1e-9)
        assert made["BPA"] == pytest.approx(25, abs=1e-4)
        expected = {"galactic": (None, None), "fk5": ("FK5", 2000.0)}
        system = expected.get(name.split("_")[0], ("ICRS", None))
        assert (made.get("RADESYS"), made.get("EQUINOX")) == system
        again = WCS(made)
        x, y = [0.0, 40.0, 7.0], [0.0, 3.0, 45.0]
        offset = sky_positions(again, x, y).separation(sky_positions(piece.wcs, x, y))
        assert offset.arcsec.max() < 1e-5


def test_product_header_without_anything():
    made = product_header(SkyImage(np.ones((2, 3))), u.dimensionless_unscaled)
    assert made["BUNIT"] == ""
    assert "CTYPE1" not in made
    assert product_header(SkyImage(np.ones((2, 3)), unit=u.K))["BUNIT"] == "K"


@pytest.mark.parametrize("cards", [{"EQUINOX": 0.0}, {"EPOCH": 0.0}, {"RADESYS": "GAPPT?"}])
def test_impossible_reference_systems_are_left_out(cards):
    header = make_header("sin")
    del header["RADESYS"]
    header.update(cards)
    wcs = celestial_wcs(clean_header(header))
    position = sky_positions(wcs, header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    assert position.ra.deg == pytest.approx(header["CRVAL1"], abs=1e-9)


def test_epoch_card_stands_for_equinox():
    header = make_header("sin")
    del header["RADESYS"]
    header["EPOCH"] = 1950.0
    wcs = celestial_wcs(clean_header(header))
    position = sky_positions(wcs, header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    assert abs(position.ra.deg - header["CRVAL1"]) > 0.5


@pytest.mark.parametrize(
    "cards",
    [
        {"CDELT1": 0.0, "CDELT2": 1.0},
        {"CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN"},
        {"CTYPE1": "RA---XXX", "CTYPE2": "DEC--XXX"},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CTYPE1": "RA---TAN", "CTYPE2": ""},
    ],
)
def test_unusable_sky_coordinates_are_left_out(cards):
    header = make_header("sin")
    if "CDELT1" in cards:
        for card in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            del header[card]
    header.update(cards)
    with quiet():
        assert celestial_wcs(header) is None


@pytest.mark.parametrize("system", ["ICRS", "FK5", "FK4"])
def test_galactic_image_with_an_equatorial_system_card_is_galactic(system):
    header = make_header("galactic_sin")
    header["RADESYS"], header["EQUINOX"] = system, 1950.0 if system == "FK4" else 2000.0
    wcs = celestial_wcs(clean_header(header))
    position = sky_positions(wcs, header["CRPIX1"] - 1, header["CRPIX2"] - 1)[0]
    assert position.separation(CENTRE).arcsec < 1e-6
    assert "RADESYS" not in product_header(SkyImage(np.ones((121, 121)), wcs=wcs))


def test_frames_that_are_not_known_are_left_out(caplog):
    header = make_header("tan")
    header["CTYPE1"], header["CTYPE2"] = "ELON-TAN", "ELAT-TAN"
    assert celestial_wcs(clean_header(header)) is None
    assert "cannot be used" in caplog.text


def test_icrs_product_has_no_equinox():
    header = make_header("sin")
    header["EQUINOX"] = 2000.0
    made = product_header(SkyImage(np.ones((121, 121)), wcs=WCS(header)))
    assert made["RADESYS"] == "ICRS"
    assert "EQUINOX" not in made
