"""FITS images in: shapes, extensions, encodings, cubes, beams, errors, windows."""

import bz2
import gzip
import pickle
import tracemalloc
import warnings

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from astropy.io import fits
from astropy.wcs import WCS
from sky_grids import CENTRE, GRIDS, make_header, make_wcs

from cyclades import CycladesError, open_image, read_image
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.geometry import sky_positions
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.source import CombinedSource, ImageSet, MemorySource
from cyclades.stages.core.tiling import Box

DATA = np.random.default_rng(3).normal(0, 1, (40, 50)).astype(np.float32)
HEADER = make_header("sin")
HEADER["BUNIT"], HEADER["BMAJ"], HEADER["BMIN"], HEADER["BPA"] = "JY/BEAM", 9 / 3600, 6 / 3600, 25.0


def write(path, data=DATA, header=HEADER, **cards):
    header = header.copy() if header is not None else fits.Header()
    header.update(cards)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_plain_image(tmp_path):
    image = read_image(write(tmp_path / "field.1.fits", RESTFRQ=1.4e9))
    np.testing.assert_array_equal(image.data, DATA)
    assert image.data.dtype.isnative
    assert image.unit == u.Jy / u.beam
    assert image.frequency == 1.4e9
    assert image.beam.major.to_value("arcsec") == pytest.approx(9)
    assert image.name == "field.1"
    assert image.header["RADESYS"] == "ICRS"
    assert image.header["RESTFRQ"] == 1.4e9


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((1, 40, 50), "RA DEC STOKES"),
        ((1, 40, 50), "RA DEC FREQ"),
        ((1, 1, 40, 50), "RA DEC FREQ STOKES"),
        ((1, 1, 40, 50), "RA DEC STOKES FREQ"),
        ((1, 40, 50, 1), "STOKES RA DEC FREQ"),
        ((40, 1, 50), "RA FREQ DEC"),
    ],
)
def test_axes_of_length_one(tmp_path, shape, order):
    header, flat = fits.Header(), make_header("sin")
    for axis, kind in enumerate(order.split(), 1):
        sky = {"RA": 1, "DEC": 2}.get(kind)
        header[f"CTYPE{axis}"] = flat[f"CTYPE{sky}"] if sky else kind
        header[f"CRVAL{axis}"] = flat[f"CRVAL{sky}"] if sky else {"FREQ": 1.4e9, "STOKES": 1}[kind]
        header[f"CRPIX{axis}"] = flat[f"CRPIX{sky}"] if sky else 1.0
        header[f"CDELT{axis}"] = flat[f"CD{sky}_{sky}"] if sky else 1.0
    header["RADESYS"] = "ICRS"
    image = read_image(write(tmp_path / "a.fits", DATA.reshape(shape), header))
    np.testing.assert_array_equal(image.data, DATA)
    x, y = np.array([0.0, 49.0]), np.array([3.0, 39.0])
    offset = sky_positions(image.wcs, x, y).separation(sky_positions(make_wcs("sin"), x, y))
    assert offset.arcsec.max() < 1e-6
    assert np.isnan(image.frequency) == ("FREQ" not in order)


def test_a_plane_along_the_first_axis(tmp_path):
    data = np.stack([DATA, DATA + 1, DATA + 2], -1)
    header = fits.Header([("CTYPE1", "STOKES"), ("CRVAL1", 1.0)])
    path = write(tmp_path / "a.fits", data, header)
    # without sky coordinates nothing tells the image's axes but their order
    assert read_image(path, plane=4).shape == (50, 3)
    flat = make_header("sin")
    for axis in (1, 2):
        for card in ("CTYPE", "CRVAL", "CRPIX"):
            header[f"{card}{axis + 1}"] = flat[f"{card}{axis}"]
        header[f"CDELT{axis + 1}"] = flat[f"CD{axis}_{axis}"]
    path = write(tmp_path / "b.fits", data, header)
    np.testing.assert_array_equal(read_image(path, plane=2).data, DATA + 2)
    part = open_image(path, plane=1).window(Box(3, 9, 7, 30))
    np.testing.assert_array_equal(part.data, DATA[3:9, 7:30] + 1)


