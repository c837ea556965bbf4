"""Workers of a Dask cluster, of any kind: a running scheduler, or a queue of a computing centre."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from cyclades.pipeline.options import Options
from cyclades.pipeline.survey.engines import Engine, LostConnectionError, LostWorkerError
from cyclades.pipeline.survey.fields import UNFIT, FieldOutcome, process
from cyclades.pipeline.survey.work import Task, Work
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.registry import suggestion

logger = logging.getLogger("cyclades.pipeline")
CLASSES = {
    "local": "distributed:LocalCluster",
    "slurm": "dask_jobqueue:SLURMCluster",
    "pbs": "dask_jobqueue:PBSCluster",
    "sge": "dask_jobqueue:SGECluster",
    "lsf": "dask_jobqueue:LSFCluster",
    "moab": "dask_jobqueue:MoabCluster",
    "oar": "dask_jobqueue:OARCluster",
    "htcondor": "dask_jobqueue:HTCondorCluster",
}
AHEAD = 2
"""Tasks a worker is given at a time, so that none waits for the next."""
CONNECTING = 10.0
"""Seconds that one attempt to reach the scheduler may take."""
RETURNING = 60.0
"""Seconds in which a worker that was lost may come back, where all others are unfit."""
PATIENCE = 600.0
"""Seconds after which a scheduler that went away is given up."""


class ClusterOptions(Options):
    """A cluster, as its YAML file describes it.

    Parameters
    ----------
    cluster : str
        ``local``, ``slurm``, ``pbs``, ``sge``, ``lsf``, ``moab``, ``oar`` or ``htcondor``.
    jobs : int
        Jobs to ask the queue for (of ``local``: worker processes).
    options : dict
        Arguments of the class of `dask_jobqueue`, or of `distributed.LocalCluster`: queue,
        account, cores, memory, walltime, ...
    """

    cluster: str
    jobs: int = 1
    options: dict[str, Any] = Field(default_factory=dict)


def read_cluster(path: Path) -> ClusterOptions:
    """Read the file that describes a cluster.

    Raises
    ------
    ConfigurationError
        Where it cannot be read, or describes none that is known.
    """
    options = ClusterOptions.from_mapping(ClusterOptions.read_mapping(path), name=str(path))
    if options.cluster not in CLASSES:
        raise ConfigurationError(
            f"{path}: there is no kind of cluster {options.cluster!r}"
            f"{suggestion(options.cluster, list(CLASSES))}; choose one of {', '.join(CLASSES)}."
        )
    return options


def start_cluster(options: ClusterOptions) -> Any:
    """Start the scheduler of a cluster and ask for its workers, one thread each.

    Raises
    ------
    ConfigurationError
        Where the extra is not installed, or the class refuses an option.
    """
    from importlib import import_module

    module, _, name = CLASSES[options.cluster].partition(":")
    try:
        kind = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error) from error
    given = dict(options.options)
    if options.cluster == "local":
        given = {"threads_per_worker": 1, "dashboard_address": None, **given}
        given.setdefault("n_workers", options.jobs)
    else:
        # a process has one thread for images
        given.setdefault("processes", given.get("cores", 1))
    try:
        cluster = kind(**given)
        if options.cluster != "local":
            cluster.scale(jobs=options.jobs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"The cluster {options.cluster} cannot be started ({error}); change its options."
        ) from error
    return cluster


def missing(error: ModuleNotFoundError) -> ConfigurationError:
    """Say which extra to install."""
    return ConfigurationError(
        f"A Dask cluster needs the package {error.name!r}; install cyclades[distributed]."
    )


class DaskEngine(Engine):
    """Workers of a Dask cluster, through its executor.

    The scheduler gives a task whose worker died to another one, as often as its setting
    ``allowed-failures`` says. Where the scheduler itself goes away, tasks are given again once
    one answers at the same address.

    Parameters
    ----------
    work : Work
    address : str, optional
        Of a running scheduler.
    cluster : object, optional
        Of `start_cluster`; stopped with the engine.
    patience : float
        Seconds to wait for a scheduler that went away.

    Raises
    ------
    InputError
        Where no scheduler answers.
    ConfigurationError
        Where the extra is not installed.
    """

    name = "dask"

    def __init__(
        self,
        work: Work,
        address: str | None = None,
        cluster: Any = None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._work, self._address, self._cluster = work, address, cluster
        self._patience = patience
        self._unfit: set[str] = set()
        self._useful = False
        self._promises: dict[Future[FieldOutcome], tuple[Future[FieldOutcome], list[str]]] = {}
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise missing(error) from error
        kind: Any = distributed.Client  # which has no types
        self._make: Callable[[], Any] = lambda: kind(
            self._cluster if self._cluster is not None else self._address,
            timeout=CONNECTING,
            set_as_default=False,
        )
        try:
            self._client = self._make()
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address} ({error}); start one with "
                "'dask scheduler', and workers with 'dask worker ADDRESS --nthreads 1'."
            ) from error
        if self.dashboard:
            logger.info("what the workers do: %s", self.dashboard)

    @property
    def dashboard(self) -> str:
        """Address of the page that shows what the workers do; empty where there is none."""
        with suppress(Exception):
            services = self._client.scheduler_info(n_workers=0).get("services", {})
            return str(self._client.dashboard_link) if "dashboard" in services else ""
        return ""

    def _workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    @property
    def room(self) -> int:
        """Twice as many as there are workers."""
        try:
            return AHEAD * max(1, len(self._workers()))
        except Exception:  # the scheduler went away: `submit` waits for it
            return AHEAD

    def submit(self, task: Task) -> "Future[FieldOutcome]":
        """Give a task to the scheduler."""
        promise: Future[FieldOutcome] = Future()
        client = self._connected()
        allowed = self._fit() if self._unfit else []
        executor = client.get_executor(pure=False, workers=allowed or None, retries=0)
        inner = executor.submit(_on_worker, self._work, task)
        self._promises[promise] = inner, allowed

        def done(inner: "Future[FieldOutcome]") -> None:
            try:
                result = inner.result()
            except CancelledError:
                self._fail(promise, LostConnectionError("the scheduler went away"))
            except BaseException as error:
                self._fail(promise, _lost(error))
            else:
                if self._promises.pop(promise, None) is not None:
                    self._useful |= result.kind != UNFIT
                    promise.set_result(result)

        inner.add_done_callback(done)
        return promise

    def _fail(self, promise: "Future[FieldOutcome]", error: BaseException) -> None:
        if self._promises.pop(promise, None) is not None:
            promise.set_exception(error)

    def poll(self) -> None:
        """Give up what a scheduler had that is gone, or waits for workers that are."""
        if self._client.status != "running":
            for promise in list(self._promises):
                self._fail(promise, LostConnectionError("the scheduler went away"))
        if not self._unfit:
            return
        try:
            alive = self._workers()
        except Exception:  # the scheduler is going away
            return
        for promise, (inner, allowed) in list(self._promises.items()):
            # a worker that is started again has another address
            if allowed and not any(name in alive for name in allowed):
                self._fail(promise, LostConnectionError("its workers went away"))
                inner.cancel()

    def _connected(self) -> Any:
        """Return the client, after waiting for a scheduler that went away."""
        began, told = time.monotonic(), False
        while self._client.status != "running":
            if not told:
                logger.warning("The Dask scheduler went away; waiting for it to come back.")
                told = True
            if time.monotonic() - began > self._patience:
                raise InputError(
                    f"The Dask scheduler at {self._address} is gone; start it and give the same "
                    "command again."
                )
            with suppress(Exception):
                self._client.close(timeout=1)
            try:
                self._client = self._make()
                self._unfit.clear()
            except (OSError, TimeoutError, ValueError):
                time.sleep(1.0)
        return self._client

    def avoid(self, worker: str) -> bool:
        """Give no more tasks to a worker; False where no other is left."""
        self._unfit.add(worker)
        return bool(self._fit())

    def _fit(self) -> list[str]:
        """Workers that are not known to be unfit; one that was lost may be on its way back."""
        until = time.monotonic() + (RETURNING if self._useful else 0.0)
        while True:
            found = [name for name in self._workers() if name not in self._unfit]
            if found or time.monotonic() > until:
                return found
            time.sleep(0.5)

    def close(self, *, now: bool = False) -> None:
        """Leave the scheduler, and stop the cluster where it was started here."""
        self._promises.clear()
        with suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=10)
            self._cluster = None


def _lost(error: BaseException) -> BaseException:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return LostWorkerError("several workers died with it, killed or out of memory")
    return error


def _on_worker(work: Work, task: Task) -> FieldOutcome:
    """Process an image on a worker of the cluster, which is named by its address."""
    from distributed import get_worker

    return replace(process(work, task), worker=str(get_worker().address))
