"""Two routes stage by stage: what each stage changes in the catalogue, all else held fixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.chain import Pipeline, Result
from cyclades.pipeline.comparison.compare import Comparable, Comparison, compare
from cyclades.pipeline.comparison.intervals import median, robust_sigma
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.metrics import SNR_BINS
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats
from cyclades.pipeline.comparison.text_columns import columns, number, with_interval
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.progress import Steps, Told
from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.core.stage import KINDS, Stage

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

    from cyclades.pipeline.simulation.truth import Truth
    from cyclades.stages.core.image import SkyImage

Route = str | Path | Mapping[str, Any] | RouteConfig
WHOLE = "all"
"""What the row of the second route's own run is called in the column ``stage``."""
BASE = "-"
ANOTHER = "other parameters"
TITLE = "Stage by stage"
PRINTED = ("run", "change", "components", "sources", "matched_share", "lost", "new",
           "total_flux_ratio", "total_flux_scatter", "offset", "completeness", "reliability",
           "f1", "seconds")  # fmt: skip


@dataclass(frozen=True, eq=False)
class StageComparison:
    """What `compare_stages` made.

    Parameters
    ----------
    image : SkyImage
    routes : tuple of str
        Names of the two routes.
    results : dict of str to Result
        Every run by its label: the first route, the first route with one stage of the second for
        each stage in which they differ, and the second route.
    table : Table
        One row a run. ``run`` (label), ``stage`` (which was swapped), ``change``, ``components``,
        ``sources``; against the run of the first route ``matched`` rows, ``matched_share`` (of
        the first route's rows), ``lost``, ``new``, median and robust scatter of the ratio of
        ``peak_flux`` and ``total_flux``, median ``offset`` (arcsec); with a truth
        ``completeness``, ``reliability`` and ``f1``; ``seconds`` of the stages that ran.
    changes : Table
        Lost and new rows of every run by S/N bin.
    comparison : Comparison
        All runs as catalogues, with the truth where there is one.
    """

    image: "SkyImage"
    routes: tuple[str, str]
    results: dict[str, Result]
    table: "Table"
    changes: "Table"
    comparison: Comparison

    def format(self) -> str:
        """Return the main numbers as aligned columns; of the truth, with 68 % intervals."""
        scored = "f1" in self.table.colnames
        return columns([_line(row, scored) for row in self.table], left=2)

    @property
    def _printed(self) -> "Table":
        """The main columns of the table."""
        return self.table[[name for name in PRINTED if name in self.table.colnames]]

    def plot(self) -> "Figure":
        """Draw what each swap changes; see `cyclades.pipeline.comparison.stages_plot`."""
        from cyclades.pipeline.comparison.stages_plot import draw

        return draw(self)

    def write(self, directory: str | Path) -> list[Path]:
        """Write the tables (ECSV), the figure (PNG) and the report (HTML).

        Parameters
        ----------
        directory : path
            Made where it is missing.

        Returns
        -------
        list of Path
            ``stages.ecsv``, ``stages_by_snr.ecsv``, ``stages.png``, ``report.html``.

        Raises
        ------
        OutputError
            Where they cannot be written.
        """
        from cyclades.pipeline.comparison.report import write_report

        folder = Path(directory)
        names = ("stages.ecsv", "stages_by_snr.ecsv", "stages.png")
        paths = [folder / name for name in names]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(paths[0]) as path:
                self.table.write(path, format="ascii.ecsv", overwrite=True)
            with written_whole(paths[1]) as path:
                self.changes.write(path, format="ascii.ecsv", overwrite=True)
            with written_whole(paths[2]) as path:
                self.plot().savefig(path, dpi=110)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        extra = {TITLE: self._printed, f"{TITLE}: lost and new rows": self.changes}
        return [*paths, write_report(self.comparison, folder, self.image, extra=extra)]


