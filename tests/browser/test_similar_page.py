"""The page of similar sources in a real browser: the map, what it shows of a source, the lists."""

import numpy as np
import pytest
from loaded_page import LEVELS, LoadedPage
from similar_cases import BLIND, ODD, TWINS, make_search

from cyclades.pipeline.similarity.report import write_report

COLOURED = """(c) => { const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 0; i < d.length; i += 4)
    if (Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 60) n++;
    return n; }"""
"""Pixels that are not grey."""
CORNERS = """(c) => { const at = (x, y) => c.getContext("2d").getImageData(
    Math.round(x * c.width), Math.round(y * c.height), 1, 1).data[0];
    return [at(0.25, 0.25), at(0.25, 0.75), at(0.75, 0.75)]; }"""
"""Levels of the upper left, lower left and lower right of a canvas."""


class SimilarPage(LoadedPage):
    """A loaded page of similar sources."""

    def __init__(self, browser, path, found):
        super().__init__(browser, path)
        self.found = found
        self.data = self.page.evaluate(
            "() => JSON.parse(document.getElementById('report-data').textContent)"
        )

    def at(self, row):
        """Where a source is on the screen."""
        return self.screen(self.data["x"][row], self.data["y"][row])

    def name(self, row):
        """Return the name of a source."""
        return str(self.found.catalogue.sources["name"][row])

    @property
    def title(self):
        """What the panel shows."""
        return self.page.inner_text("#selected-title")

    @property
    def tiles(self):
        """Rows of the list of pictures."""
        tiles = self.page.locator("#sheet-tiles button").all()
        return [int(tile.get_attribute("data-row")) for tile in tiles]


@pytest.fixture(scope="module")
def found():
    return make_search()


@pytest.fixture
def loaded(browser, found, tmp_path):
    made = SimilarPage(browser, write_report(found, tmp_path / "near.html", number=6), found)
    yield made
    made.page.close()
    made.check()


def alone(loaded):
    """Return a row with no other within reach of the pointer: the odd one is far from all."""
    x, y = (np.array(loaded.data[key], float) for key in "xy")
    apart = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y))
    np.fill_diagonal(apart, np.inf)
    assert np.nanmin(apart[ODD]) * loaded.view[2] > 60
    return ODD


def test_the_map_and_the_pictures_are_drawn(loaded):
    page = loaded.page
    assert loaded.drawn["dots"] == 39
    assert 3 <= loaded.drawn["pictures"] <= 39
    assert page.eval_on_selector("#sky", COLOURED) > 500
    assert page.eval_on_selector("#sky", LEVELS) > 20
    assert loaded.tiles == loaded.found.order()[:6].tolist()
    for tile in page.locator("#sheet-tiles canvas").all():
        assert tile.evaluate(LEVELS) > 2
    assert loaded.title == loaded.name(TWINS[0])


def test_pictures_are_those_of_their_source_the_right_way_up(loaded):
    for row in loaded.tiles:
        tile = loaded.page.locator(f'#sheet-tiles button[data-row="{row}"] canvas')
        top, left, right = tile.evaluate(CORNERS)
        assert top < 12
        assert left == pytest.approx(70 + row, abs=8)
        assert right == pytest.approx(40 + row, abs=8)


def test_pointing_shows_a_source_until_the_pointer_leaves(loaded):
    page, row = loaded.page, alone(loaded)
    page.mouse.move(*loaded.at(row))
    loaded.settle()
    assert loaded.title == loaded.name(row)
    assert loaded.name(row) in page.inner_text("#readout")
    assert "oddness" in page.inner_text("#readout")
    odd = page.locator("#rows tr", has_text="oddness").locator("td").inner_text()
    assert float(odd) == pytest.approx(loaded.found.catalogue.sources["oddness"][row], rel=1e-3)
    picture = page.locator("#cutouts canvas")
    assert picture.evaluate(CORNERS)[1] == pytest.approx(70 + row, abs=8)
    assert "arcsec wide" in page.inner_text("#cutouts")
    page.mouse.move(2, 2)
    loaded.settle()
    assert loaded.title == loaded.name(TWINS[0])


