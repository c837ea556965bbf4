"""Catalogues over an image over the sky: the widget of Aladin Lite, with layers."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.report_image import ARCSEC, Frame
from cyclades.pipeline.comparison.report_sources import COLOURS
from cyclades.pipeline.panels import CEILING, FLOOR

if TYPE_CHECKING:
    from astropy.io.fits import HDUList
    from astropy.table import Table

    from cyclades.pipeline.comparison.compare import Comparison
    from cyclades.pipeline.comparison.tables import ComparisonTable
    from cyclades.stages.core.image import SkyImage

MOST_ELLIPSES = 3000
"""Rows above which a layer has markers only: every ellipse is a message of its own."""
MARGIN = 1.1
TRUTH_COLOUR = "#ffffff"
SHOWN = ("name", "ra", "dec", "ra_err", "dec_err", "peak_flux", "peak_flux_err", "total_flux",
         "total_flux_err", "major", "minor", "position_angle", "local_rms", "snr", "score",
         "morphology")  # fmt: skip
"""Columns of the table that a click on a source opens, where they hold anything."""


def sky_widget(comparison: "Comparison", height: int) -> Any:
    """Return the widget with the image, and a layer of markers and ellipses for every table.

    Parameters
    ----------
    comparison : Comparison
        Its image is drawn over the sky, in an asinh stretch from below its noise.
    height : int
        Screen pixels.

    Returns
    -------
    ipyaladin.Aladin
    """
    from astropy.coordinates import SkyCoord
    from ipyaladin import Aladin

    image, tables = comparison.image, [*comparison.catalogues.values()]
    if comparison.truth is not None:
        tables = [comparison.truth, *tables]
    frame = Frame.around(tables, 1.0) if image is None else Frame.of_image(image)
    ny, nx = frame.shape
    centre = frame.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2)
    assert isinstance(centre, SkyCoord)
    field = MARGIN * max(nx, ny) * frame.pixel_scale / ARCSEC
    widget = Aladin(target=centre.icrs, fov=field, coo_frame="ICRS", height=height)
    # ipyaladin 0.8 keeps what waits for the screen in one store of all widgets, and sends it again
    # with each widget that comes up
    if hasattr(widget, "_call_store"):
        widget._call_store = type(widget._call_store)()
    if image is not None:
        widget.add_fits(image_file(image), name=image.name, stretch="asinh", **_cuts(image))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(comparison.catalogues)}
    for table in tables:
        _add(widget, table, colours.get(table.name, TRUTH_COLOUR))
    return widget


def image_file(image: "SkyImage") -> "HDUList":
    """Return an image as a FITS file in memory: two axes, in degrees, as all programs read it."""
    from astropy.io.fits import HDUList, PrimaryHDU

    from cyclades.stages.core.headers import product_header

    return HDUList([PrimaryHDU(image.data, product_header(image))])


def rows_table(table: "ComparisonTable") -> "Table":
    """Return the columns of a table that hold anything, with units; `SHOWN` lists them."""
    whole = table.table
    kept = []
    for name in SHOWN:
        values = table[name]
        if (values != "").any() if values.dtype.kind == "U" else np.isfinite(values).any():
            kept.append(name)
    made = whole[[name for name in kept if name in whole.colnames]]
    made.meta.clear()  # a name of the user's would have to be a valid identifier in a VOTable
    return made


def _cuts(image: "SkyImage") -> dict[str, float]:
    """Limits of the stretch, from the median and the robust scatter of the pixels."""
    good = image.data[np.isfinite(image.data)]
    if not good.size:
        return {}
    level = float(np.median(good))
    rms = 1.4826 * float(np.median(np.abs(good - level))) or float(good.std())
    high = min(float(good.max()), level + CEILING * rms)
    return {"min_cut": level - FLOOR * rms, "max_cut": max(high, level + FLOOR * rms)}


def _add(widget: Any, table: "ComparisonTable", colour: str) -> None:
    rows = rows_table(table)
    if not len(rows):
        return
    widget.add_table(rows, name=table.name, color=colour, shape="cross", source_size=8)
    if len(rows) > MOST_ELLIPSES:
        return
    from cyclades.stages.core.footprints import table_regions

    ellipses = table_regions(table.table)
    if ellipses:
        widget.add_graphic_overlay_from_region(
            ellipses, name=f"{table.name}: widths", color=colour, line_width=2
        )
