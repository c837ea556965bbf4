"""What a worker does: one image from the file to its products, with a log of its own."""

import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclades._version import __version__
from cyclades.pipeline.survey.work import FIELDS, LOGS, ROWS, Task, Work
from cyclades.stages.core.errors import CycladesError

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Result
    from cyclades.stages.core.context import Context

UNFIT = "unfit"
NETWORKS = ("detector", "classifier", "prompted", "measurer", "background")
"""Cached values that serve all images of a process."""


@dataclass(frozen=True)
class FieldOutcome:
    """What became of an image on a worker.

    Parameters
    ----------
    task : Task
    kind, error : str
        Empty where it was done. ``unfit``: the worker cannot do it, whatever the image; others
        as for `cyclades.pipeline.batch.Outcome`.
    size, mtime : int
        Of the image's file, before it was read.
    sha256, worker, seconds, files, counts, facts
        As for `cyclades.pipeline.survey.journal.Entry`.
    """

    task: Task
    kind: str = ""
    error: str = ""
    size: int = 0
    mtime: int = 0
    sha256: str = ""
    worker: str = ""
    seconds: float = 0.0
    files: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def worker_name() -> str:
    """Host and process, for the journal."""
    return f"{socket.gethostname()}:{os.getpid()}"


def process(work: Work, task: Task) -> FieldOutcome:
    """Run the route on one image and write its files; whatever goes wrong is in the outcome.

    Files appear under their names when they are complete, the catalogue last.
    """
    with _busy:
        return _process(work, task)


def _process(work: Work, task: Task) -> FieldOutcome:
    from cyclades.pipeline.batch import run_one
    from cyclades.pipeline.chain import Pipeline
    from cyclades.pipeline.provenance import describe_file

    start = time.perf_counter()
    reason = unfitness(work)
    if reason:
        return FieldOutcome(task, UNFIT, reason, worker=worker_name())
    size, mtime = fingerprint(task.image)
    facts: dict[str, Any] = {}
    found: dict[str, str] = {}
    context = _context(work.config.seed, work.device)

    def also(result: "Result") -> None:
        from cyclades.pipeline.survey.facts import collect

        found["sha256"] = str(result.provenance["input"].get("sha256", ""))
        facts.update(collect(result, work, task.stem, context))

    try:
        with _logged(work, task):
            outcome = run_one(
                Pipeline(work.config),
                task.image,
                work.folder / FIELDS,
                task.stem,
                formats=work.formats,
                products=work.products,
                columns=work.columns,
                context=context,
                also=also,
            )
    except OSError as error:
        message = (
            f"{work.folder} cannot be written to ({error.strerror or error}); make room and give "
            "the same command again."
        )
        return FieldOutcome(task, "output", message, size, mtime, worker=worker_name())
    finally:
        context.keep_only(*NETWORKS)
    if not outcome.error:
        from cyclades.pipeline.survey.facts import left_files

        # a power cut may leave the name of a file without its content
        names = [work.folder / FIELDS / outcome.files[0].name]
        names += left_files(work.folder / ROWS, task.stem, facts)
        facts["sizes"] = {str(name.relative_to(work.folder)): name.stat().st_size for name in names}
    if outcome.kind == "input" and not found:
        # so that it is known again, whatever the time of its file
        with suppress(OSError):
            found["sha256"] = describe_file(task.image)["sha256"]
    return FieldOutcome(
        task,
        outcome.kind,
        outcome.error,
        size,
        mtime,
        found.get("sha256", ""),
        worker_name(),
        time.perf_counter() - start,
        tuple(path.name for path in outcome.files),
        outcome.counts or {},
        facts,
    )


def fingerprint(image: Path) -> tuple[int, int]:
    """Size and time of the last change (nanoseconds) of a file; zeros where there is none."""
    try:
        status = image.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


_contexts: dict[tuple[int, str], "Context"] = {}


def _context(seed: int, device: str) -> "Context":
    """The context of this process: one thread, and networks loaded once."""
    from cyclades.stages.core.context import Context

    if (seed, device) not in _contexts:
        release()
        _contexts[seed, device] = Context(workers=1, seed=seed, device=device).__enter__()
    return _contexts[seed, device]


def release() -> None:
    """Give back the threads, and drop the networks, of this process."""
    while _contexts:
        _contexts.popitem()[1].close()


