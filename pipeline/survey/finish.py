"""Makes a survey of the fields that are done: one catalogue, coverage, depth, counts, quality."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.studies.files import written_whole
from cyclades.pipeline.survey.catalogue import flux_scale, survey_catalogue
from cyclades.pipeline.survey.depth import (
    counted_sources,
    snr_corrections,
    source_counts,
    survey_area,
)
from cyclades.pipeline.survey.facts import grid_file, moc_file
from cyclades.pipeline.survey.journal import DONE, Entry, Journal
from cyclades.pipeline.survey.merging import join, overlapping, read_components
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.quality import looks_of, quality
from cyclades.pipeline.survey.rows import FieldRows
from cyclades.pipeline.survey.streaming import StreamedCatalogue, stream_catalogue
from cyclades.pipeline.survey.strips import Extent, mark_rows, parts_of
from cyclades.pipeline.survey.work import ROWS, Work, digest
from cyclades.stages.core.errors import OutputError
from cyclades.stages.core.formats import FORMATS, catalogue_files, format_extension

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.comparison.counts import VisibilityArea
    from cyclades.stages.core.catalogue import Catalogue

logger = logging.getLogger("cyclades.pipeline")
SUMMARY = "summary.ecsv"
CATALOGUE = "survey.catalogue"
ROWS_IN_MEMORY = 1_000_000
"""Components of all fields that are held at once; see docs/survey.md for the memory they take."""
NOT_IN_A_CATALOGUE = ("moc",)


@dataclass(frozen=True, eq=False)
class Survey:
    """What the fields of a batch make together.

    Parameters
    ----------
    catalogue : Catalogue or StreamedCatalogue
        The second where it is larger than a part that is held in memory.
    depth, limits : VisibilityArea
        Area against noise, and against the faintest peak that is looked for.
    counts, corrections : Table or None
    quality : Table
        One row a field.
    fields : tuple of str
        Stems, in the order of the rows of `quality`.
    left_out : dict of str to str
        Stems of fields that are done but not part of it, and why.
    """

    catalogue: "Catalogue | StreamedCatalogue"
    depth: "VisibilityArea"
    limits: "VisibilityArea"
    counts: "Table | None"
    corrections: "Table | None"
    quality: "Table"
    fields: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows of each table."""
        if isinstance(self.catalogue, StreamedCatalogue):
            return self.catalogue.counts
        return {name: len(table) for name, table in self.catalogue.tables.items()}


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder for files on the way, beside the results, which goes whatever happens."""
    try:
        made = Path(tempfile.mkdtemp(prefix=".survey.", suffix=".partial", dir=folder))
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to ({error.strerror}); make room and give the same "
            "command again."
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def make_survey(
    work: Work, entries: Sequence[Entry], scratch: Path, *, rows: int = ROWS_IN_MEMORY
) -> Survey | None:
    """Join fields that are done.

    Parameters
    ----------
    work : Work
    entries : sequence of Entry
        Of fields that are done.
    scratch : Path
        Folder for files on the way.
    rows : int
        Components that are worked on at once; a survey of more is streamed to Parquet.

    Returns
    -------
    Survey or None
        None where no field has sky coordinates.

    Raises
    ------
    InputError
        Where the files of a field are missing or damaged.
    """
    folder = work.folder / ROWS
    left_out: dict[str, str] = {}
    chosen: list[Entry] = []
    scales: list[float] = []
    first: dict[str, Any] | None = None
    for entry in sorted(entries, key=lambda one: one.stem):
        if "area" not in entry.facts:
            left_out[entry.stem] = "it has no sky coordinates, or its noise map was not kept"
            continue
        meta = FieldRows(folder, entry.stem).about()["meta"]
        first = first or meta
        scale = flux_scale(meta, first)
        if scale is None:
            left_out[entry.stem] = f"its unit {meta.get('unit')!r} is not that of {chosen[0].stem}"
            continue
        chosen.append(entry)
        scales.append(scale)
    if not chosen:
        return None
    stems = [entry.stem for entry in chosen]
    fields = [FieldRows(folder, stem) for stem in stems]
    grids = [
        NoiseGrid.read(grid_file(folder, stem)).scaled(scale)
        for stem, scale in zip(stems, scales, strict=True)
    ]
    near = overlapping(grids)
    depth, limits = survey_area(grids, near)
    facts = [entry.facts for entry in chosen]
    facts = [
        {**one, "rms": one["rms"] * scale} if one.get("rms") is not None else one
        for one, scale in zip(facts, scales, strict=True)
    ]
    corrections = snr_corrections(facts)
    extent = Extent.of(fields)
    name = f"survey of {len(chosen)} fields"
    floors = {stem: one["limit"] for stem, one in zip(stems, facts, strict=True)}
    catalogue: Catalogue | StreamedCatalogue
    if extent.number <= rows:
        columns, owner = read_components(fields, scales)
        joined = join(columns, owner, grids, near)
        catalogue = survey_catalogue(fields, scales, joined, name)
        sources, looks = counted_sources(catalogue, floors), looks_of(joined, len(fields))
    else:
        marks = mark_rows(fields, scales, grids, near, extent, scratch, rows)
        part = parts_of(extent.seconds, rows)
        catalogue = stream_catalogue(fields, scales, marks, part, name, scratch, floors)
        sources, looks = catalogue.sources, marks.looks
    counts = source_counts(sources, limits, corrections, unit=(first or {}).get("unit"))
    table = quality(facts, looks, sources.peak, limits, grids)
    return Survey(catalogue, depth, limits, counts, corrections, table, tuple(stems), left_out)


def finish(
    journal: Journal,
    work: Work,
    images: Sequence[str] | None = None,
    *,
    force: bool = False,
    rows: int = ROWS_IN_MEMORY,
) -> list[Path]:
    """Write the summary table and the files of the survey of all images that are done.

    Parameters
    ----------
    journal : Journal
    work : Work
    images : sequence of str, optional
        The images that the survey is of; all that were done with this configuration otherwise.
    force : bool
        Write them also where nothing has changed since they were written.
    rows : int
        As for `make_survey`.

    Returns
    -------
    list of Path
        The files; each appears whole or not at all.

    Raises
    ------
    OutputError
        Where they cannot be written.
    """
    wanted = None if images is None else set(images)
    entries = [one for one in journal.entries() if wanted is None or one.image in wanted]
    done = [one for one in entries if one.state == DONE and one.key == work.key]
    state = digest(
        [work.key, [[one.stem, one.sha256] for one in done],
         [[one.image, one.state, one.error] for one in entries]]
    )  # fmt: skip
    listed = journal.about("survey_files")
    files = [work.folder / name for name in (listed or "").split("\n") if name]
    if not force and journal.about("survey") == state and all(one.exists() for one in files):
        return files
    with scratch_folder(work.folder) as scratch:
        survey = make_survey(work, done, scratch, rows=rows) if done else None
        for stem, reason in (survey.left_out if survey is not None else {}).items():
            logger.warning("%s is not part of the survey: %s", stem, reason)
        files = [_write(work.folder / SUMMARY, _ecsv(summary_table(entries, survey)))]
        if survey is not None:
            files += _write_survey(work, survey)
    # what an earlier call wrote in other formats is of an earlier survey
    for earlier in {work.folder / name for name in (listed or "").split("\n") if name} - {*files}:
        earlier.unlink(missing_ok=True)
    journal.note("survey_files", "\n".join(one.name for one in files))
    journal.note("survey", state)
    return files


def summary_table(entries: Sequence[Entry], survey: Survey | None) -> "Table":
    """One row an image: what became of it, and the figures of its field."""
    from astropy.table import Table

    made = Table(
        {
            "field": [one.stem for one in entries],
            "image": [one.image for one in entries],
            "state": [one.state for one in entries],
            "attempts": [one.attempts for one in entries],
            "seconds": [one.seconds for one in entries],
            "worker": [one.worker for one in entries],
            "sha256": [one.sha256 for one in entries],
        },
        units={"seconds": "s"},
        dtype=[str, str, str, int, float, str, str],
    )
    for name in ("components", "sources", "edge"):
        made[name] = np.array([one.facts.get(name, 0) for one in entries], int)
    if survey is not None:
        place = {stem: row for row, stem in enumerate(survey.fields)}
        rows = np.array([place.get(one.stem, -1) for one in entries], int)
        known = rows >= 0
        for name in survey.quality.colnames:
            if name in made.colnames:
                continue
            held = survey.quality[name]
            values = np.asarray(held)[rows]
            if values.dtype.kind == "f":
                values = np.where(known, values, np.nan)
            elif values.dtype.kind in "iu":
                values = np.where(known, values, 0)
            else:
                values = np.where(known, values, "")
            made[name] = values
            made[name].unit = held.unit
    made["kind"] = np.array([one.kind for one in entries], str)
    made["error"] = np.array([one.error for one in entries], str)
    return made


def _write_survey(work: Work, survey: Survey) -> list[Path]:
    folder = work.folder
    files: list[Path] = []
    if isinstance(survey.catalogue, StreamedCatalogue):
        files += _place_parquet(folder, survey.catalogue)
    else:
        for kind in dict.fromkeys(["fits", *work.formats]):
            if kind in NOT_IN_A_CATALOGUE:
                continue
            path = folder / f"{CATALOGUE}.{format_extension(kind)}"
            survey.catalogue.write(path, kind)
            files += catalogue_files(path, kind).values()
    moc = coverage(work, survey.fields)
    files.append(
        _write(folder / "survey.moc.fits", lambda path: moc.save(str(path), format="fits"))
    )
    unit = survey.catalogue.meta.get("unit")
    area = survey.depth.table()
    area["limit"] = survey.limits.table()["rms"]
    for name in ("rms", "limit"):
        area[name].unit = unit
    files.append(_write(folder / "survey.area.ecsv", _ecsv(area)))
    for name in ("counts", "corrections"):
        table = getattr(survey, name)
        if table is not None:
            files.append(_write(folder / f"survey.{name}.ecsv", _ecsv(table)))
    from cyclades.pipeline.survey.figures import draw

    files.append(_write(folder / "survey.png", lambda path: draw(survey).savefig(path, dpi=110)))
    return files


def _place_parquet(folder: Path, catalogue: StreamedCatalogue) -> list[Path]:
    """Give the files of a streamed catalogue their names; remove one that fitted into memory."""
    for kind in FORMATS:
        if kind not in NOT_IN_A_CATALOGUE:
            for path in catalogue_files(
                folder / f"{CATALOGUE}.{format_extension(kind)}", kind
            ).values():
                path.unlink(missing_ok=True)
    placed = catalogue_files(folder / f"{CATALOGUE}.parquet", "parquet")
    for name, path in placed.items():
        os.replace(catalogue.files[name], path)
    logger.warning(
        "the survey's catalogue has %d components and is written as Parquet only: %s",
        catalogue.counts["components"], placed["components"],
    )  # fmt: skip
    return list(placed.values())


def coverage(work: Work, stems: Sequence[str]) -> Any:
    """Return the sky that fields cover together as a MOC."""
    from mocpy import MOC

    mocs = [MOC.load(str(moc_file(work.folder / ROWS, stem)), format="fits") for stem in stems]
    first, *others = mocs
    return first.union(*others) if others else first


def _ecsv(table: "Table") -> Callable[[Path], None]:
    return lambda path: table.write(path, format="ascii.ecsv", overwrite=True)


def _write(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file whole or not at all."""
    try:
        with written_whole(path) as temporary:
            write(temporary)
    except OutputError as error:
        raise OutputError(
            f"{str(error).removesuffix('.')}; make room and give the same command again."
        ) from error
    return path
