"""A file that lists fields to compare and pool."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyclades.pipeline.comparison.compare import Comparison, compare_fields
from cyclades.pipeline.comparison.field import ComparedField, load_field
from cyclades.pipeline.comparison.labels import read_labels
from cyclades.pipeline.document import read_values
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import suggestion

ENTRIES = ("image", "truth", "deep", "rms", "catalogues")
PLACE = "{name}"
SUFFIXES = (".gz", ".fits", ".fit")


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field.

    Parameters
    ----------
    name : str
        File name of the image without a compression suffix, or the number of the field.
    catalogues : dict of str to Path
        By label.
    image, truth, deep, rms : Path, optional
        As for `compare`.
    """

    name: str
    catalogues: dict[str, Path]
    image: Path | None = None
    truth: Path | None = None
    deep: Path | None = None
    rms: Path | None = None


@dataclass(frozen=True)
class FieldList:
    """Fields to compare, as a file lists them.

    Parameters
    ----------
    fields : tuple of FieldFiles
    labels : Path, optional
        Labels of volunteers, see `read_labels`.
    columns : Mapping, optional
        Where the columns of unknown tables are, see `read_any`.
    """

    fields: tuple[FieldFiles, ...]
    labels: Path | None = None
    columns: Mapping[str, Any] | None = field(default=None)

    def load(self) -> list[ComparedField]:
        """Read and match all fields."""
        return [
            load_field(
                f.catalogues,
                f.truth,
                f.image,
                deep=f.deep,
                rms=f.rms,
                columns=self.columns,
                name=f.name,
            )
            for f in self.fields
        ]

    def compare(
        self, loaded: list[ComparedField] | None = None, *, challenge: int | None = None
    ) -> Comparison:
        """Compare and pool all fields."""
        labels = None if self.labels is None else read_labels(self.labels)
        held = self.load() if loaded is None else loaded
        return compare_fields(held, labels=labels, challenge=challenge)


def read_fields(path: str | Path, *, catalogues: bool = True) -> FieldList:
    """Read a list of fields.

    Parameters
    ----------
    path : path
        YAML; paths in it are relative to it::

            labels: labels.csv          # optional
            columns: {ra: RAJ2000, ...} # optional, for tables that are not recognised
            fields:
            - image: one.fits           # optional where there are no labels
              truth: one.truth.fits     # optional; or deep: a catalogue of a deeper image
              rms: one.rms.fits         # optional
              catalogues: {classical: out/one.catalogue.fits, aegean: aegean/one.csv}
            - image: more/*.fits        # every image that this finds is a field, and {name} is
              truth: "more/{name}.truth.fits"  # its name without .fits or .fits.gz
              catalogues: {classical: "out/{name}.catalogue.fits", aegean: "aegean/{name}.csv"}
    catalogues : bool
        Whether every field must list catalogues.

    Raises
    ------
    InputError
        Where the file cannot be read, lists no field, or names what there is not.
    """
    path = Path(path)
    held = read_values(path, "a list of fields")
    if not isinstance(held, Mapping) or not isinstance(held.get("fields"), list):
        raise InputError(
            f"{path} lists no fields; write 'fields:' and below it a list of entries with "
            "catalogues, image and truth."
        )
    _known(held, ("fields", "labels", "columns"), str(path))
    fields: list[FieldFiles] = []
    for entry in held["fields"]:
        fields += _entry(entry, path, len(fields), catalogues)
    if not fields:
        raise InputError(f"{path} lists no fields; add one below 'fields:'.")
    names = [f.name for f in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} lists two fields whose images are called {twice!r}; rename one.")
    labels = held.get("labels")
    return FieldList(
        tuple(fields), None if labels is None else path.parent / labels, held.get("columns")
    )


def _known(entry: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    unknown = [str(name) for name in entry if name not in names]
    if unknown:
        raise InputError(
            f"{where} has no use for {unknown[0]!r}{suggestion(unknown[0], list(names))}; "
            f"it may hold {', '.join(names)}."
        )


def _entry(entry: Any, path: Path, number: int, needed: bool) -> list[FieldFiles]:
    """The fields of one entry: one, or as many as its image's pattern finds."""
    listed = entry.get("catalogues", None if needed else {}) if isinstance(entry, Mapping) else None
    if not isinstance(listed, Mapping):
        raise InputError(
            f"{path}: field {number + 1} names no catalogues; write 'catalogues: {{LABEL: FILE}}'."
        )
    _known(entry, ENTRIES, f"{path}: field {number + 1}")
    image = entry.get("image")
    if image is None:
        return [_files(entry, path.parent, None, f"field {number + 1}", "")]
    pattern = str(path.parent / str(image))
    images = sorted(glob.glob(pattern)) if glob.has_magic(str(image)) else [pattern]
    if not images:
        raise InputError(f"{path}: there is no image {pattern}; correct field {number + 1}.")
    made = []
    for file in map(Path, images):
        stem = file.name
        for suffix in SUFFIXES:
            stem = stem.removesuffix(suffix)
        made.append(_files(entry, path.parent, file, file.name.removesuffix(".gz"), stem))
    return made


def _files(
    entry: Mapping[str, Any], folder: Path, image: Path | None, name: str, stem: str
) -> FieldFiles:
    def file(value: Any) -> Path | None:
        return None if value is None else folder / str(value).replace(PLACE, stem)

    catalogues = {str(k): folder / str(v).replace(PLACE, stem)
                  for k, v in entry.get("catalogues", {}).items()}  # fmt: skip
    others = {key: file(entry.get(key)) for key in ("truth", "deep", "rms")}
    return FieldFiles(name, catalogues, image, **others)
