"""Leads a batch: which images are still to be done, what becomes of each, and who tries again."""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cyclades.pipeline.provenance import describe_file
from cyclades.pipeline.survey.engines import Engine, LostConnectionError, LostWorkerError
from cyclades.pipeline.survey.fields import UNFIT, FieldOutcome, fingerprint
from cyclades.pipeline.survey.inputs import stems
from cyclades.pipeline.survey.journal import DONE, FAILED, RUNNING, Entry, Journal
from cyclades.pipeline.survey.work import FIELDS, LOGS, ROWS, Task, Work
from cyclades.stages.core.errors import ConfigurationError, OutputError

logger = logging.getLogger("cyclades.pipeline")
ATTEMPTS = 3
"""How often an image is tried whose worker is lost or short of memory."""
AGAIN = ("lost", "memory")
"""What may go well another time."""
PATIENCE = 1.0
"""Seconds between looks at the workers."""

Told = Callable[[Entry], None]


def prepare(work: Work) -> None:
    """Make the folders of a batch and remove what a killed one left half-written.

    Raises
    ------
    OutputError
        Where they cannot be made.
    """
    try:
        for name in (FIELDS, LOGS, ROWS):
            (work.folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The output directory {work.folder} cannot be written to ({error.strerror}); "
            "choose another with --output."
        ) from error
    sweep(work.folder)


def sweep(folder: Path) -> None:
    """Remove temporary files of workers that were killed."""
    for place in (folder, folder / FIELDS, folder / ROWS):
        for path in [*place.glob(".*.partial"), *place.glob(".*.tmp*")]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def plan(
    journal: Journal,
    work: Work,
    images: Iterable[Path],
    *,
    force: bool = False,
    retry: bool = False,
) -> list[Task]:
    """Look which images are to be processed, and write them into the journal.

    An image is left out where it was done with the same configuration, version and files, and its
    file has the size and time of then, or the checksum; where it failed in the same way, too.

    Parameters
    ----------
    journal : Journal
    work : Work
    images : iterable of path
        Absolute.
    force : bool
        Process all of them.
    retry : bool
        Process those that failed, too.
    """
    journal.resume()
    images = list(images)
    named = stems(images, journal.stems())
    tasks, changed = [], []
    for image in images:
        entry = journal.entry(str(image))
        if entry is not None and not force:
            seen = _unchanged(work, entry, image)
            if seen is not None and (seen.state == DONE or not retry):
                if seen != entry:
                    changed.append(seen)
                continue
        changed.append(Entry(str(image), named[image]))
        tasks.append(Task(image, named[image]))
    journal.put(*changed)
    return tasks


def _unchanged(work: Work, entry: Entry, image: Path) -> Entry | None:
    """The row of an image that needs nothing to be done; None for another."""
    if entry.key != work.key or entry.state not in (DONE, FAILED):
        return None
    if entry.state == DONE and not _complete(work, entry):
        return None
    size, mtime = fingerprint(image)
    if (size, mtime) == (entry.size, entry.mtime):
        return entry
    if size != entry.size or not entry.sha256:
        return None
    try:
        same = describe_file(image)["sha256"] == entry.sha256
    except OSError:
        return None
    return replace(entry, mtime=mtime) if same else None


def _complete(work: Work, entry: Entry) -> bool:
    """Whether the catalogue and what the survey needs of an image are there in full length."""
    if not all((work.folder / FIELDS / name).exists() for name in entry.files[:1]):
        return False
    try:
        return all(
            (work.folder / name).stat().st_size == size
            for name, size in entry.facts.get("sizes", {}).items()
        )
    except OSError:
        return False


def lead(
    journal: Journal,
    work: Work,
    engine: Engine,
    tasks: Iterable[Task],
    *,
    attempts: int = ATTEMPTS,
    told: Told | None = None,
) -> None:
    """Have all tasks done, and write down what becomes of each.

    Parameters
    ----------
    journal : Journal
    work : Work
    engine : Engine
    tasks : iterable of Task
    attempts : int
        How often an image is tried whose worker is lost or short of memory.
    told : callable, optional
        Given the row of each image that is done or has failed.

    Raises
    ------
    OutputError
        Where the disk is full: what is under way is finished, the rest stays pending.
    ConfigurationError
        Where no worker is fit for the route.
    """
    waiting = deque(tasks)
    under_way: dict[Future[FieldOutcome], Task] = {}
    stopped = ""
    try:
        while waiting or under_way:
            while waiting and len(under_way) < engine.room:
                task = waiting.popleft()
                running = Entry(str(task.image), task.stem, RUNNING, attempts=task.attempt)
                journal.put(replace(running, key=work.key))
                under_way[engine.submit(task)] = task
            finished, _ = wait(under_way, PATIENCE, FIRST_COMPLETED)
            engine.poll()
            for future in finished:
                task = under_way.pop(future)
                outcome = _outcome(future, task)
                if outcome is None:
                    waiting.appendleft(task)
                    continue
                if outcome.kind == UNFIT:
                    logger.warning("%s", outcome.error)
                    if not engine.avoid(outcome.worker):
                        raise ConfigurationError(outcome.error)
                    waiting.appendleft(task)
                    continue
                if outcome.kind == "output":
                    stopped = outcome.error
                    waiting.clear()
                    continue
                if outcome.kind in AGAIN and task.attempt < attempts:
                    logger.warning(
                        "%s: attempt %d failed (%s); trying again",
                        task.image, task.attempt, outcome.error,
                    )  # fmt: skip
                    waiting.append(replace(task, attempt=task.attempt + 1))
                    continue
                entry = _entry(work, outcome)
                journal.put(entry)
                if told is not None:
                    told(entry)
    except BaseException:
        engine.close(now=True)
        with suppress(OutputError):
            journal.resume()
        sweep(work.folder)
        raise
    # nobody writes any more: what is left is of workers that were killed
    sweep(work.folder)
    if stopped:
        journal.resume()
        raise OutputError(stopped)


def _outcome(future: "Future[FieldOutcome]", task: Task) -> FieldOutcome | None:
    """What came of a task; None where it has to be given again through no fault of its own."""
    try:
        return future.result()
    except LostConnectionError:
        return None
    except LostWorkerError as error:
        return FieldOutcome(task, "lost", f"{task.image}: {error}.")
    except Exception as error:
        logger.exception("%s: unexpected error", task.image)
        return FieldOutcome(
            task,
            "defect",
            f"{task.image}: an unexpected {type(error).__name__} ({error}); this is a defect of "
            "cyclades, please report it with the lines above.",
        )


def _entry(work: Work, outcome: FieldOutcome) -> Entry:
    task = outcome.task
    size, mtime = outcome.size, outcome.mtime
    if not (size or mtime):  # the worker did not live to tell
        size, mtime = fingerprint(task.image)
    return Entry(
        str(task.image),
        task.stem,
        FAILED if outcome.error else DONE,
        size,
        mtime,
        outcome.sha256,
        work.key,
        task.attempt,
        outcome.worker,
        round(outcome.seconds, 3),
        outcome.kind,
        outcome.error,
        outcome.files,
        outcome.counts,
        outcome.facts,
    )
