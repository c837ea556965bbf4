"""The matrix of stages: which are learned, against what the catalogue is worth."""

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyclades.pipeline.chain import Pipeline, default_workers
from cyclades.pipeline.comparison.field import load_field
from cyclades.pipeline.comparison.matrix_fields import TrueField
from cyclades.pipeline.comparison.matrix_figures import QUANTITIES, Judged, matrix_figures
from cyclades.pipeline.comparison.stages import Route, as_config, route_name
from cyclades.pipeline.comparison.swaps import Swap, learned_stages, matrix_rows, refusal
from cyclades.pipeline.comparison.tables import Floats
from cyclades.pipeline.comparison.text_columns import columns
from cyclades.pipeline.config import DEFAULT_ROUTE
from cyclades.pipeline.progress import Progress, Steps, Told
from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.core.stage import KINDS, Stage

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

    from cyclades.stages.core.image import SkyImage

logger = logging.getLogger("cyclades.comparison")
BASE = "-"
TITLE = "Which stage is learned, and what it changes"
SECONDS = "seconds"
BEFORE, LAST = KINDS[-2:]


@dataclass(frozen=True, eq=False)
class StageMatrix:
    """What `stage_matrix` made.

    Parameters
    ----------
    table : Table
        One row a route: ``route``, ``stages`` (in which it differs from the base, or ``-``),
        every quantity of `QUANTITIES` with its interval, and what it gains on the base.
    rows : tuple of Swap
        The routes.
    judged : dict of str to list of Judged
        By route, what it made of every field.
    left_out : dict of str to str
        Rows that could not run, and why.
    refused : dict of str to str
        The same of stages, where none were named.
    """

    table: "Table"
    rows: tuple[Swap, ...]
    judged: dict[str, list[Judged]]
    left_out: dict[str, str]
    refused: dict[str, str]

    def lines(self) -> list[dict[str, str]]:
        """Main numbers of every route as text: values with half of their intervals.

        A star marks what differs from the first route, on the same fields, by more than the
        interval of the difference.
        """
        return [_line(row) for row in self.table]

    def format(self) -> str:
        """Return the main numbers as text for a terminal."""
        notes = [f"left out: {what}: {why}" for what, why in self.left_out.items()]
        if self.refused:
            notes.append(f"cannot run as they come: {', '.join(self.refused)}")
        return "\n".join([columns(self.lines(), left=2), *notes])

    def plot(self) -> "Figure":
        """Draw every quantity of every route; see `cyclades.pipeline.comparison.matrix_plot`."""
        from cyclades.pipeline.comparison.matrix_plot import draw

        return draw(self)

    def write(self, directory: str | Path) -> list[Path]:
        """Write the table (ECSV), the figure (PNG) and the page (HTML).

        Parameters
        ----------
        directory : path
            Made where it is missing.

        Returns
        -------
        list of Path
            ``matrix.ecsv``, ``matrix.png``, ``matrix.html``.

        Raises
        ------
        OutputError
            Where they cannot be written.
        """
        from cyclades.pipeline.comparison.matrix_plot import write_matrix_page

        folder = Path(directory)
        paths = [folder / f"matrix.{suffix}" for suffix in ("ecsv", "png", "html")]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(paths[0]) as path:
                self.table.write(path, format="ascii.ecsv", overwrite=True)
            with written_whole(paths[1]) as path:
                self.plot().savefig(path, dpi=110)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        write_matrix_page(self, paths[1], paths[2])
        return paths


def _line(row: Any) -> dict[str, str]:
    line = {"route": str(row["route"]), "learned": str(row["stages"])}
    for name, quantity in QUANTITIES.items():
        value, half = row[name], 0.5 * (row[f"{name}_high"] - row[f"{name}_low"])
        text = f"{value:.{quantity.digits}f}" if np.isfinite(value) else ""
        if text and np.isfinite(half) and SECONDS not in name:
            text += f" ± {half:.{quantity.digits}f}"
            text += "*" if row[f"{name}_gain_low"] * row[f"{name}_gain_high"] > 0 else ""
        line[quantity.title] = text
    return line


def stage_matrix(
    fields: Sequence[TrueField],
    base: Route = DEFAULT_ROUTE,
    stages: Sequence[Stage] | None = None,
    further: Sequence[str] = (),
    *,
    workers: int | None = None,
    kept: str | Path | None = None,
    progress: Told | None = None,
) -> StageMatrix:
    """Swap learned stages into a route, one by one and together, and judge by fields with truth.

    One image at a time is held. Routes that differ in the cataloguing alone share what comes
    before it; every other stage runs anew for every route, so that seconds are those of a run of
    its own. Networks are loaded before.

    Parameters
    ----------
    fields : sequence of TrueField
    base : route
        Its name, a YAML file, a mapping or a `RouteConfig`.
    stages : sequence of Stage, optional
        To swap in; by default all learned ones that can run (`learned_stages`).
    further : sequence of str
        Further rows: names of stages with ``+`` between, or routes.
    workers : int, optional
        Threads in all.
    kept : path, optional
        Folder for the catalogues, which are used again in place of runs of the same route on the
        same image. Choose another one where weights or code have changed.
    progress : callable, optional
        Called with the number of runs that are done, their number in all, and words for the next.

    Returns
    -------
    StageMatrix

    Raises
    ------
    ConfigurationError
        Where a route is wrong, or nothing can be swapped in.
    InputError
        Where a field cannot be used.
    """
    first = as_config(base)
    threads = default_workers() if workers is None else workers
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}
    with Context(workers=threads, seed=first.seed) as context:
        if stages is None:
            stages, refused = learned_stages(first, context=context)
        rows = matrix_rows(first, route_name(base, "base"), stages, further, context=context)
        usable = []
        for row in rows:
            why = refusal(row.config, context)
            if why:
                left_out[row.label] = why
            else:
                usable.append(row)
        if rows[0] not in usable:
            raise ConfigurationError(f"The route to start from cannot run: {left_out.popitem()[1]}")
        if len(usable) < 2:
            raise ConfigurationError(
                "There is nothing to swap in; name stages that can run, or give further routes."
            )
        judged: dict[str, list[Judged]] = {row.label: [] for row in usable}
        steps = Steps(progress, len(fields) * len(usable))
        for number, field in enumerate(fields, 1):
            logger.info("field %d of %d: %s", number, len(fields), field.name)
            for label, one in _judge(field, usable, context, kept, steps.of(field.name)).items():
                judged[label].append(one)
        steps.end()
    return StageMatrix(_table(usable, judged), tuple(usable), judged, left_out, refused)


