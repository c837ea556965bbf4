"""A comparison as one self-contained HTML page."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclades.pipeline.comparison.accuracy import Pairs
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.report_curves import (
    agreement_figure,
    pair_figures,
    survey_figures,
    truth_figures,
)
from cyclades.pipeline.comparison.report_image import Frame
from cyclades.pipeline.comparison.report_sources import (
    HAS_COUNTERPART,
    FluxUnit,
    catalogue_status,
    fields,
    layers,
    mismatches,
)
from cyclades.pipeline.page import asset, made_by, render_page, table_html, write_page

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.comparison.compare import Comparison
    from cyclades.stages.core.image import SkyImage

FILE_NAME = "report.html"
SCRIPTS = ("figures.js", "values.js", "viewer.js", "report.js")
PIXELS_A_BEAM = 5.0
UNFOLDED = 12
"""Rows above which a further table is folded away."""
TITLES = {
    "summary": "Summary",
    "by_snr": "Completeness and reliability by signal to noise",
    "by_flux": "Completeness and reliability by total flux (Jy)",
    "by_class": "Completeness by class",
    "agreement": "Agreement between catalogues",
    "accuracy": "Ratios of fluxes and sizes, offsets of positions (arcsec)",
    "pulls": "Pulls of the reported errors",
    "average_precision": "Average precision of detection (AP50, AP50:95)",
    "benchmark": "Detection benchmark of Sortino et al. (2023), and the corrected form",
    "challenge": "SKA Data Challenge 1 score",
    "association": "Association of components",
    "labels": "Against labels of real fields",
    "over_fields": "Intervals over fields",
    "corrections": "Corrections of counts: reliability over completeness",
    "counts": "Euclid-normalised differential counts (Jy^1.5 / sr)",
    "visibility": "Area against rms",
    "residuals": "Statistics of the residual image, in units of the local rms",
}
"""The tables of the page, in its order; the first stands above the image. Others follow under
their own names."""
NOT_PRINTED = ("curves", "cross")


def write_report(
    comparison: "Comparison",
    directory: str | Path,
    image: "SkyImage | str | Path | None" = None,
    *,
    extra: "Mapping[str, Table] | None" = None,
) -> Path:
    """Write a comparison as one HTML page that needs no network.

    The page holds the tables, the curves of all catalogues in the same axes, and the image with
    the sources of every catalogue; a click on a source shows its cut-outs and its row in every
    catalogue. The worst mismatches are listed first.

    Parameters
    ----------
    comparison : Comparison
    directory : path
        Made where it is missing.
    image : SkyImage or path, optional
        Drawn under the sources; the comparison's own by default.
    extra : mapping of title to Table, optional
        Further tables to print, above the image.

    Returns
    -------
    Path
        The page, ``report.html``.

    Raises
    ------
    OutputError
        Where it cannot be written.
    InputError
        Where the image cannot be read or has no sky coordinates.
    """
    if isinstance(image, str | Path):
        from cyclades.stages.core.io import read_image

        image = read_image(image)
    text = render_report(comparison, comparison.image if image is None else image, extra or {})
    path = Path(directory) / FILE_NAME
    write_page(text, path)
    return path


def render_report(
    comparison: "Comparison", image: "SkyImage | None", extra: "Mapping[str, Table]"
) -> str:
    """Return the page as text; see `write_report`."""
    tables = [*comparison.catalogues.values()]
    if comparison.truth is not None:
        tables = [comparison.truth, *tables]
    beam = float(comparison.meta["beam"])
    pixel = beam / PIXELS_A_BEAM
    frame = Frame.around(tables, pixel) if image is None else Frame.of_image(image)
    payload = frame.payload()
    if payload["beam"] is None:
        payload["beam"] = [beam / frame.pixel_scale, beam / frame.pixel_scale, 0.0]
    unit = FluxUnit.of(tables)
    drawn = layers(comparison, frame, unit)
    data = {
        "frame": payload,
        "fields": fields(unit),
        "layers": drawn,
        "mismatches": mismatches(comparison, unit),
        "figures": _figures(comparison),
    }
    made = comparison.tables
    names = [*(n for n in TITLES if n in made), *(n for n in made if n not in TITLES)]
    shown = {
        TITLES.get(name, name.replace("_", " ").capitalize()): made[name]
        for name in names
        if len(made[name]) and name not in NOT_PRINTED
    }
    summary = shown.pop(TITLES["summary"], None)
    unfolded = "".join(table_html(title, t, folded=len(t) > UNFOLDED) for title, t in extra.items())
    name = image.name if image is not None else " and ".join(comparison.catalogues)
    alone = comparison.truth is None and len(tables) == 1
    return render_page(
        asset("report.html"),
        {
            "chips": "".join(_chip(number, layer) for number, layer in enumerate(drawn)),
            "summary": ("" if summary is None else _summary_html(summary)) + unfolded,
            "tables": _tables_html(shown),
        },
        title=f"Sources of {name}" if alone else f"Comparison: {name}",
        subtitle=_subtitle(comparison),
        scripts=[asset(script) for script in SCRIPTS],
        data=data,
        footer=_footer(comparison),
    )


def _tables_html(shown: "Mapping[str, Table]") -> str:
    if not shown:
        return ""
    return (
        '<section id="tables" aria-labelledby="tables-title"><h2 id="tables-title">Tables</h2>'
        + "".join(table_html(title, table) for title, table in shown.items())
        + "</section>"
    )


def _figures(comparison: "Comparison") -> list[dict[str, Any]]:
    if comparison.outcomes:
        names = ["truth", *comparison.catalogues]
        against = truth_figures(list(comparison.outcomes.values()), 1)
        return [*against, *survey_figures(comparison.further, names)]
    tables = list(comparison.catalogues.values())
    if len(tables) < 2:
        return []
    shared = [catalogue_status(comparison, t.name) == HAS_COUNTERPART for t in tables]
    first, *others = tables
    pairs = [
        Pairs.of_matches(t.name, first, t, match(first, t, beam=comparison.meta["beam"]))
        for t in others
    ]
    return [
        agreement_figure(tables, shared),
        *pair_figures(pairs, 1, first.name),
        *survey_figures(comparison.further, [table.name for table in tables]),
    ]


def _subtitle(comparison: "Comparison") -> str:
    parts = [f"{name}: {len(table):,} rows" for name, table in comparison.catalogues.items()]
    if comparison.truth is not None:
        counted = int(next(iter(comparison.outcomes.values())).counted.sum())
        floor = comparison.meta["floor"]
        parts.append(f"truth: {counted:,} sources at S/N ≥ {floor:g} of {len(comparison.truth):,}")
    return " · ".join([*parts, f"beam {comparison.meta['beam']:.3g} arcsec"])


def _footer(comparison: "Comparison") -> str:
    notes = [str(note) for note in comparison.meta.get("notes", [])]
    notes = [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes if note]
    return " ".join([made_by(), *notes])


def _chip(number: int, layer: Mapping[str, Any]) -> str:
    dash = " ".join(map(str, layer["dash"]))
    line = (
        '<svg width="26" height="12" aria-hidden="true"><ellipse cx="13" cy="6" rx="11" ry="4.5" '
        f'fill="none" stroke="{layer["colour"]}" stroke-width="2" stroke-dasharray="{dash}"/></svg>'
    )
    return (
        f'<label><input type="checkbox" id="layer-{number}" checked>{line}'
        f'{html.escape(layer["name"])} <span class="count">{len(layer["x"]):,}</span></label>'
    )


SUMMARY_COLUMNS = {
    "catalogue": "catalogue",
    "rows": "rows",
    "completeness": "completeness",
    "reliability": "reliability",
    "f1": "F1",
    "area_under_curve": "area under C-R curve",
    "completeness_at_0.95": "C at R = 0.95",
    "completeness_at_0.99": "C at R = 0.99",
    "false_rows": "false rows",
    "rows_ignored": "rows ignored",
}


def _summary_html(table: "Table") -> str:
    """The main numbers of each catalogue, intervals below them."""
    head = "".join(f'<th scope="col">{html.escape(t)}</th>' for t in SUMMARY_COLUMNS.values())
    lines = []
    for row in table:
        cells = []
        for name in SUMMARY_COLUMNS:
            text = f"{row[name]:.4f}" if table[name].dtype.kind == "f" else str(row[name])
            interval = ""
            low, high = f"{name}_low", f"{name}_high"
            if low in table.colnames:
                plus, minus = row[high] - row[name], row[name] - row[low]
                interval = f" <small>+{plus:.4f} −{minus:.4f}</small>"
            cells.append(f"<td>{html.escape(text)}{interval}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = "Intervals are 68 %. The definition of every number is in the documentation (metrics)."
    return (
        '<section id="summary" aria-labelledby="summary-title"><h2 id="summary-title">Summary</h2>'
        f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="note">{note}</p></section>'
    )