def cube(tmp_path, **cards):
    data = np.arange(5, dtype=np.float32)[None, :, None, None] + np.zeros((2, 5, 40, 50), "f4")
    data[1] += 100
    cards = {"CTYPE3": "FREQ", "CRVAL3": 1e9, "CDELT3": 1e7, "CRPIX3": 1.0, "CTYPE4": "STOKES",
             "CRVAL4": 1.0, "CDELT4": 1.0, "CRPIX4": 1.0, **cards}  # fmt: skip
    return write(tmp_path / "cube.fits", data, **cards)


def test_a_cube_needs_a_plane(tmp_path):
    path = cube(tmp_path)
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert "axis 3 (FREQ) has 5 planes and axis 4 (STOKES) has 2 planes" in message
    assert "--set image.plane=[0,0] (2 indices, counted from 0;" in message
    image = read_image(path, plane=(3, 1))
    assert (image.data == 103).all()
    assert image.frequency == pytest.approx(1.03e9)
    assert image.wcs.naxis == 2
    assert read_image(path, plane="3, 1").frequency == image.frequency
    with pytest.raises(InputError, match=r"no plane 5: axis 3 \(FREQ\) has 5 planes"):
        read_image(path, plane=(5, 0))
    with pytest.raises(InputError, match="2 indices"):
        read_image(path, plane=3)
    with pytest.raises(InputError, match="one plane"):
        read_image(write(tmp_path / "flat.fits"), plane=2)


def test_beam_of_a_plane_from_casa_table(tmp_path):
    path = cube(tmp_path, CASAMBM=True)
    with fits.open(path, mode="append") as file:
        for card in ("BMAJ", "BMIN", "BPA"):
            del file[0].header[card]
        rows = [(6.0 + c + 10 * p, 5.0, 20.0, c, p) for c in range(5) for p in range(2)]
        columns = [
            fits.Column(n, f, unit, array=[r[i] for r in rows])
            for i, (n, f, unit) in enumerate(
                [("BMAJ", "E", "arcsec"), ("BMIN", "E", "arcsec"), ("BPA", "E", "deg"),
                 ("CHAN", "J", None), ("POL", "J", None)]
            )
        ]  # fmt: skip
        file.append(fits.BinTableHDU.from_columns(columns, name="BEAMS"))
    beam = read_image(path, plane=(3, 1)).beam
    assert beam.major.to_value("arcsec") == pytest.approx(19)
    assert beam.pa.to_value("deg") == pytest.approx(20, abs=1e-4)


def test_extensions(tmp_path):
    path = tmp_path / "many.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])], name="LIST")
    fits.HDUList(
        [fits.PrimaryHDU(), table, fits.ImageHDU(DATA, HEADER, "SCI"), fits.ImageHDU(DATA + 1)]
    ).writeto(path)
    np.testing.assert_array_equal(read_image(path).data, DATA)
    np.testing.assert_array_equal(read_image(path, extension="sci").data, DATA)
    np.testing.assert_array_equal(read_image(path, extension=3).data, DATA + 1)
    np.testing.assert_array_equal(read_image(path, extension="3").data, DATA + 1)
    with pytest.raises(InputError, match=r"no extension 'ERR'.*2 SCI \(40x50\)"):
        read_image(path, extension="ERR")
    with pytest.raises(InputError, match="'LIST' is no image"):
        read_image(path, extension="LIST")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    with pytest.raises(InputError, match=r"holds no image .*LIST \(table\)"):
        read_image(tmp_path / "table.fits")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files(tmp_path, suffix, pack):
    plain = write(tmp_path / "a.fits")
    packed = tmp_path / f"a.fits{suffix}"
    packed.write_bytes(pack(plain.read_bytes()))
    source = open_image(packed)
    assert source.name == "a"
    part = source.window(Box(3, 9, 7, 30))
    np.testing.assert_array_equal(part.data, DATA[3:9, 7:30])
    np.testing.assert_array_equal(source.read().data, DATA)
    source.read().data[:] = 7  # what was handed out is not what is kept
    np.testing.assert_array_equal(source.window(Box(3, 9, 7, 30)).data, DATA[3:9, 7:30])


@pytest.mark.parametrize("kind", ["GZIP_2", "RICE_1"])
def test_tile_compressed_images(tmp_path, kind):
    path = tmp_path / "a.fits.fz"
    hdu = fits.CompImageHDU(DATA, HEADER, compression_type=kind, quantize_level=0.0
                            if kind == "GZIP_2" else 64)  # fmt: skip
    hdu.writeto(path)
    source = open_image(path)
    image = source.read()
    np.testing.assert_allclose(image.data, DATA, atol=0 if kind == "GZIP_2" else 0.05)
    np.testing.assert_array_equal(source.window(Box(3, 9, 7, 30)).data, image.data[3:9, 7:30])
    assert image.unit == u.Jy / u.beam
    assert image.psf is not None


