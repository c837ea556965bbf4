"""Build the wheel, look inside, install it in a clean environment and run the main job there.

Usage: python tools/check_wheel.py
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / ".src" / "cyclades"
LARGEST = 60e6
"""Bytes."""
REPORT = """
import importlib.util
from pathlib import Path
import cyclades
from astropy.table import QTable
assert importlib.util.find_spec("torch") is None, "torch came with the core"
assert "site-packages" in cyclades.__file__, cyclades.__file__
rows = len(QTable.read(Path("out", "simulated.catalogue.fits"), hdu="components"))
assert rows >= 20, f"{rows} components"
print(f"{rows} components by cyclades {cyclades.__version__} at {cyclades.__file__}")
"""


def expected() -> set[str]:
    """Return the files that the wheel must hold: modules, stubs, routes and the like."""
    suffixes = {
        ".py", ".pyi", ".typed", ".yaml", ".ecsv", ".html", ".css", ".js", ".safetensors", ".onnx",
    }  # fmt: skip
    found = set()
    # walk() follows the links that make the package out of the top-level folders
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        place = Path(folder).relative_to(PACKAGE.parent)
        for name in names:
            if Path(name).suffix in suffixes or name == "py.typed":
                found.add((place / name).as_posix())
    return found


def main() -> None:
    """Run the check; any failure ends with a non-zero status."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        # the wheel is made from the sdist, so this checks that the sdist is whole as well
        run([sys.executable, "-m", "build", "--outdir", scratch, str(ROOT)], ROOT, quiet=True)
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            missing = expected() - set(archive.namelist())
        if missing:
            sys.exit(f"not in the wheel: {', '.join(sorted(missing))}")
        size = wheel.stat().st_size
        if size > LARGEST:
            sys.exit(f"the wheel has {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}")
        print(f"{wheel.name}: {size / 1e6:.2f} MB, {len(expected())} files checked")

        venv.create(place / "env", with_pip=True)
        programs = place / "env" / ("Scripts" if os.name == "nt" else "bin")
        constraints = str(ROOT / "constraints.txt")
        run([programs / "python", "-m", "pip", "install", "-q", "-c", constraints, wheel], place)
        run([programs / "cyclades", "sample", "simulated", "in"], place)
        run([programs / "cyclades", "run", "in/simulated.fits", "--output", "out"], place)
        run([programs / "python", "-c", REPORT], place)


def run(command: list[str | Path], folder: Path, *, quiet: bool = False) -> None:
    """Run a command in a folder, away from this checkout's packages; stop where it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout or ''}{' '.join(map(str, command))} failed")


if __name__ == "__main__":
    main()
