"""The commands of the front page, the tutorial and the how-to pages do what the pages say."""

import pytest
from page_blocks import blocks, run, runnable, without_times
from requirements import require

TRAINED = ("mine/mine.safetensors", "mine: 32 held-out tiles", "mine/catalogue/")
"""Outputs of the tutorial that are of its training, whose figures depend on the machine."""
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
    printed = ""
    for kind, content in blocks(page):
        if kind in ("sh", "python"):
            printed = run(kind, content, tmp_path)
        elif kind == "text" and not any(made in content for made in TRAINED):
            lines = set(without_times(printed))
            shown = [line for line in without_times(content) if line not in ("", "...")]
            assert shown
            assert [line for line in shown if line not in lines] == []


def test_the_tutorial_shows_the_output_of_every_step():
    kinds = [kind for kind, _ in blocks("docs/tutorial.md") if kind in ("sh", "python", "text")]
    assert kinds[::2].count("text") == 0
    assert set(kinds[1::2]) == {"text"}
    texts = [content for kind, content in blocks("docs/tutorial.md") if kind == "text"]
    of_training = [text for text in texts if any(made in text for made in TRAINED)]
    assert len(of_training) == len(TRAINED)
    assert len(texts) - len(of_training) >= 8


def test_the_pages_that_people_begin_with_are_run():
    assert {"README.md", "docs/tutorial.md", *NEEDS} <= set(runnable())
    assert len(runnable()) >= 15, runnable()
