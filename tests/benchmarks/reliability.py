"""How well the column `reliability` is calibrated, and what it gains: simulations, real images.

``python tests/benchmarks/reliability.py OUTPUT --data FOLDER`` prints tables in Markdown and draws
OUTPUT/reliability.png. FOLDER holds ``first-rgz-fields-dev`` and ``parkes-1904-66``; without it
the simulations alone are run. Images, truths and catalogues are kept in OUTPUT and used again, so
that a run that was cut off goes on, and another model (``--model``) is judged in minutes.

Rows of the classical route (at its own threshold, and at a low one), YOLO and Mask R-CNN (down to
a score of 0.1) are real or not by the truth (`cyclades.pipeline.comparison.real_rows`). Kinds of
fields are those of the training with other seeds, and kinds that it did not see.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from association import first_image, kept
from numpy.typing import NDArray
from peers import INJECTED, first_fields, markdown

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.intervals import wilson
from cyclades.pipeline.comparison.labels import read_labels
from cyclades.pipeline.comparison.match import candidate_pairs, one_to_one
from cyclades.pipeline.comparison.real_rows import real_rows
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.pipeline.comparison.without_truth import inverted_rate
from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.simulation.injection import inject
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.training.classifier_figures import calibration_error, reliability_table
from cyclades.pipeline.training.reliability import SIZE, pipelines, random_field
from cyclades.pipeline.training.simulated import presets
from cyclades.stages.cataloguing.reliability import ReliabilityRefinement
from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image
from cyclades.stages.core.source import MemorySource

FIRST_SEED, FIELDS = 52000, 3
SEEN = ("natural", "vla", "askap", "meerkat")
SPARSE, SPARSE_SEED = "few sources, flat noise", 53000
"""Another seed and three times the fields, for few rows: a first look led to changes."""
SLOW_EVERY = 3
"""Mask R-CNN runs on one field of so many."""
PURE = 0.95
THRESHOLD = 0.5
SNR_BINS = (4.0, 5.0, 7.0, 10.0, 50.0)
FIRST_FIELDS, PARKES_REPEATS, LABELLED_FIELDS, INVERTED_FIELDS = 6, 4, 40, 15
DRAWS = 200


def unseen(kind: str) -> FieldOptions:
    """Options of kinds of fields that the training does not know."""
    natural = presets()["natural"][0]
    counts = natural.sky.counts
    if kind == "wide beam":
        counts = counts.model_copy(update={"density": 3.0 * counts.density})
        plain = PlainOptions(pixel=1.0, beam_major=13.0, beam_minor=11.0, rms_ratio=2.0)
    else:
        counts = counts.model_copy(update={"density": 0.1 * counts.density})
        plain = PlainOptions(pixel=2.0, beam_major=9.0, beam_minor=9.0, rms_ratio=1.0, level=0.0)
    sky = natural.sky.model_copy(update={"counts": counts})
    return FieldOptions(size=SIZE, sky=sky, plain=plain)


def atca_with_errors(seed: int) -> Simulation:
    """A field of the ATCA, which no training field is of, with four times the errors."""
    chosen = presets()["atca"][seed % 3]
    telescope = chosen.telescope
    assert telescope is not None
    worse = telescope.replace(
        gain_amplitude=4.0 * telescope.gain_amplitude, gain_phase=4.0 * telescope.gain_phase
    )
    return simulate(chosen.model_copy(update={"size": SIZE, "telescope": worse}), seed)


UNSEEN: dict[str, Callable[[int], Simulation]] = {
    "atca": lambda seed: random_field(seed, "atca"),
    "atca, bad": atca_with_errors,
    "noise wider than the beam": lambda seed: random_field(seed, "beam"),
    "wide beam": lambda seed: simulate(unseen("wide beam"), seed),
    SPARSE: lambda seed: simulate(unseen("sparse"), seed),
}


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one catalogue with their truth."""

    kind: str
    route: str
    probability: Floats
    snr: Floats
    score: Floats
    real: NDArray[np.bool_]


def refined(catalogue: Catalogue, image: SkyImage, model: str) -> Catalogue:
    """The catalogue with the column."""
    with Context() as context:
        stage = ReliabilityRefinement(model=model)
        return stage.refine(catalogue, MemorySource(image), context=context)


