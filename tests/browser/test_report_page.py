"""The report in a real browser: what a reader sees and does."""

import numpy as np
import pytest
from loaded_page import LEVELS, LoadedPage
from report_cases import BEAM, NASTY, PIXEL, RATIO, make_comparison, make_field

from cyclades.pipeline.comparison.report import write_report

BLUE = """() => { const c = document.getElementById("sky"), d = c.getContext("2d")
    .getImageData(0, 0, c.width, c.height).data; let n = 0;
    for (let i = 0; i < d.length; i += 4) if (d[i + 2] - d[i] > 90) n++; return n; }"""
"""Pixels of the colour of the first catalogue; the image itself is grey."""


class Page(LoadedPage):
    """A loaded report of a comparison."""

    def kind(self, label):
        """Choose a kind of mismatch and return its cells."""
        self.page.get_by_role("button", name=label).click()
        rows = self.page.locator("#mismatch-table tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]


@pytest.fixture(scope="module")
def comparison():
    return make_comparison()


@pytest.fixture(scope="module")
def report_path(comparison, tmp_path_factory):
    return write_report(comparison, tmp_path_factory.mktemp("report"))


@pytest.fixture
def loaded(browser, report_path):
    made = Page(browser, report_path)
    yield made
    made.page.close()
    made.check()


def test_the_image_the_curves_and_the_tables_are_drawn(loaded, comparison):
    page = loaded.page
    assert page.eval_on_selector("#sky", LEVELS) > 60
    assert loaded.drawn == {"truth": 40, "alpha": 40, NASTY: 40}
    assert page.locator(".figure").count() >= 8
    for figure in page.locator(".figure").all():
        assert figure.locator(".series path").count() >= 1
        assert len(figure.locator(".label").all_inner_texts()) == 2
    summary = page.locator("#summary tbody tr").all()
    assert len(summary) == 2
    expected = f"{comparison.summary['completeness'][0]:.4f}"
    assert expected in summary[0].locator("td").nth(2).inner_text()
    assert page.locator("#tables details").count() >= 4
    assert page.locator("#legend span").count() == 3


def test_an_axis_has_ticks_however_short_it_is(loaded):
    """A single bin of sources spans no round number of a logarithmic axis."""
    for log in (True, False):
        for width in (1.003, 1.32, 2.0, 5.0, 29.0, 31.0, 299.0, 1e6):
            for low in np.geomspace(3e-4, 3.0, 23):
                ends = [float(low), float(low * width)]
                made = loaded.page.evaluate("([a, b, log]) => ticks(a, b, log)", [*ends, log])
                assert 2 <= len(made) <= 14, (ends, log, made)
                assert np.all(np.diff(made) > 0)
                texts = loaded.page.evaluate("(ticks) => ticks.map(tickText)", made)
                assert max(map(len, texts)) <= 11, texts
                assert ends[0] * 0.998 <= min(made) <= max(made) <= ends[1] * 1.002


def test_toggles_hide_and_show_a_catalogue(loaded):
    page = loaded.page
    before = page.evaluate(BLUE)
    series = page.locator('.series[data-layer="1"]')
    assert before > 200
    assert series.first.is_visible()
    page.uncheck("#layer-1")
    loaded.settle()
    assert set(loaded.drawn) == {"truth", NASTY}
    assert page.evaluate(BLUE) == 0
    assert not series.first.is_visible()
    assert page.locator('.series[data-layer="2"]').first.is_visible()
    page.check("#layer-1")
    loaded.settle()
    assert page.evaluate(BLUE) == before
    assert series.first.is_visible()


def test_mismatches_alone(loaded):
    loaded.page.check("#only-mismatches")
    loaded.settle()
    assert loaded.drawn == {"truth": 1, "alpha": 1, NASTY: 0}


def test_a_click_shows_the_source_in_every_catalogue(loaded, comparison):
    page, truth = loaded.page, comparison.truth
    page.mouse.click(*loaded.screen(truth["x"][5], truth["y"][5]))
    loaded.settle()
    cross = comparison.cross
    here = (cross["catalogue"] == "truth") & (cross["row"] == 5)
    assert page.get_attribute("#selected", "data-match") == str(cross["match_id"][here][0])
    assert page.locator("#rows thead th").all_inner_texts() == ["", "truth", "alpha", NASTY]
    line = page.locator("#rows tbody tr", has_text="total flux (").locator("td").all_inner_texts()
    flux = comparison.catalogues["alpha"]["total_flux"][5]
    assert float(line[0]) == pytest.approx(truth["total_flux"][5] * 1e3, rel=1e-3)
    value, error = map(float, line[1].split(" ± "))
    assert value == pytest.approx(flux * 1e3, abs=0.01)
    assert error == pytest.approx(0.1)
    offset = page.locator("#rows tbody tr", has_text="offset from truth").locator("td")
    assert 0 < float(offset.nth(1).inner_text()) < BEAM
    cutouts = page.locator("#cutouts canvas")
    assert cutouts.count() == 4
    assert all(canvas.evaluate(LEVELS) > 20 for canvas in cutouts.all())


def test_a_click_beside_every_source_chooses_none(loaded):
    loaded.page.mouse.click(*loaded.screen(312, 8))
    loaded.settle()
    assert loaded.page.get_attribute("#selected", "data-match") is None


def test_zooming_keeps_the_place_under_the_pointer(loaded):
    x, y, zoom = loaded.view
    where = loaded.screen(100, 220)
    loaded.page.mouse.move(*where)
    loaded.page.mouse.wheel(0, -400)
    loaded.settle()
    assert loaded.view[2] > 1.5 * zoom
    assert loaded.screen(100, 220) == pytest.approx(where, abs=0.5)
    assert sum(loaded.drawn.values()) < 120
    loaded.page.click("#zoom-fit")
    loaded.settle()
    assert loaded.view == pytest.approx((x, y, zoom))


def test_panning_and_keys_move_the_view(loaded):
    page = loaded.page
    page.click("#zoom-in")
    loaded.settle()
    x, y, zoom = loaded.view
    start = loaded.screen(150, 150)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 30, start[1] + 10)
    page.mouse.move(start[0] + 80, start[1] + 40, steps=4)
    page.mouse.up()
    loaded.settle()
    assert loaded.view == pytest.approx((x - 80 / zoom, y + 40 / zoom, zoom), abs=0.02)
    # a drag is no click
    assert page.get_attribute("#selected", "data-match") is None
    page.focus("#sky")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    loaded.settle()
    assert loaded.view[0] > x - 80 / zoom
    assert loaded.view[2] < zoom


