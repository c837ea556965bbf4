"""How long things take, cold and warm: ``python tests/benchmarks/speed.py IMAGE.fits``.

Every figure is the wall time of a fresh process, so that imports count. Cold runs start with an
empty numba cache, as on a new machine; warm ones are what a user sees from then on. With the
folder that holds `BANE` and `aegean`, the peer runs on the same image in the same call and the
ratio of the two is printed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def wall(command: list[str], **environment: str) -> float:
    """Seconds that a command takes in a fresh process."""
    start = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
    )
    return time.perf_counter() - start


def stage_seconds(folder: Path) -> dict[str, float]:
    """Stage timings from the provenance record of a run."""
    record = next(folder.glob("*.provenance.json"))
    return dict(json.loads(record.read_text())["timings"])


def aegean_seconds(image: Path, folder: Path, binaries: Path) -> float:
    """BANE and Aegean at their usual thresholds, on two cores and one BLAS thread."""
    link = folder / "image.fits"
    link.symlink_to(image.resolve())
    bane = wall([str(binaries / "BANE"), "--cores", "2", str(link)])
    find = [str(binaries / "aegean"), "--cores", "2", "--autoload", "--seedclip", "5"]
    find += ["--floodclip", "4", "--table", str(folder / "aegean.csv"), str(link)]
    return bane + wall(find)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--aegean", type=Path, help="folder that holds BANE and aegean")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "cyclades"]
    print(f"{'import cyclades':32s}{wall([sys.executable, '-c', 'import cyclades']):8.2f} s")
    print(f"{'cyclades --help':32s}{wall([*command, '--help']):8.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        run = [*command, "run", str(arguments.image), "--output", str(output)]
        cache = str(Path(folder) / "numba")
        print(f"{'run, cold':32s}{wall(run, NUMBA_CACHE_DIR=cache):8.2f} s")
        warm = min(wall(run, NUMBA_CACHE_DIR=cache) for _ in range(3))
        print(f"{'run, warm (best of 3)':32s}{warm:8.2f} s")
        for stage, seconds in stage_seconds(output).items():
            print(f"{'  ' + stage:32s}{seconds:8.2f} s")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{'largest memory of a process':32s}{used.ru_maxrss / 1024:8.0f} MB")
        if arguments.aegean:
            peer = aegean_seconds(arguments.image, Path(folder), arguments.aegean)
            print(f"{'BANE and Aegean':32s}{peer:8.2f} s, {peer / warm:.1f} times ours")


if __name__ == "__main__":
    main()
