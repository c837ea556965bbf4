"""Survey catalogues as HATS: Parquet files cut by HEALPix pixels, for billions of rows.

HATS (Hierarchical Adaptive Tiling Scheme) is written by ``hats-import``, in partitions, and read
by ``lsdb``. Every table becomes a collection: the rows, and as a margin those near the borders of
each partition, so that crossmatches miss nothing there.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.core.formats import catalogue_files
from cyclades.stages.core.schema import TABLES

ROWS = 1_000_000
"""Rows of a partition at most."""
MARGIN = 10.0
"""Arcsec around a partition in which rows of its neighbours are kept with it."""
ORDER = 7
"""HEALPix order of the smallest partitions: 27 arcmin. hats-import goes through all pixels of this
order on the whole sky, four times as many for each further one (8 s at 9)."""
SURVEY = "survey.catalogue"


def find_catalogue(path: Path) -> Path:
    """Return the catalogue that a path stands for: itself, or that of the batch in a folder.

    Raises
    ------
    InputError
        Where there is none.
    """
    if not path.is_dir():
        if path.is_file():
            return path
        raise InputError(
            f"{path}: there is no such catalogue; name a file, or the folder of a batch."
        )
    for extension in ("parquet", "fits"):
        found = path / f"{SURVEY}.{extension}"
        if found.is_file():
            return found
    raise InputError(f"{path} holds no {SURVEY}.parquet or .fits; name the --output of a batch.")


def write_hats(
    catalogue: str | Path,
    output: str | Path,
    *,
    tables: Sequence[str] = ("components", "sources"),
    rows: int = ROWS,
    margin: float = MARGIN,
    order: int = ORDER,
    workers: int = 1,
) -> list[Path]:
    """Write tables of a catalogue as HATS collections.

    Parameters
    ----------
    catalogue : path
        A catalogue, or the folder of a batch. Parquet files are read in parts; those of other
        formats have to fit into memory.
    output : path
        Folder; each table becomes the collection of its name in it.
    tables : sequence of str
        Of ``components``, ``sources``, ``islands``.
    rows : int
        Of a partition at most.
    margin : float
        Arcsec around each partition.
    order : int
        HEALPix order of the smallest partitions.
    workers : int
        Processes; 1 works in this one.

    Returns
    -------
    list of Path
        The collections. Each appears whole or not at all.

    Raises
    ------
    ConfigurationError
        Where hats-import is not installed, for an unknown table, or where the smallest partitions
        would hold more rows.
    InputError
        Where the catalogue cannot be read, or has no sky coordinates.
    OutputError
        Where a collection is there already, or cannot be written.
    """
    try:
        import distributed
        from hats_import.collection.arguments import CollectionArguments
        from hats_import.pipeline import pipeline_with_client
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"HATS needs the package {error.name!r}; install cyclades[hats]."
        ) from error
    start: Any = distributed.Client  # which has no types
    unknown = [name for name in tables if name not in TABLES]
    if unknown or not tables:
        raise ConfigurationError(
            f"A catalogue has no table {unknown[0] if unknown else ''!r}; choose from "
            f"{', '.join(TABLES)}."
        )
    source, output = find_catalogue(Path(catalogue)), Path(output)
    for name in tables:
        if (output / name).exists():
            raise OutputError(
                f"{output / name} exists already; remove it or choose another --output."
            )
    made = []
    with _scratch(output) as scratch:
        files = _parquet(source, scratch)
        with (
            _quiet(),
            start(
                n_workers=workers, threads_per_worker=1, processes=workers > 1,
                local_directory=str(scratch), dashboard_address=None,
            ) as client,
        ):  # fmt: skip
            for name in tables:
                _check(files[name])
                about: Any = CollectionArguments(
                    output_path=scratch, output_artifact_name=name, progress_bar=False,
                    tmp_dir=scratch / "tmp", addl_hats_properties={"obs_regime": "Radio"},
                )  # fmt: skip
                about.catalog(
                    input_file_list=[files[name]], file_reader="parquet", sort_columns="name",
                    use_schema_file=files[name], pixel_threshold=rows, catalog_type="object",
                    highest_healpix_order=order,
                )  # fmt: skip
                about.add_margin(margin_threshold=margin, is_default=True)
                try:
                    pipeline_with_client(about, client)
                except OSError as error:
                    raise OutputError(
                        f"{output / name} cannot be written ({error.strerror or error}); make room "
                        "or choose another --output."
                    ) from error
                except ValueError as error:
                    if "exceeds threshold" not in str(error):
                        raise
                    raise ConfigurationError(
                        f"A HEALPix pixel of order {order} holds more than {rows} {name}; allow "
                        "more --rows or a higher --order."
                    ) from error
                os.replace(scratch / name, output / name)
                made.append(output / name)
    return made


def _parquet(source: Path, scratch: Path) -> dict[str, Path]:
    """Parquet files of the tables: those of the catalogue, or made of it."""
    if source.suffix == ".parquet":
        files = catalogue_files(source, "parquet")
        for file in files.values():
            if not file.is_file():
                raise InputError(f"{file} is missing; {source} is not a whole catalogue.")
        return files
    made = scratch / "catalogue.parquet"
    read_catalogue(source).write(made, "parquet")
    return catalogue_files(made, "parquet")


def _check(file: Path) -> None:
    """Refuse a table that cannot be put on the sky."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as held:
            names, number = held.schema_arrow.names, held.metadata.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file} cannot be read as Parquet; check the file.") from error
    if not {"ra", "dec"} <= set(names):
        raise InputError(f"{file} has no columns ra and dec: HATS cuts the sky.")
    if not number:
        raise InputError(f"{file} has no rows, of which no HATS catalogue can be made.")


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder beside the results, on the same disk, which goes whatever happens."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".hats.", suffix=".partial", dir=output))
    except OSError as error:
        raise OutputError(
            f"The output directory {output} cannot be written to ({error.strerror}); choose "
            "another with --output."
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of Dask on its own workers from the terminal."""
    loggers: list[Any] = [logging.getLogger(f"distributed{part}") for part in ("", ".worker")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
