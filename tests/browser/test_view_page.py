"""The page of a viewer in a real browser: by itself, and in the frame that a notebook gives it."""

import pytest
from loaded_page import LEVELS, LoadedPage
from report_cases import make_catalogues, make_field

from cyclades.pipeline.viewing.show import show


@pytest.fixture(scope="module")
def field():
    image, truth = make_field()
    return image, truth, make_catalogues(truth)


def test_one_catalogue_over_its_image(browser, field, tmp_path):
    image, truth, catalogues = field
    path = show({"alpha": catalogues["alpha"]}, image, viewer="page").save(tmp_path / "one.html")
    loaded = LoadedPage(browser, path)
    page = loaded.page
    assert page.eval_on_selector("#sky", LEVELS) > 60
    assert loaded.drawn == {"alpha": 40}
    assert not page.locator("#only-mismatches, #mismatches, #curves, #tables").count()
    page.mouse.click(*loaded.screen(truth["x"][5], truth["y"][5]))
    loaded.settle()
    assert page.locator("#cutouts canvas").count() == 2
    assert page.locator("#rows thead th").all_inner_texts() == ["", "alpha"]
    line = page.locator("#rows tbody tr", has_text="total flux (").locator("td").inner_text()
    # row 6 of the catalogue: it misses one, and two strays stand before, one without a position
    flux = catalogues["alpha"]["total_flux"][6]
    assert float(line.split(" ± ")[0]) == pytest.approx(flux * 1e3, abs=0.01)
    page.close()
    loaded.check()


def test_two_routes_are_layers(browser, field, tmp_path):
    image, _, catalogues = field
    path = show(catalogues, image, viewer="page").save(tmp_path / "two.html")
    loaded = LoadedPage(browser, path)
    assert list(loaded.drawn.values()) == [40, 40]
    loaded.page.uncheck("#layer-0")
    loaded.settle()
    assert "alpha" not in loaded.drawn
    loaded.page.close()
    loaded.check()


def test_the_frame_of_a_notebook_shows_it(browser, field, tmp_path):
    """In a sandbox without an origin, as the output of a cell has it."""
    image, _, catalogues = field
    view = show({"alpha": catalogues["alpha"]}, image, viewer="page")
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><html><body>{view._repr_html_()}</body></html>", "utf-8")
    page, errors = browser.new_page(viewport={"width": 1300, "height": 900}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert frame.locator("#sky").evaluate(LEVELS) > 60
    frame.locator("#zoom-in").click()
    assert not errors
    page.close()
