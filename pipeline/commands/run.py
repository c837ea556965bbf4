"""``cyclades run``."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.pipeline.commands.route import (
    complete_names,
    configuration,
    like_option,
    likeness,
    names_option,
    route_options,
)
from cyclades.pipeline.commands.run_planes import named_planes, run_planes
from cyclades.pipeline.commands.terminal import (
    USER_ERROR,
    complain,
    dry_run_option,
    examples,
    json_option,
    log_to_terminal,
    note_first_run,
    number_of,
    print_json,
    quiet_option,
    say_plan,
)
from cyclades.stages.core.errors import ConfigurationError, CycladesError

if TYPE_CHECKING:
    from cyclades.pipeline.batch import Outcome
    from cyclades.pipeline.chain import Pipeline


@click.command(
    epilog=examples(
        "cyclades run field.fits --output results --products residual,quicklook",
        "cyclades run *.fits -o results --formats votable,ds9 --workers 4",
        "cyclades run field.fits -o results --route yolo --beam 5.4arcsec",
        "cyclades run field.fits -o results --set detection.seed_threshold=5 --dry-run",
        "cyclades run g=a.fits r=b.fits z=c.fits -o results --route optical",
        "cyclades run field.fits -o results --like 'pybdsf thresh_pix=6 rms_box=(60,15)'",
    )
)
@click.argument(
    "images",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE... | NAME=IMAGE...",
)
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="Directory for results."
)
@route_options
@like_option
@names_option(
    "--formats",
    shell_complete=complete_names("cyclades.stages.core.formats:FORMATS"),
    default=("fits",),
    show_default=True,
    help="Comma-separated catalogue formats besides FITS: votable, ecsv, parquet, csv, ds9 (or "
    "reg) and crtf regions, moc (coverage).",
)
@names_option(
    "--columns",
    shell_complete=complete_names("cyclades.stages.core.exports:LAYOUTS"),
    help="Write the catalogue in the columns of other source finders too, comma-separated: "
    "aegean, pybdsf (or one of pybdsf_srl, pybdsf_gaul), selavy (or one of selavy_components, "
    "selavy_islands); as FITS, and as CSV with --formats csv.",
)
@names_option(
    "--products",
    shell_complete=complete_names("cyclades.pipeline.products:PRODUCTS"),
    help="Comma-separated images to write: background, rms, significance, islands, model, "
    "residual, quicklook.",
)
@click.option(
    "--beam",
    help="Beam, as 5.4arcsec or 6.4x5.4arcsec@0deg; stars: measured from the stars of an optical "
    "image.",
)
@click.option(
    "--detection-plane",
    metavar="NAME",
    help="Of planes given as NAME=IMAGE, what to detect on: one of them, their weighted mean "
    "(weighted), or their chi squared (chi-squared).  [default: weighted]",
)
@click.option(
    "--psf",
    type=click.Path(path_type=Path),
    help="Beam that varies: a table of beams, a FITS cube of major axis, minor axis and angle, or "
    "images of the point-spread function.",
)
@click.option("--frequency", help="Frequency, as 1.4GHz.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="What to leave out: a FITS mask, DS9 regions or a MOC.",
)
@click.option(
    "--include",
    type=click.Path(path_type=Path),
    help="The only part to keep: a FITS mask, DS9 regions or a MOC.",
)
@click.option("--weight", type=click.Path(path_type=Path), help="FITS map of relative weights.")
@click.option(
    "--window",
    type=click.IntRange(min=0),
    help="Side in pixels of the windows that a huge image is worked through in; 0 for none.  "
    "[default: 4096 beyond 8192 x 8192 pixels]",
)
@click.option("--background", type=click.Path(path_type=Path), help="Background map of your own.")
@click.option("--rms", type=click.Path(path_type=Path), help="Noise map of your own.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@click.option(
    "--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda, cuda:1."
)
@click.option("--verbose", "-v", is_flag=True, help="Say what each stage does.")
@quiet_option
@json_option
@dry_run_option
def run(
    images: tuple[Path, ...],
    output: Path,
    route: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    like: str | None,
    formats: tuple[str, ...],
    columns: tuple[str, ...],
    products: tuple[str, ...],
    beam: str | None,
    detection_plane: str | None,
    psf: Path | None,
    frequency: str | None,
    mask: Path | None,
    include: Path | None,
    weight: Path | None,
    window: int | None,
    background: Path | None,
    rms: Path | None,
    workers: int | None,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    dry_run: bool,
) -> int:
    """Make a catalogue of each IMAGE, or one of all planes that are given as NAME=IMAGE.

    The catalogue of X.fits is OUTPUT/X.catalogue.fits; the effective configuration, the record of
    the run and the products asked for lie beside it. An image that cannot be processed does not
    stop the others; the exit code is then 2.

    Planes with names (bands, frequencies, Stokes parameters, epochs on the same pixels) are
    detected on together and measured each; the columns of a plane end in its name.
    """
    from cyclades.pipeline.chain import Pipeline

    log_to_terminal(verbose, quiet)
    if (background is None) != (rms is None):
        raise ConfigurationError("Give --background and --rms together, or neither.")
    files = {"psf": psf, "mask": mask, "include": include, "weight": weight}
    options: dict[str, Any] = {"beam": beam, "frequency": frequency, "window": window}
    options |= {name: str(path) for name, path in files.items() if path is not None}
    maps = None if background is None or rms is None else (background, rms)
    planes = named_planes(images)
    if not (quiet or dry_run):
        note_first_run()
    if detection_plane is not None and not planes:
        raise ConfigurationError("--detection-plane is for planes given as NAME=IMAGE.")
    if planes and maps is not None:
        raise ConfigurationError("--background and --rms are for one image, not for planes.")
    given = None
    if like is not None:
        given, further, threads = likeness(like, images, quiet)
        columns, workers = (*columns, *further), workers or threads
    pipeline = Pipeline(configuration(route, config, assignments, options, maps, given))
    written = {"formats": formats, "products": products, "columns": columns}
    if planes:
        return run_planes(
            pipeline, planes, detection_plane, output, written, workers, device,
            quiet=quiet, as_json=as_json, dry_run=dry_run,
        )  # fmt: skip
    if dry_run:
        pipeline.prepare(device=device)
        return _say_what_would_run(pipeline, images, output, as_json, written)
    outcomes = _run_all(
        pipeline, images, output, written, workers, device, shown=not (quiet or verbose),
        printed=not (quiet or as_json),
    )  # fmt: skip
    failed = [outcome for outcome in outcomes if outcome.error]
    if as_json:
        print_json({"images": [vars(outcome) for outcome in outcomes], "failed": len(failed)})
    if len(failed) == 1 == len(images):
        complain(failed[0].error)
    elif failed:
        complain(f"{len(failed)} of {len(images)} images failed:")
        for outcome in failed:
            named = outcome.error.startswith(str(outcome.image))
            click.echo(f"  {'' if named else f'{outcome.image}: '}{outcome.error}", err=True)
    return USER_ERROR if failed else 0


def _run_all(
    pipeline: "Pipeline",
    images: Sequence[Path],
    output: Path,
    written: dict[str, tuple[str, ...]],
    workers: int | None,
    device: str,
    *,
    shown: bool,
    printed: bool,
) -> "list[Outcome]":
    """Run the images one after another; show the progress and print a line for each."""
    from tqdm import tqdm

    from cyclades.pipeline.batch import run_batch

    outcomes = []
    steps = 6 * len(dict.fromkeys(images))
    with tqdm(total=steps, unit="stage", disable=None if shown else True, leave=False) as bar:

        def show(label: str) -> None:
            bar.set_description(label)
            # "detection 40 %" is news of a stage that was counted when it began
            bar.update(0 if label.endswith("%") else 1)

        for outcome in run_batch(
            pipeline, images, output, workers=workers, device=device, progress=show, **written
        ):
            bar.clear()
            outcomes.append(outcome)
            if outcome.error and len(images) > 1:
                click.echo(f"failed: {outcome.image}", err=True)
            elif printed and not outcome.error:
                number = number_of((outcome.counts or {}).get("components", 0), "component")
                click.echo(f"{outcome.files[0]}: {number} in {outcome.seconds:.1f} s")
            if outcome.image == images[0] and len(images) > 1:
                # Libraries imported on the way may hold on to frames, and these to the image.
                gc.collect()
    return outcomes


def _say_what_would_run(
    pipeline: "Pipeline",
    images: Sequence[Path],
    output: Path,
    as_json: bool,
    written: dict[str, tuple[str, ...]],
) -> int:
    """Open every image, check what can be checked without its pixels, and print the plan."""
    from cyclades.pipeline.batch import check_outputs
    from cyclades.pipeline.products import file_names

    config = pipeline.config
    route = {
        "background": config.background.name,
        "detection": config.detection.name,
        "characterization": config.characterization.name,
        "cataloguing": [stage.name for stage in config.cataloguing],
    }
    facts: list[dict[str, Any]] = []
    lines, files, wrong = [], [], []
    for image, stem in check_outputs(images, output, **written).items():
        try:
            source = pipeline.check(image)
        except CycladesError as error:
            wrong.append(str(error))
            facts.append({"image": str(image), "error": str(error)})
            continue
        listed = file_names(stem, written["formats"], written["products"], written["columns"])
        paths = [output / name for names in listed.values() for name in names]
        ny, nx = source.shape
        lines.append(f"{image}: {nx} x {ny} pixels")
        facts.append({"image": str(image), "shape": [ny, nx], "error": ""})
        files += paths
    stages = [*list(route.values())[:3], *(str(name) for name in route["cataloguing"])]
    lines.append(f"would run {' -> '.join(map(str, stages))}")
    say_plan(as_json, files, lines if files else (), images=facts, route=route)
    for message in wrong:
        complain(message)
    return USER_ERROR if wrong else 0
