"""Pictures of planes side by side, with what stages found drawn on them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.geometry import Floats, shape_from_covariance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from cyclades.stages.core.products import Components, Detections

Plane = NDArray[np.floating]
LARGEST = 1400
"""Pixels along one side of a panel; larger images are averaged down to it."""
FLOOR, CEILING = 3.0, 300.0
"""Limits of an image's stretch below and above the background, in units of the rms."""
BLANK = "0.7"
"""Grey of pixels without a value."""


def shrink(
    data: NDArray[np.float32], largest: int = LARGEST, step: int | None = None
) -> NDArray[np.float32]:
    """Average blocks of pixels so that no side is longer than `largest`; NaN is left out.

    The last block of a row or column may hold fewer pixels. `step` gives the side of a block
    instead.
    """
    if step is None:
        step = -(-max(data.shape) // largest)
    if step == 1:
        return data
    good = np.isfinite(data)
    rows, columns = (np.arange(0, n, step) for n in data.shape)
    total = np.add.reduceat(np.where(good, data, 0.0), rows, axis=0)
    total = np.add.reduceat(total, columns, axis=1)
    number = np.add.reduceat(good, rows, axis=0, dtype=np.float32)
    number = np.add.reduceat(number, columns, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / number, np.float32)


def sky_stretch(top: float, rms: float, level: float = 0.0) -> "Normalize":
    """Return an asinh stretch in which the noise is seen and bright sources keep their shape.

    Parameters
    ----------
    top : float
        Brightest pixel; NaN or minus infinity where there is none.
    rms, level : float
        Of the background.
    """
    from astropy.visualization import AsinhStretch, ImageNormalize

    top = top if np.isfinite(top) else level + rms
    low, high = level - FLOOR * rms, min(max(top, level + 10 * rms), level + CEILING * rms)
    stretch: Normalize = ImageNormalize(
        vmin=low, vmax=high, stretch=AsinhStretch(FLOOR * rms / (high - low))
    )
    return stretch


def brightest(data: Plane) -> float:
    """Return the largest finite value; minus infinity where there is none."""
    return float(np.nanmax(data)) if np.isfinite(data).any() else -np.inf


def show(
    axes: "Axes",
    data: Plane,
    norm: "Normalize",
    *,
    difference: bool = False,
    shape: tuple[int, int] | None = None,
) -> Any:
    """Draw a plane in its own pixel coordinates, large ones averaged down, blanks grey.

    Parameters
    ----------
    axes : matplotlib Axes
    data : ndarray, shape (ny, nx)
    norm : matplotlib Normalize
    difference : bool
        Whether zero is in the middle: blue below, red above.
    shape : (ny, nx), optional
        Of the full image, where the plane was averaged down before.

    Returns
    -------
    AxesImage
        For a colour bar.
    """
    ny, nx = data.shape if shape is None else shape
    shown = axes.imshow(
        shrink(np.asarray(data, np.float32)),
        origin="lower",
        interpolation="nearest",
        norm=norm,
        cmap="RdBu_r" if difference else "inferno",
        extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
    )
    axes.set_facecolor(BLANK)
    return shown


def panels(
    planes: Mapping[str, Plane],
    *,
    rms: float,
    level: float = 0.0,
    limit: float | None = None,
    columns: int = 4,
    side: float = 3.2,
    label: str = "",
) -> "tuple[Figure, dict[str, Axes]]":
    """Draw planes side by side, all in one stretch.

    Parameters
    ----------
    planes : mapping of str to ndarray, shape (ny, nx)
        By title; NaN is grey.
    rms, level : float
        Of the background, for the stretch.
    limit : float, optional
        Draw differences instead, from ``-limit`` to ``limit`` times the rms, around the level.
    columns : int
        Panels in a row at most.
    side : float
        Of a panel, inches.
    label : str
        Of the colour bar, as ``"Jy / beam"``.

    Returns
    -------
    figure : matplotlib Figure
    axes : dict of str to Axes
        By title, in pixel coordinates.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize

    number = len(planes)
    rows = -(-number // columns)
    # rows of equal length rather than a last one with a single panel
    columns = -(-number // rows)
    figure, grid = plt.subplots(
        rows, columns, figsize=(side * columns + 0.8, side * rows + 0.3), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    norm: Normalize
    if limit is None:
        norm = sky_stretch(max(map(brightest, planes.values())), rms, level)
    else:
        norm = Normalize(level - limit * rms, level + limit * rms)
    made: dict[str, Axes] = {}
    for axes, (title, plane) in zip(grid.flat, planes.items(), strict=False):
        shown = show(axes, plane, norm, difference=limit is not None)
        axes.set_title(title, fontsize="medium")
        # what is drawn on it later does not change what is seen
        axes.set_autoscale_on(False)
        made[title] = axes
    for axes in list(grid.flat)[number:]:
        axes.set_axis_off()
    figure.colorbar(shown, ax=grid, label=label, shrink=0.9, pad=0.01)
    return figure, made


def draw_ellipses(
    axes: "Axes", components: "Components", color: str = "cyan", width: float | None = None
) -> None:
    """Draw the FWHM ellipses of components in pixel coordinates, negative ones dashed.

    Parameters
    ----------
    axes : matplotlib Axes
    components : Components
        Rows without a shape or position are left out.
    color : str
    width : float, optional
        Of the lines, points; thinner by default where there are many.
    """
    draw_shapes(
        axes, components.peak, components.x, components.y, components.shape_covariance, color, width
    )


def draw_shapes(
    axes: "Axes",
    peak: Floats,
    x: Floats,
    y: Floats,
    covariance: Floats,
    color: str = "cyan",
    width: float | None = None,
) -> None:
    """Draw FWHM ellipses given by covariances, shape (n, 2, 2); see `draw_ellipses`."""
    from matplotlib.collections import EllipseCollection

    major, minor, angle = shape_from_covariance(covariance)
    drawn = np.isfinite(major + x + y)
    if width is None:
        width = 1.0 if len(x) < 300 else 0.5
    for chosen, style in ((peak >= 0, "solid"), (peak < 0, "dashed")):
        rows = drawn & chosen
        axes.add_collection(
            EllipseCollection(
                # the first axis points along (sin, cos) of the position angle in (x, y)
                major[rows], minor[rows], 90.0 - angle[rows],
                units="xy",
                offsets=np.stack([x[rows], y[rows]], -1),
                offset_transform=axes.transData,
                facecolors="none",
                edgecolors=color,
                linewidths=width,
                linestyles=style,
            )
        )  # fmt: skip


def draw_segments(axes: "Axes", detections: "Detections", color: str = "cyan") -> None:
    """Outline the pixels of every component candidate, and mark its summit.

    Parameters
    ----------
    axes : matplotlib Axes
    detections : Detections
        Complete; see `Detections.complete`.
    color : str
    """
    assert detections.segments is not None
    assert detections.summit is not None
    leaves = detections.leaves
    labels = detections.segments.take(leaves).label_map(detections.shape)
    for lines in _outlines(labels):
        axes.plot(*lines, color=color, lw=0.8)
    x, y = detections.summit[leaves].T
    axes.plot(x, y, ".", color=color, ms=3)


def draw_boxes(axes: "Axes", detections: "Detections", color: str = "cyan") -> None:
    """Draw the boxes of the islands in pixel coordinates."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [
        Rectangle((x0, y0), x1 - x0, y1 - y0)
        for x0, y0, x1, y1 in detections.box[detections.islands]
    ]
    axes.add_collection(PatchCollection(boxes, facecolors="none", edgecolors=color, linewidths=0.8))


def _outlines(labels: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """Edges between pixels of different labels, as two lines with gaps: x and y of each."""
    padded = np.pad(labels, 1)
    lines = []
    for axis in (0, 1):
        first = padded[:-1, 1:-1] if axis == 0 else padded[1:-1, :-1]
        second = padded[1:, 1:-1] if axis == 0 else padded[1:-1, 1:]
        rows, columns = np.nonzero(first != second)
        gap = np.full(len(rows), np.nan)
        if axis == 0:
            x, y = [columns - 0.5, columns + 0.5, gap], [rows - 0.5, rows - 0.5, gap]
        else:
            x, y = [columns - 0.5, columns - 0.5, gap], [rows - 0.5, rows + 0.5, gap]
        lines.append(np.stack([np.stack(x, -1).ravel(), np.stack(y, -1).ravel()]))
    return lines
