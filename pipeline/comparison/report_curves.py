"""The curves of a report: every catalogue in the same axes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.accuracy import Pairs, accuracy_table, pull_table
from cyclades.pipeline.comparison.metrics import by_bin, flux_edges, threshold_curve
from cyclades.pipeline.comparison.outcome import Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats

if TYPE_CHECKING:
    from astropy.table import Table

SNR_EDGES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.5, 10.0, 14.0, 20.0, 40.0, 100.0, 1000.0)
ACCURACY_EDGES = (5.0, 7.0, 10.0, 14.0, 20.0, 40.0, 100.0, 1000.0)
FEWEST = 3
"""Sources in a bin below which a share is not drawn."""
MOST_POINTS = 120
SNR_AXIS = {"label": "signal to noise", "log": True}
SHARE = {"range": [None, 1.02]}
Figure = dict[str, Any]
Series = dict[str, Any]


def plain(values: Any, digits: int = 5) -> list[float | None]:
    """Return numbers with some significant digits, and None for what JSON cannot hold."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


def figure(
    title: str, note: str, x: Figure, y: Figure, series: list[Series], **more: Any
) -> Figure:
    """Join the parts of a figure; axes have ``label``, and ``log`` and ``range`` where wanted."""
    return {"title": title, "note": note, "x": x, "y": y, "series": series, **more}


def truth_figures(outcomes: Sequence[Outcome], first: int) -> list[Figure]:
    """Curves of catalogues against a truth.

    Parameters
    ----------
    outcomes : sequence of Outcome
    first : int
        Number of the first catalogue among the layers of the page.
    """
    floor = outcomes[0].floor
    made = []
    snr = {"label": "true signal to noise", "log": True}
    made.append(
        figure(
            "Completeness",
            f"Share of true sources that were found; truth below S/N {floor:g} is ignored. Bars: "
            "68 % binomial (Wilson) intervals.",
            snr,
            {"label": "completeness", **SHARE},
            _shares(outcomes, first, SNR_EDGES, "snr", "completeness"),
        )
    )
    made.append(
        figure(
            "Reliability",
            "Share of catalogue rows that are true, by the signal to noise that they were given.",
            {"label": "catalogued signal to noise", "log": True},
            {"label": "reliability", **SHARE},
            _shares(outcomes, first, SNR_EDGES, "snr", "reliability"),
        )
    )
    edges = flux_edges(outcomes[0].truth, 10)
    if len(edges):
        for name, whose in (("completeness", "true"), ("reliability", "catalogued")):
            made.append(
                figure(
                    f"{name.capitalize()} by flux",
                    f"The same against the {whose} total flux.",
                    {"label": f"{whose} total flux (Jy)", "log": True},
                    {"label": name, **SHARE},
                    _shares(outcomes, first, edges, "total_flux", name),
                )
            )
    made.append(_trade_off(outcomes, first))
    pairs = [Pairs.of_outcome(outcome) for outcome in outcomes]
    return [drawn for drawn in [*made, *pair_figures(pairs, first, "true")] if drawn["series"]]


def _shares(
    outcomes: Sequence[Outcome],
    first: int,
    edges: Sequence[float] | Floats,
    quantity: str,
    name: str,
) -> list[Series]:
    """One series of shares with intervals for each catalogue."""
    made = []
    for number, outcome in enumerate(outcomes):
        table = by_bin(outcome, list(edges), quantity)
        counts = np.asarray(table["truth" if name == "completeness" else "rows"])
        rows = table[counts >= FEWEST]
        if not len(rows):
            continue
        made.append(
            {
                "layer": first + number,
                "x": _middles(rows, quantity),
                "y": plain(rows[name]),
                "low": plain(rows[f"{name}_low"]),
                "high": plain(rows[f"{name}_high"]),
                "n": [int(n) for n in counts[counts >= FEWEST]],
            }
        )
    return made


def _middles(table: "Table", quantity: str) -> list[float | None]:
    """Geometric middles of bins."""
    low, high = (np.asarray(table[f"{quantity}_{end}"], float) for end in ("low", "high"))
    return plain(np.sqrt(low * np.where(np.isfinite(high), high, 2.0 * low)))


