"""The commands of a page of the documentation, run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.M | re.S)


def blocks(page):
    """Pairs of kind and content of the blocks of a page, in order."""
    return BLOCK.findall((DOCS / page).read_text("utf-8"))


def pages():
    """Pages that have commands to run."""
    found = [path.relative_to(DOCS).as_posix() for path in sorted((DOCS / "how-to").glob("*.md"))]
    return ["tutorial.md", *(page for page in found if any(k == "sh" for k, _ in blocks(page)))]


def run(kind, code, folder):
    """Run a block in a folder and return what it printed."""
    programs = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", "-euo", "pipefail"] if kind == "sh" else [sys.executable]
    done = subprocess.run(
        [*command, "-c", code], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def without_times(line):
    """A printed line without what differs from run to run."""
    return re.sub(r" in [\d.]+ s\b|\s+", " ", line).strip()