def values(catalogue: Catalogue, name: str) -> Floats:
    """A column of the components as plain numbers."""
    held = catalogue.components[name]
    return np.asarray(getattr(held, "value", held), float)


def simulated(output: Path, number: int, model: str) -> Iterator[Rows]:
    """Rows of all kinds of fields."""
    for place, kind in enumerate((*SEEN, *UNSEEN)):
        first, several = FIRST_SEED + 100 * place, number
        if kind == SPARSE:
            first, several = SPARSE_SEED, 3 * number
        for seed in range(first, first + several):
            prefix = output / kind.replace(", ", "-").replace(" ", "-") / str(seed)
            if not prefix.with_suffix(".fits").is_file():
                prefix.parent.mkdir(parents=True, exist_ok=True)
                make = UNSEEN.get(kind, lambda seed, kind=kind: random_field(seed, kind))
                make(seed).write(prefix)
            image = read_image(prefix.with_suffix(".fits"))
            truth = from_catalogue(read_catalogue(f"{prefix}.truth.fits"), "truth")
            for route, pipeline in pipelines(seed, every=SLOW_EVERY).items():
                catalogue = kept(
                    Path(f"{prefix}.{route.replace(', ', '-')}.fits"),
                    lambda p=pipeline, i=image: p.run(i, workers=1).catalogue,
                )
                made = refined(catalogue, image, model)
                real = real_rows(from_catalogue(catalogue), truth)
                whole = (values(made, "flags").astype(int) & int(Flag.WAVELET)) == 0
                yield Rows(
                    kind,
                    route,
                    values(made, "reliability")[whole],
                    values(made, "snr")[whole],
                    values(made, "detection_score")[whole],
                    real[whole],
                )
        print(f"  {kind} done", file=sys.stderr, flush=True)


def pooled(rows: list[Rows], kinds: tuple[str, ...], route: str = "") -> Rows | None:
    """Rows of some kinds of fields, of one route or of all."""
    mine = [r for r in rows if r.kind in kinds and route in ("", r.route)]
    if not mine:
        return None
    names = ("probability", "snr", "score", "real")
    joined = {name: np.concatenate([getattr(r, name) for r in mine]) for name in names}
    return Rows(", ".join(kinds), route or "all", **joined)


def kept_share(order: Floats, real: NDArray[np.bool_], pure: float = PURE) -> float:
    """Largest share of the real rows above a threshold above which so many are real."""
    places = np.argsort(-order, kind="stable")
    true = np.cumsum(real[places])
    # a threshold takes all rows of one value or none
    ends = np.append(np.diff(order[places]) != 0, True)
    good = np.flatnonzero(ends & (true >= pure * np.arange(1, len(order) + 1)))
    return float(true[good[-1]] / max(1, real.sum())) if len(good) else 0.0


def figures(rows: Rows) -> dict[str, str]:
    """A line of the table."""
    p, real = rows.probability, rows.real
    generator = np.random.default_rng(0)
    chance = np.mean([calibration_error(p, generator.random(len(p)) < p) for _ in range(DRAWS)])
    clipped = np.clip(p, 1e-6, 1.0 - 1e-6)
    loss = -np.mean(np.where(real, np.log(clipped), np.log1p(-clipped)))
    scored = rows.route in ("yolo", "mask_rcnn")
    return {
        "route": rows.route,
        "rows": str(len(p)),
        "real": f"{real.mean():.3f}",
        "mean probability": f"{p.mean():.3f}",
        "ECE": f"{calibration_error(p, real):.3f}",
        "by chance": f"{chance:.3f}",
        "Brier": f"{np.mean((p - real) ** 2):.4f}",
        "log loss": f"{loss:.3f}",
        "kept at .95 by S/N": f"{kept_share(rows.snr, real):.3f}",
        "by score": f"{kept_share(rows.score, real):.3f}" if scored else "",
        "by reliability": f"{kept_share(p, real):.3f}",
    }


def tables(rows: list[Rows]) -> None:
    """Print calibration and gain by kind and route."""
    routes = list(dict.fromkeys(r.route for r in rows))
    groups = {
        "kinds of the training": SEEN,
        "kinds it did not see": tuple(UNSEEN),
        "all": (*SEEN, *UNSEEN),
    }
    made = []
    for name, kinds in groups.items():
        for route in (*routes, ""):
            mine = pooled(rows, kinds, route)
            if mine is not None:
                made.append({"fields": name, **figures(mine)})
    print(f"\n{markdown(made)}\n", flush=True)
    made = []
    for kind in (*SEEN, *UNSEEN):
        for route in (*routes, ""):
            mine = pooled(rows, (kind,), route)
            if mine is not None:
                made.append({"fields": kind, **figures(mine)})
    print(f"{markdown(made)}\n", flush=True)


