"""What is to be seen: catalogues as layers over an image, whatever they are given as."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cyclades.pipeline.chain import Result
from cyclades.pipeline.comparison.compare import Comparable, Comparison, compare
from cyclades.pipeline.comparison.field import TrueSky, load_field
from cyclades.pipeline.comparison.match import cross_match
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

Shown: TypeAlias = Result | Comparable
"""What may be a layer: a result, a catalogue, a table, or the file of any finder's catalogue."""


def gather(
    what: "Comparison | Shown | Mapping[str, Shown] | Iterable[Shown]",
    image: "SkyImage | str | PathLike[str] | None" = None,
    truth: TrueSky | None = None,
) -> Comparison:
    """Return catalogues as what a report is made of.

    Parameters
    ----------
    what : Comparison, Result, Catalogue, ComparisonTable or path; mapping or sequence of these
        What has an attribute ``comparison`` is taken for that. A mapping names the layers; others
        are called by their file, their image, or the detection of their route.
    image : SkyImage or path, optional
        Under the sources; that of the first result by default.
    truth : path, Simulation, Truth, Catalogue or ComparisonTable, optional
        The true sources; with them the catalogues are judged too.

    Raises
    ------
    InputError
        Where there is nothing to show, or a table or the image cannot be used.
    """
    held: Any = getattr(what, "comparison", what)
    if isinstance(held, Comparison):
        return held if image is None else replace(held, image=_read(image))
    given = _named(held)
    if not given:
        raise InputError("There is nothing to show; give a result or a catalogue.")
    images = [value.image for value in given.values() if isinstance(value, Result)]
    if image is None:
        image = next((one for one in images if one is not None), None)
    tables = {label: _catalogue(label, value) for label, value in given.items()}
    if truth is not None:
        return compare(tables, truth, image)
    return _unjudged(tables, image)


def _unjudged(
    tables: Mapping[str, Comparable], image: "SkyImage | str | PathLike[str] | None"
) -> Comparison:
    """Catalogues whose rows are matched, but not judged: what is seen needs no figures."""
    from astropy.table import Table

    field = load_field(tables, None, image)
    names = ("summary", "by_snr", "by_flux", "by_class", "curves", "pulls", "accuracy", "agreement")
    return Comparison(
        catalogues=field.catalogues,
        truth=None,
        image=field.image,
        outcomes={},
        cross=cross_match(list(field.catalogues.values()), beam=field.beam),
        meta={"beam": field.beam, "fields": 1, "notes": field.notes},
        **{name: Table() for name in names},
    )


def _read(image: "SkyImage | str | PathLike[str]") -> "SkyImage":
    if isinstance(image, str | PathLike):
        from cyclades.stages.core.io import read_image

        return read_image(Path(image))
    return image


def _named(held: Any) -> dict[str, Any]:
    """What is shown by its label."""
    if isinstance(held, Mapping):
        return dict(held)
    single = isinstance(held, Result | Catalogue | ComparisonTable | str | PathLike)
    made: dict[str, Any] = {}
    for value in [held] if single else held:
        label = _label(value)
        number = 1 + sum(name == label or name.startswith(f"{label} (") for name in made)
        made[label if number == 1 else f"{label} ({number})"] = value
    return made


def _label(value: Any) -> str:
    if isinstance(value, Result):
        return value.config.detection.name
    if isinstance(value, ComparisonTable):
        return value.name or "catalogue"
    if isinstance(value, Catalogue):
        return "catalogue"
    if isinstance(value, str | PathLike):
        name = Path(value).name
        for suffix in (".gz", Path(name.removesuffix(".gz")).suffix, ".catalogue"):
            name = name.removesuffix(suffix)
        return name
    raise InputError(
        f"A {type(value).__name__} cannot be shown; give results, catalogues, their files, or a "
        "comparison."
    )


def _catalogue(label: str, value: Any) -> Comparable:
    if not isinstance(value, Result):
        return value  # type: ignore[no-any-return]
    if value.catalogue is None:
        raise InputError(
            f"The result {label!r} has no catalogue; run the whole chain to show its sources."
        )
    return value.catalogue