def compare_stages(
    image: "str | Path | SkyImage",
    routes: Sequence[Route],
    truth: "Comparable | Truth | None" = None,
    *,
    workers: int | None = None,
    progress: Told | None = None,
) -> StageComparison:
    """Run a route, then swap one stage at a time to another route's, all else held fixed.

    Products of the stages before the swapped one are those of the first run, not made again. The
    image options and the seed are those of the first route throughout, in the run of the whole
    second route too. A stage in which the routes agree is not swapped.

    Parameters
    ----------
    image : path or SkyImage
    routes : sequence of two routes
        Each the name of a route, a YAML file, a mapping or a `RouteConfig`.
    truth : path, Truth, Catalogue or ComparisonTable, optional
    workers : int, optional
        Threads in all.
    progress : callable, optional
        Called with the number of stages that have run, their number in all, and words for the
        next.

    Returns
    -------
    StageComparison

    Raises
    ------
    ConfigurationError
        Where there are not two routes, or they do not differ.
    InputError
        Where the image cannot be used.

    Examples
    --------
    ``compare_stages("field.fits", ["classical", {"detection": "sep"}]).table``
    """
    if len(routes) != 2:
        raise ConfigurationError(
            f"Stages are compared between two routes, not {len(routes)}; give two, as classical,"
            "mine.yaml."
        )
    first, second = (as_config(route) for route in routes)
    names = _names(routes)
    differing = [kind for kind in KINDS if getattr(first, kind) != getattr(second, kind)]
    if not differing:
        raise ConfigurationError(
            f"The routes {names[0]} and {names[1]} have the same stages with the same parameters; "
            "give two that differ."
        )
    whole = differing[:1] if len(differing) > 1 else []
    remaining = [len(KINDS) - KINDS.index(kind) for kind in [*differing, *whole]]
    # reading the image is a step as well
    steps = Steps(progress, 1 + len(KINDS) + sum(remaining))
    base = Pipeline(first).run(image, workers=workers, progress=steps.of(names[0]))
    if base.image is None or base.image.wcs is None:
        raise InputError(
            "The image has no sky coordinates, which matching the catalogues needs; give one that "
            "has."
        )
    results, swaps = {names[0]: base}, {names[0]: (BASE, "")}
    for kind in differing:
        theirs = getattr(second, kind)
        label = f"{kind}: {_describe(theirs)}"
        pipeline = Pipeline(first).replace(**{kind: theirs})
        results[label] = pipeline.run_from(kind, base, workers=workers, progress=steps.of(label))
        swaps[label] = (kind, change(getattr(first, kind), theirs))
    for kind in whole:
        pipeline = Pipeline(first).replace(**{k: getattr(second, k) for k in differing})
        results[names[1]] = pipeline.run_from(
            kind, base, workers=workers, progress=steps.of(names[1])
        )
        swaps[names[1]] = (WHOLE, ", ".join(differing))
    steps.end()
    catalogues = {label: result.catalogue for label, result in results.items()}
    comparison = compare(
        {label: held for label, held in catalogues.items() if held is not None}, truth, base.image
    )
    return StageComparison(
        image=base.image,
        routes=names,
        results=results,
        table=_table(results, swaps, comparison),
        changes=_changes(comparison, list(results)),
        comparison=comparison,
    )


def as_config(route: Route) -> RouteConfig:
    """The configuration of a route, however it is given."""
    return route if isinstance(route, RouteConfig) else RouteConfig.from_route(route)


def route_name(route: Route, otherwise: str) -> str:
    """What to call a route: by its name or file."""
    return Path(route).stem if isinstance(route, str | Path) else otherwise


def _names(routes: Sequence[Route]) -> tuple[str, str]:
    """What to call two routes: by name or by file, else by number; never the same."""
    names = [route_name(route, f"route {number}") for number, route in enumerate(routes, 1)]
    if names[0] == names[1]:
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names[0], names[1]


def _describe(stages: Stage | tuple[Stage, ...]) -> str:
    return "+".join(s.name for s in stages) if isinstance(stages, tuple) else stages.name


def change(first: Stage | tuple[Stage, ...], second: Stage | tuple[Stage, ...]) -> str:
    """Say in words how one stage (or list of stages) differs from another."""
    if _describe(first) != _describe(second):
        return f"{_describe(first)} → {_describe(second)}"
    if isinstance(first, tuple) and isinstance(second, tuple):
        return "; ".join(change(a, b) for a, b in zip(first, second, strict=True) if a != b)
    assert isinstance(first, Stage)
    assert isinstance(second, Stage)
    parameters = [
        f"{name} {getattr(first, name)} → {getattr(second, name)}"
        for name in type(first).model_fields
        if getattr(first, name) != getattr(second, name)
    ]
    return ", ".join(parameters) or ANOTHER


