"""The command line: parses, calls the Python API, prints.

Everything heavy is imported inside the commands, so that ``cyclades --help`` answers at once.
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cyclades._version import __version__
from cyclades.pipeline.commands.batch import batch, watch
from cyclades.pipeline.commands.compare import compare
from cyclades.pipeline.commands.compare_stages import compare_stages
from cyclades.pipeline.commands.evaluate import evaluate
from cyclades.pipeline.commands.export import export
from cyclades.pipeline.commands.inverted import inverted
from cyclades.pipeline.commands.measure import measure
from cyclades.pipeline.commands.pretrain import pretrain
from cyclades.pipeline.commands.route import configuration, names, route_options
from cyclades.pipeline.commands.similar import similar
from cyclades.pipeline.commands.simulate import simulate
from cyclades.pipeline.commands.study import study
from cyclades.pipeline.commands.subtract import subtract
from cyclades.pipeline.commands.terminal import log_to_terminal
from cyclades.pipeline.commands.train import train
from cyclades.pipeline.commands.train_classifier import train_classifier
from cyclades.pipeline.commands.weights import weights
from cyclades.stages.core.errors import ConfigurationError, CycladesError

USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence on stderr and exit code 2."""
    if arguments is None:
        _prepare_process()
    try:
        code = cli.main(arguments, prog_name="cyclades", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("cyclades: interrupted; nothing unfinished was left behind.", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = USER_ERROR
    except CycladesError as error:
        click.echo(f"cyclades: {error}", err=True)
        code = USER_ERROR
    if arguments is None:
        # Nothing is left to be collected at the end but the modules, which takes a while.
        gc.freeze()
    sys.exit(code or 0)


def _prepare_process() -> None:
    """Spare a process that only runs one command what costs it a fifth of a short run.

    Hundreds of thousands of objects that imports make live to the end: looking through them for
    garbage again and again finds none. Threads of a BLAS, which has nothing to do for them, spin
    when they are started.
    """
    gc.set_threshold(100_000, 20, 100)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cyclades")
def cli() -> None:
    """Find, measure and catalogue sources in astronomical images, radio first."""


@cli.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="Directory for results."
)
@route_options
@click.option(
    "--formats",
    callback=names,
    default="fits",
    show_default=True,
    help="Comma-separated catalogue formats besides FITS: votable, ecsv, parquet, csv, ds9 (or "
    "reg) and crtf regions, moc (coverage).",
)
@click.option(
    "--columns",
    callback=names,
    help="Write the catalogue in the columns of other source finders too, comma-separated: "
    "aegean, pybdsf (or one of pybdsf_srl, pybdsf_gaul), selavy (or one of selavy_components, "
    "selavy_islands); as FITS, and as CSV with --formats csv.",
)
@click.option(
    "--products",
    callback=names,
    help="Comma-separated images to write: background, rms, significance, islands, model, "
    "residual, quicklook.",
)
@click.option("--beam", help="Beam, as 5.4arcsec or 6.4x5.4arcsec@0deg.")
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
@click.option("--background", type=click.Path(path_type=Path), help="Background map of your own.")
@click.option("--rms", type=click.Path(path_type=Path), help="Noise map of your own.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads in all.  [default: at most 8]")
@click.option(
    "--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda, cuda:1."
)
@click.option("--verbose", "-v", is_flag=True, help="Say what each stage does.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def run(
    images: tuple[Path, ...],
    output: Path,
    route: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    formats: tuple[str, ...],
    columns: tuple[str, ...],
    products: tuple[str, ...],
    beam: str | None,
    psf: Path | None,
    frequency: str | None,
    mask: Path | None,
    include: Path | None,
    weight: Path | None,
    background: Path | None,
    rms: Path | None,
    workers: int | None,
    device: str,
    verbose: bool,
    quiet: bool,
) -> int:
    """Make a catalogue of each IMAGE.

    The catalogue of X.fits is OUTPUT/X.catalogue.fits; the effective configuration, the record of
    the run and the products asked for lie beside it. An image that cannot be processed does not
    stop the others; the exit code is then 2.
    """
    from tqdm import tqdm

    from cyclades.pipeline.batch import run_batch
    from cyclades.pipeline.chain import Pipeline

    log_to_terminal(verbose, quiet)
    if (background is None) != (rms is None):
        raise ConfigurationError("Give --background and --rms together, or neither.")
    options = {
        "beam": beam,
        "frequency": frequency,
        **{
            name: None if path is None else str(path)
            for name, path in {
                "psf": psf,
                "mask": mask,
                "include": include,
                "weight": weight,
            }.items()
        },
    }
    maps = None if background is None or rms is None else (background, rms)
    pipeline = Pipeline(configuration(route, config, assignments, options, maps))
    failed = []
    steps = 6 * len(dict.fromkeys(images))
    with tqdm(total=steps, disable=True if quiet or verbose else None, leave=False) as bar:

        def show(label: str) -> None:
            bar.set_description(label)
            # "detection 40 %" is news of a stage that was counted when it began
            bar.update(0 if label.endswith("%") else 1)

        for outcome in run_batch(
            pipeline,
            images,
            output,
            formats=formats,
            products=products,
            columns=columns,
            workers=workers,
            device=device,
            progress=show,
        ):
            bar.clear()
            if outcome.error:
                failed.append(outcome)
                if len(images) > 1:
                    click.echo(f"failed: {outcome.image}", err=True)
            elif not quiet:
                found = (outcome.counts or {}).get("components", 0)
                click.echo(f"{outcome.files[0]}: {found} components in {outcome.seconds:.1f} s")
            if outcome.image == images[0] and len(images) > 1:
                # Libraries imported on the way may hold on to frames, and these to the image.
                gc.collect()
    if not failed:
        return 0
    if len(images) > 1:
        click.echo(f"cyclades: {len(failed)} of {len(images)} images failed:", err=True)
        for outcome in failed:
            named = outcome.error.startswith(str(outcome.image))
            click.echo(f"  {'' if named else f'{outcome.image}: '}{outcome.error}", err=True)
    else:
        click.echo(f"cyclades: {failed[0].error}", err=True)
    return USER_ERROR


@cli.command()
@click.argument("name", required=False)
def stages(name: str | None) -> None:
    """List the stages, or the parameters of one.

    NAME is an implementation (islands), a stage (detection) or both (detection.islands).
    """
    from cyclades.pipeline.reference import describe_stage, list_all, matching

    if name is None:
        click.echo(list_all())
        return
    click.echo("\n\n".join(describe_stage(*found) for found in matching(name)))


@cli.group()
def config() -> None:
    """Show or check a configuration."""


@config.command()
@route_options
def show(route: str | None, config: Path | None, assignments: tuple[str, ...]) -> None:
    """Print the effective configuration with every parameter, as YAML."""
    click.echo(configuration(route, config, assignments).to_yaml(), nl=False)


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """List every error of the configuration FILE with its line."""
    from cyclades.pipeline.config import check_file

    problems = check_file(file)
    for line, message in problems:
        click.echo(f"{file}:{line}: {message}", err=True)
    if not problems:
        click.echo(f"{file}: no errors")
    return USER_ERROR if problems else 0


@cli.command()
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
def sample(name: str, directory: Path) -> None:
    """Write a sample image into DIRECTORY.

    NAME is magpis (a real one, from the package astroquery) or simulated (with its truth).
    """
    from cyclades.pipeline.samples import write_sample

    for path in write_sample(name, directory):
        click.echo(path)


cli.add_command(batch)
cli.add_command(compare)
cli.add_command(compare_stages)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(inverted)
cli.add_command(measure)
cli.add_command(pretrain)
cli.add_command(similar)
cli.add_command(simulate)
cli.add_command(study)
cli.add_command(subtract)
cli.add_command(train)
cli.add_command(train_classifier)
cli.add_command(watch)
cli.add_command(weights)
