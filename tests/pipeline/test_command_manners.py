"""What all commands have in common: examples, JSON, dry runs, completion, colours, exit codes."""

import io
import json
import re
import shlex
import sys

import click
import numpy as np
import pytest
from astropy.io import fits
from click.shell_completion import get_completion_class

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import cli, main
from cyclades.pipeline.commands.completion import VARIABLE
from cyclades.pipeline.commands.document import leaves
from cyclades.pipeline.commands.simulate import SUFFIXES
from cyclades.pipeline.commands.terminal import EXIT_CODES, complain, note_first_run

LEAVES = {c.command_path: c for c in leaves(click.Context(cli, info_name="cyclades"))}
DRY = ("run", "train", "pretrain", "simulate", "study transfer", "study detectors",
       "train-classifier")  # fmt: skip


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def told(capsys, *arguments):
    """The JSON object that a command prints, which is all of stdout."""
    assert cyclades(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("manners") / "field"
    assert cyclades("simulate", prefix, "--size", 384, "--seed", 3) == 0
    return prefix.with_name("field.fits")


def shown_examples():
    for path, context in LEAVES.items():
        for line in (context.command.epilog or "").splitlines()[2:]:
            yield pytest.param(path, line.strip(), id=line.strip()[:60])


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_examples_and_json(path):
    command = LEAVES[path].command
    names = {name for parameter in command.params for name in parameter.opts}
    assert (command.epilog or "").startswith("\b\nExamples:\n  cyclades ")
    assert command.help
    assert "--json" in names or path == "cyclades completion"
    assert ("--dry-run" in names) == (path.removeprefix("cyclades ") in DRY)


@pytest.mark.parametrize(("path", "line"), list(shown_examples()))
def test_every_example_is_a_valid_command(path, line):
    words = shlex.split(line.partition(">")[0])
    assert " ".join(words).startswith(path)
    LEAVES[path].command.make_context(path, words[len(path.split()) :])


def test_help_names_every_exit_code(capsys):
    assert cyclades("--help") == 0
    text = capsys.readouterr().out
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in text
    listed = text.partition("Commands:")[2].partition("Examples:")[0]
    assert "..." not in listed, "a summary is cut short"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, capsys):
    assert cyclades("completion", shell) == 0
    script = capsys.readouterr().out
    assert VARIABLE in script
    assert "cyclades" in script


@pytest.mark.parametrize(
    ("words", "started", "expected"),
    [
        (["run"], "--rou", "--route"),
        (["run", "--route"], "mask", "mask_rcnn"),
        (["run", "--formats"], "fits,vo", "fits,votable"),
        (["run", "--columns"], "aeg", "aegean"),
        ([], "comp", "compare-stages"),
        (["completion"], "z", "zsh"),
    ],
)
def test_completion_offers(words, started, expected):
    made = get_completion_class("bash")(cli, {}, "cyclades", VARIABLE)
    assert expected in [item.value for item in made.get_completions(words, started)]


def test_json_of_commands(simulated, tmp_path, capsys):
    ran = told(capsys, "run", simulated, "-o", tmp_path)
    (image,) = ran["images"]
    catalogue = tmp_path / "field.catalogue.fits"
    assert (image["files"][0], ran["failed"]) == (str(catalogue), 0)
    assert image["counts"]["components"] > 5
    truth = simulated.with_name("field.truth.fits")
    compared = told(capsys, "compare", f"ours={catalogue}", "--truth", truth)
    assert compared["summary"][0]["catalogue"] == "ours"
    assert compared["summary"][0]["completeness"] > 0.5
    taken = told(capsys, "subtract", simulated, "--catalogue", catalogue, "-o", tmp_path / "r.fits")
    assert taken["sources"] == image["counts"]["components"]
    rate = told(capsys, "inverted", simulated)["routes"]["classical"]
    assert rate["fields"][0]["positive"] > 5
    measured = told(capsys, "measure", simulated, "-c", catalogue, "-o", tmp_path)
    assert measured["images"]["field"]["components"] == taken["sources"]
    listed = told(capsys, "stages", "islands")["stages"][0]
    assert listed["parameters"]["false_discovery_rate"]["default"] == 0.01
    assert "grid" in told(capsys, "stages")["stages"]["background"]
    assert told(capsys, "config", "show")["seed"] == 0
    assert "yolo" in [row["name"] for row in told(capsys, "weights")["weights"]]