_judged: dict[tuple[str, str, str], str] = {}
_busy = threading.Lock()
"""Held while an image is processed: a process has one thread for them."""


def unfitness(work: Work) -> str:
    """Why this process cannot do the work, whatever the image; empty where it can.

    Looked at once a process: the version, the files that the route names, and whether every
    stage runs on a small image, which also loads networks and compiled code.
    """
    mark = (work.key, work.version, work.device)
    if mark not in _judged:
        _judged[mark] = _judge(work)
    return _judged[mark]


def _judge(work: Work) -> str:
    here = f"The worker {worker_name()}"
    if work.version != __version__:
        return f"{here} has cyclades {__version__}, not {work.version}; install the same."
    for name, size in work.files:
        try:
            there = Path(name).stat().st_size
        except OSError:
            return f"{here} lacks the file {name}; copy it there."
        if there != size:
            return f"{here} has another file {name}; copy it there anew."
    _limit_memory(work.memory)
    try:
        _rehearse(work)
    except CycladesError as error:
        return f"{here} cannot run the route: {error}"
    except ModuleNotFoundError as error:
        return f"{here} lacks the package {error.name!r}; install it."
    except MemoryError:
        return f"{here} has too little memory to start; raise --memory."
    return ""


def _rehearse(work: Work) -> None:
    """Run the route on a small image of a source on noise."""
    import numpy as np
    from astropy.wcs import WCS

    from cyclades.pipeline.chain import Pipeline
    from cyclades.stages.core.beam import PointSpread
    from cyclades.stages.core.geometry import covariance_from_shape
    from cyclades.stages.core.image import SkyImage

    y, x = np.mgrid[:64, :64]
    noise = np.random.default_rng(1).normal(size=(64, 64))
    data = noise + 50.0 * np.exp(-((x - 32.0) ** 2 + (y - 30.0) ** 2) / 8.0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---SIN", "DEC--SIN"], [-1 / 3600, 1 / 3600]
    beam = PointSpread(covariance_from_shape(4.7, 4.7, 0.0))
    image = SkyImage(data.astype(np.float32), wcs=wcs, psf=beam, name="rehearsal")
    pipeline = Pipeline(work.config)
    if work.config.background.name == "maps":  # which belong to one image
        pipeline = pipeline.replace(background="grid")
    context = _context(work.config.seed, work.device)
    logging.getLogger("cyclades").disabled = True
    try:
        pipeline.run(image, keep=False, context=context)
    finally:
        logging.getLogger("cyclades").disabled = False
        context.keep_only(*NETWORKS)


def _limit_memory(limit: int) -> None:
    """Make this process fail an allocation beyond a limit, in place of filling the machine."""
    if not limit or os.getpid() == _leader():
        return
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _leader() -> int:
    """Process that leads a batch and works in it too; it is not limited."""
    import multiprocessing

    return os.getpid() if multiprocessing.parent_process() is None else 0


@contextmanager
def _logged(work: Work, task: Task) -> Iterator[None]:
    """Send the log of cyclades and the warnings of libraries to the file of the field."""
    path = work.folder / LOGS / f"{task.stem}.log"
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, "w" if task.attempt == 1 else "a", "utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.handleError = _ignored  # type: ignore[method-assign]
    package, warned = logging.getLogger("cyclades"), logging.getLogger("py.warnings")
    level, propagates = package.level, warned.propagate
    levels = [(other, other.level) for other in package.handlers]
    # the terminal of the process that leads shows what it always does
    for other, own in levels:
        other.setLevel(max(own, level))
    package.setLevel(logging.INFO)
    shown = warnings.showwarning
    logging.captureWarnings(True)
    captured = warnings.showwarning is not shown
    warned.propagate = False
    for logger in (package, warned):
        logger.addHandler(handler)
    package.info("attempt %d of %s by %s", task.attempt, task.image, worker_name())
    try:
        yield
    except BaseException as error:  # interrupted: `run_one` deals with everything else
        package.info("stopped by %s", type(error).__name__)
        raise
    finally:
        for logger in (package, warned):
            logger.removeHandler(handler)
        if captured:  # others may have had warnings go to the log before
            logging.captureWarnings(False)
        warned.propagate = propagates
        package.setLevel(level)
        for other, own in levels:
            other.setLevel(own)
        handler.close()


def _ignored(record: logging.LogRecord) -> None:
    """A log that cannot be written, on a full disk, stops nothing."""
