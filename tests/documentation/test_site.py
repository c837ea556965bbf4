"""The site is built without a warning, and holds what it is to hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import require

import cyclades
from cyclades.stages.core.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def build(folder):
    """Build the pages into a folder; a warning fails."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
         "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.timeout(600)
def test_the_site_is_built_without_warnings_and_whole(tmp_path):
    # one test, so that workers of a parallel run do not build it each
    require("docs")
    site = build(tmp_path)
    page, contracts, classes, index = (
        (site / f"{name}.html").read_text("utf-8")
        for name in ("reference/python", "reference/contracts", "reference/stage-classes", "index")
    )
    for name in set(cyclades.__all__) - {"__version__"}:
        assert re.search(rf'id="cyclades\.([\w.]+\.)?{name}"', page + contracts), name
        assert re.search(rf'href="[^"]*#cyclades\.([\w.]+\.)?{name}"', page), name
    for names in BUILT_IN.values():
        for place in names.values():
            assert f'id="{place.replace(":", ".")}"' in classes
    linked = set(re.findall(r'class="reference internal" href="([^"#]+)', index))
    pages = {p.relative_to(DOCS).with_suffix(".html").as_posix() for p in DOCS.rglob("*.md")}
    assert pages - {"index.html"} <= linked
    assert "<math" in (site / "explanation" / "errors.html").read_text("utf-8")
    # nothing is fetched from elsewhere when a page is read
    assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css)"', index + page)


def test_torch_is_not_needed_to_build_it():
    text = (DOCS / "conf.py").read_text("utf-8")
    mocked = text.split("autodoc_mock_imports = [", 1)[1].split("]", 1)[0]
    for name in ("torch", "torchvision", "timm", "transformers", "ultralytics", "onnxruntime"):
        assert f'"{name}"' in mocked


def test_figures_beside_others_are_those_of_the_benchmarks():
    text = (DOCS / "beside.md").read_text("utf-8")
    measured = (DOCS / "benchmarks.md").read_text("utf-8")
    figures = re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", text)
    assert len(figures) >= 20
    assert [figure for figure in figures if figure not in measured] == []
    tables = measured + (DOCS / "routes.md").read_text("utf-8")
    said = text.split("## What was measured", 1)[1].split("## What was not measured", 1)[0]
    assert set(re.findall(r"\b0\.\d{3}\b", said)) <= set(re.findall(r"\b0\.\d{3}\b", tables))
    rows = [r for r in text.splitlines() if r.startswith("| [")]
    sections = [re.search(r"benchmarks\.md#([\w-]+)", row)[1] for row in rows]
    for section, row in zip(sections, rows, strict=True):
        parts = re.split(r"^##+ (.+)\n", measured, flags=re.M)
        titles = [re.sub(r"[^\w -]", "", t).replace(" ", "-").lower() for t in parts[1::2]]
        body = parts[2::2][titles.index(section)]
        for figure in re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", row):
            assert figure in body, (section, figure)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.stem)
def test_a_page_has_one_title(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    assert len(re.findall(r"^# ", text, re.M)) == 1


def test_pictures_are_few_and_small():
    pictures = [p for p in DOCS.rglob("*") if p.suffix in (".png", ".jpg", ".svg", ".gif")]
    assert len(pictures) <= 4
    assert all(p.stat().st_size < 100_000 for p in pictures)


def test_links_of_the_front_page_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", text)
    assert links
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.M)
            anchors = [re.sub(r"[^\w -]", "", t).replace(" ", "-").lower() for t in titles]
            assert anchor in anchors, (path, anchor)


def test_the_citation_is_that_of_the_file():
    text = (DOCS / "cite.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    title = re.search(r'^title: "(.+)"$', citation, re.M)[1]
    assert title in text
    assert f"version = {{{cyclades.__version__}}}" in text
