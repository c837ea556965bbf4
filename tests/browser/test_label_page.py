"""The labelling page in a real browser: choose, accept, reject, merge, classify, draw, save."""

import json

import numpy as np
import pytest
from labelling_case import candidates, two_far_apart
from loaded_page import LEVELS, LoadedPage

from cyclades.pipeline.labelling.decisions import apply_decisions, read_decisions
from cyclades.pipeline.labelling.page import write_label_page


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    return write_label_page(candidates(), tmp_path_factory.mktemp("label") / "page.html")


@pytest.fixture
def loaded(browser, page_path):
    made = LoadedPage(browser, page_path)
    yield made
    made.page.evaluate("() => localStorage.clear()")
    made.page.close()
    made.check()


def middle(number):
    """Middle of a candidate's bounds, where a click chooses it."""
    y, x = np.divmod(candidates().segments[number], candidates().image.shape[1])
    return (x.min() + x.max()) / 2, (y.min() + y.max()) / 2


def click(loaded, number, *modifiers):
    """Click a candidate."""
    for one in modifiers:
        loaded.page.keyboard.down(one)
    loaded.page.mouse.click(*loaded.screen(*middle(number)))
    for one in modifiers:
        loaded.page.keyboard.up(one)
    loaded.settle()


def saved(loaded, tmp_path):
    """Save, and read what was saved."""
    with loaded.page.expect_download() as found:
        loaded.page.click("#save")
    path = tmp_path / found.value.suggested_filename
    found.value.save_as(path)
    return path, read_decisions(path)


def test_all_candidates_are_drawn_and_open(loaded):
    assert loaded.page.eval_on_selector("#sky", LEVELS) > 60
    assert loaded.drawn == {"open": len(candidates()), "accepted": 0, "rejected": 0, "chosen": 0}
    assert loaded.page.locator("#classes button").count() == len(candidates().classes)
    assert loaded.page.locator("#accept").is_disabled()


def test_decisions_are_saved_and_become_labels(loaded, tmp_path):
    one, other = two_far_apart()
    third = int(np.argsort(-candidates().snr)[2])
    click(loaded, one)
    assert loaded.drawn["chosen"] == 1
    loaded.page.keyboard.press("2")
    click(loaded, other)
    loaded.page.click("#reject")
    loaded.page.keyboard.press("Escape")
    click(loaded, third)
    loaded.page.keyboard.press("a")
    text = loaded.page.inner_text("#progress")
    assert text == f"2 accepted, 1 rejected, {len(candidates()) - 3} open"
    path, made = saved(loaded, tmp_path)
    assert path.name == f"{candidates().image.name}.decisions.json"
    by_number = {one.candidates[0]: one for one in made.objects}
    assert (by_number[one].state, by_number[one].kind) == ("accepted", candidates().classes[1])
    assert by_number[other].state == "rejected"
    assert by_number[third].kind == candidates().suggestion[third]
    labels = apply_decisions(candidates(), made)
    assert labels.counts["accepted"] == 2


def test_merging_separating_and_undoing(loaded, tmp_path):
    one, other = two_far_apart()
    click(loaded, one)
    click(loaded, other, "Shift")
    assert loaded.drawn["chosen"] == 2
    loaded.page.keyboard.press("m")
    loaded.settle()
    assert loaded.drawn["accepted"] == 1
    _, made = saved(loaded, tmp_path)
    whole = next(d for d in made.objects if len(d.candidates) > 1)
    assert set(whole.candidates) == {one, other}
    assert whole.kind == "multi-component"
    loaded.page.click("#separate")
    loaded.settle()
    assert loaded.drawn["open"] == len(candidates())
    loaded.page.keyboard.press("z")
    loaded.settle()
    assert loaded.drawn["accepted"] == 1
    loaded.page.keyboard.press("z")
    loaded.settle()
    assert loaded.drawn == {"open": len(candidates()), "accepted": 0, "rejected": 0, "chosen": 0}


def test_a_box_is_drawn_without_moving_the_image(loaded, tmp_path):
    before = loaded.view
    loaded.page.keyboard.press("d")
    start, end = loaded.screen(40, 50), loaded.screen(60, 64)
    loaded.page.mouse.move(*start)
    loaded.page.mouse.down()
    loaded.page.mouse.move(*end, steps=4)
    loaded.page.mouse.up()
    loaded.settle()
    assert loaded.view == before
    _, made = saved(loaded, tmp_path)
    drawn = [one for one in made.objects if one.box]
    assert len(drawn) == 1
    assert np.allclose(drawn[0].box, [40, 50, 60, 64], atol=1.0)
    # the mode ends with the box: a drag moves the image again
    loaded.page.mouse.move(*start)
    loaded.page.mouse.down()
    loaded.page.mouse.move(start[0] + 50, start[1], steps=4)
    loaded.page.mouse.up()
    loaded.settle()
    assert loaded.view != before


def test_next_goes_to_the_brightest_open_object(loaded):
    order = np.argsort(-candidates().snr)
    for number in order[:2]:
        loaded.page.keyboard.press("n")
        loaded.settle()
        x, y, _ = loaded.view
        assert np.hypot(*(np.array(middle(number)) - (x, y))) < 1.0
        assert loaded.drawn["chosen"] == 1
        loaded.page.keyboard.press("a")


def test_work_goes_on_where_it_was_left(loaded, browser, page_path, tmp_path):
    one, _ = two_far_apart()
    click(loaded, one)
    loaded.page.keyboard.press("1")
    path, _ = saved(loaded, tmp_path)
    loaded.page.reload()
    loaded.page.wait_for_selector("body[data-ready]")
    loaded.settle()
    assert loaded.drawn["accepted"] == 1
    loaded.page.evaluate("() => localStorage.clear()")
    loaded.page.reload()
    loaded.page.wait_for_selector("body[data-ready]")
    assert loaded.page.inner_text("#progress").startswith("0 accepted")
    loaded.page.set_input_files("#load", path)
    loaded.page.wait_for_function("() => document.getElementById('told').textContent")
    assert loaded.page.inner_text("#progress").startswith("1 accepted")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(path.read_text()) | {"identity": "x"}))
    loaded.page.set_input_files("#load", other)
    loaded.page.wait_for_function(
        "() => document.getElementById('told').textContent.includes('other objects')"
    )
