"""Configuration of the site that `make site` builds from these pages and the docstrings."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

# nothing is computed here, and compiling what is imported would take longer than the pages
os.environ["NUMBA_DISABLE_JIT"] = "1"

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import _MockObject

from cyclades import __version__
from cyclades.stages.core.registry import BUILT_IN, stage_class
from cyclades.stages.core.stage import Stage

project = "Cyclades"
author = "The Cyclades developers"
copyright = "2026, The Cyclades developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]
highlight_language = "none"
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# no docstring needs what these do, and importing torch alone would take as long as the pages
autodoc_mock_imports = [
    "effdet", "huggingface_hub", "lightning", "onnx", "onnxruntime", "onnxscript", "safetensors",
    "timm", "torch", "torchvision", "transformers", "ultralytics",
]  # fmt: skip
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"Cyclades {__version__}"
html_static_path = ["_static"]
html_css_files = ["cyclades.css"]
html_math_renderer = "mathml"
toc_object_entries_show_parents = "hide"
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"

# annotations as "Tensor | None" are evaluated when a class is made
_MockObject.__or__ = _MockObject.__ror__ = lambda self, other: self

METHODS = ("estimate", "detect", "measure", "build", "refine")


def stage_classes(app: Sphinx, page: str, source: list[str]) -> None:
    """Write the page of the stages' classes from the table that they are registered in."""
    if page != "reference/stage-classes":
        return
    blocks = []
    for kind, names in BUILT_IN.items():
        blocks.append(f"## {kind}\n")
        for name, place in names.items():
            own = [m for m in METHODS if m in vars(stage_class(kind, name))]
            members = f"   :members: {', '.join(own)}\n" if own else ""
            blocks.append(
                f"### {kind}: {name}\n\n```{{eval-rst}}\n.. autoclass:: "
                f"{place.replace(':', '.')}\n{members}```\n"
            )
    source[0] += "\n" + "\n".join(blocks)


def outer_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Make links to Markdown files beside these pages' folder links to files: they are no pages."""
    here = Path(app.srcdir, page).parent

    def changed(link: re.Match[str]) -> str:
        outside = not (here / link[1]).resolve().is_relative_to(app.srcdir)
        return f"](<path:{link[1]}>)" if outside else link[0]

    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md)(?:#[^)]*)?\)", changed, source[0])


def navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Drop patterns that no page fits from lists, and list the pages that no list names."""
    if not page.endswith("/index"):
        return
    folder = Path(app.srcdir)
    source[0] = re.sub(
        r"^(\S+\*)\n",
        lambda line: line[0] if [*(folder / page).parent.glob(f"{line[1]}.md")] else "",
        source[0],
        flags=re.M,
    )
    if page == "how-to/index":
        lists = "\n".join(path.read_text("utf-8") for path in folder.glob("**/index.md"))
        named = re.findall(r"^(?:.+ <)?(?:\.\./)?([\w-]+)\*?>?$", lists, re.M)
        new = [p.stem for p in folder.glob("*.md") if not p.stem.startswith(("index", *named))]
        if new:
            entries = "\n".join(f"../{name}" for name in sorted(new))
            source[0] += f"\n```{{toctree}}\n:maxdepth: 1\n:caption: More\n\n{entries}\n```\n"


def formula(writer: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw without scripts from elsewhere."""
    block = isinstance(node, nodes.math_block)
    writer.body.append('<div class="math">' if block else "<span>")
    writer.body.append(convert(node.astext(), display="block" if block else "inline"))
    writer.body.append("</div>" if block else "</span>")
    raise nodes.SkipNode


def plain_signature(
    app: Sphinx, what: str, name: str, given: Any, *more: Any
) -> tuple[str, str] | None:
    """Leave out the signatures of stages, whose parameters have tables of their own."""
    if what == "class" and inspect.isclass(given) and issubclass(given, Stage):
        return "", ""
    return None


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("source-read", stage_classes)
    app.connect("source-read", outer_links)
    app.connect("source-read", navigation)
    app.connect("autodoc-process-signature", plain_signature)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