def _trade_off(outcomes: Sequence[Outcome], first: int) -> Figure:
    """Completeness against reliability, over the threshold."""
    series = []
    for number, outcome in enumerate(outcomes):
        curve = threshold_curve(outcome)
        if len(curve) < 2:
            continue
        rows = np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).astype(int))
        series.append(
            {
                "layer": first + number,
                "x": plain(curve["completeness"][rows]),
                "y": plain(curve["reliability"][rows]),
            }
        )
    return figure(
        "Completeness and reliability",
        "Each catalogue cut at every value of its score, or of its signal to noise where it has "
        "no score.",
        {"label": "completeness"},
        {"label": "reliability", "range": [None, 1.002]},
        series,
        plain=True,
    )


def pair_figures(pairs: Sequence[Pairs], first: int, other: str) -> list[Figure]:
    """Ratios, offsets and pulls of matched rows.

    Parameters
    ----------
    pairs : sequence of Pairs
    first : int
        Number of the layer of the first pairs.
    other : str
        What the rows are compared with: ``"true"``, or a catalogue's name.
    """
    points = ", points" if other == "true" else ""
    accuracy = [accuracy_table(pair, ACCURACY_EDGES) for pair in pairs]
    pulls = [pull_table(pair, ACCURACY_EDGES) for pair in pairs]
    # catalogues of one image share its noise, so their differences are smaller than their errors
    spread = "1 is right." if other == "true" else "below 1, since both share the image's noise."
    made = []
    for title, quantity, kind, reference in (
        (f"Peak flux ratio{points}", "peak_flux", "point", 1.0),
        (f"Total flux ratio{points}", "total_flux", "point", 1.0),
        ("Total flux ratio, resolved", "total_flux", "resolved", 1.0),
        ("Major axis ratio, resolved", "major", "resolved", 1.0),
    ):
        label = f"{title.split(',')[0].lower().removesuffix(' ratio')} / {other}"
        note = "Median; bars: robust scatter of single sources."
        made.append(
            _by_snr(title, note, label, accuracy, first, quantity, kind, [reference], scatter=True)
        )
    note = "Median separation on the sky; bars: 68 % bootstrap intervals of the median."
    made.append(
        _by_snr(f"Position offset{points}", note, "offset (arcsec)", accuracy, first,
                "separation", "point", None, log=True)
    )  # fmt: skip
    for name, label in (("ra", "right ascension"), ("dec", "declination"),
                        ("peak_flux", "peak flux"), ("total_flux", "total flux")):  # fmt: skip
        note = f"Robust sigma of (measured − {other}) / reported error; {spread}"
        made.append(
            _by_snr(f"Pull of {label}{points}", note, "robust sigma of the pull", pulls, first,
                    name, "point", [1.0], column="sigma", y={"range": [0, None]})
        )  # fmt: skip
    for name, label in (("peak_flux", "peak flux"), ("total_flux", "total flux")):
        note = f"Median of (measured − {other}) / reported error; 0 is unbiased."
        made.append(
            _by_snr(f"Bias of {label}{points}", note, "median pull", pulls, first, name, "point",
                    [0.0])
        )  # fmt: skip
    return [drawn for drawn in made if drawn["series"]]


