"""What a search found as one self-contained HTML page: a map of all sources, and their pictures."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.report_curves import plain
from cyclades.pipeline.comparison.report_sources import COLOURS, FluxUnit, fields, row_values
from cyclades.pipeline.comparison.tables import Floats
from cyclades.pipeline.page import asset, fill, render_page, table_html, write_page
from cyclades.pipeline.similarity.gallery import SIZE
from cyclades.pipeline.similarity.ranking import most_alike
from cyclades.pipeline.similarity.search import Search

if TYPE_CHECKING:
    from astropy.table import Table

PACKAGE = "cyclades.pipeline.similarity"
SHARED_SCRIPTS = ("figures.js", "values.js", "viewer.js")
SCRIPTS = ("map.js", "similar.js")
MOST_PICTURES = 2000
"""Sources whose pictures the page holds; further ones have their row alone."""
QUALITY = 80
"""Of the pictures, as WebP has it."""
SIDE = 1000.0
"""The longer side of the map, in units of its own."""
MARGIN = 40.0
NARROWEST = 400.0
"""The shorter side of the map is not less than this."""
QUIET = "#8a939c"
"""Colour of what has no value or no class."""
LABELS = {"similarity": "Similarity", "oddness": "Oddness"}
SCALES = {"similarity": (-1.0, 1.0), "oddness": (-2.0, 10.0)}
"""Ends of the colour scales; the same in all pages, so that colours compare."""


def write_report(
    found: Search, path: str | Path, *, number: int = 20, odd: bool = False, image: str = ""
) -> Path:
    """Write a search as one HTML page that needs no network.

    The page has the sources in a plane, alike ones near each other, coloured by class, similarity
    or oddness; pointing at one shows its picture and its row, a click keeps it and lists the
    sources that are most like it. Below are the pictures of the most similar and of the oddest.

    Parameters
    ----------
    found : Search
    path : path
        Of the page; its folder is made where it is missing.
    number : int
        Pictures in each list.
    odd : bool
        Whether the odd sources come first, before the similar ones.
    image : str
        What to call the image.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    path = Path(path)
    write_page(render_report(found, number=number, odd=odd, image=image), path)
    return path


def render_report(found: Search, *, number: int = 20, odd: bool = False, image: str = "") -> str:
    """Return the page as text; see `write_report`."""
    sheets = _sheets(found, number, odd)
    first = sheets[0]["rows"]
    title = f"Similar and odd sources: {image or found.catalogue.meta.get('image', 'catalogue')}"
    return render_page(
        asset("similar.html", PACKAGE),
        {
            "table": table_html(f"{sheets[0]['label']}: table", _table(found, first)),
            "zoom": fill(asset("zoom.html"), {"whole": "map"}),
        },
        title=title,
        subtitle=_subtitle(found),
        style=[asset("similar.css", PACKAGE)],
        scripts=[*map(asset, SHARED_SCRIPTS), *(asset(name, PACKAGE) for name in SCRIPTS)],
        data=payload(found, sheets),
    )