def _table(
    results: Mapping[str, Result],
    swaps: Mapping[str, tuple[str, str]],
    comparison: Comparison,
) -> "Table":
    """One row of numbers a run; see `StageComparison`."""
    from astropy.table import Table

    base = comparison.catalogues[next(iter(results))]
    scores = {row["catalogue"]: row for row in comparison.summary}
    rows = []
    for label, result in results.items():
        stage, how = swaps[label]
        catalogue = result.catalogue
        assert catalogue is not None
        row: dict[str, Any] = {
            "run": label,
            "stage": stage,
            "change": how,
            "components": len(catalogue.components),
            "sources": len(catalogue.sources),
            **_against(base, comparison.catalogues[label], comparison.meta["beam"]),
        }
        for name in ("completeness", "reliability", "f1") if scores else ():
            row |= {name: float(scores[label][name])}
            row |= {f"{name}_{end}": float(scores[label][f"{name}_{end}"]) for end in _ENDS}
        row["seconds"] = float(sum(result.provenance["timings"].values()))
        rows.append(row)
    table = Table(rows)
    table["offset"].unit = "arcsec"
    table["seconds"].unit = "s"
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".4g"
    return table


_ENDS = ("low", "high")


def _line(row: Any, scored: bool) -> dict[str, Any]:
    """The main numbers of one run as text."""
    line = {
        "run": row["run"],
        "change": row["change"],
        "components": row["components"],
        "sources": row["sources"],
        "matched": number(row["matched_share"]),
        "lost": row["lost"],
        "new": row["new"],
        "total ratio (scatter)": f"{number(row['total_flux_ratio'])} "
        f"({number(row['total_flux_scatter'])})",
        "offset": f'{row["offset"]:.2g}"',
    }
    if scored:
        shown = {"completeness": "completeness", "reliability": "reliability", "F1": "f1"}
        line |= {title: with_interval(row, name) for title, name in shown.items()}
    return line | {"seconds": f"{row['seconds']:.1f}"}


def flux_ratio(first: ComparisonTable, second: ComparisonTable, rows: Any, name: str) -> Floats:
    """Ratio of a flux of matched rows, second over first; NaN where either is not positive."""
    one, other = first[name][rows.first_rows], second[name][rows.second_rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((one > 0) & (other > 0), other / one, np.nan))


def _against(base: ComparisonTable, other: ComparisonTable, beam: float) -> dict[str, Any]:
    """Numbers of one run against the run of the first route."""
    pairs = match(base, other, beam=beam)
    made: dict[str, Any] = {
        "matched": len(pairs),
        "matched_share": len(pairs) / len(base) if len(base) else np.nan,
        "lost": len(base) - len(pairs),
        "new": len(other) - len(pairs),
    }
    for name in ("peak_flux", "total_flux"):
        ratio = flux_ratio(base, other, pairs, name)
        ratio = ratio[np.isfinite(ratio)]
        made[f"{name}_ratio"] = float(median(ratio))
        made[f"{name}_scatter"] = float(robust_sigma(ratio))
    made["offset"] = float(median(pairs.separation_arcsec))
    return made


def _changes(comparison: Comparison, labels: list[str]) -> "Table":
    """Rows that each run loses and gains against the first, by the S/N in their own run."""
    from astropy.table import Table

    base, rows = comparison.catalogues[labels[0]], []
    for label in labels[1:]:
        other = comparison.catalogues[label]
        pairs = match(base, other, beam=comparison.meta["beam"])
        lost, new = np.ones(len(base), bool), np.ones(len(other), bool)
        lost[pairs.first_rows], new[pairs.second_rows] = False, False
        counts = [
            np.histogram(np.nan_to_num(snr, nan=-1.0), SNR_BINS)[0]
            for snr in (base["snr"], base["snr"][lost], other["snr"], other["snr"][new])
        ]
        spans = zip(SNR_BINS[:-1], SNR_BINS[1:], *counts, strict=True)
        rows += [(label, *span) for span in spans]
    names = ("run", "snr_low", "snr_high", "base_rows", "lost", "rows", "new")
    return Table(rows=rows, names=names)
