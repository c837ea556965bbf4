"""The report as a file: what it holds, and that nothing of it can break out of its place."""

import base64
import io
import json
import re

import numpy as np
import pytest
from report_cases import NASTY, RMS, make_comparison, make_field, make_wcs

from cyclades.pipeline.comparison.report import write_report
from cyclades.pipeline.comparison.report_image import LARGEST, Frame, picture
from cyclades.pipeline.comparison.report_sources import (
    HAS_COUNTERPART,
    MISMATCH,
    FluxUnit,
    catalogue_status,
    mismatches,
    truth_status,
)
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.errors import InputError, OutputError


@pytest.fixture(scope="module")
def comparison():
    return make_comparison()


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    return write_report(comparison, tmp_path_factory.mktemp("report")).read_text("utf-8")


def payload(page):
    text = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)
    return json.loads(text.group(1))


def decode(made):
    """Values of a picture, first row of the image first; NaN where blank."""
    from PIL import Image

    raw = base64.b64decode(made["uri"].removeprefix("data:image/webp;base64,"))
    codes = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))[::-1].astype(float)
    scaled = np.sinh(made["first"] + (codes - 1) * made["step"])
    return np.where(codes == 0, np.nan, made["level"] + made["rms"] * scaled)


def test_the_picture_keeps_every_pixel_within_a_grey_level():
    image, _ = make_field()
    data = image.data.copy()
    data[3:9, 5:30] = np.nan
    made = picture(data)
    seen = decode(made)
    assert made["bin"] == 1
    assert np.array_equal(np.isnan(seen), np.isnan(data))
    good = np.isfinite(data)
    was, now = (np.arcsinh((v[good] - made["level"]) / made["rms"]) for v in (data, seen))
    assert np.abs(was - now).max() <= 0.51 * made["step"]
    assert made["rms"] == pytest.approx(RMS, rel=0.1)
    assert made["step"] < 0.06


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_picture_of_one_value_or_of_none(value):
    seen = decode(picture(np.full((9, 12), value, np.float32)))
    assert np.array_equal(seen, np.full((9, 12), value), equal_nan=True)


def test_large_images_are_averaged():
    data = np.arange(2 * LARGEST, dtype=np.float32)[None, :].repeat(4, 0)
    made = picture(data)
    seen = decode(made)
    assert made["bin"] == 2
    assert seen.shape == (2, LARGEST)
    assert np.all(np.diff(seen[0]) >= 0)


