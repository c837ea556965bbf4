"""The catalogue of a survey that is larger than memory: written part by part, as Parquet.

Rows, numbers and names are those of `cyclades.pipeline.survey.catalogue.survey_catalogue`. The kept
rows of every field go into files of parts of right ascension; each part is put in order and
numbered, then referred to the numbers of the other tables, named and written as one row group.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.survey.catalogue import (
    ID_COLUMNS,
    SEEN,
    acronym,
    kept_rows,
    named_anew,
    sharpest_beam,
    survey_meta,
)
from cyclades.pipeline.survey.depth import Sources, counted_rows
from cyclades.pipeline.survey.rows import FieldRows, described, stored, values
from cyclades.pipeline.survey.strips import Marks, second
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.formats import arrow_table, catalogue_files
from cyclades.stages.core.naming import sky_order
from cyclades.stages.core.products import Integers
from cyclades.stages.core.schema import TABLES, column
from cyclades.stages.core.tables import add_column, rebuild_table, replace_values

if TYPE_CHECKING:
    import pyarrow
    from astropy.table import QTable

_OWNER = "owner of the row"
_SPARE = 4
"""Characters by which a name of another part may be longer."""


@dataclass
class _Table:
    """One of the three tables on its way.

    Parameters
    ----------
    name : str
    schema : pyarrow.Schema
        Of the rows of all fields, with their owner and `SEEN`.
    columns : dict
        Descriptions.
    files : dict of int to Path
        Of each part.
    bases : ndarray of int
        What is added to the numbers of rows of each field, so that they are different.
    numbers : ndarray of int
        The survey's number of each row that is kept, by these; on disk.
    """

    name: str
    schema: "pyarrow.Schema"
    columns: dict[str, Any]
    folder: Path
    bases: Integers
    parts: set[int] = field(default_factory=set)
    beam: float = np.nan
    prefix: str = ""
    rows: int = 0
    widths: dict[str, int] = field(default_factory=dict)
    numbers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, np.int32))

    def file(self, part: int) -> Path:
        """Rows of a part."""
        return self.folder / f"{self.name}{part}.arrow"

    def scatter(
        self, owner: int, picked: "pyarrow.Table", seen: Mapping[str, Integers], part: Integers
    ) -> None:
        """Append rows of a field to the files of their parts."""
        import pyarrow
        from pyarrow import compute

        if not picked.num_rows:
            return
        for one in picked.schema:
            if pyarrow.types.is_string(one.type) and one.name != "name":
                width = compute.max(compute.utf8_length(picked.column(one.name))).as_py()
                self.widths[one.name] = max(self.widths.get(one.name, 1), width or 1)
        held = picked.replace_schema_metadata(None)
        added = {_OWNER: np.full(picked.num_rows, owner, np.int32), **seen}
        for name, amounts in added.items():
            held = held.append_column(name, pyarrow.array(amounts))
        beam = sharpest_beam(
            {n: values(held, n) for n in ("psf_major", "psf_minor") if n in held.column_names}
        )
        self.beam = float(np.fmin(self.beam, beam))
        held = pyarrow.concat_tables(
            [self.schema.empty_table(), held], promote_options="default"
        ).select(self.schema.names)
        of = part[second(values(picked, "ra").astype(float))]
        for place in np.unique(of).tolist():
            self.parts.add(place)
            self._append(self.file(place), held.filter(pyarrow.array(of == place)))

    @staticmethod
    def _append(path: Path, rows: "pyarrow.Table", mode: str = "ab") -> None:
        import pyarrow

        with path.open(mode) as file, pyarrow.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows)

    def read(self, part: int) -> "pyarrow.Table":
        """Rows of a part."""
        import pyarrow

        path, found = self.file(part), []
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while file.tell() < size:
                with pyarrow.ipc.open_stream(file) as stream:
                    found.append(stream.read_all())
        return pyarrow.concat_tables(found).combine_chunks()

    def order(self) -> None:
        """Put every part in sky order, and number all rows."""
        for part in sorted(self.parts):
            rows = self.read(part)
            ids, owner = (values(rows, n) for n in (ID_COLUMNS[self.name], _OWNER))
            keys = [values(rows, name) for name in ("ra", "dec", "peak_flux")]
            order = sky_order(*keys, owner, ids)
            if not self.rows:
                self.prefix = acronym(str(rows.column("name")[int(order[0])].as_py()))
            key = self.bases[owner[order]] + ids[order]
            self.numbers[key] = self.rows + 1 + np.arange(len(order))
            self.rows += len(order)
            self._append(self.file(part), rows.take(order), "wb")


def _tables(fields: Sequence[FieldRows], folder: Path) -> tuple[dict[str, _Table], dict[str, Any]]:
    """Columns of the tables of all fields, and the metadata of the first one."""
    import pyarrow

    made: dict[str, _Table] = {}
    meta: dict[str, Any] = {}
    for table in TABLES:
        columns: dict[str, Any] = {}
        schemas, largest = [], []
        for one in fields:
            schema = one.schema(table)
            facts = described(schema)
            columns = facts["columns"] | columns
            meta = meta or facts["meta"]
            schemas.append(schema.remove_metadata())
            ids = values(one.table(table, [ID_COLUMNS[table]]), ID_COLUMNS[table])
            largest.append(int(ids.max(initial=0)) + 1)
        added = [(_OWNER, pyarrow.int32()), *((name, pyarrow.int64()) for name in SEEN)]
        whole = pyarrow.unify_schemas([*schemas, pyarrow.schema(added)])
        bases = np.concatenate([[0], np.cumsum(largest)])
        made[table] = _Table(table, whole, columns, folder, bases)
        made[table].numbers = np.memmap(
            folder / f"{table}.numbers", np.int32, "w+", shape=(int(bases[-1]) + 1,)
        )
    return made, meta


@dataclass(frozen=True, eq=False)
class StreamedCatalogue:
    """A survey's catalogue in Parquet files.

    Parameters
    ----------
    files : dict of str to Path
        By table.
    counts : dict of str to int
        Rows, by table.
    meta : dict
    sources : Sources
        As they count; 24 bytes each in memory.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    meta: dict[str, Any]
    sources: Sources


