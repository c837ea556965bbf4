"""Catalogues against truth and against each other: all tables at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.accuracy import Pairs, accuracy_table, pull_table
from cyclades.pipeline.comparison.agreement import agreement_table
from cyclades.pipeline.comparison.detection_tables import (
    average_precision_table,
    benchmark_table,
)
from cyclades.pipeline.comparison.field import (
    ORACLE,
    Catalogues,
    Comparable,
    ComparedField,
    TrueSky,
    load_field,
)
from cyclades.pipeline.comparison.field_tables import (
    association_table,
    challenge_table,
    over_fields,
    residual_table,
)
from cyclades.pipeline.comparison.label_tables import label_table
from cyclades.pipeline.comparison.labels import Label
from cyclades.pipeline.comparison.match import cross_match
from cyclades.pipeline.comparison.metrics import (
    SNR_BINS,
    by_bin,
    by_class,
    flux_edges,
    summary,
    threshold_curve,
)
from cyclades.pipeline.comparison.outcome import FLOOR, Outcome
from cyclades.pipeline.comparison.survey_tables import survey_tables
from cyclades.pipeline.comparison.tables import ComparisonTable, PathType
from cyclades.pipeline.provenance import records
from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import InputError, OutputError

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.stages.core.image import SkyImage

__all__ = ["Comparable", "Comparison", "compare", "compare_fields"]

TABLES = ("summary", "by_snr", "by_flux", "by_class", "curves", "pulls", "accuracy", "agreement",
          "cross")  # fmt: skip
LONG = ("curves", "cross")
"""Tables that grow with the number of sources."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` made.

    Parameters
    ----------
    catalogues : dict of str to ComparisonTable
        By label.
    truth : ComparisonTable, optional
    image : SkyImage, optional
    outcomes : dict of str to Outcome
        By label; empty without a truth.
    summary : Table
        One row a catalogue: counts, completeness, reliability, F1, area under the curve,
        completeness at fixed reliability, kinds of false rows.
    by_snr, by_flux, by_class : Table
        Completeness and reliability in bins and by class of the truth.
    curves : Table
        Completeness and reliability at every threshold.
    pulls, accuracy : Table
        Against the truth.
    agreement : Table
        One row a pair of catalogues.
    cross : Table
        Every row of every catalogue, and of the truth, with ``clump_id`` and ``match_id``.
    meta : dict
        Beam, floor, truth counts by S/N, notes.
    further : dict of str to Table
        Tables that only some comparisons have, by name: ``average_precision``, ``benchmark``
        (against a truth), ``challenge`` (where asked for), ``association`` (where true objects
        have several components), ``visibility``, ``counts``, ``corrections`` and ``residuals``
        (with an image), ``labels`` (with labels), ``over_fields`` (of several fields).
    """

    catalogues: dict[str, ComparisonTable]
    truth: ComparisonTable | None
    image: "SkyImage | None"
    outcomes: dict[str, Outcome]
    summary: "Table"
    by_snr: "Table"
    by_flux: "Table"
    by_class: "Table"
    curves: "Table"
    pulls: "Table"
    accuracy: "Table"
    agreement: "Table"
    cross: "Table"
    meta: dict[str, Any] = field(default_factory=dict)
    further: "dict[str, Table]" = field(default_factory=dict)

    @property
    def tables(self) -> "dict[str, Table]":
        """All tables by name, the further ones last."""
        return {**{name: getattr(self, name) for name in TABLES}, **self.further}

    def write(self, directory: PathType) -> list[Path]:
        """Write every table that has rows as ECSV, and all but the largest as one JSON file.

        Parameters
        ----------
        directory : path
            Made where it is missing; files of an earlier comparison are replaced.

        Returns
        -------
        list of Path

        Raises
        ------
        OutputError
            Where the directory cannot be written.
        """
        folder = Path(directory)
        made = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            earlier = _earlier_tables(folder)
            for name, table in self.tables.items():
                if len(table):
                    made.append(folder / f"{name}.ecsv")
                    with written_whole(made[-1]) as path:
                        table.write(path, format="ascii.ecsv", overwrite=True)
            made.append(folder / "comparison.json")
            with written_whole(made[-1]) as path:
                path.write_text(json.dumps(self.record(), indent=1) + "\n", "utf-8")
            for path in {*earlier} - {*made}:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        return made

    def record(self) -> dict[str, Any]:
        """Return all but the tables that grow with the number of sources, as plain values."""
        short = {name: t for name, t in self.tables.items() if name not in LONG}
        return {"meta": self.meta, **{name: records(t) for name, t in short.items()}}

    def format(self) -> str:
        """Return the main numbers as text for a terminal."""
        from cyclades.pipeline.comparison.text import comparison_text

        return comparison_text(self)


def _earlier_tables(folder: Path) -> list[Path]:
    """Files of the tables that an earlier comparison says it wrote to a folder."""
    try:
        record = json.loads((folder / "comparison.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    names = {*record, *LONG} - {"meta"} if isinstance(record, dict) else set()
    return [folder / f"{name}.ecsv" for name in names]


def compare(
    catalogues: Catalogues,
    truth: TrueSky | None = None,
    image: "SkyImage | PathType | None" = None,
    *,
    deep: Comparable | None = None,
    rms: PathType | None = None,
    columns: Mapping[str, Any] | PathType | None = None,
    challenge: int | None = None,
    floor: float = FLOOR,
) -> Comparison:
    """Compare catalogues with a truth, with each other, or both.

    Parameters
    ----------
    catalogues : mapping of label to catalogue, or sequence
        Paths, `Catalogue` or `ComparisonTable`; one is enough with a truth.
    truth : path, Simulation, Truth, Catalogue or ComparisonTable, optional
        A `Simulation`, or the ``X.truth.fits`` of one with its other files beside, also tells
        masks, and the true level and noise; with the image, the classical route is then run with
        these and joins the catalogues as ``oracle``, a ceiling.
    image : path or SkyImage, optional
        Gives the beam; leaves out truth on blank pixels; gives the S/N of a truth that lists
        none (from the brightest pixel within one, and the classical background); and is needed
        for residuals, visibility area and counts.
    deep : path, Catalogue or ComparisonTable, optional
        Catalogue of a deep image of the same sky, to serve as truth with the S/N that its peaks
        would have in the image, or against the noise that the first catalogue lists.
    rms : path, optional
        Noise map of the image; otherwise that of the classical background.
    columns : mapping or path, optional
        Where the columns of unknown tables are; see `read_any`. Tables that are recognised do
        not need it.
    challenge : int, optional
        Score by the rules of SKA Data Challenge 1 at 560, 1400 or 9200 MHz.
    floor : float
        S/N below which truth is ignored.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Where a table cannot be used, labels repeat, or there is nothing to compare with.
    """
    if truth is None and deep is None and len(catalogues) < 2:
        raise InputError(
            "There is nothing to compare with; give a second catalogue or a truth (--truth)."
        )
    loaded = load_field(catalogues, truth, image, deep=deep, rms=rms, columns=columns, floor=floor)
    return compare_fields([loaded], challenge=challenge)


def compare_fields(
    fields: Sequence[ComparedField],
    *,
    labels: Sequence[Label] | None = None,
    challenge: int | None = None,
) -> Comparison:
    """Compare the same routes over one or several fields, pooled.

    With several fields the comparison also has ``over_fields``: completeness, reliability and F1
    with intervals from resampling whole fields, and the differences of every two routes on the
    same resampled fields. Its image is None, and the rows of its catalogues are those of all
    fields, one after the other.

    Parameters
    ----------
    fields : sequence of ComparedField
        Of `load_field`; all with catalogues of the same labels, and all or none with a truth.
    labels : sequence of Label, optional
        Labels of the real fields, by the name of the field; see `read_labels`.
    challenge : int, optional
        As for `compare`.

    Raises
    ------
    InputError
        Where fields differ in their catalogues or only some have a truth.
    """
    from astropy.table import Table, vstack

    _check_alike(fields)
    first = fields[0]
    names = list(first.catalogues)
    results = [Outcome.concatenate([f.outcomes[name] for f in fields]) for name in first.outcomes]
    notes = list(dict.fromkeys(_named(f, note, len(fields)) for f in fields for note in f.notes))
    meta: dict[str, Any] = {"beam": first.beam, "fields": len(fields), "notes": notes}
    truth = None
    flux_bins: list[float] = []
    if results:
        truth = results[0].truth
        if truth.meta.get("comparable_fluxes", True):
            flux_bins = flux_edges(truth).tolist()
        meta |= _truth_counts(results[0], notes)
    pairs = [Pairs.of_outcome(outcome) for outcome in results]
    further = {
        "average_precision": average_precision_table(fields),
        "benchmark": benchmark_table(fields),
        "association": association_table(fields),
        "residuals": residual_table(fields),
        **survey_tables(fields, results, flux_bins),
    }
    if challenge is not None:
        further["challenge"] = challenge_table(fields, challenge)
    if labels is not None:
        further["labels"] = label_table(fields, labels)
    if len(fields) > 1:
        further["over_fields"] = over_fields(fields)
    made = Comparison(
        catalogues={
            name: ComparisonTable.concatenate([f.catalogues[name] for f in fields])
            for name in names
        },
        truth=truth,
        image=first.image if len(fields) == 1 else None,
        outcomes={outcome.name: outcome for outcome in results},
        summary=Table([summary(o) for o in results]) if results else Table(),
        by_snr=vstack([by_bin(o, SNR_BINS) for o in results]) if results else Table(),
        by_flux=vstack([by_bin(o, flux_bins, "total_flux") for o in results])
        if flux_bins
        else Table(),
        by_class=vstack([by_class(o) for o in results]) if results else Table(),
        curves=vstack([threshold_curve(o) for o in results]) if results else Table(),
        pulls=vstack([pull_table(p) for p in pairs]) if pairs else Table(),
        accuracy=vstack([accuracy_table(p) for p in pairs]) if pairs else Table(),
        agreement=agreement_table(fields),
        cross=_cross(fields),
        meta=meta,
        further={name: table for name, table in further.items() if len(table)},
    )
    for table in made.tables.values():
        table.meta.update({key: meta[key] for key in ("floor", "truth_by_snr") if key in meta})
    return made


def _check_alike(fields: Sequence[ComparedField]) -> None:
    first = fields[0]
    for other in fields[1:]:
        odd = set(first.catalogues) ^ set(other.catalogues)
        if odd:
            raise InputError(
                f"The fields {first.name} and {other.name} differ in {min(odd)!r}; give every "
                "field the same catalogues (an oracle needs the true maps of every field)."
            )
        if (first.truth is None) != (other.truth is None):
            raise InputError(
                f"Only one of the fields {first.name} and {other.name} has a truth; give one for "
                "every field or for none."
            )


def _named(held: ComparedField, note: str, fields: int) -> str:
    return note if fields == 1 or note.startswith(ORACLE) else f"{held.name}: {note}"


def _truth_counts(outcome: Outcome, notes: list[str]) -> dict[str, Any]:
    """The floor, and how many true sources lie in each bin of S/N."""
    known = np.isfinite(outcome.snr)
    if not known.all():
        notes.append(
            f"{int((~known).sum())} true sources have no S/N, and all of them count; give the "
            "image for one"
        )
    counts = np.histogram(outcome.snr[known], SNR_BINS)[0]
    return {
        "floor": outcome.floor,
        "truth_by_snr": dict(zip(map(str, SNR_BINS), counts.tolist(), strict=False)),
    }


def _cross(fields: Sequence[ComparedField]) -> "Table":
    """Join the cross-catalogue tables of the fields; rows are counted over all of them."""
    from astropy.table import vstack

    parts = []
    clumps = matches = 0
    starts: dict[str, int] = {}
    for f in fields:
        tables = [*([] if f.truth is None else [f.truth]), *f.catalogues.values()]
        part = cross_match(tables, beam=f.beam)
        if len(fields) > 1:
            part.add_column(np.full(len(part), f.name), name="field", index=0)
        for table in tables:
            mine = np.asarray(part["catalogue"]) == table.name
            part["row"][mine] += starts.get(table.name, 0)
            starts[table.name] = starts.get(table.name, 0) + len(table)
        part["clump_id"] += clumps
        part["match_id"] += matches
        clumps = int(np.max(part["clump_id"], initial=clumps))
        matches = int(np.max(part["match_id"], initial=matches))
        parts.append(part)
    return vstack(parts, metadata_conflicts="silent")
