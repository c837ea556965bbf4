"""``cyclades simulate``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.terminal import (
    dry_run_option,
    examples,
    json_option,
    print_json,
    say_plan,
)

if TYPE_CHECKING:
    from cyclades.pipeline.simulation.field import Simulation
    from cyclades.pipeline.simulation.optical import OpticalSimulation


SUFFIXES = ("level.fits", "rms.fits", "truth.fits", "truth.coco.json", "fits")
"""Files of an image, behind its prefix."""


@click.command(
    epilog=examples(
        "cyclades simulate field --size 2048 --seed 5",
        "cyclades simulate vla --noise telescope --set telescope.array=vla-a --dry-run",
        "cyclades simulate optical --kind optical --json",
    )
)
@click.argument("prefix", metavar="OUT_PREFIX", type=click.Path(path_type=Path))
@click.option("--size", type=int, help="Side of the image in pixels.  [default: 1024]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--kind",
    type=click.Choice(["radio", "optical"]),
    default="radio",
    show_default=True,
    help="optical: stars and galaxies in the bands g, r and z.",
)
@click.option(
    "--noise",
    type=click.Choice(["natural", "beam", "telescope"]),
    help="Of radio images. natural: the beam is the noise's autocorrelation; beam: white noise "
    "convolved with the beam; telescope: an interferometer, with its sidelobes and artefacts.  "
    "[default: natural]",
)
@click.option("--config", type=click.Path(path_type=Path), help="A file of options (YAML).")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change one parameter, as sky.doubles=0.3, plain.rms=1e-4 or telescope.array=meerkat; "
    "may be repeated.",
)
@json_option
@dry_run_option
def simulate(
    prefix: Path,
    size: int | None,
    seed: int,
    kind: str,
    noise: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    dry_run: bool,
) -> None:
    """Simulate an image of the sky with its truth.

    Writes OUT_PREFIX.fits (the image), OUT_PREFIX.truth.fits (catalogue of what is in it),
    OUT_PREFIX.truth.coco.json (masks, boxes, classes), OUT_PREFIX.rms.fits and
    OUT_PREFIX.level.fits (true noise and level), and OUT_PREFIX.config.yaml (all options). Of
    optical images it writes these once a band, as OUT_PREFIX.r.fits.
    """
    import time

    from cyclades.pipeline.config import override
    from cyclades.pipeline.simulation.field import FieldOptions
    from cyclades.pipeline.simulation.field import simulate as simulate_field
    from cyclades.pipeline.simulation.optical import simulate_optical
    from cyclades.pipeline.simulation.optical_options import OpticalOptions

    if kind == "optical" and noise is not None:
        raise click.UsageError("--noise is for radio images; leave it out with --kind optical.")
    start = time.perf_counter()
    model = OpticalOptions if kind == "optical" else FieldOptions
    mapping = {} if config is None else model.read_mapping(config)
    name = "simulate" if config is None else str(config)
    given = list(assignments)
    if noise in ("natural", "beam"):
        given.insert(0, f"plain.autocorrelation={noise}")
    if size is not None:
        given.insert(0, f"size={size}")
    mapping = override(mapping, given)
    if noise == "telescope" and mapping.get("telescope") is None:
        mapping["telescope"] = {}
    options = model.from_mapping(mapping, name=name)
    if dry_run:
        say_plan(
            as_json,
            _files(prefix, kind),
            [f"would simulate {options.size} x {options.size} pixels, {kind}, seed {seed}"],
            options=options.model_dump(mode="json"),
            seed=seed,
        )
        return
    made: Simulation | OpticalSimulation
    if isinstance(options, OpticalOptions):
        made = simulate_optical(options, seed)
    else:
        made = simulate_field(options, seed)
    files = made.write(prefix)
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"files": files, "sources": len(made.truth), "seed": seed, "seconds": seconds})
        return
    click.echo(f"{files[0]}: {len(made.truth)} sources in {seconds:.1f} s")


def _files(prefix: Path, kind: str) -> list[Path]:
    """List what a simulation writes."""
    from cyclades.pipeline.simulation.optical_sky import BANDS

    stems = [f"{prefix}.{band}" for band in BANDS] if kind == "optical" else [f"{prefix}"]
    return [Path(f"{prefix}.config.yaml")] + [
        Path(f"{stem}.{suffix}") for stem in stems for suffix in SUFFIXES
    ]
