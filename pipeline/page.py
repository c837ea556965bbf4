"""Parts of pages: one HTML file each that holds all it needs and asks for nothing from outside."""

import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades import __version__
from cyclades.stages.core.errors import OutputError

if TYPE_CHECKING:
    from astropy.table import Table

SHARED = "cyclades.pipeline.comparison"
"""The package whose assets other pages use as well: style, figures, values, viewer."""
LARGEST_TABLE = 400
"""Rows above which a table is not printed in the page."""


def asset(name: str, package: str = SHARED) -> str:
    """Return the text of a file in the folder ``report_assets`` of a package."""
    return files(package).joinpath("report_assets", name).read_text("utf-8")


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Put parts into a template.

    Parameters
    ----------
    template : str
        With ``@name@`` where the part of this name goes.
    parts : mapping of str to str
        Put in as they are, in one pass, so that no part's text is searched again.
    """
    return "".join(parts.get(piece, piece) for piece in template.split("@"))


def render_page(
    body: str,
    parts: Mapping[str, str],
    *,
    title: str,
    subtitle: str,
    style: Sequence[str] = (),
    scripts: Sequence[str] = (),
    data: Any = None,
    footer: str = "",
) -> str:
    """Return a whole page: the head, the title, a body, the footer and scripts.

    Parameters
    ----------
    body : str
        Template of what stands between title and footer. Besides `parts` it may name ``zoom``,
        the buttons of a viewer of an image, and ``stretch``, how its pixels are shown.
    parts : mapping of str to str
        HTML that goes into the body.
    title, subtitle : str
        Plain text.
    style : sequence of str
        Style sheets after the one that all pages share.
    scripts : sequence of str
        Without any, the page allows none.
    data : optional
        Plain values for the scripts, in the element ``report-data``.
    footer : str
        Plain text; what made the page by default.
    """
    tools = {"zoom": fill(asset("zoom.html"), {"whole": "image"}), "stretch": asset("stretch.html")}
    told = []
    if data is not None:
        held = script_json(data)
        told.append(f'<script type="application/json" id="report-data">{held}</script>')
    if scripts:
        told.append("<script>\n{}\n</script>".format("\n".join(scripts)))
    return fill(
        asset("page.html"),
        {
            "policy": "; script-src 'unsafe-inline'" if scripts else "",
            "title": html.escape(title),
            "subtitle": html.escape(subtitle),
            "style": "\n".join([asset("report.css"), *style]),
            "body": fill(body, tools | dict(parts)),
            "footer": html.escape(footer or made_by()),
            "scripts": "\n".join(told),
        },
    )


def script_json(data: Any) -> str:
    """Return JSON that may stand inside a script element whatever texts it holds.

    Raises
    ------
    ValueError
        Where a number is not finite.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def made_by() -> str:
    """Say what made a page, and when."""
    return f"Made by cyclades {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M UTC}."


def write_page(text: str, path: Path) -> None:
    """Write a page; its folder is made where it is missing.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); choose another directory."
        ) from error


def table_html(title: str, table: "Table", *, folded: bool = True) -> str:
    """Return a table under its title, folded away or not, as HTML.

    Parameters
    ----------
    title : str
    table : Table
        Its first `LARGEST_TABLE` rows are printed; NaN as a dash.
    folded : bool
    """
    shown = table[:LARGEST_TABLE]
    head = "".join(_head(table, name) for name in table.colnames)
    rows = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in shown)
    note = ""
    if len(shown) < len(table):
        note = f'<p class="note">The first {len(shown):,} of {len(table):,} rows.</p>'
    state = "" if folded else " open"
    return (
        f"<details{state}><summary>{html.escape(title)}</summary>{note}<div class='table'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _head(table: "Table", name: str) -> str:
    unit = table[name].unit
    tail = f'<span class="unit">{html.escape(str(unit))}</span>' if unit else ""
    kind = ' class="text"' if table[name].dtype.kind in "US" else ""
    return f'<th scope="col"{kind}>{html.escape(name.replace("_", " "))}{tail}</th>'


def _cell(value: Any) -> str:
    kind = ' class="text"' if isinstance(value, str) else ""
    return f"<td{kind}>{html.escape(_text(value))}</td>"


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        if np.isposinf(value):
            return "∞"
        return f"{value:.4g}".replace("-", "−") if np.isfinite(value) else "–"
    return str(value)
