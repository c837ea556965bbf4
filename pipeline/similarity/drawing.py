"""What a search draws: a sheet of pictures, and a map of all sources."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.similarity.search import Search
from cyclades.pipeline.studies.files import written_whole

COLUMNS = 8
LARGEST_MAP = 250
"""Sources that the map shows as pictures; of more, the others are dots."""


def draw_sheet(found: Search, rows: NDArray[np.int64], path: Path, *, odd: bool = False) -> None:
    """Draw the close pictures of sources with their values, in the order of the rows.

    Parameters
    ----------
    found : Search
    rows : ndarray of int
    path : path
        A PNG.
    odd : bool
        Whether the oddness is written below, instead of the similarity.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    from matplotlib.figure import Figure

    table = found.catalogue.sources
    values = np.asarray(table["oddness" if odd else "similarity"], float)
    number = max(1, -(-len(rows) // COLUMNS))
    figure = Figure(figsize=(1.6 * COLUMNS, 2.0 * number), layout="constrained")
    places: Any = figure.subplots(number, COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, row in zip(places, rows, strict=False):
        # east to the left and north up, as the pictures have them
        axes.imshow(found.gallery.pictures[row], origin="lower", cmap="inferno", vmin=0, vmax=255)
        title = f"{table['name'][row]}\n{values[row]:.3f}"
        chosen = row in found.targets
        axes.set_title(title, fontsize=6, color="tab:red" if chosen else "black")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def draw_map(found: Search, path: Path) -> None:
    """Draw all sources in a plane, alike ones near each other; targets in red, odd ones in orange.

    Parameters
    ----------
    found : Search
    path : path
        A PNG.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    known = np.flatnonzero(np.isfinite(found.plane).all(1))
    place = found.plane[known]
    odd = np.asarray(found.catalogue.sources["oddness"], float)
    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots()
    axes.scatter(place[:, 0], place[:, 1], s=4, color="0.5")
    # the first rows are the northern- or westernmost ones: spread the pictures evenly instead
    shown = np.linspace(0, len(known) - 1, min(len(known), LARGEST_MAP)).astype(int)
    shown = np.unique(np.append(shown, np.flatnonzero(np.isin(known, found.targets))))
    for k in shown:
        row = known[k]
        image = OffsetImage(found.gallery.pictures[row][::-1], zoom=0.3, cmap="inferno")
        colour = "tab:red" if row in found.targets else "tab:orange" if odd[row] > 5 else "0.7"
        box = {"edgecolor": colour, "linewidth": 0.5 if colour == "0.7" else 2.0}
        axes.add_artist(AnnotationBbox(image, tuple(place[k]), pad=0.0, bboxprops=box))
        if colour != "0.7":
            name = str(found.catalogue.sources["name"][row])
            axes.annotate(name, tuple(place[k]), (0, -20), textcoords="offset points", fontsize=6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("Sources by the features of their pictures; no unit, alike ones are near")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
