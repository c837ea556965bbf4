"""The commands of the front page, the tutorial and the how-to pages do what the pages say."""

import pytest
from page_blocks import blocks, run, runnable, without_times
from requirements import require

SAME_EVERYWHERE = 7
"""So many outputs of the tutorial come before the training, whose figures depend on the machine."""
NEEDS = {
    "README.md": ("onnx",),
    "docs/how-to/few-labels.md": ("learned",),
    "docs/how-to/reliability.md": ("onnx",),
    "docs/learned.md": ("onnx",),
    "docs/tutorial.md": ("learned", "onnx"),
}
"""Extras without which the commands of a page cannot run."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", runnable())
def test_the_commands_of_a_page_run(page, tmp_path):
    for extra in NEEDS.get(page, ()):
        require(extra)
    printed, compared = "", 0
    for kind, content in blocks(page):
        if kind in ("sh", "python"):
            printed = run(kind, content, tmp_path)
        elif kind == "text":
            compared += 1
            if compared <= SAME_EVERYWHERE:
                lines = set(map(without_times, printed.splitlines()))
                shown = [line for line in content.splitlines() if line.strip() not in ("", "...")]
                assert shown
                assert [line for line in shown if without_times(line) not in lines] == []


def test_the_tutorial_shows_the_output_of_every_step():
    kinds = [kind for kind, _ in blocks("docs/tutorial.md") if kind in ("sh", "python", "text")]
    assert kinds[::2].count("text") == 0
    assert set(kinds[1::2]) == {"text"}
    assert kinds.count("text") > SAME_EVERYWHERE


def test_the_pages_that_people_begin_with_are_run():
    assert {"README.md", "docs/tutorial.md", *NEEDS} <= set(runnable())
    assert len(runnable()) >= 15, runnable()
