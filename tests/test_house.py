"""The house: what is imported when, by whom, and what the checkout and the package hold."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cyclades.stages.core import schema

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / ".src" / "cyclades"
HEAVY = (
    "torch", "numba", "scipy", "photutils", "regions", "astropy.coordinates", "matplotlib",
    "radio_beam", "mocpy", "skimage", "sep", "pandas", "pyarrow", "ultralytics",
)  # fmt: skip


def python(code, **environment):
    """Run code in a fresh interpreter, away from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import cyclades",
        "from cyclades.pipeline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    ],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported(code):
    done = python(f"{code}\nimport sys\nprint('loaded', *sys.modules, file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split("loaded", 1)[1].split())
    assert "cyclades" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded & set(HEAVY))


def test_the_classical_route_loads_no_torch(tmp_path):
    code = (
        "import sys\nimport cyclades\nfrom cyclades.pipeline.samples import write_sample\n"
        f"image, _ = write_sample('simulated', {str(tmp_path)!r})\n"
        "result = cyclades.Pipeline.from_route('classical').run(image)\n"
        "assert len(result.catalogue) > 20\n"
        "assert not {'torch', 'ultralytics', 'torchvision', 'pandas'} & set(sys.modules)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_every_export_exists_and_is_in_the_stub():
    import cyclades

    stub = (PACKAGE / "__init__.pyi").read_text()
    for name in cyclades.__all__:
        assert getattr(cyclades, name) is not None
        assert f" as {name}\n" in stub
    offered = {name for name in dir(cyclades) if not name.startswith("_")}
    assert offered <= {*cyclades.__all__, "data", "pipeline", "stages"}
    assert set(cyclades.__all__) <= set(dir(cyclades))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cyclades.nonsense  # noqa: B018


def modules():
    """Every module of the package, by its dotted name."""
    found = []
    for folder, folders, names in os.walk(PACKAGE, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        place = Path(folder).relative_to(PACKAGE.parent)
        found += [
            ".".join((place / name).with_suffix("").parts).removesuffix(".__init__")
            for name in names
            if name.endswith(".py")
        ]
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_every_module_is_importable(name):
    importlib.import_module(name)


def test_every_folder_of_modules_is_a_package():
    bare = [
        folder
        for folder, _, names in os.walk(PACKAGE, followlinks=True)
        if any(name.endswith(".py") for name in names) and "__init__.py" not in names
    ]
    assert not bare


@pytest.mark.parametrize("name", ["pipeline", "stages"])
def test_the_bare_names_say_what_to_import(name):
    done = python(f"import {name}", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert f"ImportError: import this package as 'cyclades.{name}'" in done.stderr


def test_import_rules():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def tracked():
    """Text files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [p for p in paths if p.is_file() and p.suffix not in (".fits", ".png", ".gz")]


def test_no_local_paths_or_package_hosts():
    # spelt in pieces so that this file passes its own rule
    words = ["/ro" + "ot/", "/ho" + "me/", "/Us" + "ers/", "/wo" + "rk/", "/tm" + "p/"]
    words += ["index" + "-url", "py" + "pi.org", "files.python" + "hosted"]
    pattern = re.compile("|".join(map(re.escape, words)))
    guilty = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        # bytes of weights and graphs are read as characters, since they may hold paths too
        if (match := pattern.search(path.read_text("latin-1")))
    }
    assert not guilty


def test_relative_links_make_the_package():
    for name in ("pipeline", "stages", "data"):
        link = PACKAGE / name
        assert link.is_symlink(), "a checkout without symbolic links cannot be used"
        assert os.readlink(link) == f"../../{name}"


def test_constraints_are_plain_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+", line) for line in lines)
    assert not any(line.startswith("cyclades==") for line in lines)


def test_versions_agree():
    import cyclades

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cyclades.__version__
    assert f"## {cyclades.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_documentation_is_current():
    from cyclades.pipeline.reference import documents

    for name, text in documents().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, f"run 'make docs' for {name}"
    assert all(f"`{c.name}`" in documents()["catalogue.md"] for c in schema.COLUMNS)
