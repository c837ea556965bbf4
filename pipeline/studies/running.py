"""Computes the cells of a study that are not there yet, on all devices, and reads the others."""

import logging
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cyclades.pipeline.devices import take_device
from cyclades.pipeline.options import Options
from cyclades.pipeline.studies.cells import Cell, Outcome, Store, grid, identity, key
from cyclades.pipeline.studies.options import StudyOptions
from cyclades.pipeline.studies.tasks.base import Task, Workshop
from cyclades.pipeline.studies.tasks.build import build_task
from cyclades.pipeline.studies.weights import lacking, weights_hash
from cyclades.stages.core.errors import CycladesError
from cyclades.stages.networks.specification import BackboneSpec

logger = logging.getLogger("cyclades.studies")
Told = Callable[[int, int, Any], None]


class Plan(ABC):
    """Cells of a grid, whatever they are, their keys, and why some cannot be computed.

    Attributes
    ----------
    options : Options
    folder : path
    keys : dict of cell to str
        Of the cells that can be computed, in the order of the grid.
    contents : dict of str to dict
        Identities by key.
    problems : dict of str to int
        Why cells cannot be computed, and how many.
    """

    options: Any
    folder: Path
    keys: dict[Any, str]
    contents: dict[str, dict[str, Any]]
    problems: dict[str, int]

    @classmethod
    @abstractmethod
    def plan(cls, options: Any, folder: Path) -> Self:
        """Look which cells there are to compute."""
        raise NotImplementedError

    @abstractmethod
    def compute(self, cell: Any, workshop: Workshop) -> Outcome:
        """Compute one cell."""
        raise NotImplementedError

    def preparations(self, cell: Any) -> Sequence[Hashable]:
        """Work that cells share and that has to be done once before them."""
        return ()

    def prepare(self, cell: Any, preparation: Any, workshop: Workshop) -> None:
        """Do what `preparations` named; nothing where it is done already."""
        raise NotImplementedError

    def add(self, cell: Any, content: dict[str, Any]) -> None:
        """Take up a cell that can be computed, with its identity."""
        name = self.keys[cell] = key(content)
        self.contents[name] = content

    def leave_out(self, reason: str) -> None:
        """Count a cell that cannot be computed."""
        self.problems[reason] = self.problems.get(reason, 0) + 1

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        """Cells that are there, in the order of the grid."""
        store = Store(self.folder)
        for cell, name in self.keys.items():
            found = store.read(name)
            if found is not None:
                yield cell, found

    def missing(self) -> list[Any]:
        """Cells that are to be computed; of those with the same key the first."""
        store = Store(self.folder)
        first = {name: cell for cell, name in reversed(self.keys.items())}
        return [
            cell
            for cell, name in self.keys.items()
            if first[name] == cell and store.read(name) is None
        ]


@dataclass(frozen=True, eq=False)
class Study(Plan):
    """The cells of a study of transfer learning.

    Parameters
    ----------
    options : StudyOptions
    folder : path
    tasks : dict of str to Task
    keys : dict of Cell to str
        Of the cells that can be computed, in the order of the grid.
    contents : dict of str to dict
        Identities by key.
    problems : dict of str to int
        Why cells cannot be computed, and how many.
    """

    options: StudyOptions
    folder: Path
    tasks: dict[str, Task]
    keys: dict[Cell, str]
    contents: dict[str, dict[str, Any]]
    problems: dict[str, int] = field(default_factory=dict)

    @classmethod
    def plan(cls, options: StudyOptions, folder: Path) -> "Study":
        """Look which cells there are to compute.

        Cells whose task lacks its data, or whose backbone lacks its weights, are left out.
        """
        tasks = {name: build_task(name, one) for name, one in options.tasks.items()}
        data: dict[tuple[str, str], dict[str, Any]] = {}
        without: dict[str, str] = {}
        for name, task in tasks.items():
            try:
                data |= {(name, mode): task.fingerprint(mode) for mode in options.modes}
            except CycladesError as error:
                without[name] = str(error)
        weightless = {name: lacking(spec) for name, spec in options.backbones.items()}
        made = cls(options, folder, tasks, {}, {})
        for cell in grid(options):
            reason = without.get(cell.task)
            if reason is None and cell.pretrained:
                reason = weightless[cell.backbone]
            if reason is not None:
                made.leave_out(reason)
                continue
            weights = weights_hash(options.backbones[cell.backbone]) if cell.pretrained else None
            made.add(cell, identity(cell, options, data[cell.task, cell.mode], weights))
        return made

    def backbone(self, cell: Cell) -> BackboneSpec:
        """Backbone of a cell, with weights only where it starts from them."""
        spec = self.options.backbones[cell.backbone]
        return spec if cell.pretrained else spec.model_copy(update={"weights": None})

    def compute(self, cell: Cell, workshop: Workshop) -> Outcome:
        """Train and judge a cell."""
        task = self.tasks[cell.task]
        return task.run(cell, self.backbone(cell), workshop, self.keys[cell])

    def preparations(self, cell: Cell) -> Sequence[Hashable]:
        """What the cell's task shares among cells."""
        return self.tasks[cell.task].preparations(cell, self.backbone(cell))

    def prepare(self, cell: Cell, preparation: Any, workshop: Workshop) -> None:
        """Do what the cell's task shares among cells."""
        self.tasks[cell.task].prepare(preparation, workshop)


