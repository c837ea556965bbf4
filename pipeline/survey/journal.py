"""The journal of a batch: one SQLite file that says what became of every image.

Only the process that leads the batch writes to it, one transaction an image, so that it is true
whenever that process is killed: an image is done when its files are there and its row says so.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cyclades.stages.core.errors import InputError, OutputError

PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"
STATES = (PENDING, RUNNING, DONE, FAILED)
VERSION = "1"
FILE = "journal.sqlite"


@dataclass(frozen=True)
class Entry:
    """The row of an image.

    Parameters
    ----------
    image : str
        Absolute path.
    stem : str
        First part of the names of its files; no two images share one.
    state : str
        ``pending``, ``running``, ``done`` or ``failed``.
    size, mtime : int
        Bytes, and nanoseconds of the last change, of the file that was processed.
    sha256 : str
        Checksum of that file.
    key : str
        Hash of the configuration that it was processed with.
    attempts : int
        How often it was given to a worker since it was last pending by its own fault.
    worker : str
        Host and process that had it last.
    seconds : float
        Wall time of the last attempt.
    kind, error : str
        What went wrong: ``input``, ``memory``, ``lost`` (the worker died) or ``defect``, and the
        sentence.
    files : tuple of str
        Names in the folder of fields, the catalogue first.
    counts : dict of str to int
    facts : dict
        Figures of the field; see `cyclades.pipeline.survey.facts`.
    """

    image: str
    stem: str
    state: str = PENDING
    size: int = 0
    mtime: int = 0
    sha256: str = ""
    key: str = ""
    attempts: int = 0
    worker: str = ""
    seconds: float = 0.0
    kind: str = ""
    error: str = ""
    files: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


_COLUMNS = tuple(one.name for one in fields(Entry))
_JSON = ("files", "counts", "facts")
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    image TEXT PRIMARY KEY, stem TEXT NOT NULL UNIQUE, state TEXT NOT NULL, size INTEGER NOT NULL,
    mtime INTEGER NOT NULL, sha256 TEXT NOT NULL, key TEXT NOT NULL, attempts INTEGER NOT NULL,
    worker TEXT NOT NULL, seconds REAL NOT NULL, kind TEXT NOT NULL, error TEXT NOT NULL,
    files TEXT NOT NULL, counts TEXT NOT NULL, facts TEXT NOT NULL
);
"""


class Journal:
    """What became of every image of a batch, in a file.

    Parameters
    ----------
    folder : path
        Of the batch; the file `journal.sqlite` is made in it where it is missing.

    Raises
    ------
    InputError
        Where the file is no journal, or one of another version.
    OutputError
        Where it cannot be written, or another batch is at work in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = _lock(folder)
        try:
            self._base = sqlite3.connect(self.path, timeout=10.0, isolation_level=None)
            # Readers may look while a batch runs; where a file system cannot do that (some of
            # clusters), SQLite keeps its rollback journal by itself.
            with suppress(sqlite3.OperationalError):
                self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            with self._changing():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._base.execute(statement)
            self._check_version()
        except sqlite3.DatabaseError as error:
            self.close()
            raise self._wrong(error) from error
        except BaseException:
            self.close()
            raise

    def _check_version(self) -> None:
        found = self.about("version")
        if found is None:
            self.note("version", VERSION)
        elif found != VERSION:
            raise InputError(
                f"{self.path} was written by another version of cyclades; choose another --output."
            )

    def _wrong(self, error: sqlite3.Error) -> InputError | OutputError:
        text = str(error)
        if "not a database" in text or "malformed" in text:
            return InputError(
                f"{self.path} is no journal of cyclades ({text}); choose another --output, or "
                "remove it to begin anew."
            )
        return OutputError(
            f"{self.path} cannot be written ({text}); make room or choose another --output, and "
            "give the same command again."
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction."""
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._wrong(error) from error
            raise

    def close(self) -> None:
        """Close the file and let others work in the folder."""
        base = getattr(self, "_base", None)
        if base is not None:
            with suppress(sqlite3.Error):
                base.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def about(self, name: str) -> str | None:
        """Return a fact of the whole batch, None where it was never noted."""
        row = self._base.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Keep a fact of the whole batch."""
        with self._changing():
            self._base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def put(self, *entries: Entry) -> None:
        """Write rows, in place of those of the same images, in one transaction."""
        marks = ", ".join("?" * len(_COLUMNS))
        with self._changing():
            self._base.executemany(
                f"INSERT OR REPLACE INTO images ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [_stored(entry) for entry in entries],
            )

    def entry(self, image: str) -> Entry | None:
        """Return the row of an image."""
        found = self._select("WHERE image = ?", (image,))
        return next(found, None)

    def entries(self, *states: str) -> Iterator[Entry]:
        """Rows in the order of their stems, of some states or all."""
        marks = ", ".join("?" * len(states))
        return self._select(
            f"{f'WHERE state IN ({marks}) ' if states else ''}ORDER BY stem", states
        )

    def counts(self) -> dict[str, int]:
        """Number of images in each state."""
        found = dict(self._base.execute("SELECT state, COUNT(*) FROM images GROUP BY state"))
        return {state: int(found.get(state, 0)) for state in STATES}

    def stems(self) -> dict[str, str]:
        """The image of every stem."""
        return dict(self._base.execute("SELECT stem, image FROM images"))

    def resume(self) -> int:
        """Make what was running when the process was killed pending again; return how many."""
        with self._changing():
            done = self._base.execute(
                "UPDATE images SET state = ?, attempts = 0 WHERE state = ?", (PENDING, RUNNING)
            )
        return int(done.rowcount)

    def _select(self, condition: str, values: Iterable[str]) -> Iterator[Entry]:
        rows = self._base.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM images {condition}", tuple(values)
        )
        return (_restored(dict(zip(_COLUMNS, row, strict=True))) for row in rows)


def read_entries(folder: Path) -> list[Entry]:
    """Rows of the journal of a folder, also while a batch is at work there.

    Raises
    ------
    InputError
        Where there is no journal.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no journal; give the --output of a batch.")
    base = sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=10.0)
    try:
        rows = base.execute(f"SELECT {', '.join(_COLUMNS)} FROM images ORDER BY stem").fetchall()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} cannot be read as a journal ({error}).") from error
    finally:
        base.close()
    return [_restored(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _stored(entry: Entry) -> tuple[Any, ...]:
    values = ((name, getattr(entry, name)) for name in _COLUMNS)
    return tuple(json.dumps(value) if name in _JSON else value for name, value in values)


def _restored(row: Mapping[str, Any]) -> Entry:
    values = {name: json.loads(v) if name in _JSON else v for name, v in row.items()}
    return Entry(**{**values, "files": tuple(values["files"])})


def _lock(folder: Path) -> Any:
    """Hold the folder, so that two batches never write the same files; None where that fails.

    The lock goes with the process, however that ends.
    """
    path = folder / f".{FILE}.lock"
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows
        return None
    try:
        held = path.open("w")
    except OSError as error:
        raise OutputError(
            f"The output directory {folder} cannot be written to ({error.strerror}); "
            "choose another with --output."
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise OutputError(
            f"Another batch is at work in {folder}; wait for it or choose another --output."
        ) from None
    except OSError:  # a file system without locks
        return held
    return held