def payload(found: Search, sheets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page knows of the sources, as plain values; rows are those of the table.

    Parameters
    ----------
    found : Search
    sheets : list of dict
        Lists of pictures: ``key``, ``label`` and ``rows``.
    """
    table = from_catalogue(found.catalogue, table="sources")
    unit = FluxUnit.of([table])
    sources = found.catalogue.sources
    further = [name for name in (*LABELS, "morphology_probability") if name in sources.colnames]
    rows, likeness = most_alike(found.reduced)
    x, y, (width, height) = _laid_out(found.plane)
    kept = _kept(found, [row for sheet in sheets for row in sheet["rows"]])
    return {
        "frame": {"nx": width, "ny": height, "uri": None},
        "x": plain(x, 6),
        "y": plain(y, 6),
        "targets": found.targets.tolist(),
        "fields": _fields(unit),
        "values": row_values(table, unit)
        | {name: plain(np.asarray(sources[name], float), 4) for name in further},
        "alike": rows.tolist(),
        "likeness": [plain(line, 3) for line in likeness],
        "widths": plain(found.gallery.widths, 3),
        "pictures": {"side": SIZE, **sprite(found.gallery.pictures[kept]), "rows": kept.tolist()},
        "sheets": sheets,
        "colours": _colours(found),
    }


def _laid_out(plane: Floats) -> tuple[Floats, Floats, tuple[float, float]]:
    """Places of sources on the map, x and y, and the size of the map."""
    known = plane[np.isfinite(plane).all(1)]
    if not len(known):
        return plane[:, 0], plane[:, 1], (SIDE, SIDE)
    low, high = known.min(0), known.max(0)
    spread = float((high - low).max())
    scale = (SIDE - 2 * MARGIN) / spread if spread > 0 else 1.0
    size = np.maximum(scale * (high - low) + 2 * MARGIN, NARROWEST)
    x, y = (scale * (plane - 0.5 * (low + high)) + 0.5 * size).T
    return x, y, (float(size[0]), float(size[1]))


def _fields(unit: FluxUnit) -> list[dict[str, str]]:
    """Lines of the table of a chosen source: those of a comparison, and what the search adds."""
    known = [f for f in fields(unit) if f["key"] not in ("row", "verdict")]
    place = 1 + next(i for i, f in enumerate(known) if f["key"] == "morphology")
    probability = {"key": "morphology_probability", "label": "probability of the class"}
    added = [{"key": key, "label": label.lower()} for key, label in LABELS.items()]
    return [*known[:place], probability, *known[place:], *added]


def _sheets(found: Search, number: int, odd: bool) -> list[dict[str, Any]]:
    """The lists of pictures, the wanted one first; sources without a picture are in none."""
    table = found.catalogue.sources
    made = []
    for key, label in (("similarity", "Most similar"), ("oddness", "Oddest")):
        if key not in table.colnames:
            continue
        order = found.order(key == "oddness")
        known = np.isfinite(np.asarray(table[key], float)[order])
        made.append({"key": key, "label": label, "rows": order[known][:number].tolist()})
    return made[::-1] if odd else made


def _kept(found: Search, first: list[int]) -> NDArray[np.int64]:
    """Rows whose pictures the page holds: targets, `first`, and the others spread evenly."""
    known = np.flatnonzero(np.isfinite(found.plane).all(1))
    wanted = list(dict.fromkeys([*found.targets.tolist(), *first]))[:MOST_PICTURES]
    others = np.setdiff1d(known, wanted)
    room = min(len(others), MOST_PICTURES - len(wanted))
    spread = others[np.linspace(0, len(others) - 1, room).astype(int)] if room else others[:0]
    return np.array([*wanted, *spread.tolist()], np.int64)


def sprite(pictures: NDArray[np.uint8]) -> dict[str, Any]:
    """Put pictures side by side into one.

    Parameters
    ----------
    pictures : ndarray of uint8, shape (n, size, size)
        First row at the bottom.

    Returns
    -------
    dict
        ``uri`` (a data URI, WebP; None where there are no pictures) and ``columns``: picture k is
        in column ``k % columns`` and line ``k // columns`` from the top.
    """
    from PIL import Image

    number = len(pictures)
    if not number:
        return {"uri": None, "columns": 1}
    size = pictures.shape[1]
    columns = int(np.ceil(np.sqrt(number)))
    lines = -(-number // columns)
    whole = np.zeros((lines * columns, size, size), np.uint8)
    whole[:number] = pictures[:, ::-1]
    joined = whole.reshape(lines, columns, size, size).swapaxes(1, 2)
    stream = io.BytesIO()
    image = Image.fromarray(joined.reshape(lines * size, columns * size))
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return {"uri": f"data:image/webp;base64,{encoded}", "columns": columns}


def _colours(found: Search) -> list[dict[str, Any]]:
    """What the map can be coloured by: similarity, class and oddness, where there are values."""
    table = found.catalogue.sources
    made: list[dict[str, Any]] = []
    for key, label in LABELS.items():
        if key in table.colnames and np.isfinite(np.asarray(table[key], float)).any():
            made.append({"key": key, "label": label, "ends": SCALES[key]})
    classes = np.asarray(table["morphology"]).astype(str)
    if (classes != "").any():
        names, counts = np.unique(classes, return_counts=True)
        known = [name for name in names.tolist() if name not in ("", "unknown")]
        colour = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(known)}
        entries = [
            {"name": name, "colour": colour.get(name, QUIET), "count": int(count)}
            for name, count in zip(names.tolist(), counts, strict=True)
        ]
        # after the similarity, before the oddness
        at = sum(one["key"] == "similarity" for one in made)
        made.insert(at, {"key": "morphology", "label": "Class", "classes": entries})
    return made


def _subtitle(found: Search) -> str:
    table = found.catalogue.sources
    seen = int(np.isfinite(found.plane).all(1).sum())
    parts = [f"{len(table):,} sources, {seen:,} of them with a picture"]
    if len(found.targets):
        names = ", ".join(str(table["name"][row]) for row in found.targets)
        parts.append(f"compared to {names}")
    return " · ".join(parts)


def _table(found: Search, rows: list[int]) -> "Table":
    """The rows of a list, for readers without JavaScript."""
    from astropy.table import Column, Table

    wanted = ("name", "ra", "dec", "morphology", *LABELS)
    sources = found.catalogue.sources[rows]
    made = Table()
    for name in (name for name in wanted if name in sources.colnames):
        values = sources[name]
        unit = getattr(values, "unit", None)
        plain_values = values.value if unit is not None else np.asarray(values)
        made[name] = Column(np.asarray(plain_values), unit=unit)
    return made
