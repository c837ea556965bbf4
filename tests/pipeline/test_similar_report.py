"""The page of similar sources as a file: what it holds, and that nothing breaks out of it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from similar_cases import BLIND, NASTY, ODD, TWINS, make_pictures, make_search

from cyclades.pipeline.similarity import report
from cyclades.pipeline.similarity.gallery import SIZE
from cyclades.pipeline.similarity.ranking import most_alike, similarities
from cyclades.pipeline.similarity.report import sprite, write_report
from cyclades.stages.core.errors import OutputError


@pytest.fixture(scope="module")
def found():
    return make_search()


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new" / "near.html"
    assert write_report(found, path, number=6, image="a<b>.fits") == path
    return path.read_text("utf-8")


def payload(page):
    text = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)
    return json.loads(text.group(1))


def decode(made):
    """The joined picture as an array, first row at the top."""
    from PIL import Image

    raw = base64.b64decode(made["uri"].removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)).convert("L")).astype(int)


def test_nothing_is_fetched_and_no_text_becomes_markup(page):
    # the name space of SVG is no address, and url(#...) points into the page
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|<link|<iframe|<img|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "a&lt;b&gt;.fits" in page
    assert "a<b>" not in page
    assert NASTY not in page
    assert payload(page)["values"]["morphology"][0] == NASTY


def test_every_source_has_its_row(page, found):
    data = payload(page)
    table = found.catalogue.sources
    assert data["values"]["name"] == table["name"].tolist()
    for key in ("similarity", "oddness", "morphology_probability"):
        told = np.array([np.nan if v is None else v for v in data["values"][key]])
        np.testing.assert_allclose(told, np.asarray(table[key], float), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(data["values"]["ra"], table["ra"].to_value("deg"), rtol=1e-8)
    keys = [field["key"] for field in data["fields"]]
    assert len(set(keys)) == len(keys)
    assert {"name", "ra", "morphology", "similarity", "oddness"} <= set(keys)
    np.testing.assert_allclose(data["widths"], found.gallery.widths, rtol=1e-2)


def test_the_map_keeps_distances_and_leaves_out_what_has_no_picture(page, found):
    data = payload(page)
    x, y = (np.array([np.nan if v is None else v for v in data[key]]) for key in "xy")
    missing = np.isnan(x)
    assert np.flatnonzero(missing).tolist() == [BLIND]
    assert np.isnan(y[missing]).all()
    inside = (x >= 0) & (x <= data["frame"]["nx"]) & (y >= 0) & (y <= data["frame"]["ny"])
    assert inside[~missing].all()
    assert max(data["frame"]["nx"], data["frame"]["ny"]) == pytest.approx(1000.0)
    apart = np.hypot(x - x[0], y - y[0])[~missing]
    there = np.linalg.norm(found.plane - found.plane[0], axis=1)[~missing]
    np.testing.assert_allclose(apart[1:] / there[1:], (apart[1:] / there[1:])[0], rtol=1e-3)
    # y goes up, as in the plane
    assert np.corrcoef(y[~missing], found.plane[~missing, 1])[0, 1] > 0.999


def test_the_lists_are_those_of_the_search(page, found):
    similar, odd = payload(page)["sheets"]
    assert similar["rows"] == found.order()[:6].tolist()
    assert set(similar["rows"][:2]) == set(TWINS)
    assert odd["rows"] == found.order(odd=True)[:6].tolist()
    assert odd["rows"][0] == ODD
    assert BLIND not in odd["rows"]
    first = report.payload(found, report._sheets(found, 6, True))["sheets"][0]
    assert first["key"] == "oddness"
    whole = report._sheets(found, 1000, False)
    assert [len(sheet["rows"]) for sheet in whole] == [len(found.reduced) - 1] * 2


def test_colours_are_offered_where_there_are_values(page):
    similar, classes, odd = payload(page)["colours"]
    assert (similar["key"], classes["key"], odd["key"]) == ("similarity", "morphology", "oddness")
    counts = {entry["name"]: entry["count"] for entry in classes["classes"]}
    assert counts == {NASTY: 2, "FRI": 19, "bent": 19}
    assert len({entry["colour"] for entry in classes["classes"]}) == 3
    plain = make_search(targets=(), classes=False)
    made = report.payload(plain, report._sheets(plain, 5, True))
    assert [one["key"] for one in made["colours"]] == ["oddness"]
    assert [sheet["key"] for sheet in made["sheets"]] == ["oddness"]


def test_pictures_lie_where_the_page_looks_for_them():
    pictures = make_pictures(11)
    made = sprite(pictures)
    whole = decode(made)
    for k, picture in enumerate(pictures):
        line, column = divmod(k, made["columns"])
        cell = whole[line * SIZE : (line + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
        # the first row of a picture is the last one on a screen
        assert np.abs(cell - picture[::-1].astype(int)).mean() < 3
    assert sprite(pictures[:0])["uri"] is None


def test_of_many_sources_the_wanted_ones_keep_their_pictures(monkeypatch):
    found = make_search(60)
    monkeypatch.setattr(report, "MOST_PICTURES", 20)
    sheets = report._sheets(found, 8, False)
    made = report.payload(found, sheets)
    kept = made["pictures"]["rows"]
    assert len(kept) == len(set(kept)) == 20
    assert {row for sheet in sheets for row in sheet["rows"]} | set(TWINS[:1]) <= set(kept)
    assert kept[0] == TWINS[0]
    assert BLIND not in kept
    assert len(made["x"]) == 60
    monkeypatch.setattr(report, "MOST_PICTURES", 4)
    assert len(report.payload(found, sheets)["pictures"]["rows"]) == 4


def test_those_most_alike_are_told_by_their_cosine(found):
    rows, likeness = most_alike(found.reduced, 5)
    assert rows.shape == likeness.shape == (40, 5)
    assert (rows[BLIND] == -1).all()
    assert np.isnan(likeness[BLIND]).all()
    for one, other in (TWINS, TWINS[::-1]):
        assert rows[one, 0] == other
        assert likeness[one, 0] == pytest.approx(1.0)
    known = np.flatnonzero(np.isfinite(found.reduced).all(1))
    for row in known:
        wanted = similarities(found.reduced, np.array([row]))
        wanted[row] = np.nan
        best = np.sort(wanted[np.isfinite(wanted)])[::-1][:5]
        assert row not in rows[row]
        np.testing.assert_allclose(likeness[row], best, atol=1e-9)
        np.testing.assert_allclose(wanted[rows[row]], best, atol=1e-9)


def test_few_sources_have_few_that_are_alike():
    same = np.ones((3, 2))
    rows, likeness = most_alike(same, 5)
    assert rows.shape == (3, 2)
    assert all(set(line.tolist()) == {0, 1, 2} - {k} for k, line in enumerate(rows))
    np.testing.assert_allclose(likeness, 1.0)
    # more equal ones than are asked for: the source itself may not be among them
    rows, _ = most_alike(np.ones((30, 2)), 2)
    assert not (rows == np.arange(30)[:, None]).any()
    for few in (same[:1], same[:0], np.full((2, 2), np.nan)):
        assert most_alike(few, 5)[0].shape == (len(few), 0)


@pytest.mark.parametrize("n", [1, 4])
def test_a_page_of_few_sources(n, tmp_path):
    found = make_search(n, targets=(), classes=False)
    data = payload(write_report(found, tmp_path / "few.html", odd=True).read_text("utf-8"))
    assert data["sheets"] == [{"key": "oddness", "label": "Oddest", "rows": []}]
    assert data["colours"] == []
    assert len(data["x"]) == n


def test_thousands_of_sources_stay_below_ten_megabytes():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    pictures = np.zeros((report.MOST_PICTURES, SIZE, SIZE), np.uint8)
    for picture in pictures:
        for _ in range(3):
            a, b, size = *rng.normal(0, 12, 2), rng.uniform(2, 8)
            spot = rng.uniform(60, 250) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / size**2)
            np.maximum(picture, spot.astype(np.uint8), out=picture)
    assert len(sprite(pictures)["uri"]) < 8e6


def test_what_cannot_be_written_is_said(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another directory"):
        write_report(found, tmp_path / "file" / "near.html")
