"""The commands and code of the pages: found, checked, and run as a reader would run them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
HEREDOC = re.compile(r"<<\s*'?(\w+)'?.*?\n(.*?)^\1$", re.M | re.S)
SHELL = ("", "sh", "shell")
SEPARATORS = re.compile(r"[;&|()]+")
RUN_ELSEWHERE = {
    "docs/extending.md": "tests/detectors/test_head_from_outside.py",
    "docs/how-to/duckdb.md": "tests/survey/test_survey_duckdb.py",
    "docs/how-to/hats.md": "tests/survey/test_survey_hats.py",
}
"""Pages whose blocks other tests run, with what they need."""


def documents():
    """Every page that people read, from the root of the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def text_of(page):
    """The text of a page."""
    return (ROOT / page).read_text("utf-8")


def blocks(page):
    """Pairs of kind and content of the blocks of a page, in order."""
    return BLOCK.findall(text_of(page))


def runnable():
    """Pages with commands that are run as they stand (blocks marked ``sh``)."""
    return [
        page
        for page in documents()
        if page not in RUN_ELSEWHERE and any(kind == "sh" for kind, _ in blocks(page))
    ]


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


def without_times(text):
    """The lines of an output without what differs from run to run."""
    lines = [re.sub(r" in [\d.]+ s\b|\s+", " ", line).strip() for line in text.splitlines()]
    if any(line.endswith(" seconds") for line in lines):  # the last column of a table
        lines = [re.sub(r" [\d.]+$", "", line) for line in lines]
    return lines


def commands(page):
    """Command lines of the program on a page: words after its name, and whether they are whole.

    Those of blocks of shell, marked or not, of lines that are indented by four, and of scripts
    that a block writes are whole; those in the text may leave out what is said beside them.
    """
    text = text_of(page)
    shell = [code for kind, code in BLOCK.findall(text) if kind in SHELL]
    shell += [body for code in shell for _, body in HEREDOC.findall(code) if "#!/bin/" in body]
    prose = BLOCK.sub("", text)
    shell += re.findall(r"(?:^    .*\n)+", prose, re.M)
    found = [(words, True) for code in shell for words in _named(HEREDOC.sub("", code))]
    inline = re.findall(r"`(cyclades\s[^`]+)`", prose)
    return found + [(words, False) for code in inline for words in _named(" ".join(code.split()))]


def _named(code):
    """Words after the program's name of every command of it in some lines of shell."""
    lines = re.sub(r"\\\n", " ", code).splitlines()
    # the other lines may be of any language
    lines = [line for line in lines if re.search(r"(?:^|[\s;&|])cyclades\s", line)]
    simple_ones = [words for line in lines if "[OPTIONS]" not in line for words in simple(line)]
    return [words[1:] for words in simple_ones if words[:1] == ["cyclades"]]


def simple(line):
    """The simple commands of a line of shell, in words, without redirections."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.wordchars += ",:{}[]@%+!^"
    commands, stopped = [[]], False
    try:
        for word in reader:
            if SEPARATORS.fullmatch(word) or word in ("do", "then"):
                commands.append([])
                stopped = False
            elif re.fullmatch(r"[<>]+&?", word):
                stopped = True
            elif not stopped:
                commands[-1].append(word)
    except ValueError:  # a quotation mark that does not end: not shell
        return []
    return commands