def test_noise_quantised_to_zero_is_not_blank(tmp_path):
    """astropy compresses by default to steps of the noise, one of which is zero."""
    data = np.random.default_rng(2).normal(0.0, 1.0, (256, 256)).astype(np.float32)
    fits.CompImageHDU(data, HEADER).writeto(tmp_path / "a.fits.fz")
    made = open_image(tmp_path / "a.fits.fz").read().data
    assert np.count_nonzero(made == 0) > 100
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    ("data", "cards"),
    [
        (DATA.astype(">f8"), {}),
        (DATA.astype("<f4"), {}),
        (np.round(DATA * 100).astype(np.int16), {"BSCALE": 0.01}),
        (np.round(DATA * 100).astype(np.int32), {"BSCALE": 0.01, "BZERO": 2.0}),
        (np.round(DATA * 100).astype(np.int16), {"BSCALE": 0.01, "BLANK": 50}),
        (np.round(DATA * 100).astype(np.int16), {"BLANK": 0}),
        (np.round(DATA * 100).astype(np.int16), {"BLANK": 0, "BSCALE": 0.01, "BZERO": 3.7}),
        (np.round(DATA * 100).astype(np.int16), {"BZERO": 32768, "BLANK": 50}),
        (np.round(DATA * 10 + 100).astype(np.uint8), {"BLANK": 101}),
    ],
)
def test_encodings(tmp_path, data, cards):
    path = tmp_path / "a.fits"
    hdu = fits.PrimaryHDU(data, HEADER)
    hdu.writeto(path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as file:
        file[0].header.update(cards)
    expected = data.astype(float) * cards.get("BSCALE", 1) + cards.get("BZERO", 0)
    if "BLANK" in cards:
        assert (data == cards["BLANK"]).any()
        expected[data == cards["BLANK"]] = np.nan
    image = read_image(path)
    assert image.data.dtype == np.dtype("=f4")
    np.testing.assert_allclose(image.data, expected, rtol=1e-6, atol=1e-6)
    part = open_image(path).window(Box(3, 9, 7, 30))
    np.testing.assert_array_equal(part.data, image.data[3:9, 7:30])


@pytest.mark.parametrize("name", GRIDS)
def test_projections(tmp_path, name):
    header = make_header(name)
    image = read_image(write(tmp_path / "a.fits", np.ones((121, 121), "f4"), header))
    x, y = np.array([0.0, 60.0, 120.0]), np.array([120.0, 60.0, 0.0])
    offset = sky_positions(image.wcs, x, y).separation(make_wcs(name).pixel_to_world(x, y).icrs)
    assert offset.arcsec.max() < 1e-6


@pytest.mark.parametrize("projection", ["ZEA", "CAR", "AIT", "MOL", "ARC", "STG", "CEA", "SFL"])
def test_all_sky_projections(tmp_path, projection):
    header = make_header("tan")
    header["CTYPE1"], header["CTYPE2"] = f"GLON-{projection}", f"GLAT-{projection}"
    header["CRVAL1"], header["CRVAL2"] = 0.0, 0.0
    header["BMAJ"] = 10 / 3600
    image = read_image(write(tmp_path / "a.fits", DATA, header))
    assert image.psf.size == pytest.approx(5, rel=1e-3)
    np.testing.assert_allclose(image.psf.areas([3, 40], [2, 30]), image.psf.area, rtol=1e-3)


def test_left_over_axes_epoch_and_history_beam(tmp_path):
    header = make_header("ncp")
    del header["RADESYS"]
    header.update({"EPOCH": 2000.0, "CTYPE3": "FREQ-LSR", "CRVAL3": 1.4e9, "CDELT3": 1e6,
                   "CRPIX3": 1.0, "CTYPE4": "STOKES", "CRVAL4": 1.0, "CDELT4": 1.0,
                   "CRPIX4": 1.0})  # fmt: skip
    header["HISTORY"] = "AIPS   CLEAN BMAJ=  1.5000E-03 BMIN=  1.2500E-03 BPA=   0.00"
    image = read_image(write(tmp_path / "a.fits", DATA, header))
    assert image.wcs.naxis == 2
    assert image.frequency == 1.4e9
    assert image.beam.major.to_value("arcsec") == pytest.approx(5.4)
    assert image.beam.minor.to_value("arcsec") == pytest.approx(4.5)
    assert (image.header["RADESYS"], image.header["EQUINOX"]) == ("FK5", 2000.0)
    assert not [card for card in image.header if card.endswith(("3", "4"))]


def test_unprintable_cards_stay_between_us(tmp_path, recwarn):
    path = write(tmp_path / "a.fits", OBSERVER="A. Nonymous", WRONG="value")
    raw = path.read_bytes().replace(b"A. Nonymous", b"A.\tNo\x80ymous")
    path.write_bytes(raw.replace(b"WRONG   = 'value   '", b"WRONG   = 'value    "))
    image = read_image(path)
    np.testing.assert_array_equal(image.data, DATA)
    assert image.psf is not None
    assert not recwarn.list


def test_image_without_sky_coordinates(tmp_path):
    path = write(tmp_path / "a.fits", header=None, BMAJ=0.01, BUNIT="adu")
    image = read_image(path)
    assert image.wcs is None
    assert image.psf is None
    assert image.unit == u.adu
    assert np.isnan(image.frequency)
    assert read_image(path, beam="4pixel").psf.size == pytest.approx(4)
    with pytest.raises(InputError, match=r"a.fits: .*--beam 4pixel"):
        read_image(path, beam="4arcsec")


def test_the_user_wins(tmp_path):
    path = write(tmp_path / "a.fits", RESTFRQ=1.4e9)
    image = read_image(path, beam="12x8arcsec@40deg", frequency="3GHz", unit="mJy/beam")
    assert image.beam.major.to_value("arcsec") == pytest.approx(12)
    assert image.beam.pa.to_value("deg") == pytest.approx(40)
    assert image.frequency == 3e9
    assert image.unit == u.mJy / u.beam
    np.testing.assert_array_equal(image.data, DATA)
    beam = radio_beam.Beam(12 * u.arcsec, 8 * u.arcsec, 40 * u.deg)
    np.testing.assert_allclose(read_image(path, beam=beam).psf.covariance, image.psf.covariance)


def test_missing_and_absurd_beams(tmp_path):
    assert read_image(write(tmp_path / "a.fits", header=make_header("sin"))).psf is None
    with pytest.raises(InputError, match=r"b.fits: the beam .*larger than the whole image.*--beam"):
        read_image(write(tmp_path / "b.fits", BMAJ=9.0, BMIN=6.0))
    path = write(tmp_path / "c.fits", BMAJ=-9.0)
    with pytest.raises(InputError, match=r"c.fits: .*BMAJ = -9.0.*--beam"):
        read_image(path)


def truncated(path):
    write(path, np.zeros((100, 100), np.float32))
    path.write_bytes(path.read_bytes()[:20000])


def truncated_header(path):
    write(path)
    path.write_bytes(path.read_bytes()[:1000])


def truncated_gzip(path):
    write(path)
    path.write_bytes(gzip.compress(path.read_bytes())[:4000])


def truncated_inside_gzip(path):
    write(path, np.ones((100, 100), np.float32))
    path.write_bytes(gzip.compress(path.read_bytes()[:20000]))


def truncated_tiles(path):
    fits.CompImageHDU(np.tile(DATA, (5, 5)), HEADER).writeto(path)
    path.write_bytes(path.read_bytes()[:40000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.write_text("hello"), "not a FITS file"),
        (lambda path: path.write_bytes(b""), "not a FITS file"),
        (lambda path: path.write_bytes(b"\x89PNG" + bytes(range(256)) * 40), "not a FITS file"),
        (truncated, "truncated or damaged"),
        (truncated_header, "truncated or damaged"),
        (truncated_gzip, "truncated or damaged"),
        (truncated_inside_gzip, "truncated or damaged"),
        (truncated_tiles, "truncated or damaged"),
        (lambda path: fits.PrimaryHDU().writeto(path), "holds no image"),
        (lambda path: write(path, np.ones(5, np.float32), None), "holds no image"),
        (lambda path: write(path, DATA * np.nan), "all blank"),
        (lambda path: write(path, DATA * 0), "all blank"),
    ],
)
def test_bad_files_give_one_sentence(tmp_path, make, reason):
    path = tmp_path / "bad.fits"
    make(path)
    with pytest.raises(InputError, match=reason) as caught:
        read_image(path)
    message = str(caught.value)
    assert "bad.fits" in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("peak", [2e36, -2e36, 1e39, -1e300])