def test_a_click_keeps_a_source_and_lists_those_like_it(loaded):
    page, row = loaded.page, alone(loaded)
    page.mouse.click(*loaded.at(row))
    page.mouse.move(2, 2)
    loaded.settle()
    assert loaded.title == loaded.name(row)
    alike = page.locator("#alike-tiles button")
    assert alike.count() == 5
    assert [int(one.get_attribute("data-row")) for one in alike.all()] == loaded.data["alike"][row]
    alike.first.click()
    loaded.settle()
    assert loaded.title == loaded.name(loaded.data["alike"][row][0])


def test_a_tile_centres_the_map_on_its_source(loaded):
    page = loaded.page
    before = loaded.view[2]
    row = loaded.tiles[2]
    page.locator("#sheet-tiles button").nth(2).click()
    loaded.settle()
    assert loaded.view[:2] == pytest.approx((loaded.data["x"][row], loaded.data["y"][row]), abs=0.1)
    assert loaded.view[2] > before
    assert page.get_attribute("#selected", "data-chosen") == str(row)
    page.click("#zoom-fit")
    loaded.settle()
    assert loaded.view[2] == pytest.approx(before)


def test_the_lists_change_and_show_no_source_without_a_picture(loaded):
    loaded.page.get_by_role("button", name="Oddest (6)").click()
    assert loaded.tiles == loaded.found.order(odd=True)[:6].tolist()
    assert loaded.tiles[0] == ODD
    assert BLIND not in loaded.tiles
    targets = loaded.page.locator("#sheet-tiles button.target")
    loaded.page.get_by_role("button", name="Most similar (6)").click()
    assert targets.count() == 1
    assert targets.get_attribute("data-row") == str(TWINS[0])


def test_colours_follow_the_choice(loaded):
    page = loaded.page
    page.uncheck("#with-pictures")
    loaded.settle()
    assert loaded.drawn == {"dots": 39, "pictures": 0}
    x, y = loaded.at(alone(loaded))
    box = page.locator("#sky").bounding_box()
    pixel = (
        """(c, at) => [...c.getContext("2d").getImageData(at[0], at[1], 1, 1).data].slice(0, 3)"""
    )
    here = [round(x - box["x"]), round(y - box["y"])]
    seen = [page.eval_on_selector("#sky", pixel, here)]
    for choice in ("morphology", "oddness"):
        page.select_option("#colour-by", choice)
        loaded.settle()
        seen.append(page.eval_on_selector("#sky", pixel, here))
    assert len({tuple(colour) for colour in seen}) == 3
    classes = loaded.data["colours"][1]["classes"]
    (bent,) = (entry["colour"] for entry in classes if entry["name"] == "bent")
    assert "#" + "".join(f"{v:02x}" for v in seen[1]) == bent.lower()
    # beyond the end of the scale: the darkest colour
    assert sum(seen[2]) < 200


def test_zooming_makes_room_for_more_pictures(loaded):
    before = loaded.drawn
    loaded.page.mouse.move(*loaded.at(TWINS[0]))
    for _ in range(3):
        loaded.page.mouse.wheel(0, -400)
        loaded.settle()
    after = loaded.drawn
    assert 0 < after["dots"] < before["dots"]
    assert after["pictures"] / after["dots"] > 2 * before["pictures"] / before["dots"]


def test_texts_of_files_stay_texts(loaded):
    loaded.page.select_option("#colour-by", "morphology")
    assert "window.broken" in loaded.page.inner_text("#scale")
    assert loaded.page.evaluate("window.broken") is None


def test_a_page_of_odd_sources_alone_and_one_of_very_few(browser, tmp_path):
    for n, dots in ((40, 39), (1, 1)):
        found = make_search(n, targets=(), classes=False)
        path = write_report(found, tmp_path / f"{n}.html", odd=True)
        page = SimilarPage(browser, path, found)
        assert page.drawn["dots"] == dots
        assert page.page.locator("#colour-by").count() == (n > 1)
        assert page.page.locator("#sheet-kinds button").count() == 1
        assert len(page.tiles) == (20 if n > 1 else 0)
        page.page.close()
        page.check()