def test_catalogues_of_one_name_are_called_by_their_folders(simulated, tmp_path, capsys):
    assert cyclades("run", simulated, "-o", tmp_path / "one", "-q") == 0
    (tmp_path / "two").mkdir()
    files = [tmp_path / name / "field.catalogue.fits" for name in ("one", "two")]
    files[1].write_bytes(files[0].read_bytes())
    (row,) = told(capsys, "compare", *files)["agreement"]
    assert {row["first"], row["second"]} == {"one", "two"}
    assert cyclades("compare", files[0], files[0]) == 2
    assert "LABEL=FILE" in capsys.readouterr().err


def test_a_failed_image_is_in_the_json_and_in_the_exit_code(tmp_path, simulated, capsys):
    code = cyclades("run", tmp_path / "none.fits", simulated, "-o", tmp_path, "--json")
    assert code == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["failed"] == 1
    assert [bool(image["error"]) for image in told["images"]] == [True, False]
    assert "1 of 2 images failed" in captured.err


def test_a_dry_run_lists_what_a_run_writes(simulated, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new"
    options = ("run", simulated, "-o", out, "--products", "rms", "--formats", "csv", "--columns",
               "aegean")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", lambda *_, **__: pytest.fail("the work started"))
        planned = told(capsys, *options, "--dry-run")
    assert not out.exists()
    assert planned["images"][0]["shape"] == [384, 384]
    assert cyclades(*options, "-q") == 0
    assert sorted(planned["files"]) == sorted(str(path) for path in out.iterdir())
    assert cyclades(*options, "--dry-run") == 0
    text = capsys.readouterr().out
    assert "grid -> islands -> gaussian -> components" in text
    assert text.count("replaces the one that is there") == len(planned["files"])


def test_a_dry_run_finds_what_is_wrong(tmp_path, capsys):
    path = tmp_path / "bare.fits"
    fits.PrimaryHDU(np.ones((8, 8), np.float32)).writeto(path)
    assert cyclades("run", path, "-o", tmp_path / "out", "--dry-run") == 2
    captured = capsys.readouterr()
    assert "no beam in pixels and no celestial coordinates" in captured.err
    assert "--beam 4pixel" in captured.err
    assert "would write" not in captured.out


def test_names_are_given_at_once_or_one_by_one(simulated, tmp_path, capsys):
    options = ("run", simulated, "-o", tmp_path / "out", "--dry-run")
    at_once = told(capsys, *options, "--products", "rms,residual", "--formats", "csv,votable")
    one_by_one = ("--products", "rms", "--products", "residual", "--formats", "csv")
    assert told(capsys, *options, *one_by_one, "--formats", "votable") == at_once
    assert sum("residual" in path or "rms" in path for path in at_once["files"]) == 2


def test_a_dry_run_says_that_weights_are_missing(simulated, tmp_path, capsys):
    options = ("run", simulated, "-o", tmp_path / "out", "--set", "detection=mask_rcnn")
    weights = ("--set", f"detection.weights={tmp_path / 'none.safetensors'}")
    assert cyclades(*options, *weights, "--dry-run") == 2
    assert "none.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["radio", "optical"])
def test_a_dry_simulation_lists_what_is_written(kind, tmp_path, capsys):
    options = ("simulate", tmp_path / "s", "--size", 128, "--kind", kind)
    planned = told(capsys, *options, "--dry-run")
    assert not list(tmp_path.iterdir())
    assert planned["options"]["size"] == 128
    written = told(capsys, *options)
    assert sorted(planned["files"]) == sorted(str(path) for path in tmp_path.iterdir())
    assert sorted(written["files"]) == sorted(planned["files"])
    assert len(planned["files"]) == 1 + len(SUFFIXES) * (3 if kind == "optical" else 1)


@pytest.mark.parametrize("command", ["train", "pretrain", "study"])
def test_dry_runs_of_trainings(command, tmp_path, capsys):
    words = {"train": ["train", "--config", "yolo"],
             "pretrain": ["pretrain", "--config", "vit_tiny_mae"],
             # simulated tiles and first numbers, which need no package
             "study": ["study", "detectors", "--config", "detectors_quick"]}[command]  # fmt: skip
    planned = told(capsys, *words, "--output", tmp_path / "out", "--dry-run")
    assert planned["dry_run"]
    assert planned["files"]
    assert not (tmp_path / "out").exists()
    if command == "train":
        assert str(tmp_path / "out" / "yolo.safetensors") in planned["files"]
        assert planned["options"]["steps"] > 0
    if command == "study":
        # two networks, a route and a hybrid
        assert planned["cells"] == len(planned["missing"]) == 4
        assert not planned["left_out"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_colours_are_for_terminals_and_can_be_turned_off(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    seen = {}
    for name, stream, no_color in (
        ("terminal", Terminal(), ""),
        ("file", io.StringIO(), ""),
        ("asked", Terminal(), "1"),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("NO_COLOR", no_color)
        complain("a mistake.")
        seen[name] = stream.getvalue()
        assert "cyclades:" in seen[name]
    assert "\x1b[" in seen["terminal"]
    assert seen["file"] == seen["asked"] == "cyclades: a mistake.\n"


class Progress:
    """What a terminal shows of a command's progress."""

    def __init__(self, monkeypatch, capsys):
        self.patch, self.capsys = monkeypatch, capsys

    def shown(self, *arguments, stream=None):
        stream = Terminal() if stream is None else stream
        with self.patch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            assert cyclades(*arguments) == 0
        self.said = self.capsys.readouterr().out
        return stream.getvalue()


def test_measuring_shows_its_progress_on_a_terminal(simulated, tmp_path, monkeypatch, capsys):
    progress = Progress(monkeypatch, capsys)
    table = simulated.with_name("field.truth.fits")
    words = ("measure", f"low={simulated}", f"high={simulated}", "-c", table, "-o", tmp_path)
    text = progress.shown(*words)
    assert "low: fit" in text
    # the rate, and the time that remains
    assert re.search(r"[1-5]/6 \[\d\d:\d\d<[\d:?]+, .*step", text)
    assert "low.measured.fits" in progress.said
    progress.shown(*words, "--json")
    assert len(json.loads(progress.said)["files"]) == 2
    assert progress.shown(*words, "--quiet") == ""
    assert progress.said == ""
    assert progress.shown(*words, stream=io.StringIO()) == ""


def test_swapping_stages_shows_its_progress_on_a_terminal(simulated, tmp_path, monkeypatch, capsys):
    progress = Progress(monkeypatch, capsys)
    other = tmp_path / "six.yaml"
    other.write_text("detection: {name: islands, seed_threshold: 6}\n")
    words = ("compare-stages", simulated, "--routes", f"classical,{other}")
    text = progress.shown(*words)
    # 5 steps of the first route, and detection and what follows of the other
    assert re.search(r"[1-7]/8 \[\d\d:\d\d<[\d:?]+, .*stage", text)
    assert progress.shown(*words, "--quiet") == ""
    assert "six" in progress.said or "detection" in progress.said
    made = ("compare-stages", "--seeds", "1", "--set", "size=256", "--stages", "reliability")
    assert re.search(r"[01]/2 \[\d\d:\d\d<[\d:?]+, .*run", progress.shown(*made))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_first_run_says_on_a_terminal_that_it_compiles(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    note_first_run(tmp_path)
    assert ("compiles" in capsys.readouterr().err) == terminal
    kept = tmp_path / "core" / "__pycache__"
    kept.mkdir(parents=True)
    (kept / "summits.sharpen-1.py{}{}.nbi".format(*sys.version_info)).touch()
    note_first_run(tmp_path)
    assert not capsys.readouterr().err
