"""Level and rms of every background beside the truth: ``python tests/benchmarks/backgrounds.py``.

Simulated fields know their true level (waves, bowls, ripples) and rms. Errors are given in units
of the true rms, by where they are: on wide sources, beside them, beside bright points, near the
edges, elsewhere. The noise of sources too faint to be found is no part of the true rms and of no
mask: what a background still shows when the true pixels of all sources are left out (``true
pixels``) is the floor for any that masks. ``--catalogues`` gives what the swap does to the
catalogue of a route. What one look of the network for two stages saves, tells
``routes.py --seconds``.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from peers import markdown
from scipy.ndimage import distance_transform_edt

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.accuracy import Pairs
from cyclades.pipeline.comparison.compare import compare_fields
from cyclades.pipeline.comparison.field import load_field
from cyclades.pipeline.comparison.intervals import bootstrap
from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.simulation.sky import SkyOptions
from cyclades.pipeline.simulation.telescope_options import TelescopeOptions
from cyclades.stages.background.masked import grown
from cyclades.stages.core.context import Context
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WIDE_SKY = SkyOptions(
    galaxies=0.1, discs=0.2, doubles=0.2, bent=0.1, diffuse=0.4, half_share_flux=5e-5,
    disc_size=(3.0, 20.0), radio_galaxy_size=(4.0, 25.0), diffuse_size=(8.0, 30.0),
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "wide": {"sky": WIDE_SKY, "plain": PlainOptions(rms=2e-5)},
    "wide, none faint": {
        "sky": WIDE_SKY.model_copy(update={"faintest": 8.0}),
        "plain": PlainOptions(rms=2e-5),
    },
    "crowded": {"plain": PlainOptions(rms=5e-6)},
    "telescope": {
        "sky": WIDE_SKY,
        "telescope": TelescopeOptions(rms=2e-5, ripple=0.3, gain_amplitude=0.02, gain_phase=2.0),
    },
}
"""Sources like those of a survey; many wide ones; these without sources too faint to be found,
whose noise no mask takes away; sources so dense that they cover a tenth of the sky; through the
VLA, with bowls, ripples and gain errors."""
BACKGROUNDS: dict[str, dict[str, Any]] = {
    "sep": {"name": "sep"},
    "photutils": {"name": "photutils"},
    "grid": {"name": "grid"},
    "masked grid, mask_rcnn": {"name": "masked"},
    "masked sep, mask_rcnn": {"name": "masked", "estimator": "sep"},
    "masked grid, yolo": {"name": "masked", "weights": "yolo"},
    "masked sep, yolo": {"name": "masked", "estimator": "sep", "weights": "yolo"},
    "dense": {"name": "dense"},
}
CLASSICAL = ("sep", "photutils", "grid")
TRUE_PIXELS = "true pixels"
WIDE_BEAMS = 6.0
"""Beam areas from which on a source that is not compact is wide."""
BRIGHT = 50.0
"""S/N of the peak of a bright point."""
NEAR = 5.0
"""Beams from a source, or from the edge."""


class Measured(NamedTuple):
    """Of one field, background and place: mean and scatter of the errors of rms and level."""

    rms: float
    rms_scatter: float
    level: float
    level_scatter: float


def places(made: Simulation) -> dict[str, Mask]:
    """Pixels of each place; every pixel is in the first that applies."""
    truth, shape = made.truth, made.image.shape
    assert made.image.psf is not None
    beam, area = made.image.psf.size, made.image.psf.area
    blank = ~np.isfinite(made.image.data)

    def pixels(rows: Mask) -> Mask:
        mask = np.zeros(shape, bool)
        mask.ravel()[truth.segments.take(np.flatnonzero(rows)).indices] = True
        return mask

    def near(mask: Mask) -> Mask:
        return distance_transform_edt(~mask) <= NEAR * beam if mask.any() else mask

    snr = np.asarray(truth.catalogue.sources["snr"], float)
    compact = truth.morphology == "compact"
    wide = pixels(~compact & (truth.segments.lengths >= WIDE_BEAMS * area))
    bright = pixels(compact & (snr >= BRIGHT))
    edge = distance_transform_edt(np.pad(~blank, 1))[1:-1, 1:-1] <= NEAR * beam
    found, left = {}, ~blank
    for name, mask in {
        "on wide sources": wide,
        "beside wide sources": near(wide),
        "beside bright points": near(bright),
        "near edges": edge,
        "elsewhere": np.ones(shape, bool),
    }.items():
        found[name] = mask & left
        left = left & ~mask
    return found


def measured(made: Simulation, background: Background, where: Mask) -> Measured | None:
    """Errors in units of the true rms; None where a field has no such place."""
    if not where.any():
        return None
    truth = made.rms[where].astype(float)
    rms = background.rms[where] / truth - 1.0
    level = (background.level[where] - made.level[where]) / truth
    return Measured(*(float(v) for v in (rms.mean(), rms.std(), level.mean(), level.std())))


def estimates(
    made: Simulation, backgrounds: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, Background]]:
    """Run every background, and two without the true pixels of all sources.

    In one context: of several backgrounds in a row that ask one network, the first looks.
    """
    assert made.image.psf is not None
    mask = np.zeros(made.image.shape, bool)
    mask.ravel()[made.truth.segments.indices] = True
    sources = grown(mask, round(0.5 * made.image.psf.size))
    with Context(workers=1) as context:
        for label, entry in backgrounds.items():
            stage: Any = create_stage("background", entry["name"], **_options(entry))
            yield label, stage.estimate(made.image, context=context)
        for name in ("grid", "sep"):
            stage = create_stage("background", name)
            maps = stage.estimate(made.image, context=context, sources=sources)
            yield f"{name}, {TRUE_PIXELS}", maps


def _options(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "name"}


def shown(values: Floats) -> str:
    """Mean over fields in percent, with its 68 % interval from resampling fields."""
    low, high = bootstrap(values, lambda v: v.mean(-1))
    return f"{100 * values.mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def error_rows(kind: str, made: dict[str, dict[str, list[Measured]]]) -> list[dict[str, str]]:
    """One row a place and background."""
    rows = []
    for place, held in made.items():
        if not held:
            continue
        means = {name: np.array(of, float) for name, of in held.items()}
        best = min(
            (abs(means[name][:, 0].mean()) for name in CLASSICAL if name in means), default=np.nan
        )
        for name, values in means.items():
            rows.append(
                {
                    "fields": f"{kind}, {len(values)}",
                    "place": place,
                    "background": name,
                    "rms bias, %": shown(values[:, 0]),
                    "scatter": f"{100 * values[:, 1].mean():.1f}",
                    "level bias, % of rms": shown(values[:, 2]),
                    "level scatter": f"{100 * values[:, 3].mean():.1f}",
                    "rms bias / best classical": f"{abs(values[:, 0].mean()) / best:.2f}",
                }
            )
    return rows


def catalogue_rows(
    kind: str, fields: list[Simulation], backgrounds: dict[str, dict[str, Any]], name: str
) -> list[dict[str, str]]:
    """What each background does to the catalogue of a route."""
    route = Pipeline.from_route(name)
    loaded = []
    for made in fields:
        catalogues = {
            label: route.replace(background=entry).run(made.image, workers=1).catalogue
            for label, entry in backgrounds.items()
        }
        loaded.append(load_field(catalogues, made))
    comparison = compare_fields(loaded)
    values = {
        (row["catalogue"], row["minus"], row["quantity"]): row
        for row in comparison.further["over_fields"]
    }
    rows = []
    for label, outcome in comparison.outcomes.items():
        pairs = Pairs.of_outcome(outcome)
        row = {"fields": f"{kind}, {len(fields)}", "background": label}
        for quantity in ("completeness", "reliability"):
            own = values[label, "", quantity]
            row[quantity] = f"{own['value']:.4f} [{own['low']:.4f}, {own['high']:.4f}]"
        for quantity in ("completeness", "reliability"):
            other = values.get((label, "grid", quantity)) or values.get(("grid", label, quantity))
            if other is None:
                row[f"{quantity} - grid"] = ""
                continue
            sign = 1.0 if other["minus"] == "grid" else -1.0
            ends = sorted(sign * other[end] for end in ("low", "high"))
            row[f"{quantity} - grid"] = (
                f"{sign * other['value']:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]"
            )
        for name, chosen in (("points", pairs.kind == "point"), ("others", pairs.kind != "point")):
            ratio = pairs.measured["total_flux"] / pairs.truth["total_flux"] - 1.0
            ratio = ratio[chosen & np.isfinite(ratio)]
            low, high = bootstrap(ratio, lambda v: np.median(v, -1))
            row[f"flux bias of {name}, %"] = (
                f"{100 * np.median(ratio):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
            )
        rows.append(row)
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=";".join(KINDS), help="with ; between")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--fields", type=int, default=8)
    parser.add_argument("--seed", type=int, default=6000, help="of the first field")
    parser.add_argument("--backgrounds", default=";".join(BACKGROUNDS), help="with ; between")
    parser.add_argument("--catalogues", action="store_true")
    parser.add_argument("--route", default="classical", help="of the catalogues")
    parser.add_argument("--set", action="append", default=[], help="of masked, as grow=1.0")
    arguments = parser.parse_args()
    changes = {k: float(v) for k, v in (one.split("=") for one in arguments.set)}
    backgrounds = {
        label: entry | (changes if entry["name"] == "masked" else {})
        for label, entry in BACKGROUNDS.items()
        if label in arguments.backgrounds.split(";")
    }
    for kind in arguments.kinds.split(";"):
        options = FieldOptions(size=arguments.size, **KINDS[kind])
        fields = [simulate(options, arguments.seed + i) for i in range(arguments.fields)]
        if arguments.catalogues:
            rows = catalogue_rows(kind, fields, backgrounds, arguments.route)
            print(markdown(rows), flush=True)
            continue
        errors: dict[str, dict[str, list[Measured]]] = {}
        for made in fields:
            where = places(made)
            for label, background in estimates(made, backgrounds):
                for place, mask in where.items():
                    one = measured(made, background, mask)
                    if one is not None:
                        errors.setdefault(place, {}).setdefault(label, []).append(one)
        print(markdown(error_rows(kind, errors)), flush=True)


if __name__ == "__main__":
    main()
