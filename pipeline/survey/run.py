"""A whole batch from images to survey, and the service that waits for images."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cyclades.pipeline.products import prepare_directory
from cyclades.pipeline.survey.engines import Engine, InProcess, LocalProcesses
from cyclades.pipeline.survey.fields import fingerprint
from cyclades.pipeline.survey.finish import finish
from cyclades.pipeline.survey.inputs import folder_images
from cyclades.pipeline.survey.journal import Journal
from cyclades.pipeline.survey.running import ATTEMPTS, Told, lead, plan, prepare
from cyclades.pipeline.survey.work import Work
from cyclades.stages.core.errors import ConfigurationError

INTERVAL = 5.0


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Parameters
    ----------
    number : int
        Worker processes, one thread each; 1 works in this process.
    device : str
        ``cpu``; ``cuda`` for all GPUs, one worker each; or some, as ``cuda:0,cuda:2``.
    scheduler : str, optional
        Address of a Dask scheduler.
    cluster : path, optional
        YAML file that describes a cluster to start.
    """

    number: int = 1
    device: str = "cpu"
    scheduler: str | None = None
    cluster: Path | None = None

    def check(self) -> None:
        """Look at what can be told before anything is written.

        Raises
        ------
        ConfigurationError
            Where two ways are asked for, the file of the cluster cannot be used, or there is no
            such device here and no other machine is asked.
        """
        if self.scheduler is not None and self.cluster is not None:
            raise ConfigurationError("Give --scheduler or --cluster, not both.")
        if self.cluster is not None:
            from cyclades.pipeline.survey.cluster import read_cluster

            read_cluster(self.cluster)
        elif self.scheduler is None:
            gpus(self.device)

    @contextmanager
    def engine(self, work: Work) -> Iterator[Engine]:
        """Start them, and stop them at the end."""
        with self._engine(work) as engine:
            yield engine

    def _engine(self, work: Work) -> Engine:
        if self.scheduler is not None or self.cluster is not None:
            from cyclades.pipeline.survey.cluster import DaskEngine, read_cluster, start_cluster

            if self.cluster is None:
                return DaskEngine(work, self.scheduler)
            return DaskEngine(work, cluster=start_cluster(read_cluster(self.cluster)))
        devices = gpus(self.device)
        if devices:
            work = replace(work, device="cuda")
            return LocalProcesses(work, max(self.number, 1), devices)
        if self.number == 1:
            return InProcess(work)
        return LocalProcesses(work, self.number)


def gpus(device: str) -> list[str]:
    """Return the GPUs that a device stands for; none for the CPU.

    Raises
    ------
    ConfigurationError
        Where there is none, or torch is not installed.
    """
    names = [name.strip() for name in device.split(",") if name.strip()]
    if names == ["cpu"] or not names:
        return []
    wrong = [name for name in names if not re.fullmatch(r"cuda(:\d+)?", name)]
    if wrong:
        raise ConfigurationError(
            f"There is no device {wrong[0]!r}; give cpu, cuda for every GPU, or some as "
            "cuda:0,cuda:2."
        )
    if names != ["cuda"]:
        return names
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The device {device!r} needs torch; install cyclades[learned]."
        ) from error
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number:
        raise ConfigurationError(f"There is no GPU for the device {device!r}; use --device cpu.")
    return [f"cuda:{place}" for place in range(number)]


def run_survey(
    work: Work,
    images: Sequence[Path],
    workers: Workers | None = None,
    *,
    force: bool = False,
    retry: bool = False,
    attempts: int = ATTEMPTS,
    planned: Callable[[int, int], None] | None = None,
    told: Told | None = None,
) -> list[Path]:
    """Process images that are not done yet, and write what they make together.

    Parameters
    ----------
    work : Work
    images : sequence of path
        Absolute; see `cyclades.pipeline.survey.inputs.expand`.
    workers : Workers, optional
        By default this process.
    force, retry
        As for `cyclades.pipeline.survey.running.plan`.
    attempts : int
        How often an image is tried whose worker is lost.
    planned : callable, optional
        Told the number of images to be processed, and of all.
    told : callable, optional
        Given the journal's row of each image that is done or has failed.

    Returns
    -------
    list of Path
        The summary table and the files of the survey.

    Raises
    ------
    CycladesError
        For what concerns the batch and not an image; the same command goes on from there.
    """
    workers = Workers() if workers is None else workers
    workers.check()
    prepare_directory(work.folder)
    with Journal(work.folder) as journal:
        prepare(work)
        tasks = plan(journal, work, images, force=force, retry=retry)
        if planned is not None:
            planned(len(tasks), len(images))
        if tasks:
            with workers.engine(work) as engine:
                lead(journal, work, engine, tasks, attempts=attempts, told=told)
        return finish(journal, work, [str(image) for image in images])


def watch_folder(
    work: Work,
    folder: Path,
    workers: Workers | None = None,
    *,
    interval: float = INTERVAL,
    once: bool = False,
    attempts: int = ATTEMPTS,
    told: Told | None = None,
    finished: Callable[[list[Path]], None] | None = None,
) -> None:
    """Process the images of a folder as they arrive.

    A file is taken when its size and time stay the same between two looks; what is renamed into
    the folder is complete. Names that end in ``.part`` or start with a dot are left alone. An
    image that cannot be processed stays in the journal as failed, with its reason, and is tried
    again when its file changes.

    Parameters
    ----------
    work : Work
    folder : path
        Looked through with the folders below.
    workers : Workers, optional
    interval : float
        Seconds between looks.
    once : bool
        Stop when nothing is left to be done.
    attempts, told
        As for `run_survey`.
    finished : callable, optional
        Given the files of the survey whenever they were written anew.
    """
    workers = Workers() if workers is None else workers
    workers.check()
    prepare_directory(work.folder)
    with Journal(work.folder) as journal:
        prepare(work)
        with workers.engine(work) as engine:
            known: dict[Path, tuple[int, int]] = {}
            settled: dict[Path, tuple[int, int]] = {}
            before: str | None = journal.about("survey")
            while True:
                seen = {
                    image: fingerprint(image)
                    for image in folder_images(folder)
                    if work.folder not in image.parents
                }
                ready = [
                    image
                    for image, mark in seen.items()
                    if mark != (0, 0) and known.get(image) == mark and settled.get(image) != mark
                ]
                growing = [image for image, mark in seen.items() if known.get(image) != mark]
                known = seen
                if ready:
                    tasks = plan(journal, work, ready)
                    lead(journal, work, engine, tasks, attempts=attempts, told=told)
                    settled.update((image, seen[image]) for image in ready)
                if not growing:
                    files = finish(journal, work)
                    if journal.about("survey") != before and finished is not None:
                        finished(files)
                    before = journal.about("survey")
                    if once:
                        return
                time.sleep(interval)
