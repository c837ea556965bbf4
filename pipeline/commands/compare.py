"""``cyclades compare``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyclades.pipeline.commands.terminal import examples, json_option, print_json
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.compare import Comparison


@click.command(
    epilog=examples(
        "cyclades compare ours=results/field.catalogue.fits --truth field.truth.fits",
        "cyclades compare ours=a.catalogue.fits aegean=a_comp.fits --image a.fits --report report",
        "cyclades compare --fields fields.yaml --json",
    )
)
@click.argument("catalogues", nargs=-1, metavar="[LABEL=]CATALOGUE...")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="The true sources. Of a simulation, X.truth.fits: masks, true level and true noise are "
    "taken from the files beside it.",
)
@click.option(
    "--deep",
    type=click.Path(path_type=Path),
    help="Catalogue of a deeper image of the same sky, to serve as truth.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="The image: gives the beam, the blank pixels, the S/N of a truth without one, residuals, "
    "visibility area and counts.",
)
@click.option(
    "--rms", type=click.Path(path_type=Path), help="Noise map of the image.  [default: estimated]"
)
@click.option(
    "--columns",
    type=click.Path(path_type=Path),
    help="Where the columns of an unknown table are: YAML lines as 'ra: RAJ2000' or "
    "'peak_flux: {column: Fpeak, unit: mJy}'.",
)
@click.option(
    "--challenge",
    type=click.Choice(["560", "1400", "9200"]),
    help="Score by the rules of SKA Data Challenge 1 at this frequency (MHz).",
)
@click.option(
    "--fields",
    type=click.Path(path_type=Path),
    help="YAML list of several fields to pool, instead of the catalogues, the truth and the image "
    "of one; may name labels of volunteers.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Directory for all tables and a page to look at (with --fields, one for each field).",
)
@json_option
def compare(
    catalogues: tuple[str, ...],
    truth: Path | None,
    deep: Path | None,
    image: Path | None,
    rms: Path | None,
    columns: Path | None,
    challenge: str | None,
    fields: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare catalogues with a truth, and with each other.

    One CATALOGUE is enough with --truth. Catalogues of cyclades, Aegean, PyBDSF, Selavy, and
    of FIRST, NVSS, SUMSS, VLASS, RACS and LoTSS (as published or as VizieR gives them) are
    recognised by their columns.
    """
    frequency = None if challenge is None else int(challenge)
    if fields is not None:
        given = {
            "a catalogue": catalogues,
            "--truth": truth,
            "--deep": deep,
            "--image": image,
            "--rms": rms,
            "--columns": columns,
        }
        both = [name for name, value in given.items() if value]
        if both:
            raise InputError(
                f"Give --fields or {both[0]}, not both; the file holds what is needed."
            )
        _compare_fields(fields, frequency, report, as_json)
        return
    from cyclades.pipeline.comparison.compare import compare as compare_catalogues

    if not catalogues:
        raise InputError("There is no catalogue to compare; give one, or a list with --fields.")
    named = named_catalogues(catalogues)
    comparison = compare_catalogues(
        named, truth, image, deep=deep, rms=rms, columns=columns, challenge=frequency
    )
    pages = []
    if report is not None:
        comparison.write(report)
        pages = [_page(comparison, report)]
    _say(comparison, pages, as_json)


def _compare_fields(path: Path, frequency: int | None, report: Path | None, as_json: bool) -> None:
    from cyclades.pipeline.comparison.compare import compare_fields
    from cyclades.pipeline.comparison.fields_file import read_fields

    listed = read_fields(path)
    loaded = listed.load()
    comparison = listed.compare(loaded, challenge=frequency)
    pages = []
    if report is not None:
        comparison.write(report)
        pages = [
            _page(compare_fields([one]), report / one.name.removesuffix(".fits")) for one in loaded
        ]
    _say(comparison, pages, as_json)


def _page(comparison: "Comparison", directory: Path) -> Path:
    from cyclades.pipeline.comparison.report import write_report

    return write_report(comparison, directory)


def _say(comparison: "Comparison", pages: list[Path], as_json: bool) -> None:
    if as_json:
        print_json({**comparison.record(), "reports": pages})
        return
    click.echo(comparison.format())
    for page in pages:
        click.echo(page)


def named_catalogues(arguments: tuple[str, ...]) -> dict[str, Path]:
    """Label the catalogues: as given, by their files, or by their folders where files are alike."""
    pairs = [_labelled(argument) for argument in arguments]
    folders = [path.resolve().parent.name for _, path in pairs]
    if len({label for label, _ in pairs}) == 1 < len(pairs) == len(set(folders)):
        pairs = [(folder, path) for folder, (_, path) in zip(folders, pairs, strict=True)]
    named: dict[str, Path] = {}
    for label, path in pairs:
        if label in named:
            raise InputError(
                f"More than one catalogue is called {label!r}; name each as LABEL=FILE."
            )
        named[label] = path
    return named


def _labelled(argument: str) -> tuple[str, Path]:
    """Split LABEL=FILE; a file without a label is called by its name."""
    label, sign, path = argument.partition("=")
    if sign and label and not Path(argument).exists():
        return label, Path(path)
    file = Path(argument)
    name = file.name
    for suffix in (".gz", file.suffix, ".catalogue"):
        name = name.removesuffix(suffix)
    return name, file
