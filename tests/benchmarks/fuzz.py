"""Damaged FITS files: ``python tests/benchmarks/fuzz.py --number 10000``.

Bytes of headers are changed, cards dropped, doubled and given strange values, files cut off and
filled up. Each is read as ``cyclades run`` would, in this process, and has to be read or refused in
a sentence, within seconds and within a limit on memory. Prints what became of them, and the first
of those that failed; exits with 1 where any did.
"""

import argparse
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from numpy.random import Generator

from cyclades.stages.core.errors import CycladesError
from cyclades.stages.core.io import FitsSource

CARD, BLOCK = 80, 2880
SLOWEST = 5.0
"""Seconds within which a file is read or refused."""
MEMORY = 4 * 2**30
"""Address space that is given beyond what the process has at the start."""
STRANGE = (
    "0", "-1", "1e308", "-1e308", "NaN", "'nan'", "''", "T", "99999999999", "2147483648", "1.5",
    "'RA---XYZ'", "'Jy/elephant'", "'\u00e9'", "(1,2)", "'unterminated", "1d400",
)  # fmt: skip
KEYS = (
    "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BSCALE", "BZERO", "BLANK", "BUNIT", "BMAJ",
    "BMIN", "BPA", "CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CDELT1", "CDELT2", "CRPIX1", "CRPIX2",
    "CD1_1", "CD1_2", "PC1_1", "CUNIT1", "EQUINOX", "RADESYS", "RESTFRQ", "CTYPE3", "CRVAL3",
    "CDELT3", "PV2_1", "LONPOLE", "SIMPLE", "EXTEND", "PCOUNT", "GCOUNT", "CASAMBM", "ZIMAGE",
)  # fmt: skip


class Outcome(NamedTuple):
    """What became of a file."""

    kind: str
    seconds: float
    text: str = ""


def good_file() -> bytes:
    """A small image with beam, coordinates and unit, four axes of which two are of one pixel."""
    data = np.random.default_rng(1).normal(0, 1e-4, (1, 1, 24, 32)).astype(">f4")
    header = fits.Header()
    for key, value in {
        "BUNIT": "Jy/beam", "BMAJ": 2e-3, "BMIN": 1.5e-3, "BPA": 20.0, "CTYPE1": "RA---SIN",
        "CTYPE2": "DEC--SIN", "CTYPE3": "FREQ", "CTYPE4": "STOKES", "CRVAL1": 180.0,
        "CRVAL2": -30.0, "CRVAL3": 1.4e9, "CRVAL4": 1.0, "CDELT1": -5e-4, "CDELT2": 5e-4,
        "CDELT3": 1e6, "CDELT4": 1.0, "CRPIX1": 16.0, "CRPIX2": 12.0, "CRPIX3": 1.0,
        "CRPIX4": 1.0, "CUNIT1": "deg", "CUNIT2": "deg", "CUNIT3": "Hz", "RADESYS": "ICRS",
    }.items():  # fmt: skip
        header[key] = value
    hdu = fits.PrimaryHDU(data, header)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.fits"
        hdu.writeto(path)
        return path.read_bytes()


def mutated(good: bytes, generator: Generator) -> bytes:
    """Return a damaged copy, by one to four of the ways that there are."""
    content = bytearray(good)
    ways = (_changed_bytes, _strange_value, _dropped_card, _doubled_card, _cut, _filled)
    for way in generator.choice(len(ways), generator.integers(1, 5)):
        content = ways[way](content, generator)
    return bytes(content)


def _cards(content: bytearray) -> int:
    """Cards in front of the end of the first header, as far as there is one."""
    end = content.find(b"END" + b" " * 77)
    return max(1, (end if end > 0 else min(len(content), BLOCK)) // CARD)


def _changed_bytes(content: bytearray, generator: Generator) -> bytearray:
    for _ in range(generator.integers(1, 6)):
        if content:
            place = int(generator.integers(min(len(content), 2 * BLOCK)))
            content[place] = int(generator.integers(256))
    return content


def _strange_value(content: bytearray, generator: Generator) -> bytearray:
    key = str(generator.choice(KEYS))
    card = f"{key:8s}= {generator.choice(STRANGE)!s:>20s}".encode("latin-1", "replace")[:CARD]
    place = content.find(f"{key:8s}=".encode())
    if place < 0:
        place = CARD * int(generator.integers(_cards(content)))
    content[place : place + CARD] = card.ljust(CARD)
    return content


def _dropped_card(content: bytearray, generator: Generator) -> bytearray:
    place = CARD * int(generator.integers(_cards(content)))
    content[place : place + CARD] = b" " * CARD
    return content


def _doubled_card(content: bytearray, generator: Generator) -> bytearray:
    one, other = (CARD * int(k) for k in generator.integers(_cards(content), size=2))
    content[other : other + CARD] = content[one : one + CARD]
    return content


def _cut(content: bytearray, generator: Generator) -> bytearray:
    return content[: int(generator.integers(len(content) + 1))]


def _filled(content: bytearray, generator: Generator) -> bytearray:
    return content + bytes(generator.integers(256, size=int(generator.integers(5000)), dtype="u1"))


def _stop(number: int, frame: object) -> None:
    raise TimeoutError(f"not done after {SLOWEST:g} s")


def outcome(path: Path) -> Outcome:
    """Read a file, with all its pixels; what takes too long is stopped."""
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FitsSource(path).read()
    except CycladesError as error:
        return Outcome("refused", time.perf_counter() - start, str(error))
    except Exception as error:  # this is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        return Outcome("crashed", time.perf_counter() - start, text)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return Outcome("read", time.perf_counter() - start)


def run(number: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read damaged files.

    Returns
    -------
    Counter
        How many were read, refused, crashed, slow.
    list of str
        What failed, with the number of its file.
    """
    good, counts, failed = good_file(), Counter[str](), []
    path = folder / "damaged.fits"
    for k in range(number):
        path.write_bytes(mutated(good, np.random.default_rng([seed, k])))
        made = outcome(path)
        counts[made.kind] += 1
        if made.kind == "crashed":
            failed.append(f"file {k}: {made.text}")
        elif made.kind == "refused" and not made.text.rstrip().endswith("."):
            failed.append(f"file {k}: no sentence: {made.text}")
        if made.seconds > SLOWEST:
            counts["slow"] += 1
            failed.append(f"file {k}: took {made.seconds:.1f} s")
    return counts, failed


def main() -> None:
    """Print what became of the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_AS, (8 * used + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        counts, failed = run(arguments.number, arguments.seed, Path(folder))
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    print(f"{arguments.number} files in {time.perf_counter() - start:.0f} s: {told}")
    for line in failed[:20]:
        print(line)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