def devices() -> tuple[str, ...]:
    """Return the devices that cells can be computed on: all GPUs, else the CPU."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{place}" for place in range(number)) or ("cpu",)


def run_study(
    study: Plan,
    *,
    processes: int | None = None,
    threads: int = 1,
    told: Told | None = None,
    cells: Sequence[Any] | None = None,
) -> dict[Any, str]:
    """Compute the cells that are missing.

    Parameters
    ----------
    study : Plan
    processes : int, optional
        Cells at a time: one a GPU where left out, or one on the CPU. They share the GPUs.
    threads : int
        Of each process on the CPU.
    told : callable, optional
        Called after each cell with the number of those that are done, of all, and the cell.
    cells : sequence, optional
        Some of those that are missing, instead of all.

    Returns
    -------
    dict of cell to str
        Cells that failed, and why. The others are kept as they are done, so that an interrupted
        study goes on where it was.
    """
    cells = study.missing() if cells is None else cells
    failed: dict[Any, str] = {}
    if not cells:
        return failed
    where = devices()
    number = processes or len(where)
    first = {
        preparation: cell for cell in reversed(cells) for preparation in study.preparations(cell)
    }
    shared = [(cell, preparation) for preparation, cell in first.items()]
    if number == 1:
        workshop = Workshop(study.folder, where[0].partition(":")[0], threads)
        _start_torch(threads)
        for place, cell in enumerate(cells, 1):
            problem = _attempt(study, cell, workshop)
            _after(cell, problem, failed)
            if told is not None:
                told(place, len(cells), cell)
        return failed
    context = multiprocessing.get_context("spawn")
    places: Any = context.Queue()
    for place in range(number):
        places.put(where[place % len(where)])
    given = (type(study), study.options, study.folder, threads, places)
    with ProcessPoolExecutor(number, context, _start_worker, given) as pool:
        try:
            # what several cells need is computed once, before them; its errors are theirs too
            for done in as_completed([pool.submit(_prepare, *one) for one in shared]):
                done.result()
            futures: dict[Future[str | None], Any] = {
                pool.submit(_compute, cell): cell for cell in cells
            }
            for place, future in enumerate(as_completed(futures), 1):
                cell = futures[future]
                _after(cell, future.result(), failed)
                if told is not None:
                    told(place, len(cells), cell)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _after(cell: Any, problem: str | None, failed: dict[Any, str]) -> None:
    if problem is not None:
        logger.warning("%s: %s", cell, problem)
        failed[cell] = problem


def _attempt(study: Plan, cell: Any, workshop: Workshop) -> str | None:
    """Compute a cell and keep its result; return what is wrong where it cannot be computed."""
    name = study.keys[cell]
    try:
        outcome = study.compute(cell, workshop)
        Store(study.folder).write(name, study.contents[name], outcome)
    except CycladesError as error:
        return str(error)
    return None


def _start_torch(threads: int) -> None:
    import torch

    # what Lightning says of itself and the machine, for each of hundreds of cells
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(threads)


_here: list[tuple[Plan, Workshop]] = []
"""The study and the device of a worker process."""


def _start_worker(
    kind: type[Plan], options: Options, folder: Path, threads: int, places: Any
) -> None:
    device = take_device(places.get())
    _start_torch(threads)
    _here.append((kind.plan(options, folder), Workshop(folder, device, threads)))


def _prepare(cell: Any, preparation: Any) -> None:
    study, workshop = _here[0]
    try:
        study.prepare(cell, preparation, workshop)
    except CycladesError as error:
        logger.warning("%s: %s", cell, error)


def _compute(cell: Any) -> str | None:
    study, workshop = _here[0]
    return _attempt(study, cell, workshop)


def count_by_reason(failed: Iterable[str]) -> dict[str, int]:
    """Number of cells for each sentence on what is wrong."""
    made: dict[str, int] = {}
    for reason in failed:
        made[reason] = made.get(reason, 0) + 1
    return made
