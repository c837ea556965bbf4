"""The classical route beside Aegean and PyBDSF, judged alike on five kinds of truth.

``python tests/benchmarks/peers.py OUTPUT --peers FOLDER --data FOLDER`` prints tables in Markdown
and leaves images, catalogues, lists of fields (for ``cyclades compare --fields``) and tables in
OUTPUT. ``--routes`` adds learned routes. ``--peers`` holds virtual environments ``v-aegean`` and
``v-bdsf``; those that are missing are left out. ``--data`` holds ``first-rgz-fields-dev`` (fields
and ``labels.csv``), ``parkes-1904-66`` and ``deepsource-sim``; without it the simulations alone are
run. Real fields are taken at regular steps through the folder.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits

import cyclades
from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.association import (
    central_group,
    friends_of_friends,
    injected_merges,
    source_groups,
)
from cyclades.pipeline.comparison.compare import Comparison
from cyclades.pipeline.comparison.fields_file import read_fields
from cyclades.pipeline.config import override
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.pipeline.simulation.injection import CAVEAT, InjectionOptions, inject
from cyclades.stages.core.headers import product_header
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image

SEEDS = (701, 702, 703, 704, 705, 706)
SIZE = 1024
BINS = (5, 7, 10, 20, 50)
LABELLED_FIELDS = 20
INJECTED_FIELDS = 6
PARKES_REPEATS = 10
INJECTED = InjectionOptions(number=60, lowest_snr=4.0, highest_snr=50.0, separation=3.0, avoid=1.0)
ARTEFACTS = (
    "telescope.rms=2e-5",
    "telescope.gain_phase=8",
    "telescope.gain_amplitude=0.04",
    "telescope.ripple=0.5",
)
"""Errors that calibration leaves, for images rich in artefacts."""
DENSITY, MERGE_REPEATS = 90.0, 4
"""FIRST sources a square degree, and how often as many points are injected into each field."""
FIRST_BEAM, FIRST_SOUTHERN_BEAM, SOUTHERN = "5.4arcsec", "6.4x5.4arcsec@0deg", 4.5
PYBDSF = """
import os, sys
import bdsf
image, folder, beam = sys.argv[1], sys.argv[2], float(sys.argv[3])
box = (max(20, round(24 * beam)), max(5, round(6 * beam)))
made = bdsf.process_image(image, rms_box=box, frequency=1.4e9, ncores=2, quiet=True)
for kind in ("srl", "gaul"):
    made.write_catalog(outfile=os.path.join(folder, kind + ".fits"), format="fits",
                       catalog_type=kind, clobber=True)
"""
AEGEAN = """
import runpy, sys
import numpy
# Aegean 2.3.5 looks for this name, which numpy 2 lacks, where a covariance cannot be inverted
numpy.linalg.linalg = numpy.linalg
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WIDE_BEAM = 10.0
"""Pixels."""
EMPTY = "ra,dec,e_ra,e_dec,peak_flux,e_peak,int_flux,e_int,maj,min,pa,local_rms\n"
"""A catalogue of a finder that found nothing."""

Finder = Callable[[Path, Path, Path], dict[str, Path]]
"""Makes catalogues from an image, a folder for its files, and a folder of programs."""


@dataclass(frozen=True)
class Sample:
    """Images of one kind with what they are judged by."""

    name: str
    note: str
    images: list[Path]
    truths: list[Path | None]
    labels: Path | None = None


