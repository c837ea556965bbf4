"""``cyclades measure``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.route import names_option
from cyclades.pipeline.commands.run_planes import split_name
from cyclades.pipeline.commands.terminal import (
    examples,
    json_option,
    print_json,
    progress_bar,
    quiet_option,
)
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError

if TYPE_CHECKING:
    from cyclades.pipeline.measurement.planes import PlaneMeasurements
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.image_options import ImageOptions
    from cyclades.stages.core.io import FitsSource


@click.command(
    epilog=examples(
        "cyclades measure other.fits --catalogue field.catalogue.fits -o measured",
        "cyclades measure low=150.fits high=1400.fits -c field.catalogue.fits -o measured "
        "--planes frequencies",
    )
)
@click.argument("images", nargs=-1, required=True, metavar="[NAME=]IMAGE...")
@click.option(
    "--catalogue",
    "-c",
    required=True,
    type=click.Path(path_type=Path),
    help="What to measure: a catalogue of cyclades, Aegean, PyBDSF, Selavy, ..., or any table with "
    "columns ra and dec.",
)
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="Directory for results."
)
@click.option(
    "--positions",
    type=click.Choice(["fixed", "free"]),
    default="fixed",
    show_default=True,
    help="free: fitted too, for components above 5 sigma.",
)
@click.option(
    "--limit", type=float, help="How far free positions may move, in beams.  [default: 0.5]"
)
@click.option(
    "--significance",
    type=float,
    default=3.0,
    show_default=True,
    help="Sigmas of a detection and of upper limits.",
)
@click.option(
    "--planes",
    type=click.Choice(["frequencies", "epochs", "stokes"]),
    help="What several images differ in. frequencies: adds spectral indices; epochs: light curves "
    "and variability indices; stokes: polarisation of images named I, Q, U, V (by their headers, "
    "or as Q=image.fits). A cube of frequencies or Stokes parameters gives all its planes.",
)
@names_option(
    "--formats",
    default=("fits",),
    show_default=True,
    help="Comma-separated formats of the catalogues, as for cyclades run.",
)
@click.option("--beam", help="Beam of images that do not tell it, as 5.4arcsec.")
@click.option("--config", type=click.Path(path_type=Path), help="A configuration file (YAML).")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.PARAMETER=VALUE",
    help="Change how images are read or their background, as image.plane=2 or "
    "background.box_beams=50; may be repeated.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@quiet_option
@json_option
def measure(
    images: tuple[str, ...],
    catalogue: Path,
    output: Path,
    positions: str,
    limit: float | None,
    significance: float,
    planes: str | None,
    formats: tuple[str, ...],
    beam: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the sources of a catalogue on each IMAGE, detected there or not.

    Writes OUTPUT/NAME.measured.fits for each image (NAME is the image's unless given), with the
    rows of the catalogue; with --planes also OUTPUT/planes.measured.fits, and of epochs
    OUTPUT/light_curves.ecsv.
    """
    from cyclades.pipeline.config import RouteConfig, load, override
    from cyclades.pipeline.measurement.planes import measure_planes
    from cyclades.pipeline.measurement.prior import read_prior
    from cyclades.pipeline.products import prepare_directory
    from cyclades.stages.core.formats import format_extension, format_of

    if limit is not None and positions == "fixed":
        raise ConfigurationError("--limit is for free positions; add --positions free.")
    mapping, name = load("classical" if config is None else config)
    if beam is not None:
        mapping["image"] = {**(mapping.get("image") or {}), "beam": beam}
    route = RouteConfig.from_mapping(override(mapping, assignments), name=name)
    kinds = [format_of("", kind, error=OutputError) for kind in dict.fromkeys(formats)]
    prior = read_prior(catalogue)
    named = _named(images, planes, route.image)
    names = [*named, "planes"] if planes else [*named]
    targets = {
        name: [output / f"{name}.measured.{format_extension(kind)}" for kind in kinds]
        for name in names
    }
    inputs = {catalogue.resolve(), *(source.path.resolve() for source in named.values())}
    for target in (path for paths in targets.values() for path in paths):
        if target.resolve() in inputs:
            raise OutputError(
                f"The output {target} would replace an input; choose another --output."
            )
    prepare_directory(output)
    with progress_bar("step", quiet=quiet) as told:
        measured = measure_planes(
            named,
            prior,
            free_positions=False if positions == "fixed" else limit if limit is not None else True,
            significance=significance,
            route=route,
            workers=workers,
            progress=told,
        )
    lines, counts, files = [], {}, []
    for name, made in measured.catalogues.items():
        _write(made, targets[name], kinds)
        files += targets[name]
        counts[name] = _counts(made)
        lines.append(
            "{file}: {components} components, {detected} detected, {upper_limits} upper limits, "
            "{not_covered} not covered".format(file=targets[name][0], **counts[name])
        )
    if planes is not None:
        _write(_joined(measured, planes), targets["planes"], kinds)
        files += targets["planes"]
        lines.append(f"{targets['planes'][0]}: all images")
    if planes == "epochs":
        files.append(output / "light_curves.ecsv")
        _write_light_curves(measured, files[-1])
        lines.append(f"{files[-1]}: {len(named)} epochs")
    if as_json:
        print_json({"images": counts, "files": files})
        return
    for line in () if quiet else lines:
        click.echo(line)


def _named(
    images: tuple[str, ...], planes: str | None, options: "ImageOptions"
) -> dict[str, "FitsSource"]:
    """Planes to measure: by the name given, the Stokes parameter, or that of the file."""
    from cyclades.pipeline.measurement.planes import file_planes

    named: dict[str, FitsSource] = {}
    for argument in images:
        name, file = split_name(argument)
        found = file_planes(file, options, planes)
        if name and len(found) == 1:
            found = {name: next(iter(found.values()))}
        for label, source in found.items():
            if label in named or label == "planes":
                raise InputError(
                    f"more than one image is called {label!r}; name each as NAME=FILE."
                )
            named[label] = source
    if planes is not None and len(named) < 2:
        raise InputError(f"--planes {planes} needs two images or more; give them all at once.")
    if planes == "stokes" and set(named) not in ({"I", "Q", "U"}, {"I", "V"}, set("IQUV")):
        raise InputError(
            f"the images are called {', '.join(named)}; polarisation needs I, Q and U, I and V, "
            "or all four, told by the headers or named as I=image.fits."
        )
    return named


def _joined(measured: "PlaneMeasurements", planes: str) -> "Catalogue":
    if planes == "frequencies":
        return measured.spectra()
    return measured.light_curves() if planes == "epochs" else measured.polarisation()


def _write(catalogue: "Catalogue", paths: list[Path], kinds: list[str]) -> None:
    for path, kind in zip(paths, kinds, strict=True):
        catalogue.write(path, kind)


def _write_light_curves(measured: "PlaneMeasurements", path: Path) -> None:
    """Write the table completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        measured.light_curve_table().write(partial, format="ascii.ecsv", overwrite=True)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}); make room or choose "
            "another directory with --output."
        ) from error


def _counts(catalogue: "Catalogue") -> dict[str, int]:
    """Count the components of a measured catalogue by what became of them."""
    import numpy as np

    from cyclades.stages.core.flags import Flag

    table = catalogue.components
    limits = int(np.count_nonzero(table["total_flux_is_limit"]))
    lost = int(np.count_nonzero(np.asarray(table["flags"]) & Flag.NOT_COVERED))
    measured = int(np.count_nonzero(np.isfinite(np.asarray(table["total_flux"]))))
    return {
        "components": len(table),
        "detected": measured - limits,
        "upper_limits": limits,
        "not_covered": lost,
    }
