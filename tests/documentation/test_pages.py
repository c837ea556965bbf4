"""The commands of the tutorial and of the how-to pages do what the pages say."""

import pytest
from page_blocks import blocks, pages, run, without_times
from requirements import require

SAME_EVERYWHERE = 7
"""So many outputs of the tutorial come before the training, whose figures depend on the machine."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_run(page, tmp_path):
    require("learned")
    printed, compared = "", 0
    for kind, content in blocks(page):
        if kind != "text":
            printed = run(kind, content, tmp_path)
            continue
        compared += 1
        if compared <= SAME_EVERYWHERE:
            lines = set(map(without_times, printed.splitlines()))
            shown = [line for line in content.splitlines() if line.strip() not in ("", "...")]
            assert shown
            assert [line for line in shown if without_times(line) not in lines] == []


def test_the_tutorial_shows_the_output_of_every_step():
    kinds = [kind for kind, _ in blocks("tutorial.md")]
    assert kinds[::2].count("text") == 0
    assert set(kinds[1::2]) == {"text"}
    assert kinds.count("text") > SAME_EVERYWHERE
