"""Where the images of a batch are processed: in this process, or in processes of this machine.

Nothing here decides what runs when: a leader keeps as many tasks under way as an engine has
room for (`cyclades.pipeline.survey.running`). `cyclades.pipeline.survey.cluster` has the engine
for machines beyond this one.
"""

import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from cyclades.pipeline.devices import take_device
from cyclades.pipeline.survey.fields import FieldOutcome, process, release
from cyclades.pipeline.survey.work import Task, Work

ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
"""Set for worker processes before they import anything: each has one thread."""


class LostWorkerError(RuntimeError):
    """The worker that had a task is gone; what it was doing is not known to be at fault."""


class LostConnectionError(LostWorkerError):
    """The scheduler went away, and what the workers were doing with it."""


class Engine(ABC):
    """Runs tasks, each on one worker."""

    name: str

    @property
    @abstractmethod
    def room(self) -> int:
        """How many tasks are to be under way at a time."""

    @abstractmethod
    def submit(self, task: Task) -> "Future[FieldOutcome]":
        """Start a task. Its future raises `LostWorkerError` where its worker is gone."""

    def poll(self) -> None:  # noqa: B027
        """Look after the workers, about once a second."""

    def avoid(self, worker: str) -> bool:
        """Give no more tasks to a worker that is unfit; False where no other is left."""
        return False

    def close(self, *, now: bool = False) -> None:  # noqa: B027
        """Stop the workers, `now` also those that are at work."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(now=kind is not None)


class InProcess(Engine):
    """One image after another in this process."""

    name = "in process"
    room = 1

    def __init__(self, work: Work) -> None:
        self._work = work

    def submit(self, task: Task) -> "Future[FieldOutcome]":
        """Run a task at once."""
        future: Future[FieldOutcome] = Future()
        future.set_result(process(self._work, task))
        return future

    def close(self, *, now: bool = False) -> None:
        """Give back what this process was lent."""
        release()


class LocalProcesses(Engine):
    """Worker processes of this machine, one thread each.

    Every worker is a pool of its own with one process. So where a process dies, what it was
    doing is known, the others go on, and the next task starts it anew.

    Parameters
    ----------
    work : Work
    workers : int
    devices : sequence of str
        Devices of networks, handed out in turn: one worker a device where there are as many.
    """

    name = "processes"

    def __init__(self, work: Work, workers: int, devices: Sequence[str] = ()) -> None:
        self._work = work
        self._devices = [devices[i % len(devices)] if devices else "" for i in range(workers)]
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers
        self._broken: list[ProcessPoolExecutor] = []
        self._free = set(range(workers))

    @property
    def room(self) -> int:
        """As many as there are workers."""
        return len(self._pools)

    def submit(self, task: Task) -> "Future[FieldOutcome]":
        """Give a task to a worker that is free."""
        place = min(self._free)
        self._free.discard(place)
        promise: Future[FieldOutcome] = Future()

        def done(inner: "Future[FieldOutcome]") -> None:
            if inner.cancelled():
                promise.cancel()
                return
            error = inner.exception()
            if isinstance(error, BrokenProcessPool):
                self._drop(place)
                error = LostWorkerError("the worker process died, killed or out of memory")
            self._free.add(place)
            if error is not None:
                promise.set_exception(error)
            else:
                promise.set_result(inner.result())

        try:
            inner = self._pool(place).submit(process, self._work, task)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._drop(place)
            inner = self._pool(place).submit(process, self._work, task)
        inner.add_done_callback(done)
        return promise

    def _pool(self, place: int) -> ProcessPoolExecutor:
        pool = self._pools[place]
        if pool is None:
            # spawned: a copy of a process in which threads or a GPU are at work is not safe
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(1, context, _start, (self._devices[place],))
            with _environment(dict.fromkeys(ONE_THREAD, "1")):
                # processes start with the first task, in the environment of that moment
                pool.submit(os.getpid)
            self._pools[place] = pool
        return pool

    def _drop(self, place: int) -> None:
        """Take a pool whose process died out of use.

        From Python 3.12 on it holds its lock while it tells so, and wants it again when it is shut
        down or nobody refers to it any more. So it is kept, and shut down at the end.
        """
        pool, self._pools[place] = self._pools[place], None
        if pool is not None:
            self._broken.append(pool)

    def processes(self) -> list[int]:
        """Numbers of the worker processes."""
        made = []
        for pool in self._pools:
            held: dict[int, Any] = getattr(pool, "_processes", None) or {}
            made += list(held)
        return made

    def close(self, *, now: bool = False) -> None:
        """Stop the workers."""
        if now:
            for number in self.processes():
                with suppress(OSError):
                    os.kill(number, signal.SIGTERM)
        for pool in (*self._pools, *self._broken):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self._pools = [None] * len(self._pools)
        self._broken.clear()


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(device: str) -> None:
    """Begin a worker process."""
    # Ctrl-C reaches the whole group of processes; the leader decides what becomes of workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    take_device(device)
    threading.Thread(target=_end_with_leader, daemon=True).start()


def _end_with_leader() -> None:
    """End this process when the one that leads is killed, which tells nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