def command(arguments: Sequence[object], folder: Path) -> bool:
    """Run a peer with one BLAS thread; its output goes to a file."""
    with (folder / "log").open("a") as log:
        done = subprocess.run(
            list(map(str, arguments)),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    return done.returncode == 0


def run_aegean(image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """BANE and Aegean at their usual thresholds.

    Where the beam spans many pixels, Aegean's covariance matrix of the pixels cannot be inverted
    and its fits go astray; it then does without.
    """
    beam = read_image(image).psf
    assert beam is not None
    command([binaries / "BANE", "--cores", "2", image], folder)
    find = [
        binaries / "python",
        "-c",
        AEGEAN,
        binaries / "aegean",
        "--cores",
        "2",
        "--autoload",
        "--seedclip",
        "5",
    ]
    if beam.size > WIDE_BEAM:
        find.append("--nocov")
    command([*find, "--floodclip", "4", "--table", folder / "aegean.csv", image], folder)
    return {"aegean": found(folder / "aegean_comp.csv")}


def run_pybdsf(image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """PyBDSF at its usual thresholds; sources and Gaussians."""
    beam = read_image(image).psf
    assert beam is not None
    command([binaries / "python", "-c", PYBDSF, image, folder, beam.size], folder)
    return {f"pybdsf {kind}": found(folder / f"{kind}.fits") for kind in ("srl", "gaul")}


def found(path: Path) -> Path:
    """The catalogue, or an empty one where the finder wrote none."""
    if path.is_file():
        return path
    empty = path.with_name(f"{path.stem}.empty.csv")
    empty.write_text(EMPTY)
    return empty


def run_classical(image: Path, folder: Path) -> dict[str, Path]:
    """The classical route."""
    files = Pipeline.from_route("classical").run(image).write(folder, products=("islands",))
    return {"classical": files[0]}


def run_route(route: str, image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """Another route of cyclades."""
    return {route: Pipeline.from_route(route).run(image).write(folder / route)[0]}


def write_image(image: SkyImage, path: Path) -> Path:
    """Write an image with its beam in the header, where every finder looks for it."""
    fits.PrimaryHDU(image.data, product_header(image)).writeto(path, overwrite=True)
    return path


def simulated(folder: Path, name: str, assignments: Sequence[str]) -> Sample:
    """Fields of the simulator."""
    options = FieldOptions.from_mapping(override({}, [f"size={SIZE}", *assignments]))
    images = [simulate(options, seed).write(folder / f"seed{seed}")[0] for seed in SEEDS]
    truths: list[Path | None] = [path.with_suffix(".truth.fits") for path in images]
    note = f"{len(images)} fields of {SIZE} x {SIZE} pixels, seeds {SEEDS[0]} to {SEEDS[-1]}"
    note += f"; {', '.join(assignments)}" if assignments else ""
    return Sample(name, note, images, truths)


def first_fields(data: Path, number: int) -> list[SkyImage]:
    """Fields of FIRST at regular steps through the folder, with the survey's beam."""
    paths = sorted((data / "first-rgz-fields-dev").glob("*.fits.gz"))
    made = []
    for path in paths[:: max(1, len(paths) // number)][:number]:
        declination = float(path.name.split("_")[1][7:])
        beam = FIRST_SOUTHERN_BEAM if declination < SOUTHERN else FIRST_BEAM
        made.append(read_image(path, beam=beam))
    return made


def injected(images: list[SkyImage], folder: Path, name: str) -> Sample:
    """Points injected into real images."""
    paths: list[Path] = []
    truths: list[Path | None] = []
    pipeline = Pipeline.from_route("classical")
    for k, image in enumerate(images):
        background = pipeline.run_until("background", image).background
        assert background is not None
        made = inject(image, INJECTED, background, np.random.default_rng(k))
        paths.append(write_image(made.image, folder / f"injected{k}.fits"))
        truths.append(made.truth.write(folder / f"injected{k}")[0])
    different = len({image.name for image in images})
    note = f"{len(images)} draws of sources into {different} images. {CAVEAT}"
    return Sample(name, note, paths, truths)


def labelled(data: Path, folder: Path) -> Sample:
    """Fields with labels of volunteers."""
    images = [
        write_image(image, folder / f"{image.name.removesuffix('.fits')}.fits")
        for image in first_fields(data, LABELLED_FIELDS)
    ]
    labels = data / "first-rgz-fields-dev" / "labels.csv"
    return Sample("FIRST, labels", f"{len(images)} fields", images, [None] * len(images), labels)


def deepsource(data: Path, folder: Path) -> Sample:
    """Simulated MeerKAT-like fields of others, whose listed fluxes are not comparable."""
    images, truths = [], []
    for path in sorted((data / "deepsource-sim").glob("*.fits.gz")):
        images.append(write_image(read_image(path), folder / path.name.removesuffix(".gz")))
        truths.append(path.with_name(path.name.replace(".fits.gz", ".txt")))
    return Sample("deepsource-sim", f"{len(images)} fields", images, list(truths))


def compared(
    sample: Sample, folder: Path, peers: Path | None, finders: dict[str, Finder] | None = None
) -> Comparison:
    """Run all finders on a sample and compare them.

    A finder named ``v-...`` runs where that virtual environment is among the peers, any other
    always.
    """
    entries = []
    for image, truth in zip(sample.images, sample.truths, strict=True):
        here = folder / image.name.removesuffix(".fits")
        here.mkdir(exist_ok=True)
        made = run_classical(image, here)
        for name, run in (PEERS if finders is None else finders).items():
            binaries = Path() if peers is None else peers / name / "bin"
            if not name.startswith("v-") or (peers is not None and binaries.is_dir()):
                made |= run(image.resolve(), here.resolve(), binaries)
        entry = {"image": image, "catalogues": made}
        if truth is not None:
            entry["truth"] = truth
        entries.append(entry)
        print(f"  {sample.name}: {image.name} done", file=sys.stderr, flush=True)
    listed = {"fields": [plain(entry) for entry in entries]}
    if sample.labels is not None:
        listed["labels"] = plain(sample.labels)
    file = folder / "fields.yaml"
    file.write_text(yaml.safe_dump(listed, sort_keys=False))
    comparison = read_fields(file).compare()
    comparison.write(folder / "comparison")
    (folder / "comparison" / "comparison.txt").write_text(comparison.format() + "\n")
    return comparison


def plain(value: object) -> object:
    """Paths as absolute text, for YAML."""
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    return str(value.resolve()) if isinstance(value, Path) else value


PEERS: dict[str, Finder] = {
    "v-aegean": run_aegean,
    "v-bdsf": run_pybdsf,
}


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows as a table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row.get(n, "") for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def truth_rows(comparison: Comparison, *, reliability: bool) -> list[dict[str, str]]:
    """Main numbers against a truth."""
    intervals = {
        (r["catalogue"], r["quantity"]): f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
        for r in comparison.further["over_fields"]
        if not r["minus"]
    }
    boxes = comparison.further["average_precision"]
    rows = []
    for row in comparison.summary:
        name = row["catalogue"]
        bins = comparison.by_snr[comparison.by_snr["catalogue"] == name]
        made = {"finder": str(name), "C": intervals[name, "completeness"]}
        for low in (5.0, 7.0, 10.0):
            picked = bins[bins["snr_low"] == low]
            made[f"C {low:g}-{picked['snr_high'][0]:g}"] = f"{picked['completeness'][0]:.3f}"
        if reliability:
            made |= {"R": intervals[name, "reliability"], "F1": intervals[name, "f1"]}
            made["C at R .95"] = f"{row['completeness_at_0.95']:.3f}"
            made["on artefacts"] = str(row["false_on_artefacts"])
            one = boxes[(boxes["catalogue"] == name) & (boxes["instances"] == "ellipses")]
            if one["truth"][0]:
                made["box AP50"] = f"{one['box_ap50'][0]:.3f}"
        rows.append(made)
    return rows


def label_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Recall, precision and association against labels."""
    made: dict[str, dict[str, str]] = {}
    for row in comparison.further["labels"]:
        quantity = str(row["quantity"])
        if quantity.startswith("pair") and "own" not in quantity:
            continue
        text = f"{row['value']:.3f}"
        if np.isfinite(row["low"]):
            text += f" [{row['low']:.3f}, {row['high']:.3f}]"
        mine = made.setdefault(row["catalogue"], {"finder": str(row["catalogue"])})
        if row["consensus"] == "plain":
            mine[quantity] = text
        else:
            mine[quantity] += f", {row['consensus']} {row['value']:.3f}"
    return list(made.values())


def merge_rows(sample: Sample, comparison: Comparison) -> list[dict[str, str]]:
    """Share of points, injected anywhere at the survey's density, that rules wrongly merge."""
    table = comparison.further["labels"]
    mine = table[table["catalogue"] == "classical"]
    best = mine[mine["quantity"] == "covered by one: friends of friends"]["length"][0]
    pipeline = Pipeline.from_route("classical")
    total = {"own sources": [0, 0], "friends of friends": [0, 0], "centre": [0, 0]}
    for number, path in enumerate(sample.images):
        image = read_image(path)
        ny, nx = image.shape
        assert image.wcs is not None
        ra, dec = image.wcs.all_pix2world(0.5 * (nx - 1), 0.5 * (ny - 1), 0)
        rules = {
            "own sources": source_groups,
            "friends of friends": partial(friends_of_friends, length=float(best)),
            "centre": partial(central_group, ra=float(ra), dec=float(dec)),
        }
        made = injected_merges(
            pipeline, image, rules, density=DENSITY, repeats=MERGE_REPEATS, seed=number
        )
        for name, counted in made.items():
            total[name] = [a + b for a, b in zip(total[name], counted, strict=True)]
    return [
        {
            "rule on classical components": name,
            "points found": str(found),
            "wrongly merged": f"{merged / found:.3f}",
        }
        for name, (merged, found) in total.items()
    ]


def versions(peers: Path | None) -> str:
    """What was compared."""
    text = [f"cyclades {cyclades.__version__}"]
    for folder, name in (("v-aegean", "AegeanTools"), ("v-bdsf", "bdsf"), ("v-pyse", "radio-pyse")):
        python = None if peers is None else peers / folder / "bin" / "python"
        if python is not None and python.exists():
            code = f"import importlib.metadata as m; print(m.version({name!r}))"
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
            text.append(f"{name} {done.stdout.strip()}")
    return ", ".join(text)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--peers", type=Path, help="folder of the peers' virtual environments")
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--routes", default="", help="further routes, as yolo,mask_rcnn")
    arguments = parser.parse_args()
    routes = [name for name in arguments.routes.split(",") if name]
    finders = PEERS | {name: partial(run_route, name) for name in routes}
    makers: list[Callable[[Path], Sample]] = [
        lambda folder: simulated(folder, "natural noise", []),
        lambda folder: simulated(folder, "telescope, with artefacts", ARTEFACTS),
    ]
    if arguments.data is not None:
        data = arguments.data
        parkes = data / "parkes-1904-66" / "1904-66_SIN.fits"
        makers += [
            lambda folder: injected(
                first_fields(data, INJECTED_FIELDS), folder, "injection into FIRST"
            ),
            lambda folder: injected(
                [read_image(parkes)] * PARKES_REPEATS, folder, "injection into Parkes"
            ),
            lambda folder: labelled(data, folder),
            lambda folder: deepsource(data, folder),
        ]
    print(versions(arguments.peers))
    for number, make in enumerate(makers):
        folder = arguments.output / f"sample{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sample = make(folder)
        comparison = compared(sample, folder, arguments.peers, finders)
        print(f"\n**{sample.name}** ({sample.note})\n")
        if comparison.outcomes:
            first = comparison.summary[0]
            counts = list(comparison.meta["truth_by_snr"].values())
            spread = ", ".join(
                f"{low}-{high}: {n}"
                for low, high, n in zip(BINS, [*BINS[1:], "inf"], counts[1:], strict=True)
            )
            print(f"{first['truth']} true sources at S/N >= 5 ({spread}).\n")
            rows = truth_rows(comparison, reliability="injection" not in sample.name)
        else:
            rows = label_rows(comparison)
        print(markdown(rows), flush=True)
        if sample.labels is not None:
            print(f"\nPoints injected at {DENSITY:g} per square degree:\n")
            print(markdown(merge_rows(sample, comparison)), flush=True)


if __name__ == "__main__":
    main()