def test_stretch_and_colours_change_the_image(loaded):
    page = loaded.page
    for index in range(3):
        page.uncheck(f"#layer-{index}")
    loaded.settle()
    mean = """(c) => { const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let s = 0; for (let i = 0; i < d.length; i += 4) s += d[i]; return 4 * s / d.length; }"""
    seen = [page.eval_on_selector("#sky", mean)]
    for choice in ("linear", "sqrt", "log"):
        page.select_option("#stretch", choice)
        loaded.settle()
        seen.append(page.eval_on_selector("#sky", mean))
    assert len({round(value) for value in seen}) == 4
    page.select_option("#stretch", "asinh")
    page.select_option("#colours", "grey")
    loaded.settle()
    assert page.eval_on_selector("#sky", mean) < 0.7 * seen[0]


def test_the_readout_gives_sky_and_value(loaded, comparison):
    image, truth = comparison.image, comparison.truth
    x, y = round(truth["x"][0]), round(truth["y"][0])
    loaded.page.mouse.move(*loaded.screen(x, y))
    loaded.settle()
    text = loaded.page.inner_text("#readout")
    sky = image.wcs.pixel_to_world(x, y)
    assert sky.to_string("hmsdms", sep=":", precision=0).split()[0][:7] in text
    value = float(text.split("≈ ")[1].split(" ")[0])
    assert value == pytest.approx(image.data[y, x], rel=0.12)