def test_pixels_beyond_single_precision_are_refused_unless_masked(tmp_path, peak):
    data = DATA.astype(float)
    data[3, 4] = peak
    path = write(tmp_path / "large.fits", data)
    with pytest.raises(InputError, match=r"large: 1 pixels lie beyond 1e\+36.*--mask"):
        read_image(path)
    with pytest.raises(InputError, match="single precision"):
        open_image(path).window(Box(0, 10, 0, 10))
    with pytest.raises(InputError, match="single precision"):
        MemorySource(SkyImage(data)).read()
    masked = read_image(path, mask=np.abs(data) > 1e30)
    assert np.flatnonzero(np.isnan(masked.data)).tolist() == [3 * 50 + 4]
    # infinity is what some programs write for blank pixels
    data[3, 4] = np.inf
    assert np.isnan(read_image(write(tmp_path / "blank.fits", data)).data[3, 4])


def test_a_truncated_file_is_noticed_before_pixels_are_read(tmp_path):
    truncated(tmp_path / "a.fits")
    with pytest.raises(InputError, match="truncated"):
        open_image(tmp_path / "a.fits")


def test_missing_padding_is_forgiven(tmp_path):
    path = write(tmp_path / "a.fits")
    path.write_bytes(path.read_bytes()[: 2880 * 1 + DATA.nbytes])
    np.testing.assert_array_equal(read_image(path).data, DATA)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bean": "5arcsec"}, r"no image option 'bean' \(did you mean 'beam'"),
        ({"beam": "wide"}, "'beam'.*not a beam"),
        ({"frequency": "blue"}, "'frequency'.*not a frequency"),
        ({"unit": "furlong/lunch"}, "'unit'.*not a unit"),
        ({"plane": "first"}, "'plane'"),
        ({"blank_zeros": "perhaps"}, "'blank_zeros'"),
    ],
)
def test_bad_options_give_one_sentence(tmp_path, options, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read_image(write(tmp_path / "a.fits"), **options)
    assert "\n" not in str(caught.value)


def test_options_travel_as_plain_values():
    options = ImageOptions(beam="5.4arcsec", frequency="1.4GHz", plane=[1, 2], extension="1")
    assert ImageOptions(**options.model_dump(mode="json")) == options
    assert options.frequency == 1.4e9
    assert options.extension == 1
    assert ImageOptions.model_json_schema()["properties"]["beam"]["description"]


def test_windows_are_cutouts_of_the_whole(tmp_path):
    data = np.ones((121, 121), np.float32) + np.eye(121, dtype=np.float32)
    source = open_image(write(tmp_path / "a.fits", data, make_header("galactic_tan_rotated"),
                              BMAJ=9 / 3600, BUNIT="Jy/beam"))  # fmt: skip
    whole, box = source.read(), Box(100, 140, -5, 33)
    part, cut = source.window(box), whole.cutout(box)
    np.testing.assert_array_equal(part.data, cut.data)
    assert (part.origin, part.full_shape, part.name) == (cut.origin, cut.full_shape, cut.name)
    x, y = np.array([0.0, 32.0]), np.array([0.0, 20.0])
    assert sky_positions(part.wcs, x, y).separation(sky_positions(cut.wcs, x, y)).max() == 0
    np.testing.assert_array_equal(part.psf.covariances(x, y), cut.psf.covariances(x, y))
    assert source.psf.size == whole.psf.size
    with pytest.raises(InputError, match="outside"):
        source.window(Box(200, 210, 0, 10))


@pytest.mark.parametrize("cards", [{}, {"BSCALE": 2.0, "BZERO": 5.0}])
def test_columns_are_those_of_the_whole_plane(tmp_path, cards):
    # Of the second of two extensions, of a plane in the middle of a cube, of pixels of its own.
    pixels = np.arange(2 * 5 * 40 * 50, dtype=">f4").reshape(2, 5, 40, 50)
    header = fits.Header([("CTYPE1", "RA---SIN"), ("CTYPE2", "DEC--SIN"), ("CTYPE3", "FREQ"),
                          ("CTYPE4", "STOKES"), ("CRVAL3", 1e9), ("CRVAL4", 1.0)])  # fmt: skip
    hdu = fits.ImageHDU(pixels, header, name="SCI")
    for name, value in cards.items():
        hdu.header[name] = value
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(DATA), hdu]).writeto(tmp_path / "a.fits")
    source = open_image(tmp_path / "a.fits", extension="SCI", plane=(3, 1), blank_zeros=False)
    expected = pixels[1, 3].astype(float) * cards.get("BSCALE", 1.0) + cards.get("BZERO", 0.0)
    for box in (Box(3, 9, 7, 30), Box(0, 40, 49, 50), Box(39, 40, 0, 1), Box(0, 40, 0, 50)):
        data = source.window(box).data
        assert data.dtype == np.float32
        np.testing.assert_array_equal(data, expected[box.slices])
    with (tmp_path / "a.fits").open("r+b") as file:
        file.truncate((tmp_path / "a.fits").stat().st_size - 2880 * 2 - 8000)
    with pytest.raises(InputError, match="truncated or damaged"):
        source.window(Box(30, 40, 0, 20))


