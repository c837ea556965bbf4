"""An image with the sources of catalogues in a notebook, or as a page."""

import html
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclades.pipeline.page import write_page
from cyclades.pipeline.viewing.gather import Shown, gather
from cyclades.stages.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.compare import Comparison
    from cyclades.pipeline.comparison.field import TrueSky
    from cyclades.stages.core.image import SkyImage

VIEWERS = ("page", "aladin")
HEIGHT = 760
"""Of what is shown, screen pixels."""


@dataclass(frozen=True, repr=False)
class PageView:
    """A page that a notebook shows by itself.

    Parameters
    ----------
    text : str
        The page, which needs nothing from outside.
    height : int
        Screen pixels.
    """

    text: str
    height: int = HEIGHT

    def __repr__(self) -> str:
        return f"<PageView of {len(self.text) / 1e6:.1f} MB; save(path) writes it as a file>"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, which scripts of the notebook cannot reach."""
        return (
            f'<iframe srcdoc="{html.escape(self.text)}" sandbox="allow-scripts" '
            f'title="Image with sources" style="width:100%;height:{self.height}px;'
            'border:1px solid #d5dae0"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the page, as one HTML file.

        Raises
        ------
        OutputError
            Where it cannot be written.
        """
        write_page(self.text, Path(path))
        return Path(path)


def show(
    what: "Comparison | Shown | Mapping[str, Shown] | Iterable[Shown]",
    image: "SkyImage | str | PathLike[str] | None" = None,
    *,
    truth: "TrueSky | None" = None,
    viewer: str | None = None,
    height: int = HEIGHT,
) -> Any:
    """Show an image with the sources of one or several catalogues; for the end of a notebook cell.

    Catalogues are layers, which are turned on and off; a click on a source shows its row in every
    catalogue, and on the page its cut-outs.

    Parameters
    ----------
    what : Comparison, Result, Catalogue, table or path; mapping or sequence of these
        A mapping names the layers: ``{"classical": one, "yolo": other}``.
    image : SkyImage or path, optional
        That of the first result by default; without one the sources are shown alone.
    truth : path, Simulation, Truth, Catalogue or ComparisonTable, optional
        The true sources, as a further layer; the page then also has the figures of a comparison.
    viewer : {"page", "aladin"}, optional
        ``"page"`` is that of a comparison's report, which needs no network; ``"aladin"`` is Aladin
        Lite with the image over the sky, which comes from the network. By default Aladin where the
        extra ``viewer`` is installed, else the page.
    height : int
        Screen pixels.

    Returns
    -------
    PageView or ipyaladin.Aladin

    Raises
    ------
    InputError
        Where there is nothing to show, or a table or the image cannot be used.
    ConfigurationError
        Where there is no such viewer, or it is not installed.

    Examples
    --------
    ``cyclades.show(cyclades.Pipeline.from_route("classical").run("magpis.fits"))``
    """
    installed = importlib.util.find_spec("ipyaladin") is not None
    if viewer is None:
        viewer = "aladin" if installed else "page"
    if viewer not in VIEWERS:
        raise ConfigurationError(f"There is no viewer {viewer!r}; choose {' or '.join(VIEWERS)}.")
    if viewer == "aladin" and not installed:
        raise ConfigurationError(
            "The viewer aladin needs the package ipyaladin; install cyclades[viewer], or give "
            "viewer='page'."
        )
    comparison = gather(what, image, truth)
    if viewer == "aladin":
        from cyclades.pipeline.viewing.sky_widget import sky_widget

        return sky_widget(comparison, height)
    from cyclades.pipeline.comparison.report import render_report

    return PageView(render_report(comparison, comparison.image, {}), height)