@pytest.mark.parametrize("kind", ["equatorial", "galactic", "swapped"])
def test_ellipses_follow_the_sky(kind):
    """The end of the major axis, from the sky and from the ellipse, in a rotated frame."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    names = ("GLON", "GLAT") if kind == "galactic" else ("RA--", "DEC-")
    wcs.wcs.ctype = [f"{name}-TAN" for name in (names[::-1] if kind == "swapped" else names)]
    wcs.wcs.crval = {"galactic": [30.0, 5.0], "swapped": [-40.0, 100.0]}.get(kind, [100.0, -40.0])
    wcs.wcs.crpix = [50.0, 60.0]
    turn = np.radians(25.0)
    step = 2 / 3600
    wcs.wcs.cd = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.set()
    x0, y0 = 70.0, 31.0
    sky = wcs.pixel_to_world(x0, y0).icrs
    major, angle = 24.0, 35.0
    table = ComparisonTable.from_columns(
        {"ra": [sky.ra.deg], "dec": [sky.dec.deg], "major": [major], "minor": [9.0],
         "position_angle": [angle]}
    )  # fmt: skip
    place = Frame(wcs, (120, 110)).place(table, 8.0)
    assert (place["x"][0], place["y"][0]) == pytest.approx((x0, y0), abs=1e-6)
    end = sky.directional_offset_by(angle * u.deg, 0.5 * major * u.arcsec)
    x, y = wcs.world_to_pixel(SkyCoord(end))
    t = np.radians(place["t"][0])
    axis = 0.5 * place["a"][0] * np.array([np.cos(t), np.sin(t)])
    assert abs(axis[0] * (y - y0) - axis[1] * (x - x0)) < 1e-3 * np.hypot(*axis) ** 2
    assert np.hypot(*axis) == pytest.approx(np.hypot(x - x0, y - y0), rel=1e-3)
    assert place["b"][0] == pytest.approx(4.5, rel=1e-3)


def test_rows_without_a_shape_have_the_beam():
    table = ComparisonTable.from_columns({"ra": [180.0, np.nan], "dec": [-30.0, -30.0]})
    place = Frame(make_wcs((100, 100)), (100, 100)).place(table, 8.0)
    assert (place["a"][0], place["b"][0]) == pytest.approx((4.0, 4.0))
    assert np.isnan(place["x"][1])


def test_a_frame_around_catalogues_holds_them_across_zero():
    table = ComparisonTable.from_columns({"ra": [359.9, 0.2, 0.0], "dec": [10.0, 10.3, 9.8]})
    frame = Frame.around([table], 2.0)
    place = frame.place(table, 10.0)
    ny, nx = frame.shape
    assert nx < 1500
    assert np.all((place["x"] > 10) & (place["x"] < nx - 10))
    assert np.all((place["y"] > 10) & (place["y"] < ny - 10))
    assert frame.pixel_scale == pytest.approx(2.0, rel=1e-3)


def test_nothing_is_fetched_and_no_text_becomes_markup(page):
    # the name space of SVG is no address, and url(#...) points into the page
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|<link|<iframe|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert NASTY not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert payload(page)["layers"][2]["name"] == NASTY
    # what looks like a place of the template is left as it is
    assert payload(page)["layers"][0]["values"]["morphology"][0].endswith("@data@")


def test_the_planted_mistakes_are_found(comparison):
    status = catalogue_status(comparison, "alpha")
    assert np.flatnonzero(status == MISMATCH).tolist() == [0]
    assert np.all(catalogue_status(comparison, NASTY) == HAS_COUNTERPART)
    assert np.flatnonzero(truth_status(comparison) == MISMATCH).tolist() == [3]
    missed, false, ratio = mismatches(comparison, FluxUnit(1e-3, "m"))
    assert [(e["layer"], e["row"]) for e in missed["rows"]] == [(0, 3)]
    assert missed["rows"][0]["cells"][-1] == "alpha"
    assert [(e["layer"], e["row"]) for e in false["rows"]] == [(1, 0)]
    assert ratio["rows"][0]["row"] == 10
    far = [abs(np.log(e["cells"][2])) for e in ratio["rows"]]
    assert np.all(np.diff(far) < 0.01)


def test_rows_of_one_source_share_their_number(page, comparison):
    truth, alpha, other = payload(page)["layers"]
    # the stray row comes first and the fourth true source is missing
    here = np.r_[truth["match"][:3], truth["match"][4:]]
    assert alpha["match"][1:] == here.tolist()
    assert other["match"] == truth["match"]
    assert alpha["match"][0] not in truth["match"]
    assert payload(page)["frame"]["uri"]


def test_curves_hold_every_catalogue_in_one_figure(page, comparison):
    figures = {f["title"]: f for f in payload(page)["figures"]}
    for title in ("Completeness", "Reliability", "Total flux ratio, points", "Pull of peak flux, "
                  "points", "Completeness and reliability"):  # fmt: skip
        assert [s["layer"] for s in figures[title]["series"]] == [1, 2], title
    (alpha, other) = figures["Completeness"]["series"]
    assert set(other["y"]) == {1.0}
    assert min(alpha["y"]) < 1.0
    for series in (alpha, other):
        assert all(a <= b <= c for a, b, c in zip(series["low"], series["y"], series["high"],
                                                  strict=True))  # fmt: skip
        assert sum(series["n"]) <= len(comparison.truth)


def test_what_cannot_be_written_or_drawn_is_said(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another directory"):
        write_report(comparison, tmp_path / "file" / "folder")
    image = comparison.image.replace(wcs=None, psf=None)
    with pytest.raises(InputError, match="no sky coordinates"):
        write_report(comparison, tmp_path, image)
    assert not (tmp_path / "report.html").exists()


def test_flux_units_suit_the_fluxes():
    def unit(peak):
        table = ComparisonTable.from_columns({"ra": [0.0], "dec": [0.0], "peak_flux": [peak]})
        return FluxUnit.of([table]).prefix

    assert [unit(v) for v in (2.0, 3e-3, 4e-5, 1e-8, 1e-12)] == ["", "m", "µ", "n", "n"]