def test_a_window_of_a_large_file_reads_little(tmp_path):
    path, side = tmp_path / "large.fits", 8192
    header = make_header("sin", size=side)
    header["SIMPLE"], header["BITPIX"] = True, -32
    text = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", side),
                        ("NAXIS2", side)])  # fmt: skip
    text.update({k: header[k] for k in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CD1_1", "CD2_2")})
    with path.open("wb") as file:  # a sparse file: no pixel is ever written
        file.write(text.tostring().encode())
        file.truncate(file.tell() + -(-4 * side * side // 2880) * 2880)
    source = open_image(path, blank_zeros=False)
    source.window(Box(0, 2, 0, 2))
    tracemalloc.start()
    part = source.window(Box(4000, 4256, 4000, 4256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.shape == (256, 256)
    assert peak < 8 * part.data.nbytes + 2e6 < side * side


def test_a_source_goes_to_a_worker(tmp_path):
    data = DATA.copy()
    data[:10] = 0
    path = write(tmp_path / "a.fits", data)
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        source = open_image(file, beam="12arcsec", mask=np.eye(40, 50, dtype=bool))
        expected = source.read()
        there = pickle.loads(pickle.dumps(source))
        assert len(pickle.dumps(source)) < 2 * DATA.size
        assert there.__dict__["zeros_are_blank"]  # decided once, not by every worker
        part = there.window(Box(8, 12, 0, 50))
        np.testing.assert_array_equal(part.data, expected.data[8:12])
        assert there.psf.size == source.psf.size


def planes_of(tmp_path, **changes):
    rng = np.random.default_rng(5)
    shape = (200, 210)
    header = make_header("sin", size=200)
    source = np.zeros(shape)
    source[100, 100] = 1.0
    planes = {}
    for i, rms in enumerate((0.05, 0.1)):
        cards = {"BMAJ": (9 + i) / 3600, "BUNIT": "Jy/beam", "RESTFRQ": (1 + i) * 1e9}
        noise = rng.normal(0, rms, shape) + 3.0 * i
        path = write(tmp_path / f"{i}.fits", (noise + source).astype("f4"), header,
                     **{**cards, **(changes if i else {})})  # fmt: skip
        planes["ab"[i]] = FitsSource(path)
    return planes


def test_weighted_detection_plane(tmp_path):
    planes = planes_of(tmp_path)
    images = ImageSet(planes, detection="weighted").read()
    combined = ImageSet(planes, detection="weighted").detection_plane
    plane = combined.read()
    a, b = images["a"].data.astype(float), images["b"].data.astype(float)
    ratio = (combined.noise["a"][1] / combined.noise["b"][1]) ** 2
    assert ratio == pytest.approx(0.25, rel=0.04)
    np.testing.assert_allclose(plane.data, (a + ratio * b) / (1 + ratio), rtol=1e-5, atol=1e-5)
    # the variance of the optimal mean: 1 / (1/a^2 + 1/b^2)
    assert np.std(plane.data) == pytest.approx((20**2 + 10**2) ** -0.5, rel=0.03)
    assert plane.unit == u.Jy / u.beam
    assert plane.beam.major.to_value("arcsec") == pytest.approx(10)
    assert plane.frequency == pytest.approx(1.2e9, rel=0.01)
    np.testing.assert_allclose(plane.weight, 1, rtol=1e-5)
    part = combined.window(Box(90, 110, 80, 120))
    np.testing.assert_array_equal(part.data, plane.data[90:110, 80:120])


def test_weighted_mean_uses_what_is_not_blank(tmp_path):
    planes = planes_of(tmp_path)
    mask = np.zeros((200, 210), bool)
    mask[:50] = True
    planes["a"] = FitsSource(planes["a"].path, mask=mask)
    plane = ImageSet(planes, detection="weighted").detection_plane.read()
    np.testing.assert_allclose(plane.data[:50], planes["b"].read().data[:50], rtol=1e-6)
    assert plane.weight[0, 0] == pytest.approx(0.2, rel=0.04)


def test_chi_squared_detection_plane(tmp_path):
    combined = ImageSet(planes_of(tmp_path), detection="chi_squared").detection_plane
    plane = combined.read()
    assert plane.unit == u.dimensionless_unscaled
    # chi with two degrees of freedom: mean sqrt(pi / 2), and 1 sigma in every plane removed
    assert np.mean(plane.data) == pytest.approx(np.sqrt(np.pi / 2), rel=0.02)
    assert plane.data[100, 100] == pytest.approx(np.hypot(20, 10), abs=5)
    assert pickle.loads(pickle.dumps(combined)).noise == combined.noise


def test_planes_must_be_aligned(tmp_path):
    header = make_header("sin", size=200)
    shifted = planes_of(tmp_path, CRPIX1=header["CRPIX1"] + 1)
    for read in (ImageSet(shifted, "a").read, ImageSet(shifted, "weighted").detection_plane.read):
        with pytest.raises(InputError, match="1 pixels apart"):
            read()
    # the same pixels in another frame are aligned
    fk5 = CENTRE.fk5
    changes = {"RADESYS": "FK5", "CRVAL1": fk5.ra.deg, "CRVAL2": fk5.dec.deg}
    (tmp_path / "new").mkdir()
    same = planes_of(tmp_path / "new", **changes)
    assert set(ImageSet(same, "a").window(Box(0, 50, 0, 50))) == {"a", "b"}


def test_planes_that_do_not_fit(tmp_path):
    planes = planes_of(tmp_path, BUNIT="K")
    with pytest.raises(InputError, match="different units"):
        ImageSet(planes, "weighted").detection_plane.read()
    ImageSet(planes, "chi_squared").detection_plane.read()
    with pytest.raises(InputError, match="not among the planes a, b, nor a combination"):
        ImageSet(planes, "c")
    small = {"a": planes["a"], "b": FitsSource(write(tmp_path / "small.fits"))}
    with pytest.raises(InputError, match="one shape"):
        ImageSet(small, "a")
    with pytest.raises(InputError, match="at least one plane"):
        ImageSet({}, "weighted")
    flat = MemorySource(planes["a"].read().replace(data=np.ones((200, 210))))
    with pytest.raises(InputError, match="no noise"):
        CombinedSource({"a": flat}, "weighted").read()


def test_real_images(shared_data):
    """Every kind of file in the shared data reads, or says in one sentence why not."""
    read, refused = {}, {}
    paths = sorted(shared_data.glob("*/*.fits*"))
    paths = [p for p in paths if "first" not in p.parent.name] + sorted(
        shared_data.glob("first*/100_1*.fits.gz")
    )[:3]
    for path in paths:
        try:
            read[path.name] = read_image(path)
        except CycladesError as error:
            refused[path.name] = str(error)
    assert list(refused) in ([], ["1904_comp.fits"])
    assert len(read) >= 10
    parkes = read["1904-66_SIN.fits"]
    assert parkes.beam.major.to_value("arcmin") == pytest.approx(14.4)
    assert np.isnan(parkes.data).mean() == pytest.approx(0.4, abs=0.02)
    scorpio = read["ScorpioS17Field.fits.gz"]
    assert scorpio.frequency == pytest.approx(1.44746e9, rel=1e-5)
    assert scorpio.psf.size == pytest.approx(6.5 / 1.5, rel=1e-3)
    assert read["magpis_G10.5+0.fits"].frequency == pytest.approx(1.407e9, rel=1e-4)
    assert read["sep_ntt_image.fits"].wcs is None
    assert WCS(parkes.header).has_celestial