def _judge(
    field: TrueField,
    rows: Sequence[Swap],
    context: Context,
    kept: str | Path | None,
    progress: Progress,
) -> dict[str, Judged]:
    """What every route makes of a field; the image is let go at the end."""
    image, truth = field.load()
    if image.wcs is None:
        raise InputError(
            f"{field.name} has no sky coordinates, which matching the catalogues needs."
        )
    runs = _Runs(context, None if kept is None else Path(kept) / field.name, progress)
    made = {row.label: ran for row, ran in runs.all(rows, image)}
    catalogues = {label: ran.catalogue for label, ran in made.items()}
    held = load_field(catalogues, truth, image, name=field.name)
    # the tables are enough from here on
    held = replace(held, image=None, true_instances=None, islands={})
    return {
        label: Judged.of(held, label, ran.seconds, ran.cpu_seconds, image.data.size)
        for label, ran in made.items()
    }


def _table(rows: Sequence[Swap], judged: dict[str, list[Judged]]) -> "Table":
    from astropy.table import Table

    figures = matrix_figures(judged)
    table = Table(
        [
            {"route": row.label, "stages": ", ".join(row.stages) or BASE, **made}
            for row, made in zip(rows, figures, strict=True)
        ]
    )
    for name in table.colnames[2:]:
        table[name].info.format = ".4g"
        if SECONDS in name:
            table[name].unit = "s / Mpix"
    table.meta["fields"] = len(next(iter(judged.values())))
    return table


class _Ran(NamedTuple):
    """What a run made, and what it cost."""

    catalogue: Catalogue
    seconds: float
    cpu_seconds: float


class _Runs:
    """Runs of routes on one image, kept in files where a folder is given."""

    def __init__(self, context: Context, folder: Path | None, progress: Progress) -> None:
        self.context, self.folder, self.progress = context, folder, progress

    def all(self, rows: Sequence[Swap], image: "SkyImage") -> Iterator[tuple[Swap, _Ran]]:
        """Yield every row with what its route made."""
        pixels = hashlib.sha256(np.ascontiguousarray(image.data).tobytes()).hexdigest()
        for _, alike in itertools.groupby(sorted(rows, key=_before), key=_before):
            start, spent = None, np.zeros(2)
            for row in alike:
                self.progress(row.label)
                ran = self._read(row, pixels)
                if ran is None:
                    pipeline = Pipeline(row.config)
                    if start is None:
                        # an image of its own: what a network found in it is no other route's
                        own, clock = image.replace(), _clock()
                        start = pipeline.run_until(BEFORE, own, context=self.context)
                        spent = _clock() - clock
                    clock = _clock()
                    catalogue = pipeline.run_from(LAST, start, context=self.context).catalogue
                    assert catalogue is not None
                    ran = _Ran(catalogue, *(spent + _clock() - clock).tolist())
                    self._write(row, pixels, ran)
                yield row, ran

    def _files(self, row: Swap) -> tuple[Path, Path]:
        assert self.folder is not None
        return self.folder / f"{row.label}.catalogue.fits", self.folder / f"{row.label}.json"

    def _read(self, row: Swap, pixels: str) -> _Ran | None:
        if self.folder is None:
            return None
        catalogue, record = self._files(row)
        if not record.is_file() or not catalogue.is_file():
            return None
        held = json.loads(record.read_text("utf-8"))
        if held["pixels"] != pixels or held["configuration"] != row.config.to_mapping():
            return None
        return _Ran(read_catalogue(catalogue), *map(float, held[SECONDS]))

    def _write(self, row: Swap, pixels: str, ran: _Ran) -> None:
        if self.folder is None:
            return
        files = self._files(row)
        held = {SECONDS: ran[1:], "pixels": pixels, "configuration": row.config.to_mapping()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files[1].unlink(missing_ok=True)
            ran.catalogue.write(files[0])
            partial = files[1].with_suffix(".partial")
            partial.write_text(json.dumps(held, indent=1), "utf-8")
            partial.replace(files[1])
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written ({error.strerror or error}); choose another "
                "folder."
            ) from error


def _clock() -> Floats:
    """Seconds by the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def _before(row: Swap) -> str:
    """The stages before the cataloguing, as text to sort by."""
    return json.dumps([row.config.to_mapping()[kind] for kind in KINDS[:-1]])