def test_the_worst_mismatches_come_first_and_centre_the_image(loaded, comparison):
    truth = comparison.truth
    (missed,) = loaded.kind("Missed (1)")
    assert missed[-1] == "alpha"
    assert float(missed[1]) == pytest.approx(truth["snr"][3], rel=1e-3)
    loaded.page.locator("#mismatch-table tbody tr").first.click()
    loaded.settle()
    assert loaded.view[:2] == pytest.approx((truth["x"][3], truth["y"][3]), abs=0.02)
    assert "Not in alpha." in loaded.page.inner_text("#selected-hint")
    assert loaded.page.locator("#rows thead th").all_inner_texts() == ["", "truth", NASTY]
    (false,) = loaded.kind("False (1)")
    assert (false[3], false[4]) == ("alpha", "false")
    loaded.page.locator("#mismatch-table tbody tr").first.click()
    loaded.settle()
    assert loaded.view[:2] == pytest.approx((6, 6), abs=0.02)
    ratios = loaded.kind("Flux ratios")
    assert float(ratios[0][2]) == pytest.approx(RATIO, rel=0.01)
    assert len(ratios) > 20


def test_texts_of_files_stay_texts(loaded):
    page = loaded.page
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0
    assert NASTY in page.inner_text("#layers")
    assert page.locator("h1").inner_text() == "Comparison: made field"


def test_without_truth_and_without_image(browser, tmp_path):
    path = write_report(make_comparison(with_truth=False, with_image=False), tmp_path)
    page = Page(browser, path)
    assert page.drawn == {"alpha": 40, NASTY: 40}
    assert not page.page.locator("#stretch").count()
    alone = page.kind("Only in one")
    # the stray row of one, and the source that it misses
    assert [row[3] for row in alone] == ([NASTY, "alpha"] if float(alone[0][1]) > 30 else
                                         ["alpha", NASTY])  # fmt: skip
    page.page.locator("#mismatch-table tbody tr").first.click()
    page.settle()
    assert page.page.locator("#cutouts canvas").count() == 2
    assert not page.errors
    page.page.close()


def test_a_field_of_two_thousand_sources_stays_below_ten_megabytes(browser, tmp_path):
    comparison = make_comparison(n=2000, size=2048)
    assert np.isclose(comparison.image.shape[0] * PIXEL, 4096)
    path = write_report(comparison, tmp_path)
    assert path.stat().st_size < 10e6
    page = Page(browser, path)
    assert page.drawn == {"truth": 2000, "alpha": 2000, NASTY: 2000}
    assert page.seconds < 20
    assert not page.errors
    page.page.close()


def test_blank_pixels_and_a_field_without_sources(browser, tmp_path):
    from cyclades.pipeline.comparison.compare import compare

    image, truth = make_field()
    data = image.data.copy()
    data[:, :100] = np.nan
    empty = truth.take(np.zeros(0, int)).replace(meta={"name": "nothing"})
    path = write_report(compare({"nothing": empty}, truth, image.replace(data=data)), tmp_path)
    page = Page(browser, path)
    page.page.mouse.move(*page.screen(50, 160))
    page.settle()
    assert "blank" in page.page.inner_text("#readout")
    assert page.drawn["nothing"] == 0
    assert not page.errors
    page.page.close()


def test_the_page_fits_wide_and_narrow_screens(loaded):
    page = loaded.page
    page.set_viewport_size({"width": 1280, "height": 900})
    fits = "(e) => e.scrollWidth <= e.clientWidth"
    # a catalogue's name, which is as long as it likes, left out
    numbers = "(e) => e.scrollWidth - e.querySelector('th').offsetWidth < e.clientWidth - 120"
    assert page.eval_on_selector("#summary .table", numbers)
    page.set_viewport_size({"width": 400, "height": 800})
    loaded.settle()
    assert page.eval_on_selector("html", fits)
    # no bars above and below a square image, which the picture's width limits
    assert page.eval_on_selector("#stage", "(e) => e.clientHeight <= 1.05 * e.clientWidth")