def stream_catalogue(
    fields: Sequence[FieldRows],
    scales: Sequence[float],
    marks: Marks,
    part: Integers,
    name: str,
    folder: Path,
    limits: Mapping[str, float],
) -> StreamedCatalogue:
    """Write the catalogue of a survey.

    Parameters
    ----------
    fields : sequence of FieldRows
    scales : sequence of float
        Factors of `flux_scale`.
    marks : Marks
    part : ndarray of int, shape (86400,)
        Part of each second of right ascension.
    name : str
        What stands for the image in the metadata.
    folder : Path
        For the files, and others on the way.
    limits : mapping of str to float
        Peak S/N above which sources were looked for in each field.
    """
    tables, meta = _tables(fields, folder)
    for owner, (one, scale) in enumerate(zip(fields, scales, strict=True)):
        rows = slice(marks.starts[owner], marks.starts[owner + 1])
        seen = {mark: np.asarray(getattr(marks, mark)[rows], np.int64) for mark in SEEN}
        kept = np.asarray(marks.kept[rows])
        for table, _, picked, found in kept_rows(one, scale, kept, seen):
            tables[table].scatter(owner, picked, found, part)
    for one_table in tables.values():
        one_table.order()
    about = survey_meta(meta, name)
    files = catalogue_files(folder / "catalogue.parquet", "parquet")
    stems = np.array([one.stem for one in fields], str)
    brightest = np.full(tables["islands"].rows + 1, -np.inf)
    for rows in _written(tables, "islands", stems, about, files["islands"]):
        peak = rows["peak_flux"]
        brightest[np.asarray(rows["island_id"])] = np.asarray(getattr(peak, "value", peak), float)
    counted = [
        counted_rows(rows, brightest, limits)
        for rows in _written(tables, "sources", stems, about, files["sources"])
        if len(rows)
    ]
    for _ in _written(tables, "components", stems, about, files["components"]):
        pass
    sources = Sources(
        *(
            np.concatenate([getattr(c, n) for c in counted] or [np.zeros(0)])
            for n in Sources._fields
        )
    )
    return StreamedCatalogue(files, {n: one.rows for n, one in tables.items()}, about, sources)


def _written(
    tables: Mapping[str, _Table],
    name: str,
    stems: NDArray[np.str_],
    meta: dict[str, Any],
    path: Path,
) -> "Iterator[QTable]":
    """Write a table part by part, and yield each as it was written."""
    from pyarrow import parquet

    writer = None
    try:
        parts: list[int | None] = [*sorted(tables[name].parts)]
        for part in parts or [None]:
            made = _final(tables, name, part, stems)
            if writer is None:
                widths = tables[name].widths | {"field": stems.itemsize // 4}
                schema = _schema(made, widths, meta, path.parent)
                writer = parquet.ParquetWriter(path, schema)
            writer.write_table(arrow_table(made).cast(schema))
            yield made
    finally:
        if writer is not None:
            writer.close()


def _final(
    tables: Mapping[str, _Table], name: str, part: int | None, stems: NDArray[np.str_]
) -> "QTable":
    """Rows of a part as they stand in the catalogue; of a table without rows, none."""
    table = tables[name]
    rows = table.schema.empty_table() if part is None else table.read(part)
    if part is not None:
        table.file(part).unlink()
    owner = values(rows, _OWNER)
    added = {"field": stems[owner], **{one: values(rows, one) for one in SEEN}}
    made = rebuild_table(name, stored(rows.drop_columns([_OWNER, *SEEN]), table.columns))
    for one, held in added.items():
        add_column(made, column(name, one), held, None)
    for other, one in ID_COLUMNS.items():
        if one in made.colnames:
            key = tables[other].bases[owner] + np.asarray(made[one], np.int64)
            replace_values(made, one, np.asarray(tables[other].numbers[key]))
    if len(made):
        replace_values(made, "name", named_anew(made, table.prefix, table.beam))
    return made


def _schema(
    table: "QTable", widths: Mapping[str, int], meta: dict[str, Any], folder: Path
) -> "pyarrow.Schema":
    """Columns and metadata as astropy writes and reads them."""
    import pyarrow
    from pyarrow import parquet

    path = folder / "schema.parquet"
    Catalogue(table, table[:0], table[:0], meta).write(path, "parquet")
    schema = parquet.read_schema(path)
    about = dict(schema.metadata)
    for one in table.colnames:
        key = f"table::len::{one}".encode()
        if key in about:
            about[key] = str(widths.get(one, int(about[key]) + _SPARE)).encode()
    return pyarrow.schema(schema, metadata=about)