def draw(rows: list[Rows], path: Path) -> None:
    """Reliability diagrams: the share of real rows over the probability, with 68 % intervals."""
    from matplotlib.figure import Figure

    routes = list(dict.fromkeys(r.route for r in rows))
    figure = Figure(figsize=(3.0 * len(routes), 6.4), layout="constrained")
    axes = figure.subplots(2, len(routes), sharex=True, sharey=True, squeeze=False)
    for line, (name, kinds) in zip(
        axes, {"training's kinds": SEEN, "unseen kinds": tuple(UNSEEN)}.items(), strict=True
    ):
        for axis, route in zip(line, routes, strict=True):
            mine = pooled(rows, kinds, route)
            axis.plot([0, 1], [0, 1], color="0.6", lw=1)
            axis.set_title(f"{route}, {name}", fontsize=9)
            if mine is None:
                continue
            for b in reliability_table(mine.probability, mine.real):
                low, high = wilson(round(b.right * b.number), b.number)
                axis.errorbar(
                    b.probability, b.right, [[max(0, b.right - low)], [max(0, high - b.right)]],
                    fmt="o", ms=4, color="#0072B2",
                )  # fmt: skip
                axis.annotate(
                    str(b.number), (b.probability, b.right), xytext=(4, -9),
                    textcoords="offset points", fontsize=6,
                )  # fmt: skip
            error = calibration_error(mine.probability, mine.real)
            axis.text(0.62, 0.03, f"ECE {error:.3f}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("reliability")
    for line in axes:
        line[0].set_ylabel("share that is real")
    figure.savefig(path, dpi=110)


def share(hits: int, number: int) -> str:
    """A share with its 68 % interval."""
    if not number:
        return ""
    low, high = wilson(hits, number)
    return f"{hits / number:.3f} [{float(low):.3f}, {float(high):.3f}]"


def injection_rows(
    name: str, images: list[SkyImage], output: Path, model: str
) -> list[dict[str, str]]:
    """What becomes of points injected into real images, and of all rows, at the threshold."""
    start = Pipeline.from_route("classical")
    found: dict[str, list[tuple[Floats, Floats, Floats]]] = {}
    for number, image in enumerate(images):
        background = start.run_until("background", image, workers=1).background
        assert background is not None
        made = inject(image, INJECTED, background, np.random.default_rng(number))
        truth = from_truth(made.truth)
        for route, pipeline in pipelines(0, every=1).items():
            catalogue = kept(
                output / name / f"{number}.{route.replace(', ', '-')}.fits",
                lambda p=pipeline, i=made.image: p.run(i, workers=1).catalogue,
            )
            chance = values(refined(catalogue, made.image, model), "reliability")
            table = from_catalogue(catalogue)
            pairs = one_to_one(candidate_pairs(truth, table))
            own = np.full(len(truth), np.nan)
            own[pairs.first_rows] = chance[pairs.second_rows]
            found.setdefault(route, []).append((truth["snr"], own, chance))
    rows = []
    for route, parts in found.items():
        snr, own, chance = (np.concatenate([part[k] for part in parts]) for k in range(3))
        row = {"image": name, "route": route}
        for low, high in itertools.pairwise(SNR_BINS):
            mine = (snr >= low) & (snr < high)
            hits, stay = np.isfinite(own[mine]).sum(), (own[mine] >= THRESHOLD).sum()
            row[f"S/N {low:g}-{high:g}"] = f"{hits} -> {stay} of {mine.sum()}"
        known = np.isfinite(chance)
        row["rows thrown away"] = share(int((chance[known] < THRESHOLD).sum()), int(known.sum()))
        rows.append(row)
    return rows


def label_rows(folder: Path, output: Path, model: str) -> list[dict[str, str]]:
    """Components of labelled sources, each with the nearest row within a beam."""
    by_field: dict[str, list[np.ndarray]] = {}
    for label in read_labels(folder / "labels.csv"):
        places = np.column_stack([label.ra, label.dec])
        by_field.setdefault(label.field, []).append(places)
    made: dict[str, list[tuple[Floats, Floats, int]]] = {}
    paths = [p for p in sorted(folder.glob("*.fits.gz")) if p.name.removesuffix(".gz") in by_field]
    for path in paths[:: len(paths) // LABELLED_FIELDS][:LABELLED_FIELDS]:
        places = by_field[path.name.removesuffix(".gz")]
        image = first_image(path)
        ra, dec = np.concatenate(places).T
        wanted = ComparisonTable.from_columns({"ra": ra, "dec": dec})
        for route in ("classical", "yolo"):
            name = path.name.removesuffix(".fits.gz")
            pipeline = Pipeline.from_route(route)
            catalogue = kept(
                output / f"labels-{route}" / f"{name}.fits",
                lambda p=pipeline, i=image: p.run(i, workers=1).catalogue,
            )
            chance = values(refined(catalogue, image, model), "reliability")
            pairs = one_to_one(
                candidate_pairs(wanted, from_catalogue(catalogue), beam=5.4, flux_check=False)
            )
            own = chance[pairs.second_rows]
            made.setdefault(route, []).append((own, chance, len(ra)))
    rows = []
    for route, parts in made.items():
        own, chance = (np.concatenate([part[k] for part in parts]) for k in range(2))
        own, chance = own[np.isfinite(own)], chance[np.isfinite(chance)]
        rows.append(
            {
                "route": route,
                "labelled components": str(sum(part[2] for part in parts)),
                "with a row": str(len(own)),
                "of these at .5 or more": share(int((own >= THRESHOLD).sum()), len(own)),
                "all rows": str(len(chance)),
                "thrown away": share(int((chance < THRESHOLD).sum()), len(chance)),
            }
        )
    return rows


def inverted_rows(folder: Path, output: Path, model: str) -> list[dict[str, str]]:
    """Unreal rows that the column expects in fields of FIRST, and those of the inverted images."""
    paths = sorted(folder.glob("*.fits.gz"))
    paths = paths[:: len(paths) // INVERTED_FIELDS][:INVERTED_FIELDS]
    images = [first_image(path) for path in paths]
    rows = []
    for seed in (4.0, 4.5, 5.0):
        pipeline = Pipeline.from_route("classical")
        detection = pipeline.config.detection.model_copy(update={"seed_threshold": seed})
        pipeline = pipeline.replace(detection=detection)
        chances = []
        for number, image in enumerate(images):
            catalogue = kept(
                output / f"inverted-{seed:g}" / f"{number}.fits",
                lambda p=pipeline, i=image: p.run(i, workers=1).catalogue,
            )
            chance = np.asarray(refined(catalogue, image, model).islands["reliability"], float)
            chances.append(chance[np.isfinite(chance)])
        rate = inverted_rate(pipeline, images, workers=1, bright_snr=np.inf)
        pooled_chance = np.concatenate(chances)
        rows.append(
            {
                "seed threshold": f"{seed:g}",
                "islands": str(len(pooled_chance)),
                "unreal by the column": f"{(1.0 - pooled_chance).sum():.1f}",
                "islands of the inverted images": str(rate.negative),
            }
        )
    return rows


def main() -> None:
    """Print the tables and draw the diagram."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--fields", type=int, default=FIELDS, help="fields of each kind")
    parser.add_argument("--model", default="", help="another model than that of the package")
    arguments = parser.parse_args()
    output, model = arguments.output, arguments.model
    rows = list(simulated(output, arguments.fields, model))
    tables(rows)
    draw(rows, output / "reliability.png")
    if arguments.data is None:
        return
    first = first_fields(arguments.data, FIRST_FIELDS)
    parkes = read_image(arguments.data / "parkes-1904-66" / "1904-66_SIN.fits")
    made = injection_rows("FIRST", first, output, model)
    made += injection_rows("Parkes", [parkes] * PARKES_REPEATS, output, model)
    print(f"\n{markdown(made)}\n", flush=True)
    folder = arguments.data / "first-rgz-fields-dev"
    print(f"{markdown(label_rows(folder, output, model))}\n", flush=True)
    print(markdown(inverted_rows(folder, output, model)), flush=True)


if __name__ == "__main__":
    main()
