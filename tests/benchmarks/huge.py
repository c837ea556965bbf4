"""One huge image: ``python tests/benchmarks/huge.py 4096 16384 32768 --folder DIR``.

For each side an image is simulated strip by strip (noise of unit rms correlated like a beam of
4 pixels, 280 sources a million pixels, one in twenty of them extended), then catalogued by a
process of its own. What is printed: sources, wall and CPU seconds, CPU seconds a million pixels,
and the largest memory of any one process. A side with ``whole:`` before it is run without windows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.ndimage import gaussian_filter

from cyclades.stages.core.rendering import render_gaussians

SEED = 17
ROWS = 512
SIGMA = 4.0 / np.sqrt(8.0 * np.log(2.0))
PER_MEGAPIXEL = 280.0
EXTENDED = 0.05
MARGIN = 12


def header(side: int) -> fits.Header:
    """Header of a SIN image of 1.5 arcsec a pixel with a beam of 6 arcsec."""
    cards = fits.Header()
    cards["SIMPLE"], cards["BITPIX"], cards["NAXIS"] = True, -32, 2
    cards["NAXIS1"], cards["NAXIS2"] = side, side
    cards["CTYPE1"], cards["CTYPE2"] = "RA---SIN", "DEC--SIN"
    cards["CRVAL1"], cards["CRVAL2"] = 150.0, -30.0
    cards["CRPIX1"], cards["CRPIX2"] = side / 2, side / 2
    cards["CDELT1"], cards["CDELT2"] = -1.5 / 3600, 1.5 / 3600
    cards["BMAJ"], cards["BMIN"], cards["BPA"] = 6 / 3600, 6 / 3600, 0.0
    cards["BUNIT"], cards["RADESYS"], cards["RESTFRQ"] = "Jy/beam", "ICRS", 1.4e9
    return cards


def white(side: int, first: int) -> np.ndarray:
    """White noise of the rows of a strip, the same however the strips are asked for."""
    rows = min(ROWS, side - first)
    return np.random.default_rng([SEED, side, first]).standard_normal((rows, side), np.float32)


def sources(side: int) -> np.ndarray:
    """Rows (peak, x, y, sxx, sxy, syy) of the sources, in units of the rms, by y."""
    rng = np.random.default_rng([SEED, side])
    number = round(PER_MEGAPIXEL * side * side / 1e6)
    peak = 5.0 * rng.uniform(1e-4, 1.0, number) ** -0.9
    x, y = rng.uniform(0, side, (2, number))
    wide = np.where(rng.uniform(size=number) < EXTENDED, rng.uniform(2.0, 8.0, number), 0.0)
    angle = rng.uniform(0, np.pi, number)
    narrow = 0.5 * wide
    cos, sin = np.cos(angle), np.sin(angle)
    sxx = SIGMA**2 * (1 + (wide * cos) ** 2 + (narrow * sin) ** 2)
    syy = SIGMA**2 * (1 + (wide * sin) ** 2 + (narrow * cos) ** 2)
    sxy = SIGMA**2 * (wide**2 - narrow**2) * sin * cos
    return np.column_stack([peak, x, y, sxx, sxy, syy])[np.argsort(y)]


def write(path: Path, side: int) -> None:
    """Simulate an image into a file, a strip at a time."""
    rows = sources(side)
    kernel = SIGMA / np.sqrt(2.0)
    one = np.zeros((65, 65))
    one[32, 32] = 1.0
    rms = float(np.sqrt((gaussian_filter(one, kernel) ** 2).sum()))
    with path.open("wb") as file:
        file.write(header(side).tostring().encode("ascii"))
        before = np.zeros((MARGIN, side), np.float32)
        here = white(side, 0)
        for first in range(0, side, ROWS):
            following = white(side, first + ROWS) if first + ROWS < side else before[:0]
            strip = np.concatenate([before, here, following[:MARGIN]])
            noise = gaussian_filter(strip, kernel) / np.float32(rms)
            noise = noise[MARGIN : MARGIN + len(here)]
            reach = 6.0 * np.sqrt(rows[:, 5])
            near = (rows[:, 2] + reach >= first) & (rows[:, 2] - reach <= first + len(here))
            shifted = rows[near]
            shifted[:, 2] -= first
            noise += render_gaussians(noise.shape, shifted)
            file.write((1e-4 * noise).astype(">f4").tobytes())
            before, here = here[-MARGIN:], following
        file.write(b"\0" * (-file.tell() % 2880))


def measure(image: Path, output: Path, arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and megabytes of a run in a process of its own."""
    command = [sys.executable, "-m", "cyclades", "run", str(image), "--output", str(output)]
    code = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, code)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    cpu, memory, status = done.stdout.split()[-3:]
    if status != "0":
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start, float(cpu), float(memory)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sides", nargs="+", help="as 4096, or whole:4096")
    parser.add_argument("--folder", type=Path, required=True, help="of images and catalogues")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--route", default="classical")
    parser.add_argument("--set", nargs="+", default=[], dest="changes", metavar="STAGE=NAME",
                        help="changes of the route, as background=dense")  # fmt: skip
    parser.add_argument("--window", type=int, default=4096)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    route = " ".join([arguments.route, *arguments.changes])
    print(f"route {route}, window {arguments.window}, {arguments.workers} workers")
    print(f"{'side':>12s}{'sources':>9s}{'wall s':>9s}{'CPU s':>9s}{'CPU s/Mpx':>11s}{'MB':>7s}")
    for name in arguments.sides:
        side = int(name.rpartition(":")[2])
        window = 0 if name.startswith("whole:") else arguments.window
        image = arguments.folder / f"sky{side}.fits"
        if not image.exists():
            partial = image.with_suffix(".partial")
            write(partial, side)
            partial.rename(image)
        output = arguments.folder / f"{'-'.join(route.split())}{side}_{window}_{arguments.workers}"
        options = ["--route", arguments.route, "--workers", str(arguments.workers), "--quiet"]
        for change in (*arguments.changes, f"image.window={window}"):
            options += ["--set", change]
        wall, cpu, memory = measure(image, output, options)
        record = json.loads((output / f"sky{side}.provenance.json").read_text())
        found = record["counts"]["components"]
        print(
            f"{name:>12s}{found:9d}{wall:9.1f}{cpu:9.1f}{cpu / side**2 * 1e6:11.3f}{memory:7.0f}",
            flush=True,
        )
        for label, seconds in record["timings"].items():
            print(f"{'':12s}  {label:20s}{seconds:9.1f} s")


if __name__ == "__main__":
    main()
