"""The optical route on simulated fields: ``python tests/benchmarks/optical.py --fields 6``.

Completeness and reliability against magnitude, detection planes and deblenders side by side;
fluxes of stars and galaxies in each band; stars against galaxies (precision at 80 percent recall
and average precision); pairs parted against their distance. ``--calibrate`` fits the weights of
the refinement ``star_galaxy`` instead, on the seeds that are given.
"""

import argparse
import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.simulation.optical import (
    OpticalSimulation,
    expose,
    simulate_optical,
)
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import (
    BANDS,
    GALAXY,
    NANOJANSKY,
    STAR,
    MagnitudeCounts,
    OpticalSky,
    OpticalSkyOptions,
)
from cyclades.stages.cataloguing.star_galaxy import combined, features
from cyclades.stages.core.source import ImageSet

Floats = NDArray[np.float64]
NEAR = 2.5
"""Pixels within which a row is of an object."""
EDGE = 8
MAGNITUDES = (17.0, 20.0, 21.0, 22.0, 22.5, 23.0, 23.5, 24.0, 24.5)
SEPARATIONS = (0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


class Rows(NamedTuple):
    """A field's rows and objects, matched."""

    table: Any
    magnitude: Floats
    significance: Floats
    kind: NDArray[np.int64]
    row: NDArray[np.int64]
    owner: NDArray[np.int64]


def options(size: int) -> OpticalOptions:
    """Return a field with more stars than usual, so that there are as many as bright galaxies."""
    sky = OpticalSkyOptions(stars=MagnitudeCounts(density=5000.0))
    return OpticalOptions(size=size, sky=sky)


def plain(table: Any, name: str) -> Floats:
    """Return a column's numbers."""
    return np.asarray(getattr(table[name], "value", table[name]), float)


def pairs_of(
    x: Floats, y: Floats, tx: Floats, ty: Floats, bright: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match rows and objects one to one, the brightest objects first; -1 for none."""
    row, owner = np.full(len(tx), -1), np.full(len(x), -1)
    for k in np.argsort(-bright):
        distance = np.where(owner < 0, np.hypot(x - tx[k], y - ty[k]), np.inf)
        if len(distance) and distance.min() < NEAR:
            row[k] = int(distance.argmin())
            owner[row[k]] = k
    return row, owner


def matched(simulation: OpticalSimulation, table: Any) -> Rows:
    """Match a catalogue to everything in the sky."""
    sky, settings = simulation.sky, simulation.options
    flux = {band: sky.object_flux(band) for band in BANDS}
    area = 4.0 * np.pi * np.array([(settings.band(b).seeing / 0.262 / 2.355) ** 2 for b in BANDS])
    square = sum(
        (flux[b] / (settings.rms(b) * np.sqrt(a))) ** 2 for b, a in zip(BANDS, area, strict=True)
    )
    n = settings.size
    inside = (sky.x > EDGE) & (sky.y > EDGE) & (sky.x < n - EDGE) & (sky.y < n - EDGE)
    inside &= np.sqrt(square) > 2.0
    x, y = plain(table, "x"), plain(table, "y")
    far = (x > EDGE) & (y > EDGE) & (x < n - EDGE) & (y < n - EDGE)
    table = table[far]
    row, owner = pairs_of(
        x[far], y[far], sky.x[inside], sky.y[inside], np.sqrt(np.asarray(square))[inside]
    )
    return Rows(
        table,
        NANOJANSKY - 2.5 * np.log10(flux["r"][inside]),
        np.sqrt(np.asarray(square))[inside],
        sky.object_class[inside],
        row,
        owner,
    )


def positions(result: Any) -> dict[str, Floats]:
    """Return the summits of a run that stopped at detection."""
    leaves = result.detections.leaves
    x, y = result.detections.summit[leaves].T
    return {"x": x, "y": y}


class Points(dict):  # type: ignore[type-arg]
    """Columns that can be cut like a table."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return Points({name: values[key] for name, values in self.items()})


def completeness(simulations: list[OpticalSimulation]) -> None:
    """Print completeness and reliability of detectors and detection planes."""
    print("\ncompleteness by true magnitude in r; false: rows of no object with S/N 2 or more")
    print("| detection | plane | filter | " + " | ".join(
        f"{a:g}-{b:g}" for a, b in pairwise(MAGNITUDES)
    ) + " | rows | false |")  # fmt: skip
    print("|---" * (len(MAGNITUDES) + 4) + "|")
    for detector, plane, width in (
        ("sep", "r", 0.0), ("sep", "r", 0.6), ("sep", "weighted", 0.6),
        ("sep", "chi-squared", 0.0), ("sep", "chi-squared", 0.6), ("sep", "chi-squared", 1.0),
        ("photutils", "chi-squared", 0.6),
    ):  # fmt: skip
        route = Pipeline.from_route("optical")
        given = {**route.config.detection.model_dump(), "filter_beams": width}
        if detector == "photutils":
            given = {k: v for k, v in given.items() if k != "deblend_contrast"}
        route = route.replace(detection={"name": detector, **given})
        found = []
        for simulation in simulations:
            result = route.run_until("detection", simulation.image_set(plane))
            found.append(matched(simulation, Points(positions(result))))
        shares = []
        for low, high in pairwise(MAGNITUDES):
            seen = np.concatenate(
                [(f.row >= 0)[(f.magnitude >= low) & (f.magnitude < high)] for f in found]
            )
            shares.append(f"{seen.mean():.2f}" if len(seen) else "")
        owner = np.concatenate([f.owner for f in found])
        print(
            f"| {detector} | {plane} | {width:g} | " + " | ".join(shares)
            + f" | {len(owner)} | {np.mean(owner < 0):.3f} |", flush=True,
        )  # fmt: skip


def fluxes(simulations: list[OpticalSimulation], found: list[Rows]) -> None:
    """Print biases and pulls of fluxes."""
    print("\nfluxes over true ones (median), scatter of pulls (1.48 MAD), by S/N of the PSF flux")
    print("| band | S/N | stars | PSF | pulls | Kron | galaxies | PSF | Kron |")
    print("|---" * 9 + "|")
    for band in BANDS:
        for low, high in ((5.0, 20.0), (20.0, 100.0), (100.0, 1e9)):
            parts: dict[int, list[Floats]] = {STAR: [], GALAXY: []}
            for simulation, rows in zip(simulations, found, strict=True):
                flux = _flux(simulation, rows, band)
                use = rows.row >= 0
                row = rows.row[use]
                psf, error = (plain(rows.table, f"psf_flux{e}_{band}")[row] for e in ("", "_err"))
                kron = plain(rows.table, f"kron_flux_{band}")[row]
                true, kind = flux[use], rows.kind[use]
                snr = true / error
                for which in (STAR, GALAXY):
                    chosen = (kind == which) & (snr >= low) & (snr < high)
                    values = np.stack([psf / true, (psf - true) / error, kron / true])
                    parts[which].append(values[:, chosen])
            line = [band, f"{low:g}-{high:g}" if high < 1e9 else f"over {low:g}"]
            for which in (STAR, GALAXY):
                values = np.concatenate(parts[which], axis=1)
                n = values.shape[1]
                line.append(str(n))
                if n < 5:
                    line += [""] * (3 if which == STAR else 2)
                    continue
                ratio, pull, kron = values
                line.append(f"{np.nanmedian(ratio):.3f}")
                if which == STAR:
                    spread = 1.4826 * np.nanmedian(np.abs(pull - np.nanmedian(pull)))
                    line.append(f"{np.nanmedian(pull):+.2f} +- {spread:.2f}")
                line.append(f"{np.nanmedian(kron):.3f}")
            print("| " + " | ".join(line) + " |", flush=True)


def _flux(simulation: OpticalSimulation, rows: Rows, band: str) -> Floats:
    """Return the true fluxes of the objects of `matched`."""
    sky = simulation.sky
    r = NANOJANSKY - 2.5 * np.log10(sky.object_flux("r"))
    order = {round(float(m), 9): k for k, m in enumerate(r)}
    return sky.object_flux(band)[[order[round(float(m), 9)] for m in rows.magnitude]]


def classes(found: list[Rows]) -> None:
    """Print how well stars and galaxies are told apart, detection included."""
    print("\nstars and galaxies down to a magnitude; rows of fainter objects count for nothing, ")
    print("rows of none are wrong; class right: of the objects that were found")
    print(
        "| class | r below | objects | precision at recall 0.8 | average precision | class right |"
    )
    print("|---" * 6 + "|")
    for faintest in (21.0, 22.0, 23.0, 23.5):
        for which, name in ((STAR, "star"), (GALAXY, "galaxy")):
            _class_line(found, which, name, faintest)


def _class_line(found: list[Rows], which: int, name: str, faintest: float) -> None:
    """Print the line of one class down to a magnitude."""
    score, right, total, correct = [], [], 0, []
    for rows in found:
        wanted = rows.magnitude < faintest
        total += int(np.sum(wanted & (rows.kind == which)))
        label = np.asarray(rows.table["morphology"], str)
        probability = plain(rows.table, "morphology_probability")
        p = np.where(label == name, probability, 1.0 - probability)
        owned = rows.owner >= 0
        k = np.where(owned, rows.owner, 0)
        counts = np.isfinite(p) & (~owned | wanted[k])
        score.append(p[counts])
        right.append((owned & (rows.kind[k] == which))[counts])
        mine = counts & owned & (rows.kind[k] == which)
        correct.append(label[mine] == name)
    order = np.argsort(-np.concatenate(score), kind="stable")
    hits = np.concatenate(right)[order].cumsum()
    recall, precision = hits / total, hits / (1 + np.arange(len(hits)))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.flatnonzero(recall >= 0.8)
    at = f"{best[reached[0]]:.3f}" if reached.size else f"recall {recall[-1]:.2f} at most"
    area = float(np.sum(np.diff(recall, prepend=0.0) * best))
    share = np.concatenate(correct)
    print(
        f"| {name} | {faintest:g} | {total} | {at} | {area:.3f} | {share.mean():.3f} |",
        flush=True,
    )


def pair_sky(settings: OpticalOptions, separation: float, kinds: tuple[int, int], seed: int) -> Any:
    """Return a sky of pairs of equal magnitudes (r = 20) at a distance in FWHM of r."""
    generator = np.random.default_rng(seed)
    step, size = 64, settings.size
    centres = np.arange(step // 2, size, step)
    cx, cy = (a.ravel().astype(float) for a in np.meshgrid(centres, centres))
    n = len(cx)
    angle = generator.uniform(0.0, 2.0 * np.pi, n)
    d = 0.5 * separation * settings.r.seeing / settings.pixel
    shift = generator.uniform(-0.5, 0.5, (2, n))
    x, y, kind = [], [], []
    for sign, one in zip((1.0, -1.0), kinds, strict=True):
        x.append(cx + shift[0] + sign * d * np.cos(angle))
        y.append(cy + shift[1] + sign * d * np.sin(angle))
        kind.append(np.full(n, one))
    kind_all = np.concatenate(kind)
    flux = 10.0 ** (-0.4 * (20.0 - NANOJANSKY))
    number = np.where(kind_all == STAR, 1, 2)
    starts = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    profile, share, shape = [], [], []
    for one in kind_all:
        if one == STAR:
            profile, share, shape = [*profile, 0], [*share, 1.0], [*shape, (0.0, 0.0, 0.0)]
            continue
        radius = 0.6 / settings.pixel
        profile, share = [*profile, 1, 2], [*share, 0.8, 0.2]
        shape += [(radius**2, 0.0, 0.5 * radius**2), (0.2 * radius**2, 0.0, 0.2 * radius**2)]
    band = flux * np.array(share)
    return OpticalSky(
        np.concatenate(x), np.concatenate(y), kind_all.astype(np.int64), starts,
        np.array(profile, np.int64), np.stack([0.6 * band, band, 1.4 * band]),
        np.array(shape, float),
    )  # fmt: skip


def deblending(size: int, seed: int) -> None:
    """Print the share of pairs that are parted, against their distance."""
    print("\npairs of equal magnitude (r = 20) of which both are found, by distance in FWHM of r")
    print(
        "| pair | detection | plane | filter | " + " | ".join(f"{s:g}" for s in SEPARATIONS) + " |"
    )
    print("|---" * (len(SEPARATIONS) + 4) + "|")
    settings = OpticalOptions(size=size)
    for name, kinds in (("stars", (STAR, STAR)), ("star, galaxy", (STAR, GALAXY))):
        for detector, plane, width in (
            ("sep", "chi-squared", 0.6),
            ("sep", "chi-squared", 1.0),
            ("photutils", "chi-squared", 0.6),
        ):
            route = Pipeline.from_route("optical")
            given = {**route.config.detection.model_dump(), "filter_beams": width}
            if detector == "photutils":
                given = {k: v for k, v in given.items() if k != "deblend_contrast"}
            route = route.replace(detection={"name": detector, **given})
            shares = []
            for separation in SEPARATIONS:
                sky = pair_sky(settings, separation, kinds, seed)
                images = {}
                for k, band in enumerate(BANDS):
                    seen = expose(sky, settings, band, np.random.default_rng([seed, k]))
                    images[band] = settings.geometry(band).image(seen.data, name=band)
                found = positions(route.run_until("detection", ImageSet.of(images, plane)))
                n = len(sky) // 2
                row, _ = pairs_of(found["x"], found["y"], sky.x, sky.y, np.ones(2 * n))
                shares.append(f"{np.mean((row[:n] >= 0) & (row[n:] >= 0)):.2f}")
            print(
                f"| {name} | {detector} | {plane} | {width:g} | " + " | ".join(shares) + " |",
                flush=True,
            )


def calibrate(found: list[Rows]) -> None:
    """Print the weights of the refinement, by maximum likelihood with a faint pull to zero."""
    parts, labels = [], []
    for rows in found:
        owned = rows.owner >= 0
        values = features(*combined(rows.table))
        use = owned & np.isfinite(values).all(1)
        parts.append(values[use])
        labels.append(rows.kind[rows.owner[use]] == GALAXY)
    design, wanted = np.concatenate(parts), np.concatenate(labels).astype(float)
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        slope = design.T @ (wanted - p) - 0.1 * weights
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design + 0.1 * np.eye(len(weights))
        weights += np.linalg.solve(curvature, slope)
    print(f"{len(wanted)} rows, {int(wanted.sum())} galaxies")
    print("WEIGHTS =", tuple(round(float(w), 3) for w in weights))


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=6)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--plane", default="chi-squared")
    parser.add_argument("--parts", default="completeness,fluxes,classes,pairs")
    parser.add_argument("--gain", action="store_true", help="give the electrons of each band")
    parser.add_argument("--calibrate", action="store_true")
    given = parser.parse_args()
    parts = given.parts.split(",")
    seeds = range(given.seed, given.seed + given.fields)
    print(f"fields of {given.size} x {given.size} pixels, seeds {seeds.start}-{seeds.stop - 1}")
    simulations = [simulate_optical(options(given.size), seed) for seed in seeds]
    if "completeness" in parts and not given.calibrate:
        completeness(simulations)
    if given.calibrate or {"fluxes", "classes"} & set(parts):
        start, found = time.perf_counter(), []
        pipeline = Pipeline.from_route("optical")
        if given.gain:
            settings = options(given.size)
            photons = {"gain": {band: settings.electrons(band) for band in BANDS}}
            held = pipeline.config.characterization.model_dump()
            pipeline = pipeline.replace(characterization={"name": "psf", **held, **photons})
        for simulation in simulations:
            result = pipeline.run(simulation.image_set(given.plane), keep=False)
            assert result.catalogue is not None
            found.append(matched(simulation, result.catalogue.components))
        print(f"\n{(time.perf_counter() - start) / len(seeds):.1f} s a field, all stages")
        if given.calibrate:
            calibrate(found)
            return
        if "fluxes" in parts:
            fluxes(simulations, found)
        if "classes" in parts:
            classes(found)
    if "pairs" in parts:
        deblending(512, given.seed)


if __name__ == "__main__":
    main()
