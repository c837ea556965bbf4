"""Memory of putting a survey together: ``python tests/benchmarks/merging.py FOLDER``.

Fields of which only the rows exist: positions of an even sky of sources, seen by all fields that
cover them, with errors of position and flux. The survey is made of them at once (0), or in parts;
each in a process of its own, whose largest memory and processor time are printed.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIZE = 1500
"""Pixels along a field, of 2 arcsec."""
OVERLAP = 0.2


def write_rows(folder, number, each, seed):
    """Write rows and noise of a strip of `number` fields with about `each` components."""
    import pyarrow
    from pyarrow import parquet

    from cyclades.pipeline.survey.facts import grid_file
    from cyclades.pipeline.survey.noise_grid import NoiseGrid
    from cyclades.pipeline.survey.rows import FieldRows, row_file
    from cyclades.pipeline.survey.run import run_survey
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background
    from tests.survey.conftest import make_work
    from tests.survey_fields import CENTRE, PIXEL, field_wcs, write_fields

    paths, _ = write_fields(folder / "one", 1, 1)
    run_survey(make_work(folder / "template"), paths)
    template = FieldRows(folder / "template" / "rows", paths[0].stem)
    rows = folder / "rows"
    rows.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    side = max(1, int(number**0.5))
    step = SIZE * (1 - OVERLAP) * PIXEL / 3600
    extent = side * step
    total = int(each * (extent / (SIZE * PIXEL / 3600)) ** 2)
    dec = CENTRE[1] + rng.uniform(-0.5, 0.5, total) * extent
    ra = CENTRE[0] + rng.uniform(-0.5, 0.5, total) * extent / np.cos(np.radians(dec))
    flux = 1e-3 * rng.uniform(0.001, 1.0, total) ** -0.7
    known = 0
    for place in range(side * side):
        row, column = divmod(place, side)
        north = CENTRE[1] + (row - 0.5 * (side - 1)) * step
        east = (column - 0.5 * (side - 1)) * step / np.cos(np.radians(north))
        wcs = field_wcs(CENTRE[0] + east, north, SIZE)
        near = np.flatnonzero((abs(dec - north) < step) & (abs(ra - CENTRE[0] - east) < 2 * step))
        x, y = wcs.all_world2pix(ra[near], dec[near], 0)
        inside = (x > 0) & (x < SIZE - 1) & (y > 0) & (y < SIZE - 1)
        mine = near[inside]
        n, noise = len(mine), rng.uniform(1e-4, 1.5e-4)
        order = np.argsort(ra[mine])
        mine = mine[order]
        at = dec[mine] + rng.normal(0, 0.3 / 3600, n)
        changed = {
            "ra": ra[mine] + rng.normal(0, 0.3 / 3600, n),
            "dec": at,
            "x": x[inside][order],
            "y": y[inside][order],
            "peak_flux": (flux[mine] + rng.normal(0, noise, n)).astype(np.float32),
            "local_rms": np.full(n, noise, np.float32),
        }
        for key in ("component_id", "source_id", "island_id"):
            changed[key] = np.arange(1, n + 1, dtype=np.int32)
        changed["snr"] = changed["peak_flux"] / np.float32(noise)
        stem = f"field_{place:05d}"
        for table in ("components", "sources", "islands"):
            held = template.table(table).take(pyarrow.array(np.zeros(n, np.int64)))
            for name, values in changed.items():
                if name in held.column_names:
                    index = held.column_names.index(name)
                    values = pyarrow.array(values).cast(held.schema.field(name).type, safe=False)
                    held = held.set_column(index, held.schema.field(name), values)
            parquet.write_table(held, row_file(rows, stem, table))
        small = SkyImage(np.zeros((SIZE, SIZE), np.float32), wcs=wcs)
        level = np.full((SIZE, SIZE), noise, np.float32)
        NoiseGrid.of(small, Background(level * 0, level), 5.0).write(grid_file(rows, stem))
        known += n
    print(f"{side * side} fields, {known} components", flush=True)


def make(folder, rows):
    """Make the survey; print checksums of its columns and what it took."""
    from cyclades.pipeline.survey.finish import make_survey, scratch_folder
    from cyclades.pipeline.survey.journal import DONE, Entry
    from tests.survey.conftest import make_work

    stems = sorted(path.name.partition(".")[0] for path in (folder / "rows").glob("*.npz"))
    entries = [
        Entry(stem, stem, DONE, facts={"area": 1.0, "limit": 5.0, "rms": 1e-4, "sources": 1})
        for stem in stems
    ]
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with scratch_folder(folder) as scratch:
        survey = make_survey(make_work(folder), entries, scratch, rows=rows)
        used = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        digest = hashlib.sha256()
        names = ("name", "source_id", "island_id", "ra", "dec", "peak_flux", "n_fields", "field")
        if hasattr(survey.catalogue, "files"):
            from pyarrow import parquet

            columns = [
                parquet.read_table(survey.catalogue.files["components"], columns=[name]).column(0)
                for name in names
            ]
            columns = [np.asarray(column.to_numpy()) for column in columns]
        else:
            table = survey.catalogue.components
            columns = [np.asarray(getattr(table[name], "value", table[name])) for name in names]
        for values in columns:
            values = values.astype("S") if values.dtype.kind in "OU" else values
            digest.update(np.ascontiguousarray(values).tobytes())
    print(
        json.dumps(
            {"kept": survey.rows["components"], "CPU s": round(used, 1), "MB": peak // 1024,
             "MB before": before // 1024, "digest": digest.hexdigest()[:12]}
        )
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fields", type=int, default=300)
    parser.add_argument("--each", type=int, default=10_000, help="components of a field")
    parser.add_argument("--parts", default="250000", help="rows of a part; 0 for all at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.only is not None:
        make(given.folder, given.only or 1 << 60)
        return
    if not (given.folder / "rows").is_dir():
        write_rows(given.folder, given.fields, given.each, given.seed)
    for rows in given.parts.split(","):
        command = [sys.executable, __file__, str(given.folder), "--only", rows]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(f"parts of {rows}: {done.stdout.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