def _by_snr(
    title: str,
    note: str,
    label: str,
    tables: Sequence["Table"],
    first: int,
    quantity: str,
    kind: str,
    reference: list[float] | None,
    *,
    column: str = "median",
    log: bool = False,
    scatter: bool = False,
    y: Figure | None = None,
) -> Figure:
    """One quantity of `accuracy_table` or `pull_table` against S/N."""
    series = []
    for number, table in enumerate(tables):
        pick = (np.asarray(table["quantity"]) == quantity) & (np.asarray(table["kind"]) == kind)
        # rows over several bins are not part of a curve
        bins = list(itertools.pairwise(ACCURACY_EDGES))
        spans = zip(table["snr_low"].tolist(), table["snr_high"].tolist(), strict=True)
        rows = table[pick & np.array([span in bins for span in spans], bool)]
        if not len(rows):
            continue
        if scatter:
            low, high = rows["median"] - rows["scatter"], rows["median"] + rows["scatter"]
        else:
            low, high = rows[f"{column}_low"], rows[f"{column}_high"]
        series.append(
            {
                "layer": first + number,
                "x": _middles(rows, "snr"),
                "y": plain(rows[column]),
                "low": plain(low),
                "high": plain(high),
                "n": [int(n) for n in rows["number"]],
            }
        )
    return figure(title, note, SNR_AXIS, {"label": label, "log": log, **(y or {})}, series,
                  reference=reference)  # fmt: skip


def survey_figures(further: "Mapping[str, Table]", names: Sequence[str]) -> list[Figure]:
    """Source counts of every catalogue, and the visibility area of the image, where known.

    Parameters
    ----------
    further : mapping of str to Table
        See `cyclades.pipeline.comparison.compare.Comparison`.
    names : sequence of str
        The layers of the page in their order.
    """
    made = []
    if "counts" in further:
        table = further["counts"]
        series = []
        for number, name in enumerate(names):
            rows = table[(np.asarray(table["catalogue"]) == name) & (table["counts"] > 0)]
            if len(rows):
                series.append(
                    {
                        "layer": number,
                        "x": plain(rows["flux"]),
                        "y": plain(rows["counts"]),
                        "low": plain(rows["counts_low"]),
                        "high": plain(rows["counts_high"]),
                        "n": [int(n) for n in rows["number"]],
                    }
                )
        made.append(
            figure(
                "Source counts",
                "Euclid-normalised differential counts, corrected for the visibility area only.",
                {"label": "total flux (Jy)", "log": True},
                {"label": "S^2.5 dN/dS (Jy^1.5 / sr)", "log": True},
                series,
            )
        )
    if "visibility" in further:
        table = further["visibility"]
        rows = np.unique(np.linspace(0, len(table) - 1, MOST_POINTS).astype(int))
        curve = {"layer": None, "x": plain(table["rms"][rows]), "y": plain(table["area"][rows])}
        made.append(
            figure(
                "Visibility area",
                "Area of the image whose rms is below a value.",
                {"label": "rms (Jy/beam)", "log": True},
                {"label": "area (square degrees)"},
                [curve],
                plain=True,
            )
        )
    return [drawn for drawn in made if drawn["series"]]


def agreement_figure(tables: Sequence[ComparisonTable], shared: Sequence[Any]) -> Figure:
    """Share of the rows of each catalogue that another one has too, against S/N, without truth.

    Parameters
    ----------
    tables : sequence of ComparisonTable
    shared : sequence of ndarray of bool
        Which rows some other catalogue has.
    """
    from cyclades.pipeline.comparison.intervals import wilson

    series = []
    limits = np.asarray(SNR_EDGES)
    for number, (table, common) in enumerate(zip(tables, shared, strict=True)):
        bins = np.digitize(table["snr"], limits) - 1
        inside = np.isfinite(table["snr"]) & (bins >= 0) & (bins < len(limits) - 1)
        total = np.bincount(bins[inside], minlength=len(limits) - 1)
        hits = np.bincount(bins[inside & common], minlength=len(limits) - 1)
        keep = total >= FEWEST
        if not keep.any():
            continue
        low, high = wilson(hits[keep], total[keep])
        series.append(
            {
                "layer": number,
                "x": plain(np.sqrt(limits[:-1] * limits[1:])[keep]),
                "y": plain(hits[keep] / total[keep]),
                "low": plain(low),
                "high": plain(high),
                "n": [int(n) for n in total[keep]],
            }
        )
    return figure(
        "Agreement",
        "Share of the rows of each catalogue that another catalogue has too. Bars: 68 % binomial "
        "(Wilson) intervals.",
        {"label": "catalogued signal to noise", "log": True},
        {"label": "share found elsewhere", **SHARE},
        series,
    )
