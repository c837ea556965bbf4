"""What the cells of a study say together: means over seeds with intervals, and label savings.

An interval has two parts. Test units (pictures, tiles, fields) are drawn again with replacement,
the same ones for all seeds and routes, since all are judged on the same test (Efron 1979, Ann.
Statist. 7, 1). To each such draw comes the error of the mean over seeds, which differ in their
labels, first numbers and order, by Student's distribution, since seeds are few.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.studies.cells import Cell, Outcome
from cyclades.pipeline.studies.options import PRETRAINED, StudyOptions
from cyclades.pipeline.studies.running import Study
from cyclades.pipeline.studies.tasks.base import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure of merit with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Route:
    """A way to a result: backbone, mode and number of labels, over all seeds.

    Parameters
    ----------
    task, backbone, mode : str
    fraction : float
    labels : int
    seeds : int
        That are there.
    figures : dict of str to Figure
    seconds : float
        Mean wall time of a cell.
    draws : ndarray, shape (resamples,)
        Of the task's main figure.
    """

    task: str
    backbone: str
    mode: str
    fraction: float
    labels: int
    seeds: int
    figures: dict[str, Figure]
    seconds: float
    draws: Floats = field(repr=False)


@dataclass(frozen=True)
class Saving:
    """How many times the labels a network from scratch needs to be as good.

    Parameters
    ----------
    task, backbone, mode : str
    fraction : float
    labels : int
        That the pre-trained route had.
    value : float
        Its main figure.
    factor, low, high : float
        Label-saving factor and its interval; an end that lies beyond the curve from scratch is
        infinite, or 0.
    bound : str
        ``>`` or ``<`` where the factor itself lies beyond that curve, which then gives a limit.
    """

    task: str
    backbone: str
    mode: str
    fraction: float
    labels: int
    value: float
    factor: float
    low: float
    high: float
    bound: str = ""

    def text(self) -> str:
        """Return the factor with its interval, for people.

        An end beyond the curve from scratch is given as ``...``, or, where the whole interval is,
        as the limit.
        """
        number = f"{self.bound}{self.factor:.2g}"
        low = f"{self.low:.2g}" if 0.0 < self.low < np.inf else "..." if self.low == 0.0 else number
        high = f"{self.high:.2g}" if 0.0 < self.high < np.inf else "..." if self.high else number
        return f"{number} [{low}, {high}]"


Drawn = dict[str, tuple[dict[str, Figure], dict[str, Floats]]]


def cell_figures(
    task: Task, outcome: Outcome, options: StudyOptions
) -> tuple[dict[str, Figure], dict[str, Floats]]:
    """Figures of one cell with the interval of its test units, and the draws behind these."""
    units = outcome.units
    return drawn_figures(
        lambda drawn: task.figures([units[place] for place in drawn]),
        len(units),
        options.resamples,
        options.level,
    )


def drawn_figures(
    figures: Callable[[NDArray[np.int64]], Mapping[str, float]],
    number: int,
    resamples: int,
    level: float,
) -> tuple[dict[str, Figure], dict[str, Floats]]:
    """Figures of some units with the interval over these, and the draws behind them.

    Parameters
    ----------
    figures : callable
        From the places of units, each as often as it is drawn, to the figures on them.
    number : int
        Of units.
    resamples : int
    level : float
        Coverage of the intervals.
    """
    generator = np.random.default_rng(number)
    rows = [figures(drawn) for drawn in generator.integers(0, number, (resamples, number))]
    names = dict.fromkeys(name for row in rows for name in row)
    draws = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}
    return {
        name: Figure(value, *_ends(draws.get(name, np.full(1, np.nan)), level))
        for name, value in figures(np.arange(number)).items()
    }, draws


def all_figures(study: Study) -> Drawn:
    """Figures and draws of all cells that are there, by key."""
    made: Drawn = {}
    for cell, outcome in study.outcomes():
        name = study.keys[cell]
        if name not in made:
            made[name] = cell_figures(study.tasks[cell.task], outcome, study.options)
    return made


def routes(study: Study, known: Drawn | None = None) -> list[Route]:
    """Summarise the cells that are there by route, in the order of the grid.

    Parameters
    ----------
    study : Study
    known : dict, optional
        What `all_figures` returned.
    """
    known = all_figures(study) if known is None else known
    options = study.options
    groups: dict[tuple[str, str, str, float], list[tuple[Cell, Outcome]]] = {}
    for cell, outcome in study.outcomes():
        where = (cell.task, cell.backbone, cell.mode, cell.fraction)
        groups.setdefault(where, []).append((cell, outcome))
    made = []
    for (name, backbone, mode, fraction), found in groups.items():
        task = study.tasks[name]
        several = [known[study.keys[cell]] for cell, _ in found]
        figures, draws = over_seeds(several, f"{name} {backbone} {mode} {fraction}", options.level)
        main = draws.get(task.main, np.zeros(0))
        seconds = float(np.mean([outcome.seconds for _, outcome in found]))
        labels = round(float(np.mean([outcome.labels for _, outcome in found])))
        made.append(
            Route(name, backbone, mode, fraction, labels, len(found), figures, seconds, main)
        )
    return made


def over_seeds(
    several: Sequence[tuple[dict[str, Figure], dict[str, Floats]]], name: str, level: float
) -> tuple[dict[str, Figure], dict[str, Floats]]:
    """Means over seeds of figures with their intervals, and the draws behind them.

    Parameters
    ----------
    several : sequence
        For each seed what `drawn_figures` returned.
    name : str
        Tells the random draws of one mean from those of another.
    level : float
    """
    figures, draws = {}, {}
    for quantity in several[0][0]:
        values = [one[0][quantity].value for one in several if quantity in one[0]]
        drawn = [one[1][quantity] for one in several if quantity in one[1]]
        draws[quantity] = _over_seeds(np.array(values), drawn, name)
        figures[quantity] = Figure(float(np.mean(values)), *_ends(draws[quantity], level))
    return figures, draws


def savings(study: Study, found: Sequence[Route]) -> list[Saving]:
    """Label-saving factor of every pre-trained route beside the same architecture from scratch.

    The curve from scratch is made to rise (isotonic regression) and interpolated in the logarithm
    of the number of labels.
    """
    return [
        one
        for route in found
        if route.mode in PRETRAINED
        for one in _saving(study, route, _from_scratch(study, route, found))
    ]


def headline(study: Study, found: Sequence[Saving]) -> dict[str, Saving]:
    """Return for each task the saving of its best route at the reference share of the labels."""
    best: dict[str, Saving] = {}
    for one in found:
        here = one.fraction == study.options.reference
        if here and (one.task not in best or one.value > best[one.task].value):
            best[one.task] = one
    return best


def equal_labels(labels: Floats, values: Floats, value: float) -> float:
    """Return the number of labels at which a curve reaches a value.

    Parameters
    ----------
    labels, values : ndarray, shape (n,)
        The curve, labels ascending.
    value : float

    Returns
    -------
    float
        Infinite above the curve's largest value, 0 below its smallest.
    """
    from scipy.optimize import isotonic_regression

    rising = np.asarray(isotonic_regression(values).x, float)
    if value > rising[-1]:
        return float("inf")
    if value < rising[0]:
        return 0.0
    place = int(np.searchsorted(rising, value, side="left"))
    if place == 0:
        return float(labels[0])
    low, high = rising[place - 1], rising[place]
    share = (value - low) / (high - low)
    logs = np.log(labels[place - 1 : place + 1])
    return float(np.exp(logs[0] + share * (logs[1] - logs[0])))


def _from_scratch(study: Study, route: Route, found: Sequence[Route]) -> list[Route]:
    """Routes of the same architecture from scratch, labels ascending."""
    specs = study.options.backbones
    own = specs[route.backbone]
    curve = {
        one.labels: one
        for one in reversed(found)
        if one.task == route.task
        and one.mode == "scratch"
        and specs[one.backbone].model_copy(update={"weights": own.weights}) == own
    }
    return [curve[labels] for labels in sorted(curve)]


def _saving(study: Study, route: Route, curve: list[Route]) -> Iterator[Saving]:
    if len(curve) < 2:
        return
    main = study.tasks[route.task].main
    value = route.figures[main].value
    labels = np.array([one.labels for one in curve], float)
    table = np.stack([one.draws for one in curve], 1)
    equal = equal_labels(labels, np.array([one.figures[main].value for one in curve]), value)
    drawn = np.array(
        [equal_labels(labels, row, own) for row, own in zip(table, route.draws, strict=True)]
    )
    half = 0.5 * (1.0 - study.options.level)
    low, high = np.quantile(drawn, [half, 1.0 - half], method="nearest") / route.labels
    bound = ">" if np.isinf(equal) else "<" if equal == 0.0 else ""
    limit = {">": labels[-1], "<": labels[0]}.get(bound, equal)
    yield Saving(
        route.task, route.backbone, route.mode, route.fraction, route.labels, value,
        float(limit / route.labels), float(low), float(high), bound,
    )  # fmt: skip


def _over_seeds(values: Floats, drawn: Sequence[Floats], name: str) -> Floats:
    """Draws of the mean over seeds, with the error that seeds make; none for one seed.

    Figures of all tasks are shares, so that draws stay between 0 and 1 however few the seeds are.
    """
    mean = np.mean(drawn, 0)
    if len(values) < 2:
        return np.asarray(mean, float)
    generator = np.random.default_rng(list(name.encode()))
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    draws = mean + error * generator.standard_t(len(values) - 1, len(mean))
    return np.asarray(np.clip(draws, 0.0, 1.0), float)


def _ends(draws: Floats, level: float) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    half = 0.5 * (1.0 - level)
    low, high = np.quantile(known, [half, 1.0 - half])
    return float(low), float(high)
